//! `import`: everything a directory holds arrives, once, however often it is stopped.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};

use crate::fixture::{
    Place, finished, needs_root, needs_root_and_device, program, within_deadline,
};
use crate::{Outcome, Skipped, tests};

tests![
    everything_a_directory_holds_arrives,
    an_imported_file_is_told_as_a_version_of_it,
    run_again_it_adds_nothing,
    what_changed_in_the_source_is_brought_up_to_date,
    names_that_were_one_file_come_apart,
    stopped_it_says_how_to_go_on_and_does,
    killed_it_goes_on,
    nested_and_missing_directories_are_refused,
    a_special_file_in_the_place_of_another_is_replaced,
    a_capability_stays_with_a_change_of_owner,
    what_the_tree_hands_down_gives_nobody_rights,
    what_cannot_be_read_is_named_and_the_rest_is_taken,
    a_link_to_a_directory_brings_over_the_rights_of_the_directory,
];

/// Fills `tree`, with what a test of any user may make.
fn fill(place: &Place) {
    let tree = place.path("tree");
    fs::create_dir_all(tree.join("dir/empty")).unwrap();
    fs::write(tree.join("small"), "hello").unwrap();
    fs::write(tree.join("dir/large"), vec![b'x'; 3_000_000]).unwrap();
    fs::hard_link(tree.join("small"), tree.join("dir/same")).unwrap();
    symlink("../small", tree.join("dir/link")).unwrap();
    symlink("nowhere", tree.join("dangling")).unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    // All of it is read and hashed, twice: no longer than holes need to show.
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"island", 50 << 20).unwrap();
    place.shell(
        "cd tree; mkfifo fifo; chmod 750 dir; chmod 4711 small; chmod 1777 dir/empty; \
         touch -d '2001-02-03T04:05:06.123456789Z' small; \
         touch -h -d '1999-01-01T00:00:00.000000001Z' dir/link; \
         touch -d '2030-12-31T23:59:59.999999999Z' dir/empty; touch -d '1960-01-01T00:00:00Z' dir",
    );
}

