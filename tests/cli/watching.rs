//! `top`, and what a server records of itself when it hangs or is asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Place, needs_root_and_device, within_deadline};
use crate::{Outcome, tests};

tests![
    top_tells_what_a_mount_is_asked_for_and_how_fast_it_answers,
    top_tells_when_a_server_does_not_answer,
    top_is_for_mounts_of_ours,
    a_server_that_is_asked_records_what_it_did,
    a_request_that_hangs_is_told_and_recorded,
    what_was_recorded_is_answered_alike_by_another_store,
    a_recording_over_another_or_of_a_ring_is_refused_with_the_mend,
    a_recording_that_is_none_is_refused_and_nothing_is_made,
];

/// Looks of `top --json`.
fn looks(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let text = place.output(&[&["top", "--json", "--interval", "0.5"], arguments].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn top_tells_what_a_mount_is_asked_for_and_how_fast_it_answers() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.served();
    let makes = "while [ ! -e stop ]; do : > at/current/file; rm at/current/file; done";
    let mut busy = place.under_deadline("sh").args(["-c", makes]).spawn().unwrap();
    let told = looks(&place, &["at", "-n", "2"]);
    let shown = place.output(&["top", "at/current", "-n", "1", "-i", "0.5"]);
    fs::write(place.path("stop"), "").unwrap();
    assert!(busy.wait().unwrap().success());

    assert_eq!(told.len(), 2);
    for look in &told {
        assert!((0.4..20.0).contains(&look["seconds"].as_f64().unwrap()), "{look}");
        let operations = look["operations"].as_array().unwrap();
        let named = |name: &str| operations.iter().find(|line| line["name"] == name).unwrap();
        for name in ["CREATE", "UNLINK"] {
            let number = |key: &str| named(name)[key].as_f64().unwrap();
            assert!(number("per_second") > 0.0, "{look}");
            assert!(0.0 < number("p50_us") && number("p50_us") <= number("p99_us"), "{look}");
            assert!(number("p99_us") <= number("max_us"), "{look}");
        }
        let shares = operations.iter().map(|line| line["share"].as_f64().unwrap());
        assert!((shares.sum::<f64>() - 1.0).abs() < 1e-6, "{look}");
        let all = look["requests_per_second"].as_f64().unwrap();
        assert!(all >= named("CREATE")["per_second"].as_f64().unwrap(), "{look}");
    }
    assert!(shown.starts_with(&place.text("at")) && shown.contains("requests/s"), "{shown}");
    assert!(shown.contains("OPERATION") && shown.contains("CREATE"), "{shown}");
    server.signal(Signal::INT);
    assert!(server.end().0.success());
    Ok(())
}

fn top_tells_when_a_server_does_not_answer() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.served();
    server.signal(Signal::STOP);
    let told = looks(&place, &["at", "-n", "1"]);
    server.signal(Signal::CONT);
    let [silent] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(silent["answers"], false);
    assert!(silent["seconds"].as_f64().unwrap() >= 2.0, "{silent}");
    assert!(silent["waiting"].as_u64().unwrap() >= 1, "{silent}");
    let told = looks(&place, &["at", "-n", "1"]);
    assert!(told[0]["operations"].is_array(), "{told:?}");
    server.signal(Signal::INT);
    assert!(server.end().0.success());
    Ok(())
}

fn top_is_for_mounts_of_ours() -> Outcome {
    let place = Place::new();
    let said = place.refusal(&["top", "."]);
    assert!(said.contains("is in no mount of lighthouse-fuse"), "{said}");
    let said = place.refusal(&["top", "missing"]);
    assert!(said.contains("cannot find missing"), "{said}");
    for wrong in [&["top", "-i", "0"][..], &["top", "-i", "nan"], &["top", "-n", "0"]] {
        assert_eq!(place.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    Ok(())
}

fn a_server_that_is_asked_records_what_it_did() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.served();
    place.shell("mkdir at/current/made; ! mkdir at/refused 2> said");
    server.signal(Signal::USR1);
    let record = place.path("store/flight-record.txt");
    within_deadline(|| fs::metadata(&record).ok().filter(|meta| meta.len() > 0));
    // Written in one piece, or nearly so.
    std::thread::sleep(Duration::from_millis(100));
    let text = fs::read_to_string(&record).unwrap();
    assert!(text.contains(" MKDIR ") && text.contains("LOOKUP"), "{text}");
    assert!(text.contains("errno=30"), "{text}");
    assert_eq!(fs::metadata(&record).unwrap().permissions().mode() & 0o777, 0o600);
    server.signal(Signal::INT);
    assert!(server.end().0.success());
    // The store is none the worse for it.
    place.output(&["verify", "store"]);
    Ok(())
}

/// The inner store lies in the outer mount, whose server stands still for a while: like a disk that hangs.
fn a_request_that_hangs_is_told_and_recorded() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut outer = place.served();
    let mut inner = place.mount(&["at/current/inner", "inner"]);
    outer.signal(Signal::STOP);
    let mut waits = Command::new("timeout");
    waits.args(["30", "mkdir", &place.text("inner/current/made")]).stdin(Stdio::null());
    let mut waits = waits.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(12_500));
    let told = looks(&place, &["inner", "-n", "1"]);
    outer.signal(Signal::CONT);
    assert!(waits.wait().unwrap().success());
    // The other reader answers meanwhile, and tells who waits.
    let waiting = &told[0]["in_flight"][0];
    assert_eq!((&waiting["name"], &waiting["command"]), (&"MKDIR".into(), &"mkdir".into()));
    assert!(waiting["age_us"].as_f64().unwrap() > 10e6, "{waiting}");
    within_deadline(|| {
        let read = place.shell("cat at/current/inner/flight-record.txt || true");
        (read.contains("MKDIR") && read.contains("answered, the oldest first")).then_some(())
    });
    inner.signal(Signal::INT);
    let (status, said) = inner.end();
    assert!(status.success(), "{status}");
    assert!(said.contains("was not answered for 1") && said.contains("MKDIR"), "{said}");
    outer.signal(Signal::INT);
    assert!(outer.end().0.success());
    Ok(())
}

