//! The store at work: what it tells is brought into force, what is asked of it is passed on.

use control::api::{ApiError, Request, StoreReply, code};
use control::config::Store;
use control::objects::Kind;

use super::guard::Guard;
use super::serve::{self, Call};
use super::{Daemon, DaemonError, chain, etcd};
use crate::switch::SwitchError;

impl Daemon {
    /// Takes over what the store has told since.
    ///
    /// # Errors
    /// Only what the daemon cannot live with.
    pub(super) fn heed_store(&mut self) -> Result<(), DaemonError> {
        let Some(etcd) = &self.etcd else { return Ok(()) };
        let mut news = etcd.take();
        if let Some(problems) = news.problems.take() {
            let lines: Vec<String> = problems.iter().map(|(key, what)| format!("{key}: {what}")).collect();
            for line in lines.iter().filter(|line| !self.guard.store_problems().contains(line)) {
                tracing::warn!(target: "store", "{line}");
            }
            self.guard.set_store_problems(lines);
        }
        if let Some(fleet) = news.fleet.take()
            && fleet != self.stored
        {
            self.set_stored(fleet)?;
            self.tell_subnet();
        }
        if self.guard.told(|objects| news.apply(objects)) {
            self.bring_objects_into_force()?;
        }
        for then in std::mem::take(&mut news.then) {
            then(self);
        }
        Ok(())
    }

    /// Takes over the objects told so far, while starting: compiled with the pods that are taken up.
    pub(super) fn heed_objects(&mut self) {
        if let Some(etcd) = &self.etcd {
            etcd.begin(|news| {
                self.guard.told(|objects| news.apply(objects));
            });
        }
    }

    /// Objects have changed: compiled and in force everywhere when this returns.
    pub(super) fn bring_objects_into_force(&mut self) -> Result<(), SwitchError> {
        self.compile_policy();
        for problem in self.guard.problems() {
            tracing::warn!(target: "policy", "{problem}");
        }
        self.publish()
    }

    /// Publishes the pods there are, for other nodes to know them by name.
    pub(super) fn publish_pods(&self) {
        if let Some(etcd) = &self.etcd {
            etcd.publish(self.attached.values().map(|a| &a.record));
        }
    }

    /// Tells flannel's plugin and others of the subnet and the MTU.
    pub(super) fn tell_subnet(&mut self) {
        let Store::Etcd(settings) = &self.config.store else { return };
        let Some(path) = &settings.subnet_env else { return };
        let mtu = u32::from(self.facts.mtu);
        let written = etcd::write_subnet_env(path, &self.fleet, mtu, self.config.network.masquerade);
        let trouble = written.err().map(|err| format!("write {}: {err}", path.display()));
        self.problem("subnet-env", trouble);
    }

    /// A request for the store: answered now, or by the store's thread.
    pub(super) fn ask_store(&mut self, call: Box<Call>) {
        let Call { request, reply } = *call;
        let answer = move |result: Result<StoreReply, ApiError>| {
            // A client that left does not want its answer.
            let _ = reply.send(match result {
                Ok(found) => serve::ok(found),
                Err(err) => serve::error(err.code, &err.msg),
            });
        };
        let refused = |msg: String| Err(ApiError::new(code::INVALID_CONFIG, msg));
        match (&self.etcd, request) {
            (Some(etcd), request) => {
                if let Err((answer, msg)) = etcd.request(request, Box::new(answer)) {
                    answer(refused(msg));
                }
            }
            (None, Request::Get { kind, namespace, name }) => {
                let Some(kind) = Kind::named(&kind) else {
                    return answer(refused(format!("{kind}: no such kind of object")));
                };
                let found = self.guard.objects().manifests(kind, namespace.as_deref(), name.as_deref());
                let objects = found.map(|source| serde_json::Value::clone(source)).collect();
                answer(Ok(StoreReply { objects, ..StoreReply::default() }));
            }
            (None, _) => answer(refused(match self.config.manifests() {
                Some(dir) => format!("objects are files in {} here: change them there", dir.display()),
                None => "there is no store for objects: set store.manifests, or store.type".to_owned(),
            })),
        }
    }

    /// Starts the store, where there is one beyond this node, and gives what it says of the nodes.
    ///
    /// # Errors
    /// When nothing is known yet.
    pub(super) fn start_store(
        config: &control::config::Config,
        state: &control::attachments::StateDir,
        guard: &mut Guard,
        events: &crossbeam::channel::Sender<super::Event>,
    ) -> Result<(Option<etcd::Etcd>, control::fleet::Fleet), DaemonError> {
        let Store::Etcd(settings) = &config.store else {
            let fleet = guard.fleet(config).unwrap_or_else(|| control::fleet::Fleet::of(config));
            return Ok((None, fleet));
        };
        let etcd = etcd::Etcd::start(settings, config, state.vtep_mac()?, events.clone())?;
        let fleet = etcd.first()?;
        if let control::config::Tunnel::Vxlan { vtep_mac: Some(mac), .. } = &fleet.tunnel
            && state.vtep_mac()? != Some(*mac)
            && let Err(err) = state.save_vtep_mac(*mac)
        {
            tracing::warn!(err = %chain(&err), "keep the tunnel's MAC");
        }
        Ok((Some(etcd), fleet))
    }
}
