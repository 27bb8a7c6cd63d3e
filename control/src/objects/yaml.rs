//! Text to plain values: YAML, multi-document, and JSON, which is YAML.
//!
//! Hostile text is the normal case. What it may cost is bounded before it is paid: length, depth, and the size of what
//! aliases unfold to. What would be read in two ways is refused instead of guessed: duplicate keys, merge keys, tags of
//! other schemas, control characters. `yes`, `no`, `on` and `off` are booleans, as `kubectl` has them.
//!
//! Pure; no I/O.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};
use serde_json::{Map, Number, Value};

/// Longest text of several documents, in bytes.
pub const MAX_TEXT: usize = 16 << 20;
/// Largest document, in characters as written and in bytes when aliases are unfolded.
pub const MAX_DOCUMENT: usize = 1 << 20;
/// Deepest nesting of a document.
pub const MAX_DEPTH: usize = 100;

/// Why a text is not read. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Too long as a whole.
    #[error("{len} bytes: at most {MAX_TEXT} are read")]
    Length {
        /// Its length in bytes.
        len: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8 at byte {at}")]
    Utf8 {
        /// Where the first bad byte is.
        at: usize,
    },
    /// A character that no manifest has: NUL, for one, where parsers may stop.
    #[error("control character {c:?} in line {line}")]
    Control {
        /// The character.
        c: char,
        /// Its line.
        line: usize,
    },
    /// Not YAML.
    #[error("line {line}, column {column}: {what}")]
    Syntax {
        /// Line.
        line: usize,
        /// Column.
        column: usize,
        /// Of the parser.
        what: String,
    },
    /// One document is too large.
    #[error("line {line}: the document is larger than {MAX_DOCUMENT} bytes")]
    Document {
        /// Where the limit was passed.
        line: usize,
    },
    /// Nested too deeply.
    #[error("line {line}: nested more than {MAX_DEPTH} deep")]
    Depth {
        /// Where.
        line: usize,
    },
    /// The same key twice in one mapping.
    #[error("line {line}: duplicate key {key:?}")]
    DuplicateKey {
        /// Where the second is.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key that is a list or a mapping.
    #[error("line {line}: a key must be a scalar")]
    Key {
        /// Where.
        line: usize,
    },
    /// `<<`, which no Kubernetes object has.
    #[error("line {line}: merge keys (<<) are not supported: write the fields out")]
    Merge {
        /// Where.
        line: usize,
    },
    /// A tag outside YAML's core schema, or one its value does not fit.
    #[error("line {line}: tag {tag} is not supported here")]
    Tag {
        /// Where.
        line: usize,
        /// The tag as written.
        tag: String,
    },
    /// An alias of a node that contains it.
    #[error("line {line}: an alias inside the node that it names")]
    Cycle {
        /// Where.
        line: usize,
    },
}

/// The documents of a text, empty ones left out.
///
/// # Errors
/// The first thing that is wrong; no document of such a text is used.
pub fn documents(text: &[u8]) -> Result<Vec<Value>, TextError> {
    if text.len() > MAX_TEXT {
        return Err(TextError::Length { len: text.len() });
    }
    let text = std::str::from_utf8(text).map_err(|err| TextError::Utf8 { at: err.valid_up_to() })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some((at, c)) =
        text.char_indices().find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
    {
        return Err(TextError::Control { c, line: 1 + text[..at].matches('\n').count() });
    }
    let mut parser = Parser::new_from_str(text);
    let mut documents = Vec::new();
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|err| syntax(&err))?;
        if let Event::DocumentStart(_) = event {
            let value = Document::new(span.start.index()).read(&mut parser)?;
            if !value.is_null() {
                documents.push(value);
            }
        }
    }
    Ok(documents)
}

fn syntax(err: &saphyr_parser::ScanError) -> TextError {
    let at = err.marker();
    TextError::Syntax { line: at.line(), column: at.col() + 1, what: err.info().to_owned() }
}

/// A mapping or a list whose end has not come.
enum Open {
    Map { map: Map<String, Value>, key: Option<String> },
    List(Vec<Value>),
}

/// One document being read: a stack instead of recursion, so that depth is a number and not our stack.
struct Document {
    first: usize,
    weight: usize,
    open: Vec<(Open, usize)>,
    anchors: HashMap<usize, (Value, Cost)>,
}

impl Document {
    fn new(first: usize) -> Document {
        Document { first, weight: 0, open: Vec::new(), anchors: HashMap::new() }
    }

