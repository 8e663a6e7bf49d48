//! What sets of the past hold, against a model, and what it costs to ask, while names and attributes come and go.

use std::collections::BTreeMap;

use super::tests::{S_IFDIR, S_IFREG, Writer, list, steps};
use super::*;
use crate::store::event::Change;
use crate::store::sim::Random;

/// One element of a set and its life.
#[derive(Clone, Debug)]
struct Life {
    owner: Ino,
    element: Vec<u8>,
    ino: Ino,
    birth: Seq,
    death: Seq,
}

/// A tree in which everything comes and goes, in two indexes, and all it ever held.
struct Churn<'i> {
    writers: [Writer<'i>; 2],
    random: Random,
    dirs: Vec<Ino>,
    names: Vec<Life>,
    xattrs: Vec<Life>,
    /// Where in `names` the live ones are.
    live: BTreeMap<(Ino, Vec<u8>), usize>,
    /// How many names each file has.
    links: BTreeMap<Ino, u64>,
}

impl<'i> Churn<'i> {
    fn new(indexes: [&'i Index; 2], seed: u64) -> Self {
        let mut writers = indexes.map(Writer::new);
        let mut dirs = vec![Ino::ROOT];
        dirs.push(writers.each_mut().map(|to| to.create(Ino::ROOT, b"a directory", S_IFDIR))[0]);
        let (names, xattrs, live, links) = <_>::default();
        let mut churn = Self { writers, random: Random(seed), dirs, names, xattrs, live, links };
        churn.born(Ino::ROOT, b"a directory".to_vec(), churn.dirs[1]);
        churn
    }

    fn push(&mut self, change: &Change<'_>) -> Seq {
        let [seq, _] = self.writers.each_mut().map(|to| Seq(to.push(change.clone()).0));
        seq
    }

    fn seq(&self) -> Seq {
        Seq(self.writers[0].seq - 1)
    }

    fn born(&mut self, owner: Ino, element: Vec<u8>, ino: Ino) {
        let birth = self.seq();
        self.live.insert((owner, element.clone()), self.names.len());
        self.names.push(Life { owner, element, ino, birth, death: Seq::NOW });
        *self.links.entry(ino).or_default() += 1;
    }

    fn died(&mut self, owner: Ino, element: &[u8]) -> Ino {
        let at = self.live.remove(&(owner, element.to_vec())).unwrap();
        self.names[at].death = self.seq();
        let ino = self.names[at].ino;
        *self.links.get_mut(&ino).unwrap() -= 1;
        ino
    }

    /// Ends a file without a name.
    fn end(&mut self, ino: Ino) {
        if self.links[&ino] == 0 {
            self.push(&Change::End { ino });
        }
    }

    /// A name that is not there yet.
    fn fresh(&mut self) -> (Ino, Vec<u8>) {
        loop {
            let dir = self.dirs[self.random.below(2)];
            // Few enough that many come back.
            let name = format!("{}", self.random.below(2000)).into_bytes();
            if !self.live.contains_key(&(dir, name.clone())) {
                return (dir, name);
            }
        }
    }

    /// A name of a file.
    fn some(&mut self) -> Option<(Ino, Vec<u8>, Ino)> {
        let files: Vec<_> =
            self.live.iter().filter(|(_, at)| self.names[**at].ino != self.dirs[1]).collect();
        if files.is_empty() {
            return None;
        }
        let at = self.random.below(files.len());
        let ((dir, name), life) = files[at];
        Some((*dir, name.clone(), self.names[*life].ino))
    }

    fn create(&mut self) {
        let (parent, name) = self.fresh();
        let (mode, uid, gid, rdev, target, xattrs) = (S_IFREG, 0, 0, 0, &b""[..], vec![]);
        let change = Change::Create { parent, name: &name, mode, uid, gid, rdev, target, xattrs };
        let ino = Ino(self.push(&change).0);
        self.born(parent, name, ino);
    }

    fn remove(&mut self) {
        let Some((parent, name, ino)) = self.some() else { return };
        self.push(&Change::Unlink { parent, name: &name, ino });
        self.died(parent, &name);
        self.end(ino);
    }

    fn link(&mut self) {
        let (Some((_, _, ino)), (parent, name)) = (self.some(), self.fresh()) else { return };
        self.push(&Change::Link { ino, parent, name: &name });
        self.born(parent, name, ino);
    }

    fn rename(&mut self) {
        let (Some((parent, name, ino)), (new_parent, new_name)) = (self.some(), self.fresh())
        else {
            return;
        };
        let (new_name, replaced) = (&new_name[..], None);
        self.push(&Change::Rename { parent, name: &name, new_parent, new_name, ino, replaced });
        self.died(parent, &name);
        self.born(new_parent, new_name.to_vec(), ino);
    }

    /// Renames over another, or exchanges both.
    fn two(&mut self, exchange: bool) {
        let (Some((parent, name, ino)), Some((new_parent, new_name, other))) =
            (self.some(), self.some())
        else {
            return;
        };
        if ino == other {
            return;
        }
        let old = &name[..];
        if exchange {
            let new_name = &new_name[..];
            self.push(&Change::Exchange { parent, name: old, new_parent, new_name, ino, other });
        } else {
            let (new_name, replaced) = (&new_name[..], Some(other));
            self.push(&Change::Rename { parent, name: old, new_parent, new_name, ino, replaced });
        }
        self.died(parent, &name);
        self.died(new_parent, &new_name);
        self.born(new_parent, new_name, ino);
        if exchange {
            self.born(parent, name, other);
        } else {
            self.end(other);
        }
    }

    fn xattr(&mut self) {
        let (ino, name) = (self.dirs[1], format!("user.{}", self.random.below(6)));
        let alive = |life: &&mut Life| life.death == Seq::NOW && life.element == name.as_bytes();
        let known = self.xattrs.iter_mut().find(alive).map(|life| &mut life.death);
        let name = name.as_bytes();
        let remove = known.is_some() && self.random.below(2) == 0;
        let seq = Seq(self.writers[0].seq);
        if let Some(death) = known {
            *death = seq;
        }
        if remove {
            self.push(&Change::RemoveXattr { ino, name });
            return;
        }
        let value = &seq.0.to_be_bytes()[..];
        self.push(&Change::SetXattr { ino, name, value, mode: None });
        let element = name.to_vec();
        self.xattrs.push(Life { owner: ino, element, ino, birth: seq, death: Seq::NOW });
    }

    /// Goes on until about so many names are there.
    fn until(&mut self, names: usize) {
        while self.live.len().abs_diff(names) > 3 {
            match self.random.below(20) {
                0 => self.link(),
                1 => self.rename(),
                2 => self.two(false),
                3 => self.two(true),
                4 | 5 => self.xattr(),
                _ if self.live.len() < names => self.create(),
                _ => self.remove(),
            }
            match self.random.below(400) {
                0 => self.writers[0].flush(),
                1 => self.writers[0].index.freeze(Mark::default()),
                _ => (),
            }
        }
    }

    /// Both indexes say what was there after event `at`.
    fn check(&mut self, at: Seq) {
        let from = self.random.below(1 << 62) as u64 * 2;
        let (asked, at) = (at, at.min(self.seq()));
        let alive = |lives: &[Life], owner: Ino| -> Vec<Life> {
            let alive = |life: &&Life| life.owner == owner && life.birth <= at && at < life.death;
            lives.iter().filter(alive).cloned().collect()
        };
        for writer in &self.writers {
            let tables = writer.index.read();
            for &dir in &self.dirs {
                let names = alive(&self.names, dir);
                let of =
                    |life: Life| (tables.hash(&life.element), life.element, life.ino, life.birth);
                let mut expected: Vec<_> = names.into_iter().map(of).collect();
                expected.sort();
                for from in [0, from] {
                    let mut found = Vec::new();
                    let mut visit = |hash: u64, name: &[u8], entry: Entry| {
                        found.push((hash, name.to_vec(), entry.ino, entry.since));
                        ControlFlow::Continue(())
                    };
                    tables.entries(dir, from, asked, &mut visit).unwrap();
                    expected.retain(|name| name.0 >= from);
                    assert_eq!(found, expected, "in {dir} after {at} from {from}");
                }
            }
            let xattrs = alive(&self.xattrs, self.dirs[1]).into_iter().map(|life| life.element);
            let mut xattrs: Vec<_> = xattrs.collect();
            xattrs.sort();
            if at.0 >= self.dirs[1].0 {
                assert_eq!(tables.xattrs(self.dirs[1], asked).unwrap(), xattrs, "after {at}");
            }
            for life in self.names.iter().step_by(1 + self.names.len() / 50) {
                let of =
                    |other: &&Life| other.ino == life.ino && other.birth <= at && at < other.death;
                let names = self.names.iter().filter(of);
                let mut names: Vec<_> =
                    names.map(|life| (life.owner, life.element.clone())).collect();
                names.sort();
                assert_eq!(
                    tables.names(life.ino, asked).unwrap(),
                    names,
                    "of {} at {at}",
                    life.ino
                );
            }
        }
    }
}

/// All rows of sets and their pages.
fn rows(index: &Index) -> Vec<(Vec<u8>, Vec<u8>)> {
    let tables = index.read();
    let mut rows = tables.cursor(None, &[key::NAME], &[key::CLOSED_PAGE + 1]).unwrap();
    let mut all = Vec::new();
    while rows.next().unwrap() {
        if rows.key()[0] != key::TIMES {
            all.push((rows.key().to_vec(), rows.value().to_vec()));
        }
    }
    all
}

#[test]
fn sets_of_the_past_are_what_they_were_after_every_event() {
    for (seed, hash_bits) in [(1, 63), (2, 63), (3, 5), (4, 1)] {
        let options = Options { hash_bits, ..Options::default() };
        let kept = Index::in_memory(&options).unwrap();
        let fresh = Index::in_memory(&options).unwrap();
        let mut churn = Churn::new([&kept, &fresh], seed);
        for names in [500, 10, 40, 5, 600, 300, 8, 100] {
            churn.until(names);
            churn.check(Seq::NOW);
        }
        let last = churn.seq().0;
        for at in (1..=last).step_by(last as usize / 80).chain(last - 5..=last) {
            churn.check(Seq(at));
        }
        // Committed now and then, or never: the same.
        assert_eq!(rows(&kept), rows(&fresh));
        let depth = |key: &[u8]| (key[0] == key::CLOSED_PAGE && key[7] == 0).then(|| key[8]);
        let deepest = rows(&kept).iter().filter_map(|(key, _)| depth(key)).max();
        assert!(deepest >= Some(if hash_bits == 63 { 2 } else { 0 }), "{deepest:?}");
    }
}

#[test]
fn listing_the_past_costs_what_was_there_whatever_lived_before_or_after() {
    let index = Index::in_memory(&Options::default()).unwrap();
    let mut writer = Writer::new(&index);
    let dir = writer.create(Ino::ROOT, b"dir", S_IFDIR);
    let mut moments = Vec::new();
    let mut alive = Vec::new();
    // Ten names stay while others come and go; then there are many; then ten again.
    for round in 0..16_000_u32 {
        let (grows, shrinks) = match round {
            0..10 | 8_000..12_000 => (true, false),
            10..8_000 => (true, true),
            _ => (false, alive.len() > 10),
        };
        if grows {
            let name = format!("{round}").into_bytes();
            alive.push((writer.create(dir, &name, S_IFREG), name));
        }
        if shrinks {
            let (ino, name) = alive.remove(alive.len() - 1);
            writer.push(Change::Unlink { parent: dir, name: &name, ino });
            writer.push(Change::End { ino });
        }
        if round % 3_001 == 0 {
            writer.flush();
        }
        if alive.len() == 10 {
            moments.push(Seq(writer.seq - 1));
        }
    }
    for at in moments.into_iter().step_by(37) {
        let cost = steps(&index, |tables| assert_eq!(list(tables, dir, at), 10));
        assert!(cost < 250, "{cost} steps at {at}");
    }
    // With many, it is in proportion.
    let at = Seq(writer.seq - 9_000);
    let mut names = 0;
    let cost = steps(&index, |tables| names = list(tables, dir, at));
    assert!(names > 500 && cost < 5 * names as u64 + 250, "{cost} steps for {names} names");
}

#[test]
fn a_file_renamed_and_marked_again_and_again_is_asked_in_a_few_steps() {
    let index = Index::in_memory(&Options::default()).unwrap();
    let mut writer = Writer::new(&index);
    let (parent, new_parent, replaced, mode) = (Ino::ROOT, Ino::ROOT, None, None);
    let ino = writer.create(Ino::ROOT, b"0", S_IFREG);
    for number in 0..10_000_u32 {
        let (name, new_name) = (number.to_string(), (number + 1).to_string());
        let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
        writer.push(Change::Rename { parent, name, new_parent, new_name, ino, replaced });
        writer.push(Change::SetXattr { ino, name: b"user.mark", value: name, mode });
    }
    for number in (0..10_000_u64).step_by(501) {
        let at = Seq(ino.0 + 2 * number + 2);
        let cost = steps(&index, |tables| {
            let name = (number + 1).to_string().into_bytes();
            assert_eq!(tables.names(ino, at).unwrap(), [(Ino::ROOT, name)]);
            assert_eq!(tables.xattrs(ino, at).unwrap(), [b"user.mark"]);
        });
        assert!(cost < 300, "{cost} steps at {at}");
    }
}
