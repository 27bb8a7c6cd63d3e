//! Policy as the control thread holds it: objects from the store, compiled for the ports of this node.
//!
//! Owned by the control thread. A change of the objects or of the attached pods goes through the same compile, which
//! recomputes what it touches; the result becomes part of the next snapshot. A pod is compiled before its port is read
//! by anybody, so its isolation is in force before its first packet.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use control::api::PodId;
use control::config::Config;
use control::fleet::Fleet;
use control::store::{Changed, LocalPod, Manifests, NodeAddrs, Objects, Problem};
use policy::model::{Direction, EndpointId, RuleAction, World};
use policy::{Compiled, Compiler, EndpointPolicy};

use super::kept::Keeping;
use crate::snapshot::{Port, PortKind};

/// Where objects come from.
enum Store {
    /// Somebody tells of them, and of what is wrong; nobody does where no store is configured.
    Told(Box<Objects>, Vec<String>),
    /// A directory.
    Manifests(Box<Manifests>, Keeping),
}

/// Objects, and what they were compiled to.
pub(super) struct Guard {
    store: Store,
    node: NodeAddrs,
    world: World,
    compiler: Compiler,
    compiled: Arc<Compiled>,
    /// What is odd about pods and tiers together, beside what is odd about single objects.
    problems: Vec<Problem>,
    /// Of the Node objects that the fleet was last made of, and what is odd about those.
    nodes: Option<(usize, u64)>,
    node_problems: Vec<Problem>,
}

impl Guard {
    /// Reads the manifests, if a directory is configured; what was in force before a restart stays where they are broken.
    pub(super) fn open(name: &str, manifests: Option<&Path>, state: &Path) -> Guard {
        let store = match manifests {
            Some(dir) => {
                let mut manifests = Manifests::open(dir, state);
                manifests.reload(&Changed::Anything);
                Store::Manifests(Box::new(manifests), Keeping::default())
            }
            None => Store::Told(Box::default(), Vec::new()),
        };
        Guard {
            store,
            node: NodeAddrs { name: name.into(), addrs: Vec::new() },
            world: World::default(),
            compiler: Compiler::new(),
            compiled: Arc::new(Compiled::empty()),
            problems: Vec::new(),
            nodes: None,
            node_problems: Vec::new(),
        }
    }

    /// The nodes as the configuration and the manifests have them, if that may be another than it was when last asked
    /// for; none where a store tells.
    pub(super) fn fleet(&mut self, config: &Config) -> Option<Fleet> {
        let Store::Manifests(manifests, _) = &mut self.store else { return None };
        let objects = manifests.objects();
        let version = Some(objects.nodes_version());
        if self.nodes == version {
            return None;
        }
        self.nodes = version;
        let (fleet, problems) = objects.fleet(config);
        self.node_problems = problems;
        Some(fleet)
    }

    /// The node's own addresses are these from now on; true when they were others.
    pub(super) fn set_node_addresses(&mut self, addrs: Vec<IpAddr>) -> bool {
        let changed = self.node.addrs != addrs;
        self.node.addrs = addrs;
        changed
    }

    /// Reads what changed; true when something in force, or a problem, did.
    pub(super) fn reload(&mut self, changed: &Changed) -> bool {
        match &mut self.store {
            Store::Told(..) => false,
            Store::Manifests(manifests, _) => manifests.reload(changed),
        }
    }

    /// Brings what a store told into force; true when anything changed.
    pub(super) fn told(&mut self, change: impl FnOnce(&mut Objects) -> bool) -> bool {
        match &mut self.store {
            Store::Told(objects, _) => change(objects),
            Store::Manifests(..) => false,
        }
    }

    /// The objects in force.
    pub(super) fn objects(&mut self) -> &Objects {
        match &mut self.store {
            Store::Told(objects, _) => objects,
            Store::Manifests(manifests, _) => manifests.objects(),
        }
    }

    /// What is wrong in the store, by key, from now on.
    pub(super) fn set_store_problems(&mut self, now: Vec<String>) {
        if let Store::Told(_, problems) = &mut self.store {
            *problems = now;
        }
    }

    /// What is wrong in the store, by key.
    pub(super) fn store_problems(&self) -> &[String] {
        match &self.store {
            Store::Told(_, problems) => problems,
            Store::Manifests(..) => &[],
        }
    }

