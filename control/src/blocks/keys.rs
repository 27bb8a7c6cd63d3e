//! The keys, as Calico names them: an IPv6 range keeps its colons, the slash before the length is a hyphen.

use ipnet::IpNet;

/// All of them.
pub const PREFIX: &str = "/calico/ipam/v2/";
/// What blocks' keys begin with.
pub const BLOCKS: &str = "/calico/ipam/v2/assignment/";
/// What affinities' keys begin with.
pub const AFFINITIES: &str = "/calico/ipam/v2/host/";
/// What handles' keys begin with.
pub const HANDLES: &str = "/calico/ipam/v2/handle/";
/// The settings.
pub const CONFIG: &str = "/calico/ipam/v2/config";

/// Longest node name or handle that is read, in bytes.
const MOST_NAME: usize = 512;

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A block.
    Block(IpNet),
    /// A node's affinity to a block.
    Affinity {
        /// The node.
        node: String,
        /// The block.
        block: IpNet,
    },
    /// A handle.
    Handle(String),
    /// The settings.
    Config,
}

fn version(net: &IpNet) -> u8 {
    if net.addr().is_ipv4() { 4 } else { 6 }
}

fn range(net: &IpNet) -> String {
    format!("{}-{}", net.network(), net.prefix_len())
}

/// The key of a block.
#[must_use]
pub fn block_key(block: &IpNet) -> String {
    format!("{BLOCKS}ipv{}/block/{}", version(block), range(block))
}

/// The key of a node's affinity to a block.
#[must_use]
pub fn affinity_key(node: &str, block: &IpNet) -> String {
    format!("{}{}", affinities_of(node, block.addr().is_ipv6()), range(block))
}

/// What the keys of a node's affinities of one family begin with.
pub(super) fn affinities_of(node: &str, v6: bool) -> String {
    format!("{AFFINITIES}{node}/ipv{}/block/", if v6 { 6 } else { 4 })
}

/// What the keys of all blocks of one family begin with.
pub(super) fn blocks_of(v6: bool) -> String {
    format!("{BLOCKS}ipv{}/block/", if v6 { 6 } else { 4 })
}

/// The key of a handle.
#[must_use]
pub fn handle_key(handle: &str) -> String {
    format!("{HANDLES}{handle}")
}

/// What a key names; none for what nobody here writes. Only the spelling that the functions above give is one.
#[must_use]
pub fn parse(key: &[u8]) -> Option<Name> {
    let key = std::str::from_utf8(key).ok()?;
    let net = |text: &str| -> Option<IpNet> {
        let (addr, len) = text.rsplit_once('-')?;
        let net = IpNet::new(addr.parse().ok()?, len.parse().ok()?).ok()?;
        (net.network() == net.addr()).then_some(net)
    };
    let name = if key == CONFIG {
        Name::Config
    } else if let Some(rest) = key.strip_prefix(HANDLES) {
        Name::Handle(rest.to_owned())
    } else if let Some(rest) = key.strip_prefix(BLOCKS) {
        Name::Block(net(rest.split('/').next_back()?)?)
    } else {
        let (node, rest) = key.strip_prefix(AFFINITIES)?.split_once('/')?;
        Name::Affinity { node: node.to_owned(), block: net(rest.split('/').next_back()?)? }
    };
    let good = match &name {
        Name::Config => true,
        Name::Block(block) => block_key(block) == key,
        Name::Handle(handle) => (1..=MOST_NAME).contains(&handle.len()) && !handle.contains('/'),
        Name::Affinity { node, block } => {
            (1..=MOST_NAME).contains(&node.len()) && affinity_key(node, block) == key
        }
    };
    good.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_calico() {
        let (v4, v6): (IpNet, IpNet) = ("10.0.0.64/26".parse().unwrap(), "fd00:10::40/122".parse().unwrap());
        for (key, name) in [
            ("/calico/ipam/v2/assignment/ipv4/block/10.0.0.64-26", Name::Block(v4)),
            ("/calico/ipam/v2/assignment/ipv6/block/fd00:10::40-122", Name::Block(v6)),
            (
                "/calico/ipam/v2/host/n1.a/ipv4/block/10.0.0.64-26",
                Name::Affinity { node: "n1.a".into(), block: v4 },
            ),
            ("/calico/ipam/v2/handle/k8s-pod-network.abc", Name::Handle("k8s-pod-network.abc".into())),
            ("/calico/ipam/v2/config", Name::Config),
        ] {
            assert_eq!(parse(key.as_bytes()), Some(name.clone()), "{key}");
            let made = match name {
                Name::Block(net) => block_key(&net),
                Name::Affinity { node, block } => affinity_key(&node, &block),
                Name::Handle(handle) => handle_key(&handle),
                Name::Config => CONFIG.to_owned(),
            };
            assert_eq!(made, key);
        }
        for bad in [
            "/calico/ipam/v2/assignment/ipv6/block/10.0.0.64-26",
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.65-26",
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-33",
            "/calico/ipam/v2/assignment/ipv4/block/x",
            "/calico/ipam/v2/host//ipv4/block/10.0.0.64-26",
            "/calico/ipam/v2/host/n1",
            "/calico/ipam/v2/handle/",
            "/calico/ipam/v2/handle/a/b",
            "/calico/ipam/v3/config",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse(&[0xff]), None);
    }
}
