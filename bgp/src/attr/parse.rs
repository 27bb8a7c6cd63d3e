//! Attributes from bytes, with the error handling of RFC 7606: an attribute that is wrong costs itself, or the routes
//! it came with, and the session only when nobody can tell which routes those are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::code::*;
use super::{Attributes, NextHop, Origin, Unknown};
use crate::as_path::AsPath;
use crate::community::{Community, LargeCommunity};
use crate::family::{Family, PerFamily};
use crate::nlri::{self, Nlri};
use crate::reader::Reader;

/// What was agreed on the session, as far as reading UPDATEs depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// The peer is in our own AS.
    pub(crate) internal: bool,
    /// AS numbers have four octets (RFC 6793).
    pub(crate) wide: bool,
    /// Families in use.
    pub(crate) families: PerFamily<bool>,
    /// The peer puts path identifiers before prefixes (RFC 7911).
    pub(crate) add_path: PerFamily<bool>,
    /// IPv4 prefixes may have an IPv6 next hop (RFC 8950).
    pub(crate) extended_next_hop: bool,
}

/// What happens because of an attribute that is wrong (RFC 7606 section 2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Handling {
    /// The attribute is forgotten, the routes stay.
    Discard,
    /// The routes count as withdrawn.
    Withdraw,
    /// The session ends.
    Reset,
}

/// What is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// The optional or transitive bit contradicts the attribute's definition.
    #[error("has wrong flags")]
    Flags,
    /// The value has an impossible length.
    #[error("has a wrong length")]
    Length,
    /// The value means nothing.
    #[error("has an invalid value")]
    Value,
    /// It runs over the end of the attributes.
    #[error("runs over the end of the attributes")]
    Overrun,
    /// It is mandatory, and not there.
    #[error("is missing")]
    Missing,
    /// It is there twice.
    #[error("is there twice")]
    Duplicate,
    /// A peer in another AS has no business to send it.
    #[error("came from another AS")]
    External,
    /// Its address family was not agreed on.
    #[error("is of an address family that was not agreed on")]
    Family,
    /// It claims to be well-known, and is not.
    #[error("is not known, though it must be")]
    NotKnown,
    /// Its prefixes cannot be read.
    #[error("has prefixes that cannot be read")]
    Prefixes,
}

/// An attribute is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttributeError {
    /// Its type code.
    pub code: u8,
    /// What is wrong.
    pub fault: Fault,
    /// What was done.
    pub handling: Handling,
}

impl std::error::Error for AttributeError {}

impl std::fmt::Display for AttributeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match name(self.code) {
            Some(name) => write!(f, "{name} {}", self.fault),
            None => write!(f, "attribute {} {}", self.code, self.fault),
        }
    }
}

/// The prefixes of MP_REACH_NLRI.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub(crate) family: Family,
    pub(crate) next_hop: NextHop,
    pub(crate) prefixes: Vec<Nlri>,
}

/// The attributes of one UPDATE.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// All but the next hop, which each field of prefixes has for itself.
    pub(crate) attributes: Attributes,
    /// NEXT_HOP.
    pub(crate) next_hop: Option<Ipv4Addr>,
    pub(crate) reach: Option<Reach>,
    pub(crate) unreach: Option<(Family, Vec<Nlri>)>,
    /// The first errors; more than [`ERRORS`] are not kept.
    pub(crate) errors: Vec<AttributeError>,
    /// What the worst of all errors asks for.
    pub(crate) worst: Option<Handling>,
}

/// Errors kept of one message.
const ERRORS: usize = 8;

