//! The tree as somebody may see and change it over HTTP.
//!
//! The kernel checks modes for those who come through a mount; here nobody does it for us. So each step of
//! a path needs the right to search, each change the right to write, as for a process of the user that HTTP
//! acts as. Where a policy says what agents may, it is asked as it is for those who come through a mount.
//!
//! Invariants: symbolic links are followed within the tree alone; a file is replaced under one lock, so that
//! two uploads never mix; every change says which agent made it, in which session.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::agents::guard::{Attempt, Believed, Guard};
use crate::agents::policy::{Access, Section};
use crate::tree::acl::{self, Acl};
use crate::tree::moment::{self, Moment};
use crate::tree::operation::{
    Attributes, COPY_MAX, Caller, Operation, RenameHow, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISVTX,
};
use crate::tree::watch::Expected;
use crate::tree::{Actor, ActorId, Ino, Inode, Origin, Outcome, Refusal, Seq, Timestamp, Tree};

use super::ask::TreePath;
use super::problem::Problem;
use super::session::Session;

/// Links followed on the way to one thing, as the kernel does.
const LINKS_MAX: usize = 40;
/// Directories below each other that are taken away with their directory.
const DEPTH_MAX: usize = 2048;

/// Rights, as in one class of a mode.
pub(crate) const READ: u32 = 4;
pub(crate) const WRITE: u32 = 2;
pub(crate) const SEARCH: u32 = 1;

/// Somebody at the tree.
#[derive(Clone, Debug)]
pub(crate) struct Acting {
    pub(crate) tree: Tree,
    uid: u32,
    gid: u32,
    actor: ActorId,
    /// One file at a time is replaced.
    replacing: Arc<Mutex<()>>,
    /// Who it is by its session, and who decides what that agent may.
    guard: Option<(Believed, Arc<Guard>)>,
}

/// Names from the tree's root on.
type Path = Vec<Vec<u8>>;

/// What an agent is about to do, and whether with all below.
#[derive(Clone, Copy)]
struct How {
    access: Access,
    below: bool,
}

/// Names of a directory, and the hash that the next begin at.
type Listed = (Vec<(Vec<u8>, Inode)>, Option<u64>);

/// A name in a directory, and what it leads to.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) parent: Ino,
    pub(crate) name: Vec<u8>,
    pub(crate) inode: Option<Inode>,
}

/// New content of a file: in memory while it is short.
#[derive(Debug)]
pub(crate) enum Content {
    Short(Vec<u8>),
    /// In a file without a name.
    Staged {
        ino: Ino,
        len: u64,
    },
}

/// What a replacement must find.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Must {
    #[default]
    Be,
    BeNew,
    /// This inode in this version.
    BeAsSeen(Ino, Seq),
}

impl Acting {
    /// `session` at `tree`, with the rights of a user and group; those of the tree's owner where none are named.
    pub(crate) fn new(
        tree: &Tree,
        session: &Session,
        user: Option<(u32, u32)>,
        replacing: &Arc<Mutex<()>>,
        guard: Option<Arc<Guard>>,
    ) -> Result<Self, Problem> {
        let (uid, gid) = match user {
            Some(user) => user,
            None => {
                let top = tree.inode(Ino::ROOT, Seq::NOW)?;
                (top.uid, top.gid)
            }
        };
        let actor = Actor {
            uid,
            gid,
            agent: session.agent.clone().into_bytes(),
            session: session.id.clone().into_bytes(),
            ..Actor::default()
        };
        // Who did it never decides whether it can be done.
        let actor = tree.store().actor(&actor).unwrap_or_default();
        let who = Believed { agent: session.agent.clone().into_bytes(), in_session: true };
        let guard = guard.map(|guard| (who, guard));
        Ok(Self { tree: tree.clone(), uid, gid, actor, replacing: Arc::clone(replacing), guard })
    }

    /// Who is behind what is changed.
    pub(crate) const fn origin(&self) -> Origin {
        Origin { actor: self.actor, unique: 0 }
    }

