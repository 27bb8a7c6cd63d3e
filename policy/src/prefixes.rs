//! Longest prefix match over many prefixes, with the chain of shorter prefixes that also contain the address.
//!
//! The prefixes are laid out as disjoint spans of addresses, one sorted array a family: a lookup is one binary
//! search, however deep they nest. IPv4 and IPv6 do not mix: `::/0` contains no IPv4 address. Immutable once built.

use ipnet::IpNet;

use crate::addr;

#[cfg(test)]
mod tests;

/// Marks "no prefix".
const NONE: u32 = u32::MAX;
/// With this many spans of IPv4 the search begins at the upper 16 bits.
const MANY: usize = 4096;

/// A set of prefixes, each with a number: its place in the list it was built from, which has no duplicates.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    /// Where a span begins, and the longest prefix that contains it.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u32)]>,
    /// How many spans of IPv4 begin before each value of the upper 16 bits; empty where there are few.
    before: Box<[u32]>,
    /// The next shorter prefix that contains this one.
    parents: Box<[u32]>,
}

impl Prefixes {
    /// Builds from prefixes that are all different (truncated to their network).
    pub(crate) fn build(nets: &[IpNet]) -> Prefixes {
        let mut order: Vec<(bool, u128, u128, u32)> = nets
            .iter()
            .enumerate()
            .map(|(i, net)| {
                let (first, last, v4) = addr::range(net);
                (v4, first, !last, i as u32)
            })
            .collect();
        // Among prefixes with one beginning the widest comes first.
        order.sort_unstable();
        let mut parents = vec![NONE; nets.len()].into_boxed_slice();
        let mut spans = [Vec::new(), Vec::new()];
        for v4 in [false, true] {
            let spans = &mut spans[usize::from(v4)];
            let end = if v4 { 0xffff_ffff_ffff } else { u128::MAX };
            let mut open: Vec<(u128, u32)> = Vec::new();
            for (_, first, last, i) in order.iter().filter(|o| o.0 == v4).map(|o| (o.0, o.1, !o.2, o.3)) {
                close(spans, &mut open, Some(first), end);
                parents[i as usize] = open.last().map_or(NONE, |o| o.1);
                open.push((last, i));
                begin(spans, first, i);
            }
            close(spans, &mut open, None, end);
        }
        let [v6, v4] = spans;
        let v4: Box<[(u32, u32)]> = v4.into_iter().map(|(start, i)| (start as u32, i)).collect();
        let count = |upper: u32| v4.partition_point(|(start, _)| start >> 16 < upper) as u32;
        let before = if v4.len() < MANY { Box::default() } else { (0..=1 << 16).map(count).collect() };
        Prefixes { v4, v6: v6.into(), before, parents }
    }

    /// Has it no prefix?
    pub(crate) fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    /// The prefixes that contain the address, longest first.
    pub(crate) fn containing(&self, a: u128) -> impl Iterator<Item = u32> + '_ {
        let deepest = if addr::is_v4(a) { self.deepest_v4(a as u32) } else { last_at_most(&self.v6, a) };
        self.chain(deepest)
    }

    fn deepest_v4(&self, a: u32) -> u32 {
        let upper = (a >> 16) as usize;
        let Some([from, to]) = self.before.get(upper..upper + 2) else { return last_at_most(&self.v4, a) };
        // The span that begins last before these is the one that reaches into them.
        last_at_most(&self.v4[(*from as usize).saturating_sub(1)..*to as usize], a)
    }

    /// This prefix and those that contain it, longest first.
    pub(crate) fn chain(&self, from: u32) -> impl Iterator<Item = u32> + '_ {
        let mut at = from;
        std::iter::from_fn(move || {
            let found = at;
            at = *self.parents.get(found as usize)?;
            Some(found)
        })
    }

    /// The longest prefix that contains the address.
    pub(crate) fn longest(&self, a: u128) -> Option<u32> {
        self.containing(a).next()
    }
}

fn last_at_most<K: Ord + Copy>(spans: &[(K, u32)], key: K) -> u32 {
    match spans.partition_point(|(start, _)| *start <= key) {
        0 => NONE,
        i => spans[i - 1].1,
    }
}

fn begin(spans: &mut Vec<(u128, u32)>, start: u128, prefix: u32) {
    match spans.last_mut() {
        Some(last) if last.0 == start => last.1 = prefix,
        _ => spans.push((start, prefix)),
    }
}

/// Ends the open prefixes that lie wholly before `until`. `end` is the family's last address.
fn close(spans: &mut Vec<(u128, u32)>, open: &mut Vec<(u128, u32)>, until: Option<u128>, end: u128) {
    while let Some((last, _)) = open.last().copied().filter(|(last, _)| until.is_none_or(|u| *last < u)) {
        open.pop();
        if last != end {
            begin(spans, last + 1, open.last().map_or(NONE, |o| o.1));
        }
    }
}
