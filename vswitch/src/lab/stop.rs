//! SIGINT, SIGTERM and SIGHUP as a flag that is looked at between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::LabError;

/// The flag. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Registers the flag for SIGINT, SIGTERM and SIGHUP. The signals stay registered for the life of the process.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    pub fn on_signals() -> Result<Stop, LabError> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .map_err(LabError::socket("signal handler"))?;
        }
        Ok(Stop(flag))
    }

    /// Whether a signal came.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// To be called between steps.
    ///
    /// # Errors
    /// [`LabError::Interrupted`] once a signal came.
    pub fn check(&self) -> Result<(), LabError> {
        if self.is_set() { Err(LabError::Interrupted) } else { Ok(()) }
    }
}
