//! Reading and writing headers: one frame at a time, beside the general-purpose crates.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use encap::{Frame, VnetHdr, checksum, parse, vxlan};
use etherparse::{LaxSlicedPacket, PacketBuilder};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket};

fn tcp_frame(payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 244, 1, 2], [10, 244, 2, 3], 64)
        .tcp(40_000, 80, 1000, 65_535)
        .ack(5000);
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![0x5a; payload]).expect("a vector takes all");
    frame
}

fn parsing(c: &mut Criterion) {
    let frame = tcp_frame(64);
    let mut group = c.benchmark_group("parse TCP/IPv4");
    group.bench_function("ours", |b| b.iter(|| parse::parse(black_box(&frame), frame.len(), false)));
    group.bench_function("etherparse", |b| {
        b.iter(|| LaxSlicedPacket::from_ethernet(black_box(&frame)).map(|sliced| sliced.transport.is_some()))
    });
    group.bench_function("smoltcp", |b| {
        b.iter(|| {
            let eth = EthernetFrame::new_checked(black_box(&frame[..])).ok()?;
            let ip = Ipv4Packet::new_checked(eth.payload()).ok()?;
            if eth.ethertype() != EthernetProtocol::Ipv4
                || ip.next_header() != IpProtocol::Tcp
                || !ip.verify_checksum()
            {
                return None;
            }
            let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
            Some((ip.src_addr(), ip.dst_addr(), tcp.src_port(), tcp.dst_port()))
        })
    });
    group.finish();
}

fn checksums(c: &mut Criterion) {
    for size in [64, 1448, 65_160] {
        let bytes = vec![0xa5; size];
        let mut group = c.benchmark_group(format!("checksum {size} B"));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function("ours", |b| b.iter(|| checksum::sum(black_box(&bytes)).finish()));
        group.bench_function("smoltcp", |b| b.iter(|| smoltcp::wire::checksum::data(black_box(&bytes))));
        group.bench_function("etherparse", |b| {
            b.iter(|| {
                etherparse::checksum::Sum16BitWords::new().add_slice(black_box(&bytes)).ones_complement()
            })
        });
        group.finish();
    }
}

fn tunnels(c: &mut Criterion) {
    let mut frame = Frame::with_capacity(encap::SMALL);
    assert!(frame.copy_from(&tcp_frame(1448)));
    c.bench_function("vxlan push and pull", |b| {
        b.iter(|| {
            vxlan::push(&mut frame, black_box(1));
            let (vni, inner) = vxlan::parse(frame.data()).expect("our own header");
            assert!(frame.pull(inner));
            vni
        })
    });
    let header =
        VnetHdr { flags: 1, gso_type: 1, hdr_len: 54, gso_size: 1448, csum_start: 34, csum_offset: 16 };
    c.bench_function("virtio header emit, parse, check", |b| {
        let mut bytes = [0; VnetHdr::LEN];
        b.iter(|| {
            black_box(header).emit(&mut bytes);
            VnetHdr::parse(&bytes).map(|got| got.check(65_000))
        })
    });
}

criterion_group!(benches, parsing, checksums, tunnels);
criterion_main!(benches);
