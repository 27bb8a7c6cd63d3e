use super::*;
use serde_json::json;

fn attach() -> Attach {
    Attach {
        network: "vswitch".into(),
        container_id: "c1".into(),
        ifname: "eth0".into(),
        netns: "/run/netns/c1".into(),
        pod: PodId { namespace: "default".into(), name: "web".into(), uid: String::new() },
        request: Wishes::default(),
        prev: None,
    }
}

#[test]
fn requests_are_written_flat() {
    let line = serde_json::to_value(Request::Add(attach())).unwrap();
    assert_eq!(
        line,
        json!({"op": "add", "network": "vswitch", "container_id": "c1", "ifname": "eth0", "netns": "/run/netns/c1",
               "pod": {"namespace": "default", "name": "web", "uid": ""}, "request": {"ips": []}})
    );
    assert_eq!(serde_json::to_value(Request::Ready).unwrap(), json!({"op": "ready"}));
    let trace: Request =
        serde_json::from_value(json!({"op": "trace", "from": "a/b", "to": "10.0.0.1", "proto": "tcp"}))
            .unwrap();
    assert_eq!(
        trace,
        Request::Trace(Trace {
            from: "a/b".into(),
            to: "10.0.0.1".parse().unwrap(),
            port: None,
            proto: Proto::Tcp
        })
    );
}

#[test]
fn every_request_reads_back() {
    let gc = Gc { network: "n".into(), valid: vec![attach().id()] };
    for request in [
        Request::Add(attach()),
        Request::Del(attach()),
        Request::Check(Attach {
            prev: Some(Prev {
                interfaces: vec![PrevInterface { name: "eth0".into(), ..PrevInterface::default() }],
                ips: vec![PrevIp { address: "10.0.0.2/32".parse().unwrap(), interface: Some(0) }],
            }),
            request: Wishes { ips: vec!["fd00::2".parse().unwrap()], mac: Some("0a:00:00:00:00:01".into()) },
            ..attach()
        }),
        Request::Gc(gc),
        Request::Ready,
        Request::Status,
        Request::Ports,
        Request::Routes,
        Request::Peers,
        Request::Drops,
        Request::Flows,
        Request::Config,
    ] {
        let line = serde_json::to_string(&request).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request, "{line}");
    }
}

#[test]
fn replies_are_ok_or_error() {
    assert_eq!(serde_json::to_string(&Reply::Ok(())).unwrap(), r#"{"ok":null}"#);
    let error = Reply::<()>::Error(ApiError::new(code::TRY_LATER, "starting"));
    assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"error":{"code":11,"msg":"starting"}}"#);
    let read: Reply<Vec<DropInfo>> =
        serde_json::from_str(r#"{"ok":[{"reason":"no-route","count":3}]}"#).unwrap();
    let Reply::Ok(drops) = read else { panic!("{read:?}") };
    assert_eq!((drops[0].reason.as_str(), drops[0].count), ("no-route", 3));
}

#[test]
fn garbage_is_an_error_and_not_a_panic() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for line in
        ["", "{}", "null", r#"{"op":"explode"}"#, r#"{"op":"add"}"#, deep.as_str(), "{\"op\":\"\u{0}\"}"]
    {
        assert!(serde_json::from_str::<Request>(line).is_err());
    }
}
