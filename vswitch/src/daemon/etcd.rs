//! The etcd store as the control thread has it: what it told, what it is asked.
//!
//! The store has a thread of its own ([`control::store::etcd`]). What it tells lies in a mailbox until the control
//! thread takes it, so neither ever waits for the other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use control::api::{self, ApiError, StoreInfo, StoreReply, code};
use control::attachments::Attachment;
use control::blocks::{AssignError, ChooseError, Problem, Repaired, Surveyed};
use control::config::{Config, EtcdSettings, Ipam, Tunnel};
use control::flannel::subnet_env::SubnetEnv;
use control::fleet::Fleet;
use control::mac::Mac;
use control::objects::{Item, Key, Kind};
use control::store::Objects;
use control::store::etcd::{
    EtcdStore, IpamError, IpamReply, IpamRequest, NodeFacts, NotReady, ObjectChange, PublishedPod, Reply,
    Request, RequestError, StartError, StoreEvent, Timing,
};
use crossbeam::channel::Sender;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use super::pools::Wanted;
use super::{Daemon, Event};

/// How long a node that knows nothing waits for etcd before it tells so, and begins again.
const FIRST: Duration = Duration::from_secs(30);

/// What the control thread does next.
pub(super) type Then = Box<dyn FnOnce(&mut Daemon) + Send>;

/// Takes what came of a request.
pub(super) type Answer = Box<dyn FnOnce(Result<StoreReply, ApiError>) + Send>;

/// The store could not give what a node starts with.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No thread.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Nothing is known.
    #[error("store.type = \"etcd\": {0}")]
    NotReady(#[from] NotReady),
}

/// What the store told since it was asked last. The latest of each sort counts, and every change of an object.
#[derive(Default)]
pub(super) struct News {
    /// The nodes.
    pub(super) fleet: Option<Arc<Fleet>>,
    objects: Vec<ObjectChange>,
    /// What is wrong with keys.
    pub(super) problems: Option<Vec<(String, String)>>,
    /// Requests about addresses that have come to their end.
    pub(super) then: Vec<Then>,
}

impl News {
    /// Brings changed objects into force; true when that changed anything.
    pub(super) fn apply(&mut self, objects: &mut Objects) -> bool {
        let changes = std::mem::take(&mut self.objects);
        // Every one of them, whatever the others changed.
        changes.into_iter().fold(false, |any, change| change.apply(objects) | any)
    }
}

/// The store.
pub(super) struct Etcd {
    store: EtcdStore,
    news: Arc<Mutex<News>>,
    control: Sender<Event>,
}

