//! New content for files: staged while it comes, and put in its place.

use crate::api::ask::TreePath;
use crate::api::problem::Problem;
use crate::tree::operation::{Attributes, COPY_MAX, Operation, S_IFDIR, S_IFMT, S_IFREG, WriteTo};
use crate::tree::watch::Expected;
use crate::tree::{Ino, Inode, Outcome, Refusal, Seq};

use super::{Acting, Content, Must, Named, Replaced, WRITE, changed_meanwhile, look_again};

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
            let named = self.entry(path, Seq::NOW, true)?;
            let Some(inode) = named.inode else {
                if let Must::BeAsSeen(..) = must {
                    return Err(changed_meanwhile().into());
                }
                self.may_change_names(named.parent, &named.name, None, None)?;
                return Ok(self.make_file(&named, content, new, set.is_some())?);
            };
            self.may_fill(path, &inode, must)?;
            if set.is_some() {
                self.may_set_attributes(&inode)?;
            }
            let version = matches!(must, Must::BeAsSeen(..)).then_some(inode.changed);
            let mut seq = self.fill(&named, &inode, content, version)?;
            if let Some(mode) = set {
                let set = Attributes { mode: Some(mode), ..Attributes::default() };
                seq = self.set_attributes(&inode, set)?.seq.unwrap_or(seq);
            }
            // What others change from then on is not ours to tell of.
            Ok(Replaced { inode: self.tree.inode(inode.ino, seq)?, new: false, seq })
        })
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

    /// Makes `content` a part of the file at the end of `path`: from the offset `from` on, or behind its end. By one event, where it
    /// is no longer than [`COPY_MAX`]; if `must` says what is there, nobody else's comes between those of a longer one.
    pub(crate) fn replace_part(
        &self,
        path: &TreePath,
        from: Option<u64>,
        content: &Content,
        must: Must,
    ) -> Result<Inode, Problem> {
        let _one_at_a_time = self.replacing.lock();
        look_again(!matches!(must, Must::Be), || {
            let named = self.entry(path, Seq::NOW, true)?;
            let Some(inode) = named.inode else {
                if let Must::BeAsSeen(..) = must {
                    return Err(changed_meanwhile().into());
                }
                return Err(Problem::missing(format!("{} does not exist", path.text())).into());
            };
            self.may_fill(path, &inode, must)?;
            let version = matches!(must, Must::BeAsSeen(..)).then_some(inode.changed);
            let last = self.fill_part(&named, &inode, from, content, version)?;
            self.version_ends(inode.ino);
            Ok(self.tree.inode(inode.ino, last.unwrap_or(inode.changed))?)
        })
    }

    /// Returns the last event, if there was one.
    fn fill_part(
        &self,
        named: &Named,
        inode: &Inode,
        from: Option<u64>,
        content: &Content,
        version: Option<Seq>,
    ) -> Result<Option<Seq>, Refusal> {
        let mut expected = Expected { entry: named.as_entry(), ino: inode.ino, version };
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
        let (mut done, mut last) = (0, None);
        if let Some(dropped) = self.drop_capability(&expected)? {
            expected.version = expected.version.map(|_| dropped);
            last = Some(dropped);
        }
        while done < len {
            let operation = Operation::Copy {
                src,
                src_offset: done,
                dst: inode.ino,
                dst_offset: from.unwrap_or(inode.size).saturating_add(done),
                len: (len - done).min(COPY_MAX),
                ends: false,
                kill_set_id: self.uid != 0,
            };
            let copied = self.perform_where(&operation, Some(&expected))?;
            let Some(seq) = copied.seq else { break };
            expected.version = expected.version.map(|_| seq);
            (done, last) = (done + copied.len, Some(seq));
        }
        Ok(last)
    }

    /// A name for new content: the file shows whole or not at all.
    fn make_file(
        &self,
        named: &Named,
        content: &Content,
        mode: u32,
        as_asked: bool,
    ) -> Result<Replaced, Refusal> {
        let (parent, name) = (named.parent, named.name.as_slice());
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
            &Content::Staged { ino: src, len } => self.copy_pieces(src, ino, len),
        }
    }

    /// Gives the file all of `content` in one event, so that nobody meets a mixture of it and of what was there before. Returns
    /// the event.
    fn fill(
        &self,
        named: &Named,
        inode: &Inode,
        content: &Content,
        version: Option<Seq>,
    ) -> Result<Seq, Refusal> {
        let mut expected = Expected { entry: named.as_entry(), ino: inode.ino, version };
        let filled = match content {
            Content::Short(bytes) if bytes.is_empty() => None,
            Content::Short(bytes) => {
                self.write_where(inode.ino, WriteTo::Whole, bytes, Some(&expected))?.seq
            }
            &Content::Staged { ino, len } => {
                if let Some(dropped) = self.drop_capability(&expected)? {
                    expected.version = version.map(|_| dropped);
                }
                self.perform_where(&self.copies(ino, inode.ino, (0, len), true), Some(&expected))?
                    .seq
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
    /// none. Returns the event, if there was one.
    fn drop_capability(&self, expected: &Expected<'_>) -> Result<Option<Seq>, Refusal> {
        let ino = expected.ino;
        if !self.tree.store().read().has_capability(ino).map_err(Refusal::from)? {
            return Ok(None);
        }
        let operation = Operation::RemoveXattr { ino, name: b"security.capability" };
        match self.perform_where(&operation, Some(expected)) {
            // Somebody was faster.
            Err(Refusal::NoData) => Ok(None),
            other => Ok(other?.seq),
        }
    }

    /// Copies up to `len` bytes to a file that nobody sees yet.
    fn copy_pieces(&self, src: Ino, dst: Ino, len: u64) -> Result<(), Refusal> {
        let mut offset = 0;
        while offset < len {
            let copies = self.copies(src, dst, (offset, (len - offset).min(COPY_MAX)), false);
            match self.perform_where(&copies, None)?.len {
                0 => break,
                copied => offset += copied,
            }
        }
        Ok(())
    }

    /// Copies `len` bytes from `offset` on to where they were; the destination `ends` there or may go on.
    const fn copies(
        &self,
        src: Ino,
        dst: Ino,
        (offset, len): (u64, u64),
        ends: bool,
    ) -> Operation<'static> {
        Operation::Copy {
            src,
            src_offset: offset,
            dst,
            dst_offset: offset,
            len,
            ends,
            kill_set_id: self.uid != 0,
        }
    }

    /// Notes that what was written so far is a version.
    fn version_ends(&self, ino: Ino) {
        if let Err(refusal) = self.tree.version_ends(ino, self.actor) {
            tracing::warn!(%ino, %refusal, "the end of a version was not noted down");
        }
    }
}
