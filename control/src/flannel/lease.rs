//! A node's lease: the key says which subnet, the value says how to reach the node that has it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::field::{Fields, FormatError, bad};
use super::network::vni;
use crate::config::nets;
use crate::mac::Mac;

/// Longest value that is read, in bytes. flannel's own have less than 400.
pub const MOST_TEXT: usize = 16 << 10;

/// The subnets that a key names. Displays as flannel writes it: `10.5.34.0-24`, `10.5.34.0-24&2001:cafe:42:1::-64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseKey {
    /// IPv4, host bits zero.
    pub v4: Ipv4Net,
    /// IPv6, host bits zero.
    pub v6: Option<Ipv6Net>,
}

/// A key that names no subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its name is no subnet such as 10.5.34.0-24 or 10.5.34.0-24&fd00:1::-64")]
pub struct NotASubnet;

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.v4.addr(), self.v4.prefix_len())?;
        match self.v6 {
            Some(v6) => write!(f, "&{}-{}", v6.addr(), v6.prefix_len()),
            None => Ok(()),
        }
    }
}

impl FromStr for LeaseKey {
    type Err = NotASubnet;

    /// The end of the text counts; whatever stands before the IPv4 address is ignored, as flannel does. The lengths are
    /// read into 5 and 7 bits there: /32 and /128 are no subnets.
    fn from_str(text: &str) -> Result<LeaseKey, NotASubnet> {
        let (text, v6) = match text.rsplit_once('&') {
            Some((v4, v6)) => (v4, Some(v6)),
            None => (text, None),
        };
        let (head, len) = text.rsplit_once('-').ok_or(NotASubnet)?;
        let start = head
            .rfind(|c: char| !c.is_ascii_digit() && c != '.')
            .map_or(0, |at| at + head[at..].chars().next().map_or(1, char::len_utf8));
        // Of more than four numbers the last four count.
        let numbers = &head[start..];
        let start = numbers.rmatch_indices('.').nth(3).map_or(0, |(at, _)| at + 1);
        let addr: Ipv4Addr = numbers[start..].parse().map_err(|_| NotASubnet)?;
        let v4 = Ipv4Net::new(addr, length(len, 31)?).map_err(|_| NotASubnet)?;
        let v6 = v6.map(|text| {
            let (addr, len) = text.rsplit_once('-').ok_or(NotASubnet)?;
            let addr: Ipv6Addr = addr.parse().map_err(|_| NotASubnet)?;
            Ipv6Net::new(addr, length(len, 127)?).map_err(|_| NotASubnet)
        });
        let v6 = v6.transpose()?;
        let aligned = v4 == v4.trunc() && v6.is_none_or(|v6| v6 == v6.trunc());
        if aligned { Ok(LeaseKey { v4, v6 }) } else { Err(NotASubnet) }
    }
}

fn length(text: &str, most: u8) -> Result<u8, NotASubnet> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let len = if digits { text.parse().map_err(|_| NotASubnet)? } else { return Err(NotASubnet) };
    if len <= most { Ok(len) } else { Err(NotASubnet) }
}

/// How to reach the node that has a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseValue {
    /// Its IPv4 address.
    pub public_ip: Ipv4Addr,
    /// Its IPv6 address.
    pub public_ipv6: Option<Ipv6Addr>,
    /// How packets for its pods travel.
    pub backend: LeaseBackend,
}

/// `BackendType` with `BackendData`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseBackend {
    /// Absent or empty: what flannel's `udp` writes, and a reservation.
    None,
    /// `udp`, written out; flannel itself leaves it out.
    Udp,
    /// `vxlan`
    Vxlan {
        /// Its end for IPv4 packets.
        v4: Option<Vtep>,
        /// Its end for IPv6 packets: flannel has a device for each family.
        v6: Option<Vtep>,
    },
    /// `host-gw`
    HostGw,
    /// `ipip`
    Ipip,
    /// Any other, by its name.
    Other(String),
}

/// One end of a VXLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vtep {
    /// Segment, 1 to 2^24 - 1.
    pub vni: u32,
    /// MAC that frames to it carry; unicast.
    pub mac: Mac,
}

