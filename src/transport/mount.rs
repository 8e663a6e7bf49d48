//! Mounting.
//!
//! ```text
//!  check() ----> Site ----prepare()----> Mountpoint ----mount()----> device, Mounted
//!  changes       what is                 the directory              a connection, and how
//!  nothing       there                   is there, empty            to end it
//! ```
//!
//! [`Mountpoint::mount`] tries, in this order: the mount calls of Linux 5.2 (`fsopen`), `mount(2)`,
//! the helper program [`fusermount`]. A descriptor that somebody else mounted is taken by
//! [`device`] instead. How it ends is in [`unmount`].
//!
//! Invariants: whoever serves a mount never asks it anything, so no path below a mount point is
//! looked at once it is mounted, and what is known of it comes from the [`mount_table`]. What
//! [`check`] refuses has changed nothing, and a failed mount takes the directory it made away again.
//! A user who is not root mounts where he may write and nowhere else, whatever capability the
//! program file has, unless he was given `CAP_SYS_ADMIN` in the ambient set.
//!
//! [`device`]: super::device
//! [`unmount`]: super::unmount

use std::ffi::{CString, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, Dir, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags};

use super::device::{self, DEVICE};
use super::fusermount;
use super::mount_table::{self, FILESYSTEM_TYPE, MountEntry};
use super::unmount::{Detach, Identity, Mounted, UnmountError, unmount_resolved};
use crate::sys::process::{self, MountCapability, Withheld};

/// What stands after the dot in the type shown for our mounts.
const SUBTYPE: &str = "lighthouse";
/// What is attempted where a mount point is missing.
const MAKE: &str = "make";
/// How long a server has to answer before it counts as hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How many dead mounts of ours, one on top of another, are detached at one mount point.
const STALE_MAX: usize = 64;
/// The bit of a directory in which everybody may make names, and takes away their own alone.
const STICKY: u32 = 0o1000;
/// How many symbolic links are followed to a mount point (`MAXSYMLINKS` of Linux).
const LINKS_MAX: usize = 40;

/// How to mount. See mount.fuse3(8) for what each means to the kernel.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// The store, as an absolute path: shown as the source, and how a mount of ours is told from
    /// that of another store.
    pub source: PathBuf,
    /// Refuse every change in the kernel.
    pub read_only: bool,
    /// Let other users in, root included. Without it they get EACCES.
    pub allow_other: bool,
    /// The most bytes of one READ request; the kernel's own limit if not given.
    pub max_read: Option<u32>,
    /// Let device files work. Ignored by the kernel in a user namespace, and by `fusermount3`.
    pub devices: bool,
    /// Let set-user-id programs and file capabilities work. Likewise.
    pub set_ids: bool,
    /// The program that mounts where this process may not; `fusermount3` of `PATH` by default.
    pub helper: Option<PathBuf>,
}

impl MountOptions {
    /// Options for the store at `source`: for all users, with modes checked by the kernel,
    /// without access times; devices and set-user-id programs work on root's own mounts only.
    #[must_use]
    pub fn new(source: PathBuf) -> Self {
        let root = rustix::process::geteuid().is_root() && in_first_user_namespace();
        Self {
            source,
            read_only: false,
            allow_other: true,
            max_read: None,
            devices: root,
            set_ids: root,
            helper: fusermount::find(),
        }
    }

    /// The parts of the superblock's options that `mount(2)` and `fsconfig(2)` share: the key,
    /// and the value unless the key is a flag.
    fn superblock(&self, device: BorrowedFd<'_>) -> Vec<(&'static str, Option<String>)> {
        let mut options = vec![
            ("fd", Some(device.as_raw_fd().to_string())),
            // The type bits of a directory, in octal.
            ("rootmode", Some("40000".to_owned())),
            ("user_id", Some(rustix::process::getuid().as_raw().to_string())),
            ("group_id", Some(rustix::process::getgid().as_raw().to_string())),
            ("default_permissions", None),
        ];
        if self.allow_other {
            options.push(("allow_other", None));
        }
        if let Some(max_read) = self.max_read {
            options.push(("max_read", Some(max_read.to_string())));
        }
        options
    }

    /// The data string of `mount(2)`.
    fn data(&self, device: BorrowedFd<'_>) -> String {
        let options = self.superblock(device).into_iter();
        let options = options.map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.to_owned(),
        });
        options.collect::<Vec<_>>().join(",")
    }

    /// The option list of `fusermount3`, which adds descriptor, root mode and ids itself.
    fn for_helper(&self) -> OsString {
        let mut options = Vec::from(if self.read_only { b"ro" } else { b"rw" });
        options.extend(b",noatime,default_permissions");
        if self.allow_other {
            options.extend(b",allow_other");
        }
        if let Some(max_read) = self.max_read {
            options.extend(format!(",max_read={max_read}").bytes());
        }
        if !self.devices {
            options.extend(b",nodev");
        }
        if !self.set_ids {
            options.extend(b",nosuid");
        }
        options.extend(format!(",subtype={SUBTYPE},fsname=").bytes());
        options.extend(fusermount::escape(self.source.as_os_str()).as_bytes());
        OsString::from_vec(options)
    }

    fn attributes(&self) -> MountAttrFlags {
        let mut attributes = MountAttrFlags::MOUNT_ATTR_NOATIME;
        attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, !self.devices);
        attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, !self.set_ids);
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        attributes
    }

    fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::NOATIME;
        flags.set(MountFlags::NODEV, !self.devices);
        flags.set(MountFlags::NOSUID, !self.set_ids);
        flags.set(MountFlags::RDONLY, self.read_only);
        flags
    }
}

