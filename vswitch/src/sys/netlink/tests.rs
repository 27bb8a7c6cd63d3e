use std::process::Command;

use super::*;
use crate::sys::netns::{self, Netns};

fn ip(args: &str) -> String {
    let out = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Runs in a new namespace with a veth pair `a`-`b`, both ends up; hands over the socket and the index of `a`.
fn with_veth(test: impl FnOnce(&mut Netlink, u32) + Send) {
    netns::in_new(|| {
        let mut nl = Netlink::open().unwrap();
        nl.add_veth("a", "b").unwrap();
        let (a, b) = (nl.link("a").unwrap().index, nl.link("b").unwrap().index);
        nl.set_up(a, true).unwrap();
        nl.set_up(b, true).unwrap();
        test(&mut nl, a);
    })
    .unwrap();
}

#[test]
fn links_are_found_changed_and_deleted() {
    with_veth(|nl, a| {
        let mac = [2, 0, 0, 0, 0, 7];
        let change = LinkChange {
            mtu: Some(1400),
            mac: Some(mac),
            txqueuelen: Some(123),
            gso_max: Some(61_000),
            ..LinkChange::default()
        };
        nl.set_link(a, &change).unwrap();
        assert!(ip("-d link show a").contains("gso_max_size 61000"));
        let link = nl.link_by_index(a).unwrap();
        assert_eq!((link.name.as_str(), link.mtu, link.mac, link.txqueuelen), ("a", 1400, mac, 123));
        assert!(link.up && link.carrier && !link.loopback);
        assert_eq!(link.kind, "veth");
        assert!(ip("link show a").contains("mtu 1400"));
        nl.set_up(a, false).unwrap();
        nl.rename(a, "renamed").unwrap();
        assert_eq!(nl.link("renamed").unwrap().index, a);
        let names: Vec<_> = nl.links().unwrap().into_iter().map(|l| l.name).collect();
        assert!(names.iter().any(|n| n == "lo") && names.iter().any(|n| n == "renamed"), "{names:?}");
        nl.delete_link(a).unwrap();
        let err = nl.link("renamed").unwrap_err();
        assert_eq!(err.to_string(), "there is no link renamed");
        assert!(nl.delete_link(a).unwrap_err().is_absent());
    });
}

#[test]
fn a_link_moves_to_another_namespace() {
    with_veth(|nl, a| {
        let other = Netns::create().unwrap();
        nl.move_link(a, &other).unwrap();
        assert!(nl.link("a").is_err());
        let there = netns::run_in(&other, || Netlink::open().unwrap().link("a").map(|l| l.kind)).unwrap();
        assert_eq!(there.unwrap(), "veth");
    });
}

#[test]
fn addresses_of_both_families_come_and_go() {
    with_veth(|nl, a| {
        let v4: ipnet::IpNet = "10.9.0.1/24".parse().unwrap();
        let v6: ipnet::IpNet = "fd00::1/64".parse().unwrap();
        for net in [v4, v6] {
            nl.add_address(a, net, true, false).unwrap();
            nl.add_address(a, net, true, false).unwrap();
        }
        let mut found = nl.addresses(Some(a)).unwrap();
        for _ in 0..200 {
            if found.iter().any(|x| x.link_scope) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            found = nl.addresses(Some(a)).unwrap();
        }
        let of = |net| *found.iter().find(|x| x.net == net).unwrap();
        assert!(!of(v6).tentative && !of(v6).link_scope && of(v4).index == a);
        assert!(found.iter().any(|x| x.link_scope), "the kernel's own link-local address");
        assert!(ip("route show").contains("10.9.0.0/24"));
        nl.del_address(a, v4).unwrap();
        let err = nl.del_address(a, v4).unwrap_err();
        assert!(err.is_absent());
        assert_eq!(err.to_string(), format!("delete address 10.9.0.1/24 of the link with index {a}"));
        nl.add_address(a, v4, false, true).unwrap();
        assert!(!ip("route show").contains("10.9.0.0/24"));
    });
}

#[test]
fn no_link_local_address_where_none_is_wanted() {
    netns::in_new(|| {
        let mut nl = Netlink::open().unwrap();
        nl.add_veth("a", "b").unwrap();
        let a = nl.link("a").unwrap().index;
        nl.set_link(a, &LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() }).unwrap();
        let b = nl.link("b").unwrap().index;
        nl.set_up(b, true).unwrap();
        assert_eq!(nl.addresses(Some(a)).unwrap(), []);
    })
    .unwrap();
}

