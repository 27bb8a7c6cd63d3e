//! The faster ways that packets take where kernel and devices allow, and a person may leave out.

use serde::Deserialize;

/// One of them. Everything arrives without any of them too, only slower: leaving one out tells whether it is what a
/// fault of a driver or kernel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FastPath {
    /// Super-frames leave whole through the uplink TAP, for the host's stack or a device to segment in the tunnel.
    UplinkTap,
    /// The kernel cuts what is sent to a peer into datagrams (`UDP_SEGMENT`).
    Segmentation,
    /// Received datagrams are joined: by the kernel (`UDP_GRO`), and packets of a flow by the switch.
    Merging,
    /// Consecutive small packets for one peer leave in one call as one train.
    Trains,
    /// TCP super-frames travel to nodes that take them with their headers once, not in every datagram.
    Slices,
    /// A worker that much comes to looks for more for a moment before it sleeps, while nobody else wants the processor.
    Polling,
    /// A worker with little to do goes before other threads.
    Priority,
}

impl FastPath {
    /// All.
    pub const ALL: [FastPath; 7] = [
        FastPath::UplinkTap,
        FastPath::Segmentation,
        FastPath::Merging,
        FastPath::Trains,
        FastPath::Slices,
        FastPath::Polling,
        FastPath::Priority,
    ];

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FastPath::UplinkTap => "uplink-tap",
            FastPath::Segmentation => "segmentation",
            FastPath::Merging => "merging",
            FastPath::Trains => "trains",
            FastPath::Slices => "slices",
            FastPath::Polling => "polling",
            FastPath::Priority => "priority",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigFile;

    #[test]
    fn each_is_read_by_its_name_and_another_name_is_an_error() {
        for path in FastPath::ALL {
            let text = format!("[node]\nwithout = [\"{}\"]\n", path.name());
            assert_eq!(ConfigFile::parse(&text).unwrap().node.without, [path]);
        }
        let err = ConfigFile::parse("[node]\nwithout = [\"gro\"]\n").unwrap_err().to_string();
        assert!(err.contains("gro") && err.contains("uplink-tap"), "{err}");
    }
}
