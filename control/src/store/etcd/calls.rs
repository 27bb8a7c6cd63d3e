//! The calls that change something: the lease, published pods, objects.
//!
//! Each is one transaction that holds only if nothing was changed meanwhile. A call whose answer was lost may be made
//! again: what is there already, exactly as it was to be written, counts as written.

use std::time::Duration;

use super::client::Client;
use super::error::CallError;
use super::lease::{Claim, Claimed};
use super::wire::{
    Compare, DeleteRangeRequest, KeyValue, Op, PutRequest, RangeRequest, TxnRequest, prefix_end,
};

/// One key to be written, or to be removed.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) key: Vec<u8>,
    /// None = remove it.
    pub(super) value: Option<Vec<u8>>,
    pub(super) lease: i64,
    /// The revision that wrote it last; 0 = it must not be there; none = whatever there is.
    pub(super) over: Option<i64>,
}

/// How a write ended.
#[derive(Debug)]
pub(super) enum Written {
    /// It is as it was to be, as of this revision.
    Yes(i64),
    /// Somebody else wrote it meanwhile; what is there now.
    No(Option<KeyValue>),
}

/// Writes or removes one key.
pub(super) async fn write(client: &Client, write: &Write) -> Result<Written, CallError> {
    let op = match &write.value {
        Some(value) => {
            Op::Put(PutRequest { key: write.key.clone(), value: value.clone(), lease: write.lease })
        }
        None => Op::Delete(DeleteRangeRequest { key: write.key.clone() }),
    };
    let question = TxnRequest {
        compare: write.over.map(|over| Compare::unchanged(write.key.clone(), over)).into_iter().collect(),
        success: vec![op.into()],
        failure: vec![Op::Range(RangeRequest { key: write.key.clone(), ..RangeRequest::default() }).into()],
    };
    let answer = client.txn(question).await?;
    let revision = answer.header.map_or(0, |header| header.revision);
    if answer.succeeded {
        return Ok(Written::Yes(revision));
    }
    let there =
        answer.responses.into_iter().filter_map(|response| response.range).flat_map(|range| range.kvs).next();
    let same = match (&write.value, &there) {
        (Some(value), Some(kv)) => kv.value == *value && kv.lease == write.lease,
        (None, None) => true,
        _ => false,
    };
    Ok(if same { Written::Yes(revision) } else { Written::No(there) })
}

/// Takes a subnet. `base` is what names of leases stand behind.
pub(super) async fn claim(client: &Client, base: &str, claim: &Claim) -> Result<Claimed, CallError> {
    let wanted = client.timing().ttl;
    let (lease, ttl, fresh) = match claim.lease {
        0 => grant(client).await?,
        lease => match client.keep_alive(lease).await? {
            // Of another length: somebody else's choice.
            ttl if ttl.as_secs().abs_diff(wanted.as_secs()) > 1 => grant(client).await?,
            ttl => (lease, ttl, false),
        },
    };
    let key = format!("{base}{}", claim.key).into_bytes();
    let mut compare = Vec::new();
    let mut success = Vec::new();
    if let Some((name, modified)) = &claim.remove {
        let old = format!("{base}{name}").into_bytes();
        compare.push(Compare::unchanged(old.clone(), *modified));
        success.push(Op::Delete(DeleteRangeRequest { key: old }).into());
    }
    // Every key that names this IPv4 subnet, whatever its IPv6 half: two of them would be one subnet given twice.
    let v4 = format!("{base}{}-{}", claim.key.v4.addr(), claim.key.v4.prefix_len());
    let in_the_way = claim.remove.as_ref().is_some_and(|(name, _)| format!("{base}{name}").starts_with(&v4));
    compare.push(match claim.over {
        0 if in_the_way => Compare::unchanged(key.clone(), 0),
        0 => Compare::absent(v4.clone().into_bytes(), prefix_end(v4.as_bytes())),
        over => Compare::unchanged(key.clone(), over),
    });
    let (value, bound) = (claim.value.encode().into_bytes(), if claim.reservation { 0 } else { lease });
    success.push(Op::Put(PutRequest { key: key.clone(), value: value.clone(), lease: bound }).into());
    let failure = vec![Op::Range(RangeRequest { key, ..RangeRequest::default() }).into()];
    let answer = client.txn(TxnRequest { compare, success, failure }).await?;
    let revision = answer.header.map_or(0, |header| header.revision);
    let mut there =
        answer.responses.iter().filter_map(|response| response.range.as_ref()).flat_map(|range| &range.kvs);
    let earlier =
        there.find(|kv| kv.value == value && kv.lease == bound && bound != 0).map(|kv| kv.mod_revision);
    if let Some(revision) = answer.succeeded.then_some(revision).or(earlier) {
        return Ok(Claimed::Yes { revision, lease, ttl });
    }
    if fresh {
        // It would end by itself; if it cannot be ended now, it does.
        let _ = client.revoke(lease).await;
    }
    Ok(Claimed::Lost)
}

async fn grant(client: &Client) -> Result<(i64, Duration, bool), CallError> {
    let granted = client.grant(client.timing().ttl).await?;
    Ok((granted.id, Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(0)), true))
}
