//! Calico's selector grammar, as text. Total: any text gives a selector or an error with its position.
//!
//! Source: Calico, `libcalico-go/lib/selector/{tokenizer,parser}`.

use std::fmt;
use std::sync::Arc;

use super::{NAMESPACE, Selector};

#[cfg(test)]
mod tests;

/// How deep parentheses and `!` may nest.
const MAX_DEPTH: usize = 100;
/// The longest key in bytes.
const MAX_KEY: usize = 512;

/// Why a text is not a selector. Positions are byte offsets in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// Something else was expected there.
    Expected {
        /// What.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A string without its closing quote.
    OpenString {
        /// Where it begins.
        at: usize,
    },
    /// A key of more than 512 bytes.
    LongKey {
        /// Where it begins.
        at: usize,
    },
    /// Nested more than 100 deep.
    TooDeep {
        /// Where.
        at: usize,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParseError::Expected { what, at } => write!(f, "selector, position {at}: expected {what}"),
            ParseError::OpenString { at } => {
                write!(f, "selector, position {at}: this string is never closed")
            }
            ParseError::LongKey { at } => {
                write!(f, "selector, position {at}: key longer than {MAX_KEY} bytes")
            }
            ParseError::TooDeep { at } => {
                write!(f, "selector, position {at}: nested more than {MAX_DEPTH} deep")
            }
        }
    }
}

impl std::error::Error for ParseError {}

impl std::str::FromStr for Selector {
    type Err = ParseError;

    /// Reads an expression; empty text selects everything.
    fn from_str(text: &str) -> Result<Selector, ParseError> {
        let mut p = Parser { text, at: 0 };
        p.space();
        if p.rest().is_empty() {
            return Ok(Selector::All);
        }
        let expr = p.or(0)?;
        if p.rest().is_empty() { Ok(expr) } else { Err(p.expected("'&&', '||' or the end")) }
    }
}

/// Every method leaves the position behind the space that follows what it read.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn expected(&self, what: &'static str) -> ParseError {
        ParseError::Expected { what, at: self.at }
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
            self.space();
        }
        found
    }

    fn need(&mut self, token: &str, what: &'static str) -> Result<(), ParseError> {
        if self.eat(token) { Ok(()) } else { Err(self.expected(what)) }
    }

    /// The run of key characters here, perhaps empty, not consumed.
    fn word(&self) -> &'a str {
        let is_key = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
        let rest = self.rest();
        &rest[..rest.find(|c| !is_key(c)).unwrap_or(rest.len())]
    }

    fn eat_word(&mut self, word: &str) -> bool {
        self.word() == word && self.eat(word)
    }

    fn key(&mut self) -> Result<Arc<str>, ParseError> {
        let word = self.word();
        match word.len() {
            0 => Err(self.expected("a key")),
            1..=MAX_KEY => {
                self.eat(word);
                Ok(word.into())
            }
            _ => Err(ParseError::LongKey { at: self.at }),
        }
    }

    fn string(&mut self) -> Result<Arc<str>, ParseError> {
        let rest = self.rest();
        let quote = match rest.chars().next() {
            Some(quote @ ('\'' | '"')) => quote,
            _ => return Err(self.expected("a string in quotes")),
        };
        let end = rest[1..].find(quote).ok_or(ParseError::OpenString { at: self.at })?;
        let value = rest[1..=end].into();
        self.at += end + 2;
        self.space();
        Ok(value)
    }

    fn set(&mut self) -> Result<Vec<Arc<str>>, ParseError> {
        self.need("{", "'{'")?;
        let mut values = Vec::new();
        while !self.eat("}") {
            values.push(self.string()?);
            if !self.eat(",") {
                self.need("}", "',' or '}'")?;
                break;
            }
        }
        Ok(values)
    }

    fn or(&mut self, depth: usize) -> Result<Selector, ParseError> {
        let first = self.and(depth)?;
        let mut all = vec![first];
        while self.eat("||") {
            all.push(self.and(depth)?);
        }
        Ok(if all.len() == 1 { all.swap_remove(0) } else { Selector::Or(all) })
    }

    fn and(&mut self, depth: usize) -> Result<Selector, ParseError> {
        let first = self.unary(depth)?;
        let mut all = vec![first];
        while self.eat("&&") {
            all.push(self.unary(depth)?);
        }
        Ok(if all.len() == 1 { all.swap_remove(0) } else { Selector::And(all) })
    }

    fn unary(&mut self, depth: usize) -> Result<Selector, ParseError> {
        if depth == MAX_DEPTH {
            return Err(ParseError::TooDeep { at: self.at });
        }
        if self.eat("!") {
            return Ok(Selector::Not(Box::new(self.unary(depth + 1)?)));
        }
        if self.eat("(") {
            let inner = self.or(depth + 1)?;
            self.need(")", "')'")?;
            return Ok(inner);
        }
        self.atom()
    }

    fn atom(&mut self) -> Result<Selector, ParseError> {
        let key = self.key()?;
        if self.eat("(") {
            let made = match &*key {
                "all" => Selector::All,
                "global" => Selector::Not(Box::new(Selector::Has(NAMESPACE.into()))),
                "has" => Selector::Has(self.key()?),
                _ => return Err(self.expected("'all', 'global' or 'has' before '('")),
            };
            self.need(")", "')'")?;
            return Ok(made);
        }
        if self.eat("==") {
            return Ok(Selector::Eq(key, self.string()?));
        }
        if self.eat("!=") {
            return Ok(Selector::Ne(key, self.string()?));
        }
        if self.eat_word("in") {
            return Ok(Selector::In(key, self.set()?));
        }
        if self.eat_word("notin") || self.eat_word("not") && self.eat_word("in") {
            return Ok(Selector::NotIn(key, self.set()?));
        }
        if self.eat_word("contains") {
            return Ok(Selector::Contains(key, self.string()?));
        }
        if self.eat_word("starts") && self.eat_word("with") {
            return Ok(Selector::StartsWith(key, self.string()?));
        }
        if self.eat_word("ends") && self.eat_word("with") {
            return Ok(Selector::EndsWith(key, self.string()?));
        }
        Err(self.expected("an operator (==, !=, in, not in, contains, starts with, ends with)"))
    }
}

