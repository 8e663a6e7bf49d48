//! Random operations run against the tree and against a plain model of POSIX at once: each must come to
//! the same, down to which refusal, and both trees must be equal after every step.
//!
//! The model is remembered after every event; at the end the tree at every sequence is compared with
//! the model of that time: as it is, after the store was opened again, and after its index was deleted
//! and rebuilt.
//!
//! `LIGHTHOUSE_FUSE_SEED=N` runs one seed, `LIGHTHOUSE_FUSE_STEPS=N` says how long.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

#[path = "common/posix.rs"]
mod posix;
#[path = "common/seeds.rs"]
mod seeds;
#[path = "common/steps.rs"]
mod steps;

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use lighthouse_fuse::store::event::{Ino, Seq, Timestamp};
use lighthouse_fuse::store::index::Inode;
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Origin, Store};
use lighthouse_fuse::tree::operation::{
    Attributes, Caller, Operation, RenameHow, TimeTo, WriteTo, XattrMust,
};
use lighthouse_fuse::tree::{Outcome, Refusal, Tree};
use rustix::io::Errno;

use posix::{Body, Done, IFDIR, IFMT, Model, Node, Set, Stamp, Step};

/// The errno that a program would see; of refusals no step may meet, the text.
fn errno(refusal: &Refusal) -> Errno {
    match refusal {
        Refusal::NotFound => Errno::NOENT,
        Refusal::Stale => Errno::STALE,
        Refusal::Exists => Errno::EXIST,
        Refusal::NotADirectory => Errno::NOTDIR,
        Refusal::IsADirectory => Errno::ISDIR,
        Refusal::NotEmpty => Errno::NOTEMPTY,
        Refusal::CrossesItself | Refusal::Invalid => Errno::INVAL,
        Refusal::TooManyLinks => Errno::MLINK,
        Refusal::NameTooLong => Errno::NAMETOOLONG,
        Refusal::NoSpace => Errno::NOSPC,
        Refusal::NotSupported => Errno::OPNOTSUPP,
        Refusal::NoData => Errno::NODATA,
        Refusal::Range => Errno::RANGE,
        Refusal::NotPermitted => Errno::PERM,
        Refusal::DefaultAclOnFile => Errno::ACCESS,
        Refusal::TooLarge => Errno::FBIG,
        Refusal::ValueTooLarge => Errno::TOOBIG,
        Refusal::ReadOnly(_) | Refusal::Io(_) | Refusal::Damaged(_) => panic!("{refusal:?}"),
    }
}

