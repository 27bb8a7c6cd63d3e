//! Pools and blocks as the engine knows them: what is routed where, who may have which address, and this node's Node
//! object, by which the others know whose blocks are whose.

mod ways;

use self::ways::Ways;
use super::*;
use crate::blocks::{self, Facts, PodWishes, PoolRange, Routes, Surveyed, Table, choose};
use crate::objects::meta::LabelMap;
use crate::objects::{IpPool, Kind, Object};
use crate::store::etcd::ipam::{self, Answer, IpamError, IpamRequest, Job, Keys};
use ipnet::IpNet;
use serde_json::{Value, json};

/// Between two attempts to write our Node object.
const REGISTER: Duration = Duration::from_secs(2);

/// By name.
type Pools = BTreeMap<Arc<str>, Arc<IpPool>>;

/// All of it; there is none where addresses come from the node's own range.
pub(super) struct Blocks {
    table: Table,
    seen: BTreeMap<Source, BTreeSet<String>>,
    pools: Pools,
    reservations: BTreeMap<Arc<str>, Arc<[IpNet]>>,
    nodes: BTreeMap<Arc<str>, (Vec<IpAddr>, LabelMap)>,
    /// In force: of before, until everything was listed.
    routes: Routes,
    problems: BTreeMap<String, String>,
    jobs: mpsc::UnboundedSender<(Job, Answer)>,
    inbox: Option<mpsc::UnboundedReceiver<(Job, Answer)>>,
    registering: bool,
    register_at: Option<Instant>,
}

impl Blocks {
    pub(super) fn new(routes: Routes) -> Blocks {
        let (jobs, inbox) = mpsc::unbounded_channel();
        Blocks {
            table: Table::default(),
            seen: BTreeMap::new(),
            pools: BTreeMap::new(),
            reservations: BTreeMap::new(),
            nodes: BTreeMap::new(),
            routes,
            problems: BTreeMap::new(),
            jobs,
            inbox: Some(inbox),
            registering: false,
            register_at: None,
        }
    }

    /// The task that gives and takes addresses.
    pub(super) fn start(&mut self, client: &Client, node: &str) {
        if let Some(inbox) = self.inbox.take() {
            tokio::spawn(ipam::serve(Keys::new(client.clone()), node.to_owned(), inbox));
        }
    }

    pub(super) fn routes(&self) -> &Routes {
        &self.routes
    }

    pub(super) fn problems(&self, all: &mut BTreeMap<String, String>) {
        all.extend(self.problems.iter().map(|(key, problem)| (key.clone(), problem.clone())));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.register_at.filter(|_| !self.registering)
    }

    pub(super) fn listing(&mut self, source: Source) {
        self.seen.insert(source, BTreeSet::new());
    }

    pub(super) fn is_listing(&self) -> bool {
        !self.seen.is_empty()
    }

    pub(super) fn listed(&mut self, source: Source) {
        if let Some(seen) = self.seen.remove(&source) {
            self.table.keep_only(prefix(source), &seen);
        }
    }

