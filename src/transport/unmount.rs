//! Unmounting, and ending a connection.
//!
//! Invariants: nothing but a mount of type `fuse.lighthouse` is ever unmounted, by a user who is not
//! root none but his own, whatever capability the program file has, unless he was given
//! `CAP_SYS_ADMIN` in the ambient set, and by whoever made one, nothing but that one, wherever it is
//! by now and whatever is at its old place; and no path at or below a mount point is asked of the
//! filesystem, so all of this works with a server that is dead or hung, and in the process that serves.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};

use super::fusermount::{self, HelperError};
use super::mount::{MountError, reason, resolve};
use super::mount_table::{self, MountEntry};
use super::mount_users::{self, MountUser};
use crate::sys::process::{self, MountCapability};

/// How long is waited between two attempts to unmount.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A mount we made. Dropping it changes nothing: the mount ends with [`Mounted::unmount`] or with
/// the last descriptor of its device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mounted {
    path: PathBuf,
    /// Without it, nothing can be told from another mount, and all are left alone.
    identity: Option<Identity>,
}

/// Which mount it is. A path will not do: the mount may be moved with a directory above it, and
/// another one may be made at its old place, or on top of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Identity {
    /// Its number in the mount table: one of all mounts there are, and free again with its end.
    id: u32,
    /// Major and minor number, likewise.
    device: (u32, u32),
    /// A number that no other mount will ever have (since Linux 6.8).
    unique: Option<u64>,
}

/// `STATX_MNT_ID_UNIQUE` of `linux/stat.h`: fill `stx_mnt_id` with a number that is not reused.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What `wanted` asks of the mount that `path` is in, from `directory` on. The filesystem is not asked.
fn number_of(directory: impl AsFd, path: &Path, wanted: StatxFlags) -> Option<(u64, (u32, u32))> {
    let flags = AtFlags::EMPTY_PATH
        | AtFlags::SYMLINK_NOFOLLOW
        | AtFlags::NO_AUTOMOUNT
        | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(directory, path, flags, wanted).ok()?;
    let told = StatxFlags::from_bits_retain(found.stx_mask).contains(wanted);
    told.then_some((found.stx_mnt_id, (found.stx_dev_major, found.stx_dev_minor)))
}

impl Identity {
    /// Of a mount, by the descriptor that `fsmount(2)` gave; `None` before Linux 5.8.
    pub(super) fn of(mount: BorrowedFd<'_>) -> Option<Self> {
        let (id, device) = number_of(mount, Path::new(""), StatxFlags::MNT_ID)?;
        let unique = number_of(mount, Path::new(""), MNT_ID_UNIQUE).map(|(unique, _)| unique);
        Some(Self { id: u32::try_from(id).ok()?, device, unique })
    }

    /// Of what the mount table tells of. It may end at any time, and its numbers be another's.
    pub(super) const fn in_table(entry: &MountEntry) -> Self {
        Self { id: entry.id, device: (entry.major, entry.minor), unique: None }
    }

    /// Of what the mount table says is at `path` since a moment ago.
    pub(super) fn new_at(path: &Path, entry: &MountEntry) -> Self {
        let told = Self::in_table(entry);
        // Another one may be there by now.
        let unique = number_of(CWD, path, MNT_ID_UNIQUE)
            .filter(|(_, device)| *device == told.device)
            .map(|(unique, _)| unique);
        Self { unique, ..told }
    }

    /// Whether `entry`, which is the topmost mount at its place, is this one.
    fn is(&self, entry: &MountEntry) -> bool {
        entry.is_ours() && Self { unique: None, ..*self } == Self::in_table(entry)
    }

    /// Whether what is at `path` may be this one, as far as the kernel tells.
    fn may_be_at(&self, path: &Path) -> bool {
        let seen = || number_of(CWD, path, MNT_ID_UNIQUE).map(|(unique, _)| unique);
        self.unique.is_none_or(|unique| seen().is_none_or(|seen| seen == unique))
    }
}

impl Mounted {
    pub(super) fn new(path: PathBuf, identity: Option<Identity>) -> Self {
        Self { path, identity }
    }

    /// Where it was mounted, absolute and without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of its directory under `/sys/fs/fuse/connections`, if known.
    #[must_use]
    pub fn connection(&self) -> Option<u32> {
        self.identity.map(|identity| identity.device.1)
    }

