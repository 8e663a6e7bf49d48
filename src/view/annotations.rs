//! Definitions in a file, and who touched each last.
//!
//! The definitions of the present version are found by [`crate::syntax`]; then the file's edits are gone through
//! backwards (see [`crate::tree::edits`]), and a definition whose text is not in what was there before an edit was changed
//! by it. So one that only moved, within the file or with it, was not changed; a class was changed when a method of it
//! was. Within an edit, the event is the last before which the text was not there.
//!
//! How far back that goes is bounded: [`EDITS_MAX`] edits, [`EARLIER_MAX`] bytes of earlier versions, [`LOOK_BACK_MAX`] of time, the
//! horizon. What is older than that says so (`or_earlier`), and nobody's name. What was found is remembered by
//! version of a file, and a later version goes back no further than to the earlier one.
//!
//! Invariants: nothing is parsed or read while a lock is held; what is remembered takes [`KNOWN_MAX`] bytes at most.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::syntax::{self, Definition, Kind, Language, Patience, Position, TextHash};
use crate::tree::edits::{Change, Content, Edit};
use crate::tree::{ActorId, Ino, Inode, Seq, Timestamp};

use super::shadows::naive;
use super::{Refusal, TreeRefusal, View, moment};

/// How many edits are gone back.
const EDITS_MAX: usize = 64;
/// How many bytes of earlier versions are parsed for it, besides the first.
const EARLIER_MAX: u64 = 2 << 20;
/// How much of the processor's time parsing the present version may take.
const PARSE_MAX: Duration = Duration::from_millis(150);
/// How much going back may take; a request waits for both.
const LOOK_BACK_MAX: Duration = Duration::from_millis(250);
/// An edit of so many events is looked at event by event, a longer one as a whole.
const EVENTS_MAX: usize = 8;
/// What is remembered, in bytes.
const KNOWN_MAX: usize = 8 << 20;
/// Text beside a definition that is shown, in characters.
const BESIDE_MAX: usize = 100;

/// A definition, and what became of it.
#[derive(Clone, Debug)]
struct Annotation {
    definition: Definition,
    /// Which one of those with the same kind and name, from 0 on.
    ordinal: usize,
    touched: Touched,
    /// Where it was right after that.
    original: Position,
    /// In how many versions since it was found again.
    found_again: usize,
}

/// Who touched a definition last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Touched {
    seq: Seq,
    time: Timestamp,
    /// `None`: then, or before; nobody looked further.
    by: Option<ActorId>,
}

impl From<&Change> for Touched {
    fn from(change: &Change) -> Self {
        Self { seq: change.seq, time: change.time, by: Some(change.actor) }
    }
}

/// A version of a file.
type Version = (Ino, Seq);

/// What was found in versions of files.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    /// What was found, and when it was used last.
    versions: FxHashMap<Version, (u64, Arc<[Annotation]>)>,
    bytes: usize,
    /// Grows with each use.
    clock: u64,
}

impl Known {
    fn of(&self, version: Version) -> Option<Arc<[Annotation]>> {
        let known = &mut *self.0.lock();
        let (used, found) = known.versions.get_mut(&version)?;
        known.clock += 1;
        *used = known.clock;
        Some(Arc::clone(found))
    }

    fn remember(&self, version: Version, found: &Arc<[Annotation]>) {
        let known = &mut *self.0.lock();
        known.bytes += size(found);
        if known.bytes > KNOWN_MAX {
            // The half that was not used for longest.
            let mut uses: Vec<u64> = known.versions.values().map(|(used, _)| *used).collect();
            uses.sort_unstable();
            let middle = uses.get(uses.len() / 2).copied().unwrap_or(0);
            known.versions.retain(|_, (used, _)| *used > middle);
            known.bytes = known.versions.values().map(|(_, found)| size(found)).sum();
            known.bytes += size(found);
        }
        known.clock += 1;
        let replaced = known.versions.insert(version, (known.clock, Arc::clone(found)));
        known.bytes -= replaced.map_or(0, |(_, found)| size(&found)).min(known.bytes);
    }
}

