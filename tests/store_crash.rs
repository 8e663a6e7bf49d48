//! What a store promises when the power goes, the process is killed, or the disk fails.
//!
//! Workloads are random and print their seed. Each is run again and again on a simulated disk
//! that loses power after one step more.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "common/seeds.rs"]
mod seeds;

use std::sync::Arc;

use lighthouse_fuse::store::CommitError;
use lighthouse_fuse::store::Placed;
use lighthouse_fuse::store::disk::Disk;
use lighthouse_fuse::store::event::{
    ActorId, Change, Data, Event, FileId, Foreign, Format, Ino, Location, Place, Seq, Timestamp,
};
use lighthouse_fuse::store::journal::{Durability, Journal, OpenError, content_hash};
use lighthouse_fuse::store::log::{LogReader, Next, damage_in};
use lighthouse_fuse::store::record::Entry;
use lighthouse_fuse::store::recover::{Recovered, Stop};
use lighthouse_fuse::store::segment::Position;
use lighthouse_fuse::store::sim::{Random, SimDisk, Step};
use lighthouse_fuse::store::superblock::{Shape, Super};

const SHAPE: Shape =
    Shape { segment_len: 16 << 10, content_len: 256 << 10, content_step: 32 << 10 };

/// What a caller was told, and so may count on.
#[derive(Clone, Default)]
struct Told {
    /// Every event that was acknowledged: number, and the bytes written or a name's hash.
    events: Vec<(Seq, Vec<u8>)>,
    /// How many of them a sync has covered.
    synced: usize,
}

fn disk() -> SimDisk {
    SimDisk::new(64 << 20)
}

fn create(disk: &SimDisk) -> Result<Journal, OpenError> {
    Journal::create(Arc::new(disk.clone()), SHAPE, Durability::Fsync)
}

fn open(disk: &SimDisk) -> Result<(Journal, Recovered), OpenError> {
    Journal::open(Arc::new(disk.clone()), Durability::Fsync, false)
}

