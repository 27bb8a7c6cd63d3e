//! Routes learned for pods, and how they become part of the fleet.
//!
//! A prefix whose next hop is a node of the store is that node's, and travels as that node's packets do. Another next hop
//! becomes a peer of its own: through the tunnel where its form needs nothing but an address (`ipip`, `udp`), else
//! direct. A prefix with several next hops, all equally good, belongs to each of them: the switch spreads its flows. What
//! the store says about a range is not overruled.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use control::config::{Peer, Tunnel};
use control::fleet::{Backend, Fleet};
use ipnet::IpNet;

/// Next hops of prefixes, none empty.
pub(super) type Hops = BTreeMap<IpNet, Vec<IpAddr>>;

/// What is learned.
#[derive(Default)]
pub(super) struct Learned {
    routes: Hops,
    /// From before a restart, and not told again yet.
    stale: BTreeSet<IpNet>,
}

impl Learned {
    /// What was in force before the restart.
    pub(super) fn kept(routes: Hops) -> Learned {
        Learned { stale: routes.keys().copied().collect(), routes }
    }

    /// All routes.
    pub(super) fn routes(&self) -> &Hops {
        &self.routes
    }

    /// Takes over changes; true when anything is different now.
    pub(super) fn take(&mut self, changes: BTreeMap<IpNet, Option<Vec<IpAddr>>>) -> bool {
        let mut different = false;
        for (net, hops) in changes {
            self.stale.remove(&net);
            different |= match hops.filter(|hops| !hops.is_empty()) {
                Some(hops) => self.routes.insert(net, hops.clone()) != Some(hops),
                None => self.routes.remove(&net).is_some(),
            };
        }
        different
    }

    /// Whatever was not told again is gone; true when there was such a route.
    pub(super) fn sift(&mut self) -> bool {
        let stale = std::mem::take(&mut self.stale);
        stale.iter().for_each(|net| drop(self.routes.remove(net)));
        !stale.is_empty()
    }

