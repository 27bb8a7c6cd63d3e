//! All that lies in the store, and what of it does not fit together.
//!
//! Of this node's pods its attachments say which there are. Of other nodes only addresses that vswitch gave are judged, by
//! the pods they publish: whether a Calico node's pods run cannot be seen from here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::block::{Attribute, Block, Owner};
use super::choose::PoolRange;
use super::keys::{AFFINITIES, BLOCKS, CONFIG, HANDLES, Name, affinity_key, block_key, handle_key, parse};
use super::record::{Affinity, Handle, Settings, State};
use super::store::KeyStore;
use super::time::parse_time;

/// An address of another node is not missed before its pod can have been published.
const GRACE: Duration = Duration::from_secs(60);

/// Everything there is.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The settings in force.
    pub settings: Settings,
    /// Blocks that can be read.
    pub blocks: BTreeMap<IpNet, Block>,
    /// Affinities by block and node.
    pub affinities: BTreeMap<(IpNet, String), State>,
    /// Handles.
    pub handles: BTreeMap<String, Handle>,
    /// Keys that cannot be read, and why.
    pub broken: BTreeMap<String, String>,
}

/// The same, with what the store's mirror knows of pods and pools.
#[derive(Debug, Clone, Default)]
pub struct Surveyed {
    /// Blocks, affinities, handles.
    pub survey: Survey,
    /// The pools there are, by name.
    pub pools: BTreeMap<String, PoolRange>,
    /// Addresses of pods as their nodes publish them, and whose they are.
    pub published: BTreeMap<IpAddr, String>,
}

/// What is known beside the store.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// This node.
    pub node: String,
    /// Handles of what is attached here, or about to be, and the addresses they are known to have.
    pub handles: BTreeMap<String, Vec<IpAddr>>,
    /// Addresses that other nodes' pods have, as they publish them, and whose.
    pub published: BTreeMap<IpAddr, String>,
    /// The pools' ranges.
    pub pools: Vec<IpNet>,
}

/// What does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum Problem {
    /// No pod has this address.
    Leaked {
        /// It.
        address: IpAddr,
        /// Its handle.
        handle: Option<String>,
        /// The node it was given on.
        node: Option<String>,
        /// The pod it was given to.
        pod: Option<String>,
        /// The block's sequence number at that moment.
        sequence: u64,
    },
    /// A pod that runs here has an address that the store has nobody or somebody else for.
    Missing {
        /// It.
        address: IpAddr,
        /// The pod's handle.
        handle: String,
    },
    /// A handle that says something else than the blocks.
    Handle {
        /// It.
        handle: String,
        /// A block that it names, or that names it.
        block: IpNet,
    },
    /// A node's affinity to a block that is not there, or not its.
    Affinity {
        /// The node.
        node: String,
        /// The block.
        block: IpNet,
    },
    /// A block of a node that has no affinity to it.
    Block {
        /// It.
        block: IpNet,
        /// The node.
        node: String,
    },
    /// A key that cannot be read.
    Broken {
        /// It.
        key: String,
    },
}

/// A problem in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong.
    #[serde(flatten)]
    pub problem: Problem,
    /// The same for people.
    pub detail: String,
}

impl Survey {
    /// Reads everything.
    ///
    /// # Errors
    /// The store's.
    pub async fn read<S: KeyStore>(store: &S) -> Result<Survey, S::Error> {
        let mut all = Survey::default();
        // Handles first: one that was made since then is not missed, and one that went is looked at again by repair.
        for prefix in [CONFIG, HANDLES, AFFINITIES, BLOCKS] {
            for entry in store.list(prefix, false).await? {
                all.add(entry.key, &entry.value);
            }
        }
        Ok(all)
    }

    fn add(&mut self, key: String, value: &[u8]) {
        let wrong = match parse(key.as_bytes()) {
            None => return,
            Some(Name::Config) => {
                Settings::parse(value).map(|s| self.settings = s).map_err(|e| e.to_string())
            }
            Some(Name::Block(cidr)) => Block::parse(&cidr, value)
                .map(|b| drop(self.blocks.insert(cidr, b)))
                .map_err(|e| e.to_string()),
            Some(Name::Affinity { node, block }) => Affinity::parse(value)
                .map(|a| {
                    self.affinities.insert((block, node), a.state);
                })
                .map_err(|e| e.to_string()),
            Some(Name::Handle(name)) => {
                Handle::parse(value).map(|h| drop(self.handles.insert(name, h))).map_err(|e| e.to_string())
            }
        };
        if let Err(why) = wrong {
            self.broken.insert(key, why);
        }
    }

    /// Every address that a handle has, with all that is known of it.
    pub fn held(&self) -> impl Iterator<Item = (IpAddr, &Block, Owner<'_>, &Attribute)> {
        self.blocks.values().flat_map(|block| {
            block.taken().filter_map(move |(addr, owner)| match owner {
                Owner::Held { .. } => Some((addr, block, owner, block.attribute_of(addr)?)),
                _ => None,
            })
        })
    }
}

