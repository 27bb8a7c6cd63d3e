//! What is wrong with single keys, bounded.

use std::collections::BTreeMap;

/// Most keys that are named; the others are counted.
const MOST_TOLD: usize = 200;

/// What is wrong with keys of one range.
#[derive(Debug, Default)]
pub(super) struct Notes {
    told: BTreeMap<String, String>,
    /// Keys with something wrong that are not in `told`.
    untold: u64,
    /// Keys that are none of ours.
    junk: u64,
}

impl Notes {
    pub(super) fn listing(&mut self) {
        // Whatever is still so is found again.
        *self = Notes::default();
    }

    pub(super) fn tell(&mut self, name: &str, problem: String) {
        if self.told.len() < MOST_TOLD || self.told.contains_key(name) {
            let name = name.chars().take(300).collect();
            self.told.insert(name, problem);
        } else {
            self.untold += 1;
        }
    }

    pub(super) fn clear(&mut self, name: &str) {
        self.told.remove(name);
    }

    /// A key that is none of ours; `new` = it was not there before.
    pub(super) fn junk(&mut self, new: bool) {
        self.junk += u64::from(new);
    }

    pub(super) fn junk_gone(&mut self) {
        self.junk = self.junk.saturating_sub(1);
    }

    /// Adds all to `problems`, names with what they begin with in the store.
    pub(super) fn collect(&self, prefix: &str, problems: &mut BTreeMap<String, String>) {
        for (name, problem) in &self.told {
            problems.insert(format!("{prefix}{name}"), problem.clone());
        }
        if self.untold > 0 {
            problems.insert(format!("{prefix}…"), format!("{} more keys have something wrong", self.untold));
        }
        if self.junk > 0 {
            problems.insert(
                format!("{prefix}*"),
                format!("{} keys mean nothing here, and are ignored", self.junk),
            );
        }
    }
}
