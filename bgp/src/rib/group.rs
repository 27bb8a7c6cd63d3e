//! An update group: peers that are sent the same messages.
//!
//! A member that keeps up is sent every change as it happens, in messages encoded once for all. One that has just
//! joined, asks for a refresh, or does not read fast enough has a [`Position`] instead: how far in the table it has been
//! told, and which slots before that changed since. Latest state wins, so nothing queues up.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use ipnet::IpNet;

use super::out::{AdjOut, CHUNK};
use super::staged::Batches;
use super::{Exports, GroupKey, Own, PeerId, Sent, Sink, Source, Table};
use crate::attr::{Attributes, Interner};
use crate::family::{Family, PerFamily};
use crate::msg::refresh::{self, Subtype};
use crate::msg::update_out;

/// The group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    pub(crate) members: Vec<Member>,
    pub(crate) out: PerFamily<AdjOut>,
    /// Times a route could not be sent: its attributes leave no room in a message, or it has no next hop of a family
    /// the peers can use.
    pub(crate) unsendable: u64,
}

/// A peer in it.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) peer: PeerId,
    /// `None`: it keeps up.
    position: PerFamily<Option<Position>>,
}

/// How far a member is behind.
#[derive(Default, Debug)]
struct Position {
    /// Slots from here on are still to be sent.
    next: u32,
    /// It may know routes of those slots already (from before a refresh).
    told: bool,
    /// Slots before `next` that changed since.
    missed: BTreeSet<u32>,
    /// What it is told at the end.
    end: End,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum End {
    #[default]
    Nothing,
    /// End-of-RIB (RFC 4724).
    OfRib,
    /// End of route refresh (RFC 7313).
    OfRefresh,
}

impl Group {
    pub(crate) fn new(key: GroupKey) -> Group {
        Group { key, members: Vec::new(), out: PerFamily::default(), unsendable: 0 }
    }

    pub(crate) fn has(&self, peer: PeerId) -> bool {
        self.members.iter().any(|m| m.peer == peer)
    }

    pub(crate) fn join(&mut self, peer: PeerId, end: bool) {
        let end = if end { End::OfRib } else { End::Nothing };
        let families = self.key.families;
        let position =
            PerFamily::from_fn(|family| families[family].then(|| Position { end, ..Position::default() }));
        self.members.push(Member { peer, position });
    }

    pub(crate) fn leave(&mut self, peer: PeerId) {
        self.members.retain(|m| m.peer != peer);
    }

    /// Members that are behind.
    pub(crate) fn behind(&self, family: Family) -> impl Iterator<Item = PeerId> + '_ {
        self.members.iter().filter(move |m| m.position[family].is_some()).map(|m| m.peer)
    }

    /// Slots whose routes a member may know.
    pub(crate) fn told(&self, peer: PeerId, family: Family) -> Vec<u32> {
        let missed =
            self.members.iter().filter(|m| m.peer == peer).filter_map(|m| m.position[family].as_ref());
        let missed: Vec<u32> = missed.flat_map(|p| p.missed.iter().copied()).collect();
        self.out[family].told(peer).map(|(at, _)| at).chain(missed).collect()
    }

    /// A member knows routes of these slots from elsewhere: what it should not know is withdrawn.
    pub(crate) fn missed(&mut self, peer: PeerId, family: Family, slots: &[u32]) {
        let out = &self.out[family];
        if let Some(Some(position)) =
            self.members.iter_mut().find(|m| m.peer == peer).map(|m| &mut m.position[family])
        {
            position.told = true;
            position.missed.extend(slots.iter().filter(|at| out.get(**at).is_none_or(|s| s.source == peer)));
        }
    }

    /// Begins again for a member; false when it is none, or behind anyway.
    pub(crate) fn refresh(&mut self, peer: PeerId, family: Family, borders: bool) -> bool {
        let Some(member) = self.members.iter_mut().find(|m| m.peer == peer) else { return false };
        let before = member.position[family].take().unwrap_or_default();
        let end = match (before.end, borders) {
            // It still waits for the end of the first round, which this one then is.
            (End::OfRib, _) => End::OfRib,
            (_, true) => End::OfRefresh,
            (_, false) => End::Nothing,
        };
        let missed = before.missed;
        member.position[family] = Some(Position { next: 0, told: true, missed, end });
        true
    }

    /// Works out the whole table, for a group that is new.
    pub(crate) fn fill(
        &mut self,
        table: &Table,
        sources: &[Option<Source>],
        own: &Own,
        interner: &mut Interner<Attributes>,
    ) {
        let mut memo = Exports::default();
        for at in 0..table.len() {
            let sent = self.route(table, at, sources, own, &mut memo, interner);
            self.out[table.family].set(at, sent);
        }
        self.unsendable += memo.unsendable;
    }

    fn route(
        &self,
        table: &Table,
        at: u32,
        sources: &[Option<Source>],
        own: &Own,
        memo: &mut Exports,
        interner: &mut Interner<Attributes>,
    ) -> Option<Sent> {
        let slot = table.slot(at)?;
        let (best, attributes) = slot.best()?;
        let source = sources.get(best.source.index())?.as_ref()?;
        let from = (best.source, source);
        let attributes = self.key.export(&slot.net, from, attributes, own, memo, interner)?;
        Some(Sent { attributes, source: best.source })
    }

