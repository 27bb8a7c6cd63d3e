//! The node's own address allocator: one address of each family for an attachment, out of the node's pod ranges.
//!
//! Owned by the daemon's control thread; no I/O. What must survive a restart is in the attachments' files
//! ([`crate::attachments`]), from which [`Ipam::restore`] rebuilds this table.
//!
//! Of each range the network address and the one after it (the gateway of those who look for one there) are never
//! given out, nor is the IPv4 broadcast address. Addresses go round: one that was released comes up again only after
//! the rest of its range, so that a peer's stale state does not meet a new pod.

mod runs;

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::AttachmentId;
use runs::Runs;

/// Why no address was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// The attachment holds addresses already.
    #[error("{owner} holds addresses already")]
    Held {
        /// The attachment.
        owner: AttachmentId,
    },
    /// All ranges of a family are used up.
    #[error("no {family} address is left in {ranges}")]
    Exhausted {
        /// The family.
        family: Family,
        /// Its ranges, joined by commas.
        ranges: Ranges,
    },
    /// A requested address belongs to somebody else.
    #[error("address {addr} belongs to {owner}")]
    Taken {
        /// The address.
        addr: IpAddr,
        /// Its holder.
        owner: AttachmentId,
    },
    /// A requested address is in none of the node's ranges.
    #[error("address {addr} is outside this node's pod ranges")]
    Outside {
        /// The address.
        addr: IpAddr,
    },
    /// A requested address is never given to a pod.
    #[error("address {addr} is reserved (network, gateway or broadcast address of its range)")]
    Reserved {
        /// The address.
        addr: IpAddr,
    },
    /// Two addresses of one family were requested.
    #[error("two {family} addresses were requested; a pod has one of each family")]
    Twice {
        /// The family.
        family: Family,
    },
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(addr: IpAddr) -> Family {
        if addr.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Ranges, displayed joined by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges(pub Vec<IpNet>);

impl std::fmt::Display for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, net) in self.0.iter().enumerate() {
            write!(f, "{}{net}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The addresses of a range that pods may have; none when the range is too small to hold one.
pub fn usable(net: IpNet) -> Option<(IpAddr, IpAddr)> {
    let (first, last) = bounds(net)?;
    Some((to_ip(first, Family::of(net.addr())), to_ip(last, Family::of(net.addr()))))
}

fn bounds(net: IpNet) -> Option<(u128, u128)> {
    let first = number(net.network()).checked_add(2)?;
    let last = match net {
        IpNet::V4(v4) => number(v4.broadcast().into()).checked_sub(1)?,
        IpNet::V6(v6) => number(v6.broadcast().into()),
    };
    (first <= last).then_some((first, last))
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn to_ip(n: u128, family: Family) -> IpAddr {
    match family {
        // A V4 number came from 32 bits, so nothing is cut off.
        Family::V4 => IpAddr::V4((n as u32).into()),
        Family::V6 => IpAddr::V6(n.into()),
    }
}

/// One pod range.
#[derive(Debug)]
struct Range {
    net: IpNet,
    first: u128,
    last: u128,
    /// Where the search begins: one past the address given last.
    next: u128,
    used: Runs,
}

impl Range {
    fn find(&self) -> Option<u128> {
        self.used.first_free(self.next, self.last).or_else(|| self.used.first_free(self.first, self.last))
    }

    fn advance(&mut self, past: u128) {
        self.next = if past >= self.last { self.first } else { past + 1 };
    }
}

/// The allocator.
#[derive(Debug, Default)]
pub struct Ipam {
    ranges: Vec<Range>,
    holders: HashMap<IpAddr, AttachmentId>,
    held: HashMap<AttachmentId, Vec<IpAddr>>,
}

impl Ipam {
    /// An allocator over the node's own ranges, which [`crate::config`] has checked: disjoint, host bits clear. A range
    /// too small for a pod gives none.
    pub fn new(pod_cidrs: &[IpNet]) -> Ipam {
        let ranges = pod_cidrs
            .iter()
            .filter_map(|&net| {
                let (first, last) = bounds(net)?;
                Some(Range { net, first, last, next: first, used: Runs::default() })
            })
            .collect();
        Ipam { ranges, holders: HashMap::new(), held: HashMap::new() }
    }

    /// Gives `owner` one address of each family there are ranges of, the requested one where one is requested.
    /// All or nothing. IPv4 first.
    ///
    /// # Errors
    /// See [`IpamError`]; nothing was given then.
    pub fn allocate(&mut self, owner: &AttachmentId, requested: &[IpAddr]) -> Result<Vec<IpAddr>, IpamError> {
        if self.held.contains_key(owner) {
            return Err(IpamError::Held { owner: owner.clone() });
        }
        for &addr in requested {
            self.check_requested(addr)?;
        }
        let mut chosen = Vec::with_capacity(2);
        for family in [Family::V4, Family::V6] {
            let mut wishes = requested.iter().filter(|addr| Family::of(**addr) == family);
            let wish = wishes.next();
            if wishes.next().is_some() {
                return Err(IpamError::Twice { family });
            }
            match wish {
                Some(&addr) => chosen.push(addr),
                None => chosen.extend(self.next_free(family)?),
            }
        }
        for &addr in &chosen {
            let n = number(addr);
            if let Some(range) = self.range_of(addr) {
                range.used.insert(n);
                range.advance(n);
            }
            self.holders.insert(addr, owner.clone());
        }
        self.held.insert(owner.clone(), chosen.clone());
        Ok(chosen)
    }

    /// Takes back what `owner` holds; nothing when it holds nothing.
    pub fn release(&mut self, owner: &AttachmentId) -> Vec<IpAddr> {
        let addrs = self.held.remove(owner).unwrap_or_default();
        for &addr in &addrs {
            self.holders.remove(&addr);
            if let Some(range) = self.range_of(addr) {
                range.used.remove(number(addr));
            }
        }
        addrs
    }

    /// Records what an attachment of an earlier run holds. An address outside today's ranges stays its owner's too:
    /// changing the configuration takes no pod's address away.
    ///
    /// # Errors
    /// [`IpamError::Taken`] by another, [`IpamError::Held`] when `owner` was recorded before. Nothing was recorded then.
    pub fn restore(&mut self, owner: &AttachmentId, addrs: &[IpAddr]) -> Result<(), IpamError> {
        if self.held.contains_key(owner) {
            return Err(IpamError::Held { owner: owner.clone() });
        }
        for addr in addrs {
            if let Some(other) = self.holders.get(addr) {
                return Err(IpamError::Taken { addr: *addr, owner: other.clone() });
            }
        }
        for &addr in addrs {
            let n = number(addr);
            if let Some(range) = self.range_of(addr) {
                range.used.insert(n);
                if n >= range.next {
                    range.advance(n);
                }
            }
            self.holders.insert(addr, owner.clone());
        }
        self.held.insert(owner.clone(), addrs.to_vec());
        Ok(())
    }

    /// Who holds an address.
    pub fn holder(&self, addr: IpAddr) -> Option<&AttachmentId> {
        self.holders.get(&addr)
    }

    /// What an attachment holds.
    pub fn held(&self, owner: &AttachmentId) -> &[IpAddr] {
        self.held.get(owner).map_or(&[], Vec::as_slice)
    }

    /// Addresses held.
    pub fn used(&self) -> u64 {
        u64::try_from(self.holders.len()).unwrap_or(u64::MAX)
    }

    /// Addresses that could be held; saturates for large IPv6 ranges.
    pub fn total(&self) -> u64 {
        let sum =
            self.ranges.iter().fold(0u128, |sum, r| sum.saturating_add((r.last - r.first).saturating_add(1)));
        u64::try_from(sum).unwrap_or(u64::MAX)
    }

    fn range_of(&mut self, addr: IpAddr) -> Option<&mut Range> {
        let n = number(addr);
        self.ranges.iter_mut().find(|r| r.net.contains(&addr) && (r.first..=r.last).contains(&n))
    }

    fn check_requested(&self, addr: IpAddr) -> Result<(), IpamError> {
        let range = self.ranges.iter().find(|r| r.net.contains(&addr)).ok_or(IpamError::Outside { addr })?;
        if !(range.first..=range.last).contains(&number(addr)) {
            return Err(IpamError::Reserved { addr });
        }
        match self.holders.get(&addr) {
            Some(owner) => Err(IpamError::Taken { addr, owner: owner.clone() }),
            None => Ok(()),
        }
    }

    /// `None` when the node has no range of the family.
    fn next_free(&self, family: Family) -> Result<Option<IpAddr>, IpamError> {
        let mut ranges = self.ranges.iter().filter(|r| Family::of(r.net.addr()) == family).peekable();
        if ranges.peek().is_none() {
            return Ok(None);
        }
        match ranges.find_map(Range::find) {
            Some(n) => Ok(Some(to_ip(n, family))),
            None => {
                let ranges = self
                    .ranges
                    .iter()
                    .map(|r| r.net)
                    .filter(|net| Family::of(net.addr()) == family)
                    .collect();
                Err(IpamError::Exhausted { family, ranges: Ranges(ranges) })
            }
        }
    }
}

#[cfg(test)]
mod tests;
