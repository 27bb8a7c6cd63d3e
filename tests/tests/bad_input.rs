//! What is wrong is refused: non-zero exit, one message that names the thing, nothing left behind.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vswitch::lab::{Bed, Lab, NodePlan, Options, Shape, Stop, TunnelKind, within};
use vswitch_tests::leftovers::Leftovers;
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

/// A bed of one node and its sound configuration.
struct Node {
    bed: Bed,
    sound: String,
}

impl Node {
    fn new() -> Node {
        let bed = Bed::build(Shape { nodes: 1, ..Shape::default() }).unwrap();
        let plans = [NodePlan { n: 1 }, NodePlan { n: 2 }];
        let sound = plans[0].config(TunnelKind::Vxlan, None, bed.dir(), "eth0", &plans);
        Node { bed, sound }
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.bed.dir().join("vswitch.toml");
        fs::write(&path, text).unwrap();
        path
    }

    fn daemon(&self) -> Command {
        let mut command = self.bed.nodes[0].command(&programs().vswitchd());
        command.arg("--config").arg(self.bed.dir().join("vswitch.toml"));
        command
    }

    /// Links and firewall tables of the node's namespace.
    fn seen(&self) -> (String, String) {
        let node = &self.bed.nodes[0];
        (node.ip("-o -br link show").unwrap(), node.run("nft list tables").unwrap())
    }

    /// Starts the daemon with `text`; it must end by itself, complain once, and name `thing`.
    fn refuses(&self, text: &str, thing: &str) -> String {
        self.write(text);
        self.fails(self.daemon(), thing)
    }

