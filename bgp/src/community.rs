//! Communities: tags on routes (RFC 1997, RFC 8092). Extended communities (RFC 4360) pass through as they are.

use std::fmt;
use std::str::FromStr;

/// A standard community, `upper:lower`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Community(pub u32);

impl Community {
    /// Keep it within this AS (RFC 1997).
    pub const NO_EXPORT: Community = Community(0xffff_ff01);
    /// Tell nobody (RFC 1997).
    pub const NO_ADVERTISE: Community = Community(0xffff_ff02);
    /// Keep it within this AS, confederation members included (RFC 1997).
    pub const NO_EXPORT_SUBCONFED: Community = Community(0xffff_ff03);
    /// Prefer any other path: the session is about to go down (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Community = Community(0xffff_0000);
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Community::NO_EXPORT => f.write_str("no-export"),
            Community::NO_ADVERTISE => f.write_str("no-advertise"),
            Community::NO_EXPORT_SUBCONFED => f.write_str("no-export-subconfed"),
            Community::GRACEFUL_SHUTDOWN => f.write_str("graceful-shutdown"),
            Community(value) => write!(f, "{}:{}", value >> 16, value & 0xffff),
        }
    }
}

/// A large community, `global:local1:local2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LargeCommunity(pub [u32; 3]);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LargeCommunity([global, one, two]) = self;
        write!(f, "{global}:{one}:{two}")
    }
}

/// Neither `n:n` nor a name (standard), or not `n:n:n` (large).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not a community")]
pub struct ParseCommunityError(String);

impl FromStr for Community {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Community, ParseCommunityError> {
        let named = [
            Community::NO_EXPORT,
            Community::NO_ADVERTISE,
            Community::NO_EXPORT_SUBCONFED,
            Community::GRACEFUL_SHUTDOWN,
        ];
        if let Some(community) = named.into_iter().find(|c| c.to_string() == text) {
            return Ok(community);
        }
        let parse = || {
            let (upper, lower) = text.split_once(':')?;
            let (upper, lower): (u16, u16) = (upper.parse().ok()?, lower.parse().ok()?);
            Some(Community(u32::from(upper) << 16 | u32::from(lower)))
        };
        parse().ok_or_else(|| ParseCommunityError(text.to_owned()))
    }
}

impl FromStr for LargeCommunity {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<LargeCommunity, ParseCommunityError> {
        let numbers: Option<Vec<u32>> = text.split(':').map(|n| n.parse().ok()).collect();
        let numbers = numbers.and_then(|n| <[u32; 3]>::try_from(n).ok());
        numbers.map(LargeCommunity).ok_or_else(|| ParseCommunityError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways() {
        for text in ["64512:100", "no-export", "no-advertise", "graceful-shutdown", "0:65535"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        assert_eq!("4200000000:1:2".parse::<LargeCommunity>().unwrap().to_string(), "4200000000:1:2");
        for text in ["", "1", "65536:1", "1:2:3", "a:b"] {
            assert!(text.parse::<Community>().is_err(), "{text}");
        }
        assert!("1:2".parse::<LargeCommunity>().is_err());
    }
}
