//! Attributes to bytes, in the order of their codes. MP_REACH_NLRI and MP_UNREACH_NLRI belong to the message and are
//! written there.

use std::net::IpAddr;

use super::Attributes;
use super::code::*;

impl Attributes {
    /// Writes every attribute but those with prefixes in them. NEXT_HOP only where `next_hop` says so: routes in
    /// MP_REACH_NLRI have theirs there. `wide`: the peer knows 4-octet AS numbers; else AS4_PATH and AS4_AGGREGATOR
    /// carry what does not fit (RFC 6793 section 4.2.2).
    pub(crate) fn emit(&self, wide: bool, next_hop: bool, out: &mut Vec<u8>) {
        put(TRANSITIVE, ORIGIN, out, |out| out.push(self.origin as u8));
        put(TRANSITIVE, AS_PATH, out, |out| self.as_path.emit(wide, out));
        if let (true, IpAddr::V4(addr)) = (next_hop, self.next_hop.addr) {
            put(TRANSITIVE, NEXT_HOP, out, |out| out.extend(addr.octets()));
        }
        if let Some(med) = self.med {
            put(OPTIONAL, MULTI_EXIT_DISC, out, |out| out.extend(med.to_be_bytes()));
        }
        if let Some(preference) = self.local_pref {
            put(TRANSITIVE, LOCAL_PREF, out, |out| out.extend(preference.to_be_bytes()));
        }
        if self.atomic_aggregate {
            put(TRANSITIVE, ATOMIC_AGGREGATE, out, |_| ());
        }
        if let Some((asn, id)) = self.aggregator {
            put(OPTIONAL | TRANSITIVE, AGGREGATOR, out, |out| {
                if wide {
                    out.extend(asn.to_be_bytes());
                } else {
                    out.extend(u16::try_from(asn).unwrap_or(crate::as_path::AS_TRANS).to_be_bytes());
                }
                out.extend(id.octets());
            });
        }
        if !self.communities.is_empty() {
            put(OPTIONAL | TRANSITIVE, COMMUNITIES, out, |out| {
                out.extend(self.communities.iter().flat_map(|c| c.0.to_be_bytes()));
            });
        }
        if let Some(id) = self.originator_id {
            put(OPTIONAL, ORIGINATOR_ID, out, |out| out.extend(id.octets()));
        }
        if !self.cluster_list.is_empty() {
            put(OPTIONAL, CLUSTER_LIST, out, |out| {
                out.extend(self.cluster_list.iter().flat_map(|id| id.octets()));
            });
        }
        if !self.extended_communities.is_empty() {
            put(OPTIONAL | TRANSITIVE, EXTENDED_COMMUNITIES, out, |out| {
                out.extend(self.extended_communities.iter().flatten());
            });
        }
        if !wide && self.as_path.is_wide() {
            put(OPTIONAL | TRANSITIVE, AS4_PATH, out, |out| self.as_path.emit(true, out));
        }
        if let Some((asn, id)) = self.aggregator.filter(|(asn, _)| !wide && *asn > u32::from(u16::MAX)) {
            put(OPTIONAL | TRANSITIVE, AS4_AGGREGATOR, out, |out| {
                out.extend(asn.to_be_bytes());
                out.extend(id.octets());
            });
        }
        // In order of their codes with the others: 32 is the highest we know, and unknown ones are few.
        let large = || !self.large_communities.is_empty();
        let (below, above): (Vec<_>, Vec<_>) = self.unknown.iter().partition(|u| u.code < LARGE_COMMUNITY);
        let unknown = |out: &mut Vec<u8>, list: &[&super::Unknown]| {
            for u in list {
                put(OPTIONAL | TRANSITIVE | PARTIAL, u.code, out, |out| out.extend(&*u.value));
            }
        };
        unknown(out, &below);
        if large() {
            put(OPTIONAL | TRANSITIVE, LARGE_COMMUNITY, out, |out| {
                out.extend(self.large_communities.iter().flat_map(|c| c.0).flat_map(u32::to_be_bytes));
            });
        }
        unknown(out, &above);
    }
}

/// Writes one attribute; the length takes a second byte only when it must.
pub(crate) fn put(flags: u8, code: u8, out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([flags, code, 0]);
    value(out);
    let length = out.len() - at - 3;
    match u8::try_from(length) {
        Ok(length) => out[at + 2] = length,
        Err(_) => {
            out[at] |= EXTENDED;
            // A set that is longer than a message is never sent (`rib::out`), so what is cut here is not seen.
            let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
            out[at + 2] = high;
            out.insert(at + 3, low);
        }
    }
}
