//! The effects of sealing, merging and clearing on the disk, by name, so that tests can let each of them fail or be the
//! last before a crash. Nothing decides by them: without an observer they cost a comparison.

use std::io;
use std::sync::Arc;

/// An effect that is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Bytes of a new file.
    Write,
    /// A new file gets its name.
    Name,
    /// What the next start reads in place of the log is written.
    Checkpoint,
    /// The manifest is replaced.
    Manifest,
    /// Readers see the new list of files; it stands in the manifest.
    Readers,
    /// A file is deleted.
    Delete,
}

type Observe = dyn Fn(Step) -> io::Result<()> + Send + Sync;

/// Who is asked before each effect.
#[derive(Clone, Default)]
pub(crate) struct Steps(Option<Arc<Observe>>);

impl Steps {
    /// Effects that an observer may refuse.
    #[cfg(test)]
    pub(crate) fn observed_by(observe: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observe)))
    }

    /// An error if the effect must not happen.
    pub(crate) fn before(&self, step: Step) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |observe| observe(step))
    }
}
