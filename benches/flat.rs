//! Does the cost of a question, or of a change, grow with the size of the tree or of its history?
//!
//! One directory of 1,000, then 100,000, then 1,000,000 files, and one in which a million names have
//! died. What is asked is spread over all files, so that nothing is hot. Each row says the time of one
//! operation, and how many times that of the smallest tree it is. Then ten names (or eleven) are listed as they were, amid ever more that
//! died and with ever more alive now; then a tree of 1000 files is asked, now and at random moments, after ever more events. At the
//! end, how long a store takes to open whose server was killed in the middle of the last events. `-- --test` runs it at a
//! hundredth of the size, `-- open` that last part alone; `FLAT_MEMORY` is what the index may take, in MiB.
//!
//! # What was measured
//!
//! At full size, on two virtual processors, in 7 minutes with what it takes to build it.
//!
//! | | 1,000 files | 100,000 | 1,000,000 | 1,000, and 1,000,000 died |
//! |---|--:|--:|--:|--:|
//! | lookup | 56 ns | 0.28 us | 2.2 us | 111 ns |
//! | stat | 26 ns | 0.43 us | 1.9 us | 28 ns |
//! | list 100 | 2.6 us | 11 us | 11 us | 11 us |
//! | lookup in the past | 78 ns | 0.41 us | 2.0 us | 0.22 us |
//! | stat in the past | 51 ns | 0.48 us | 2.3 us | 97 ns |
//! | list 100 in the past | 11 us | 37 us | 16 us | 9.8 us |
//! | create | 3.5 us | 4.5 us | 5.5 us | 3.8 us |
//! | unlink, and end | 6.3 us | 12 us | 19 us | 6.9 us |
//!
//! What is asked is spread over all files: 1,000 are in the cache of hot rows, and of 1,000,000 hardly any is, so the last columns are
//! a descent in the tables. It is the tables' depth and the processor's caches that grow, not the work; on a mount, where a round trip
//! takes 10 us and the kernel remembers what it was told, a lookup among a million files takes 1.0 to 1.2 times as long, of a missing
//! name up to 1.4 (`mount -- --grown`, eight clients).
//! The past costs what the present does where neither is in the cache of hot rows (0.9 to 1.4 times, a listing up to 3.3).
//! Where the present is, the past, which that cache does not keep, is a look in the tables instead: microseconds for
//! some ten nanoseconds.
//!
//! | ten names, while others died | list them | and with as many more alive now |
//! |---|--:|--:|
//! | 1 | 0.4 us | 1.1 us |
//! | 10,000 | 1.4 us | 4.6 us |
//! | 1,000,000 | 1.8 us | 23 us |
//!
//! A page of up to 64 changes is looked through, and a few seeks find it:
//! the test `listing_the_past_costs_what_was_there_whatever_lived_before_or_after` counts the steps.
//!
//! | events | stat now | stat at a random moment | list 100 at a random moment | change attributes |
//! |---|--:|--:|--:|--:|
//! | 11,000 | 23 ns | 0.29 us | 6.8 us | 1.7 us |
//! | 101,000 | 23 ns | 0.61 us | 7.2 us | 1.8 us |
//! | 1,001,000 | 23 ns | 1.6 us | 16 us | 1.8 us |
//! | 10,001,000 | 22 ns | 3.5 us | 17 us | 2.1 us |
//!
//! A stat of what has changed since is a look in the tables, one of what has not is mostly one in the cache.
//!
//! | events | open, closed before | open, killed before | events read back |
//! |---|--:|--:|--:|
//! | 10,000 | 0.9 ms | 0.27 s | 10,030 |
//! | 100,000 | 0.9 ms | 0.15 s | 53,714 |
//! | 1,000,000 | 1.0 ms | 0.29 s | 72,628 |
//! | 10,000,000 | 1.2 ms | 0.51 s | 62,022 |
//!
//! Killed in the middle of new names as fast as they can be made, all in one directory: as many events are read back as the index was
//! behind, and each touches pages of ever deeper tables that nobody has read since. So writers wait once a second batch is due before the
//! first is committed (it was the third: 2.7 s after ten million), and a name that the event says is new is not looked up.

#![allow(clippy::unwrap_used, reason = "a bench fails by it")]

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lighthouse_fuse::store::event::{Change, Ino, Seq, SetAttr};
use lighthouse_fuse::store::sim::Random;
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Origin, Store};

/// Set in the process that is to be killed: the directory and how many events it makes.
const CHILD: &str = "LIGHTHOUSE_FUSE_FLAT_CHILD";
const S_IFREG: u32 = 0o100_000;