/// Reads the path attributes of an UPDATE; `prefixes`: the message has prefixes behind them.
///
/// # Errors
/// When the session cannot go on: the routes meant cannot be told (RFC 7606 sections 3 g, 3 j and 5.2).
pub(crate) fn parse(bytes: &[u8], context: &Context, prefixes: bool) -> Result<Parsed, AttributeError> {
    let mut draft = Draft::new(*context);
    let mut rest = Reader::new(bytes);
    let mut only_withdraws = true;
    while !rest.is_empty() {
        let Some((flags, code, value)) = header(&mut rest) else {
            // RFC 7606 section 4: what cannot be measured is not read.
            let code = bytes.get(bytes.len() - rest.len() + 1).copied().unwrap_or(0);
            draft.note(code, Fault::Overrun, Handling::Withdraw);
            only_withdraws = false;
            break;
        };
        only_withdraws &= code == MP_UNREACH_NLRI;
        draft.attribute(flags, code, value)?;
    }
    let reachable = prefixes || draft.foreign_reach || draft.parsed.reach.is_some();
    if reachable {
        draft.require_mandatory(prefixes);
    } else if draft.parsed.worst == Some(Handling::Withdraw) && !only_withdraws {
        let worst = draft.parsed.errors.iter().find(|e| e.handling == Handling::Withdraw).copied();
        let (code, fault) = worst.map_or((0, Fault::Overrun), |e| (e.code, e.fault));
        return Err(AttributeError { code, fault, handling: Handling::Reset });
    }
    Ok(draft.finish())
}

/// Flags, code and value of the next attribute; the cursor stays where it is when they do not fit.
fn header<'a>(rest: &mut Reader<'a>) -> Option<(u8, u8, Reader<'a>)> {
    let mut ahead = *rest;
    let (flags, code) = (ahead.u8()?, ahead.u8()?);
    let value = if flags & EXTENDED == 0 { ahead.field8()? } else { ahead.field16()? };
    *rest = ahead;
    Some((flags, code, value))
}

/// What has been read so far.
struct Draft {
    context: Context,
    parsed: Parsed,
    seen: [u64; 4],
    foreign_reach: bool,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<(u32, Ipv4Addr)>,
    unknown: Vec<Unknown>,
}

impl Draft {
    fn new(context: Context) -> Draft {
        let parsed = Parsed {
            attributes: Attributes::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            next_hop: None,
            reach: None,
            unreach: None,
            errors: Vec::new(),
            worst: None,
        };
        let (as4_path, as4_aggregator, unknown) = (None, None, Vec::new());
        Draft { context, parsed, seen: [0; 4], foreign_reach: false, as4_path, as4_aggregator, unknown }
    }

    fn note(&mut self, code: u8, fault: Fault, handling: Handling) {
        if self.parsed.errors.len() < ERRORS {
            self.parsed.errors.push(AttributeError { code, fault, handling });
        }
        self.parsed.worst = self.parsed.worst.max(Some(handling));
    }

    fn has(&self, code: u8) -> bool {
        self.seen[usize::from(code >> 6)] >> (code & 63) & 1 == 1
    }

    fn attribute(&mut self, bits: u8, code: u8, value: Reader<'_>) -> Result<(), AttributeError> {
        if self.has(code) {
            let multiprotocol = matches!(code, MP_REACH_NLRI | MP_UNREACH_NLRI);
            if multiprotocol {
                return Err(AttributeError { code, fault: Fault::Duplicate, handling: Handling::Reset });
            }
            self.note(code, Fault::Duplicate, Handling::Discard);
            return Ok(());
        }
        self.seen[usize::from(code >> 6)] |= 1 << (code & 63);
        // RFC 7606 sections 7.5, 7.9 and 7.10: these are not even looked at when they come from another AS.
        if !self.context.internal && matches!(code, LOCAL_PREF | ORIGINATOR_ID | CLUSTER_LIST) {
            self.note(code, Fault::External, Handling::Discard);
            return Ok(());
        }
        let kind = bits & (OPTIONAL | TRANSITIVE);
        let Some(expected) = flags(code) else {
            if bits & OPTIONAL == 0 {
                self.note(code, Fault::NotKnown, Handling::Withdraw);
            } else if bits & TRANSITIVE != 0 {
                let mut value = value;
                self.unknown.push(Unknown { code, value: value.rest().into() });
            }
            return Ok(());
        };
        if kind != expected {
            self.note(code, Fault::Flags, Handling::Withdraw);
            // The prefixes in it are the ones to withdraw, so they are read all the same.
            if !matches!(code, MP_REACH_NLRI | MP_UNREACH_NLRI) {
                return Ok(());
            }
        }
        match self.value(code, value) {
            Ok(()) => Ok(()),
            Err(fault) => {
                let handling = handling(code, fault);
                if handling == Handling::Reset {
                    return Err(AttributeError { code, fault, handling });
                }
                self.note(code, fault, handling);
                Ok(())
            }
        }
    }

