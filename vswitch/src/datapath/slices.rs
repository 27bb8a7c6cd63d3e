//! Slices ([`encap::slice`]): asking peers whether they take them, answering theirs, and putting together what came.

use std::io::IoSlice;
use std::net::SocketAddr;

use encap::slice::{self, SIZE_LEN, SLICE_LEN, Slice, SliceError};
use encap::{Form, Frame, Span};
use policy::FlowKey;

use super::uplink::for_us;
use super::{Core, Datapath};
use crate::counters::DropReason;
use crate::slices::Asked;
use crate::snapshot::{Peer, Snapshot};
use crate::uplink::{Train, UplinkTx};

/// Most questions of peers answered in one batch.
pub(super) const ANSWERS: usize = 16;

impl Datapath {
    /// Takes a datagram that has the slice bit, `buf`, offset and length, which came `from` there.
    pub(super) fn offer_slice(
        &mut self,
        snap: &Snapshot,
        (index, peer): (u32, &Peer),
        bufs: &[Frame],
        (buf, off, len): (u16, u32, u32),
        from: SocketAddr,
        now_ms: u64,
    ) -> Result<(), DropReason> {
        let datagram = Span { buf, off, len }.of(bufs);
        let (vni, slice) = slice::parse(datagram).map_err(reason)?;
        if !peer.vnis.contains(&vni) {
            return Err(DropReason::WrongVni);
        }
        match slice {
            Slice::Part(part) => {
                if part.index == 0 {
                    for_us(snap, datagram.get(SLICE_LEN + SIZE_LEN..).unwrap_or_default())?;
                }
                return self.merge.offer_slice(bufs, (buf, off, len), &part, from).map_err(reason);
            }
            Slice::Ask(number) if self.answers.len() < ANSWERS => {
                self.answers.push((index, slice::answer(vni, number)));
            }
            // It asks again.
            Slice::Ask(_) => {}
            Slice::Answer(number) => {
                Asked::answered(peer.stats.iter().map(|stats| &stats.slices), number, now_ms);
            }
        }
        self.core.counters.answered.incr();
        Ok(())
    }

    /// Answers the questions of this batch.
    pub(super) fn answer(&mut self, snap: &Snapshot, up: &mut dyn UplinkTx) {
        for (peer, answer) in self.answers.drain(..) {
            if let Some(peer) = snap.peers.get(peer as usize) {
                self.core.say(peer, &answer, 0, up);
            }
        }
    }
}

impl Core {
    /// May super-frames for this peer travel in slices? Asks it, when it is time.
    pub(super) fn takes_slices(
        &self,
        peer: &Peer,
        vni: u32,
        hash: u64,
        up: &mut dyn UplinkTx,
        now_ms: u64,
    ) -> bool {
        if !self.slices {
            return false;
        }
        let asked = &peer.stats[self.index].slices;
        let random = || {
            let (src, dst) = (u128::from(now_ms), encap::from_ip(peer.endpoint.ip()));
            FlowKey { src, dst, ..FlowKey::default() }.hash(&self.hash)
        };
        if let Some(number) = asked.due(now_ms, random) {
            self.say(peer, &slice::ask(vni, number), hash, up);
        }
        asked.believed(now_ms)
    }

    /// Sends a peer a datagram of the switch's own.
    fn say(&self, peer: &Peer, datagram: &[u8], hash: u64, up: &mut dyn UplinkTx) {
        self.counters.generated.incr();
        let (dst, parts) = (&peer.endpoint, &[IoSlice::new(datagram)]);
        let train = Train { dst, flow_hash: hash, seg: datagram.len(), total: datagram.len(), parts };
        // One that does not leave is asked again.
        up.send(Form::Vxlan, &[train]);
    }
}

/// The reason that goes with a slice without a place.
fn reason(e: SliceError) -> DropReason {
    match e {
        SliceError::Truncated => DropReason::Truncated,
        SliceError::Header | SliceError::Inner => DropReason::BadTunnelHeader,
        SliceError::Length => DropReason::BadLength,
        SliceError::Headless => DropReason::Headless,
    }
}
