//! `/proc/sys`: kernel settings, those below `net` of the calling thread's network namespace.

use std::io;
use std::path::PathBuf;

/// A setting's value, trimmed. `name` has slashes: `net/ipv4/ip_forward`.
///
/// # Errors
/// `NotFound` where this kernel or interface has no such setting.
pub fn get(name: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(path(name))?.trim().to_owned())
}

/// Gives a setting a value, unless it has it already: a read-only `/proc/sys` that says the right thing is fine.
///
/// # Errors
/// As [`get`]; `PermissionDenied` or a read-only file system.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    if get(name)? == value {
        return Ok(());
    }
    std::fs::write(path(name), value)
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netns;

    #[test]
    fn settings_belong_to_the_namespace() {
        let here = get("net/ipv4/ip_default_ttl").unwrap();
        netns::in_new(|| {
            set("net/ipv4/ip_default_ttl", "77").unwrap();
            assert_eq!(get("net/ipv4/ip_default_ttl").unwrap(), "77");
            set("net/ipv4/ip_default_ttl", "77").unwrap();
            assert!(set("net/ipv4/ip_default_ttl", "lots").is_err());
            assert_eq!(get("net/no/such").unwrap_err().kind(), io::ErrorKind::NotFound);
        })
        .unwrap();
        assert_eq!(get("net/ipv4/ip_default_ttl").unwrap(), here);
    }
}
