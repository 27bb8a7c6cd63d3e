//! The forwarding table: longest-prefix match for both families, immutable once built.
//!
//! Part of a snapshot; built by the control thread, read by every worker without a lock. The routes are flattened
//! into disjoint address ranges, sorted by their first address, each with the next hop of its most specific route.
//! A lookup is a search for the last range that starts at or before the address. IPv4 enters through a table of the
//! 65,536 /16 networks, which leaves the few ranges inside one /16 to search, most often one; IPv6 searches all of
//! its ranges. Memory is 12 bytes (IPv4) or 24 bytes (IPv6) a range, and n routes make at most 2n + 1 ranges.
//!
//! Never done here: allocation or a branch on attacker-chosen depth in `lookup`.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ipnet::IpNet;

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextHop {
    /// A local port, by its index in the snapshot.
    Port(u32),
    /// A peer node, by its index in the snapshot.
    Peer(u32),
    /// One of several peer nodes, equally good: a group, by its number in the snapshot.
    Group(u32),
    /// The host stack.
    Host,
    /// The switch itself: the gateway address.
    Gateway,
    /// Known and nowhere: pod ranges of our own without a pod.
    Blackhole,
}

/// The table. A clone is the same memory.
#[derive(Clone, Debug)]
pub struct Fib {
    routes: Arc<[(IpNet, NextHop)]>,
    /// For each /16, the index of the range that holds its first address; then the last range.
    chunk: Arc<[u32]>,
    start4: Arc<[u32]>,
    hop4: Arc<[Option<NextHop>]>,
    start6: Arc<[u128]>,
    hop6: Arc<[Option<NextHop>]>,
}

const MAPPED: u128 = 0xffff_0000_0000;

impl Default for Fib {
    fn default() -> Self {
        Self::build(&[])
    }
}

impl Fib {
    /// Builds the table. Bits behind a prefix length are ignored; of two routes with the same prefix the later wins.
    /// IPv6 prefixes never match IPv4 addresses, the IPv4-mapped range included.
    #[must_use]
    pub fn build(routes: &[(IpNet, NextHop)]) -> Self {
        let mut routes: Vec<(IpNet, NextHop)> = routes.iter().map(|(net, hop)| (net.trunc(), *hop)).collect();
        routes.sort_by_key(|(net, _)| *net);
        routes.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            kept.1 = if same { later.1 } else { kept.1 };
            same
        });
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (net, hop) in &routes {
            match net {
                IpNet::V4(net) => {
                    let span = (u128::from(net.network().to_bits()), u128::from(net.broadcast().to_bits()));
                    v4.push((span.0, span.1, *hop));
                }
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits(), *hop)),
            }
        }
        let (start4, hop4): (Vec<u32>, Vec<_>) =
            flatten(v4, u128::from(u32::MAX)).into_iter().map(|(start, hop)| (start as u32, hop)).unzip();
        let (start6, hop6): (Vec<u128>, Vec<_>) = flatten(v6, u128::MAX).into_iter().unzip();
        let mut chunk = Vec::with_capacity((1 << 16) + 1);
        let mut range = 0;
        for first in (0..1u32 << 16).map(|net| net << 16) {
            while start4.get(range + 1).is_some_and(|&next| next <= first) {
                range += 1;
            }
            chunk.push(range as u32);
        }
        chunk.push(start4.len() as u32 - 1);
        Self {
            routes: routes.into(),
            chunk: chunk.into(),
            start4: start4.into(),
            hop4: hop4.into(),
            start6: start6.into(),
            hop6: hop6.into(),
        }
    }

    /// The next hop of the longest prefix that holds `addr` (IPv4 as `::ffff:a.b.c.d`), or `None` without a route.
    #[inline]
    #[must_use]
    pub fn lookup(&self, addr: u128) -> Option<NextHop> {
        if addr >> 32 == MAPPED >> 32 {
            let addr = addr as u32;
            let net = (addr >> 16) as usize;
            let (low, high) = (self.chunk[net] as usize, self.chunk[net + 1] as usize);
            self.hop4[low + last_at_or_before(&self.start4[low..=high], addr)]
        } else {
            self.hop6[last_at_or_before(&self.start6, addr)]
        }
    }

    /// Every route once, sorted: IPv4 first, then by address and length.
    #[must_use]
    pub fn routes(&self) -> &[(IpNet, NextHop)] {
        &self.routes
    }
}

/// Index of the last of the sorted `starts` that is not above `addr`; the first one never is. Halves without a
/// branch that depends on the data.
#[inline]
fn last_at_or_before<T: Copy + PartialOrd>(starts: &[T], addr: T) -> usize {
    let (mut base, mut len) = (0, starts.len());
    while len > 1 {
        let half = len / 2;
        base += if starts[base + half] <= addr { half } else { 0 };
        len -= half;
    }
    base
}

/// Turns nested `(first, last, hop)` prefixes into disjoint ranges `(first, hop)` that cover `0..=max`.
fn flatten(mut prefixes: Vec<(u128, u128, NextHop)>, max: u128) -> Vec<(u128, Option<NextHop>)> {
    // Outer prefixes before the ones inside them.
    prefixes.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    let mut ranges = Vec::with_capacity(2 * prefixes.len() + 1);
    ranges.push((0, None));
    let mut open: Vec<(u128, NextHop)> = Vec::new();
    for (first, last, hop) in prefixes {
        close(&mut open, &mut ranges, |end| end < first, max);
        append(&mut ranges, first, Some(hop));
        open.push((last, hop));
    }
    close(&mut open, &mut ranges, |_| true, max);
    ranges
}

/// Ends the open prefixes, innermost first, whose last address `ends` says lies behind us.
fn close(
    open: &mut Vec<(u128, NextHop)>,
    ranges: &mut Vec<(u128, Option<NextHop>)>,
    ends: impl Fn(u128) -> bool,
    max: u128,
) {
    while let Some(&(end, _)) = open.last()
        && ends(end)
    {
        open.pop();
        if end < max {
            append(ranges, end + 1, open.last().map(|&(_, hop)| hop));
        }
    }
}

/// Starts a range at `first`, replacing an empty one and joining an equal neighbour.
fn append(ranges: &mut Vec<(u128, Option<NextHop>)>, first: u128, hop: Option<NextHop>) {
    if ranges.last().is_some_and(|&(start, _)| start == first) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|&(_, before)| before != hop) {
        ranges.push((first, hop));
    }
}
