//! Routes on a node: what 100,000 of them cost two pods that talk to each other, and how fast they come in.
//!
//! Two nodes over VXLAN and a router (BIRD) on their wire, which tells the first node /28 ranges whose next hop is the
//! second: such ranges are pods', and so the switch's own. They lie around the measured pod's address, from the end of its
//! /16 downward, where a lookup meets the most of them. A flow's way is looked up when it begins, so connections are
//! counted as well. Another such network has one such range only.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use control::api::{Request, RouteInfo};
use serde::Serialize;
use vswitch::lab::{Attached, Daemon, Lab, Options, Programs, Shape, Stop};
use vswitch_tests::routers::Router;

use crate::bgp::{asn, neighbour, router, start, until};
use crate::chart::{self, Chart, Series};
use crate::cubic::Allowed;
use crate::exchange::{RoundTrips, connects, round_trip};
use crate::iperf::{self, Load, Run};
use crate::levels::Levels;
use crate::network::Pair;
use crate::offloads::Offloads;
use crate::rows::Goal;
use crate::stats::{Ratio, mean, ratio};

/// Numbers of routes; the first is what the others are held against.
const ROUTES: [usize; 3] = [1, 1000, 100_000];
/// The router's host number on the wire.
const ROUTER: u8 = 9;
/// For throughput; for a round trip, which should be short, its inverse.
const GOAL: Levels = Levels::of(Goal::AtLeast(0.97, 0.99));

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// What the devices under it do for the kernel.
    pub offloads: Offloads,
    /// By number of routes.
    pub points: Vec<Point>,
}

/// So many routes against one.
#[derive(Debug, Serialize)]
pub struct Point {
    /// How many.
    pub routes: usize,
    /// Seconds from the established session to all of them in the switch's table.
    pub loaded_s: f64,
    /// In pairs: with one route, and with this many.
    pub pairs: Vec<[Seen; 2]>,
}

/// One network, looked at once.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Seen {
    /// TCP throughput.
    pub run: Run,
    /// Round trip of one byte over TCP, microseconds: median and 99th percentile.
    pub rtt_us: [f64; 2],
    /// Connections a second.
    pub connects: f64,
}

/// Measures everything: `pairs` pairs, each measurement `seconds` seconds.
///
/// # Errors
/// When a network cannot be built, the routes do not come in or a run fails.
pub fn run(programs: &Programs, stop: &Stop, cubic: &Allowed, pairs: usize, seconds: u32) -> Result<Figures> {
    let one = Routed::build(programs, stop, cubic, ROUTES[0])?;
    let mut points = Vec::new();
    for &routes in &ROUTES[1..] {
        let many =
            Routed::build(programs, stop, cubic, routes).with_context(|| format!("{routes} routes"))?;
        let mut point = Point { routes, loaded_s: many.loaded.as_secs_f64(), pairs: Vec::new() };
        for pair in 0..pairs {
            stop.check()?;
            let seen = if pair % 2 == 0 {
                let few = one.measure(seconds)?;
                [few, many.measure(seconds)?]
            } else {
                let lots = many.measure(seconds)?;
                [one.measure(seconds)?, lots]
            };
            point.pairs.push(seen);
        }
        points.push(point);
    }
    let offloads = Offloads::of(one.lab.bed.nodes.first(), one.pair().from)?;
    Ok(Figures { offloads, points })
}

impl Point {
    fn ratio(&self, of: impl Fn(&Seen) -> f64) -> Option<Ratio> {
        ratio(&self.pairs.iter().map(|[one, many]| of(many) / of(one)).collect::<Vec<_>>())
    }

    /// Throughput, with this many routes / with one.
    #[must_use]
    pub fn throughput(&self) -> Option<Ratio> {
        self.ratio(|seen| seen.run.gbit_s)
    }

    /// Median round trip, likewise: less is better.
    #[must_use]
    pub fn rtt(&self) -> Option<Ratio> {
        self.ratio(|seen| seen.rtt_us[0])
    }

    /// Connections a second, likewise.
    #[must_use]
    pub fn connects(&self) -> Option<Ratio> {
        self.ratio(|seen| seen.connects)
    }
}

