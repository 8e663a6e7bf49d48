//! Which questions there are, and how each is asked of all servers in turn.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::acts::{self, Turn};
use crate::counter::{Counted, Counter};
use crate::laps::{Laps, Percentiles, median};
use crate::report::{Cell, Row};
use crate::server::{Crew, Server};

/// How much is asked.
pub(crate) struct Size {
    pub(crate) rounds: u64,
    /// How long the file is that is written and read whole.
    pub(crate) mib: u64,
    /// How many files are walked.
    pub(crate) files: u64,
    /// One in so many of what is asked otherwise.
    pub(crate) divisor: u64,
    /// How many servers of each kind are asked what takes microseconds.
    pub(crate) crew: usize,
    /// How many clients ask at once; the questions that only one asks are asked where 1 is among them.
    pub(crate) clients: &'static [u64],
}

/// Whom a question can be asked.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    /// Everybody.
    All,
    /// Servers that keep what they are given; of ours, with its defaults.
    Stores,
    /// Those that work among many files.
    Grown,
    /// Ours, splicing every reply to READ or none.
    Splicing,
}

impl Of {
    fn is_asked(self, server: &Server) -> bool {
        match self {
            Self::All => !server.splices(),
            Self::Stores => server.stores && !server.splices(),
            Self::Grown => server.amid > 0,
            Self::Splicing => server.splices(),
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Unit {
    /// What one client does so often in one round; with several clients, each does its share.
    Times(u64),
    /// MiB of the large file.
    Large,
    /// So many MiB.
    Mib(u64),
    /// Files of the tree.
    Files,
}

/// Something to do in a directory.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    name: &'static str,
    of: Of,
    unit: Unit,
    /// Whether several clients ask it at once as well.
    shared: bool,
    /// Whether the kernel is to forget all names and nodes before.
    names_forgotten: bool,
    prepare: fn(&Turn<'_>),
    act: fn(&mut Laps, &Turn<'_>),
    undo: fn(&Turn<'_>),
}

const fn question(
    name: &'static str,
    of: Of,
    unit: Unit,
    act: fn(&mut Laps, &Turn<'_>),
) -> Question {
    Question {
        name,
        of,
        unit,
        shared: false,
        names_forgotten: false,
        prepare: |_| (),
        act,
        undo: |_| (),
    }
}

/// A matter of latency, that several clients can ask at once.
const fn latency(name: &'static str, times: u64, act: fn(&mut Laps, &Turn<'_>)) -> Question {
    Question { shared: true, ..question(name, Of::All, Times(times), act) }
}

const fn prepared(prepare: fn(&Turn<'_>), question: Question) -> Question {
    Question { prepare, ..question }
}

/// One request of one size, copied by the one server and spliced by the other.
const fn past(name: &'static str, act: fn(&mut Laps, &Turn<'_>)) -> Question {
    prepared(acts::make_past, question(name, Of::Splicing, Times(2000), act))
}

use Of::Stores;
use Unit::{Files, Large, Mib, Times};

pub(crate) const QUESTIONS: &[Question] = &[
    latency("getattr", 2000, acts::getattr),
    Question {
        names_forgotten: true,
        undo: acts::remove_hits,
        ..prepared(
            acts::make_hits,
            latency("lookup of a name that is there", 1000, acts::lookup_hit),
        )
    },
    latency("lookup of a missing name", 1000, acts::lookup_miss),
    Question {
        of: Of::Grown,
        names_forgotten: true,
        ..latency("lookup of any name", 1000, acts::lookup_any)
    },
    Question { of: Of::Grown, ..latency("change of any times", 1000, acts::change_any) },
    latency("read of 4 KiB past the cache", 2000, acts::read_direct),
    latency("open and close", 1000, acts::open_close),
    latency("open, read 4 KiB, close", 1000, acts::open_read_close),
    Question { undo: acts::remove_new, ..latency("create, write 4 KiB, close", 600, acts::create) },
    Question {
        undo: acts::remove_new,
        ..latency("create to read, write 4 KiB, close", 600, acts::create_to_read)
    },
    Question {
        undo: acts::remove_renamed,
        ..prepared(acts::make_new, latency("rename", 600, acts::rename))
    },
    prepared(acts::make_new, latency("unlink", 600, acts::unlink)),
    question("stat again", Stores, Times(5000), acts::stat),
    question("missing name again", Stores, Times(5000), acts::miss_again),
    prepared(acts::make_few, question("list 100 names", Stores, Times(200), acts::list_few)),
    prepared(acts::make_many, question("list 10,000 names", Stores, Times(5), acts::list_many)),
    Question {
        names_forgotten: true,
        ..prepared(acts::make_tree, question("walk and stat, forgotten", Stores, Files, acts::walk))
    },
    prepared(acts::make_tree, question("walk and stat again", Stores, Files, acts::walk)),
    Question {
        names_forgotten: true,
        ..prepared(
            acts::make_tree,
            question("walk and statx, forgotten", Stores, Files, acts::walk_for_birth_times),
        )
    },
    question("write, no fsync", Stores, Large, acts::write_unsynced),
    question("write, fsync", Stores, Large, acts::write_large),
    prepared(acts::make_large, question("read, cold", Stores, Large, acts::read_cold)),
    prepared(
        acts::make_large,
        question("read, nothing cached", Stores, Large, acts::read_uncached),
    ),
    prepared(acts::make_large, question("read, warm", Stores, Large, acts::read_warm)),
    prepared(
        acts::make_anywhere,
        question("read 4 KiB anywhere", Stores, Times(1000), acts::read_anywhere),
    ),
    prepared(
        acts::make_anywhere,
        question("write 4 KiB anywhere, fsync", Stores, Times(100), acts::write_anywhere),
    ),
    question("fsync of 4 KiB appended", Stores, Times(100), acts::fsync),
    prepared(
        acts::make_pieces,
        question("read in pieces, cold", Stores, Mib(16), acts::read_pieces),
    ),
    past("read past the cache, 4 KiB", acts::read_past::<4>),
    past("read past the cache, 16 KiB", acts::read_past::<16>),
    past("read past the cache, 32 KiB", acts::read_past::<32>),
    past("read past the cache, 64 KiB", acts::read_past::<64>),
    past("read past the cache, 256 KiB", acts::read_past::<256>),
    past("read past the cache, 1 MiB", acts::read_past::<1024>),
];

/// Those with one of `words` in their names, or all.
pub(crate) fn with_words(words: &[&str]) -> impl Iterator<Item = &'static Question> {
    QUESTIONS.iter().filter(|question| question.is_named(words))
}

/// Numbers what never comes twice.
pub(crate) static UNIQUE: AtomicU64 = AtomicU64::new(0);

/// The numbers below `count`, in an order of its own for each `turn`, and the same in each run.
///
/// Where a lone caller runs when it comes to a server is where the one before left it, and decides a factor of two. So in
/// the same order each time a server would be measured by its neighbour.
pub(crate) fn in_turn(count: usize, turn: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_cached_key(|number| {
        let mut hasher = DefaultHasher::new();
        (turn, number).hash(&mut hasher);
        hasher.finish()
    });
    order
}

/// What was measured of one server so far.
#[derive(Default)]
struct Measured {
    /// Seconds for one operation, by round.
    rounds: Vec<f64>,
    each: Vec<u32>,
    operations: u64,
    cpu: Duration,
}

impl Question {
    pub(crate) fn is_named(&self, words: &[impl AsRef<str>]) -> bool {
        words.is_empty() || words.iter().any(|word| self.name.contains(word.as_ref()))
    }

    /// Asks it of all in turn, round after round, for each number of clients.
    pub(crate) fn ask(&self, crews: &[Crew], size: &Size, counter: Option<&Counter>) -> Vec<Row> {
        let crews: Vec<&Crew> =
            crews.iter().filter(|crew| self.of.is_asked(crew.first())).collect();
        let clients = size.clients.iter().filter(|clients| self.shared || **clients == 1);
        clients
            .filter(|_| !crews.is_empty())
            .map(|clients| self.ask_at_once(*clients, &crews, size, counter))
            .collect()
    }

    fn ask_at_once(
        &self,
        clients: u64,
        crews: &[&Crew],
        size: &Size,
        counter: Option<&Counter>,
    ) -> Row {
        let count = match self.unit {
            Times(times) => (times / size.divisor / clients).max(1),
            Large => size.mib,
            Mib(mib) => mib.min(size.mib),
            Files => size.files,
        };
        // Of one that failed nothing is left.
        let mut asked: Vec<(&Crew, Option<Measured>)> =
            crews.iter().map(|crew| (*crew, Some(Measured::default()))).collect();
        // What takes longer is the disk's matter, not that of a wake-up.
        let members = if self.shared { size.crew } else { 1 };
        // The first round is for caches of every kind, and does not count.
        let turns = (0..=size.rounds).flat_map(|round| (0..members).map(move |turn| (round, turn)));
        for (round, turn) in turns {
            for number in in_turn(asked.len(), round * members as u64 + turn as u64) {
                let (crew, sum) = &mut asked[number];
                let Some(measured) = sum else { continue };
                let server = crew.at(turn);
                // Another server that cannot do it, being out of descriptors say, does not end an hour's comparison.
                let done = AssertUnwindSafe(|| self.one_round(server, clients, count));
                let this = match catch_unwind(done) {
                    Ok(this) => this,
                    Err(panic) if server.is_ours() => resume_unwind(panic),
                    Err(_) => {
                        println!("{}: {} FAILED, see above", self.name, server.name);
                        *sum = None;
                        continue;
                    }
                };
                if round > 0 {
                    measured.rounds.extend(this.rounds);
                    measured.each.extend(this.each);
                    measured.operations += this.operations;
                    measured.cpu += this.cpu;
                }
            }
        }
        let name = match clients {
            1 => self.name.to_owned(),
            clients => format!("{}, {clients} clients", self.name),
        };
        let cells = asked.into_iter().filter_map(|(crew, measured)| {
            let (server, measured) = (crew.first(), measured?);
            Some(Cell {
                server: server.name.clone(),
                floor: server.floor(),
                median: median(measured.rounds),
                percentiles: Percentiles::of(measured.each),
                cpu: server.cpu().map(|_| measured.cpu.as_secs_f64() / measured.operations as f64),
                // What several ask is what one asks.
                requests: counter
                    .filter(|_| clients == 1)
                    .and_then(|counter| self.count_requests(counter, server, count)),
            })
        });
        let row = Row {
            question: name,
            in_mib: matches!(self.unit, Large | Mib(_)),
            cells: cells.collect(),
        };
        row.print();
        row
    }

    fn turns<'a>(&self, server: &'a Server, clients: u64, count: u64) -> Vec<Turn<'a>> {
        (0..clients)
            .map(|client| Turn {
                server,
                client,
                count,
                number: UNIQUE.fetch_add(1, Ordering::Relaxed),
            })
            .collect()
    }

    fn begin(&self, turns: &[Turn<'_>]) {
        turns.iter().for_each(self.prepare);
        if self.names_forgotten {
            fs::write("/proc/sys/vm/drop_caches", "2").expect("we are root");
        }
    }

    fn one_round(&self, server: &Server, clients: u64, count: u64) -> Measured {
        let turns = self.turns(server, clients, count);
        self.begin(&turns);
        let before = server.cpu();
        let laps: Vec<Laps> = std::thread::scope(|scope| {
            let work = |turn| {
                let mut laps = Laps::new();
                (self.act)(&mut laps, turn);
                laps
            };
            // A lone client is this thread: a new one may wake up on another CPU than it works on.
            if let [turn] = turns.as_slice() {
                return vec![work(turn)];
            }
            let clients: Vec<_> =
                turns.iter().map(|turn| scope.spawn(move || work(turn))).collect();
            clients.into_iter().map(|client| client.join().expect("a client works")).collect()
        });
        let after = server.cpu();
        turns.iter().for_each(self.undo);
        let longest = laps.iter().map(Laps::all).max().unwrap_or_default();
        let operations = count * clients;
        Measured {
            rounds: vec![longest.as_secs_f64() / operations as f64],
            each: laps.into_iter().flat_map(Laps::into_each).collect(),
            operations,
            cpu: after.zip(before).map(|(after, before)| after - before).unwrap_or_default(),
        }
    }

    /// What the kernel asks of `server` for one operation; `None` where it asks nothing.
    fn count_requests(&self, counter: &Counter, server: &Server, count: u64) -> Option<Counted> {
        /// How often something is done to count its requests.
        const COUNTED: u64 = 20;
        let connection = server.connection()?;
        let count = if matches!(self.unit, Times(_)) { count.min(COUNTED) } else { count };
        let turns = self.turns(server, 1, count);
        self.begin(&turns);
        let counted = counter.during(connection, count, || {
            turns.iter().for_each(|turn| (self.act)(&mut Laps::new(), turn));
        });
        turns.iter().for_each(self.undo);
        Some(counted)
    }
}
