//! `mount` and `umount`: what is said, what is refused, how a server ends, and what is left alone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lighthouse_fuse::transport::{mount_table, unmount};
use rustix::fs::XattrFlags;
use rustix::process::Signal;

use crate::fixture::{
    NOBODY, Place, User, finished, line_of, needs_root_and_device, program, within_deadline,
};
use crate::open_device::OpenDevice;
use crate::{Outcome, Skipped, tests};

tests![
    a_mount_serves_until_an_interrupt,
    a_hangup_and_a_silent_terminal_do_not_end_a_server,
    a_busy_mount_is_waited_for_and_a_second_interrupt_is_not,
    a_terminated_server_waits_ten_seconds_for_its_users,
    in_the_background_it_returns_once_it_serves,
    in_the_background_a_refusal_is_the_same_line,
    in_the_background_without_a_log_nothing_stays_mounted,
    in_the_background_with_nobody_waiting_nothing_stays_mounted,
    read_only_lets_nobody_write,
    read_only_changes_nothing_in_the_store,
    what_cannot_be_mounted_is_refused_and_nothing_changes,
    a_store_is_served_once,
    a_dead_mount_is_taken_away_at_start,
    an_aborted_mount_is_taken_away_and_is_a_failure,
    a_label_is_made_through_a_mount_that_answers,
    a_capability_of_the_program_file_is_for_mounts_of_ones_own,
    a_store_that_was_made_by_a_detour_is_known_again,
    a_socket_is_taken_over_only_from_who_was_killed,
    somebody_elses_mount_is_left_alone,
    a_server_whose_mount_was_detached_leaves_the_next_ones_alone,
    a_mount_that_was_moved_is_unmounted_at_the_end,
    a_new_tree_takes_owner_and_mode_from_the_mount_point,
    a_mount_point_made_under_sudo_is_the_users,
    without_the_device_nothing_changes,
    umount_names_who_keeps_it_busy,
    a_store_is_closed_when_umount_returns,
];

fn a_mount_serves_until_an_interrupt() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    for signal in [Signal::INT, Signal::TERM] {
        let mut server = place.served();
        assert_eq!(place.shell("ls at; mkdir -p at/current/kept"), "current\nhistory\n");
        server.signal(signal);
        let (status, said) = server.end();
        assert!(status.success() && said.is_empty(), "{status}: {said}");
        assert!(!place.is_mounted("at"));
        assert_eq!(place.status("store")["state"], "closed");
    }
    let mut quiet = place.command(&["mount", "store", "at", "--quiet", "--background"]);
    let output = finished(&mut quiet);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(place.shell("ls at/current"), "kept\n");
    place.output(&["umount", "at"]);
    Ok(())
}

fn a_hangup_and_a_silent_terminal_do_not_end_a_server() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.served();
    server.stop_listening();
    server.signal(Signal::HUP);
    let user = User::in_directory(&place.path("at/current"));
    // Now it has something to say, and nobody to say it to.
    server.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(500));
    assert!(server.runs(), "ended by what nobody reads");
    assert_eq!(place.shell("ls at"), "current\nhistory\n");
    drop(user);
    assert!(server.end().0.success());
    Ok(())
}

fn a_busy_mount_is_waited_for_and_a_second_interrupt_is_not() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.served();
    let user = User::in_directory(&place.path("at/current"));
    server.signal(Signal::INT);
    let line = server.next_line();
    assert!(
        line.starts_with("waiting up to 10 s: ") && line.contains(&user.pid().to_string()),
        "{line}"
    );
    assert!(server.runs() && place.is_mounted("at"));
    let started = Instant::now();
    server.signal(Signal::INT);
    assert!(server.end().0.success());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(!place.is_mounted("at"));
    assert_eq!(place.status("store")["state"], "closed");
    Ok(())
}

fn a_terminated_server_waits_ten_seconds_for_its_users() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.served();
    let _user = User::in_directory(&place.path("at/current"));
    let started = Instant::now();
    server.signal(Signal::TERM);
    assert!(server.end().0.success());
    let waited = started.elapsed();
    assert!((9..15).contains(&waited.as_secs()), "{waited:?}");
    assert!(!place.is_mounted("at"));
    Ok(())
}

