//! An Ethernet address as configuration and the control socket write it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An Ethernet address, written `aa:bb:cc:dd:ee:ff`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The group bit is set: multicast or broadcast.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// 00:00:00:00:00:00.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// May name one interface: neither zero nor a group address.
    pub fn is_unicast(self) -> bool {
        !self.is_zero() && !self.is_multicast()
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

/// The text is not six pairs of hexadecimal digits joined by colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ethernet address (six pairs of hexadecimal digits joined by colons)")]
pub struct MacSyntax;

impl FromStr for Mac {
    type Err = MacSyntax;

    fn from_str(text: &str) -> Result<Self, MacSyntax> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(MacSyntax)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacSyntax);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| MacSyntax)?;
        }
        if parts.next().is_some() { Err(MacSyntax) } else { Ok(Mac(octets)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        let mac: Mac = "0E:00:00:0a:fF:01".parse().unwrap();
        assert_eq!(mac, Mac([0x0e, 0, 0, 0x0a, 0xff, 1]));
        assert_eq!(mac.to_string(), "0e:00:00:0a:ff:01");
        assert!(mac.is_unicast());
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "0e:00:00:00:00",
            "0e:00:00:00:00:01:02",
            "0e-00-00-00-00-01",
            "+e:00:00:00:00:01",
            "é:0:0:0:0:0",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacSyntax), "{text}");
        }
    }

    #[test]
    fn knows_group_addresses() {
        assert!(Mac([0xff; 6]).is_multicast());
        assert!(!Mac([0; 6]).is_unicast());
    }
}
