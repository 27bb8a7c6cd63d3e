use super::*;

fn bytes(path: &AsPath, wide: bool) -> Vec<u8> {
    let mut out = Vec::new();
    path.emit(wide, &mut out);
    out
}

fn set(numbers: &[u32]) -> Segment {
    Segment { kind: SegmentKind::Set, numbers: numbers.into() }
}

#[test]
fn a_set_counts_as_one() {
    let mut path = AsPath::sequence(&[1, 2]);
    path.segments.push(set(&[3, 4, 5]));
    assert_eq!(path.length(), 3);
    assert_eq!(path.to_string(), "1 2 {3,4,5}");
    assert_eq!((path.neighbor(), path.origin()), (Some(1), None));
}

#[test]
fn prepending_opens_a_segment_only_when_it_must() {
    let mut path = AsPath::default();
    path.prepend(7, 2);
    assert_eq!(path, AsPath::sequence(&[7, 7]));
    path.prepend(8, 1);
    assert_eq!(path, AsPath::sequence(&[8, 7, 7]));
    let mut long = AsPath::sequence(&[1; 254]);
    long.prepend(9, 3);
    assert_eq!(long.segments.len(), 2);
    assert_eq!((long.length(), long.neighbor()), (257, Some(9)));
    let mut behind_a_set = AsPath { segments: vec![set(&[1])] };
    behind_a_set.prepend(9, 1);
    assert_eq!(behind_a_set.to_string(), "9 {1}");
}

#[test]
fn malformed_paths_say_why() {
    let say = |b: &[u8]| AsPath::parse(Reader::new(b), false).unwrap_err();
    assert_eq!(say(&[2, 2, 0, 1]), AsPathError::Overrun);
    assert_eq!(say(&[2]), AsPathError::Overrun);
    assert_eq!(say(&[2, 0]), AsPathError::Empty);
    assert_eq!(say(&[3, 1, 0, 1]), AsPathError::Kind(3));
    assert_eq!(say(&[2, 1, 0, 0]), AsPathError::Zero);
}

#[test]
fn old_speakers_see_as_trans_and_the_truth_is_merged_back() {
    let path = AsPath::sequence(&[64_512, 4_200_000_000, 70_000]);
    let old = AsPath::parse(Reader::new(&bytes(&path, false)), false).unwrap();
    assert_eq!(old, AsPath::sequence(&[64_512, 23_456, 23_456]));
    // The old speaker in the middle has put itself in front of AS_PATH only.
    let mut passed_on = old;
    passed_on.prepend(65_001, 1);
    assert_eq!(passed_on.merge(&path), AsPath::sequence(&[65_001, 64_512, 4_200_000_000, 70_000]));
}

#[test]
fn an_as4_path_longer_than_the_path_is_not_believed() {
    let path = AsPath::sequence(&[1, 2]);
    assert_eq!(path.clone().merge(&AsPath::sequence(&[7, 8, 9])), path);
}

#[test]
fn four_octets_go_both_ways() {
    let mut path = AsPath::sequence(&[4_200_000_000, 1]);
    path.segments.push(set(&[70_000]));
    assert_eq!(AsPath::parse(Reader::new(&bytes(&path, true)), true).unwrap(), path);
}
