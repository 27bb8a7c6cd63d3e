//! One copy of each attribute set: a full table has a hundred times fewer of them than routes.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Hands out the one shared copy of a value.
///
/// Copies nobody else holds go away in sweeps, each after as many new values as the last one left: memory is at most
/// twice what is in use, and a sweep costs a constant per new value.
#[derive(Debug)]
pub struct Interner<T> {
    known: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: Eq + Hash> Default for Interner<T> {
    fn default() -> Interner<T> {
        Interner { known: HashSet::new(), sweep_at: 1024 }
    }
}

impl<T: Eq + Hash> Interner<T> {
    /// The shared copy of this value.
    pub fn intern(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.known.get(&value) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = (2 * self.known.len()).max(1024);
        }
        let shared = Arc::new(value);
        self.known.insert(Arc::clone(&shared));
        shared
    }

    /// How many different values are held, those not yet swept included.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Is none held?
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_copy() {
        let mut interner = Interner::default();
        let (a, b) = (interner.intern("x".to_owned()), interner.intern("x".to_owned()));
        assert!(Arc::ptr_eq(&a, &b));
        assert_eq!(interner.len(), 1);
    }

    #[test]
    fn what_nobody_holds_does_not_pile_up() {
        let mut interner = Interner::default();
        let held: Vec<_> = (0..10).map(|i| interner.intern(i)).collect();
        for i in 0..100_000 {
            interner.intern(i);
        }
        assert!(interner.len() <= 2048, "{}", interner.len());
        assert!(held.iter().all(|h| Arc::ptr_eq(h, &interner.intern(**h))), "what is held stays shared");
    }
}
