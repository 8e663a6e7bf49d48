//! Small writes, which travel in the log, and what becomes of them when history gives way.
//!
//! A model of plain bytes goes along. Whatever is taken out of the log, and whatever happens meanwhile, every
//! tree that can still be shown must be the model's.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "common/byte_model.rs"]
mod byte_model;
#[path = "common/changes.rs"]
mod changes;
#[path = "common/seeds.rs"]
mod seeds;

use std::sync::Arc;

use lighthouse_fuse::store::disk::Disk;
use lighthouse_fuse::store::event::{Change, FileId, Place, Seq};
use lighthouse_fuse::store::log::{LogReader, Next};
use lighthouse_fuse::store::record::Entry;
use lighthouse_fuse::store::sim::{Random, SimDisk};
use lighthouse_fuse::store::superblock::{Shape, Super};
use lighthouse_fuse::store::{CommitError, CreateOptions, Store};

use byte_model::{Model, SHAPE, TOLD, create, look, open, options, squeezed, worn};
use changes::{check_all, relocations};

/// Every event of the log: its number, and the bytes of a small write, `None` if they are gone.
fn events(reader: &mut LogReader) -> Vec<(Seq, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    while let Next::Record(_, record) = reader.read().unwrap() {
        let Some(Entry::Event(event)) = record.entry() else { continue };
        let data = event.change.data().map(|data| data.place);
        let bytes = match data {
            Some(Place::Inline(bytes)) if !record.gone => Some(bytes.to_vec()),
            _ => None,
        };
        if let Change::Foreign(foreign) = &event.change {
            assert_eq!(foreign.body.place, Place::Inline(TOLD), "what was told is kept");
        }
        found.push((event.seq, bytes));
    }
    found
}

#[test]
fn every_tree_that_can_be_shown_is_the_models_whatever_was_taken_out() {
    let (mut runs, mut taken_out, mut moved) = (0, 0, 0);
    for seed in seeds::of(1..=6) {
        runs += 1;
        let mut disk = SimDisk::new(1 << 30);
        let mut random = Random(seed);
        let budget = [0, 10_000, 50_000][random.below(3)];
        let mut store = create(&disk, budget);
        let mut model = Model::new(&store);
        for round in 0..60 {
            let what = format!("seed {seed}, round {round}, budget {budget}");
            for _ in 0..12 {
                model.step(&store, &mut random).unwrap();
            }
            match random.below(3) {
                0 => model.wait(&store).unwrap(),
                _ => store.tick().unwrap(),
            }
            model.compare(&store, &what);
            match random.below(16) {
                0 => {
                    store.close().unwrap();
                    drop(store);
                    assert_eq!(check_all(&disk).findings, [], "{what}");
                    store = open(&disk, budget);
                }
                1 => {
                    drop(store);
                    disk = disk.after_kill();
                    store = open(&disk, budget);
                }
                2 => {
                    drop(store);
                    disk = disk.after_kill();
                    disk.remove("index/rows.redb").unwrap();
                    store = open(&disk, budget);
                }
                3 => {
                    drop(store);
                    disk = disk.after_power_cut(seed * 100 + round);
                    store = open(&disk, budget);
                    model.forget_after(&store);
                }
                _ => continue,
            }
            model.compare(&store, &format!("{what}, after a new start"));
        }
        taken_out += squeezed(&disk).len();
        moved += relocations(&store);
        let mut reader = store.log(None).unwrap();
        assert!(events(&mut reader).iter().any(|(_, bytes)| bytes.as_deref() == Some(TOLD)));
        drop(store);
        let report = check_all(&disk);
        assert_eq!(report.findings, [], "seed {seed}");
        assert!(report.gone_bytes > 0, "seed {seed}");
    }
    assert!(taken_out > 20 * runs, "only {taken_out} segments were squeezed");
    assert!(moved > 5 * runs, "only {moved} relocations were met");
}