impl Etcd {
    /// Starts it. `vtep_mac` is the node's, if it has one already.
    ///
    /// # Errors
    /// [`EtcdError::Start`].
    pub(super) fn start(
        settings: &EtcdSettings,
        config: &Config,
        vtep_mac: Option<Mac>,
        control: Sender<Event>,
    ) -> Result<Etcd, EtcdError> {
        let written = match &config.tunnel {
            Tunnel::Vxlan { vtep_mac, .. } => *vtep_mac,
            _ => None,
        };
        let node = NodeFacts {
            name: config.node.name.clone(),
            address: config.node.address,
            address6: config.node.address6,
            vtep_mac: written.or(vtep_mac),
            subnet_env: settings.subnet_env.clone(),
            pools: config.ipam == Ipam::Pools,
        };
        let news = Arc::new(Mutex::new(News::default()));
        let (mailbox, waker) = (Arc::clone(&news), control.clone());
        let on_event = move |event| {
            let mut news = mailbox.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                StoreEvent::Fleet(fleet) => news.fleet = Some(fleet),
                StoreEvent::Objects(mut changes) => news.objects.append(&mut changes),
                StoreEvent::Problems(problems) => news.problems = Some(problems),
                // Told of by the store itself.
                StoreEvent::Health(_) => return,
            }
            drop(news);
            // When its queue is full it is awake, and looks here before it sleeps.
            let _ = control.try_send(Event::Store);
        };
        let (state, settings) = (&config.node.state_dir, settings.clone());
        let store = EtcdStore::start(settings, Timing::default(), node, state, Box::new(on_event))?;
        Ok(Etcd { store, news, control: waker })
    }

    /// The nodes: as kept, when something is, so that a restart waits for nobody; else as etcd says.
    ///
    /// # Errors
    /// [`EtcdError::NotReady`].
    pub(super) fn first(&self) -> Result<Fleet, EtcdError> {
        let first = match self.store.wait_first(Duration::ZERO) {
            Ok(first) => first,
            Err(_) => self.store.wait_first(FIRST)?,
        };
        if let Some(at) = first.kept {
            let age = SystemTime::now().duration_since(at).unwrap_or_default();
            tracing::info!(age_s = age.as_secs(), "starting with what was kept of etcd");
        }
        Ok(Fleet::clone(&first.fleet))
    }

    /// What it told since.
    pub(super) fn take(&self) -> News {
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets somebody take the objects told so far; everything else stays for [`Etcd::take`].
    pub(super) fn begin(&self, take: impl FnOnce(&mut News)) {
        take(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Publishes these pods as attached here. Their labels are those of Pod objects, which whoever reads both puts together.
    pub(super) fn publish<'a>(&self, pods: impl Iterator<Item = &'a Attachment>) {
        let published = |a: &Attachment| PublishedPod {
            namespace: a.pod.namespace.clone(),
            name: a.pod.name.clone(),
            labels: BTreeMap::new(),
            addrs: a.addresses.clone(),
        };
        self.store.publish_pods(pods.map(published).collect());
    }

    /// Has a request carried out; `answer` is called on the store's thread.
    ///
    /// # Errors
    /// `answer` back, and what is wrong with the request.
    pub(super) fn request(&self, request: api::Request, answer: Answer) -> Result<(), (Answer, String)> {
        let request = match wanted(request) {
            Ok(request) => request,
            Err(why) => return Err((answer, why)),
        };
        let reply = move |reply: Result<Reply, RequestError>| {
            answer(match reply {
                Ok(Reply::Applied { revision }) => Ok(StoreReply { revision, ..StoreReply::default() }),
                Ok(Reply::Deleted { existed }) => Ok(StoreReply { existed, ..StoreReply::default() }),
                Ok(Reply::Found(found)) => {
                    let objects = found.into_iter().map(|f| f.manifest).collect();
                    Ok(StoreReply { objects, ..StoreReply::default() })
                }
                Err(err @ RequestError::Invalid { .. }) => {
                    Err(ApiError::new(code::INVALID_CONFIG, super::chain(&err)))
                }
                Err(err) => Err(ApiError::new(code::TRY_LATER, super::chain(&err))),
            });
        };
        self.store.request(request, Box::new(reply));
        Ok(())
    }

    /// Has a request about addresses carried out; `then` is called by the control thread.
    fn ipam<T: Send + 'static>(
        &self,
        request: IpamRequest,
        read: fn(IpamReply) -> Option<T>,
        then: impl FnOnce(&mut Daemon, Result<T, ApiError>) + Send + 'static,
    ) {
        let (mailbox, control) = (Arc::clone(&self.news), self.control.clone());
        let answer = move |reply: Result<IpamReply, IpamError>| {
            let result = match reply.map(read) {
                Ok(Some(value)) => Ok(value),
                Ok(None) => Err(ApiError::new(code::INTERNAL, "the store answered another question")),
                Err(err) => Err(ipam_error(&err)),
            };
            let mut news = mailbox.lock().unwrap_or_else(PoisonError::into_inner);
            news.then.push(Box::new(move |daemon| then(daemon, result)));
            drop(news);
            let _ = control.try_send(Event::Store);
        };
        self.store.ipam(request, Box::new(answer));
    }

    /// Asks for a pod's addresses.
    pub(super) fn assign(
        &self,
        wanted: Wanted,
        then: impl FnOnce(&mut Daemon, Result<Vec<IpAddr>, ApiError>) + Send + 'static,
    ) {
        let Wanted { namespace, name, handle, of, addrs } = wanted;
        let request = IpamRequest::Assign { namespace, name, handle, of, addrs };
        let read = |reply| if let IpamReply::Assigned(addrs) = reply { Some(addrs) } else { None };
        self.ipam(request, read, then);
    }

    /// Gives back what a handle has.
    pub(super) fn release(
        &self,
        handle: String,
        addrs: Vec<IpAddr>,
        then: impl FnOnce(&mut Daemon, Result<Vec<IpAddr>, ApiError>) + Send + 'static,
    ) {
        self.ipam(IpamRequest::Release { handle, addrs }, released, then);
    }

    /// Gives one address back, whoever has it.
    pub(super) fn release_address(
        &self,
        addr: IpAddr,
        then: impl FnOnce(&mut Daemon, Result<Vec<IpAddr>, ApiError>) + Send + 'static,
    ) {
        self.ipam(IpamRequest::ReleaseAddress(addr), released, then);
    }

    /// Reads all pools and blocks.
    pub(super) fn survey(&self, then: impl FnOnce(&mut Daemon, Result<Surveyed, ApiError>) + Send + 'static) {
        let read = |reply| if let IpamReply::Survey(all) = reply { Some(*all) } else { None };
        self.ipam(IpamRequest::Survey, read, then);
    }

    /// Puts findings right.
    pub(super) fn repair(
        &self,
        problems: Vec<Problem>,
        then: impl FnOnce(&mut Daemon, Result<Vec<Repaired>, ApiError>) + Send + 'static,
    ) {
        let read = |reply| if let IpamReply::Repaired(all) = reply { Some(all) } else { None };
        self.ipam(IpamRequest::Repair(problems), read, then);
    }

    /// How it stands.
    pub(super) fn info(&self) -> StoreInfo {
        let health = self.store.health();
        let ago = |at: SystemTime| SystemTime::now().duration_since(at).unwrap_or_default().as_secs();
        StoreInfo {
            kind: "etcd".to_owned(),
            connected: health.connected,
            age_s: health.since.filter(|_| !health.connected).map(ago),
            endpoint: health.endpoint,
            revision: health.revision,
            lease: health.lease.as_ref().map(|lease| lease.key.clone()),
            lease_ends_s: health
                .lease
                .and_then(|lease| lease.expires)
                .and_then(|at| at.duration_since(SystemTime::now()).ok())
                .map(|left| left.as_secs()),
            error: health.error,
        }
    }

    /// Ends it. The lease and the published pods stay for the node's next start.
    pub(super) fn stop(self) {
        self.store.stop(false);
    }
}

