//! MOVE and COPY: what is refused before anything is changed.
//!
//! `dav-server` (0.11) takes away what is at the destination, and then tries; that the one lies in the other it sees only
//! where source and destination are the same text.

use axum::http::StatusCode;

use crate::api::acting::{Acting, Named, READ, SEARCH, WRITE};
use crate::api::ask::TreePath;
use crate::api::problem::Problem;
use crate::tree::operation::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use crate::tree::{Inode, Seq};

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum How {
    Move,
    Copy,
    /// Of a directory, itself alone.
    CopyShallow,
}

/// A MOVE or COPY that may begin.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    how: How,
    /// The source as it was asked for.
    from: TreePath,
    /// The same without links: one of them may go with what is at the destination.
    source: TreePath,
    to: TreePath,
    /// What is at the destination is replaced in one step, so it stays until then.
    replaces: bool,
}

impl Transfer {
    /// Refuses what would lose something, and what would be refused once something is lost.
    pub(super) fn checked(
        acting: &Acting,
        from: TreePath,
        to: TreePath,
        how: How,
    ) -> Result<Self, Problem> {
        let forbidden = |why: String| Problem::new(StatusCode::FORBIDDEN, why);
        if from.names.is_empty() || to.names.is_empty() {
            return Err(forbidden("the root of the tree stays".to_owned()));
        }
        let missing = |path: &TreePath| Problem::missing(format!("{} does not exist", path.text()));
        // A link is moved as such; what is copied is what it leads to.
        let old = acting.entry(&from, Seq::NOW, how != How::Move);
        let old = old.map_err(|problem| match problem.status {
            StatusCode::CONFLICT => missing(&from),
            _ => problem,
        })?;
        let inode = old.inode.ok_or_else(|| missing(&from))?;
        let new = acting.entry(&to, Seq::NOW, false);
        let new = new.map_err(|problem| match problem.status {
            StatusCode::NOT_FOUND => Problem::conflict("there is no directory to put it into"),
            _ => problem,
        })?;
        let (source, place) = (acting.place(&old)?, acting.place(&new)?);
        if is_within(&source, &place) || is_within(&place, &source) {
            let why =
                format!("{} and {} are one, or one lies in the other", from.text(), to.text());
            return Err(forbidden(why));
        }
        if how == How::Move
            && inode.mode & S_IFMT == S_IFLNK
            && let Ok(target) = acting.entry(&from, Seq::NOW, true)
            && target.inode.is_some()
            && is_within(&acting.place(&target)?, &place)
        {
            return Err(forbidden(format!("{} leads to what would go for it", from.text())));
        }
        let replaces = match how {
            How::Move => {
                acting.may_rename(&old, &new)?;
                // Of two names of one file, renaming would leave both.
                let is_file = |inode: &Inode| inode.mode & S_IFMT != S_IFDIR;
                new.inode.is_some_and(|there| {
                    is_file(&inode) && is_file(&there) && there.ino != inode.ino
                })
            }
            How::Copy | How::CopyShallow => may_copy(acting, &inode, &new, how)?,
        };
        Ok(Self { how, from, source, to, replaces })
    }

    /// The path that is meant by one of a request.
    pub(super) fn meant(&self, path: TreePath) -> TreePath {
        match path.names.strip_prefix(self.from.names.as_slice()) {
            Some(below) => {
                let names = [self.source.names.as_slice(), below].concat();
                TreePath { names, directory: path.directory }
            }
            None => path,
        }
    }

    /// Whether `path` stays where it is until something else takes its place.
    pub(super) fn keeps(&self, path: &TreePath) -> bool {
        self.replaces && path.names == self.to.names
    }

    /// Whether `path` is copied with a directory above it. Links that are, are copied as such: they may lead anywhere, also up.
    pub(super) fn takes_along(&self, path: &TreePath) -> bool {
        self.how != How::Move
            && path.names.len() > self.from.names.len()
            && is_within(path, &self.from)
            && !is_within(&self.to, path)
    }
}

/// Whether `path` is `above`, or lies below it.
fn is_within(path: &TreePath, above: &TreePath) -> bool {
    path.names.starts_with(&above.names)
}

/// Whether a copy of `inode` at `new` replaces only the content of what is there.
fn may_copy(acting: &Acting, inode: &Inode, new: &Named, how: How) -> Result<bool, Problem> {
    match inode.mode & S_IFMT {
        S_IFREG => acting.may(inode, READ, Seq::NOW)?,
        S_IFDIR if how == How::CopyShallow => (),
        S_IFDIR => acting.may(inode, READ | SEARCH, Seq::NOW)?,
        _ => {
            let why = "it is neither a file nor a directory";
            return Err(Problem::new(StatusCode::FORBIDDEN, why));
        }
    }
    if let Some(there) = &new.inode
        && inode.mode & S_IFMT == S_IFREG
        && there.mode & S_IFMT == S_IFREG
        && acting.owns(there)
    {
        acting.may(there, WRITE, Seq::NOW)?;
        return Ok(true);
    }
    acting.may_name(new)?;
    Ok(false)
}