fn in_the_background_it_returns_once_it_serves() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let output = finished(&mut place.command(&[
        "mount",
        "store",
        "at",
        "--background",
        "--log-level",
        "info",
    ]));
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let serving = format!("serving {} at {}", place.text("store"), place.text("at"));
    assert!(said.lines().any(|line| line == serving), "{said}");
    assert!(!said.contains('\x1b'), "no colours where there is no terminal: {said}");
    assert_eq!(place.shell("echo hello > at/current/f && cat at/current/f"), "hello\n");
    let pid = place.status("store")["served_by"].as_u64().unwrap();
    assert_eq!(
        place.shell(&format!("readlink /proc/{pid}/cwd /proc/{pid}/fd/2")),
        format!("/\n{}\n", place.text("store/server.log"))
    );
    place.output(&["umount", "at"]);
    let log = fs::metadata(place.path("store/server.log")).unwrap();
    assert_eq!(log.permissions().mode() & 0o777, 0o600);
    Ok(())
}

fn in_the_background_a_refusal_is_the_same_line() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let before = place.listing();
    let line = place.refusal(&["mount", "store", "no/at"]);
    assert_eq!(line, place.refusal(&["mount", "store", "no/at", "--background"]));
    assert_eq!(place.listing(), before);
    Ok(())
}

fn in_the_background_without_a_log_nothing_stays_mounted() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    place.output(&["mount", "store", "at", "--background"]);
    place.output(&["umount", "at"]);
    place.shell("rm store/server.log; mkdir store/server.log");
    let line = place.refusal(&["mount", "store", "at", "--background"]);
    assert!(line.contains("cannot log to") && line.contains("leave out --background"), "{line}");
    assert!(!place.is_mounted("at"));
    assert_eq!(place.status("store")["state"], "closed");
    Ok(())
}

fn in_the_background_with_nobody_waiting_nothing_stays_mounted() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut command = place.command(&["mount", "store", "at", "--background"]);
    // As the server is started by who waits for it, and is then killed by ^C.
    command.env("LIGHTHOUSE_FUSE_BACKGROUND_CHILD", "1").stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    drop(server.stderr.take());
    let status = within_deadline(|| server.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    assert!(!place.is_mounted("at"));
    assert_eq!(place.status("store")["state"], "closed");
    Ok(())
}

fn read_only_lets_nobody_write() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.served();
    place.shell("echo hello > at/current/f");
    server.signal(Signal::TERM);
    assert!(server.end().0.success());
    let last = place.last("store");
    place.output(&["mount", "store", "at", "--read-only", "--background"]);
    assert_eq!(
        place.shell(
            "cat at/current/f; ! touch at/current/g 2> /dev/null; ! rm -f at/current/f 2> /dev/null"
        ),
        "hello\n"
    );
    place.output(&["umount", "at"]);
    assert_eq!(place.last("store"), last);
    Ok(())
}

fn read_only_changes_nothing_in_the_store() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let line = place.refusal(&["mount", "store", "at", "--read-only"]);
    assert!(line.contains("there is no store"), "{line}");
    let mut server = place.served();
    place.shell("cd at/current; echo hello > f; seq 50000 > large; mkdir d; mv f d/g");
    let last = place.last("store");
    server.signal(Signal::TERM);
    assert!(server.end().0.success());
    // Every file as it is, and when it last was anything else.
    let all = || {
        place.shell(
            "find store -printf '%p %y %m %U %G %s %T@ %C@\\n' | sort; \
             find store -type f | sort | xargs sha256sum",
        )
    };
    let looks = |why: &str| {
        let before = all();
        place.output(&["mount", "store", "at", "--read-only", "--sections", "--background"]);
        let seen = "cat at/current/d/g; sha256sum < at/current/large; ls at/history/@5/; tail -n 1 at/streams/file_changes; \
                    ! touch at/current/new 2> /dev/null; ! mkdir at/history/label 2> /dev/null; cat at/debug/health.json";
        let said = place.shell(seen);
        assert!(said.starts_with("hello\n") && said.contains("file_"), "{why}: {said}");
        assert_eq!(
            said.lines().nth(1),
            place.shell("seq 50000 | sha256sum").lines().next(),
            "{why}"
        );
        // Somebody else who would change the store is kept out meanwhile.
        let line = place.refusal(&["import", "store", "at/current"]);
        let kept_out = ["is served by", "Read-only file system"];
        assert!(kept_out.iter().any(|why| line.contains(why)), "{line}");
        place.output(&["umount", "at"]);
        assert_eq!(all(), before, "{why}");
        assert_eq!(place.last("store"), last);
    };
    looks("after a clean stop");
    place.shell(
        "mount --bind store store; mount -o remount,bind,ro store; ! touch store/x 2> /dev/null",
    );
    looks("on a medium that cannot be written");
    place.shell(
        "umount store; rm store/LOCK; mount --bind store store; mount -o remount,bind,ro store",
    );
    looks("and nobody has left a lock there");
    place.shell("umount store");
    let mut server = place.served();
    place.shell("echo > at/current/more");
    server.signal(Signal::KILL);
    server.end();
    place.shell("umount -l at");
    let before = all();
    place.output(&["mount", "store", "at", "--read-only", "--background"]);
    assert_eq!(place.shell("cat at/current/d/g at/current/more"), "hello\n\n");
    place.output(&["umount", "at"]);
    assert_eq!(all(), before, "after a kill");
    // Opened for writing, it still finds what there was to mend.
    let mut server = place.served();
    assert_eq!(place.shell("cat at/current/d/g at/current/more"), "hello\n\n");
    server.signal(Signal::TERM);
    assert!(server.end().0.success());
    Ok(())
}

