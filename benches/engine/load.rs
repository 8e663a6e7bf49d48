//! What the engines are asked to keep: rows made here, or those that the log of a real store makes.
//!
//! A recording is one file: for each row the lengths of key and value (four bytes each, little-endian; all bits set: the row
//! goes), then both; two lengths of 0 end a batch.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use lighthouse_fuse::store::codec::Note;
use lighthouse_fuse::store::disk::{Disk, Real};
use lighthouse_fuse::store::event::{FileId, Location, Place};
use lighthouse_fuse::store::index::{Index, Mark, Options};
use lighthouse_fuse::store::log::{LogReader, Next};
use lighthouse_fuse::store::record::Entry;
use lighthouse_fuse::store::superblock::Super;

use crate::number;
use crate::plain_file::PlainFile;

/// Rows of one batch that is made here.
pub(crate) const BATCH: u64 = 200_000;
pub(crate) const VALUE: usize = 40;
const GONE: u32 = u32::MAX;

/// Rows in key order; those without a value go.
pub(crate) type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Batches of rows, one after the other.
pub(crate) enum Load {
    Made { random: Random, rows: u64, put: u64 },
    Recorded(BufReader<File>),
}

impl Load {
    /// The next batch; `None` at the end of a recording.
    pub(crate) fn next(&mut self) -> Option<Batch> {
        match self {
            Self::Made { random, rows, put } => {
                let batch = batch(random, rows, *put);
                *put += BATCH;
                Some(batch)
            }
            Self::Recorded(from) => recorded(from).ok().filter(|batch| !batch.is_empty()),
        }
    }

    /// Rows that are there, before any batch, in sorted batches.
    pub(crate) fn preload(rows: u64) -> impl Iterator<Item = Batch> {
        let mut random = Random(7);
        (0..rows).step_by(BATCH as usize).map(move |first| {
            let each = first..(first + BATCH).min(rows);
            each.map(|row| (key(row, 0).to_vec(), Some(value(&mut random).to_vec()))).collect()
        })
    }
}

fn recorded(from: &mut BufReader<File>) -> io::Result<Batch> {
    let mut batch = Batch::new();
    loop {
        let mut length = || {
            let mut bytes = [0; 4];
            from.read_exact(&mut bytes).map(|()| u32::from_le_bytes(bytes))
        };
        let (key, value) = (length()?, length()?);
        if key == 0 {
            return Ok(batch);
        }
        let mut take = |len: u32| {
            let mut bytes = vec![0; len as usize];
            from.read_exact(&mut bytes).map(|()| bytes)
        };
        let key = take(key)?;
        batch.push((key, if value == GONE { None } else { Some(take(value)?) }));
    }
}

static RECORDING: Mutex<Option<BufWriter<File>>> = Mutex::new(None);

fn record_row(key: &[u8], value: Option<&[u8]>) {
    let mut recording = RECORDING.lock().unwrap();
    let to = recording.as_mut().unwrap();
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    to.write_all(&length(key).to_le_bytes()).unwrap();
    let ends = key.is_empty();
    to.write_all(&value.map_or(if ends { 0 } else { GONE }, length).to_le_bytes()).unwrap();
    to.write_all(key).unwrap();
    to.write_all(value.unwrap_or_default()).unwrap();
}

/// Records what the log of `store` asks of an engine. Returns how many events, batches and rows it was.
pub(crate) fn record(store: &Path, mib: u64, into: &Path) -> (u64, u64, u64) {
    *RECORDING.lock().unwrap() = Some(BufWriter::new(File::create(into).unwrap()));
    let disk: Arc<dyn Disk> = Arc::new(Real::read_only(store).unwrap());
    let id = Super::read(&*disk).unwrap().store;
    let mut reader = LogReader::at_segment(disk, id, 1).unwrap();
    let rows = tempfile::NamedTempFile::new_in(into.parent().unwrap()).unwrap();
    let options =
        Options { memory: 2 * (mib << 20) as usize, tap: Some(record_row), ..Options::default() };
    let file = Arc::new(PlainFile::open(rows.path()).unwrap());
    let index = Index::open_file(file, id, &[2; 16], &options).unwrap();
    let mut tables = index.write();
    let mut events = 0;
    while let Next::Record(position, record) = reader.read().unwrap() {
        match record.entry() {
            Some(Entry::Event(event)) => {
                // Not where the content is, but as near.
                let file = FileId::Log(position.segment);
                let at = Location { file, offset: position.offset.into() };
                tables.apply(&event, Some(at)).unwrap();
                events += 1;
            }
            Some(Entry::Note(Note::Relocation { ino, offset, data, .. })) => {
                if let Place::Extent { location, len, .. } = data.place {
                    tables.relocate(ino, offset, len, location).unwrap();
                }
            }
            Some(Entry::Note(Note::Label { name, seq })) => tables.set_label(name, seq).unwrap(),
            _ => (),
        }
        let mark = || Mark(vec![0; 36]);
        index.advance(&mut tables, record.len() as u64, mark).unwrap();
    }
    drop(tables);
    index.flush(Mark(Vec::new())).unwrap();
    RECORDING.lock().unwrap().take().unwrap().flush().unwrap();
    let mut load = Load::Recorded(BufReader::new(File::open(into).unwrap()));
    let (mut batches, mut rows) = (0, 0);
    while let Some(batch) = load.next() {
        batches += 1;
        rows += batch.len() as u64;
    }
    (events, batches, rows)
}

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % end
    }
}

pub(crate) fn key(major: u64, minor: u64) -> [u8; 24] {
    let mut key = [4; 24];
    key[8..16].copy_from_slice(&major.to_be_bytes());
    key[16..].copy_from_slice(&minor.to_be_bytes());
    key
}

pub(crate) fn value(random: &mut Random) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    // Half of it is as random as times and places are.
    for part in value[..VALUE / 2].chunks_mut(8) {
        part.copy_from_slice(&random.below(u64::MAX).to_le_bytes()[..part.len()]);
    }
    value
}

/// A row that changes: anywhere in the newest `ENGINE_SPREAD` per cent of them.
fn changing(random: &mut Random, rows: u64, spread: u64) -> u64 {
    let newest = (rows * spread / 100).max(1);
    rows - 1 - random.below(newest)
}

fn batch(random: &mut Random, rows: &mut u64, minor: u64) -> Batch {
    let spread = number("ENGINE_SPREAD", 100).clamp(1, 100);
    let mut batch = Vec::with_capacity(BATCH as usize);
    for number in 0..BATCH {
        let key = match number % 3 {
            0 => key(changing(random, *rows, spread), 0),
            1 => key(changing(random, *rows, spread), minor + number),
            _ => {
                *rows += 1;
                key(*rows - 1, 0)
            }
        };
        batch.push((key.to_vec(), Some(value(random).to_vec())));
    }
    batch.sort_unstable();
    batch.dedup_by(|later, row| later.0 == row.0);
    batch
}
