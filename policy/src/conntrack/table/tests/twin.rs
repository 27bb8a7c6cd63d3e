//! The table against a list of flows that is searched from front to back.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { half_open: 3, total: 6 };

#[derive(Clone, Debug)]
enum Op {
    /// A packet from port 0 or 1: tracked, and its flow opened if it may.
    Packet {
        tuple: Tuple,
        transport: Transport,
        epoch: u64,
        port: u32,
    },
    Wait(u32),
    Revoke(usize, u64),
    Judged(usize, u64),
    ForgetAddr(u32),
    ForgetOpener(u32),
    Sweep,
    /// Another process takes the table over.
    Adopt,
}

#[derive(Clone, Debug)]
struct Twin {
    tuple: Tuple,
    state: State,
    opener: Opener,
    epoch: Epoch,
    created: Tick,
    last: Tick,
}

/// How the twin finds both directions: without a canonical form.
fn direction(flow: &Tuple, packet: &Tuple) -> Option<Direction> {
    let echo = |t: &Tuple| t.proto == ICMP && matches!(t.sport >> 8, 0 | 8);
    let reply = if echo(flow) && echo(packet) {
        let mut reply = Tuple { sport: 0, ..*flow };
        (reply.src, reply.dst) = (flow.dst, flow.src);
        reply
    } else {
        back(flow)
    };
    if packet == flow {
        Some(Direction::Original)
    } else if *packet == reply {
        Some(Direction::Reply)
    } else {
        None
    }
}

#[derive(Default)]
struct Model {
    flows: Vec<Twin>,
    timeouts: Timeouts,
}

impl Model {
    fn alive(&self, flow: &Twin, now: Tick) -> bool {
        let idle = now.0.wrapping_sub(flow.last.0);
        let age = now.0.wrapping_sub(flow.created.0);
        idle <= flow.state.timeout(&self.timeouts) || age <= self.timeouts.grace
    }

    fn find(&self, tuple: &Tuple, now: Tick) -> Option<(usize, Direction)> {
        let hit = |flow: &Twin| direction(&flow.tuple, tuple).filter(|_| self.alive(flow, now));
        self.flows.iter().enumerate().find_map(|(i, flow)| Some((i, hit(flow)?)))
    }

    fn held(&self, port: u32) -> Held {
        let of = |flow: &&Twin| flow.opener == Opener::Port(port);
        let total = self.flows.iter().filter(of).count() as u32;
        let half_open = self.flows.iter().filter(of).filter(|flow| flow.state.half_open()).count() as u32;
        Held { half_open, total }
    }

    fn sweep(&mut self, now: Tick) {
        let flows = std::mem::take(&mut self.flows);
        self.flows = flows.into_iter().filter(|flow| self.alive(flow, now)).collect();
    }

    /// The packet's fate in words, and the flow opened or moved.
    fn packet(&mut self, tuple: &Tuple, transport: Transport, epoch: u64, port: u32, now: Tick) -> String {
        let epoch = EPOCH(epoch);
        if let Some((i, direction)) = self.find(tuple, now) {
            let flow = &mut self.flows[i];
            let before = flow.epoch;
            match transport::next(flow.state, direction, transport) {
                Next::Stay => flow.last = now,
                Next::Go(state) => (flow.state, flow.last) = (state, now),
                Next::Reopen => return self.open(Some(i), tuple, transport, epoch, port, now),
                Next::Invalid if flow.state != State::Revoked => return "invalid".into(),
                Next::Invalid if epoch.newer(flow.epoch) => {
                    return self.open(Some(i), tuple, transport, epoch, port, now);
                }
                Next::Invalid => return "revoked".into(),
            }
            return format!("known {direction:?} {before:?}");
        }
        self.open(None, tuple, transport, epoch, port, now)
    }

    fn open(
        &mut self,
        over: Option<usize>,
        tuple: &Tuple,
        transport: Transport,
        epoch: Epoch,
        port: u32,
        now: Tick,
    ) -> String {
        let Some(state) = transport::first(tuple, transport, false) else { return "invalid".into() };
        if let Some(i) = over {
            self.flows.remove(i);
        }
        let held = self.held(port);
        if state.half_open() && held.half_open >= LIMITS.half_open {
            return "too many half-open flows of one opener".into();
        }
        if held.total >= LIMITS.total {
            return "too many flows of one opener".into();
        }
        let (tuple, opener) = (*tuple, Opener::Port(port));
        self.flows.push(Twin { tuple, state, opener, epoch, created: now, last: now });
        "opened".into()
    }
}

fn arb_packet() -> impl Strategy<Value = (Tuple, Transport)> {
    let tcp_flags = prop_oneof![
        4 => Just(SYN), 3 => Just(SYN | ACK), 4 => Just(ACK), 2 => Just(FIN | ACK), 1 => Just(RST), 1 => 0u8..64
    ];
    let sctp_chunk = prop_oneof![3 => Just(1u8), 2 => Just(2), 2 => Just(10), 2 => Just(11), 1 => 0u8..16];
    (0u32..3, 0u32..3, 0u16..2, 0usize..6, tcp_flags, sctp_chunk, any::<bool>()).prop_filter_map(
        "a host does not send to itself",
        |(src, dst, port, kind, flag, chunk, turned)| {
            let t = udp(src, dst, 1000 + port, 53);
            let (t, transport) = match kind {
                0 | 1 => (Tuple { proto: 6, ..t }, flags(flag)),
                2 => (t, OTHER),
                3 => {
                    // Echo and answer are drawn, not turned around.
                    let kind = if turned { 0 } else { 8 << 8 };
                    return (src != dst)
                        .then_some((Tuple { proto: ICMP, sport: kind, dport: port, ..t }, OTHER));
                }
                4 => (Tuple { proto: 132, ..t }, Transport::Sctp { chunk }),
                _ => (Tuple { proto: 47, sport: 0, dport: 0, ..t }, OTHER),
            };
            (src != dst).then_some((if turned { back(&t) } else { t }, transport))
        },
    )
}

