//! The programs under test, built once with the profile of the tests themselves.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use vswitch::lab::Programs;

static PROGRAMS: OnceLock<Programs> = OnceLock::new();

/// The programs: those of `VSWITCH_BIN_DIR`, else built here and now.
///
/// # Panics
/// When they do not build.
pub fn programs() -> &'static Programs {
    PROGRAMS.get_or_init(|| match std::env::var_os("VSWITCH_BIN_DIR") {
        Some(dir) => Programs::in_dir(Path::new(&dir)).expect("VSWITCH_BIN_DIR holds the programs"),
        None => build(),
    })
}

fn build() -> Programs {
    // This program is <target>/<profile>/deps/<test>-<hash>.
    let exe = std::env::current_exe().expect("a test has a path");
    let dir =
        exe.parent().and_then(Path::parent).expect("a test lies in <target>/<profile>/deps").to_path_buf();
    let folder = dir.file_name().and_then(|name| name.to_str()).unwrap_or("debug");
    let profile = if folder == "debug" { "dev" } else { folder };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "-p", "vswitch", "-p", "cni-shim", "--bins", "--profile", profile])
        .arg("--target-dir")
        .arg(dir.parent().unwrap_or(&PathBuf::from("target")))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the programs under test do not build");
    Programs::in_dir(&dir).expect("cargo put the programs beside the tests")
}
