//! Telling the daemon: what changed, together, and never from a list that is half read.

use super::*;
use crate::config::Peer;
use crate::objects::{Kind, Object, Refused, read_value};
use crate::store::etcd::ObjectChange;
use crate::store::etcd::objects::Version;
use crate::store::etcd::pods::merged;
use serde_json::Value;

/// What is to be told.
#[derive(Default)]
pub(super) struct Telling {
    /// Anything came in.
    pub(super) something: bool,
    pub(super) fleet: bool,
    pub(super) health: bool,
    /// Pods of which the object or the published text may be another.
    pub(super) pods: BTreeSet<Key>,
    /// Objects but pods: their new version, none = gone.
    objects: BTreeMap<Key, Option<Version>>,
    pub(super) not_before: Option<Instant>,
    last_fleet: Option<Arc<Fleet>>,
    /// By the lease's name.
    lease_problems: BTreeMap<String, String>,
    last_problems: BTreeMap<String, String>,
    told_pods: BTreeSet<Key>,
    first: bool,
}

impl Telling {
    pub(super) fn changed(&mut self, key: Key, version: Version) {
        match key.kind {
            Kind::Pod => drop(self.pods.insert(key)),
            _ => drop(self.objects.insert(key, Some(version))),
        }
    }

    pub(super) fn removed(&mut self, key: Key) {
        match key.kind {
            Kind::Pod => drop(self.pods.insert(key)),
            _ => drop(self.objects.insert(key, None)),
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        let any = self.something || self.fleet || self.health;
        self.not_before.filter(|_| any)
    }
}

impl Engine {
    /// Tells what was kept.
    pub(super) fn begin(&mut self) {
        let all: Vec<(Key, Arc<Value>)> =
            self.objects.good().map(|(key, source)| (key.clone(), Arc::clone(source))).collect();
        for (key, source) in all {
            if let Some(object) = read_one(&source) {
                if let (Some(blocks), Ok(object)) = (&mut self.blocks, &object) {
                    blocks.object(&key, Some(object));
                }
                self.telling.changed(key, (source, object));
            }
        }
        self.telling.pods.extend(self.pods.entries.keys().cloned());
        self.tell_fleet();
        self.tell_objects();
        if let (Some(fleet), Some(contact)) = (self.telling.last_fleet.clone(), self.contact) {
            self.shared.change(|now| now.kept = Some((fleet, contact)));
        }
        self.tell_health();
        self.tell_problems();
        self.shared.change(|now| now.read = true);
    }

    pub(super) fn tell(&mut self, now: Instant) {
        let t = &self.telling;
        if !(t.something || t.fleet || t.health) || t.not_before.is_some_and(|at| now < at) {
            return;
        }
        self.telling.not_before = Some(now + GATHER);
        self.telling.something = false;
        // Where the network's configuration is gone, the store was wiped or is being restored: nothing it does not say
        // any more is taken back.
        let says = self.nodes.text.is_some() && !self.nodes.is_listing();
        let says = says && self.blocks.as_ref().is_none_or(|blocks| !blocks.is_listing());
        let heard = self.is_up(Source::Nodes);
        if says && heard && std::mem::take(&mut self.telling.fleet) {
            self.tell_fleet();
        }
        if says && heard && !self.objects.is_listing() && !self.pods.is_listing() {
            self.tell_objects();
        }
        self.tell_problems();
        self.tell_health();
        // Last, so that whoever waited for it finds everything else told; and a node that serves has it all kept, or a
        // crash while etcd is away would begin without policy.
        let all = [Source::Nodes, Source::Pods, Source::Objects, Source::Blocks, Source::Affinities];
        let all = if self.blocks.is_some() { &all[..] } else { &all[..3] };
        let complete = all.iter().all(|source| self.listed.contains(source)) && says;
        if !self.telling.first
            && complete
            && self.keeper.held().is_some()
            && let Some(fleet) = self.telling.last_fleet.clone()
            && self.kept_whole(now)
        {
            self.telling.first = true;
            self.shared.change(|now| now.first = Some(fleet));
        }
    }

    fn tell_fleet(&mut self) {
        let Some(Roster { peers, problems }) = self.nodes.roster(self.keeper.own()) else { return };
        if self.telling.lease_problems != *problems {
            self.telling.lease_problems.clone_from(problems);
        }
        let peers = peers.clone();
        let own = self.keeper.own().clone();
        let ends = |net: &ipnet::IpNet| match net {
            ipnet::IpNet::V4(_) => own.address.map(IpAddr::V4),
            ipnet::IpNet::V6(_) => own.address6.map(IpAddr::V6),
        };
        let nets = own.key.into_iter().flat_map(nets_of);
        let mut mine: Vec<_> = nets.filter_map(|net| Some((net, ends(&net)?))).collect();
        let mut fleet = self.fleet(peers);
        if let Some(fleet) = &mut fleet {
            mine.extend(self.lay_blocks(fleet));
            if let Some(last) = &self.telling.last_fleet {
                fleet.share(last);
            }
            self.telling.pods.extend(self.pods.own(&fleet.peers, &mine));
        }
        if let Some(fleet) = fleet
            && self.telling.last_fleet.as_deref() != Some(&fleet)
        {
            let fleet = Arc::new(fleet);
            self.telling.last_fleet = Some(Arc::clone(&fleet));
            self.keeping.stale = true;
            (self.on_event)(StoreEvent::Fleet(fleet));
        }
    }

