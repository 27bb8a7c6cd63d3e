//! What a node's metrics page says.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use vswitch::lab::{Netns, within};

/// Where a node of a test serves its metrics, in its own namespace.
pub const METRICS: &str = "127.0.0.1:9470";

/// The configuration that makes it so.
#[must_use]
pub fn config() -> String {
    format!("\n[metrics]\nlisten = \"{METRICS}\"\n")
}

/// The status and the body that a node answers a request for a path with.
///
/// # Panics
/// When it does not answer within 10 s, or not in HTTP.
#[must_use]
pub fn get(netns: &Netns, path: &str) -> (u16, String) {
    let text = within(netns.path(), || {
        let mut stream = TcpStream::connect(METRICS).expect("somebody listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket takes a timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {METRICS}\r\n\r\n").expect("a request can be sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer comes");
        text
    })
    .expect("the namespace is there");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"), body.to_owned())
}

/// The value of a series, if there is one.
#[must_use]
pub fn metric(netns: &Netns, series: &str) -> Option<f64> {
    let (_, body) = get(netns, "/metrics");
    body.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}
