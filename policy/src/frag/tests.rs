use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const UDP: u8 = 17;

fn key(ingress: u32, id: u32) -> FragKey {
    FragKey { src: 1, dst: 2, proto: UDP, id, ingress }
}

fn piece(offset: u32, len: u32, more: bool) -> Piece {
    Piece { offset, len, more }
}

fn at(seconds: u32) -> Tick {
    Tick((seconds * TICKS_PER_SECOND).wrapping_sub(5))
}

#[test]
fn later_fragments_follow_the_first_until_the_datagram_is_whole() {
    let mut table = FragTable::new(4, 8);
    let k = key(1, 77);
    assert_eq!(table.later(&k, piece(1480, 1480, true), at(0)), Fate::Unknown);
    assert_eq!(table.first(&k, piece(0, 1480, true), 'x', at(0)), Fate::Follows('x'));
    assert_eq!(table.later(&k, piece(2960, 40, false), at(0)), Fate::Follows('x'));
    assert_eq!(table.later(&k, piece(2960, 40, false), at(0)), Fate::Follows('x'), "doubled by the network");
    for other in [
        key(2, 77),
        key(1, 78),
        FragKey { src: 3, ..k },
        FragKey { dst: 3, ..k },
        FragKey { proto: TCP, ..k },
    ] {
        assert_eq!(table.later(&other, piece(1480, 1480, true), at(0)), Fate::Unknown);
    }
    assert_eq!(table.later(&k, piece(1480, 1480, true), at(30)), Fate::Follows('x'));
    assert!(table.is_empty());
}

#[test]
fn an_overlap_poisons_the_datagram() {
    let overlaps = [
        piece(0, 16, true),
        piece(8, 8, true),
        piece(16, 32, true),
        piece(0, 32, true),
        piece(24, 8, false),
        piece(56, 8, true),
        piece(40, 0, true),
        piece(40, 12, true),
        piece(65_528, 16, false),
    ];
    for bad in overlaps {
        let mut table = FragTable::new(1, 8);
        assert_eq!(table.first(&key(1, 7), piece(0, 24, true), 1, at(0)), Fate::Follows(1));
        assert_eq!(table.later(&key(1, 7), piece(48, 8, false), at(0)), Fate::Follows(1));
        assert_eq!(table.later(&key(1, 7), bad, at(0)), Fate::Poisoned, "{bad:?}");
        assert_eq!(table.later(&key(1, 7), piece(24, 24, true), at(0)), Fate::Poisoned);
        assert_eq!(table.first(&key(1, 7), piece(0, 24, true), 1, at(0)), Fate::Poisoned);
    }
}

#[test]
fn a_second_first_fragment_must_be_judged_alike() {
    let mut table = FragTable::new(1, 8);
    assert_eq!(table.first(&key(1, 7), piece(0, 24, true), "port 80", at(0)), Fate::Follows("port 80"));
    assert_eq!(table.first(&key(1, 7), piece(0, 24, true), "port 80", at(0)), Fate::Follows("port 80"));
    assert_eq!(table.first(&key(1, 7), piece(0, 24, true), "port 22", at(0)), Fate::Poisoned);
    assert_eq!(table.later(&key(1, 7), piece(24, 8, false), at(0)), Fate::Poisoned);
    assert_eq!(table.later(&key(1, 7), piece(24, 8, false), at(31)), Fate::Unknown);
}

#[test]
fn a_tiny_first_fragment_passes_nothing() {
    let mut table = FragTable::new(1, 8);
    let tcp = FragKey { proto: TCP, ..key(1, 7) };
    assert_eq!(table.first(&tcp, piece(0, 8, true), 1, at(0)), Fate::Tiny);
    assert_eq!(table.later(&tcp, piece(8, 16, false), at(0)), Fate::Unknown);
    assert_eq!(table.first(&tcp, piece(0, 16, true), 1, at(0)), Fate::Follows(1));
    assert_eq!(table.first(&tcp, piece(0, 8, true), 1, at(0)), Fate::Tiny);
    assert_eq!(table.later(&tcp, piece(16, 16, false), at(0)), Fate::Poisoned);
    assert_eq!(table.first(&key(1, 7), piece(0, 8, true), 1, at(0)), Fate::Follows(1), "enough for UDP");
}

#[test]
fn a_flood_fills_its_own_lane() {
    let mut table = FragTable::new(2, 8);
    table.first(&key(1, 7), piece(0, 24, true), 1, at(0));
    for id in 0..1_000_000 {
        assert_eq!(table.first(&key(2, id), piece(0, 24, true), 1, at(0)), Fate::Follows(1));
    }
    assert_eq!(table.len(), 9);
    assert_eq!(table.first(&key(3, 7), piece(0, 24, true), 1, at(0)), Fate::NoRoom);
    assert_eq!(table.later(&key(1, 7), piece(24, 24, false), at(0)), Fate::Follows(1));
    assert_eq!(
        table.first(&key(3, 7), piece(0, 24, true), 1, at(0)),
        Fate::Follows(1),
        "the lane is free again"
    );
    assert_eq!(table.later(&key(2, 999_999), piece(24, 24, false), at(0)), Fate::Follows(1));
    assert_eq!(table.first(&key(4, 7), piece(0, 24, true), 1, at(31)), Fate::Follows(1));
}