/// What somebody else told.
fn foreign(body: Data<'_>) -> Foreign<'_> {
    let (id, kind, agent, aggregate) = (&b"1_0_n"[..], &b"custom"[..], &b""[..], &b""[..]);
    let (time, format, source) = (Timestamp(0), Format::Json, None);
    Foreign { id, kind, agent, aggregate, time, format, source, fingerprint: [7; 16], body }
}

/// Appends a write of `len` bytes, or something without bytes if there are none.
fn append(
    journal: &Journal,
    told: &mut Told,
    random: &mut Random,
    len: usize,
) -> Result<(), CommitError> {
    let fill = u8::try_from(random.below(255)).unwrap() + 1;
    let mut bytes = vec![fill; len];
    // No two pages alike, so that one in the place of another is noticed.
    for (at, page) in bytes.chunks_mut(1000).enumerate() {
        page[0] ^= u8::try_from(at % 256).unwrap();
    }
    let mut placed = Placed::default();
    let change = if len == 0 {
        Change::Unlink { parent: Ino::ROOT, name: &[fill | 128; 20], ino: Ino(7) }
    } else {
        let data = journal.place(&bytes, &mut placed)?;
        if fill.is_multiple_of(3) {
            Change::Foreign(foreign(data))
        } else {
            Change::Write {
                ino: Ino(3),
                offset: 5,
                data,
                ends: fill.is_multiple_of(5),
                mode: None,
                drop_capability: false,
            }
        }
    };
    let seq = journal.next_seq();
    let time = Timestamp(i64::try_from(seq.0).unwrap());
    journal.append(&Event { seq, time, actor: ActorId(0), unique: seq.0 * 2, change })?;
    told.events.push((seq, if len == 0 { vec![fill | 128; 20] } else { bytes }));
    Ok(())
}

/// One random run until something fails.
fn workload(
    journal: &Journal,
    told: &mut Told,
    random: &mut Random,
    count: usize,
) -> Result<(), CommitError> {
    for _ in 0..count {
        match random.below(10) {
            0..=3 => {
                let len = if random.below(8) == 0 { 4096 } else { random.below(600) };
                append(journal, told, random, len)?;
            }
            4 => append(journal, told, random, 0)?,
            5 => {
                let len = 4096 + random.below(200_000);
                append(journal, told, random, len)?;
            }
            6 | 7 => {
                let covered = told.events.len();
                journal.sync()?;
                told.synced = covered;
            }
            8 => {
                let covered = told.events.len();
                journal.tick()?;
                told.synced = covered;
            }
            _ => {
                let actor = lighthouse_fuse::store::event::Actor {
                    pid: u32::try_from(random.below(50)).unwrap(),
                    ..Default::default()
                };
                let id = journal.actor_told(&actor, actor.clone())?;
                assert_eq!(journal.actor_of(id).unwrap(), Some(actor));
            }
        }
    }
    Ok(())
}

/// Every event in the log, with its bytes.
fn events(journal: &Journal) -> Vec<(Seq, Vec<u8>)> {
    let mut reader = journal.reader(None).unwrap();
    let mut found = Vec::new();
    let end = journal.mark().position;
    while reader.mark().position < end {
        let Next::Record(_, record) = reader.read().unwrap() else { break };
        let Some(Entry::Event(event)) = record.entry() else { continue };
        let bytes = match event.change {
            Change::Write { data, .. } | Change::Foreign(Foreign { body: data, .. }) => {
                let bytes = bytes_of(journal, &data);
                assert_eq!(content_hash(&data.salt, &bytes), data.hash);
                bytes
            }
            Change::Unlink { name, .. } => name.to_vec(),
            other => panic!("nobody made {other:?}"),
        };
        found.push((event.seq, bytes));
    }
    found
}

fn bytes_of(journal: &Journal, data: &Data<'_>) -> Vec<u8> {
    match data.place {
        Place::Inline(bytes) => bytes.to_vec(),
        Place::Extent { location, len, .. } => {
            let mut bytes = vec![0; usize::try_from(len).unwrap()];
            journal.content().read_at(location, &mut bytes).unwrap();
            bytes
        }
    }
}

/// What must hold of `disk` for who was told `told`. Returns what of it is still there.
fn check(disk: &SimDisk, told: &Told, stop: Stop, what: &str) -> Option<Told> {
    let (journal, recovered) = match open(disk) {
        Err(OpenError::Missing) if told.synced == 0 => return None,
        // The power went before anybody heard of the store.
        Ok(_) if told.events.is_empty() => return None,
        Ok(opened) => opened,
        Err(err) => panic!("{what}: {err}"),
    };
    assert_eq!(recovered.stop, stop, "{what}");
    assert_eq!(recovered.damage, None, "{what}");
    let found = events(&journal);
    assert!(found.len() >= told.synced, "{what}: {} of {} synced", found.len(), told.synced);
    assert!(found.len() <= told.events.len(), "{what}: more than was acknowledged");
    assert_eq!(found[..], told.events[..found.len()], "{what}: what survives is a prefix");
    if let Some((last, _)) = told.events.last() {
        assert!(journal.next_seq() > *last, "{what}: {} was used", journal.next_seq());
    }
    if stop == Stop::Killed {
        assert_eq!(found.len(), told.events.len(), "{what}: a kill loses nothing");
        let next = told.events.last().map_or(Seq::FIRST, |(seq, _)| seq.next());
        assert_eq!(journal.next_seq(), next, "{what}: and leaves no gap");
    }
    // It goes on, closes, and opens without a scan.
    let mut told = Told { synced: found.len(), events: found };
    let mut random = Random(7);
    workload(&journal, &mut told, &mut random, 20).unwrap();
    journal.close().unwrap();
    drop(journal);
    let (journal, recovered) = open(disk).unwrap();
    assert_eq!(recovered.stop, Stop::Clean, "{what}");
    assert_eq!(events(&journal), told.events, "{what}: after a clean stop");
    told.synced = told.events.len();
    Some(told)
}

/// Runs a workload of `seed` on a disk with power for `steps`; returns what its caller was told.
fn run(disk: &SimDisk, seed: u64, steps: u64, count: usize) -> Told {
    disk.cut_after(steps);
    let mut told = Told::default();
    let mut random = Random(seed);
    if let Ok(journal) = create(disk)
        // Nobody hears of a store before its first event is durable.
        && append(&journal, &mut told, &mut random, 0).is_ok()
    {
        if journal.sync().is_err() {
            return Told::default();
        }
        told.synced = 1;
        let _ = workload(&journal, &mut told, &mut random, count);
    }
    told
}

#[test]
fn what_was_synced_survives_a_power_cut_at_every_step() {
    for seed in seeds::of(1..=4) {
        let whole = disk();
        run(&whole, seed, u64::MAX, 150);
        for steps in 0..=whole.steps() {
            let disk = disk();
            let told = run(&disk, seed, steps, 150);
            let what = format!("seed {seed}, power cut after step {steps}");
            check(&disk.after_power_cut(seed ^ steps), &told, Stop::PowerCut, &what);
        }
    }
}

#[test]
fn a_power_cut_during_recovery_changes_nothing() {
    for seed in seeds::of(1..=6) {
        let disk = disk();
        let told = run(&disk, seed, 60 + seed * 17, 200);
        for steps in 0..40 {
            let after = disk.after_power_cut(seed);
            after.cut_after(steps);
            let opened = open(&after).is_ok();
            let what = format!("seed {seed}, second power cut after step {steps} ({opened})");
            check(&after.after_power_cut(steps), &told, Stop::PowerCut, &what);
        }
    }
}

#[test]
fn a_kill_loses_nothing_and_leaves_no_gap() {
    for seed in seeds::of(1..=10) {
        let disk = disk();
        let told = run(&disk, seed, u64::MAX, 20 + usize::try_from(seed).unwrap() * 30);
        let killed = disk.after_kill();
        let what = format!("seed {seed}");
        check(&killed, &told, Stop::Killed, &what);
        // What the killed one did not sync is synced by the next one's start.
        let killed = disk.after_kill();
        drop(open(&killed).unwrap());
        let told = Told { synced: told.events.len(), ..told };
        check(&killed.after_power_cut(seed), &told, Stop::PowerCut, &what);
    }
}

#[test]
fn after_a_failed_sync_waiters_hear_of_it_and_nothing_more_is_taken() {
    for seed in seeds::of(1..=8) {
        for nth in 0..12 {
            let disk = disk();
            let journal = create(&disk).unwrap();
            let mut told = Told::default();
            let mut random = Random(seed);
            // No write has to wait for `super` then.
            append(&journal, &mut told, &mut random, 4096).unwrap();
            disk.fail(Step::Sync, nth, 1, 5);
            let what = format!("seed {seed}, sync {nth} fails");
            let Err(err) = workload(&journal, &mut told, &mut random, 300) else {
                panic!("{what}: nobody heard of it")
            };
            assert!(matches!(err, CommitError::Io(_)), "{what}: {err:?}");
            let Err(refused) = append(&journal, &mut told, &mut random, 10) else {
                // That was `super`, for which nobody waits: it is written again, and nothing was lost with it.
                journal.sync().unwrap();
                told.synced = told.events.len();
                check(&disk.after_power_cut(seed + nth), &told, Stop::PowerCut, &what);
                continue;
            };
            assert!(matches!(refused, CommitError::ReadOnly(_)), "{what}: {refused:?}");
            journal.close().unwrap_err();
            drop(journal);
            // A new start finds all of it in the page cache, and makes it durable this time.
            let killed = disk.after_kill();
            drop(open(&killed).unwrap());
            told.synced = told.events.len();
            check(&killed.after_power_cut(seed + nth), &told, Stop::PowerCut, &what);
        }
    }
}

#[test]
fn a_failed_or_short_write_applies_nothing_and_uses_no_number() {
    for seed in seeds::of(1..=4) {
        for nth in 0..80 {
            let disk = disk();
            let journal = create(&disk).unwrap();
            let mut told = Told::default();
            let mut random = Random(seed);
            disk.fail(Step::Write, nth, 1, 5);
            let what = format!("seed {seed}, write {nth} fails");
            for _ in 0..3 {
                let before = told.events.len();
                let next = journal.next_seq();
                if workload(&journal, &mut told, &mut random, 60).is_err()
                    && told.events.len() == before
                {
                    assert_eq!(journal.next_seq(), next, "{what}");
                }
            }
            let told = Told { synced: 0, ..told };
            check(&disk.after_kill(), &told, Stop::Killed, &what);
        }
    }
}

#[test]
fn numbers_are_not_handed_out_beyond_what_is_reserved_on_the_disk() {
    use lighthouse_fuse::store::log::RESERVE;
    let disk = disk();
    let journal = create(&disk).unwrap();
    let mut told = Told::default();
    let mut random = Random(1);
    append(&journal, &mut told, &mut random, 0).unwrap();
    journal.close().unwrap();
    drop(journal);
    // Power goes again and again; each start skips what the last one may have used.
    let mut disk = disk;
    let mut last = told.events[0].0;
    for seed in 0..5 {
        let (journal, _) = open(&disk).unwrap();
        assert!(journal.next_seq() > last);
        assert!(journal.next_seq().0 <= last.0 + 2 * RESERVE + 2);
        append(&journal, &mut told, &mut random, 0).unwrap();
        last = told.events.last().unwrap().0;
        disk = disk.after_power_cut(seed);
    }
}

#[test]
fn a_second_opener_is_refused_and_a_store_is_not_made_twice() {
    let disk = disk();
    assert!(matches!(open(&disk), Err(OpenError::Missing)));
    let journal = create(&disk).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::Locked { pid: Some(_) })));
    drop(journal);
    assert!(matches!(create(&disk), Err(OpenError::Exists)));
    open(&disk).unwrap();
}

