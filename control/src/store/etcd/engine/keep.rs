//! Keeping what is known for the next start, beside everything else.

use serde_json::Value;

use super::*;
use crate::flannel::lease::LeaseValue;
use crate::flannel::{Entry, LeaseKey};
use crate::objects::Kind;
use crate::store::FileError;
use crate::store::etcd::kept::{Kept, KeptLease, REFRESH, REST, RETRY};
use crate::store::etcd::objects::{parse_path, path};

/// When a copy is due, and how the last one ended.
pub(super) struct Keeping {
    pub(super) stale: bool,
    /// There is a copy that has everything, if an old one. One without the objects would begin without policy.
    whole: bool,
    writing: bool,
    earliest: Option<Instant>,
    last: Option<Instant>,
    problem: Option<String>,
}

/// What the last copy said of this node.
pub(super) struct Known {
    pub(super) own: Option<LeaseKey>,
    pub(super) contact: SystemTime,
    pub(super) routes: crate::blocks::Routes,
}

impl Keeping {
    /// `whole`: one was taken up.
    pub(super) fn new(whole: bool, problem: Option<String>) -> Keeping {
        Keeping { stale: false, whole, writing: false, earliest: None, last: None, problem }
    }

    fn due(&self, now: Instant) -> bool {
        let refresh = self.last.is_some_and(|last| last + REFRESH <= now);
        self.whole && !self.writing && (self.stale || refresh) && self.earliest.is_none_or(|at| at <= now)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        match (self.writing || !self.whole, self.stale) {
            (false, true) => self.earliest,
            (false, false) => self.last.map(|last| last + REFRESH),
            (true, _) => None,
        }
    }

    pub(super) fn done(&mut self, took: Duration, result: Result<(), StateError>, now: Instant) {
        // Where nothing can be kept, the node serves all the same.
        (self.writing, self.whole) = (false, true);
        self.stale |= result.is_err();
        self.earliest = Some(now + if result.is_ok() { took * REST } else { RETRY });
        if let Err(err) = &result {
            tracing::warn!(%err, "keep what etcd said");
        }
        self.problem = result.err().map(|err| format!("what is known is not kept for a restart: {err}"));
    }

    pub(super) fn problem(&self, state: &std::path::Path, problems: &mut BTreeMap<String, String>) {
        if let Some(problem) = &self.problem {
            problems.insert(state.display().to_string(), problem.clone());
        }
    }
}

impl Engine {
    /// Begins a copy, if one is due.
    pub(super) fn keep(&mut self, now: Instant) {
        if self.keeping.due(now) {
            self.begin_copy(now, true);
        }
    }

    /// Is there a copy with everything in it? If not, one is begun: everything is known now.
    pub(super) fn kept_whole(&mut self, now: Instant) -> bool {
        if !self.keeping.whole && !self.keeping.writing {
            self.begin_copy(now, false);
        }
        self.keeping.whole
    }

    fn begin_copy(&mut self, now: Instant, patient: bool) {
        let Some(copy) = self.copy() else { return };
        (self.keeping.stale, self.keeping.last) = (false, Some(now));
        let (state, (tx, rx)) = (self.state.clone(), tokio::sync::oneshot::channel());
        let write = move || {
            // Nothing waits for a later one: let the rest go first. Where that is refused, it does not matter.
            if patient {
                let _ = rustix::process::nice(10);
            }
            let began = Instant::now();
            let written = copy.write(&state);
            let _ = tx.send((began.elapsed(), written));
        };
        match std::thread::Builder::new().name("kept-copy".into()).spawn(write) {
            Ok(_) => {
                self.keeping.writing = true;
                self.calls.spawn(async move {
                    // A writer that panicked wrote nothing; the next copy is written all the same.
                    rx.await.map_or(Done::Kept(RETRY, Ok(())), |(took, written)| Done::Kept(took, written))
                });
            }
            Err(_) => (self.keeping.stale, self.keeping.earliest) = (true, Some(now + RETRY)),
        }
    }

