//! UPDATE, received (RFC 4271 section 4.3): which routes it announces and withdraws once RFC 7606 has had its say.
//!
//! ```text
//! +-----------------------------------------------------+
//! |   Withdrawn routes length (2 bytes)                 |
//! +-----------------------------------------------------+
//! |   Withdrawn routes (variable)                       |
//! +-----------------------------------------------------+
//! |   Total path attribute length (2 bytes)             |
//! +-----------------------------------------------------+
//! |   Path attributes (variable)                        |
//! +-----------------------------------------------------+
//! |   Network layer reachability information (variable) |
//! +-----------------------------------------------------+
//! ```

use std::net::IpAddr;

use super::notification::{self, Notification};
use crate::attr::code::{MP_REACH_NLRI, MP_UNREACH_NLRI};
use crate::attr::{self, AttributeError, Attributes, Context, Fault, Handling};
use crate::family::Family;
use crate::nlri::{self, Nlri};
use crate::reader::Reader;

#[cfg(test)]
mod tests;

/// Routes with one set of attributes.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Announced {
    pub(crate) family: Family,
    pub(crate) attributes: Attributes,
    pub(crate) prefixes: Vec<Nlri>,
}

/// What an UPDATE says. Its memory is at most a small multiple of the message's length.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Update {
    pub(crate) withdrawn: Vec<(Family, Vec<Nlri>)>,
    pub(crate) announced: Vec<Announced>,
    /// The peer has sent all it had (RFC 4724 section 2).
    pub(crate) end_of_rib: Option<Family>,
    /// Attributes that were wrong and did not end the session; the first few.
    pub(crate) errors: Vec<AttributeError>,
    /// Routes counted as withdrawn because of them.
    pub(crate) treated_as_withdrawn: usize,
}

/// The session cannot go on (RFC 4271 section 6.3, as far as RFC 7606 leaves it).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    /// The lengths in the message contradict each other.
    #[error("the lengths in an UPDATE contradict each other")]
    Lengths,
    /// A prefix outside the attributes cannot be read.
    #[error("an UPDATE has prefixes that cannot be read")]
    Prefixes,
    /// An attribute is wrong in a way that leaves open which routes are meant.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
}

impl From<UpdateError> for Notification {
    fn from(error: UpdateError) -> Notification {
        let subcode = match error {
            UpdateError::Lengths => 1,
            UpdateError::Prefixes => 10,
            UpdateError::Attribute(AttributeError {
                code: MP_REACH_NLRI | MP_UNREACH_NLRI, fault, ..
            }) if fault != Fault::Duplicate => 9,
            UpdateError::Attribute(_) => 1,
        };
        Notification::new((notification::UPDATE, subcode))
    }
}

impl Update {
    /// Reads a message's body.
    ///
    /// # Errors
    /// When it cannot be told which routes are meant.
    pub(crate) fn parse(body: &[u8], context: &Context) -> Result<Update, UpdateError> {
        let mut body = Reader::new(body);
        let withdrawn = body.field16().ok_or(UpdateError::Lengths)?;
        let mut attributes = body.field16().ok_or(UpdateError::Lengths)?;
        let attributes = attributes.rest();
        let add_path = context.add_path[Family::Ipv4];
        let prefixes = |field| nlri::parse(field, Family::Ipv4, add_path).ok_or(UpdateError::Prefixes);
        let (withdrawn, announced) = (prefixes(withdrawn)?, prefixes(body)?);
        let parsed = attr::parse(attributes, context, !announced.is_empty())?;
        let mut update = Update { errors: parsed.errors, ..Update::default() };
        update.end_of_rib = match &parsed.unreach {
            None if attributes.is_empty() && withdrawn.is_empty() && announced.is_empty() => {
                Some(Family::Ipv4)
            }
            Some((family, list)) if list.is_empty() && withdrawn.is_empty() && announced.is_empty() => {
                Some(*family).filter(|_| parsed.reach.is_none())
            }
            _ => None,
        };
        update.withdraw(Family::Ipv4, withdrawn);
        if let Some((family, list)) = parsed.unreach {
            update.withdraw(family, list);
        }
        let keep = parsed.worst < Some(Handling::Withdraw);
        if let Some(reach) = parsed.reach {
            let attributes = Attributes { next_hop: reach.next_hop, ..parsed.attributes.clone() };
            update.announce(keep, reach.family, attributes, reach.prefixes);
        }
        let next_hop = parsed.next_hop.map(IpAddr::V4);
        match next_hop {
            Some(addr) => {
                let attributes = Attributes { next_hop: addr.into(), ..parsed.attributes };
                update.announce(keep, Family::Ipv4, attributes, announced);
            }
            // It is mandatory: `parse` has asked for a withdrawal.
            None => update.announce(false, Family::Ipv4, parsed.attributes, announced),
        }
        Ok(update)
    }

    fn withdraw(&mut self, family: Family, prefixes: Vec<Nlri>) {
        if !prefixes.is_empty() {
            self.withdrawn.push((family, prefixes));
        }
    }

    fn announce(&mut self, keep: bool, family: Family, attributes: Attributes, prefixes: Vec<Nlri>) {
        if prefixes.is_empty() {
        } else if keep {
            self.announced.push(Announced { family, attributes, prefixes });
        } else {
            self.treated_as_withdrawn += prefixes.len();
            self.withdrawn.push((family, prefixes));
        }
    }
}
