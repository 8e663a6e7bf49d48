//! A change over HTTP, seen through a mount whose kernel has cached what was there before; and the reverse.

use std::io::BufReader;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::client::{Place, Server, read_chunk, read_head, send};

/// What a shell prints, under a deadline: this process must not hang in a mount of its own server.
#[track_caller]
fn shell(directory: &Path, script: &str) -> String {
    let output = Command::new("timeout")
        .arg("30")
        .args(["sh", "-c", script])
        .current_dir(directory)
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn can_mount() -> bool {
    let can =
        Path::new("/dev/fuse").exists() && lighthouse_fuse::sys::process::may_mount().unwrap();
    if !can {
        eprintln!("SKIPPED: no mount can be made here");
    }
    can
}

/// A place with a server that has mounted, where that can be.
fn mounted() -> Option<(Place, Server)> {
    can_mount().then(|| {
        let place = Place::new();
        let server = Server::start(&mut place.command(true));
        (place, server)
    })
}

#[test]
fn a_change_over_http_shows_at_once_where_the_kernel_has_cached() {
    let Some((place, mut server)) = mounted() else { return };
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/status").json()["components"]["fuse_mount"], "operational");
    let current = place.path("at/current");
    {
        let agent = server.session("a");
        // The kernel knows that there is no such name, and what the directory lists.
        shell(&current, "mkdir d; ls -l . d; ! cat new 2>/dev/null; ! cat d/new 2>/dev/null");
        for n in 0..20 {
            let name = format!("d/new{n}");
            shell(&current, &format!("ls d; ! stat {name} 2>/dev/null"));
            assert_eq!(agent.put(&format!("/files/{name}"), b"one").status, 201);
            let seen =
                shell(&current, &format!("ls d | grep -cx new{n}; stat -c %s {name}; cat {name}"));
            assert_eq!(seen, "1\n3\none", "{name}");
            assert_eq!(agent.put(&format!("/files/{name}"), b"another").status, 204);
            assert_eq!(shell(&current, &format!("stat -c %s {name}; cat {name}")), "7\nanother");
            assert_eq!(agent.put(&format!("/files/{name}"), b"x").status, 204);
            assert_eq!(shell(&current, &format!("stat -c %s {name}; cat {name}")), "1\nx");
            if n % 2 == 0 {
                assert_eq!(agent.ask("DELETE", &format!("/files/{name}"), &[], b"").status, 204);
                shell(&current, &format!("! stat {name} 2>/dev/null; ! ls d | grep -qx new{n}"));
            }
        }
        let to = format!("http://{}/dav/e", server.address());
        assert_eq!(agent.ask("MOVE", "/dav/d/", &[("destination", &to)], b"").status, 201);
        assert_eq!(shell(&current, "ls; ls e | wc -l; cat e/new1"), "e\n10\nx");
        // The reverse: HTTP asks the tree, and caches nothing.
        shell(&current, "echo mounted > m; echo more >> e/new1");
        assert_eq!(agent.get("/files/m").body, b"mounted\n");
        assert_eq!(agent.get("/files/e/new1").body, b"xmore\n");
        // An open file that HTTP takes away stays until it is closed.
        let script = "exec 3< m; echo ready > r; while [ -e r ]; do sleep 0.01; done; cat <&3; stat -L -c %h /proc/self/fd/3";
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| shell(&current, script));
            crate::client::within_deadline(|| (agent.get("/files/r").status == 200).then_some(()));
            assert_eq!(agent.ask("DELETE", "/files/m", &[], b"").status, 204);
            assert_eq!(agent.ask("DELETE", "/files/r", &[], b"").status, 204);
            assert_eq!(reader.join().unwrap(), "mounted\n0\n");
        });
        let metrics = agent.get("/metrics");
        let metrics = metrics.text();
        assert!(
            metrics.contains("lighthouse_fuse_requests_total{operation=\"LOOKUP\"}"),
            "{metrics}"
        );
        for quantile in ["0.5", "0.99", "0.999"] {
            let name = format!(
                "lighthouse_fuse_request_seconds{{operation=\"LOOKUP\",quantile=\"{quantile}\"}} "
            );
            let took = metrics.lines().find_map(|line| line.strip_prefix(&name));
            let took: f64 = took.expect("it is told").parse().unwrap();
            assert!(took > 0.0 && took < 60.0, "{name}{took}");
        }
    }
    server.stop();
    let mounted = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounted.contains(place.path("at").to_str().unwrap()), "{mounted}");
    let verified = crate::client::run(&["verify", "events/store"], &place.path(""));
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn content_that_is_replaced_over_http_loses_its_capabilities() {
    let Some((place, mut server)) = mounted() else { return };
    let current = place.path("at/current");
    {
        let agent = server.session("a");
        let get = "python3 -c 'import os; print(os.listxattr(\"f\"))'";
        // One page travels in an event, more than a MiB is staged and copied.
        for len in [4096, 3 << 20] {
            shell(&current, "rm -f f; head -c 3145728 /dev/zero > f");
            let cap = "0100000200040000000000000000000000000000";
            let set =
                format!("os.setxattr(\"f\", \"security.capability\", bytes.fromhex(\"{cap}\"))");
            shell(&current, &format!("python3 -c 'import os; {set}'"));
            assert!(shell(&current, get).contains("security.capability"));
            let tag = agent.get("/files/f").header("etag").to_owned();
            let body = vec![b'x'; len];
            assert_eq!(agent.ask("PUT", "/files/f", &[("if-match", &tag)], &body).status, 204);
            assert!(!shell(&current, get).contains("security.capability"), "{len}");
            assert_eq!(shell(&current, "stat -c %s f"), format!("{len}\n"));
        }
    }
    server.stop();
}

