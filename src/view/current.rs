//! Changes, which the present takes alone: everywhere else they are refused as on a read-only filesystem.
//!
//! Invariants: an inode that lost its last name ends with the kernel's last reference to it, and at once
//! where there is none; each event names who asked, and where that is not known for certain, says so.

use std::time::Duration;

use crate::agents::policy::Access;
use crate::proto::types::{Attr, Entry, FileHandle, Name, NodeId, OpenFlags, Opened, XattrName};
use crate::tree::operation::{
    Attributes, Caller, Operation, RenameHow, S_IFDIR, S_IFMT, WriteTo, XattrMust,
};
use crate::tree::{ActorId, Ino, Inode, Origin, Outcome, Placed, Seq};

use super::handles::Open;
use super::history::LABEL_XATTR;
use super::made::Made;
use super::news::News;
use super::nodes::{Place, Tense};
use super::reading::OUR_XATTRS;
use super::{Asker, Refusal, TreeRefusal, View, attr, node};

/// Bytes for a file.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    /// From this offset on.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
    /// Written back from mapped pages: who asked is not known for certain.
    pub from_cache: bool,
    /// Set-id bits go.
    pub kill_set_id: bool,
    /// The flags of the open file.
    pub flags: OpenFlags,
}

/// A range of one open file, and where it goes in another.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Source.
    pub src: (NodeId, FileHandle),
    /// First byte in the source.
    pub src_offset: u64,
    /// Destination.
    pub dst: (NodeId, FileHandle),
    /// First byte in the destination.
    pub dst_offset: u64,
    /// How many bytes.
    pub len: u64,
}

impl View {
    fn actor(&self, asker: &Asker<'_>, from_cache: bool) -> ActorId {
        let who = asker.caller;
        self.agents.actor(who.uid, who.gid, who.pid, from_cache)
    }

    fn perform(
        &self,
        asker: &Asker<'_>,
        actor: ActorId,
        operation: &Operation<'_>,
    ) -> Result<Outcome, Refusal> {
        let outcome = self.tree.perform(&caller(asker, actor), operation)?;
        self.stir();
        Ok(outcome)
    }

    fn change(&self, asker: &Asker<'_>, operation: &Operation<'_>) -> Result<Outcome, Refusal> {
        self.perform(asker, self.actor(asker, false), operation)
    }

    /// Notes down that a version of `ino`, written by `actor`, ends here, if there is one.
    fn mark(&self, ino: Ino, actor: Option<ActorId>) {
        let Some(actor) = actor else { return };
        if let Err(error) = self.tree.store().mark_version(ino, actor) {
            // The events are all there; only that one version ends here is not.
            tracing::warn!(%ino, %error, "the end of a version was not noted down");
        }
        self.stir();
    }

    pub(super) fn mark_all(&self, ended: Vec<(Ino, ActorId)>) {
        for (ino, actor) in ended {
            self.mark(ino, Some(actor));
        }
    }

    /// `actor` wrote through `handle` the bytes of a range, or else changed the file.
    fn has_written(
        &self,
        (node, handle): (NodeId, FileHandle),
        ino: Ino,
        actor: ActorId,
        range: Option<(u64, u64)>,
    ) {
        let end = range.map(|(offset, len)| offset.saturating_add(len));
        self.handles.wrote(handle, node, actor, end);
        self.mark(ino, self.drafts.wrote(ino, actor, range.map_or(0, |(_, len)| len)));
    }