    /// Lets the kernel read ahead up to `kib` KiB; 128 otherwise, whatever INIT says.
    ///
    /// To be called after INIT was answered, which resets it. Best effort: without root, or where
    /// `/sys` is read-only as in most containers, it stays as it was.
    ///
    /// # Errors
    ///
    /// Whatever writing `/sys/class/bdi/MAJOR:MINOR/read_ahead_kb` says.
    pub fn raise_read_ahead(&self, kib: u32) -> io::Result<()> {
        let (major, minor) = self.identity.ok_or(io::ErrorKind::NotFound)?.device;
        fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), kib.to_string())
    }

    /// Ends the connection at once: every request that waits gets ECONNABORTED, every later one
    /// ENOTCONN. The mount stays until it is unmounted.
    ///
    /// # Errors
    ///
    /// Whatever writing `/sys/fs/fuse/connections/MINOR/abort` says.
    pub fn abort(&self) -> io::Result<()> {
        abort(self.connection().ok_or(io::ErrorKind::NotFound)?)
    }

    /// Unmounts this mount and no other, also where it was moved to meanwhile.
    ///
    /// # Errors
    ///
    /// [`UnmountError`]: `NotMounted` if it is gone, whatever is in its place; `Covered` if it is
    /// there with another mount on top.
    pub fn unmount(&self, detach: Detach) -> Result<(), UnmountError> {
        let gone = || UnmountError::NotMounted(self.path.clone());
        let identity = self.identity.as_ref().ok_or_else(gone)?;
        let table = read_table(&self.path)?;
        let entry = table.iter().find(|entry| identity.is(entry)).ok_or_else(gone)?;
        let path = &entry.mountpoint;
        let seen = mount_table::topmost(&table, path);
        if seen.is_some_and(|seen| seen.id != entry.id) {
            return Err(UnmountError::Covered(path.clone()));
        }
        if !identity.may_be_at(path) {
            return Err(gone());
        }
        unmount_entry(entry, &table, detach)
    }

    /// Unmounts as soon as nobody uses it; detaches it lazily when `patience` is over or `hurry`
    /// says so, which is asked every few milliseconds.
    ///
    /// # Errors
    ///
    /// Why it did not end by itself: [`UnmountError::Busy`] names who uses it still. It is detached
    /// nevertheless, if that could be done at all.
    pub fn unmount_within(
        &self,
        patience: Duration,
        mut hurry: impl FnMut() -> bool,
    ) -> Result<(), UnmountError> {
        let begin = Instant::now();
        loop {
            match self.unmount(Detach::WhenUnused) {
                Ok(()) | Err(UnmountError::NotMounted(_)) => return Ok(()),
                Err(UnmountError::Busy { .. }) if begin.elapsed() < patience && !hurry() => {
                    std::thread::sleep(AGAIN_AFTER);
                }
                Err(error) => {
                    // If this fails too, the first error is the one that says why.
                    let _ = self.unmount(Detach::Lazily);
                    return Err(error);
                }
            }
        }
    }
}

/// Ends the connection of that number under `/sys/fs/fuse/connections` at once.
///
/// Where nobody has mounted that directory, it is looked at through a mount that is attached
/// nowhere, which needs the capability to mount.
///
/// # Errors
///
/// Whatever writing the connection's `abort` says: it belongs to root and to whoever mounted.
pub fn abort(connection: u32) -> io::Result<()> {
    control(connection, "abort", OFlags::WRONLY)?.write_all(b"1")
}

