//! Routes by BGP: the control thread's side.
//!
//! The speaker is the crate `bgp`; its sockets and clock are a thread's of its own ([`driver`]). Here its settings are
//! made of the configuration and of what the store says, what it learned for pods becomes part of the fleet, and is
//! kept for the next start: a restart goes on forwarding by the routes of before until its neighbours have told theirs
//! again (graceful restart, RFC 4724).

mod conn;
mod driver;
mod gauges;
mod hops;
mod kernel;
mod learned;
mod mailbox;
mod report;
mod settings;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bgp::speaker::Speaker;
use control::api::{BgpQuery, BgpReport, code};
use control::config::{Bgp as BgpConfig, Config};
use control::fleet::Fleet;
use crossbeam::channel::{Sender, bounded, unbounded};
use ipnet::IpNet;
use mio::Waker;

use self::driver::{Command, Driver, Parts};
use self::gauges::Gauges;
use self::learned::{Hops, Learned};
use self::mailbox::Mailbox;
use self::settings::Policies;
use super::keeper_link::{KeeperLink, names};
use super::metrics::BgpSample;
use super::pools::announced;
use super::{Daemon, DaemonError, Event, chain, serve};

/// The routes of before, in the state directory.
const KEPT: &str = "bgp-routes.json";
/// Older ones are not believed: neighbours have given us up by then (the restart time we tell them).
const KEPT_FOR: Duration = Duration::from_secs(120);
/// Routes are kept this long after they changed.
const KEEP_AFTER: Duration = Duration::from_secs(1);
/// How long the speaker may take to say goodbye.
const ANSWER: Duration = Duration::from_secs(3);

/// Takes the answer to a question.
pub(super) type Answer = Box<dyn FnOnce(BgpReport) + Send>;

