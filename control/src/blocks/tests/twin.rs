//! A block beside a naive twin, and values with bytes changed.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Next(u8),
    Fixed(usize, u8),
    Release(u8),
    Tick(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..5_u8).prop_map(Op::Next),
        1 => (0..8_usize, 0..5_u8).prop_map(|(i, h)| Op::Fixed(i, h)),
        3 => (0..5_u8).prop_map(Op::Release),
        2 => (0..20_u64).prop_map(Op::Tick),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Slot {
    Free,
    Held(u8),
    Cooling(u64),
}

struct Twin {
    slots: [Slot; 8],
    line: VecDeque<usize>,
}

impl Twin {
    fn ripen(&mut self, now: u64, cool: u64) {
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if matches!(*slot, Slot::Cooling(at) if now - at >= cool) {
                *slot = Slot::Free;
                self.line.push_back(i);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_block_does_what_its_twin_does(ops in prop::collection::vec(op(), 0..80), cool in 0..15_u64) {
        let cidr = net("10.9.0.8/29");
        let mut block = Block::new(cidr, "n1", at(0)).unwrap();
        let mut twin = Twin { slots: [Slot::Free; 8], line: (0..8).collect() };
        let (mut now, cool_down) = (0, Duration::from_secs(cool));
        let address = |i: usize| ip(&format!("10.9.0.{}", 8 + i));
        let name = |h: u8| format!("h{h}");
        for op in ops {
            match op {
                Op::Tick(seconds) => now += seconds,
                Op::Next(h) => {
                    block.ripen(at(now), cool_down);
                    twin.ripen(now, cool);
                    let next = twin.line.pop_front();
                    prop_assert_eq!(block.next_free(|_| false), next.map(address));
                    if let Some(i) = next {
                        twin.slots[i] = Slot::Held(h);
                        prop_assert!(block.give(address(i), &name(h), &BTreeMap::new()));
                    }
                }
                Op::Fixed(i, h) => {
                    let free = !matches!(twin.slots[i], Slot::Held(_));
                    prop_assert_eq!(block.give(address(i), &name(h), &BTreeMap::new()), free);
                    if free {
                        twin.slots[i] = Slot::Held(h);
                        twin.line.retain(|other| *other != i);
                    }
                }
                Op::Release(h) => {
                    let of: Vec<usize> = (0..8).filter(|i| twin.slots[*i] == Slot::Held(h)).collect();
                    let freed = block.take_back(Some(&name(h)), |_| true, at(now), cool_down);
                    prop_assert_eq!(freed, of.iter().map(|i| address(*i)).collect::<Vec<_>>());
                    of.iter().for_each(|i| twin.slots[*i] = Slot::Cooling(now));
                    if !of.is_empty() {
                        twin.ripen(now, cool);
                    }
                }
            }
            for (i, slot) in twin.slots.iter().enumerate() {
                let same = match (slot, block.owner(address(i)).unwrap()) {
                    (Slot::Free, Owner::Free) | (Slot::Cooling(_), Owner::Cooling) => true,
                    (Slot::Held(h), Owner::Held { handle, .. }) => handle == Some(name(*h).as_str()),
                    _ => false,
                };
                prop_assert!(same, "{i}: {slot:?}");
            }
            prop_assert_eq!(block.free(), twin.line.len());
            let text = block.encode();
            prop_assert_eq!(&Block::parse(&cidr, &text).unwrap(), &block);
        }
    }

    #[test]
    fn whatever_lies_there_can_be_read_or_not(at in 0..CALICO.len(), with in any::<u8>(), cut in 0..CALICO.len()) {
        let cidr = net("10.9.0.64/30");
        let mut text = CALICO.as_bytes().to_vec();
        text[at] = with;
        for text in [&text[..], &text[..cut]] {
            if let Ok(mut block) = Block::parse(&cidr, text) {
                let again = block.encode();
                prop_assert_eq!(Block::parse(&cidr, &again).unwrap(), block);
            }
            let mut table = Table::default();
            table.put("/calico/ipam/v2/assignment/ipv4/block/10.9.0.64-30", text);
            let _ = table.routes(&[cidr]);
            let _ = (Affinity::parse(text), Handle::parse(text), Settings::parse(text));
        }
    }
}
