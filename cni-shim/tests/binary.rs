//! The program itself: streams and exit codes.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn plugin(command: &str, input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vswitch-cni"))
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_NETNS", "dummy")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The plugin stops reading at its limit, so the rest of a large input meets a closed pipe.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.stderr.is_empty(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn version_succeeds_without_a_daemon() {
    let output = plugin("VERSION", br#"{"cniVersion":"1.0.0"}"#);
    assert!(output.status.success());
    assert_eq!(json(&output)["cniVersion"], "1.0.0");
}

#[test]
fn an_error_is_json_on_standard_output_and_a_failure() {
    let conf = br#"{"cniVersion":"1.0.0","name":"n","socket":"/nonexistent/x.sock"}"#;
    let output = plugin("DEL", conf);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["code"], 11);
    assert_eq!(json(&plugin("ADD", conf))["code"], 4);
    assert_eq!(json(&plugin("EXPLODE", conf))["code"], 4);
}

#[test]
fn a_huge_configuration_is_not_read_to_its_end() {
    let mut input = br#"{"cniVersion":"1.0.0","name":"n","x":""#.to_vec();
    input.resize(100 << 20, b'a');
    let output = plugin("DEL", &input);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["code"], 6);
}

#[test]
fn names_itself() {
    let output = Command::new(env!("CARGO_BIN_EXE_vswitch-cni")).arg("--version").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("vswitch-cni ") && text.contains("1.1.0"), "{text}");
}