/// Whether user ids here are those of the machine: only there root is root.
fn in_first_user_namespace() -> bool {
    let Ok(map) = fs::read_to_string("/proc/self/uid_map") else { return false };
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Why nothing was mounted.
#[derive(Debug)]
pub enum MountError {
    /// The directory in which the mount point would be made does not exist.
    ParentMissing(PathBuf),
    /// The mount point, or what should be its parent, is no directory.
    NotADirectory(PathBuf),
    /// The mount point has files in it, which the mount would hide.
    NotEmpty(PathBuf),
    /// The store is inside the mount point or is it: the server would wait for itself.
    StoreInside {
        /// The store.
        store: PathBuf,
        /// The mount point.
        mountpoint: PathBuf,
    },
    /// The mount point is inside the store.
    InsideStore {
        /// The store.
        store: PathBuf,
        /// The mount point.
        mountpoint: PathBuf,
    },
    /// A living server of ours serves there.
    Served {
        /// The mount point.
        mountpoint: PathBuf,
        /// The store it serves.
        source: PathBuf,
    },
    /// The dead mount of another store is there.
    DeadOfAnother {
        /// The mount point.
        mountpoint: PathBuf,
        /// The store it served.
        source: PathBuf,
    },
    /// A server of ours is there and does not answer.
    Hung {
        /// The mount point.
        mountpoint: PathBuf,
        /// The connection's number under `/sys/fs/fuse/connections`.
        connection: u32,
    },
    /// There is no `/dev/fuse`, or no driver behind it.
    DeviceMissing,
    /// This process may not open `/dev/fuse`.
    DeviceRefused(io::Error),
    /// What was given as a device is none.
    NotADevice(String),
    /// This process may not mount, and the helper program is missing or refused in these words.
    NoPrivilege {
        /// The mount point.
        mountpoint: PathBuf,
        /// The helper's own words; `None` if it is missing.
        helper: Option<String>,
        /// Why it does not have the capability.
        withheld: Withheld,
    },
    /// This process may mount, and its user may not write to the mount point, or does not own it
    /// where everybody may.
    NotYours {
        /// The mount point.
        mountpoint: PathBuf,
        /// The user.
        user: u32,
    },
    /// The kernel refused to mount although this process is privileged.
    Refused {
        /// The mount point.
        mountpoint: PathBuf,
        /// The errno of the last way that was tried.
        error: io::Error,
        /// What the kernel said beside the errno; may be empty.
        words: String,
    },
    /// A path could not be looked at or made.
    Io {
        /// What was attempted, to stand before the path.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

impl MountError {
    pub(super) fn io(doing: &'static str, path: &Path, error: impl Into<io::Error>) -> Self {
        Self::Io { doing, path: path.to_owned(), error: error.into() }
    }
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ParentMissing(parent) => {
                let parent = parent.display();
                write!(f, "{parent} does not exist: make it first, with `mkdir -p {parent}`")
            }
            Self::NotADirectory(path) => {
                write!(f, "{} is not a directory: name another mount point", path.display())
            }
            Self::NotEmpty(path) => write!(
                f,
                "{} has files in it, which a mount would hide: name an empty directory, or give \
                 --nonempty",
                path.display()
            ),
            Self::StoreInside { store, mountpoint } => write!(
                f,
                "the store {} is inside the mount point {}, and would be hidden by it: put them \
                 side by side",
                store.display(),
                mountpoint.display()
            ),
            Self::InsideStore { store, mountpoint } => write!(
                f,
                "the mount point {} is inside the store {}: put them side by side",
                mountpoint.display(),
                store.display()
            ),
            Self::Served { mountpoint, source } => {
                let mountpoint = mountpoint.display();
                write!(
                    f,
                    "{} is already served at {mountpoint}: end that first, with \
                     `lighthouse-fuse umount {mountpoint}`",
                    source.display()
                )
            }
            Self::DeadOfAnother { mountpoint, source } => {
                let mountpoint = mountpoint.display();
                write!(
                    f,
                    "a dead mount of another store, {}, is at {mountpoint}: take it away with \
                     `lighthouse-fuse umount --lazy {mountpoint}`",
                    source.display()
                )
            }
            Self::Hung { mountpoint, connection } => {
                let mountpoint = mountpoint.display();
                write!(
                    f,
                    "the server at {mountpoint} (connection {connection}) does not answer: end it, \
                     or detach it with `lighthouse-fuse umount --lazy {mountpoint}`"
                )
            }
            Self::DeviceMissing => write!(
                f,
                "{DEVICE} is missing: load the driver with `sudo modprobe fuse`; for a container, \
                 start it with `--device {DEVICE}`"
            ),
            Self::DeviceRefused(error) => write!(
                f,
                "{DEVICE} cannot be opened ({}): let this user in with `sudo chmod 0666 {DEVICE}`, \
                 or use sudo; for a container, start it with `--device {DEVICE}`",
                reason(error)
            ),
            Self::NotADevice(what) => {
                write!(f, "{what} is not an open {DEVICE}: pass on the descriptor that was mounted")
            }
            Self::NoPrivilege { mountpoint, helper, withheld } => {
                write!(f, "this user may not mount at {}", mountpoint.display())?;
                match helper {
                    None => write!(f, " and fusermount3 is not installed")?,
                    Some(words) => write!(f, " and fusermount3 refused ({words})")?,
                }
                if helper.as_ref().is_some_and(|words| words.contains("user_allow_other")) {
                    write!(f, ": add user_allow_other to /etc/fuse.conf, use sudo,")?;
                } else {
                    write!(f, ": use sudo,")?;
                }
                write!(f, " or `lighthouse-fuse run STORE -- COMMAND`, which needs neither")?;
                match withheld {
                    Withheld::Bounded => {
                        write!(f, "; start a container with `--cap-add SYS_ADMIN`")
                    }
                    Withheld::NoNewPrivileges => {
                        write!(f, "; start a container without `no-new-privileges`")
                    }
                    Withheld::NotOnTheFile => write!(
                        f,
                        "; the program file of an image keeps its capability if docker builds it with \
                         DOCKER_BUILDKIT=1"
                    ),
                }
            }
            Self::NotYours { mountpoint, user } => {
                let mountpoint = mountpoint.display();
                write!(
                    f,
                    "user {user} may not mount at {mountpoint}, which is not theirs to write to: name a directory \
                     that is; for a container, give them the one on the host, with `chown {user}`"
                )
            }
            Self::Refused { mountpoint, error, words } => {
                write!(f, "the kernel refused to mount at {}", mountpoint.display())?;
                write!(f, " ({}", reason(error))?;
                if !words.is_empty() {
                    write!(f, ": {words}")?;
                }
                write!(
                    f,
                    "): in a container start it with `--cap-add SYS_ADMIN --device {DEVICE} \
                     --security-opt apparmor=unconfined`"
                )
            }
            Self::Io { doing, path, error } => {
                write!(f, "cannot {doing} {}: {}", path.display(), reason(error))?;
                if *doing == MAKE && is_permission(error) {
                    write!(f, "; make it first, as a user who may")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for MountError {}

/// An error's text without the number Rust adds to it.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

/// Who owned the directory that is mounted on, and what it let them do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits, without the type.
    pub mode: u32,
}

/// A place that [`check`] found fit to be mounted on.
#[derive(Debug)]
pub struct Site {
    path: PathBuf,
    store: PathBuf,
    nonempty: bool,
}

/// Checks whether `mountpoint` can be mounted on with `store` behind it. Changes nothing.
///
/// With `nonempty` the directory may have files in it. What lies under a dead mount of ours is
/// checked by [`Site::prepare`].
///
/// # Errors
///
/// [`MountError`], with one line for each thing that is not as it must be.
pub fn check(mountpoint: &Path, store: &Path, nonempty: bool) -> Result<Site, MountError> {
    let path = resolve(mountpoint)?;
    let store = resolve(store)?;
    if mount_table::is_within(&store, &path) {
        return Err(MountError::StoreInside { store, mountpoint: path });
    }
    if mount_table::is_within(&path, &store) {
        return Err(MountError::InsideStore { store, mountpoint: path });
    }
    if !is_stale(&path, &store)?
        && let Some(directory) = open_directory(&path)?
    {
        check_directory(&directory, &path, &store, nonempty)?;
    }
    Ok(Site { path, store, nonempty })
}

impl Site {
    /// The mount point, absolute and without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the place ready: detaches dead mounts of ours, makes the directory if it is missing
    /// (owned by whoever called sudo), and holds on to it.
    ///
    /// # Errors
    ///
    /// [`MountError`]; what a dead mount hid is checked as [`check`] does.
    pub fn prepare(self) -> Result<Mountpoint, MountError> {
        let Self { path, store, nonempty } = self;
        let mut detached = 0;
        while detached < STALE_MAX && is_stale(&path, &store)? {
            detach_dead(&path)?;
            detached += 1;
        }
        // Opened first and looked at then: a path may lead elsewhere the next time.
        let (directory, made) = match open_directory(&path)? {
            Some(directory) => {
                check_directory(&directory, &path, &store, nonempty)?;
                (directory, MadeDirectory(None))
            }
            None => make_directory(&path)?,
        };
        let stat = rustix::fs::fstat(&directory)
            .map_err(|error| MountError::io("look at", &path, error))?;
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 };
        Ok(Mountpoint { path, made, directory, owner })
    }
}

/// A directory that is there, empty, and ready to be mounted on.
///
/// Dropped without a mount, it is removed again if [`Site::prepare`] made it.
#[derive(Debug)]
pub struct Mountpoint {
    path: PathBuf,
    made: MadeDirectory,
    /// Held from the check on, so that what is mounted on is what was checked.
    directory: OwnedFd,
    owner: Owner,
}

/// Takes a directory away again that was made for a mount, unless there is one: by its parent and name.
#[derive(Debug)]
struct MadeDirectory(Option<(OwnedFd, OsString)>);

impl Drop for MadeDirectory {
    fn drop(&mut self) {
        if let Some((parent, name)) = self.0.take() {
            // It was ours and empty; if somebody put a file into it meanwhile, it stays.
            let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
        }
    }
}

impl Mountpoint {
    /// Absolute and without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who owns the directory, and its mode: what a new store's tree starts with.
    #[must_use]
    pub const fn owner(&self) -> Owner {
        self.owner
    }

    /// Mounts, in the first way that works, and gives the device to serve.
    ///
    /// The kernel's INIT request waits on the device when this returns; until it is answered
    /// everybody who looks at the mount waits.
    ///
    /// # Errors
    ///
    /// [`MountError`]; nothing is mounted then, and a directory made for it is gone.
    pub fn mount(mut self, options: &MountOptions) -> Result<(OwnedFd, Mounted), MountError> {
        // A capability that is permitted only is of use once it is effective; if it cannot be
        // raised, the ways below say what is missing.
        let capability = MountCapability::raise().ok().flatten();
        let privileged = capability.is_some();
        if privileged {
            self.check_user()?;
        }
        let device = match device::open() {
            Ok(device) => Some(device),
            Err(error @ MountError::DeviceRefused(_)) if options.helper.is_none() => {
                return Err(error);
            }
            Err(MountError::DeviceRefused(_)) => None,
            Err(error) => return Err(error),
        };
        let before = mount_table::read().unwrap_or_default();
        let refused = match device {
            Some(device) if privileged => match self.mount_in_process(&device, options) {
                Ok(identity) => return Ok((device, self.mounted(identity, &before))),
                Err(error) => Some(error),
            },
            _ => None,
        };
        match (&options.helper, refused) {
            // Only for want of permission another program can do better.
            (Some(helper), refused)
                if refused.as_ref().is_none_or(|refused| is_permission(&refused.0)) =>
            {
                match fusermount::mount(helper, &self.path, &options.for_helper()) {
                    Ok(device) => Ok((device, self.mounted(None, &before))),
                    Err(error) => Err(self.refusal(refused, Some(error.words()))),
                }
            }
            (_, refused) => Err(self.refusal(refused, None)),
        }
    }

    /// Refuses what is not the user's to mount on, as `fusermount3` does: a capability of the program
    /// file is everybody's who may run it.
    fn check_user(&self) -> Result<(), MountError> {
        if process::was_given_mount_capability() {
            return Ok(());
        }
        let user = rustix::process::getuid();
        let stat = rustix::fs::fstat(&self.directory)
            .map_err(|error| MountError::io("look at", &self.path, error))?;
        let owns = stat.st_uid == user.as_raw();
        // Through the descriptor, so that what is mounted on is what was checked.
        let path = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        let writes = match rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::empty()) {
            Ok(()) => true,
            // A container's own files, which nobody writes: the mode still says whose they are.
            Err(Errno::ROFS) => owns && stat.st_mode & Mode::WUSR.as_raw_mode() != 0,
            Err(_) => false,
        };
        if writes && (owns || stat.st_mode & STICKY == 0) {
            return Ok(());
        }
        Err(MountError::NotYours { mountpoint: self.path.clone(), user: user.as_raw() })
    }

    /// What to say when every way failed.
    fn refusal(&self, kernel: Option<(io::Error, String)>, helper: Option<String>) -> MountError {
        let mountpoint = self.path.clone();
        match kernel {
            Some((error, words)) => MountError::Refused { mountpoint, error, words },
            None => {
                let withheld = process::why_no_mount_capability();
                MountError::NoPrivilege { mountpoint, helper, withheld }
            }
        }
    }

    /// The two ways that need no other program, and which mount it is where that is told. The error
    /// is the later one's, with the words the kernel added to the first.
    fn mount_in_process(
        &self,
        device: &OwnedFd,
        options: &MountOptions,
    ) -> Result<Option<Identity>, (io::Error, String)> {
        let words = match self.by_fsopen(device.as_fd(), options) {
            Ok(identity) => return Ok(identity),
            Err((_, words)) => words,
        };
        match self.by_mount_call(device.as_fd(), options) {
            Ok(()) => Ok(None),
            Err(error) => Err((error, words)),
        }
    }

    /// `fsopen`, `fsconfig`, `fsmount`, `move_mount` (since Linux 5.2, for FUSE since 5.4).
    fn by_fsopen(
        &self,
        device: BorrowedFd<'_>,
        options: &MountOptions,
    ) -> Result<Option<Identity>, (io::Error, String)> {
        let silent = |error: Errno| (error.into(), String::new());
        let filesystem =
            rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(silent)?;
        self.configure(&filesystem, device, options)
            .map_err(|error| (error.into(), log_of(&filesystem)))?;
        let mount = rustix::mount::fsmount(
            &filesystem,
            FsMountFlags::FSMOUNT_CLOEXEC,
            options.attributes(),
        )
        .map_err(|error| (error.into(), log_of(&filesystem)))?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&mount, "", &self.directory, "", flags).map_err(silent)?;
        Ok(Identity::of(mount.as_fd()))
    }

    fn configure(
        &self,
        filesystem: &OwnedFd,
        device: BorrowedFd<'_>,
        options: &MountOptions,
    ) -> rustix::io::Result<()> {
        use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string};
        fsconfig_set_string(filesystem, "source", options.source.as_path())?;
        fsconfig_set_string(filesystem, "subtype", SUBTYPE)?;
        // The descriptor goes as a string: `FSCONFIG_SET_FD` gives EINVAL.
        for (key, value) in options.superblock(device) {
            match value {
                Some(value) => fsconfig_set_string(filesystem, key, value)?,
                None => fsconfig_set_flag(filesystem, key)?,
            }
        }
        if options.read_only {
            fsconfig_set_flag(filesystem, "ro")?;
        }
        fsconfig_create(filesystem)
    }

    /// `mount(2)`, for kernels and seccomp filters that do not know the calls above.
    fn by_mount_call(&self, device: BorrowedFd<'_>, options: &MountOptions) -> io::Result<()> {
        let data = CString::new(options.data(device))?;
        // Through the descriptor, so that what is mounted on is what was checked.
        let target = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        let source = options.source.as_path();
        rustix::mount::mount(source, target, FILESYSTEM_TYPE, options.flags(), data.as_c_str())?;
        Ok(())
    }

    /// The mount that was just made. Where no descriptor told which one it is, it is the one here
    /// that was not in the table `before`; if there are several, none can be told to be ours.
    fn mounted(&mut self, identity: Option<Identity>, before: &[MountEntry]) -> Mounted {
        self.made.0 = None;
        let identity = identity.or_else(|| {
            let table = mount_table::read().ok()?;
            let is_new = |entry: &&MountEntry| {
                let known = before.iter().any(|other| other.id == entry.id);
                entry.is_ours() && entry.mountpoint == self.path && !known
            };
            let mut new = table.iter().filter(is_new);
            let entry = new.next().filter(|_| new.next().is_none())?;
            Some(Identity::new_at(&self.path, entry))
        });
        Mounted::new(self.path.clone(), identity)
    }
}

/// What the kernel has to say about a filesystem that it did not make (`fsopen(2)`'s log).
fn log_of(filesystem: &OwnedFd) -> String {
    let mut lines = Vec::new();
    let mut line = [0_u8; 512];
    // One message per read, until ENODATA.
    while let Ok(length @ 1..) = rustix::io::read(filesystem, &mut line) {
        let message = String::from_utf8_lossy(line.get(..length).unwrap_or_default()).into_owned();
        // Each starts with its level, "e " for an error.
        lines.push(message.get(2..).unwrap_or_default().trim().to_owned());
    }
    lines.join("; ")
}

fn is_permission(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Makes `path` absolute and free of symbolic links, without asking what is mounted there.
///
/// The last component need not exist. `canonicalize` would do, but it looks at the last component,
/// and fails at the mount point of a dead server and hangs at that of a hung one.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, MountError> {
    let mut path =
        std::path::absolute(path).map_err(|error| MountError::io("resolve", path, error))?;
    for _ in 0..LINKS_MAX {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // The root, or a path that ends in `..`.
            return fs::canonicalize(&path)
                .map_err(|error| MountError::io("resolve", &path, error));
        };
        let parent = fs::canonicalize(parent).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::ParentMissing(parent.to_owned()),
            io::ErrorKind::NotADirectory => MountError::NotADirectory(parent.to_owned()),
            _ => MountError::io("look at", parent, error),
        })?;
        let whole = parent.join(name);
        match fs::read_link(&whole) {
            Ok(target) => path = parent.join(target),
            // EINVAL: not a link. Anything else shows when the path is used.
            Err(_) => return Ok(whole),
        }
    }
    Err(MountError::io("resolve", &path, Errno::LOOP))
}