#[test]
fn routes_are_replaced_listed_and_deleted() {
    with_veth(|nl, a| {
        nl.add_address(a, "10.9.0.1/24".parse().unwrap(), true, false).unwrap();
        nl.add_address(a, "fd00::1/64".parse().unwrap(), true, false).unwrap();
        for (dst, via, other) in
            [("10.1.0.0/16", "10.9.0.2", "10.9.0.3"), ("fd01::/48", "fd00::2", "fd00::3")]
        {
            let mut want = Route::to(dst.parse().unwrap());
            want.via = Some(via.parse().unwrap());
            want.oif = Some(a);
            want.mtu = Some(1400);
            want.metric = Some(7);
            nl.replace_route(&want).unwrap();
            want.via = Some(other.parse().unwrap());
            nl.replace_route(&want).unwrap();
            let ours: Vec<_> =
                nl.routes(RouteFilter::OURS).unwrap().into_iter().filter(|r| r.dst == want.dst).collect();
            assert_eq!(ours, [want.clone()]);
            let host = want.dst.hosts().nth(9).unwrap();
            assert_eq!(nl.route_to(host).unwrap().via, want.via);
            nl.del_route(&want).unwrap();
            assert!(nl.del_route(&want).unwrap_err().is_absent());
        }
        assert!(nl.routes(RouteFilter::OURS).unwrap().is_empty());
        assert!(
            nl.routes(RouteFilter::MAIN).unwrap().iter().any(|r| r.dst == "10.9.0.0/24".parse().unwrap())
        );
    });
}

#[test]
fn connected_onlink_and_blackhole_routes() {
    with_veth(|nl, a| {
        let mut gateway = Route::to("169.254.1.1/32".parse().unwrap());
        gateway.oif = Some(a);
        nl.replace_route(&gateway).unwrap();
        let mut default = Route::to("0.0.0.0/0".parse().unwrap());
        default.via = Some("169.254.1.1".parse().unwrap());
        default.oif = Some(a);
        nl.replace_route(&default).unwrap();
        let mut v6 = Route::to("::/0".parse().unwrap());
        v6.via = Some("fe80::1".parse().unwrap());
        v6.oif = Some(a);
        nl.replace_route(&v6).unwrap();
        let mut onlink = Route::to("10.3.0.0/16".parse().unwrap());
        onlink.via = Some("10.200.0.1".parse().unwrap());
        onlink.oif = Some(a);
        onlink.onlink = true;
        nl.replace_route(&onlink).unwrap();
        let mut hole = Route::to("10.2.0.0/16".parse().unwrap());
        hole.kind = RouteKind::Blackhole;
        nl.replace_route(&hole).unwrap();
        assert_eq!(nl.default_route(false).unwrap().unwrap().via, default.via);
        assert_eq!(nl.default_route(true).unwrap().unwrap().via, v6.via);
        let routes = nl.routes(RouteFilter::OURS).unwrap();
        assert!(routes.iter().any(|r| r.dst == gateway.dst && r.link_scope && r.via.is_none()));
        assert!(routes.contains(&onlink) && routes.contains(&hole));
        assert!(ip("route show").contains("blackhole 10.2.0.0/16 proto 118"));
        nl.set_up(a, false).unwrap();
        assert!(nl.replace_route(&gateway).unwrap_err().errno().is_some());
    });
}

#[test]
fn neighbours_are_entered_and_found() {
    with_veth(|nl, a| {
        for ip in ["10.9.0.2", "fe80::2"].map(|ip| ip.parse().unwrap()) {
            assert_eq!(nl.neighbour(a, ip).unwrap(), None);
            nl.add_neighbour(a, ip, [2, 0, 0, 0, 0, 9]).unwrap();
            let want =
                Neighbour { ip, index: a, mac: Some([2, 0, 0, 0, 0, 9]), usable: true, permanent: true };
            assert_eq!(nl.neighbour(a, ip).unwrap(), Some(want));
            assert!(nl.neighbours(a).unwrap().contains(&want));
            nl.del_neighbour(a, ip).unwrap();
            assert!(!nl.neighbours(a).unwrap().iter().any(|n| n.ip == ip && n.usable));
        }
    });
}

