//! What a person may write. Every value is as it stands in the file; nothing is checked but names and shapes.

use serde::Deserialize;

use super::{FastPath, LoadError};

/// A configuration file. Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// `[node]`
    pub node: NodeSection,
    /// `[network]`
    pub network: NetworkSection,
    /// `[tunnel]`
    pub tunnel: TunnelSection,
    /// `[store]`
    pub store: StoreSection,
    /// `[ipam]`
    pub ipam: IpamSection,
    /// `[[peer]]`
    pub peer: Vec<PeerSection>,
    /// `[bgp]`
    pub bgp: Option<BgpSection>,
    /// `[metrics]`
    pub metrics: Option<MetricsSection>,
}

impl ConfigFile {
    /// Parses TOML.
    ///
    /// # Errors
    /// [`LoadError::Syntax`], which shows the line: bad TOML, an unknown key, a value of the wrong type.
    pub fn parse(text: &str) -> Result<ConfigFile, LoadError> {
        toml::from_str(text).map_err(|err| LoadError::Syntax { err: Box::new(err) })
    }
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NodeSection {
    /// Default: host name.
    pub name: Option<String>,
    /// Default: interface of the default route.
    pub uplink: Option<String>,
    /// Default: first IPv4 address of the uplink.
    pub address: Option<String>,
    /// Default: first global IPv6 address of the uplink.
    pub address6: Option<String>,
    /// Default: `/var/lib/vswitch`.
    pub state_dir: Option<String>,
    /// Default: `/run/vswitch`.
    pub run_dir: Option<String>,
    /// Default: 0, as many as cores, at most 4.
    pub workers: Option<i64>,
    /// Default: true.
    pub offload: Option<bool>,
    /// Default: none.
    pub without: Vec<FastPath>,
    /// Default: true.
    pub probe_peers: Option<bool>,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NetworkSection {
    /// Default: `["10.244.0.0/16"]`.
    pub cluster_cidrs: Option<Vec<String>>,
    /// No default: the static store needs it.
    pub pod_cidrs: Option<Vec<String>>,
    /// Default: 0, the uplink's less the tunnel's overhead.
    pub mtu: Option<i64>,
    /// Default: true.
    pub masquerade: Option<bool>,
}

/// `[tunnel]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct TunnelSection {
    /// Default: `vxlan`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Default: 1.
    pub vni: Option<i64>,
    /// Default: 8472 for VXLAN, 8285 for UDP.
    pub port: Option<i64>,
    /// Default: made once, kept in the state directory.
    pub vtep_mac: Option<String>,
    /// Default: false.
    pub cross_subnet: Option<bool>,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct StoreSection {
    /// Default: `static`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Static: directory of manifests. Default: none.
    pub manifests: Option<String>,
    /// etcd.
    pub endpoints: Option<Vec<String>>,
    /// etcd.
    pub prefix: Option<String>,
    /// etcd: the file that tells flannel's plugin of the subnet; empty = none. Default: flannel's.
    pub subnet_env: Option<String>,
    /// etcd: certificate of the authority.
    pub ca: Option<String>,
    /// etcd: client certificate.
    pub cert: Option<String>,
    /// etcd: client key.
    pub key: Option<String>,
    /// etcd.
    pub username: Option<String>,
    /// etcd.
    pub password: Option<String>,
}

/// `[ipam]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct IpamSection {
    /// Default: `node`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// `[[peer]]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct PeerSection {
    /// Name.
    pub name: Option<String>,
    /// IPv4 address.
    pub address: Option<String>,
    /// IPv6 address.
    pub address6: Option<String>,
    /// Pod ranges.
    pub pod_cidrs: Option<Vec<String>>,
    /// MAC of its tunnel end.
    pub vtep_mac: Option<String>,
    /// How packets for it travel. Default: as `[tunnel] type` says.
    pub tunnel: Option<String>,
}

/// `[bgp]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct BgpSection {
    /// Our AS.
    pub asn: Option<i64>,
    /// Our router id.
    pub router_id: Option<String>,
    /// Listening address.
    pub listen: Option<String>,
    /// Present = route reflector.
    pub cluster_id: Option<String>,
    /// Every other node is a neighbour. Default: true, but for a reflector.
    pub mesh: Option<bool>,
    /// TCP MD5 key of the mesh's sessions.
    pub mesh_password: Option<String>,
    /// `[[bgp.peer]]`
    pub peer: Vec<BgpPeerSection>,
}

/// `[[bgp.peer]]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct BgpPeerSection {
    /// Its address.
    pub address: Option<String>,
    /// In place of an address: a range that neighbours may dial from.
    pub prefix: Option<String>,
    /// Its AS.
    pub asn: Option<i64>,
    /// Default: 179.
    pub port: Option<i64>,
    /// TCP MD5 key.
    pub password: Option<String>,
    /// Most hops its packets may have come.
    pub ttl_security: Option<i64>,
    /// Hops to a neighbour of another AS.
    pub multihop: Option<i64>,
    /// Default: false; true for a range.
    pub passive: Option<bool>,
    /// Default: true for neighbours of a reflector's own AS.
    pub client: Option<bool>,
    /// Default: false.
    pub next_hop_self: Option<bool>,
    /// Default: no bound.
    pub max_prefixes: Option<i64>,
    /// Ranges that its prefixes must lie in.
    pub import: Option<Vec<String>>,
    /// Ranges that prefixes sent to it must lie in.
    pub export: Option<Vec<String>>,
    /// `[[bgp.peer.import-rule]]`
    pub import_rule: Vec<BgpRuleSection>,
    /// `[[bgp.peer.export-rule]]`
    pub export_rule: Vec<BgpRuleSection>,
}

/// `[[bgp.peer.import-rule]]` and `[[bgp.peer.export-rule]]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct BgpRuleSection {
    /// Prefixes it is about, each with what lies inside: `10.0.0.0/8 ge 16 le 24`.
    pub prefixes: Option<Vec<String>>,
    /// Communities, standard and large, of which a route has one.
    pub communities: Option<Vec<String>>,
    /// ASes of which one sent the route.
    pub from_as: Option<Vec<i64>>,
    /// ASes of which the route started in one.
    pub origin_as: Option<Vec<i64>>,
    /// ASes of which one is in the path.
    pub through_as: Option<Vec<i64>>,
    /// Least number of ASes in the path.
    pub as_path_at_least: Option<i64>,
    /// `accept`, which is the default, or `reject`.
    pub action: Option<String>,
    /// LOCAL_PREF from then on.
    pub local_pref: Option<i64>,
    /// MULTI_EXIT_DISC from then on.
    pub med: Option<i64>,
    /// Communities taken away.
    pub remove_communities: Option<Vec<String>>,
    /// Communities added.
    pub add_communities: Option<Vec<String>>,
    /// Our own AS so many times more in front of the path.
    pub prepend: Option<i64>,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MetricsSection {
    /// Address and port.
    pub listen: Option<String>,
}