    /// A file is about to get a name that leads elsewhere, if it leads anywhere: what was written so far are
    /// versions of their own, of the one that goes and of the one that comes.
    fn before_rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8])) {
        if self.drafts.is_empty() {
            return;
        }
        // Without one of them there is nothing to mark, and the rename says what is wrong.
        let found = |(dir, name)| self.tree.lookup(dir, name, Seq::NOW).ok();
        if let Some(replaced) = found(to) {
            for inode in found(from).into_iter().chain([replaced]) {
                self.mark(inode.ino, self.drafts.take(inode.ino));
            }
        }
    }

    /// Ends an inode that nobody can reach. What cannot be ended now is ended by the next start.
    pub(super) fn end(&self, ino: Ino) {
        if let Err(refusal) = self.tree.perform(&Caller::default(), &Operation::End { ino }) {
            tracing::warn!(%ino, ?refusal, "an unlinked file was not ended; the next start will");
        }
    }

    /// Notes that `inode` may have lost its last name.
    fn may_be_nameless(&self, inode: &Inode) -> Result<(), Refusal> {
        if inode.nlink > 0 {
            return Ok(());
        }
        if self.is_adopted() {
            // Somebody may have it open since before; the next mount ends it.
            return Ok(());
        }
        if !self.kernel_keeps(inode.ino)? {
            self.end(inode.ino);
        }
        Ok(())
    }

    /// Whether the kernel knows an inode that has no name any more: then it is ended once that forgets it.
    pub(super) fn kernel_keeps(&self, ino: Ino) -> Result<bool, Refusal> {
        let node = node(Tense::Now, ino)?;
        let mut nameless = self.nameless.lock();
        // Under the lock that `forget` takes after it has taken the node out: one of the two ends it.
        let known = self.nodes.knows(node);
        if known {
            nameless.insert(ino.0);
        }
        Ok(known)
    }

    /// Makes an inode of any type but a symbolic link, with a name that must be free.
    pub fn make(
        &self,
        asker: &Asker<'_>,
        parent: NodeId,
        name: Name<'_>,
        mode: u32,
        rdev: u32,
    ) -> Result<Entry, Refusal> {
        let parent = self.changeable(parent)?;
        self.may_name(asker, &[(parent, name.as_bytes())], false)?;
        let made = self.change(
            asker,
            &Operation::Make {
                parent,
                name: name.as_bytes(),
                mode,
                rdev: rdev.into(),
                exclusive: true,
                security: asker.security,
            },
        )?;
        self.give_out(Tense::Now, Some(parent), &about(made)?)
    }

    /// Makes a directory; in `history/` a label of the present.
    pub fn make_directory(
        &self,
        asker: &Asker<'_>,
        parent: NodeId,
        name: Name<'_>,
        mode: u32,
    ) -> Result<Entry, Refusal> {
        if self.place(parent)? == Place::History {
            self.may_label(asker)?;
            return self.make_label(name.as_bytes());
        }
        self.make(asker, parent, name, mode & !S_IFMT | S_IFDIR, 0)
    }

    /// Makes a symbolic link.
    pub fn make_symlink(
        &self,
        asker: &Asker<'_>,
        parent: NodeId,
        name: Name<'_>,
        target: &[u8],
    ) -> Result<Entry, Refusal> {
        let parent = self.changeable(parent)?;
        self.may_name(asker, &[(parent, name.as_bytes())], false)?;
        let made = self.change(
            asker,
            &Operation::Symlink { parent, name: name.as_bytes(), target, security: asker.security },
        )?;
        self.give_out(Tense::Now, Some(parent), &about(made)?)
    }

    /// Makes the regular file `name`, and opens it. One that is there already is stale: the kernel, which asks for
    /// this only where it knows of none, takes the file for one of the caller's making and would not check whether he
    /// may open it. After ESTALE it looks the name up, checks, and opens what it finds.
    pub fn create(
        &self,
        asker: &Asker<'_>,
        parent: NodeId,
        name: Name<'_>,
        mode: u32,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened), Refusal> {
        let parent = self.changeable(parent)?;
        self.may_name(asker, &[(parent, name.as_bytes())], false)?;
        let made = self.change(
            asker,
            &Operation::Make {
                parent,
                name: name.as_bytes(),
                mode,
                rdev: 0,
                exclusive: flags.has(OpenFlags::EXCL),
                security: asker.security,
            },
        )?;
        if made.seq.is_none() {
            return Err(TreeRefusal::Stale.into());
        }
        let entry = self.give_out(Tense::Now, Some(parent), &about(made)?)?;
        let direct = self.direct.made(entry.node, flags);
        Ok((entry, self.opened(entry.node, Open::file(flags, None), direct)))
    }

    /// Opens a new file without a name.
    pub fn create_nameless(
        &self,
        asker: &Asker<'_>,
        parent: NodeId,
        mode: u32,
        flags: OpenFlags,
    ) -> Result<(Entry, Opened), Refusal> {
        let parent = self.changeable(parent)?;
        self.may_change(asker, parent)?;
        let made =
            self.change(asker, &Operation::Tmpfile { parent, mode, security: asker.security })?;
        let inode = about(made)?;
        let entry = self.give_out(Tense::Now, None, &inode)?;
        self.may_be_nameless(&inode)?;
        let direct = self.direct.made(entry.node, flags);
        Ok((entry, self.opened(entry.node, Open::file(flags, None), direct)))
    }

    /// Opens a file, and cuts it to nothing where the flags say so.
    pub fn open(
        &self,
        asker: &Asker<'_>,
        node: NodeId,
        flags: OpenFlags,
        kill_set_id: bool,
    ) -> Result<Opened, Refusal> {
        let changes = flags.writes() || flags.truncates();
        let place = self.place(node)?;
        self.may_open(asker, place, if changes { Access::Write } else { Access::Read })?;
        let ino = match place {
            Place::Root | Place::History => return Err(TreeRefusal::IsADirectory.into()),
            Place::Tree(tense @ Tense::Past(_), _) => return self.open_past(node, tense, flags),
            Place::Made(made) => return self.made_open(asker, made, flags),
            Place::Tree(Tense::Now, ino) => ino,
        };
        let mut wrote = None;
        if flags.truncates() {
            // The kernel itself refuses to write to a program that runs. It finds O_RDONLY | O_TRUNC, which
            // is no writing to it, only once OPEN was answered; then the program had lost its text.
            if !flags.writes() && self.handles.executing(node) {
                return Err(Refusal::Executing);
            }
            let actor = self.actor(asker, false);
            self.cut(asker, actor, ino, kill_set_id)?;
            wrote = Some(actor);
        } else {
            self.tree.inode(ino, Seq::NOW)?;
        }
        let direct = self.direct.joined(node, flags);
        Ok(self.opened(node, Open::file(flags, wrote), direct))
    }

    /// Whether `handle` was given out by another process, which may have let it pass the page cache.
    fn is_unknown(&self, handle: FileHandle, node: NodeId) -> bool {
        self.is_adopted() && self.handles.find(handle, node).is_none()
    }

    /// Cuts a file to nothing, which is writing to it.
    fn cut(
        &self,
        asker: &Asker<'_>,
        actor: ActorId,
        ino: Ino,
        kill_set_id: bool,
    ) -> Result<(), Refusal> {
        let set = Attributes { size: Some(0), kill_set_id, ..Attributes::default() };
        self.mark(ino, self.drafts.before_write(ino, actor));
        self.perform(asker, actor, &Operation::SetAttributes { ino, set })?;
        self.mark(ino, self.drafts.wrote(ino, actor, 0));
        Ok(())
    }

    /// Closes a file. If it was written through the handle, that ends a version of it, by who wrote last:
    /// the kernel's request says nothing of who closed.
    pub fn close(&self, node: NodeId, handle: FileHandle) -> Result<(), Refusal> {
        self.file(handle, node)?;
        let closed = self.handles.close(handle, node);
        if let Place::Made(_) = self.place(node)? {
            self.made_close(node, handle);
        }
        if let (Some(Open::File { wrote: Some(_), .. }), Place::Tree(Tense::Now, ino)) =
            (closed, self.place(node)?)
        {
            self.mark(ino, self.drafts.take(ino));
        }
        if let Some(Open::File { direct: true, flags, .. }) = closed
            && flags.writes()
            && self.direct.closed(node)
        {
            self.content_is_old(node);
        }
        Ok(())
    }

    /// One more name for a file.
    pub fn link(
        &self,
        asker: &Asker<'_>,
        file: NodeId,
        parent: NodeId,
        name: Name<'_>,
    ) -> Result<Entry, Refusal> {
        let parent = self.changeable(parent)?;
        let Place::Tree(Tense::Now, ino) = self.place(file)? else {
            return Err(Refusal::OtherTree);
        };
        self.may_name(asker, &[(parent, name.as_bytes())], false)?;
        self.may_change(asker, ino)?;
        self.mark(ino, self.drafts.take(ino));
        let linked = self.change(asker, &Operation::Link { ino, parent, name: name.as_bytes() })?;
        self.nameless.lock().remove(&ino.0);
        self.give_out(Tense::Now, Some(parent), &about(linked)?)
    }

    /// Takes away the name of a file, or with `directory` of an empty directory; in `history/` a label.
    pub fn unlink(
        &self,
        asker: &Asker<'_>,
        parent: NodeId,
        name: Name<'_>,
        directory: bool,
    ) -> Result<(), Refusal> {
        if directory && self.place(parent)? == Place::History {
            self.may_label(asker)?;
            return self.remove_label(name.as_bytes());
        }
        let parent = self.changeable(parent)?;
        let name = name.as_bytes();
        self.may_name(asker, &[(parent, name)], false)?;
        let operation = if directory {
            Operation::Rmdir { parent, name }
        } else {
            Operation::Unlink { parent, name }
        };
        let gone = self.change(asker, &operation)?;
        gone.inode.map_or(Ok(()), |inode| self.may_be_nameless(&inode))
    }

    /// Moves a name; `flags` as of renameat2(2).
    pub fn rename(
        &self,
        asker: &Asker<'_>,
        (parent, name): (NodeId, Name<'_>),
        (new_parent, new_name): (NodeId, Name<'_>),
        flags: u32,
    ) -> Result<(), Refusal> {
        let (parent, new_parent) = (self.changeable(parent)?, self.changeable(new_parent)?);
        let how = RenameHow::from_flags(flags).ok_or(TreeRefusal::Invalid)?;
        let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
        self.may_name(asker, &[(parent, name), (new_parent, new_name)], true)?;
        self.before_rename((parent, name), (new_parent, new_name));
        let moved =
            self.change(asker, &Operation::Rename { parent, name, new_parent, new_name, how })?;
        if parent != new_parent {
            self.is_elsewhere(moved.inode.as_ref());
            self.is_elsewhere(moved.other.as_ref().filter(|_| how == RenameHow::Exchange));
        }
        moved.other.map_or(Ok(()), |replaced| self.may_be_nameless(&replaced))
    }

    /// What the kernel may have in memory of the content of `node`, or of its listing, is old.
    fn content_is_old(&self, node: NodeId) {
        // Without room it is told when it is told once more.
        self.tell_twice(News::Content(node));
    }

    /// A directory has another one above it: a listing of it that the kernel keeps says otherwise.
    fn is_elsewhere(&self, moved: Option<&Inode>) {
        let Some(inode) = moved.filter(|inode| inode.mode & S_IFMT == S_IFDIR) else { return };
        let Ok(node) = node(Tense::Now, inode.ino) else { return };
        self.content_is_old(node);
    }

    /// Sets attributes, through `handle` if there is one.
    pub fn set_attributes(
        &self,
        asker: &Asker<'_>,
        node: NodeId,
        handle: Option<FileHandle>,
        set: Attributes,
    ) -> Result<(Attr, Duration), Refusal> {
        if let Place::Made(made) = self.place(node)? {
            return self.made_set_attributes(made, &set);
        }
        let ino = self.changeable(node)?;
        // Through a file that is open for writing it may be cut; that it is, the kernel has seen to.
        if handle.is_none() || set.size.is_none() {
            self.may_change(asker, ino)?;
        }
        let actor = self.actor(asker, false);
        if set.size.is_some() {
            self.mark(ino, self.drafts.before_write(ino, actor));
        }
        let inode = about(self.perform(asker, actor, &Operation::SetAttributes { ino, set })?)?;
        if let (Some(handle), Some(_)) = (handle, set.size) {
            self.has_written((node, handle), ino, actor, None);
        }
        if ino == Ino::ROOT {
            self.top_changed();
        }
        Ok((attr(Seq::NOW, &inode), self.attr_lifetime(Tense::Now, &inode)))
    }

    /// The directories beside and above the tree have owner, mode and access control list of its root.
    pub(super) fn top_changed(&self) {
        let sections = [Made::Streams, Made::StreamsFrom, Made::Debug].map(Place::Made);
        let sections = sections.into_iter().filter(|_| self.options.sections);
        for place in [Place::Root, Place::History].into_iter().chain(sections) {
            if let Some(node) = place.node() {
                self.tell_twice(News::Attributes(node));
            }
        }
    }

    /// Where a file ends, if a write that appends was given another offset: the kernel resolves O_APPEND by the size that it
    /// knows, and does not ask whether somebody changed the file beside it. A page written back through a handle that appends
    /// belongs where it was mapped. A direct write that is long comes in pieces, at once and in any order: there the kernel is
    /// believed.
    fn end_beyond_the_kernel(&self, ino: Ino, bytes: &Bytes<'_>) -> Result<Option<u64>, Refusal> {
        if bytes.from_cache || !bytes.flags.appends() || bytes.flags.is_direct() {
            return Ok(None);
        }
        if !self.is_adopted() && !self.resized.has(ino) {
            return Ok(None);
        }
        let size = self.tree.inode(ino, Seq::NOW)?.size;
        Ok((size != bytes.offset).then_some(size))
    }

    /// Writes through an open file; where the file is open for it, returns only once the bytes are on
    /// the disk.
    pub fn write(
        &self,
        asker: &Asker<'_>,
        node: NodeId,
        handle: FileHandle,
        bytes: &Bytes<'_>,
    ) -> Result<u64, Refusal> {
        if let Place::Made(made) = self.place(node)? {
            return self.made_write(asker, made, handle, bytes);
        }
        let ino = self.changeable(node)?;
        let (flags, last_end, direct) = match self.handles.find(handle, node) {
            Some(Open::File { flags, end, direct, .. }) => (flags, end, direct),
            _ => (self.file(handle, node)?, None, false),
        };
        if !flags.writes() {
            return Err(Refusal::BadHandle);
        }
        let actor = self.actor(asker, bytes.from_cache);
        if !bytes.from_cache {
            self.mark(ino, self.drafts.before_write(ino, actor));
        }
        let (caller, &Bytes { offset, data, kill_set_id, .. }) = (caller(asker, actor), bytes);
        let end = self.end_beyond_the_kernel(ino, bytes)?;
        let to = match end {
            Some(_) => WriteTo::End,
            None if last_end == Some(offset) => WriteTo::GoesOn(offset),
            None => WriteTo::Offset(offset),
        };
        let mut placed = if direct { Placed::only_here() } else { Placed::default() };
        let written = self.tree.write_placed(&caller, ino, to, data, kill_set_id, &mut placed)?;
        if end.is_some() {
            // It keeps the bytes where it took them to be.
            self.content_is_old(node);
        } else if self.direct.is_shared(node) || self.is_unknown(handle, node) {
            // A page of it may have been read for a mapping before the bytes were here.
            let _ = self.news.push(News::Content(node));
        }
        let offset = end.unwrap_or(offset);
        self.has_written((node, handle), ino, actor, Some((offset, written.len)));
        // Written back at some later time, a page is waited for by msync or fsync.
        if bytes.flags.is_sync() && !bytes.from_cache {
            self.tree.sync()?;
        }
        Ok(written.len)
    }

    /// Sets space aside or gives it back; `flags` as of fallocate(2).
    pub fn allocate(
        &self,
        asker: &Asker<'_>,
        node: NodeId,
        handle: FileHandle,
        flags: u32,
        (offset, len): (u64, u64),
    ) -> Result<(), Refusal> {
        let ino = self.changeable(node)?;
        let open = self.file(handle, node)?;
        if !open.writes() {
            return Err(Refusal::BadHandle);
        }
        let actor = self.actor(asker, false);
        let kill_set_id = loses_set_id(asker);
        self.mark(ino, self.drafts.before_write(ino, actor));
        self.perform(asker, actor, &Operation::Allocate { ino, flags, offset, len, kill_set_id })?;
        self.has_written((node, handle), ino, actor, None);
        if open.is_sync() {
            self.tree.sync()?;
        }
        Ok(())
    }

    /// Makes a range of one open file a reference to another's bytes, and returns how many.
    pub fn copy(&self, asker: &Asker<'_>, range: &Range) -> Result<u64, Refusal> {
        let &Range { src: (from, from_handle), src_offset, dst: (to, to_handle), dst_offset, len } =
            range;
        let dst = self.changeable(to)?;
        let Place::Tree(Tense::Now, src) = self.place(from)? else {
            // The kernel copies by reading and writing then.
            return Err(Refusal::OtherTree);
        };
        self.file(from_handle, from)?;
        let open = self.file(to_handle, to)?;
        if !open.writes() {
            return Err(Refusal::BadHandle);
        }
        let actor = self.actor(asker, false);
        let kill_set_id = loses_set_id(asker);
        let (uncut, ends) = (false, false);
        let operation =
            Operation::Copy { src, src_offset, dst, dst_offset, len, uncut, ends, kill_set_id };
        self.mark(dst, self.drafts.before_write(dst, actor));
        let copied = self.perform(asker, actor, &operation)?;
        self.has_written((to, to_handle), dst, actor, Some((dst_offset, copied.len)));
        if open.is_sync() {
            self.tree.sync()?;
        }
        Ok(copied.len)
    }

    /// Waits until everything answered so far is on the disk, through an open file.
    pub fn sync_file(&self, node: NodeId, handle: FileHandle) -> Result<(), Refusal> {
        self.file(handle, node)?;
        if let Place::Tree(Tense::Now, ino) = self.place(node)? {
            // Before the wait, so that the mark is as durable as what it is about.
            self.mark(ino, self.drafts.take(ino));
            self.handles.synced(handle, node);
        }
        self.sync_node(node)
    }

    /// As [`View::sync_file`], through an open directory.
    pub fn sync_directory(&self, node: NodeId, handle: FileHandle) -> Result<(), Refusal> {
        self.directory(handle, node)?;
        self.sync_node(node)
    }

    /// Waits until everything answered so far is on the disk.
    pub fn sync(&self) -> Result<(), Refusal> {
        Ok(self.tree.sync()?)
    }

    fn sync_node(&self, node: NodeId) -> Result<(), Refusal> {
        match self.place(node)? {
            Place::Tree(Tense::Now, _) => self.sync(),
            // Whatever is shown there was on its way to the disk before; nothing is changed there.
            Place::Root | Place::History | Place::Tree(Tense::Past(_), _) | Place::Made(_) => {
                Ok(())
            }
        }
    }

    /// Sets an extended attribute; `flags` as of setxattr(2).
    pub fn set_xattr(
        &self,
        asker: &Asker<'_>,
        node: NodeId,
        name: XattrName<'_>,
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> Result<(), Refusal> {
        if name.as_bytes() == LABEL_XATTR && self.place(node)? == Place::History {
            self.may_label(asker)?;
            return self.label_moment(value);
        }
        let ino = self.changeable(node)?;
        let name = ours_refused(name)?;
        self.may_change(asker, ino)?;
        let must = XattrMust::from_flags(flags).ok_or(TreeRefusal::Invalid)?;
        self.change(asker, &Operation::SetXattr { ino, name, value, must, kill_sgid })?;
        if ino == Ino::ROOT {
            self.top_changed();
        }
        Ok(())
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(
        &self,
        asker: &Asker<'_>,
        node: NodeId,
        name: XattrName<'_>,
    ) -> Result<(), Refusal> {
        let ino = self.changeable(node)?;
        let name = ours_refused(name)?;
        self.may_change(asker, ino)?;
        self.change(asker, &Operation::RemoveXattr { ino, name })?;
        if ino == Ino::ROOT {
            self.top_changed();
        }
        Ok(())
    }
}

/// Whether set-id bits go where the request does not say: FALLOCATE and COPY_FILE_RANGE carry no flag
/// for it, and with HANDLE_KILLPRIV_V2 the kernel does not clear them itself. Who has CAP_FSETID keeps
/// them; that is taken for the superuser, whose capabilities a request does not tell.
const fn loses_set_id(asker: &Asker<'_>) -> bool {
    asker.caller.uid != 0
}

fn ours_refused(name: XattrName<'_>) -> Result<&[u8], Refusal> {
    let name = name.as_bytes();
    if name.starts_with(OUR_XATTRS) { Err(TreeRefusal::NotPermitted.into()) } else { Ok(name) }
}

fn caller<'a>(asker: &Asker<'a>, actor: ActorId) -> Caller<'a> {
    Caller {
        uid: asker.caller.uid,
        gid: asker.caller.gid,
        groups: asker.groups,
        umask: asker.umask,
        origin: Origin { actor, unique: asker.unique },
    }
}

/// What an outcome is about.
fn about(outcome: Outcome) -> Result<Inode, Refusal> {
    outcome.inode.ok_or(Refusal::Tree(TreeRefusal::Stale))
}
