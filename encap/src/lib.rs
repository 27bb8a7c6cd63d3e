//! Frames, headers, checksums and tunnels: bytes only.
//!
//! ```text
//!            slab of one frame
//!   0              HEADROOM                                        slab end
//!   ├── headroom ──┼──────────── data ────────────┼──── spare ─────┤
//!                start                           end
//!      push(n) ◄───┤ ├──► pull(n)          truncate ◄──┤
//! ```
//!
//! A [`Frame`] is one Ethernet frame we own, with room in front for tunnel headers and the virtio header decoded into
//! [`VnetHdr`]. Frames come from a [`Pool`] that belongs to one thread and travel in a [`Burst`]. [`parse`](parse::parse)
//! reads the headers once; [`rewrite`] changes what a router changes; [`gso`] cuts super-frames for the wire and [`gro`]
//! joins what the wire brought; [`vxlan`], [`udp`] and [`ipip`] are the encapsulations, [`tunnel`] the one place that
//! matches on the kind; [`mod@slice`] is how super-frames travel between nodes of ours that asked for it.
//!
//! Nothing here does I/O, reads a clock, starts a thread or takes a lock. Nothing here panics on bytes from a wire, and
//! nothing on a packet's path allocates once the arenas have warmed up.

pub mod again;
pub mod burst;
pub mod checksum;
pub mod echo;
pub mod frame;
pub mod gro;
pub mod gso;
pub mod ipip;
pub mod mac;
pub mod parse;
pub mod pool;
pub mod rewrite;
pub mod slice;
pub mod tunnel;
pub mod udp;
pub mod vnet;
pub mod vxlan;
pub mod whole;
pub mod wire;

pub use burst::{BURST, Burst};
pub use frame::{Found, Frame, HEADROOM, LARGE, SMALL};
pub use gro::{Gro, GroHead, GroPacket, Span};
pub use gso::{GsoError, Seg, Segmenter, finish_checksum};
pub use mac::Mac;
pub use parse::{Frag, ParseError, Parsed, Quoted, from_ip, mapped, quoted, to_ip};
pub use pool::Pool;
pub use tunnel::{Form, Tunnel};
pub use vnet::{VnetError, VnetHdr};

/// Bytes of an Ethernet II header without a tag.
pub const ETH_LEN: usize = 14;