    /// Leaves nothing unwritten.
    pub(super) fn keep_last(&mut self) {
        if self.keeping.whole
            && let Some(copy) = self.copy()
            && let Err(err) = copy.write(&self.state)
        {
            tracing::warn!(%err, "keep what etcd said");
        }
    }

    /// What is known, as far as it was told; none before anything was. Taken, not yet written out: that is the writer's work.
    fn copy(&self) -> Option<Copy> {
        let text = self.nodes.network_text()?;
        let contact = if self.is_up(Source::Nodes) { SystemTime::now() } else { self.contact? };
        let mut kept = Kept::new(&self.client.settings().prefix, text, contact);
        if let Some(blocks) = &self.blocks {
            kept.routes.clone_from(blocks.routes());
        }
        kept.own = self.keeper.own().key.map(|key| key.to_string());
        let shared = |(key, source): (&Key, &Arc<Value>)| (key.clone(), Arc::clone(source));
        let published =
            self.pods.entries.iter().filter_map(|(key, entry)| Some((key, entry.source.as_ref()?)));
        Some(Copy {
            kept,
            leases: self.nodes.leases.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect(),
            pods: published.map(shared).collect(),
            objects: self.objects.good().map(shared).collect(),
        })
    }
}

/// What is to be kept, as it is in memory.
struct Copy {
    /// All but what follows.
    kept: Kept,
    leases: Vec<(String, Entry)>,
    pods: Vec<(Key, Arc<Value>)>,
    objects: Vec<(Key, Arc<Value>)>,
}

impl Copy {
    fn write(mut self, state: &std::path::Path) -> Result<(), StateError> {
        let lease = |(name, entry): (String, Entry)| {
            let (created, modified, lease) = (entry.created, entry.modified, entry.lease);
            Some((name, KeptLease { value: entry.value?.encode(), created, modified, lease }))
        };
        let by_path =
            |all: Vec<(Key, Arc<Value>)>| all.into_iter().map(|(key, source)| (path(&key), source)).collect();
        self.kept.leases = self.leases.into_iter().filter_map(lease).collect();
        (self.kept.pods, self.kept.objects) = (by_path(self.pods), by_path(self.objects));
        self.kept.write(state)
    }
}

/// Takes the last copy up; and what is wrong with it.
pub(super) fn load(
    state: &std::path::Path,
    prefix: &str,
    nodes: &mut Nodes,
    pods: &mut PodKeys,
    objects: &mut ObjectKeys,
) -> (Option<Known>, Option<String>) {
    let kept = match Kept::read(state, prefix) {
        Ok(Some(kept)) => kept,
        Ok(None) => return (None, None),
        Err((path, err)) => return (None, Some(told(&path, &err))),
    };
    nodes.restore(kept.network.as_bytes());
    let own = kept.own.as_ref().and_then(|text| text.parse().ok());
    let (contact, routes) = (kept.contact(), kept.routes.clone());
    for (name, lease) in kept.leases {
        let Ok(key) = name.parse() else { continue };
        let value = LeaseValue::parse(lease.value.as_bytes()).ok();
        let (created, modified, lease) = (lease.created, lease.modified, lease.lease);
        nodes.leases.insert(name, Entry { key, value, created, modified, lease });
    }
    for (path, value) in kept.pods {
        if let Some(key) = parse_path(&path).filter(|key| key.kind == Kind::Pod) {
            let key = pods.pod_key(&key);
            let value = value.to_string().into_bytes();
            pods.put(&crate::store::etcd::wire::KeyValue { key, value, ..Default::default() });
        }
    }
    for (path, value) in kept.objects {
        if let Some(key) = parse_path(&path) {
            objects.restore(key, value);
        }
    }
    (Some(Known { own, contact, routes }), None)
}

fn told(path: &std::path::Path, err: &FileError) -> String {
    format!("{}: {err}", path.display())
}
