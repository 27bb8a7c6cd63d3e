//! A set of numbers kept as runs of neighbours, so that the first free one is found without walking the used ones.

use std::collections::BTreeMap;

/// Disjoint, non-adjacent runs: first number to last number.
#[derive(Debug, Default)]
pub(super) struct Runs(BTreeMap<u128, u128>);

impl Runs {
    fn run_of(&self, n: u128) -> Option<(u128, u128)> {
        self.0.range(..=n).next_back().map(|(&a, &b)| (a, b)).filter(|&(_, last)| n <= last)
    }

    /// The least number of `from..=to` that is not in the set.
    pub(super) fn first_free(&self, from: u128, to: u128) -> Option<u128> {
        let free = match self.run_of(from) {
            Some((_, last)) => last.checked_add(1)?,
            None => from,
        };
        (free <= to).then_some(free)
    }

    /// Adds a number; no change when it is in the set.
    pub(super) fn insert(&mut self, n: u128) {
        if self.run_of(n).is_some() {
            return;
        }
        let mut run = (n, n);
        if let Some((first, _)) = n.checked_sub(1).and_then(|below| self.run_of(below)) {
            run.0 = first;
        }
        if let Some(above) = n.checked_add(1)
            && let Some(last) = self.0.remove(&above)
        {
            run.1 = last;
        }
        self.0.insert(run.0, run.1);
    }

    /// Takes a number out; no change when it is not in the set.
    pub(super) fn remove(&mut self, n: u128) {
        let Some((first, last)) = self.run_of(n) else { return };
        self.0.remove(&first);
        if first < n {
            self.0.insert(first, n - 1);
        }
        if n < last {
            self.0.insert(n + 1, last);
        }
    }
}
