use std::os::fd::AsFd;

use super::*;
use crate::sys::netns;

#[test]
fn a_tap_gets_the_whole_port_offload_set_and_can_be_adopted() {
    netns::in_new(|| {
        let tap = Tap::open(&TapSpec::port("t0")).unwrap();
        assert_eq!(tap.name(), "t0");
        assert_eq!(tap.offload(), OFFLOAD_PORT);
        assert!(std::path::Path::new("/proc/sys/net/ipv4/conf/t0").exists());
        let (name, flags) = interface(tap.as_fd()).unwrap();
        assert_eq!(&*name, "t0");
        assert!(flags.contains(Iff::TAP | Iff::NO_PI | Iff::VNET_HDR | Iff::PERSIST), "{:#x}", flags.bits());
        let again = Tap::try_from(tap.into_fd()).unwrap();
        assert_eq!((again.name(), again.header(), again.offload()), ("t0", VNET_LEN, OFFLOAD_PORT));
    })
    .unwrap();
}

#[test]
fn the_uplink_set_reaches_the_tunnel_rungs_or_the_best_below() {
    netns::in_new(|| {
        let spec = TapSpec { header: VNET_TUNNEL_LEN, offload: OFFLOAD_TUNNEL, ..TapSpec::port("up") };
        let tap = Tap::open(&spec).unwrap();
        assert!(LADDER.contains(&tap.offload()), "{:#x}", tap.offload());
        let err = Tap::try_from(tap.into_fd()).unwrap_err();
        assert!(matches!(err, TapError::HeaderLength { len: 24, .. }), "{err}");
    })
    .unwrap();
}

#[test]
fn the_ladder_never_asks_for_more_than_wanted() {
    netns::in_new(|| {
        for (wanted, taken) in
            [(0x06f, 0x06f), (0x00f, 0x00f), (0x001, 0x001), (0x000, 0x000), (0x06e, 0x000)]
        {
            let spec = TapSpec { offload: wanted, persist: false, ..TapSpec::port("t0") };
            assert_eq!(Tap::open(&spec).unwrap().offload(), taken, "wanted {wanted:#x}");
        }
    })
    .unwrap();
}

#[test]
fn an_existing_device_is_refused_when_exclusive_and_attached_to_when_not() {
    netns::in_new(|| {
        drop(Tap::open(&TapSpec::port("t0")).unwrap());
        let err = Tap::open(&TapSpec::port("t0")).unwrap_err();
        assert!(matches!(err, TapError::Attach { .. }), "{err}");
        let tap = Tap::open(&TapSpec { exclusive: false, ..TapSpec::port("t0") }).unwrap();
        tap.set_persist(false).unwrap();
        drop(tap);
        assert!(!std::path::Path::new("/proc/sys/net/ipv4/conf/t0").exists());
    })
    .unwrap();
}

#[test]
fn other_descriptors_are_not_taps() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(Tap::try_from(OwnedFd::from(file)), Err(TapError::NotTap(_))));
    netns::in_new(|| {
        let unattached = OwnedFd::from(std::fs::File::open("/dev/net/tun").unwrap());
        assert!(matches!(Tap::try_from(unattached), Err(TapError::NotTap(_))));
        let plain = into_fd(tun_tap::Iface::without_packet_info("p0", tun_tap::Mode::Tap).unwrap());
        assert!(matches!(Tap::try_from(plain), Err(TapError::WrongMode { .. })));
    })
    .unwrap();
}

#[test]
fn names_are_checked_before_the_kernel_sees_them() {
    for name in ["", "sixteen-bytes-xx", "a/b", "a b"] {
        assert!(matches!(Tap::open(&TapSpec::port(name)), Err(TapError::BadName(_))), "{name:?}");
    }
}

#[test]
fn the_device_tells_its_namespace() {
    netns::in_new(|| {
        let tap = Tap::open(&TapSpec { persist: false, ..TapSpec::port("t0") }).unwrap();
        let ns = netns::Netns::from(tap.namespace().unwrap());
        assert_eq!(ns.id().unwrap(), netns::Netns::current().unwrap().id().unwrap());
    })
    .unwrap();
}
