//! Frames made wrong on purpose, reproducibly from a seed.

use encap::VnetHdr;

use super::random::Random;

/// Breaks a frame in up to six ways, and often mends the IPv4 header's checksum so that it gets further.
pub fn mutate(random: &mut Random, frame: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..random.below(7) {
        let len = frame.len() as u64;
        match random.below(10) {
            0 => frame.truncate(random.below(len + 1) as usize),
            1 => frame.resize((len + random.below(100)) as usize, random.bits() as u8),
            2 => {
                let at = random.below(len + 1) as usize;
                frame.truncate(at);
                frame.extend_from_slice(&other[random.below(other.len() as u64) as usize..]);
            }
            _ if len > 0 => {
                let at = random.below(len.min(100)) as usize;
                frame[at] = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => frame[at] ^ 1 << random.below(8),
                    _ => random.bits() as u8,
                };
            }
            _ => {}
        }
    }
    if random.below(4) > 0 && frame.len() >= 34 && frame[12..14] == [8, 0] {
        let header = usize::from(frame[14] & 15) * 4;
        if let Some(ip) = frame.get_mut(14..14 + header).filter(|ip| ip.len() >= 20) {
            ip[10..12].fill(0);
            let sum = encap::checksum::sum(ip).finish();
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
    frame.truncate(encap::LARGE);
}

/// A virtio header that mostly tells the truth.
///
/// # Panics
/// Never: ten bytes are a header.
pub fn header(random: &mut Random, vnet: VnetHdr) -> VnetHdr {
    let mut bytes = vnet.bytes();
    match random.below(4) {
        0 => bytes[random.below(10) as usize] = random.bits() as u8,
        1 => return VnetHdr::default(),
        _ => {}
    }
    VnetHdr::parse(&bytes).expect("ten bytes are a header")
}
