//! The mount table of this process: `/proc/self/mountinfo`, see proc_pid_mountinfo(5).
//!
//! ```text
//! 36 35 0:98 / /mnt/a\040b rw,noatime shared:1 - fuse.lighthouse /srv/store rw,user_id=0
//! |  |  |    | |           |          |        | |               |          |
//! |  |  |    | |           options    0..n     - filesystem type source     of the superblock
//! |  |  |    | mount point, from our root
//! |  |  |    root of the mount inside its filesystem
//! |  |  device major:minor
//! |  parent's id
//! id
//! ```
//!
//! Reading it asks no filesystem anything: unlike `stat(2)` it never waits for a server that is
//! dead or that is ourselves. A blank, tab, newline, backslash or `#` in a field is written as a
//! backslash and three octal digits.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The filesystem type by which our own mounts are recognised.
pub const FILESYSTEM_TYPE: &str = "fuse.lighthouse";

/// One line of the table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountEntry {
    /// The mount's number, not reused while it exists.
    pub id: u32,
    /// The number of the mount it stands on.
    pub parent: u32,
    /// The device's major number: 0, for a filesystem without a block device.
    pub major: u32,
    /// The device's minor number: that of the connection under `/sys/fs/fuse/connections`.
    pub minor: u32,
    /// What of the filesystem is mounted: `/` is all of it, anything else a bind mount of a part.
    pub root: OsString,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Type, and subtype after a dot.
    pub filesystem: OsString,
    /// What is mounted: for a mount of ours, the absolute path of the store.
    pub source: OsString,
    /// Who mounted it, for FUSE: the superblock's option `user_id`.
    pub user: Option<u32>,
}

impl MountEntry {
    /// Whether a server of ours made this mount.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.filesystem == FILESYSTEM_TYPE
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let device = fields.next()?;
        let colon = device.iter().position(|&byte| byte == b':')?;
        let (major, minor) = (number(device.get(..colon)?)?, number(device.get(colon + 1..)?)?);
        let root = unescape(fields.next()?);
        let mountpoint = PathBuf::from(unescape(fields.next()?));
        // Options, then optional fields up to a lone hyphen.
        fields.by_ref().find(|field| *field == b"-")?;
        let filesystem = unescape(fields.next()?);
        let source = unescape(fields.next()?);
        let mut options = fields.next().unwrap_or_default().split(|&byte| byte == b',');
        let user = options.find_map(|option| number(option.strip_prefix(b"user_id=")?));
        Some(Self { id, parent, major, minor, root, mountpoint, filesystem, source, user })
    }
}

/// Reads the table, in the order in which mounts were attached.
///
/// # Errors
///
/// Whatever reading `/proc/self/mountinfo` says: `/proc` may not be mounted.
pub fn read() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount one sees at `mountpoint`: the topmost of those attached exactly there.
///
/// `mountpoint` is compared as it is written: absolute, without symbolic links.
#[must_use]
pub fn topmost<'a>(table: &'a [MountEntry], mountpoint: &Path) -> Option<&'a MountEntry> {
    let here = || table.iter().filter(|entry| entry.mountpoint == mountpoint);
    // A mount on top of another at the same path has that one as its parent.
    here()
        .rfind(|entry| !here().any(|other| other.parent == entry.id))
        .or_else(|| here().next_back())
}

pub(crate) fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|&byte| byte == b'\n').filter_map(MountEntry::parse).collect()
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Undoes the kernel's octal escapes. A backslash that begins none is taken as it is.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'\\', [high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', after @ ..]) => {
                plain.push((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'));
                rest = after;
            }
            _ => plain.push(first),
        }
    }
    OsString::from_vec(plain)
}

/// Whether `path` is `directory` or below it, by whole components of their bytes.
#[must_use]
pub(super) fn is_within(path: &Path, directory: &Path) -> bool {
    let (path, directory) = (path.as_os_str().as_bytes(), directory.as_os_str().as_bytes());
    match path.strip_prefix(directory) {
        Some(rest) => rest.first().is_none_or(|&byte| byte == b'/') || directory == b"/",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
36 22 0:98 / /mnt/a\\040b rw,noatime shared:7 master:1 - fuse.lighthouse /srv/a\\134b rw,user_id=1000,group_id=7
37 36 0:99 / /mnt/a\\040b rw,noatime - tmpfs none rw
38 22 0:31 / /mnt/other rw - fuse.sshfs host: rw
";

    /// What `seq_path` and `mangle` of the kernel do to a field.
    fn escape(field: &[u8]) -> Vec<u8> {
        let mut escaped = Vec::new();
        for &byte in field {
            if b" \t\n\\#".contains(&byte) {
                escaped.extend(format!("\\{byte:03o}").bytes());
            } else {
                escaped.push(byte);
            }
        }
        escaped
    }

    #[test]
    fn a_line_gives_its_fields_and_optional_ones_are_skipped() {
        let table = parse(TABLE);
        assert_eq!(table.len(), 4);
        let ours = &table[1];
        assert_eq!((ours.id, ours.parent, ours.major, ours.minor), (36, 22, 0, 98));
        assert_eq!(ours.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(ours.source, "/srv/a\\b");
        assert_eq!(ours.user, Some(1000));
        assert!(ours.is_ours());
        assert!(!table[3].is_ours());
        assert_eq!(table[3].user, None);
    }

    #[test]
    fn the_topmost_mount_is_the_one_on_which_no_other_stands() {
        let mut table = parse(TABLE);
        let seen = |table: &[MountEntry]| topmost(table, Path::new("/mnt/a b")).unwrap().id;
        assert_eq!(seen(&table), 37);
        table.reverse();
        assert_eq!(seen(&table), 37);
        assert_eq!(topmost(&table, Path::new("/mnt/a")), None);
    }

    #[test]
    fn a_path_is_within_a_directory_by_whole_components() {
        for (path, directory, within) in [
            ("/a/b", "/a/b", true),
            ("/a/b/c", "/a/b", true),
            ("/a/bc", "/a/b", false),
            ("/a", "/a/b", false),
            ("/a", "/", true),
        ] {
            assert_eq!(is_within(Path::new(path), Path::new(directory)), within, "{path}");
        }
    }

    #[test]
    fn the_table_of_this_process_has_a_root() {
        assert!(topmost(&read().unwrap(), Path::new("/")).is_some());
    }

    proptest! {
        #[test]
        fn any_path_and_source_are_read_back_as_they_were(
            path in prop::collection::vec(1_u8.., 1..60),
            source in prop::collection::vec(1_u8.., 1..60),
        ) {
            let mut line = b"1 2 3:4 / ".to_vec();
            line.extend(escape(&path));
            line.extend(b" rw - fuse.lighthouse ");
            line.extend(escape(&source));
            line.extend(b" rw\n");
            let table = parse(&line);
            prop_assert_eq!(table[0].mountpoint.as_os_str().as_bytes(), path);
            prop_assert_eq!(table[0].source.as_bytes(), source);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = unescape(&bytes);
        }
    }
}
