//! What can go wrong with a call.

use std::path::PathBuf;
use std::sync::Arc;

use tonic::{Code, Status};

/// A call to etcd that brought nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// A file of the settings cannot be read.
    #[error("store.{key} = {}: {err}", path.display())]
    File {
        /// Its key.
        key: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        err: Arc<std::io::Error>,
    },
    /// An endpoint, a certificate or a key that is none.
    #[error("{endpoint}: {err}")]
    Settings {
        /// The endpoint.
        endpoint: String,
        /// Why, in the transport's words.
        err: String,
    },
    /// No connection, or it broke.
    #[error("{endpoint}: {err}")]
    Transport {
        /// The endpoint.
        endpoint: String,
        /// Why, in the transport's words.
        err: String,
    },
    /// No answer in time.
    #[error("{endpoint}: no answer within {seconds} s")]
    Timeout {
        /// The endpoint.
        endpoint: String,
        /// How long was waited.
        seconds: f32,
    },
    /// etcd says no.
    #[error("{endpoint}: {text}")]
    Refused {
        /// The endpoint.
        endpoint: String,
        /// Why, in its words.
        text: String,
        /// The kind of refusal.
        code: Code,
    },
    /// The answer is larger than is read at once.
    #[error("{endpoint}: the answer is too large: {text}")]
    TooLarge {
        /// The endpoint.
        endpoint: String,
        /// How large.
        text: String,
    },
}

impl CallError {
    /// Reads what tonic says.
    pub(super) fn of(endpoint: &str, status: &Status) -> CallError {
        let (endpoint, text) = (endpoint.to_owned(), words(status));
        match status.code() {
            Code::OutOfRange if status.message().contains("message length too large") => {
                CallError::TooLarge { endpoint, text }
            }
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded => {
                CallError::Transport { endpoint, err: text }
            }
            code => CallError::Refused { endpoint, text, code },
        }
    }

    /// Another member may do better.
    pub(super) fn elsewhere(&self) -> bool {
        !matches!(self, CallError::Refused { .. } | CallError::TooLarge { .. })
    }

    /// The token is not, or no longer, good.
    pub(super) fn wants_token(&self) -> bool {
        match self {
            CallError::Refused { code: Code::Unauthenticated, .. } => true,
            CallError::Refused { text, .. } => {
                ["invalid auth token", "revision of auth store is old", "user name is empty"]
                    .iter()
                    .any(|known| text.contains(known))
            }
            _ => false,
        }
    }

    /// etcd does not let us; asking again will not help until somebody changes that.
    #[must_use]
    pub fn denied(&self) -> bool {
        matches!(self, CallError::Refused { code: Code::PermissionDenied, .. })
    }

    /// The revision asked for is compacted away.
    pub(super) fn compacted(&self) -> bool {
        matches!(self, CallError::Refused { code: Code::OutOfRange, text, .. } if text.contains("compacted"))
    }
}

/// All that is known of why, outermost first, on one line.
fn words(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(err) = cause {
        let more = err.to_string();
        if !text.contains(&more) {
            text = if text.is_empty() { more } else { format!("{text}: {more}") };
        }
        cause = err.source();
    }
    if text.is_empty() {
        text = status.code().description().to_owned();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect()
}
