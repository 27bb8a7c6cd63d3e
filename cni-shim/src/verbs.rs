//! The six commands. Each checks its input, asks the daemon for one thing at most, and gives the JSON to print, if any.

use std::path::Path;
use std::time::{Duration, Instant};

use control::api::{Attach, AttachResult, Gc, Request, Wishes, code};
use control::client::{Client, ClientError};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::conf::{self, Conf};
use crate::env::{Args, Command, Env};
use crate::result;
use crate::spec::{CniError, Version};

/// How long the daemon is given. Runtimes give a plugin at least half a minute; the daemon normally needs
/// milliseconds, and a second or two while it starts anew.
const TIMEOUT: Duration = Duration::from_secs(20);

/// STATUS is polled, and a daemon that needs this long is not available.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn run(command: Command, env: &Env, input: &[u8]) -> Result<Option<Value>, CniError> {
    if command == Command::Version {
        return Ok(Some(json!({
            "cniVersion": conf::asked_version(input),
            "supportedVersions": Version::ALL.map(Version::name),
        })));
    }
    let conf = Conf::parse(input)?;
    let version = conf.version;
    with_conf(command, env, &conf).map_err(|err| err.at(version))
}

fn with_conf(command: Command, env: &Env, conf: &Conf) -> Result<Option<Value>, CniError> {
    match command {
        Command::Version => Ok(None),
        Command::Add => add(env, conf).map(Some),
        Command::Del => del(env, conf).map(|()| None),
        Command::Check => check(env, conf).map(|()| None),
        Command::Gc => gc(conf).map(|()| None),
        Command::Status => status(conf).map(|()| None),
    }
}

fn call<T: DeserializeOwned>(conf: &Conf, request: &Request) -> Result<T, CniError> {
    ask(&conf.socket()?, request, TIMEOUT).map_err(|err| CniError::of_call(err, code::TRY_LATER))
}

/// Asks the daemon, and once more when it closed the connection without an answer: a switch that ended has a successor at the
/// same socket, and every request may be made again, whether it was done, half done or not begun. Not more often: the request
/// itself may be what ended the switch.
fn ask<T: DeserializeOwned>(socket: &Path, request: &Request, patience: Duration) -> Result<T, ClientError> {
    let began = Instant::now();
    let once = |patience| Client::connect(socket, patience)?.call(request);
    match once(patience) {
        Err(ClientError::Closed) => once(patience.saturating_sub(began.elapsed())),
        answer => answer,
    }
}

fn needs(conf: &Conf, least: Version, command: &str) -> Result<(), CniError> {
    if conf.version >= least {
        return Ok(());
    }
    let msg = format!("cniVersion {} has no {command}, it came with {}", conf.version.name(), least.name());
    Err(CniError::new(code::INCOMPATIBLE_VERSION, msg))
}

fn add(env: &Env, conf: &Conf) -> Result<Value, CniError> {
    let id = env.attachment()?;
    let netns = env.netns()?;
    let args = env.args()?;
    if !args.unknown.is_empty() {
        let msg = format!("CNI_ARGS: unknown {}", args.unknown.join(", "));
        return Err(CniError::new(code::INVALID_ENVIRONMENT, msg).because("IgnoreUnknown=1 would allow them"));
    }
    let pod = args.pod(&id.container_id)?;
    let network = conf.name()?;
    conf.check_supported()?;
    let mut ips = args.ips;
    for ip in conf.ips()? {
        // The same wish may stand in several places.
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    let request = Wishes { ips, mac: conf.mac(args.mac.as_deref())? };
    // Before the daemon makes anything: a result that cannot be merged afterwards is refused now.
    let before = conf.prev_result()?;
    let prev = before.map(result::prev).transpose()?;
    if prev.is_some_and(|prev| prev.interfaces.iter().any(|i| i.name == id.ifname && i.sandbox == netns)) {
        let msg = format!("prevResult: a plugin before this one has made {} already", id.ifname);
        return Err(CniError::new(code::INVALID_CONFIG, msg));
    }
    let attach =
        Attach { network, container_id: id.container_id, ifname: id.ifname, netns, pod, request, prev: None };
    let ours: AttachResult = call(conf, &Request::Add(attach))?;
    result::merge(conf.version, before, &ours, conf.dns())
}

/// DEL asks for little: a container's remains must go even where its configuration has become odd.
fn del(env: &Env, conf: &Conf) -> Result<(), CniError> {
    let id = env.attachment()?;
    let netns = env.netns_if_any()?;
    let network = conf.name()?;
    let args = env.args().unwrap_or_default();
    let pod = args.pod(&id.container_id).or_else(|_| Args::default().pod(&id.container_id))?;
    let attach = Attach {
        network,
        container_id: id.container_id,
        ifname: id.ifname,
        netns,
        pod,
        request: Wishes::default(),
        prev: None,
    };
    call(conf, &Request::Del(attach))
}

fn check(env: &Env, conf: &Conf) -> Result<(), CniError> {
    needs(conf, Version::V0_4_0, "CHECK")?;
    let id = env.attachment()?;
    let netns = env.netns()?;
    let pod = env.args()?.pod(&id.container_id)?;
    let network = conf.name()?;
    let Some(before) = conf.prev_result()? else {
        return Err(CniError::new(
            code::INVALID_CONFIG,
            "prevResult is missing: CHECK has nothing to compare with",
        ));
    };
    let attach = Attach {
        network,
        container_id: id.container_id,
        ifname: id.ifname,
        netns,
        pod,
        request: Wishes::default(),
        prev: Some(result::prev(before)?),
    };
    call(conf, &Request::Check(attach))
}

fn gc(conf: &Conf) -> Result<(), CniError> {
    needs(conf, Version::V1_1_0, "GC")?;
    let gc = Gc { network: conf.name()?, valid: conf.valid_attachments()? };
    call(conf, &Request::Gc(gc))
}

fn status(conf: &Conf) -> Result<(), CniError> {
    needs(conf, Version::V1_1_0, "STATUS")?;
    conf.name()?;
    ask(&conf.socket()?, &Request::Ready, STATUS_TIMEOUT)
        .map_err(|err| CniError::of_call(err, code::NOT_AVAILABLE))
}
