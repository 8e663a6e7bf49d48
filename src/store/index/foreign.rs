//! Events that others told of, by their names; and places in the log, by the events before them.
//!
//! Both belong to the log, not to a tree, so neither has a past.
//!
//! An id may be longer than a key can hold: of such a one its BLAKE3 stands in its place.

use super::super::event::{Fingerprint, Foreign, Place, Seq};
use super::commit::Mark;
use super::key::{self, Key};
use super::small::Small;
use super::{IndexError, Tables, codec};

/// Longest id that stands in a key as it is.
const ID_MAX: usize = 192;

/// The key of an event, up to its fingerprint.
fn key_of(id: &[u8]) -> Key {
    let key = Key::new(key::FOREIGN);
    if id.len() <= ID_MAX {
        return key.raw(&[id.len() as u8]).raw(id);
    }
    key.raw(&[u8::MAX]).raw(blake3::hash(id).as_bytes())
}

/// The row by which a foreign event is found.
pub(super) fn row(foreign: &Foreign<'_>, seq: Seq) -> (Key, Vec<u8>) {
    let mut value = codec::Writer(Vec::new());
    value.number(seq.0);
    (key_of(foreign.id).raw(&foreign.fingerprint), value.0)
}

/// Bytes of content files that a foreign event takes.
pub(super) fn kept(foreign: &Foreign<'_>) -> u64 {
    match foreign.body.place {
        Place::Inline(_) => 0,
        Place::Extent { len, .. } => len.next_multiple_of(super::super::content::PAGE),
    }
}

impl Tables {
    /// The event that somebody else told of under this id, with this body or with any (the first in no
    /// particular order).
    pub fn foreign(
        &self,
        id: &[u8],
        fingerprint: Option<&Fingerprint>,
    ) -> Result<Option<Seq>, IndexError> {
        let key = key_of(id);
        if let Some(fingerprint) = fingerprint {
            let row = self.row(&key.raw(fingerprint))?;
            return row.map(|row| codec::Reader(&row).number().map(Seq)).transpose();
        }
        let mut rows = self.cursor(None, &key, &key.clone().end())?;
        if rows.next()? {
            codec::Reader(rows.value()).number().map(|seq| Some(Seq(seq)))
        } else {
            Ok(None)
        }
    }

    /// The last place noted down that has no event of `seq` or later before it.
    pub(in super::super) fn mark_before(&self, seq: Seq) -> Result<Option<Vec<u8>>, IndexError> {
        let from = mark_key(seq.before());
        let mut rows = self.cursor(None, &from, &Key::new(key::MARK).end())?;
        Ok(if rows.next()? { Some(rows.value().to_vec()) } else { None })
    }

    /// Notes down the place in the log behind the last event.
    pub(super) fn note_mark(&mut self, mark: &Mark) {
        self.young.put(Small::from(&*mark_key(self.last)), Small::from(&mark.0[..]), true);
    }

    pub(super) fn load_kept(&self) -> Result<u64, IndexError> {
        self.row(&kept_key())?.map_or(Ok(0), |row| codec::Reader(&row).number())
    }

    pub(super) fn put_kept(&mut self, kept: u64) {
        let mut value = codec::Writer(Vec::new());
        value.number(kept);
        self.young.put(Small::from(&*kept_key()), Small::from(&value.0[..]), true);
    }
}

/// Later places sort first.
fn mark_key(last: Seq) -> Key {
    Key::new(key::MARK).short(key::LAST - last.0.min(key::LAST))
}

fn kept_key() -> Key {
    Key::new(key::META).raw(&[1])
}

#[cfg(test)]
mod tests {
    use super::super::{Index, Options};
    use super::*;
    use crate::store::event::{ActorId, Change, Data, Event, Format, Timestamp};

    fn told<'a>(id: &'a [u8], fingerprint: u8) -> Change<'a> {
        Change::Foreign(Foreign {
            id,
            kind: b"custom",
            agent: b"",
            aggregate: b"",
            time: Timestamp(0),
            format: Format::Json,
            source: None,
            fingerprint: [fingerprint; 16],
            body: Data { hash: [0; 32], salt: [1; 16], place: Place::Inline(b"{}") },
        })
    }

    #[test]
    fn an_event_is_known_by_its_id_and_what_it_says() {
        let index = Index::in_memory(&Options::default()).unwrap();
        let mut tables = index.write();
        let long = [b'x'; 5000];
        let all = [(&b"1_0_n"[..], 1), (b"1_0_n", 2), (b"11_0_n", 3), (&long, 4)];
        for (seq, (id, fingerprint)) in (2..).zip(all) {
            let (time, actor, change) = (Timestamp(0), ActorId(0), told(id, fingerprint));
            tables.apply(&Event { seq: Seq(seq), time, actor, unique: 0, change }, None).unwrap();
        }
        let find = |id: &[u8], print: u8| tables.foreign(id, Some(&[print; 16])).unwrap();
        assert_eq!(find(b"1_0_n", 1), Some(Seq(2)));
        assert_eq!(find(b"1_0_n", 2), Some(Seq(3)));
        assert_eq!(find(b"1_0_n", 3), None);
        assert_eq!(find(&long, 4), Some(Seq(5)));
        assert_eq!(tables.foreign(b"1_0_n", None).unwrap(), Some(Seq(2)));
        assert_eq!(tables.foreign(b"11_0_n", None).unwrap(), Some(Seq(4)));
        assert_eq!(tables.foreign(b"1_0", None).unwrap(), None);
        assert_eq!(tables.foreign(&long, None).unwrap(), Some(Seq(5)));
        assert_eq!(tables.foreign(b"", None).unwrap(), None);
    }

    #[test]
    fn a_place_is_the_last_one_before_an_event() {
        let index = Index::in_memory(&Options::default()).unwrap();
        let mut tables = index.write();
        assert_eq!(tables.mark_before(Seq::NOW).unwrap(), None);
        for last in [5, 9] {
            tables.last = Seq(last);
            tables.note_mark(&Mark(vec![last as u8]));
        }
        let before = |seq| tables.mark_before(Seq(seq)).unwrap();
        assert_eq!(before(5), None);
        assert_eq!(before(6), Some(vec![5]));
        assert_eq!(before(9), Some(vec![5]));
        assert_eq!(before(10), Some(vec![9]));
        assert_eq!(tables.mark_before(Seq::NOW).unwrap(), Some(vec![9]));
    }
}
