use std::time::Duration;

use super::*;
use crate::sys::netlink::{LinkChange, Netlink};
use crate::sys::netns;

const SECRET_OF_TEST: [u64; 2] = [7, 8];

fn receive(socket: &EchoSocket) -> Vec<Heard> {
    let mut all = Vec::new();
    for _ in 0..20 {
        socket.drain(SECRET_OF_TEST, |heard| all.push(heard));
        std::thread::sleep(Duration::from_millis(2));
    }
    all
}

#[test]
fn the_kernel_answers_what_fits_the_link() {
    netns::in_new(|| {
        let mut nl = Netlink::open().unwrap();
        let lo = nl.link("lo").unwrap().index;
        let change = LinkChange { up: Some(true), mtu: Some(1500), ..LinkChange::default() };
        nl.set_link(lo, &change).unwrap();
        for local in ["127.0.0.1", "::1"] {
            let local: IpAddr = local.parse().unwrap();
            let socket = EchoSocket::open(local).unwrap();
            for (number, size) in [(1, 64), (2, 1500)] {
                assert_eq!(socket.send(local, size, number, SECRET_OF_TEST).unwrap(), Sent::Away);
                assert_eq!(
                    receive(&socket),
                    [Heard::Answer { from: local, number }],
                    "{local}, {size} bytes"
                );
            }
            assert_eq!(socket.send(local, 1501, 3, SECRET_OF_TEST).unwrap(), Sent::TooBig);
            assert_eq!(receive(&socket), []);
            // Somebody else's ping, and a forged answer without the secret.
            socket.send(local, 64, 4, [9, 9]).unwrap();
            assert_eq!(receive(&socket), []);
        }
        assert!(EchoSocket::open("192.0.2.1".parse().unwrap()).is_err());
    })
    .unwrap();
}
