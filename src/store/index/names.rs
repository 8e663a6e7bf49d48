//! Names: what a name stands for, what a directory lists, which names an inode has; and extended attributes.

use super::super::event::{Ino, Seq};
use super::codec::Reader;
use super::key::{self, Fields, HASH_END, Key, NAME_MAX};
use super::layer::Cursor;
use super::{Entry, EntryVisitor, IndexError, Tables};

const S_IFMT_SHIFT: u32 = 12;

/// The value of a name.
pub(super) fn encode_entry(entry: Entry) -> [u8; 13] {
    let [_, _, since @ ..] = entry.since.0.to_be_bytes();
    let [_, _, ino @ ..] = entry.ino.0.to_be_bytes();
    let mut value = [0; 13];
    let kind = [(entry.kind >> S_IFMT_SHIFT) as u8];
    for (place, byte) in value.iter_mut().zip(since.into_iter().chain(ino).chain(kind)) {
        *place = byte;
    }
    value
}

fn decode_entry(value: &[u8]) -> Result<Entry, IndexError> {
    let (since, rest) = Reader::born(value)?;
    let mut fields = Fields::of_value(rest.0);
    let ino = Ino(fields.short()?);
    let kind = fields.rest().first().copied().map(u32::from);
    let kind = kind.ok_or_else(|| IndexError::Damaged("a name's value is cut short".into()))?;
    Ok(Entry { ino, kind: kind << S_IFMT_SHIFT, since })
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX && !name.contains(&0)
}

impl Tables {
    pub(super) fn entry_at(
        &self,
        parent: Ino,
        name: &[u8],
        at: Seq,
    ) -> Result<Option<Entry>, IndexError> {
        if !is_name(name) {
            return Ok(None);
        }
        let hash = self.name_hash.of(name);
        let key = || key::name(parent, hash, name);
        let live = match self.cache.name(parent.0, hash, name) {
            Some(hot) => hot,
            None => {
                let row = self.row(&key())?;
                let entry = row.map(|value| decode_entry(&value)).transpose()?;
                self.cache.put_name(parent.0, hash, name, entry);
                entry
            }
        };
        if let Some(entry) = live.filter(|entry| entry.since <= at) {
            return Ok(Some(entry));
        }
        if at == Seq::NOW {
            return Ok(None);
        }
        self.dead_version(&key(), at)?.map(|value| decode_entry(&value)).transpose()
    }

    pub(super) fn entries_at(
        &self,
        parent: Ino,
        from: u64,
        at: Seq,
        visit: &mut EntryVisitor<'_>,
    ) -> Result<(), IndexError> {
        if from >= HASH_END {
            return Ok(());
        }
        let end = Key::new(key::NAME).short(parent.0).end();
        let mut live =
            self.cursor(Some(parent), &Key::new(key::NAME).short(parent.0).long(from), &end)?;
        let mut dead = (at < self.last).then(|| Dead::new(self, parent, from, at)).transpose()?;
        let mut live_next = next_live(self, &mut live)?;
        let mut dead_next = match &mut dead {
            Some(dead) => dead.next()?,
            None => None,
        };
        loop {
            // Of one name the live value decides if it is old enough, else the dead one does.
            let order = match (&live_next, &dead_next) {
                (None, None) => return Ok(()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((hash, name, _)), Some((dead_hash, dead_name, _))) => {
                    (*hash, name).cmp(&(*dead_hash, dead_name))
                }
            };
            let mut chosen = None;
            if order.is_ge() {
                chosen = dead_next.take();
                if let Some(dead) = &mut dead {
                    dead_next = dead.next()?;
                }
            }
            if order.is_le() {
                let row = live_next.take().filter(|(_, _, entry)| entry.since <= at);
                chosen = row.or(chosen);
                live_next = next_live(self, &mut live)?;
            }
            if let Some((hash, name, entry)) = chosen
                && visit(hash, &name, entry).is_break()
            {
                return Ok(());
            }
        }
    }

    pub(super) fn xattr_at(
        &self,
        ino: Ino,
        name: &[u8],
        at: Seq,
    ) -> Result<Option<Vec<u8>>, IndexError> {
        if !is_name(name) || !self.exists(ino, at)? {
            return Ok(None);
        }
        let Some(mut value) = self.version(&key::xattr(ino, name), at)? else { return Ok(None) };
        let (_, rest) = Reader::born(&value)?;
        let birth = value.len() - rest.0.len();
        value.drain(..birth);
        Ok(Some(value))
    }

    pub(super) fn xattrs_at(&self, ino: Ino, at: Seq) -> Result<Vec<Vec<u8>>, IndexError> {
        if !self.exists(ino, at)? {
            return Ok(Vec::new());
        }
        self.alive(ino, &Key::new(key::XATTR).short(ino.0), at)
    }

