//! Files made, replaced and taken away while others change them.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;

use crate::tree::operation::{COPY_MAX, COPY_PIECES_MAX, COPY_UNCUT_MAX, PERMISSIONS, WriteTo};
use crate::tree::watch::{Changed, Watcher};

use super::*;

fn acting(tree: &Tree, user: Option<(u32, u32)>) -> Acting {
    let session = Session { id: "session".to_owned(), agent: "agent".to_owned() };
    Acting::new(tree, &session, user, &Arc::default(), None).unwrap()
}

fn path(text: &str) -> TreePath {
    TreePath::from_text(text).unwrap()
}

fn short(bytes: &[u8]) -> Content {
    Content::Short(bytes.to_vec())
}

fn content(acting: &Acting, at: &str) -> Vec<u8> {
    let inode = acting.find(&path(at), Seq::NOW).unwrap();
    acting.read(inode.ino, 0, 1 << 20, Seq::NOW).unwrap().to_vec()
}

fn make(tree: &Tree, parent: Ino, name: &[u8], mode: u32) -> Ino {
    let (rdev, exclusive, security) = (0, true, None);
    let operation = Operation::Make { parent, name, mode, rdev, exclusive, security };
    tree.perform(&Caller::default(), &operation).unwrap().inode.unwrap().ino
}

