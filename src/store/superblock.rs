//! The file `super`: what a store is, and where its log ended when it was last closed.
//!
//! ```text
//!  0        8         12       16           24         40       56                 76
//!  +--------+---------+--------+------------+----------+--------+------------------+
//!  | magic  | version | state  | generation | store id | key    | shape [20]       |
//!  +--------+---------+--------+------------+----------+--------+------------------+
//!  | boot [16] | scan_from [4] | checkpoint [108] | 0 ...              | crc        |
//!  +-----------+---------------+------------------+--------------------+------------+
//!  76          92              96                 204                  508          512
//! ```
//!
//! Integers are little-endian. `crc` is the CRC-32C of the 508 bytes before it. Two copies lie at
//! 0 and at 4096; a change overwrites the older one, so a power cut leaves at least one whole.
//!
//! Invariants: the copy with the higher generation counts; magic, version and crc stay where they
//! are in every format, so that a store of any other version is known for what it is.

use std::io;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::disk::{Disk, File};
use super::segment::{Checkpoint, CheckpointBytes, ENDS_VERSION, FORMAT_VERSION};

const MAGIC: [u8; 8] = *b"LhFuseSt";
const COPY_LEN: usize = 512;
/// Copies are a page apart, so that no sector and no page holds parts of both.
const COPIES: [u64; 2] = [0, 4096];
const PATH: &str = "super";
const NEW_PATH: &str = "super.new";

/// How large the store's files are. Fixed when it is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// Length of a log segment in bytes, at least 8 KiB.
    pub segment_len: u32,
    /// A content file that is this long in bytes is followed by another.
    pub content_len: u64,
    /// How much space a content file sets aside at a time, in bytes.
    pub content_step: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { segment_len: 64 << 20, content_len: 1 << 30, content_step: 16 << 20 }
    }
}

/// What the store was doing when `super` was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Someone has it open; or had, and did not come to close it.
    InService,
    /// It was closed; the log ends at the checkpoint.
    Closed,
    /// `fdatasync` failed: what came after the last seal may be in the page cache alone.
    SyncFailed,
}

/// What the file says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Super {
    /// Which copy is newer.
    pub generation: u64,
    /// Format of the store: [`FORMAT_VERSION`] as it is made, and a later one, up to [`ENDS_VERSION`], once there is
    /// something in it that older programs would misread.
    pub version: u32,
    /// Random; every segment repeats it.
    pub store: [u8; 16],
    /// Random; keys the hashes of names.
    pub key: [u8; 16],
    /// How large its files are.
    pub shape: Shape,
    /// What it is doing.
    pub state: State,
    /// The machine's run in which it was last opened.
    pub boot: [u8; 16],
    /// The segment in which recovery begins.
    pub scan_from: u32,
    /// Where the log ended at the last clean stop, or at the last start; all before it is on the disk.
    pub checkpoint: Checkpoint,
}

/// Why `super` cannot be used.
#[derive(Debug)]
pub enum SuperError {
    /// There is none: this is no store.
    Missing,
    /// The store is of another format version.
    Version(u32),
    /// Both copies are damaged.
    Damaged,
    /// Reading failed.
    Io(io::Error),
}

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Bytes {
    magic: [u8; 8],
    version: U32,
    state: U32,
    generation: U64,
    store: [u8; 16],
    key: [u8; 16],
    segment_len: U32,
    content_len: U64,
    content_step: U64,
    boot: [u8; 16],
    scan_from: U32,
    checkpoint: CheckpointBytes,
    zeros: [u8; 304],
    crc: U32,
}
const _: () = assert!(size_of::<Bytes>() == COPY_LEN);

impl Super {
    fn encode(&self) -> Bytes {
        let mut bytes = Bytes {
            magic: MAGIC,
            version: self.version.into(),
            state: match self.state {
                State::InService => 0_u32,
                State::Closed => 1,
                State::SyncFailed => 2,
            }
            .into(),
            generation: self.generation.into(),
            store: self.store,
            key: self.key,
            segment_len: self.shape.segment_len.into(),
            content_len: self.shape.content_len.into(),
            content_step: self.shape.content_step.into(),
            boot: self.boot,
            scan_from: self.scan_from.into(),
            checkpoint: (&self.checkpoint).into(),
            zeros: [0; 304],
            crc: U32::ZERO,
        };
        bytes.crc = checksum(&bytes).into();
        bytes
    }