#[test]
fn the_monitor_hears_of_every_kind_of_change() {
    with_veth(|nl, a| {
        let groups = Groups::LINK.and(Groups::ADDRESS).and(Groups::ROUTE).and(Groups::NEIGHBOUR);
        let mut monitor = Monitor::open(groups).unwrap();
        monitor.drain(|_| ()).unwrap();
        let net = "10.9.0.1/24".parse().unwrap();
        nl.set_mtu(a, 1300).unwrap();
        nl.add_address(a, net, false, false).unwrap();
        nl.add_neighbour(a, "10.9.0.9".parse().unwrap(), [2; 6]).unwrap();
        nl.del_address(a, net).unwrap();
        nl.delete_link(a).unwrap();
        let mut events = Vec::new();
        monitor.drain(|event| events.push(event)).unwrap();
        assert!(events.iter().any(|e| matches!(e, Event::Link(l) if l.index == a && l.mtu == 1300)));
        assert!(events.iter().any(|e| matches!(e, Event::Address(x) if x.net == net)));
        assert!(events.iter().any(|e| matches!(e, Event::AddressGone(x) if x.net == net)));
        assert!(events.iter().any(|e| matches!(e, Event::Route(r) if r.oif == Some(a))));
        assert!(events.iter().any(|e| matches!(e, Event::Neighbour(n) if n.mac == Some([2; 6]))));
        assert!(events.iter().any(|e| matches!(e, Event::LinkGone(l) if l.name == "a")));
    });
}

#[test]
fn more_routes_than_one_datagram_holds_are_all_listed() {
    with_veth(|nl, a| {
        for i in 0..2000u32 {
            let mut route = Route::to(
                ipnet::IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 + (i << 8)).into(), 24).unwrap(),
            );
            route.oif = Some(a);
            nl.replace_route(&route).unwrap();
        }
        assert_eq!(nl.routes(RouteFilter::OURS).unwrap().len(), 2000);
    });
}

#[test]
fn learned_routes_come_and_go_in_bulk() {
    with_veth(|nl, a| {
        nl.add_address(a, "10.9.0.1/24".parse().unwrap(), false, false).unwrap();
        nl.add_address(a, "fd99::1/64".parse().unwrap(), false, false).unwrap();
        let hop = |text: &str| (text.parse().unwrap(), a);
        let net = |i: u32| -> ipnet::IpNet {
            ipnet::IpNet::new(std::net::Ipv4Addr::from(0x1400_0000 + (i << 8)).into(), 24).unwrap()
        };
        let mut routes: Vec<LearnedRoute> =
            (0..3000).map(|i| LearnedRoute { dst: net(i), hops: [hop("10.9.0.2")].into() }).collect();
        routes[7].hops = [hop("10.9.0.2"), hop("10.9.0.3")].into();
        routes[9].hops = [hop("10.77.0.1")].into();
        routes.push(LearnedRoute {
            dst: "fd00:5::/64".parse().unwrap(),
            hops: [hop("fd99::2"), hop("fd99::3")].into(),
        });
        let refused = nl.set_learned(&routes).unwrap();
        assert_eq!(refused.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [9], "no link reaches 10.77.0.1");
        let all = ip("route show proto 119");
        assert_eq!(all.lines().filter(|l| l.starts_with("20.")).count(), 2999);
        assert!(all.contains("20.0.0.0/24 via 10.9.0.2 dev a metric 1024"), "{all}");
        let two = ip("route show 20.0.7.0/24");
        assert!(two.contains("nexthop via 10.9.0.2") && two.contains("nexthop via 10.9.0.3"), "{two}");
        let six = ip("-6 route show fd00:5::/64");
        assert!(six.contains("fd99::2") && six.contains("fd99::3"), "{six}");
        assert_eq!(nl.learned().unwrap().len(), 3000);
        assert!(
            nl.routes(RouteFilter::OURS).unwrap().iter().all(|r| r.dst != net(0)),
            "not among the others"
        );
        // Another way, then none; what was never there is no failure.
        routes[0].hops = [hop("10.9.0.9")].into();
        routes[1..].iter_mut().for_each(|r| r.hops = [].into());
        assert!(nl.set_learned(&routes).unwrap().is_empty());
        assert_eq!(nl.learned().unwrap(), [net(0)]);
        assert!(ip("route show 20.0.0.0/24").contains("via 10.9.0.9"));
    });
}

