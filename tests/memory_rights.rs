//! Who may, over the kernel in memory: sessions that are demanded, and what a policy closes. The processes are real ones,
//! so that they say of themselves what processes say.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/waiting.rs"]
mod waiting;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use lighthouse_fuse::agents::Agents;
use lighthouse_fuse::agents::guard::{Guard, Sessions};
use lighthouse_fuse::agents::policy::Policy;
use lighthouse_fuse::legacy::context::{NewPackage, Packages};
use lighthouse_fuse::proto::types::Errno;
use lighthouse_fuse::server::{Config, serve};
use lighthouse_fuse::store::{CreateOptions, OpenOptions, Store};
use lighthouse_fuse::transport::memory::{self, Kernel, Options, User};
use lighthouse_fuse::tree::{Origin, Timestamp, Tree};
use lighthouse_fuse::view::{self, View};
use tempfile::TempDir;

use waiting::Waiting;

const O_RDONLY: u32 = 0;
const O_RDWR: u32 = 0o2;
const O_CREAT: u32 = 0o100;
const O_TMPFILE: u32 = 0o20_200_000;

struct Mounted {
    kernel: Kernel,
    tree: Tree,
    server: JoinHandle<()>,
    _dir: TempDir,
}

fn mount(guard: Guard) -> Mounted {
    let dir = tempfile::tempdir().unwrap();
    let open = OpenOptions { sync_interval: None, memory: 64 << 20, ..OpenOptions::default() };
    let store = Arc::new(Store::create(dir.path(), &CreateOptions::default(), &open).unwrap());
    let (kernel, device) = memory::pair(Options::default());
    let tree = Tree::new(Arc::clone(&store));
    let server = thread::spawn(move || {
        let agents = Agents::guarded(Arc::clone(&store), Arc::new(guard));
        let shown = view::Options { sections: true, ..view::Options::default() };
        let view = View::new(Tree::new(store), agents, shown);
        serve(&device, &view, Config { readers: 2, ..Config::default() }).expect("it ends well");
    });
    kernel.mount().expect("INIT is answered");
    Mounted { kernel, tree, server, _dir: dir }
}

impl Mounted {
    /// The superuser, in a process that has these variables.
    fn user(&self, process: &Waiting) -> User {
        self.kernel.as_user(0, 0, &[], 0o022, process.id())
    }

    fn package(&self, id: &str, files: &[&str]) {
        let new = NewPackage {
            package_id: id.to_owned(),
            files_involved: files.iter().map(|&file| file.to_owned()).collect(),
            ..NewPackage::default()
        };
        Packages::new(&self.tree).make(Origin::default(), &new, Timestamp(0)).unwrap();
    }

    #[track_caller]
    fn unmount(self) {
        self.kernel.unmount();
        self.server.join().expect("no panic");
    }
}

/// Everything that opens, makes or changes something below `d`, where `d/f` and `d/sub` are. What was done is undone.
fn attempts(user: &User) -> Vec<(&'static str, Result<(), Errno>)> {
    let mut all = Vec::new();
    let mut tried = |what, result| all.push((what, result));
    let opened = |path, flags| user.open(path, flags, 0o644).and_then(|fd| user.close(fd));
    tried("open for reading", opened("/current/d/f", O_RDONLY));
    tried("open for writing", opened("/current/d/f", O_RDWR));
    tried("create", opened("/current/d/new", O_RDWR | O_CREAT));
    tried("unlink", user.unlink("/current/d/new"));
    tried("open without a name", opened("/current/d", O_RDWR | O_TMPFILE));
    tried("mkdir", user.mkdir("/current/d/dir", 0o755));
    tried("rename", user.rename("/current/d/dir", "/current/d/moved"));
    tried("rmdir", user.rmdir("/current/d/moved"));
    tried("mknod", user.mknod("/current/d/fifo", 0o010_644, 0));
    let _ = user.unlink("/current/d/fifo");
    tried("symlink", user.symlink("f", "/current/d/link"));
    let _ = user.unlink("/current/d/link");
    tried("link", user.link("/current/d/f", "/current/d/second"));
    let _ = user.unlink("/current/d/second");
    tried("chmod", user.chmod("/current/d/f", 0o600));
    tried("truncate", user.truncate("/current/d/f", 1));
    tried("set an attribute", user.set_xattr("/current/d/f", "user.a", b"b", 0));
    tried("remove an attribute", user.remove_xattr("/current/d/f", "user.a"));
    all
}

