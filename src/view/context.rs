//! `context/`: packages that somebody put together for a review (see [`crate::legacy::context`]), a directory each.
//!
//! | file | JSON |
//! |---|---|
//! | `manifest.json` | what the package is for, which files belong to it, since when and until when it is there |
//! | `files.json` | path to content of each of these files that is there and not empty, as text, as of the package's creation |
//! | `context.json` | what else was put into it |
//!
//! Packages are made and removed over HTTP. Their files never change; when history no longer reaches back to a package,
//! `files.json` is stale.
//!
//! Invariants: who could not read one of the files when the package was made may not read `files.json`: its mode is what the modes of
//! all of them, and of the directories above, allow; and where there is an access control list among them, nothing to others.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::legacy::context::Package;
use crate::tree::acl;
use crate::tree::operation::{S_IFMT, S_IFREG};
use crate::tree::{Ino, Inode, Seq, Timestamp};

use super::made::Made;
use super::{Found, Refusal, TreeRefusal, View};

/// A file of a package.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum PackageFile {
    Manifest,
    Files,
    Context,
}

/// Most bytes of files that one package shows: what would make it larger is left out.
const FILES_MAX: u64 = 64 << 20;

impl PackageFile {
    /// All, in the order in which they are listed.
    pub(super) const ALL: [Self; 3] = [Self::Manifest, Self::Files, Self::Context];

    pub(super) const fn text(self) -> &'static [u8] {
        match self {
            Self::Manifest => b"manifest.json",
            Self::Files => b"files.json",
            Self::Context => b"context.json",
        }
    }

    pub(super) fn of(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|file| file.text() == name)
    }
}

impl View {
    /// The package that event `seq` made.
    pub(super) fn package(&self, seq: Seq) -> Result<Arc<Package>, Refusal> {
        let package = self.packages.made_by(seq, Timestamp::now())?;
        package.ok_or(Refusal::Tree(TreeRefusal::Stale))
    }

    /// How many packages there are; none where the store cannot tell.
    pub(super) fn context_packages(&self) -> usize {
        self.packages.list(Timestamp::now()).map_or(0, |packages| packages.len())
    }

    pub(super) fn context_lookup(&self, name: &[u8]) -> Result<Found, Refusal> {
        let id = str::from_utf8(name).map_err(|_| TreeRefusal::NotFound)?;
        let package = self.packages.find(id, Timestamp::now())?.ok_or(TreeRefusal::NotFound)?;
        self.give_out_made(Made::Package(package.seq))
    }

    /// Name and event of each package, in the order of these events.
    pub(super) fn context_names(&self) -> Result<Vec<(Vec<u8>, Made)>, Refusal> {
        let mut packages = self.packages.list(Timestamp::now())?;
        packages.sort_unstable_by_key(|package| package.seq);
        let name = |package: &Arc<Package>| package.package_id.clone().into_bytes();
        Ok(packages.iter().map(|package| (name(package), Made::Package(package.seq))).collect())
    }

    /// Content of a file of a package.
    pub(super) fn package_content(
        &self,
        package: &Package,
        file: PackageFile,
    ) -> Result<Vec<u8>, Refusal> {
        let json = match file {
            PackageFile::Manifest => package.manifest(),
            PackageFile::Files => self.package_files(package)?.into(),
            PackageFile::Context => self.packages.context_data(package)?.into(),
        };
        let mut text = format!("{json:#}");
        text.push('\n');
        Ok(text.into_bytes())
    }

    /// What of the mode of a plain computed file of the owner and group of `top` is left for the files of `package`: its
    /// owner keeps what he has, for he owns the tree.
    pub(super) fn involved_mode(&self, package: &Package, top: &Inode) -> u32 {
        const OWNER: u32 = 0o700;
        if !self.has_no_acl(Ino::ROOT, Seq::NOW).unwrap_or(false) {
            // It would go for the files too, and let in whom they do not.
            return OWNER;
        }
        let of = |path| match self.way(path, package.seq) {
            Ok(way) => self.passed(&way, package.seq, top).unwrap_or(0),
            Err(TreeRefusal::NotFound | TreeRefusal::NotADirectory) => 0o077,
            Err(_) => 0,
        };
        package.files_involved.iter().fold(0o777, |mode, path| mode & (OWNER | of(path)))
    }

    /// Bits of those classes, of something that has the owner and group of `top`, all of whose members may go all of
    /// `way` and read the file at its end.
    fn passed(&self, way: &[Inode], at: Seq, top: &Inode) -> Result<u32, TreeRefusal> {
        const READ: u32 = 4;
        const SEARCH: u32 = 1;
        let mut passed = 0o077;
        for inode in way {
            let needed = if inode.mode & S_IFMT == S_IFREG { READ } else { SEARCH };
            let gives = |class: u32| inode.mode >> class & needed != 0;
            // Whom a class of `top` takes in may be in any other one here, if owner or group is another.
            let owner = inode.uid == top.uid || gives(6);
            let group = gives(3) && (inode.gid == top.gid || gives(0));
            let others = gives(0) && (inode.gid == top.gid || gives(3));
            if !owner || !self.has_no_acl(inode.ino, at)? {
                return Ok(0);
            }
            passed &= if group { 0o077 } else { 0o007 };
            passed &= if others { 0o077 } else { 0o070 };
        }
        Ok(passed)
    }

    fn has_no_acl(&self, ino: Ino, at: Seq) -> Result<bool, TreeRefusal> {
        match self.tree.xattr(ino, acl::ACCESS, at) {
            Err(TreeRefusal::NoData) => Ok(true),
            found => found.map(|_| false),
        }
    }

    fn package_files(&self, package: &Package) -> Result<Map<String, Value>, Refusal> {
        if package.seq < self.tree.store().horizon() {
            return Err(TreeRefusal::Stale.into());
        }
        let mut files = Map::new();
        let mut room = FILES_MAX;
        for path in &package.files_involved {
            let inode = match self.involved(path, package.seq) {
                Ok(inode) if inode.mode & S_IFMT == S_IFREG && inode.size > 0 => inode,
                Ok(_) | Err(TreeRefusal::NotFound | TreeRefusal::NotADirectory) => continue,
                Err(refusal) => return Err(refusal.into()),
            };
            let Some(left) = room.checked_sub(inode.size) else { continue };
            room = left;
            // At most `FILES_MAX`.
            let mut bytes = vec![0; usize::try_from(inode.size).unwrap_or(0)];
            let len = self.tree.read(inode.ino, 0, &mut bytes, package.seq)?;
            bytes.truncate(len);
            files.insert(path.clone(), String::from_utf8_lossy(&bytes).into());
        }
        Ok(files)
    }

    /// What `path` of the project led to after event `at`.
    pub(super) fn involved(&self, path: &str, at: Seq) -> Result<Inode, TreeRefusal> {
        self.way(path, at)?.pop().ok_or(TreeRefusal::NotFound)
    }

    /// As [`View::involved`], and before it the directories that lead there, the tree's root first.
    fn way(&self, path: &str, at: Seq) -> Result<Vec<Inode>, TreeRefusal> {
        let mut inode = self.tree.inode(Ino::ROOT, at)?;
        let mut way = vec![inode];
        for name in steps(path) {
            inode = self.tree.lookup(inode.ino, name.as_bytes(), at)?;
            way.push(inode);
        }
        Ok(way)
    }
}

/// The names in a path of the project.
pub(super) fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty() && *name != ".")
}
