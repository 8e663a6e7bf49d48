//! The tree as somebody may see and change it over HTTP.
//!
//! The kernel checks modes for those who come through a mount; here nobody does it for us. So each step of
//! a path needs the right to search, each change the right to write, as for a process of the user that HTTP
//! acts as. Where a policy says what agents may, it is asked as it is for those who come through a mount.
//!
//! Invariants: symbolic links are followed within the tree alone; a file is replaced under one lock, and its content by one event
//! unless it is too long for one, so that neither two uploads nor old and new ever mix; every change says which agent made it, in
//! which session.

mod replacing;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::agents::guard::{Attempt, Believed, Guard};
use crate::agents::policy::{Access, Section};
use crate::tree::acl::{self, Acl};
use crate::tree::moment::{self, Moment};
use crate::tree::operation::{
    Attributes, Caller, Operation, RenameHow, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISVTX,
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
/// Names that are read at a time, with their attributes: every change waits meanwhile.
pub(crate) const NAMES_AT_ONCE: usize = 1000;
/// Names of a directory that are listed at a time, to be taken away.
const PAGE: usize = 256;
/// Directories that keep what was listed of them while one below is emptied; others are listed again.
const PAGES_KEPT: usize = 32;
/// How often it is looked at what is there, while others change it.
const TRIES: usize = 3;

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

impl Named {
    /// What must still lead to the inode when that is changed.
    fn as_entry(&self) -> Option<(Ino, &[u8])> {
        (!self.name.is_empty()).then_some((self.parent, self.name.as_slice()))
    }
}

/// What became of a file that got new content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replaced {
    /// The file, as the change left it.
    pub(crate) inode: Inode,
    /// Whether it is new.
    pub(crate) new: bool,
    /// The last event of the change.
    pub(crate) seq: Seq,
}

/// Why a change was not made.
enum Stopped {
    /// Others were faster: what a name led to is something else by now.
    Overtaken(Refusal),
    /// It may not, or cannot be made.
    Refused(Problem),
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stale | Refusal::Exists => Self::Overtaken(refusal),
            other => Self::Refused(other.into()),
        }
    }
}

impl From<Problem> for Stopped {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

/// A directory that is being emptied.
struct Emptied {
    named: Named,
    dir: Inode,
    /// Names that were listed, and not yet taken away.
    names: std::vec::IntoIter<(Vec<u8>, Inode)>,
    /// Whether there may be others.
    more: bool,
}

impl Emptied {
    fn new(named: Named, dir: Inode) -> Self {
        Self { named, dir, names: Vec::new().into_iter(), more: true }
    }

    fn has_listed(&self) -> bool {
        !self.names.as_slice().is_empty()
    }
}

/// New content of a file: in memory while it is short.
#[derive(Debug)]
pub(crate) enum Content {
    Short(Vec<u8>),
    /// In another file, which has no name unless it is copied: so much of it, or as much as it has by then.
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

    fn perform(&self, operation: &Operation<'_>) -> Result<Outcome, Refusal> {
        self.perform_where(operation, None)
    }

    /// Makes something; whose mode was asked for, `as_asked`, has that one, and no umask takes anything off it.
    fn perform_making(
        &self,
        operation: &Operation<'_>,
        as_asked: bool,
    ) -> Result<Outcome, Refusal> {
        let mut caller = self.caller();
        if as_asked {
            caller.umask = 0;
        }
        self.tree.perform_beside(&caller, operation, None)
    }

