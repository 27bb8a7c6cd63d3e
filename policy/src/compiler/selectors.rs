//! The distinct selectors of all policies and the identities each selects. Counted references, numbers reused.
//!
//! A selector is filed under labels of which whatever it selects has one, where there are such. So a new identity is held
//! against the selectors filed under its own labels, and against those that are filed nowhere: not against all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::identities::Identities;
use crate::bitmap::Bitmap;
use crate::compiled::Identity;
use crate::selector::Selector;

/// With more new identities than this, selectors are evaluated anew instead of asked about each.
const MANY: usize = 64;

#[derive(Default)]
pub(super) struct Selectors {
    numbers: HashMap<Arc<Selector>, u32>,
    slots: Vec<(Option<Arc<Selector>>, u32)>,
    free: Vec<u32>,
    bitmaps: Vec<Arc<Bitmap>>,
    /// Numbers by a label that they are filed under.
    filed: HashMap<Label, Vec<u32>>,
    /// Where each is filed, by number; empty = nowhere, or not in use.
    places: Vec<Vec<Label>>,
    /// Numbers that are filed nowhere.
    unfiled: Vec<u32>,
}

/// Key and value.
type Label = (Arc<str>, Arc<str>);

impl Selectors {
    /// Takes a reference to a selector's number.
    pub(super) fn acquire(&mut self, selector: &Selector, identities: &Identities) -> u32 {
        if let Some(number) = self.numbers.get(selector) {
            self.slots[*number as usize].1 += 1;
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push((None, 0));
            self.bitmaps.push(Arc::default());
            self.places.push(Vec::new());
            self.slots.len() as u32 - 1
        });
        self.file(number, selector);
        let shared = Arc::new(selector.clone());
        self.slots[number as usize] = (Some(shared.clone()), 1);
        self.bitmaps[number as usize] = Arc::new(identities.select(selector));
        self.numbers.insert(shared, number);
        number
    }

    /// Gives a reference back.
    pub(super) fn release(&mut self, number: u32) {
        let (slot, refs) = &mut self.slots[number as usize];
        *refs -= 1;
        if *refs == 0
            && let Some(selector) = slot.take()
        {
            self.numbers.remove(&selector);
            self.unfile(number);
            self.bitmaps[number as usize] = Arc::default();
            self.free.push(number);
        }
    }

    /// Files it where the fewest are.
    fn file(&mut self, number: u32, selector: &Selector) {
        let crowd = |labels: &Vec<Label>| -> usize {
            labels.iter().map(|label| self.filed.get(label).map_or(0, Vec::len)).sum()
        };
        let Some(labels) = one_of(selector).into_iter().min_by_key(crowd) else {
            return self.unfiled.push(number);
        };
        for label in &labels {
            self.filed.entry(label.clone()).or_default().push(number);
        }
        self.places[number as usize] = labels;
    }

    fn unfile(&mut self, number: u32) {
        let labels = std::mem::take(&mut self.places[number as usize]);
        if labels.is_empty() {
            return self.unfiled.retain(|other| *other != number);
        }
        for label in labels {
            let Entry::Occupied(mut numbers) = self.filed.entry(label) else { continue };
            numbers.get_mut().retain(|other| *other != number);
            if numbers.get().is_empty() {
                numbers.remove();
            }
        }
    }

    /// Brings the bitmaps up to date with identities that stand for something new. (What a freed number is still in
    /// harms nobody: no address has it.)
    pub(super) fn update(&mut self, changed: &[Identity], identities: &Identities) {
        if changed.len() > MANY {
            for ((selector, _), bitmap) in self.slots.iter().zip(&mut self.bitmaps) {
                if let Some(selector) = selector {
                    *bitmap = Arc::new(identities.select(selector));
                }
            }
            return;
        }
        for id in changed {
            let now = self.selecting(*id, identities);
            for (bitmap, number) in self.bitmaps.iter_mut().zip(0..) {
                let selected = now.binary_search(&number).is_ok();
                if selected != bitmap.contains(*id) {
                    Arc::make_mut(bitmap).set(*id, selected);
                }
            }
        }
    }

    /// The numbers of the selectors that select an identity, ascending.
    fn selecting(&self, id: Identity, identities: &Identities) -> Vec<u32> {
        let mut numbers = self.unfiled.clone();
        for labels in identities.labels(id) {
            for (key, value) in labels.0.iter() {
                numbers.extend(self.filed.get(&(key.clone(), value.clone())).into_iter().flatten());
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        let selects = |number: &u32| {
            let selector = self.slots[*number as usize].0.as_ref();
            selector.is_some_and(|selector| identities.matches(id, selector))
        };
        numbers.retain(selects);
        numbers
    }

    pub(super) fn bitmap(&self, number: u32) -> &Bitmap {
        &self.bitmaps[number as usize]
    }

    pub(super) fn bitmaps(&self) -> &[Arc<Bitmap>] {
        &self.bitmaps
    }
}

/// Labels of which everything has one that the selector selects; several such lists, or none where nothing can be said.
fn one_of(selector: &Selector) -> Vec<Vec<Label>> {
    match selector {
        Selector::Eq(key, value) => vec![vec![(key.clone(), value.clone())]],
        // Nothing is in an empty list; what selects nothing may as well be asked.
        Selector::In(key, values) if !values.is_empty() => {
            vec![values.iter().map(|value| (key.clone(), value.clone())).collect()]
        }
        Selector::And(parts) => parts.iter().flat_map(one_of).collect(),
        _ => Vec::new(),
    }
}