/// Reads `f` past the cache until there is a `stop`, and says of which letters it was, as `uniq -c` does. By io_submit(2): what
/// read(2) gets is more than one READ where that is shorter than the kernel took the file to be. What is missing comes
/// out of the page cache then (`generic_file_read_iter`), where zeros stand behind a short reply.
const ONE_READ_AT_A_TIME: &str = r#"
import ctypes, itertools, mmap, os, struct
setup, submit, events = {"x86_64": (206, 209, 208), "aarch64": (0, 2, 4)}[os.uname().machine]
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    done = libc.syscall(*arguments)
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done
context = ctypes.c_ulong(0)
call(setup, 1, ctypes.byref(context))
buffer = mmap.mmap(-1, 128 << 10)
at = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
while not os.path.exists("stop"):
    file = os.open("f", os.O_RDONLY | os.O_DIRECT)
    one = ctypes.create_string_buffer(
        struct.pack("QIiHhIQQqQII", 0, 0, 0, 0, 0, file, at, len(buffer), 0, 0, 0, 0))
    call(submit, context, ctypes.c_long(1), ctypes.byref(ctypes.c_void_p(ctypes.addressof(one))))
    event = ctypes.create_string_buffer(32)
    call(events, context, ctypes.c_long(1), ctypes.c_long(1), event, None)
    length = struct.unpack("QQqq", event)[2]
    if length < 0:
        raise OSError(-length, os.strerror(-length))
    os.close(file)
    for letter, same in itertools.groupby(sorted(buffer[:length])):
        print(len(list(same)), chr(letter))
"#;

#[test]
fn nobody_reads_a_mixture_of_what_was_there_and_what_is_put_there() {
    let Some((place, mut server)) = mounted() else { return };
    let current = place.path("at/current");
    {
        let agent = server.session("a");
        // So long that one request reads all of it.
        let contents: Vec<_> = crate::files::CONTENTS.into_iter().take(2).flatten().collect();
        let first = agent.put("/files/f", &[b'A'; 4000]).header("lighthouse-sequence").to_owned();
        // What a program reads at a time, and not what the kernel kept of it from different times.
        let script = format!("python3 -c '{ONE_READ_AT_A_TIME}'");
        std::thread::scope(|scope| {
            let mounted = scope.spawn(|| shell(&current, &script));
            let got = scope.spawn(|| {
                while agent.get("/files/stop").status == 404 {
                    let got = agent.get("/files/f").body;
                    assert!(crate::files::is_whole(&got), "{} bytes", got.len());
                }
            });
            for _ in 0..60 {
                for &(letter, len) in &contents {
                    assert_eq!(agent.put("/files/f", &vec![letter; len]).status, 204);
                    // Once it is answered, whatever the kernel kept is gone.
                    assert_eq!(std::fs::metadata(current.join("f")).unwrap().len(), len as u64);
                }
            }
            assert_eq!(agent.put("/files/stop", b"").status, 201);
            got.join().unwrap();
            let mut read = 0;
            for line in mounted.join().unwrap().lines() {
                let (len, letter) = line.trim().split_once(' ').unwrap();
                let whole = (letter.as_bytes()[0], len.parse().unwrap());
                assert!(contents.contains(&whole), "{line}");
                read += 1;
            }
            assert!(read > 5, "{read}");
        });
        // And in the past: after each event.
        let last = agent.get("/files/").header("lighthouse-sequence").to_owned();
        let script = format!(
            "for n in $(seq {first} {last}); do fold -w1 ../history/@$n/f | sort | uniq -c; done"
        );
        for line in shell(&current, &script).lines() {
            let (len, letter) = line.trim().split_once(' ').unwrap();
            let whole = (letter.as_bytes()[0], len.parse().unwrap());
            assert!(contents.contains(&whole), "{line}");
        }
    }
    server.stop();
}