fn errors(user: &User) -> Vec<&'static str> {
    let refused = |(what, result): (_, Result<(), Errno>)| match result {
        Ok(()) => None,
        // What could not be made is not there to be moved or taken away.
        Err(Errno::ENOENT) if ["unlink", "rename", "rmdir"].contains(&what) => Some(what),
        Err(errno) => {
            assert_eq!(errno, Errno::EACCES, "{what}");
            Some(what)
        }
    };
    attempts(user).into_iter().filter_map(refused).collect()
}

fn prepare(user: &User) {
    user.mkdir("/current/d", 0o755).unwrap();
    user.write_file("/current/d/f", b"content", 0o644).unwrap();
}

fn known() -> Option<Sessions> {
    Some(Box::new(|token| (token == "a token").then(|| "builder-1".to_owned())))
}

#[test]
fn without_a_session_nothing_is_opened_made_or_changed_where_one_is_demanded() {
    let mounted = mount(Guard::new(true, Policy::default(), known()));
    let with = Waiting::with(&[("LIGHTHOUSE_SESSION", "a token")]);
    let agent = mounted.user(&with);
    prepare(&agent);
    assert_eq!(errors(&agent), [""; 0]);
    for variables in [
        &[][..],
        &[("LIGHTHOUSE_AGENT", "builder-1")],
        &[("LIGHTHOUSE_SESSION", "another token"), ("LIGHTHOUSE_AGENT", "builder-1")],
    ] {
        let process = Waiting::with(variables);
        let user = mounted.user(&process);
        assert_eq!(errors(&user).len(), attempts(&user).len(), "{variables:?}");
        // Looking is no opening: the kernel gives out what it has cached to everybody.
        assert_eq!(user.stat("/current/d/f").unwrap().size, 1);
        assert!(user.list("/current/d").unwrap().iter().any(|entry| entry.name == b"f"));
        assert_eq!(user.read_file("/history/@4/d/f"), Err(Errno::EACCES));
        assert_eq!(user.read_file("/debug/health.json"), Err(Errno::EACCES));
        assert_eq!(user.mkdir("/history/label", 0o755), Err(Errno::EACCES));
        assert_eq!(user.unlink("/current/d/f"), Err(Errno::EACCES));
        assert_eq!(user.rename("/current/d/f", "/current/d/g"), Err(Errno::EACCES));
        assert_eq!(user.rmdir("/current/d"), Err(Errno::EACCES));
    }
    // A process nobody can see is nobody.
    let nobody = mounted.kernel.as_user(0, 0, &[], 0o022, 0);
    assert_eq!(nobody.read_file("/current/d/f"), Err(Errno::EACCES));
    assert!(agent.read_file("/debug/health.json").is_ok());
    agent.mkdir("/history/label", 0o755).unwrap();
    agent.rmdir("/history/label").unwrap();
    mounted.unmount();
}