    /// When to call [`Guard::keep`] next.
    pub(super) fn next(&self) -> Option<Instant> {
        match &self.store {
            Store::Told(..) => None,
            Store::Manifests(manifests, keeping) => keeping.next(manifests),
        }
    }

    /// Has the objects in force kept, if they are not.
    pub(super) fn keep(&mut self) {
        if let Store::Manifests(manifests, keeping) = &mut self.store {
            keeping.go_on(manifests);
        }
    }

    /// Returns when the objects in force are kept: nobody will be here to do it later.
    pub(super) fn finish(&mut self) {
        if let Store::Manifests(manifests, keeping) = &mut self.store {
            keeping.finish(manifests);
        }
    }

    /// Compiles for these pods.
    pub(super) fn compile<'a>(&mut self, pods: impl Iterator<Item = (&'a PodId, &'a [IpAddr])>) {
        let local: Vec<LocalPod> = pods
            .map(|(pod, addrs)| LocalPod {
                namespace: pod.namespace.as_str().into(),
                name: pod.name.as_str().into(),
                addrs: addrs.to_vec(),
            })
            .collect();
        let objects = match &mut self.store {
            Store::Told(objects, _) => objects,
            Store::Manifests(manifests, _) => manifests.objects(),
        };
        (self.world, self.problems) = objects.world(&local, &self.node);
        let pods = local.into_iter().map(|p| EndpointId::Pod { namespace: p.namespace, name: p.name });
        let ids: Vec<EndpointId> = pods.chain(self.hosts()).collect();
        self.compiled = self.compiler.update(&self.world, &ids);
    }

    /// Host endpoints of this node: those with an address of it.
    fn hosts(&self) -> impl Iterator<Item = EndpointId> {
        let own = |addrs: &[IpAddr]| addrs.iter().any(|a| self.node.addrs.contains(a));
        // They come last; before them there may be very many pods.
        let hosts = self.world.endpoints.iter().rev().take_while(|e| matches!(e.id, EndpointId::Host { .. }));
        hosts.filter(move |e| own(&e.addrs)).map(|e| e.id.clone())
    }

    /// The tables in force.
    pub(super) fn compiled(&self) -> &Arc<Compiled> {
        &self.compiled
    }

    /// Everything policy is decided from.
    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// The policy of each port, by index. Of several host endpoints of this node the first by name counts.
    pub(super) fn of_ports(&self, ports: &[Option<Arc<Port>>]) -> Vec<Option<Arc<EndpointPolicy>>> {
        let host = self.hosts().min();
        let of = |port: &Port| match port.kind {
            PortKind::Host => self.compiled.endpoint(host.as_ref()?).cloned(),
            PortKind::Pod => {
                let known = endpoint_of(&port.name).and_then(|id| self.compiled.endpoint(&id).cloned());
                // Every attached pod is compiled; one that is not may not pass for one without policy.
                Some(known.unwrap_or_else(|| Arc::new(EndpointPolicy::closed())))
            }
        };
        ports.iter().map(|p| of(p.as_ref()?)).collect()
    }

    /// What is not as somebody wrote it.
    pub(super) fn problems(&self) -> Vec<String> {
        let objects = match &self.store {
            Store::Told(objects, _) => objects.problems(),
            Store::Manifests(manifests, _) => manifests.problems(),
        };
        objects.iter().chain(&self.problems).chain(&self.node_problems).map(ToString::to_string).collect()
    }

    /// Does a Log rule apply anywhere here?
    pub(super) fn logs(&self) -> bool {
        let logs = |e: &EndpointPolicy| {
            [Direction::Ingress, Direction::Egress]
                .into_iter()
                .filter_map(|d| e.table(d))
                .any(|table| table.rules().any(|r| r.rule.is_some_and(|rule| rule.action == RuleAction::Log)))
        };
        self.compiled.endpoints().any(|(_, e)| logs(e))
    }
}

/// The endpoint with a port's name, `namespace/pod`.
pub(super) fn endpoint_of(name: &str) -> Option<EndpointId> {
    let (namespace, name) = name.split_once('/')?;
    Some(EndpointId::Pod { namespace: namespace.into(), name: name.into() })
}

/// A pod's name as ports have it; none for a host endpoint.
pub(super) fn pod_name(id: &EndpointId) -> Option<String> {
    match id {
        EndpointId::Pod { namespace, name } => Some(format!("{namespace}/{name}")),
        EndpointId::Host { .. } => None,
    }
}
