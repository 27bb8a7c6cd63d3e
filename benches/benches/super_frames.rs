//! Cutting a 64 KiB super-frame for the wire, and joining what the wire brought.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use encap::{Frame, Gro, Segmenter, VnetHdr, vxlan};
use etherparse::PacketBuilder;

const MSS: usize = 1398;
const SEGMENTS: usize = 45;

fn tcp(seq: u32, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 244, 1, 2], [10, 244, 2, 3], 64)
        .tcp(40_000, 80, seq, 65_535)
        .ack(5000);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("a vector takes all");
    frame
}

fn cutting(c: &mut Criterion) {
    let frame = tcp(1, &vec![0x5a; MSS * SEGMENTS]);
    let vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: VnetHdr::GSO_TCPV4,
        hdr_len: 54,
        gso_size: MSS as u16,
        csum_start: 34,
        csum_offset: 16,
    };
    let prefix = vxlan::header(1);
    let mut segmenter = Segmenter::new();
    let mut group = c.benchmark_group("super-frame");
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("cut into VXLAN segments", |b| {
        b.iter(|| {
            segmenter.split(black_box(&frame), &vnet, &prefix).expect("a sound super-frame");
            assert_eq!(segmenter.segs().len(), SEGMENTS);
        })
    });
    group.finish();
}

fn joining(c: &mut Criterion) {
    let payload = vec![0x5a; MSS];
    let frames: Vec<Frame> = (0..SEGMENTS)
        .map(|i| {
            let mut frame = Frame::with_capacity(encap::SMALL);
            assert!(frame.copy_from(&tcp(1 + (i * MSS) as u32, &payload)));
            frame
        })
        .collect();
    let mut gro = Gro::new(64);
    let mut group = c.benchmark_group("segments");
    group.throughput(Throughput::Bytes((SEGMENTS * frames[0].len()) as u64));
    for (name, trusted) in [("join, outer checksum seen", true), ("join, inner checksums verified", false)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                gro.clear();
                for (i, frame) in frames.iter().enumerate() {
                    gro.offer(&frames, i as u16, 0, frame.len() as u32, trusted);
                }
                assert_eq!(gro.len(), 1);
                black_box(gro.packet(0).total_len)
            })
        });
    }
    group.finish();
}

criterion_group!(benches, cutting, joining);
criterion_main!(benches);
