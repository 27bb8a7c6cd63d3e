//! A build without the etcd store: what configures it is refused at the start.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use control::api::{self, ApiError, StoreInfo, StoreReply};
use control::attachments::Attachment;
use control::blocks::{Problem, Repaired, Surveyed};
use control::config::{Config, EtcdSettings};
use control::fleet::Fleet;
use control::mac::Mac;
use control::store::Objects;
use crossbeam::channel::Sender;

use super::pools::Wanted;
use super::{Daemon, Event};

/// What the control thread does next.
pub(super) type Then = Box<dyn FnOnce(&mut Daemon) + Send>;

/// Takes what came of a request.
pub(super) type Answer = Box<dyn FnOnce(Result<StoreReply, ApiError>) + Send>;

/// There is none.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Not in this build.
    #[error("store.type = \"etcd\": this program was built without the feature etcd")]
    Absent,
}

/// Nothing is told.
pub(super) struct News {
    pub(super) fleet: Option<Arc<Fleet>>,
    pub(super) problems: Option<Vec<(String, String)>>,
    pub(super) then: Vec<Then>,
}

impl News {
    pub(super) fn apply(&mut self, _objects: &mut Objects) -> bool {
        false
    }
}

/// There is none.
pub(super) enum Etcd {}

impl Etcd {
    pub(super) fn start(
        _settings: &EtcdSettings,
        _config: &Config,
        _vtep_mac: Option<Mac>,
        _control: Sender<Event>,
    ) -> Result<Etcd, EtcdError> {
        Err(EtcdError::Absent)
    }

    pub(super) fn first(&self) -> Result<Fleet, EtcdError> {
        match *self {}
    }

    pub(super) fn take(&self) -> News {
        match *self {}
    }

    pub(super) fn begin(&self, _take: impl FnOnce(&mut News)) {
        match *self {}
    }

    pub(super) fn publish<'a>(&self, _pods: impl Iterator<Item = &'a Attachment>) {
        match *self {}
    }

    pub(super) fn request(&self, _request: api::Request, _answer: Answer) -> Result<(), (Answer, String)> {
        match *self {}
    }

    pub(super) fn assign(
        &self,
        _wanted: Wanted,
        _then: impl FnOnce(&mut Daemon, Result<Vec<IpAddr>, ApiError>) + Send + 'static,
    ) {
        match *self {}
    }

    pub(super) fn release(
        &self,
        _handle: String,
        _addrs: Vec<IpAddr>,
        _then: impl FnOnce(&mut Daemon, Result<Vec<IpAddr>, ApiError>) + Send + 'static,
    ) {
        match *self {}
    }

    pub(super) fn release_address(
        &self,
        _addr: IpAddr,
        _then: impl FnOnce(&mut Daemon, Result<Vec<IpAddr>, ApiError>) + Send + 'static,
    ) {
        match *self {}
    }

    pub(super) fn survey(
        &self,
        _then: impl FnOnce(&mut Daemon, Result<Surveyed, ApiError>) + Send + 'static,
    ) {
        match *self {}
    }

    pub(super) fn repair(
        &self,
        _problems: Vec<Problem>,
        _then: impl FnOnce(&mut Daemon, Result<Vec<Repaired>, ApiError>) + Send + 'static,
    ) {
        match *self {}
    }

    pub(super) fn info(&self) -> StoreInfo {
        match *self {}
    }

    pub(super) fn stop(self) {
        match self {}
    }
}

/// Nobody asks.
pub(super) fn write_subnet_env(
    _path: &Path,
    _fleet: &Fleet,
    _mtu: u32,
    _masquerade: bool,
) -> std::io::Result<()> {
    Ok(())
}
