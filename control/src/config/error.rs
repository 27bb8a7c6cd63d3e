//! What can be wrong with a configuration. Each error names key and value, and says what would be right.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// A TOML string on one line, quoted and escaped.
pub(super) fn quoted(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not TOML, an unknown key, or a value of the wrong type. The cause shows the line.
    #[error("{err}")]
    Syntax {
        /// Of the parser.
        #[source]
        err: Box<toml::de::Error>,
    },
    /// Values that cannot be.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
}

/// Everything that is wrong; never empty. Displayed one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The key, for example `tunnel.vni` or `peer[n2].address`.
    pub key: String,
    /// The value as TOML would write it; empty when the key is missing.
    pub value: String,
    /// What is wrong with it.
    pub problem: Problem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.is_empty() {
            write!(f, "{}: {}", self.key, self.problem)
        } else {
            write!(f, "{} = {}: {}", self.key, self.value, self.problem)
        }
    }
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each message says it
pub enum Problem {
    #[error("must be set")]
    Missing,
    #[error("must be set: the machine has no host name")]
    NoHostname,
    #[error("must be set: the machine has no default route to take it from")]
    NoDefaultRoute,
    #[error("must be set: {uplink} has no address to take")]
    NoAddress { uplink: String },
    #[error(
        "must be lower-case letters, digits and '-', possibly several such words joined by dots, at most 253"
    )]
    NodeName,
    #[error("is no interface name (1 to 15 characters, no '/', ':' or blank)")]
    Ifname,
    #[error("this machine has no such interface; it has {have}")]
    NoSuchLink { have: String },
    #[error("no interface of this machine has this address")]
    NotOurAddress,
    #[error("is not an IPv4 address")]
    NotIpv4,
    #[error("is not an IPv6 address")]
    NotIpv6,
    #[error("is an IPv6 address: write it as {key}")]
    WantsIpv6Key { key: &'static str },
    #[error("cannot be the address of a node (unspecified, loopback, link-local, multicast or broadcast)")]
    NotNodeAddress,
    #[error("is not a range such as 10.244.1.0/24 or fd00:1::/64")]
    NotCidr,
    #[error("has bits set behind the prefix length: {network} is meant")]
    HostBits { network: IpNet },
    #[error("overlaps {with}, which is never used for pods")]
    SpecialRange { with: IpNet },
    #[error("has no room for a pod: the longest prefix is /30 (IPv4) or /126 (IPv6)")]
    RangeTooSmall,
    #[error("is not inside network.cluster-cidrs")]
    OutsideCluster,
    #[error("overlaps {other_key} = {other}")]
    Overlap { other_key: String, other: IpNet },
    #[error("contains the node address {address} ({other_key})")]
    ContainsNode { address: IpAddr, other_key: String },
    #[error("is this node's own name")]
    OwnName,
    #[error("is this node's own address: a node is not its own peer")]
    OwnAddress,
    #[error("is also {other_key}")]
    Duplicate { other_key: String },
    #[error("needs address or address6")]
    PeerWithoutAddress,
    #[error("has no address of a family that this node has too")]
    NoCommonFamily,
    #[error("must be set: IP in IP travels over IPv4 only")]
    IpipWantsIpv4,
    #[error(
        "must be set for a peer with tunnel.type = \"vxlan\": that node keeps it in the file vtep-mac of its state-dir"
    )]
    PeerWithoutVtepMac,
    #[error("is not an Ethernet address such as 0e:00:00:00:00:01")]
    NotMac,
    #[error("is no unicast address: zero, or the lowest bit of the first byte is set")]
    NotUnicastMac,
    #[error("must be from {least} to {most}")]
    Range { least: i64, most: i64 },
    #[error("is too small: pods need {least} bytes{}", if *least == 1280 { " for IPv6" } else { "" })]
    MtuTooSmall { least: u32 },
    #[error("does not fit: {uplink} carries {uplink_mtu} bytes, {overhead} of them taken by the tunnel")]
    MtuTooLarge { uplink: String, uplink_mtu: u32, overhead: u32 },
    #[error("leaves pods {mtu} bytes on {uplink}, they need {least}")]
    UplinkMtu { uplink: String, mtu: u32, least: u32 },
    #[error("must be an absolute path")]
    NotAbsolute,
    #[error("is too long: the socket's path must fit in 107 bytes")]
    PathTooLong,
    #[error("is not an address and port such as 127.0.0.1:9470")]
    NotSocketAddr,
    #[error("is unknown; there is {have}")]
    UnknownType { have: &'static str },
    #[error("is not supported by this version; there is {have}")]
    TypeNotSupported { have: &'static str },
    #[error("must be set: without an IPv4 address of the node there is none to take")]
    RouterIdWithoutIpv4,
    #[error("is not written as an IPv4 address such as 192.168.77.1, or is 0.0.0.0")]
    NotIdentifier,
    #[error("is reserved (AS_TRANS, RFC 6793)")]
    ReservedAs,
    #[error("is not an IP address")]
    NotAddress,
    #[error("needs either address or prefix")]
    AddressOrPrefix,
    #[error("must have 1 to {most} bytes")]
    PasswordLength { most: usize },
    #[error("cannot be together with ttl-security")]
    TtlTwice,
    #[error("is for route reflectors: set bgp.cluster-id")]
    ClientWithoutCluster,
    #[error("must be of our own AS")]
    ClientOfOtherAs,
    #[error("is not a prefix with lengths such as 10.0.0.0/8 ge 16 le 24")]
    NotPrefixRange,
    #[error("needs lengths that rise, from {least} to {most}")]
    PrefixLengths { least: u8, most: u8 },
    #[error("is not a community such as 64512:100, 4200000000:1:2 or no-export")]
    NotCommunity,
    #[error("is empty: leave it out to mean any")]
    EmptyList,
    #[error("cannot be together with action = \"reject\"")]
    ChangeOfRejected,
    #[error("is told to no other AS")]
    PreferenceForOtherAs,
    #[error("is for store.type = \"{wants}\" only")]
    StoreKey { wants: &'static str },
    #[error("comes from the store: remove it")]
    FromStore,
    #[error("is not a member's URL such as https://10.0.0.1:2379")]
    NotEndpoint,
    #[error("must all be http, or all https")]
    MixedSchemes,
    #[error("must begin with '/', and name more than that")]
    NotPrefix,
    #[error("must be set for https: whose certificates are believed")]
    EndpointWithoutCa,
    #[error("has no use without https endpoints")]
    WithoutTls,
}
