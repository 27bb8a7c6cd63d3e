use super::*;
use crate::config::Tunnel;
use crate::mac::Mac;

fn pools(all: &[(&str, &str, &str)]) -> Pools {
    let read = |(name, cidr, more): &(&str, &str, &str)| {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}{more}}}\n"
        );
        match crate::objects::read(text.as_bytes()).unwrap().pop().unwrap() {
            crate::objects::Item::Known { object: Ok(crate::objects::Object::Pool(pool)), .. } => {
                ((*name).into(), pool)
            }
            other => panic!("{other:?}"),
        }
    };
    all.iter().map(read).collect()
}

fn fleet(cross_subnet: bool) -> Fleet {
    let peer = |n: u8, backend| {
        Arc::new(Peer {
            name: format!("192.168.77.{n}"),
            address: Some([192, 168, 77, n].into()),
            address6: None,
            pod_cidrs: vec![format!("10.244.{n}.0/24").parse().unwrap()],
            vtep_mac: Some(Mac([0x0e, 0, 0, 0, 0, n])),
            backend,
            cross_subnet: None,
        })
    };
    Fleet {
        cluster_cidrs: Vec::new(),
        pod_cidrs: Vec::new(),
        pools: Vec::new(),
        tunnel: Tunnel::Vxlan { vni: 1, port: 8472, vtep_mac: None, cross_subnet },
        peers: vec![peer(2, Some(Backend::Vxlan { vni: 1 })), peer(3, Some(Backend::Direct))],
    }
}

fn shape(fleet: &Fleet) -> Vec<String> {
    let one = |p: &Arc<Peer>| {
        let nets: Vec<String> = p.pod_cidrs.iter().map(IpNet::to_string).collect();
        format!("{} {} {:?} {}", p.name, p.backend.unwrap().kind(), p.cross_subnet, nets.join(" "))
    };
    fleet.peers.iter().map(one).collect()
}

#[test]
fn a_node_is_a_peer_for_each_way_to_its_blocks() {
    let pools = pools(&[
        ("a", "10.50.0.0/24", ""),
        ("b", "10.51.0.0/24", ", ipipMode: Always, natOutgoing: true"),
        ("c", "10.52.0.0/24", ", ipipMode: CrossSubnet, vxlanMode: Never"),
        ("d", "10.53.0.0/24", ", ipipMode: Never, vxlanMode: Never, disableBGPExport: true"),
        ("e", "10.54.0.0/24", ", vxlanMode: Always"),
        ("f", "10.55.0.0/24", ", vxlanMode: CrossSubnet"),
    ]);
    let mut fleet = fleet(true);
    let mut ways = Ways::of(&fleet, &pools);
    let mut said = Vec::new();
    for pool in 50..56 {
        for node in [2, 3] {
            let net = format!("10.{pool}.0.{}/28", node * 16).parse().unwrap();
            said.extend(ways.add(&mut fleet, net, IpAddr::from([192, 168, 77, node])).err());
        }
    }
    // A borrowed address, and one of a node that has no lease.
    ways.add(&mut fleet, "10.51.0.201/32".parse().unwrap(), IpAddr::from([192, 168, 77, 2])).unwrap();
    ways.add(&mut fleet, "10.51.0.202/32".parse().unwrap(), IpAddr::from([192, 168, 77, 9])).unwrap();
    assert_eq!(
        shape(&fleet),
        [
            "192.168.77.2 vxlan None 10.244.2.0/24 10.50.0.32/28 10.55.0.32/28",
            "192.168.77.3 direct None 10.244.3.0/24 10.50.0.48/28 10.53.0.48/28 10.54.0.48/28 10.55.0.48/28",
            "192.168.77.2-ipip ipip Some(false) 10.51.0.32/28 10.51.0.201/32",
            "192.168.77.3-ipip ipip Some(false) 10.51.0.48/28",
            "192.168.77.2-ipip-cross-subnet ipip Some(true) 10.52.0.32/28",
            "192.168.77.3-ipip-cross-subnet ipip Some(true) 10.52.0.48/28",
            "192.168.77.2-direct direct Some(false) 10.53.0.32/28",
            "192.168.77.2-vxlan vxlan Some(false) 10.54.0.32/28",
        ]
    );
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(
        said[0],
        "IPPool 10.54.0.0/24 wants VXLAN, but the lease of 192.168.77.3 says direct and names no VTEP: it is reached so"
    );
    let facts: Vec<Pool> = pools.values().map(|pool| facts(pool)).collect();
    assert_eq!(facts[1].backend, Some(Backend::Ipip));
    assert_eq!((facts[0].backend, facts[3].backend, facts[4].backend), (None, Some(Backend::Direct), None));
    assert!(facts[1].masquerade && !facts[0].masquerade && facts[1].announce && !facts[3].announce);
}