    /// The copy in `bytes`; `None` if it is damaged.
    fn decode(bytes: &Bytes) -> Option<Result<Self, SuperError>> {
        if bytes.magic != MAGIC || bytes.crc.get() != checksum(bytes) {
            return None;
        }
        let version = bytes.version.get();
        if !(FORMAT_VERSION..=ENDS_VERSION).contains(&version) {
            return Some(Err(SuperError::Version(version)));
        }
        let state = match bytes.state.get() {
            0 => State::InService,
            1 => State::Closed,
            2 => State::SyncFailed,
            _ => return None,
        };
        Some(Ok(Self {
            generation: bytes.generation.get(),
            version,
            store: bytes.store,
            key: bytes.key,
            shape: Shape {
                segment_len: bytes.segment_len.get(),
                content_len: bytes.content_len.get(),
                content_step: bytes.content_step.get(),
            },
            state,
            boot: bytes.boot,
            scan_from: bytes.scan_from.get(),
            checkpoint: Checkpoint::from(&bytes.checkpoint),
        }))
    }

    /// Reads the newer whole copy.
    pub fn read(disk: &dyn Disk) -> Result<Self, SuperError> {
        let file = match disk.open(PATH, false) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(SuperError::Missing),
            Err(err) => return Err(SuperError::Io(err)),
        };
        let mut newest: Option<Self> = None;
        for copy in copies(&*file).map_err(SuperError::Io)?.iter().flatten() {
            match Self::decode(copy) {
                // Never written to by us, whichever copy says it.
                Some(Err(err)) => return Err(err),
                Some(Ok(found)) if newest.is_none_or(|best| best.generation < found.generation) => {
                    newest = Some(found);
                }
                _ => (),
            }
        }
        newest.ok_or(SuperError::Damaged)
    }

    /// Writes the first generation. There is no store before it is whole, and one afterwards.
    pub fn create(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.open(NEW_PATH, true)?;
        self.generation = 1;
        file.write_at(self.encode().as_bytes(), COPIES[0])?;
        file.write_at(&[0; COPY_LEN], COPIES[1])?;
        file.sync_data()?;
        disk.rename(NEW_PATH, PATH)?;
        disk.sync_dir("")
    }

    /// Writes this as the next generation over the older copy; with `sync`, it is on the disk
    /// when this returns. After a failure the next one goes over the same copy, for the other is the only one known to be whole.
    pub fn write(&mut self, disk: &dyn Disk, sync: bool) -> io::Result<()> {
        let file = disk.open(PATH, false)?;
        let next = Self { generation: self.generation + 1, ..*self };
        let at = COPIES[usize::from(next.generation.is_multiple_of(2))];
        file.write_at(next.encode().as_bytes(), at)?;
        if sync {
            file.sync_data()?;
        }
        *self = next;
        Ok(())
    }

    /// Which copies do not match their checksums, by offset in the file.
    pub(super) fn damaged_copies(disk: &dyn Disk) -> io::Result<Vec<u64>> {
        let found = copies(&*disk.open(PATH, false)?)?;
        let damaged = COPIES.iter().zip(&found).filter(|(_, copy)| {
            // A store that was never written twice has one copy, and zeros or nothing for the other.
            copy.as_ref().is_some_and(|copy| {
                copy.as_bytes() != [0; COPY_LEN] && !matches!(Self::decode(copy), Some(Ok(_)))
            })
        });
        Ok(damaged.map(|(&at, _)| at).collect())
    }
}

fn copies(file: &dyn File) -> io::Result<[Option<Bytes>; 2]> {
    let mut found = [None; 2];
    for (copy, at) in found.iter_mut().zip(COPIES) {
        let mut bytes = [0; COPY_LEN];
        if file.read_at(&mut bytes, at)? == COPY_LEN {
            *copy = Bytes::read_from_bytes(&bytes).ok();
        }
    }
    Ok(found)
}

