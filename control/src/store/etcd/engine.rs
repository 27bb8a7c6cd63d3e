//! What runs on the store's thread: takes in what the mirrors learn, makes the calls, tells the daemon.
//!
//! One task owns all that is known; calls are tasks of their own, one at a time of each sort, whose end comes back here.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::calls;
use super::client::Client;
use super::error::CallError;
use super::lease::{Call, Claim, Claimed, Keeper};
use super::mirror::{Mirror, QUEUE, Source, Update};
use super::nodes::Nodes;
use super::objects::ObjectKeys;
use super::pods::{PodKeys, PublishedPod};
use super::request::{RequestError, carry_out};
use super::shared::{Health, LeaseHealth, Shared};
use super::{Command, NodeFacts, StoreEvent, Timing, calendar, jitter, made_mac};
use crate::attachments::StateError;
use crate::config::EtcdSettings;
use crate::flannel::roster::{Own, Roster, nets_of};
use crate::flannel::subnet_env::SubnetEnv;
use crate::fleet::Fleet;
use crate::objects::Key;

mod blocks;
mod keep;
mod publish;
mod tell;

/// Between two tellings: what comes meanwhile is told together.
const GATHER: Duration = Duration::from_millis(5);
/// How long a stop waits for etcd.
const FAREWELL: Duration = Duration::from_secs(3);

/// How a call ended.
enum Done {
    Claimed(Claim, Result<Claimed, CallError>),
    Renewed(Result<Duration, CallError>),
    Yielded(Result<calls::Written, CallError>),
    Published(publish::Outcome),
    Kept(Duration, Result<(), StateError>),
    Registered(Result<calls::Written, CallError>),
    Answered,
}

pub(super) struct Engine {
    client: Client,
    node: NodeFacts,
    state: PathBuf,
    shared: Arc<Shared>,
    on_event: Box<dyn Fn(StoreEvent) + Send>,
    nodes: Nodes,
    pods: PodKeys,
    objects: ObjectKeys,
    /// None where addresses come from the node's own range.
    blocks: Option<blocks::Blocks>,
    keeper: Keeper,
    calls: JoinSet<Done>,
    /// One about the lease is under way.
    lease_call: bool,
    publishing: publish::Publishing,
    keeping: keep::Keeping,
    telling: tell::Telling,
    /// By source: is it heard of, and if not, why.
    up: BTreeMap<Source, Result<(), String>>,
    /// The first list of each was complete.
    listed: BTreeSet<Source>,
    contact: Option<SystemTime>,
}

impl Engine {
    pub(super) fn new(
        settings: EtcdSettings,
        timing: Timing,
        node: NodeFacts,
        state: PathBuf,
        shared: Arc<Shared>,
        on_event: Box<dyn Fn(StoreEvent) + Send>,
    ) -> Engine {
        let mut nodes = Nodes::new(&settings.prefix);
        let (mut pods, mut objects) =
            (PodKeys::new(&settings.own_prefix), ObjectKeys::new(&settings.own_prefix));
        let (kept, unread) = keep::load(&state, &settings.prefix, &mut nodes, &mut pods, &mut objects);
        // A file that is not there, or no such file, is no reason for anything.
        let text = node.subnet_env.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let wish = text.and_then(|text| SubnetEnv::parse(&text).ok()).and_then(|env| env.key());
        let own =
            Own { address: node.address, address6: node.address6, key: kept.as_ref().and_then(|k| k.own) };
        let routes = kept.as_ref().map(|kept| kept.routes.clone()).unwrap_or_default();
        let blocks = node.pools.then(|| blocks::Blocks::new(routes));
        Engine {
            client: Client::new(settings, timing),
            keeper: Keeper::new(timing, own, wish, node.vtep_mac, made_mac()),
            node,
            state,
            shared,
            on_event,
            nodes,
            pods,
            objects,
            blocks,
            calls: JoinSet::new(),
            lease_call: false,
            publishing: publish::Publishing::default(),
            keeping: keep::Keeping::new(kept.is_some(), unread),
            telling: tell::Telling::default(),
            up: BTreeMap::new(),
            listed: BTreeSet::new(),
            contact: kept.map(|kept| kept.contact),
        }
    }

