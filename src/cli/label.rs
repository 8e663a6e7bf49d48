//! `label`: names for moments. In service the mount's `history/` is asked, at rest the store.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::store::event::Seq;
use crate::store::{OpenOptions, Store};
use crate::transport::mount;
use crate::transport::mount_table::{self, MountEntry};
use crate::view::moment::{self, Moment};

use super::{CliError, flag, output, place, service, store};

/// Give the tree a name under history/, take one back, or list them
///
/// What has a label is kept, with all that came after it, whatever the budget of history says.
#[derive(Debug, clap::Args)]
pub(super) struct LabelArgs {
    /// The name; without one, labels are listed
    name: Option<OsString>,
    /// The moment that gets it, as @SEQUENCE, an RFC 3339 time or `10min-ago`; without it, now
    #[arg(
        long,
        value_name = "MOMENT",
        conflicts_with = "delete",
        requires = "name",
        env = "LIGHTHOUSE_FUSE_AT"
    )]
    at: Option<String>,
    /// The store, in service or not; without it, the one whose mount the working directory is in
    #[arg(long, env = "LIGHTHOUSE_FUSE_STORE")]
    store: Option<PathBuf>,
    /// Take the label back; the tree stays as long as the budget of history lets it
    #[arg(long, requires = "name", env = "LIGHTHOUSE_FUSE_DELETE", value_parser = flag())]
    delete: bool,
    /// List all labels, and which event each is of
    #[arg(long, conflicts_with_all = ["name", "at", "delete"], env = "LIGHTHOUSE_FUSE_LIST",
          value_parser = flag())]
    list: bool,
}

pub(super) fn run(args: &LabelArgs) -> Result<ExitCode, CliError> {
    let source = service::absolute(&match &args.store {
        Some(store) => store.clone(),
        None => place::find(None, None)?.store,
    })?;
    let labels = Labels::find(&source)?;
    match args.name.as_deref().filter(|_| !args.list).map(OsStrExt::as_bytes) {
        Some(name) if !moment::may_be_label(name) => {
            return Err(CliError::new(format!(
                "{:?} cannot be a label: give a file name that means no moment and does not begin with @",
                output::printable(name)
            )));
        }
        Some(name) if args.delete => labels.remove(name)?,
        Some(name) => labels.make(name, args.at.as_deref())?,
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            for (name, seq) in labels.all()? {
                writeln!(out, "{:>8}  {}", format!("@{seq}"), output::printable(&name))?;
            }
            out.flush()?;
        }
    }
    labels.done()?;
    Ok(ExitCode::SUCCESS)
}

/// Where labels are made.
enum Labels {
    /// In the directory `history/` of a mount.
    Mounted(PathBuf),
    /// In a store that nobody serves.
    AtRest(Box<Store>),
}

impl Labels {
    fn find(source: &Path) -> Result<Self, CliError> {
        let table = mount_table::read()
            .map_err(|err| CliError::new(format!("cannot read the table of mounts: {err}")))?;
        if store::holder(source).is_some() {
            let here = std::env::current_dir().unwrap_or_default();
            let mut mounts = mounts_of(&table, source, &here).into_iter();
            // Of those there may be dead ones, and one whose server hangs.
            if let Some(at) = mounts.find(|at| mount::answers(at) == Some(true)) {
                return Ok(Self::Mounted(at.join("history")));
            }
        }
        let store = Store::open(source, &OpenOptions::default());
        Ok(Self::AtRest(Box::new(store.map_err(|err| store::failed(source, &err))?)))
    }

    fn make(&self, name: &[u8], at: Option<&str>) -> Result<(), CliError> {
        let cannot = |why: &dyn std::fmt::Display| {
            CliError::new(format!("cannot make the label {}: {why}", output::printable(name)))
        };
        match self {
            Self::Mounted(history) => match at {
                None => fs::create_dir(path(history, name)).map_err(|err| cannot(&err)),
                Some(at) => {
                    let value = [at.as_bytes(), b"/", name].concat();
                    setxattr(history, "user.lighthouse.label", &value, XattrFlags::empty()).map_err(
                        |err| match err {
                            rustix::io::Errno::NOENT => cannot(&"history does not reach there"),
                            rustix::io::Errno::INVAL => cannot(&format!("{at:?} is no moment")),
                            err => cannot(&io::Error::from(err)),
                        },
                    )
                }
            },
            Self::AtRest(store) => {
                let at = at.map(|at| sequence(store, at)).transpose()?;
                store.label(name, at).map(drop).map_err(|err| cannot(&err))
            }
        }
    }

