//! The flow cache: what a worker already decided about a flow, to be replayed for its next packets.
//!
//! One cache per worker, touched by that worker's thread only; fixed in size from the start. A decision carries the
//! epoch of the snapshot it was made from, and one of another epoch is a miss: nothing ever walks the cache to
//! invalidate it.
//!
//! Flows sit in buckets of eight. A bucket is one cache line: a 16-bit tag, the low byte of the epoch and an index
//! for each way, and a bit for each way that was hit since the clock hand passed it last. A lookup reads that line
//! and, on a match of the tag, one flow. When a bucket is full, a way of an old epoch is taken first, else the hand
//! takes the first way that was not hit (second chance), so a flood of single-packet flows replaces itself and not
//! the flows that carry traffic. And only a flow that was missed a moment ago displaces another: with far more flows than
//! the cache holds, remembering each of them would write two or three cold lines for every packet and hit nothing.
//!
//! Never done here: allocation after `new`, clock reads, decisions.

#[cfg(test)]
mod tests;

use policy::FlowKey;

const WAYS: usize = 8;

/// A flow and the finished decision about it.
#[derive(Clone, Debug)]
pub struct Flow<A> {
    /// What identifies it.
    pub key: FlowKey,
    /// The snapshot the action was made from.
    pub epoch: u64,
    /// What to do with its packets.
    pub action: A,
    /// Packets seen; kept by the caller. Survives a new decision about the same flow.
    pub packets: u64,
    /// Bytes seen; kept by the caller. Survives a new decision about the same flow.
    pub bytes: u64,
    /// When a packet was seen last, in the caller's milliseconds.
    pub last_ms: u64,
}

#[derive(Clone, Default)]
#[repr(align(64))]
struct Bucket {
    /// High bits of the hash, 0 for an empty way.
    tag: [u16; WAYS],
    /// Low byte of the epoch; differs = certainly stale.
    epoch: [u8; WAYS],
    /// Index into `FlowCache::flows`.
    index: [u32; WAYS],
    /// Bit per way: hit since the hand passed.
    hot: u8,
    hand: u8,
    /// Tags of flows that would have displaced another, the latest first.
    turned_away: [u16; 3],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// The cache, with decisions of type `A`.
pub struct FlowCache<A: Copy> {
    buckets: Vec<Bucket>,
    /// Grows up to its reserved capacity; each flow belongs to exactly one way from then on.
    flows: Vec<Flow<A>>,
}

impl<A: Copy> FlowCache<A> {
    /// A cache for at least `capacity` flows (rounded up to eight times a power of two, at most 2^31).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let buckets = capacity.clamp(1, 1 << 31).div_ceil(WAYS).next_power_of_two();
        Self { buckets: vec![Bucket::default(); buckets], flows: Vec::with_capacity(buckets * WAYS) }
    }

    /// Flows it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// The decision about `key`, if one was made in this epoch. `hash` is the key's own; equal keys must come with
    /// equal hashes.
    #[inline]
    pub fn get(&mut self, key: &FlowKey, hash: u64, epoch: u64) -> Option<&mut Flow<A>> {
        let at = self.bucket(hash);
        let bucket = &mut self.buckets[at];
        let mut matches = ways(bucket, tag(hash));
        while matches != 0 {
            let way = matches.trailing_zeros() as usize;
            matches &= matches - 1;
            let index = bucket.index[way] as usize;
            let flow = &self.flows[index];
            if flow.key == *key {
                if flow.epoch != epoch {
                    return None;
                }
                bucket.hot |= 1 << way;
                return Some(&mut self.flows[index]);
            }
        }
        None
    }

    /// The line a lookup of this hash reads first, for fetching it ahead.
    #[inline]
    pub fn bucket_of(&self, hash: u64) -> &impl Sized {
        &self.buckets[self.bucket(hash)]
    }