    /// Sends what became of these slots to all who keep up, and notes it for the others.
    pub(crate) fn update(
        &mut self,
        table: &Table,
        dirty: &[u32],
        sources: &[Option<Source>],
        own: &Own,
        interner: &mut Interner<Attributes>,
        sink: &mut impl Sink,
    ) {
        let family = table.family;
        let mut memo = Exports::default();
        let mut changes = Changes::default();
        for at in dirty {
            let Some(slot) = table.slot(*at) else { continue };
            let new = self.route(table, *at, sources, own, &mut memo, interner);
            if self.out[family].get(*at) == new.as_ref() {
                continue;
            }
            let old = self.out[family].set(*at, new);
            changes.add(*at, slot.net, old, self.out[family].get(*at));
        }
        self.unsendable += memo.unsendable;
        if changes.slots.is_empty() {
            return;
        }
        let mut keeping_up = Vec::with_capacity(self.members.len());
        for member in &mut self.members {
            let position = &mut member.position[family];
            if position.is_none() && !sink.room(member.peer) {
                *position = Some(Position { next: u32::MAX, told: true, ..Position::default() });
            }
            match position {
                None => keeping_up.push(member.peer),
                Some(position) => {
                    let (next, told) = (position.next, position.told);
                    let gone = |at: u32| told && self.out[family].get(at).is_none();
                    let missed = changes.slots.iter().filter(|at| **at < next || gone(**at));
                    position.missed.extend(missed);
                    // A route that now comes from the member itself is gone for it.
                    if position.told
                        && let Some(nets) = changes.only.get(&member.peer)
                    {
                        position.missed.extend(nets.iter().map(|(at, _)| *at));
                    }
                }
            }
        }
        changes.send(family, &self.key, &keeping_up, sink);
    }

    /// Sends to members that are behind, as much as they take.
    pub(crate) fn pump(&mut self, table: &Table, sink: &mut impl Sink) {
        let family = table.family;
        let (wide, most) = (self.key.wide, self.key.most);
        let out = &mut self.out[family];
        for member in &mut self.members {
            let peer = member.peer;
            let Some(position) = &mut member.position[family] else { continue };
            while sink.room(peer) {
                if position.next == 0 && position.end == End::OfRefresh {
                    sink.send(peer, border(family, Subtype::Begin));
                }
                if !position.missed.is_empty() {
                    catch_up(&mut position.missed, peer, out, table, (wide, most), sink);
                }
                if position.next < table.len() {
                    for (source, message) in out.chunk(position.next / CHUNK, table, wide, most).iter() {
                        if *source != peer {
                            sink.send(peer, message.clone());
                        }
                    }
                    position.next = (position.next / CHUNK + 1).saturating_mul(CHUNK);
                    continue;
                }
                match position.end {
                    End::Nothing => {}
                    End::OfRib => sink.send(peer, update_out::end_of_rib(family)),
                    End::OfRefresh => sink.send(peer, border(family, Subtype::End)),
                }
                member.position[family] = None;
                break;
            }
        }
    }
}

/// Sends the present state of slots a member was told of before.
fn catch_up(
    missed: &mut BTreeSet<u32>,
    peer: PeerId,
    out: &AdjOut,
    table: &Table,
    (wide, most): (bool, usize),
    sink: &mut impl Sink,
) {
    let mut batches = Batches::default();
    let mut withdrawn = Vec::new();
    for at in std::mem::take(missed) {
        let Some(slot) = table.slot(at) else { continue };
        match out.get(at).filter(|sent| sent.source != peer) {
            Some(sent) => batches.add((slot.net, sent)),
            None => withdrawn.push(slot.net),
        }
    }
    let mut messages = Vec::new();
    update_out::withdraw(table.family, &withdrawn, most, &mut messages);
    batches.encode(table.family, wide, most, |_, message| messages.push(message));
    messages.into_iter().for_each(|message| sink.send(peer, message));
}

fn border(family: Family, subtype: Subtype) -> update_out::Bytes {
    let mut message = Vec::new();
    refresh::emit(family, subtype, &mut message);
    message.into()
}

/// What changed in one flush.
#[derive(Default, Debug)]
struct Changes {
    slots: Vec<u32>,
    batches: Batches,
    /// Withdrawn from all but the peer the route came from.
    withdrawn: BTreeMap<PeerId, Vec<IpNet>>,
    /// Withdrawn from one peer alone: the new route comes from it.
    only: BTreeMap<PeerId, Vec<(u32, IpNet)>>,
}

impl Changes {
    fn add(&mut self, at: u32, net: IpNet, old: Option<Sent>, new: Option<&Sent>) {
        self.slots.push(at);
        match (old, new) {
            (Some(old), None) => self.withdrawn.entry(old.source).or_default().push(net),
            (old, Some(new)) => {
                if old.is_some_and(|old| old.source != new.source) && new.source != PeerId::LOCAL {
                    self.only.entry(new.source).or_default().push((at, net));
                }
                self.batches.add((net, new));
            }
            (None, None) => {}
        }
    }

    fn send(self, family: Family, key: &GroupKey, to: &[PeerId], sink: &mut impl Sink) {
        let mut messages = Vec::new();
        for (source, nets) in self.withdrawn {
            update_out::withdraw(family, &nets, key.most, &mut messages);
            for message in messages.drain(..) {
                to.iter().filter(|peer| **peer != source).for_each(|peer| sink.send(*peer, message.clone()));
            }
        }
        for (peer, nets) in self.only.into_iter().filter(|(peer, _)| to.contains(peer)) {
            let nets: Vec<IpNet> = nets.into_iter().map(|(_, net)| net).collect();
            update_out::withdraw(family, &nets, key.most, &mut messages);
            messages.drain(..).for_each(|message| sink.send(peer, message));
        }
        self.batches.encode(family, key.wide, key.most, |source, message| {
            to.iter().filter(|peer| **peer != source).for_each(|peer| sink.send(*peer, message.clone()));
        });
    }
}
