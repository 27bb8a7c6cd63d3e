//! A shooting range: the first of three nodes with an attacker, a victim and a bystander, a peer's pod, and a target
//! board that says what came out where and why the rest did not.
//!
//! Every packet is one turn of the real data path. Time stands still until a test moves it.

use std::net::Ipv4Addr;

use encap::{Mac, Tunnel, VnetHdr};
use serde_json::{Value, json};
use vswitch::counters::DropReason;
use vswitch::port::mem::MemEnd;

use super::craft::Way;
use super::host::Identity;
use super::node::Node;
use super::objects;

/// The tunnel's network.
pub const VNI: u32 = 1;
/// The second node's underlay address.
pub const PEER: [u8; 4] = [192, 168, 77, 2];
/// The first node's VTEP.
pub const VTEP: Mac = Mac([0x0e, 0, 0, 0, 0, 1]);
/// The second node's VTEP.
pub const PEER_VTEP: Mac = Mac([0x0e, 0, 0, 0, 0, 2]);

/// Who sends or receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The attacker, `default/n1-p1`.
    Attacker,
    /// The victim, `default/n1-p2`.
    Victim,
    /// A pod with no part in the quarrel, `default/n1-p3`.
    Bystander,
    /// A pod of the second node, `default/n2-p1`.
    Far,
    /// The node itself.
    Host,
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It came out there.
    At(Who),
    /// It was dropped.
    Dropped(DropReason),
    /// The gateway answered it.
    Answered,
}

/// The range.
pub struct Range {
    /// The first node.
    pub node: Node,
    /// The attacker.
    pub attacker: Identity,
    /// Its end of the cable.
    pub attacker_end: MemEnd,
    /// The victim.
    pub victim: Identity,
    /// Its end of the cable.
    pub victim_end: MemEnd,
    /// The bystander.
    pub bystander: Identity,
    /// Its end of the cable.
    pub bystander_end: MemEnd,
    /// A pod of the second node.
    pub far: Identity,
    /// A pod of the third node.
    pub third: Identity,
    /// Frames the bystander got while others were looked at.
    pub strays: usize,
    /// The time, microseconds.
    pub now_us: u64,
}

impl Default for Range {
    fn default() -> Self {
        Self::new()
    }
}

impl Range {
    /// Everybody is there, and nobody is restricted.
    #[must_use]
    pub fn new() -> Self {
        let tunnel = Tunnel::Vxlan { vni: VNI };
        let mut node = Node::new(0, tunnel, 5);
        let (attacker, attacker_end) = node.attach(0, true);
        let (victim, victim_end) = node.attach(0, true);
        let (bystander, bystander_end) = node.attach(0, true);
        node.publish(0, 3);
        let far = Node::new(1, tunnel, 5).attach(1, true).0;
        let third = Node::new(2, tunnel, 5).attach(2, true).0;
        Self {
            node,
            attacker,
            attacker_end,
            victim,
            victim_end,
            bystander,
            bystander_end,
            far,
            third,
            strays: 0,
            now_us: 1_000_000,
        }
    }

    /// The same under these policies, its pods labelled `app: attacker`, `victim`, `bystander` and `far`.
    #[must_use]
    pub fn guarded(policies: &[Value]) -> Self {
        let mut range = Self::new();
        range.set_policies(policies);
        range
    }

    /// Has these policies, and no others, in force.
    pub fn set_policies(&mut self, policies: &[Value]) {
        let objects: Vec<Value> = self.pods().into_iter().chain(policies.iter().cloned()).collect();
        self.node.set_objects(&objects);
    }

    /// The objects of its pods.
    #[must_use]
    pub fn pods(&self) -> Vec<Value> {
        let pod =
            |name, node, identity, app| objects::pod("default", name, node, identity, json!({ "app": app }));
        vec![
            pod("n1-p1", "n1", &self.attacker, "attacker"),
            pod("n1-p2", "n1", &self.victim, "victim"),
            pod("n1-p3", "n1", &self.bystander, "bystander"),
            pod("n2-p1", "n2", &self.far, "far"),
        ]
    }

    /// The pod that somebody is.
    ///
    /// # Panics
    /// For the node, which is none.
    #[must_use]
    pub fn identity(&self, who: Who) -> &Identity {
        match who {
            Who::Attacker => &self.attacker,
            Who::Victim => &self.victim,
            Who::Bystander => &self.bystander,
            Who::Far => &self.far,
            Who::Host => panic!("the node is no pod"),
        }
    }

    /// From one pod to another, as the first would ordinarily send.
    #[must_use]
    pub fn way(&self, from: Who, to: Who, v6: bool) -> Way {
        let way = Way::routed(self.identity(from), self.identity(to).addr(v6));
        if from == Who::Far { Way { src: PEER_VTEP, dst: VTEP, ..way } } else { way }
    }

    /// To the victim's address of a family, as the attacker would ordinarily send.
    #[must_use]
    pub fn to_victim(&self, v6: bool) -> Way {
        self.way(Who::Attacker, Who::Victim, v6)
    }