#[test]
fn a_reader_follows_a_log_that_is_being_written() {
    let disk = disk();
    let journal = create(&disk).unwrap();
    let mut told = Told::default();
    let mut random = Random(3);
    let store = journal.store_id();
    let mut reader = LogReader::at_segment(Arc::new(disk.clone()), store, 1).unwrap();
    let mut seen = Vec::new();
    for _ in 0..100 {
        workload(&journal, &mut told, &mut random, 3).unwrap();
        while let Next::Record(_, record) = reader.read().unwrap() {
            if record.is_event() {
                seen.push(record.stamp().seq);
            }
        }
        let all: Vec<Seq> = told.events.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seen, all);
    }
    assert!(reader.mark().position.segment > 2, "the test should meet several segments");
    // From the middle on, by number.
    let middle = seen[seen.len() / 2];
    let mut reader = LogReader::before(Arc::new(disk.clone()), store, middle).unwrap();
    let mut first = None;
    while let Next::Record(_, record) = reader.read().unwrap() {
        if record.is_event() && record.stamp().seq > middle {
            first = Some(record.stamp().seq);
            break;
        }
    }
    assert_eq!(first, Some(middle.next()));
}

#[test]
fn requests_of_the_last_connection_are_known_after_a_kill() {
    let disk = disk();
    let journal = create(&disk).unwrap();
    let mut told = Told::default();
    let mut random = Random(3);
    journal.begin_connection([1; 16]).unwrap();
    append(&journal, &mut told, &mut random, 10).unwrap();
    journal.begin_connection([2; 16]).unwrap();
    append(&journal, &mut told, &mut random, 10).unwrap();
    append(&journal, &mut told, &mut random, 10).unwrap();
    let (journal, _) = open(&disk.after_kill()).unwrap();
    assert_eq!(journal.connection(), [2; 16]);
    let seqs: Vec<Seq> = told.events.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(journal.answered(seqs[0].0 * 2), None);
    assert_eq!(journal.answered(seqs[1].0 * 2), Some(seqs[1]));
    assert_eq!(journal.answered(seqs[2].0 * 2), Some(seqs[2]));
}