#[test]
fn rewriting_a_small_file_for_ever_keeps_the_store_small() {
    const ROUNDS: u64 = 4000;
    let shape = Shape { segment_len: 64 << 10, ..SHAPE };
    let written = ROUNDS * 3072;
    let run = |pinned: bool| {
        let disk = SimDisk::new(1 << 30);
        let create = CreateOptions { shape, ..CreateOptions::default() };
        let budget = 256 << 10;
        let store = Store::create_on(Arc::new(disk.clone()), &create, &options(budget)).unwrap();
        let mut model = Model::default();
        model.make(&store).unwrap();
        if pinned {
            store.label(b"all of it", None).unwrap();
        }
        let mut largest = 0;
        for round in 0..ROUNDS {
            model.write_new(&store, 0, 0, 3072).unwrap();
            if round % 20 == 0 {
                store.tick().unwrap();
                largest = largest.max(store.size().unwrap().log);
            }
        }
        model.compare(&store, "at the end");
        let kept = store.read().last().0 - store.horizon().0;
        store.close().unwrap();
        drop(store);
        assert_eq!(check_all(&disk).findings, []);
        (largest, kept)
    };
    let (largest, kept) = run(false);
    println!("{largest} bytes of log for {written} written");
    // The events stay; each takes some 110 bytes, and each sync its seal.
    assert!(largest < ROUNDS * 150 + (256 << 10) + 5 * (64 << 10), "{largest} bytes of log");
    // What the budget has room for is kept: no more history goes than must.
    assert!(kept >= (256 << 10) / 3072 - 25, "only {kept} trees are kept");
    // And where history may not go, nothing is taken out.
    let (largest, kept) = run(true);
    assert!(largest > written, "{largest} bytes of log");
    assert!(kept > ROUNDS - 10);
}

#[test]
fn a_crash_at_any_step_leaves_one_of_the_two_segments_whole() {
    const TICKS: usize = 4;
    let work = |store: &Store, model: &mut Model| -> Result<(), CommitError> {
        for n in 0..TICKS {
            store.tick()?;
            model.write_new(store, 1, n * 100, 50)?;
        }
        Ok(())
    };
    let disk = SimDisk::new(64 << 20);
    let (store, mut model) = worn(&disk);
    let before = disk.steps();
    work(&store, &mut model).unwrap();
    let steps = disk.steps() - before;
    assert!(squeezed(&disk).len() >= 2, "{} segments are squeezed", squeezed(&disk).len());
    let mut met = [0; 2];
    for step in 0..=steps {
        let disk = SimDisk::new(64 << 20);
        let (store, mut model) = worn(&disk);
        disk.cut_after(step);
        let _ = work(&store, &mut model);
        drop(store);
        let cut = |seed: u64| disk.after_power_cut(step ^ (seed << 20));
        for (disk, how) in [(disk.after_kill(), "killed"), (cut(1), "power"), (cut(2), "power")] {
            let what = format!("{how} after step {step}");
            let left = disk.list("log").unwrap().iter().any(|name| name.ends_with(".new"));
            met[usize::from(left)] += 1;
            let mut model = model.clone();
            let store = open(&disk, 0);
            let names = disk.list("log").unwrap();
            assert!(names.iter().all(|name| name.ends_with(".seg")), "{what}: {names:?}");
            if how == "power" {
                model.forget_after(&store);
            }
            model.compare(&store, &what);
            let report = check_all(&disk);
            assert_eq!(report.findings, [], "{what}");
            // It goes on from there, and an index made anew says the same.
            work(&store, &mut model).unwrap();
            model.compare(&store, &what);
            assert!(squeezed(&disk).len() >= 2, "{what}");
            drop(store);
            let disk = disk.after_kill();
            disk.remove("index/rows.redb").unwrap();
            let store = open(&disk, 0);
            model.compare(&store, &format!("{what}, rebuilt"));
            store.close().unwrap();
            drop(store);
            assert_eq!(check_all(&disk).findings, [], "{what}, closed");
        }
    }
    assert!(met[0] > 0 && met[1] > 0, "with and without leftovers: {met:?}");
}

