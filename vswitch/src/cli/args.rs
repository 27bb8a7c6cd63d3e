//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand, ValueEnum};
use control::api::{BgpQuery, DEFAULT_SOCKET, Proto, Trace};

/// Looks at the pod network of this node.
#[derive(Debug, Parser)]
#[command(
    name = "vsctl",
    version,
    after_help = "Exit codes: 0 well, 1 the answer is no, 2 wrong usage, 3 no answer."
)]
pub struct Args {
    /// Control socket of the daemon.
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What is asked of the BGP speaker.
#[derive(Debug, Subcommand)]
pub enum BgpWhat {
    /// The neighbours: state, prefixes, last error.
    Peers,
    /// Routes received, which is used, and why.
    Routes {
        /// Only prefixes inside this one.
        #[arg(value_name = "PREFIX")]
        within: Option<ipnet::IpNet>,
    },
    /// Routes sent to a neighbour.
    Announced {
        /// Its address.
        #[arg(value_name = "ADDRESS")]
        peer: IpAddr,
    },
}

/// What is asked of the allocator.
#[derive(Debug, Subcommand)]
pub enum IpamWhat {
    /// Pools, and with them their blocks; or who has an address.
    Show {
        /// Also every block.
        #[arg(long)]
        show_blocks: bool,
        /// Who has this address.
        #[arg(long, value_name = "IP", conflicts_with = "show_blocks")]
        ip: Option<IpAddr>,
    },
    /// What does not fit together: addresses without a pod, handles without addresses; exits 1 when there is any.
    Check,
    /// Take addresses back: one, or what a report of `--json ipam check` names and is still so.
    Release {
        /// This address, whoever has it.
        #[arg(
            long,
            value_name = "IP",
            required_unless_present = "from_report",
            conflicts_with = "from_report"
        )]
        ip: Option<IpAddr>,
        /// The report's file, or `-`.
        #[arg(long, value_name = "FILE")]
        from_report: Option<PathBuf>,
    },
}

impl BgpWhat {
    /// As the daemon is asked.
    pub fn query(what: Option<&BgpWhat>) -> BgpQuery {
        match what {
            None | Some(BgpWhat::Peers) => BgpQuery::Peers,
            Some(BgpWhat::Routes { within }) => BgpQuery::Routes { within: *within },
            Some(BgpWhat::Announced { peer }) => BgpQuery::Announced { peer: *peer },
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The node at a glance; exits 1 when something is wrong.
    Status,
    /// Attached pods and their counters.
    Ports,
    /// The forwarding table.
    Routes,
    /// The other nodes.
    Peers,
    /// Dropped frames by reason.
    Drops {
        /// Also the reasons that never occurred.
        #[arg(long)]
        all: bool,
        /// Go on telling single drops, with pods and the rule that decided, and flows that match Log rules.
        #[arg(short, long, conflicts_with = "all")]
        follow: bool,
    },
    /// The policy rules that apply, in order, with the flows they decided.
    Policy {
        /// Only this pod's; without a namespace, `default`.
        #[arg(value_name = "NS/POD", value_parser = pod)]
        pod: Option<String>,
    },
    /// Cached flows and what is done with them.
    Flows,
    /// Write objects into the store, each checked as an API server would.
    Apply {
        /// A file, a directory of files, or `-`.
        #[arg(short = 'f', value_name = "FILE|DIR")]
        from: PathBuf,
    },
    /// Objects of the store.
    Get {
        /// For example `NetworkPolicy`, `networkpolicies` or `netpol`.
        kind: String,
        /// Only of this name, whole.
        name: Option<String>,
        /// Only in this namespace.
        #[arg(short, long)]
        namespace: Option<String>,
    },
    /// Remove objects from the store.
    Delete {
        /// A file, a directory of files, or `-`.
        #[arg(short = 'f', value_name = "FILE|DIR")]
        from: PathBuf,
    },
    /// BGP neighbours and their sessions, or routes.
    Bgp {
        /// What is asked.
        #[command(subcommand)]
        what: Option<BgpWhat>,
    },
    /// Pools, blocks and who has which address.
    Ipam {
        /// What is asked.
        #[command(subcommand)]
        what: Option<IpamWhat>,
    },
    /// What would happen to a packet of a pod, step by step; exits 1 when it would not arrive.
    Trace(TraceArgs),
    /// Validate a configuration file and print it with every default; needs no daemon.
    Check(CheckArgs),
    /// The configuration that the daemon runs with.
    Config,
    /// Remove what vswitchd leaves on this host for its next start; refuses while it runs.
    Uninstall(UninstallArgs),
    /// Build a network of nodes and pods on this machine, check it, take it down; needs no daemon.
    Lab(crate::lab::Args),
}

/// Arguments of `check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// The file.
    #[arg(value_name = "CONFIG", default_value = control::config::DEFAULT_PATH)]
    pub file: PathBuf,
    /// The file is for another machine: compare nothing with this one, take no default from it.
    #[arg(long)]
    pub elsewhere: bool,
}

/// Arguments of `uninstall`.
#[derive(Debug, Clone, clap::Args)]
pub struct UninstallArgs {
    /// The configuration that vswitchd ran with.
    #[arg(value_name = "CONFIG", default_value = control::config::DEFAULT_PATH)]
    pub file: PathBuf,
}

/// Arguments of `trace`.
#[derive(Debug, Clone, clap::Args)]
pub struct TraceArgs {
    /// Sending pod of this node; without a namespace, `default`.
    #[arg(long, value_name = "NS/POD", value_parser = pod)]
    pub from: String,
    /// Destination: an address, with a port where the protocol has one (`10.244.2.7:80`, `[fd00::7]:80`).
    #[arg(long, value_name = "IP[:PORT]")]
    pub to: Target,
    /// Protocol; the default is tcp with a port and icmp without.
    #[arg(long, value_name = "PROTO")]
    pub proto: Option<ProtoArg>,
}

impl TraceArgs {
    /// The request that asks for it.
    pub fn request(&self) -> Trace {
        let proto = match (self.proto, self.to.port) {
            (Some(proto), _) => proto.into(),
            (None, Some(_)) => Proto::Tcp,
            (None, None) => Proto::Icmp,
        };
        Trace { from: self.from.clone(), to: self.to.address, port: self.to.port, proto }
    }
}

fn pod(text: &str) -> Result<String, String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err("must be NAMESPACE/POD".to_owned());
    }
    Ok(format!("{namespace}/{name}"))
}

/// An address, perhaps with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Address.
    pub address: IpAddr,
    /// Port, not 0.
    pub port: Option<u16>,
}

/// The text is neither an address nor an address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an address, or an address and a port such as 10.244.2.7:80 or [fd00::7]:80")]
pub struct TargetSyntax;

impl FromStr for Target {
    type Err = TargetSyntax;

    fn from_str(text: &str) -> Result<Self, TargetSyntax> {
        if let Ok(address) = text.parse() {
            return Ok(Target { address, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(both) if both.port() != 0 => Ok(Target { address: both.ip(), port: Some(both.port()) }),
            _ => Err(TargetSyntax),
        }
    }
}

/// A protocol on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProtoArg {
    /// A SYN.
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request.
    Icmp,
    /// An INIT.
    Sctp,
}

impl From<ProtoArg> for Proto {
    fn from(arg: ProtoArg) -> Proto {
        match arg {
            ProtoArg::Tcp => Proto::Tcp,
            ProtoArg::Udp => Proto::Udp,
            ProtoArg::Icmp => Proto::Icmp,
            ProtoArg::Sctp => Proto::Sctp,
        }
    }
}