    /// The flow a lookup of this hash will most likely find. Only the bucket is read.
    #[inline]
    pub fn likely(&self, hash: u64) -> Option<&Flow<A>> {
        let bucket = &self.buckets[self.bucket(hash)];
        let matches = ways(bucket, tag(hash));
        (matches != 0).then(|| &self.flows[bucket.index[matches.trailing_zeros() as usize] as usize])
    }

    /// Remembers a decision. Replaces an older one about the same key and keeps its packet and byte counts. None = it is
    /// not remembered: another flow would have to go for one that was not missed before.
    pub fn put(&mut self, key: FlowKey, hash: u64, epoch: u64, action: A, now: u64) -> Option<&mut Flow<A>> {
        let at = self.bucket(hash);
        let bucket = &mut self.buckets[at];
        let known = Self::known(bucket, &self.flows, &key, hash);
        let way = match known.or_else(|| vacant(bucket, epoch)) {
            Some(way) => way,
            None if returns(bucket, tag(hash)) => victim(bucket),
            None => return None,
        };
        let fresh = Flow { key, epoch, action, packets: 0, bytes: 0, last_ms: now };
        let index = if bucket.tag[way] == 0 {
            self.flows.push(fresh);
            bucket.index[way] = self.flows.len() as u32 - 1;
            self.flows.len() - 1
        } else {
            let index = bucket.index[way] as usize;
            let (packets, bytes) = match known {
                Some(_) => (self.flows[index].packets, self.flows[index].bytes),
                None => (0, 0),
            };
            self.flows[index] = Flow { packets, bytes, ..fresh };
            index
        };
        bucket.tag[way] = tag(hash);
        bucket.epoch[way] = epoch as u8;
        // A new flow must earn its second chance by a second packet.
        bucket.hot &= !(1 << way);
        Some(&mut self.flows[index])
    }

    /// Forgets every flow.
    pub fn clear(&mut self) {
        self.buckets.fill(Bucket::default());
        self.flows.clear();
    }

    /// Every flow held, those of old epochs included, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = &Flow<A>> {
        self.flows.iter()
    }

    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    fn known(bucket: &Bucket, flows: &[Flow<A>], key: &FlowKey, hash: u64) -> Option<usize> {
        let matches = ways(bucket, tag(hash));
        (0..WAYS).find(|&way| matches & 1 << way != 0 && flows[bucket.index[way] as usize].key == *key)
    }
}

/// The tag of a hash: bits that do not pick the bucket, and never 0.
#[inline]
fn tag(hash: u64) -> u16 {
    ((hash >> 48) as u16).max(1)
}

/// The ways of a bucket that carry `tag`, a bit each.
#[inline]
fn ways(bucket: &Bucket, tag: u16) -> u32 {
    let mut mask = 0;
    for (way, &have) in bucket.tag.iter().enumerate() {
        mask |= u32::from(have == tag) << way;
    }
    mask
}

/// A way that nobody misses: an empty one, or one of another epoch.
fn vacant(bucket: &Bucket, epoch: u64) -> Option<usize> {
    let empty = bucket.tag.iter().position(|&tag| tag == 0);
    empty.or_else(|| bucket.epoch.iter().position(|&low| low != epoch as u8))
}

/// Was this tag turned away a moment ago? If not, it is now.
fn returns(bucket: &mut Bucket, tag: u16) -> bool {
    let [latest, second, third] = bucket.turned_away;
    let known = (latest == tag) | (second == tag) | (third == tag);
    if !known {
        bucket.turned_away = [tag, latest, second];
    }
    known
}

/// The way of a full bucket to give to another flow: the next that was not hit.
fn victim(bucket: &mut Bucket) -> usize {
    loop {
        let way = bucket.hand as usize % WAYS;
        bucket.hand = (bucket.hand + 1) % WAYS as u8;
        if bucket.hot & 1 << way == 0 {
            return way;
        }
        bucket.hot &= !(1 << way);
    }
}