#[test]
fn on_a_full_disk_what_frees_space_still_works() {
    // Room for the first segments and no more.
    let disk = SimDisk::new(16 * (16 << 10));
    let journal = create(&disk).unwrap();
    let mut told = Told::default();
    let mut random = Random(5);
    let full = loop {
        match append(&journal, &mut told, &mut random, 500) {
            Ok(()) => _ = journal.tick(),
            Err(err) => break err,
        }
        assert!(told.events.len() < 10_000);
    };
    assert!(matches!(full, CommitError::NoSpace), "{full:?}");
    for _ in 0..50 {
        append(&journal, &mut told, &mut random, 0).unwrap();
        journal.sync().unwrap();
    }
    assert!(matches!(append(&journal, &mut told, &mut random, 500), Err(CommitError::NoSpace)));
    // Space that comes back is noticed.
    disk.resize(64 << 20);
    append(&journal, &mut told, &mut random, 500).unwrap();
    assert_eq!(events(&journal), told.events);
}

#[test]
fn damage_in_what_was_synced_is_said_with_its_place_and_the_store_can_be_read() {
    let whole = disk();
    let told = run(&whole, 11, u64::MAX, 300);
    let (journal, _) = open(&whole.after_kill()).unwrap();
    let end = journal.mark().position;
    drop(journal);
    let mut random = Random(1);
    for _ in 0..300 {
        let disk = whole.after_kill();
        let segment = u32::try_from(random.below(end.segment as usize)).unwrap() + 1;
        let path = format!("log/{segment:08}.seg");
        let at = random.below(disk.bytes(&path).unwrap().len());
        assert!(disk.flip(&path, at as u64, u8::try_from(random.below(8)).unwrap()));
        let (journal, recovered) = open(&disk).unwrap();
        let is_said = recovered.damage.is_some() || recovered.cut.is_some();
        if let Some(damage) = recovered.damage {
            assert!(damage.at.segment >= segment.saturating_sub(1));
            let err = journal.sync().and(journal.check_writable()).unwrap_err();
            assert!(matches!(err, CommitError::ReadOnly(_)), "{err:?}");
        }
        // Whatever was hit, reading what is left never panics.
        let mut reader = match journal.reader(None) {
            Ok(reader) => reader,
            Err(err) => {
                assert_eq!(err.kind(), std::io::ErrorKind::InvalidData);
                continue;
            }
        };
        let mut count = 0;
        let broken = loop {
            match reader.read() {
                Ok(Next::Record(_, record)) => count += usize::from(record.is_event()),
                Ok(Next::End(_)) => break None,
                Err(err) => break Some(damage_in(&err).expect("the disk is well").clone()),
            }
        };
        // Less than all of it is never taken for all of it.
        assert!(count == told.events.len() || is_said || broken.is_some(), "{path}, byte {at}");
        if let Some(damage) = broken {
            assert_eq!(damage.at.segment, segment, "{damage}");
            assert!(damage.at.offset as usize <= at, "{damage}, not {at}");
        }
    }
}

