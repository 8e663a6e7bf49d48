//! What shows only where the tree and a real store work together.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use lighthouse_fuse::store::event::{Ino, Seq};
use lighthouse_fuse::store::sim::SimDisk;
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Placed, Store};
use lighthouse_fuse::tree::operation::{Attributes, Caller, Operation, RenameHow, WriteTo};
use lighthouse_fuse::tree::watch::Expected;
use lighthouse_fuse::tree::{Refusal, Tree};

const ROOT: Ino = Ino::ROOT;

fn create(dir: &Path) -> Tree {
    let store = Store::create(dir, &CreateOptions::default(), &OpenOptions::default());
    Tree::new(Arc::new(store.unwrap()))
}

fn open(dir: &Path) -> Tree {
    Tree::new(Arc::new(Store::open(dir, &OpenOptions::default()).unwrap()))
}

fn make(tree: &Tree, name: &[u8]) -> Ino {
    let (mode, rdev, exclusive, security) = (0o644, 0, true, None);
    let operation = Operation::Make { parent: ROOT, name, mode, rdev, exclusive, security };
    tree.perform(&Caller::default(), &operation).unwrap().inode.unwrap().ino
}

fn write(tree: &Tree, ino: Ino, offset: u64, bytes: &[u8]) -> Seq {
    tree.write(&Caller::default(), ino, WriteTo::Offset(offset), bytes, false).unwrap().seq.unwrap()
}

fn content(tree: &Tree, ino: Ino, at: Seq) -> Vec<u8> {
    let size = tree.inode(ino, at).unwrap().size;
    let mut bytes = vec![0x55; size as usize + 10];
    let len = tree.read(ino, 0, &mut bytes, at).unwrap();
    assert_eq!(len as u64, size);
    bytes.truncate(len);
    bytes
}

#[test]
fn appends_of_many_threads_lie_side_by_side() {
    const THREADS: u8 = 4;
    const EACH: usize = 60;
    let dir = tempfile::tempdir().unwrap();
    let tree = create(&dir.path().join("store"));
    let file = make(&tree, b"log");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let tree = tree.clone();
            scope.spawn(move || {
                for number in 0..EACH {
                    // Some travel in their event, some go to a content file.
                    let line = vec![thread; if number % 3 == 0 { 5000 } else { 100 }];
                    tree.write(&Caller::default(), file, WriteTo::End, &line, false).unwrap();
                }
            });
        }
    });
    let bytes = content(&tree, file, Seq::NOW);
    let long = EACH.div_ceil(3);
    assert_eq!(bytes.len(), usize::from(THREADS) * (long * 5000 + (EACH - long) * 100));
    // Every sequence is the one before it and one whole line.
    let mut before = 0;
    let last = tree.last();
    for seq in (0..).map(|n| Seq(file.0 + 1 + n)).take_while(|&seq| seq <= last) {
        let now = content(&tree, file, seq);
        assert!(bytes.starts_with(&now), "at {seq}");
        let line = &now[before..];
        assert!(matches!(line.len(), 100 | 5000), "at {seq}: {}", line.len());
        assert!(line.iter().all(|byte| *byte == line[0]), "at {seq}");
        before = now.len();
    }
    assert_eq!(before, bytes.len());
}