    pub(super) fn names_at(&self, ino: Ino, at: Seq) -> Result<Vec<(Ino, Vec<u8>)>, IndexError> {
        let of = Key::new(key::NAME_OF).short(ino.0);
        let split = |rest: Vec<u8>| {
            let mut fields = Fields::of_value(&rest);
            Ok((Ino(fields.short()?), fields.rest().to_vec()))
        };
        self.alive(ino, &of, at)?.into_iter().map(split).collect()
    }

    pub(super) fn parent_at(&self, dir: Ino, at: Seq) -> Result<Option<Ino>, IndexError> {
        if dir == Ino::ROOT {
            return Ok(self.exists(dir, at)?.then_some(dir));
        }
        Ok(self.names_at(dir, at)?.first().map(|(parent, _)| *parent))
    }

    /// What follows `prefix` in the keys that were alive after event `at`, ascending.
    fn alive(&self, ino: Ino, prefix: &Key, at: Seq) -> Result<Vec<Vec<u8>>, IndexError> {
        let skip = prefix.len();
        let mut found = Vec::new();
        let mut rows = self.cursor(Some(ino), prefix, &prefix.clone().end())?;
        while rows.next()? {
            self.visited();
            if Reader::born(rows.value())?.0 <= at {
                found.push(rows.key().get(skip..).unwrap_or_default().to_vec());
            }
        }
        if at < self.last {
            let prefix = prefix.as_dead();
            let mut rows = self.cursor(Some(ino), &prefix, &prefix.clone().end())?;
            while rows.next()? {
                self.visited();
                let rest = rows.key().get(skip..).unwrap_or_default();
                // The NUL and the death close the key.
                let Some((rest, death)) = rest.split_last_chunk::<6>() else { continue };
                let death = Seq(Fields::of_value(death).short()?);
                if Reader::born(rows.value())?.0 <= at && at < death {
                    found.push(rest.strip_suffix(&[0]).unwrap_or(rest).to_vec());
                }
            }
            found.sort_unstable();
        }
        Ok(found)
    }
}

type Named = (u64, Vec<u8>, Entry);

fn next_live(tables: &Tables, rows: &mut Cursor<'_>) -> Result<Option<Named>, IndexError> {
    if !rows.next()? {
        return Ok(None);
    }
    tables.visited();
    let mut fields = Fields::of(rows.key());
    fields.short()?;
    Ok(Some((fields.long()?, fields.rest().to_vec(), decode_entry(rows.value())?)))
}

/// The dead names of a directory that were alive after event `at`, one seek for each distinct name.
struct Dead<'t> {
    tables: &'t Tables,
    parent: Ino,
    at: Seq,
    end: Key,
    rows: Cursor<'t>,
    /// The cursor stands on a row not looked at yet.
    pending: bool,
}

impl<'t> Dead<'t> {
    fn new(tables: &'t Tables, parent: Ino, from: u64, at: Seq) -> Result<Self, IndexError> {
        let prefix = Key::new(key::NAME).short(parent.0).as_dead();
        let end = prefix.clone().end();
        let rows = tables.cursor(Some(parent), &prefix.long(from), &end)?;
        Ok(Self { tables, parent, at, end, rows, pending: false })
    }

    fn next(&mut self) -> Result<Option<Named>, IndexError> {
        loop {
            if !std::mem::take(&mut self.pending) && !self.rows.next()? {
                return Ok(None);
            }
            self.tables.visited();
            let (hash, name, death) = dead_fields(self.rows.key())?;
            let name = name.to_vec();
            if death <= self.at {
                // Not the one: the first that died later is one seek away, here or under the next name.
                let from = key::name(self.parent, hash, &name).dead(self.at.0 + 1);
                self.rows = self.tables.cursor(Some(self.parent), &from, &self.end)?;
                self.pending = self.rows.next()?;
                if !self.pending {
                    return Ok(None);
                }
                continue;
            }
            let entry = decode_entry(self.rows.value())?;
            // Later deaths of the same name do not matter.
            let mut steps = 0;
            loop {
                if !self.rows.next()? {
                    break;
                }
                self.tables.visited();
                let (next_hash, next_name, _) = dead_fields(self.rows.key())?;
                if (next_hash, next_name) != (hash, &name[..]) {
                    self.pending = true;
                    break;
                }
                steps += 1;
                if steps == 4 {
                    let from = key::name(self.parent, hash, &name).dead(key::LAST).end();
                    self.rows = self.tables.cursor(Some(self.parent), &from, &self.end)?;
                }
            }
            if entry.since <= self.at {
                return Ok(Some((hash, name, entry)));
            }
        }
    }
}

fn dead_fields(key: &[u8]) -> Result<(u64, &[u8], Seq), IndexError> {
    let mut fields = Fields::of(key);
    fields.short()?;
    Ok((fields.long()?, fields.closed_name()?, Seq(fields.short()?)))
}
