//! Names: what a name stands for, what a directory lists, which names an inode has; and extended attributes.

use super::super::event::{Ino, Seq};
use super::codec::Reader;
use super::key::{self, Fields, HASH_END, Key, NAME_MAX};
use super::pages::Set;
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
        let hot = self.cache.name(parent.0, hash, name);
        if let Some(live) = hot {
            let live = live.filter(|entry| entry.since <= at);
            if live.is_some() || at >= self.last {
                return Ok(live);
            }
        }
        let key = key::name(parent, hash, name);
        if hot.is_some() {
            return self.dead_version(&key, at)?.map(|value| decode_entry(&value)).transpose();
        }
        let live = || {
            let entry = self.row(&key)?.map(|value| decode_entry(&value)).transpose()?;
            self.cache.put_name(parent.0, hash, name.into(), entry);
            Ok(entry.filter(|entry| entry.since <= at))
        };
        self.either(&key, at, live, decode_entry)
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
        if at < self.last {
            return self.past_entries(parent, from, at, visit);
        }
        let names = Key::new(key::NAME).short(parent.0);
        let mut rows = self.cursor(Some(parent), &names.clone().long(from), &names.end())?;
        while rows.next()? {
            self.visited();
            let mut fields = Fields::of(rows.key());
            fields.short()?;
            let hash = fields.long()?;
            if visit(hash, fields.rest(), decode_entry(rows.value())?).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Page by page, for what the present does not say any more.
    fn past_entries(
        &self,
        parent: Ino,
        mut from: u64,
        at: Seq,
        visit: &mut EntryVisitor<'_>,
    ) -> Result<(), IndexError> {
        let mut depth = None;
        loop {
            let (names, last) = self.elements((Set::Names, parent), from, at, &mut depth)?;
            for name in names {
                let kind = u32::from(name.kind) << S_IFMT_SHIFT;
                let entry = Entry { ino: name.ino, kind, since: name.birth };
                if visit(name.hash, &name.bytes, entry).is_break() {
                    return Ok(());
                }
            }
            if last >= HASH_END {
                return Ok(());
            }
            from = last + 1;
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
        self.alive((Set::Xattrs, ino), at)
    }

    pub(super) fn names_at(&self, ino: Ino, at: Seq) -> Result<Vec<(Ino, Vec<u8>)>, IndexError> {
        let split = |rest: Vec<u8>| {
            let mut fields = Fields::of_value(&rest);
            Ok((Ino(fields.short()?), fields.rest().to_vec()))
        };
        self.alive((Set::NamesOf, ino), at)?.into_iter().map(split).collect()
    }

    pub(super) fn parent_at(&self, dir: Ino, at: Seq) -> Result<Option<Ino>, IndexError> {
        if dir == Ino::ROOT {
            return Ok(self.exists(dir, at)?.then_some(dir));
        }
        Ok(self.names_at(dir, at)?.first().map(|(parent, _)| *parent))
    }

    /// What of a set without hashes was alive after event `at`, ascending.
    fn alive(&self, of: (Set, Ino), at: Seq) -> Result<Vec<Vec<u8>>, IndexError> {
        let mut found = Vec::new();
        if at < self.last {
            let (elements, _) = self.elements(of, 0, at, &mut None)?;
            found.extend(elements.into_iter().map(|element| element.bytes));
        } else {
            self.living(of.0, of.1, (0, HASH_END), |element| found.push(element.bytes))?;
        }
        Ok(found)
    }
}