#[test]
fn crumbs_are_counted() {
    let mut table = FragTable::new(1, 2);
    table.first(&key(1, 7), piece(0, 8, true), 1, at(0));
    for i in 1..RANGES as u32 {
        assert_eq!(table.later(&key(1, 7), piece(i * 8, 8, true), at(0)), Fate::Follows(1));
    }
    assert_eq!(table.later(&key(1, 7), piece(RANGES as u32 * 8, 8, true), at(0)), Fate::Poisoned);
}

/// The twin: a map of bytes for each datagram.
#[derive(Default)]
struct Naive {
    /// By ingress, oldest first.
    lanes: HashMap<u32, Vec<NaiveDatagram>>,
}

struct NaiveDatagram {
    id: u32,
    decision: Option<u8>,
    since: Tick,
    /// Which piece each byte came in.
    bytes: HashMap<u32, Piece>,
    pieces: Vec<Piece>,
}

impl Naive {
    fn fragment(&mut self, key: &FragKey, piece: Piece, decision: Option<u8>, now: Tick) -> Fate<u8> {
        for lane in self.lanes.values_mut() {
            lane.retain(|datagram| now.0.wrapping_sub(datagram.since.0) <= TIMEOUT);
        }
        let others =
            self.lanes.iter().filter(|(ingress, lane)| **ingress != key.ingress && !lane.is_empty()).count();
        let lane = self.lanes.entry(key.ingress).or_default();
        let known = lane.iter().position(|datagram| datagram.id == key.id);
        let at = match (known, decision) {
            (Some(at), _) => at,
            (None, None) => return Fate::Unknown,
            (None, Some(_)) if piece.len < 8 => return Fate::Tiny,
            (None, Some(_)) if others == 3 => return Fate::NoRoom,
            (None, Some(decision)) => {
                if lane.len() == 3 {
                    lane.remove(0);
                }
                let (bytes, pieces) = (HashMap::new(), Vec::new());
                lane.push(NaiveDatagram { id: key.id, decision: Some(decision), since: now, bytes, pieces });
                lane.len() - 1
            }
        };
        let datagram = &mut lane[at];
        if decision.is_some() && (datagram.decision != decision || piece.len < 8) {
            datagram.decision = None;
        }
        if decision.is_some() && piece.len < 8 {
            return Fate::Tiny;
        }
        let Some(verdict) = datagram.decision else { return Fate::Poisoned };
        if datagram.pieces.contains(&piece) {
            return Fate::Follows(verdict);
        }
        let range = piece.offset..piece.offset + piece.len;
        let last = datagram.pieces.iter().find(|piece| !piece.more).map(|piece| piece.offset + piece.len);
        let sound = piece.len > 0
            && piece.offset.is_multiple_of(8)
            && (!piece.more || piece.len.is_multiple_of(8))
            && !range.clone().any(|byte| datagram.bytes.contains_key(&byte))
            && (piece.more || last.is_none() && datagram.bytes.keys().all(|byte| *byte < range.end))
            // A piece that ends where the whole ends is the last one.
            && last.is_none_or(|last| range.end < last);
        if !sound {
            datagram.decision = None;
            return Fate::Poisoned;
        }
        datagram.pieces.push(piece);
        datagram.bytes.extend(range.map(|byte| (byte, piece)));
        let last = datagram.pieces.iter().find(|piece| !piece.more).map(|piece| piece.offset + piece.len);
        if last.is_some_and(|last| (0..last).all(|byte| datagram.bytes.contains_key(&byte))) {
            lane.remove(at);
        }
        Fate::Follows(verdict)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_table_is_a_map_of_bytes(
        fragments in proptest::collection::vec(
            (
                prop_oneof![6 => Just(1u32), 2 => Just(2), 1 => 3u32..6],
                prop_oneof![4 => Just(0u32), 1 => 1u32..6],
                prop_oneof![8 => (0u32..6).prop_map(|n| n * 8), 1 => 0u32..50],
                prop_oneof![8 => Just(8u32), 2 => Just(16), 1 => 0u32..24],
                any::<bool>(),
                prop_oneof![6 => Just(1u8), 1 => Just(2)],
                prop_oneof![6 => Just(0u32), 1 => 0u32..300],
            ),
            1..80,
        )
    ) {
        let mut table = FragTable::new(3, 3);
        let mut naive = Naive::default();
        let mut now = at(0);
        for (ingress, id, offset, len, more, decision, wait) in fragments {
            now = Tick(now.0.wrapping_add(wait));
            let (key, piece) = (key(ingress, id), piece(offset, len, more));
            let fate = match offset {
                0 => table.first(&key, piece, decision, now),
                _ => table.later(&key, piece, now),
            };
            prop_assert_eq!(fate, naive.fragment(&key, piece, (offset == 0).then_some(decision), now), "{:?}", piece);
        }
    }
}
