//! Waiting for the end: signals, and a pipe that closes.

use crate::error::{Result, VaultError};
use std::sync::mpsc::Sender;
use tokio::signal::unix::{SignalKind, signal};

/// What happened.
#[derive(Debug)]
pub(crate) enum Ending {
    /// SIGTERM.
    Terminated,
    /// SIGINT, SIGHUP or SIGQUIT: what a terminal sends to everything started from it.
    Interrupted,
    /// Standard input closed.
    InputClosed,
    /// The store can be served no longer.
    Broken(VaultError),
}

/// Sends signals to `endings` from now on, instead of dying of them.
///
/// # Errors
/// [`VaultError::Io`] where the handlers cannot be installed.
pub(crate) fn watch(endings: Sender<Ending>) -> Result<()> {
    let io = |source| VaultError::Io { what: "cannot watch for signals".to_owned(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
    let (mut terminate, mut interrupt, mut hangup, mut quit) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate()).map_err(io)?,
            signal(SignalKind::interrupt()).map_err(io)?,
            signal(SignalKind::hangup()).map_err(io)?,
            signal(SignalKind::quit()).map_err(io)?,
        )
    };
    let watcher = move || {
        runtime.block_on(async move {
            loop {
                let ending = tokio::select! {
                    _ = terminate.recv() => Ending::Terminated,
                    _ = interrupt.recv() => Ending::Interrupted,
                    _ = hangup.recv() => Ending::Interrupted,
                    _ = quit.recv() => Ending::Interrupted,
                };
                if endings.send(ending).is_err() {
                    return;
                }
            }
        });
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watcher).map_err(io)?;
    Ok(())
}
