use super::*;
use crate::gso::Segmenter;
use crate::parse::parse;
use etherparse::PacketBuilder;
use proptest::prelude::*;

#[derive(Clone)]
struct Tcp {
    id: u16,
    df: bool,
    ttl: u8,
    port: u16,
    seq: u32,
    flags: u8,
    window: u16,
    len: usize,
}

const BASE: Tcp = Tcp { id: 7, df: true, ttl: 64, port: 1, seq: 1000, flags: 0x10, window: 500, len: 100 };

fn tcp(t: &Tcp) -> Vec<u8> {
    let mut ip =
        etherparse::Ipv4Header::new(0, t.ttl, etherparse::IpNumber::TCP, [10, 0, 0, 1], [10, 0, 0, 2])
            .unwrap();
    (ip.identification, ip.dont_fragment) = (t.id, t.df);
    let mut frame = Vec::new();
    let payload: Vec<u8> = (0..t.len).map(|i| (t.seq as usize + i) as u8).collect();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
        .tcp(t.port, 80, t.seq, t.window)
        .write(&mut frame, &payload)
        .unwrap();
    frame[47] = t.flags;
    let p = parse(&frame, frame.len(), false).unwrap();
    assert!(checksum::fill_l4(&mut frame, &p));
    frame
}

fn udp(v6: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = if v6 { eth.ipv6([1; 16], [2; 16], 9) } else { eth.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9) };
    let mut frame = Vec::new();
    ip.udp(port, 53).write(&mut frame, payload).unwrap();
    if !v6 {
        frame[20] |= 0x40;
        frame[24..26].fill(0);
        let check = checksum::sum(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
    frame
}

/// The folded pseudo-header sum in the checksum field, as software GSO leaves it.
fn partial(mut frame: Vec<u8>) -> Vec<u8> {
    let p = parse(&frame, frame.len(), false).unwrap();
    let at = usize::from(p.l4) + checksum::l4_field(p.proto).unwrap();
    frame[at..at + 2].copy_from_slice(&checksum::pseudo(&p, p.l4_len()).fold().to_be_bytes());
    frame
}

/// One outgoing packet, in one piece.
#[derive(Debug, PartialEq, Eq)]
struct Out {
    bytes: Vec<u8>,
    vnet: VnetHdr,
    count: u32,
    source: u32,
}

/// Puts the frames into a buffer each (or all into one), runs a batch, collects what comes out.
struct Rig {
    bufs: Vec<Frame>,
    at: Vec<Span>,
}

impl Rig {
    fn new(frames: &[Vec<u8>], one_buffer: bool) -> Self {
        let mut rig = Self { bufs: Vec::new(), at: Vec::new() };
        let groups: Vec<Vec<&Vec<u8>>> =
            if one_buffer { vec![frames.iter().collect()] } else { frames.iter().map(|f| vec![f]).collect() };
        for (buf, group) in groups.iter().enumerate() {
            let mut all = Vec::new();
            for frame in group {
                all.extend_from_slice(&[0xee; 8]);
                rig.at.push(Span { buf: buf as u16, off: all.len() as u32, len: frame.len() as u32 });
                all.extend_from_slice(frame);
            }
            let mut buffer = Frame::with_capacity(all.len());
            assert!(buffer.copy_from(&all));
            rig.bufs.push(buffer);
        }
        rig
    }

    fn offer(&self, gro: &mut Gro, trusted: bool) {
        for s in &self.at {
            gro.offer(&self.bufs, s.buf, s.off, s.len, trusted);
        }
    }

    fn out(&self, gro: &mut Gro) -> Vec<Out> {
        (0..gro.len())
            .map(|i| {
                let p = gro.packet(i);
                let mut bytes = p.head.bytes(&self.bufs).to_vec();
                p.tail.iter().for_each(|s| bytes.extend_from_slice(s.of(&self.bufs)));
                assert_eq!(bytes.len(), p.total_len);
                assert_eq!(p.vnet.check(bytes.len()), Ok(()));
                Out { bytes, vnet: p.vnet, count: p.count, source: p.source }
            })
            .collect()
    }
}

fn run(frames: &[Vec<u8>], trusted: bool) -> Vec<Out> {
    let rig = Rig::new(frames, true);
    let mut gro = Gro::new(frames.len());
    rig.offer(&mut gro, trusted);
    rig.out(&mut gro)
}

fn counts(frames: &[Vec<u8>]) -> Vec<u32> {
    run(frames, false).iter().map(|o| o.count).collect()
}

fn train(n: usize, base: &Tcp) -> Vec<Tcp> {
    (0..n)
        .map(|i| Tcp {
            id: base.id.wrapping_add(i as u16),
            seq: base.seq.wrapping_add((i * base.len) as u32),
            ..base.clone()
        })
        .collect()
}

fn build(ts: &[Tcp]) -> Vec<Vec<u8>> {
    ts.iter().map(tcp).collect()
}

#[test]
fn a_train_becomes_one_super_frame() {
    let mut ts = train(5, &Tcp { seq: u32::MAX - 150, id: 65_534, ..BASE });
    ts[4].len = 30;
    ts[4].flags = 0x18;
    for one_buffer in [true, false] {
        let frames = build(&ts);
        let rig = Rig::new(&frames, one_buffer);
        let mut gro = Gro::new(8);
        rig.offer(&mut gro, false);
        let out = rig.out(&mut gro);
        assert_eq!(out.len(), 1);
        let Out { bytes, vnet, count, .. } = &out[0];
        assert_eq!(*count, 5);
        let expect =
            VnetHdr { flags: 1, gso_type: 1, hdr_len: 54, gso_size: 100, csum_start: 34, csum_offset: 16 };
        assert_eq!(*vnet, expect);
        let p = parse(bytes, bytes.len(), true).unwrap();
        assert_eq!((p.ip_len, p.tcp_flags, p.frag_id), (40 + 430, 0x18, 65_534));
        assert_eq!(bytes[50..52], checksum::pseudo(&p, p.l4_len()).fold().to_be_bytes());
        let payload: Vec<u8> = frames.iter().flat_map(|f| f[54..].to_vec()).collect();
        assert_eq!(bytes[54..], payload);
        // Asking twice gives the same, and keeps what the caller rewrote.
        let mut packet = gro.packet(0);
        let GroHead::Merged(head) = &mut packet.head else { panic!("not joined") };
        head[0] = 0x42;
        assert_eq!(rig.out(&mut gro)[0].bytes[0], 0x42);
    }
}

#[test]
fn what_ends_a_packet_and_what_never_joins() {
    let next = |t: Tcp| Tcp { id: t.id + 1, seq: t.seq + t.len as u32, ..t };
    let follow = next(BASE);
    let pair = |second: Tcp| counts(&build(&[BASE, second]));
    assert_eq!(pair(follow.clone()), [2]);
    assert_eq!(pair(Tcp { id: BASE.id, ..follow.clone() }), [2], "identification unused, DF set");
    for (why, second) in [
        ("gap", Tcp { seq: follow.seq + 1, ..follow.clone() }),
        ("other window", Tcp { window: 501, ..follow.clone() }),
        ("other TTL", Tcp { ttl: 63, ..follow.clone() }),
        ("other DF", Tcp { df: false, ..follow.clone() }),
        ("identification jumps", Tcp { id: 9, ..follow.clone() }),
        ("longer", Tcp { len: 101, ..follow.clone() }),
        ("FIN", Tcp { flags: 0x11, ..follow.clone() }),
        ("URG", Tcp { flags: 0x30, ..follow.clone() }),
        ("ECE", Tcp { flags: 0x50, ..follow.clone() }),
        ("pure ACK", Tcp { len: 0, ..follow.clone() }),
        ("other flow", Tcp { port: 2, ..follow.clone() }),
    ] {
        assert_eq!(pair(second), [1, 1], "{why}");
    }
    let not_df = Tcp { df: false, ..BASE };
    assert_eq!(counts(&build(&[not_df.clone(), Tcp { id: not_df.id, ..next(not_df.clone()) }])), [1, 1]);
    assert_eq!(counts(&build(&[not_df.clone(), next(not_df.clone())])), [2]);
    let third = next(follow.clone());
    assert_eq!(counts(&build(&[BASE, Tcp { flags: 0x18, ..follow.clone() }, third.clone()])), [2, 1]);
    assert_eq!(counts(&build(&[Tcp { flags: 0x18, ..BASE }, follow.clone(), third.clone()])), [1, 2]);
    assert_eq!(counts(&build(&[BASE, follow.clone(), Tcp { id: follow.id, ..third.clone() }])), [2, 1]);
    assert_eq!(
        counts(&build(&[BASE, follow.clone(), Tcp { len: 99, ..third.clone() }, next(third.clone())])),
        [3, 1]
    );
    // A packet that cannot join closes the flow: nothing overtakes it.
    assert_eq!(counts(&build(&[BASE, Tcp { len: 0, ..follow.clone() }, follow.clone()])), [1, 1, 1]);
}

#[test]
fn header_bytes_outside_the_rules_must_be_equal() {
    let a = tcp(&BASE);
    let b = tcp(&Tcp { id: BASE.id + 1, seq: BASE.seq + 100, ..BASE });
    let free = [16..20, 24..26, 38..42, 50..52];
    for at in 0..54 {
        if free.iter().any(|r: &std::ops::Range<usize>| r.contains(&at)) {
            continue;
        }
        for bit in 0..8 {
            let mut b = b.clone();
            b[at] ^= 1 << bit;
            b[24..26].fill(0);
            let check = checksum::sum(&b[14..34]).finish();
            b[24..26].copy_from_slice(&check.to_be_bytes());
            let joined = run(&[a.clone(), b], true).len() == 1;
            assert_eq!(joined, at == 47 && bit == 3, "byte {at} bit {bit}");
        }
    }
}

#[test]
fn flows_are_joined_side_by_side() {
    let mut frames = Vec::new();
    for i in 0..20u32 {
        for port in [1, 2, 3] {
            frames.push(tcp(&Tcp { port, id: i as u16, seq: i * 100, ..BASE }));
        }
    }
    let out = run(&frames, false);
    assert_eq!(out.iter().map(|o| o.count).collect::<Vec<_>>(), [20, 20, 20]);
    for (port, o) in [1u16, 2, 3].iter().zip(&out) {
        assert_eq!(o.bytes[34..36], port.to_be_bytes());
        let payload: Vec<u8> = (0..2000).map(|i| i as u8).collect();
        assert_eq!(o.bytes[54..], payload);
    }
}

#[test]
fn a_batch_of_twelve_hundred_allocates_nothing() {
    // Interleaved, so that the pieces have to be gathered as well.
    let frames: Vec<_> = (0..1200u32)
        .map(|i| tcp(&Tcp { port: 1 + i as u16 % 3, id: (i / 3) as u16, seq: i / 3 * 100, ..BASE }))
        .collect();
    let rig = Rig::new(&frames, true);
    let mut gro = Gro::new(1200);
    let place = |g: &Gro| (g.slots.capacity(), g.spans.as_ptr(), g.next.as_ptr(), g.scratch.as_ptr());
    let before = place(&gro);
    rig.offer(&mut gro, true);
    assert_eq!(rig.out(&mut gro).iter().map(|o| o.count).collect::<Vec<_>>(), [400, 400, 400]);
    assert_eq!(place(&gro), before);
}

#[test]
fn sources_are_kept_apart() {
    let frames = build(&train(2, &BASE));
    let rig = Rig::new(&frames, false);
    let mut gro = Gro::new(4);
    for (s, source) in rig.at.iter().zip([5, 6]) {
        gro.source(source);
        gro.offer(&rig.bufs, s.buf, s.off, s.len, true);
    }
    assert_eq!(rig.out(&mut gro).iter().map(|o| (o.count, o.source)).collect::<Vec<_>>(), [(1, 5), (1, 6)]);
}

#[test]
fn udp_datagrams_join_up_to_sixty_four() {
    for v6 in [false, true] {
        let frames: Vec<_> = (0..70).map(|i| udp(v6, 9, &[i as u8; 100])).collect();
        let out = run(&frames, false);
        assert_eq!(out.iter().map(|o| o.count).collect::<Vec<_>>(), [64, 6]);
        assert_eq!((out[0].vnet.gso_type, out[0].vnet.gso_size, out[0].vnet.csum_offset), (5, 100, 6));
        let p = parse(&out[0].bytes, out[0].bytes.len(), true).unwrap();
        assert_eq!(p.l4_len(), 8 + 6400);
        let sizes = [udp(v6, 9, &[0; 100]), udp(v6, 9, &[0; 50]), udp(v6, 9, &[0; 50])];
        assert_eq!(counts(&sizes), [2, 1]);
    }
    let mut gro = Gro::new(4);
    gro.merge_udp(false);
    let rig = Rig::new(&[udp(false, 9, b"a"), udp(false, 9, b"b")], true);
    rig.offer(&mut gro, true);
    assert_eq!(gro.len(), 2);
}

#[test]
fn the_whole_stays_an_ip_packet() {
    let frames = build(&train(60, &Tcp { len: 1448, ..BASE }));
    let out = run(&frames, true);
    assert_eq!(out.iter().map(|o| o.count).collect::<Vec<_>>(), [45, 15]);
    assert!(out[0].bytes.len() - 14 <= 65_535);
}

#[test]
fn a_wrong_checksum_goes_alone_and_unchanged() {
    let mut frames = build(&train(4, &BASE));
    frames[1][60] ^= 1;
    let out = run(&frames, false);
    assert_eq!(out.iter().map(|o| o.count).collect::<Vec<_>>(), [1, 1, 2]);
    assert_eq!((&out[1].bytes, out[1].vnet), (&frames[1], VnetHdr::default()));
    // Covered by an outer checksum it joins.
    assert_eq!(run(&frames, true).len(), 1);
}

#[test]
fn an_open_checksum_is_passed_on_when_an_outer_one_covered_it() {
    let syn = partial(tcp(&Tcp { flags: 0x02, len: 0, ..BASE }));
    let data = partial(tcp(&BASE));
    let gram = partial(udp(true, 7, b"x"));
    for frame in [&syn, &data, &gram] {
        let out = run(std::slice::from_ref(frame), true);
        let v = out[0].vnet;
        assert_eq!((v.flags, v.gso_type, &out[0].bytes), (VnetHdr::NEEDS_CSUM, 0, frame));
        let mut done = frame.clone();
        crate::gso::finish_checksum(&mut done, &v).unwrap();
        assert!(checksum::verify_l4(&done, &parse(&done, done.len(), false).unwrap()));
        assert_eq!(run(std::slice::from_ref(frame), false)[0].vnet, VnetHdr::default());
    }
    // Open and finished ones of a flow join.
    let frames = [data, tcp(&Tcp { id: BASE.id + 1, seq: BASE.seq + 100, ..BASE })];
    assert_eq!(run(&frames, true)[0].count, 2);
    assert_eq!(counts(&frames), [1, 1]);
    // Or when the owner says that such frames come one by one; a wrong checksum stays wrong.
    let mut gro = Gro::new(4);
    gro.accept_open(true);
    let rig = Rig::new(std::slice::from_ref(&syn), true);
    rig.offer(&mut gro, false);
    assert_eq!(rig.out(&mut gro)[0].vnet.flags, VnetHdr::NEEDS_CSUM);
    gro.clear();
    let mut bad = frames[1].clone();
    bad[60] ^= 1;
    let rig = Rig::new(&[frames[0].clone(), frames[1].clone(), bad.clone()], true);
    rig.offer(&mut gro, false);
    let out = rig.out(&mut gro);
    assert_eq!(out.iter().map(|o| o.count).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((&out[1].bytes, out[1].vnet), (&bad, VnetHdr::default()));
}

#[test]
fn an_absent_udp_checksum_joins_over_ipv4_only() {
    let clear = |mut f: Vec<u8>, at: usize| {
        f[at..at + 2].fill(0);
        f
    };
    assert_eq!(counts(&[clear(udp(false, 7, b"a"), 40), clear(udp(false, 7, b"b"), 40)]), [2]);
    assert_eq!(counts(&[clear(udp(true, 7, b"a"), 60), clear(udp(true, 7, b"b"), 60)]), [1, 1]);
}

#[test]
fn padding_is_not_payload() {
    let frames: Vec<_> = build(&train(3, &Tcp { len: 2, ..BASE }))
        .into_iter()
        .map(|mut f| {
            f.resize(60, 0xaa);
            f
        })
        .collect();
    let out = run(&frames, false);
    assert_eq!((out.len(), out[0].bytes.len()), (1, 60));
    assert_eq!(run(&frames[..1], false)[0].bytes, frames[0]);
}

#[test]
fn options_and_extensions_go_alone_and_close_the_flow() {
    let frames = build(&train(2, &BASE));
    let mut odd = tcp(&Tcp { id: 99, ..BASE });
    odd.splice(34..34, [1, 1, 1, 0]);
    odd[14] = 0x46;
    odd[17] += 4;
    odd[24..26].fill(0);
    let check = checksum::sum(&odd[14..38]).finish();
    odd[24..26].copy_from_slice(&check.to_be_bytes());
    assert_eq!(counts(&[frames[0].clone(), odd.clone(), frames[1].clone()]), [1, 1, 1]);
    let open = run(&[partial(odd)], true);
    assert_eq!((open[0].vnet.flags, open[0].vnet.csum_start), (VnetHdr::NEEDS_CSUM, 38));
    let arp = [&[0xff; 12][..], &[8, 6], &[0; 46]].concat();
    assert_eq!(counts(&[frames[0].clone(), arp, frames[1].clone()]), [2, 1]);
}

#[test]
fn a_super_frame_passes_whole() {
    let frames = build(&train(3, &BASE));
    let rig = Rig::new(&frames, true);
    let mut gro = Gro::new(4);
    let vnet = VnetHdr { flags: 1, gso_type: 1, hdr_len: 54, gso_size: 50, csum_start: 34, csum_offset: 16 };
    let [a, b, c] = rig.at[..] else { panic!("three frames") };
    gro.offer(&rig.bufs, a.buf, a.off, a.len, true);
    gro.offer_whole(b.buf, b.off, b.len, vnet);
    gro.offer(&rig.bufs, c.buf, c.off, c.len, true);
    let out = rig.out(&mut gro);
    assert_eq!(
        out.iter().map(|o| o.vnet).collect::<Vec<_>>(),
        [VnetHdr::default(), vnet, VnetHdr::default()]
    );
    assert_eq!(out[1].bytes, frames[1]);
}

#[test]
fn nothing_is_left_of_an_earlier_batch() {
    let frames = build(&train(3, &BASE));
    let rig = Rig::new(&frames, true);
    let mut gro = Gro::new(2); // grows once
    for _ in 0..3 {
        rig.offer(&mut gro, true);
        assert_eq!(rig.out(&mut gro)[0].count, 3);
        gro.clear();
        assert!(gro.is_empty());
    }
    let syn = Rig::new(&[tcp(&Tcp { flags: 2, len: 0, ..BASE })], true);
    syn.offer(&mut gro, true);
    let out = syn.out(&mut gro);
    assert_eq!((out[0].count, out[0].vnet), (1, VnetHdr::default()));
    gro.offer(&[], 3, 4, 5, true);
    assert_eq!(gro.packet(1).head.bytes_mut(&mut []), &[] as &[u8]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Cut, then joined: the headers and payload of the super-frame, bit for bit.
    #[test]
    fn gro_undoes_gso(v6: bool, is_tcp: bool, n in 1usize..30_000, size in 600u16..1500, trusted: bool, one_buffer: bool) {
        let payload: Vec<u8> = (0..n).map(|i| (i * 31 + i / 256) as u8).collect();
        let (mut frame, vnet) = crate::gso::tests::super_frame(v6, is_tcp, 0x18, &payload, size);
        if !v6 {
            frame[24..26].fill(0); // etherparse's checksum is for its own identification; make it ours
            let check = checksum::sum(&frame[14..34]).finish();
            frame[24..26].copy_from_slice(&check.to_be_bytes());
        }
        let mut seg = Segmenter::new();
        seg.split(&frame, &vnet, &[]).unwrap();
        let packets = crate::gso::tests::packets(&seg, &frame);
        let rig = Rig::new(&packets, one_buffer);
        let mut gro = Gro::new(packets.len());
        rig.offer(&mut gro, trusted);
        let out = rig.out(&mut gro);
        prop_assert_eq!(out.len(), 1);
        prop_assert_eq!(out[0].count as usize, packets.len());
        if packets.len() > 1 {
            prop_assert_eq!(out[0].vnet, vnet);
            prop_assert_eq!(&out[0].bytes, &frame);
        } else {
            prop_assert_eq!(&out[0].bytes, &packets[0]);
        }
    }

    /// Whatever comes in: every packet is in exactly one outgoing packet, and flows keep their order.
    #[test]
    fn every_byte_goes_out_once_and_in_order(plan in prop::collection::vec((1u16..4, 0usize..3, 0u8..8), 1..80), trusted: bool) {
        let mut seqs = [0u32; 4];
        let mut want: [Vec<u8>; 4] = Default::default();
        let frames: Vec<_> = plan.iter().enumerate().map(|(i, &(port, len, odd))| {
            let (len, flow) = ([50, 100, 0][len], usize::from(port));
            let flags = match odd { 0 => 0x11, 1 => 0x18, _ => 0x10 };
            let frame = tcp(&Tcp { id: i as u16, port, seq: seqs[flow], flags, len, ..BASE });
            seqs[flow] += len as u32;
            want[flow].extend_from_slice(&frame[54..]);
            frame
        }).collect();
        let out = run(&frames, trusted);
        prop_assert_eq!(out.iter().map(|o| o.count as usize).sum::<usize>(), frames.len());
        let mut got: [Vec<u8>; 4] = Default::default();
        for o in &out {
            got[usize::from(o.bytes[35])].extend_from_slice(&o.bytes[54..]);
        }
        prop_assert_eq!(got, want);
    }

    #[test]
    fn random_frames_never_panic(frames in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..120), 0u8..4), 0..20), trusted: bool,
                                 at in any::<prop::sample::Index>(), value: u8) {
        let mut frames: Vec<Vec<u8>> = frames.into_iter().map(|(f, kind)| match kind {
            0 => f,
            1 => tcp(&Tcp { len: f.len(), ..BASE }),
            2 => udp(true, 5, &f),
            _ => udp(false, 5, &f),
        }).collect();
        for f in frames.iter_mut().filter(|f| !f.is_empty()) {
            let i = at.index(f.len());
            f[i] = value;
        }
        let out = run(&frames, trusted);
        prop_assert_eq!(out.iter().map(|o| o.count as usize).sum::<usize>(), frames.len());
    }
}
