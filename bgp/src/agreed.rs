//! What two OPENs make of a session.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::attr::Context;
use crate::config::PeerConfig;
use crate::family::PerFamily;
use crate::frame;
use crate::msg::capability::Graceful;
use crate::msg::notification::{self, Notification};
use crate::msg::open::Open;

/// Both sides can.
#[derive(Clone, PartialEq, Debug)]
pub struct Agreed {
    /// Families in use.
    pub families: PerFamily<bool>,
    /// 4-octet AS numbers.
    pub four_octet_as: bool,
    /// Messages of up to 65,535 bytes.
    pub extended_message: bool,
    /// IPv6 next hops for IPv4 prefixes.
    pub extended_next_hop: bool,
    /// The peer sends path identifiers.
    pub add_path: PerFamily<bool>,
    /// Route refresh.
    pub route_refresh: bool,
    /// Enhanced route refresh.
    pub enhanced_route_refresh: bool,
    /// The peer's side of graceful restart.
    pub graceful: Option<Graceful>,
    /// Routes are kept over a NOTIFICATION too.
    pub graceful_notification: bool,
    /// Hold time; zero: none.
    pub hold_time: Duration,
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// The peer is in our AS.
    pub internal: bool,
}

impl Agreed {
    /// What follows from our OPEN and the peer's.
    ///
    /// # Errors
    /// Why there can be no session (RFC 4271 section 6.2).
    pub(crate) fn new(ours: &Open, theirs: &Open, peer: &PeerConfig) -> Result<Agreed, Notification> {
        if theirs.asn != peer.asn {
            return Err(Notification::new((notification::OPEN, 2)));
        }
        let internal = ours.asn == theirs.asn;
        // RFC 6286: identifiers are unique within an AS.
        if internal && ours.router_id == theirs.router_id {
            return Err(Notification::new((notification::OPEN, 3)));
        }
        let (a, b) = (ours.capabilities, theirs.capabilities);
        let families = PerFamily::from_fn(|family| a.families[family] && b.families[family]);
        if !families.any() {
            return Err(Notification::new((notification::OPEN, 7)));
        }
        let graceful = b.graceful.filter(|_| a.graceful.is_some());
        let notification = |g: Option<Graceful>| g.is_some_and(|g| g.notification);
        Ok(Agreed {
            families,
            four_octet_as: a.asn.is_some() && b.asn.is_some(),
            extended_message: a.extended_message && b.extended_message,
            extended_next_hop: a.extended_next_hop && b.extended_next_hop,
            add_path: PerFamily::from_fn(|f| families[f] && a.add_path[f].receive && b.add_path[f].send),
            route_refresh: a.route_refresh && b.route_refresh,
            enhanced_route_refresh: a.enhanced_route_refresh && b.enhanced_route_refresh,
            graceful,
            graceful_notification: notification(graceful) && notification(a.graceful),
            hold_time: Duration::from_secs(u64::from(ours.hold_time.min(theirs.hold_time))),
            router_id: theirs.router_id,
            internal,
        })
    }

    /// Keepalives are sent this often (RFC 4271 section 4.4); `None`: never.
    pub(crate) fn keepalive(&self) -> Option<Duration> {
        (!self.hold_time.is_zero()).then(|| self.hold_time / 3)
    }

    /// How its UPDATEs are read.
    pub(crate) fn context(&self) -> Context {
        Context {
            internal: self.internal,
            wide: self.four_octet_as,
            families: self.families,
            add_path: self.add_path,
            extended_next_hop: self.extended_next_hop,
        }
    }

    /// Longest message, bytes.
    pub(crate) fn most(&self) -> usize {
        if self.extended_message { frame::MAX_EXTENDED } else { frame::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::Family;
    use crate::msg::capability::{AddPath, Capabilities};

    fn open(asn: u32, id: u8, change: impl Fn(&mut Capabilities)) -> Open {
        let mut capabilities = Capabilities { asn: Some(asn), ..Capabilities::default() };
        capabilities.families[Family::Ipv4] = true;
        change(&mut capabilities);
        Open { asn, hold_time: 90, router_id: Ipv4Addr::new(1, 1, 1, id), capabilities }
    }

    fn peer(asn: u32) -> PeerConfig {
        PeerConfig::new("10.0.0.2".parse().unwrap(), asn)
    }

    #[test]
    fn who_is_not_expected_is_refused() {
        let ours = open(64_512, 1, |_| ());
        let refused =
            |theirs: Open, expected: u32| Agreed::new(&ours, &theirs, &peer(expected)).unwrap_err().subcode;
        assert_eq!(refused(open(65_001, 2, |_| ()), 65_002), 2, "wrong AS");
        assert_eq!(refused(open(64_512, 1, |_| ()), 64_512), 3, "our own identifier");
        assert_eq!(refused(open(65_001, 2, |c| c.families = PerFamily::default()), 65_001), 7);
        let other_as = Agreed::new(&ours, &open(65_001, 1, |_| ()), &peer(65_001));
        assert!(other_as.is_ok_and(|a| !a.internal), "identifiers are unique within an AS only");
    }

    #[test]
    fn the_shorter_hold_time_counts_and_zero_is_none() {
        let ours = open(64_512, 1, |_| ());
        let mut theirs = open(64_512, 2, |_| ());
        theirs.hold_time = 9;
        let agreed = Agreed::new(&ours, &theirs, &peer(64_512)).unwrap();
        assert_eq!(agreed.keepalive(), Some(Duration::from_secs(3)));
        theirs.hold_time = 0;
        assert_eq!(Agreed::new(&ours, &theirs, &peer(64_512)).unwrap().keepalive(), None);
    }

    #[test]
    fn both_must_be_able_to() {
        let all = |c: &mut Capabilities| {
            c.families = PerFamily::from_fn(|_| true);
            (c.route_refresh, c.extended_message) = (true, true);
            c.add_path = PerFamily::from_fn(|_| AddPath { receive: true, send: false });
            c.graceful = Some(Graceful { notification: true, ..Graceful::default() });
        };
        let with = |change: fn(&mut Capabilities)| {
            Agreed::new(&open(64_512, 1, all), &open(64_512, 2, change), &peer(64_512)).unwrap()
        };
        let little = with(|_| ());
        assert!(!little.route_refresh && !little.extended_message && !little.families[Family::Ipv6]);
        assert!(!little.add_path[Family::Ipv4] && little.graceful.is_none());
        let much = with(|c| {
            (c.route_refresh, c.extended_message) = (true, true);
            c.add_path = PerFamily::from_fn(|_| AddPath { receive: false, send: true });
            c.graceful = Some(Graceful::default());
        });
        assert!(much.route_refresh && much.extended_message && much.add_path[Family::Ipv4]);
        assert!(!much.add_path[Family::Ipv6], "not a family of the session");
        assert!(much.graceful.is_some() && !much.graceful_notification);
        assert_eq!(much.most(), 65_535);
    }
}