fn what_cannot_be_mounted_is_refused_and_nothing_changes() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    place.shell("echo > file; mkdir full; echo > full/file; ln -s full link");
    let before = place.listing();
    for (store, at, says) in [
        ("store", "no/at", "mkdir -p"),
        ("no/store", "at", "mkdir -p"),
        ("store", "file", "is not a directory: name another"),
        ("store", "file/at", "name another"),
        ("store", "full", "give --nonempty"),
        ("full/store", "full", "side by side"),
        ("link/store", "full", "side by side"),
        ("store", "store", "side by side"),
        ("store", "store/at", "make it first"),
        ("full", "at", "choose another"),
    ] {
        let line = place.refusal(&["mount", store, at]);
        assert!(line.contains(says), "{store} {at}: {line}");
        assert_eq!(place.listing(), before, "{store} {at}");
    }
    place.output(&["mount", "store", "full", "--nonempty", "--background"]);
    assert_eq!(place.shell("ls full"), "current\nhistory\n");
    place.output(&["umount", "full"]);
    assert_eq!(place.shell("ls full"), "file\n");
    Ok(())
}

fn a_store_is_served_once() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    fs::create_dir(place.path("tree")).unwrap();
    let server = place.served();
    let by = format!("served by process {}", server.pid());
    for arguments in [
        &["mount", "store", "elsewhere"][..],
        &["run", "store", "--", "true"],
        &["import", "store", "tree"],
    ] {
        let line = place.refusal(arguments);
        assert!(line.contains(&by) && line.contains("unmount it first"), "{line}");
    }
    for store in ["store", "another"] {
        let line = place.refusal(&["mount", store, "at"]);
        assert!(
            line.contains("already served at") && line.contains("lighthouse-fuse umount"),
            "{line}"
        );
    }
    assert!(!place.path("elsewhere").exists() && !place.path("another").exists());
    Ok(())
}

fn a_dead_mount_is_taken_away_at_start() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.served();
    place.shell("echo kept > at/current/f");
    server.kill();
    assert!(place.is_mounted("at"));
    let line = place.refusal(&["mount", "another", "at"]);
    assert!(
        line.contains("dead mount of another store") && line.contains("umount --lazy"),
        "{line}"
    );
    assert!(!place.path("another").exists());
    let mut server = place.served();
    assert_eq!(place.shell("cat at/current/f"), "kept\n");
    server.signal(Signal::TERM);
    assert!(server.end().0.success());
    assert!(!place.is_mounted("at"), "the dead one stayed below");
    // And without a new server, `umount` does it.
    let mut server = place.served();
    server.kill();
    place.output(&["umount", "at"]);
    assert!(!place.is_mounted("at"));
    Ok(())
}

fn an_aborted_mount_is_taken_away_and_is_a_failure() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.served();
    place.shell("mkdir at/current/kept");
    let table = mount_table::read().unwrap();
    let entry = mount_table::topmost(&table, &place.path("at")).unwrap();
    unmount::abort(entry.minor).unwrap();
    let (status, said) = server.end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("its connection was aborted"), "{said}");
    assert!(!place.is_mounted("at"), "it is dead, and still there");
    assert_eq!(place.status("store")["state"], "closed");
    // What somebody unmounted is no failure.
    let mut server = place.served();
    assert_eq!(place.shell("ls at/current"), "kept\n");
    place.output(&["umount", "at"]);
    let (status, said) = server.end();
    assert!(status.success() && said.is_empty(), "{status}: {said}");
    Ok(())
}