    /// True when that may change a route.
    pub(super) fn put(&mut self, source: Source, kv: &super::super::wire::KeyValue) -> bool {
        let Ok(key) = std::str::from_utf8(&kv.key) else { return false };
        if let Some(seen) = self.seen.get_mut(&source) {
            seen.insert(key.to_owned());
        }
        self.table.put(key, &kv.value)
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> bool {
        std::str::from_utf8(key).is_ok_and(|key| self.table.delete(key))
    }

    /// An object has another version; true when that may change a route.
    pub(super) fn object(&mut self, key: &Key, object: Option<&Object>) -> bool {
        match (key.kind, object) {
            (Kind::IpPool, Some(Object::Pool(pool))) => {
                self.pools.insert(Arc::clone(&key.name), Arc::clone(pool)).as_ref() != Some(pool)
            }
            (Kind::Node, Some(Object::Node(node))) => {
                let now = (node.addrs.clone(), node.labels.clone());
                let before = self.nodes.insert(Arc::clone(&key.name), now);
                before.is_none_or(|(addrs, _)| addrs != node.addrs)
            }
            (Kind::IpReservation, object) => {
                match object {
                    Some(Object::Reservation(nets)) => {
                        self.reservations.insert(Arc::clone(&key.name), Arc::clone(nets));
                    }
                    Some(_) => {}
                    None => drop(self.reservations.remove(&key.name)),
                }
                false
            }
            (Kind::IpPool, None) => self.pools.remove(&key.name).is_some(),
            (Kind::Node, None) => self.nodes.remove(&key.name).is_some(),
            // One that is not valid leaves the last valid one in force.
            _ => false,
        }
    }

    /// Every address that a node is known to have.
    fn node_addrs(&self, fleet: &Fleet, own: &[IpAddr]) -> BTreeSet<IpAddr> {
        let peers = fleet
            .peers
            .iter()
            .flat_map(|peer| peer.address.map(IpAddr::V4).into_iter().chain(peer.address6.map(IpAddr::V6)));
        let nodes = self.nodes.values().flat_map(|(addrs, _)| addrs.iter().copied());
        peers.chain(nodes).chain(own.iter().copied()).collect()
    }

    fn usable(&self, fleet: &Fleet, own: &[IpAddr]) -> (Pools, BTreeMap<Arc<str>, String>) {
        let mut pools = self.pools.clone();
        let problems = blocks::unusable(&mut pools, &fleet.cluster_cidrs, &self.node_addrs(fleet, own));
        (pools, problems)
    }

    /// Adds to a fleet of leases what pools and blocks say. `listed` = what lies in etcd is known.
    fn onto(&mut self, fleet: &mut Fleet, node: &str, own: &[IpAddr], listed: bool) {
        let (pools, unusable) = self.usable(fleet, own);
        let nets: Vec<IpNet> = pools.values().map(|pool| pool.cidr).collect();
        self.problems.retain(|name, _| !name.starts_with("node "));
        if listed && self.seen.is_empty() {
            (self.routes, self.problems) = self.table.routes(&nets);
            self.problems.extend(unusable.into_iter().map(|(name, why)| (format!("IPPool {name}"), why)));
        }
        let mut ways = Ways::of(fleet, &pools);
        for (of, nets) in &self.routes {
            if of == node {
                // Single addresses of others' blocks are those of pods that run here, and follow them.
                fleet.pod_cidrs.extend(nets.iter().filter(|net| net.prefix_len() < net.max_prefix_len()));
                continue;
            }
            for net in nets {
                if let Some(end) = self.end(of, net)
                    && let Err(why) = ways.add(fleet, *net, end)
                {
                    self.problems.entry(format!("node {of}")).or_insert(why);
                }
            }
        }
        fleet.peers.sort_by(|a, b| a.name.cmp(&b.name));
        fleet.pools.extend(pools.values().map(|pool| ways::facts(pool)));
        fleet.cluster_cidrs.extend(nets);
    }

    /// The address of a node by which parts of this family are reached.
    fn end(&self, node: &str, net: &IpNet) -> Option<IpAddr> {
        let (addrs, _) = self.nodes.get(node)?;
        addrs.iter().copied().find(|addr| addr.is_ipv4() == net.addr().is_ipv4())
    }

    /// Every part that some node has, with the address of that node.
    fn ends<'a>(&'a self, node: &'a str, own: &'a [IpAddr]) -> impl Iterator<Item = (IpNet, IpAddr)> + 'a {
        self.routes.iter().flat_map(move |(of, nets)| {
            nets.iter().filter_map(move |net| {
                let mine = || own.iter().copied().find(|addr| addr.is_ipv4() == net.addr().is_ipv4());
                let end = if of == node { mine() } else { self.end(of, net) };
                Some((*net, end?))
            })
        })
    }
}

fn prefix(source: Source) -> &'static str {
    if source == Source::Blocks { blocks::BLOCKS } else { blocks::AFFINITIES }
}

impl Engine {
    /// Adds pools and blocks, where they are in use; gives whose single addresses and blocks are whose.
    pub(super) fn lay_blocks(&mut self, fleet: &mut Fleet) -> Vec<(IpNet, IpAddr)> {
        let hosts = self.hosts();
        let listed =
            [Source::Blocks, Source::Affinities, Source::Objects].iter().all(|s| self.listed.contains(s));
        let Some(blocks) = &mut self.blocks else { return Vec::new() };
        blocks.onto(fleet, &self.node.name, &hosts, listed && !self.objects.is_listing());
        blocks.ends(&self.node.name, &hosts).collect()
    }

    /// A request about addresses: answered by a task, or now.
    pub(super) fn ipam(&mut self, request: IpamRequest, answer: Answer) {
        let Some(blocks) = &self.blocks else { return answer(Err(IpamError::Off)) };
        if !self.is_up(Source::Nodes) {
            let why = match self.up.get(&Source::Nodes) {
                Some(Err(err)) => err.clone(),
                _ => format!("{} has not answered yet", self.client.member()),
            };
            return answer(Err(IpamError::NotReached(why)));
        }
        let job = match request {
            IpamRequest::Assign { namespace, name, handle, of, addrs } => {
                match self.chosen(blocks, (&namespace, &name), &handle, of, addrs) {
                    Ok(ask) => Job::Assign(ask),
                    Err(err) => return answer(Err(err.into())),
                }
            }
            IpamRequest::Release { handle, addrs } => Job::Release(handle, addrs),
            IpamRequest::ReleaseAddress(addr) => Job::ReleaseAddress(addr),
            IpamRequest::Survey => {
                let (keys, known) = (Keys::new(self.client.clone()), self.surveyed(blocks));
                self.calls.spawn(async move {
                    answer(ipam::survey(&keys, known).await);
                    Done::Answered
                });
                return;
            }
            IpamRequest::Repair(problems) => {
                let keys = Keys::new(self.client.clone());
                self.calls.spawn(async move {
                    answer(ipam::repair_all(&keys, &problems).await);
                    Done::Answered
                });
                return;
            }
        };
        if let Err(mpsc::error::SendError((_, answer))) = blocks.jobs.send((job, answer)) {
            answer(Err(IpamError::Stopped));
        }
    }

