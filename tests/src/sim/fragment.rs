//! Fragments cut from whole frames.

use super::craft::patched;

const V4: usize = 14 + 20;
const V6: usize = 14 + 40;

/// Bytes `from..to` behind the IP header of a frame without options and extension headers, as a fragment of datagram
/// `id` at the offset `from`.
///
/// # Panics
/// When the frame is shorter.
#[must_use]
pub fn cut(frame: &[u8], id: u32, (from, to): (usize, usize), more: bool) -> Vec<u8> {
    let header = if is_v6(frame) { V6 } else { V4 };
    part(frame, id, from, &frame[header + from..header + to], more)
}

/// Any bytes as a fragment at any offset (a multiple of 8) of datagram `id`, with the IP header of `frame`.
#[must_use]
pub fn part(frame: &[u8], id: u32, offset: usize, bytes: &[u8], more: bool) -> Vec<u8> {
    let place = offset as u16 | u16::from(more);
    if is_v6(frame) {
        return part6(frame, frame[20], (id, place), bytes);
    }
    let piece = [&frame[..V4], bytes].concat();
    let total = (piece.len() - 14) as u16;
    patched(&piece, |f| {
        f[16..18].copy_from_slice(&total.to_be_bytes());
        f[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        f[20..22].copy_from_slice(&((offset / 8) as u16 | u16::from(more) << 13).to_be_bytes());
    })
}

/// An IPv6 fragment whose header names `next` as what follows; `place` is the fragment header's third and fourth byte.
#[must_use]
pub fn part6(frame: &[u8], next: u8, (id, place): (u32, u16), bytes: &[u8]) -> Vec<u8> {
    let mut piece = frame[..V6].to_vec();
    piece.extend([next, 0]);
    piece.extend(place.to_be_bytes());
    piece.extend(id.to_be_bytes());
    piece.extend(bytes);
    let payload = (piece.len() - V6) as u16;
    piece[18..20].copy_from_slice(&payload.to_be_bytes());
    piece[20] = 44;
    piece
}

fn is_v6(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd]
}
