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
//! Invariants: who may not read one of the files may not read `files.json`: its mode is what all of theirs allow.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::legacy::context::Package;
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

    /// Name and event of each package.
    pub(super) fn context_names(&self) -> Result<Vec<(Vec<u8>, Made)>, Refusal> {
        let packages = self.packages.list(Timestamp::now())?;
        let name = |package: &Arc<Package>| package.is.package_id.clone().into_bytes();
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
            PackageFile::Context => package.is.context_data.clone().into(),
        };
        let mut text = format!("{json:#}");
        text.push('\n');
        Ok(text.into_bytes())
    }

    /// What of the mode of a plain computed file is left for `file`.
    pub(super) fn package_mode(&self, package: &Package, file: PackageFile) -> u32 {
        const ALL: u32 = 0o777;
        if file != PackageFile::Files {
            return ALL;
        }
        let paths = package.is.files_involved.iter();
        let involved = paths.filter_map(|path| self.involved(path, package.seq).ok());
        // Its owner keeps what he has: he owns the tree.
        involved.fold(ALL, |mode, inode| mode & (inode.mode | 0o700))
    }

    fn package_files(&self, package: &Package) -> Result<Map<String, Value>, Refusal> {
        if package.seq < self.tree.store().horizon() {
            return Err(TreeRefusal::Stale.into());
        }
        let mut files = Map::new();
        let mut room = FILES_MAX;
        for path in &package.is.files_involved {
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
    fn involved(&self, path: &str, at: Seq) -> Result<Inode, TreeRefusal> {
        let mut inode = self.tree.inode(Ino::ROOT, at)?;
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            inode = self.tree.lookup(inode.ino, name.as_bytes(), at)?;
        }
        Ok(inode)
    }
}