/// What a session does: names, content, links, holes, attributes, refusals, and files that end while they are open.
const SESSION: &str = "cd at/current
    mkdir -p a/b; for i in $(seq 60); do echo line $i > a/file-$i; done
    cat a/file-* > all; ls -l a > listed; mv a/file-1 a/b/moved; ln -s ../all a/link; cat a/link > /dev/null
    ln all a/hard; rm all; truncate -s 3 a/hard; head -c 300000 /dev/zero > a/large; cat a/large > a/copied
    dd if=a/hard of=a/large bs=1 seek=1000 conv=notrunc 2> dd; ! mkdir a; ! rmdir a 2> said
    exec 3> a/gone; rm a/gone; echo more >&3; exec 3>&-; find . | sort > found; rm -r a/b";

fn what_was_recorded_is_answered_alike_by_another_store() -> Outcome {
    needs_root_and_device()?;
    let place = Place::new();
    let mut server = place.mount(&["store", "at", "--record", "recording"]);
    place.shell(SESSION);
    let listing = "cd at/current && find . -type f | sort | xargs sha256sum";
    let recorded = place.shell(listing);
    server.signal(Signal::INT);
    assert!(server.end().0.success());
    assert_eq!(fs::metadata(place.path("recording")).unwrap().permissions().mode() & 0o777, 0o600);

    let told: Value =
        serde_json::from_str(&place.output(&["replay", "recording", "again", "--json"])).unwrap();
    assert_eq!(told["differences"], serde_json::json!([]), "{told}");
    let number = |key: &str| told[key].as_u64().unwrap();
    assert!(number("asked") > 500 && number("compared") > 400, "{told}");
    assert!(number("left_out") * 20 < number("asked"), "{told}");
    let named =
        |name: &str| told["operations"].as_array().unwrap().iter().any(|op| op["name"] == name);
    assert!(named("WRITE") && named("CREATE") && named("READ"), "{told}");
    place.output(&["verify", "again"]);

    // The tree it makes is that of the recording.
    let mut server = place.mount(&["again", "at"]);
    assert_eq!(place.shell(listing), recorded);
    server.signal(Signal::INT);
    assert!(server.end().0.success());

    // Of a store where other things are, answers differ, and it is said which.
    let output = place.run(&["replay", "recording", "again"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("to MKDIR: was done, now is refused with EEXIST"), "{text}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("answers differ"), "{said}");
    Ok(())
}

fn a_recording_over_another_or_of_a_ring_is_refused_with_the_mend() -> Outcome {
    let place = Place::new();
    let wrong = ["mount", "store", "at", "--record", "recording", "--transport", "uring"];
    let output = place.run(&wrong);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("leave out one") && said.lines().count() == 1, "{said}");
    assert!(!place.path("store").exists() && !place.path("at").exists());
    needs_root_and_device()?;
    fs::write(place.path("recording"), "of what went wrong").unwrap();
    let said = place.refusal(&["mount", "store", "at", "--record", "recording"]);
    assert!(said.contains("File exists") && said.contains("name a new file"), "{said}");
    assert_eq!(fs::read_to_string(place.path("recording")).unwrap(), "of what went wrong");
    let said = place.refusal(&["mount", "store", "at", "--record", "none/recording"]);
    assert!(said.contains("make its directory first"), "{said}");
    Ok(())
}

fn a_recording_that_is_none_is_refused_and_nothing_is_made() -> Outcome {
    let place = Place::new();
    fs::write(place.path("text"), "no recording at all").unwrap();
    let said = place.refusal(&["replay", "text", "again"]);
    assert!(said.contains("text") && said.contains("this is no recording"), "{said}");
    let said = place.refusal(&["replay", "missing", "again"]);
    assert!(said.contains("No such file"), "{said}");
    assert!(!place.path("again").exists());
    Ok(())
}
