//! What changed between two lists of shared objects.

use std::collections::HashSet;
use std::sync::Arc;

/// The objects only in `old` and those only in `new`, by pointer: what both hold is the same, what only one holds
/// may still be equal in value.
pub(super) fn diff<'a, T>(old: &'a [Arc<T>], new: &'a [Arc<T>]) -> (Vec<&'a Arc<T>>, Vec<&'a Arc<T>>) {
    let same = |(a, b): &(&Arc<T>, &Arc<T>)| Arc::ptr_eq(a, b);
    let head = old.iter().zip(new).take_while(same).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    let pointers = |list: &[Arc<T>]| list.iter().map(Arc::as_ptr).collect::<HashSet<_>>();
    let (in_old, in_new) = (pointers(old), pointers(new));
    (
        old.iter().filter(|x| !in_new.contains(&Arc::as_ptr(x))).collect(),
        new.iter().filter(|x| !in_old.contains(&Arc::as_ptr(x))).collect(),
    )
}