    /// Runs until it is told to stop, or nobody is there any more who could.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut desired: watch::Receiver<Option<Vec<PublishedPod>>>,
    ) {
        self.begin();
        let (updates, mut inbox) = mpsc::channel(QUEUE);
        let mut ranges = vec![
            (Source::Nodes, self.nodes.prefix().to_owned()),
            (Source::Pods, self.pods.prefix().to_owned()),
            (Source::Objects, self.objects.prefix().to_owned()),
        ];
        if let Some(blocks) = &mut self.blocks {
            blocks.start(&self.client, &self.node.name);
            ranges.push((Source::Blocks, crate::blocks::BLOCKS.to_owned()));
            ranges.push((Source::Affinities, crate::blocks::AFFINITIES.to_owned()));
        }
        for (source, prefix) in ranges {
            tokio::spawn(Mirror::new(source, &prefix, self.client.clone(), updates.clone()).run());
        }
        let release = loop {
            let now = Instant::now();
            self.step(now);
            let next = self.next(now);
            let sleep = async {
                match next {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                update = inbox.recv() => {
                    if let Some((source, update)) = update {
                        self.update(source, update);
                    }
                }
                Some(done) = self.calls.join_next() => {
                    if let Ok(done) = done {
                        self.done(done);
                    }
                }
                command = commands.recv() => match command {
                    Some(Command::Request(request, reply)) => self.request(request, reply),
                    Some(Command::Ipam(request, answer)) => self.ipam(request, answer),
                    Some(Command::Stop { release }) => break release,
                    None => break false,
                },
                Ok(()) = desired.changed() => {
                    let wanted = desired.borrow_and_update().clone();
                    self.publishing.want(wanted.unwrap_or_default());
                }
                () = sleep => {}
            }
        };
        drop(inbox);
        self.finish(release).await;
        self.shared.change(|now| now.ended = true);
    }

    /// When to look again though nothing comes.
    fn next(&self, now: Instant) -> Option<Instant> {
        // What was due by then is done, or waits for something to come in.
        let of_keeper = if self.lease_call { [None, None] } else { self.keeper.next() };
        let register = self.blocks.as_ref().and_then(blocks::Blocks::next);
        let others =
            [self.nodes.next(), self.publishing.next(), self.keeping.next(), self.telling.next(), register];
        of_keeper.into_iter().chain(others).flatten().filter(|at| *at > now).min()
    }

    /// Does whatever is due.
    fn step(&mut self, now: Instant) {
        if self.nodes.ripen(now) {
            (self.telling.something, self.telling.fleet) = (true, true);
        }
        if !self.lease_call
            && self.is_up(Source::Nodes)
            && let Some(call) = self.keeper.step(&self.nodes, now, &mut jitter)
        {
            self.lease_call = true;
            self.make(call);
        }
        self.register(now);
        self.publish(now);
        self.tell(now);
        self.keep(now);
    }

    fn is_up(&self, source: Source) -> bool {
        matches!(self.up.get(&source), Some(Ok(())))
    }

    fn make(&mut self, call: Call) {
        let (client, base) = (self.client.clone(), format!("{}subnets/", self.nodes.prefix()));
        self.calls.spawn(async move {
            match call {
                Call::Claim(claim) => {
                    let result = calls::claim(&client, &base, &claim).await;
                    Done::Claimed(claim, result)
                }
                Call::Renew { lease } => Done::Renewed(client.keep_alive(lease).await),
                Call::Yield { key, modified } => {
                    let key = format!("{base}{key}").into_bytes();
                    let write = calls::Write { key, value: None, lease: 0, over: Some(modified) };
                    Done::Yielded(calls::write(&client, &write).await)
                }
            }
        });
    }

    fn request(
        &mut self,
        request: super::Request,
        reply: Box<dyn FnOnce(Result<super::Reply, RequestError>) + Send>,
    ) {
        let (client, base) = (self.client.clone(), self.objects.prefix().to_owned());
        self.calls.spawn(async move {
            reply(carry_out(&client, &base, request).await);
            Done::Answered
        });
    }

    fn done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Claimed(claim, result) => {
                self.lease_call = false;
                match result {
                    Ok(claimed) => {
                        tracing::info!(subnet = %claim.key, ?claimed, "etcd: this node's lease");
                        self.keeper.claimed(claim, claimed, now);
                        self.telling.fleet = true;
                    }
                    Err(err) => {
                        tracing::warn!(%err, subnet = %claim.key, "etcd: take a subnet");
                        self.keeper.failed(now);
                    }
                }
            }
            Done::Renewed(result) => {
                self.lease_call = false;
                if let Err(err) = &result {
                    tracing::warn!(%err, "etcd: renew this node's lease");
                }
                self.keeper.renewed(result.ok(), now);
                self.telling.fleet = true;
            }
            Done::Yielded(result) => {
                self.lease_call = false;
                self.keeper.yielded(matches!(result, Ok(calls::Written::Yes(_))), now);
            }
            Done::Published(outcome) => self.publishing.published(outcome, now, self.client.timing()),
            Done::Kept(took, result) => {
                self.keeping.done(took, result, now);
                self.telling.something = true;
            }
            Done::Registered(result) => self.registered(result),
            Done::Answered => {}
        }
    }

    fn update(&mut self, source: Source, update: Update) {
        match update {
            Update::Listing => match source {
                Source::Nodes => self.nodes.listing(),
                Source::Pods => self.pods.listing(),
                Source::Objects => self.objects.listing(),
                Source::Blocks | Source::Affinities => {
                    self.blocks.iter_mut().for_each(|blocks| blocks.listing(source));
                }
            },
            Update::Page(kvs) => kvs.iter().for_each(|kv| self.put(source, kv)),
            Update::TooLarge(kv) => match source {
                Source::Nodes => self.nodes.too_large(&kv),
                Source::Pods => self.telling.pods.extend(self.pods.too_large(&kv)),
                Source::Objects => self.objects.too_large(&kv),
                // Longer than is read as well.
                Source::Blocks | Source::Affinities => self.put(source, &kv),
            },
            Update::Listed(revision) => {
                self.listed.insert(source);
                match source {
                    Source::Nodes => {
                        self.nodes.listed(revision);
                        self.keeper.listed(revision);
                    }
                    Source::Pods => self.telling.pods.extend(self.pods.listed(revision)),
                    Source::Objects => {
                        let gone = self.objects.listed(revision);
                        gone.into_iter().for_each(|key| self.object_gone(key));
                        self.telling.fleet |= self.blocks.is_some();
                    }
                    Source::Blocks | Source::Affinities => {
                        self.blocks.iter_mut().for_each(|blocks| blocks.listed(source));
                        self.telling.fleet = true;
                    }
                }
            }
            Update::Up => self.heard(source, &Ok(())),
            Update::Changed(revision, events) => {
                for event in events {
                    let Some(kv) = event.kv else { continue };
                    match event.kind {
                        0 => self.put(source, &kv),
                        _ => self.delete(source, &kv.key),
                    }
                }
                match source {
                    Source::Nodes => self.nodes.revision = revision,
                    Source::Pods => self.pods.revision = revision,
                    Source::Objects => self.objects.revision = revision,
                    Source::Blocks | Source::Affinities => {}
                }
            }
            Update::Down(err) => self.heard(source, &Err(err.to_string())),
        }
        self.telling.something = true;
        if source == Source::Nodes {
            self.telling.fleet = true;
        }
    }

    /// A source is heard of, or not any more.
    fn heard(&mut self, source: Source, state: &Result<(), String>) {
        let before = self.up.insert(source, state.clone());
        if before.as_ref() == Some(state) {
            return;
        }
        if source == Source::Nodes {
            let was = matches!(before, Some(Ok(())));
            match (state, was) {
                (Ok(()), _) => {
                    tracing::info!(endpoint = self.client.member(), "etcd is reached");
                    self.contact = Some(SystemTime::now());
                }
                (Err(err), true) => {
                    tracing::warn!(err, "etcd is not reached; what was last known stays in force");
                    self.contact = Some(SystemTime::now());
                }
                (Err(err), false) => tracing::debug!(err, "etcd is not reached"),
            }
        }
        self.telling.health = true;
    }

    fn put(&mut self, source: Source, kv: &super::wire::KeyValue) {
        match source {
            Source::Nodes => {
                let own = self.keeper.own().clone();
                self.nodes.changed(kv, &own, Instant::now());
            }
            Source::Pods => self.telling.pods.extend(self.pods.put(kv)),
            Source::Objects => {
                if let Some((key, version)) = self.objects.put(kv) {
                    if let (Some(blocks), Ok(object)) = (&mut self.blocks, &version.1) {
                        self.telling.fleet |= blocks.object(&key, Some(object));
                    }
                    self.telling.changed(key, version);
                }
            }
            Source::Blocks | Source::Affinities => {
                if let Some(blocks) = &mut self.blocks {
                    self.telling.fleet |= blocks.put(source, kv);
                }
            }
        }
    }

    fn delete(&mut self, source: Source, key: &[u8]) {
        match source {
            Source::Nodes => {
                let own = self.keeper.own().clone();
                self.nodes.deleted(key, &own, Instant::now());
            }
            Source::Pods => self.telling.pods.extend(self.pods.delete(key)),
            Source::Objects => {
                if let Some(key) = self.objects.delete(key) {
                    self.object_gone(key);
                }
            }
            Source::Blocks | Source::Affinities => {
                if let Some(blocks) = &mut self.blocks {
                    self.telling.fleet |= blocks.delete(key);
                }
            }
        }
    }

    fn object_gone(&mut self, key: Key) {
        if let Some(blocks) = &mut self.blocks {
            self.telling.fleet |= blocks.object(&key, None);
        }
        self.telling.removed(key);
    }

    /// The last things, for which etcd gets a few seconds.
    async fn finish(&mut self, release: bool) {
        if release && let Some(held) = self.keeper.held() {
            let last = tokio::time::timeout(FAREWELL, self.client.revoke(held.lease)).await;
            if !matches!(last, Ok(Ok(_))) {
                tracing::warn!("etcd: this node's lease could not be given back; it expires");
            }
        }
        self.calls.abort_all();
        self.keep_last();
    }

    /// This node's addresses, as published pods name them.
    fn hosts(&self) -> Vec<IpAddr> {
        let own = self.keeper.own();
        own.address.map(IpAddr::V4).into_iter().chain(own.address6.map(IpAddr::V6)).collect()
    }
}