#[test]
fn by_default_a_policy_closes_only_what_it_names() {
    let policy = "builder-* /current/d filesystem_read\n\
                  - /current/d filesystem_read filesystem_write\n\
                  rogue / none\n\
                  builder-1 /current/d/sub none\n\
                  builder-1 /streams none\n";
    let mounted = mount(Guard::new(false, Policy::parse(policy).unwrap(), None));
    let (own, builder) = (Waiting::with(&[]), Waiting::with(&[("LIGHTHOUSE_AGENT", "builder-1")]));
    let rogue = Waiting::with(&[("LIGHTHOUSE_AGENT", "rogue")]);
    let (own, builder, rogue) = (mounted.user(&own), mounted.user(&builder), mounted.user(&rogue));
    prepare(&own);
    own.mkdir("/current/d/sub", 0o755).unwrap();
    own.write_file("/current/d/sub/secret", b"secret", 0o644).unwrap();
    own.write_file("/current/other", b"other", 0o644).unwrap();
    assert_eq!(errors(&own), [""; 0]);
    // Whoever may read may do that, and nothing else.
    assert_eq!(errors(&builder).len(), attempts(&builder).len() - 1);
    assert_eq!(builder.read_file("/current/d/f").unwrap(), b"c");
    assert_eq!(builder.read_file("/current/d/sub/secret"), Err(Errno::EACCES));
    let last = own.xattr("/current", "user.lighthouse.seq").unwrap();
    let last = String::from_utf8(last).unwrap();
    let past = format!("/history/@{last}/d");
    assert_eq!(builder.read_file(format!("{past}/sub/secret")), Err(Errno::EACCES));
    assert_eq!(builder.read_file("/shadows/d/sub/secret"), Err(Errno::EACCES));
    assert_eq!(builder.read_file(format!("{past}/f")).unwrap(), b"c");
    assert!(builder.read_file("/shadows/d/f").is_ok());
    assert_eq!(builder.read_file("/streams/file_changes"), Err(Errno::EACCES));
    assert!(own.read_file("/streams/file_changes").is_ok());
    // Where no rule is, nothing is closed.
    builder.write_file("/current/other", b"changed", 0o644).unwrap();
    builder.mkdir("/current/builders", 0o755).unwrap();
    assert_eq!(builder.read_file("/current/builders/none"), Err(Errno::ENOENT));
    assert_eq!(rogue.read_file("/current/other"), Err(Errno::EACCES));
    assert_eq!(rogue.mkdir("/current/rogues", 0o755), Err(Errno::EACCES));
    assert_eq!(rogue.read_file("/debug/health.json"), Err(Errno::EACCES));
    mounted.unmount();
}

#[test]
fn a_closed_place_is_not_opened_by_moving_or_naming_it_otherwise() {
    let policy = "agent /current/shut none\nagent /current/a/b/shut none";
    let mounted = mount(Guard::new(false, Policy::parse(policy).unwrap(), None));
    let (own, agent) = (Waiting::with(&[]), Waiting::with(&[("LIGHTHOUSE_AGENT", "agent")]));
    let (own, agent) = (mounted.user(&own), mounted.user(&agent));
    for dir in ["/current/shut", "/current/a", "/current/a/b", "/current/a/b/shut", "/current/e"] {
        own.mkdir(dir, 0o755).unwrap();
    }
    own.write_file("/current/shut/f", b"shut", 0o644).unwrap();
    own.write_file("/current/a/b/shut/f", b"shut", 0o644).unwrap();
    own.write_file("/current/a/open", b"open", 0o644).unwrap();
    let refused = Err(Errno::EACCES);
    assert_eq!(agent.rename("/current/shut/f", "/current/f"), refused);
    assert_eq!(agent.rename("/current/shut", "/current/open"), refused);
    assert_eq!(agent.rename("/current/a", "/current/z"), refused, "what it holds moves too");
    assert_eq!(agent.rename("/current/a/b", "/current/b"), refused);
    assert_eq!(agent.link("/current/shut/f", "/current/f"), refused);
    assert_eq!(agent.rename("/current/a/open", "/current/shut/open"), refused);
    assert_eq!(agent.rename_with("/current/e", "/current/shut", 2), refused, "exchanged");
    agent.rename("/current/a/open", "/current/a/b/open").unwrap();
    // A second name somebody else gave it does not open it either.
    own.link("/current/shut/f", "/current/e/f").unwrap();
    assert_eq!(agent.read_file("/current/e/f").map(drop), refused);
    own.unlink("/current/shut/f").unwrap();
    assert_eq!(agent.read_file("/current/e/f").unwrap(), b"shut");
    // What is open stays so, wherever it goes.
    let fd = agent.open("/current/e/f", O_RDWR, 0).unwrap();
    own.rename("/current/e/f", "/current/shut/f").unwrap();
    agent.pwrite(fd, b"SHUT", 0).unwrap();
    agent.truncate_fd(fd, 2).unwrap();
    agent.close(fd).unwrap();
    assert_eq!(own.read_file("/current/shut/f").unwrap(), b"SH");
    mounted.unmount();
}