/// What of it does not fit together, in a fixed order.
#[must_use]
pub fn survey(all: &Survey, known: &Known, now: SystemTime) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tell = |problem, detail| found.push(Finding { problem, detail });
    for (key, why) in &all.broken {
        tell(Problem::Broken { key: key.clone() }, format!("{key} cannot be read: {why}"));
    }
    // By handle: how many addresses of which block.
    let mut counts: BTreeMap<&str, BTreeMap<IpNet, i64>> = BTreeMap::new();
    for (address, block, owner, of) in all.held() {
        let Owner::Held { handle, node, sequence } = owner else { continue };
        if let Some(handle) = handle {
            *counts.entry(handle).or_default().entry(block.cidr()).or_default() += 1;
        }
        if let Some(why) = leaked(known, address, handle, node, of, now) {
            let pod = of.of.get("pod").map(|pod| match of.of.get("namespace") {
                Some(namespace) => format!("{namespace}/{pod}"),
                None => pod.clone(),
            });
            let whose = pod.as_ref().map_or(String::new(), |pod| format!(" (given to {pod})"));
            let problem = Problem::Leaked {
                address,
                handle: handle.map(str::to_owned),
                node: node.map(str::to_owned),
                pod,
                sequence,
            };
            tell(problem, format!("{address}{whose}: {why}"));
        }
    }
    for (handle, addrs) in &known.handles {
        for address in addrs {
            let block = all.blocks.values().find(|block| block.cidr().contains(address));
            let pooled = block.is_some() || known.pools.iter().any(|pool| pool.contains(address));
            let owner = block.and_then(|block| block.owner(*address));
            if pooled && !matches!(owner, Some(Owner::Held { handle: Some(h), .. }) if h == handle) {
                let detail = format!(
                    "{address} is attached to this node by handle {handle}, and the store does not say so"
                );
                tell(Problem::Missing { address: *address, handle: handle.clone() }, detail);
            }
        }
    }
    for (handle, record) in &all.handles {
        let has = counts.remove(handle.as_str()).unwrap_or_default();
        let says: BTreeSet<IpNet> = record.blocks().into_iter().collect();
        let differs =
            says.iter().find(|block| !has.contains_key(*block) && !unreadable(all, &block_key(block)));
        let differs = differs.or_else(|| has.keys().find(|block| !says.contains(*block)));
        let empty: Option<IpNet> = (says.is_empty() && has.is_empty()).then(IpNet::default);
        if let Some(block) = differs.copied().or(empty) {
            let detail = match has.is_empty() {
                true => format!("handle {handle} has no address"),
                false => format!("handle {handle} and block {block} contradict each other"),
            };
            tell(Problem::Handle { handle: handle.clone(), block }, detail);
        }
    }
    for (handle, has) in counts {
        if let Some(block) = has.keys().next()
            && !unreadable(all, &handle_key(handle))
        {
            let detail = format!("handle {handle} has an address of {block} and is not there itself");
            tell(Problem::Handle { handle: handle.to_owned(), block: *block }, detail);
        }
    }
    for (block, node) in all.affinities.keys() {
        let there = all.blocks.get(block);
        if there.is_none_or(|there| there.node() != Some(node)) && !unreadable(all, &block_key(block)) {
            let whose = match there {
                None => "is not there".to_owned(),
                Some(there) => {
                    format!("is {}", there.node().map_or("nobody's".to_owned(), |n| format!("{n}'s")))
                }
            };
            let detail = format!("node {node} has an affinity to block {block}, which {whose}");
            tell(Problem::Affinity { node: node.clone(), block: *block }, detail);
        }
    }
    for (cidr, block) in &all.blocks {
        if let Some(node) = block.node()
            && !all.affinities.contains_key(&(*cidr, node.to_owned()))
            && !unreadable(all, &affinity_key(node, cidr))
        {
            let detail = format!("block {cidr} is {node}'s, which has no affinity to it");
            tell(Problem::Block { block: *cidr, node: node.to_owned() }, detail);
        }
    }
    found
}

fn unreadable(all: &Survey, key: &str) -> bool {
    all.broken.contains_key(key)
}

/// Why nobody has an address, if nobody does.
fn leaked(
    known: &Known,
    address: IpAddr,
    handle: Option<&str>,
    node: Option<&str>,
    of: &Attribute,
    now: SystemTime,
) -> Option<&'static str> {
    // Tunnels' addresses are no pods'.
    if of.of.contains_key("type") {
        return None;
    }
    let node = node?;
    if node == known.node {
        let attached = handle.is_some_and(|handle| known.handles.contains_key(handle));
        return (!attached).then_some("nothing is attached to this node with its handle");
    }
    let given = of.of.get("timestamp").and_then(|text| parse_time(text));
    let settled = given.is_none_or(|at| now.duration_since(at).is_ok_and(|since| since >= GRACE));
    let ours = of.of.get(super::BY.0).is_some_and(|by| by == super::BY.1);
    let absent = known.published.get(&address).is_none_or(|by| by != node);
    (ours && settled && absent).then_some("its node publishes no pod that has it")
}
