//! The operator's tool behind `vsctl`: arguments, one request to the daemon, and how an answer looks to people.
//!
//! Nothing here decides or changes anything, but for `uninstall`. What is shown is rendered by pure functions from the control socket's
//! own types; `--json` prints those types as they are.
//!
//! Exit codes: 0 all is well; 1 the answer is no (status not ok, configuration invalid, packet not delivered, a check
//! of the lab failed); 2 wrong usage; 3 no answer (daemon absent, stuck or refusing, file not readable).

mod args;
mod bgp;
mod check;
mod ipam;
mod objects;
mod show;
mod table;
mod trace;
mod uninstall;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use control::api::{
    BgpQuery, BgpReport, ConfigReport, DropInfo, EventReport, FlowInfo, IpamReport, PeerInfo, PortInfo,
    Request, RouteInfo, StatusReport, TraceReport,
};
use control::client::{Client, ClientError};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use args::{Args, BgpWhat, CheckArgs, Command, IpamWhat, Target, TraceArgs, UninstallArgs};

/// How long the daemon is given.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often events are asked for.
const FOLLOW: Duration = Duration::from_millis(200);

/// The answer is no.
const NO: u8 = 1;
/// There is no answer.
const UNANSWERED: u8 = 3;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The daemon does not answer, or says no.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// The answer cannot be written as JSON.
    #[error("write the answer as JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// Standard output is gone or full.
    #[error("write to standard output: {0}")]
    Output(#[source] io::Error),
}

/// Runs the tool to its end.
pub fn run(args: Args) -> ExitCode {
    let done = match args.command {
        Command::Lab(mut lab) => {
            lab.json |= args.json;
            return crate::lab::run(&lab);
        }
        Command::Check(check) => check::run(&check, args.json),
        Command::Uninstall(uninstall) => uninstall::run(&uninstall, args.json),
        command => Asker { socket: &args.socket, json: args.json }.run(&command),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        // Whoever reads us has seen enough, as in `vsctl flows | head`.
        Err(CliError::Output(err)) if err.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(err) => {
            complain(&err.to_string());
            ExitCode::from(UNANSWERED)
        }
    }
}

fn complain(text: &str) {
    // With standard error gone there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "vsctl: {text}");
}

fn say(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Output)
}

fn say_json(value: &impl Serialize) -> Result<(), CliError> {
    let mut text = serde_json::to_string_pretty(value).map_err(CliError::Json)?;
    text.push('\n');
    say(&text)
}

/// Asks the daemon and shows what it says.
struct Asker<'a> {
    socket: &'a std::path::Path,
    json: bool,
}

impl Asker<'_> {
    fn run(&self, command: &Command) -> Result<u8, CliError> {
        match command {
            Command::Status => {
                let status: StatusReport = self.show(&Request::Status, show::status)?;
                Ok(if status.ok { 0 } else { NO })
            }
            Command::Ports => self.list::<PortInfo>(&Request::Ports, show::ports),
            Command::Routes => self.list::<RouteInfo>(&Request::Routes, show::routes),
            Command::Peers => self.list::<PeerInfo>(&Request::Peers, show::peers),
            Command::Flows => self.list::<FlowInfo>(&Request::Flows, show::flows),
            Command::Drops { follow: true, .. } => self.follow(),
            Command::Drops { all, .. } => {
                let all = *all;
                self.list::<DropInfo>(&Request::Drops, move |drops| show::drops(drops, all))
            }
            Command::Policy { pod } => {
                self.show(&Request::Policy { pod: pod.clone() }, show::policy)?;
                Ok(0)
            }
            Command::Bgp { what } => {
                let query = BgpWhat::query(what.as_ref());
                let peers = query == BgpQuery::Peers;
                self.show(&Request::Bgp { query }, |report: &BgpReport| {
                    if peers { bgp::peers(report) } else { bgp::routes(report) }
                })?;
                Ok(0)
            }
            Command::Ipam { what } => self.ipam(what.as_ref()),
            Command::Apply { from } => objects::each(self.socket, objects::Verb::Apply, from, self.json),
            Command::Delete { from } => objects::each(self.socket, objects::Verb::Delete, from, self.json),
            Command::Get { kind, name, namespace } => {
                let (kind, name, namespace) = (kind.clone(), name.clone(), namespace.clone());
                objects::get(self.socket, &Request::Get { kind, namespace, name }, self.json)
            }
            Command::Config => {
                self.show(&Request::Config, |config: &ConfigReport| config.toml.clone())?;
                Ok(0)
            }
            Command::Trace(trace) => {
                let report: TraceReport = self.show(&Request::Trace(trace.request()), trace::render)?;
                Ok(if report.delivered { 0 } else { NO })
            }
            // These are answered without the daemon, by the caller.
            Command::Check(_) | Command::Lab(_) | Command::Uninstall(_) => Ok(0),
        }
    }

    fn ipam(&self, what: Option<&IpamWhat>) -> Result<u8, CliError> {
        let query = match ipam::query(what) {
            Ok(query) => query,
            Err(err) => {
                complain(&err);
                return Ok(UNANSWERED);
            }
        };
        let blocks = matches!(what, Some(IpamWhat::Show { show_blocks: true, .. }));
        let report: IpamReport = self.show(&Request::Ipam { query }, |report: &IpamReport| match what {
            Some(IpamWhat::Check) => ipam::check(report),
            Some(IpamWhat::Release { .. }) => ipam::released(report),
            _ => ipam::show(report, blocks),
        })?;
        Ok(if report.findings.is_empty() && report.left.is_empty() { 0 } else { NO })
    }

    /// Tells events as they happen, until nobody reads them.
    fn follow(&self) -> Result<u8, CliError> {
        let mut client = Client::connect(self.socket, TIMEOUT)?;
        let mut report: EventReport = client.call(&Request::Events { after: u64::MAX })?;
        let mut lost = report.lost;
        loop {
            report = client.call(&Request::Events { after: report.next })?;
            for event in &report.events {
                if self.json {
                    let mut line = serde_json::to_string(event).map_err(CliError::Json)?;
                    line.push('\n');
                    say(&line)?;
                } else {
                    say(&show::event(event))?;
                }
            }
            if report.lost > lost {
                complain(&format!("{} events were lost: too many at once", report.lost - lost));
                lost = report.lost;
            }
            std::thread::sleep(FOLLOW);
        }
    }

    fn list<T: Serialize + DeserializeOwned>(
        &self,
        request: &Request,
        render: impl Fn(&[T]) -> String,
    ) -> Result<u8, CliError> {
        self.show(request, |rows: &Vec<T>| render(rows))?;
        Ok(0)
    }

    fn show<T: Serialize + DeserializeOwned>(
        &self,
        request: &Request,
        render: impl Fn(&T) -> String,
    ) -> Result<T, CliError> {
        let answer: T = Client::connect(self.socket, TIMEOUT)?.call(request)?;
        if self.json {
            say_json(&answer)?;
        } else {
            say(&render(&answer))?;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
