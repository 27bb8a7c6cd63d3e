//! Rules as text, for people to read. Selectors come out in their own grammar.

use std::fmt::{self, Display, Formatter};

use crate::model::{L4Match, Packet, Peer, Ports, Rule, RuleAction};
use crate::{addr, table::rule::WITH_PORTS};

/// The items with words between them.
pub(crate) struct Joined<'a, T>(pub(crate) &'a [T], pub(crate) &'a str);

impl<T: Display> Display for Joined<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, item) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { self.1 })?;
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

/// A protocol's name, or its number.
pub(crate) struct Proto(pub(crate) u8);

impl Display for Proto {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "ICMP",
            6 => "TCP",
            17 => "UDP",
            58 => "ICMPv6",
            132 => "SCTP",
            136 => "UDPLite",
            n => return write!(f, "protocol {n}"),
        };
        f.write_str(name)
    }
}

impl Display for RuleAction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RuleAction::Allow => "allow",
            RuleAction::Deny => "deny",
            RuleAction::Log => "log",
            RuleAction::Pass => "pass",
        })
    }
}

impl Display for Rule {
    /// `allow TCP to port 80 or 443 from 10.0.0.0/8 or app == 'web' to …`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.action)?;
        match self.v6 {
            Some(true) => f.write_str(" IPv6")?,
            Some(false) => f.write_str(" IPv4")?,
            None => {}
        }
        if let Some(l4) = &self.l4 {
            write!(f, " {}", L4(l4))?;
        }
        for (word, peers) in [("from", &self.source), ("to", &self.destination)] {
            if let Some(peers) = peers {
                write!(f, " {word} {}", Peers(peers))?;
            }
        }
        Ok(())
    }
}

/// Alternatives for one end.
pub(crate) struct Peers<'a>(pub(crate) &'a [Peer]);

impl Display for Peers<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("nobody") } else { Joined(self.0, ", or ").fmt(f) }
    }
}

/// Alternatives for protocol and ports.
pub(crate) struct L4<'a>(pub(crate) &'a [L4Match]);

impl Display for L4<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("no protocol") } else { Joined(self.0, ", or ").fmt(f) }
    }
}

impl Display for Peer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match &self.nets {
            Some(nets) if nets.is_empty() => parts.push("no network".to_owned()),
            Some(nets) => parts.push(Joined(nets, " or ").to_string()),
            None => {}
        }
        if let Some(selector) = &self.selector {
            parts.push(selector.to_string());
        }
        if !self.not_nets.is_empty() {
            parts.push(format!("not {}", Joined(&self.not_nets, " or ")));
        }
        if let Some(selector) = &self.not_selector {
            parts.push(format!("not ({selector})"));
        }
        if parts.is_empty() { f.write_str("anyone") } else { Joined(&parts, " and ").fmt(f) }
    }
}

impl Display for Ports {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Ports::Range(from, to) if from == to => write!(f, "{from}"),
            Ports::Range(from, to) => write!(f, "{from}-{to}"),
            Ports::Named(name) => write!(f, "{name}"),
        }
    }
}

impl Display for L4Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.proto.map(|p| Proto(p).to_string()));
        parts.extend(self.not_proto.map(|p| format!("not {}", Proto(p))));
        let sides = [("to", &self.dports, &self.not_dports), ("from", &self.sports, &self.not_sports)];
        for (word, ports, not_ports) in sides {
            match ports {
                Some(ports) if ports.is_empty() => parts.push(format!("{word} no port")),
                Some(ports) => parts.push(format!("{word} port {}", Joined(ports, " or "))),
                None => {}
            }
            if !not_ports.is_empty() {
                parts.push(format!("not {word} port {}", Joined(not_ports, " or ")));
            }
        }
        parts.extend(self.icmp.map(|kind| Icmp(kind).to_string()));
        parts.extend(self.not_icmp.map(|kind| format!("not {}", Icmp(kind))));
        if parts.is_empty() { f.write_str("any protocol") } else { Joined(&parts, " ").fmt(f) }
    }
}

struct Icmp((u8, Option<u8>));

impl Display for Icmp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "type {}", self.0.0)?;
        self.0.1.map_or(Ok(()), |code| write!(f, " code {code}"))
    }
}

impl Display for Packet {
    /// `TCP 10.0.0.1 port 40000 to 10.0.0.2 port 80`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (src, dst) = (addr::ip(self.src), addr::ip(self.dst));
        match self.proto {
            p if WITH_PORTS.contains(&p) => {
                write!(f, "{} {src} port {} to {dst} port {}", Proto(p), self.sport, self.dport)
            }
            p @ (1 | 58) => {
                write!(f, "{} type {} code {} {src} to {dst}", Proto(p), self.sport >> 8, self.sport & 0xff)
            }
            p => write!(f, "{} {src} to {dst}", Proto(p)),
        }
    }
}