/// How many requests of `connection` the kernel has that were not answered yet. Asks the server nothing.
///
/// # Errors
///
/// As [`abort`], of the connection's `waiting`; `InvalidData` if that is no number.
pub fn waiting(connection: u32) -> io::Result<u64> {
    let mut text = String::new();
    control(connection, "waiting", OFlags::RDONLY)?.read_to_string(&mut text)?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Opens one of the files by which the kernel shows `connection`.
fn control(connection: u32, file: &str, flags: OFlags) -> io::Result<File> {
    let name = format!("{connection}/{file}");
    let open = |directory: BorrowedFd<'_>| {
        rustix::fs::openat(directory, &name, flags | OFlags::CLOEXEC, Mode::empty())
    };
    let here = rustix::fs::open(
        "/sys/fs/fuse/connections",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    match here.and_then(|here| open(here.as_fd())) {
        Err(Errno::NOENT) => {
            let _capability = MountCapability::raise();
            let filesystem = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
            rustix::mount::fsconfig_create(&filesystem)?;
            let connections = rustix::mount::fsmount(
                &filesystem,
                FsMountFlags::FSMOUNT_CLOEXEC,
                MountAttrFlags::empty(),
            )?;
            Ok(open(connections.as_fd())?.into())
        }
        opened => Ok(opened?.into()),
    }
}

/// When a mount in use is to go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Detach {
    /// Not while it is in use.
    WhenUnused,
    /// From the tree at once; for those who use it, when they are done.
    Lazily,
}

/// Why a mount is still there.
#[derive(Debug)]
pub enum UnmountError {
    /// Nothing is mounted exactly there.
    NotMounted(PathBuf),
    /// What is mounted there is none of ours.
    NotOurs {
        /// The mount point.
        mountpoint: PathBuf,
        /// Its type.
        filesystem: OsString,
    },
    /// It is in use.
    Busy {
        /// The mount point.
        mountpoint: PathBuf,
        /// By these processes, as far as this one may see.
        users: Vec<MountUser>,
        /// By these mounts on top of it.
        mounts: Vec<PathBuf>,
    },
    /// Another mount was made on top of it, at the same place, and would go first.
    Covered(PathBuf),
    /// This process may not unmount, and the helper program is missing or refused in these words.
    NoPrivilege {
        /// The mount point.
        mountpoint: PathBuf,
        /// The helper's own words; `None` if it is missing.
        helper: Option<String>,
    },
    /// The kernel refused for another reason.
    Io {
        /// The mount point.
        mountpoint: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl fmt::Display for UnmountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMounted(path) => write!(
                f,
                "nothing is mounted at {}: `lighthouse-fuse status STORE` says where it is served",
                path.display()
            ),
            Self::NotOurs { mountpoint, filesystem } => {
                let mountpoint = mountpoint.display();
                write!(
                    f,
                    "{mountpoint} is a mount of type {}, not of lighthouse-fuse: use \
                     `umount {mountpoint}`",
                    filesystem.display()
                )
            }
            Self::Busy { mountpoint, users, mounts } => {
                write!(f, "{} is in use", mountpoint.display())?;
                let users = users.iter().map(MountUser::to_string);
                let mounts = mounts.iter().map(|path| format!("mounted on it: {}", path.display()));
                let by = users.chain(mounts).collect::<Vec<_>>();
                if by.is_empty() {
                    write!(f, " by a process that this user cannot see")?;
                } else {
                    write!(f, " ({})", by.join("; "))?;
                }
                write!(f, ": end that, or give --lazy")
            }
            Self::Covered(path) => {
                let path = path.display();
                write!(
                    f,
                    "another mount is on top of {path}: end that, then this with `umount {path}`"
                )
            }
            Self::NoPrivilege { mountpoint, helper } => {
                write!(f, "this user may not unmount {}", mountpoint.display())?;
                match helper {
                    None => write!(f, " and fusermount3 is not installed: use sudo"),
                    Some(words) => write!(f, " and fusermount3 refused ({words}): use sudo"),
                }
            }
            Self::Io { mountpoint, error } => {
                write!(f, "cannot unmount {}: {}", mountpoint.display(), reason(error))
            }
        }
    }
}

impl std::error::Error for UnmountError {}

/// Unmounts what is mounted at `mountpoint`, if it is ours.
///
/// # Errors
///
/// [`UnmountError`]; it is mounted still.
pub fn unmount(mountpoint: &Path, detach: Detach) -> Result<(), UnmountError> {
    let path = resolve(mountpoint).map_err(|error| match error {
        MountError::Io { path, error, .. } => UnmountError::Io { mountpoint: path, error },
        _ => UnmountError::NotMounted(mountpoint.to_owned()),
    })?;
    unmount_resolved(&path, detach)
}

