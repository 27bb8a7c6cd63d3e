//! What is not as somebody wrote it, in words for that somebody.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use policy::model::{EndpointId, PolicyId};

use crate::objects::{FieldError, Key};

/// What is in force in place of an invalid version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The last valid version.
    LastValid,
    /// A policy that selects what this one selects, and denies.
    Denies,
    /// Nothing: whom it was about cannot be read.
    Nothing,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::LastValid => "its last valid version stays in force",
            Standing::Denies => "until it is valid, what it selects is denied",
            Standing::Nothing => "it is ignored",
        })
    }
}

/// One thing that is not as written.
#[derive(Clone, PartialEq, Debug)]
pub enum Problem {
    /// An object is not valid.
    Refused {
        /// The object.
        key: Key,
        /// What is wrong; never empty.
        errors: Vec<FieldError>,
        /// What is in force instead.
        standing: Standing,
    },
    /// Pods claim one address, and no attachment says whose it is: nobody has it.
    Claimed {
        /// The address.
        addr: IpAddr,
        /// Who claims it.
        by: Vec<EndpointId>,
    },
    /// A pod claims an address that is attached here as another's: the attached pod has it.
    Attached {
        /// The address.
        addr: IpAddr,
        /// The pod that has it.
        owner: EndpointId,
        /// The pod that does not.
        claimant: EndpointId,
    },
    /// A pod that is not of the host's network claims a node's address, or one that nothing can have: it has not.
    NotAPods {
        /// The address.
        addr: IpAddr,
        /// The pod.
        claimant: EndpointId,
    },
    /// A policy is in a tier that there is no object of: the tier stands last and denies.
    NoTier {
        /// The policy.
        policy: PolicyId,
        /// Its tier.
        tier: Arc<str>,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Refused { key, errors, standing } => {
                write!(f, "{key}: ")?;
                for error in errors {
                    write!(f, "{error}; ")?;
                }
                write!(f, "{standing}")
            }
            Problem::Claimed { addr, by } => {
                write!(f, "address {addr} is claimed by several pods, and none of them has it:")?;
                by.iter().try_for_each(|pod| write!(f, " {pod}"))
            }
            Problem::Attached { addr, owner, claimant } => {
                write!(f, "address {addr} is claimed by pod {claimant}, but attached here as pod {owner}'s")
            }
            Problem::NotAPods { addr, claimant } => {
                write!(f, "address {addr}, claimed by pod {claimant}, is no pod's address")
            }
            Problem::NoTier { policy, tier } => {
                write!(f, "{policy}: there is no tier {tier}; it is evaluated last, and denies at its end")
            }
        }
    }
}
