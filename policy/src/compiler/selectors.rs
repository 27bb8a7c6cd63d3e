//! The distinct selectors of all policies and the identities each selects. Counted references, numbers reused.

use std::collections::HashMap;
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
}

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
            self.slots.len() as u32 - 1
        });
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
            self.bitmaps[number as usize] = Arc::default();
            self.free.push(number);
        }
    }

    /// Brings the bitmaps up to date with identities that stand for something new. (What a freed number is still in
    /// harms nobody: no address has it.)
    pub(super) fn update(&mut self, changed: &[Identity], identities: &Identities) {
        for ((selector, _), bitmap) in self.slots.iter().zip(&mut self.bitmaps) {
            let Some(selector) = selector else { continue };
            if changed.len() > MANY {
                *bitmap = Arc::new(identities.select(selector));
                continue;
            }
            for id in changed {
                let selected = identities.matches(*id, selector);
                if selected != bitmap.contains(*id) {
                    Arc::make_mut(bitmap).set(*id, selected);
                }
            }
        }
    }

    pub(super) fn bitmap(&self, number: u32) -> &Bitmap {
        &self.bitmaps[number as usize]
    }

    pub(super) fn bitmaps(&self) -> &[Arc<Bitmap>] {
        &self.bitmaps
    }
}
