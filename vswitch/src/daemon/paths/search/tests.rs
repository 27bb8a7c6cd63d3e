use proptest::prelude::*;

use super::*;

/// A network in which echoes take 10 ms: what gets through, and whether routers tell what does not.
struct Net {
    takes: u16,
    tells: bool,
    up: bool,
}

const INTERVAL: u64 = 3000;

/// Runs until `until`; the health in force after each step that changed it.
fn run(path: &mut Path, net: &Net, now: &mut u64, until: u64) -> Vec<(u64, u16)> {
    let mut changes = Vec::new();
    let (mut sent, began) = (0, *now);
    while *now < until {
        let before = path.health().mtu;
        for size in path.poll(*now, INTERVAL) {
            sent += 1;
            match (net.up, size <= net.takes, net.tells) {
                (true, true, _) => path.answered(size, 10_000, *now + 10),
                (true, false, true) => path.too_big(size, net.takes, *now + 5),
                _ => {}
            }
        }
        if path.health().mtu != before {
            changes.push((*now, path.health().mtu));
        }
        *now = path.next().max(*now + 1);
    }
    assert!(sent < 20 + (until - began) / 25, "{sent} echoes are too many");
    changes
}

#[test]
fn a_path_that_takes_everything_is_left_alone() {
    let mut path = Path::new(576, 1500, 0);
    let mut now = 0;
    assert_eq!(run(&mut path, &Net { takes: 1500, tells: true, up: true }, &mut now, 600_000), []);
    assert_eq!(path.health(), Health { mtu: 1500, rtt_us: Some(10_000), lost: 0, of: 64 });
}

#[test]
fn a_router_that_tells_is_believed_at_once_and_growth_is_noticed() {
    let mut path = Path::new(576, 1500, 0);
    let mut now = 0;
    let wide = Net { takes: 1500, tells: true, up: true };
    run(&mut path, &wide, &mut now, 30_000);
    let narrow = Net { takes: 1400, ..wide };
    let changes = run(&mut path, &narrow, &mut now, 60_000);
    assert!(matches!(changes[..], [(at, 1400)] if at <= 30_000 + INTERVAL), "{changes:?}");
    let changes = run(&mut path, &wide, &mut now, 120_000);
    assert!(matches!(changes[..], [(at, 1500)] if at <= 60_000 + RAISE + INTERVAL), "{changes:?}");
}

#[test]
fn a_path_that_swallows_is_searched() {
    for takes in [577, 600, 1280, 1400, 1492, 1499] {
        let mut path = Path::new(576, 1500, 0);
        let mut now = 0;
        let wide = Net { takes: 1500, tells: false, up: true };
        run(&mut path, &wide, &mut now, 10_000);
        let changes = run(&mut path, &Net { takes, ..wide }, &mut now, 60_000);
        let first = changes[0];
        assert!(first.1 <= takes && first.0 <= 10_000 + INTERVAL + 2 * PATIENCE, "{takes}: {changes:?}");
        assert!(changes.iter().all(|(_, mtu)| *mtu <= takes), "{takes}: never above it: {changes:?}");
        let found = path.health().mtu;
        assert!(found <= takes && found + STEP >= takes, "{takes}: found {found}");
        assert_eq!(path.health().lost, 0, "small echoes came back");
    }
}

#[test]
fn a_silent_peer_keeps_its_mtu() {
    let mut path = Path::new(576, 1500, 0);
    let mut now = 0;
    let net = Net { takes: 1500, tells: false, up: false };
    assert_eq!(run(&mut path, &net, &mut now, 300_000), []);
    let health = path.health();
    assert_eq!((health.mtu, health.rtt_us, health.lost, health.of), (1500, None, 64, 64));
    run(&mut path, &Net { up: true, ..net }, &mut now, 360_000);
    assert_eq!(path.health().rtt_us, Some(10_000));
    assert!((40..=45).contains(&path.health().lost), "{:?}", path.health());
}

#[test]
fn the_first_links_size_is_followed() {
    let mut path = Path::new(576, 1500, 0);
    path.set_max(1400);
    assert_eq!(path.health().mtu, 1400);
    path.set_max(9000);
    assert_eq!(path.health().mtu, 9000);
    let mut now = 0;
    run(&mut path, &Net { takes: 1500, tells: true, up: true }, &mut now, 10_000);
    assert_eq!(path.health().mtu, 1500);
    path.set_max(4000);
    assert_eq!(path.health().mtu, 1500, "the path is narrower than the link");
    path.set_max(500);
    assert_eq!(path.health().mtu, 500);
}

#[test]
fn what_nobody_asked_is_not_heard() {
    let mut path = Path::new(576, 1500, 0);
    path.too_big(1500, 600, 0);
    path.answered(9000, 1, 0);
    assert_eq!(path.health().mtu, 1500);
    path.poll(0, INTERVAL);
    // A told size that is no smaller, or below what every path takes, is none.
    path.too_big(1500, 68, 1);
    assert_eq!(path.health().mtu, 576, "until the search is done");
}

proptest! {
    /// Whatever the network does and whoever lies, the MTU stays within bounds, and a network that has become quiet is
    /// found out.
    #[test]
    fn it_always_finds_what_passes(
        steps in prop::collection::vec((577u16..1600, any::<bool>(), any::<bool>(), 1u64..40_000, any::<u16>()), 0..12),
        takes in 577u16..1600,
        tells: bool,
    ) {
        let mut path = Path::new(576, 1500, 0);
        let mut now = 0;
        for (takes, tells, up, time, lie) in steps {
            let until = now + time;
            run(&mut path, &Net { takes, tells, up }, &mut now, until);
            path.too_big(path.health().mtu, lie, now);
            prop_assert!((576..=1500).contains(&path.health().mtu));
        }
        let until = now + 120_000;
        run(&mut path, &Net { takes, tells, up: true }, &mut now, until);
        let (found, best) = (path.health().mtu, takes.min(1500));
        prop_assert!(found <= best && found + STEP >= best, "found {found} of {best}");
    }
}