fn perform(tree: &Tree, step: &Step) -> Result<Outcome, Refusal> {
    let mut caller = Caller { origin: Origin::default(), ..Caller::default() };
    let operation = match step {
        Step::Make { parent, name, mode, rdev, exclusive, by } => {
            (caller.uid, caller.gid, caller.umask) = (by.uid, by.gid, by.umask);
            let (parent, mode, rdev) = (Ino(*parent), *mode, *rdev);
            Operation::Make { parent, name, mode, rdev, exclusive: *exclusive, security: None }
        }
        Step::Symlink { parent, name, target, by } => {
            (caller.uid, caller.gid, caller.umask) = (by.uid, by.gid, by.umask);
            Operation::Symlink { parent: Ino(*parent), name, target, security: None }
        }
        Step::Tmpfile { parent, mode, by } => {
            (caller.uid, caller.gid, caller.umask) = (by.uid, by.gid, by.umask);
            Operation::Tmpfile { parent: Ino(*parent), mode: *mode, security: None }
        }
        Step::Link { ino, parent, name } => {
            Operation::Link { ino: Ino(*ino), parent: Ino(*parent), name }
        }
        Step::Unlink { parent, name } => Operation::Unlink { parent: Ino(*parent), name },
        Step::Rmdir { parent, name } => Operation::Rmdir { parent: Ino(*parent), name },
        Step::Rename { parent, name, new_parent, new_name, flags } => Operation::Rename {
            parent: Ino(*parent),
            name,
            new_parent: Ino(*new_parent),
            new_name,
            how: RenameHow::from_flags(*flags).unwrap(),
        },
        Step::SetAttr { ino, set } => {
            let Set { mode, uid, gid, size, atime, mtime, kill } = *set;
            let to = |time: Option<i64>| {
                time.map_or(TimeTo::Now, |ns| {
                    let nanoseconds = ns.rem_euclid(1_000_000_000) as u32;
                    TimeTo::from_parts(ns.div_euclid(1_000_000_000), nanoseconds)
                })
            };
            let (atime, mtime) = (atime.map(to), mtime.map(to));
            let set = Attributes { mode, uid, gid, size, atime, mtime, kill_set_id: kill };
            Operation::SetAttributes { ino: Ino(*ino), set }
        }
        Step::Write { ino, offset, bytes, append, kill } => {
            let to = if *append { WriteTo::End } else { WriteTo::Offset(*offset) };
            return tree.write(&caller, Ino(*ino), to, bytes, *kill);
        }
        Step::Allocate { ino, flags, offset, len, kill } => Operation::Allocate {
            ino: Ino(*ino),
            flags: *flags,
            offset: *offset,
            len: *len,
            kill_set_id: *kill,
        },
        Step::Copy { src, src_offset, dst, dst_offset, len, kill } => Operation::Copy {
            src: Ino(*src),
            src_offset: *src_offset,
            dst: Ino(*dst),
            dst_offset: *dst_offset,
            len: *len,
            uncut: false,
            ends: false,
            kill_set_id: *kill,
        },
        Step::SetXattr { ino, name, value, flags, kill_sgid } => Operation::SetXattr {
            ino: Ino(*ino),
            name,
            value,
            must: XattrMust::from_flags(*flags).unwrap(),
            kill_sgid: *kill_sgid,
        },
        Step::RemoveXattr { ino, name } => Operation::RemoveXattr { ino: Ino(*ino), name },
        Step::End { ino } => Operation::End { ino: Ino(*ino) },
    };
    tree.perform(&caller, &operation)
}

/// When each event was, as far as seen.
#[derive(Default)]
struct Times(BTreeMap<u64, Timestamp>);

impl Times {
    /// What is seen first counts; from then on it must be the same, and later events not earlier.
    fn check(&mut self, stamp: Stamp, got: Timestamp, what: &str) {
        match stamp {
            Stamp::Set(ns) => assert_eq!(got, Timestamp(ns), "{what}"),
            Stamp::Event(seq) => {
                let known = *self.0.entry(seq).or_insert(got);
                assert_eq!(got, known, "{what}: the time of event {seq}");
                let before = self.0.range(..seq).next_back();
                assert!(before.is_none_or(|(_, &time)| time <= got), "{what}: event {seq}");
                let after = self.0.range(seq + 1..).next();
                assert!(after.is_none_or(|(_, &time)| time >= got), "{what}: event {seq}");
            }
        }
    }
}

fn compare_inode(got: &Inode, node: &Node, times: &mut Times, what: &str) {
    assert_eq!(format!("{:o}", got.mode), format!("{:o}", node.mode), "mode of {what}");
    assert_eq!((got.uid, got.gid), (node.uid, node.gid), "owner of {what}");
    assert_eq!(got.nlink, node.nlink, "nlink of {what}");
    assert_eq!(got.rdev, node.rdev, "rdev of {what}");
    assert_eq!(got.size, node.size(), "size of {what}");
    let entries = if let Body::Dir(names) = &node.body { names.len() } else { 0 };
    assert_eq!(got.entries, entries as u64, "entries of {what}");
    assert_eq!(got.changed, Seq(node.changed), "last change of {what}");
    for (stamp, got, which) in [
        (node.atime, got.atime, "atime"),
        (node.mtime, got.mtime, "mtime"),
        (node.ctime, got.ctime, "ctime"),
        (node.btime, got.btime, "btime"),
    ] {
        times.check(stamp, got, &format!("{which} of {what}"));
    }
}