#[test]
fn what_a_full_disk_does_not_take_leaves_a_file_as_it_was() {
    let root = acting(&Tree::in_little_memory(), None);
    let (piece, old) = (vec![b'x'; 100 << 10], vec![b'o'; (100 << 10) - 1]);
    root.replace(&path("file"), &short(&old), None, Must::Be).unwrap();
    let before = root.find(&path("file"), Seq::NOW).unwrap();
    let full = (0..1000).find_map(|n: u32| {
        root.replace(&path(&n.to_string()), &short(&piece), None, Must::Be).err()
    });
    assert_eq!(full.unwrap().status, StatusCode::INSUFFICIENT_STORAGE);
    let refused = root.replace(&path("file"), &short(&old[1..]), None, Must::Be).unwrap_err();
    assert_eq!(refused.status, StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(root.find(&path("file"), Seq::NOW).unwrap(), before);
    assert!(content(&root, "file") == old);
}

/// A staged file of `len` bytes, all but the first and the last a hole.
fn staged(acting: &Acting, len: u64, byte: u8) -> Content {
    let ino = acting.stage().unwrap();
    for offset in [0, len - 1] {
        acting.write(ino, offset, &[byte]).unwrap();
    }
    Content::Staged { ino, len }
}

/// What the name `file` leads to after event `at`: how long it is, its first byte and its last.
fn ends(acting: &Acting, at: Seq) -> (u64, u8, u8) {
    let inode = acting.find(&path("file"), at).unwrap();
    let byte = |offset| acting.read(inode.ino, offset, 1, at).unwrap()[0];
    (inode.size, byte(0), byte(inode.size - 1))
}

#[test]
fn content_is_replaced_by_one_event_however_long_it_is() {
    const LONG: u64 = 3 * COPY_MAX;
    let tree = Tree::in_memory();
    let root = acting(&tree, None);
    root.replace(&path("file"), &short(b"o+o"), None, Must::Be).unwrap();
    for (len, byte) in
        [(LONG, b'a'), (LONG - 1, b'b'), (9, b'c'), (2 << 20, b'd'), (LONG, b'e'), (3, b'f')]
    {
        let old = tree.last();
        let before = root.find(&path("file"), Seq::NOW).unwrap();
        let content = if len > 1 << 20 {
            staged(&root, len, byte)
        } else {
            short(&vec![byte; usize::try_from(len).unwrap()])
        };
        let was = ends(&root, Seq::NOW);
        assert_eq!(was, ends(&root, old));
        let must = Must::BeAsSeen(before.ino, before.changed);
        let last = tree.last();
        let replaced = root.replace(&path("file"), &content, None, must).unwrap();
        assert_eq!((replaced.seq, tree.last()), (last.next(), last.next()), "one event");
        assert_eq!((replaced.inode.ino, replaced.inode.changed), (before.ino, replaced.seq));
        assert_eq!(ends(&root, last), was);
        assert_eq!(ends(&root, replaced.seq), (len, byte, byte));
        root.discard(&content);
        assert_eq!(ends(&root, Seq::NOW), (len, byte, byte));
    }
    assert_eq!(content(&root, "file"), b"fff");
}

/// Lets a file that is a mebibyte long repeat itself until it is `len` long.
fn repeat(acting: &Acting, ino: Ino, len: u64) {
    let mut there = 1 << 20;
    while there < len {
        let copy = Operation::Copy {
            src: ino,
            src_offset: 0,
            dst: ino,
            dst_offset: there,
            len: there.min(len - there),
            uncut: true,
            ends: false,
            kill_set_id: false,
        };
        there += acting.perform(&copy).unwrap().len;
    }
}

/// A staged file of `len` bytes without a hole: a mebibyte that is there many times.
fn dense(acting: &Acting, len: u64, byte: u8) -> Content {
    let ino = acting.stage().unwrap();
    acting.write(ino, 0, &[byte; 1 << 20]).unwrap();
    repeat(acting, ino, len);
    assert!(acting.tree.inode(ino, Seq::NOW).unwrap().allocated >= len);
    Content::Staged { ino, len }
}

#[test]
fn what_is_too_long_for_one_event_comes_in_pieces_the_last_of_which_ends_the_file() {
    let tree = Tree::in_memory();
    let root = acting(&tree, None);
    let events = |last: Seq| (tree.last().0 - last.0, COPY_UNCUT_MAX / COPY_MAX);
    let old = dense(&root, COPY_UNCUT_MAX, b'o');
    root.replace(&path("file"), &old, None, Must::Be).unwrap();
    let new = dense(&root, COPY_UNCUT_MAX - 1, b'n');
    let last = tree.last();
    root.replace(&path("file"), &new, None, Must::Be).unwrap();
    assert_eq!(events(last).0, 1, "as long as it may be");
    assert_eq!(ends(&root, Seq::NOW), (COPY_UNCUT_MAX - 1, b'n', b'n'));
    let part = staged(&root, COPY_UNCUT_MAX, b'p');
    let last = tree.last();
    root.replace_part(&path("file"), Some(1), &part, Must::Be, false).unwrap();
    assert_eq!(events(last).0, 1, "a part");
    let part = staged(&root, COPY_UNCUT_MAX + 1, b'q');
    let last = tree.last();
    root.replace_part(&path("file"), None, &part, Must::Be, false).unwrap();
    assert!(events(last).0 > 1, "a longer part");
    assert_eq!(ends(&root, Seq::NOW), (2 * COPY_UNCUT_MAX + 2, b'n', b'q'));
    let longer = staged(&root, COPY_UNCUT_MAX + 1, b'l');
    let before = root.find(&path("file"), Seq::NOW).unwrap();
    let must = Must::BeAsSeen(before.ino, before.changed);
    let last = tree.last();
    let replaced = root.replace(&path("file"), &longer, None, must).unwrap();
    assert!(events(last).0 > 1, "a longer one");
    assert_eq!(ends(&root, replaced.seq.before()).0, before.size, "until the last");
    assert_eq!(ends(&root, Seq::NOW), (COPY_UNCUT_MAX + 1, b'l', b'l'));
    let last = tree.last();
    root.copy(&path("file"), &path("copy")).unwrap();
    assert!(events(last).0 > 3, "made, filled in pieces, and named");
    root.replace(&path("file"), &short(b"short"), None, Must::Be).unwrap();
    root.copy(&path("copy"), &path("file")).unwrap();
    assert_eq!(ends(&root, Seq::NOW), (COPY_UNCUT_MAX + 1, b'l', b'l'));
}

#[test]
fn what_lies_in_too_many_pieces_for_one_event_comes_in_several() {
    const PER_MIB: u64 = 512;
    let tree = Tree::in_memory();
    let root = acting(&tree, None);
    let frayed = |mib: u64| {
        let ino = root.stage().unwrap();
        for n in 0..PER_MIB {
            root.write(ino, n * (1 << 20) / PER_MIB, b"f").unwrap();
        }
        let set = Attributes { size: Some(1 << 20), ..Attributes::default() };
        root.perform(&Operation::SetAttributes { ino, set }).unwrap();
        repeat(&root, ino, mib << 20);
        Content::Staged { ino, len: mib << 20 }
    };
    let most = u64::try_from(COPY_PIECES_MAX).unwrap() / PER_MIB;
    root.replace(&path("file"), &short(b"old"), None, Must::Be).unwrap();
    for (mib, events) in [(most, 1), (most + 1, 2)] {
        let content = frayed(mib);
        let last = tree.last();
        root.replace(&path("file"), &content, None, Must::Be).unwrap();
        assert_eq!(tree.last().0 - last.0, events, "{mib} MiB");
    }
}

#[test]
fn of_another_users_file_the_content_alone_is_replaced() {
    let tree = Tree::in_memory();
    let (root, other) = (acting(&tree, None), acting(&tree, Some((1000, 1000))));
    root.replace(&path("source"), &short(b"copied"), Some(0o644), Must::Be).unwrap();
    let shared = root.replace(&path("shared"), &short(b"old"), None, Must::Be).unwrap().inode;
    let set = Attributes { mode: Some(0o666), ..Attributes::default() };
    root.set_attributes(&shared, set).unwrap();
    let with_mode = other.replace(&path("shared"), &short(b"new"), Some(0o644), Must::Be);
    assert_eq!(with_mode.unwrap_err().status, StatusCode::FORBIDDEN);
    assert_eq!(content(&root, "shared"), b"old");
    other.copy(&path("source"), &path("shared")).unwrap();
    assert_eq!(content(&root, "shared"), b"copied");
    assert_eq!(root.find(&path("shared"), Seq::NOW).unwrap().mode & 0o777, 0o666);
    root.copy(&path("shared"), &path("new")).unwrap();
    assert_eq!(root.find(&path("new"), Seq::NOW).unwrap().mode & 0o777, 0o644, "by the umask");
}

/// Somebody who does something before the content of a file changes.
struct Before<F>(F);

impl<F> std::fmt::Debug for Before<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Before")
    }
}

