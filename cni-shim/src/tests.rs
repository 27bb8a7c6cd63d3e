//! Unit level: the daemon here is a thread that records requests and answers what the test says.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use control::api::Request;
use serde_json::json;

use super::*;

/// A namespace file that is not our own network namespace; nothing is opened, so which kind it is does not matter.
const NETNS: &str = "/proc/self/ns/mnt";

const ADDED: &str = r#"{"ok":{"interface":{"name":"eth0","mac":"0a:00:00:00:00:01","mtu":1450,"sandbox":"/proc/self/ns/mnt"},
"ips":[{"address":"10.244.1.2/32","gateway":"169.254.1.1"},{"address":"fd00::2/128","gateway":"fe80::1"}],
"routes":[{"dst":"169.254.1.1/32"},{"dst":"0.0.0.0/0","gw":"169.254.1.1"}],"mtu":1450}}"#;
const DONE: &str = r#"{"ok":null}"#;

struct Fake {
    socket: PathBuf,
    requests: Receiver<Request>,
}

impl Fake {
    fn new(answer: &str) -> Fake {
        Fake::that_dies(0, answer)
    }

    /// The first `times` requests get no answer.
    fn that_dies(times: usize, answer: &str) -> Fake {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let socket = std::env::temp_dir().join(format!("vswitch-cni-{}-{n}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let (tell, requests) = channel();
        let answer = format!("{}\n", answer.replace('\n', ""));
        thread::spawn(move || {
            for turn in 0..=times {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                tell.send(serde_json::from_str(&line).unwrap()).unwrap();
                if turn == times {
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        Fake { socket, requests }
    }

    fn conf(&self, version: &str) -> Value {
        json!({"cniVersion": version, "name": "vswitch", "type": "vswitch-cni", "socket": self.socket})
    }

    fn request(&self) -> Request {
        self.requests.recv().unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn env(pairs: &[(&'static str, &str)]) -> Env {
    Env(pairs.iter().map(|&(key, value)| (key, OsString::from(value))).collect())
}

fn attach_env(command: &str) -> Env {
    env(&[("CNI_COMMAND", command), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", NETNS), ("CNI_IFNAME", "eth0")])
}

fn with(mut env: Env, key: &'static str, value: &str) -> Env {
    env.0.insert(key, value.into());
    env
}

fn go(env: &Env, conf: &Value) -> Result<Option<Value>, CniError> {
    run(env, conf.to_string().as_bytes())
}

fn code_of(result: Result<Option<Value>, CniError>) -> u32 {
    match result {
        Ok(value) => panic!("no error but {value:?}"),
        Err(err) => err.error.code,
    }
}

/// Nothing listens there: a test that gets 11 has passed every check.
fn nowhere(version: &str) -> Value {
    json!({"cniVersion": version, "name": "vswitch", "type": "vswitch-cni", "socket": "/nonexistent/vswitchd.sock"})
}

#[test]
fn version_answers_whatever_it_is_asked() {
    let all = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    // As podman asks: a namespace that is none, before every ADD.
    let podman = with(attach_env("VERSION"), "CNI_NETNS", "dummy");
    for (input, said) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.9.0"}"#, "9.9.0"),
        (r#"{"cniVersion":"<script>"}"#, "1.1.0"),
        (r#"{"cniVersion":7}"#, "1.1.0"),
        ("", "1.1.0"),
        ("not JSON", "1.1.0"),
    ] {
        let result = run(&podman, input.as_bytes()).unwrap();
        assert_eq!(result, Some(json!({"cniVersion": said, "supportedVersions": all})), "{input}");
    }
}

#[test]
fn add_has_the_form_of_each_version() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let fake = Fake::new(ADDED);
        let result = go(&attach_env("ADD"), &fake.conf(version)).unwrap().unwrap();
        let mut interface = json!({"name": "eth0", "mac": "0a:00:00:00:00:01", "sandbox": NETNS});
        let mut v4 = json!({"address": "10.244.1.2/32", "gateway": "169.254.1.1", "interface": 0});
        let mut v6 = json!({"address": "fd00::2/128", "gateway": "fe80::1", "interface": 0});
        if version == "1.1.0" {
            interface["mtu"] = json!(1450);
        }
        if version.starts_with('0') {
            v4["version"] = json!("4");
            v6["version"] = json!("6");
        }
        assert_eq!(
            result,
            json!({
                "cniVersion": version,
                "interfaces": [interface],
                "ips": [v4, v6],
                "routes": [{"dst": "169.254.1.1/32"}, {"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
            })
        );
        let Request::Add(attach) = fake.request() else { panic!("not an ADD") };
        assert_eq!((attach.container_id.as_str(), attach.ifname.as_str()), ("c1", "eth0"));
        assert_eq!((attach.network.as_str(), attach.netns.as_str()), ("vswitch", NETNS));
        assert_eq!(attach.pod.to_string(), "default/c1");
    }
}

#[test]
fn add_keeps_what_plugins_before_it_made() {
    let fake = Fake::new(ADDED);
    let mut conf = fake.conf("1.0.0");
    // From the specification's example of a chained plugin.
    conf["prevResult"] = json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "cni0", "mac": "00:11:22:33:44:55", "socketPath": "/x"},
            {"name": "veth3243", "mac": "55:44:33:22:11:11"},
            {"name": "net1", "mac": "99:88:77:66:55:44", "sandbox": "/var/run/netns/blue"},
        ],
        "ips": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2, "version": "4"}],
        "routes": [{"dst": "10.9.0.0/16", "mtu": 1400}],
        "dns": {"nameservers": ["10.1.0.1"]},
    });
    let result = go(&attach_env("ADD"), &conf).unwrap().unwrap();
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 4);
    assert_eq!(result["interfaces"][0]["socketPath"], "/x");
    assert_eq!(result["interfaces"][3]["name"], "eth0");
    assert_eq!(result["ips"][0], json!({"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2}));
    assert_eq!(result["ips"][1]["interface"], 3);
    assert_eq!(result["routes"][0], json!({"dst": "10.9.0.0/16", "mtu": 1400}));
    assert_eq!(result["dns"], json!({"nameservers": ["10.1.0.1"]}));
}

#[test]
fn the_pod_comes_from_cni_args_in_any_order() {
    let fake = Fake::new(ADDED);
    // As containerd sends them.
    let args = "K8S_POD_UID=0b7a-1;IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_NAME=web-0;ODD=x;K8S_POD_NAMESPACE=shop";
    go(&with(attach_env("ADD"), "CNI_ARGS", args), &fake.conf("1.0.0")).unwrap();
    let Request::Add(attach) = fake.request() else { panic!("not an ADD") };
    assert_eq!((attach.pod.to_string().as_str(), attach.pod.uid.as_str()), ("shop/web-0", "0b7a-1"));

    let fake = Fake::new(ADDED);
    // As podman sends them: no namespace, address and MAC in the arguments.
    let args = "IgnoreUnknown=1;K8S_POD_NAME=quirky_Bob;MAC=0A:00:00:00:00:09;IP=10.244.1.9";
    go(&with(attach_env("ADD"), "CNI_ARGS", args), &fake.conf("0.4.0")).unwrap();
    let Request::Add(attach) = fake.request() else { panic!("not an ADD") };
    assert_eq!(attach.pod.to_string(), "default/quirky_Bob");
    assert_eq!(attach.request.ips, ["10.244.1.9".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(attach.request.mac.as_deref(), Some("0a:00:00:00:00:09"));
}

#[test]
fn wishes_are_gathered_from_every_place() {
    let fake = Fake::new(ADDED);
    let mut conf = fake.conf("1.1.0");
    // go-cni's structures have no JSON tags: keys may arrive as Go field names.
    conf["runtimeConfig"] = json!({
        "IPs": ["fd00::7/64", "10.244.1.7"], "Mac": "0a:00:00:00:00:07", "PortMappings": [], "bandwidth": {},
        "io.kubernetes.cri.pod-annotations": {"a": "b"},
    });
    conf["args"] = json!({"cni": {"ips": ["10.244.1.7/24"], "mac": "0a:00:00:00:00:08"}});
    conf["dns"] = json!({"nameservers": ["10.1.0.1"]});
    conf["ipam"] = json!({});
    let env = with(attach_env("ADD"), "CNI_ARGS", "IP=10.244.1.7;MAC=0a:00:00:00:00:0a");
    let result = go(&env, &conf).unwrap().unwrap();
    assert_eq!(result["dns"], json!({"nameservers": ["10.1.0.1"]}));
    let Request::Add(attach) = fake.request() else { panic!("not an ADD") };
    let ips: Vec<String> = attach.request.ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.244.1.7", "fd00::7"]);
    assert_eq!(attach.request.mac.as_deref(), Some("0a:00:00:00:00:07"));
}

#[test]
fn del_works_with_little() {
    for (env, version) in [
        (attach_env("DEL"), "0.3.1"),
        (with(attach_env("DEL"), "CNI_NETNS", ""), "0.4.0"),
        (env(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")]), "1.0.0"),
        (with(attach_env("DEL"), "CNI_NETNS", "/proc/self/ns/gone"), "1.1.0"),
        (with(attach_env("DEL"), "CNI_NETNS", "/proc/self/ns/net"), "1.1.0"),
        (with(attach_env("DEL"), "CNI_ARGS", "K8S_POD_NAME=../x;ODD=1;IP=y"), "1.1.0"),
    ] {
        let fake = Fake::new(DONE);
        let mut conf = fake.conf(version);
        conf["prevResult"] = json!({"ips": 7});
        assert_eq!(go(&env, &conf).unwrap(), None);
        let Request::Del(attach) = fake.request() else { panic!("not a DEL") };
        assert_eq!((attach.container_id.as_str(), attach.pod.to_string().as_str()), ("c1", "default/c1"));
    }
}

#[test]
fn check_sends_what_add_answered() {
    let fake = Fake::new(DONE);
    let mut conf = fake.conf("0.4.0");
    conf["prevResult"] = json!({
        "interfaces": [{"name": "eth0", "mac": "0a:00:00:00:00:01", "sandbox": NETNS}],
        "ips": [{"version": "4", "address": "10.244.1.2/32", "gateway": "169.254.1.1", "interface": 0}],
    });
    assert_eq!(go(&attach_env("CHECK"), &conf).unwrap(), None);
    let Request::Check(attach) = fake.request() else { panic!("not a CHECK") };
    let prev = attach.prev.unwrap();
    assert_eq!((prev.interfaces[0].name.as_str(), prev.interfaces[0].sandbox.as_str()), ("eth0", NETNS));
    assert_eq!((prev.ips[0].address.to_string().as_str(), prev.ips[0].interface), ("10.244.1.2/32", Some(0)));
}

#[test]
fn gc_takes_both_keys() {
    let gc = env(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/opt/cni/bin")]);
    for (keys, expected) in [
        (json!({"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}), 1),
        (json!({"cni.dev/attachments": [{"ContainerID": "a", "IfName": "eth0"}]}), 1),
        (
            json!({"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],
                   "cni.dev/attachments": [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "eth0"}]}),
            2,
        ),
        (json!({"cni.dev/valid-attachments": []}), 0),
    ] {
        let fake = Fake::new(DONE);
        let mut conf = fake.conf("1.1.0");
        conf.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        assert_eq!(go(&gc, &conf).unwrap(), None);
        let Request::Gc(sent) = fake.request() else { panic!("not a GC") };
        assert_eq!((sent.network.as_str(), sent.valid.len()), ("vswitch", expected));
    }
    for keys in [
        json!({}),
        json!({"cni.dev/valid-attachments": null}),
        json!({"cni.dev/valid-attachments": {}}),
        json!({"cni.dev/valid-attachments": [{"containerID": "a"}]}),
        json!({"cni.dev/attachments": ["a"]}),
    ] {
        let mut conf = nowhere("1.1.0");
        conf.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        assert_eq!(code_of(go(&gc, &conf)), 7, "{keys}: an absent list must not mean an empty one");
    }
}

#[test]
fn status_tells_what_the_daemon_says() {
    let status = env(&[("CNI_COMMAND", "STATUS")]);
    let fake = Fake::new(DONE);
    assert_eq!(go(&status, &fake.conf("1.1.0")).unwrap(), None);
    assert_eq!(fake.request(), Request::Ready);
    assert_eq!(code_of(go(&status, &nowhere("1.1.0"))), 50);
    let fake = Fake::new(r#"{"error":{"code":51,"msg":"uplink is down"}}"#);
    assert_eq!(code_of(go(&status, &fake.conf("1.1.0"))), 51);
}

#[test]
fn commands_need_their_version() {
    let gc = env(&[("CNI_COMMAND", "GC")]);
    let status = env(&[("CNI_COMMAND", "STATUS")]);
    assert_eq!(code_of(go(&attach_env("CHECK"), &nowhere("0.3.1"))), 1);
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        assert_eq!(code_of(go(&gc, &nowhere(version))), 1);
        assert_eq!(code_of(go(&status, &nowhere(version))), 1);
    }
}

#[test]
fn daemon_errors_keep_their_code() {
    for (answer, code) in [
        (r#"{"error":{"code":101,"msg":"10.0.0.2 belongs to eth0 of c0"}}"#, 101),
        (r#"{"error":{"code":11,"msg":"starting"}}"#, 11),
        ("", 100),
        ("HTTP/1.1 400 Bad Request", 100),
        (r#"{"ok":{"interface":7}}"#, 100),
    ] {
        let fake = Fake::new(answer);
        let err = go(&attach_env("ADD"), &fake.conf("1.0.0")).unwrap_err();
        assert_eq!((err.error.code, err.version.name()), (code, "1.0.0"), "{answer}: {err:?}");
    }
    let err = go(&attach_env("ADD"), &nowhere("0.4.0")).unwrap_err();
    let json = err.to_json();
    assert_eq!((&json["cniVersion"], &json["code"]), (&json!("0.4.0"), &json!(11)));
    assert!(json["msg"].as_str().unwrap().contains("/nonexistent/vswitchd.sock"), "{json}");
}

#[test]
fn a_switch_that_dies_over_a_request_is_followed_by_one_that_is_asked_again() {
    let fake = Fake::that_dies(1, ADDED);
    assert!(go(&attach_env("ADD"), &fake.conf("1.1.0")).unwrap().is_some());
    assert_eq!(fake.request(), fake.request());
    let fake = Fake::that_dies(1, DONE);
    assert_eq!(go(&env(&[("CNI_COMMAND", "STATUS")]), &fake.conf("1.1.0")).unwrap(), None);
    // What ended two of them is not put to a third.
    let fake = Fake::that_dies(2, DONE);
    let err = go(&attach_env("DEL"), &fake.conf("1.1.0")).unwrap_err();
    assert_eq!(err.error.code, 11, "{err:?}");
    assert!(err.error.msg.contains("before answering"), "{err:?}");
    assert_eq!(fake.requests.try_iter().count(), 2);
}

#[test]
fn the_environment_is_checked() {
    let add = || attach_env("ADD");
    let long = "a".repeat(201);
    let cases = [
        with(add(), "CNI_COMMAND", ""),
        with(add(), "CNI_COMMAND", "add"),
        with(add(), "CNI_CONTAINERID", ""),
        with(add(), "CNI_CONTAINERID", "../../x"),
        with(add(), "CNI_CONTAINERID", "a/b"),
        with(add(), "CNI_CONTAINERID", "-a"),
        with(add(), "CNI_CONTAINERID", &long),
        with(add(), "CNI_IFNAME", ""),
        with(add(), "CNI_IFNAME", "../eth0"),
        with(add(), "CNI_IFNAME", "."),
        with(add(), "CNI_IFNAME", ".."),
        with(add(), "CNI_IFNAME", "eth:0"),
        with(add(), "CNI_IFNAME", "eth 0"),
        with(add(), "CNI_IFNAME", "sixteen-chars-xx"),
        with(add(), "CNI_NETNS", ""),
        with(add(), "CNI_NETNS", "dummy"),
        with(add(), "CNI_NETNS", "/nonexistent/netns"),
        // The node's own namespace, also by another name.
        with(add(), "CNI_NETNS", "/proc/self/ns/net"),
        with(add(), "CNI_NETNS", &format!("/proc/{}/ns/net", std::process::id())),
        with(add(), "CNI_ARGS", "K8S_POD_NAME"),
        with(add(), "CNI_ARGS", "IgnoreUnknown=maybe"),
        with(add(), "CNI_ARGS", "ODD=1"),
        with(add(), "CNI_ARGS", "IgnoreUnknown=0;ODD=1"),
        with(add(), "CNI_ARGS", "K8S_POD_NAME=a/b"),
        with(add(), "CNI_ARGS", "K8S_POD_NAMESPACE=a\nb"),
        with(add(), "CNI_ARGS", "K8S_POD_NAME=$(reboot)"),
        with(add(), "CNI_ARGS", "IP=10.0.0"),
        with(add(), "CNI_ARGS", "MAC=01:00:5e:00:00:01"),
        with(add(), "CNI_ARGS", "MAC=xx"),
        Env([("CNI_COMMAND", OsString::from_vec(vec![0xff]))].into()),
        with(attach_env("DEL"), "CNI_CONTAINERID", ""),
        with(attach_env("DEL"), "CNI_IFNAME", "../eth0"),
        with(attach_env("CHECK"), "CNI_NETNS", ""),
    ];
    for env in cases {
        assert_eq!(code_of(go(&env, &nowhere("1.0.0"))), 4, "{env:?}");
    }
    assert_eq!(code_of(go(&with(add(), "CNI_ARGS", "IgnoreUnknown=true;;ODD=1;"), &nowhere("1.0.0"))), 11);
}

#[test]
fn the_configuration_is_checked() {
    let deep = format!("{}{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let deep_list = format!(r#"{{"cniVersion":"1.0.0","name":"n","a":{}"#, "[".repeat(10_000));
    for (input, code) in [
        ("", 6),
        ("{", 6),
        ("[]", 6),
        ("null", 6),
        ("\0", 6),
        (deep.as_str(), 6),
        (deep_list.as_str(), 6),
        ("{}", 1),
        (r#"{"cniVersion":""}"#, 1),
        (r#"{"cniVersion":"0.1.0"}"#, 1),
        (r#"{"cniVersion":"0.2.0"}"#, 1),
        (r#"{"cniVersion":"0.3.0"}"#, 1),
        (r#"{"cniVersion":"9.9"}"#, 1),
        (r#"{"cniVersion":1}"#, 6),
    ] {
        assert_eq!(code_of(run(&attach_env("ADD"), input.as_bytes())), code, "{:.80}", input);
    }
    for (key, value, code) in [
        ("name", json!(null), 7),
        ("name", json!(7), 7),
        ("name", json!(""), 7),
        ("name", json!("a/b"), 7),
        ("name", json!("a\u{0}b"), 7),
        ("socket", json!("vswitchd.sock"), 7),
        ("socket", json!("/run/\u{0}x"), 7),
        ("socket", json!(7), 7),
        ("ipam", json!({"type": "host-local"}), 2),
        ("ipam", json!("host-local"), 7),
        ("runtimeConfig", json!([]), 7),
        ("runtimeConfig", json!({"ips": "10.0.0.1"}), 7),
        ("runtimeConfig", json!({"ips": ["10.0.0"]}), 7),
        ("runtimeConfig", json!({"ips": [7]}), 7),
        ("runtimeConfig", json!({"mac": "ff:ff:ff:ff:ff:ff"}), 7),
        ("runtimeConfig", json!({"mac": 7}), 7),
        // As go-cni writes a port mapping.
        (
            "runtimeConfig",
            json!({"portMappings": [{"HostPort": 80, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]}),
            2,
        ),
        ("runtimeConfig", json!({"bandwidth": {"IngressRate": 1}}), 2),
        ("args", json!({"cni": {"ips": ["x"]}}), 7),
        ("prevResult", json!([]), 6),
        ("prevResult", json!({"interfaces": {}}), 6),
        ("prevResult", json!({"interfaces": [{}]}), 6),
        ("prevResult", json!({"ips": [{"address": "10.0.0.1"}]}), 6),
        ("prevResult", json!({"ips": [{"address": "10.0.0.1/24", "interface": 0}]}), 6),
        ("prevResult", json!({"ips": [{"address": "10.0.0.1/24", "interface": -1}]}), 6),
        ("prevResult", json!({"interfaces": [{"name": "eth0", "sandbox": NETNS}]}), 7),
        // Null is absent; what is not for us is let be.
        ("prevResult", json!(null), 11),
        ("runtimeConfig", json!(null), 11),
        ("ipam", json!(null), 11),
        ("args", json!({"labels": []}), 11),
        ("somebodyElses", json!({"x": [1]}), 11),
    ] {
        let mut conf = nowhere("1.0.0");
        conf[key] = value.clone();
        assert_eq!(code_of(go(&attach_env("ADD"), &conf)), code, "{key} = {value}");
    }
    assert_eq!(code_of(go(&attach_env("CHECK"), &nowhere("1.0.0"))), 7, "CHECK without prevResult");
}

#[test]
fn errors_speak_the_version_they_were_asked_in() {
    let err = run(&attach_env("ADD"), br#"{"cniVersion":"0.4.0"}"#).unwrap_err();
    let json = err.to_json();
    assert_eq!(json, json!({"cniVersion": "0.4.0", "code": 7, "msg": "name is missing"}));
    let err = run(&attach_env("ADD"), br#"{"cniVersion":"0.1.0"}"#).unwrap_err();
    assert_eq!(err.to_json()["cniVersion"], "1.1.0");
    assert_eq!(err.to_json()["details"], "supported are 0.3.1, 0.4.0, 1.0.0, 1.1.0");
}
