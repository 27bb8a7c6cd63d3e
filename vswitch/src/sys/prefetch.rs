//! Asking the processor for memory ahead of its use.
//!
//! Never changes what a program does, only when it waits. Nothing on processors that are not asked here.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "the prefetch instruction takes a raw address")
)]

/// Bytes the processor fetches at once.
const LINE: usize = 64;

/// Asks for every line of `place`, for reading. Returns at once.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    let start: *const T = place;
    for at in (0..size_of::<T>()).step_by(LINE) {
        fetch(start.cast::<i8>().wrapping_add(at));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch(at: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing that the program could see, and faults at no address; SSE is in every x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at) }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn fetch(_at: *const i8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_size_and_alignment_may_be_asked_for() {
        let bytes = [7u8; 300];
        prefetch(&bytes);
        prefetch(&bytes[299]);
        prefetch(&());
        assert_eq!(bytes, [7; 300]);
    }
}
