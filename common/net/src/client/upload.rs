//! A backup under way.

use super::Client;
use super::core::{Core, State, UploadState};
use crate::error::{NetError, Result};
use std::sync::Arc;
use umbra_common::Reference;
use umbra_common::wire::session::Violation;
use umbra_common::wire::{Begin, Begun, Commit, MAX_ASK_REFERENCES, Object};

/// A backup of one disk under way. Shared by reference among the agent's threads. Dropped without
/// a commit, it is given up.
#[derive(Debug)]
pub struct Upload {
    client: Client,
    begun: Begun,
}

impl Upload {
    pub(super) fn begin(client: Client, begin: Begin) -> Result<Self> {
        let core = Arc::clone(&client.core);
        {
            let mut state = core.lock();
            if state.upload.is_some() {
                return Err(NetError::Misuse { reason: "a backup is under way already" });
            }
            state.session.begin(begin).map_err(misuse)?;
            state.begin_to_want();
            state.upload = Some(UploadState::default());
        }
        core.changed();
        // From here on dropping it gives the backup up.
        let mut upload = Self { client, begun: Begun { base: NOTHING, latest: None } };
        upload.begun = upload.wait(|_, upload| upload.begun.clone())?;
        Ok(upload)
    }

    /// Returns the vault's answer to the [`Begin`]: is the base pinned, what is the newest snapshot.
    pub fn begun(&self) -> &Begun {
        &self.begun
    }

    /// Asks which of `references` (any number; cut into batches) the vault has. Returns at once,
    /// so that many questions can be under way.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn ask(&self, references: impl AsRef<[Reference]>) -> Result<Ticket<'_>> {
        let mut numbers = Vec::new();
        {
            let mut state = self.client.core.lock();
            state.upload.as_ref().map_or(Ok(()), UploadState::check)?;
            for batch in references.as_ref().chunks(MAX_ASK_REFERENCES) {
                numbers.push(state.session.ask(batch.to_vec()).map_err(misuse)?);
            }
        }
        self.client.core.changed();
        Ok(Ticket { upload: self, numbers })
    }

    /// Sends an object, once however often it is given while it is unacknowledged. Blocks while
    /// the window of unacknowledged bytes is full. A node goes out only when all objects in the
    /// window that it refers to are durable: give children first.
    ///
    /// # Errors
    /// The first error of the backup, whatever thread sees it first and each time anew:
    /// [`NetError::Missing`], [`NetError::Bad`], [`NetError::BaseGone`], [`NetError::Refused`];
    /// [`NetError::Unavailable`].
    pub fn send(&self, object: Object) -> Result<()> {
        self.send_all(std::iter::once(object))
    }

    /// Sends objects as [`send`](Self::send) does, all under one look at the window.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn send_all(&self, objects: impl IntoIterator<Item = Object>) -> Result<()> {
        let mut objects = objects.into_iter().map(Arc::new).peekable();
        let core = &self.client.core;
        self.wait(|state, _| {
            while objects.peek().is_some() {
                if !state.session.has_room() {
                    // What is in the window goes out meanwhile.
                    core.objects.notify_one();
                    return None;
                }
                if let Err(violation) = objects.next().map_or(Ok(()), |o| state.session.send(o)) {
                    return Some(Err(misuse(violation)));
                }
            }
            core.objects.notify_one();
            Some(Ok(()))
        })?
    }

    /// Waits until everything sent so far is durable in the vault.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn flush(&self) -> Result<()> {
        self.client.core.lock().session.hurry(true);
        self.client.core.changed();
        let settled = self.wait(|state, _| state.session.is_settled().then_some(()));
        self.client.core.lock().session.hurry(false);
        settled
    }

    /// Commits a manifest that was sent, and returns the receipt as the vault stores it. Waits for
    /// everything sent before.
    ///
    /// # Errors
    /// Those of [`send`](Self::send).
    pub fn commit(&self, commit: Commit) -> Result<Vec<u8>> {
        {
            let mut state = self.client.core.lock();
            state.session.commit(commit).map_err(misuse)?;
            // The answer to this commit, not to one before.
            if let Some(upload) = &mut state.upload {
                upload.receipt = None;
            }
        }
        self.client.core.changed();
        self.wait(|_, upload| upload.receipt.clone())
    }

    /// Returns the bytes of object frames put on streams so far by this client, repeated ones
    /// included.
    pub fn object_bytes_sent(&self) -> u64 {
        self.client.core.lock().object_bytes_sent
    }

    /// Returns the client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits until `ready` has something, or the backup fails.
    fn wait<T>(
        &self,
        mut ready: impl FnMut(&mut State, &mut UploadState) -> Option<T>,
    ) -> Result<T> {
        self.client.core.wait(|state| {
            let Some(mut upload) = state.upload.take() else {
                return Some(Err(NetError::Misuse { reason: "there is no backup under way" }));
            };
            let result = match upload.check() {
                Ok(()) => ready(state, &mut upload).map(Ok),
                Err(error) => Some(Err(error)),
            };
            state.upload = Some(upload);
            result
        })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let core: &Core = &self.client.core;
        let clean = {
            let mut state = core.lock();
            state.upload = None;
            state.session.end()
        };
        if clean {
            core.changed();
        } else {
            // Objects are on their way that a next backup on this connection must not get.
            core.cut();
        }
    }
}

/// A question under way. Dropped, its answer is thrown away.
#[derive(Debug)]
pub struct Ticket<'a> {
    upload: &'a Upload,
    numbers: Vec<u64>,
}

impl Ticket<'_> {
    /// Waits for the answer: one per reference asked, `true` where the vault has the object.
    ///
    /// # Errors
    /// Those of [`Upload::send`].
    pub fn wait(mut self) -> Result<Vec<bool>> {
        let mut answers = Vec::new();
        for number in std::mem::take(&mut self.numbers) {
            answers.extend(self.upload.wait(|_, upload| upload.known.remove(&number))?);
        }
        Ok(answers)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.upload.client.core.lock();
        if let Some(upload) = &mut state.upload {
            self.numbers.iter().for_each(|number| {
                upload.known.remove(number);
            });
        }
    }
}

const NOTHING: umbra_common::wire::BaseState = umbra_common::wire::BaseState::None;

fn misuse(violation: Violation) -> NetError {
    NetError::Misuse { reason: violation.reason }
}
