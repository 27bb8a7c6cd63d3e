//! Messages on their way to a peer's socket. They are shared with other peers' queues, so a queue costs pointers.

use std::collections::VecDeque;

use crate::msg::update_out::Bytes;

/// What is not sent yet.
#[derive(Default, Debug)]
pub(crate) struct SendQueue {
    messages: VecDeque<Bytes>,
    /// Bytes of the first one that are sent.
    sent: usize,
    bytes: usize,
}

impl SendQueue {
    pub(crate) fn push(&mut self, message: Bytes) {
        self.bytes += message.len();
        self.messages.push_back(message);
    }

    /// Bytes not sent yet.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// What to send next, in order.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let whole = self.messages.iter().map(|m| &**m);
        whole.enumerate().map(|(i, m)| if i == 0 { m.get(self.sent..).unwrap_or(&[]) } else { m })
    }

    /// So many bytes were sent.
    pub(crate) fn consume(&mut self, mut count: usize) {
        count = count.min(self.bytes);
        self.bytes -= count;
        while let Some(first) = self.messages.front() {
            let left = first.len() - self.sent;
            if count < left {
                self.sent += count;
                return;
            }
            count -= left;
            self.sent = 0;
            self.messages.pop_front();
        }
    }

    /// Empties it; gives back the rest of a message that was sent in part, for the stream ends with it or breaks.
    pub(crate) fn abandon(&mut self) -> Vec<u8> {
        let rest = self.slices().next().filter(|_| self.sent > 0).map(<[u8]>::to_vec);
        *self = SendQueue::default();
        rest.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_whatever_the_socket_takes() {
        let mut queue = SendQueue::default();
        for message in [&[1, 2, 3][..], &[4], &[5, 6]] {
            queue.push(message.into());
        }
        let mut got = Vec::<u8>::new();
        for take in [2, 1, 2, 1] {
            let all: Vec<u8> = queue.slices().flatten().copied().collect();
            got.extend_from_slice(&all[..take]);
            queue.consume(take);
        }
        assert_eq!(got, [1, 2, 3, 4, 5, 6]);
        assert!(queue.is_empty() && queue.slices().count() == 0);
    }

    #[test]
    fn a_message_begun_is_finished() {
        let mut queue = SendQueue::default();
        queue.push([1, 2, 3][..].into());
        queue.push([4][..].into());
        queue.consume(1);
        assert_eq!(queue.abandon(), [2, 3]);
        queue.push([4][..].into());
        assert_eq!(queue.abandon(), [], "nothing of it is out");
    }
}
