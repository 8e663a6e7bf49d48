//! From a time to the last event that was not later.
//!
//! Every event's time is kept, as its difference from the one before: about three bytes an event. A row holds up to
//! [`ROW_EVENTS`] of them; the row being filled is the *tail*, in memory, and goes into each batch as far as it is.
//!
//! Invariants: times never fall along the sequence (an event that claims so is taken at the time of the one
//! before), so a row's events lie between its first and the first of the next.

use super::super::event::{Seq, Timestamp};
use super::codec::{Reader, Writer};
use super::key::{self, Key};
use super::{IndexError, Tables};

/// Events in a full row.
const ROW_EVENTS: u32 = 256;

/// The row being filled. Empty: no events.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail {
    first: (Timestamp, Seq),
    last: (Timestamp, Seq),
    events: u32,
    value: Vec<u8>,
}

impl Tail {
    /// Adds an event; returns the row to be kept when it is full.
    pub(super) fn push(&mut self, time: Timestamp, seq: Seq) -> Option<(Key, Vec<u8>)> {
        if self.events == 0 {
            *self = Self { first: (time, seq), last: (time, seq), events: 1, value: Vec::new() };
            return None;
        }
        let time = time.max(self.last.0);
        let nanos = time.0.wrapping_sub(self.last.0.0).cast_unsigned();
        let gap = seq.0 - self.last.1.0;
        let mut out = Writer(std::mem::take(&mut self.value));
        // Almost always the next number: then only the time is said.
        out.number(gap - 1).number(nanos);
        self.value = out.0;
        self.last = (time, seq);
        self.events += 1;
        if self.events < ROW_EVENTS {
            return None;
        }
        let row = self.row();
        *self = Self::default();
        row
    }

    /// The row as far as it is.
    pub(super) fn row(&self) -> Option<(Key, Vec<u8>)> {
        let (time, seq) = self.first;
        (self.events > 0).then(|| (key::times(time, seq.0), self.value.clone()))
    }

    /// What goes on where a row stopped.
    pub(super) fn read(key: &[u8], value: &[u8]) -> Result<Self, IndexError> {
        let first = first_of(key)?;
        let mut tail = Self { first, last: first, events: 1, value: value.to_vec() };
        each(first, value, |time, seq| {
            tail.last = (time, seq);
            tail.events += 1;
            true
        })?;
        // A full row is over.
        Ok(if tail.events < ROW_EVENTS { tail } else { Self::default() })
    }

    fn seq_at(&self, time: Timestamp) -> Result<Option<Seq>, IndexError> {
        if self.events == 0 || time < self.first.0 {
            return Ok(None);
        }
        if time >= self.last.0 {
            return Ok(Some(self.last.1));
        }
        last_until(self.first, &self.value, time).map(Some)
    }
}

fn first_of(key: &[u8]) -> Result<(Timestamp, Seq), IndexError> {
    let mut fields = key::Fields::of(key);
    let time = (!fields.long()? ^ (1 << 63)).cast_signed();
    Ok((Timestamp(time), Seq(key::LAST - fields.short()?)))
}

/// Calls `visit` for each event of a row after its first, until it says no.
fn each(
    (mut time, mut seq): (Timestamp, Seq),
    value: &[u8],
    mut visit: impl FnMut(Timestamp, Seq) -> bool,
) -> Result<(), IndexError> {
    let mut from = Reader(value);
    while !from.is_empty() {
        seq = Seq(seq.0.wrapping_add(from.number()?).wrapping_add(1));
        time = Timestamp(time.0.wrapping_add(from.number()?.cast_signed()));
        if !visit(time, seq) {
            break;
        }
    }
    Ok(())
}

fn last_until(first: (Timestamp, Seq), value: &[u8], until: Timestamp) -> Result<Seq, IndexError> {
    let mut last = first.1;
    each(first, value, |time, seq| {
        let fits = time <= until;
        if fits {
            last = seq;
        }
        fits
    })?;
    Ok(last)
}

impl Tables {
    pub(super) fn seq_at_time(&self, time: Timestamp) -> Result<Seq, IndexError> {
        if let Some(seq) = self.tail.seq_at(time)? {
            return Ok(seq);
        }
        let (from, to) = (key::times(time, key::LAST), Key::new(key::TIMES).end());
        let mut rows = self.cursor(None, &from, &to)?;
        if !rows.next()? {
            return Ok(Seq::ZERO);
        }
        last_until(first_of(rows.key())?, rows.value(), time)
    }

    /// Takes up the row that the last batch left unfinished.
    pub(super) fn load_tail(&mut self) -> Result<(), IndexError> {
        let (from, to) = (Key::new(key::TIMES), Key::new(key::TIMES).end());
        let mut rows = self.cursor(None, &from, &to)?;
        let tail =
            if rows.next()? { Tail::read(rows.key(), rows.value())? } else { Tail::default() };
        drop(rows);
        if tail.last.1 > self.last {
            return Err(IndexError::Damaged("it has times of events that it does not have".into()));
        }
        self.tail = tail;
        Ok(())
    }
}
