//! ROUTE-REFRESH: asks for all routes again (RFC 2918), with the borders of RFC 7313.

use crate::family::Family;
use crate::frame::{self, Kind};

/// What a ROUTE-REFRESH means (RFC 7313 section 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subtype {
    /// Send your routes again.
    Request = 0,
    /// My routes begin here: what is not sent until the end is gone.
    Begin = 1,
    /// They end here.
    End = 2,
}

/// Reads a message's body. `None` inside: a family or subtype that is not spoken, to be ignored (RFC 2918 section 4,
/// RFC 7313 section 5).
///
/// # Errors
/// When the length is wrong for the subtype (RFC 7313 section 5); other lengths are other people's extensions
/// (RFC 5291), which we did not ask for.
pub(crate) fn parse(body: &[u8]) -> Result<Option<(Family, Subtype)>, ()> {
    let Some(([a, b, subtype, safi], rest)) = body.split_first_chunk() else { return Err(()) };
    let subtype = match subtype {
        0 => Subtype::Request,
        1 => Subtype::Begin,
        2 => Subtype::End,
        _ => return Ok(None),
    };
    if !rest.is_empty() {
        return if subtype == Subtype::Request { Ok(None) } else { Err(()) };
    }
    Ok(Family::from_wire(u16::from_be_bytes([*a, *b]), *safi).map(|family| (family, subtype)))
}

/// Writes the whole message.
pub(crate) fn emit(family: Family, subtype: Subtype, out: &mut Vec<u8>) {
    let [a, b] = family.afi().to_be_bytes();
    frame::emit(Kind::RouteRefresh, &[a, b, subtype as u8, Family::SAFI], out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for family in Family::ALL {
            for subtype in [Subtype::Request, Subtype::Begin, Subtype::End] {
                let mut out = Vec::new();
                emit(family, subtype, &mut out);
                assert_eq!(parse(&out[frame::HEADER..]), Ok(Some((family, subtype))));
            }
        }
    }

    #[test]
    fn what_is_not_spoken_is_ignored_and_lies_are_not() {
        assert_eq!(parse(&[0, 25, 0, 70]), Ok(None));
        assert_eq!(parse(&[0, 1, 9, 1]), Ok(None));
        assert_eq!(parse(&[0, 1, 1, 1, 0]), Err(()));
        assert_eq!(parse(&[0, 1, 0]), Err(()));
    }
}