#[test]
fn damage_before_what_a_later_seal_vouches_for_is_never_a_cut() {
    for seed in seeds::of(1..=6) {
        let whole = disk();
        let journal = create(&whole).unwrap();
        let (mut told, mut random) = (Told::default(), Random(seed));
        // The seal of a sync says so, and the next sync makes that seal durable.
        let mut synced = Vec::new();
        for _ in 0..12 * seed {
            let len = random.below(900);
            append(&journal, &mut told, &mut random, len).unwrap();
            synced.push(journal.mark().position);
            journal.sync().unwrap();
        }
        let promised = synced[synced.len() - 2];
        append(&journal, &mut told, &mut random, 300).unwrap();
        let header = 256;
        for _ in 0..60 {
            let segment = u32::try_from(random.below(promised.segment as usize)).unwrap() + 1;
            let path = format!("log/{segment:08}.seg");
            let end = if segment == promised.segment { promised.offset } else { 12 << 10 };
            let at = header + random.below(end as usize - header);
            let zeros = random.below(2) == 0;
            for after in [whole.after_kill(), whole.after_power_cut(seed)] {
                if zeros {
                    let until = (at + 1 + random.below(512)).min(end as usize);
                    if after.bytes(&path).unwrap()[at..until].iter().all(|&byte| byte == 0) {
                        continue;
                    }
                    let file = after.open(&path, false).unwrap();
                    file.write_at(&vec![0; until - at], at as u64).unwrap();
                    file.sync_data().unwrap();
                } else {
                    assert!(after.flip(&path, at as u64, 3));
                }
                let (journal, recovered) = open(&after).unwrap();
                let what = format!("seed {seed}, {path}, byte {at}, {zeros}: {:?}", recovered.cut);
                assert_eq!(recovered.cut, None, "{what}");
                // What recovery need not read is for whoever reads it.
                let is_scanned = segment + 1 >= promised.segment;
                assert!(recovered.damage.is_some() || !is_scanned, "{what}");
                assert!(journal.check_writable().is_err() || !is_scanned, "{what}");
            }
        }
    }
}

#[test]
fn what_looks_like_a_seal_in_content_vouches_for_nothing() {
    use lighthouse_fuse::store::codec::{Note, Seal};
    use lighthouse_fuse::store::record::{Stamp, encode_note};
    let disk = disk();
    let journal = create(&disk).unwrap();
    let (mut told, mut random) = (Told::default(), Random(1));
    for _ in 0..3 {
        append(&journal, &mut told, &mut random, 400).unwrap();
        journal.sync().unwrap();
    }
    let first = journal.mark().position;
    append(&journal, &mut told, &mut random, 400).unwrap();
    // Somebody's content, at the very end: all up to there is on the disk, it says.
    let (hash, previous) = ([1; 32], [2; 32]);
    let synced = journal.mark().position;
    let seal = Note::Seal(Seal { synced, hash, previous, reserve: Seq(1 << 30) });
    let (time, actor, unique) = (Timestamp(9), ActorId(0), 0);
    let stamp = Stamp { seq: journal.next_seq(), time, actor, unique };
    let mut bytes = vec![7; 333];
    encode_note(&mut bytes, 5, stamp, &seal).unwrap();
    let mut placed = Placed::default();
    let data = journal.place(&bytes, &mut placed).unwrap();
    let change = Change::Write {
        ino: Ino(3),
        offset: 0,
        data,
        ends: false,
        mode: None,
        drop_capability: false,
    };
    let event = Event { seq: journal.next_seq(), time, actor, unique, change };
    journal.append(&event).unwrap();
    let end = journal.mark().position;
    // Whatever is hit of the record before, or of this one, it was not synced.
    let segment = "log/00000001.seg";
    let ended = |disk: &SimDisk, at: Position, what: &str| {
        let (journal, recovered) = open(disk).unwrap();
        assert_eq!(recovered.damage, None, "{what} of {first} to {end}");
        assert_eq!(recovered.cut.unwrap().at, at, "{what}");
        journal.check_writable().unwrap();
    };
    for at in first.offset..synced.offset {
        let disk = disk.after_kill();
        assert!(disk.flip(segment, at.into(), 1));
        ended(&disk, first, &format!("byte {at}"));
    }
    for record in [first, synced] {
        let disk = disk.after_kill();
        let file = disk.open(segment, false).unwrap();
        file.write_at(&[0; 48], record.offset.into()).unwrap();
        ended(&disk, record, "header");
    }
    // Nor does a seal of ours, in another place.
    let log = disk.bytes(segment).unwrap();
    let seal = &log[first.offset as usize - 128..first.offset as usize];
    let moved = disk.after_kill();
    moved.open(segment, false).unwrap().write_at(seal, u64::from(end.offset) + 100).unwrap();
    assert!(moved.flip(segment, u64::from(first.offset) + 9, 1));
    ended(&moved, first, "a seal elsewhere");
}

