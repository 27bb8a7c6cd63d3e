//! `ping`, and what it reports.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::cmd;
use super::error::LabError;
use super::netns::Netns;

/// What a run of `ping` reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pinged {
    /// Requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// Mean round trip in milliseconds; 0 without replies.
    pub mean_ms: f64,
}

impl Pinged {
    /// Whether every request was answered.
    pub fn all(&self) -> bool {
        self.sent > 0 && self.sent == self.received
    }
}

/// Sends `count` echo requests from `from` to `to`, each once the one before is answered or given up (1 s), with
/// `interval_ms` milliseconds between. One run of `ping` for each: a single run waits for its last replies no longer
/// than twice the longest round trip, so on a busy machine it calls lost what is only late.
///
/// # Errors
/// When `ping` cannot be run at all; lost packets are not an error.
pub fn ping(from: &Netns, to: IpAddr, count: u32, interval_ms: u32) -> Result<Pinged, LabError> {
    let (mut all, mut total_ms) = (Pinged { sent: 0, received: 0, mean_ms: 0.0 }, 0.0);
    for i in 0..count {
        if i > 0 {
            std::thread::sleep(Duration::from_millis(interval_ms.into()));
        }
        let one = parse(&talk(from, to, &["-q", "-c", "1", "-W", "1"])?);
        all.sent += 1;
        all.received += one.received;
        total_ms += one.mean_ms;
    }
    if all.received > 0 {
        all.mean_ms = total_ms / f64::from(all.received);
    }
    Ok(all)
}

/// A `ping` that runs beside other things. Dropped before [`PingRun::finish`]: ended.
#[derive(Debug)]
pub struct PingRun {
    child: Option<Child>,
}

impl PingRun {
    /// Starts sending `count` requests from `from` to `to`, `interval_ms` milliseconds apart.
    ///
    /// # Errors
    /// When `ping` cannot be started.
    pub fn start(from: &Netns, to: IpAddr, count: u32, interval_ms: u32) -> Result<PingRun, LabError> {
        let child = from
            .command(Path::new("ping"))
            .args([
                "-n",
                "-q",
                "-W",
                "2",
                "-c",
                &count.to_string(),
                "-i",
                &seconds(interval_ms),
                &to.to_string(),
            ])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(start)?;
        Ok(PingRun { child: Some(child) })
    }

    /// Waits for the last reply.
    ///
    /// # Errors
    /// When `ping`'s report cannot be read.
    pub fn finish(mut self) -> Result<Pinged, LabError> {
        match self.child.take() {
            Some(child) => {
                let out = child.wait_with_output().map_err(start)?;
                Ok(parse(&String::from_utf8_lossy(&out.stdout)))
            }
            None => Ok(parse("")),
        }
    }
}

impl Drop for PingRun {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(source: io::Error) -> LabError {
    LabError::Start { program: "ping".into(), source }
}

/// Sends one echo request and returns the line of the ICMP error that came back, if one came.
///
/// # Errors
/// When `ping` cannot be run at all.
pub fn ping_error(from: &Netns, to: IpAddr) -> Result<Option<String>, LabError> {
    let text = talk(from, to, &["-c", "1", "-W", "1"])?;
    Ok(text.lines().find(|line| line.starts_with("From ")).map(str::to_owned))
}

fn talk(from: &Netns, to: IpAddr, args: &[&str]) -> Result<String, LabError> {
    let (net, to) = (format!("--net={}", from.path().display()), to.to_string());
    let mut words = vec!["nsenter", net.as_str(), "ping", "-n"];
    words.extend_from_slice(args);
    words.push(&to);
    let out = cmd::output(&words)?;
    // 0 = answered, 1 = no answer, 2 = could not even send: "Network is unreachable" counts as no answer too.
    if out.status.code() == Some(NOT_FOUND) {
        return Err(start(io::ErrorKind::NotFound.into()));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// What `nsenter` ends with when the program it should run is not there.
const NOT_FOUND: i32 = 127;

fn seconds(ms: u32) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

fn parse(text: &str) -> Pinged {
    let mut pinged = Pinged { sent: 0, received: 0, mean_ms: 0.0 };
    for line in text.lines() {
        if line.contains("packets transmitted") {
            let mut numbers =
                line.split(',').filter_map(|part| part.split_whitespace().next()?.parse::<u32>().ok());
            pinged.sent = numbers.next().unwrap_or(0);
            pinged.received = numbers.next().unwrap_or(0);
        } else if let Some(values) = line.strip_prefix("rtt min/avg/max/mdev = ") {
            pinged.mean_ms = values.split('/').nth(1).and_then(|v| v.parse().ok()).unwrap_or(0.0);
        }
    }
    pinged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_summary() {
        let text = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\n--- 10.0.0.1 ping statistics ---\n\
                    3 packets transmitted, 2 received, 33% packet loss, time 403ms\n\
                    rtt min/avg/max/mdev = 0.031/0.043/0.055/0.012 ms\n";
        assert_eq!(parse(text), Pinged { sent: 3, received: 2, mean_ms: 0.043 });
    }

    #[test]
    fn errors_among_the_replies_do_not_count_as_replies() {
        let text = "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2045ms\n";
        let pinged = parse(text);
        assert_eq!((pinged.sent, pinged.received), (3, 0));
        assert!(!pinged.all());
    }

    #[test]
    fn seconds_have_three_digits() {
        assert_eq!(seconds(2), "0.002");
        assert_eq!(seconds(1000), "1.000");
    }
}
