//! One field of a JSON object, read as Go reads it.

use serde_json::{Map, Value};

/// What is wrong with a text of flannel's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// More than is read.
    #[error("{len} bytes: at most {most} are read")]
    TooLong {
        /// Length in bytes.
        len: usize,
        /// The bound.
        most: usize,
    },
    /// No JSON, in the parser's words.
    #[error("not JSON: {0}")]
    Json(String),
    /// JSON, but no object.
    #[error("not a JSON object")]
    NotAnObject,
    /// Two spellings of one field.
    #[error("{field} is given twice")]
    Twice {
        /// The field, as flannel's documents spell it.
        field: &'static str,
    },
    /// A field that must be there.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A value of the wrong type.
    #[error("{field} is no {want}")]
    Type {
        /// The field.
        field: &'static str,
        /// What it should be.
        want: &'static str,
    },
    /// A value that cannot be.
    #[error("{field} = {value:?}: {what}")]
    Value {
        /// The field.
        field: &'static str,
        /// The value, cut to 100 characters.
        value: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A value that cannot be.
#[allow(clippy::needless_pass_by_value)] // numbers, texts and addresses alike
pub(super) fn bad(field: &'static str, value: impl ToString, what: &'static str) -> FormatError {
    FormatError::Value { field, value: value.to_string().chars().take(100).collect(), what }
}

/// A JSON object.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a text of at most `most` bytes.
    pub(super) fn parse(text: &[u8], most: usize) -> Result<Fields, FormatError> {
        if text.len() > most {
            return Err(FormatError::TooLong { len: text.len(), most });
        }
        match serde_json::from_slice(text) {
            Ok(Value::Object(map)) => Ok(Fields(map)),
            Ok(_) => Err(FormatError::NotAnObject),
            Err(err) => Err(FormatError::Json(err.to_string())),
        }
    }

    /// A field's value; `null` counts as absent.
    pub(super) fn get(&self, field: &'static str) -> Result<Option<&Value>, FormatError> {
        let mut found = self.0.iter().filter(|(key, _)| key.eq_ignore_ascii_case(field));
        let first = found.next().map(|(_, value)| value).filter(|value| !value.is_null());
        if found.next().is_some() { Err(FormatError::Twice { field }) } else { Ok(first) }
    }

    pub(super) fn text(&self, field: &'static str) -> Result<Option<&str>, FormatError> {
        self.typed(field, "string", Value::as_str)
    }

    pub(super) fn flag(&self, field: &'static str) -> Result<Option<bool>, FormatError> {
        self.typed(field, "true or false", Value::as_bool)
    }

    /// A whole number, not negative.
    pub(super) fn number(&self, field: &'static str) -> Result<Option<u64>, FormatError> {
        self.typed(field, "whole number from 0", Value::as_u64)
    }

    pub(super) fn object(&self, field: &'static str) -> Result<Option<Fields>, FormatError> {
        let map = self.typed(field, "JSON object", Value::as_object)?;
        Ok(map.map(|map| Fields(map.clone())))
    }

    /// A text that is parsed further; the empty text counts as absent.
    pub(super) fn parsed<T: std::str::FromStr>(
        &self,
        field: &'static str,
        what: &'static str,
    ) -> Result<Option<T>, FormatError> {
        let Some(text) = self.text(field)?.filter(|text| !text.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| bad(field, text, what))
    }

    fn typed<'a, T>(
        &'a self,
        field: &'static str,
        want: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FormatError> {
        let Some(value) = self.get(field)? else { return Ok(None) };
        read(value).map(Some).ok_or(FormatError::Type { field, want })
    }
}