#[test]
fn damage_in_the_last_that_was_synced_is_never_a_cut() {
    let disk = disk();
    let journal = create(&disk).unwrap();
    let (mut told, mut random) = (Told::default(), Random(1));
    append(&journal, &mut told, &mut random, 300).unwrap();
    journal.sync().unwrap();
    let first = journal.mark().position;
    append(&journal, &mut told, &mut random, 400).unwrap();
    let end = journal.mark().position;
    journal.sync().unwrap();
    let segment = "log/00000001.seg";
    let is_damaged = |disk: &SimDisk, what: &str| {
        let (_, recovered) = open(disk).unwrap();
        assert_eq!(recovered.cut, None, "{what}");
        assert_eq!(recovered.damage.expect(what).at, first, "{what}");
    };
    for at in first.offset..end.offset {
        for bit in 0..8 {
            let disk = disk.after_kill();
            assert!(disk.flip(segment, at.into(), bit));
            is_damaged(&disk, &format!("bit {bit} of byte {at}"));
        }
    }
    let disk = disk.after_kill();
    disk.open(segment, false).unwrap().write_at(&[0; 48], first.offset.into()).unwrap();
    is_damaged(&disk, "header");
}

#[test]
fn a_segment_that_was_begun_and_has_no_record_is_cut_off() {
    let disk = disk();
    let journal = create(&disk).unwrap();
    let (mut told, mut random) = (Told::default(), Random(1));
    let last = loop {
        let before = journal.mark().position;
        append(&journal, &mut told, &mut random, 300).unwrap();
        if journal.mark().position.segment > 1 {
            break before;
        }
    };
    drop(journal);
    let killed = disk.after_kill();
    let len = killed.bytes("log/00000002.seg").unwrap().len();
    let zeros = vec![0; len - 256];
    killed.open("log/00000002.seg", false).unwrap().write_at(&zeros, 256).unwrap();
    let (journal, recovered) = open(&killed).unwrap();
    assert_eq!(recovered.damage, None);
    assert!(recovered.cut.unwrap().kept.iter().any(|path| path.contains("00000002")));
    assert!(journal.mark().position >= last);
    // What comes in its place is told of its damage.
    let mut told = Told { events: events(&journal), synced: 0 };
    let from = journal.mark().position;
    append(&journal, &mut told, &mut random, 0).unwrap();
    journal.sync().unwrap();
    drop(journal);
    let killed = killed.after_kill();
    let path = format!("log/{:08}.seg", from.segment);
    assert!(killed.flip(&path, u64::from(from.offset) + 30, 1));
    let (_, recovered) = open(&killed).unwrap();
    assert_eq!((recovered.cut, recovered.damage.map(|damage| damage.at)), (None, Some(from)));
}

#[test]
fn a_sync_that_fails_while_a_store_is_opened_is_made_up_for() {
    for seed in seeds::of(1..=6) {
        for nth in 0..6 {
            let disk = disk();
            let told = run(&disk, seed, u64::MAX, 60);
            let killed = disk.after_kill();
            killed.fail(Step::Sync, nth, 1, 5);
            let what = format!("seed {seed}, sync {nth} fails");
            // A later start makes it up, or this one got beyond it.
            let opened = open(&killed).map(drop).is_ok();
            let killed = killed.after_kill();
            open(&killed).map(drop).unwrap_or_else(|err| panic!("{what}, {opened}: {err}"));
            let told = Told { synced: told.events.len(), ..told };
            check(&killed.after_power_cut(seed + nth), &told, Stop::PowerCut, &what);
        }
    }
}