fn checksum(bytes: &Bytes) -> u32 {
    let bytes = bytes.as_bytes();
    crc32c::crc32c(bytes.get(..bytes.len() - 4).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::event::{Seq, Timestamp};
    use super::super::segment::Position;
    use super::super::sim::{SimDisk, Step};
    use super::*;

    fn example() -> Super {
        Super {
            generation: 0,
            version: FORMAT_VERSION,
            store: [1; 16],
            key: [2; 16],
            shape: Shape::default(),
            state: State::InService,
            boot: [3; 16],
            scan_from: 4,
            checkpoint: Checkpoint {
                position: Position { segment: 5, offset: 6 },
                prev: 7,
                seq: Seq(8),
                time: Timestamp(-9),
                next_actor: 10,
                connection: [11; 16],
                seal: [12; 32],
                reserve: Seq(13),
                content_file: 14,
                content_offset: 15,
                horizon: Seq(16),
            },
        }
    }

    #[test]
    fn one_damaged_copy_is_no_loss_and_two_are_said() {
        let disk = SimDisk::new(1 << 20);
        assert!(matches!(Super::read(&disk), Err(SuperError::Missing)));
        let mut one = example();
        one.create(&disk).unwrap();
        assert_eq!(Super::read(&disk).unwrap(), one);
        let mut two = one;
        two.state = State::Closed;
        two.write(&disk, true).unwrap();
        assert_eq!(Super::read(&disk).unwrap(), two);
        assert!(disk.flip("super", 0, 3));
        assert_eq!(Super::damaged_copies(&disk).unwrap(), [0]);
        assert_eq!(Super::read(&disk).unwrap(), two);
        assert!(disk.flip("super", 0, 3));
        assert!(disk.flip("super", 4096 + 300, 3));
        assert_eq!(Super::damaged_copies(&disk).unwrap(), [4096]);
        assert_eq!(Super::read(&disk).unwrap(), one);
        assert!(disk.flip("super", 11, 3));
        assert!(matches!(Super::read(&disk), Err(SuperError::Damaged)));
    }

    #[test]
    fn a_write_that_failed_leaves_the_only_whole_copy_to_the_next() {
        for step in [Step::Write, Step::Sync] {
            for seed in 0..100 {
                let disk = SimDisk::new(1 << 20);
                let mut one = example();
                one.create(&disk).unwrap();
                let mut two = one;
                two.scan_from = 9;
                disk.fail(step, 0, 2, rustix::io::Errno::IO.raw_os_error());
                two.write(&disk, true).unwrap_err();
                two.write(&disk, true).unwrap_err();
                let what = format!("{step:?}, seed {seed}");
                let found = Super::read(&disk.after_power_cut(seed)).unwrap();
                assert_eq!(Super { scan_from: 4, generation: 1, ..found }, one, "{what}");
                disk.mend();
                two.write(&disk, true).unwrap();
                assert_eq!(Super::read(&disk.after_power_cut(seed)).unwrap(), two, "{what}");
            }
        }
    }

    #[test]
    fn a_store_of_another_version_is_refused() {
        let disk = SimDisk::new(1 << 20);
        let mut bytes = example().encode();
        let version = ENDS_VERSION + 1;
        bytes.version = version.into();
        bytes.crc = checksum(&bytes).into();
        disk.open("super", true).unwrap().write_at(bytes.as_bytes(), 0).unwrap();
        assert!(matches!(Super::read(&disk), Err(SuperError::Version(found)) if found == version));
    }

    #[test]
    fn a_power_cut_in_the_middle_of_a_write_leaves_the_state_before_or_after() {
        for seed in 0..100 {
            let disk = SimDisk::new(1 << 20);
            let mut one = example();
            one.create(&disk).unwrap();
            let mut two = one;
            two.scan_from = 9;
            two.write(&disk, false).unwrap();
            let found = Super::read(&disk.after_power_cut(seed)).unwrap();
            assert!(found == one || found == two, "seed {seed}");
        }
    }
}