fn options() -> OpenOptions {
    let memory = std::env::var("FLAT_MEMORY").ok().and_then(|text| text.parse().ok());
    let memory = memory.map_or(OpenOptions::default().memory, |mib: usize| mib << 20);
    OpenOptions { memory, ..OpenOptions::default() }
}

fn create_in(dir: &Path) -> Store {
    Store::create(dir, &CreateOptions::default(), &options()).unwrap()
}

fn name(number: u64) -> Vec<u8> {
    format!("file {number}").into_bytes()
}

fn create(store: &Store, number: u64) -> Ino {
    let change = Change::Create {
        parent: Ino::ROOT,
        name: &name(number),
        mode: S_IFREG | 0o644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        target: b"",
        xattrs: Vec::new(),
    };
    Ino(store.begin().unwrap().commit(Origin::default(), change).unwrap().0)
}

fn remove(store: &Store, number: u64, ino: Ino) {
    let change = Change::Unlink { parent: Ino::ROOT, name: &name(number), ino };
    store.begin().unwrap().commit(Origin::default(), change).unwrap();
    store.begin().unwrap().commit(Origin::default(), Change::End { ino }).unwrap();
}

/// The median of some rounds, per operation.
fn time(count: u64, mut round: impl FnMut(u64)) -> Duration {
    let each = u32::try_from(count).unwrap();
    let mut rounds: Vec<Duration> = (0..5)
        .map(|_| {
            let start = Instant::now();
            (0..count).for_each(&mut round);
            start.elapsed() / each
        })
        .collect();
    rounds.sort_unstable();
    rounds[2]
}

fn list(store: &Store, at: Seq) -> u64 {
    let mut seen = 0;
    let visit = &mut |_, _: &[u8], _| {
        seen += 1;
        if seen < 100 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    store.read().entries(Ino::ROOT, 0, at, visit).unwrap();
    seen
}

/// What each operation takes in a directory of `files` in which `died` names have died.
fn measure(files: u64, died: u64, count: u64) -> Vec<(&'static str, Duration)> {
    let dir = tempfile::tempdir().unwrap();
    let store = create_in(dir.path());
    let mut inos: Vec<Ino> = (0..files).map(|number| create(&store, number)).collect();
    let mut past = store.read().last();
    let originals = inos.clone();
    for number in 0..died {
        if number == died / 2 {
            past = store.read().last();
        }
        let ino = create(&store, files + number);
        remove(&store, files + number, ino);
    }
    // What is asked of the past must not be what the present still says.
    let steps = (files / 10).min(count * 5);
    for number in 0..steps {
        remove(&store, number, inos[usize::try_from(number).unwrap()]);
        inos[usize::try_from(number).unwrap()] = create(&store, number);
    }
    let mut random = Random(7);
    let all = usize::try_from(files).unwrap();
    let mut results = Vec::new();
    for (lookup, stat, listing, at, inodes) in [
        ("lookup", "stat", "list 100", Seq::NOW, &inos),
        ("lookup in the past", "stat in the past", "list 100 in the past", past, &originals),
    ] {
        results.push((
            lookup,
            time(count, |_| {
                store
                    .read()
                    .entry(Ino::ROOT, &name(random.below(all) as u64), at)
                    .unwrap()
                    .unwrap();
            }),
        ));
        results.push((
            stat,
            time(count, |_| {
                let ino = inodes[random.below(all)];
                store.read().inode(ino, at).unwrap().unwrap();
            }),
        ));
        let expected = files.min(100);
        results.push((listing, time(count / 10 + 1, |_| assert_eq!(list(&store, at), expected))));
    }
    let mut next = files + died;
    let mut made = Vec::new();
    results.push((
        "create",
        time(count, |_| {
            made.push((next, create(&store, next)));
            next += 1;
        }),
    ));
    results.push((
        "unlink",
        time(count, |_| {
            let (number, ino) = made.pop().unwrap();
            remove(&store, number, ino);
        }),
    ));
    results
}

/// Listing ten names as they were, of a directory in which so many others have died since and before, with two
/// there at a time; and the same while `died` others are alive now.
fn ten(died: u64) -> [Duration; 2] {
    let dir = tempfile::tempdir().unwrap();
    let store = create_in(dir.path());
    for number in 0..10 {
        create(&store, number);
    }
    let mut at = store.read().last();
    let mut before = None;
    for number in 10..10 + died {
        let ino = create(&store, number);
        if let Some((number, ino)) = before.replace((number, ino)) {
            remove(&store, number, ino);
        }
        if number == 10 + died / 2 {
            at = store.read().last();
        }
    }
    let expected = 10 + u64::from(before.is_some());
    let among_dead = time(2000, |_| assert_eq!(list(&store, at), expected));
    for number in 0..died {
        create(&store, 10 + died + number);
    }
    [among_dead, time(2000, |_| assert_eq!(list(&store, at), expected))]
}

/// What questions cost in a tree of 1000 files after more and more events.
fn age(checkpoints: &[u64]) -> Vec<[Duration; 4]> {
    let dir = tempfile::tempdir().unwrap();
    let store = create_in(dir.path());
    let inos: Vec<Ino> = (0..1000).map(|number| create(&store, number)).collect();
    let mut random = Random(3);
    let change = |ino, mode| {
        let set = SetAttr { mode: Some(S_IFREG | mode), ..SetAttr::default() };
        let change = Change::SetAttr { ino, set, acl: None, drop_capability: false };
        store.begin().unwrap().commit(Origin::default(), change).unwrap();
    };
    let mut columns = Vec::new();
    let mut events = 1000;
    for &end in checkpoints {
        while events < end {
            change(inos[random.below(1000)], 0o600 + (events % 64) as u32);
            events += 1;
        }
        let mut any = || inos[random.below(1000)];
        let first = inos[999].0;
        let mut moments = Random(5);
        let mut past = || Seq(first + moments.below((events - 1000) as usize) as u64);
        let stat = |ino, at| assert!(store.read().inode(ino, at).unwrap().is_some());
        columns.push([
            time(20_000, |_| stat(any(), Seq::NOW)),
            time(20_000, |_| stat(any(), past())),
            time(2000, |_| assert_eq!(list(&store, past()), 100)),
            time(2000, |round| change(any(), round as u32 % 64)),
        ]);
    }
    columns
}

/// Makes events until it is killed; says so once there are enough.
fn child(order: &str) {
    let (events, dir) = order.split_once(' ').unwrap();
    let events: u64 = events.parse().unwrap();
    let store = create_in(Path::new(dir));
    for number in 0.. {
        create(&store, number);
        if number == events {
            println!("enough");
        }
    }
}

/// How long opening takes after a kill in the middle of a stream, how many events it read back, and how long it takes
/// once the store was closed.
fn open_after_kill(events: u64) -> (Duration, u64, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let order = format!("{events} {}", dir.path().join("store").display());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, order)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let open = || {
        let start = Instant::now();
        let store = Store::open(&dir.path().join("store"), &options()).unwrap();
        (start.elapsed(), store)
    };
    let (killed, store) = open();
    assert!(store.read().last().0 >= events);
    let replayed = store.opening().replayed;
    store.close().unwrap();
    drop(store);
    let (closed, store) = open();
    assert_eq!(store.opening().replayed, 0);
    (killed, replayed, closed)
}