/// Whether a dead mount of ours, for this store, is at `path`.
fn is_stale(path: &Path, store: &Path) -> Result<bool, MountError> {
    let table = mount_table::read()
        .map_err(|error| MountError::io("read", Path::new("/proc/self/mountinfo"), error))?;
    let Some(entry) = mount_table::topmost(&table, path).filter(|entry| entry.is_ours()) else {
        return Ok(false);
    };
    let (mountpoint, source) = (path.to_owned(), PathBuf::from(&entry.source));
    match answers(path) {
        Some(true) => Err(MountError::Served { mountpoint, source }),
        Some(false) if source == store => Ok(true),
        // An earlier version showed it as it was given, where it did not exist yet.
        Some(false) if resolve(&source).is_ok_and(|source| source == store) => Ok(true),
        Some(false) => Err(MountError::DeadOfAnother { mountpoint, source }),
        None => Err(MountError::Hung { mountpoint, connection: entry.minor }),
    }
}

/// Whether somebody serves the mount at `path`; `None` if it cannot be told in time.
///
/// `statfs(2)` is always asked of the server, where `stat(2)` may be answered from the kernel's
/// cache long after its death.
#[must_use]
pub fn answers(path: &Path) -> Option<bool> {
    let (sender, receiver) = mpsc::channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let alive = !matches!(rustix::fs::statfs(&path), Err(Errno::NOTCONN | Errno::CONNABORTED));
        // Nobody listens any more if it took too long.
        let _ = sender.send(alive);
    });
    receiver.recv_timeout(ANSWER_WITHIN).ok()
}