/// Every (directory, name) of each inode.
type Names = BTreeMap<u64, Vec<(Ino, Vec<u8>)>>;

/// Compares everything there is to know about one inode.
fn compare_node(
    tree: &Tree,
    at: Seq,
    (model, all_names): (&Model, &Names),
    ino: u64,
    times: &mut Times,
    context: &str,
) {
    let node = &model.nodes[&ino];
    let what = format!("inode {ino} at {at} ({context})");
    let inode = tree.inode(Ino(ino), at).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    compare_inode(&inode, node, times, &what);

    let mut names = tree.names(Ino(ino), at).unwrap();
    names.sort();
    let expected = all_names.get(&ino).map_or(&[][..], Vec::as_slice);
    assert_eq!(names, expected, "names of {what}");

    let listed = tree.xattrs(Ino(ino), at).unwrap();
    assert!(listed.iter().eq(node.xattrs.keys()), "xattrs of {what}: {listed:?}");
    for (name, value) in &node.xattrs {
        let got = tree.xattr(Ino(ino), name, at).unwrap();
        assert!(got == *value, "{} of {what}", String::from_utf8_lossy(name));
    }
    assert!(matches!(tree.xattr(Ino(ino), b"user.never", at), Err(Refusal::NoData)));

    match &node.body {
        Body::Special => {
            assert!(matches!(tree.target(Ino(ino), at), Err(Refusal::Invalid)));
        }
        Body::Symlink(target) => assert_eq!(&tree.target(Ino(ino), at).unwrap(), target),
        Body::Dir(names) => {
            let root = (ino == model.root).then_some(Ino(ino));
            let parent = root.or(expected.first().map(|(dir, _)| *dir));
            assert_eq!(tree.parent(Ino(ino), at).ok(), parent, "parent of {what}");
            let mut got = BTreeMap::new();
            let mut last = 0;
            tree.list(Ino(ino), 0, at, &mut |hash, name, entry| {
                assert!(hash >= last, "offsets in {what}");
                last = hash;
                let doubled = got.insert(name.to_vec(), (entry.ino.0, entry.since.0));
                assert!(doubled.is_none(), "{name:?} twice in {what}");
                let kind = model.nodes[&entry.ino.0].mode & IFMT;
                assert_eq!(entry.kind, kind, "type of {name:?} in {what}");
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_eq!(&got, names, "names in {what}");
            let mut count = 0;
            tree.list_with_attributes(Ino(ino), 0, at, &mut |_, name, inode| {
                count += 1;
                assert_eq!(inode.ino.0, names[name].0);
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_eq!(count, names.len());
            for (name, &(named, _)) in names {
                assert_eq!(tree.lookup(Ino(ino), name, at).unwrap().ino, Ino(named), "{what}");
            }
            assert!(matches!(tree.lookup(Ino(ino), b"never", at), Err(Refusal::NotFound)));
        }
        Body::File(content) => {
            let mut from = vec![0, content.size.saturating_sub(5_000)];
            from.extend(content.pages.keys().map(|page| (page * 4096).saturating_sub(100)));
            from.dedup();
            let mut done = 0;
            for offset in from {
                if offset < done {
                    continue;
                }
                let expected = content.read(offset, 70_000);
                let mut got = vec![0x55; 70_000];
                let len = tree.read(Ino(ino), offset, &mut got, at).unwrap();
                if got[..len] != expected {
                    let first = got[..len].iter().zip(&expected).position(|(a, b)| a != b);
                    panic!("{what}: {len} bytes from {offset}, first difference at {first:?}");
                }
                done = offset + len as u64;
            }
            compare_holes(tree, at, ino, content, &what);
        }
    }
}

/// Whatever lies outside what `SEEK_DATA` shows must be zeros.
fn compare_holes(tree: &Tree, at: Seq, ino: u64, content: &posix::Content, what: &str) {
    let mut offset = 0;
    let mut data: Vec<(u64, u64)> = vec![];
    while offset < content.size {
        let start = match tree.seek(Ino(ino), offset, false, at) {
            Ok(start) => start,
            Err(Refusal::NoData) => break,
            Err(error) => panic!("{what}: {error:?}"),
        };
        assert!((offset..content.size).contains(&start), "data of {what} from {offset}: {start}");
        let end = tree.seek(Ino(ino), start, true, at).unwrap();
        assert!(start < end && end <= content.size, "hole of {what} after {start}: {end}");
        data.push((start, end));
        offset = end;
    }
    assert!(matches!(tree.seek(Ino(ino), content.size, true, at), Err(Refusal::NoData)), "{what}");
    let is_data = |offset| data.iter().any(|&(start, end)| (start..end).contains(&offset));
    for (&page, bytes) in &content.pages {
        let (first, last) = (page * 4096, page * 4096 + 4095);
        if data.iter().any(|&(start, end)| start <= first && last < end) {
            continue;
        }
        for (offset, &byte) in (first..).zip(bytes.iter()) {
            assert!(byte == 0 || is_data(offset), "{what}: byte {byte} at {offset} is in a hole");
        }
    }
}

/// Compares the whole tree at `at`, and where `at` is now also what has no name.
fn compare(tree: &Tree, at: Seq, model: &Model, times: &mut Times, context: &str) {
    let mut names = Names::new();
    for (&dir, node) in &model.nodes {
        if let Body::Dir(entries) = &node.body {
            for (name, &(ino, _)) in entries {
                names.entry(ino).or_default().push((Ino(dir), name.clone()));
            }
        }
    }
    let now = at == Seq::NOW;
    let mut versions = HashSet::new();
    for (&ino, node) in &model.nodes {
        if now || ino == model.root || names.contains_key(&ino) {
            compare_node(tree, at, (model, &names), ino, times, context);
            let role = tree.inode(Ino(ino), at).unwrap().role;
            assert!(versions.insert((node.changed, role)), "the version of {ino} is another's too");
        }
    }
    if now {
        let orphans = tree.store().read().orphans(Ino(0), usize::MAX).unwrap();
        let expected = model.nodes.iter().filter(|(_, node)| node.nlink == 0);
        assert_eq!(orphans, expected.map(|(&ino, _)| Ino(ino)).collect::<Vec<_>>(), "{context}");
        let (_, totals) = tree.space().unwrap();
        assert_eq!(totals.inodes, model.nodes.len() as u64, "inodes in all ({context})");
        let allocated = |&ino: &u64| tree.inode(Ino(ino), at).unwrap().allocated;
        let sum: u64 = model.nodes.keys().map(allocated).sum();
        assert_eq!(totals.allocated, sum, "bytes in all ({context})");
        let padded = |n: u64| if n > 4096 { n.next_multiple_of(4096) } else { n };
        let sum: u64 = model.nodes.keys().map(allocated).map(padded).sum();
        assert_eq!(totals.padded, sum, "bytes in whole pages ({context})");
        assert!(matches!(tree.inode(Ino(model.last + 1000), at), Err(Refusal::Stale)));
    }
}

/// How often each call came to each result.
type Seen = BTreeMap<(&'static str, String), u32>;

struct Run<'s> {
    model: Model,
    /// What the model was after each event.
    past: BTreeMap<u64, Model>,
    times: Times,
    rng: steps::Rng,
    seed: u64,
    seen: &'s mut Seen,
}

impl Run<'_> {
    fn steps(&mut self, tree: &Tree, count: usize) {
        for number in 0..count {
            let step = steps::next(&self.model, &mut self.rng, steps::Scope { host: false });
            let context =
                format!("seed {}, step {number}: {:.300}", self.seed, format!("{step:?}"));
            self.step(tree, &step, &context);
        }
    }

    fn step(&mut self, tree: &Tree, step: &Step, context: &str) {
        let last = self.model.last;
        let outcome = perform(tree, step);
        let seq = outcome.as_ref().ok().and_then(|outcome| outcome.seq);
        let next = seq.map_or(last + 1, |seq| seq.0);
        assert!(next > last, "{context}");
        let expected = self.model.apply(step, next);
        let result = match &expected {
            Ok(Done { changed: true, .. }) => "changed".into(),
            Ok(_) => "nothing".into(),
            Err(errno) => format!("{errno:?}"),
        };
        *self.seen.entry((step.kind(), result)).or_default() += 1;
        let got = outcome.as_ref().map_err(errno).map(|outcome| {
            for inode in [outcome.inode, outcome.other].into_iter().flatten() {
                let what = format!("outcome of {context}");
                compare_inode(&inode, &self.model.nodes[&inode.ino.0], &mut self.times, &what);
            }
            Done {
                changed: seq.is_some(),
                ino: outcome.inode.map(|inode| inode.ino.0),
                other: outcome.other.map(|inode| inode.ino.0),
                len: outcome.len,
            }
        });
        assert_eq!(got, expected, "{context}");
        assert_eq!(tree.last(), Seq(self.model.last), "{context}");
        compare(tree, Seq::NOW, &self.model, &mut self.times, context);
        self.past.entry(self.model.last).or_insert_with(|| self.model.clone());
    }

    fn compare_past(&mut self, tree: &Tree, context: &str) {
        let context = format!("seed {}, {context}", self.seed);
        compare(tree, Seq::NOW, &self.model, &mut self.times, &context);
        for (&seq, model) in &self.past {
            compare(tree, Seq(seq), model, &mut self.times, &context);
        }
        for node in self.model.nodes.keys() {
            // Before its event, an inode was not there.
            if *node > self.model.root {
                assert!(matches!(tree.inode(Ino(*node), Seq(node - 1)), Err(Refusal::Stale)));
            }
        }
    }
}

fn open(dir: &Path) -> Tree {
    Tree::new(Arc::new(Store::open(dir, &OpenOptions::default()).unwrap()))
}

/// As after `kill -9` if not `cleanly`.
fn close(tree: Tree, cleanly: bool) {
    if cleanly {
        tree.store().close().unwrap();
    }
    drop(tree);
}

#[test]
fn the_tree_is_what_the_model_says_now_and_at_every_past_sequence() {
    let steps = std::env::var("LIGHTHOUSE_FUSE_STEPS").map_or(150, |steps| steps.parse().unwrap());
    let mut seen = Seen::new();
    let mut runs = 0;
    for seed in seeds::of(0..4) {
        runs += 1;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("store");
        let (create, options) = (CreateOptions::default(), OpenOptions::default());
        let tree = Tree::new(Arc::new(Store::create(&dir, &create, &options).unwrap()));
        let model = Model::new(Ino::ROOT.0, 0o755, 0, 0);
        assert_eq!(model.nodes[&model.root].mode, IFDIR | 0o755);
        let past = BTreeMap::from([(model.last, model.clone())]);
        let mut run = Run {
            model,
            past,
            times: Times::default(),
            rng: steps::Rng(seed),
            seed,
            seen: &mut seen,
        };
        run.steps(&tree, steps);
        run.compare_past(&tree, "as it is");
        close(tree, true);
        let tree = open(&dir);
        run.compare_past(&tree, "opened again");
        run.steps(&tree, steps / 3);
        run.compare_past(&tree, "gone on");
        close(tree, false);
        let tree = open(&dir);
        run.compare_past(&tree, "opened again after a kill");
        run.steps(&tree, steps / 3);
        close(tree, seed % 2 == 0);
        std::fs::remove_dir_all(dir.join("index")).unwrap();
        let tree = open(&dir);
        run.compare_past(&tree, "index rebuilt");
        run.steps(&tree, steps / 3);
        run.compare_past(&tree, "gone on after that");
    }
    for ((call, result), times) in &seen {
        println!("{call} {result}: {times}");
    }
    let calls: HashSet<&str> = seen.keys().map(|(call, _)| *call).collect();
    for call in calls {
        let worked = seen.contains_key(&(call, "changed".into()));
        assert!(runs == 1 || worked, "no {call} ever changed anything");
    }
}
