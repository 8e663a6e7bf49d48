//! New content for files: staged while it comes, and put in its place.

use crate::api::ask::TreePath;
use crate::api::problem::Problem;
use crate::tree::operation::{
    Attributes, Operation, PERMISSIONS, S_IFDIR, S_IFMT, S_IFREG, WriteTo,
};
use crate::tree::watch::Expected;
use crate::tree::{Ino, Inode, Outcome, Refusal, Seq};

use super::{
    Acting, Content, Must, Named, Replaced, Stopped, WRITE, changed_meanwhile, look_again,
};

/// What is copied into a file.
#[derive(Clone, Copy)]
struct Given {
    src: Ino,
    /// No more of it than there is.
    len: u64,
    /// Where in the file it comes to lie.
    to: u64,
    /// Whether the file ends with it.
    ends: bool,
}

/// What `must` says of `inode`, which the name led to, when it is changed.
fn expected<'n>(named: &'n Named, inode: &Inode, must: Must) -> Expected<'n> {
    let version = matches!(must, Must::BeAsSeen(..)).then_some(inode.changed);
    Expected { entry: named.as_entry(), ino: inode.ino, version, source: None }
}

/// The file has a part of what was to come, and no more came.
fn part_way(refusal: Refusal) -> Problem {
    let problem = match refusal {
        Refusal::Stale => Problem::conflict("somebody else changed one of the files meanwhile"),
        other => other.into(),
    };
    let words = problem.words();
    Problem::new(
        problem.status,
        format!("{words}; a part of what was sent is in the file: look at it, and send all again"),
    )
}

impl Acting {
    /// A new file without a name, for content that is on its way.
    pub(crate) fn stage(&self) -> Result<Ino, Problem> {
        let made = self.perform(&Operation::Tmpfile {
            parent: Ino::ROOT,
            mode: S_IFREG | 0o600,
            security: None,
        })?;
        Ok(made.inode.ok_or(Refusal::Stale)?.ino)
    }

