//! OPEN (RFC 4271 section 4.2), with optional parameters of both lengths (RFC 9072).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |    Version    |     My autonomous system      |   Hold time   :
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! :               |                BGP identifier                 :
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! :               | Opt parm len  |  Optional parameters ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv4Addr;

use super::capability::Capabilities;
use super::notification::{self, Notification};
use crate::as_path::AS_TRANS;
use crate::family::Family;
use crate::frame::{self, Kind};
use crate::reader::Reader;

#[cfg(test)]
mod tests;

const VERSION: u8 = 4;
/// The only optional parameter there is (RFC 5492).
const CAPABILITIES: u8 = 2;
/// As a parameter's type: what follows has lengths of two bytes (RFC 9072).
const EXTENDED: u8 = 255;

/// An OPEN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Open {
    /// The sender's AS number, from the capability where there is one. Not 0.
    pub(crate) asn: u32,
    /// The hold time it proposes, seconds: 0 (none) or at least 3.
    pub(crate) hold_time: u16,
    /// Its BGP identifier. Not 0.
    pub(crate) router_id: Ipv4Addr,
    /// What it can do.
    pub(crate) capabilities: Capabilities,
}

/// An OPEN is not acceptable whoever sent it (RFC 4271 section 6.2). The session ends with its [`Notification`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Not version 4.
    #[error("version {0} is not spoken")]
    Version(u8),
    /// Nobody may be AS 0 (RFC 7607).
    #[error("AS 0")]
    ZeroAs,
    /// 1 or 2 seconds: too short to mean anything.
    #[error("hold time of {0} s")]
    HoldTime(u16),
    /// 0.0.0.0 identifies nobody.
    #[error("router id 0.0.0.0")]
    RouterId,
    /// An optional parameter other than capabilities.
    #[error("optional parameter of type {0}")]
    Parameter(u8),
    /// Lengths contradict each other.
    #[error("optional parameters overrun their length")]
    Overrun,
}

impl From<OpenError> for Notification {
    fn from(error: OpenError) -> Notification {
        let code = notification::OPEN;
        match error {
            OpenError::Version(_) => Notification::with((code, 1), &u16::from(VERSION).to_be_bytes()),
            OpenError::ZeroAs => Notification::new((code, 2)),
            OpenError::RouterId => Notification::new((code, 3)),
            OpenError::Parameter(_) => Notification::new((code, 4)),
            OpenError::HoldTime(_) => Notification::new((code, 6)),
            OpenError::Overrun => Notification::new((code, 0)),
        }
    }
}

impl Open {
    /// Reads a message's body.
    ///
    /// # Errors
    /// When no peer may send this.
    pub(crate) fn parse(body: &[u8]) -> Result<Open, OpenError> {
        let mut body = Reader::new(body);
        let version = body.u8().ok_or(OpenError::Overrun)?;
        if version != VERSION {
            return Err(OpenError::Version(version));
        }
        let asn = body.u16().ok_or(OpenError::Overrun)?;
        let hold_time = body.u16().ok_or(OpenError::Overrun)?;
        let router_id = Ipv4Addr::from(body.u32().ok_or(OpenError::Overrun)?);
        let capabilities = parameters(body).ok_or(OpenError::Overrun)??;
        let asn = capabilities.asn.unwrap_or(u32::from(asn));
        if asn == 0 {
            return Err(OpenError::ZeroAs);
        }
        if router_id.is_unspecified() {
            return Err(OpenError::RouterId);
        }
        if matches!(hold_time, 1 | 2) {
            return Err(OpenError::HoldTime(hold_time));
        }
        Ok(Open { asn, hold_time, router_id, capabilities })
    }

    /// Writes the whole message.
    pub(crate) fn emit(&self, out: &mut Vec<u8>) {
        let mut capabilities = Vec::new();
        self.capabilities.emit(&mut capabilities);
        let mut body = vec![VERSION];
        body.extend(u16::try_from(self.asn).unwrap_or(AS_TRANS).to_be_bytes());
        body.extend(self.hold_time.to_be_bytes());
        body.extend(self.router_id.octets());
        // All of ours together are shorter than the short form allows.
        let length = u8::try_from(capabilities.len()).unwrap_or(0);
        if length == 0 {
            body.push(0);
        } else {
            body.extend([length + 2, CAPABILITIES, length]);
            body.extend(capabilities);
        }
        frame::emit(Kind::Open, &body, out);
    }
}

/// The optional parameters, which must fill the message. `None`: a length does not fit.
fn parameters(mut body: Reader<'_>) -> Option<Result<Capabilities, OpenError>> {
    let mut ahead = body;
    let (length, kind) = (ahead.u8()?, ahead.u8());
    let extended = length == EXTENDED && kind == Some(EXTENDED);
    let mut list = if extended {
        body = ahead;
        body.field16()?
    } else {
        body.field8()?
    };
    if !body.is_empty() {
        return None;
    }
    let mut capabilities = Capabilities::default();
    let mut told = false;
    while !list.is_empty() {
        let kind = list.u8()?;
        let value = if extended { list.field16()? } else { list.field8()? };
        if kind != CAPABILITIES {
            return Some(Err(OpenError::Parameter(kind)));
        }
        if !capabilities.parse(value, &mut told) {
            return None;
        }
    }
    if !told {
        capabilities.families[Family::Ipv4] = true;
    }
    Some(Ok(capabilities))
}
