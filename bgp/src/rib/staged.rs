//! Announcements with the same attributes gathered, so that they share messages.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Announcement, PeerId};
use crate::attr::Attributes;
use crate::family::Family;
use crate::msg::update_out::{Bytes, Encoded};

/// Prefixes by attributes and by the peer they came from, in the order they came.
#[derive(Default, Debug)]
pub(crate) struct Batches {
    list: Vec<Batch>,
    index: HashMap<(usize, PeerId), usize>,
}

#[derive(Debug)]
struct Batch {
    attributes: Arc<Attributes>,
    source: PeerId,
    nets: Vec<IpNet>,
}

impl Batches {
    pub(crate) fn add(&mut self, (net, sent): Announcement<'_>) {
        // Runs are long: most often it is the last one.
        if let Some(last) = self.list.last_mut()
            && last.source == sent.source
            && Arc::ptr_eq(&last.attributes, &sent.attributes)
        {
            last.nets.push(net);
            return;
        }
        let key = (Arc::as_ptr(&sent.attributes) as usize, sent.source);
        match self.index.get(&key).and_then(|at| self.list.get_mut(*at)) {
            Some(batch) => batch.nets.push(net),
            None => {
                self.index.insert(key, self.list.len());
                let (attributes, source) = (Arc::clone(&sent.attributes), sent.source);
                self.list.push(Batch { attributes, source, nets: vec![net] });
            }
        }
    }

    /// Gives each message with the peer whose routes it announces.
    pub(crate) fn encode(self, family: Family, wide: bool, most: usize, mut give: impl FnMut(PeerId, Bytes)) {
        let mut messages = Vec::new();
        for batch in self.list {
            // Attributes that do not fit were not exported.
            let Some(encoded) = Encoded::new(&batch.attributes, family, wide, most) else { continue };
            encoded.announce(&batch.nets, most, &mut messages);
            messages.drain(..).for_each(|message| give(batch.source, message));
        }
    }
}