/// About how many bytes of memory.
fn size(found: &Arc<[Annotation]>) -> usize {
    const ENTRY: usize = 64;
    let strings = |it: &Annotation| {
        let Definition { name, qualified, parameters, .. } = &it.definition;
        let listed: usize = parameters.iter().map(|it| it.len() + size_of::<String>()).sum();
        name.len() + qualified.len() + listed
    };
    ENTRY + found.iter().map(|it| size_of::<Annotation>() + strings(it)).sum::<usize>()
}

/// What was in an earlier version: by text, the name of each that had it, and something known of it.
struct Earlier<T>(FxHashMap<TextHash, Vec<(String, T)>>);

impl<T> Earlier<T> {
    fn of<'d>(definitions: impl Iterator<Item = (&'d Definition, T)>) -> Self {
        let mut earlier: FxHashMap<_, Vec<_>> = FxHashMap::default();
        for (definition, known) in definitions {
            let alike = earlier.entry(definition.text).or_default();
            alike.push((definition.qualified.clone(), known));
        }
        Self(earlier)
    }

    /// Takes those of `pending` that were there out of the list, and tells what is known of them. Each that was
    /// there is one of them at most, and first the one of its name: of two that are alike the other one is new.
    fn take(&mut self, pending: &mut Vec<usize>, all: &[Definition]) -> Vec<(usize, T)> {
        let mut found = Vec::new();
        for moved in [false, true] {
            pending.retain(|&index| {
                let was = all.get(index).and_then(|definition| {
                    let alike = self.0.get_mut(&definition.text)?;
                    let named = |(name, _): &(String, T)| moved || *name == definition.qualified;
                    let at = alike.iter().position(named)?;
                    Some(alike.swap_remove(at).1)
                });
                let is_new = was.is_none();
                found.extend(was.map(|known| (index, known)));
                is_new
            });
        }
        found
    }
}

impl View {
    /// The annotations of `inode`, whose content is `content` and whose path ends in a name of `language`, as JSON.
    pub(super) fn annotations(
        &self,
        inode: &Inode,
        path: &str,
        language: Language,
        content: &str,
    ) -> Result<Vec<Value>, Refusal> {
        let version = (inode.ino, inode.changed);
        let found = match self.annotated.of(version) {
            Some(found) => found,
            None => {
                let found: Arc<[Annotation]> = self.annotate(inode, language, content)?.into();
                self.annotated.remember(version, &found);
                found
            }
        };
        Ok(self.told(&found, inode, path, language, content))
    }

    fn annotate(
        &self,
        inode: &Inode,
        language: Language,
        content: &str,
    ) -> Result<Vec<Annotation>, Refusal> {
        let patience = Patience::of(PARSE_MAX);
        let definitions = match syntax::definitions(language, content.as_bytes(), patience) {
            Ok(definitions) => definitions,
            Err(fault) => {
                tracing::debug!(ino = inode.ino.0, ?fault, "no definitions are shown");
                return Ok(Vec::new());
            }
        };
        let mut ordinals: FxHashMap<(Kind, String), usize> = FxHashMap::default();
        // What stays like this was there before anything that was looked at.
        let touched = Touched { seq: inode.changed, time: inode.ctime, by: None };
        let mut annotations = Vec::with_capacity(definitions.len());
        for definition in &definitions {
            let next = ordinals.entry((definition.kind, definition.qualified.clone())).or_default();
            let (ordinal, original) = (*next, definition.position);
            *next += 1;
            let definition = definition.clone();
            annotations.push(Annotation { definition, ordinal, touched, original, found_again: 0 });
        }
        match self.look_back(inode, language, &definitions, &mut annotations) {
            // History was given back meanwhile.
            Ok(()) | Err(Refusal::Tree(TreeRefusal::Stale)) => Ok(annotations),
            Err(refusal) => Err(refusal),
        }
    }

