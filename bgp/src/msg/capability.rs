//! What a speaker can do, told in its OPEN (RFC 5492).
//!
//! Capabilities we do not know are ignored, as are known ones whose value cannot be read: a peer loses what it garbled
//! and no more. Told twice: families and ADD-PATH add up, of the others the last counts.

use crate::family::{Family, PerFamily};
use crate::reader::Reader;

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const EXTENDED_MESSAGE: u8 = 6;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;
const ADD_PATH: u8 = 69;
const ENHANCED_ROUTE_REFRESH: u8 = 70;

/// Graceful restart (RFC 4724 section 3, RFC 8538 section 2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Graceful {
    /// The speaker has just restarted.
    pub restarting: bool,
    /// It keeps routes over a NOTIFICATION too (RFC 8538).
    pub notification: bool,
    /// Within this time the session is up again, seconds: 0 to 4095.
    pub time: u16,
    /// The families it restarts gracefully, and whether it still forwards their packets.
    pub forwarding: PerFamily<Option<bool>>,
}

/// Who sends path identifiers (RFC 7911 section 4).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AddPath {
    /// The speaker takes several paths for a prefix.
    pub receive: bool,
    /// It can send several.
    pub send: bool,
}

/// All of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Capabilities {
    /// Multiprotocol (RFC 4760). None at all means IPv4 unicast alone.
    pub families: PerFamily<bool>,
    /// Route refresh (RFC 2918).
    pub route_refresh: bool,
    /// Enhanced route refresh (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// Messages of up to 65,535 bytes (RFC 8654).
    pub extended_message: bool,
    /// IPv6 next hops for IPv4 prefixes (RFC 8950).
    pub extended_next_hop: bool,
    /// Graceful restart.
    pub graceful: Option<Graceful>,
    /// The speaker's AS number in four octets (RFC 6793).
    pub asn: Option<u32>,
    /// ADD-PATH.
    pub add_path: PerFamily<AddPath>,
}

impl Capabilities {
    /// Reads the value of one capabilities parameter into `self`; false when one runs over its end.
    pub(crate) fn parse(&mut self, mut parameter: Reader<'_>, told: &mut bool) -> bool {
        while !parameter.is_empty() {
            let Some((code, value)) = parameter.u8().zip(parameter.field8()) else { return false };
            self.one(code, value, told);
        }
        true
    }

    /// One capability; `told` remembers that families were named. `None`: it could not be read.
    fn one(&mut self, code: u8, mut value: Reader<'_>, told: &mut bool) -> Option<()> {
        match code {
            MULTIPROTOCOL => {
                let [a, b, _, safi] = exact(value)?;
                *told = true;
                self.families[Family::from_wire(u16::from_be_bytes([a, b]), safi)?] = true;
            }
            ROUTE_REFRESH => {
                exact::<0>(value)?;
                self.route_refresh = true;
            }
            EXTENDED_NEXT_HOP => {
                while let Some([a, b, c, d, e, f]) = value.array() {
                    let numbers = [[a, b], [c, d], [e, f]].map(u16::from_be_bytes);
                    self.extended_next_hop |=
                        numbers == [Family::Ipv4.afi(), u16::from(Family::SAFI), Family::Ipv6.afi()];
                }
            }
            EXTENDED_MESSAGE => {
                exact::<0>(value)?;
                self.extended_message = true;
            }
            GRACEFUL_RESTART => {
                let head = value.u16()?;
                let mut graceful = Graceful {
                    restarting: head & 0x8000 != 0,
                    notification: head & 0x4000 != 0,
                    time: head & 0xfff,
                    forwarding: PerFamily::default(),
                };
                while let Some([a, b, safi, flags]) = value.array() {
                    if let Some(family) = Family::from_wire(u16::from_be_bytes([a, b]), safi) {
                        graceful.forwarding[family] = Some(flags & 0x80 != 0);
                    }
                }
                self.graceful = Some(graceful);
            }
            FOUR_OCTET_AS => self.asn = Some(u32::from_be_bytes(exact(value)?)),
            ADD_PATH => {
                while let Some([a, b, safi, mode]) = value.array() {
                    let family = Family::from_wire(u16::from_be_bytes([a, b]), safi);
                    if let (Some(family), 1..=3) = (family, mode) {
                        self.add_path[family] = AddPath { receive: mode & 1 != 0, send: mode & 2 != 0 };
                    }
                }
            }
            ENHANCED_ROUTE_REFRESH => {
                exact::<0>(value)?;
                self.enhanced_route_refresh = true;
            }
            _ => {}
        }
        Some(())
    }

    /// Writes them one behind the other, at most 80 bytes.
    pub(crate) fn emit(&self, out: &mut Vec<u8>) {
        let family = |family: Family| {
            let [a, b] = family.afi().to_be_bytes();
            [a, b, Family::SAFI]
        };
        for f in self.families.set() {
            let [a, b, safi] = family(f);
            put(MULTIPROTOCOL, &[a, b, 0, safi], out);
        }
        let flags = [
            (ROUTE_REFRESH, self.route_refresh),
            (EXTENDED_MESSAGE, self.extended_message),
            (ENHANCED_ROUTE_REFRESH, self.enhanced_route_refresh),
        ];
        for (code, _) in flags.into_iter().filter(|(_, on)| *on) {
            put(code, &[], out);
        }
        if self.extended_next_hop {
            put(EXTENDED_NEXT_HOP, &[0, 1, 0, 1, 0, 2], out);
        }
        if let Some(graceful) = self.graceful {
            let flags = u16::from(graceful.restarting) << 15 | u16::from(graceful.notification) << 14;
            let mut value = (flags | graceful.time.min(0xfff)).to_be_bytes().to_vec();
            for (f, forwarding) in graceful.forwarding.iter() {
                if let Some(forwarding) = forwarding {
                    value.extend(family(f));
                    value.push(u8::from(*forwarding) << 7);
                }
            }
            put(GRACEFUL_RESTART, &value, out);
        }
        if let Some(asn) = self.asn {
            put(FOUR_OCTET_AS, &asn.to_be_bytes(), out);
        }
        let mut add_path = Vec::new();
        for (f, mode) in self.add_path.iter().filter(|(_, mode)| mode.receive || mode.send) {
            add_path.extend(family(f));
            add_path.push(u8::from(mode.receive) | u8::from(mode.send) << 1);
        }
        if !add_path.is_empty() {
            put(ADD_PATH, &add_path, out);
        }
    }
}

fn exact<const N: usize>(mut value: Reader<'_>) -> Option<[u8; N]> {
    value.array().filter(|_| value.is_empty())
}

fn put(code: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(code);
    out.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    out.extend(value);
}
