//! Where in an object something is wrong, and what.

use std::fmt;

/// One thing that is wrong with an object. Displays as `spec.ingress[0].ports[1].port: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field's path from the object's root; empty for the object itself.
    pub path: String,
    /// What is wrong there.
    pub reason: Reason,
}

impl std::error::Error for FieldError {}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { self.reason.fmt(f) } else { write!(f, "{}: {}", self.path, self.reason) }
    }
}

/// What can be wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Unknown field, wrong type, missing field: the decoder's own words.
    #[error("{0}")]
    Shape(String),
    /// The object must be a mapping, have a kind, a name, …
    #[error("is required")]
    Required,
    /// A kind or version that is not read here.
    #[error("{kind} of {api_version} is not a kind that is read here")]
    Kind {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// A name outside its syntax.
    #[error("{value:?} is not a valid {what}")]
    Syntax {
        /// The value as given.
        value: String,
        /// What it should have been.
        what: &'static str,
    },
    /// A value that is none of those allowed.
    #[error("{value:?} must be one of {allowed}")]
    Choice {
        /// The value as given.
        value: String,
        /// What there is.
        allowed: &'static str,
    },
    /// A number outside its range.
    #[error("{value} is not in {min}..={max}")]
    Range {
        /// The value as given.
        value: i64,
        /// Least.
        min: i64,
        /// Greatest.
        max: i64,
    },
    /// More elements than allowed.
    #[error("{len} elements: at most {max} are allowed")]
    TooMany {
        /// How many there are.
        len: usize,
        /// How many there may be.
        max: usize,
    },
    /// Fewer elements than needed.
    #[error("needs at least one element")]
    Empty,
    /// A text that is too long.
    #[error("{len} characters: at most {max} are allowed")]
    TooLong {
        /// How many there are.
        len: usize,
        /// How many there may be.
        max: usize,
    },
    /// An `except` that is no part of its block.
    #[error("{except} is not inside {cidr}")]
    NotInside {
        /// The exception.
        except: ipnet::IpNet,
        /// The block.
        cidr: ipnet::IpNet,
    },
    /// Of several fields exactly one, or at least one, must be there.
    #[error("must have {0}")]
    Need(&'static str),
    /// Fields that exclude each other, or a field that needs another.
    #[error("{0}")]
    Conflict(&'static str),
    /// The first of two numbers must be less.
    #[error("{last} is less than {first}")]
    Backwards {
        /// From.
        first: i64,
        /// To.
        last: i64,
    },
    /// A label key that a policy cannot select by: [`policy::selector`] gives it another meaning.
    #[error("{key:?} is reserved: a pod cannot be selected by a label with this key")]
    Reserved {
        /// The key.
        key: String,
    },
    /// Calico's selector language.
    #[error("{text:?}: {what}")]
    Selector {
        /// The expression.
        text: String,
        /// What is wrong with it.
        what: String,
    },
}

/// A path under construction: borrowed steps, made into text for an error only.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl At<'_> {
    pub(super) const fn root(key: &str) -> At<'_> {
        At { parent: None, step: Step::Key(key) }
    }

    pub(super) fn key<'b>(&'b self, key: &'b str) -> At<'b> {
        At { parent: Some(self), step: Step::Key(key) }
    }

    pub(super) fn index(&self, index: usize) -> At<'_> {
        At { parent: Some(self), step: Step::Index(index) }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match (self.step, self.parent) {
            (Step::Key(key), Some(_)) => write!(f, ".{key}"),
            (Step::Key(key), None) => f.write_str(key),
            (Step::Index(index), _) => write!(f, "[{index}]"),
        }
    }
}

/// Everything found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Errors(pub(super) Vec<FieldError>);

impl Errors {
    pub(super) fn add(&mut self, at: &At<'_>, reason: Reason) {
        self.0.push(FieldError { path: at.to_string(), reason });
    }

    /// At most `max` elements.
    pub(super) fn limit(&mut self, at: &At<'_>, len: usize, max: usize) {
        if len > max {
            self.add(at, Reason::TooMany { len, max });
        }
    }

    pub(super) fn syntax(&mut self, at: &At<'_>, good: bool, value: &str, what: &'static str) {
        if !good {
            self.add(at, Reason::Syntax { value: value.chars().take(300).collect(), what });
        }
    }
}
