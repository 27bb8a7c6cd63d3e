//! IP in IP as the data path sees it: what it sends, what it takes, and every lie it drops by name.

use std::net::{IpAddr, Ipv4Addr};

use encap::{Form, Tunnel, VnetHdr};
use vswitch::counters::DropReason::{self, *};
use vswitch::port::mem::MemEnd;
use vswitch_tests::sim::craft::Way;
use vswitch_tests::sim::host::Identity;
use vswitch_tests::sim::node::Node;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
const THIRD: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 3);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 99);

/// A node with one pod, and pods of two peers that exist by name only.
struct Bed {
    node: Node,
    pod: Identity,
    end: MemEnd,
    far: Identity,
    third: Identity,
}

impl Bed {
    fn new(tunnel: Tunnel) -> Self {
        let mut node = Node::new(0, tunnel, 5);
        let (pod, end) = node.attach(0, true);
        node.publish(0, 3);
        let far = Node::new(1, tunnel, 5).attach(1, true).0;
        let third = Node::new(2, tunnel, 5).attach(2, true).0;
        Self { node, pod, end, far, third }
    }

    /// From the peer's pod to ours.
    fn good(&self, v6: bool) -> Way {
        Way::routed(&self.far, self.pod.addr(v6))
    }

    /// Lets a datagram arrive by a socket of this form.
    fn arrive(&mut self, form: Form, from: Ipv4Addr, bytes: &[u8]) {
        assert!(self.node.wires[form as usize].send((from, 0).into(), bytes, 0));
        while self.node.turn(1_000_000) {}
        assert!(self.node.conserves(), "{:?}", self.node.totals());
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.node.totals().drops.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
    }

    fn denied(&mut self, what: &str, from: Ipv4Addr, bytes: &[u8], reason: DropReason) {
        let before = (self.dropped(reason), self.node.totals().dropped());
        self.arrive(Form::Ipip, from, bytes);
        let after = (self.dropped(reason), self.node.totals().dropped());
        assert_eq!(after, (before.0 + 1, before.1 + 1), "{what}: {:?}", self.node.totals());
        assert!(self.end.recv().is_none(), "{what} came through");
    }

    /// The packet as the pod gets it, from its IP header on.
    fn delivered(&mut self, what: &str, form: Form, from: Ipv4Addr, bytes: &[u8]) -> Vec<u8> {
        self.arrive(form, from, bytes);
        let got = self.end.recv().unwrap_or_else(|| panic!("{what}: {:?}", self.node.totals()));
        assert!(self.end.recv().is_none(), "{what}: more than one");
        got.bytes[14..].to_vec()
    }
}

/// An inner packet behind an outer header.
fn outer(from: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
    [&encap::ipip::header(inner, inner.len(), from, NODE).unwrap()[..], inner].concat()
}

/// The same with one byte changed.
fn with(mut bytes: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    bytes[at] = to;
    bytes
}

#[test]
fn both_families_come_through_whole() {
    let mut bed = Bed::new(Tunnel::Ipip);
    for v6 in [false, true] {
        let inner = bed.good(v6).udp((1, 2), 30)[14..].to_vec();
        let got = bed.delivered("one packet", Form::Ipip, PEER, &outer(PEER, &inner));
        let ttl = if v6 { 7 } else { 8 };
        assert_eq!(got[ttl], 63, "lowered once");
        assert_eq!(got[20..], inner[20..]);
        // What a sender's router left in the outer header's options is passed over.
        let mut long = outer(PEER, &inner);
        long.splice(20..20, [1, 1, 1, 0]);
        let got = bed.delivered("options", Form::Ipip, PEER, &with(long, 0, 0x46));
        assert_eq!(got[20..], inner[20..]);
    }
}

