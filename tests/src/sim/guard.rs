//! Policy of a simulated node: objects as people write them, or a finished world, compiled for the node's ports by the
//! steps of the daemon.
//!
//! Owned by its node. Every change goes through one compiler that lives as long as the node, so that what is recomputed
//! and what is kept is what a running switch would recompute and keep.

use std::net::IpAddr;
use std::sync::Arc;

use control::objects::{Item, Key, read_value};
use control::store::{LocalPod, NodeAddrs, Objects};
use policy::model::{EndpointId, World};
use policy::{Compiled, Compiler, EndpointPolicy};
use serde_json::Value;
use vswitch::snapshot::{Port, PortKind};

/// Where policy comes from.
enum Source {
    Objects(Box<Objects>),
    World,
}

/// The node's policy.
pub struct Guard {
    source: Source,
    node: NodeAddrs,
    world: World,
    compiler: Compiler,
    compiled: Arc<Compiled>,
}

impl Guard {
    /// No policy yet, on the node with this name and these addresses.
    #[must_use]
    pub fn new(name: &str, addrs: Vec<IpAddr>) -> Self {
        Self {
            source: Source::Objects(Box::default()),
            node: NodeAddrs { name: name.into(), addrs },
            world: World::default(),
            compiler: Compiler::new(),
            compiled: Arc::new(Compiled::empty()),
        }
    }

    /// From now on these are all the objects there are.
    ///
    /// # Panics
    /// When one is not of a kind that is read, or is not valid.
    pub fn set_objects(&mut self, list: &[Value]) {
        let mut objects = match std::mem::replace(&mut self.source, Source::World) {
            Source::Objects(objects) => objects,
            Source::World => Box::default(),
        };
        let mut items = Vec::new();
        list.iter().cloned().for_each(|value| read_value(value, &mut items));
        let mut seen: Vec<Key> = Vec::new();
        for item in items {
            let Item::Known { key, source, object } = item else { panic!("{item:?}") };
            assert!(object.is_ok(), "{key:?}: {object:?}");
            seen.push(key.clone());
            objects.put(key, source, object);
        }
        let gone: Vec<Key> = objects.keys().filter(|key| !seen.contains(key)).cloned().collect();
        gone.iter().for_each(|key| assert!(objects.remove(key)));
        self.source = Source::Objects(objects);
    }

    /// From now on this is the world.
    pub fn set_world(&mut self, world: World) {
        self.source = Source::World;
        self.world = world;
    }

    /// Compiles for the pods among these ports.
    pub fn compile(&mut self, ports: &[Option<Arc<Port>>]) {
        let pods = ports.iter().flatten().filter(|port| port.kind == PortKind::Pod);
        let local: Vec<LocalPod> = pods
            .filter_map(|port| {
                let (namespace, name) = port.name.split_once('/')?;
                let addrs = [port.v4, port.v6].into_iter().flatten().map(encap::to_ip).collect();
                Some(LocalPod { namespace: namespace.into(), name: name.into(), addrs })
            })
            .collect();
        if let Source::Objects(objects) = &mut self.source {
            self.world = objects.world(&local, &self.node).0;
        }
        let ids: Vec<EndpointId> = local
            .into_iter()
            .map(|pod| EndpointId::Pod { namespace: pod.namespace, name: pod.name })
            .chain(self.hosts().cloned())
            .collect();
        self.compiled = self.compiler.update(&self.world, &ids);
    }

    /// Host endpoints of this node.
    fn hosts(&self) -> impl Iterator<Item = &EndpointId> {
        let own = |addrs: &[IpAddr]| addrs.iter().any(|addr| self.node.addrs.contains(addr));
        let hosts = self.world.endpoints.iter().filter(|e| matches!(e.id, EndpointId::Host { .. }));
        hosts.filter(move |e| own(&e.addrs)).map(|e| &e.id)
    }

    /// The tables, and the policy of each port by index.
    #[must_use]
    pub fn tables(&self, ports: &[Option<Arc<Port>>]) -> (Arc<Compiled>, Vec<Option<Arc<EndpointPolicy>>>) {
        let host = self.hosts().min().cloned();
        let of = |port: &Port| match port.kind {
            PortKind::Host => host.clone(),
            PortKind::Pod => endpoint_of(&port.name),
        };
        let guards = ports.iter().map(|p| self.compiled.endpoint(&of(p.as_ref()?)?).cloned()).collect();
        (Arc::clone(&self.compiled), guards)
    }

    /// Everything policy is decided from.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }
}

/// The endpoint of the pod whose port has this name.
#[must_use]
pub fn endpoint_of(port: &str) -> Option<EndpointId> {
    let (namespace, name) = port.split_once('/')?;
    Some(EndpointId::Pod { namespace: namespace.into(), name: name.into() })
}