#[test]
fn renames_of_many_threads_leave_a_tree() {
    let dir = tempfile::tempdir().unwrap();
    let tree = create(&dir.path().join("store"));
    let mut dirs = vec![ROOT];
    for number in 0..6_u8 {
        let parent = dirs[usize::from(number) / 2];
        let (mode, rdev, exclusive, security) = (0o040_755, 0, true, None);
        let name = &[b'd', b'0' + number];
        let operation = Operation::Make { parent, name, mode, rdev, exclusive, security };
        let made = tree.perform(&Caller::default(), &operation).unwrap();
        dirs.push(made.inode.unwrap().ino);
    }
    std::thread::scope(|scope| {
        for thread in 0..3_usize {
            let (tree, dirs) = (tree.clone(), dirs.clone());
            scope.spawn(move || {
                for step in 0..300_usize {
                    let pick = |n: usize| dirs[(step * n + thread * 5 + step / 7) % dirs.len()];
                    let moved = pick(3);
                    let name = tree.names(moved, Seq::NOW).unwrap().pop();
                    let Some((parent, name)) = name else { continue };
                    let operation = Operation::Rename {
                        parent,
                        name: &name,
                        new_parent: pick(5),
                        new_name: &name,
                        how: RenameHow::NoReplace,
                    };
                    match tree.perform(&Caller::default(), &operation) {
                        Ok(_)
                        | Err(Refusal::CrossesItself | Refusal::NotFound | Refusal::Exists) => (),
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    assert!(tree.last().0 > dirs.len() as u64 + 20, "hardly anything moved");
    // From every directory a way leads up to the root.
    for &dir in &dirs {
        let mut at = dir;
        let way = (0..dirs.len()).take_while(|_| {
            at = tree.parent(at, Seq::NOW).unwrap();
            at != ROOT
        });
        assert!(way.count() < dirs.len(), "{dir} is cut off");
    }
}

#[test]
fn a_start_ends_what_lost_its_last_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("store");
    let tree = create(&dir);
    let (kept, lost) = (make(&tree, b"kept"), make(&tree, b"lost"));
    write(&tree, lost, 0, b"still open");
    let named = tree.last();
    tree.perform(&Caller::default(), &Operation::Unlink { parent: ROOT, name: b"lost" }).unwrap();
    let tmpfile = Operation::Tmpfile { parent: ROOT, mode: 0o600, security: None };
    let tmpfile = tree.perform(&Caller::default(), &tmpfile).unwrap().inode.unwrap();
    assert_eq!(tmpfile.nlink, 0);
    assert_eq!(content(&tree, lost, Seq::NOW), b"still open");
    drop(tree);
    let tree = open(&dir);
    assert_eq!(tree.end_orphans().unwrap(), 2);
    assert_eq!(tree.end_orphans().unwrap(), 0);
    assert!(matches!(tree.inode(lost, Seq::NOW), Err(Refusal::Stale)));
    assert!(matches!(tree.inode(tmpfile.ino, Seq::NOW), Err(Refusal::Stale)));
    assert_eq!(tree.inode(kept, Seq::NOW).unwrap().nlink, 1);
    assert_eq!(tree.lookup(ROOT, b"lost", named).unwrap().ino, lost);
    assert_eq!(content(&tree, lost, named), b"still open");
}

#[test]
fn setting_aside_more_than_the_disk_has_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tree = create(&dir.path().join("store"));
    let file = make(&tree, b"f");
    let last = tree.last();
    let ask = |flags, len| {
        let operation =
            Operation::Allocate { ino: file, flags, offset: 0, len, kill_set_id: false };
        tree.perform(&Caller::default(), &operation)
    };
    assert!(matches!(ask(0, 1 << 60), Err(Refusal::NoSpace)));
    assert_eq!(tree.last(), last);
    // A hole needs no space.
    assert!(ask(3, 1 << 60).is_ok());
    ask(1, 1 << 20).unwrap();
    let file = tree.inode(file, Seq::NOW).unwrap();
    assert_eq!((file.size, file.allocated), (0, 1 << 20));
}

#[test]
fn a_file_of_a_tebibyte_is_mostly_a_hole() {
    const TIB: u64 = 1 << 40;
    let dir = tempfile::tempdir().unwrap();
    let tree = create(&dir.path().join("store"));
    let file = make(&tree, b"f");
    let set = Attributes { size: Some(TIB), ..Attributes::default() };
    tree.perform(&Caller::default(), &Operation::SetAttributes { ino: file, set }).unwrap();
    let written = write(&tree, file, TIB / 2, b"middle");
    let mut bytes = [1; 16];
    assert_eq!(tree.read(file, TIB / 2 - 4, &mut bytes, Seq::NOW).unwrap(), 16);
    assert_eq!(&bytes, b"\0\0\0\0middle\0\0\0\0\0\0");
    assert_eq!(tree.read(file, TIB - 3, &mut bytes, Seq::NOW).unwrap(), 3);
    assert_eq!(tree.read(file, TIB, &mut bytes, Seq::NOW).unwrap(), 0);
    assert_eq!(tree.read(file, u64::MAX, &mut bytes, Seq::NOW).unwrap(), 0);
    let data = tree.seek(file, 0, false, Seq::NOW).unwrap();
    assert!(data <= TIB / 2 && TIB / 2 - data < 65_536, "{data}");
    let set = Attributes { size: Some(0), ..Attributes::default() };
    tree.perform(&Caller::default(), &Operation::SetAttributes { ino: file, set }).unwrap();
    assert_eq!(tree.read(file, TIB / 2, &mut bytes, written).unwrap(), 16);
    assert_eq!(&bytes[..6], b"middle");
}

#[test]
fn content_from_before_the_horizon_is_refused_and_never_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions { history: Some(0), sync_interval: None, ..OpenOptions::default() };
    let store = Store::create(&dir.path().join("store"), &CreateOptions::default(), &options);
    let tree = Tree::new(Arc::new(store.unwrap()));
    let file = make(&tree, b"f");
    let written: Vec<Seq> =
        (1..=20).map(|fill| write(&tree, file, 0, &vec![fill; 1 << 20])).collect();
    for _ in 0..5 {
        tree.store().tick().unwrap();
    }
    let horizon = tree.store().horizon();
    assert!(horizon > written[0], "history has no budget, and stays at {horizon}");
    for (fill, &seq) in (1..).zip(&written) {
        let mut bytes = vec![0; 4096];
        match tree.read(file, 8192, &mut bytes, seq) {
            Ok(len) => {
                assert!(seq >= horizon);
                assert_eq!((len, &bytes), (4096, &vec![fill; 4096]), "at {seq}");
            }
            Err(Refusal::Stale) => assert!(seq < horizon),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(content(&tree, file, Seq::NOW), vec![20; 1 << 20]);
}

#[test]
fn a_listing_that_stops_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let tree = create(&dir.path().join("store"));
    for number in 0..300 {
        make(&tree, format!("n{number}").as_bytes());
    }
    let (mut from, mut seen) = (0, Vec::new());
    loop {
        let (mut last, mut count) = (None, 0);
        tree.list_with_attributes(ROOT, from, Seq::NOW, &mut |hash, name, inode| {
            if count >= 7 && last != Some(hash) {
                return ControlFlow::Break(());
            }
            (last, count) = (Some(hash), count + 1);
            seen.push((name.to_vec(), inode.ino));
            ControlFlow::Continue(())
        })
        .unwrap();
        let Some(last) = last else { break };
        from = last + 1;
        // A name that goes meanwhile, and was seen, moves no other.
        if let Some((name, _)) = seen.get(seen.len() / 2)
            && seen.len() < 20
        {
            let unlink = Operation::Unlink { parent: ROOT, name };
            let _ = tree.perform(&Caller::default(), &unlink);
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 300);
}

#[test]
fn what_is_refused_keeps_no_space() {
    let dir = tempfile::tempdir().unwrap();
    let tree = create(&dir.path().join("store"));
    let file = make(&tree, b"file");
    write(&tree, file, 0, &[1; 100]);
    let before = tree.store().size().unwrap().content;
    let expected =
        Expected { entry: Some((ROOT, b"another")), ino: file, version: None, source: None };
    let (bytes, to) = (vec![7; 1 << 20], WriteTo::Whole);
    for _ in 0..100 {
        let refused =
            tree.write_beside(&Caller::default(), file, to, &bytes, false, Some(&expected));
        assert!(matches!(refused, Err(Refusal::Stale)), "{refused:?}");
        let refused = tree.write(&Caller::default(), ROOT, WriteTo::Offset(0), &bytes, false);
        assert!(matches!(refused, Err(Refusal::IsADirectory)), "{refused:?}");
    }
    let after = tree.store().size().unwrap().content;
    assert!(after <= before + (32 << 20), "{after} bytes after {before}");
    assert_eq!(content(&tree, file, Seq::NOW), [1; 100]);
}

#[test]
fn a_mount_that_comes_later_ends_no_content_that_is_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let tree = create(&dir.path().join("store"));
    let caller = Caller::default();
    let nameless = Operation::Tmpfile { parent: ROOT, mode: 0o100_600, security: None };
    let staged = tree.perform_beside(&caller, &nameless, None).unwrap().inode.unwrap().ino;
    // What the handles of an earlier mount kept.
    let left = tree.perform(&caller, &nameless).unwrap().inode.unwrap().ino;
    assert_eq!(tree.end_orphans().unwrap(), 1);
    assert!(matches!(tree.inode(left, Seq::NOW), Err(Refusal::Stale)));
    tree.write_beside(&caller, staged, WriteTo::Offset(0), b"more", false, None).unwrap();
    let link = Operation::Link { ino: staged, parent: ROOT, name: b"file" };
    tree.perform_beside(&caller, &link, None).unwrap();
    tree.perform(&caller, &Operation::Unlink { parent: ROOT, name: b"file" }).unwrap();
    assert_eq!(tree.end_orphans().unwrap(), 1, "it is as any other once it had a name");
}

#[test]
fn holes_and_data_are_found_in_files_of_many_chunks() {
    const CHUNK: u64 = 64 << 10;
    const MIDDLE: u64 = 5000;
    let dir = tempfile::tempdir().unwrap();
    let tree = create(&dir.path().join("store"));
    let file = make(&tree, b"file");
    let source = make(&tree, b"source");
    write(&tree, source, 0, &[7; 1 << 20]);
    // Data, by reference, in more chunks than are looked at in one go; a hole of one chunk; and data again.
    let len = 1 << 20;
    for n in 0..MIDDLE * CHUNK / len {
        let (src, src_offset, dst, dst_offset) = (source, 0, file, n * len);
        let copy = Operation::Copy {
            src,
            src_offset,
            dst,
            dst_offset,
            len,
            uncut: false,
            ends: false,
            kill_set_id: false,
        };
        tree.perform(&Caller::default(), &copy).unwrap();
    }
    let end = MIDDLE * CHUNK / len * len;
    write(&tree, file, end + CHUNK, &[8; 100]);
    assert_eq!(tree.seek(file, 0, true, Seq::NOW).unwrap(), end);
    assert_eq!(tree.seek(file, 5, false, Seq::NOW).unwrap(), 5);
    assert_eq!(tree.seek(file, end, false, Seq::NOW).unwrap(), end + CHUNK);
    assert_eq!(tree.seek(file, end + CHUNK, true, Seq::NOW).unwrap(), end + CHUNK + 100);
    // As many chunks that were data once.
    let flags = 3; // FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    let punch = Operation::Allocate { ino: file, flags, offset: 0, len: end, kill_set_id: false };
    tree.perform(&Caller::default(), &punch).unwrap();
    assert_eq!(tree.seek(file, 0, false, Seq::NOW).unwrap(), end + CHUNK);
    assert_eq!(tree.seek(file, 0, true, Seq::NOW).unwrap(), 0);
}

#[test]
fn what_nobody_else_has_in_memory_stays_in_the_page_cache_as_long_as_a_file_has_it() {
    const PIECE: u64 = 1 << 20;
    let disk = SimDisk::new(1 << 30);
    let quiet = OpenOptions { sync_interval: None, ..OpenOptions::default() };
    let store = Store::create_on(Arc::new(disk.clone()), &CreateOptions::default(), &quiet);
    let tree = Tree::new(Arc::new(store.unwrap()));
    let caller = Caller::default();
    let written = |name: &[u8], pieces: u64| {
        let file = make(&tree, name);
        for n in 0..pieces {
            let to = WriteTo::GoesOn(n * PIECE);
            let mut placed = Placed::only_here();
            tree.write_placed(&caller, file, to, &[1; PIECE as usize], false, &mut placed).unwrap();
        }
        file
    };
    let (cut, ended, short) = (written(b"cut", 30), written(b"ended", 20), written(b"short", 2));
    tree.store().tick().unwrap();
    assert_eq!(disk.uncached(), []);
    let leaves = |operation: &Operation<'_>| {
        let before = disk.uncached().len();
        tree.perform(&caller, operation).unwrap();
        tree.store().tick().unwrap();
        disk.uncached()[before..].iter().map(|(_, len)| len).sum::<u64>()
    };
    let set = Attributes { size: Some(10 * PIECE), ..Attributes::default() };
    assert_eq!(leaves(&Operation::SetAttributes { ino: cut, set }), 20 * PIECE);
    for (ino, name, pieces) in [(cut, &b"cut"[..], 10), (ended, b"ended", 20), (short, b"short", 0)]
    {
        assert_eq!(leaves(&Operation::Unlink { parent: ROOT, name }), 0);
        assert_eq!(leaves(&Operation::End { ino }), pieces * PIECE);
    }
}
