//! Ethernet addresses (IEEE 802-2014, section 8.2).

use std::fmt;
use std::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A 48-bit Ethernet address; text form `aa:bb:cc:dd:ee:ff`.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// True for group addresses, broadcast included.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// True for addresses somebody made up rather than a vendor.
    #[inline]
    pub const fn is_local(self) -> bool {
        self.0[0] & 2 != 0
    }

    /// True for `00:00:00:00:00:00`.
    #[inline]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// The address at the start of `bytes`, if they are long enough.
    #[inline]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().map(|b| Self(*b))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six groups.
    #[error("an Ethernet address has six groups, not {0}")]
    Groups(usize),
    /// A group is not two hexadecimal digits.
    #[error("group {0} of an Ethernet address is not two hexadecimal digits")]
    Digits(usize),
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let groups = text.split(':').count();
        if groups != 6 {
            return Err(MacError::Groups(groups));
        }
        let mut mac = Self::default();
        for (i, (group, byte)) in text.split(':').zip(&mut mac.0).enumerate() {
            let hex = group.len() == 2 && group.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = u8::from_str_radix(group, 16).ok().filter(|_| hex).ok_or(MacError::Digits(i + 1))?;
        }
        Ok(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let mac = Mac([0x02, 0, 0xab, 0xcd, 0xef, 0x09]);
        assert_eq!(mac.to_string(), "02:00:ab:cd:ef:09");
        assert_eq!("02:00:AB:cd:ef:09".parse(), Ok(mac));
        assert!(mac.is_local() && !mac.is_multicast() && !mac.is_zero());
        assert!(Mac::BROADCAST.is_multicast());
        assert!(Mac::default().is_zero());
    }

    #[test]
    fn what_is_not_an_address() {
        assert_eq!("".parse::<Mac>(), Err(MacError::Groups(1)));
        assert_eq!("02:00:00:00:00:00:00".parse::<Mac>(), Err(MacError::Groups(7)));
        assert_eq!("02:00:00:00:00:0".parse::<Mac>(), Err(MacError::Digits(6)));
        assert_eq!("02:+1:00:00:00:00".parse::<Mac>(), Err(MacError::Digits(2)));
        assert_eq!("02:00:é:00:00:00".parse::<Mac>(), Err(MacError::Digits(3)));
    }
}