#[test]
fn who_appends_does_so_behind_what_http_wrote_meanwhile() {
    let Some((place, mut server)) = mounted() else { return };
    let current = place.path("at/current");
    let agent = server.session("a");
    let before = "before ".repeat(20);
    for (n, replaced) in ["longer ".repeat(40), "short ".to_owned()].iter().enumerate() {
        let (log, ready) = (format!("log{n}"), format!("ready{n}"));
        assert_eq!(agent.put(&format!("/files/{log}"), before.as_bytes()).status, 201);
        // The kernel knows how long the file is, and is not asked again.
        let script = format!(
            "exec 3>>{log}; printf x >&3; echo > {ready}; while [ -e {ready} ]; do sleep 0.01; done; \
             printf one >&3; printf two >&3"
        );
        std::thread::scope(|scope| {
            let appends = scope.spawn(|| shell(&current, &script));
            let there = || agent.get(&format!("/files/{ready}")).status == 200;
            crate::client::within_deadline(|| there().then_some(()));
            assert_eq!(agent.put(&format!("/files/{log}"), replaced.as_bytes()).status, 204);
            assert_eq!(agent.ask("DELETE", &format!("/files/{ready}"), &[], b"").status, 204);
            appends.join().unwrap();
        });
        let expected = format!("{replaced}onetwo");
        assert_eq!(agent.get(&format!("/files/{log}")).text(), expected);
        // What the kernel kept where it took the end to be goes as soon as it is told.
        crate::client::within_deadline(|| {
            (shell(&current, &format!("cat {log}")) == expected).then_some(())
        });
    }
    server.stop();
}

#[test]
fn a_name_made_over_http_stays_a_name_for_who_works_there() {
    let Some((place, mut server)) = mounted() else { return };
    let current = place.path("at/current");
    let agent = server.session("a");
    assert_eq!(agent.put("/files/job/f?parents=true", b"x").status, 201);
    // Longer than it takes until the kernel is told once more.
    let here = shell(&current.join("job"), "for n in $(seq 30); do sleep 0.1; /bin/pwd; done");
    let expected = format!("{}\n", current.join("job").display());
    assert_eq!(here, expected.repeat(30));
    server.stop();
}

#[test]
fn what_the_bridge_left_at_the_mount_point_is_mounted_over() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    shell(
        &place.path(""),
        "mkdir -p at/streams at/experts/sessions; mkfifo at/streams/file_changes",
    );
    let mut server = Server::start(&mut place.command(true));
    assert_eq!(server.get("/health").json()["status"], "healthy");
    assert_eq!(shell(&place.path("at"), "ls -d current history"), "current\nhistory\n");
    server.stop();
}

#[test]
fn an_aborted_mount_turns_health_red_and_http_goes_on() {
    let Some((place, server)) = mounted() else { return };
    let table = lighthouse_fuse::transport::mount_table::read().unwrap();
    let entry =
        lighthouse_fuse::transport::mount_table::topmost(&table, &place.path("at")).unwrap();
    lighthouse_fuse::transport::unmount::abort(entry.minor).unwrap();
    crate::client::within_deadline(|| (server.get("/health").status == 503).then_some(()));
    let said = server.get("/health").json();
    assert_eq!(said["status"], "degraded", "{said}");
    let agent = server.session("a");
    assert_eq!(agent.put("/files/f", b"x").status, 201);
    assert_eq!(agent.get("/files/f").body, b"x");
}