#[test]
fn the_entry_a_packet_follows_is_named_and_learned_routes_are_not_heard_of() {
    with_veth(|nl, a| {
        nl.add_address(a, "10.9.0.1/24".parse().unwrap(), false, false).unwrap();
        nl.add_address(a, "fd99::1/64".parse().unwrap(), false, false).unwrap();
        let mut monitor = Monitor::open(Groups::ROUTE).unwrap();
        monitor.without_routes_of(LEARNED).unwrap();
        let learned = |dst: &str, via: &str| LearnedRoute {
            dst: dst.parse().unwrap(),
            hops: [(via.parse().unwrap(), a)].into(),
        };
        let two = [learned("10.20.0.0/16", "10.9.0.2"), learned("fd20::/32", "fd99::2")];
        assert!(nl.set_learned(&two).unwrap().is_empty());
        let mut heard = |to: &str| {
            let mut found = false;
            let is = |event| matches!(event, Event::Route(route) if route.dst.to_string() == to);
            monitor.drain(|event| found |= is(event)).unwrap();
            found
        };
        assert!(!heard("10.20.0.0/16") && !heard("fd20::/32"), "they are ours");
        for (to, dst, protocol) in [
            ("10.20.0.7", "10.20.0.0/16", LEARNED),
            ("fd20::7", "fd20::/32", LEARNED),
            ("10.9.0.7", "10.9.0.0/24", 2),
            ("fd99::7", "fd99::/64", 2),
        ] {
            let entry = nl.entry_for(to.parse().unwrap()).unwrap();
            assert_eq!((entry.dst, entry.protocol), (dst.parse().unwrap(), protocol), "{to}");
        }
        assert!(nl.entry_for("172.16.0.1".parse().unwrap()).is_err());
        ip("route add 172.16.0.0/12 via 10.9.0.3");
        assert!(heard("172.16.0.0/12"));
    });
}

#[test]
fn routes_over_several_next_hops_are_read_back_and_replaced() {
    with_veth(|nl, a| {
        nl.add_address(a, "10.9.0.1/24".parse().unwrap(), false, false).unwrap();
        nl.add_address(a, "fd99::1/64".parse().unwrap(), false, false).unwrap();
        for (dst, vias) in [
            ("10.3.0.0/16", ["10.8.0.2", "10.9.0.3", "10.9.0.4"]),
            ("fd03::/64", ["fd99::2", "fd99::3", "fd99::4"]),
        ] {
            let hop = |at: usize| (vias[at].parse().unwrap(), a);
            let route = Route { onlink: true, ..Route::to(dst.parse().unwrap()) };
            let one = Route { via: Some(hop(1).0), oif: Some(a), ..route.clone() };
            let several =
                |at: &[usize]| Route { hops: at.iter().map(|at| hop(*at)).collect(), ..route.clone() };
            let mut is = |want: &Route| {
                nl.replace_route(want).unwrap();
                let there = nl.routes(RouteFilter::OURS).unwrap();
                assert_eq!(there.len(), 1, "{there:?}");
                let there = &there[0];
                assert_eq!((there.dst, there.via, there.oif), (want.dst, want.via, want.oif));
                assert_eq!((&there.hops, there.onlink), (&want.hops, want.onlink));
                let family = if want.dst.addr().is_ipv6() { "-6" } else { "-4" };
                let seen = ip(&format!("{family} route show proto 118 {}", want.dst));
                for (at, via) in vias.iter().enumerate() {
                    let has = want.hops.contains(&hop(at)) || want.via == Some(hop(at).0);
                    assert_eq!(seen.contains(&format!("via {via} dev a")), has, "{seen}");
                }
            };
            let (two, other, all) = (several(&[0, 1]), several(&[1, 2]), several(&[0, 1, 2]));
            for want in [&one, &two, &other, &all, &one, &all, &two] {
                is(want);
            }
            let by = |oif| RouteFilter { oif: Some(oif), ..RouteFilter::OURS };
            assert_eq!((nl.routes(by(a)).unwrap().len(), nl.routes(by(a + 100)).unwrap().len()), (1, 0));
            let host = route.dst.addr();
            assert_eq!(nl.entry_for(host).unwrap().hops, two.hops);
            assert!(nl.del_route(&other).unwrap_err().is_absent(), "not that one");
            nl.replace_route(&two).unwrap();
            let there = nl.routes(RouteFilter::OURS).unwrap().remove(0);
            nl.del_route(&there).unwrap();
            assert_eq!(nl.routes(RouteFilter::OURS).unwrap(), []);
        }
    });
}