    /// Finds who touched each definition last.
    fn look_back(
        &self,
        inode: &Inode,
        language: Language,
        definitions: &[Definition],
        annotations: &mut [Annotation],
    ) -> Result<(), Refusal> {
        let patience = Patience::of(LOOK_BACK_MAX);
        let mut pending: Vec<usize> = (0..definitions.len()).collect();
        let at = inode.changed.max(self.tree.store().horizon());
        let mut edits = self.tree.edits(inode.ino, at)?;
        let mut bytes = 0;
        for _ in 0..EDITS_MAX {
            if pending.is_empty() {
                break;
            }
            let Some(edit) = edits.next()? else { break };
            let Some(before) = edit.first().before else {
                self.changed_in(&edit, language, patience, definitions, &pending, annotations);
                break;
            };
            if let Some(known) = self.annotated.of((before.inode.ino, before.inode.changed)) {
                let known_of = known.iter().map(|it| (&it.definition, it));
                let mut changed = pending;
                for (index, earlier) in Earlier::of(known_of).take(&mut changed, definitions) {
                    if let Some(annotation) = annotations.get_mut(index) {
                        annotation.touched = earlier.touched;
                        annotation.original = earlier.original;
                        annotation.found_again += earlier.found_again + 1;
                    }
                }
                self.changed_in(&edit, language, patience, definitions, &changed, annotations);
                break;
            }
            let size = before.inode.size;
            bytes += size;
            if bytes > EARLIER_MAX.max(size) {
                break;
            }
            let Some(mut earlier) = self.earlier(language, &before, patience)? else { break };
            let mut changed = pending;
            let found = earlier.take(&mut changed, definitions);
            self.changed_in(&edit, language, patience, definitions, &changed, annotations);
            pending = Vec::with_capacity(found.len());
            let Inode { changed: seq, ctime: time, .. } = before.inode;
            for (index, position) in found {
                if let Some(annotation) = annotations.get_mut(index) {
                    annotation.touched = Touched { seq, time, by: None };
                    annotation.original = position;
                    annotation.found_again += 1;
                }
                pending.push(index);
            }
        }
        Ok(())
    }

    /// Says of `changed` that they were in `edit`, and by which of its events.
    fn changed_in(
        &self,
        edit: &Edit,
        language: Language,
        patience: Patience,
        definitions: &[Definition],
        changed: &[usize],
        annotations: &mut [Annotation],
    ) {
        let mut set = |indices: &[usize], change: &Change| {
            for &index in indices {
                if let Some(annotation) = annotations.get_mut(index) {
                    annotation.touched = change.into();
                }
            }
        };
        set(changed, &edit.last);
        if edit.earlier.is_empty() || edit.earlier.len() >= EVENTS_MAX {
            return;
        }
        let mut rest = changed.to_vec();
        for change in edit.changes() {
            if rest.is_empty() {
                return;
            }
            let earlier = match &change.before {
                None => Some(Earlier::of(std::iter::empty())),
                // What cannot be looked at leaves it at the last event that may have been the one.
                Some(content) => self.earlier(language, content, patience).unwrap_or(None),
            };
            let Some(mut earlier) = earlier else { return set(&rest, change) };
            let mut here = rest;
            rest = earlier.take(&mut here, definitions).into_iter().map(|found| found.0).collect();
            set(&here, change);
        }
    }

