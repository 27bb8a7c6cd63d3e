use proptest::prelude::*;

use super::*;

/// Routes as a kernel would have them: the longest prefix wins.
#[derive(Default)]
struct Twin {
    plain: BTreeMap<IpNet, Way>,
    learned: BTreeMap<IpNet, (Vec<IpAddr>, Way)>,
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn by(via: &str) -> Way {
    Way { via: ip(via), oif: 2, metric: 0 }
}

impl Twin {
    fn plain(mut self, to: &str, via: &str) -> Twin {
        self.plain.insert(net(to), by(via));
        self
    }

    fn learned(mut self, to: &str, hops: &[&str]) -> Twin {
        self.learned.insert(net(to), (hops.iter().map(|h| ip(h)).collect(), by("192.0.2.99")));
        self
    }

    fn ask(&mut self, to: &str) -> Option<Way> {
        way(self, ip(to), &mut HashSet::new())
    }
}

impl Routes for Twin {
    fn followed(&mut self, to: IpAddr) -> Option<Entry> {
        let plain = self.unlearned(to);
        let learned = self.learned.iter().filter(|(net, _)| net.contains(&to));
        let learned = learned.map(|(net, (_, way))| Entry { net: *net, learned: true, way: *way });
        plain.into_iter().chain(learned).max_by_key(|entry| entry.net.prefix_len())
    }

    fn unlearned(&mut self, to: IpAddr) -> Option<Entry> {
        let plain = self.plain.iter().filter(|(net, _)| net.contains(&to));
        plain
            .map(|(net, way)| Entry { net: *net, learned: false, way: *way })
            .max_by_key(|entry| entry.net.prefix_len())
    }

    fn learned(&self, net: &IpNet) -> Option<Vec<IpAddr>> {
        Some(self.learned.get(net)?.0.clone())
    }
}

#[test]
fn a_next_hop_needs_a_route() {
    let mut twin = Twin::default().plain("192.0.2.0/24", "192.0.2.7");
    assert_eq!(twin.ask("192.0.2.7"), Some(by("192.0.2.7")));
    assert_eq!(twin.ask("198.51.100.1"), None);
}

#[test]
fn a_learned_route_leads_where_its_own_next_hop_is() {
    let mut twin = Twin::default()
        .plain("192.0.2.0/24", "192.0.2.1")
        .learned("10.2.0.0/16", &["192.0.2.1"])
        .learned("10.3.0.0/16", &["10.2.0.1"]);
    assert_eq!(twin.ask("10.2.0.1"), Some(by("192.0.2.1")));
    assert_eq!(twin.ask("10.3.0.1"), Some(by("192.0.2.1")), "over two");
}

#[test]
fn no_route_leads_to_its_own_next_hop() {
    let mut twin = Twin::default().learned("10.0.0.0/8", &["10.0.0.1"]);
    assert_eq!(twin.ask("10.0.0.1"), None);
    // Nor two to each other's.
    let mut twin =
        Twin::default().learned("10.1.0.0/16", &["10.2.0.1"]).learned("10.2.0.0/16", &["10.1.0.1"]);
    assert_eq!(twin.ask("10.1.0.1"), None);
    assert_eq!(twin.ask("10.2.0.1"), None);
    // The next shorter one does.
    let mut twin = Twin::default().plain("0.0.0.0/0", "192.0.2.1").learned("10.0.0.0/8", &["10.0.0.1"]);
    assert_eq!(twin.ask("10.0.0.1"), Some(by("192.0.2.1")));
    let mut twin = Twin::default()
        .plain("192.0.2.0/24", "192.0.2.1")
        .learned("10.0.0.0/8", &["192.0.2.1"])
        .learned("10.1.0.0/16", &["10.1.0.1"]);
    assert_eq!(twin.ask("10.1.0.1"), Some(by("192.0.2.1")), "a learned one too");
}

#[test]
fn one_of_several_next_hops_is_enough() {
    let mut twin = Twin::default()
        .plain("192.0.2.0/24", "192.0.2.1")
        .learned("10.0.0.0/8", &["10.0.0.1", "172.16.0.1", "192.0.2.1"]);
    assert_eq!(twin.ask("10.0.0.1"), Some(by("192.0.2.1")));
}

#[test]
fn what_is_from_before_is_believed() {
    struct Before(Twin);
    impl Routes for Before {
        fn followed(&mut self, to: IpAddr) -> Option<Entry> {
            self.0.followed(to)
        }
        fn unlearned(&mut self, to: IpAddr) -> Option<Entry> {
            self.0.unlearned(to)
        }
        fn learned(&self, _: &IpNet) -> Option<Vec<IpAddr>> {
            None
        }
    }
    let mut before = Before(Twin::default().learned("10.0.0.0/8", &["192.0.2.1"]));
    assert_eq!(way(&mut before, ip("10.0.0.1"), &mut HashSet::new()), Some(by("192.0.2.99")));
}

/// Reachable, by the least fixed point: what a plain route leads to, and what a learned one leads to whose next hop is
/// reachable without the one asked about.
fn reachable(twin: &Twin, to: IpAddr, without: &BTreeSet<IpAddr>) -> bool {
    let plain = twin.plain.keys().any(|net| net.contains(&to));
    let mut wider = without.clone();
    wider.insert(to);
    let longest_plain = twin.plain.keys().filter(|net| net.contains(&to)).map(IpNet::prefix_len).max();
    let learned = twin
        .learned
        .iter()
        .filter(|(net, _)| net.contains(&to) && longest_plain.is_none_or(|length| net.prefix_len() > length));
    plain
        || learned
            .flat_map(|(_, (hops, _))| hops)
            .any(|hop| !wider.contains(hop) && reachable(twin, *hop, &wider))
}

proptest! {
    #[test]
    fn any_tangle_ends_and_agrees_with_the_definition(
        plain in prop::collection::vec((0u32..4, 0u8..3), 0..3),
        learned in prop::collection::vec((0u32..4, 0u8..3, prop::collection::vec(0u32..4, 1..3)), 0..6),
        to in 0u32..4,
    ) {
        let addr = |n: u32| IpAddr::V4((n << 30 | 1).into());
        let range = |n: u32, length: u8| IpNet::new(addr(n), length).unwrap().trunc();
        let mut twin = Twin::default();
        for (n, length) in plain {
            twin.plain.insert(range(n, length), by("192.0.2.1"));
        }
        for (n, length, hops) in learned {
            // The kernel has one route to a prefix of ours; a plain one of the same length is followed first.
            if !twin.plain.contains_key(&range(n, length)) {
                twin.learned.insert(range(n, length), (hops.into_iter().map(addr).collect(), by("192.0.2.99")));
            }
        }
        let found = way(&mut twin, addr(to), &mut HashSet::new());
        prop_assert_eq!(found.is_some(), reachable(&twin, addr(to), &BTreeSet::new()));
        if let Some(found) = found {
            prop_assert_eq!(found, by("192.0.2.1"), "it ends at a plain route");
        }
    }
}
