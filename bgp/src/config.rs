//! What a speaker is told: who it is, whom it speaks with, and how.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::family::{Family, PerFamily};
use crate::policy::Policy;

/// The speaker.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our AS number. Not 0, not 23456.
    pub asn: u32,
    /// Our BGP identifier: not 0.0.0.0, and no other speaker's of this AS.
    pub router_id: Ipv4Addr,
    /// Our cluster as a route reflector (RFC 4456); `None`: we reflect nothing.
    pub cluster_id: Option<Ipv4Addr>,
    /// Our own addresses: routes that point at them are refused (RFC 4271 section 5.1.3).
    pub addresses: Vec<IpAddr>,
    /// Our next hop where we put ourselves and the session has no address of the route's family.
    pub next_hop_self: PerFamily<Option<IpAddr>>,
    /// How many equal paths a route may use, at least 1.
    pub max_paths: usize,
    /// Equal paths may have come through different ASes.
    pub multipath_relax: bool,
    /// Peers of other ASes without a policy exchange no routes (RFC 8212).
    pub ebgp_requires_policy: bool,
    /// Next hops are unreachable until [`Speaker::next_hop`](crate::Speaker::next_hop) says otherwise; else reachable
    /// with metric 0.
    pub require_resolution: bool,
    /// Graceful restart (RFC 4724); `None`: neither for us nor for peers.
    pub graceful: Option<GracefulConfig>,
    /// Seed of the jitter of timers.
    pub seed: u64,
    /// Configured neighbours; one for each address.
    pub peers: Vec<PeerConfig>,
    /// Ranges that neighbours may come from.
    pub dynamic: Vec<DynamicConfig>,
}

impl Config {
    /// A speaker without peers, with the usual values.
    pub fn new(asn: u32, router_id: Ipv4Addr) -> Config {
        Config {
            asn,
            router_id,
            cluster_id: None,
            addresses: Vec::new(),
            next_hop_self: PerFamily::default(),
            max_paths: 16,
            multipath_relax: false,
            ebgp_requires_policy: true,
            require_resolution: false,
            graceful: Some(GracefulConfig::default()),
            seed: u64::from(router_id.to_bits()),
            peers: Vec::new(),
            dynamic: Vec::new(),
        }
    }

    /// Is everything possible?
    ///
    /// # Errors
    /// Names what is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.asn == 0 || self.asn == u32::from(crate::as_path::AS_TRANS) {
            return Err(ConfigError::Asn(self.asn));
        }
        if self.router_id.is_unspecified() {
            return Err(ConfigError::RouterId);
        }
        if self.max_paths == 0 {
            return Err(ConfigError::MaxPaths);
        }
        let mut seen = std::collections::HashSet::new();
        for peer in &self.peers {
            if !seen.insert(peer.address) {
                return Err(ConfigError::Twice(peer.address));
            }
            peer.check()?;
        }
        self.dynamic.iter().try_for_each(|range| range.template.check())
    }
}

/// A configuration that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Reserved AS number.
    #[error("AS {0} is nobody's")]
    Asn(u32),
    /// 0.0.0.0.
    #[error("router id 0.0.0.0")]
    RouterId,
    /// No path at all.
    #[error("max-paths must be at least 1")]
    MaxPaths,
    /// Two peers with one address.
    #[error("peer {0} is there twice")]
    Twice(IpAddr),
    /// 1 or 2 seconds.
    #[error("peer {0}: a hold time must be 0 or at least 3 s, not {1} s")]
    HoldTime(IpAddr, u16),
    /// No address family.
    #[error("peer {0} has no address family")]
    NoFamily(IpAddr),
    /// Reserved AS number.
    #[error("peer {0}: AS {1} is nobody's")]
    PeerAsn(IpAddr, u32),
    /// A time to live of 0, or security over no or too many hops.
    #[error("peer {0}: a TTL of 0")]
    Ttl(IpAddr),
    /// Longer than TCP MD5 keys may be, or empty.
    #[error("peer {0}: a password has 1 to 80 bytes")]
    Password(IpAddr),
}

/// Graceful restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GracefulConfig {
    /// Within this time we are back after a restart; told to peers. At most 4,095 s.
    pub restart_time: Duration,
    /// How long a peer that is back may take to send its routes again.
    pub stale_time: Duration,
    /// A peer's own restart time counts at most this much.
    pub helper_time: Duration,
    /// We are just back, and have kept forwarding: peers are told, and routes are chosen only when all of them have
    /// sent theirs, or after this time. `None`: a fresh start.
    pub restarting: Option<Duration>,
}

impl Default for GracefulConfig {
    fn default() -> GracefulConfig {
        GracefulConfig {
            restart_time: Duration::from_secs(120),
            stale_time: Duration::from_secs(300),
            helper_time: Duration::from_secs(600),
            restarting: None,
        }
    }
}

/// The time to live of a session's packets. The caller sets it on its sockets: see [`Connection`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// Neighbours of other ASes are on our link (1), those of ours are anywhere (255).
    Default,
    /// They may be this many hops away.
    Multihop(u8),
    /// They send with 255 and are at most this many hops away (RFC 5082): 1 on our link.
    Security(u8),
}

/// What puts us in as the next hop of the routes we pass on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NextHopMode {
    /// To other ASes ourselves, unless the next hop is on a subnet shared with the peer; within ours the one received.
    Auto,
    /// Always ourselves; reflected routes too.
    Own,
    /// Always the one received.
    Keep,
}

/// A key of TCP MD5 signatures (RFC 2385). Not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"…\"")
    }
}