    fn remove(&self, name: &[u8]) -> Result<(), CliError> {
        let cannot = |why: &dyn std::fmt::Display| {
            CliError::new(format!("cannot remove the label {}: {why}", output::printable(name)))
        };
        match self {
            Self::Mounted(history) => {
                fs::remove_dir(path(history, name)).map_err(|err| cannot(&err))
            }
            Self::AtRest(store) => store.unlabel(name).map(drop).map_err(|err| cannot(&err)),
        }
    }

    /// All labels, by name.
    fn all(&self) -> Result<Vec<(Vec<u8>, Seq)>, CliError> {
        let cannot =
            |why: &dyn std::fmt::Display| CliError::new(format!("cannot list labels: {why}"));
        let history = match self {
            Self::Mounted(history) => history,
            Self::AtRest(store) => return store.labels().map_err(|err| cannot(&err)),
        };
        let mut labels = Vec::new();
        for entry in fs::read_dir(history).map_err(|err| cannot(&err))? {
            let name = entry.map_err(|err| cannot(&err))?.file_name().into_vec();
            // Hours are listed too, where the mount was asked to.
            if !moment::may_be_label(&name) {
                continue;
            }
            let mut value = [0; 20];
            let len = getxattr(path(history, &name), "user.lighthouse.seq", &mut value);
            // Removed since it was listed.
            let Ok(len) = len else { continue };
            let text = value.get(..len).and_then(|text| str::from_utf8(text).ok());
            labels.extend(text.and_then(|text| text.parse().ok()).map(|seq| (name, Seq(seq))));
        }
        labels.sort();
        Ok(labels)
    }

    fn done(&self) -> Result<(), CliError> {
        match self {
            Self::Mounted(_) => Ok(()),
            Self::AtRest(store) => store::close(store),
        }
    }
}

/// Where `source` shows, as `table` says: first the mount that `here` is in, then the newest.
fn mounts_of<'t>(table: &'t [MountEntry], source: &Path, here: &Path) -> Vec<&'t Path> {
    let is_seen = |mount: &&MountEntry| {
        let top = mount_table::topmost(table, &mount.mountpoint);
        // A bind mount of a part has no `history/` of the store's.
        let is_whole = mount.is_ours() && mount.root == "/";
        is_whole && Path::new(&mount.source) == source && top == Some(*mount)
    };
    let mounts = table.iter().rev().filter(is_seen);
    let mut mounts: Vec<&Path> = mounts.map(|mount| mount.mountpoint.as_path()).collect();
    let depth = |at: &Path| if here.starts_with(at) { at.components().count() } else { 0 };
    mounts.sort_by_key(|&at| Reverse(depth(at)));
    mounts
}

fn path(history: &Path, name: &[u8]) -> PathBuf {
    history.join(std::ffi::OsStr::from_bytes(name))
}

/// The event that `at` means in a store at rest.
fn sequence(store: &Store, at: &str) -> Result<Seq, CliError> {
    match moment::parse(at.as_bytes(), output::now()) {
        Some(Moment::After(seq)) => Ok(seq),
        Some(Moment::At(time) | Moment::Ago(time)) => store
            .read()
            .seq_at(time)
            .map_err(|err| CliError::new(format!("cannot find what {at} means: {err}"))),
        None => Err(CliError::new(format!(
            "{at:?} is no moment: give @SEQUENCE, a time such as 2024-01-15T10:00:00Z, or 10min-ago"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_one_is_in_comes_first_and_then_the_newest() {
        let entry = |id, at: &str, source: &str| MountEntry {
            id,
            parent: 1,
            major: 0,
            minor: id,
            root: "/".into(),
            mountpoint: at.into(),
            filesystem: mount_table::FILESYSTEM_TYPE.into(),
            source: source.into(),
            user: Some(0),
        };
        let mut table = vec![
            entry(2, "/a", "/store"),
            entry(3, "/b", "/store"),
            entry(4, "/c", "/other"),
            entry(5, "/b/current/d", "/store"),
            entry(6, "/e", "/store"),
            entry(7, "/e", "/other"),
            entry(8, "/b/part", "/store"),
        ];
        // On top of the one before it.
        table[5].parent = 6;
        table[6].root = "/current".into();
        let from = |here: &str| mounts_of(&table, Path::new("/store"), Path::new(here));
        let paths = |paths: [&'static str; 3]| paths.map(Path::new);
        assert_eq!(from("/"), paths(["/b/current/d", "/b", "/a"]));
        assert_eq!(from("/a/current"), paths(["/a", "/b/current/d", "/b"]));
        assert_eq!(from("/b/current"), paths(["/b", "/b/current/d", "/a"]));
        assert_eq!(from("/b/current/d/current"), paths(["/b/current/d", "/b", "/a"]));
    }
}
