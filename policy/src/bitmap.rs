//! Sets of small numbers (identities). Owned by whoever holds one; built on the control thread, read anywhere.

/// A set of numbers. What lies beyond its words is not in it, so that new numbers need no new bitmap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Bitmap(Vec<u64>);

impl Bitmap {
    pub(crate) fn contains(&self, n: u32) -> bool {
        self.0.get(n as usize / 64).is_some_and(|word| word >> (n % 64) & 1 == 1)
    }

    /// Puts a number in or out.
    pub(crate) fn set(&mut self, n: u32, present: bool) {
        let word = n as usize / 64;
        if word >= self.0.len() {
            if !present {
                return;
            }
            self.0.resize(word + 1, 0);
        }
        self.0[word] = self.0[word] & !(1 << (n % 64)) | u64::from(present) << (n % 64);
    }

    pub(crate) fn union(&mut self, other: &Bitmap) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    pub(crate) fn intersect(&mut self, other: &Bitmap) {
        self.0.truncate(other.0.len());
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= b);
    }

    pub(crate) fn subtract(&mut self, other: &Bitmap) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= !b);
    }

    /// The numbers, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().enumerate().flat_map(|(i, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < 64).then(|| i as u32 * 64 + bit)
            })
        })
    }
}

impl FromIterator<u32> for Bitmap {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut made = Bitmap::default();
        numbers.into_iter().for_each(|n| made.set(n, true));
        made
    }
}