pub(super) fn unmount_resolved(path: &Path, detach: Detach) -> Result<(), UnmountError> {
    let table = read_table(path)?;
    let entry = mount_table::topmost(&table, path)
        .ok_or_else(|| UnmountError::NotMounted(path.to_owned()))?;
    if !entry.is_ours() {
        return Err(UnmountError::NotOurs {
            mountpoint: path.to_owned(),
            filesystem: entry.filesystem.clone(),
        });
    }
    unmount_entry(entry, &table, detach)
}

fn read_table(path: &Path) -> Result<Vec<MountEntry>, UnmountError> {
    mount_table::read().map_err(|error| UnmountError::Io { mountpoint: path.to_owned(), error })
}

/// Unmounts `entry`, the topmost at its place and ours.
fn unmount_entry(
    entry: &MountEntry,
    table: &[MountEntry],
    detach: Detach,
) -> Result<(), UnmountError> {
    let path = entry.mountpoint.as_path();
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, detach == Detach::Lazily);
    let user = rustix::process::getuid();
    let is_theirs = entry.user == Some(user.as_raw());
    let unmounted = if is_theirs || process::was_given_mount_capability() {
        // If it cannot be raised, the call says what is missing.
        let _capability = MountCapability::raise();
        rustix::mount::unmount(path, flags)
    } else {
        // The program file's capability is everybody's who may run it, and this mount is not.
        Err(Errno::PERM)
    };
    match unmounted {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(busy(path, entry, table)),
        Err(Errno::PERM) => match fusermount::find() {
            None => Err(UnmountError::NoPrivilege { mountpoint: path.to_owned(), helper: None }),
            Some(helper) => match fusermount::unmount(&helper, path, detach == Detach::Lazily) {
                Ok(()) => Ok(()),
                Err(HelperError::Refused(words)) if words.contains("busy") => {
                    Err(busy(path, entry, table))
                }
                Err(error) => Err(UnmountError::NoPrivilege {
                    mountpoint: path.to_owned(),
                    helper: Some(error.words()),
                }),
            },
        },
        Err(error) => Err(UnmountError::Io { mountpoint: path.to_owned(), error: error.into() }),
    }
}

fn busy(path: &Path, entry: &MountEntry, table: &[MountEntry]) -> UnmountError {
    let on_top = table.iter().filter(|other| other.parent == entry.id);
    UnmountError::Busy {
        mountpoint: path.to_owned(),
        // Who keeps it busy is a courtesy; that it is busy is the answer.
        users: mount_users::users_of(path).unwrap_or_default(),
        mounts: on_top.map(|other| other.mountpoint.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_not_unmounted() {
        let directory = tempfile::tempdir().unwrap();
        let answer = unmount(directory.path(), Detach::WhenUnused).unwrap_err();
        assert!(matches!(answer, UnmountError::NotMounted(_)), "{answer}");
        let answer = unmount(Path::new("/proc"), Detach::Lazily).unwrap_err();
        assert!(matches!(answer, UnmountError::NotOurs { .. }), "{answer}");
    }

    #[test]
    fn the_number_of_another_mount_at_its_place_is_not_taken_for_its_own() {
        let proc = Path::new("/proc");
        let table = mount_table::read().unwrap();
        let mut entry = mount_table::topmost(&table, proc).unwrap().clone();
        let told = number_of(CWD, proc, MNT_ID_UNIQUE).map(|(unique, _)| unique);
        assert_eq!(Identity::new_at(proc, &entry).unique, told);
        entry.minor += 1;
        assert_eq!(Identity::new_at(proc, &entry).unique, None);
    }

    #[test]
    fn a_busy_mount_is_one_line_with_every_user_and_every_mount_on_it() {
        let user = |pid, name: &str| MountUser {
            pid,
            name: name.into(),
            how: mount_users::Use::WorkingDirectory,
            path: "/mnt/current".into(),
        };
        let busy = |users, mounts| {
            UnmountError::Busy { mountpoint: "/mnt".into(), users, mounts }.to_string()
        };
        assert_eq!(
            busy(vec![user(7, "sh"), user(8, "vi")], vec!["/mnt/proc".into()]),
            "/mnt is in use (sh (pid 7) works in /mnt/current; vi (pid 8) works in /mnt/current; \
             mounted on it: /mnt/proc): end that, or give --lazy"
        );
        assert!(busy(vec![], vec![]).contains("that this user cannot see"));
    }
}