impl Figures {
    /// Throughput, and the inverse of the round trip, with the most routes.
    fn last(&self) -> [f64; 2] {
        let of = |ratio: Option<Ratio>| ratio.map_or(f64::NAN, |r| r.mean);
        self.points.last().map_or([f64::NAN; 2], |point| [of(point.throughput()), 1.0 / of(point.rtt())])
    }

    /// Whether throughput and round trip with the most routes are acceptable.
    #[must_use]
    pub fn met(&self) -> bool {
        self.last().iter().all(|value| GOAL.met(*value))
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "\nroutes on a node, learned from BIRD\n{:>8} {:>9} {:>8} {:>8} {:>24} {:>24} {:>24}\n",
            "routes",
            "loaded s",
            "Gbit/s",
            "rtt us",
            "Gbit/s / 1 route",
            "rtt / 1 route",
            "connects / 1 route"
        );
        for point in &self.points {
            let of = |value: fn(&Seen) -> f64| {
                mean(&point.pairs.iter().map(|[_, many]| value(many)).collect::<Vec<_>>())
            };
            let _ = writeln!(
                text,
                "{:>8} {:>9.2} {:>8.2} {:>8.1} {:>24} {:>24} {:>24}",
                point.routes,
                point.loaded_s,
                of(|seen| seen.run.gbit_s),
                of(|seen| seen.rtt_us[0]),
                shown(point.throughput()),
                shown(point.rtt()),
                shown(point.connects())
            );
        }
        let [throughput, rtt] = self.last();
        let most = self.points.last().map_or(0, |point| point.routes);
        let _ = writeln!(
            text,
            "  with {most} routes / 1: throughput {throughput:.3} ({}), 1 / round trip {rtt:.3} ({})",
            GOAL.verdict(throughput),
            GOAL.verdict(rtt)
        );
        text
    }

    /// The charts, each with the stem of its file's name. The subtitle says what devices there are; the rest is the caller's.
    #[must_use]
    pub fn charts(&self) -> Vec<(&'static str, Chart)> {
        let series = |name: &str, of: fn(&Point) -> Option<Ratio>| {
            let first = chart::Point::exact(ROUTES[0] as f64, 1.0);
            let others = self.points.iter().filter_map(|point| {
                let Ratio { mean, low, high } = of(point)?;
                Some(chart::Point { x: point.routes as f64, y: mean, low, high })
            });
            Series { name: name.to_owned(), points: std::iter::once(first).chain(others).collect() }
        };
        let chart = Chart {
            title: "Two pods of a node that knows many routes".to_owned(),
            subtitle: self.offloads.to_string(),
            x_label: "routes in the switch's table".to_owned(),
            y_label: "relative to one route".to_owned(),
            x_log: true,
            series: vec![
                series("TCP throughput", Point::throughput),
                series("round trip (less is better)", Point::rtt),
                series("connections a second", Point::connects),
            ],
        };
        vec![("routes", chart)]
    }
}

fn shown(ratio: Option<Ratio>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |r| format!("{:.3} ({:.3} - {:.3})", r.mean, r.low, r.high))
}

/// Two nodes, a router, two pods. Fields drop in order.
struct Routed {
    pods: [Attached; 2],
    loaded: Duration,
    _router: Router,
    lab: Lab,
}

impl Routed {
    fn build(programs: &Programs, stop: &Stop, cubic: &Allowed, routes: usize) -> Result<Routed> {
        let options = Options { shape: Shape { outside: true, ..Shape::default() }, ..Options::default() };
        let mut lab = Lab::bed_only(programs, options, stop)?;
        let mut router = router(&lab, ROUTER);
        router.start(&bird(routes));
        until("BIRD's own table", stop, || Ok(router.ask("show protocols told").contains("up")))?;
        start(&mut lab, stop, ROUTER)?;
        lab.start_node(1)?;
        let pods = [lab.pod(0, "a")?, lab.pod(1, "b")?];
        pods.iter().try_for_each(|pod| cubic.pin(&pod.netns))?;
        let _ = router.ask("enable node");
        let daemon = lab.daemon(0).context("it runs")?;
        until("a session", stop, || Ok(neighbour(daemon)?.0 == "Established"))?;
        let began = Instant::now();
        // The whole table is asked for last: to write it down takes the node longer than to take a route in.
        until("all routes chosen", stop, || {
            // BIRD may sleep up to 3 s in its main loop between the session and its first UPDATE; a question wakes it.
            let _ = router.ask("show status");
            Ok(neighbour(daemon)?.1 as usize >= routes)
        })?;
        until("all routes in the switch's table", stop, || Ok(known(daemon)? >= routes))?;
        let loaded = began.elapsed();
        Ok(Routed { pods, loaded, _router: router, lab })
    }