/// Detaches the dead mount of ours at `path`.
fn detach_dead(path: &Path) -> Result<(), MountError> {
    match unmount_resolved(path, Detach::Lazily) {
        // Somebody else was faster.
        Ok(()) | Err(UnmountError::NotMounted(_)) => Ok(()),
        Err(UnmountError::Io { mountpoint, error }) => {
            Err(MountError::io("detach the dead mount at", &mountpoint, error))
        }
        Err(
            UnmountError::NoPrivilege { mountpoint, .. }
            | UnmountError::NotOurs { mountpoint, .. }
            | UnmountError::Busy { mountpoint, .. }
            | UnmountError::Covered(mountpoint),
        ) => Err(MountError::io("detach the dead mount at", &mountpoint, Errno::PERM)),
    }
}

/// Opens the directory at `path`, which has no symbolic links unless somebody has just put one there:
/// then it fails. `None` if nothing is there.
fn open_directory(path: &Path) -> Result<Option<OwnedFd>, MountError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened =
        match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            // Before Linux 5.6, or where a container's seccomp profile is older.
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::open(path, flags, Mode::empty()),
            opened => opened,
        };
    match opened {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR) => {
            let parent = path.parent().filter(|parent| !parent.is_dir());
            Err(MountError::NotADirectory(parent.unwrap_or(path).to_owned()))
        }
        Err(error) => Err(MountError::io("open", path, error)),
    }
}