#[test]
fn whoever_read_before_reads_on_and_whoever_comes_after_reads_the_same_events() {
    let disk = SimDisk::new(64 << 20);
    let (store, mut model) = worn(&disk);
    let mut before = store.log(None).unwrap();
    let mut middle = store.log(None).unwrap();
    let mut begun = Vec::new();
    // Into the first segment, and no further.
    for _ in 0..6 {
        let Next::Record(_, record) = middle.read().unwrap() else { panic!("there are more") };
        begun.extend(record.is_event().then(|| record.stamp().seq));
    }
    let kept = middle.mark();
    for _ in 0..4 {
        store.tick().unwrap();
        model.write_new(&store, 1, 0, 50).unwrap();
    }
    assert!(squeezed(&disk).len() >= 2);
    let old = events(&mut before);
    let new = events(&mut store.log(None).unwrap());
    let resumed = events(&mut store.log(Some(kept)).unwrap());
    let seqs =
        |found: &[(Seq, Option<Vec<u8>>)]| found.iter().map(|(seq, _)| *seq).collect::<Vec<_>>();
    assert_eq!(seqs(&old), seqs(&new));
    assert_eq!(seqs(&events(&mut middle)), seqs(&resumed));
    assert_eq!([begun, seqs(&resumed)].concat(), seqs(&new));
    // The old file is read as it was: only the first segment was open.
    let gone = |found: &[(Seq, Option<Vec<u8>>)]| found.iter().filter(|(_, b)| b.is_none()).count();
    assert!(gone(&old) < gone(&new), "{} and {}", gone(&old), gone(&new));
    // From anywhere on, by number.
    for (seq, _) in &new {
        let mut reader = store.log_from(*seq).unwrap();
        assert_eq!(events(&mut reader).first().map(|(seq, _)| *seq), Some(*seq));
    }
}

#[test]
fn nothing_is_taken_from_under_a_reader_of_the_past() {
    let disk = SimDisk::new(64 << 20);
    let (store, model) = worn(&disk);
    let at = *model.trees.keys().nth(6).unwrap();
    let ino = model.files[0].ino;
    let pin = store.pin();
    let mut stretches = Vec::new();
    store.read().stretches(ino, 0, 3000, at, &mut stretches).unwrap();
    assert!(matches!(stretches[0].at.unwrap().file, FileId::Log(1)));
    let mut then = vec![0; 3000];
    store.read_content(&stretches, &mut then).unwrap();
    std::thread::scope(|scope| {
        let ticking = scope.spawn(|| (0..3).for_each(|_| store.tick().unwrap()));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!ticking.is_finished(), "it waits");
        assert!(store.horizon() > at, "but says at once what cannot be asked any more");
        let mut now = vec![0; 3000];
        store.read_content(&stretches, &mut now).unwrap();
        assert!(then == now);
        drop(pin);
    });
    assert!(!squeezed(&disk).is_empty());
    let mut now = vec![1; 3000];
    store.read_content(&stretches, &mut now).unwrap();
    assert_eq!(now, [0; 3000], "what the server had open is not what it has now");
    model.compare(&store, "afterwards");
}

#[test]
fn every_flipped_bit_of_a_squeezed_segment_is_found_with_its_place() {
    let disk = SimDisk::new(64 << 20);
    let (store, mut model) = worn(&disk);
    for _ in 0..4 {
        store.tick().unwrap();
        model.write_new(&store, 1, 0, 50).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let clean = check_all(&disk);
    assert_eq!(clean.findings, []);
    assert!(clean.gone_bytes > 20_000, "{} bytes are gone", clean.gone_bytes);
    let files = squeezed(&disk);
    assert!(files.len() >= 2);
    let mut random = Random(11);
    for (path, bytes) in files {
        for at in 0..bytes.len() as u64 {
            // Header and map whole, the rest here and there.
            if at > 120 && random.below(25) > 0 {
                continue;
            }
            let disk = disk.after_kill();
            let bit = u8::try_from(random.below(8)).unwrap();
            assert!(disk.flip(&path, at, bit));
            let what = format!("{path}, byte {at}, bit {bit}");
            let report = check_all(&disk);
            let found = report.findings.iter().find(|finding| finding.file == path);
            let Some(found) = found else { panic!("{what} was not found: {:?}", report.findings) };
            assert!(found.offset <= at, "{what} was found at {}", found.offset);
            assert!(at - found.offset < 4200, "{what} was found at {}", found.offset);
            // Whatever is asked is answered or refused.
            if at % 7 == 0 {
                if at % 2 == 0 {
                    disk.remove("index/rows.redb").unwrap();
                }
                if let Ok(store) = Store::open_on(Arc::new(disk.clone()), &options(0)) {
                    let _ = look(&store, Seq::NOW);
                    let _ = store.tick();
                    let _ = store.close();
                }
            }
        }
        for len in [0, 7, 8, 35, 36, 60, bytes.len() as u64 - 1] {
            let disk = disk.after_kill();
            disk.open(&path, false).unwrap().set_len(len).unwrap();
            let found = check_all(&disk).findings;
            assert!(found.iter().any(|finding| finding.file == path), "cut to {len}: {found:?}");
        }
    }
}

#[test]
fn zeros_in_a_segment_that_was_never_squeezed_are_damage() {
    let disk = SimDisk::new(64 << 20);
    let (store, model) = worn(&disk);
    let mut stretches = Vec::new();
    store.read().stretches(model.files[0].ino, 0, 3000, Seq::NOW, &mut stretches).unwrap();
    let place = stretches[0].at.unwrap();
    store.close().unwrap();
    drop(store);
    let FileId::Log(number) = place.file else { panic!("small writes are in the log") };
    let path = format!("log/{number:08}.seg");
    // Salt and content, as if both had been taken out.
    disk.open(&path, false).unwrap().write_at(&[0; 3016], place.offset - 16).unwrap();
    let found = check_all(&disk).findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0].file, found[0].offset), (&path, place.offset - 16));
}