    /// Packets dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.node.totals().drops.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
    }

    /// Lets time pass, and what has expired be freed.
    pub fn wait(&mut self, seconds: u64) {
        self.now_us += seconds * 1_000_000;
        self.node.sweep(self.now_us);
    }

    /// Hands a frame to the node as somebody's.
    ///
    /// # Panics
    /// When the cable is full.
    pub fn send(&self, who: Who, vnet: VnetHdr, frame: &[u8]) {
        let sent = match who {
            Who::Attacker => self.attacker_end.send(vnet, frame),
            Who::Victim => self.victim_end.send(vnet, frame),
            Who::Bystander => self.bystander_end.send(vnet, frame),
            Who::Host => self.node.host.send(vnet, frame),
            Who::Far => self.node.wire.send((Ipv4Addr::from(PEER), 40_000).into(), &vxlan(frame), 0),
        };
        assert!(sent, "the cable is full");
    }

    /// Lets the node work, and returns how many frames came out to (the attacker, the victim, the host, peers).
    ///
    /// # Panics
    /// When a packet is not accounted for.
    pub fn settle(&mut self) -> (usize, usize, usize, usize) {
        while self.node.turn(self.now_us) {}
        assert!(self.node.conserves(), "{:?}", self.node.totals());
        let count = |end: &MemEnd| {
            std::iter::from_fn(|| end.recv()).fold(0, |n, frame| {
                end.recycle(frame);
                n + 1
            })
        };
        let mut wire = 0;
        while let Some(train) = self.node.wire.recv() {
            self.node.wire.recycle(train);
            wire += 1;
        }
        self.strays += count(&self.bystander_end);
        (count(&self.attacker_end), count(&self.victim_end), count(&self.node.host), wire)
    }

    /// What becomes of one packet. ICMP errors that its sender is told do not count.
    ///
    /// # Panics
    /// When it becomes more than one thing, or something came out elsewhere.
    pub fn outcome(&mut self, from: Who, frame: &[u8]) -> Outcome {
        self.outcome_of(from, VnetHdr::default(), frame)
    }

    /// The same for a frame with an offload header.
    ///
    /// # Panics
    /// See [`Range::outcome`].
    pub fn outcome_of(&mut self, from: Who, vnet: VnetHdr, frame: &[u8]) -> Outcome {
        let before = self.node.totals();
        let strays = self.strays;
        self.send(from, vnet, frame);
        let (attacker, victim, host, peers) = self.settle();
        let after = self.node.totals();
        let counts = [
            (Who::Attacker, attacker),
            (Who::Victim, victim),
            (Who::Bystander, self.strays - strays),
            (Who::Host, host),
            (Who::Far, peers),
        ];
        let told = after.generated > before.generated;
        let at: Vec<Who> = counts
            .into_iter()
            .filter(|(who, n)| *n > 0 && !(told && *who == from))
            .map(|(who, _)| who)
            .collect();
        let count = |list: &[(DropReason, u64)], reason| {
            list.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
        };
        let reason = after.drops.iter().find(|(reason, n)| *n > count(&before.drops, *reason));
        match (&at[..], reason, after.answered > before.answered) {
            ([who], None, false) => Outcome::At(*who),
            ([], Some((reason, _)), false) => Outcome::Dropped(*reason),
            ([], None, true) => Outcome::Answered,
            other => panic!("one packet became {other:?}"),
        }
    }

    /// The packet arrives.
    ///
    /// # Panics
    /// When it does not.
    pub fn arrives(&mut self, what: &str, from: Who, frame: &[u8], to: Who) {
        assert_eq!(self.outcome(from, frame), Outcome::At(to), "{what}");
    }

    /// The packet is dropped for `reason`, and leaves no flow behind.
    ///
    /// # Panics
    /// When it does not.
    pub fn denied(&mut self, what: &str, from: Who, frame: &[u8], reason: DropReason) {
        let flows = self.node.conntrack().len();
        assert_eq!(self.outcome(from, frame), Outcome::Dropped(reason), "{what}");
        assert!(self.node.conntrack().len() <= flows, "{what}: it left a flow behind");
    }

    fn expect(&mut self, what: &str, reason: DropReason, told: usize, send: impl FnOnce(&Self)) {
        let before = (self.dropped(reason), self.node.totals().dropped());
        send(self);
        let out = self.settle();
        assert_eq!(out, (told, 0, 0, 0), "{what}: what came out to (attacker, victim, host, peers)");
        let after = (self.dropped(reason), self.node.totals().dropped());
        assert_eq!(after, (before.0 + 1, before.1 + 1), "{what}: {:?}", self.node.totals());
        assert_eq!(self.strays, 0, "{what}: the bystander got something");
    }

    /// The attacker sends `frame`: dropped for `reason`, in silence.
    ///
    /// # Panics
    /// When it is not so.
    pub fn silent(&mut self, what: &str, frame: &[u8], reason: DropReason) {
        self.expect(what, reason, 0, |range| range.send(Who::Attacker, VnetHdr::default(), frame));
    }

    /// The attacker sends `frame`: dropped for `reason`, and told so by one ICMP error.
    ///
    /// # Panics
    /// When it is not so.
    pub fn told(&mut self, what: &str, frame: &[u8], reason: DropReason) {
        self.expect(what, reason, 1, |range| range.send(Who::Attacker, VnetHdr::default(), frame));
    }

    /// A datagram arrives from the underlay: dropped for `reason`.
    ///
    /// # Panics
    /// When it is not so.
    pub fn from(&mut self, what: &str, sender: [u8; 4], datagram: &[u8], reason: DropReason) {
        let sender = (Ipv4Addr::from(sender), 40_000).into();
        self.expect(what, reason, 0, |range| assert!(range.node.wire.send(sender, datagram, 0)));
    }
}

/// A frame in the tunnel's header.
#[must_use]
pub fn vxlan(inner: &[u8]) -> Vec<u8> {
    [&encap::vxlan::header(VNI)[..], inner].concat()
}