#[test]
fn a_mount_that_ends_late_leaves_alone_what_was_mounted_in_its_place() {
    let Some((place, mut server)) = mounted() else { return };
    let at = place.path("at");
    let mut inside =
        Command::new("sleep").arg("60").current_dir(at.join("current")).spawn().unwrap();
    let ours = |arguments: &[&str]| {
        let out = crate::client::run(arguments, &place.path(""));
        assert!(out.status.success(), "{arguments:?}: {out:?}");
    };
    ours(&["umount", "--lazy", "at"]);
    ours(&["mount", "another", "at", "--background"]);
    inside.kill().unwrap();
    inside.wait().unwrap();
    crate::client::within_deadline(|| (server.get("/health").status == 503).then_some(()));
    assert_eq!(shell(&at, "ls -d current history"), "current\nhistory\n");
    server.stop();
    assert_eq!(shell(&at, "ls -d current history"), "current\nhistory\n");
    ours(&["umount", "at"]);
}

#[test]
fn the_mount_and_http_change_one_tree_at_once_and_agree() {
    let Some((place, mut server)) = mounted() else { return };
    let current = place.path("at/current");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            shell(&current, "for n in $(seq 60); do mkdir -p m$((n % 5)); echo $n > m$((n % 5))/f$((n % 7)); \
                rm -f h/f$((n % 6)); mv m$((n % 5))/f$((n % 7)) m0/g 2>/dev/null; ls -lR . > /dev/null 2>&1; done; true");
        });
        scope.spawn(|| {
            let agent = server.session("http");
            for n in 0..200 {
                agent
                    .put(&format!("/files/h/f{}?parents=true", n % 6), format!("{n}\n").as_bytes());
                agent.ask("DELETE", &format!("/files/m{}/f{}", n % 5, n % 7), &[], b"");
                agent.put(&format!("/files/m0/f{}", n % 7), &vec![b'x'; n * 40]);
            }
        });
    });
    // What was told while a lookup was under way is told once more.
    std::thread::sleep(Duration::from_millis(2500));
    let seen = shell(
        &current,
        "find . -mindepth 1 -type f -exec sha256sum {} + | sort -k2; find . -type d | sort",
    );
    server.stop();
    let out = place.path("fresh");
    std::fs::create_dir(&out).unwrap();
    let server = Server::start(&mut place.command(true));
    let fresh = shell(
        &current,
        "find . -mindepth 1 -type f -exec sha256sum {} + | sort -k2; find . -type d | sort",
    );
    assert_eq!(seen, fresh);
    drop(server);
}

