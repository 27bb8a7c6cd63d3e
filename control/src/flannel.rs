//! flannel's formats: what its nodes read and write, so that a fleet may be of both.
//!
//! Pure codecs, but for the file of [`subnet_env`]: text in, checked value or an error that names the field out. They
//! know nothing of etcd or Kubernetes; [`crate::store`] brings the text. Whatever stands in a store was written by a
//! stranger: every value is bounded and checked, and [`roster`] leaves out what contradicts the rest.
//!
//! As Go's decoder does, field names are matched without regard to case, `null` is the same as absent, and unknown
//! fields are skipped. A field that is given twice in different case is an error here.

pub mod annotations;
mod field;
pub mod lease;
pub mod leases;
pub mod network;
pub mod roster;
pub mod subnet_env;

pub use self::field::FormatError;
pub use self::lease::{LeaseBackend, LeaseKey, LeaseValue, Vtep};
pub use self::leases::Leases;
pub use self::network::{BackendConfig, NetworkConfig, Pool};
pub use self::roster::{Entry, Roster};
