use proptest::prelude::*;

use super::*;
use crate::as_path::AsPath;

fn attributes() -> Attributes {
    let mut attributes = Attributes::new("192.0.2.1".parse().unwrap());
    attributes.as_path = AsPath::sequence(&[65_001, 65_002]);
    attributes.med = Some(10);
    attributes
}

fn candidate(attributes: &Attributes, last: u8) -> Candidate<'_> {
    Candidate {
        attributes,
        origin: PathOrigin::External,
        router_id: Ipv4Addr::new(10, 0, 0, last),
        peer: IpAddr::from([10, 0, 0, last]),
        path_id: 0,
        metric: 10,
    }
}

const ALL: Multipath = Multipath { most: 16, relax: false };

/// Which of the plain route and the changed one is chosen, and why.
fn against_plain(change: impl Fn(&mut Attributes), tweak: impl Fn(&mut Candidate<'_>)) -> (usize, Step) {
    let (plain, mut changed) = (attributes(), attributes());
    change(&mut changed);
    let mut other = candidate(&changed, 2);
    tweak(&mut other);
    let decision = decide(&[candidate(&plain, 1), other], ALL).unwrap();
    (decision.best, decision.step)
}

#[test]
fn each_step_decides_in_its_turn() {
    let same = |_: &mut Candidate<'_>| ();
    let alike = |_: &mut Attributes| ();
    // Every change is made in the one with the higher router id, and loses or wins by its own step.
    assert_eq!(against_plain(alike, |c| c.origin = PathOrigin::Local), (1, Step::LocalRoute));
    assert_eq!(against_plain(|a| a.local_pref = Some(101), same), (1, Step::LocalPref));
    assert_eq!(against_plain(|a| a.local_pref = Some(99), same), (0, Step::LocalPref));
    assert_eq!(against_plain(|a| a.as_path = AsPath::sequence(&[7]), same), (1, Step::AsPathLength));
    assert_eq!(against_plain(|a| a.origin = crate::attr::Origin::Egp, same), (0, Step::Origin));
    assert_eq!(against_plain(|a| a.med = Some(9), same), (1, Step::Med));
    assert_eq!(against_plain(|a| a.med = None, same), (1, Step::Med));
    assert_eq!(against_plain(alike, |c| c.origin = PathOrigin::Internal), (0, Step::ExternalOverInternal));
    assert_eq!(against_plain(alike, |c| c.metric = 9), (1, Step::IgpMetric));
    assert_eq!(against_plain(alike, same), (0, Step::RouterId));
    let one = Ipv4Addr::new(10, 0, 0, 1);
    let list = |a: &mut Attributes| {
        a.originator_id = Some(one);
        a.cluster_list = [one].into();
    };
    assert_eq!(against_plain(list, same), (0, Step::ClusterListLength));
    assert_eq!(against_plain(alike, |c| c.router_id = one), (0, Step::PeerAddress));
    let tweak = |c: &mut Candidate<'_>| (c.router_id, c.peer, c.path_id) = (one, one.into(), 1);
    assert_eq!(against_plain(alike, tweak), (0, Step::PathId));
}

#[test]
fn med_is_compared_within_one_neighbouring_as() {
    let other = |a: &mut Attributes| {
        a.as_path = AsPath::sequence(&[65_009, 65_002]);
        a.med = Some(1);
    };
    assert_eq!(against_plain(other, |_| ()), (0, Step::RouterId));
}

#[test]
fn the_order_of_arrival_does_not_matter_where_med_is_not_transitive() {
    // The classic: b beats a by MED, c beats b and a beats c by router id.
    let path = |neighbor, med| {
        let mut a = attributes();
        a.as_path = AsPath::sequence(&[neighbor, 9]);
        a.med = Some(med);
        a
    };
    let (a, b, c) = (path(1, 20), path(1, 10), path(2, 0));
    let of = [candidate(&a, 1), candidate(&b, 3), candidate(&c, 2)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let listed = order.map(|at| of[at]);
        let decision = decide(&listed, ALL).unwrap();
        assert_eq!(order[decision.best], 2, "{order:?}");
    }
}

#[test]
fn equal_paths_are_used_together() {
    let (plain, mut elsewhere) = (attributes(), attributes());
    elsewhere.as_path = AsPath::sequence(&[65_009, 65_002]);
    let list = [candidate(&plain, 3), candidate(&plain, 1), candidate(&elsewhere, 2)];
    assert_eq!(decide(&list, ALL).unwrap().equal, [1, 0]);
    assert_eq!(decide(&list, Multipath { relax: true, ..ALL }).unwrap().equal, [1, 0, 2]);
    assert_eq!(decide(&list, Multipath { most: 1, relax: true }).unwrap().equal, [1]);
    assert_eq!(decide(&[], ALL), None);
    assert_eq!(decide(&list[..1], ALL).unwrap().step, Step::OnlyPath);
}

proptest! {
    /// The best path is the same in whatever order the candidates come.
    #[test]
    fn order_never_matters(
        paths in prop::collection::vec((0u32..3, 1u32..4, 0u32..3, any::<bool>(), 0u32..2), 1..8),
        turn: prop::sample::Index,
    ) {
        let all: Vec<Attributes> = paths.iter().map(|(preference, neighbor, med, _, _)| {
            let mut a = attributes();
            a.local_pref = Some(*preference / 2);
            a.as_path = AsPath::sequence(&[*neighbor]);
            a.med = Some(*med);
            a
        }).collect();
        let mut list: Vec<Candidate<'_>> = all.iter().zip(1u8..).zip(&paths).map(|((a, last), p)| {
            let origin = if p.3 { PathOrigin::External } else { PathOrigin::Internal };
            Candidate { origin, metric: p.4, ..candidate(a, last) }
        }).collect();
        let before = decide(&list, ALL).unwrap();
        let (best, step) = (list[before.best].peer, before.step);
        let turn = turn.index(list.len());
        list.rotate_left(turn);
        let after = decide(&list, ALL).unwrap();
        prop_assert_eq!((list[after.best].peer, after.step), (best, step));
        prop_assert_eq!(before.equal.len(), after.equal.len());
    }
}