#[test]
fn a_sync_that_fails_while_a_store_is_closed_is_made_up_for() {
    for seed in seeds::of(1..=8) {
        for nth in 0..6 {
            let disk = disk();
            let journal = create(&disk).unwrap();
            let (mut told, mut random) = (Told::default(), Random(seed));
            append(&journal, &mut told, &mut random, 4096).unwrap();
            workload(&journal, &mut told, &mut random, 40).unwrap();
            disk.fail(Step::Sync, nth, 1, 5);
            let closed = journal.close();
            // Whoever asks for it again may be told that it is done only if it is.
            let _ = journal.sync_now();
            drop(journal);
            let what = format!("seed {seed}, sync {nth} fails: {closed:?}");
            let killed = disk.after_kill();
            killed.mend();
            drop(open(&killed).unwrap());
            told.synced = told.events.len();
            check(&killed.after_power_cut(seed * 7 + nth), &told, Stop::PowerCut, &what);
        }
    }
}

#[test]
fn where_recovery_begins_is_noted_down_once_the_disk_takes_it() {
    let begin = || {
        let disk = disk();
        let journal = create(&disk).unwrap();
        let (mut told, mut random) = (Told::default(), Random(3));
        for _ in 0..100 {
            append(&journal, &mut told, &mut random, 600).unwrap();
        }
        journal.sync().unwrap();
        (disk, journal)
    };
    let (disk, journal) = begin();
    journal.tick().unwrap();
    let wanted = Super::read(&disk).unwrap().scan_from;
    assert!(wanted > 2);
    let mut met = 0;
    for step in [Step::Write, Step::Sync] {
        for nth in 0..8 {
            let (disk, journal) = begin();
            disk.fail(step, nth, 1, 5);
            if journal.tick().is_ok() || journal.refusal().is_some() {
                continue;
            }
            disk.mend();
            journal.tick().unwrap();
            let found = Super::read(&disk).unwrap().scan_from;
            assert!(found >= wanted, "{step:?} {nth} fails: {found} of {wanted}");
            met += 1;
        }
    }
    assert!(met > 0, "`super` was never written");
}

#[test]
fn pages_that_were_dropped_after_a_failed_sync_are_not_believed() {
    for seed in seeds::of(1..=20) {
        let disk = disk();
        let journal = create(&disk).unwrap();
        let (mut told, mut random) = (Told::default(), Random(seed));
        append(&journal, &mut told, &mut random, 4096).unwrap();
        // Nobody hears of a store before its first event is durable.
        journal.sync().unwrap();
        told.synced = 1;
        disk.fail(Step::Sync, seed % 7, 1, 5);
        workload(&journal, &mut told, &mut random, 300).unwrap_err();
        drop(journal);
        let (journal, recovered) = open(&disk.after_kill_without_cache()).unwrap();
        assert_eq!((recovered.stop, recovered.damage), (Stop::Killed, None), "seed {seed}");
        // Every event that is there has its content, which this looks at.
        let found = events(&journal);
        assert!(found.len() >= told.synced, "seed {seed}");
        assert_eq!(found[..], told.events[..found.len()], "seed {seed}");
        let (next, last) = (journal.next_seq(), told.events.last().unwrap().0);
        assert!(next > last, "seed {seed}: {next} was used");
    }
}

#[test]
fn a_record_that_a_kill_cut_short_at_a_page_is_no_event() {
    let disk = disk();
    let journal = create(&disk).unwrap();
    let (mut told, mut random) = (Told::default(), Random(1));
    append(&journal, &mut told, &mut random, 300).unwrap();
    let end = journal.mark().position;
    append(&journal, &mut told, &mut random, 300).unwrap();
    // Salt and bytes did not arrive: no event has a salt of zeros.
    let len = journal.mark().position.offset - end.offset;
    let tail = u64::from(end.offset + len - 316);
    let killed = disk.after_kill();
    killed.open("log/00000001.seg", false).unwrap().write_at(&[0; 316], tail).unwrap();
    let (journal, recovered) = open(&killed).unwrap();
    assert_eq!(recovered.cut.unwrap().at, end);
    assert_eq!(events(&journal), told.events[..1]);
}