    fn value(&mut self, code: u8, mut value: Reader<'_>) -> Result<(), Fault> {
        let wide = self.context.wide;
        let attributes = &mut self.parsed.attributes;
        match code {
            ORIGIN => {
                let [origin] = exact(value)?;
                let known = [Origin::Igp, Origin::Egp, Origin::Incomplete];
                attributes.origin = *known.get(usize::from(origin)).ok_or(Fault::Value)?;
            }
            AS_PATH => attributes.as_path = AsPath::parse(value, wide).map_err(|_| Fault::Value)?,
            NEXT_HOP => {
                let addr = Ipv4Addr::from(exact(value)?);
                if !usable(addr.into()) {
                    return Err(Fault::Value);
                }
                self.parsed.next_hop = Some(addr);
            }
            MULTI_EXIT_DISC => attributes.med = Some(u32::from_be_bytes(exact(value)?)),
            LOCAL_PREF => attributes.local_pref = Some(u32::from_be_bytes(exact(value)?)),
            ATOMIC_AGGREGATE => {
                exact::<0>(value)?;
                attributes.atomic_aggregate = true;
            }
            AGGREGATOR => attributes.aggregator = Some(aggregator(value, wide)?),
            COMMUNITIES => {
                attributes.communities = list(value, |b| Community(u32::from_be_bytes(b)))?;
            }
            ORIGINATOR_ID => attributes.originator_id = Some(Ipv4Addr::from(exact(value)?)),
            CLUSTER_LIST => attributes.cluster_list = list(value, |b: [u8; 4]| Ipv4Addr::from(b))?,
            EXTENDED_COMMUNITIES => attributes.extended_communities = list(value, |b: [u8; 8]| b)?,
            LARGE_COMMUNITY => {
                attributes.large_communities =
                    list(value, |[a, b, c, d, e, f, g, h, i, j, k, l]: [u8; 12]| {
                        LargeCommunity([[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_be_bytes))
                    })?;
            }
            // RFC 6793 section 3: between speakers that know four octets these two mean nothing.
            AS4_PATH | AS4_AGGREGATOR if wide => return Err(Fault::Value),
            AS4_PATH => self.as4_path = Some(AsPath::parse(value, true).map_err(|_| Fault::Value)?),
            AS4_AGGREGATOR => self.as4_aggregator = Some(aggregator(value, true)?),
            MP_REACH_NLRI => return self.reach(value),
            MP_UNREACH_NLRI => {
                let (afi, safi) = value.u16().zip(value.u8()).ok_or(Fault::Length)?;
                let Some(family) = self.agreed(afi, safi) else { return Err(Fault::Family) };
                let prefixes = nlri::parse(value, family, self.context.add_path[family]);
                self.parsed.unreach = Some((family, prefixes.ok_or(Fault::Prefixes)?));
            }
            _ => {}
        }
        Ok(())
    }

    /// MP_REACH_NLRI (RFC 4760 section 3).
    fn reach(&mut self, mut value: Reader<'_>) -> Result<(), Fault> {
        let (afi, safi) = value.u16().zip(value.u8()).ok_or(Fault::Length)?;
        let Some(family) = self.agreed(afi, safi) else {
            self.foreign_reach = true;
            return Err(Fault::Family);
        };
        let next_hop = value.field8().ok_or(Fault::Length)?;
        let next_hop = mp_next_hop(next_hop, family, self.context.extended_next_hop).ok_or(Fault::Length)?;
        value.u8().ok_or(Fault::Length)?;
        let prefixes = nlri::parse(value, family, self.context.add_path[family]).ok_or(Fault::Prefixes)?;
        if !usable(next_hop.addr) {
            self.note(MP_REACH_NLRI, Fault::Value, Handling::Withdraw);
        }
        self.parsed.reach = Some(Reach { family, next_hop, prefixes });
        Ok(())
    }

    fn agreed(&self, afi: u16, safi: u8) -> Option<Family> {
        Family::from_wire(afi, safi).filter(|family| self.context.families[*family])
    }

    /// RFC 4271 section 5, RFC 7606 section 3 d.
    fn require_mandatory(&mut self, prefixes: bool) {
        for (code, needed) in [(ORIGIN, true), (AS_PATH, true), (NEXT_HOP, prefixes)] {
            if needed && !self.has(code) {
                self.note(code, Fault::Missing, Handling::Withdraw);
            }
        }
    }

    /// Merges what two-octet speakers on the way had to split (RFC 6793 section 4.2.3).
    fn finish(mut self) -> Parsed {
        let attributes = &mut self.parsed.attributes;
        let trans = u32::from(crate::as_path::AS_TRANS);
        if attributes.aggregator.is_none_or(|(asn, _)| asn == trans) {
            if attributes.aggregator.is_some() && self.as4_aggregator.is_some() {
                attributes.aggregator = self.as4_aggregator;
            }
            if let Some(four) = self.as4_path {
                attributes.as_path = std::mem::take(&mut attributes.as_path).merge(&four);
            }
        }
        self.unknown.sort_by_key(|u| u.code);
        attributes.unknown = self.unknown.into();
        self.parsed
    }
}

/// What RFC 7606 section 7, RFC 6793 section 6 and RFC 8092 section 6 ask for when a value is wrong.
fn handling(code: u8, fault: Fault) -> Handling {
    match (code, fault) {
        (_, Fault::Family) => Handling::Discard,
        (MP_REACH_NLRI | MP_UNREACH_NLRI, _) => Handling::Reset,
        (ATOMIC_AGGREGATE | AGGREGATOR | AS4_PATH | AS4_AGGREGATOR, _) => Handling::Discard,
        _ => Handling::Withdraw,
    }
}

fn exact<const N: usize>(mut value: Reader<'_>) -> Result<[u8; N], Fault> {
    value.array().filter(|_| value.is_empty()).ok_or(Fault::Length)
}

/// A list whose length is a multiple of an element's, and not zero.
fn list<const N: usize, T>(mut value: Reader<'_>, element: impl Fn([u8; N]) -> T) -> Result<Box<[T]>, Fault> {
    let (elements, rest) = value.rest().as_chunks();
    if elements.is_empty() || !rest.is_empty() {
        return Err(Fault::Length);
    }
    Ok(elements.iter().map(|bytes| element(*bytes)).collect())
}

fn aggregator(mut value: Reader<'_>, wide: bool) -> Result<(u32, Ipv4Addr), Fault> {
    let asn = if wide { value.u32() } else { value.u16().map(u32::from) };
    let asn = asn.ok_or(Fault::Length)?;
    let id = Ipv4Addr::from(exact(value)?);
    // RFC 7607: AS 0 in AGGREGATOR or AS4_AGGREGATOR is malformed.
    if asn == 0 { Err(Fault::Value) } else { Ok((asn, id)) }
}

fn mp_next_hop(mut value: Reader<'_>, family: Family, extended: bool) -> Option<NextHop> {
    match (family, value.len()) {
        (Family::Ipv4, 4) => Some(IpAddr::V4(Ipv4Addr::from(value.array()?)).into()),
        (Family::Ipv4, 16 | 32) if !extended => None,
        (_, 16) => Some(IpAddr::V6(Ipv6Addr::from(value.array::<16>()?)).into()),
        (_, 32) => {
            let addr = IpAddr::V6(Ipv6Addr::from(value.array::<16>()?));
            let link_local = Ipv6Addr::from(value.array::<16>()?);
            let link_local = Some(link_local).filter(Ipv6Addr::is_unicast_link_local);
            Some(NextHop { addr, link_local })
        }
        _ => None,
    }
}

/// Can a packet be sent there (RFC 4271 section 6.3)?
fn usable(addr: IpAddr) -> bool {
    let special = addr.is_unspecified() || addr.is_multicast() || addr.is_loopback();
    !special && addr != IpAddr::V4(Ipv4Addr::BROADCAST)
}