#[test]
fn programs_that_do_not_know_of_it_are_told_by_the_version_in_super() {
    let disk = SimDisk::new(64 << 20);
    let (store, mut model) = worn(&disk);
    assert_eq!(Super::read(&disk).unwrap().version, 1, "as long as there is nothing to know");
    for _ in 0..4 {
        store.tick().unwrap();
        model.write_new(&store, 1, 0, 50).unwrap();
    }
    assert!(!squeezed(&disk).is_empty());
    let bytes = disk.bytes("super").unwrap();
    for copy in [0, 4096] {
        assert_eq!(bytes[copy + 8..copy + 12], 2_u32.to_le_bytes(), "the copy at {copy}");
    }
    store.close().unwrap();
    drop(store);
    assert_eq!(Super::read(&disk).unwrap().version, 2);
    let store = open(&disk, 0);
    model.compare(&store, "after a new start");
}

#[test]
fn a_small_write_on_a_full_disk_takes_its_space_from_history() {
    let disk = SimDisk::new(2 << 20);
    let store = create(&disk, u64::MAX);
    let mut model = Model::default();
    model.make(&store).unwrap();
    store.label(b"all of it", None).unwrap();
    let err = loop {
        if let Err(err) = model.write_new(&store, 0, 0, 3072) {
            break err;
        }
        assert!(model.count < 1000);
        store.tick().unwrap();
    };
    assert!(matches!(err, CommitError::NoSpace), "{err:?}");
    assert!(squeezed(&disk).is_empty());
    store.unlabel(b"all of it").unwrap();
    // Nothing else runs: only the write itself can make room.
    for round in 0..100 {
        let written = model.write_new(&store, 0, 0, 3072);
        written.unwrap_or_else(|err| panic!("round {round}: {err}"));
    }
    model.compare(&store, "after the disk was full");
    assert!(!squeezed(&disk).is_empty());
    // And with the store's own thread, for ever.
    for _ in 0..2000 {
        model.write_new(&store, 0, 0, 3072).unwrap();
        store.tick().unwrap();
    }
    model.compare(&store, "at the end");
}

/// Leaves not one byte free.
fn take_the_rest(disk: &SimDisk) {
    let space = disk.space().unwrap();
    disk.resize(space.total - space.available);
    assert_eq!(disk.space().unwrap().available, 0);
}

#[test]
fn on_a_disk_without_one_byte_free_dead_writes_make_room_for_new_ones() {
    let disk = SimDisk::new(16 << 20);
    let store = create(&disk, u64::MAX);
    let mut model = Model::default();
    model.make(&store).unwrap();
    for _ in 0..100 {
        model.write_new(&store, 0, 0, 3072).unwrap();
        store.tick().unwrap();
    }
    assert!(squeezed(&disk).is_empty());
    take_the_rest(&disk);
    // Many times what the log has set aside, and no content file has anything to give.
    for round in 0..400 {
        let written = model.write_new(&store, 0, 0, 3072);
        written.unwrap_or_else(|err| panic!("round {round}: {err}"));
        if round % 3 == 0 {
            store.tick().unwrap();
        }
    }
    model.compare(&store, "with nothing free");
    assert!(squeezed(&disk).len() > 5);
    store.close().unwrap();
    drop(store);
    assert_eq!(check_all(&disk).findings, []);
    let store = open(&disk.after_kill(), u64::MAX);
    model.compare(&store, "after a start");
}