    /// The nodes as leases have them, without pools and blocks, as told last.
    pub(super) fn base_fleet(&self) -> Option<Fleet> {
        self.fleet(self.nodes.leases.last()?.peers.clone())
    }

    /// The nodes, once we are one of them.
    fn fleet(&self, peers: Vec<Arc<Peer>>) -> Option<Fleet> {
        let network = self.nodes.network.as_ref()?;
        let tunnel = network.backend.tunnel(self.keeper.mac()).ok()?;
        Some(Fleet {
            cluster_cidrs: network.networks(),
            pod_cidrs: nets_of(self.keeper.own().key?).collect(),
            pools: Vec::new(),
            tunnel,
            peers,
        })
    }

    fn tell_objects(&mut self) {
        let mut changes = Vec::new();
        for (key, version) in std::mem::take(&mut self.telling.objects) {
            changes.push(match version {
                Some((source, object)) => ObjectChange::Put { key, source, object },
                None => ObjectChange::Remove(key),
            });
        }
        for key in std::mem::take(&mut self.telling.pods) {
            changes.extend(self.pod(key));
        }
        if !changes.is_empty() {
            self.keeping.stale = true;
            (self.on_event)(StoreEvent::Objects(changes));
        }
    }

    /// A pod out of what people say of it and what its node does.
    fn pod(&mut self, key: Key) -> Option<ObjectChange> {
        let published = self.pods.valid(&key, &self.node.name);
        let (current, good) = self.objects.source(&key);
        let source = match (published, current) {
            (None, None) => {
                return self.telling.told_pods.remove(&key).then_some(ObjectChange::Remove(key));
            }
            (None, Some(current)) => Arc::clone(current),
            (Some(published), _) => match good {
                Some(good) => Arc::new(merged(good, &published)),
                None => published,
            },
        };
        let object = read_one(&source)?;
        self.telling.told_pods.insert(key.clone());
        Some(ObjectChange::Put { key, source, object })
    }

    fn tell_problems(&mut self) {
        let mut problems = BTreeMap::new();
        let base = format!("{}subnets/", self.nodes.prefix());
        for (name, problem) in &self.telling.lease_problems {
            problems.insert(format!("{base}{name}"), problem.clone());
        }
        self.nodes.notes.collect(&base, &mut problems);
        self.pods.notes.collect(self.pods.prefix(), &mut problems);
        self.objects.notes.collect(self.objects.prefix(), &mut problems);
        if self.listed.contains(&Source::Nodes)
            && let Some(problem) = self.nodes.network_problem()
        {
            problems.insert(format!("{}config", self.nodes.prefix()), problem);
        }
        if let Some(note) = &self.keeper.note {
            problems.insert(format!("{base}(this node's)"), note.clone());
        }
        for (source, state) in &self.up {
            let Err(err) = state else { continue };
            // Of the nodes' keys health tells, and where those are not heard of, of everything.
            match source {
                _ if !self.is_up(Source::Nodes) => {}
                Source::Nodes => {}
                Source::Pods => drop(problems.insert(self.pods.prefix().to_owned(), err.clone())),
                Source::Objects => drop(problems.insert(self.objects.prefix().to_owned(), err.clone())),
                Source::Blocks => drop(problems.insert(crate::blocks::BLOCKS.to_owned(), err.clone())),
                Source::Affinities => {
                    drop(problems.insert(crate::blocks::AFFINITIES.to_owned(), err.clone()))
                }
            }
        }
        if let Some(blocks) = &self.blocks {
            blocks.problems(&mut problems);
        }
        self.keeping.problem(&self.state, &mut problems);
        if problems != self.telling.last_problems {
            self.telling.last_problems.clone_from(&problems);
            (self.on_event)(StoreEvent::Problems(problems.into_iter().collect()));
        }
    }

    fn tell_health(&mut self) {
        let now = Instant::now();
        let connected = self.is_up(Source::Nodes);
        let error = match self.up.get(&Source::Nodes) {
            Some(Err(err)) => Some(err.clone()),
            _ => None,
        };
        let lease = self.keeper.held().map(|held| LeaseHealth {
            key: held.key.to_string(),
            expires: (!held.reservation).then(|| calendar(held.expires, now)),
        });
        let (endpoint, revision) = (self.client.member(), self.nodes.revision);
        let health = Health { connected, since: self.contact, endpoint, revision, lease, error };
        let mut why: Vec<String> = health.error.iter().cloned().collect();
        why.extend(
            self.telling.last_problems.iter().map(|(key, problem)| format!("{key}: {problem}")).take(5),
        );
        if why.is_empty() {
            why.push(format!("{} has not said everything yet", health.endpoint));
        }
        let why = why.join("; ");
        let told = health.clone();
        self.shared.change(|now| (now.health, now.why) = (health, why));
        if std::mem::take(&mut self.telling.health) {
            (self.on_event)(StoreEvent::Health(told));
        }
    }
}

/// The one object of a value.
pub(super) fn read_one(source: &Arc<Value>) -> Option<Result<Object, Refused>> {
    let mut items = Vec::new();
    read_value((**source).clone(), &mut items);
    match items.pop() {
        Some(crate::objects::Item::Known { object, .. }) => Some(object),
        _ => None,
    }
}