#[test]
fn every_lie_has_a_name() {
    let mut bed = Bed::new(Tunnel::Ipip);
    let inner = bed.good(false).udp((1, 2), 30)[14..].to_vec();
    let whole = outer(PEER, &inner);
    bed.denied("a stranger", STRANGER, &outer(STRANGER, &inner), UnknownPeer);
    bed.denied("the node itself", NODE, &outer(NODE, &inner), UnknownPeer);
    bed.denied("another peer's pod", THIRD, &outer(THIRD, &inner), PeerSpoof);
    for from in [bed.third.addr(false), bed.pod.addr(false), "8.8.8.8".parse().unwrap(), PEER.into()] {
        let lie = Way { from, ..bed.good(false) }.udp((1, 2), 30);
        bed.denied("inner source", PEER, &outer(PEER, &lie[14..]), PeerSpoof);
    }
    bed.denied("nothing", PEER, &[], Truncated);
    bed.denied("half an outer header", PEER, &whole[..19], Truncated);
    bed.denied("no inner packet", PEER, &whole[..20], Truncated);
    bed.denied("half an inner header", PEER, &whole[..39], Truncated);
    bed.denied("options without end", PEER, &with(whole[..40].to_vec(), 0, 0x4f), Truncated);
    bed.denied("an outer header of 16 bytes", PEER, &with(whole.clone(), 0, 0x44), BadTunnelHeader);
    bed.denied("an outer header of IPv6", PEER, &with(whole.clone(), 0, 0x65), BadTunnelHeader);
    bed.denied("IPv4 said to be IPv6", PEER, &with(whole.clone(), 9, 41), BadTunnelHeader);
    bed.denied("GRE", PEER, &with(whole.clone(), 9, 47), BadTunnelHeader);
    bed.denied("inner version 5", PEER, &with(whole.clone(), 20, 0x55), BadIpHeader);
    bed.denied("an inner header of 16 bytes", PEER, &with(whole.clone(), 20, 0x44), BadIpHeader);
    bed.denied("shorter than it says", PEER, &whole[..whole.len() - 1], BadLength);
    bed.denied("longer than it says", PEER, &[&whole[..], &[0]].concat(), BadLength);
    bed.denied("an inner length of 65,535", PEER, &with(with(whole.clone(), 22, 255), 23, 255), BadLength);
    bed.denied("an inner length of 3", PEER, &with(with(whole.clone(), 22, 0), 23, 3), BadLength);
    bed.denied("a UDP length of 3", PEER, &with(with(whole.clone(), 44, 0), 45, 3), BadL4Header);
    let to_third = Way { to: bed.third.addr(false), ..bed.good(false) }.udp((1, 2), 30);
    bed.denied("on to a node", PEER, &outer(PEER, &to_third[14..]), TunnelLoop);
}

#[test]
fn one_level_is_taken_off() {
    let mut bed = Bed::new(Tunnel::Ipip);
    let innermost = Way::routed(&bed.pod, bed.third.addr(false)).udp((1, 2), 10)[14..].to_vec();
    let mut nested = bed.good(false).proto(4, &innermost)[14..].to_vec();
    let got = bed.delivered("IP in IP in IP", Form::Ipip, PEER, &outer(PEER, &nested));
    assert_eq!(got[20..], innermost, "the pod gets the packet inside as it is");
    // Ten levels, whose outermost inner packet comes from nobody we know.
    for _ in 0..10 {
        nested = outer(PEER, &nested);
    }
    bed.denied("ten levels", PEER, &nested, PeerSpoof);
}

