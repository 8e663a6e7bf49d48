//! Who keeps a mount busy, so that an error can name them.
//!
//! Invariant: nothing here follows a path into the mount. The names come from links and tables
//! under `/proc`, which the kernel writes without asking the filesystem, so this is safe in the
//! process that serves it, and with a server that is hung.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::mount_table::is_within;

/// How a process uses a mount.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// Its working directory is there.
    WorkingDirectory,
    /// Its root directory is there.
    Root,
    /// It runs a program from there.
    Program,
    /// It has a file or directory open there.
    OpenFile,
    /// It has a file of it mapped into memory.
    Mapping,
}

/// A process that keeps a mount busy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountUser {
    /// Its process id, as seen from here.
    pub pid: u32,
    /// The name of its program, as in `ps`; empty if the process has just ended.
    pub name: String,
    /// The first way in which it was found to use the mount.
    pub how: Use,
    /// What it uses.
    pub path: PathBuf,
}

impl fmt::Display for MountUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.how {
            Use::WorkingDirectory => "works in",
            Use::Root => "has as its root",
            Use::Program => "runs",
            Use::OpenFile => "has open",
            Use::Mapping => "has mapped",
        };
        write!(f, "{} (pid {}) {how} {}", self.name, self.pid, self.path.display())
    }
}

/// Finds the processes that use the mount at `mountpoint`, an absolute path without links.
///
/// Processes of other users are seen as far as this one may look: without `CAP_SYS_PTRACE` they
/// are not.
///
/// # Errors
///
/// Whatever reading `/proc` says. Processes that end meanwhile are left out.
pub fn users_of(mountpoint: &Path) -> io::Result<Vec<MountUser>> {
    let mut users = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let directory = Path::new("/proc").join(&name);
        if let Some((how, path)) = use_by(&directory, mountpoint) {
            let name = std::fs::read(directory.join("comm")).unwrap_or_default();
            let name = String::from_utf8_lossy(&name).trim_end().to_owned();
            users.push(MountUser { pid, name, how, path });
        }
    }
    Ok(users)
}

/// The first use of `mountpoint` by the process whose directory under `/proc` this is.
fn use_by(process: &Path, mountpoint: &Path) -> Option<(Use, PathBuf)> {
    let target =
        |link: &Path| std::fs::read_link(link).ok().filter(|target| is_within(target, mountpoint));
    for (link, how) in [("cwd", Use::WorkingDirectory), ("root", Use::Root), ("exe", Use::Program)]
    {
        if let Some(path) = target(&process.join(link)) {
            return Some((how, path));
        }
    }
    for link in std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        if let Some(path) = target(&link.path()) {
            return Some((Use::OpenFile, path));
        }
    }
    let maps = std::fs::read(process.join("maps")).ok()?;
    let mut mapped = maps.split(|&byte| byte == b'\n').filter_map(mapped_file);
    mapped.find(|path| is_within(path, mountpoint)).map(|path| (Use::Mapping, path.to_owned()))
}

/// The path at the end of a line of `/proc/PID/maps`, its sixth field; it may hold blanks.
fn mapped_file(line: &[u8]) -> Option<&Path> {
    let start = line.iter().position(|&byte| byte == b'/')?;
    Some(Path::new(std::ffi::OsStr::from_bytes(line.get(start..)?)))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_found_by_its_working_directory_and_by_its_open_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        assert_eq!(users_of(&path).unwrap(), []);

        let mut sleeper = Command::new("sleep").arg("60").current_dir(&path).spawn().unwrap();
        let file = std::fs::File::create(path.join("file")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo; kill -STOP $$"]).stdin(Stdio::from(file)).stdout(Stdio::piped());
        let mut reader = command.spawn().unwrap();
        // Once it speaks it has its name.
        reader.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let users = users_of(&path).unwrap();
        for child in [&mut sleeper, &mut reader] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let how = |pid| users.iter().find(|user| user.pid == pid).map(|user| user.how);
        assert_eq!(how(sleeper.id()), Some(Use::WorkingDirectory));
        assert_eq!(how(reader.id()), Some(Use::OpenFile));
        let line = users.iter().find(|user| user.pid == reader.id()).unwrap().to_string();
        assert!(line.starts_with("sh (pid "), "{line}");
        assert!(line.ends_with("/file"), "{line}");
    }

    #[test]
    fn the_path_of_a_mapping_may_hold_blanks_and_most_lines_have_none() {
        let line = b"7f00-7f01 r--p 00000000 fe:00 123   /mnt/a b/c";
        assert_eq!(mapped_file(line), Some(Path::new("/mnt/a b/c")));
        assert_eq!(mapped_file(b"7ffc-7ffd rw-p 00000000 00:00 0   [stack]"), None);
    }
}