/// Checks that `directory`, opened at `path`, is fit to be mounted on.
fn check_directory(
    directory: &OwnedFd,
    path: &Path,
    store: &Path,
    nonempty: bool,
) -> Result<(), MountError> {
    let stat =
        rustix::fs::fstat(directory).map_err(|error| MountError::io("look at", path, error))?;
    // The same directory may be reached by two paths, through a bind mount.
    let identity = (stat.st_dev, stat.st_ino);
    let is_it =
        |path: &Path| fs::metadata(path).is_ok_and(|other| (other.dev(), other.ino()) == identity);
    if store.ancestors().any(is_it) {
        let (store, mountpoint) = (store.to_owned(), path.to_owned());
        return Err(MountError::StoreInside { store, mountpoint });
    }
    if !nonempty && !is_empty(directory, path)? {
        return Err(MountError::NotEmpty(path.to_owned()));
    }
    Ok(())
}

/// Whether `directory`, opened at `path`, has nothing in it.
fn is_empty(directory: &OwnedFd, path: &Path) -> Result<bool, MountError> {
    // Who may not list a directory may not mount on it either, unless privileged.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, ".", flags, Mode::empty())
        .and_then(Dir::new)
        .and_then(|mut names| {
            names.try_fold(true, |empty, name| {
                Ok(empty && matches!(name?.file_name().to_bytes(), b"." | b".."))
            })
        })
        .map_err(|error| MountError::io("list", path, error))
}