    /// The fleet with these routes in it.
    pub(super) fn onto(&self, fleet: &Fleet) -> Fleet {
        let mut all = fleet.clone();
        let of = |p: &Arc<Peer>| p.address.map(IpAddr::V4).into_iter().chain(p.address6.map(IpAddr::V6));
        let mut by_addr: HashMap<IpAddr, usize> = HashMap::new();
        for (i, peer) in all.peers.iter().enumerate() {
            for addr in of(peer) {
                by_addr.entry(addr).or_insert(i);
            }
        }
        let stored = all.peers.iter().flat_map(|p| &p.pod_cidrs);
        let taken: HashSet<IpNet> = all.pod_cidrs.iter().chain(stored).map(IpNet::trunc).collect();
        let addressed = matches!(fleet.tunnel, Tunnel::Ipip { .. } | Tunnel::Udp { .. });
        for (net, hops) in self.routes.iter().filter(|(net, _)| !taken.contains(*net)) {
            let at = |hop: &IpAddr| {
                *by_addr.entry(*hop).or_insert_with(|| {
                    let carried = hop.is_ipv4() || !matches!(fleet.tunnel, Tunnel::Ipip { .. });
                    all.peers.push(Arc::new(stranger(*hop, addressed && carried)));
                    all.peers.len() - 1
                })
            };
            // A node may be given by both of its addresses.
            let ways: BTreeSet<usize> = hops.iter().map(at).collect();
            ways.into_iter().for_each(|at| Arc::make_mut(&mut all.peers[at]).pod_cidrs.push(*net));
        }
        all.peers.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// A router that the store does not know.
fn stranger(hop: IpAddr, tunnelled: bool) -> Peer {
    let (address, address6) = match hop {
        IpAddr::V4(v4) => (Some(v4), None),
        IpAddr::V6(v6) => (None, Some(v6)),
    };
    Peer {
        name: hop.to_string(),
        address,
        address6,
        pod_cidrs: Vec::new(),
        vtep_mac: None,
        backend: if tunnelled { None } else { Some(Backend::Direct) },
        cross_subnet: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(tunnel: Tunnel) -> Fleet {
        let peer = |n: u8| Peer {
            name: format!("n{n}"),
            address: Some([192, 168, 77, n].into()),
            address6: None,
            pod_cidrs: vec![format!("10.244.{n}.0/24").parse().unwrap()],
            vtep_mac: None,
            backend: None,
            cross_subnet: None,
        };
        Fleet {
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
            pools: Vec::new(),
            tunnel,
            peers: vec![Arc::new(peer(2)), Arc::new(peer(3))],
        }
    }

    fn learned(routes: &[(&str, &[&str])]) -> Learned {
        let route = |(net, hops): &(&str, &[&str])| {
            (net.parse().unwrap(), Some(hops.iter().map(|h| h.parse().unwrap()).collect()))
        };
        let mut learned = Learned::default();
        assert!(learned.take(routes.iter().map(route).collect()));
        learned
    }

    fn shape(fleet: &Fleet) -> Vec<(String, Vec<String>, Option<Backend>)> {
        let nets = |p: &Peer| p.pod_cidrs.iter().map(ToString::to_string).collect();
        fleet.peers.iter().map(|p| (p.name.clone(), nets(p), p.backend)).collect()
    }

    #[test]
    fn a_nodes_routes_are_its_own_and_others_are_routers() {
        let fleet = fleet(Tunnel::Direct);
        let learned = learned(&[
            ("10.244.9.0/26", &["192.168.77.3"]),
            ("10.244.2.7/32", &["192.168.77.3"]),
            ("10.244.2.0/24", &["192.168.77.3"]),
            ("10.244.10.0/26", &["192.168.77.9"]),
        ]);
        let text = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            shape(&learned.onto(&fleet)),
            [
                ("192.168.77.9".to_owned(), text(&["10.244.10.0/26"]), Some(Backend::Direct)),
                ("n2".to_owned(), text(&["10.244.2.0/24"]), None),
                ("n3".to_owned(), text(&["10.244.3.0/24", "10.244.2.7/32", "10.244.9.0/26"]), None),
            ]
        );
    }

    #[test]
    fn a_tunnel_that_needs_an_address_only_reaches_any_router() {
        let routes = learned(&[("10.244.10.0/26", &["192.168.77.9"]), ("fd00:9::/64", &["fd77::9"])]);
        let backend = |tunnel| {
            let all = routes.onto(&fleet(tunnel));
            let of = |name: &str| all.peers.iter().find(|p| p.name == name).unwrap().backend;
            (of("192.168.77.9"), of("fd77::9"))
        };
        assert_eq!(backend(Tunnel::Ipip { cross_subnet: false }), (None, Some(Backend::Direct)));
        let vxlan = Tunnel::Vxlan { vni: 1, port: 4789, vtep_mac: None, cross_subnet: false };
        assert_eq!(backend(vxlan), (Some(Backend::Direct), Some(Backend::Direct)));
    }

    #[test]
    fn equal_next_hops_all_have_the_prefix() {
        let mut fleet = fleet(Tunnel::Direct);
        Arc::make_mut(&mut fleet.peers[1]).address6 = Some("fd77::3".parse().unwrap());
        let routes = learned(&[
            ("10.244.10.0/26", &["192.168.77.8", "192.168.77.9"]),
            ("10.244.11.0/24", &["192.168.77.9", "192.168.77.3", "fd77::3"]),
            ("10.244.2.0/24", &["192.168.77.8", "192.168.77.9"]),
        ]);
        let text = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let direct = Some(Backend::Direct);
        assert_eq!(
            shape(&routes.onto(&fleet)),
            [
                ("192.168.77.8".to_owned(), text(&["10.244.10.0/26"]), direct),
                ("192.168.77.9".to_owned(), text(&["10.244.10.0/26", "10.244.11.0/24"]), direct),
                ("n2".to_owned(), text(&["10.244.2.0/24"]), None),
                ("n3".to_owned(), text(&["10.244.3.0/24", "10.244.11.0/24"]), None),
            ]
        );
    }

    #[test]
    fn what_is_not_told_again_goes() {
        let kept = learned(&[("10.244.9.0/26", &["192.168.77.3"]), ("10.244.8.0/26", &["192.168.77.3"])]);
        let mut back = Learned::kept(kept.routes().clone());
        let again = [("10.244.9.0/26".parse().unwrap(), Some(vec!["192.168.77.3".parse().unwrap()]))];
        assert!(!back.take(again.into()), "as before");
        assert_eq!(back.routes().len(), 2);
        assert!(back.sift());
        assert_eq!(back.routes().keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.9.0/26"]);
        assert!(!back.sift());
        let gone = [("10.244.9.0/26".parse().unwrap(), None)];
        assert!(back.take(gone.into()) && back.routes().is_empty());
    }
}
