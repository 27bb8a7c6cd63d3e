//! `/run/flannel/subnet.env`: what flannel's CNI plugin, and others, know of the node's subnet.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ipnet::{Ipv4Net, Ipv6Net};

use super::field::{FormatError, bad};
use super::lease::LeaseKey;

/// Where everybody looks.
pub const PATH: &str = "/run/flannel/subnet.env";
/// Longest text that is read, in bytes.
const MOST_TEXT: usize = 64 << 10;

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The IPv4 networks of all pods; flannel writes one.
    pub networks: Vec<Ipv4Net>,
    /// The node's IPv4 subnet, host bits zero. In the file stands its first usable address.
    pub subnet: Option<Ipv4Net>,
    /// The IPv6 networks.
    pub networks6: Vec<Ipv6Net>,
    /// The node's IPv6 subnet.
    pub subnet6: Option<Ipv6Net>,
    /// MTU of pods in bytes.
    pub mtu: u32,
    /// The daemon masquerades, so the plugin does not.
    pub ip_masq: bool,
}

impl SubnetEnv {
    /// The text, line for line as flannel writes it.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let list = |nets: Vec<String>| nets.join(",");
        if let Some(subnet) = self.subnet {
            let first = subnet.addr().to_bits().wrapping_add(1);
            let _ = writeln!(
                text,
                "FLANNEL_NETWORK={}",
                list(self.networks.iter().map(Ipv4Net::to_string).collect())
            );
            let _ = writeln!(
                text,
                "FLANNEL_SUBNET={}/{}",
                std::net::Ipv4Addr::from_bits(first),
                subnet.prefix_len()
            );
        }
        if let Some(subnet) = self.subnet6 {
            let first = subnet.addr().to_bits().wrapping_add(1);
            let _ = writeln!(
                text,
                "FLANNEL_IPV6_NETWORK={}",
                list(self.networks6.iter().map(Ipv6Net::to_string).collect())
            );
            let _ = writeln!(
                text,
                "FLANNEL_IPV6_SUBNET={}/{}",
                std::net::Ipv6Addr::from_bits(first),
                subnet.prefix_len()
            );
        }
        let _ = writeln!(text, "FLANNEL_MTU={}", self.mtu);
        let _ = writeln!(text, "FLANNEL_IPMASQ={}", self.ip_masq);
        text
    }

    /// Reads a file's text; lines that are none of these are skipped.
    ///
    /// # Errors
    /// What flannel's plugin refuses too: no network and subnet of either family, no MTU, no IPMASQ; and any value that
    /// is none.
    pub fn parse(text: &str) -> Result<SubnetEnv, FormatError> {
        if text.len() > MOST_TEXT {
            return Err(FormatError::TooLong { len: text.len(), most: MOST_TEXT });
        }
        fn net<N: std::str::FromStr>(field: &'static str, text: &str) -> Result<N, FormatError> {
            text.trim().parse().map_err(|_| bad(field, text, "is no range of this family"))
        }
        fn nets<N: std::str::FromStr>(field: &'static str, text: &str) -> Result<Vec<N>, FormatError> {
            text.split(',').map(|text| net(field, text)).collect()
        }
        let (mut networks, mut networks6, mut subnet, mut subnet6) = (Vec::new(), Vec::new(), None, None);
        let (mut mtu, mut ip_masq) = (None, None);
        for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            let value = value.trim();
            match key {
                "FLANNEL_NETWORK" => networks = nets("FLANNEL_NETWORK", value)?,
                "FLANNEL_SUBNET" => subnet = Some(net::<Ipv4Net>("FLANNEL_SUBNET", value)?.trunc()),
                "FLANNEL_IPV6_NETWORK" => networks6 = nets("FLANNEL_IPV6_NETWORK", value)?,
                "FLANNEL_IPV6_SUBNET" => {
                    subnet6 = Some(net::<Ipv6Net>("FLANNEL_IPV6_SUBNET", value)?.trunc())
                }
                "FLANNEL_MTU" => {
                    mtu =
                        Some(value.parse().map_err(|_| bad("FLANNEL_MTU", value, "is no number of bytes"))?);
                }
                "FLANNEL_IPMASQ" => {
                    let flag =
                        value.parse().map_err(|_| bad("FLANNEL_IPMASQ", value, "is not true or false"))?;
                    ip_masq = Some(flag);
                }
                _ => {}
            }
        }
        if subnet.is_none() && subnet6.is_none() {
            return Err(FormatError::Missing { field: "FLANNEL_SUBNET" });
        }
        if networks.is_empty() && networks6.is_empty() {
            return Err(FormatError::Missing { field: "FLANNEL_NETWORK" });
        }
        Ok(SubnetEnv {
            networks,
            subnet,
            networks6,
            subnet6,
            mtu: mtu.ok_or(FormatError::Missing { field: "FLANNEL_MTU" })?,
            ip_masq: ip_masq.ok_or(FormatError::Missing { field: "FLANNEL_IPMASQ" })?,
        })
    }

    /// The subnets as a lease's key names them; none without IPv4.
    #[must_use]
    pub fn key(&self) -> Option<LeaseKey> {
        self.subnet.map(|v4| LeaseKey { v4, v6: self.subnet6 })
    }

    /// Puts the file in place: written beside it under another name, flushed, renamed. Readable by everybody.
    ///
    /// # Errors
    /// Of the file system; the old file is still there then.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = dir.join(format!(".{name}.new-{}", std::process::id()));
        let mut options = OpenOptions::new();
        let written = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&temporary)
            .and_then(|mut file| {
                file.write_all(self.render().as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // The first failure is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

#[cfg(test)]
mod tests;