    fn read(mut self, parser: &mut Parser<'_, StrInput<'_>>) -> Result<Value, TextError> {
        let mut root = Value::Null;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|err| syntax(&err))?;
            let line = span.start.line();
            if span.end.index().saturating_sub(self.first) > MAX_DOCUMENT {
                return Err(TextError::Document { line });
            }
            let done = match event {
                Event::DocumentEnd | Event::StreamEnd => break,
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => continue,
                Event::MappingStart(anchor, tag) => {
                    collection(tag.as_deref(), "map", line)?;
                    self.push(Open::Map { map: Map::new(), key: None }, anchor, line)?;
                    continue;
                }
                Event::SequenceStart(anchor, tag) => {
                    collection(tag.as_deref(), "seq", line)?;
                    self.push(Open::List(Vec::new()), anchor, line)?;
                    continue;
                }
                Event::MappingEnd | Event::SequenceEnd => match self.open.pop() {
                    Some((Open::Map { map, .. }, anchor)) => (Value::Object(map), anchor),
                    Some((Open::List(list), anchor)) => (Value::Array(list), anchor),
                    None => continue,
                },
                Event::Scalar(text, style, anchor, tag) => {
                    self.grow(1 + text.len(), line)?;
                    if let Some((Open::Map { map, key: key @ None }, _)) = self.open.last_mut() {
                        if text == "<<" && style == ScalarStyle::Plain {
                            return Err(TextError::Merge { line });
                        }
                        if map.contains_key(&*text) {
                            return Err(TextError::DuplicateKey { line, key: text.into_owned() });
                        }
                        *key = Some(text.clone().into_owned());
                        if anchor > 0 {
                            let value = Value::String(text.into_owned());
                            let cost = Cost::of(&value);
                            self.anchors.insert(anchor, (value, cost));
                        }
                        continue;
                    }
                    (scalar(&text, style, tag.as_deref(), line)?, anchor)
                }
                Event::Alias(anchor) => {
                    let Some((value, cost)) = self.anchors.get(&anchor) else {
                        return Err(TextError::Cycle { line });
                    };
                    let (value, cost) = (value.clone(), *cost);
                    self.grow(cost.weight, line)?;
                    if self.open.len() + cost.depth > MAX_DEPTH {
                        return Err(TextError::Depth { line });
                    }
                    (value, 0)
                }
            };
            let (value, anchor) = done;
            if anchor > 0 {
                let cost = Cost::of(&value);
                self.grow(cost.weight, line)?;
                self.anchors.insert(anchor, (value.clone(), cost));
            }
            match self.open.last_mut() {
                None => root = value,
                Some((Open::List(list), _)) => list.push(value),
                Some((Open::Map { map, key }, _)) => match key.take() {
                    Some(key) => {
                        map.insert(key, value);
                    }
                    None => return Err(TextError::Key { line }),
                },
            }
        }
        Ok(root)
    }

    fn push(&mut self, open: Open, anchor: usize, line: usize) -> Result<(), TextError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(TextError::Depth { line });
        }
        if let Some((Open::Map { key: None, .. }, _)) = self.open.last() {
            return Err(TextError::Key { line });
        }
        self.grow(1, line)?;
        self.open.push((open, anchor));
        Ok(())
    }

    fn grow(&mut self, by: usize, line: usize) -> Result<(), TextError> {
        self.weight = self.weight.saturating_add(by);
        if self.weight > MAX_DOCUMENT { Err(TextError::Document { line }) } else { Ok(()) }
    }
}

/// What a copy costs.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Nodes and bytes of text.
    weight: usize,
    /// Nesting; 0 for a scalar.
    depth: usize,
}

impl Cost {
    /// Recursive: values are nested [`MAX_DEPTH`] deep at most, aliases included.
    fn of(value: &Value) -> Cost {
        let add = |sum: Cost, own: usize, of: Cost| Cost {
            weight: sum.weight + own + of.weight,
            depth: sum.depth.max(1 + of.depth),
        };
        let open = Cost { weight: 1, depth: 1 };
        match value {
            Value::String(text) => Cost { weight: 1 + text.len(), depth: 0 },
            Value::Array(list) => list.iter().fold(open, |sum, value| add(sum, 0, Cost::of(value))),
            Value::Object(map) => {
                map.iter().fold(open, |sum, (key, value)| add(sum, 1 + key.len(), Cost::of(value)))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => Cost { weight: 1, depth: 0 },
        }
    }
}

fn refused(tag: &Tag, line: usize) -> TextError {
    TextError::Tag { line, tag: tag.to_string().chars().take(64).collect() }
}

fn collection(tag: Option<&Tag>, want: &str, line: usize) -> Result<(), TextError> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == want) => Err(refused(tag, line)),
        _ => Ok(()),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<Value, TextError> {
    let plain = style == ScalarStyle::Plain;
    let Some(tag) = tag else {
        return Ok(if plain { resolve(text) } else { Value::String(text.to_owned()) });
    };
    if tag.is_yaml_core_schema() && tag.suffix == "str" {
        return Ok(Value::String(text.to_owned()));
    }
    let value = resolve(text);
    let fits = match (&*tag.suffix, &value) {
        ("null", Value::Null) | ("bool", Value::Bool(_)) | ("float", Value::Number(_)) => true,
        ("int", Value::Number(number)) => !number.is_f64(),
        _ => false,
    };
    if tag.is_yaml_core_schema() && fits { Ok(value) } else { Err(refused(tag, line)) }
}

/// What a plain scalar means. Numbers with a leading zero stay text: to some readers they are octal.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let digits = text.trim_start_matches(['-', '+']);
    let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.len() - digits.len() <= 1
        && !(digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit());
    if numeric {
        if let Ok(number) = text.parse::<i64>() {
            return Value::Number(number.into());
        }
        if let Ok(number) = text.parse::<u64>() {
            return Value::Number(number.into());
        }
        if let Some(number) = text.parse::<f64>().ok().and_then(Number::from_f64) {
            return Value::Number(number);
        }
    }
    Value::String(text.to_owned())
}

#[cfg(test)]
mod tests;
