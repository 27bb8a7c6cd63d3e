//! Network layer reachability information: prefixes as they lie in an UPDATE (RFC 4271 section 4.3), with a path
//! identifier before each where ADD-PATH was agreed (RFC 7911 section 3).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::family::Family;
use crate::reader::Reader;

/// A prefix, and which of its paths is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Nlri {
    /// The prefix; bits behind its length are zero.
    pub(crate) net: IpNet,
    /// Path identifier; 0 without ADD-PATH.
    pub(crate) path_id: u32,
}

/// Reads a whole field of prefixes; `None` when one is longer than its family allows or runs over the field's end
/// (RFC 7606 section 5.3: nothing of the field can be trusted then).
pub(crate) fn parse(mut field: Reader<'_>, family: Family, add_path: bool) -> Option<Vec<Nlri>> {
    let mut found = Vec::with_capacity(field.len() / 4);
    while !field.is_empty() {
        let path_id = if add_path { field.u32()? } else { 0 };
        let length = field.u8()?;
        if length > family.bits() {
            return None;
        }
        let bytes = field.take(usize::from(length).div_ceil(8))?;
        found.push(Nlri { net: net(family, bytes, length)?, path_id });
    }
    Some(found)
}

fn net(family: Family, bytes: &[u8], length: u8) -> Option<IpNet> {
    let mut octets = [0; 16];
    octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(match family {
        Family::Ipv4 => {
            let addr = Ipv4Addr::from(*octets.first_chunk::<4>()?);
            IpNet::V4(Ipv4Net::new(addr, length).ok()?.trunc())
        }
        Family::Ipv6 => IpNet::V6(Ipv6Net::new(Ipv6Addr::from(octets), length).ok()?.trunc()),
    })
}

/// Writes a prefix without a path identifier: at most 17 bytes.
pub(crate) fn emit(net: &IpNet, out: &mut Vec<u8>) {
    let bytes = wire_len(net) - 1;
    out.push(net.prefix_len());
    match net {
        IpNet::V4(net) => out.extend(&net.network().octets()[..bytes]),
        IpNet::V6(net) => out.extend(&net.network().octets()[..bytes]),
    }
}

/// Bytes that [`emit`] writes.
pub(crate) fn wire_len(net: &IpNet) -> usize {
    1 + usize::from(net.prefix_len()).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bits_behind_the_length_do_not_count() {
        let field = [20, 10, 1, 0xff];
        let found = parse(Reader::new(&field), Family::Ipv4, false).unwrap();
        assert_eq!(found, [Nlri { net: "10.1.240.0/20".parse().unwrap(), path_id: 0 }]);
    }

    #[test]
    fn a_prefix_that_cannot_be_spoils_the_field() {
        for field in [&[33, 1, 2, 3, 4, 5][..], &[24, 1, 2], &[8, 10, 255]] {
            assert_eq!(parse(Reader::new(field), Family::Ipv4, false), None, "{field:?}");
        }
        assert_eq!(
            parse(Reader::new(&[0, 0, 0, 1]), Family::Ipv4, true),
            None,
            "no length behind the path id"
        );
        assert_eq!(parse(Reader::new(&[129; 18]), Family::Ipv6, false), None);
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(addr: u128, v6: bool, length in 0u8..=128) {
            let net = if v6 {
                IpNet::V6(Ipv6Net::new(addr.into(), length).unwrap().trunc())
            } else {
                IpNet::V4(Ipv4Net::new((addr as u32).into(), length.min(32)).unwrap().trunc())
            };
            let mut out = Vec::new();
            emit(&net, &mut out);
            prop_assert_eq!(out.len(), wire_len(&net));
            prop_assert_eq!(parse(Reader::new(&out), Family::of(&net), false), Some(vec![Nlri { net, path_id: 0 }]));
        }
    }
}
