//! Where the programs under test are.

use std::path::{Path, PathBuf};

use super::error::LabError;

/// The built programs.
#[derive(Clone, Debug)]
pub struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Looks in `VSWITCH_BIN_DIR`, else beside the program that is running.
    ///
    /// # Errors
    /// [`LabError::MissingProgram`] when `vswitchd` or `vswitch-cni` is not there.
    pub fn find() -> Result<Programs, LabError> {
        let dir = match std::env::var_os("VSWITCH_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => std::env::current_exe()
                .ok()
                .and_then(|exe| exe.parent().map(Path::to_path_buf))
                .unwrap_or_else(|| PathBuf::from("/usr/bin")),
        };
        Programs::in_dir(&dir)
    }

    /// Looks in `dir`.
    ///
    /// # Errors
    /// As [`Programs::find`].
    pub fn in_dir(dir: &Path) -> Result<Programs, LabError> {
        let programs = Programs { dir: dir.to_path_buf() };
        for program in [programs.vswitchd(), programs.cni()] {
            if !program.is_file() {
                return Err(LabError::MissingProgram(program));
            }
        }
        Ok(programs)
    }

    /// The daemon.
    pub fn vswitchd(&self) -> PathBuf {
        self.dir.join("vswitchd")
    }

    /// The CNI plugin.
    pub fn cni(&self) -> PathBuf {
        self.dir.join("vswitch-cni")
    }

    /// The operator's tool.
    pub fn vsctl(&self) -> PathBuf {
        self.dir.join("vsctl")
    }
}
