//! Which node has which part of the pools: what is routed where.
//!
//! A block is its node's while the node's affinity to it is confirmed and the block says the same; an address that another
//! node borrowed of it is that node's alone. Pure; kept up to date key by key.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::block::{Block, Owner};
use super::keys::{Name, parse};
use super::record::{Affinity, State};

/// Most blocks and affinities that are kept; more than these are told of.
const MOST: usize = 1 << 17;

/// By node, in order: its blocks, and single addresses of others' blocks.
pub type Routes = BTreeMap<String, Vec<IpNet>>;

/// What blocks and affinities say.
#[derive(Debug, Default)]
pub struct Table {
    blocks: BTreeMap<IpNet, Part>,
    affinities: BTreeSet<(IpNet, String)>,
    problems: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Part {
    node: Option<String>,
    /// Addresses of pods of other nodes.
    borrowed: Vec<(IpAddr, String)>,
}

impl Table {
    /// A key was written; true when that may change a route.
    pub fn put(&mut self, key: &str, value: &[u8]) -> bool {
        let problem = match parse(key.as_bytes()) {
            Some(Name::Block(cidr)) => match Block::parse(&cidr, value) {
                Ok(block) if self.blocks.len() < MOST || self.blocks.contains_key(&cidr) => {
                    self.problems.remove(key);
                    let part = part(&block);
                    let same = self.blocks.get(&cidr) == Some(&part);
                    self.blocks.insert(cidr, part);
                    return !same;
                }
                Ok(_) => format!("it is ignored: there are more than {MOST} blocks"),
                // What it said before stays in force.
                Err(err) => err.to_string(),
            },
            Some(Name::Affinity { node, block }) => match Affinity::parse(value) {
                Ok(affinity) => {
                    self.problems.remove(key);
                    if affinity.state == State::Confirmed && self.affinities.len() < MOST {
                        return self.affinities.insert((block, node));
                    }
                    return self.affinities.remove(&(block, node));
                }
                Err(err) => err.to_string(),
            },
            Some(_) => return false,
            None => "the key names no block".to_owned(),
        };
        if self.problems.len() < 200 {
            self.problems.insert(key.chars().take(300).collect(), problem);
        }
        false
    }

    /// A key is gone; true when that may change a route.
    pub fn delete(&mut self, key: &str) -> bool {
        self.problems.remove(key);
        match parse(key.as_bytes()) {
            Some(Name::Block(cidr)) => self.blocks.remove(&cidr).is_some(),
            Some(Name::Affinity { node, block }) => self.affinities.remove(&(block, node)),
            _ => false,
        }
    }

    /// Drops what a whole list of keys that begin with `prefix` did not have.
    pub fn keep_only(&mut self, prefix: &str, seen: &BTreeSet<String>) {
        self.problems.retain(|key, _| !key.starts_with(prefix) || seen.contains(key));
        if prefix == super::BLOCKS {
            self.blocks.retain(|cidr, _| seen.contains(&super::block_key(cidr)));
        } else {
            self.affinities.retain(|(cidr, node)| seen.contains(&super::affinity_key(node, cidr)));
        }
    }

    /// Which node has which part of `pools`, and what is wrong with keys.
    #[must_use]
    pub fn routes(&self, pools: &[IpNet]) -> (Routes, BTreeMap<String, String>) {
        let (mut routes, mut problems) = (Routes::new(), self.problems.clone());
        for (cidr, part) in &self.blocks {
            if !pools.iter().any(|pool| pool.contains(cidr)) {
                if problems.len() < 200 {
                    let key = super::block_key(cidr);
                    problems.insert(key, "it is in no usable IPPool, and is not routed".to_owned());
                }
                continue;
            }
            if let Some(node) = &part.node
                && self.affinities.contains(&(*cidr, node.clone()))
            {
                routes.entry(node.clone()).or_default().push(*cidr);
            }
            for (addr, node) in &part.borrowed {
                routes.entry(node.clone()).or_default().push(IpNet::from(*addr));
            }
        }
        for nets in routes.values_mut() {
            nets.sort_unstable();
        }
        (routes, problems)
    }
}

fn part(block: &Block) -> Part {
    let node = block.node().map(str::to_owned);
    let borrowed = block.taken().filter_map(|(addr, owner)| match owner {
        Owner::Held { node: Some(of), .. } if block.node() != Some(of) => Some((addr, of.to_owned())),
        _ => None,
    });
    Part { borrowed: borrowed.collect(), node }
}
