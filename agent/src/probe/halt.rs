//! Giving up a start that somebody does not want any more.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::error::ProbeError;

/// Tells a start to give up: loading some twenty hooks takes seconds on a busy machine, and who ends Hemostat should not wait for them. All
/// clones are one.
#[derive(Debug, Clone, Default)]
pub struct Halt(Arc<AtomicBool>);

impl Halt {
    /// Whoever starts gives up before the next hook.
    pub fn tell(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// [`ProbeError::Halted`] once it was told.
    pub(super) fn check(&self) -> Result<(), ProbeError> {
        if self.0.load(Ordering::Relaxed) { Err(ProbeError::Halted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use model::FilterPlan;

    use super::*;
    use crate::probe::{ProbeConfig, Probes};

    #[test]
    fn a_start_that_nobody_wants_any_more_loads_nothing_and_leaves_nothing() {
        let pins = std::path::PathBuf::from("/sys/fs/bpf/hemostat-never-made");
        let config = ProbeConfig { pins: pins.clone(), ..ProbeConfig::default() };
        assert!(config.halt.check().is_ok());
        config.clone().halt.tell();
        let loaded = Probes::load(&config, &FilterPlan::default());
        assert!(matches!(loaded, Err(ProbeError::Halted)), "a clone of the configuration is told, too");
        assert!(!pins.exists());
    }
}