    fn caller(&self) -> Caller<'static> {
        Caller { uid: self.uid, gid: self.gid, groups: None, umask: 0o022, origin: self.origin() }
    }

    fn perform(&self, operation: &Operation<'_>) -> Result<Outcome, Problem> {
        Ok(self.tree.perform_beside(&self.caller(), operation, None)?)
    }

    fn perform_on(
        &self,
        operation: &Operation<'_>,
        expected: &Expected<'_>,
    ) -> Result<Outcome, Problem> {
        Ok(self.tree.perform_beside(&self.caller(), operation, Some(expected))?)
    }

    /// Refuses what the policy closes to this agent.
    fn ask_guard(&self, section: Section, paths: &[Path], how: How) -> Result<(), Problem> {
        let Some((who, guard)) = &self.guard else { return Ok(()) };
        let How { access, below } = how;
        let attempts: Vec<_> =
            paths.iter().map(|path| Attempt { section, path, access, below }).collect();
        let Some(why) = guard.refuses(who, &attempts) else { return Ok(()) };
        let path = paths.first().map_or_else(Vec::new, |path| path.join(&b'/'));
        let path = format!("/{}", String::from_utf8_lossy(&path));
        guard.tell(who, (self.uid, 0), "serve over HTTP", &path, why);
        Err(Problem::new(
            axum::http::StatusCode::FORBIDDEN,
            format!("agent {} may not do this here", String::from_utf8_lossy(&who.agent)),
        ))
    }

    /// Refuses to show the past where the policy closes it to this agent.
    pub(crate) fn may_look_back(&self) -> Result<(), Problem> {
        self.ask_guard(Section::History, &[Path::new()], How { access: Access::Read, below: false })
    }

    /// Refuses what the user, or the agent, may not do with `inode`. Listing a directory is judged by its mode alone,
    /// and changing names in it by [`Acting::may_change_names`].
    pub(crate) fn may(&self, inode: &Inode, rights: u32, at: Seq) -> Result<(), Problem> {
        if self.guard.is_some() && inode.mode & S_IFMT != S_IFDIR && rights & (READ | WRITE) != 0 {
            let access = if rights & WRITE != 0 { Access::Write } else { Access::Read };
            let paths = self.tree.paths(inode.ino, at)?;
            self.ask_guard(Section::Current, &paths, How { access, below: false })?;
        }
        if self.uid == 0 {
            return Ok(());
        }
        let class = |shift: u32| inode.mode >> shift & 7;
        let granted = match self.tree.xattr(inode.ino, acl::ACCESS, at) {
            Ok(list) => match Acl::parse(&list) {
                Ok(Some(acl)) => acl.permits((inode.uid, inode.gid), (self.uid, self.gid), rights),
                Ok(None) | Err(_) => false,
            },
            Err(Refusal::NoData | Refusal::NotSupported) => {
                let class = if self.uid == inode.uid {
                    class(6)
                } else if self.gid == inode.gid {
                    class(3)
                } else {
                    class(0)
                };
                class & rights == rights
            }
            Err(refusal) => return Err(refusal.into()),
        };
        if granted { Ok(()) } else { Err(self.denied()) }
    }

    fn denied(&self) -> Problem {
        Problem::new(
            axum::http::StatusCode::FORBIDDEN,
            format!("user {} may not do this here", self.uid),
        )
    }

    /// The sequence that `name` means, as below `history/`; without a name, that of the last event.
    pub(crate) fn moment(&self, name: Option<&str>) -> Result<Seq, Problem> {
        let last = self.tree.last();
        let Some(name) = name else { return Ok(last) };
        let none = || Problem::missing(format!("there is no tree at {name:?}"));
        // A plus in a query is a space; the offset of a time has one.
        let name = name.replace(' ', "+");
        let now = Timestamp::now();
        let tables = self.tree.store().read();
        let at = match moment::parse(name.as_bytes(), now) {
            Some(Moment::After(seq)) => seq,
            Some(Moment::At(time) | Moment::Ago(time)) => {
                tables.seq_at(time).map_err(Refusal::from)?
            }
            None => tables.label(name.as_bytes()).map_err(Refusal::from)?.ok_or_else(none)?,
        };
        drop(tables);
        if at < Seq::FIRST || at > last || at < self.tree.store().horizon() {
            return Err(none());
        }
        Ok(at)
    }

    /// What `path` leads to at `at`; a link at its end is followed too.
    pub(crate) fn find(&self, path: &TreePath, at: Seq) -> Result<Inode, Problem> {
        let found = self.entry(path, at, true)?;
        found.inode.ok_or_else(|| Problem::missing(format!("{} does not exist", path.text())))
    }

    /// The name at the end of `path`, whatever it leads to; with `follow` the one its link leads to.
    pub(crate) fn entry(&self, path: &TreePath, at: Seq, follow: bool) -> Result<Named, Problem> {
        let mut rest: Vec<Vec<u8>> = path.names.iter().rev().cloned().collect();
        let mut above: Vec<Inode> = Vec::new();
        let mut dir = self.tree.inode(Ino::ROOT, at)?;
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b"." || name.is_empty() {
                continue;
            }
            if name == b".." {
                dir = above.pop().ok_or_else(|| outside(path))?;
                continue;
            }
            if dir.mode & S_IFMT != S_IFDIR {
                return Err(Problem::conflict(format!("{}: a file is in the way", path.text())));
            }
            self.may(&dir, SEARCH, at)?;
            let inode = match self.tree.lookup(dir.ino, &name, at) {
                Ok(inode) => Some(inode),
                Err(Refusal::NotFound) => None,
                Err(refusal) => return Err(refusal.into()),
            };
            let Some(inode) = inode else {
                if rest.is_empty() {
                    return Ok(Named { parent: dir.ino, name, inode: None });
                }
                return Err(Problem::missing(format!("{} does not exist", path.text())));
            };
            if inode.mode & S_IFMT == S_IFLNK && (follow || !rest.is_empty()) {
                links += 1;
                let target = self.tree.target(inode.ino, at)?;
                if links > LINKS_MAX {
                    return Err(Problem::conflict(format!("{}: too many links", path.text())));
                }
                if target.starts_with(b"/") {
                    return Err(outside(path));
                }
                rest.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                continue;
            }
            if rest.iter().all(|name| name.is_empty() || name == b".") {
                return Ok(Named { parent: dir.ino, name, inode: Some(inode) });
            }
            above.push(std::mem::replace(&mut dir, inode));
        }
        Ok(Named { parent: dir.ino, name: Vec::new(), inode: Some(dir) })
    }

    /// Names in `dir` from the hash `from` on, at least `limit` if there are as many, and the hash that the
    /// next begin at.
    pub(crate) fn list(
        &self,
        dir: Ino,
        at: Seq,
        from: u64,
        limit: usize,
    ) -> Result<Listed, Problem> {
        let mut names = Vec::new();
        let (mut last, mut next) = (0, None);
        self.tree.list_with_attributes(dir, from, at, &mut |hash, name, inode| {
            // Names with the same hash belong on one page.
            if names.len() >= limit && hash != last {
                next = Some(hash);
                return ControlFlow::Break(());
            }
            last = hash;
            names.push((name.to_vec(), *inode));
            ControlFlow::Continue(())
        })?;
        Ok((names, next))
    }

    /// Whether the user, and the agent, may make `name` in `parent` or take it away; `gone` is what it led to.
    fn may_change_names(
        &self,
        parent: Ino,
        name: &[u8],
        gone: Option<&Inode>,
    ) -> Result<(), Problem> {
        if self.guard.is_some() {
            let paths: Vec<_> = self.tree.path_in(parent, name, Seq::NOW)?.into_iter().collect();
            let below = gone.is_some_and(|inode| inode.mode & S_IFMT == S_IFDIR);
            self.ask_guard(Section::Current, &paths, How { access: Access::Write, below })?;
        }
        let dir = self.tree.inode(parent, Seq::NOW)?;
        self.may(&dir, WRITE | SEARCH, Seq::NOW)?;
        let sticky = dir.mode & S_ISVTX != 0 && self.uid != 0 && self.uid != dir.uid;
        if sticky && gone.is_some_and(|inode| inode.uid != self.uid) {
            return Err(self.denied());
        }
        Ok(())
    }

    /// Makes the directory at the end of `path`, and with `parents` those above it. `None` if it is there.
    pub(crate) fn make_directory(
        &self,
        path: &TreePath,
        parents: bool,
    ) -> Result<Option<Inode>, Problem> {
        if parents {
            self.make_parents(path)?;
        }
        let named = self.entry(path, Seq::NOW, true)?;
        if let Some(inode) = named.inode {
            if inode.mode & S_IFMT != S_IFDIR {
                return Err(Problem::conflict(format!("{} is no directory", path.text())));
            }
            return Ok(None);
        }
        self.may_change_names(named.parent, &named.name, None)?;
        let made = self.perform(&Operation::Make {
            parent: named.parent,
            name: &named.name,
            mode: S_IFDIR | 0o777,
            rdev: 0,
            exclusive: true,
            security: None,
        })?;
        Ok(made.inode)
    }

    /// Makes the directories above `path` that are missing.
    pub(crate) fn make_parents(&self, path: &TreePath) -> Result<(), Problem> {
        for depth in 1..path.names.len() {
            let names = path.names.iter().take(depth).cloned().collect();
            self.make_directory(&TreePath { names, directory: true }, false)?;
        }
        Ok(())
    }

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
        self.write_where(ino, offset, bytes, None)
    }

    fn write_where(
        &self,
        ino: Ino,
        offset: u64,
        bytes: &[u8],
        expected: Option<&Expected<'_>>,
    ) -> Result<Outcome, Problem> {
        let (caller, kill_set_id) = (self.caller(), self.uid != 0);
        Ok(self.tree.write_beside(&caller, ino, offset, bytes, kill_set_id, expected)?)
    }

    /// Lets go of staged content that nobody needs.
    pub(crate) fn discard(&self, content: &Content) {
        if let &Content::Staged { ino, .. } = content
            && let Err(refusal) = self.tree.perform(&self.caller(), &Operation::End { ino })
        {
            tracing::warn!(%ino, %refusal, "a part of an upload stays until the next mount");
        }
    }

    /// Makes `content` that of the file at the end of `path`. Returns the file, and whether it is new.
    pub(crate) fn replace(
        &self,
        path: &TreePath,
        content: &Content,
        mode: Option<u32>,
        must: Must,
    ) -> Result<(Inode, bool), Problem> {
        let _one_at_a_time = self.replacing.lock();
        let named = self.entry(path, Seq::NOW, true)?;
        let Some(inode) = named.inode else {
            if let Must::BeAsSeen(..) = must {
                return Err(changed_meanwhile());
            }
            self.may_change_names(named.parent, &named.name, None)?;
            let inode = self.make_file(&named, content, mode.unwrap_or(0o666))?;
            return Ok((inode, true));
        };
        match must {
            Must::BeNew => return Err(changed_meanwhile()),
            Must::BeAsSeen(ino, version) if (ino, version) != (inode.ino, inode.changed) => {
                return Err(changed_meanwhile());
            }
            Must::Be | Must::BeAsSeen(..) => (),
        }
        match inode.mode & S_IFMT {
            S_IFREG => (),
            S_IFDIR => return Err(Problem::conflict(format!("{} is a directory", path.text()))),
            _ => return Err(Problem::conflict(format!("{} is no file", path.text()))),
        }
        self.may(&inode, WRITE, Seq::NOW)?;
        let version = matches!(must, Must::BeAsSeen(..)).then_some(inode.changed);
        self.fill(&named, &inode, content, version)?;
        if let Some(mode) = mode {
            let set = Attributes { mode: Some(mode), ..Attributes::default() };
            self.set_attributes(&inode, set)?;
        }
        Ok((self.tree.inode(inode.ino, Seq::NOW)?, false))
    }

    /// A name for new content: the file shows whole or not at all.
    fn make_file(&self, named: &Named, content: &Content, mode: u32) -> Result<Inode, Problem> {
        let (parent, name) = (named.parent, named.name.as_slice());
        // The parent hands down its group and default ACL; only in it is known what they are.
        let made = self.perform(&Operation::Tmpfile {
            parent,
            mode: S_IFREG | mode & 0o7777,
            security: None,
        })?;
        let ino = made.inode.ok_or(Refusal::Stale)?.ino;
        let filled = self.fill_new(ino, content).and_then(|()| {
            // Before it has a name: that it gets one says all there is to say.
            self.version_ends(ino);
            Ok(self.perform(&Operation::Link { ino, parent, name })?.inode.ok_or(Refusal::Stale)?)
        });
        if filled.is_err() {
            self.discard(&Content::Staged { ino, len: 0 });
        }
        filled
    }

    fn fill_new(&self, ino: Ino, content: &Content) -> Result<(), Problem> {
        match content {
            Content::Short(bytes) if bytes.is_empty() => Ok(()),
            Content::Short(bytes) => self.write(ino, 0, bytes).map(drop),
            &Content::Staged { ino: src, len } => self.copy_range(src, ino, len, None),
        }
    }

    /// Cuts the file first where the new content is shorter: until the content is there, readers see a
    /// beginning of the old.
    fn fill(
        &self,
        named: &Named,
        inode: &Inode,
        content: &Content,
        version: Option<Seq>,
    ) -> Result<(), Problem> {
        let len = match content {
            Content::Short(bytes) => bytes.len() as u64,
            &Content::Staged { len, .. } => len,
        };
        let entry = (!named.name.is_empty()).then_some((named.parent, named.name.as_slice()));
        let expected = Expected { entry, ino: inode.ino, version };
        let mut expected = Some(&expected);
        if len < inode.size || len == 0 {
            let set =
                Attributes { size: Some(len), kill_set_id: self.uid != 0, ..Attributes::default() };
            let operation = Operation::SetAttributes { ino: inode.ino, set };
            match expected.take() {
                Some(expected) => self.perform_on(&operation, expected)?,
                None => self.perform(&operation)?,
            };
        }
        match content {
            Content::Short(bytes) if bytes.is_empty() => (),
            Content::Short(bytes) => {
                self.write_where(inode.ino, 0, bytes, expected)?;
            }
            &Content::Staged { ino, len } => self.copy_range(ino, inode.ino, len, expected)?,
        }
        self.version_ends(inode.ino);
        Ok(())
    }

    fn copy_range(
        &self,
        src: Ino,
        dst: Ino,
        len: u64,
        mut expected: Option<&Expected<'_>>,
    ) -> Result<(), Problem> {
        let mut offset = 0;
        while offset < len {
            let operation = Operation::Copy {
                src,
                src_offset: offset,
                dst,
                dst_offset: offset,
                len: (len - offset).min(COPY_MAX),
                kill_set_id: self.uid != 0,
            };
            let copied = match expected.take() {
                Some(expected) => self.perform_on(&operation, expected)?,
                None => self.perform(&operation)?,
            };
            if copied.len == 0 {
                break;
            }
            offset += copied.len;
        }
        Ok(())
    }

    /// Notes that what was written so far is a version.
    pub(crate) fn version_ends(&self, ino: Ino) {
        if let Err(refusal) = self.tree.version_ends(ino, self.actor) {
            tracing::warn!(%ino, %refusal, "the end of a version was not noted down");
        }
    }

    pub(crate) fn set_attributes(
        &self,
        inode: &Inode,
        set: Attributes,
    ) -> Result<Outcome, Problem> {
        if self.uid != 0 && self.uid != inode.uid {
            return Err(self.denied());
        }
        if self.guard.is_some() {
            let paths = self.tree.paths(inode.ino, Seq::NOW)?;
            self.ask_guard(Section::Current, &paths, How { access: Access::Write, below: false })?;
        }
        self.perform(&Operation::SetAttributes { ino: inode.ino, set })
    }

    /// Takes the name at the end of `path` away; a directory with all below it if `recursive`. `version` is
    /// what it must have.
    pub(crate) fn remove(
        &self,
        path: &TreePath,
        recursive: bool,
        version: Option<Seq>,
    ) -> Result<(), Problem> {
        let named = self.entry(path, Seq::NOW, false)?;
        let Some(inode) = named.inode else {
            return Err(Problem::missing(format!("{} does not exist", path.text())));
        };
        if named.name.is_empty() {
            return Err(Problem::conflict("the root of the tree stays"));
        }
        self.may_change_names(named.parent, &named.name, Some(&inode))?;
        if inode.mode & S_IFMT == S_IFDIR && recursive && inode.entries > 0 {
            if version.is_some_and(|version| version != inode.changed) {
                return Err(changed_meanwhile());
            }
            self.empty(&inode, 0)?;
            // By emptying it, it has changed.
            return self.remove_name(&named, &inode, None);
        }
        self.remove_name(&named, &inode, version)
    }

    fn remove_name(
        &self,
        named: &Named,
        inode: &Inode,
        version: Option<Seq>,
    ) -> Result<(), Problem> {
        let (parent, name) = (named.parent, named.name.as_slice());
        let operation = match inode.mode & S_IFMT {
            S_IFDIR => Operation::Rmdir { parent, name },
            _ => Operation::Unlink { parent, name },
        };
        let expected = Expected { entry: Some((parent, name)), ino: inode.ino, version };
        self.perform_on(&operation, &expected).map(drop)
    }

    fn empty(&self, dir: &Inode, depth: usize) -> Result<(), Problem> {
        if depth > DEPTH_MAX {
            return Err(Problem::conflict(format!("more than {DEPTH_MAX} directories deep")));
        }
        self.may(dir, READ | WRITE | SEARCH, Seq::NOW)?;
        loop {
            let (names, next) = self.list(dir.ino, Seq::NOW, 0, 1024)?;
            for (name, inode) in names {
                self.may_change_names(dir.ino, &name, Some(&inode))?;
                if inode.mode & S_IFMT == S_IFDIR {
                    self.empty(&inode, depth + 1)?;
                }
                let named = Named { parent: dir.ino, name, inode: Some(inode) };
                self.remove_name(&named, &inode, None)?;
            }
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// Moves a name, replacing what the new one leads to.
    pub(crate) fn rename(&self, from: &TreePath, to: &TreePath) -> Result<Inode, Problem> {
        let (old, new) = (self.entry(from, Seq::NOW, false)?, self.entry(to, Seq::NOW, false)?);
        let Some(inode) = old.inode else {
            return Err(Problem::missing(format!("{} does not exist", from.text())));
        };
        if old.name.is_empty() || new.name.is_empty() {
            return Err(Problem::conflict("the root of the tree stays"));
        }
        self.may_change_names(old.parent, &old.name, Some(&inode))?;
        self.may_change_names(new.parent, &new.name, new.inode.as_ref())?;
        if inode.mode & S_IFMT == S_IFDIR && old.parent != new.parent {
            // Its `..` changes.
            self.may(&inode, WRITE, Seq::NOW)?;
        }
        let operation = Operation::Rename {
            parent: old.parent,
            name: &old.name,
            new_parent: new.parent,
            new_name: &new.name,
            how: RenameHow::Replace,
        };
        let entry = Some((old.parent, old.name.as_slice()));
        self.perform_on(&operation, &Expected { entry, ino: inode.ino, version: None })?;
        Ok(inode)
    }

    /// Makes the file at the end of `to` a copy of the one at `from`, without copying bytes.
    pub(crate) fn copy(&self, from: &TreePath, to: &TreePath) -> Result<(), Problem> {
        let src = self.find(from, Seq::NOW)?;
        if src.mode & S_IFMT != S_IFREG {
            return Err(Problem::conflict(format!("{} is no file", from.text())));
        }
        self.may(&src, READ, Seq::NOW)?;
        let content = Content::Staged { ino: src.ino, len: src.size };
        if let Ok(Named { inode: Some(there), .. }) = self.entry(to, Seq::NOW, true)
            && there.ino == src.ino
        {
            return Ok(());
        }
        self.replace(to, &content, Some(src.mode & 0o777), Must::Be).map(drop)
    }

    /// Bytes of a file from `offset` on, at most `len`.
    pub(crate) fn read(
        &self,
        ino: Ino,
        offset: u64,
        len: usize,
        at: Seq,
    ) -> Result<Bytes, Problem> {
        let mut buffer = vec![0; len];
        let len = self.tree.read(ino, offset, &mut buffer, at)?;
        buffer.truncate(len);
        Ok(buffer.into())
    }
}

/// Somebody else was faster than a request that said what it expects.
pub(crate) fn changed_meanwhile() -> Problem {
    Problem::new(
        axum::http::StatusCode::PRECONDITION_FAILED,
        "it is not what the request expects: look at it again",
    )
}

fn outside(path: &TreePath) -> Problem {
    Problem::new(
        axum::http::StatusCode::FORBIDDEN,
        format!("{}: a link leads out of the tree", path.text()),
    )
}

/// What is asked before a change of several steps begins.
impl Acting {
    /// Where a name is, by a path without links.
    pub(crate) fn place(&self, named: &Named) -> Result<TreePath, Problem> {
        let names = if named.name.is_empty() {
            // The directory itself, which has one path.
            self.tree.paths(named.parent, Seq::NOW)?.into_iter().next()
        } else {
            self.tree.path_in(named.parent, &named.name, Seq::NOW)?
        };
        let names = names.ok_or_else(|| Problem::missing("it is gone"))?;
        Ok(TreePath { names, directory: false })
    }

    /// Refuses what [`Acting::rename`] would.
    pub(crate) fn may_rename(&self, old: &Named, new: &Named) -> Result<(), Problem> {
        self.may_name(old)?;
        self.may_name(new)?;
        if let Some(inode) = &old.inode
            && inode.mode & S_IFMT == S_IFDIR
            && old.parent != new.parent
        {
            self.may(inode, WRITE, Seq::NOW)?;
        }
        Ok(())
    }

    /// Refuses where the user, or the agent, may not make this name, or take it away where it is there.
    pub(crate) fn may_name(&self, named: &Named) -> Result<(), Problem> {
        self.may_change_names(named.parent, &named.name, named.inode.as_ref())
    }

    /// Whether the user may give `inode` another mode.
    pub(crate) const fn owns(&self, inode: &Inode) -> bool {
        self.uid == 0 || self.uid == inode.uid
    }

    /// Makes a symbolic link at `to` that leads where `link` does.
    pub(crate) fn copy_link(&self, link: &Inode, to: &TreePath) -> Result<(), Problem> {
        self.may(link, READ, Seq::NOW)?;
        let named = self.entry(to, Seq::NOW, false)?;
        if named.inode.is_some() {
            return Err(Problem::conflict(format!("{} is there already", to.text())));
        }
        self.may_name(&named)?;
        let target = self.tree.target(link.ino, Seq::NOW)?;
        let operation = Operation::Symlink {
            parent: named.parent,
            name: &named.name,
            target: &target,
            security: None,
        };
        self.perform(&operation).map(drop)
    }
}
