//! The embedded B-tree under the index: one table of bytes to bytes, in one file.
//!
//! Invariants: a commit is whole or not there at all, also after a power cut, and opening never
//! walks the file: each commit records which pages are in use (redb's quick repair; a build with debug
//! assertions walks all the same). Nothing in
//! the file can panic the caller: redb may panic on a page that is not what it wrote, and that is
//! caught here and reported as damage, not as a panic.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use redb::{
    AccessGuard, Builder, Database, Range, ReadOnlyTable, ReadableDatabase, StorageBackend,
    TableDefinition, TableError,
};

use super::super::disk::{File, is_full};
use super::IndexError;
use super::layer::Layer;

const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");

/// An open file of rows.
pub(super) struct Engine {
    /// There until it is dropped.
    database: Option<Database>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        let database = self.database.take();
        // Closing writes a last commit, and a damaged file may fail it.
        let close = || {
            drop(database);
            Ok(())
        };
        if let Err(error) = guard(close) {
            tracing::warn!(%error, "the index was not closed cleanly");
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens `file`, or makes it where it is empty. `cache` is in bytes.
    pub(super) fn open(
        file: Arc<dyn File>,
        cache: usize,
        patience: Arc<dyn Patience>,
    ) -> Result<Self, IndexError> {
        hush();
        guard(|| {
            let mut builder = Builder::new();
            builder.set_cache_size(cache);
            let database =
                builder.create_with_backend(Backend { file, patience }).map_err(damage)?;
            let engine = Self { database: Some(database) };
            let read = engine.database()?.begin_read().map_err(damage)?;
            if let Err(TableError::TableDoesNotExist(_)) = read.open_table(ROWS) {
                engine.commit(&Layer::default())?;
            }
            Ok(engine)
        })
    }

    fn database(&self) -> Result<&Database, IndexError> {
        let closed = || IndexError::Io(io::Error::other("the index is closed"));
        self.database.as_ref().ok_or_else(closed)
    }

    /// What was committed last; stays as it is while others are made.
    pub(super) fn snapshot(&self) -> Result<Snapshot, IndexError> {
        guard(|| {
            let read = self.database()?.begin_read().map_err(damage)?;
            Ok(Snapshot { table: read.open_table(ROWS).map_err(damage)? })
        })
    }

    /// Puts a layer over what is there, in one batch that is durable when this returns.
    pub(super) fn commit(&self, layer: &Layer) -> Result<(), IndexError> {
        guard(|| {
            let mut write = self.database()?.begin_write().map_err(damage)?;
            write.set_quick_repair(true);
            {
                let mut table = write.open_table(ROWS).map_err(damage)?;
                for (key, slot) in &layer.rows {
                    match &slot.value {
                        Some(value) => {
                            table.insert(key.as_slice(), value.as_slice()).map_err(damage)?;
                        }
                        None => {
                            table.remove(key.as_slice()).map_err(damage)?;
                        }
                    }
                }
            }
            write.commit().map_err(damage)
        })
    }
}

/// One commit's rows.
pub(super) struct Snapshot {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl Snapshot {
    /// The value of `key`.
    pub(super) fn row(&self, key: &[u8]) -> Result<Option<EngineValue>, IndexError> {
        guard(|| {
            let value = self.table.get(key).map_err(damage)?.map(EngineValue);
            // Where a page says its values are is first looked at when they are asked for: here, where
            // that may go wrong.
            value.as_ref().map(EngineValue::value);
            Ok(value)
        })
    }

    /// The rows from `from` up to and without `to`.
    pub(super) fn range(&self, from: &[u8], to: &[u8]) -> Result<EngineRange, IndexError> {
        let to = if from < to { to } else { from };
        guard(|| Ok(EngineRange(self.table.range(from..to).map_err(damage)?)))
    }
}

/// A value in a page of the engine.
pub(super) struct EngineValue(AccessGuard<'static, &'static [u8]>);

impl EngineValue {
    /// Its bytes.
    pub(super) fn value(&self) -> &[u8] {
        self.0.value()
    }
}

/// Rows in key order.
pub(super) struct EngineRange(Range<'static, &'static [u8], &'static [u8]>);

impl EngineRange {
    /// The next row.
    pub(super) fn next(&mut self) -> Result<Option<EngineRow>, IndexError> {
        guard(|| match self.0.next() {
            Some(row) => {
                let (key, value) = row.map_err(damage)?;
                let row = EngineRow { key, value };
                let _ = (row.key(), row.value());
                Ok(Some(row))
            }
            None => Ok(None),
        })
    }
}

/// One row.
pub(super) struct EngineRow {
    key: AccessGuard<'static, &'static [u8]>,
    value: AccessGuard<'static, &'static [u8]>,
}

impl EngineRow {
    /// Its key.
    pub(super) fn key(&self) -> &[u8] {
        self.key.value()
    }

    /// Its value.
    pub(super) fn value(&self) -> &[u8] {
        self.value.value()
    }
}

thread_local! {
    /// This thread is in the engine, whose panics are caught.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// How many panics of the engine were caught.
#[cfg(test)]
pub(super) static CAUGHT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

fn guard<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    result.unwrap_or_else(|_| {
        #[cfg(test)]
        CAUGHT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Err(IndexError::Damaged("the engine met a page that cannot be right".into()))
    })
}

/// From now on nobody is told of a panic that is caught here: it is an error like any other, and is told as one.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if GUARDED.get() {
                tracing::debug!(%panic, "caught");
            } else {
                before(panic);
            }
        }));
    });
}

fn damage(error: impl Into<redb::Error>) -> IndexError {
    match error.into() {
        // How the engine says that a file is none of its own, or ends too early: the disk did answer.
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            IndexError::Damaged(error.to_string())
        }
        redb::Error::Io(error) => IndexError::Io(error),
        redb::Error::PreviousIo => IndexError::Io(io::Error::other(
            "an earlier failure of the disk closed the index until it is opened again",
        )),
        other => IndexError::Damaged(other.to_string()),
    }
}

/// Asked when there is no space for a file to grow, in the middle of a commit.
pub(super) trait Patience: Send + Sync {
    /// Waits until there may be space for `more` bytes; `false` if nobody will wait for that, and the commit is to fail. After
    /// that the engine must be opened again to answer anything.
    fn wait(&self, more: u64) -> bool;
    /// There is space now for what was waited for.
    fn grown(&self);
}

/// A store's file as redb wants one.
struct Backend {
    file: Arc<dyn File>,
    patience: Arc<dyn Patience>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.file.read_at(out, offset)? < out.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.file.len()?;
        let Some(more) = len.checked_sub(old) else { return self.file.set_len(len) };
        if more == 0 {
            // Cutting would give back what is set aside behind the end.
            return Ok(());
        }
        // Space is set aside when the file grows, so that a full disk is met before anything
        // of a batch is written.
        let mut waited = false;
        loop {
            // The length stays where that fails.
            let aside = self
                .file
                .set_aside(more)
                .or_else(|error| if is_full(&error) { Err(error) } else { Ok(()) });
            match aside.and_then(|()| self.file.allocate(old, more)) {
                Err(error) if is_full(&error) && self.patience.wait(more) => waited = true,
                other => {
                    if waited && other.is_ok() {
                        self.patience.grown();
                    }
                    return other;
                }
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
}