    /// The definitions of an earlier version; `None` where they cannot be told.
    fn earlier(
        &self,
        language: Language,
        content: &Content,
        patience: Patience,
    ) -> Result<Option<Earlier<Position>>, Refusal> {
        let Ok(len) = usize::try_from(content.inode.size) else { return Ok(None) };
        if len > syntax::TEXT_MAX || patience.is_over() {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        let len = self.tree.read(content.inode.ino, 0, &mut bytes, content.at)?;
        bytes.truncate(len);
        let found = syntax::definitions(language, &bytes, patience).ok();
        Ok(found.map(|found| Earlier::of(found.iter().map(|it| (it, it.position)))))
    }

    fn told(
        &self,
        found: &[Annotation],
        inode: &Inode,
        path: &str,
        language: Language,
        content: &str,
    ) -> Vec<Value> {
        let ids: Vec<String> = found.iter().map(|it| id(path, it)).collect();
        let mut children: Vec<Vec<&str>> = vec![Vec::new(); found.len()];
        for (annotation, id) in found.iter().zip(&ids) {
            if let Some(inside) = annotation.definition.parent.and_then(|it| children.get_mut(it)) {
                inside.push(id);
            }
        }
        let mut actors = FxHashMap::default();
        let mut told = Vec::with_capacity(found.len());
        for ((annotation, id), children) in found.iter().zip(&ids).zip(&children) {
            let Annotation { definition, touched, original, found_again, .. } = annotation;
            let Definition { kind, name, position, parent, parameters, body, .. } = definition;
            let above = parent.and_then(|parent| found.get(parent));
            let above = above.and_then(|above| content.get(above.definition.position.range()));
            let signature = content.get(position.start_byte..*body).unwrap_or_default().trim_end();
            let last_changed = match touched.by {
                Some(by) => {
                    let who = actors.entry(by).or_insert_with(|| self.who(by));
                    json!({
                        "sequence": touched.seq.0,
                        "time": stamp(touched.time),
                        "agent_id": who.0,
                        "command": who.1,
                    })
                }
                None => json!({
                    "sequence": touched.seq.0,
                    "time": stamp(touched.time),
                    "agent_id": null,
                    "command": null,
                    "or_earlier": true,
                }),
            };
            told.push(json!({
                "anchor_id": id,
                "file_path": path,
                "anchor_type": kind_name(*kind),
                "original_position": place(original),
                "current_position": place(position),
                "contextual_info": {
                    "preceding_text": before(content, position.start_byte),
                    "following_text": start(content.get(position.end_byte..).unwrap_or_default()),
                    "parent_text": start(above.unwrap_or_default()),
                    "node_name": name,
                    "parameter_names": parameters,
                    "signature_hash": short_hash(&[signature.as_bytes()]),
                },
                "structure_hash": format!("{:016x}", definition.structure),
                "parent_anchor_id": parent.and_then(|parent| ids.get(parent)),
                "child_anchor_ids": children,
                "created_at": naive(touched.time),
                "last_resolved": naive(inode.ctime),
                "language": language.name(),
                "resolution_attempts": found_again,
                // It is the same text, or it would be another anchor.
                "last_confidence": "exact",
                "last_changed": last_changed,
            }));
        }
        told
    }

    /// Agent and command line of an actor, as far as they are known.
    fn who(&self, id: ActorId) -> (Option<String>, Option<String>) {
        let actor = self.tree.store().actor_of(id).unwrap_or_default();
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let words = actor.cmdline.split(|&byte| byte == 0).filter(|word| !word.is_empty());
        let words: Vec<String> = words.map(shown).collect();
        let command = if words.is_empty() { shown(&actor.exe) } else { words.join(" ") };
        (
            Some(shown(&actor.agent)).filter(|it| !it.is_empty()),
            Some(command).filter(|it| !it.is_empty()),
        )
    }
}

/// A name that stays when others of the file are edited.
fn id(path: &str, annotation: &Annotation) -> String {
    let Definition { kind, qualified, .. } = &annotation.definition;
    let ordinal = annotation.ordinal.to_string();
    short_hash(&[
        path.as_bytes(),
        kind_name(*kind).as_bytes(),
        qualified.as_bytes(),
        ordinal.as_bytes(),
    ])
}

/// What the Python bridge called it.
const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Function => "function_definition",
        Kind::Method => "method_definition",
        Kind::Class => "class_definition",
    }
}

/// The first 16 hexadecimal digits of the SHA-256 of `parts`, each ended by NUL.
fn short_hash(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    let mut digits = String::with_capacity(16);
    for byte in hash.finalize().iter().take(8) {
        // A String takes all.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

fn place(position: &Position) -> Value {
    let Position { start_row, start_col, end_row, end_col, start_byte, end_byte } = position;
    json!({
        "start_row": start_row,
        "start_col": start_col,
        "end_row": end_row,
        "end_col": end_col,
        "start_byte": start_byte,
        "end_byte": end_byte,
    })
}

/// What stands right before `offset`.
fn before(content: &str, offset: usize) -> &str {
    let before = content.get(..offset).unwrap_or_default();
    let begin = before.char_indices().rev().nth(BESIDE_MAX - 1).map_or(0, |(at, _)| at);
    before.get(begin..).unwrap_or_default()
}

/// How `text` begins.
fn start(text: &str) -> &str {
    let end = text.char_indices().nth(BESIDE_MAX).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or_default()
}

/// `time` in UTC and exactly, so that it is the name of the moment below `history/`.
fn stamp(time: Timestamp) -> String {
    let stamp = moment::stamp(time);
    let second = stamp.split_last().map_or(&b""[..], |(_, second)| second);
    let nanos = time.0.rem_euclid(1_000_000_000);
    format!("{}.{nanos:09}Z", String::from_utf8_lossy(second))
}