    pub(crate) fn write(&self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<Outcome, Problem> {
        Ok(self.write_where(ino, WriteTo::Offset(offset), bytes, None)?)
    }

    fn write_where(
        &self,
        ino: Ino,
        to: WriteTo,
        bytes: &[u8],
        expected: Option<&Expected<'_>>,
    ) -> Result<Outcome, Refusal> {
        let (caller, kill_set_id) = (self.caller(), self.uid != 0);
        self.tree.write_beside(&caller, ino, to, bytes, kill_set_id, expected)
    }

    /// Lets go of staged content that nobody needs.
    pub(crate) fn discard(&self, content: &Content) {
        if let &Content::Staged { ino, .. } = content
            && let Err(refusal) = self.tree.perform(&self.caller(), &Operation::End { ino })
        {
            tracing::warn!(%ino, %refusal, "a part of an upload stays until the next mount");
        }
    }

    /// Makes `content` that of the file at the end of `path`, and `mode` its permissions if there is one.
    pub(crate) fn replace(
        &self,
        path: &TreePath,
        content: &Content,
        mode: Option<u32>,
        must: Must,
    ) -> Result<Replaced, Problem> {
        self.replace_with(path, content, (mode.unwrap_or(0o666), mode), must)
    }

    /// As [`Acting::replace`], with the permissions of a file that is new, and those to set of one that is there.
    pub(super) fn replace_with(
        &self,
        path: &TreePath,
        content: &Content,
        (new, set): (u32, Option<u32>),
        must: Must,
    ) -> Result<Replaced, Problem> {
        let _one_at_a_time = self.replacing.lock();
        look_again(!matches!(must, Must::Be), || {
            let named = self.to_fill(path, must)?;
            let Some(inode) = named.inode else {
                return self.make_file(&named, content, new, set.is_some());
            };
            if set.is_some() {
                self.may_set_attributes(&inode)?;
            }
            let mut expected = expected(&named, &inode, must);
            if let Some(mode) = set
                && inode.mode & PERMISSIONS & !mode != 0
            {
                // Nobody has a right to what comes that is not to have it, nor one to what was there that was not to have it.
                let set = Attributes { mode: Some(inode.mode & mode), ..Attributes::default() };
                let operation = Operation::SetAttributes { ino: inode.ino, set };
                let taken = self.perform_where(&operation, Some(&expected))?.seq;
                expected.version = expected.version.and(taken);
            }
            let mut seq = self.fill(&inode, content, expected)?;
            if let Some(mode) = set
                && self.tree.inode(inode.ino, seq)?.mode & PERMISSIONS != mode
            {
                let set = Attributes { mode: Some(mode), ..Attributes::default() };
                seq = self.set_attributes(&inode, set)?.seq.unwrap_or(seq);
            }
            // What others change from then on is not ours to tell of.
            Ok(Replaced { inode: self.tree.inode(inode.ino, seq)?, new: false, seq })
        })
    }

    /// What is at the end of `path`, if `must` allows that it gets other content.
    fn to_fill(&self, path: &TreePath, must: Must) -> Result<Named, Problem> {
        let named = self.entry(path, Seq::NOW, true)?;
        match (&named.inode, must) {
            (Some(inode), _) => self.may_fill(path, inode, must)?,
            (None, Must::BeAsSeen(..)) => return Err(changed_meanwhile()),
            (None, Must::Be | Must::BeNew) => (),
        }
        Ok(named)
    }

    /// Refuses to give `inode` at the end of `path` other content.
    fn may_fill(&self, path: &TreePath, inode: &Inode, must: Must) -> Result<(), Problem> {
        match must {
            Must::BeNew => return Err(changed_meanwhile()),
            Must::BeAsSeen(ino, version) if (ino, version) != (inode.ino, inode.changed) => {
                return Err(changed_meanwhile());
            }
            Must::Be | Must::BeAsSeen(..) => (),
        }
        let kind = match inode.mode & S_IFMT {
            S_IFREG => None,
            S_IFDIR => Some("a directory"),
            _ => Some("no file"),
        };
        if let Some(kind) = kind {
            return Err(Problem::conflict(format!("{} is {kind}", path.text())));
        }
        self.may(inode, WRITE, Seq::NOW)
    }

    /// Makes `content` a part of the file at the end of `path`: from the offset `from` on, or behind its end. As in
    /// [`Acting::replace`], by one event unless it is too long for one. With `is_new` it is the beginning of a file where there is none.
    pub(crate) fn replace_part(
        &self,
        path: &TreePath,
        from: Option<u64>,
        content: &Content,
        must: Must,
        is_new: bool,
    ) -> Result<Inode, Problem> {
        let _one_at_a_time = self.replacing.lock();
        look_again(!matches!(must, Must::Be), || {
            let named = self.to_fill(path, must)?;
            let Some(inode) = named.inode else {
                if !is_new {
                    return Err(Problem::missing(format!("{} does not exist", path.text())).into());
                }
                return Ok(self.make_file(&named, content, 0o666, false)?.inode);
            };
            let last = self.fill_part(&inode, from, content, expected(&named, &inode, must))?;
            self.version_ends(inode.ino);
            Ok(self.tree.inode(inode.ino, last.unwrap_or(inode.changed))?)
        })
    }

    /// Returns the last event, if there was one.
    fn fill_part(
        &self,
        inode: &Inode,
        from: Option<u64>,
        content: &Content,
        mut expected: Expected<'_>,
    ) -> Result<Option<Seq>, Stopped> {
        let (src, len) = match content {
            Content::Short(bytes) => {
                let to = from.map_or(WriteTo::End, WriteTo::Offset);
                return Ok(self.write_where(inode.ino, to, bytes, Some(&expected))?.seq);
            }
            &Content::Staged { ino, len } => (ino, len),
        };
        if from.is_none() {
            // It ends there for as long as nobody changes it.
            expected.version = Some(inode.changed);
        }
        let dropped = self.drop_capability(&mut expected)?;
        let given = Given { src, len, to: from.unwrap_or(inode.size), ends: false };
        Ok(self.copy_shown(given, expected)?.or(dropped))
    }

    /// A name for new content: the file shows whole or not at all.
    fn make_file(
        &self,
        named: &Named,
        content: &Content,
        mode: u32,
        as_asked: bool,
    ) -> Result<Replaced, Stopped> {
        let (parent, name) = (named.parent, named.name.as_slice());
        self.may_change_names(parent, name, None, None)?;
        // The parent hands down its group and default ACL; only in it is known what they are.
        let operation =
            Operation::Tmpfile { parent, mode: S_IFREG | mode & 0o7777, security: None };
        let made = self.perform_making(&operation, as_asked)?;
        let ino = made.inode.ok_or(Refusal::Stale)?.ino;
        let linked = self.fill_new(ino, content).and_then(|()| {
            // Before it has a name: that it gets one says all there is to say.
            self.version_ends(ino);
            self.perform(&Operation::Link { ino, parent, name })
        });
        if linked.is_err() {
            self.discard(&Content::Staged { ino, len: 0 });
        }
        let linked = linked?;
        let inode = linked.inode.ok_or(Refusal::Stale)?;
        Ok(Replaced { inode, new: true, seq: linked.seq.unwrap_or(inode.changed) })
    }

    fn fill_new(&self, ino: Ino, content: &Content) -> Result<(), Refusal> {
        match content {
            Content::Short(bytes) if bytes.is_empty() => Ok(()),
            Content::Short(bytes) => self.write_where(ino, WriteTo::Whole, bytes, None).map(drop),
            &Content::Staged { ino: src, len } => {
                let expected = Expected { entry: None, ino, version: None, source: None };
                self.copy_all(Given { src, len, to: 0, ends: false }, expected, &mut None)
            }
        }
    }

    /// Gives the file all of `content` in one event, so that nobody meets a mixture of it and of what was there before; in
    /// several where it is too long for one. Returns the last.
    fn fill(
        &self,
        inode: &Inode,
        content: &Content,
        mut expected: Expected<'_>,
    ) -> Result<Seq, Stopped> {
        let filled = match content {
            Content::Short(bytes) if bytes.is_empty() => None,
            Content::Short(bytes) => {
                self.write_where(inode.ino, WriteTo::Whole, bytes, Some(&expected))?.seq
            }
            &Content::Staged { ino: src, len } => {
                self.drop_capability(&mut expected)?;
                self.copy_shown(Given { src, len, to: 0, ends: true }, expected)?
            }
        };
        let last = match filled {
            Some(filled) => filled,
            // There is nothing to put there.
            None => {
                let set = Attributes {
                    size: Some(0),
                    kill_set_id: self.uid != 0,
                    ..Attributes::default()
                };
                let operation = Operation::SetAttributes { ino: inode.ino, set };
                let cut = self.perform_where(&operation, Some(&expected))?;
                cut.seq.unwrap_or(inode.changed)
            }
        };
        self.version_ends(inode.ino);
        Ok(last)
    }

    /// A file whose content is replaced by others loses its capabilities. Before a copy a kernel would see to that itself; here is
    /// none. Returns the event, if there was one: it is the version that is expected then.
    fn drop_capability(&self, expected: &mut Expected<'_>) -> Result<Option<Seq>, Refusal> {
        let ino = expected.ino;
        if !self.tree.store().read().has_capability(ino).map_err(Refusal::from)? {
            return Ok(None);
        }
        let operation = Operation::RemoveXattr { ino, name: b"security.capability" };
        let dropped = match self.perform_where(&operation, Some(expected)) {
            // Somebody was faster.
            Err(Refusal::NoData) => None,
            other => other?.seq,
        };
        if dropped.is_some() {
            expected.version = expected.version.and(dropped);
        }
        Ok(dropped)
    }

    /// As [`Acting::copy_all`], for a file that others see: once it has a part of what comes, nobody may look again and have that
    /// come twice. Returns the last event, if there was one.
    fn copy_shown(&self, given: Given, expected: Expected<'_>) -> Result<Option<Seq>, Stopped> {
        let mut last = None;
        match self.copy_all(given, expected, &mut last) {
            Ok(()) => Ok(last),
            Err(refusal) if last.is_none() => Err(refusal.into()),
            Err(refusal) => {
                self.version_ends(expected.ino);
                Err(part_way(refusal).into())
            }
        }
    }

    /// Copies what is given, by one event; what is too long for one in pieces, between which nobody else changes either file.
    /// The last event is in `last`, also where it is refused.
    fn copy_all(
        &self,
        given: Given,
        mut expected: Expected<'_>,
        last: &mut Option<Seq>,
    ) -> Result<(), Refusal> {
        let Given { src, len, to, ends } = given;
        let mut done = 0;
        loop {
            let copy = Operation::Copy {
                src,
                src_offset: done,
                dst: expected.ino,
                dst_offset: to.saturating_add(done),
                len: len.saturating_sub(done),
                uncut: true,
                ends,
                kill_set_id: self.uid != 0,
            };
            let copied = self.perform_where(&copy, Some(&expected))?;
            let Some(seq) = copied.seq else { return Ok(()) };
            *last = Some(seq);
            done += copied.len;
            let source = self.tree.inode(src, seq)?;
            if done >= len.min(source.size) {
                return Ok(());
            }
            (expected.version, expected.source) = (Some(seq), Some((src, source.changed)));
        }
    }

    /// Notes that what was written so far is a version.
    fn version_ends(&self, ino: Ino) {
        if let Err(refusal) = self.tree.version_ends(ino, self.actor) {
            tracing::warn!(%ino, %refusal, "the end of a version was not noted down");
        }
    }
}