fn main() {
    if let Ok(order) = std::env::var(CHILD) {
        return child(&order);
    }
    let has = |word: &str| std::env::args().any(|arg| arg == word);
    let scale = if has("--test") { 100 } else { 1 };
    if !has("open") {
        trees(scale);
    }
    for events in [10_000, 100_000, 1_000_000, 10_000_000] {
        let (killed, replayed, closed) = open_after_kill(events / scale);
        println!(
            "open after {events} events: killed {killed:.2?}, {replayed} read back; closed {closed:.2?}"
        );
    }
}

fn trees(scale: u64) {
    let count = 20_000 / scale;
    let sizes = [(1000, 0), (100_000, 0), (1_000_000, 0), (1000, 1_000_000)];
    let columns: Vec<_> = sizes
        .iter()
        .map(|&(files, died)| measure((files / scale).max(100), died / scale, count.min(files)))
        .collect();
    println!(
        "{:24}{:>12}{:>20}{:>20}{:>20}",
        "", "1,000", "100,000", "1,000,000", "1,000,000 died"
    );
    for (at, &(operation, base)) in columns[0].iter().enumerate() {
        print!("{operation:24}{base:>12.2?}");
        for column in columns.iter().skip(1) {
            let took = column[at].1;
            print!("{:>12.2?} {:>6.1}x", took, took.as_secs_f64() / base.as_secs_f64());
        }
        println!();
    }
    println!("\nlist 10 names, half of the others having died since");
    for died in [1, 10_000, 1_000_000] {
        let [among_dead, among_live] = ten((died / scale).max(1));
        println!("{died:>10} died: {among_dead:.2?}; {died} more live now: {among_live:.2?}");
    }
    println!(
        "\nevents      stat now   stat in the past   list 100 in the past   change attributes"
    );
    let checkpoints =
        [10_000, 100_000, 1_000_000, 10_000_000].map(|events: u64| events / scale + 1000);
    for (events, [now, past, list, change]) in checkpoints.iter().zip(age(&checkpoints)) {
        println!("{events:>9} {now:>10.2?} {past:>18.2?} {list:>22.2?} {change:>19.2?}");
    }
    println!();
}