fn everything_a_directory_holds_arrives() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    fill(&place);
    place.shell(
        "cd tree; mknod null c 1 3; mknod block b 7 200; chown 1234:2345 null dir/large; \
         chown -h 11:12 dangling; chown 5:6 suid 2> /dev/null || cp small suid; chown 5:6 suid; chmod 6755 suid; \
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")' 2> /dev/null || true",
    );
    let with = |program: &str| {
        let script = format!("command -v {program} > /dev/null");
        place.under_deadline("sh").args(["-c", &script]).status().unwrap().success()
    };
    let attributes = with("setfattr") && with("setfacl");
    if attributes {
        place.shell(
            "cd tree; setfattr -n user.note -v 'a note' small; setfattr -n user.empty dir; \
             setfattr -h -n trusted.note -v t dangling; setfacl -m u:77:rw,m::rwx dir/large; \
             setfacl -d -m g:88:rx dir; \
             for n in $(seq 40); do setfattr -n user.one-of-many-names-$n -v $n dir/empty; done",
        );
    }
    place.output(&["import", "--quiet", "store", "tree"]);
    place.output(&["mount", "store", "at", "--background"]);
    let look = |of: &str| {
        place.shell(&format!(
            "cd {of}; find . -printf '%P|%y|%m|%U|%G|%T@|%l|%n|' \
             \\( -type d -printf '\\n' -o -type b -printf 'dev\\n' -o -printf '%s\\n' \\) | sort; \
             find . -type c -o -type b | sort | xargs stat -c '%n %t %T'; \
             find . -type f | sort | xargs sha256sum"
        ))
    };
    // A directory's link count is the filesystem's own affair.
    let strip = |text: String| {
        let lines = text.lines().map(|line| {
            let mut parts: Vec<&str> = line.split('|').collect();
            if parts.get(1) == Some(&"d") {
                parts[7] = "";
            }
            parts.join("|")
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let (there, here) = (strip(look("tree")), strip(look("at/current")));
    assert_eq!(there, here);
    assert!(here.contains("981173106.1234567890"), "{here}");
    let inodes = place.shell("cd at/current; stat -c %i small dir/same");
    assert_eq!(inodes.lines().next(), inodes.lines().nth(1));
    let blocks = place.shell("stat -c %b at/current/sparse");
    assert!(blocks.trim().parse::<u64>().unwrap() < 1000, "holes stayed holes: {blocks}");
    let checked = if attributes {
        // Sorted, since directories list their names in an order of their own.
        let look = |of: &str| {
            let script = format!("cd {of}; getfattr -Rhd -m 'user|trusted' . ; getfacl -Rpn .");
            let mut files: Vec<_> = place.shell(&script).split("\n\n").map(str::to_owned).collect();
            files.sort();
            files
        };
        assert_eq!(look("tree"), look("at/current"));
        Ok(())
    } else {
        Err(Skipped("all but attributes: setfattr and setfacl are not installed".into()))
    };
    place.output(&["umount", "at"]);
    let last = place.last("store");
    place.output(&["import", "--quiet", "store", "tree"]);
    assert_eq!(place.last("store"), last, "a second import adds nothing");
    checked
}

fn an_imported_file_is_told_as_a_version_of_it() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    fill(&place);
    place.output(&["import", "--quiet", "store", "tree"]);
    let told = || {
        place.output(&["mount", "store", "at", "--sections", "--background"]);
        let told = place.shell("cat at/streams/from/@2/file_changes");
        place.output(&["umount", "at"]);
        let of = |path: &str| {
            let path = format!("\"{path}\"");
            let lines = told.lines().filter(|line| line.contains("file_modified"));
            lines.filter(|line| line.contains(&path)).count()
        };
        ["/dir/same", "/dir/large", "/sparse", "/fifo"].map(of)
    };
    assert_eq!(told(), [1, 1, 1, 0]);
    place.output(&["import", "--quiet", "store", "tree"]);
    assert_eq!(told(), [1, 1, 1, 0], "nothing is new");
    place.shell("echo more >> tree/dir/large");
    place.output(&["import", "--quiet", "store", "tree"]);
    assert_eq!(told(), [1, 2, 1, 0]);
    Ok(())
}

fn run_again_it_adds_nothing() -> Outcome {
    let place = Place::new();
    fill(&place);
    let output = place.run(&["import", "store", "tree"]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("imported tree into store: ") && said.contains("2.9 MiB"), "{said}");
    let last = place.last("store");
    let output = place.run(&["import", "store", "tree"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(": 0 new or changed (0 B)"), "{said}");
    assert_eq!(place.last("store"), last);
    assert!(place.output(&["verify", "store"]).contains("0 damaged"));
    Ok(())
}

fn what_changed_in_the_source_is_brought_up_to_date() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    fill(&place);
    place.output(&["import", "--quiet", "store", "tree"]);
    place.shell("cd tree; echo changed > dir/large; chmod 600 small; ln -sfn elsewhere dangling; echo new > new");
    place.output(&["import", "--quiet", "store", "tree"]);
    let look = "cat dir/large new; stat -c %a small; readlink dangling";
    let shown = place.output(&["run", "store", "--", "sh", "-c", look]);
    assert_eq!(shown, "changed\nnew\n600\nelsewhere\n");
    let last = place.last("store");
    place.output(&["import", "--quiet", "store", "tree"]);
    assert_eq!(place.last("store"), last);
    Ok(())
}

fn names_that_were_one_file_come_apart() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    place.shell("mkdir tree; cd tree; echo one > a; ln a b; ln a c");
    place.output(&["import", "--quiet", "store", "tree"]);
    // The same size, and each with a time of its own; then two pairs where there was one.
    place.shell("cd tree; rm b; echo two > b");
    place.output(&["import", "--quiet", "store", "tree"]);
    let look = "cat a b c; stat -c %h a b c";
    let shown = place.output(&["run", "store", "--", "sh", "-c", look]);
    assert_eq!(shown, "one\ntwo\none\n2\n1\n2\n");
    place.shell("cd tree; rm c; ln b c; ln a d");
    place.output(&["import", "--quiet", "store", "tree"]);
    let look = "cat a b c d; stat -c %h a b c d";
    let shown = place.output(&["run", "store", "--", "sh", "-c", look]);
    assert_eq!(shown, "one\ntwo\ntwo\none\n2\n2\n2\n2\n");
    let last = place.last("store");
    place.output(&["import", "--quiet", "store", "tree"]);
    assert_eq!(place.last("store"), last);
    Ok(())
}

