//! Just enough reading of Rust source to tell code from the rest, and to list the paths it names.

/// The source without comments, the content of string literals, and test modules (`#[cfg(test)] mod … { … }`).
pub(crate) fn code(source: &str) -> String {
    without_tests(&plain(source))
}

fn plain(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        at += if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(len) = (!word_before).then(|| raw_string(rest)).flatten() {
            out.extend_from_slice(b"\"\"");
            len
        } else if rest[0] == b'"' {
            out.extend_from_slice(b"\"\"");
            quoted(rest, b'"')
        } else if rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || rest.get(2) == Some(&b'\'')) {
            out.extend_from_slice(b"' '");
            quoted(rest, b'\'')
        } else {
            out.push(rest[0]);
            1
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Length of the literal that starts `text`, both quotes included.
fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

fn raw_string(text: &[u8]) -> Option<usize> {
    let start = text.iter().position(|&b| b != b'b' && b != b'c').filter(|&n| n <= 1)?;
    let text_after = text.get(start..)?.strip_prefix(b"r")?;
    let hashes = text_after.iter().take_while(|&&b| b == b'#').count();
    let body = text_after.get(hashes..)?.strip_prefix(b"\"")?;
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let len = body.windows(end.len()).position(|w| w == end)?;
    Some(start + 1 + hashes + 1 + len + end.len())
}

fn block_comment(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let open = item.find('{').unwrap_or(item.len());
        let semicolon = item.find(';').unwrap_or(item.len());
        rest = if semicolon < open { &item[semicolon + 1..] } else { &item[open + block(&item[open..])..] };
    }
    out.push_str(rest);
    out
}

/// Length of the `{ … }` that starts `code`.
fn block(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + c.len_utf8();
        }
    }
    code.len()
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Does `word` stand alone somewhere?
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

/// `datapath/deliver.rs` is `[datapath, deliver]`; `lib.rs` is empty; `a/mod.rs` is `[a]`.
pub(crate) fn module_path(file: &str) -> Vec<String> {
    let mut path: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| last == "mod" || last == "lib") {
        path.pop();
    }
    path
}

/// Names right below the crate's root that `code`, in a module `depth` below the root, uses through `crate::` or
/// `super::`, groups included.
pub(crate) fn crate_paths(code: &str, depth: usize) -> Vec<String> {
    let up = "super::".repeat(depth);
    let mut found = Vec::new();
    for prefix in ["crate::", up.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let before = &code[..at];
            if prefix.is_empty() || before.ends_with(is_word) || before.ends_with("super::") {
                continue;
            }
            let rest = &code[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(_) => found.extend(group(&rest[1..block(rest) - 1])),
                None => found.push(rest.chars().take_while(|&c| is_word(c)).collect()),
            }
        }
    }
    found.retain(|name: &String| name.chars().next().is_some_and(char::is_lowercase) && name != "super");
    found
}

/// First names of the members of a use group.
fn group(members: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut fresh = true;
    for (at, c) in members.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if depth == 0 && fresh && is_word(c) => {
                names.push(members[at..].chars().take_while(|&c| is_word(c)).collect());
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn comments_strings_and_tests_are_not_code() {
    let source = r##"
        //! unsafe one
        /* unsafe /* two */ unsafe */
        let a = "unsafe \" three"; let b = r#"unsafe " four"#; let c = '"'; let d: &'static str = b"unsafe";
        let e = '\''; real();
        #[cfg(test)]
        mod tests;
        #[cfg(test)]
        mod more { fn f() { unsafe { five() } } }
        also();
    "##;
    let code = code(source);
    assert!(!has_word(&code, "unsafe"), "{code}");
    assert!(code.contains("real()") && code.contains("also()") && code.contains("'static"), "{code}");
    assert!(has_word("unsafe { }", "unsafe") && !has_word("expect(unsafe_code)", "unsafe"));
}

#[test]
fn paths_are_found() {
    let code =
        "use crate::sys::tun; use crate::{port::{mem, Tx}, uplink, Type}; fn f() { crate::daemon::go() }";
    assert_eq!(crate_paths(code, 1), ["sys", "port", "uplink", "daemon"]);
    assert_eq!(crate_paths("use super::sys;", 1), ["sys"]);
    assert_eq!(crate_paths("use super::sibling; use super::super::sys;", 2), ["sys"]);
    assert_eq!(crate_paths("use super::{a, b::c};", 1), ["a", "b"]);
    assert_eq!(module_path("datapath/deliver.rs"), ["datapath", "deliver"]);
    assert_eq!(module_path("port/mod.rs"), ["port"]);
    assert!(module_path("lib.rs").is_empty());
}
