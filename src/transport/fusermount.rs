//! `fusermount3`, the set-user-id program that mounts for users who may not.
//!
//! We start it with one end of a socket as its standard input and that number in
//! `_FUSE_COMMFD`. It opens `/dev/fuse`, mounts, and sends the descriptor over the socket; or it
//! says on standard error what is wrong, and ends. Nothing of libfuse is linked for this.
//!
//! Invariant: when [`mount`] returns, the program has ended.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sys;

/// The variable in which the program looks for the number of its socket.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";
/// As much as is kept of what the program says.
const COMPLAINT_MAX: u64 = 4096;

/// Why the program did not do what was asked.
#[derive(Debug)]
pub enum HelperError {
    /// It ran and refused; these are its own words, on one line.
    Refused(String),
    /// It could not be run or talked to.
    Io(io::Error),
}

impl HelperError {
    /// What went wrong, to stand inside a longer message.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Refused(words) => words,
            Self::Io(error) => super::mount::reason(&error),
        }
    }
}

/// Finds `fusermount3` along `PATH`.
#[must_use]
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|place| place.join("fusermount3")).find(|file| file.is_file())
}

/// Mounts at `mountpoint` through `helper`, and takes the device it sends.
///
/// # Errors
///
/// [`HelperError`]; nothing is mounted then.
pub fn mount(helper: &Path, mountpoint: &Path, options: &OsStr) -> Result<OwnedFd, HelperError> {
    let (ours, theirs) = UnixStream::pair().map_err(HelperError::Io)?;
    let mut command = Command::new(helper);
    command
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(mountpoint)
        .env(SOCKET_VARIABLE, "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    sys::process::unblock_signals(&mut command);
    let mut child = command.spawn().map_err(HelperError::Io)?;
    // The command holds the other end; without it, the program's end is ours to see.
    drop(command);
    let device = sys::descriptor::receive(&ours);
    let complaint = complaint_of(child.stderr.take());
    match (device, child.wait()) {
        // Whatever became of the program: it has mounted, and without the device that would be dead.
        (Ok(device), _) => Ok(device),
        (Err(_), _) if !complaint.is_empty() => Err(HelperError::Refused(complaint)),
        (Err(_), Ok(status)) if !status.success() => Err(HelperError::Refused(status.to_string())),
        (Err(error), Ok(_)) | (Err(_), Err(error)) => Err(HelperError::Io(error)),
    }
}

/// Unmounts `mountpoint` through `helper`; `lazy` detaches it from the tree although it is in use.
///
/// # Errors
///
/// [`HelperError`]; it is mounted still.
pub fn unmount(helper: &Path, mountpoint: &Path, lazy: bool) -> Result<(), HelperError> {
    let mut command = Command::new(helper);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    command.arg("--").arg(mountpoint);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    sys::process::unblock_signals(&mut command);
    let mut child = command.spawn().map_err(HelperError::Io)?;
    let complaint = complaint_of(child.stderr.take());
    let status = child.wait().map_err(HelperError::Io)?;
    match status.success() {
        true => Ok(()),
        false if complaint.is_empty() => Err(HelperError::Refused(status.to_string())),
        false => Err(HelperError::Refused(complaint)),
    }
}

/// Escapes a value for the program's option list, where a comma ends it.
#[must_use]
pub fn escape(value: &OsStr) -> OsString {
    let mut escaped = Vec::with_capacity(value.len());
    for &byte in value.as_bytes() {
        if byte == b',' || byte == b'\\' {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    OsString::from_vec(escaped)
}

/// What the program said until it closed its standard error, as one line without its own name.
fn complaint_of(stderr: Option<impl Read>) -> String {
    let mut said = Vec::new();
    if let Some(stderr) = stderr {
        // A complaint cut short still says more than none.
        let _ = stderr.take(COMPLAINT_MAX).read_to_end(&mut said);
    }
    let said = String::from_utf8_lossy(&said);
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.map(|line| line.split_once("fusermount3: ").map_or(line, |(_, words)| words));
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that stands in for `fusermount3`.
    fn helper(directory: &tempfile::TempDir, script: &str) -> PathBuf {
        let path = directory.path().join("fusermount3");
        // Written by another process: a child that another test forks at this moment would inherit
        // our descriptor, and what is open for writing cannot be executed.
        let write = ["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""];
        let mut shell = Command::new("sh");
        assert!(shell.args(write).arg(&path).arg(script).status().unwrap().success());
        path
    }

    const SENDS_ITS_ARGUMENTS: &str = r#"#!/usr/bin/env python3
import array, os, socket, sys
number = int(os.environ["_FUSE_COMMFD"])
reader, writer = os.pipe()
os.write(writer, "\n".join(sys.argv[1:]).encode())
os.close(writer)
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reader]))]
socket.socket(fileno=number).sendmsg([b"\0"], rights)
"#;

    #[test]
    fn the_descriptor_comes_over_the_socket_and_the_options_go_in_the_arguments() {
        if Command::new("python3").arg("-V").output().is_err() {
            eprintln!("skipped: the stand-in for fusermount3 needs python3");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let helper = helper(&directory, SENDS_ITS_ARGUMENTS);
        let options = OsStr::new("rw,fsname=/a");
        let device = mount(&helper, Path::new("/mnt/here"), options).unwrap();
        let mut text = String::new();
        std::fs::File::from(device).read_to_string(&mut text).unwrap();
        assert_eq!(text, "-o\nrw,fsname=/a\n--\n/mnt/here");
    }

    #[test]
    fn a_refusal_is_given_in_the_programs_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let script = "#!/bin/sh\necho fusermount3: option allow_other only allowed >&2\nexit 1\n";
        let helper = helper(&directory, script);
        let HelperError::Refused(words) =
            mount(&helper, Path::new("/mnt"), OsStr::new("rw")).unwrap_err()
        else {
            panic!("a refusal was expected");
        };
        assert_eq!(words, "option allow_other only allowed");
        let answer = unmount(&helper, Path::new("/mnt"), true);
        assert!(matches!(answer, Err(HelperError::Refused(_))));
    }

    #[test]
    fn a_program_that_says_nothing_is_an_error_and_nobody_waits_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let helper = helper(&directory, "#!/bin/sh\nexit 3\n");
        let answer = mount(&helper, Path::new("/mnt"), OsStr::new("rw")).unwrap_err();
        assert!(matches!(answer, HelperError::Refused(words) if words.contains('3')));
        assert!(matches!(
            mount(Path::new("/nonexistent/helper"), Path::new("/mnt"), OsStr::new("rw")),
            Err(HelperError::Io(_))
        ));
    }

    #[test]
    fn unmounting_lazily_is_asked_for_with_a_flag() {
        let directory = tempfile::tempdir().unwrap();
        let script = "#!/bin/sh\n[ \"$*\" = '-u -z -- /mnt' ] || exit 1\n";
        let helper = helper(&directory, script);
        unmount(&helper, Path::new("/mnt"), true).unwrap();
        assert!(unmount(&helper, Path::new("/mnt"), false).is_err());
    }

    #[test]
    fn commas_and_backslashes_in_a_value_are_escaped() {
        assert_eq!(escape(OsStr::new("/a,b\\c")), "/a\\,b\\\\c");
    }
}