    fn perform_where(
        &self,
        operation: &Operation<'_>,
        expected: Option<&Expected<'_>>,
    ) -> Result<Outcome, Refusal> {
        self.tree.perform_beside(&self.caller(), operation, expected)
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
        // A plus in a query is a space; the offset of a time has one, and a label may have either.
        let with_plus = name.replace(' ', "+");
        let now = Timestamp::now();
        let tables = self.tree.store().read();
        let label = |name: &str| tables.label(name.as_bytes()).map_err(Refusal::from);
        let at = match moment::parse(with_plus.as_bytes(), now) {
            Some(Moment::After(seq)) => seq,
            Some(Moment::At(time) | Moment::Ago(time)) => {
                tables.seq_at(time).map_err(Refusal::from)?
            }
            None => match label(name)? {
                Some(seq) => seq,
                None => label(&with_plus)?.ok_or_else(none)?,
            },
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

    /// Names in `dir` from the hash `from` on, `limit` or [`NAMES_AT_ONCE`] if there are as many (and those of the same hash
    /// as the last), and the hash that the next begin at. Asked for one after the other at one `at`, they are those of one moment.
    pub(crate) fn list(
        &self,
        dir: Ino,
        at: Seq,
        from: u64,
        limit: usize,
    ) -> Result<Listed, Problem> {
        let limit = limit.min(NAMES_AT_ONCE);
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

    /// Whether the user, and the agent, may make `name` in `parent` or take it away; `gone` is what it led to, and `moved`
    /// what is moved there with all below it.
    fn may_change_names(
        &self,
        parent: Ino,
        name: &[u8],
        gone: Option<&Inode>,
        moved: Option<&Inode>,
    ) -> Result<(), Problem> {
        if self.guard.is_some() {
            let paths: Vec<_> = self.tree.path_in(parent, name, Seq::NOW)?.into_iter().collect();
            let is_dir = |inode: &Inode| inode.mode & S_IFMT == S_IFDIR;
            let below = gone.is_some_and(is_dir) || moved.is_some_and(is_dir);
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

    /// Makes the directory at the end of `path`, with the permissions `mode` if there is one, and with `parents` those
    /// above it. `None` if it is there.
    pub(crate) fn make_directory(
        &self,
        path: &TreePath,
        parents: bool,
        mode: Option<u32>,
    ) -> Result<Option<Inode>, Problem> {
        if parents {
            self.make_parents(path)?;
        }
        look_again(false, || {
            let named = self.entry(path, Seq::NOW, true)?;
            match named.inode {
                None => Ok(Some(self.make_directory_in(named.parent, &named.name, mode)?)),
                Some(inode) if inode.mode & S_IFMT == S_IFDIR => Ok(None),
                Some(_) => {
                    Err(Problem::conflict(format!("{} is no directory", path.text())).into())
                }
            }
        })
    }

    fn make_directory_in(
        &self,
        parent: Ino,
        name: &[u8],
        mode: Option<u32>,
    ) -> Result<Inode, Stopped> {
        self.may_change_names(parent, name, None, None)?;
        let operation = Operation::Make {
            parent,
            name,
            mode: S_IFDIR | mode.unwrap_or(0o777) & 0o7777,
            rdev: 0,
            exclusive: true,
            security: None,
        };
        let made = self.perform_making(&operation, mode.is_some())?;
        Ok(made.inode.ok_or(Refusal::Stale)?)
    }

    /// Makes the directories above `path` that are missing.
    pub(crate) fn make_parents(&self, path: &TreePath) -> Result<(), Problem> {
        let first = |count: usize| TreePath {
            names: path.names.iter().take(count).cloned().collect(),
            directory: true,
        };
        let count = path.names.len().saturating_sub(1);
        if let Ok(Named { inode: Some(inode), .. }) = self.entry(&first(count), Seq::NOW, true)
            && inode.mode & S_IFMT == S_IFDIR
        {
            return Ok(());
        }
        // Where nothing is yet, so that it need not be looked for from the root on.
        let mut fresh: Option<Ino> = None;
        for (at, name) in path.names.iter().take(count).enumerate() {
            let made = match fresh.take().map(|parent| self.make_directory_in(parent, name, None)) {
                Some(Ok(inode)) => Some(inode),
                Some(Err(Stopped::Refused(problem))) => return Err(problem),
                Some(Err(Stopped::Overtaken(_))) | None => {
                    self.make_directory(&first(at + 1), false, None)?
                }
            };
            fresh = made.map(|inode| inode.ino);
        }
        Ok(())
    }

    pub(crate) fn set_attributes(
        &self,
        inode: &Inode,
        set: Attributes,
    ) -> Result<Outcome, Problem> {
        self.may_set_attributes(inode)?;
        Ok(self.perform(&Operation::SetAttributes { ino: inode.ino, set })?)
    }

    fn may_set_attributes(&self, inode: &Inode) -> Result<(), Problem> {
        if self.uid != 0 && self.uid != inode.uid {
            return Err(self.denied());
        }
        if self.guard.is_some() {
            let paths = self.tree.paths(inode.ino, Seq::NOW)?;
            self.ask_guard(Section::Current, &paths, How { access: Access::Write, below: false })?;
        }
        Ok(())
    }

    /// Takes the name at the end of `path` away; a directory with all below it if `recursive`. `version` is
    /// what it must have. Returns the last event.
    pub(crate) fn remove(
        &self,
        path: &TreePath,
        recursive: bool,
        version: Option<Seq>,
    ) -> Result<Seq, Problem> {
        look_again(version.is_some(), || {
            let named = self.entry(path, Seq::NOW, false)?;
            let Some(inode) = named.inode else {
                return Err(Problem::missing(format!("{} does not exist", path.text())).into());
            };
            if named.name.is_empty() {
                return Err(Problem::conflict("the root of the tree stays").into());
            }
            self.may_change_names(named.parent, &named.name, Some(&inode), None)?;
            if inode.mode & S_IFMT == S_IFDIR && recursive && inode.entries > 0 {
                if version.is_some_and(|version| version != inode.changed) {
                    return Err(changed_meanwhile().into());
                }
                // By emptying it, it changes.
                return self.remove_all(named, inode);
            }
            Ok(self.remove_name(&named, &inode, version)?)
        })
    }

    fn remove_name(
        &self,
        named: &Named,
        inode: &Inode,
        version: Option<Seq>,
    ) -> Result<Seq, Refusal> {
        let (parent, name) = (named.parent, named.name.as_slice());
        let operation = match inode.mode & S_IFMT {
            S_IFDIR => Operation::Rmdir { parent, name },
            _ => Operation::Unlink { parent, name },
        };
        let expected =
            Expected { entry: Some((parent, name)), ino: inode.ino, version, source: None };
        let removed = self.perform_where(&operation, Some(&expected))?;
        Ok(removed.seq.unwrap_or(inode.changed))
    }

    /// Takes a directory away with all below it, the lowest first. No recursion: a tree may be deeper than a stack.
    fn remove_all(&self, named: Named, dir: Inode) -> Result<Seq, Stopped> {
        const RIGHTS: u32 = READ | WRITE | SEARCH;
        self.may(&dir, RIGHTS, Seq::NOW)?;
        let mut at = Emptied::new(named, dir);
        let mut above: Vec<Emptied> = Vec::new();
        let mut pages = 0;
        loop {
            let Some((name, inode)) = at.names.next() else {
                if at.more {
                    let (names, next) = self.list(at.dir.ino, Seq::NOW, 0, PAGE)?;
                    (at.names, at.more) = (names.into_iter(), next.is_some());
                    continue;
                }
                let seq = self.remove_name(&at.named, &at.dir, None)?;
                let Some(next) = above.pop() else { return Ok(seq) };
                pages -= usize::from(next.has_listed());
                at = next;
                continue;
            };
            self.may_change_names(at.dir.ino, &name, Some(&inode), None)?;
            let named = Named { parent: at.dir.ino, name, inode: Some(inode) };
            if inode.mode & S_IFMT != S_IFDIR {
                self.remove_name(&named, &inode, None)?;
                continue;
            }
            if above.len() >= DEPTH_MAX {
                let why = format!("more than {DEPTH_MAX} directories deep");
                return Err(Problem::conflict(why).into());
            }
            self.may(&inode, RIGHTS, Seq::NOW)?;
            let mut left = std::mem::replace(&mut at, Emptied::new(named, inode));
            if left.has_listed() && pages < PAGES_KEPT {
                pages += 1;
            } else {
                left.more |= left.has_listed();
                left.names = Vec::new().into_iter();
            }
            above.push(left);
        }
    }

    /// Moves a name, replacing what the new one leads to. Returns the event, or the file's last one where none was needed.
    pub(crate) fn rename(&self, from: &TreePath, to: &TreePath) -> Result<Seq, Problem> {
        look_again(false, || {
            let (old, new) = (self.entry(from, Seq::NOW, false)?, self.entry(to, Seq::NOW, false)?);
            let Some(inode) = old.inode else {
                return Err(Problem::missing(format!("{} does not exist", from.text())).into());
            };
            if old.name.is_empty() || new.name.is_empty() {
                return Err(Problem::conflict("the root of the tree stays").into());
            }
            self.may_change_names(old.parent, &old.name, Some(&inode), None)?;
            self.may_change_names(new.parent, &new.name, new.inode.as_ref(), Some(&inode))?;
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
            let expected = Expected { entry, ino: inode.ino, version: None, source: None };
            let moved = self.perform_where(&operation, Some(&expected))?;
            Ok(moved.seq.unwrap_or(inode.changed))
        })
    }

    /// Makes the file at the end of `to` a copy of the one at `from`, without copying bytes. As with `cp` a file that is
    /// there keeps its permissions. Returns the last event, or the file's last one where none was needed.
    pub(crate) fn copy(&self, from: &TreePath, to: &TreePath) -> Result<Seq, Problem> {
        let src = self.find(from, Seq::NOW)?;
        if src.mode & S_IFMT != S_IFREG {
            return Err(Problem::conflict(format!("{} is no file", from.text())));
        }
        self.may(&src, READ, Seq::NOW)?;
        let content = Content::Staged { ino: src.ino, len: u64::MAX };
        if let Ok(Named { inode: Some(there), .. }) = self.entry(to, Seq::NOW, true)
            && there.ino == src.ino
        {
            return Ok(there.changed);
        }
        Ok(self.replace_with(to, &content, (src.mode & 0o777, None), Must::Be)?.seq)
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

    /// Refuses to show what is at `path` in a directory of the mount beside `current/`, names from there on, where the
    /// policy closes that to this agent; with `below` also where it closes some of what is below it.
    pub(crate) fn may_read_section(
        &self,
        section: Section,
        path: &[&[u8]],
        below: bool,
    ) -> Result<(), Problem> {
        let path = path.iter().map(|name| name.to_vec()).collect();
        self.ask_guard(section, &[path], How { access: Access::Read, below })
    }

    /// Whether [`Acting::may_read_section`] refuses nothing of `path`; nothing is said of it.
    pub(crate) fn reads_section(&self, section: Section, path: &[&[u8]]) -> bool {
        let Some((who, guard)) = &self.guard else { return true };
        let path: Path = path.iter().map(|name| name.to_vec()).collect();
        let attempt = Attempt { section, path: &path, access: Access::Read, below: false };
        guard.refuses(who, &[attempt]).is_none()
    }
}

/// Makes a change to what is there. Where others were faster it looks again, but not for who said what must be there.
fn look_again<T>(must: bool, mut change: impl FnMut() -> Result<T, Stopped>) -> Result<T, Problem> {
    let mut tries = 1;
    loop {
        match change() {
            Ok(done) => return Ok(done),
            Err(Stopped::Refused(problem)) => return Err(problem),
            Err(Stopped::Overtaken(_)) if must => return Err(changed_meanwhile()),
            Err(Stopped::Overtaken(refusal)) if tries == TRIES => return Err(refusal.into()),
            Err(Stopped::Overtaken(_)) => tries += 1,
        }
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
        self.may_change_names(new.parent, &new.name, new.inode.as_ref(), old.inode.as_ref())?;
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
        self.may_change_names(named.parent, &named.name, named.inode.as_ref(), None)
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
        self.perform(&operation)?;
        Ok(())
    }
}
