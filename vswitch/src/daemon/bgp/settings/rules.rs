//! A neighbour's rules in the speaker's words.

use bgp::policy::{AsPathMatch, Match, PrefixList, Rule, Set};
use bgp::{Community, LargeCommunity};
use control::config::{BgpRule, PrefixRange, RouteTag};

/// Refuses these prefixes.
pub(super) fn refuse(prefixes: PrefixList) -> Rule {
    Rule { when: Match { prefixes: Some(prefixes), ..Match::default() }, then: None }
}

/// The rule; `asn`: our own, for paths that it makes longer.
pub(super) fn rule(told: &BgpRule, asn: u32) -> Rule {
    let (communities, large_communities) = tags(&told.communities);
    let ases = [
        any(&told.from_as, AsPathMatch::Neighbor),
        any(&told.origin_as, AsPathMatch::Originates),
        any(&told.through_as, AsPathMatch::Contains),
        told.as_path_at_least.map(|least| AsPathMatch::AtLeast(usize::from(least))),
    ];
    let when = Match {
        prefixes: (!told.prefixes.is_empty()).then(|| list(&told.prefixes)),
        communities,
        large_communities,
        as_path: ases.into_iter().flatten().collect(),
        ..Match::default()
    };
    let then = told.accept.as_ref().map(|change| {
        let (remove_communities, remove_large_communities) = tags(&change.remove_communities);
        let (add_communities, add_large_communities) = tags(&change.add_communities);
        Set {
            local_pref: change.local_pref,
            med: change.med,
            next_hop: None,
            remove_communities,
            add_communities,
            remove_large_communities,
            add_large_communities,
            prepend: change.prepend.map(|times| (asn, times)),
        }
    });
    Rule { when, then }
}

fn any(ases: &[u32], what: fn(u32) -> AsPathMatch) -> Option<AsPathMatch> {
    (!ases.is_empty()).then(|| AsPathMatch::Any(ases.iter().copied().map(what).collect()))
}

fn tags(tags: &[RouteTag]) -> (Vec<Community>, Vec<LargeCommunity>) {
    let standard = tags.iter().filter_map(|tag| match tag {
        RouteTag::Standard(value) => Some(Community(*value)),
        RouteTag::Large(_) => None,
    });
    let large = tags.iter().filter_map(|tag| match tag {
        RouteTag::Large(value) => Some(LargeCommunity(*value)),
        RouteTag::Standard(_) => None,
    });
    (standard.collect(), large.collect())
}

fn list(ranges: &[PrefixRange]) -> PrefixList {
    ranges.iter().fold(PrefixList::default(), |list, range| {
        // The configuration has checked the lengths; what it would not have is on no list.
        list.clone().range(range.net, range.ge, range.le).unwrap_or(list)
    })
}
