//! What the speaker knows, in the control socket's words.

use std::time::Instant;

use bgp::attr::Attributes;
use bgp::family::{Family, PerFamily};
use bgp::speaker::{PathStatus, PeerStatus, RouteStatus, Speaker};
use control::api::{BgpPathInfo, BgpPeerInfo, BgpQuery, BgpReport, BgpRouteInfo, MAX_BGP_ROUTES};
use ipnet::IpNet;

/// The answer to a question.
pub(super) fn answer(speaker: &Speaker, query: &BgpQuery, now: Instant) -> BgpReport {
    let config = speaker.config();
    let mut report = BgpReport {
        asn: config.asn,
        router_id: config.router_id,
        cluster_id: config.cluster_id,
        peers: Vec::new(),
        routes: Vec::new(),
        left_out: 0,
        waiting: 0,
    };
    match query {
        BgpQuery::Peers => report.peers = speaker.peers(now).iter().map(peer).collect(),
        BgpQuery::Routes { within } => {
            let inside = |net: &IpNet| within.is_none_or(|all| all.contains(net));
            for found in Family::ALL.into_iter().flat_map(|family| speaker.routes(family)) {
                match (inside(&found.net), report.routes.len() < MAX_BGP_ROUTES) {
                    (true, true) => report.routes.push(route(&found)),
                    (true, false) => report.left_out += 1,
                    _ => {}
                }
            }
        }
        BgpQuery::Announced { peer } => {
            let all = Family::ALL.into_iter().flat_map(|family| speaker.advertised(*peer, family));
            for (net, attributes) in all {
                if report.routes.len() >= MAX_BGP_ROUTES {
                    report.left_out += 1;
                    continue;
                }
                let paths = vec![BgpPathInfo { used: true, ..path(&attributes) }];
                report.routes.push(BgpRouteInfo { net, paths, why: None });
            }
        }
    }
    report.routes.sort_by_key(|route| route.net);
    report
}

fn peer(p: &PeerStatus) -> BgpPeerInfo {
    let both = |n: PerFamily<u32>| [n[Family::Ipv4], n[Family::Ipv6]];
    BgpPeerInfo {
        address: p.address,
        asn: p.asn,
        dynamic: p.dynamic,
        state: p.state.to_string(),
        since_s: p.since.as_secs(),
        router_id: p.router_id,
        hold_s: p.agreed.as_ref().map(|a| a.hold_time.as_secs()),
        families: p
            .agreed
            .as_ref()
            .map(|a| a.families.set().map(|f| f.to_string()).collect())
            .unwrap_or_default(),
        received: both(p.received),
        accepted: both(p.accepted),
        chosen: both(p.chosen),
        announced: both(p.advertised),
        restarting_s: p.restarting.map(|left| left.as_secs()),
        held: p.held,
        last_error: p.last_error.as_ref().map(|(_, why)| why.to_string()),
        last_error_s: p.last_error.as_ref().map(|(ago, _)| ago.as_secs()),
        last_attribute_error: p.last_attribute_error.as_ref().map(ToString::to_string),
        established: p.counters.established,
        updates: [p.counters.updates_received, p.counters.updates_sent],
        treated_as_withdrawn: p.counters.treated_as_withdrawn,
        refused: p.counters.refused,
    }
}

fn route(r: &RouteStatus) -> BgpRouteInfo {
    BgpRouteInfo {
        net: r.net,
        paths: r.paths.iter().map(known).collect(),
        why: r.step.map(|step| step.to_string()),
    }
}

fn known(p: &PathStatus) -> BgpPathInfo {
    let attributes = p.accepted.as_ref().unwrap_or(&p.received);
    BgpPathInfo {
        peer: p.peer,
        next_hop: p.peer.map(|_| attributes.next_hop.addr),
        used: p.used,
        stale: p.stale,
        rejected: match &p.accepted {
            Ok(_) if !p.reachable && p.peer.is_some() => Some("next hop unreachable".to_owned()),
            Ok(_) => None,
            Err(why) => Some(why.to_string()),
        },
        ..path(attributes)
    }
}

fn path(a: &Attributes) -> BgpPathInfo {
    let large = a.large_communities.iter().map(ToString::to_string);
    BgpPathInfo {
        next_hop: Some(a.next_hop.addr),
        as_path: a.as_path.to_string(),
        local_pref: a.local_pref,
        med: a.med,
        communities: a.communities.iter().map(ToString::to_string).chain(large).collect(),
        originator_id: a.originator_id,
        cluster_list: a.cluster_list.to_vec(),
        ..BgpPathInfo::default()
    }
}
