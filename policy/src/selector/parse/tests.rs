use proptest::prelude::*;

use super::*;
use crate::selector::Labels;

fn parse(text: &str) -> Result<Selector, ParseError> {
    text.parse()
}

fn arb_selector() -> impl Strategy<Value = Selector> {
    let key = || "[a-zA-Z0-9_./-]{1,6}|in|not|has|all|global|contains|starts".prop_map(Arc::<str>::from);
    let value = || r#"[a-z0-9' &|(){}!,é]{0,6}|[a-z"]{0,4}"#.prop_map(Arc::<str>::from);
    let set = move || prop::collection::vec(value(), 0..4);
    let atom = prop_oneof![
        Just(Selector::All),
        key().prop_map(Selector::Has),
        (key(), value()).prop_map(|(k, v)| Selector::Eq(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::Ne(k, v)),
        (key(), set()).prop_map(|(k, v)| Selector::In(k, v)),
        (key(), set()).prop_map(|(k, v)| Selector::NotIn(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::Contains(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::StartsWith(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::EndsWith(k, v)),
    ];
    atom.prop_recursive(6, 40, 4, |e| {
        prop_oneof![
            e.clone().prop_map(|e| Selector::Not(Box::new(e))),
            prop::collection::vec(e.clone(), 2..4).prop_map(Selector::And),
            prop::collection::vec(e, 2..4).prop_map(Selector::Or),
        ]
    })
}

proptest! {
    #[test]
    fn text_and_back(selector in arb_selector()) {
        prop_assert_eq!(parse(&selector.to_string()), Ok(selector));
    }

    #[test]
    fn any_text_is_read_or_refused(text in r#"[a-c ()!&|={}'",]{0,40}"#) {
        if let Ok(selector) = parse(&text) {
            prop_assert_eq!(parse(&selector.to_string()), Ok(selector));
        }
    }
}

#[test]
fn the_grammar_in_examples() {
    let eq = |k: &str, v: &str| Selector::Eq(k.into(), v.into());
    let not = |e| Selector::Not(Box::new(e));
    let rows = [
        ("", Selector::All),
        (" \n", Selector::All),
        ("all()", Selector::All),
        ("all ( )", Selector::All),
        ("all == 'x'", eq("all", "x")),
        ("a=='x'", eq("a", "x")),
        ("k8s.io/a-b_c == \"it's\"", eq("k8s.io/a-b_c", "it's")),
        ("!has( a )", not(Selector::Has("a".into()))),
        ("!!has(a)", not(not(Selector::Has("a".into())))),
        ("global()", not(Selector::Has(NAMESPACE.into()))),
        ("a in {'x', \"y\",}", Selector::In("a".into(), vec!["x".into(), "y".into()])),
        ("a in{}", Selector::In("a".into(), vec![])),
        ("a not  in {'x'}", Selector::NotIn("a".into(), vec!["x".into()])),
        ("a notin {'x'}", Selector::NotIn("a".into(), vec!["x".into()])),
        ("in in {'in'}", Selector::In("in".into(), vec!["in".into()])),
        ("a starts  with 'x'", Selector::StartsWith("a".into(), "x".into())),
        ("a ends with 'x'", Selector::EndsWith("a".into(), "x".into())),
        ("a contains ''", Selector::Contains("a".into(), "".into())),
        (
            "a == '1' || b == '2' && c == '3'",
            Selector::Or(vec![eq("a", "1"), Selector::And(vec![eq("b", "2"), eq("c", "3")])]),
        ),
        (
            "(a == '1' || b == '2') && c == '3'",
            Selector::And(vec![Selector::Or(vec![eq("a", "1"), eq("b", "2")]), eq("c", "3")]),
        ),
    ];
    for (text, want) in rows {
        assert_eq!(parse(text), Ok(want), "{text:?}");
    }
}

#[test]
fn errors_name_the_place() {
    let rows = [
        ("a", 1),
        ("a = 'x'", 2),
        ("a == x", 5),
        ("a == 'x", 5),
        ("a == 'x' b", 9),
        ("a == 'x' &&", 11),
        ("(a == 'x'", 9),
        ("a in {'x' 'y'}", 10),
        ("a in {,}", 6),
        ("a not 'x'", 6),
        ("foo(a)", 4),
        ("has()", 4),
        ("é == 'x'", 0),
        ("!", 1),
    ];
    for (text, position) in rows {
        let at = match parse(text).expect_err(text) {
            ParseError::Expected { at, .. }
            | ParseError::OpenString { at }
            | ParseError::LongKey { at }
            | ParseError::TooDeep { at } => at,
        };
        assert_eq!(at, position, "{text:?}");
    }
    assert_eq!(parse(&format!("has({})", "a".repeat(513))), Err(ParseError::LongKey { at: 4 }));
    assert_eq!(parse(&"(".repeat(100_000)), Err(ParseError::TooDeep { at: MAX_DEPTH }));
    assert_eq!(parse(&"!".repeat(100_000)), Err(ParseError::TooDeep { at: MAX_DEPTH }));
}

#[test]
fn what_has_no_text_of_its_own_is_written_as_what_it_means() {
    let labels = Labels::from_iter([("a", "x")]);
    for selector in
        [Selector::And(vec![]), Selector::Or(vec![]), Selector::And(vec![Selector::Has("a".into())])]
    {
        let read = parse(&selector.to_string()).expect("text of a selector");
        assert_eq!(read.matches(&labels), selector.matches(&labels));
    }
}
