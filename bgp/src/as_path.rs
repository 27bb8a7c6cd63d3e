//! AS_PATH: the autonomous systems a route came through (RFC 4271 section 4.3 b, 4-octet numbers of RFC 6793).

use crate::reader::Reader;

#[cfg(test)]
mod tests;

/// Stands for a 4-octet number where only two octets fit (RFC 6793 section 9).
pub const AS_TRANS: u16 = 23_456;

/// How the numbers of a segment are meant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SegmentKind {
    /// Unordered: what an aggregate was made of. Counts as one.
    Set = 1,
    /// Ordered, the nearest first.
    Sequence = 2,
}

/// A run of AS numbers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Segment {
    /// Ordered or not.
    pub kind: SegmentKind,
    /// The numbers, at least one.
    pub numbers: Box<[u32]>,
}

/// The path; empty for a route of our own AS.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct AsPath {
    segments: Vec<Segment>,
}

/// Why a path is malformed (RFC 7606 section 7.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AsPathError {
    /// A segment runs over the attribute's end, or its header does not fit.
    #[error("a segment runs over the end")]
    Overrun,
    /// Neither set nor sequence. Segments of confederations (RFC 5065) have no place here either.
    #[error("segment type {0}")]
    Kind(u8),
    /// A segment without numbers.
    #[error("an empty segment")]
    Empty,
    /// AS 0 (RFC 7607).
    #[error("AS 0")]
    Zero,
}

impl AsPath {
    /// A path of one sequence.
    pub fn sequence(numbers: &[u32]) -> AsPath {
        let segments = numbers
            .chunks(255)
            .map(|numbers| Segment { kind: SegmentKind::Sequence, numbers: numbers.into() })
            .collect();
        AsPath { segments }
    }

    /// Its segments, the nearest first.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Did the route start in our own AS?
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The length that routes are compared by: a set counts as one (RFC 4271 section 9.1.2.2 a).
    pub fn length(&self) -> usize {
        self.segments.iter().map(|s| if s.kind == SegmentKind::Set { 1 } else { s.numbers.len() }).sum()
    }

    /// Every number, the nearest first.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.segments.iter().flat_map(|segment| segment.numbers.iter().copied())
    }

    /// The AS the route was received from: the first number, if the path begins with a sequence.
    pub fn neighbor(&self) -> Option<u32> {
        let first = self.segments.first().filter(|s| s.kind == SegmentKind::Sequence)?;
        first.numbers.first().copied()
    }

    /// The AS the route started in: the last number, if the path ends with a sequence.
    pub fn origin(&self) -> Option<u32> {
        let last = self.segments.last().filter(|s| s.kind == SegmentKind::Sequence)?;
        last.numbers.last().copied()
    }

    /// Puts an AS in front, `times` times (RFC 4271 section 5.1.2).
    pub fn prepend(&mut self, asn: u32, times: u8) {
        let mut left = usize::from(times);
        if let Some(first) = self.segments.first_mut().filter(|s| s.kind == SegmentKind::Sequence) {
            let fits = left.min(255_usize.saturating_sub(first.numbers.len()));
            first.numbers = std::iter::repeat_n(asn, fits).chain(first.numbers.iter().copied()).collect();
            left -= fits;
        }
        if left > 0 {
            let numbers = vec![asn; left].into();
            self.segments.insert(0, Segment { kind: SegmentKind::Sequence, numbers });
        }
    }

    /// Reads the attribute's value; `wide` where numbers have four octets.
    pub(crate) fn parse(mut value: Reader<'_>, wide: bool) -> Result<AsPath, AsPathError> {
        let mut segments = Vec::new();
        while !value.is_empty() {
            let kind = match value.u8().ok_or(AsPathError::Overrun)? {
                1 => SegmentKind::Set,
                2 => SegmentKind::Sequence,
                other => return Err(AsPathError::Kind(other)),
            };
            let count = usize::from(value.u8().ok_or(AsPathError::Overrun)?);
            if count == 0 {
                return Err(AsPathError::Empty);
            }
            let size = if wide { 4 } else { 2 };
            let mut bytes = Reader::new(value.take(count * size).ok_or(AsPathError::Overrun)?);
            let next = |_| if wide { bytes.u32() } else { bytes.u16().map(u32::from) };
            let numbers: Box<[u32]> = (0..count).map_while(next).collect();
            if numbers.contains(&0) {
                return Err(AsPathError::Zero);
            }
            segments.push(Segment { kind, numbers });
        }
        Ok(AsPath { segments })
    }

    /// Writes the attribute's value. Numbers that do not fit into two octets become [`AS_TRANS`].
    pub(crate) fn emit(&self, wide: bool, out: &mut Vec<u8>) {
        for segment in &self.segments {
            for numbers in segment.numbers.chunks(255) {
                out.push(segment.kind as u8);
                out.push(u8::try_from(numbers.len()).unwrap_or(u8::MAX));
                for number in numbers {
                    if wide {
                        out.extend(number.to_be_bytes());
                    } else {
                        out.extend(u16::try_from(*number).unwrap_or(AS_TRANS).to_be_bytes());
                    }
                }
            }
        }
    }

    /// Does a number need four octets?
    pub(crate) fn is_wide(&self) -> bool {
        self.numbers().any(|number| number > u32::from(u16::MAX))
    }

    /// The true path, from what a two-octet speaker passed on in AS_PATH and AS4_PATH: the front of the one before the
    /// other (RFC 6793 section 4.2.3). A longer AS4_PATH is not to be believed.
    pub(crate) fn merge(self, four: &AsPath) -> AsPath {
        let Some(mut missing) = self.length().checked_sub(four.length()) else { return self };
        let mut segments = Vec::new();
        for segment in self.segments {
            let counts = if segment.kind == SegmentKind::Set { 1 } else { segment.numbers.len() };
            if missing == 0 {
                break;
            } else if counts <= missing {
                missing -= counts;
                segments.push(segment);
            } else {
                let numbers = segment.numbers.iter().take(missing).copied().collect();
                segments.push(Segment { kind: segment.kind, numbers });
                missing = 0;
            }
        }
        for segment in &four.segments {
            match segments.last_mut() {
                // One sequence that two speakers cut in two is one sequence again.
                Some(last)
                    if last.kind == SegmentKind::Sequence
                        && segment.kind == SegmentKind::Sequence
                        && last.numbers.len() + segment.numbers.len() <= 255 =>
                {
                    last.numbers = last.numbers.iter().chain(&segment.numbers).copied().collect();
                }
                _ => segments.push(segment.clone()),
            }
        }
        AsPath { segments }
    }
}

/// As looking glasses print it: `64512 65001 {65002,65003}`.
impl std::fmt::Display for AsPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, segment) in self.segments.iter().enumerate() {
            let (open, between, close) = match segment.kind {
                SegmentKind::Set => ("{", ",", "}"),
                SegmentKind::Sequence => ("", " ", ""),
            };
            f.write_str(if i == 0 { open } else { " " })?;
            f.write_str(if i == 0 { "" } else { open })?;
            for (i, number) in segment.numbers.iter().enumerate() {
                write!(f, "{}{number}", if i == 0 { "" } else { between })?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}