#[test]
fn a_package_shows_nobody_what_a_policy_closes_to_them() {
    let policy = "agent /current/shut none\nagent /current/second none\nreviewer / context_access";
    let mounted = mount(Guard::new(false, Policy::parse(policy).unwrap(), None));
    let own = Waiting::with(&[]);
    let agent = Waiting::with(&[("LIGHTHOUSE_AGENT", "agent")]);
    let reviewer = Waiting::with(&[("LIGHTHOUSE_AGENT", "reviewer")]);
    let own = mounted.user(&own);
    let (agent, reviewer) = (mounted.user(&agent), mounted.user(&reviewer));
    own.mkdir("/current/shut", 0o755).unwrap();
    own.write_file("/current/shut/f", b"shut", 0o644).unwrap();
    own.write_file("/current/open", b"open", 0o644).unwrap();
    own.write_file("/current/named", b"named", 0o644).unwrap();
    own.link("/current/named", "/current/second").unwrap();
    mounted.package("open", &["/open", "/missing"]);
    mounted.package("both", &["/open", "//./shut/f"]);
    mounted.package("named", &["/named"]);
    // A name that is closed is, whether or not there is anything.
    mounted.package("missing", &["/shut/missing"]);
    own.rename("/current/shut/f", "/current/f").unwrap();
    own.unlink("/current/second").unwrap();
    let read = |user: &User, id: &str| user.read_file(format!("/context/{id}/files.json"));
    for id in ["open", "both", "named", "missing"] {
        assert!(read(&own, id).is_ok(), "{id}");
        assert_eq!(read(&reviewer, id), Err(Errno::EACCES), "{id}: who may not read files");
        assert!(reviewer.read_file(format!("/context/{id}/manifest.json")).is_ok(), "{id}");
        assert!(agent.read_file(format!("/context/{id}/manifest.json")).is_ok(), "{id}");
    }
    assert!(String::from_utf8(read(&agent, "open").unwrap()).unwrap().contains("open"));
    for id in ["both", "named", "missing"] {
        assert_eq!(read(&agent, id), Err(Errno::EACCES), "{id}");
    }
    mounted.unmount();
}

#[test]
fn a_rule_about_one_thing_beside_the_tree_closes_that_alone() {
    let policy = "agent /context/secret none\nagent /context/half/context.json none\n\
                  agent /streams/debug_events none\nagent /debug/health.json none\n\
                  other /streams/from none";
    let mounted = mount(Guard::new(false, Policy::parse(policy).unwrap(), None));
    let agent = Waiting::with(&[("LIGHTHOUSE_AGENT", "agent")]);
    let other = Waiting::with(&[("LIGHTHOUSE_AGENT", "other")]);
    let (agent, other) = (mounted.user(&agent), mounted.user(&other));
    mounted.package("secret", &[]);
    mounted.package("half", &[]);
    let last = mounted.tree.last().0;
    let from = |name: &str| format!("/streams/from/@{last}/{name}");
    for path in [
        "/context/secret/manifest.json",
        "/context/secret/files.json",
        "/context/half/context.json",
        "/streams/debug_events",
        &from("debug_events"),
        "/debug/health.json",
    ] {
        assert_eq!(agent.read_file(path), Err(Errno::EACCES), "{path}");
    }
    for path in [
        "/context/half/manifest.json",
        "/context/half/files.json",
        "/streams/file_changes",
        &from("file_changes"),
        "/debug/performance.json",
    ] {
        assert!(agent.read_file(path).is_ok(), "{path}");
    }
    assert!(other.read_file("/streams/debug_events").is_ok());
    assert_eq!(other.read_file(from("debug_events")), Err(Errno::EACCES));
    assert!(other.read_file("/context/secret/files.json").is_ok());
    mounted.unmount();
}

#[test]
fn an_ancestor_speaks_for_its_children() {
    let mounted = mount(Guard::new(true, Policy::default(), known()));
    // The shell has the variable; what it starts does not, but is its child.
    let mut shell = Command::new("sh")
        .args(["-c", "env -i sleep 600 & echo $!; wait"])
        .env("LIGHTHOUSE_SESSION", "a token")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = shell.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    let pid: u32 = line.trim().parse().unwrap();
    let child = mounted.kernel.as_user(0, 0, &[], 0o022, pid);
    let made = child.mkdir("/current/d", 0o755);
    let _ = Command::new("kill").arg(pid.to_string()).status();
    let _ = shell.wait();
    assert_eq!(made, Ok(()));
    mounted.unmount();
}