    fn pair(&self) -> Pair<'_> {
        let [from, far] = &self.pods;
        Pair { from: &from.netns, far: &far.netns, to: far.v4 }
    }

    fn measure(&self, seconds: u32) -> Result<Seen> {
        let (pair, length) = (self.pair(), Duration::from_secs(seconds.into()));
        let run = iperf::run(pair, Load::default(), seconds)?;
        let RoundTrips { p50, p99, .. } = round_trip(pair, length)?;
        Ok(Seen { run, rtt_us: [p50, p99], connects: connects(pair, length)? })
    }
}

/// How many of the told ranges the first node's switch knows.
fn known(daemon: &Daemon) -> Result<usize> {
    let routes: Vec<RouteInfo> = daemon.ask(&Request::Routes)?;
    Ok(routes.iter().filter(|route| route.via == "n2" && route.dst.prefix_len() == 28).count())
}

/// A BIRD that tells the first node so many ranges of the second, once it is told to.
fn bird(routes: usize) -> String {
    let (node, next) = (Router::address(1), Router::address(2));
    let mut text = format!(
        "log stderr {{ warning, error, fatal }};\nrouter id {me};\nprotocol device {{}}\nprotocol direct {{ ipv4; }}\n\
         protocol bgp node {{ disabled yes; local as {}; neighbor {node} as {}; connect delay time 1;\n\
         connect retry time 1; ipv4 {{ import none; export where source = RTS_STATIC; }}; }}\n\
         protocol static told {{ ipv4;\n",
        asn(ROUTER),
        asn(1),
        me = Router::address(ROUTER),
    );
    for range in ranges().take(routes) {
        let _ = writeln!(text, "route {range}/28 via {next};");
    }
    text + "}\n"
}

/// Ranges of 16 addresses, from the end of the pods' /16 downward, without the nodes' own ones.
fn ranges() -> impl Iterator<Item = Ipv4Addr> {
    let last = u32::from(Ipv4Addr::new(10, 244, 255, 240));
    let own = u32::from(Ipv4Addr::new(10, 244, 0, 0))..u32::from(Ipv4Addr::new(10, 244, 16, 0));
    (0..).map_while(move |i| last.checked_sub(16 * i)).filter(move |at| !own.contains(at)).map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_lie_around_the_pods_and_on_none_of_them() {
        let all: Vec<Ipv4Addr> = ranges().take(100_000).collect();
        assert_eq!(all[0], Ipv4Addr::new(10, 244, 255, 240));
        assert_eq!(all[3840], Ipv4Addr::new(10, 243, 255, 240));
        let inside = |at: &&Ipv4Addr| at.octets()[..2] == [10, 244];
        assert_eq!(all.iter().filter(inside).count(), 3840);
        assert!(all.iter().all(|at| at.octets()[..2] != [10, 244] || at.octets()[2] >= 16));
        assert!(all.iter().all(|at| at.octets()[0] == 10));
    }

    #[test]
    fn throughput_and_round_trip_both_count() {
        let seen = |gbit_s, rtt| {
            let run = Run { gbit_s, retransmits: 0, cpu_s_per_gb: 1.0, steal: 0.0 };
            Seen { run, rtt_us: [rtt; 2], connects: 1000.0 }
        };
        let figures = |gbit_s, rtt| Figures {
            offloads: Offloads { underlay: None, pods: Vec::new() },
            points: vec![Point {
                routes: 1000,
                loaded_s: 0.1,
                pairs: vec![[seen(10.0, 50.0), seen(gbit_s, rtt)]; 3],
            }],
        };
        assert!(figures(9.8, 51.0).met());
        assert!(!figures(9.6, 50.0).met());
        assert!(!figures(10.0, 52.0).met());
        assert!(figures(9.6, 50.0).table().contains("throughput 0.960 (must 0.97, target 0.99: MISSED)"));
        let (_, chart) = &figures(9.6, 50.0).charts()[0];
        assert!(chart.series.iter().all(|series| series.points.len() == 2));
    }
}
