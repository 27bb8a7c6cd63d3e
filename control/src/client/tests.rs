//! Unit level: the daemon here is a thread that answers what the test says.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;
use crate::api::{DropInfo, code};

/// A socket whose first connection gets these bytes after its first request line, and is then kept open or closed.
fn fake(name: &str, answer: &'static [u8], keep: bool) -> PathBuf {
    let path = std::env::temp_dir().join(format!("vswitch-client-{}-{name}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let own = path.clone();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Nobody else connects, and nothing is left behind.
        std::fs::remove_file(own).unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with(r#"{"op":"#), "{line}");
        stream.write_all(answer).unwrap();
        if keep {
            thread::sleep(Duration::from_secs(5));
        }
    });
    path
}

fn call(path: &Path) -> Result<Vec<DropInfo>, ClientError> {
    Client::connect(path, Duration::from_millis(200))?.call(&Request::Drops)
}

#[test]
fn takes_a_reply() {
    let drops = call(&fake("ok", b"{\"ok\":[{\"reason\":\"no-route\",\"count\":1}]}\n", true)).unwrap();
    assert_eq!(drops[0].reason, "no-route");
}

#[test]
fn names_the_socket_nobody_listens_on() {
    let err = call(Path::new("/nonexistent/vswitchd.sock")).unwrap_err();
    assert!(err.is_transient());
    assert!(err.to_string().contains("/nonexistent/vswitchd.sock"), "{err}");
}

#[test]
fn gives_up_on_a_daemon_that_is_stuck() {
    let err = call(&fake("stuck", b"", true)).unwrap_err();
    assert!(matches!(err, ClientError::TimedOut { .. }), "{err}");
    assert!(err.to_string().contains("0.2 s"), "{err}");
}

#[test]
fn half_a_reply_is_no_reply() {
    assert!(matches!(call(&fake("half", b"{\"ok\":", false)).unwrap_err(), ClientError::Closed));
}

#[test]
fn garbage_is_named_as_such() {
    let err = call(&fake("garbage", b"HTTP/1.1 400 Bad Request\n", true)).unwrap_err();
    assert!(matches!(err, ClientError::Garbage { .. }), "{err}");
    assert!(!err.is_transient());
}

#[test]
fn refusals_keep_their_code() {
    let answer = b"{\"error\":{\"code\":101,\"msg\":\"10.0.0.2 is taken\",\"details\":\"by a/b\"}}\n";
    let err = call(&fake("refused", answer, true)).unwrap_err();
    assert_eq!(err.to_string(), "10.0.0.2 is taken: by a/b");
    assert!(matches!(err, ClientError::Refused(ApiError { code: code::ADDRESS_TAKEN, .. })));
}

#[test]
fn several_replies_may_arrive_at_once() {
    let path = fake("two", b"{\"ok\":null}\n{\"ok\":null}\n", true);
    let mut client = Client::connect(&path, Duration::from_millis(200)).unwrap();
    client.call::<()>(&Request::Ready).unwrap();
    client.call::<()>(&Request::Ready).unwrap();
}