#[test]
fn congestion_is_passed_on() {
    let mut bed = Bed::new(Tunnel::Ipip);
    for v6 in [false, true] {
        let mut inner = bed.good(v6).udp((1, 2), 30)[14..].to_vec();
        bed.denied("a mark on what cannot carry it", PEER, &with(outer(PEER, &inner), 1, 3), Congestion);
        let ecn = |packet: &[u8]| if v6 { packet[1] >> 4 & 3 } else { packet[1] & 3 };
        inner[1] |= if v6 { 2 << 4 } else { 2 };
        if !v6 {
            inner[10..12].fill(0);
            let sum = encap::checksum::sum(&inner[..20]).finish();
            inner[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let sent = outer(PEER, &inner);
        assert_eq!(sent[1] & 3, 2, "the outer header says that the packet can carry a mark");
        let got = bed.delivered("no mark", Form::Ipip, PEER, &sent);
        assert_eq!(ecn(&got), 2);
        let got = bed.delivered("a mark", Form::Ipip, PEER, &with(sent, 1, 3));
        assert_eq!(ecn(&got), 3);
        assert!(v6 || encap::checksum::sum(&got[..20]).finish() == 0, "the inner header's checksum is right");
    }
}

/// What leaves is one packet in one, with the traffic class and DF of the inner packet, also out of a super-frame.
#[test]
fn what_leaves() {
    let mut bed = Bed::new(Tunnel::Ipip);
    for v6 in [false, true] {
        let to = bed.far.addr(v6);
        let (vnet, frame) = Way::routed(&bed.pod, to).super_tcp((1, 2), 7, 10_000, 1400);
        assert!(bed.end.send(vnet, &frame));
        assert!(bed.end.send(VnetHdr::default(), &Way::routed(&bed.pod, to).udp((1, 2), 10)));
        while bed.node.turn(1_000_000) {}
        let packets: Vec<Vec<u8>> =
            std::iter::from_fn(|| bed.node.wire.recv()).map(|train| train.bytes).collect();
        assert_eq!(packets.len(), 8 + 1, "10,000 bytes in eight segments, and a datagram");
        for packet in &packets {
            let found = encap::ipip::parse(packet).unwrap();
            assert_eq!((found.at, packet[8]), (20, 64));
            assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
            assert_eq!(packet[16..20], PEER.octets());
            let df = if v6 { packet.len() > 1300 } else { packet[26] & 0x40 != 0 };
            assert_eq!(packet[6] & 0x40 != 0, df, "DF of the inner packet");
            assert!(packet.len() <= 1500);
        }
        assert!(bed.node.conserves(), "{:?}", bed.node.totals());
    }
}

/// A peer decides for itself how it sends: whatever socket its packets come in by, they are read in that form.
#[test]
fn a_peers_other_forms_are_taken() {
    for own in [Tunnel::Vxlan { vni: 7 }, Tunnel::Udp, Tunnel::Ipip] {
        for to_it in [None, Some(Tunnel::Vxlan { vni: 7 }), Some(Tunnel::Udp), Some(Tunnel::Ipip)] {
            let mut bed = Bed::new(own);
            bed.node.speak(1, to_it);
            bed.node.publish(0, 3);
            let frame = bed.good(false).udp((1, 2), 30);
            let vtep = Way { dst: encap::Mac([0x0e, 0, 0, 0, 0, 1]), ..bed.good(false) }.udp((1, 2), 30);
            let vxlan = [&encap::vxlan::header(7)[..], &vtep].concat();
            for (form, bytes) in [
                (Form::Vxlan, vxlan.clone()),
                (Form::Udp, frame[14..].to_vec()),
                (Form::Ipip, outer(PEER, &frame[14..])),
            ] {
                let knows =
                    form != Form::Vxlan || [Some(own), to_it].contains(&Some(Tunnel::Vxlan { vni: 7 }));
                let what = format!("own {own:?}, to it {to_it:?}, from it {form:?}");
                if knows {
                    let got = bed.delivered(&what, form, PEER, &bytes);
                    assert_eq!(got[20..], frame[34..], "{what}");
                } else {
                    let before = bed.dropped(WrongVni);
                    bed.arrive(form, PEER, &bytes);
                    assert_eq!(bed.dropped(WrongVni), before + 1, "{what}: no segment of it is known");
                }
            }
            // Without encapsulation it comes by the host.
            let mac = encap::Mac([2, 0, 0, 0, 0xff, 0]);
            let way = Way { src: mac, ..bed.good(false) };
            assert!(bed.node.host.send(VnetHdr::default(), &way.udp((1, 2), 30)));
            while bed.node.turn(1_000_000) {}
            assert!(bed.end.recv().is_some(), "directly, own {own:?}, to it {to_it:?}");
            // And what our pod sends goes the way that this node has chosen for the peer.
            assert!(
                bed.end.send(VnetHdr::default(), &Way::routed(&bed.pod, bed.far.addr(false)).udp((2, 1), 9))
            );
            while bed.node.turn(1_000_000) {}
            match to_it {
                None => assert!(bed.node.host.recv().is_some()),
                Some(tunnel) => {
                    let train = bed.node.wires[tunnel.form() as usize].recv().expect("in its form");
                    assert_eq!(train.addr.ip(), IpAddr::from(PEER));
                }
            }
        }
    }
}

#[test]
fn a_peers_own_segment_is_taken_beside_ours() {
    let mut bed = Bed::new(Tunnel::Vxlan { vni: 7 });
    bed.node.speak(1, Some(Tunnel::Vxlan { vni: 8 }));
    bed.node.publish(0, 3);
    let vtep = encap::Mac([0x0e, 0, 0, 0, 0, 1]);
    let frame = Way { dst: vtep, ..bed.good(false) }.udp((1, 2), 30);
    let third = Way { dst: vtep, ..Way::routed(&bed.third, bed.pod.addr(false)) }.udp((1, 2), 30);
    let in_segment = |vni: u32, frame: &[u8]| [&encap::vxlan::header(vni)[..], frame].concat();
    for vni in [7, 8] {
        bed.delivered("ours and its own", Form::Vxlan, PEER, &in_segment(vni, &frame));
    }
    bed.arrive(Form::Vxlan, PEER, &in_segment(9, &frame));
    bed.arrive(Form::Vxlan, THIRD, &in_segment(8, &third));
    assert_eq!(bed.dropped(WrongVni), 2, "nobody's, and another peer's");
    assert!(bed.end.recv().is_none());
}