fn released(reply: IpamReply) -> Option<Vec<IpAddr>> {
    if let IpamReply::Released(addrs) = reply { Some(addrs) } else { None }
}

/// An error as CNI has it.
fn ipam_error(err: &IpamError) -> ApiError {
    let code = match err {
        IpamError::Assign(AssignError::Taken { .. }) => code::ADDRESS_TAKEN,
        IpamError::Assign(AssignError::Exhausted { .. }) | IpamError::Choose(ChooseError::None) => {
            code::NO_ADDRESS_LEFT
        }
        IpamError::Assign(AssignError::Strict { .. }) | IpamError::Choose(_) => code::ADDRESS_REFUSED,
        IpamError::Off => code::UNSUPPORTED_FIELD,
        IpamError::NotReached(_) | IpamError::Assign(_) | IpamError::Late | IpamError::Stopped => {
            code::TRY_LATER
        }
    };
    ApiError::new(code, super::chain(err))
}

/// The request in the store's words.
fn wanted(request: api::Request) -> Result<Request, String> {
    Ok(match request {
        api::Request::Apply { manifest } => {
            let (key, manifest) = object(manifest)?;
            Request::Apply { key, manifest, over: None }
        }
        api::Request::Delete { manifest } => Request::Delete { key: object(manifest)?.0, over: None },
        api::Request::Get { kind, namespace, name } => {
            let kind = Kind::named(&kind).ok_or_else(|| format!("{kind}: no such kind of object"))?;
            Request::Get { kind, namespace, name }
        }
        _ => return Err("this is nothing for the store".to_owned()),
    })
}

/// The one object of a manifest, and what names it.
fn object(manifest: Value) -> Result<(Key, Value), String> {
    let mut items = Vec::new();
    control::objects::read_value(manifest, &mut items);
    match items.pop() {
        Some(Item::Known { key, source, .. }) if items.is_empty() => Ok((key, Value::clone(&source))),
        Some(Item::Unknown { what, error }) => Err(format!("{what}: {error}")),
        _ => Err("a manifest of one object is wanted".to_owned()),
    }
}

/// Tells flannel's plugin and others of the node's subnet, where the file says something else.
///
/// # Errors
/// Of the file system.
pub(super) fn write_subnet_env(
    path: &Path,
    fleet: &Fleet,
    mtu: u32,
    masquerade: bool,
) -> std::io::Result<()> {
    let of = |nets: &[IpNet]| -> (Vec<Ipv4Net>, Vec<Ipv6Net>) {
        let v4 = nets.iter().filter_map(|net| if let IpNet::V4(v4) = net { Some(*v4) } else { None });
        let v6 = nets.iter().filter_map(|net| if let IpNet::V6(v6) = net { Some(*v6) } else { None });
        (v4.collect(), v6.collect())
    };
    let ((networks, networks6), (subnets, subnets6)) = (of(&fleet.cluster_cidrs), of(&fleet.pod_cidrs));
    let (subnet, subnet6) = (subnets.first().copied(), subnets6.first().copied());
    let env = SubnetEnv { networks, subnet, networks6, subnet6, mtu, ip_masq: masquerade };
    if std::fs::read_to_string(path).is_ok_and(|text| text == env.render()) {
        return Ok(());
    }
    env.write(path)
}
