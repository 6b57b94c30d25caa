//! Collections, repairs and rebuilds keep each other out.

use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::store::inner::locked;

/// What is under way, if anything is.
#[derive(Clone, Default)]
pub(crate) struct Maintenance {
    running: Arc<Mutex<Option<&'static str>>>,
}

/// Keeps everything else out until it is dropped.
pub(crate) struct Turn {
    running: Arc<Mutex<Option<&'static str>>>,
}

impl Maintenance {
    /// Begins; `what` is told to whoever comes meanwhile.
    ///
    /// # Errors
    /// [`Error::Busy`].
    pub(crate) fn begin(&self, what: &'static str) -> Result<Turn> {
        let mut running = locked(&self.running);
        if let Some(running) = *running {
            return Err(Error::Busy { running });
        }
        *running = Some(what);
        Ok(Turn { running: Arc::clone(&self.running) })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *locked(&self.running) = None;
    }
}
