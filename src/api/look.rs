//! Looks through the log for events, one turn after another.
//!
//! A log is as long as all that ever happened, and what is looked for may be nowhere in it. So nobody looks through it in
//! one go: a turn is short, few are taken at a time, and between two of them whoever asked may be gone. What a turn finds
//! is handed over event by event, and is written down rather than kept: one may be as long as a body can be.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::legacy::event::Event;
use crate::legacy::native::{Cursor, PROJECT, Teller, Told};
use crate::tree::{Timestamp, Tree};

use super::problem::Problem;
use super::routes::waiting;
use super::state::Shared;

/// Turns at a time; what other requests wait for is done by the threads that are left.
pub(super) const TURNS_MAX: usize = 4;
/// How long a turn is, but for the event that is being told when it is over.
const TURN: Duration = Duration::from_millis(50);
/// After so many records of which nothing is told the clock is looked at.
const RECORDS: u32 = 256;
/// Records behind the last event that are passed over at most, to begin with what comes then.
const PASSED_MAX: u32 = 1 << 16;

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
pub(super) fn io_problem(err: std::io::Error) -> Problem {
    Problem::unavailable(format!("the log cannot be read: {err}"))
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) kind: Option<String>,
    pub(super) agent: Option<String>,
    /// Without a slash at its end.
    pub(super) path: Option<String>,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
}

impl Filter {
    fn fits(&self, told: &Told) -> bool {
        let event = &told.event;
        let time = event.timestamp.time;
        self.kind.as_ref().is_none_or(|kind| *kind == event.kind)
            && self.agent.as_deref().is_none_or(|agent| event.who() == Some(agent))
            && self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time <= until)
            && self.path.as_deref().is_none_or(|path| about(event, path))
    }
}

/// Whether `event` is about `path` or something below it.
fn about(event: &Event, path: &str) -> bool {
    const NAMES: [&str; 5] = ["path", "old_path", "new_path", "source_path", "dest_path"];
    NAMES.iter().filter_map(|name| event.datum(name)).any(|named| {
        named.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    /// Whoever takes the events has enough.
    Enough,
    /// So far that was all there is.
    End,
    /// It was over.
    Late,
}

/// A look through the log, between two turns.
#[derive(Debug)]
pub(super) struct Look {
    teller: Teller,
    filter: Filter,
    /// Where to go on.
    pub(super) at: Cursor,
}

impl Look {
    /// For what comes after `after`.
    pub(super) fn behind(tree: &Tree, after: Cursor, filter: Filter) -> Result<Self, Problem> {
        let teller = Teller::new(tree, PROJECT, after).map_err(io_problem)?;
        Ok(Self { teller, filter, at: after })
    }

    /// For what is told from now on. That may be behind the last event: a version that ends now, for one.
    pub(super) fn from_now(tree: &Tree, filter: Filter) -> Result<Self, Problem> {
        let last = tree.last();
        let mut teller = Teller::new(tree, PROJECT, Cursor::before(last)).map_err(io_problem)?;
        let mut at = Cursor { seq: last, nth: 0 };
        // Whatever happens meanwhile, this ends.
        let mut records = PASSED_MAX;
        while let Some(told) = teller.read_within(&mut records).map_err(io_problem)? {
            at = at.max(told.cursor);
        }
        Ok(Self { teller, filter, at })
    }

    /// Hands what fits to `take`, until that says that it wants no more.
    pub(super) fn turn(&mut self, mut take: impl FnMut(Told) -> bool) -> Result<Stop, Problem> {
        let until = Instant::now() + TURN;
        loop {
            let mut records = RECORDS;
            match self.teller.read_within(&mut records).map_err(io_problem)? {
                Some(told) => {
                    self.at = told.cursor;
                    if self.filter.fits(&told) && !take(told) {
                        return Ok(Stop::Enough);
                    }
                    if Instant::now() >= until {
                        return Ok(Stop::Late);
                    }
                }
                None if records > 0 => return Ok(Stop::End),
                None if Instant::now() >= until => {
                    // Nobody reads again what tells nothing.
                    self.at = self.at.max(self.teller.place());
                    return Ok(Stop::Late);
                }
                None => (),
            }
        }
    }
}

/// Does what looks through the log: when it is its turn, on a thread that may wait for the disk.
pub(super) async fn in_turn<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let turn = Arc::clone(&shared.turns).acquire_owned().await;
    // They are never closed.
    let turn = turn.map_err(|_| Problem::unavailable("the log is looked through no more"))?;
    waiting(move || {
        // Until the thread is free again, whether it is still waited for or not.
        let _turn = turn;
        work()
    })
    .await
}