    fn chosen(
        &self,
        blocks: &Blocks,
        (namespace, name): (&str, &str),
        handle: &str,
        of: BTreeMap<String, String>,
        addrs: Vec<IpAddr>,
    ) -> Result<blocks::Ask, blocks::ChooseError> {
        let base = self.base_fleet().unwrap_or_else(|| Fleet {
            cluster_cidrs: Vec::new(),
            pod_cidrs: Vec::new(),
            pools: Vec::new(),
            tunnel: crate::config::Tunnel::Direct,
            peers: Vec::new(),
        });
        let hosts = self.hosts();
        let (pools, _) = blocks.usable(&base, &hosts);
        let none = LabelMap::new();
        let object = |kind, namespace: Option<&str>, name: &str| {
            let key = Key { kind, namespace: namespace.map(Arc::from), name: name.into() };
            let (_, good) = self.objects.source(&key);
            good.and_then(tell::read_one).and_then(Result::ok)
        };
        let annotations = match object(Kind::Pod, Some(namespace), name) {
            Some(Object::Pod(pod)) => pod.wishes,
            _ => crate::objects::Wishes::default(),
        };
        // As the API server has it: every namespace has its name as a label.
        let mut of_namespace = match object(Kind::Namespace, None, namespace) {
            Some(Object::Namespace(namespace)) => namespace.labels,
            _ => LabelMap::new(),
        };
        of_namespace.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
        let facts = Facts {
            pools: &pools,
            node: blocks.nodes.get(&*self.node.name).map_or(&none, |(_, labels)| labels),
            namespace: &of_namespace,
            never: &blocks.node_addrs(&base, &hosts),
            reserved: &blocks.reservations.values().flat_map(|nets| nets.iter().copied()).collect::<Vec<_>>(),
        };
        choose(facts, &PodWishes { annotations, addrs }, &self.node.name, handle, of)
    }

    fn surveyed(&self, blocks: &Blocks) -> Surveyed {
        let range = |pool: &Arc<IpPool>| PoolRange { cidr: pool.cidr, block_size: pool.block_size };
        let published = self.pods.entries.values().flat_map(|entry| {
            let node = entry.node.as_deref().unwrap_or_default();
            entry.addrs().iter().map(move |addr| (*addr, node.to_owned()))
        });
        Surveyed {
            survey: blocks::Survey::default(),
            pools: blocks.pools.iter().map(|(name, pool)| (name.to_string(), range(pool))).collect(),
            published: published.collect(),
        }
    }

    /// Writes our Node object, or our addresses into it, where it does not say them.
    pub(super) fn register(&mut self, now: Instant) {
        let hosts = self.hosts();
        let ready = self.is_up(Source::Objects)
            && self.listed.contains(&Source::Objects)
            && !self.objects.is_listing();
        let Some(blocks) = &mut self.blocks else { return };
        let known = blocks.nodes.get(&*self.node.name).is_some_and(|(addrs, _)| *addrs == hosts);
        if known || !ready || blocks.registering || blocks.register_at.is_some_and(|at| now < at) {
            return;
        }
        (blocks.registering, blocks.register_at) = (true, Some(now + REGISTER));
        let key = Key { kind: Kind::Node, namespace: None, name: self.node.name.as_str().into() };
        let mut manifest = match self.objects.source(&key).0 {
            Some(source) if source.is_object() => Value::clone(source),
            _ => json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node.name}}),
        };
        let addresses: Vec<Value> =
            hosts.iter().map(|addr| json!({"type": "InternalIP", "address": addr})).collect();
        match manifest.get_mut("status") {
            Some(Value::Object(status)) => drop(status.insert("addresses".to_owned(), addresses.into())),
            _ => manifest["status"] = json!({ "addresses": addresses }),
        }
        let over = Some(self.objects.revision_of(&key));
        let path = format!("{}{}", self.objects.prefix(), super::super::objects::path(&key)).into_bytes();
        let write =
            calls::Write { key: path, value: Some(manifest.to_string().into_bytes()), lease: 0, over };
        let client = self.client.clone();
        self.calls.spawn(async move { Done::Registered(calls::write(&client, &write).await) });
    }

    pub(super) fn registered(&mut self, result: Result<calls::Written, CallError>) {
        if let Err(err) = result {
            tracing::warn!(%err, "etcd: write this node's Node object");
        }
        if let Some(blocks) = &mut self.blocks {
            blocks.registering = false;
        }
    }
}
