//! Tests of the whole: what the integration tests beside this library share.
//!
//! The network they run on is `vswitch::lab`, the same as `vsctl lab` and the comparison use.

pub mod etcd;
pub mod leftovers;
pub mod live;
pub mod metrics;
pub mod programs;
pub mod routers;
pub mod serial;
pub mod sim;
pub mod talk;