/// Imports `tree`, and sends `signal` once there is something in the store. What it said, and its code.
fn interrupted(place: &Place, signal: Signal) -> (Option<i32>, String) {
    let mut command = Command::new(program());
    command.args(["import", "store", "tree"]).current_dir(place.path("")).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    within_deadline(|| {
        let status = place.run(&["status", "store", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
        (status["last"].as_u64()? > 500).then_some(())
    });
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    // It may have ended meanwhile.
    let _ = rustix::process::kill_process(pid, signal);
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A tree that takes a while.
fn many(place: &Place) {
    for directory in 0..40 {
        let directory = place.path(&format!("tree/{directory:03}"));
        fs::create_dir_all(&directory).unwrap();
        for file in 0..100 {
            fs::write(directory.join(format!("{file:03}")), format!("{file}\n").repeat(file))
                .unwrap();
        }
    }
}

/// A second run completes the tree; a third adds nothing.
fn goes_on(place: &Place) {
    place.output(&["import", "--quiet", "store", "tree"]);
    let last = place.last("store");
    place.output(&["import", "--quiet", "store", "tree"]);
    assert_eq!(place.last("store"), last);
    assert!(place.output(&["verify", "store"]).contains("0 damaged"));
    let log = place.output(&["log", "--store", "store", "--json"]);
    let creates = log.lines().filter(|line| line.contains("\"what\":\"create\"")).count();
    assert_eq!(creates, 4000, "nothing was made twice");
}

fn stopped_it_says_how_to_go_on_and_does() -> Outcome {
    let place = Place::new();
    many(&place);
    let (code, said) = interrupted(&place, Signal::INT);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("`lighthouse-fuse import store tree` continues"), "{said}");
    assert_eq!(place.status("store")["state"], "closed");
    goes_on(&place);
    Ok(())
}

fn killed_it_goes_on() -> Outcome {
    let place = Place::new();
    many(&place);
    let (code, said) = interrupted(&place, Signal::KILL);
    assert_eq!(code, None, "{said}");
    assert_eq!(place.status("store")["state"], "not closed");
    goes_on(&place);
    Ok(())
}

fn nested_and_missing_directories_are_refused() -> Outcome {
    let place = Place::new();
    place.shell("mkdir tree; echo > tree/file; ln -s tree link");
    let before = place.listing();
    for (store, source, says) in [
        ("tree/store", "tree", "lie inside each other"),
        ("link/store", "tree", "lie inside each other"),
        ("tree", "tree", "lie inside each other"),
        ("store", "gone", "cannot read gone"),
        ("store", "tree/file", "is not a directory; name one"),
        ("no/store", "tree", "make it first"),
        ("tree", ".", "lie inside each other"),
    ] {
        let line = place.refusal(&["import", store, source]);
        assert!(line.contains(says), "{store} {source}: {line}");
        assert_eq!(place.listing(), before, "{store} {source}");
    }
    place.output(&["import", "--quiet", "store", "tree"]);
    let line = place.refusal(&["import", "store", "store/log"]);
    assert!(line.contains("lie inside each other"), "{line}");
    Ok(())
}

fn a_special_file_in_the_place_of_another_is_replaced() -> Outcome {
    needs_root()?;
    needs_root_and_device()?;
    let place = Place::new();
    place.shell("mkdir -p tree/a; echo > tree/b; mkfifo tree/c; mkdir tree/d");
    place.output(&["import", "--quiet", "store", "tree"]);
    place.shell(
        "cd tree; rmdir a; echo x > a; rm b; mkdir b; rm c; mknod c c 1 5; rmdir d; ln -s a d",
    );
    place.output(&["import", "--quiet", "store", "tree"]);
    let shown = place.output(&["run", "store", "--", "stat", "-c", "%n %F", "a", "b", "c", "d"]);
    assert_eq!(shown, "a regular file\nb directory\nc character special file\nd symbolic link\n");
    let _ = finished(&mut place.command(&["verify", "store"]));
    Ok(())
}

/// Says so where the source cannot have them.
fn needs_attributes(place: &Place) -> Result<(), Skipped> {
    let script = "command -v setfattr && command -v setfacl && touch try && \
                  setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 try && \
                  setfacl -m u:77:r try; code=$?; rm -f try; exit $code";
    match place.under_deadline("sh").args(["-c", script]).output().unwrap().status.success() {
        true => Ok(()),
        false => Err(Skipped("no capabilities or access control lists can be set here".into())),
    }
}

fn a_capability_stays_with_a_change_of_owner() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    needs_attributes(&place)?;
    let capability = "0x0100000200040000000000000000000000000000";
    place.shell(&format!(
        "mkdir tree; echo > tree/f; setfattr -n security.capability -v {capability} tree/f"
    ));
    place.output(&["import", "--quiet", "store", "tree"]);
    // The content stays as it is.
    place.shell(&format!(
        "chown 5:6 tree/f; chmod 4755 tree/f; setfattr -n security.capability -v {capability} tree/f"
    ));
    place.output(&["import", "--quiet", "store", "tree"]);
    let last = place.last("store");
    place.output(&["import", "--quiet", "store", "tree"]);
    assert_eq!(place.last("store"), last);
    place.output(&["mount", "store", "at", "--background"]);
    let shown = place.shell(
        "stat -c '%u %g %a' at/current/f; getfattr -e hex -n security.capability at/current/f",
    );
    place.output(&["umount", "at"]);
    assert!(shown.starts_with("5 6 4755\n") && shown.contains(capability), "{shown}");
    Ok(())
}

fn what_the_tree_hands_down_gives_nobody_rights() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    needs_attributes(&place)?;
    place.shell("mkdir -p tree/d; echo > tree/d/old");
    place.output(&["import", "--quiet", "store", "tree"]);
    place.output(&["mount", "store", "at", "--background"]);
    place.shell("setfacl -d -m u:77:rwx,m::rwx at/current/d");
    place.output(&["umount", "at"]);
    place.shell(
        "cd tree/d; echo > new; mkdir below; echo > below/new; echo > listed; setfacl -m u:88:r listed; mkfifo fifo; \
         ln -s new link; chmod 640 new; chmod 2750 below",
    );
    place.output(&["import", "--quiet", "store", "tree"]);
    let last = place.last("store");
    place.output(&["import", "--quiet", "store", "tree"]);
    assert_eq!(place.last("store"), last);
    place.output(&["mount", "store", "at", "--background"]);
    let look = |of: &str| {
        let files = "d/old d/new d/below d/below/new d/listed d/fifo";
        place.shell(&format!("cd {of}; getfacl -pn {files}; stat -c '%n %a' {files}"))
    };
    let (there, here) = (look("tree"), look("at/current"));
    let kept = place.shell("getfacl -pnd at/current/d");
    place.output(&["umount", "at"]);
    assert_eq!(there, here);
    assert!(kept.contains("user:77:rwx"), "what the tree has of its own stays: {kept}");
    Ok(())
}

