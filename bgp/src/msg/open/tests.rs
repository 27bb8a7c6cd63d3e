use proptest::prelude::*;

use super::*;
use crate::family::PerFamily;
use crate::msg::capability::{AddPath, Graceful};

/// An OPEN of AS 64512 with these optional parameters, their length in front.
fn body(parameters: &[u8]) -> Vec<u8> {
    [&[4, 0xfc, 0, 0, 90, 10, 0, 0, 1], parameters].concat()
}

#[test]
fn an_open_without_parameters_means_ipv4() {
    let open = Open::parse(&body(&[0])).unwrap();
    assert_eq!((open.asn, open.hold_time), (64_512, 90));
    assert!(open.capabilities.families[Family::Ipv4] && !open.capabilities.families[Family::Ipv6]);
}

#[test]
fn lengths_that_lie_are_refused() {
    for parameters in [
        &[][..],                                   // no length at all
        &[4],                                      // the parameters are not there
        &[0, 2, 0],                                // more than the length says
        &[2, 2, 4],                                // a parameter over the end
        &[4, 2, 2, 1, 4],                          // a capability over its parameter's end
        &[3, 2, 1, 65],                            // a capability without a length
        &[255, 255, 0],                            // extended, and cut
        &[255, 255, 0, 9, 2, 0, 6, 1, 4, 0, 1, 0], // extended, and short
    ] {
        assert_eq!(Open::parse(&body(parameters)), Err(OpenError::Overrun), "{parameters:?}");
    }
}

#[test]
fn extended_parameters_are_read() {
    let open = Open::parse(&body(&[255, 255, 0, 9, 2, 0, 6, 1, 4, 0, 2, 0, 1])).unwrap();
    assert!(open.capabilities.families[Family::Ipv6] && !open.capabilities.families[Family::Ipv4]);
    // 255 bytes of the short form, whose first parameter is not of type 255.
    let long = [&[255, 2, 253, 99, 251][..], &[7; 251]].concat();
    assert!(Open::parse(&body(&long)).is_ok());
}

#[test]
fn who_cannot_be_a_peer_is_told_why() {
    let with = |at: usize, bytes: &[u8]| {
        let mut b = body(&[0]);
        b[at..at + bytes.len()].copy_from_slice(bytes);
        let error = Open::parse(&b).unwrap_err();
        (error, Notification::from(error))
    };
    let (error, notification) = with(0, &[3]);
    assert_eq!((error, &*notification.data), (OpenError::Version(3), &[0, 4][..]));
    assert_eq!(with(1, &[0, 0]).0, OpenError::ZeroAs);
    assert_eq!(with(3, &[0, 1]).0, OpenError::HoldTime(1));
    assert_eq!(with(3, &[0, 2]).1.subcode, 6);
    assert_eq!(with(5, &[0; 4]).0, OpenError::RouterId);
    assert_eq!(Open::parse(&body(&[2, 1, 0])), Err(OpenError::Parameter(1)));
    let zero = body(&[8, 2, 6, 65, 4, 0, 0, 0, 0]);
    assert_eq!(Open::parse(&zero), Err(OpenError::ZeroAs), "AS 0 in the capability");
}

#[test]
fn garbled_and_unknown_capabilities_are_ignored() {
    // Multiprotocol with 3 bytes, route refresh with one, code 99, and a good one of IPv6.
    let list = [1, 3, 0, 1, 0, 2, 1, 0, 99, 2, 1, 2, 1, 4, 0, 2, 0, 1];
    let parameters = [&[20, 2, 18][..], &list].concat();
    let c = Open::parse(&body(&parameters)).unwrap().capabilities;
    assert!(!c.route_refresh && c.families[Family::Ipv6] && !c.families[Family::Ipv4]);
}

prop_compose! {
    fn capabilities()(bits: [bool; 10], restart: u16, asn in 1u32.., graceful: Option<[Option<bool>; 2]>) -> Capabilities {
        let [families, refresh, enhanced, long, next_hop, receive, send, r, n, _] = bits;
        Capabilities {
            families: PerFamily::from_fn(|f| families || f == Family::Ipv6),
            route_refresh: refresh,
            enhanced_route_refresh: enhanced,
            extended_message: long,
            extended_next_hop: next_hop,
            graceful: graceful.map(|[v4, v6]| Graceful {
                restarting: r,
                notification: n,
                time: restart & 0xfff,
                forwarding: PerFamily::from_fn(|f| if f == Family::Ipv4 { v4 } else { v6 }),
            }),
            asn: Some(asn),
            add_path: PerFamily::from_fn(|_| AddPath { receive, send }),
        }
    }
}

proptest! {
    #[test]
    fn what_is_emitted_is_parsed(capabilities in capabilities(), hold in 3u16.., id in 1u32..) {
        let asn = capabilities.asn.unwrap();
        let open = Open { asn, hold_time: hold, router_id: id.into(), capabilities };
        let mut out = Vec::new();
        open.emit(&mut out);
        prop_assert_eq!(Open::parse(&out[frame::HEADER..]), Ok(open));
    }

    #[test]
    fn random_bytes_never_panic(parameters in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Open::parse(&parameters);
        let _ = Open::parse(&body(&parameters));
    }
}
