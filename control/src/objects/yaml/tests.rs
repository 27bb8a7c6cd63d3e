use serde_json::json;

use super::*;

fn one(text: &str) -> Value {
    let mut documents = documents(text.as_bytes()).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0)
}

fn error(text: &str) -> TextError {
    documents(text.as_bytes()).unwrap_err()
}

#[test]
fn scalars_mean_what_kubectl_takes_them_for() {
    for (text, value) in [
        ("a: 80", json!(80)),
        ("a: -1", json!(-1)),
        ("a: 1.5", json!(1.5)),
        ("a: \"80\"", json!("80")),
        ("a: !!str 80", json!("80")),
        ("a: !!int 80", json!(80)),
        ("a: yes", json!(true)),
        ("a: Off", json!(false)),
        ("a: 'no'", json!("no")),
        ("a: ~", json!(null)),
        ("a:", json!(null)),
        ("a: 0080", json!("0080")),
        ("a: 10.0.0.1", json!("10.0.0.1")),
        ("a: 1-2", json!("1-2")),
        ("a: +-1", json!("+-1")),
        ("a: 99999999999999999999999", json!(1e23)),
        ("a: |\n  x\n  y\n", json!("x\ny\n")),
        ("a: [1, {b: c}]", json!([1, {"b": "c"}])),
    ] {
        assert_eq!(one(text), json!({"a": value}), "{text}");
    }
}

#[test]
fn json_is_read_with_tabs_and_escapes() {
    assert_eq!(
        one("{\n\t\"a\":\t[1,2.5,true,null,\"\\u0041\\/\\n\"],\n\t\"b\":{\"c\":\"d: e\"}\n}\n"),
        json!({"a": [1, 2.5, true, null, "A/\n"], "b": {"c": "d: e"}})
    );
}

#[test]
fn empty_documents_are_none() {
    assert_eq!(documents(b"").unwrap(), Vec::<Value>::new());
    assert_eq!(documents(b"---\n# only this\n---\na: 1\n---\n").unwrap(), [json!({"a": 1})]);
    assert_eq!(
        documents("\u{feff}a: 1\n---\nb: 2\n".as_bytes()).unwrap(),
        [json!({"a": 1}), json!({"b": 2})]
    );
}

#[test]
fn aliases_are_copies_that_are_paid_for() {
    assert_eq!(one("a: &x {b: 1}\nc: *x"), json!({"a": {"b": 1}, "c": {"b": 1}}));
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for i in 1..10 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        laughs += &format!("a{i}: &a{i} [{refs}]\n");
    }
    assert!(matches!(error(&laughs), TextError::Document { .. }));
    let big = format!("a: &x {}\nb: [{}]\n", "y".repeat(100_000), ["*x"; 11].join(","));
    assert!(matches!(error(&big), TextError::Document { .. }));
    let mut deep = format!("a0: &a0 {}{}\n", "[".repeat(60), "]".repeat(60));
    deep += &format!("a1: {}*a0{}\n", "[".repeat(60), "]".repeat(60));
    assert!(matches!(error(&deep), TextError::Depth { .. }));
    assert!(matches!(error("a: &x [*x]"), TextError::Cycle { .. }));
    assert!(matches!(error("a: *nobody"), TextError::Syntax { .. }));
}

#[test]
fn depth_is_bounded_in_every_style() {
    assert!(documents(format!("{}{}", "[".repeat(100), "]".repeat(100)).as_bytes()).is_ok());
    for n in [101, 10_000] {
        for text in [
            format!("{}{}", "[".repeat(n), "]".repeat(n)),
            format!("{}1{}", "{a: ".repeat(n), "}".repeat(n)),
            format!("{}1", "- ".repeat(n)),
            "[".repeat(n),
        ] {
            let error = error(&text);
            assert!(
                matches!(error, TextError::Depth { .. } | TextError::Syntax { .. }),
                "{n} {:?}: {error}",
                &text[..4]
            );
        }
    }
}

#[test]
fn length_is_bounded() {
    assert!(matches!(error(&format!("a: {}", "x".repeat(2 << 20))), TextError::Document { .. }));
    assert!(matches!(error(&format!("a: 1\n{}b: 1", "# c\n".repeat(1 << 19))), TextError::Document { .. }));
    assert!(matches!(error(&"# c\n".repeat((MAX_TEXT >> 2) + 1)), TextError::Length { .. }));
    let many = "---\na: b\n".repeat(200_000);
    assert!(many.len() > MAX_DOCUMENT);
    assert_eq!(documents(many.as_bytes()).unwrap().len(), 200_000);
}

#[test]
fn what_reads_in_two_ways_is_refused() {
    assert_eq!(error("a: 1\nb:\n  c: 1\n  c: 2\n"), TextError::DuplicateKey { line: 4, key: "c".into() });
    assert!(matches!(error("{\"a\":1,\"a\":2}"), TextError::DuplicateKey { .. }));
    assert_eq!(error("x: &x {a: 1}\nb:\n  <<: *x\n"), TextError::Merge { line: 3 });
    assert!(matches!(error("a: 1\0b: 2"), TextError::Control { c: '\0', line: 1 }));
    assert!(matches!(documents(b"a: \xff"), Err(TextError::Utf8 { at: 3 })));
    assert!(matches!(error("? [a]\n: 1\n"), TextError::Key { .. }));
    assert!(matches!(error("&k a: 1\n*k : 2\n"), TextError::Key { .. } | TextError::DuplicateKey { .. }));
    for tagged in ["a: !!binary aGk=", "a: !mine x", "a: !!int x", "a: !!set {b}", "a: !!map x"] {
        assert!(matches!(error(tagged), TextError::Tag { .. }), "{tagged}");
    }
    for broken in ["a: [1", "a: \"x", "a:\n\t- b", "a: b: c", "}"] {
        assert!(matches!(error(broken), TextError::Syntax { .. }), "{broken}");
    }
}