fn arb_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => (arb_packet(), 1u64..4, 0u32..2)
            .prop_map(|((tuple, transport), epoch, port)| Op::Packet { tuple, transport, epoch, port }),
        6 => prop_oneof![0u32..300, 0u32..1200, Just(9600), Just(60_000)].prop_map(Op::Wait),
        2 => (0usize..8, 1u64..4).prop_map(|(i, epoch)| Op::Revoke(i, epoch)),
        2 => (0usize..8, 1u64..4).prop_map(|(i, epoch)| Op::Judged(i, epoch)),
        1 => (0u32..3).prop_map(Op::ForgetAddr),
        1 => (0u32..2).prop_map(Op::ForgetOpener),
        2 => Just(Op::Sweep),
        1 => Just(Op::Adopt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_table_is_a_list_of_flows(ops in proptest::collection::vec(arb_op(), 1..120)) {
        let mut config = Config::new(Geometry { capacity: 200, ports: 2, peers: 1 });
        config.port_limits = LIMITS;
        let mut table = table_with(config.clone());
        let mut model = Model::default();
        let mut now = at(0);
        for op in ops {
            match op {
                Op::Packet { tuple, transport, epoch, port } => {
                    let tracked = table.track(&tuple, transport, EPOCH(epoch), now);
                    // Quota of expired flows comes back when they are swept.
                    if tracked == Tracked::New {
                        sweep_all(&table, now);
                        model.sweep(now);
                    }
                    let fate = match tracked {
                        Tracked::Known(found) => format!("known {:?} {:?}", found.direction, found.epoch),
                        Tracked::Invalid => "invalid".into(),
                        Tracked::Revoked => "revoked".into(),
                        Tracked::New => {
                            let opening = Opening { epoch: EPOCH(epoch), ..opening(port) };
                            match table.open_flow(&tuple, transport, &opening, now) {
                                Ok(opened) => {
                                    prop_assert!(opened.fresh);
                                    "opened".into()
                                }
                                Err(error) => error.to_string(),
                            }
                        }
                    };
                    prop_assert_eq!(fate, model.packet(&tuple, transport, epoch, port, now));
                }
                Op::Wait(ticks) => now = Tick(now.0.wrapping_add(ticks)),
                Op::Revoke(i, epoch) => {
                    if let Some(flow) = model.flows.get_mut(i).map(|flow| flow.tuple) {
                        let found = table.lookup(&flow, now);
                        let twin = model.find(&flow, now).map(|(i, _)| i);
                        prop_assert_eq!(found.is_some(), twin.is_some());
                        if let (Some(found), Some(i)) = (found, twin) {
                            prop_assert!(table.revoke(found.slot, EPOCH(epoch), now));
                            let flow = &mut model.flows[i];
                            (flow.state, flow.last) = (State::Revoked, now);
                            flow.epoch = if EPOCH(epoch).newer(flow.epoch) { EPOCH(epoch) } else { flow.epoch };
                        }
                    }
                }
                Op::Judged(i, epoch) => {
                    if let Some(flow) = model.flows.get(i).map(|flow| flow.tuple)
                        && let (Some(found), Some((i, _))) = (table.lookup(&flow, now), model.find(&flow, now))
                    {
                        let flow = &mut model.flows[i];
                        let may = flow.state != State::Revoked;
                        prop_assert_eq!(table.judged(found.slot, EPOCH(epoch), Rules::default()), may);
                        if may && EPOCH(epoch).newer(flow.epoch) {
                            flow.epoch = EPOCH(epoch);
                        }
                    }
                }
                Op::ForgetAddr(n) => {
                    table.forget_addr(host(n));
                    model.flows.retain(|flow| flow.tuple.src != host(n) && flow.tuple.dst != host(n));
                }
                Op::ForgetOpener(port) => {
                    table.forget_opener(Opener::Port(port));
                    model.flows.retain(|flow| flow.opener != Opener::Port(port));
                }
                Op::Sweep => {
                    sweep_all(&table, now);
                    model.sweep(now);
                }
                Op::Adopt => {
                    model.sweep(now);
                    model.flows.retain(|flow| flow.state != State::Revoked);
                    model.flows.iter_mut().for_each(|flow| flow.epoch = Epoch::UNJUDGED);
                    let memory = Memory::clone(&table.memory);
                    let (next, adopted) =
                        Table::open(memory, config.clone(), [8, 9], now, |opener, _| Some(opener)).unwrap();
                    prop_assert!(!adopted.formatted);
                    prop_assert_eq!(adopted.kept, model.flows.len() as u64);
                    table = next;
                }
            }
            let mut flows: Vec<_> = table.iter(now).map(|f| (f.tuple, f.state, f.opener, f.epoch, f.created, f.last)).collect();
            let mut twins: Vec<_> = model.flows.iter().filter(|flow| model.alive(flow, now))
                .map(|f| (f.tuple, f.state, f.opener, f.epoch, f.created, f.last)).collect();
            flows.sort_by_key(|f| (f.0.src, f.0.dst, f.0.proto, f.0.sport, f.0.dport));
            twins.sort_by_key(|f| (f.0.src, f.0.dst, f.0.proto, f.0.sport, f.0.dport));
            prop_assert_eq!(flows, twins);
        }
        sweep_all(&table, now);
        model.sweep(now);
        for port in 0..2 {
            prop_assert_eq!(table.held(Opener::Port(port)), Some(model.held(port)));
        }
    }
}