/// Makes the mount point, for whoever called sudo if somebody did.
///
/// They may own the parent, and change what is in it at any moment: what is given to them is a
/// directory that was opened, and not what its path leads to by then.
fn make_directory(path: &Path) -> Result<(OwnedFd, MadeDirectory), MountError> {
    let parent = path.parent().unwrap_or(path);
    let Some(name) = path.file_name() else {
        return Err(MountError::NotADirectory(path.to_owned()));
    };
    let inside =
        open_directory(parent)?.ok_or_else(|| MountError::ParentMissing(parent.to_owned()))?;
    let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
    rustix::fs::mkdirat(&inside, name, mode).map_err(|error| MountError::io(MAKE, path, error))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(&inside, name, flags, Mode::empty());
    let made = MadeDirectory(Some((inside, name.to_owned())));
    let directory = opened.map_err(|error| MountError::io("open", path, error))?;
    if let Some((uid, gid)) = sudo_caller() {
        let cannot = |error: Errno| MountError::io("give away", path, error);
        let stat = rustix::fs::fstat(&directory).map_err(cannot)?;
        // Somebody put another one in its place.
        if stat.st_uid != rustix::process::geteuid().as_raw() || !is_empty(&directory, path)? {
            return Err(MountError::NotEmpty(path.to_owned()));
        }
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(&directory, "", uid, gid, AtFlags::EMPTY_PATH).map_err(cannot)?;
    }
    Ok((directory, made))
}