impl<F: Fn() + Send + Sync> Watcher for Before<F> {
    fn changed(&self, _: Changed<'_>) {}

    fn settle(&self) {}

    fn keeps(&self, _: &Inode) -> bool {
        false
    }

    fn before_write(&self, _: Ino) {
        self.0();
    }
}

/// For as long as what is returned lives.
fn before_writes(tree: &Tree, act: impl Fn() + Send + Sync + 'static) -> Arc<dyn Watcher> {
    let watcher: Arc<dyn Watcher> = Arc::new(Before(act));
    tree.watch(Arc::downgrade(&watcher));
    watcher
}

/// Gives the name `file` to another file before what is written the next `times`.
fn overtaken(tree: &Tree, times: usize) -> Arc<dyn Watcher> {
    let (other, times) = (tree.clone(), AtomicUsize::new(times));
    before_writes(tree, move || {
        let less = |times: usize| times.checked_sub(1);
        if times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            make(&other, Ino::ROOT, b"another", S_IFREG | 0o644);
            let rename = Operation::Rename {
                parent: Ino::ROOT,
                name: b"another",
                new_parent: Ino::ROOT,
                new_name: b"file",
                how: RenameHow::Replace,
            };
            other.perform(&Caller::default(), &rename).unwrap();
        }
    })
}

#[test]
fn who_is_overtaken_looks_again_unless_it_said_what_must_be_there() {
    for there in [false, true] {
        for (times, conditional, refused) in [
            (1, false, None),
            (usize::MAX, false, Some(StatusCode::CONFLICT)),
            (1, true, Some(StatusCode::PRECONDITION_FAILED)),
        ] {
            let tree = Tree::in_little_memory();
            let root = acting(&tree, None);
            let mut must = Must::BeNew;
            if there {
                let file = root.replace(&path("file"), &short(b"0"), None, Must::Be).unwrap();
                must = Must::BeAsSeen(file.inode.ino, file.inode.changed);
            }
            if !conditional {
                must = Must::Be;
            }
            let _faster = overtaken(&tree, times);
            let replaced = root.replace(&path("file"), &short(b"ours"), None, must);
            assert_eq!(replaced.as_ref().err().map(|why| why.status), refused, "{must:?}");
            if let Ok(replaced) = replaced {
                assert!(!replaced.new);
                assert_eq!(content(&root, "file"), b"ours");
            }
        }
    }
    let tree = Tree::in_little_memory();
    let root = acting(&tree, None);
    root.replace(&path("file"), &short(b"0"), None, Must::Be).unwrap();
    let _faster = overtaken(&tree, 1);
    root.rename(&path("file"), &path("moved")).unwrap();
    assert_eq!(content(&root, "moved"), b"", "it is the other one");
}

