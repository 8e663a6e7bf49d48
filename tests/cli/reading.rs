//! `log`, `status` and `verify`: what they say of a store at rest, in service, killed, damaged, or
//! made by a later version.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use serde_json::Value;

use crate::fixture::{Place, finished, needs_root_and_device};
use crate::{Outcome, tests};

tests![
    log_tells_who_what_and_when,
    log_keeps_bytes_that_are_no_text_apart,
    log_since_takes_numbers_and_times,
    log_follows_a_path_and_its_service,
    log_tells_for_whom_a_command_worked_that_ended_at_once,
    status_tells_closed_from_in_service_from_killed,
    verify_names_the_file_with_a_flipped_bit,
    what_a_damaged_log_no_longer_says_is_not_left_out_in_silence,
    a_store_of_a_newer_version_is_refused_untouched,
];

/// A store with a few files, imported.
fn imported() -> Place {
    let place = Place::new();
    fs::create_dir_all(place.path("tree/src")).unwrap();
    fs::write(place.path("tree/src/main.rs"), vec![b'x'; 100_000]).unwrap();
    fs::write(place.path("tree/readme"), "hello").unwrap();
    place.output(&["import", "--quiet", "store", "tree"]);
    place
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn log_tells_who_what_and_when() -> Outcome {
    let place = imported();
    let text = place.output(&["log", "--store", "store"]);
    let events = json_lines(&place.output(&["log", "--store", "store", "--json"]));
    assert_eq!(text.lines().count(), events.len());
    assert!(
        text.contains("create src/main.rs") && text.contains("write readme  (5 B in 1 write)"),
        "{text}"
    );
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
    let create = events.iter().find(|event| event["path"] == "readme").unwrap();
    assert_eq!(create["what"], "create");
    assert_eq!(create["uid"], rustix::process::geteuid().as_raw());
    assert!(create["exe"].as_str().unwrap().ends_with("lighthouse-fuse"), "{create}");
    let last = json_lines(&place.output(&["log", "--store", "store", "--json", "-n", "2"]));
    assert_eq!(last, events[events.len() - 2..]);
    assert_eq!(place.output(&["log", "--store", "store", "-n", "0"]), "");
    let below = json_lines(&place.output(&["log", "src", "--store", "store", "--json"]));
    let paths: Vec<&str> = below.iter().map(|event| event["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"src") && paths.contains(&"src/main.rs"), "{paths:?}");
    assert!(paths.iter().all(|path| path.starts_with("src")), "{paths:?}");
    let line = place.refusal(&["log", "../x", "--store", "store"]);
    assert!(line.contains("leads out of the project"), "{line}");
    Ok(())
}

fn log_keeps_bytes_that_are_no_text_apart() -> Outcome {
    let place = Place::new();
    fs::create_dir(place.path("tree")).unwrap();
    let tree = place.path("tree");
    for name in [&b"a\nb"[..], b"\xff\xfe", b"back\\slash", b"\x1b[31m", "ä".as_bytes()] {
        fs::write(tree.join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    place.output(&["import", "--quiet", "store", "tree"]);
    let events = json_lines(&place.output(&["log", "--store", "store", "--json"]));
    for name in ["a\\x0ab", "\\xff\\xfe", "back\\\\slash", "\\x1b[31m", "ä"] {
        assert!(events.iter().any(|event| event["path"] == name), "{name}: {events:?}");
    }
    let text = place.output(&["log", "--store", "store"]);
    assert_eq!(text.lines().count(), events.len());
    assert!(!text.contains('\x1b'), "a name must not colour the terminal");
    let mut command = place.command(&["log", "--store", "store", "--json"]);
    let output = finished(command.arg(std::ffi::OsStr::from_bytes(b"\xff\xfe")));
    let found = json_lines(&String::from_utf8(output.stdout).unwrap());
    assert!(
        found.len() >= 2 && found.iter().all(|event| event["path"] == "\\xff\\xfe"),
        "{found:?}"
    );
    Ok(())
}

fn log_since_takes_numbers_and_times() -> Outcome {
    let place = imported();
    let since = |when: &str| {
        json_lines(&place.output(&["log", "--store", "store", "--json", "--since", when]))
    };
    let all = json_lines(&place.output(&["log", "--store", "store", "--json"]));
    let middle = all[all.len() / 2]["seq"].as_u64().unwrap();
    let after: Vec<Value> =
        all.iter().filter(|event| event["seq"].as_u64().unwrap() > middle).cloned().collect();
    assert_eq!(since(&format!("@{middle}")), after);
    for long_ago in ["10min-ago", "2020-01-31T12:00:00Z", "2020-01-31"] {
        assert_eq!(since(long_ago), all, "{long_ago}");
    }
    assert_eq!(since("2200-01-01T00:00:00Z"), [] as [Value; 0]);
    let line = place.refusal(&["log", "--store", "store", "--since", "yesterday-ish"]);
    assert!(line.contains("\"yesterday-ish\" is no moment: give @SEQUENCE"), "{line}");
    Ok(())
}

fn log_follows_a_path_and_its_service() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let _server = place.served();
    place.shell("cd at/current && mkdir d && echo 1 > d/one && echo 2 > two");
    let below =
        place.shell(&format!("cd at/current/d && {} log --json", crate::fixture::program()));
    let paths: Vec<Value> = json_lines(&below).iter().map(|event| event["path"].clone()).collect();
    assert_eq!(paths, ["d", "d/one", "d/one"]);
    let line = place.refusal(&["log", "at/history/@3"]);
    assert!(line.contains("is not below current/"), "{line}");
    let mut command = place.command(&["log", "at/current/d", "--json", "--follow", "-n", "1"]);
    let mut follow = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["path"], "d/one");
    place.shell("cd at/current && echo 3 > three && mkdir d/four");
    let new = next();
    assert_eq!((new["what"].as_str().unwrap(), new["path"].as_str().unwrap()), ("mkdir", "d/four"));
    drop(lines);
    assert!(follow.wait().unwrap().success());
    Ok(())
}

fn log_tells_for_whom_a_command_worked_that_ended_at_once() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let _server = place.served();
    place.shell(
        "cd at/current && export LIGHTHOUSE_AGENT=builder && n=0 && \
         while [ $n -lt 20 ]; do mkdir d$n && mv d$n e$n && rmdir e$n || exit; n=$((n + 1)); done",
    );
    let events = json_lines(&place.output(&["log", "--store", "store", "--json"]));
    let known = events.iter().filter(|event| {
        let exe = event["exe"].as_str().unwrap();
        let program = exe.rsplit('/').next().unwrap();
        event["agent"] == "builder" && event["cmdline"][0] == program
    });
    // Of one that has no CPU for milliseconds while another does, it may be that nothing could be read.
    let known = known.count();
    assert!(known >= 54, "{known} of 60: {events:#?}");
    Ok(())
}

fn status_tells_closed_from_in_service_from_killed() -> Outcome {
    let place = imported();
    let closed = place.status("store");
    assert_eq!((&closed["state"], &closed["served_by"]), (&"closed".into(), &Value::Null));
    assert_eq!(closed["store"], place.text("store"));
    assert!(
        closed["last"].as_u64().unwrap() > 5 && closed["horizon"].as_u64() > Some(0),
        "{closed}"
    );
    assert!(place.output(&["status", "store"]).contains("state      closed"));
    needs_root_and_device()?;
    let mut server = place.served();
    let served = place.status("store");
    assert_eq!(served["state"], "in service");
    assert_eq!(served["served_by"], server.pid());
    assert_eq!(served["mounted_at"][0], place.text("at"));
    place.shell("mkdir at/current/new");
    assert_eq!(place.last("store"), closed["last"].as_u64().unwrap() + 1);
    assert!(place.output(&["verify", "store"]).contains("0 damaged"));
    server.kill();
    let killed = place.status("store");
    assert_eq!((&killed["state"], &killed["served_by"]), (&"not closed".into(), &Value::Null));
    assert_eq!(killed["last"].as_u64().unwrap(), closed["last"].as_u64().unwrap() + 1);
    Ok(())
}

fn verify_names_the_file_with_a_flipped_bit() -> Outcome {
    let place = imported();
    let whole: Value = serde_json::from_str(&place.output(&["verify", "store", "--json"])).unwrap();
    assert_eq!(whole["damaged"], Value::Array(vec![]));
    for file in ["content/00000001.dat", "log/00000001.seg"] {
        let path = place.path("store").join(file);
        let good = fs::read(&path).unwrap();
        let at = good.iter().rposition(|&byte| byte != 0).unwrap() / 2;
        let mut bad = good.clone();
        bad[at] ^= 4;
        fs::write(&path, bad).unwrap();
        let output = place.run(&["verify", "store"]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(&format!("store/{file}: byte ")), "{said}");
        let json = place.run(&["verify", "store", "--json"]);
        assert_eq!(json.status.code(), Some(3));
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json["damaged"][0]["file"], file);
        let quiet = place.run(&["verify", "--quiet", "store"]);
        assert_eq!(quiet.status.code(), Some(3));
        assert!(!quiet.stdout.is_empty(), "damage is said even so");
        // Whoever does not read to the end gets the same answer.
        let script = format!(
            "({} verify store || echo $? > code) 2> said | true; cat code said",
            crate::fixture::program()
        );
        assert_eq!(place.shell(&script), "3\n");
        fs::write(&path, good).unwrap();
        place.output(&["verify", "store"]);
    }
    Ok(())
}

fn what_a_damaged_log_no_longer_says_is_not_left_out_in_silence() -> Outcome {
    let place = imported();
    let path = place.path("store/log/00000001.seg");
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[good.iter().rposition(|&byte| byte != 0).unwrap() / 2] ^= 4;
    fs::write(&path, bad).unwrap();
    let log = place.run(&["log", "--store", "store"]);
    assert_eq!(log.status.code(), Some(1), "{log:?}");
    let line = String::from_utf8(log.stderr).unwrap();
    assert!(line.contains("log/00000001.seg, byte "), "{line}");
    assert!(!log.stdout.is_empty(), "what comes before it is said all the same");
    // Without an index all that is known is in the log.
    fs::remove_dir_all(place.path("store/index")).unwrap();
    for _ in 0..2 {
        let output = place.run(&["import", "--quiet", "store", "tree"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("damaged at log/00000001.seg, byte "), "{said}");
        assert!(said.contains("verify") && said.contains("backup"), "{said}");
    }
    fs::write(&path, good).unwrap();
    place.output(&["import", "--quiet", "store", "tree"]);
    assert!(place.output(&["log", "--store", "store"]).contains("write readme"));
    Ok(())
}

fn a_store_of_a_newer_version_is_refused_untouched() -> Outcome {
    /// Offsets of the two copies of the superblock in its file, and their length; the version is at
    /// byte 8 of each, the CRC-32C of the rest in the last four.
    const COPIES: [usize; 2] = [0, 4096];
    const LEN: usize = 512;
    let place = imported();
    let mut bytes = fs::read(place.path("store/super")).unwrap();
    for at in COPIES {
        let Some(copy) = bytes.get_mut(at..at + LEN).filter(|copy| copy[8] != 0) else { continue };
        copy[8] = 99;
        let crc = crc32c::crc32c(&copy[..LEN - 4]);
        copy[LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(place.path("store/super"), &bytes).unwrap();
    let before = place.listing();
    for arguments in [
        &["mount", "store", "at"][..],
        &["run", "store", "--", "true"],
        &["import", "store", "tree"],
        &["log", "--store", "store"],
        &["status", "store"],
        &["verify", "store"],
    ] {
        let line = place.refusal(arguments);
        assert!(line.contains("version 99") && line.contains("store"), "{arguments:?}: {line}");
        assert_eq!(place.listing(), before, "{arguments:?}");
    }
    Ok(())
}
