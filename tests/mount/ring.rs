//! FUSE over io_uring: how a connection on it begins, is interrupted, and ends. Everything else is the other
//! tests' with `LIGHTHOUSE_FUSE_TRANSPORT=uring`, as this program runs them where there is a ring.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lighthouse_fuse::transport::{mount_table, unmount};
use rustix::process::{Pid, Signal};

use crate::fixture::{Mount, Place, bounded, needs_ring, until};
use crate::{Outcome, tests};

tests![
    auto_uses_the_ring_where_it_is_and_says_why_where_not,
    the_ring_alone_is_refused_where_it_is_not,
    a_killed_server_leaves_nobody_waiting,
    an_aborted_connection_ends_server_and_callers,
    a_server_told_to_end_leaves_nothing,
    callers_that_are_killed_disturb_nobody,
];

/// Programs that ask for something again and again, each for something else, until they are refused.
fn busy(mount: &Mount) -> Vec<Child> {
    fs::write(mount.path("read"), vec![7; 1 << 20]).unwrap();
    let lines = [
        "while dd if=read of=/dev/null bs=64k iflag=direct 2>/dev/null; do :; done",
        "while dd if=read of=/dev/null bs=4k iflag=direct 2>/dev/null; do :; done",
        "n=0; while echo text > new-$n; do n=$((n + 1)); done 2>/dev/null",
        "while dd if=/dev/zero of=written bs=1M count=4 conv=fsync 2>/dev/null; do :; done",
    ];
    let start = |line: &str| {
        let mut command = Command::new("sh");
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.args(["-c", line]).current_dir(mount.path("")).spawn().unwrap()
    };
    let children = lines.map(start);
    until("they are at work", || mount.path("new-3").exists() && mount.path("written").exists());
    children.into()
}

fn end_of(children: Vec<Child>) {
    for mut child in children {
        until("a caller ends", || child.try_wait().unwrap().is_some());
    }
}

fn auto_uses_the_ring_where_it_is_and_says_why_where_not() -> Outcome {
    let mount = Mount::fresh()?;
    mount.stop();
    let said = mount.start(&["--transport", "auto", "--log-level", "info"]);
    let over = match needs_ring() {
        Ok(()) => "io_uring",
        Err(why) => {
            assert!(said.contains(&why.0), "{said}\n{}", why.0);
            "/dev/fuse"
        }
    };
    assert!(said.contains(&format!("requests come over {over}")), "{said}");
    let mut status = Command::new(env!("CARGO_BIN_EXE_lighthouse-fuse"));
    let status = bounded(status.args(["status", "--json"]).arg(mount.store()));
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains(&format!("\"served_over\":\"{over}\"")), "{status}");
    Ok(())
}

fn the_ring_alone_is_refused_where_it_is_not() -> Outcome {
    let Err(why) = needs_ring() else { return Ok(()) };
    let place = Place::new();
    fs::create_dir(place.root().join("mnt")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lighthouse-fuse"));
    command.args(["mount", "--transport", "uring"]);
    let output = bounded(command.arg(place.store()).arg(place.root().join("mnt")));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&why.0), "{said}");
    Ok(())
}

fn a_killed_server_leaves_nobody_waiting() -> Outcome {
    needs_ring()?;
    let mount = Mount::with(&["--transport", "uring"])?;
    let children = busy(&mount);
    // Once the last thread is gone its descriptor of the device is, and the kernel aborts the connection.
    mount.crash();
    end_of(children);
    Ok(())
}

fn an_aborted_connection_ends_server_and_callers() -> Outcome {
    needs_ring()?;
    let mount = Mount::with(&["--transport", "uring"])?;
    let children = busy(&mount);
    let server = mount.server();
    let table = mount_table::read().unwrap();
    let entry = mount_table::topmost(&table, &mount.top("")).expect("it is mounted");
    unmount::abort(entry.minor).unwrap();
    end_of(children);
    until("the server ends", || !is_alive(server));
    Ok(())
}

fn a_server_told_to_end_leaves_nothing() -> Outcome {
    needs_ring()?;
    let mount = Mount::with(&["--transport", "uring"])?;
    fs::write(mount.path("file"), "text").unwrap();
    let server = mount.server();
    rustix::process::kill_process(server, Signal::TERM).unwrap();
    until("the server ends", || !is_alive(server));
    assert!(!mount.path("file").exists(), "it is unmounted");
    Ok(())
}

fn callers_that_are_killed_disturb_nobody() -> Outcome {
    needs_ring()?;
    let mount = Mount::with(&["--transport", "uring", "--log-level", "trace"])?;
    let told = || mount.log().contains("\"INTERRUPT\"") || mount.log().contains("=INTERRUPT");
    let mut tries = 0;
    until("a caller is interrupted while it waits", || {
        tries += 1;
        let mut writer = Command::new("dd")
            .args(["if=/dev/zero", "of=synced", "bs=1M", "count=64", "conv=fsync"])
            .current_dir(mount.path(""))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(10 * tries));
        writer.kill().unwrap();
        writer.wait().unwrap();
        told()
    });
    fs::write(mount.path("file"), "text").unwrap();
    assert_eq!(fs::read_to_string(mount.path("file")).unwrap(), "text");
    Ok(())
}

fn is_alive(server: Pid) -> bool {
    Path::new("/proc").join(server.as_raw_nonzero().to_string()).exists()
}
