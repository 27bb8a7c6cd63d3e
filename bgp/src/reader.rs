//! A cursor over bytes off the wire. Every read is total: too few bytes give `None` and take nothing.

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All that is left; the cursor stands at the end afterwards.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A field of bytes behind its length in one byte.
    pub(crate) fn field8(&mut self) -> Option<Reader<'a>> {
        let mut ahead = *self;
        let length = ahead.u8()?;
        let field = ahead.take(usize::from(length))?;
        *self = ahead;
        Some(Reader(field))
    }

    /// A field of bytes behind its length in two bytes.
    pub(crate) fn field16(&mut self) -> Option<Reader<'a>> {
        let mut ahead = *self;
        let length = ahead.u16()?;
        let field = ahead.take(usize::from(length))?;
        *self = ahead;
        Some(Reader(field))
    }
}
