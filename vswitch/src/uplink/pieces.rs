//! Cutting single datagrams out of a train's pieces, without copying.

use std::io::IoSlice;

/// Where in a train's pieces the next datagram begins.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    parts: &'a [IoSlice<'a>],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// At the first byte.
    pub(super) fn new(parts: &'a [IoSlice<'a>]) -> Self {
        Self { parts, at: 0 }
    }

    /// Moves past the next `bytes` bytes and puts them into `pieces`, as many as it takes; `None` when they do not
    /// fit there.
    pub(super) fn take(&mut self, mut bytes: usize, pieces: &mut [IoSlice<'a>]) -> Option<usize> {
        let mut count = 0;
        while bytes > 0
            && let Some((part, rest)) = self.parts.split_first()
        {
            let part: &'a [u8] = part;
            let left = &part[self.at..];
            let now = left.len().min(bytes);
            if now > 0 {
                if let Some(piece) = pieces.get_mut(count) {
                    *piece = IoSlice::new(&left[..now]);
                }
                count += 1;
            }
            bytes -= now;
            self.at += now;
            if self.at == part.len() {
                (self.parts, self.at) = (rest, 0);
            }
        }
        (count <= pieces.len()).then_some(count)
    }
}