#[test]
fn a_torn_end_is_cut_off_on_a_full_disk_too() {
    for seed in seeds::of(0..=20) {
        let disk = disk();
        let journal = create(&disk).unwrap();
        let (mut told, mut random) = (Told::default(), Random(seed));
        for _ in 0..6 {
            append(&journal, &mut told, &mut random, 500).unwrap();
        }
        journal.sync().unwrap();
        told.synced = told.events.len();
        for _ in 0..8 {
            append(&journal, &mut told, &mut random, 900).unwrap();
        }
        drop(journal);
        let space = disk.space().unwrap();
        let after = disk.after_power_cut(seed);
        after.resize(space.total - space.available);
        let (journal, recovered) = open(&after).unwrap_or_else(|err| panic!("seed {seed}: {err}"));
        assert_eq!(recovered.damage, None, "seed {seed}");
        assert!(events(&journal).len() >= told.synced, "seed {seed}");
    }
}

#[test]
fn nothing_is_given_back_where_no_seal_can_vouch_for_what_was_before() {
    use lighthouse_fuse::store::codec::Freed;
    for nth in 0..8 {
        let disk = disk();
        let journal = create(&disk).unwrap();
        let (mut told, mut random) = (Told::default(), Random(5));
        append(&journal, &mut told, &mut random, 70_000).unwrap();
        append(&journal, &mut told, &mut random, 70_000).unwrap();
        let horizon = journal.next_seq();
        // Of a few writes in a row, seals among them.
        disk.fail(Step::Write, nth, 4, 5);
        let given = journal.give_back(horizon, vec![Freed { file: 1, offset: 0, len: 70_000 }]);
        let what = format!("write {nth} fails: {given:?}");
        for seed in 0..30 {
            let (_, recovered) = open(&disk.after_power_cut(seed)).unwrap();
            assert_eq!(recovered.damage, None, "{what}");
            let last = told.events.last().unwrap().0;
            assert!(recovered.end.seq == last || given.is_err(), "{what}, seed {seed}");
        }
    }
}

#[test]
fn content_given_back_reads_as_zeros_and_the_horizon_is_remembered() {
    use lighthouse_fuse::store::codec::Freed;
    let disk = disk();
    let journal = create(&disk).unwrap();
    let mut told = Told::default();
    let mut random = Random(5);
    append(&journal, &mut told, &mut random, 70_000).unwrap();
    append(&journal, &mut told, &mut random, 70_000).unwrap();
    let horizon = journal.next_seq();
    journal.give_back(horizon, vec![Freed { file: 1, offset: 0, len: 70_000 }]).unwrap();
    assert_eq!(journal.horizon(), horizon);
    let mut bytes = vec![1; 68 << 10];
    let first = Location { file: FileId::Content(1), offset: 0 };
    journal.content().read_at(first, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
    drop(journal);
    let cuts = seeds::of(0..100).map(|seed| disk.after_power_cut(seed));
    for after in std::iter::once(disk.after_kill()).chain(cuts) {
        let (journal, recovered) = open(&after).unwrap();
        assert_eq!((recovered.damage, recovered.cut), (None, None));
        assert_eq!(journal.horizon(), horizon);
        assert!(journal.next_seq() >= horizon);
    }
}

#[test]
fn what_cannot_be_given_back_is_tried_again_and_keeps_nothing_else() {
    use lighthouse_fuse::store::codec::Freed;
    const LEN: u64 = 70_000;
    let begin = || {
        let disk = disk();
        let journal = create(&disk).unwrap();
        let (mut told, mut random) = (Told::default(), Random(5));
        let places: Vec<_> = (0..3).map(|n| n * LEN.next_multiple_of(4096)).collect();
        for _ in &places {
            append(&journal, &mut told, &mut random, 70_000).unwrap();
        }
        let horizon = journal.next_seq();
        let freed = places.iter().map(|&offset| Freed { file: 1, offset, len: LEN });
        let freed: Vec<_> = freed.collect();
        (disk, journal, horizon, freed, places)
    };
    let (disk, journal, horizon, freed, _) = begin();
    let before = disk.steps();
    journal.give_back(horizon, freed).unwrap();
    let steps = disk.steps() - before;
    // The first of the three, which come last.
    let (disk, journal, horizon, freed, places) = begin();
    disk.fail(Step::Any, steps - 3, 1, 5);
    let given = journal.give_back(horizon, freed);
    assert!(matches!(given, Err(CommitError::Io(_))), "{given:?}");
    let is_gone = |&offset: &u64| {
        let mut bytes = vec![1; 64 << 10];
        let location = Location { file: FileId::Content(1), offset };
        journal.content().read_at(location, &mut bytes).unwrap();
        bytes.iter().all(|&byte| byte == 0)
    };
    assert_eq!(places.iter().map(is_gone).collect::<Vec<_>>(), [false, true, true]);
    // A file that is not there keeps nothing.
    journal.give_back(horizon, vec![Freed { file: 9, offset: 0, len: LEN }]).unwrap();
    assert!(places.iter().all(is_gone));
}
