//! Taking addresses back.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use super::assign::{AssignError, MAX_TRIES, block_of, broken, read, settings};
use super::block::Owner;
use super::keys::{block_key, blocks_of, handle_key};
use super::record::Handle;
use super::store::{Change, KeyStore};

/// Takes back all that a handle has, in one transaction; what was taken back. `hint` are addresses that it is known to
/// have, for the case that its key is gone. Nothing to take back is no error.
///
/// # Errors
/// See [`AssignError`].
pub async fn release<S: KeyStore>(
    store: &S,
    handle: &str,
    hint: &[IpAddr],
    now: SystemTime,
) -> Result<Vec<IpAddr>, AssignError<S::Error>> {
    let key = handle_key(handle);
    for attempt in 0..MAX_TRIES {
        if attempt > 0 {
            store.pause(attempt).await;
        }
        let cool_down = settings(store).await?.cool_down();
        let known = store.get(&key).await?;
        let mut blocks: BTreeSet<IpNet> = match &known {
            Some(entry) => {
                Handle::parse(&entry.value).map_err(|err| broken(&key, &err))?.blocks().into_iter().collect()
            }
            None => BTreeSet::new(),
        };
        let missing: Vec<IpAddr> =
            hint.iter().copied().filter(|addr| !blocks.iter().any(|block| block.contains(addr))).collect();
        for addr in missing {
            blocks.extend(find(store, addr).await?);
        }
        let (mut changes, mut freed) = (Vec::new(), Vec::new());
        for cidr in blocks {
            let Some((mut block, over)) = read(store, &cidr).await? else { continue };
            let mut addrs = block.take_back(Some(handle), |_| true, now, cool_down);
            if addrs.is_empty() {
                continue;
            }
            freed.append(&mut addrs);
            // An empty block that belongs to nobody would be nobody's for ever.
            let value = (!block.is_empty() || block.is_affine()).then(|| block.encode());
            changes.push(Change { key: block_key(&cidr), value, over });
        }
        if let Some(entry) = known {
            changes.push(Change { key: key.clone(), value: None, over: entry.revision });
        }
        if changes.is_empty() || store.commit(changes).await? {
            freed.sort_unstable();
            return Ok(freed);
        }
    }
    Err(AssignError::Contention)
}

/// Takes back one address, whoever has it; with `only`, if it is still that handle's, given with that sequence number.
/// False = nobody has it, or somebody else by now.
///
/// # Errors
/// See [`AssignError`].
pub async fn release_address<S: KeyStore>(
    store: &S,
    addr: IpAddr,
    only: Option<(Option<&str>, u64)>,
    now: SystemTime,
) -> Result<bool, AssignError<S::Error>> {
    for attempt in 0..MAX_TRIES {
        if attempt > 0 {
            store.pause(attempt).await;
        }
        let cool_down = settings(store).await?.cool_down();
        let Some(cidr) = find(store, addr).await? else { return Ok(false) };
        let Some((mut block, over)) = read(store, &cidr).await? else { return Ok(false) };
        let Some(Owner::Held { handle, sequence, .. }) = block.owner(addr) else { return Ok(false) };
        if only.is_some_and(|only| only != (handle, sequence)) {
            return Ok(false);
        }
        let handle = handle.map(str::to_owned);
        block.take_back(handle.as_deref(), |one| one == addr, now, cool_down);
        let value = (!block.is_empty() || block.is_affine()).then(|| block.encode());
        let mut changes = vec![Change { key: block_key(&cidr), value, over }];
        if let Some(handle) = &handle {
            let key = handle_key(handle);
            if let Some(entry) = store.get(&key).await?
                && let Ok(mut record) = Handle::parse(&entry.value)
            {
                let value = if record.add(&cidr, -1) { None } else { Some(record.encode()) };
                changes.push(Change { key, value, over: entry.revision });
            }
        }
        if store.commit(changes).await? {
            return Ok(true);
        }
    }
    Err(AssignError::Contention)
}

/// The block that holds an address: of several the smallest.
pub(super) async fn find<S: KeyStore>(store: &S, addr: IpAddr) -> Result<Option<IpNet>, S::Error> {
    let names = store.list(&blocks_of(addr.is_ipv6()), true).await?;
    let holding = names.iter().filter_map(|entry| block_of(&entry.key)).filter(|cidr| cidr.contains(&addr));
    Ok(holding.max_by_key(IpNet::prefix_len))
}
