//! Locks of fcntl(2) and flock(2), which stay in the kernel: between processes, blocking, and gone with
//! whoever held them.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::fixture::{Mount, until};
use crate::{Outcome, tests};

tests![
    a_lock_keeps_other_processes_out_until_its_file_is_closed,
    a_lock_ends_with_a_killed_process,
    a_blocking_lock_waits_for_its_turn,
    shared_locks_go_together_and_exclude_an_exclusive_one,
    locks_work_on_files_opened_for_reading_and_on_directories,
];

/// `--hold-lock HOW PATH`: locks, says so, and holds until standard input ends.
pub(crate) fn hold(how: &str, path: &Path) -> ExitCode {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    take(how, &file, FlockOperation::LockExclusive).unwrap();
    println!("locked");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    ExitCode::SUCCESS
}

fn take(how: &str, file: &File, operation: FlockOperation) -> Result<(), Errno> {
    match how {
        "fcntl" => rustix::fs::fcntl_lock(file, operation),
        _ => rustix::fs::flock(file, operation),
    }
}

/// Starts a process that takes the lock and holds it.
fn holder(how: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--hold-lock", how])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_until_locked(holder: &mut Child) {
    let mut said = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "locked\n");
}

fn busy(result: Result<(), Errno>) -> bool {
    matches!(result, Err(Errno::AGAIN | Errno::ACCESS))
}

fn locked_file(mount: &Mount) -> (std::path::PathBuf, File) {
    let path = mount.path("file");
    fs::write(&path, "").unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    (path, file)
}

fn a_lock_keeps_other_processes_out_until_its_file_is_closed() -> Outcome {
    let mount = Mount::fresh()?;
    for how in ["fcntl", "flock"] {
        let (path, file) = locked_file(&mount);
        let mut other = holder(how, &path);
        wait_until_locked(&mut other);
        assert!(busy(take(how, &file, FlockOperation::NonBlockingLockExclusive)), "{how}");
        drop(other.stdin.take());
        assert!(other.wait().unwrap().success());
        take(how, &file, FlockOperation::NonBlockingLockExclusive).unwrap();
        take(how, &file, FlockOperation::Unlock).unwrap();
    }
    Ok(())
}

fn a_lock_ends_with_a_killed_process() -> Outcome {
    let mount = Mount::fresh()?;
    for how in ["fcntl", "flock"] {
        let (path, file) = locked_file(&mount);
        let mut other = holder(how, &path);
        wait_until_locked(&mut other);
        other.kill().unwrap();
        other.wait().unwrap();
        until("the lock of a killed process is gone", || {
            take(how, &file, FlockOperation::NonBlockingLockExclusive).is_ok()
        });
        take(how, &file, FlockOperation::Unlock).unwrap();
    }
    Ok(())
}

fn a_blocking_lock_waits_for_its_turn() -> Outcome {
    let mount = Mount::fresh()?;
    for how in ["fcntl", "flock"] {
        let (path, file) = locked_file(&mount);
        take(how, &file, FlockOperation::LockExclusive).unwrap();
        let mut other = holder(how, &path);
        let waits = Path::new("/proc").join(other.id().to_string()).join("wchan");
        // It sleeps in a lock, or, where the kernel does not say, it has had time to.
        for _ in 0..100 {
            let place = fs::read_to_string(&waits).unwrap_or_default();
            if place.contains("lock") {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(other.try_wait().unwrap().is_none());
        // The mount works meanwhile: nobody waits in a reader.
        fs::write(mount.path("meanwhile"), how).unwrap();
        assert_eq!(fs::read_to_string(mount.path("meanwhile")).unwrap(), how);
        take(how, &file, FlockOperation::Unlock).unwrap();
        wait_until_locked(&mut other);
        drop(other.stdin.take());
        assert!(other.wait().unwrap().success());
    }
    Ok(())
}

fn shared_locks_go_together_and_exclude_an_exclusive_one() -> Outcome {
    let mount = Mount::fresh()?;
    let (path, first) = locked_file(&mount);
    let second = File::open(&path).unwrap();
    rustix::fs::flock(&first, FlockOperation::LockShared).unwrap();
    rustix::fs::flock(&second, FlockOperation::LockShared).unwrap();
    assert!(busy(rustix::fs::flock(&first, FlockOperation::NonBlockingLockExclusive)));
    drop(second);
    rustix::fs::flock(&first, FlockOperation::NonBlockingLockExclusive).unwrap();
    Ok(())
}

fn locks_work_on_files_opened_for_reading_and_on_directories() -> Outcome {
    let mount = Mount::fresh()?;
    let (path, _) = locked_file(&mount);
    let reading = File::open(&path).unwrap();
    rustix::fs::flock(&reading, FlockOperation::NonBlockingLockExclusive).unwrap();
    rustix::fs::fcntl_lock(&reading, FlockOperation::NonBlockingLockShared).unwrap();
    let refused = rustix::fs::fcntl_lock(&reading, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused, Err(Errno::BADF));
    let directory = File::open(mount.path("")).unwrap();
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).unwrap();
    Ok(())
}
