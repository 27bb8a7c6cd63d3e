//! `offload = false`: pods on plain TAPs, through the tun-tap crate, beside a node with offloads.

use rustix::process::Signal;
use vswitch::lab::{Daemon, Echo, Lab, Options, Stop, TunnelKind, ping, tcp_echo, transfer, udp_echo};
use vswitch_tests::programs::programs;
use vswitch_tests::serial::turn;

/// Bytes of each bulk transfer.
const BULK: u64 = 16 << 20;

#[test]
fn plain_pods_talk_to_everybody_and_survive_a_crash() {
    let _turn = turn();
    for tunnel in [TunnelKind::Vxlan, TunnelKind::Direct] {
        let stop = Stop::default();
        let mut lab = Lab::bed_only(programs(), Options { tunnel, ..Options::default() }, &stop).unwrap();
        let config = lab.write_config(0).unwrap();
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("[node]\n", "[node]\noffload = false\n")).unwrap();
        let run = lab.run_dir(0);
        lab.daemons[0] = Some(Daemon::start(programs(), &lab.bed.nodes[0], 1, &config, &run, &stop).unwrap());
        lab.start_node(1).unwrap();
        let (a, c, b) = (lab.pod(0, "a").unwrap(), lab.pod(0, "c").unwrap(), lab.pod(1, "b").unwrap());
        let features = a.netns.run("ethtool -k eth0").unwrap();
        assert!(
            features.contains("tcp-segmentation-offload: off"),
            "the pod's interface is not plain: {features}"
        );
        let talk = || {
            for (from, to) in [(&a, &c), (&a, &b), (&b, &a)] {
                let _echo = Echo::start(to.netns.path()).unwrap();
                for addr in to.addresses() {
                    assert!(ping(&from.netns, addr, 3, 10).unwrap().all(), "{tunnel}: to {addr}");
                    tcp_echo(from.netns.path(), addr).unwrap();
                    udp_echo(from.netns.path(), addr, 20_000).unwrap();
                }
            }
            // Super-frames of the offloading node arrive segmented, with finished checksums.
            for (from, to) in [(&b, &a), (&a, &b), (&a, &c)] {
                for addr in to.addresses() {
                    transfer(from.netns.path(), to.netns.path(), addr, BULK).unwrap();
                }
            }
        };
        talk();
        let daemon = lab.daemons[0].as_ref().unwrap();
        let [switch] = daemon.children()[..] else { panic!("one switch: {:?}", daemon.children()) };
        Daemon::signal(switch, Signal::KILL);
        talk();
        lab.daemons[0].as_mut().unwrap().kill_all();
        lab.daemons[0] = Some(Daemon::start(programs(), &lab.bed.nodes[0], 1, &config, &run, &stop).unwrap());
        talk();
    }
}