impl Vtep {
    /// `BackendData` as flannel writes it.
    #[must_use]
    pub fn encode(&self) -> String {
        format!(r#"{{"VNI":{},"VtepMAC":"{}"}}"#, self.vni, self.mac)
    }

    fn read(fields: &Fields, field: &'static str) -> Result<Vtep, FormatError> {
        let number = fields.number("VNI")?.ok_or(FormatError::Missing { field })?;
        let mac: Mac = fields
            .parsed("VtepMAC", "is not an Ethernet address")?
            .ok_or(FormatError::Missing { field: "VtepMAC" })?;
        if !mac.is_unicast() {
            return Err(bad("VtepMAC", mac, "is no unicast address"));
        }
        Ok(Vtep { vni: vni(number)?, mac })
    }

    /// Reads `BackendData`; the text `null` is none.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &[u8]) -> Result<Option<Vtep>, FormatError> {
        if text.trim_ascii() == b"null" {
            return Ok(None);
        }
        Vtep::read(&Fields::parse(text, MOST_TEXT)?, "VNI").map(Some)
    }
}

impl LeaseBackend {
    /// `BackendType`; empty for [`LeaseBackend::None`].
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            LeaseBackend::None => "",
            LeaseBackend::Udp => "udp",
            LeaseBackend::Vxlan { .. } => "vxlan",
            LeaseBackend::HostGw => "host-gw",
            LeaseBackend::Ipip => "ipip",
            LeaseBackend::Other(kind) => kind,
        }
    }
}

impl LeaseValue {
    /// Reads the JSON text.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &[u8]) -> Result<LeaseValue, FormatError> {
        let fields = Fields::parse(text, MOST_TEXT)?;
        let public_ip = fields
            .parsed("PublicIP", "is not an IPv4 address")?
            .ok_or(FormatError::Missing { field: "PublicIP" })?;
        let public_ipv6: Option<Ipv6Addr> = fields.parsed("PublicIPv6", "is not an IPv6 address")?;
        node_address("PublicIP", IpAddr::V4(public_ip))?;
        if let Some(v6) = public_ipv6 {
            node_address("PublicIPv6", IpAddr::V6(v6))?;
        }
        let vtep = |field| -> Result<Option<Vtep>, FormatError> {
            fields.object(field)?.map(|data| Vtep::read(&data, "VNI")).transpose()
        };
        let backend = match fields.text("BackendType")?.unwrap_or_default() {
            "" => LeaseBackend::None,
            "udp" => LeaseBackend::Udp,
            "vxlan" => LeaseBackend::Vxlan { v4: vtep("BackendData")?, v6: vtep("BackendV6Data")? },
            "host-gw" => LeaseBackend::HostGw,
            "ipip" => LeaseBackend::Ipip,
            other => LeaseBackend::Other(other.chars().take(100).collect()),
        };
        Ok(LeaseValue { public_ip, public_ipv6, backend })
    }

    /// The text, byte for byte as flannel writes it. Data of kinds that are not spoken here is not kept.
    #[must_use]
    pub fn encode(&self) -> String {
        use fmt::Write as _;
        let mut text = format!(r#"{{"PublicIP":"{}","PublicIPv6":"#, self.public_ip);
        let _ = match self.public_ipv6 {
            Some(v6) => write!(text, "\"{v6}\""),
            None => text.write_str("null"),
        };
        if !self.backend.kind().is_empty() {
            let _ = write!(text, r#","BackendType":{}"#, serde_json::Value::from(self.backend.kind()));
        }
        if let LeaseBackend::Vxlan { v4, v6 } = &self.backend {
            for (field, vtep) in [("BackendData", v4), ("BackendV6Data", v6)] {
                if let Some(vtep) = vtep {
                    let _ = write!(text, r#","{field}":{}"#, vtep.encode());
                }
            }
        }
        text.push('}');
        text
    }
}

/// An address that a node can have.
pub(super) fn node_address(field: &'static str, addr: IpAddr) -> Result<(), FormatError> {
    match nets::is_node_address(addr) {
        true => Ok(()),
        false => Err(bad(field, addr, "cannot be the address of a node")),
    }
}

#[cfg(test)]
mod tests;