fn a_label_is_made_through_a_mount_that_answers() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut dead = place.served();
    dead.kill();
    let _server = place.mount(&["store", "elsewhere"]);
    assert!(place.is_mounted("at"));
    place.output(&["label", "--store", "store", "kept"]);
    assert_eq!(place.shell("ls elsewhere/history"), "kept\n");
    Ok(())
}

fn a_capability_of_the_program_file_is_for_mounts_of_ones_own() -> Outcome {
    needs_root_and_device()?;
    let _open = OpenDevice::for_all();
    let place = Place::new();
    place.shell(&format!(
        "cp {} capable; chmod 755 capable; mkdir -m 755 roots; mkdir -m 1777 everybodys; mkdir own; chown {NOBODY} own",
        program()
    ));
    // Version 2, not effective, CAP_SYS_ADMIN permitted.
    let mut value = [0; 20];
    value[..4].copy_from_slice(&0x0200_0000_u32.to_le_bytes());
    value[4..8].copy_from_slice(&(1_u32 << 21).to_le_bytes());
    let (capable, flags) = (place.path("capable"), XattrFlags::empty());
    if let Err(error) = rustix::fs::setxattr(&capable, "security.capability", &value, flags) {
        return Err(Skipped(format!("no file here can have a capability: {error}")));
    }
    let nobody = |arguments: &[&str]| {
        let mut command = place.under_deadline("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        finished(command.arg(&capable).args(arguments))
    };
    let mounted = nobody(&["mount", "store", "own", "--background"]);
    let said = String::from_utf8_lossy(&mounted.stderr).into_owned();
    if said.contains("this user may not mount") {
        return Err(Skipped(format!("a file's capability is void here: {said}")));
    }
    assert!(mounted.status.success() && place.is_mounted("own"), "{said}");
    for at in ["roots", "everybodys"] {
        let line = line_of(&nobody(&["mount", "another", at]));
        assert!(line.contains("not theirs to write to"), "{line}");
        assert!(!place.is_mounted(at) && !place.path("another").exists());
    }
    let mut roots = place.mount(&["of-root", "roots"]);
    for arguments in [&["umount", "roots"][..], &["umount", "--lazy", "roots"]] {
        let line = line_of(&nobody(arguments));
        assert!(line.contains("may not unmount"), "{line}");
        assert!(roots.runs() && place.is_mounted("roots"));
    }
    place.output(&["umount", "roots"]);
    assert!(roots.end().0.success());
    let unmounted = nobody(&["umount", "own"]);
    assert!(unmounted.status.success() && !place.is_mounted("own"), "{unmounted:?}");
    Ok(())
}

fn a_store_that_was_made_by_a_detour_is_known_again() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    place.shell("mkdir real below; ln -s real link");
    for store in ["../store", "../link/store"] {
        let mount = || {
            let mut command = place.command(&["mount", store, "../at", "--background"]);
            let output = finished(command.current_dir(place.path("below")));
            assert!(output.status.success(), "{store}: {output:?}");
        };
        mount();
        let store = store.trim_start_matches("../");
        let status = place.status(store);
        assert_eq!(status["mounted_at"][0], place.text("at"), "{status}");
        place.shell(&format!("kill -9 {}", status["served_by"]));
        within_deadline(|| place.status(store)["served_by"].is_null().then_some(()));
        mount();
        place.output(&["umount", "at"]);
        assert!(!place.is_mounted("at"));
    }
    Ok(())
}

fn a_socket_is_taken_over_only_from_who_was_killed() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let datagrams = UnixDatagram::bind(place.path("socket")).unwrap();
    let line = place.refusal(&["hand-over", "socket", "at"]);
    assert!(line.contains("there is a socket at") && line.contains("name another"), "{line}");
    assert!(place.path("socket").exists());
    drop(datagrams);
    fs::remove_file(place.path("socket")).unwrap();
    drop(UnixListener::bind(place.path("socket")).unwrap());
    let mut server = place.start(&["hand-over", "socket", "at"]);
    assert!(server.said.starts_with("waiting for a server on"), "{}", server.said);
    server.signal(Signal::TERM);
    assert!(server.end().0.success());
    Ok(())
}

