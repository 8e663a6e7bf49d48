//! An upload on its way: in memory while it is short, and then in a file without a name.
//!
//! Invariant: what is in the store of it is gone from there with its owner, and not while somebody works with it: whoever waits
//! for that may go away, so what works has it.

use crate::tree::Ino;

use super::acting::{Acting, Content};
use super::problem::Problem;
use super::routes::waiting;

/// So much of an upload is kept in memory.
const SHORT_MAX: usize = 1 << 20;

/// What came so far of an upload.
#[derive(Debug)]
pub(crate) struct Staging {
    acting: Acting,
    /// What is in the store of it.
    staged: Option<(Ino, u64)>,
    /// What is not.
    pending: Vec<u8>,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some((ino, len)) = self.staged {
            self.acting.discard(&Content::Staged { ino, len });
        }
    }
}

impl Staging {
    pub(crate) const fn new(acting: Acting) -> Self {
        Self { acting, staged: None, pending: Vec::new() }
    }

    /// Whether nothing came so far.
    pub(crate) const fn is_empty(&self) -> bool {
        self.staged.is_none() && self.pending.is_empty()
    }

    /// More came.
    pub(crate) async fn add(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() < SHORT_MAX {
            return Ok(());
        }
        let mut all = self.take();
        let work = move || {
            all.spill()?;
            Ok(all)
        };
        *self = waiting(work).await?;
        Ok(())
    }

    /// All that came, for who goes on with it elsewhere.
    pub(crate) fn take(&mut self) -> Self {
        let pending = std::mem::take(&mut self.pending);
        Self { acting: self.acting.clone(), staged: self.staged.take(), pending }
    }

    /// All that came, which is there for as long as this is.
    pub(crate) fn content(&mut self) -> Result<Content, Problem> {
        if self.staged.is_some() {
            self.spill()?;
        }
        Ok(match self.staged {
            Some((ino, len)) => Content::Staged { ino, len },
            None => Content::Short(std::mem::take(&mut self.pending)),
        })
    }

    /// Puts what is pending into the store.
    fn spill(&mut self) -> Result<(), Problem> {
        let (ino, len) = match self.staged {
            Some(staged) => staged,
            None => (self.acting.stage()?, 0),
        };
        // Known from here on, so that it goes when this is dropped.
        self.staged = Some((ino, len));
        self.acting.write(ino, len, &self.pending)?;
        self.staged = Some((ino, len + self.pending.len() as u64));
        self.pending.clear();
        Ok(())
    }
}