#[test]
fn a_context_package_is_a_directory_of_the_mount_until_it_is_taken_away() {
    let Some((place, mut server)) = mounted() else { return };
    let root = place.path("at");
    {
        let agent = server.session("a");
        shell(&root, "echo then > current/f; ls context; ! stat context/one 2>/dev/null");
        let new = serde_json::json!({
            "package_id": "one", "request_id": "r", "agent_capabilities": ["review"],
            "files_involved": ["/f", "/none"], "context_data": {"why": "because"},
        });
        let body = new.to_string();
        let json = [("content-type", "application/json")];
        let made = agent.ask("POST", "/context/packages", &json, body.as_bytes());
        assert_eq!(made.status, 201, "{made:?}");
        assert_eq!(made.header("location"), "/context/packages/one");
        let again = agent.ask("POST", "/context/packages", &json, body.as_bytes());
        assert_eq!(again.status, 409);
        shell(&root, "echo now > current/f");
        assert_eq!(
            shell(&root, "ls context; ls context/one"),
            "one\ncontext.json\nfiles.json\nmanifest.json\n"
        );
        let read = |name: &str| -> serde_json::Value {
            serde_json::from_str(&shell(&root, &format!("cat context/one/{name}"))).unwrap()
        };
        assert_eq!(read("files.json"), serde_json::json!({"/f": "then\n"}));
        assert_eq!(read("context.json"), serde_json::json!({"why": "because"}));
        assert_eq!(read("manifest.json")["request_id"], "r");
        let listed = agent.get("/context/packages").json();
        assert_eq!(listed["count"], 1);
        assert_eq!(agent.get("/context/packages/one").json()["package_id"], "one");
        assert_eq!(agent.ask("DELETE", "/context/packages/one", &[], b"").status, 204);
        assert_eq!(agent.ask("DELETE", "/context/packages/one", &[], b"").status, 404);
        shell(&root, "! stat context/one 2>/dev/null; test -z \"$(ls context)\"");
        for (wrong, status) in [
            ("{}", 422),
            (r#"{"package_id": "a/b"}"#, 400),
            (r#"{"package_id": "x", "files_involved": [5]}"#, 422),
            (r#"{"package_id": "x", "files_involved": ["/../x"]}"#, 400),
            (r#"{"package_id": "x", "expires_at": "soon"}"#, 400),
        ] {
            let answer = agent.ask("POST", "/context/packages", &json, wrong.as_bytes());
            assert_eq!(answer.status, status, "{wrong}");
        }
    }
    server.stop();
}

#[test]
fn a_version_that_ends_is_told_at_once_to_who_came_after_its_last_write() {
    let Some((place, server)) = mounted() else { return };
    let agent = server.session("a");
    for n in 0..10 {
        let mut writer = Command::new("timeout")
            .args(["30", "sh", "-c", "exec 3> f$0; printf x >&3; read line"])
            .arg(n.to_string())
            .current_dir(place.path("at/current"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let path = format!("/files/f{n}");
        crate::client::within_deadline(|| (agent.get(&path).body == b"x").then_some(()));
        let mut stream = server.connect();
        send(&mut stream, "GET", "/events/stream", &[("authorization", &agent.bearer())], b"");
        let mut reader = BufReader::new(stream);
        assert_eq!(read_head(&mut reader).0, 200);
        let mut next = || String::from_utf8(read_chunk(&mut reader).unwrap()).unwrap();
        // After a silence of two seconds it would have ended by itself.
        let came_late = next().lines().any(|line| line.starts_with("id: ") && line.contains('.'));
        let closed = Instant::now();
        drop(writer.stdin.take());
        if !came_late {
            let told = next();
            let waited = closed.elapsed();
            assert!(told.contains("event: file_modified\n"), "{told}");
            assert!(told.contains(&format!("\"/f{n}\"")), "{told}");
            assert!(waited < Duration::from_secs(10), "{waited:?}");
        }
        // What the shell says of the end of its input does not matter.
        writer.wait().unwrap();
        if !came_late {
            return;
        }
    }
    panic!("ten times it took two seconds to connect");
}

/// `lighthouse-fuse hand-over` at work.
struct Mounter(Child);

impl Mounter {
    fn start(place: &Place) -> Self {
        let mut command = Command::new(crate::client::program());
        command.args(["--quiet", "hand-over"]).arg(place.path("socket")).arg(place.path("at"));
        lighthouse_fuse::sys::process::die_with_parent(&mut command);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        let status = crate::client::within_deadline(|| self.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Mounter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_process_mounts_and_another_one_serves() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mounts = || {
        let table = lighthouse_fuse::transport::mount_table::read().unwrap();
        table.iter().filter(|entry| entry.mountpoint == place.path("at")).count()
    };
    let healthy = |server: &Server| {
        crate::client::within_deadline(|| (server.get("/health").status == 200).then_some(()));
    };
    let serve = || {
        let mut command = place.command(true);
        Server::start_early(command.env("LIGHTHOUSE_FD_SOCKET", place.path("socket")))
    };
    let current = place.path("at/current");
    let mut server = serve();
    // It waits for whoever mounts, and serves meanwhile.
    crate::client::within_deadline(|| {
        (server.get("/health").json()["status"] == "degraded").then_some(())
    });
    assert_eq!(server.session("a").put("/files/early", b"early").status, 201);
    let mut mounter = Mounter::start(&place);
    healthy(&server);
    assert_eq!(shell(&current, "cat early; echo mounted > late; cat late"), "earlymounted\n");

    // Another one gets nothing as long as this one serves, and nobody listens on the same socket.
    let out = crate::client::run(
        &["hand-over", place.path("socket").to_str().unwrap(), place.path("at").to_str().unwrap()],
        &place.path(""),
    );
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let device = lighthouse_fuse::transport::device::HandedOver::take(
        &place.path("socket"),
        crate::client::DEADLINE,
    );
    assert!(device.is_err(), "{device:?}");

    // A killed server leaves no dead mount, even where somebody is in it.
    let mut inside = Command::new("sleep").arg("60").current_dir(&current).spawn().unwrap();
    server.signal(Signal::KILL);
    server.child.wait().unwrap();
    crate::client::within_deadline(|| (mounts() == 0).then_some(()));
    inside.kill().unwrap();
    inside.wait().unwrap();
    let mut server = serve();
    healthy(&server);
    assert_eq!(mounts(), 1);
    assert_eq!(shell(&current, "cat late"), "mounted\n");

    // One that mounts and is stopped takes the mount along; the server takes the next one's.
    mounter.stop();
    assert_eq!(mounts(), 0);
    crate::client::within_deadline(|| (server.get("/health").status == 503).then_some(()));
    assert_eq!(server.session("a").put("/files/between", b"between").status, 201);
    let mut mounter = Mounter::start(&place);
    healthy(&server);
    assert_eq!(shell(&current, "cat between late"), "betweenmounted\n");
    let metrics = server.session("a").get("/metrics");
    assert!(metrics.text().contains("operation=\"LOOKUP\""), "{}", metrics.text());

    // The server ends first: whoever is in the mount may leave it, and is answered until then.
    let script = "echo ready > ready; while [ -e ready ]; do sleep 0.01; done; sleep 0.5; cat late";
    std::thread::scope(|scope| {
        let user = scope.spawn(|| shell(&current, script));
        let agent = server.session("a");
        crate::client::within_deadline(|| (agent.get("/files/ready").status == 200).then_some(()));
        assert_eq!(agent.ask("DELETE", "/files/ready", &[], b"").status, 204);
        drop(agent);
        server.signal(Signal::TERM);
        assert_eq!(user.join().unwrap(), "mounted\n");
    });
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said}");
    crate::client::within_deadline(|| (mounts() == 0).then_some(()));
    mounter.stop();
    assert!(!place.path("socket").exists());
}

#[test]
fn processes_in_the_namespace_of_who_mounted_are_not_taken_for_ours() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mut serve = place.command(true);
    let mut server = Server::start_early(serve.env("LIGHTHOUSE_FD_SOCKET", place.path("socket")));
    // Process 1 of its namespace, as which the kernel names it to the server: that has another one.
    let script = "\"$0\" --quiet hand-over socket at & \
        until [ -e go ]; do sleep 0.02; done; echo x > at/current/inside; \
        echo me > at/.agent && echo > claimed; echo > done; wait";
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "sh", "-c", script]);
    command.arg(crate::client::program()).current_dir(place.path(""));
    lighthouse_fuse::sys::process::die_with_parent(&mut command);
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _mounter = Mounter(command.spawn().unwrap());
    crate::client::within_deadline(|| (server.get("/health").status == 200).then_some(()));
    std::fs::write(place.path("go"), "").unwrap();
    crate::client::within_deadline(|| place.path("done").exists().then_some(()));
    assert!(!place.path("claimed").exists(), "our process 1 is somebody's agent now");
    shell(&place.path("at/current"), "echo x > outside");
    let said = server.stop();
    assert!(said.contains("whoever mounted is in another process namespace"), "{said}");
    let log = place.log();
    for name in ["inside", "outside"] {
        let events =
            log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let by: Vec<_> = events.filter(|event| event["path"] == name).collect();
        assert!(!by.is_empty(), "{log}");
        for event in by {
            assert_eq!(event["pid"], 0, "{event}");
            assert_eq!(event["exe"], "", "{event}");
            assert_eq!(event["uid"], rustix::process::geteuid().as_raw(), "{event}");
        }
    }
}

#[test]
fn a_mount_on_top_has_time_to_go_and_the_store_is_closed_whatever_it_does() {
    if !can_mount() {
        return;
    }
    for goes in [true, false] {
        let place = Place::new();
        let mut server = Server::start(&mut place.command(true));
        shell(&place.path(""), "mount -t tmpfs none at");
        server.signal(Signal::TERM);
        if goes {
            std::thread::sleep(Duration::from_secs(1));
            shell(&place.path(""), "umount at");
        }
        let (code, said) = server.end();
        assert!(said.contains("another mount is on top of"), "{said}");
        assert_eq!(code, Some(if goes { 0 } else { 1 }), "{said}");
        let status = crate::client::run(&["status", "events/store", "--json"], &place.path(""));
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        assert_eq!(status["state"], "closed", "{status}");
    }
}