/// Puts a byte behind the end of `behind` before the content of another changes for the `at`th time.
fn appended_between(tree: &Tree, behind: Ino, at: usize) -> Arc<dyn Watcher> {
    let (other, at) = (tree.clone(), AtomicUsize::new(at));
    before_writes(tree, move || {
        if at.fetch_sub(1, Ordering::Relaxed) == 1 {
            let (caller, to) = (Caller::default(), WriteTo::End);
            other.write(&caller, behind, to, b"!", false).unwrap();
        }
    })
}

#[test]
fn who_is_overtaken_part_way_says_so_and_does_nothing_twice() {
    // Two pieces, and what is left at once.
    const LEN: u64 = COPY_UNCUT_MAX + COPY_MAX + 1;
    for (at, whole) in [(1, true), (2, false), (3, false)] {
        for must in [Must::Be, Must::BeNew] {
            let tree = Tree::in_memory();
            let root = acting(&tree, None);
            let file = root.replace(&path("file"), &short(b"0"), None, Must::Be).unwrap().inode;
            let must = match must {
                Must::Be => must,
                _ => Must::BeAsSeen(file.ino, file.changed),
            };
            let content = staged(&root, LEN, b'a');
            let _between = appended_between(&tree, file.ino, at);
            let appended = root.replace_part(&path("file"), None, &content, must, false);
            let size = root.find(&path("file"), Seq::NOW).unwrap().size;
            let refused = appended.as_ref().err().map(|why| why.status);
            if whole && matches!(must, Must::Be) {
                assert_eq!((refused, size), (None, 2 + LEN), "behind what came meanwhile");
            } else if whole {
                assert_eq!((refused, size), (Some(StatusCode::PRECONDITION_FAILED), 2));
            } else {
                let pieces = u64::try_from(at).unwrap() - 1;
                let there = 2 + pieces * COPY_MAX;
                assert_eq!((refused, size), (Some(StatusCode::CONFLICT), there), "{must:?}");
                let words = appended.unwrap_err().words();
                assert!(words.contains("a part of what was sent"), "{words}");
            }
        }
    }
}

#[test]
fn a_copy_is_of_one_version_whatever_comes_meanwhile() {
    // It comes before the copy; then also between two of its pieces, where the copy is seen and where it is not.
    for (len, at, there, status, size) in [
        (9, 1, true, None, 10),
        (COPY_UNCUT_MAX, 1, true, None, COPY_UNCUT_MAX + 1),
        (COPY_UNCUT_MAX + 1, 2, true, Some(StatusCode::CONFLICT), COPY_MAX),
        (COPY_UNCUT_MAX + 1, 2, false, None, COPY_UNCUT_MAX + 2),
    ] {
        let tree = Tree::in_memory();
        let root = acting(&tree, None);
        let source = staged(&root, len, b's');
        let source = root.replace(&path("source"), &source, None, Must::Be).unwrap().inode;
        if there {
            root.replace(&path("file"), &short(b""), None, Must::Be).unwrap();
        }
        let _between = appended_between(&tree, source.ino, at);
        let copied = root.copy(&path("source"), &path("file"));
        assert_eq!(copied.err().map(|why| why.status), status, "{len}");
        let file = root.find(&path("file"), Seq::NOW).unwrap();
        assert_eq!(file.size, size, "{len}");
    }
}

#[test]
fn a_mode_that_takes_rights_away_comes_before_the_content_and_another_behind_it() {
    for (old, new, events) in
        [(0o644, 0o600, 2), (0o600, 0o644, 2), (0o640, 0o604, 3), (0o644, 0o644, 1)]
    {
        for content in [short(b"long"), short(b"")] {
            let tree = Tree::in_memory();
            let root = acting(&tree, None);
            let file = root.replace(&path("file"), &short(b"old"), Some(old), Must::Be);
            let file = file.unwrap().inode;
            let (must, last) = (Must::BeAsSeen(file.ino, file.changed), tree.last());
            let replaced = root.replace(&path("file"), &content, Some(new), must).unwrap();
            assert_eq!(replaced.inode.mode & PERMISSIONS, new);
            assert_eq!((replaced.seq, tree.last().0 - last.0), (tree.last(), events));
            for at in last.0..=tree.last().0 {
                let then = root.find(&path("file"), Seq(at)).unwrap();
                let may = if then.size == 3 { old } else { new };
                assert_eq!(then.mode & PERMISSIONS & !may, 0, "{old:o}, then {new:o}: @{at}");
            }
        }
    }
}