    fn fails(&self, mut command: Command, thing: &str) -> String {
        let before = self.seen();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() > Duration::from_secs(10) {
                child.kill().unwrap();
                let out = child.wait_with_output().unwrap();
                panic!("{thing}: it runs on: {}", String::from_utf8_lossy(&out.stderr));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let out = child.wait_with_output().unwrap();
        let message =
            String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
        assert!(!out.status.success(), "{thing}: exit 0: {message}");
        let messages = message.lines().filter(|line| line.contains("vswitchd:")).count();
        assert_eq!(messages, 1, "one message: {message}");
        assert!(message.contains(thing), "it names {thing}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        assert_eq!(self.seen(), before, "{thing}: something was left behind in the node");
        assert!(
            !self.bed.dir().join("n1/run/vswitchd.sock").exists(),
            "{thing}: the control socket was left behind"
        );
        message
    }
}

#[test]
fn wrong_configurations() {
    let _turn = turn();
    let before = Leftovers::now();
    {
        let node = Node::new();
        let table = [
            ("name = \"n1\"", "nmae = \"n1\"", "nmae"),
            ("[tunnel]", "[tunel]", "tunel"),
            ("192.168.77.1\"", "192.168.77.300\"", "192.168.77.300"),
            ("type = \"vxlan\"", "type = \"gre\"", "gre"),
            ("uplink = \"eth0\"", "uplink = \"nope0\"", "nope0"),
            ("10.244.1.0/24", "10.244.1.0/33", "10.244.1.0/33"),
            ("10.244.1.0/24", "10.244.2.0/24", "10.244.2.0/24"),
            ("10.244.1.0/24", "10.99.1.0/24", "10.99.1.0/24"),
            ("0e:00:00:00:00:02", "0e:00:00:00:00:zz", "0e:00:00:00:00:zz"),
            ("0e:00:00:00:00:02", "01:00:00:00:00:02", "01:00:00:00:00:02"),
            ("type = \"static\"", "type = \"sqlite\"", "sqlite"),
            ("masquerade = true", "masquerade = \"yes\"", "masquerade"),
            ("masquerade = true", "mtu = 1", "mtu"),
            ("address = \"192.168.77.1\"", "address = \"192.168.77.9\"", "192.168.77.9"),
        ];
        for (sound, wrong, thing) in table {
            assert!(node.sound.contains(sound), "{sound}");
            node.refuses(&node.sound.replacen(sound, wrong, 1), thing);
        }
        node.refuses("this is no TOML", "vswitch.toml");
        fs::remove_file(node.bed.dir().join("vswitch.toml")).unwrap();
        node.fails(node.daemon(), "vswitch.toml");
    }
    before.assert_same();
}

#[test]
fn the_tunnels_port_is_taken() {
    let _turn = turn();
    let node = Node::new();
    let _taken = within(node.bed.nodes[0].path(), || UdpSocket::bind("0.0.0.0:8472")).unwrap().unwrap();
    node.refuses(&node.sound, "8472");
}

#[test]
fn the_kernel_has_a_vxlan_device_on_the_port() {
    let _turn = turn();
    let node = Node::new();
    let netns = &node.bed.nodes[0];
    netns.ip("link add flannel.1 type vxlan id 1 dev eth0 dstport 8472 nolearning").unwrap();
    netns.ip("link set flannel.1 up").unwrap();
    node.refuses(&node.sound, "8472");
}

#[test]
fn tap_devices_are_missing_or_forbidden() {
    let _turn = turn();
    let node = Node::new();
    node.write(&node.sound);
    let forbidden = "mknod /dev/net/tun c 10 200 && chmod 0 /dev/net/tun && \
                     exec setpriv --bounding-set -dac_override,-dac_read_search \"$@\"";
    for (prepare, why) in [("exec \"$@\"", "No such file"), (forbidden, "Permission denied")] {
        let mut command = node.bed.nodes[0].command("unshare".as_ref());
        command
            .args(["--mount", "sh", "-c", &format!("mount -t tmpfs tmpfs /dev/net && {prepare}"), "sh"])
            .arg(programs().vswitchd())
            .arg("--config")
            .arg(node.bed.dir().join("vswitch.toml"));
        let message = node.fails(command, "/dev/net/tun");
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn the_state_is_damaged() {
    let _turn = turn();
    let options = Options { shape: Shape { nodes: 1, ..Shape::default() }, ..Options::default() };
    let mut lab = Lab::start(programs(), options, &Stop::default()).unwrap();
    let pod = lab.pod(0, "a").unwrap();
    assert!(lab.daemons[0].as_mut().unwrap().end().is_some());
    let ports = lab.bed.dir().join("n1/state/ports");
    let file = fs::read_dir(&ports).unwrap().next().unwrap().unwrap().path();
    let sound = fs::read(&file).unwrap();
    fs::write(&file, "{ not json").unwrap();
    let error = lab.start_node(0).unwrap_err().to_string();
    assert!(error.contains(&*file.to_string_lossy()), "the message names the file: {error}");
    assert_eq!(fs::read(&file).unwrap(), b"{ not json", "it is left for somebody to look at");
    // Put right, everything goes on.
    fs::write(&file, sound).unwrap();
    lab.start_node(0).unwrap();
    assert!(vswitch::lab::ping(&pod.netns, [169, 254, 1, 1].into(), 3, 10).unwrap().all());
}

#[test]
fn two_daemons_want_one_state_directory() {
    let _turn = turn();
    let options = Options { shape: Shape { nodes: 1, ..Shape::default() }, ..Options::default() };
    let lab = Lab::start(programs(), options, &Stop::default()).unwrap();
    let out = lab.bed.nodes[0]
        .command(&programs().vswitchd())
        .arg("--config")
        .arg(lab.daemon(0).unwrap().config())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!out.status.success());
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(message.contains("another vswitchd"), "{message}");
    lab.daemon(0).unwrap().status().unwrap();
}

#[test]
fn the_tool_checks_configurations_without_a_daemon() {
    let _turn = turn();
    let node = Node::new();
    let path = node.write(&node.sound);
    let check =
        || Command::new(programs().vsctl()).args(["check", "--elsewhere"]).arg(&path).output().unwrap();
    let out = check();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stdout).contains("8472"), "defaults are printed");
    node.write(&node.sound.replace("name = \"n1\"", "nmae = \"n1\""));
    let out = check();
    assert!(!out.status.success());
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("nmae"),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}
