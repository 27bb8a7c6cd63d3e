//! Giving blocks back that nobody needs any more, so that a node that once had many pods does not keep a pool to itself.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::assign::{AssignError, read, settings};
use super::keys::{Name, affinities_of, block_key, parse};
use super::record::{Affinity, State};
use super::store::{Change, KeyStore};

/// A block is kept for this long after its last address was free again.
pub const RETENTION: Duration = Duration::from_secs(600);

/// The blocks of a node in which no address is in use: since when that was seen, and the revision that was.
pub type Idle = BTreeMap<IpNet, (SystemTime, i64)>;

/// Gives back those of a node's blocks that have been without an address in use for [`RETENTION`]; one block of each
/// family stays. Called now and then with the same `idle`. The blocks that were given back.
///
/// # Errors
/// The store's; what was given back before stays so.
pub async fn give_back<S: KeyStore>(
    store: &S,
    node: &str,
    idle: &mut Idle,
    now: SystemTime,
) -> Result<Vec<IpNet>, AssignError<S::Error>> {
    let cool_down = settings(store).await?.cool_down();
    let (mut still, mut given) = (Idle::new(), Vec::new());
    for v6 in [false, true] {
        let mut left = 0;
        let mut surplus = Vec::new();
        for entry in store.list(&affinities_of(node, v6), false).await? {
            let Some(Name::Affinity { block: cidr, .. }) = parse(entry.key.as_bytes()) else { continue };
            let confirmed = Affinity::parse(&entry.value).is_ok_and(|a| a.state == State::Confirmed);
            let (mut block, revision) = match read(store, &cidr).await {
                Ok(Some((block, revision))) if confirmed && block.node() == Some(node) => (block, revision),
                // What is half done, broken or another's is none of ours to give.
                Ok(_) | Err(AssignError::Broken { .. }) => continue,
                Err(err) => return Err(err),
            };
            left += 1;
            block.ripen(now, cool_down);
            if block.taken().next().is_some() {
                continue;
            }
            let known = idle.get(&cidr).filter(|(_, seen)| *seen == revision);
            let since = known.map_or(now, |(since, _)| *since);
            still.insert(cidr, (since, revision));
            if now.duration_since(since).unwrap_or_default() >= RETENTION {
                surplus.push((cidr, revision, entry));
            }
        }
        for (cidr, revision, entry) in surplus {
            if left == 1 {
                break;
            }
            let changes = vec![
                Change { key: block_key(&cidr), value: None, over: revision },
                Change { key: entry.key, value: None, over: entry.revision },
            ];
            // Somebody was faster: then it is not idle.
            if store.commit(changes).await? {
                left -= 1;
                still.remove(&cidr);
                given.push(cidr);
            }
        }
    }
    *idle = still;
    Ok(given)
}