#[test]
fn a_change_gets_through_between_the_names_of_a_long_listing() {
    let tree = Tree::in_memory();
    let root = acting(&tree, None);
    for n in 0..2 * NAMES_AT_ONCE {
        make(&tree, Ino::ROOT, format!("f{n}").as_bytes(), S_IFREG | 0o644);
    }
    let at = tree.last();
    let (mut listed, mut from) = (Vec::new(), Some(0));
    while let Some(next) = from {
        let names;
        (names, from) = root.list(Ino::ROOT, at, next, usize::MAX).unwrap();
        assert!(names.len() <= NAMES_AT_ONCE, "under one lock, unless hashes are equal");
        // Nobody has the tables: a name that comes later goes, and another comes.
        let gone = format!("f{}", listed.len());
        make(&tree, Ino::ROOT, format!("new{}", listed.len()).as_bytes(), S_IFREG | 0o644);
        root.remove(&path(&gone), false, None).unwrap();
        listed.extend(names.into_iter().map(|(name, _)| name));
    }
    listed.sort();
    let mut all: Vec<_> = (0..2 * NAMES_AT_ONCE).map(|n| format!("f{n}").into_bytes()).collect();
    all.sort();
    assert!(listed == all, "those of one moment: {} names", listed.len());
}

#[test]
fn a_directory_is_taken_away_whatever_is_in_it() {
    let tree = Tree::in_memory();
    let root = acting(&tree, None);
    let top = make(&tree, Ino::ROOT, b"top", S_IFDIR | 0o755);
    // More names than are listed at a time, and more levels than keep what was listed.
    for n in 0..2 * PAGE {
        make(&tree, top, format!("f{n}").as_bytes(), S_IFREG | 0o644);
    }
    let mut dir = top;
    for _ in 0..2 * PAGES_KEPT {
        for n in 0..8 {
            let below = make(&tree, dir, format!("d{n}").as_bytes(), S_IFDIR | 0o755);
            make(&tree, below, b"f", S_IFREG | 0o644);
        }
        dir = make(&tree, dir, b"deeper", S_IFDIR | 0o755);
    }
    let seq = root.remove(&path("top"), true, None).unwrap();
    assert!(tree.lookup(Ino::ROOT, b"top", seq.before()).is_ok());
    assert!(matches!(tree.lookup(Ino::ROOT, b"top", seq), Err(Refusal::NotFound)));
    assert_eq!(tree.space().unwrap().1.inodes, 1, "the root");
}

#[test]
fn what_is_too_deep_to_be_taken_away_is_refused() {
    let tree = Tree::in_memory();
    let root = acting(&tree, None);
    let mut dir = make(&tree, Ino::ROOT, b"top", S_IFDIR | 0o755);
    for _ in 0..DEPTH_MAX {
        dir = make(&tree, dir, b"d", S_IFDIR | 0o755);
    }
    let last = make(&tree, dir, b"last", S_IFDIR | 0o755);
    let refused = root.remove(&path("top"), true, None).unwrap_err();
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(tree.inode(last, Seq::NOW).is_ok());
    let rmdir = Operation::Rmdir { parent: dir, name: b"last" };
    tree.perform(&Caller::default(), &rmdir).unwrap();
    root.remove(&path("top"), true, None).unwrap();
}

#[test]
fn a_label_may_have_a_blank_or_a_plus() {
    let tree = Tree::in_memory();
    let root = acting(&tree, None);
    let blank = tree.store().label(b"my label", None).unwrap();
    make(&tree, Ino::ROOT, b"d", S_IFDIR | 0o755);
    let plus = tree.store().label(b"a+b", None).unwrap();
    assert_ne!(blank, plus);
    assert_eq!(root.moment(Some("my label")).unwrap(), blank);
    assert_eq!(root.moment(Some("a b")).unwrap(), plus);
    assert_eq!(root.moment(Some("no label")).unwrap_err().status, StatusCode::NOT_FOUND);
}
