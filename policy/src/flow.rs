//! The flow key: everything a cached decision about a packet may depend on, and its keyed hash.
//!
//! Plain values; whoever holds one owns it. What is not in the key must not influence a cached decision: a cached
//! entry wider than what was examined is a hole. The hash is keyed with secrets of the process, so that a sender
//! cannot choose flows that collide. Never done here: I/O, clock reads, allocation.

#[cfg(test)]
mod tests;

/// Set in [`FlowKey::ingress`] when the packet came from a peer node: the other bits are then the peer's index, else
/// the port's.
pub const PEER_BIT: u32 = 1 << 31;

/// What makes two packets the same flow.
///
/// Addresses are IPv6 or IPv4-mapped (`::ffff:a.b.c.d`). Ports are in host order; for ICMP `sport` holds
/// `type << 8 | code` and `dport` the identifier of an echo, else 0. Both are 0 for a later fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Final IP protocol number, 0 included: a packet of protocol 0 is a flow of its own.
    pub proto: u8,
    /// 1 for a later fragment (which has no ports), 2 for a first one, 0 for a whole packet.
    pub frag: u8,
    /// Where the packet entered: a port's index, or [`PEER_BIT`] and a peer's index.
    pub ingress: u32,
}

/// Secrets of the process that key [`FlowKey::hash`].
#[derive(Clone)]
pub struct HashKey([u64; 7]);

impl HashKey {
    /// Expands two random 64-bit seeds. The caller draws them once per process from the kernel.
    #[must_use]
    pub fn new(seed0: u64, seed1: u64) -> Self {
        let mut keys = [0; 7];
        let (mut a, mut b) = (seed0, seed1);
        for key in &mut keys {
            a = a.wrapping_add(0x9e37_79b9_7f4a_7c15);
            b = b.wrapping_add(0xd1b5_4a32_d192_ed03);
            // A zero factor would make a folded product constant.
            *key = (mix(a) ^ mix(mix(b))) | 1 << (a & 63);
        }
        Self(keys)
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

impl FlowKey {
    /// Keyed 64-bit hash, all bits usable. Seven secret words, four folded multiplications, no loop.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &HashKey) -> u64 {
        let k = &key.0;
        let ports = u64::from(self.sport) << 48 | u64::from(self.dport) << 32 | u64::from(self.ingress);
        let kind = u64::from(self.frag) << 8 | u64::from(self.proto);
        let src = fold(self.src as u64 ^ k[0], (self.src >> 64) as u64 ^ k[1]);
        let dst = fold(self.dst as u64 ^ k[2], (self.dst >> 64) as u64 ^ k[3]);
        let rest = fold(ports ^ k[4], kind ^ k[5]);
        fold(src.wrapping_add(rest), dst ^ rest.rotate_left(29) ^ k[6])
    }

    /// The key of the packets that answer this flow and enter at `ingress`. ICMP keeps its type: an echo reply is
    /// another `sport` than its request.
    #[must_use]
    pub fn reply(&self, ingress: u32) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, ingress, ..*self }
    }
}

/// High and low half of the 128-bit product, folded.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A bijection of 64 bits in which every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