fn somebody_elses_mount_is_left_alone() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    place.shell("mkdir at");
    let mounted = place
        .under_deadline("mount")
        .args(["-t", "tmpfs", "theirs"])
        .arg(place.path("at"))
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return Err(Skipped("no tmpfs can be mounted here".into()));
    }
    place.shell("echo theirs > at/file");
    let line = place.refusal(&["umount", "at"]);
    assert!(line.contains("is a mount of type tmpfs") && line.contains("use `umount"), "{line}");
    assert!(line_of(&place.run(&["umount", "--lazy", "at"])).contains("tmpfs"));
    assert!(place.refusal(&["mount", "store", "at"]).contains("--nonempty"));
    // Over it, only ours is taken away again.
    place.output(&["mount", "store", "at", "--nonempty", "--background"]);
    assert_eq!(place.shell("ls at"), "current\nhistory\n");
    place.output(&["umount", "at"]);
    assert_eq!(place.shell("cat at/file"), "theirs\n");
    Ok(())
}

fn a_server_whose_mount_was_detached_leaves_the_next_ones_alone() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut first = place.served();
    let user = User::in_directory(&place.path("at/current"));
    place.output(&["umount", "--lazy", "at"]);
    let mut second = place.mount(&["another", "at"]);
    first.signal(Signal::TERM);
    assert!(first.end().0.success());
    drop(user);
    assert_eq!(place.shell("echo kept > at/current/f; cat at/current/f"), "kept\n");
    second.signal(Signal::TERM);
    assert!(second.end().0.success());
    assert!(!place.is_mounted("at"));
    Ok(())
}

fn a_mount_that_was_moved_is_unmounted_at_the_end() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    place.shell("mkdir before");
    let mut server = place.mount(&["store", "before/at"]);
    place.shell("mv before after; ls after/at/current");
    server.signal(Signal::INT);
    assert!(server.end().0.success());
    assert!(!place.is_mounted("after/at"));
    assert_eq!(place.status("store")["state"], "closed");
    Ok(())
}

fn a_new_tree_takes_owner_and_mode_from_the_mount_point() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    place.shell("mkdir at; chown 1234:2345 at; chmod 2750 at");
    place.output(&["mount", "store", "at", "--background"]);
    assert_eq!(place.shell("stat -c '%u %g %a' at/current"), "1234 2345 2750\n");
    place.output(&["umount", "at"]);
    // Only a new store's: then it is the tree's own.
    place.shell("chown 0:0 at; chmod 700 at");
    place.output(&["mount", "store", "at", "--background"]);
    assert_eq!(place.shell("stat -c '%u %g %a' at/current"), "1234 2345 2750\n");
    place.output(&["umount", "at"]);
    Ok(())
}

fn a_mount_point_made_under_sudo_is_the_users() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut command = place.command(&["mount", "store", "at", "--background"]);
    let output = finished(command.env("SUDO_UID", "1234").env("SUDO_GID", "2345"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(place.shell("stat -c '%u %g' at/current"), "1234 2345\n");
    place.output(&["umount", "at"]);
    let made = fs::metadata(place.path("at")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1234, 2345));
    Ok(())
}

fn without_the_device_nothing_changes() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let before = place.listing();
    for arguments in ["mount store at", "mount store at --background", "run store -- true"] {
        let script = format!(
            "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec {} {arguments}",
            program()
        );
        let mut command = place.under_deadline("unshare");
        let line = line_of(&finished(command.args(["--mount", "sh", "-ec", &script])));
        assert!(line.contains("/dev/fuse is missing") && line.contains("modprobe fuse"), "{line}");
        assert_eq!(place.listing(), before, "{arguments}");
    }
    Ok(())
}

fn umount_names_who_keeps_it_busy() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.served();
    let user = User::in_directory(&place.path("at/current"));
    let line = place.refusal(&["umount", "at"]);
    assert!(
        line.contains(&format!("sh (pid {})", user.pid())) && line.contains("--lazy"),
        "{line}"
    );
    assert!(place.is_mounted("at") && server.runs());
    place.output(&["umount", "--lazy", "at"]);
    assert!(!place.is_mounted("at"));
    assert!(server.runs(), "whoever uses it keeps it");
    drop(user);
    assert!(server.end().0.success());
    for (at, says) in [
        ("at", "nothing is mounted at"),
        ("gone/at", "gone"),
        ("/proc", "/proc is a mount of type proc"),
    ] {
        assert!(place.refusal(&["umount", at]).contains(says));
    }
    Ok(())
}

fn a_store_is_closed_when_umount_returns() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    for round in 0..5 {
        place.output(&["mount", "store", "at", "--background"]);
        place.shell(&format!("mkdir at/current/{round}"));
        place.output(&["umount", "at"]);
        assert_eq!(place.status("store")["state"], "closed", "round {round}");
    }
    // A server that is still busy with something else is waited for as well as it can be.
    within_deadline(|| place.status("store")["served_by"].is_null().then_some(()));
    Ok(())
}
