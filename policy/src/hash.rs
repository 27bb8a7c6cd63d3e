//! A hasher for addresses that the control plane assigned: fast, and not meant to stand against chosen keys.

use std::hash::{BuildHasherDefault, Hasher};

/// Hashes one address.
pub(crate) type AddrHash = BuildHasherDefault<AddrHasher>;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AddrHasher(u64);

impl Hasher for AddrHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u128(u128::from(*b)));
    }

    fn write_u128(&mut self, n: u128) {
        let mixed = (n >> 64) as u64 ^ 0x9e37_79b9_7f4a_7c15;
        let folded = u128::from(n as u64 ^ self.0 ^ 0xd1b5_4a32_d192_ed03) * u128::from(mixed | 1);
        let half = (folded as u64 ^ (folded >> 64) as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.0 = half ^ half >> 32;
    }
}
