//! Laying out the keys of an index: postings into the lists of spans, behind exact ones nothing of their tier.

use super::{BROAD, Item, Key, POINTS, Posting, Run, SPREAD, Span};
use crate::model::RuleAction;
use crate::table::Entry;

/// Cutting overlapping spans may take this many steps before the broad ones go into the tree.
const STEPS: usize = 1 << 22;

pub(super) struct Builder<'a> {
    pub(super) entries: &'a [Entry],
    pub(super) keys: Vec<Key>,
    pub(super) spans: Vec<Span>,
    pub(super) trees: Vec<Run>,
    pub(super) edges: Vec<u32>,
    pub(super) postings: Vec<Posting>,
}

/// What of a tier is already decided: no later rule of the section is asked in these contexts.
#[derive(Clone, Copy, Default)]
struct Closed {
    section_end: u32,
    contexts: u8,
}

impl Closed {
    fn covers(self, e: &Entry) -> bool {
        self.section_end == e.section_end && e.contexts & !self.contexts == 0
    }

    fn close(&mut self, e: &Entry) {
        if self.section_end != e.section_end {
            *self = Closed { section_end: e.section_end, contexts: 0 };
        }
        self.contexts |= e.contexts;
    }
}

/// Postings on their way into the index.
#[derive(Clone, Default)]
struct List {
    postings: Vec<Posting>,
    closed: Closed,
}

impl List {
    /// Adds a posting if the rule can still be asked; `ends`: none of its tier behind it can. Says how many it added.
    fn add(&mut self, item: &Item, entry: &Entry, ends: bool) -> usize {
        if self.closed.covers(entry) {
            return 0;
        }
        note(&mut self.postings, item, item.3);
        if ends {
            self.closed.close(entry);
        }
        1
    }
}

impl Builder<'_> {
    /// Lays out one key; items come in order of their numbers.
    pub(super) fn key(&mut self, items: &[Item]) -> u32 {
        let mut edges: Vec<u32> =
            items.iter().filter(|i| !is_full(i)).flat_map(|(_, from, to, _)| [*from, *to + 1]).collect();
        edges.sort_unstable();
        edges.dedup();
        let covered = |i: &Item| {
            let at = |point: u32| edges.partition_point(|e| *e < point);
            at(i.1)..at(i.2 + 1)
        };
        let steps: usize = items.iter().filter(|i| !is_full(i)).map(|i| covered(i).len()).sum();
        let limits = if steps <= STEPS { [usize::MAX, BROAD] } else { [BROAD, BROAD] };
        let (mut wide, mut lists, mut tree) = (Vec::new(), Vec::new(), Vec::new());
        for most in limits {
            (wide, lists, tree) = (Vec::new(), vec![List::default(); edges.len()], Vec::new());
            let mut all_closed = Closed::default();
            let mut held = 0;
            for item in items {
                let entry = &self.entries[item.0 as usize];
                if all_closed.covers(entry) {
                    continue;
                }
                let ends = item.3 && entry.action != Some(RuleAction::Log);
                if is_full(item) {
                    note(&mut wide, item, item.3);
                    if ends {
                        all_closed.close(entry);
                    }
                    continue;
                }
                let covered = covered(item);
                if covered.len() <= most {
                    for list in &mut lists[covered] {
                        held += list.add(item, entry, ends);
                    }
                    continue;
                }
                tree.resize(2 * edges.len(), List::default());
                let (mut from, mut to) = (covered.start + edges.len(), covered.end + edges.len());
                while from < to {
                    if from % 2 == 1 {
                        tree[from].add(item, entry, ends);
                        from += 1;
                    }
                    if to % 2 == 1 {
                        to -= 1;
                        tree[to].add(item, entry, ends);
                    }
                    (from, to) = (from / 2, to / 2);
                }
            }
            if held <= SPREAD * items.len() + 4096 {
                break;
            }
        }

        let spans = self.spans.len() as u32;
        for (i, list) in lists.into_iter().enumerate().filter(|(_, list)| !list.postings.is_empty()) {
            let postings = self.run(&list.postings);
            self.spans.push(Span { from: edges[i], to: edges[i + 1] - 1, postings });
        }
        let mut key = Key { wide: self.run(&wide), ..Key::default() };
        key.spans = Run { start: spans, len: self.spans.len() as u32 - spans };
        if !tree.is_empty() {
            let runs: Vec<Run> = tree.iter().map(|list| self.run(&list.postings)).collect();
            key.tree = Run { start: self.trees.len() as u32, len: runs.len() as u32 };
            key.edges = Run { start: self.edges.len() as u32, len: edges.len() as u32 };
            self.trees.extend(runs);
            self.edges.extend(edges);
        }
        self.keys.push(key);
        self.keys.len() as u32 - 1
    }

    fn run(&mut self, list: &[Posting]) -> Run {
        let start = self.postings.len() as u32;
        self.postings.extend_from_slice(list);
        Run { start, len: list.len() as u32 }
    }
}

fn is_full(item: &Item) -> bool {
    (item.1, item.2) == (0, POINTS - 1)
}

/// Appends; a rule that is there already (by another of its alternatives) stays there once.
fn note(list: &mut Vec<Posting>, item: &Item, exact: bool) {
    match list.last_mut() {
        Some(last) if last.number() == item.0 => *last = Posting::new(item.0, exact || last.exact()),
        _ => list.push(Posting::new(item.0, exact)),
    }
}
