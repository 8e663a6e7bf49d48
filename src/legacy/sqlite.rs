//! The Python bridge's other store: a table of events in SQLite.
//!
//! The shipped code could not fill it, so what is met is empty or was written by a patched one. Each row of the
//! table `events` has the whole event as JSON in `event_data`; rows come in the order of `sequence_id`. The search
//! table beside it is broken and not touched. Nothing vouches for a row.
//!
//! The file is opened so that nothing is written beside it, no lock and no shared memory. That passes over a
//! write-ahead log; where there is one, a copy of both is read instead.
//!
//! Invariants: the source is never written; a row that cannot be read is reported and the next one read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::log::Damage;

/// What an SQLite file begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Whether the file at `path` is an SQLite database.
pub fn is_database(path: &Path) -> io::Result<bool> {
    use std::io::Read as _;
    let mut magic = Vec::new();
    fs::File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    Ok(magic == MAGIC)
}

/// One row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Row<'a> {
    /// `sequence_id`.
    pub number: i64,
    /// `event_data`, JSON.
    pub json: &'a [u8],
}

/// Why the database could not be read at all.
#[derive(Debug)]
pub enum SqliteError {
    /// It is none, or damaged.
    Database(rusqlite::Error),
    /// It has no table `events` as the bridge made it.
    NoTable,
    /// Copying it with its write-ahead log failed.
    Io(io::Error),
}

impl std::fmt::Display for SqliteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Database(err) => err.fmt(f),
            Self::NoTable => {
                f.write_str("it has no table `events` with `sequence_id` and `event_data`")
            }
            Self::Io(err) => err.fmt(f),
        }
    }
}

impl std::error::Error for SqliteError {}

impl From<rusqlite::Error> for SqliteError {
    fn from(err: rusqlite::Error) -> Self {
        Self::Database(err)
    }
}

impl From<io::Error> for SqliteError {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

/// An open database.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    name: String,
    /// Dropped after the connection.
    _copy: Option<Copied>,
}

impl Database {
    /// Opens the one at `path`.
    pub fn open(path: &Path) -> Result<Self, SqliteError> {
        let wal = beside(path, "-wal");
        let copy = match fs::metadata(&wal) {
            Ok(meta) if meta.len() > 0 => Some(Copied::of(path, &wal)?),
            _ => None,
        };
        let connection = match &copy {
            // Ours to write to: the write-ahead log is folded in.
            Some(copy) => Connection::open_with_flags(
                copy.dir.join(NAME),
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?,
            None => Connection::open_with_flags(
                uri(path),
                OpenFlags::SQLITE_OPEN_READ_ONLY
                    | OpenFlags::SQLITE_OPEN_URI
                    | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?,
        };
        // The schema is as much input as the rows are.
        connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")?;
        let tables: i64 = connection.query_row(
            "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'events' \
             AND sql LIKE '%sequence_id%' AND sql LIKE '%event_data%'",
            [],
            |row| row.get(0),
        )?;
        if tables != 1 {
            return Err(SqliteError::NoTable);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { connection, name, _copy: copy })
    }

    /// Name of its file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many rows there are.
    pub fn count(&self) -> Result<u64, SqliteError> {
        let count: i64 =
            self.connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    /// Calls `visit` for each row, in order, until it returns false; what cannot be read is told as damage.
    pub fn rows(
        &self,
        visit: &mut dyn FnMut(Result<Row<'_>, Damage>) -> bool,
    ) -> Result<(), SqliteError> {
        let sql = "SELECT sequence_id, event_data FROM events ORDER BY sequence_id";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut last = 0;
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(()),
                Err(err) => {
                    // A damaged page: what comes behind it cannot be reached.
                    let what = format!("rows behind this one cannot be read: {err}");
                    visit(Err(self.damage(last, what)));
                    return Ok(());
                }
            };
            let number = match row.get_ref(0)? {
                ValueRef::Integer(number) => number,
                _ => last,
            };
            last = number;
            let found = match row.get_ref(1)? {
                ValueRef::Text(json) | ValueRef::Blob(json) => Ok(Row { number, json }),
                _ => Err(self.damage(number, "this row's `event_data` is no text".to_owned())),
            };
            if !visit(found) {
                return Ok(());
            }
        }
    }

    fn damage(&self, number: i64, what: String) -> Damage {
        Damage { file: self.name.clone(), offset: number.unsigned_abs(), len: 0, what }
    }
}

/// The name that a copy has.
const NAME: &str = "events.db";

/// A copy of a database and its write-ahead log, gone when it is dropped.
#[derive(Debug)]
struct Copied {
    dir: PathBuf,
}

impl Copied {
    fn of(database: &Path, wal: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let nanos = nanos.map_or(0, |since| since.as_nanos());
        let name = format!("lighthouse-fuse-{}-{nanos}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        let copy = Self { dir };
        fs::copy(database, copy.dir.join(NAME))?;
        fs::copy(wal, beside(&copy.dir.join(NAME), "-wal"))?;
        Ok(copy)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // What is left in a temporary directory is in nobody's way.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A name that SQLite opens without a lock, a journal or shared memory.
fn uri(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => uri.push(byte.into()),
            _ => _ = write!(uri, "%{byte:02X}"),
        }
    }
    uri + "?immutable=1"
}