fn what_cannot_be_read_is_named_and_the_rest_is_taken() -> Outcome {
    needs_root()?;
    let place = Place::new();
    place.shell(
        "mkdir -p tree/shut/in; for n in a closed z; do echo $n > tree/$n; done; chmod 0 tree/closed tree/shut",
    );
    let output = finished(&mut place.as_nobody(&["import", "store", "tree"]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let named = |name: &str| said.lines().any(|line| line.contains(&place.text(name)));
    assert!(named("tree/closed") && named("tree/shut"), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("lighthouse-fuse: 2 entries of tree were left out"), "{said}");
    let paths = || {
        let log = place.output(&["log", "--store", "store", "--json"]);
        let events = log.lines().map(|line| serde_json::from_str(line).unwrap());
        let paths = events.map(|event: serde_json::Value| event["path"].to_string());
        paths.collect::<std::collections::BTreeSet<_>>()
    };
    let taken = |name: &str| paths().contains(&format!("\"{name}\""));
    assert!(taken("a") && taken("z") && !taken("closed") && !taken("shut"), "{:?}", paths());
    place.shell("chmod 644 tree/closed; chmod 755 tree/shut");
    let output = finished(&mut place.as_nobody(&["import", "--quiet", "store", "tree"]));
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(taken("closed") && taken("shut/in"), "{:?}", paths());
    Ok(())
}

fn a_link_to_a_directory_brings_over_the_rights_of_the_directory() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    needs_attributes(&place)?;
    place.shell(
        "mkdir tree; chmod 770 tree; setfacl -m u:77:rwx,g::---,m::rwx tree; ln -s tree link",
    );
    place.output(&["import", "--quiet", "store", "link"]);
    place.output(&["mount", "store", "at", "--background"]);
    let look = |of: &str| place.shell(&format!("cd {of}; getfacl -pn ."));
    let (there, here) = (look("tree"), look("at/current"));
    place.output(&["umount", "at"]);
    assert_eq!(there, here);
    assert!(here.contains("group::---"), "{here}");
    Ok(())
}