/// More prefixes than a peer may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MaxPrefixes {
    /// This many, counted before import policy.
    pub limit: u32,
    /// Tell when this part of them is reached, percent.
    pub warn_percent: u8,
    /// Only tell, never end the session.
    pub warn_only: bool,
    /// Try again after this time; `None`: when an operator says so.
    pub restart: Option<Duration>,
}

/// A neighbour.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Its address. In a template for dynamic neighbours: ignored.
    pub address: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// The address to dial from; the system's choice without.
    pub local_address: Option<IpAddr>,
    /// Its AS number.
    pub asn: u32,
    /// Our AS number towards it, where it is not the usual one.
    pub local_asn: Option<u32>,
    /// Switched on?
    pub enabled: bool,
    /// Never dial, only wait.
    pub passive: bool,
    /// Address families.
    pub families: PerFamily<bool>,
    /// Hold time we propose, seconds: 0 or at least 3.
    pub hold_time: u16,
    /// Time between two tries to connect; grows up to four times with failures.
    pub connect_retry: Duration,
    /// Wait so long for the peer's OPEN before sending ours; 0: do not wait.
    pub delay_open: Duration,
    /// Time to live.
    pub ttl: Ttl,
    /// TCP MD5 signatures.
    pub password: Option<Password>,
    /// Next hops of routes sent.
    pub next_hop: NextHopMode,
    /// The subnet shared with it, for [`NextHopMode::Auto`].
    pub subnet: Option<IpNet>,
    /// It is our client (RFC 4456); needs [`Config::cluster_id`].
    pub client: bool,
    /// Routes taken from it.
    pub import: Option<Arc<Policy>>,
    /// Routes sent to it.
    pub export: Option<Arc<Policy>>,
    /// How many times our own AS may be in a path.
    pub allow_own_as: u8,
    /// The first AS of a path must be its own (not so for route servers).
    pub enforce_first_as: bool,
    /// Bound on what it sends, for each family.
    pub max_prefixes: Option<MaxPrefixes>,
    /// Take several paths for a prefix (RFC 7911).
    pub add_path: bool,
    /// Offer messages of up to 65,535 bytes (RFC 8654).
    pub extended_messages: bool,
    /// Offer IPv6 next hops for IPv4 prefixes (RFC 8950).
    pub extended_next_hop: bool,
}

impl PeerConfig {
    /// A neighbour with the usual values.
    pub fn new(address: IpAddr, asn: u32) -> PeerConfig {
        PeerConfig {
            address,
            port: 179,
            local_address: None,
            asn,
            local_asn: None,
            enabled: true,
            passive: false,
            families: PerFamily::from_fn(|family| family == Family::of_addr(address)),
            hold_time: 90,
            connect_retry: Duration::from_secs(5),
            delay_open: Duration::ZERO,
            ttl: Ttl::Default,
            password: None,
            next_hop: NextHopMode::Auto,
            subnet: None,
            client: false,
            import: None,
            export: None,
            allow_own_as: 0,
            enforce_first_as: true,
            max_prefixes: None,
            add_path: true,
            extended_messages: true,
            extended_next_hop: false,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let who = self.address;
        if self.asn == 0 || self.asn == u32::from(crate::as_path::AS_TRANS) || self.local_asn == Some(0) {
            return Err(ConfigError::PeerAsn(who, if self.local_asn == Some(0) { 0 } else { self.asn }));
        }
        if matches!(self.hold_time, 1 | 2) {
            return Err(ConfigError::HoldTime(who, self.hold_time));
        }
        if !self.families.any() {
            return Err(ConfigError::NoFamily(who));
        }
        if matches!(self.ttl, Ttl::Multihop(0) | Ttl::Security(0)) {
            return Err(ConfigError::Ttl(who));
        }
        if self.password.as_ref().is_some_and(|p| !(1..=80).contains(&p.0.len())) {
            return Err(ConfigError::Password(who));
        }
        Ok(())
    }

    /// Does a change from `old` need a new session?
    pub(crate) fn needs_reset(&self, old: &PeerConfig) -> bool {
        let session = |p: &PeerConfig| {
            let who = (p.address, p.port, p.local_address, p.asn, p.local_asn, p.client);
            let how = (p.families, p.hold_time, p.ttl, p.password.clone(), p.delay_open);
            (who, how, (p.add_path, p.extended_messages, p.extended_next_hop))
        };
        session(self) != session(old)
    }

    /// What its sockets need.
    pub(crate) fn connection(&self, internal: bool) -> Connection {
        let (ttl, min_ttl) = match self.ttl {
            Ttl::Default if internal => (255, None),
            Ttl::Default => (1, None),
            Ttl::Multihop(hops) => (hops, None),
            Ttl::Security(hops) => (255, Some(255 - (hops - 1))),
        };
        Connection { ttl, min_ttl, password: self.password.clone() }
    }
}

/// What the caller sets on a session's socket before it connects, or right after it accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    /// Time to live of what we send: IP_TTL, IPV6_UNICAST_HOPS.
    pub ttl: u8,
    /// Packets with less are not for us (RFC 5082): IP_MINTTL, IPV6_MINHOPCOUNT.
    pub min_ttl: Option<u8>,
    /// Key of TCP MD5 signatures (RFC 2385): TCP_MD5SIG. On the listener as well, before the peer dials.
    pub password: Option<Password>,
}

/// Neighbours that need not be listed: whoever dials from here.
#[derive(Clone, Debug)]
pub struct DynamicConfig {
    /// Where they come from.
    pub range: IpNet,
    /// What each of them is like.
    pub template: PeerConfig,
    /// At most so many at a time.
    pub limit: usize,
}