/// BGP could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BgpError {
    /// The listener.
    #[error("bgp.listen: TCP {addr}: {err}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        err: io::Error,
    },
    /// The speaker does not take its configuration.
    #[error("[bgp]: {0}")]
    Config(#[from] bgp::config::ConfigError),
    /// No poll or thread.
    #[error("start the BGP thread")]
    Thread(#[source] io::Error),
    /// The keeper is gone.
    #[error("hand the BGP listener to the keeper")]
    Keeper(#[source] io::Error),
}

/// The speaker, as the control thread holds it.
pub(super) struct Bgp {
    config: BgpConfig,
    policies: Policies,
    learned: Learned,
    mailbox: Arc<Mailbox>,
    commands: Sender<Command>,
    waker: Arc<Waker>,
    gauges: Arc<Gauges>,
    /// What was learned is not kept yet; written then.
    unkept: Option<Instant>,
}

impl Bgp {
    /// Starts the speaker's thread, where one is configured. `held` is what the keeper had; `fleet` is the store's.
    ///
    /// # Errors
    /// See [`BgpError`].
    pub(super) fn start(
        config: &Config,
        fleet: &Fleet,
        announced: Vec<IpNet>,
        keeper: &KeeperLink,
        held: &mut BTreeMap<String, OwnedFd>,
        control: Sender<Event>,
    ) -> Result<Option<Bgp>, BgpError> {
        let Some(bgp) = &config.bgp else { return Ok(None) };
        let kept = kept(config);
        let mut policies = Policies::default();
        let settings = settings::settings(bgp, &config.node, fleet, kept.is_some(), &mut policies);
        let speaker = Speaker::new(settings.config, Instant::now())?;
        let mailbox = Arc::new(Mailbox::default());
        let gauges = Arc::new(Gauges::default());
        let (commands, inbox) = unbounded();
        let parts = Parts {
            speaker,
            scope: settings.scope,
            listeners: listeners(bgp, config, keeper, held)?,
            announced,
            restarting: kept.is_some(),
            mailbox: Arc::clone(&mailbox),
            gauges: Arc::clone(&gauges),
            commands: inbox,
            control,
        };
        let (driver, waker) = Driver::new(parts).map_err(BgpError::Thread)?;
        let spawned = std::thread::Builder::new().name("bgp".into()).spawn(move || driver.run());
        spawned.map_err(BgpError::Thread)?;
        let learned = kept.map(Learned::kept).unwrap_or_default();
        let config = bgp.clone();
        Ok(Some(Bgp { config, policies, learned, mailbox, commands, waker, gauges, unkept: None }))
    }

    /// The store's fleet with what was learned in it.
    pub(super) fn onto(&self, fleet: &Fleet) -> Fleet {
        self.learned.onto(fleet)
    }

    fn send(&self, command: Command) {
        // A thread that has ended has told why.
        let _ = self.commands.send(command);
        let _ = self.waker.wake();
    }

    /// Tells the speaker of the store's fleet, and what to announce.
    pub(super) fn follow(&mut self, config: &Config, fleet: &Fleet, announced: Vec<IpNet>) {
        let settings = settings::settings(&self.config, &config.node, fleet, false, &mut self.policies);
        self.send(Command::Configure(Box::new(settings)));
        self.send(Command::Announce(announced));
    }

    /// Tells the speaker what to announce.
    pub(super) fn announce(&self, announced: Vec<IpNet>) {
        self.send(Command::Announce(announced));
    }

    /// Asks the speaker; its thread gives the answer, and nobody waits for it here.
    pub(super) fn ask(&self, query: BgpQuery, answer: Answer) {
        self.send(Command::Report(query, answer));
    }

    /// Itself in numbers.
    pub(super) fn gauges(&self) -> BgpSample {
        self.gauges.read()
    }

    /// When [`Bgp::keep`] is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.unkept
    }

    /// Keeps what was learned, when it is time.
    pub(super) fn keep(&mut self, config: &Config) {
        if self.unkept.is_some_and(|at| at <= Instant::now()) {
            self.unkept = None;
            let text = serde_json::to_vec(self.learned.routes()).unwrap_or_default();
            let dir = &config.node.state_dir;
            if let Err(err) = control::attachments::keep(dir, KEPT, &text) {
                tracing::warn!(err = %chain(&err), "keep learned routes");
                self.unkept = Some(Instant::now() + Duration::from_secs(30));
            }
        }
    }

    /// Ends all sessions; neighbours withdraw our routes at once.
    pub(super) fn stop(&mut self, config: &Config) {
        let (done, end) = bounded(1);
        self.send(Command::Stop(done));
        let _ = end.recv_timeout(ANSWER);
        // The next start is a fresh one.
        let _ = std::fs::remove_file(config.node.state_dir.join(KEPT));
    }
}

/// The listeners, new or kept over a restart: neighbours that dial meanwhile wait in their queues.
fn listeners(
    bgp: &BgpConfig,
    config: &Config,
    keeper: &KeeperLink,
    held: &mut BTreeMap<String, OwnedFd>,
) -> Result<Vec<mio::net::TcpListener>, BgpError> {
    let v4 = config.node.address.map(IpAddr::V4);
    let own = v4.into_iter().chain(config.node.address6.map(IpAddr::V6));
    let addrs: Vec<SocketAddr> = match bgp.listen {
        Some(addr) => vec![addr],
        None => own.map(|addr| SocketAddr::new(addr, 179)).collect(),
    };
    let mut all = Vec::with_capacity(addrs.len());
    for (i, addr) in addrs.into_iter().enumerate() {
        let name = format!("{}{i}", names::BGP);
        let kept = held.remove(&name).and_then(|fd| conn::adopt(fd, addr));
        let listener = match kept {
            Some(listener) => listener,
            None => {
                let made = conn::listen(addr).map_err(|err| BgpError::Listen { addr, err })?;
                keeper.put(&name, &made).map_err(BgpError::Keeper)?;
                made
            }
        };
        all.push(listener);
    }
    Ok(all)
}

/// The routes of before, while neighbours may still hold ours.
fn kept(config: &Config) -> Option<Hops> {
    let path = config.node.state_dir.join(KEPT);
    let age = SystemTime::now().duration_since(std::fs::metadata(&path).ok()?.modified().ok()?);
    // The file is written when routes change, so its age says nothing about a switch that the keeper started again.
    let again = std::env::var(super::keeper::RESTARTS).is_ok_and(|n| n.parse().is_ok_and(|n: u64| n > 0));
    let young = again || age.is_ok_and(|age| age < KEPT_FOR);
    let text = std::fs::read(&path).ok().filter(|_| young)?;
    match serde_json::from_slice(&text) {
        Ok(hops) => Some(hops),
        Err(err) => {
            tracing::warn!(%err, "the kept BGP routes cannot be read: a fresh start");
            None
        }
    }
}

impl Daemon {
    /// Routes have been learned or lost.
    pub(super) fn take_learned(&mut self) -> Result<(), DaemonError> {
        let Some(bgp) = &mut self.bgp else { return Ok(()) };
        let waiting = bgp.mailbox.take();
        let mut different = bgp.learned.take(waiting.routes);
        if waiting.settled {
            different |= bgp.learned.sift();
        }
        if !different {
            return Ok(());
        }
        bgp.unkept.get_or_insert_with(|| Instant::now() + KEEP_AFTER);
        let fleet = Arc::new(bgp.onto(&self.stored));
        self.follow(fleet)
    }

    /// The store says something else about the nodes: the speaker is told, and what it learned stays.
    ///
    /// # Errors
    /// Only what the daemon cannot live with; everything else is a problem of the node.
    pub(super) fn set_stored(&mut self, stored: Arc<Fleet>) -> Result<(), DaemonError> {
        self.stored = stored;
        let fleet = self
            .bgp
            .as_ref()
            .map_or_else(|| Arc::clone(&self.stored), |bgp| Arc::new(bgp.onto(&self.stored)));
        let done = self.follow(fleet);
        if let Some(bgp) = &mut self.bgp {
            let announced = match &self.pools {
                Some(_) => announced(&self.stored, self.attached.values().flat_map(|a| &a.record.addresses)),
                None => self.stored.pod_cidrs.iter().chain(&self.former).copied().collect(),
            };
            bgp.follow(&self.config, &self.stored, announced);
        }
        done
    }

    fn follow(&mut self, fleet: Arc<Fleet>) -> Result<(), DaemonError> {
        match self.set_fleet(fleet) {
            Err(err @ DaemonError::Switch(_)) => Err(err),
            Err(err) => {
                tracing::error!(err = %chain(&err), "take over the nodes");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// A question to the speaker.
    pub(super) fn ask_bgp(&self, query: BgpQuery, reply: Sender<serde_json::Value>) {
        // A client that left does not want its answer.
        match &self.bgp {
            Some(bgp) => bgp.ask(query, Box::new(move |report| drop(reply.send(serve::ok(report))))),
            None => {
                let why = "no BGP here: the configuration has no [bgp] section";
                let _ = reply.send(serve::error(code::UNSUPPORTED_FIELD, why));
            }
        }
    }
}