impl fmt::Display for Selector {
    /// The text that parses to the same selector. Keys and values that the grammar cannot say (a value with both
    /// kinds of quotes) come out as they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |f: &mut fmt::Formatter<'_>, es: &[Selector], by: &str| {
            for (i, e) in es.iter().enumerate() {
                f.write_str(if i == 0 { "" } else { by })?;
                operand(f, e)?;
            }
            Ok(())
        };
        match self {
            Selector::All => f.write_str("all()"),
            Selector::Has(k) => write!(f, "has({k})"),
            Selector::Eq(k, v) => write!(f, "{k} == {}", Quoted(v)),
            Selector::Ne(k, v) => write!(f, "{k} != {}", Quoted(v)),
            Selector::In(k, vs) => write!(f, "{k} in {}", Set(vs)),
            Selector::NotIn(k, vs) => write!(f, "{k} not in {}", Set(vs)),
            Selector::Contains(k, v) => write!(f, "{k} contains {}", Quoted(v)),
            Selector::StartsWith(k, v) => write!(f, "{k} starts with {}", Quoted(v)),
            Selector::EndsWith(k, v) => write!(f, "{k} ends with {}", Quoted(v)),
            Selector::Not(e) => {
                f.write_str("!")?;
                operand(f, e)
            }
            Selector::And(es) if es.is_empty() => f.write_str("all()"),
            Selector::Or(es) if es.is_empty() => f.write_str("!all()"),
            Selector::And(es) => join(f, es, " && "),
            Selector::Or(es) => join(f, es, " || "),
        }
    }
}

/// A part of a bigger expression: in parentheses where it would be read differently without.
fn operand(f: &mut fmt::Formatter<'_>, e: &Selector) -> fmt::Result {
    match e {
        Selector::And(es) | Selector::Or(es) if !es.is_empty() => write!(f, "({e})"),
        _ => write!(f, "{e}"),
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('\'') { '"' } else { '\'' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

struct Set<'a>(&'a [Arc<str>]);

impl fmt::Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, v) in self.0.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, Quoted(v))?;
        }
        f.write_str("}")
    }
}