#[test]
fn on_a_disk_without_one_byte_free_files_can_be_removed_and_space_comes_back() {
    let disk = SimDisk::new(16 << 20);
    let store = create(&disk, u64::MAX);
    let mut model = Model::default();
    for file in 0..60 {
        model.make(&store).unwrap();
        model.write_new(&store, file, 0, 3072).unwrap();
        store.tick().unwrap();
    }
    take_the_rest(&disk);
    let err = loop {
        let made = model.make(&store);
        let last = model.files.len() - 1;
        match made.and_then(|()| model.write_new(&store, last, 0, 3072)) {
            Ok(()) => assert!(model.count < 1000),
            Err(err) => break err,
        }
    };
    assert!(matches!(err, CommitError::NoSpace), "{err:?}");
    while model.files.len() > 5 {
        model
            .remove(&store, 0)
            .unwrap_or_else(|err| panic!("{} are left: {err}", model.files.len()));
    }
    for round in 0..100 {
        let written = model.write_new(&store, 0, 0, 3072);
        written.unwrap_or_else(|err| panic!("round {round}: {err}"));
    }
    model.compare(&store, "after most was removed");
}

#[test]
fn a_clone_keeps_what_its_source_was_moved_away_from_afterwards() {
    // In the log, and in content files.
    for len in [600, 5000] {
        let disk = SimDisk::new(256 << 20);
        let store = create(&disk, u64::MAX);
        let mut model = Model::default();
        for _ in 0..4 {
            model.make(&store).unwrap();
        }
        // Backwards, so that no two pieces lie side by side.
        for n in (0..80).rev() {
            model.write_new(&store, 0, n * len, len).unwrap();
        }
        model.clone_range(&store, (0, 70 * len), (1, 0), len).unwrap();
        model.write_new(&store, 1, 0, len).unwrap();
        let last = store.read().last();
        store.label(b"here", Some(last)).unwrap();
        // Only now, and neither the source nor what was cloned first has it at the label any more.
        model.clone_range(&store, (0, 70 * len), (2, 0), len).unwrap();
        model.wait(&store).unwrap();
        assert!(relocations(&store) > 0);
        store.close().unwrap();
        drop(store);
        // No history, but for what the label keeps.
        let store = open(&disk, 0);
        for _ in 0..30 {
            model.write_new(&store, 3, 0, 3000).unwrap();
            store.tick().unwrap();
        }
        assert_eq!(store.horizon(), last);
        model.compare(&store, &format!("pieces of {len}"));
        assert_eq!(squeezed(&disk).is_empty(), len > 4000);
        store.unlabel(b"here").unwrap();
        for _ in 0..30 {
            model.write_new(&store, 3, 0, 3000).unwrap();
            store.tick().unwrap();
        }
        assert!(store.horizon() > last);
        model.compare(&store, &format!("pieces of {len}, without the label"));
        assert!(!squeezed(&disk).is_empty());
    }
}

#[test]
fn what_died_before_a_start_is_taken_out_after_it() {
    let disk = SimDisk::new(64 << 20);
    let (store, mut model) = worn(&disk);
    drop(store);
    // Ample at first: nothing is taken out.
    let store = open(&disk, u64::MAX);
    for _ in 0..40 {
        model.write_new(&store, 0, 0, 3000).unwrap();
        store.tick().unwrap();
    }
    assert_eq!(squeezed(&disk).len(), 0);
    store.close().unwrap();
    drop(store);
    let before = open(&disk, u64::MAX).size().unwrap().log;
    let store = open(&disk, 20_000);
    for _ in 0..6 {
        store.tick().unwrap();
        model.write_new(&store, 1, 0, 50).unwrap();
    }
    let after = store.size().unwrap().log;
    assert!(after < before / 2, "{before} bytes of log, then {after}");
    model.compare(&store, "with a smaller budget");
    // Once more: what was taken out is known, so that history does not go on going.
    let horizon = store.horizon();
    store.close().unwrap();
    drop(store);
    let store = open(&disk, 40_000);
    store.tick().unwrap();
    store.tick().unwrap();
    assert_eq!(store.horizon(), horizon);
}