/// The user who called sudo, as sudo(8) leaves it in the environment.
fn sudo_caller() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let id = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    Some((id("SUDO_UID")?, id("SUDO_GID")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store and a mount point side by side, with every link resolved.
    fn pair() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let (store, mountpoint) = (root.join("store"), root.join("mnt"));
        fs::create_dir(&store).unwrap();
        (directory, store, mountpoint)
    }

    fn options(source: &str) -> MountOptions {
        MountOptions {
            read_only: true,
            max_read: Some(4096),
            devices: false,
            set_ids: false,
            helper: None,
            ..MountOptions::new(source.into())
        }
    }

    #[test]
    fn options_for_the_helper_escape_the_source_and_leave_its_own_out() {
        assert_eq!(
            options("/a,b").for_helper(),
            "ro,noatime,default_permissions,allow_other,max_read=4096,nodev,nosuid,\
             subtype=lighthouse,fsname=/a\\,b"
        );
    }

    #[test]
    fn options_for_the_kernel_name_descriptor_mode_and_ids() {
        let file = fs::File::open("/dev/null").unwrap();
        let (fd, uid, gid) =
            (file.as_raw_fd(), rustix::process::getuid(), rustix::process::getgid());
        assert_eq!(
            options("/a").data(file.as_fd()),
            format!(
                "fd={fd},rootmode=40000,user_id={},group_id={},default_permissions,allow_other,\
                 max_read=4096",
                uid.as_raw(),
                gid.as_raw()
            )
        );
    }

    #[test]
    fn a_missing_last_component_is_made_and_taken_away_again_if_nothing_is_mounted() {
        let (_directory, store, mountpoint) = pair();
        let site = check(&mountpoint, &store, false).unwrap();
        assert!(!mountpoint.exists(), "a check changes nothing");
        let point = site.prepare().unwrap();
        assert_eq!(point.owner().mode & 0o700, 0o700);
        assert!(mountpoint.is_dir());
        drop(point);
        assert!(!mountpoint.exists());
    }

    /// Between the check and the mount, whoever owns the parent changes what is in it.
    #[test]
    fn what_takes_the_place_of_a_checked_directory_is_not_mounted_on() {
        let (directory, store, mountpoint) = pair();
        let elsewhere = directory.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let link = || std::os::unix::fs::symlink(&elsewhere, &mountpoint).unwrap();

        let site = check(&mountpoint, &store, false).unwrap();
        link();
        assert!(matches!(
            site.prepare(),
            Err(MountError::NotADirectory(_) | MountError::Io { .. })
        ));
        assert!(mountpoint.is_symlink());
        fs::remove_file(&mountpoint).unwrap();

        fs::create_dir(&mountpoint).unwrap();
        let site = check(&mountpoint, &store, false).unwrap();
        fs::remove_dir(&mountpoint).unwrap();
        link();
        assert!(matches!(
            site.prepare(),
            Err(MountError::NotADirectory(_) | MountError::Io { .. })
        ));
        fs::remove_file(&mountpoint).unwrap();

        fs::create_dir(&mountpoint).unwrap();
        let site = check(&mountpoint, &store, false).unwrap();
        fs::write(mountpoint.join("file"), "").unwrap();
        assert!(matches!(site.prepare(), Err(MountError::NotEmpty(_))));
    }

    #[test]
    fn a_directory_that_was_there_stays() {
        let (_directory, store, mountpoint) = pair();
        fs::create_dir(&mountpoint).unwrap();
        drop(check(&mountpoint, &store, false).unwrap().prepare().unwrap());
        assert!(mountpoint.is_dir());
    }

    #[test]
    fn what_cannot_be_mounted_on_is_refused_by_name() {
        let (directory, store, mountpoint) = pair();
        let refused = |at: &Path, nonempty| check(at, &store, nonempty).unwrap_err();

        let deep = mountpoint.join("below");
        assert!(
            matches!(refused(&deep, false), MountError::ParentMissing(path) if path == mountpoint)
        );
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(refused(&file, false), MountError::NotADirectory(_)));
        assert!(matches!(refused(&file.join("below"), false), MountError::NotADirectory(_)));
        fs::create_dir(&mountpoint).unwrap();
        fs::write(mountpoint.join("file"), "").unwrap();
        assert!(matches!(refused(&mountpoint, false), MountError::NotEmpty(_)));
        assert!(check(&mountpoint, &store, true).is_ok());
        assert!(matches!(refused(&store, false), MountError::StoreInside { .. }));
        assert!(matches!(refused(directory.path(), true), MountError::StoreInside { .. }));
        assert!(matches!(refused(&store.join("mnt"), false), MountError::InsideStore { .. }));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("store", &link).unwrap();
        assert!(matches!(refused(&link, false), MountError::StoreInside { .. }));
        std::os::unix::fs::symlink("loop", directory.path().join("loop")).unwrap();
        assert!(matches!(refused(&directory.path().join("loop"), false), MountError::Io { .. }));
    }

    #[test]
    fn a_link_to_a_mount_point_leads_to_it() {
        let (directory, _, mountpoint) = pair();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("./mnt", &link).unwrap();
        assert_eq!(resolve(&link).unwrap(), mountpoint);
        assert_eq!(
            resolve(&directory.path().join("store/..")).unwrap(),
            mountpoint.parent().unwrap()
        );
    }

    #[test]
    fn every_refusal_is_one_line_that_names_the_thing() {
        let path = || PathBuf::from("/srv/thing");
        let no_privilege = |helper: Option<&str>, withheld| {
            let helper = helper.map(str::to_owned);
            MountError::NoPrivilege { mountpoint: path(), helper, withheld }
        };
        let io = || io::Error::from(Errno::ACCESS);
        let errors = [
            MountError::ParentMissing(path()),
            MountError::NotADirectory(path()),
            MountError::NotEmpty(path()),
            MountError::StoreInside { store: path(), mountpoint: "/srv".into() },
            MountError::InsideStore { store: path(), mountpoint: path() },
            MountError::Served { mountpoint: path(), source: path() },
            MountError::DeadOfAnother { mountpoint: path(), source: path() },
            MountError::Hung { mountpoint: path(), connection: 7 },
            no_privilege(None, Withheld::Bounded),
            no_privilege(None, Withheld::NoNewPrivileges),
            no_privilege(Some("user_allow_other"), Withheld::NotOnTheFile),
            MountError::NotYours { mountpoint: path(), user: 1000 },
            MountError::Refused { mountpoint: path(), error: io(), words: "fuse: no".into() },
            MountError::Io { doing: "open", path: path(), error: io() },
            MountError::NotADevice("/srv/thing".into()),
        ];
        for error in errors {
            let line = error.to_string();
            assert!(line.contains("/srv/thing") && !line.contains('\n'), "{line}");
            assert!(!line.contains("  ") && !line.contains("os error"), "{line}");
        }
        let line = no_privilege(None, Withheld::Bounded).to_string();
        assert!(line.contains("--cap-add SYS_ADMIN"), "{line}");
        assert!(line.contains("sudo") && line.contains("lighthouse-fuse run"), "{line}");
        for error in [MountError::DeviceMissing, MountError::DeviceRefused(io())] {
            assert!(error.to_string().starts_with("/dev/fuse "), "{error}");
        }
    }

    /// Nothing looks at these mounts: INIT is never answered.
    #[test]
    fn either_way_in_the_process_gives_the_same_mount() {
        if open_refused() {
            return;
        }
        let mut seen = Vec::new();
        for by_fsopen in [true, false] {
            let (_directory, store, mountpoint) = pair();
            let mut point = check(&mountpoint, &store, false).unwrap().prepare().unwrap();
            let options = MountOptions { read_only: true, ..options("/a,b c") };
            let before = mount_table::read().unwrap();
            let device = device::open().unwrap();
            let identity = if by_fsopen {
                point.by_fsopen(device.as_fd(), &options).unwrap()
            } else {
                point.by_mount_call(device.as_fd(), &options).unwrap();
                None
            };
            let mounted = point.mounted(identity, &before);
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let path = mountpoint.to_str().unwrap();
            let line = table.lines().find(|line| line.contains(path)).unwrap().to_owned();
            mounted.unmount(Detach::Lazily).unwrap();
            let gone = mounted.unmount(Detach::Lazily);
            assert!(matches!(gone, Err(UnmountError::NotMounted(_))), "{gone:?}");
            let shown = line.split_once(path).unwrap().1.to_owned();
            // Which group a mount propagates in has a number of its own.
            let words = shown.split(' ').filter(|word| !word.starts_with("shared:"));
            seen.push(words.map(str::to_owned).collect::<Vec<_>>());
        }
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0][1], "ro,nosuid,nodev,noatime");
        assert!(seen[0].contains(&"/a,b\\040c".to_owned()), "{:?}", seen[0]);
    }

    /// Says so if no mount can be made here.
    fn open_refused() -> bool {
        let refused = device::open().is_err() || !process::may_mount().unwrap();
        if refused {
            eprintln!("SKIPPED: mounting needs root and /dev/fuse");
        }
        refused
    }
}
