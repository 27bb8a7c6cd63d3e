//! Putting right what [`survey`](super::survey()) found. Each finding is looked at again first: what is right by now stays.

use std::time::SystemTime;

use ipnet::IpNet;

use super::assign::{AssignError, MAX_TRIES, broken, read};
use super::keys::{affinity_key, block_key, handle_key};
use super::record::{Affinity, Handle};
use super::release::release_address;
use super::store::{Change, KeyStore};
use super::survey::Problem;

/// What came of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// It was so, and is put right.
    Done,
    /// It is not so any more.
    Stale,
    /// Nobody but a person can say what was meant.
    Never,
}

/// Puts one finding right.
///
/// # Errors
/// See [`AssignError`].
pub async fn repair<S: KeyStore>(
    store: &S,
    problem: &Problem,
    now: SystemTime,
) -> Result<Repaired, AssignError<S::Error>> {
    let done = match problem {
        Problem::Leaked { address, handle, sequence, .. } => {
            release_address(store, *address, Some((handle.as_deref(), *sequence)), now).await?
        }
        Problem::Handle { handle, block } => settle_handle(store, handle, block).await?,
        Problem::Affinity { node, block } => drop_affinity(store, node, block).await?,
        Problem::Block { block, node } => restore_affinity(store, node, block).await?,
        // Only the node itself knows what else is to be written.
        Problem::Broken { .. } | Problem::Missing { .. } => return Ok(Repaired::Never),
    };
    Ok(if done { Repaired::Done } else { Repaired::Stale })
}

/// Makes a handle say what the blocks say that it names, and this one.
async fn settle_handle<S: KeyStore>(
    store: &S,
    handle: &str,
    block: &IpNet,
) -> Result<bool, AssignError<S::Error>> {
    let key = handle_key(handle);
    for attempt in 0..MAX_TRIES {
        if attempt > 0 {
            store.pause(attempt).await;
        }
        let entry = store.get(&key).await?;
        let over = entry.as_ref().map_or(0, |entry| entry.revision);
        let before = match &entry {
            Some(entry) => Handle::parse(&entry.value).map_err(|err| broken(&key, &err))?,
            None => Handle::default(),
        };
        let mut blocks = before.blocks();
        if !blocks.contains(block) {
            blocks.push(*block);
        }
        let (mut after, mut changes) = (before.clone(), Vec::new());
        let mut none = true;
        for cidr in blocks {
            // From what it says to nothing, then to what is so.
            after.add(&cidr, i64::MIN);
            let Some((mut there, revision)) = read(store, &cidr).await? else { continue };
            let count = there.held_by(handle).len();
            if count > 0 {
                none = after.add(&cidr, i64::try_from(count).unwrap_or(i64::MAX)) && none;
                // Written anew, so that nothing of it changes meanwhile.
                changes.push(Change { key: block_key(&cidr), value: Some(there.encode()), over: revision });
            }
        }
        let same = if none { entry.is_none() } else { entry.is_some() && before == after };
        if same {
            return Ok(false);
        }
        changes.push(Change { key: key.clone(), value: (!none).then(|| after.encode()), over });
        if store.commit(changes).await? {
            return Ok(true);
        }
    }
    Err(AssignError::Contention)
}

async fn drop_affinity<S: KeyStore>(
    store: &S,
    node: &str,
    block: &IpNet,
) -> Result<bool, AssignError<S::Error>> {
    let key = affinity_key(node, block);
    let Some(entry) = store.get(&key).await? else { return Ok(false) };
    if let Some((there, _)) = read(store, block).await?
        && there.node() == Some(node)
    {
        return Ok(false);
    }
    Ok(store.commit(vec![Change { key, value: None, over: entry.revision }]).await?)
}

async fn restore_affinity<S: KeyStore>(
    store: &S,
    node: &str,
    block: &IpNet,
) -> Result<bool, AssignError<S::Error>> {
    let Some((mut there, revision)) = read(store, block).await? else { return Ok(false) };
    let key = affinity_key(node, block);
    if there.node() != Some(node) || store.get(&key).await?.is_some() {
        return Ok(false);
    }
    let value = Some(Affinity::default().confirmed().encode());
    let block = Change { key: block_key(block), value: Some(there.encode()), over: revision };
    Ok(store.commit(vec![block, Change { key, value, over: 0 }]).await?)
}
