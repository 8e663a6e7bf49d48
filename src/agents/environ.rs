//! Whom environments name: agent and session that a process works for, by its own account.
//!
//! They are what `LIGHTHOUSE_AGENT` and `LIGHTHOUSE_SESSION` say in its own environment, or in that of the nearest ancestor
//! that has one of them. Of a session's token only what is no secret is recorded.
//!
//! A shell starts a command each millisecond, and has the same ancestors each time. So what was read of an ancestor counts
//! for a second, for as long as that one runs the same program below the same parent.
//!
//! To read an environment may wait for whoever it is of, see [`late`](super::late).

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::proc::{Incarnation, Proc, StatFile, TEXT_MAX};
use super::register::parts_of_token;

/// How far up the parents an agent's name is looked for, or to the first that is known.
const ANCESTORS_MAX: usize = 16;
/// How much of an environment is looked at, in bytes.
const ENVIRON_MAX: usize = 64 * 1024;
/// For so long it is not read again what an ancestor's environment says, and those of its own.
const HOLDS: Duration = Duration::from_secs(1);
/// Ancestors known at once.
const KNOWN_MAX: usize = 64;

/// Agent and session of a process, as far as it says so.
pub(super) type Named = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Agent and session of process `pid`, of which `stat` told before what it was, and what it is afterwards. `None` if it is
/// gone, or could not be looked at.
pub(super) fn named(
    proc: &Proc,
    pid: u32,
    (stat, before): (&StatFile, &Incarnation),
) -> Option<(Named, Incarnation)> {
    let own = said_by(proc, pid)?;
    // The file stands for one process: what was read of its number before was that one's, if it is there still.
    if own != Named::default() {
        return Some((own, stat.read()?));
    }
    let mut parent = before.parent();
    loop {
        let above = KNOWN.named(proc, parent)?;
        let now = stat.read()?;
        // So its parent is there still, if it has the same.
        if now.parent() == parent {
            return Some((above, now));
        }
        parent = now.parent();
    }
}

static KNOWN: Ancestors = Ancestors::new();

/// What was read of processes that others descend from.
#[derive(Debug)]
struct Ancestors(Mutex<FxHashMap<u32, Known>>);

#[derive(Debug)]
struct Known {
    /// Open: to read it takes half of what it takes to open it as well.
    stat: StatFile,
    process: Incarnation,
    read: Instant,
    /// By itself, or by its nearest ancestor that names one.
    named: Named,
}

impl Ancestors {
    const fn new() -> Self {
        Self(Mutex::new(FxHashMap::with_hasher(FxBuildHasher)))
    }

    /// Whom process `pid` names, or its nearest ancestor that names one; `None` where one could not be looked at.
    fn named(&self, proc: &Proc, pid: u32) -> Option<Named> {
        let (mut next, mut line) = (pid, Vec::new());
        let (mut named, mut read) = (Named::default(), Instant::now());
        let is_whole = loop {
            // The first process works for nobody.
            if next <= 1 {
                break true;
            }
            if line.len() >= ANCESTORS_MAX {
                break false;
            }
            if let Some(known) = self.known(next) {
                (named, read) = known;
                break true;
            }
            let Some(stat) = proc.stat_shown(next).ok()? else { break true };
            let Some(process) = stat.read() else { break true };
            named = said_by(proc, next)?;
            // What was read is another program's if it took one meanwhile.
            let is_the_same = stat.read().as_ref() == Some(&process);
            let own = next;
            next = process.parent();
            line.push((own, is_the_same.then_some((stat, process))));
            if named != Named::default() {
                break true;
            }
        };
        // Of those further up less is known then.
        line.truncate(if is_whole { ANCESTORS_MAX } else { 1 });
        self.remember(line, read, &named);
        Some(named)
    }

    /// What is known of process `pid`, if it is what it was, and when it was read.
    fn known(&self, pid: u32) -> Option<(Named, Instant)> {
        let all = self.0.lock();
        let known = all.get(&pid).filter(|known| known.read.elapsed() < HOLDS)?;
        let is_the_same = known.stat.read().as_ref() == Some(&known.process);
        is_the_same.then(|| (known.named.clone(), known.read))
    }

    /// All of a line of descent name the same; one that changed meanwhile says nothing of those below it.
    fn remember(
        &self,
        line: Vec<(u32, Option<(StatFile, Incarnation)>)>,
        read: Instant,
        named: &Named,
    ) {
        let mut all = self.0.lock();
        if all.len() + line.len() > KNOWN_MAX {
            all.retain(|_, known| known.read.elapsed() < HOLDS);
        }
        if all.len() + line.len() > KNOWN_MAX {
            all.clear();
        }
        for (pid, process) in line.into_iter().rev() {
            let Some((stat, process)) = process else { break };
            all.insert(pid, Known { stat, process, read, named: named.clone() });
        }
    }
}

/// What the environment of a process says; `None` where it could not be looked at.
fn said_by(proc: &Proc, pid: u32) -> Option<Named> {
    let environ = proc.shown(pid, "environ", ENVIRON_MAX).ok()?;
    Some(named_in(&environ.unwrap_or_default()))
}

/// Agent and session named in an environment block.
fn named_in(environ: &[u8]) -> Named {
    let value = |name: &[u8]| {
        let mut found = environ.split(|&byte| byte == 0).find_map(|entry| {
            entry.strip_prefix(name)?.strip_prefix(b"=").filter(|value| !value.is_empty())
        })?;
        if let Some(cut) = found.get(..TEXT_MAX) {
            found = cut;
        }
        Some(found.to_vec())
    };
    (value(b"LIGHTHOUSE_AGENT"), value(b"LIGHTHOUSE_SESSION"))
}

/// What of an agent and a session, as an environment names them, may be recorded.
pub(super) fn recorded((agent, session): Named) -> (Vec<u8>, Vec<u8>) {
    let (session, of_session) = without_secret(session.unwrap_or_default());
    (agent.or(of_session).unwrap_or_default(), session)
}

/// What of a session may be recorded, and the agent that its token names: of `ID:AGENT:TIME:CODE` the id.
fn without_secret(session: Vec<u8>) -> (Vec<u8>, Option<Vec<u8>>) {
    match parts_of_token(&session) {
        Some((id, agent)) => (id.to_vec(), Some(agent.to_vec())),
        None => (session, None),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that does `commands`, with what it prints, and for whom it works.
    fn shell(commands: &str, agent: Option<&str>) -> (Child, impl FnMut() -> String) {
        let mut command = Command::new("sh");
        command.args(["-c", commands]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_remove("LIGHTHOUSE_SESSION").env_remove("LIGHTHOUSE_AGENT");
        if let Some(agent) = agent {
            command.env("LIGHTHOUSE_AGENT", agent);
        }
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, move || out.next().unwrap().unwrap())
    }

    fn stat(proc: &Proc, pid: u32) -> Option<(StatFile, Incarnation)> {
        let stat = proc.stat_file(pid)?;
        let process = stat.read()?;
        Some((stat, process))
    }

    #[test]
    fn what_an_ancestor_names_is_read_again_once_it_takes_another_program() {
        let commands = "echo $$; read _; LIGHTHOUSE_AGENT=second exec sh -c 'echo; read _; true'";
        let (mut child, mut said) = shell(commands, Some("first"));
        let pid = said().parse().unwrap();
        let (proc, ancestors) = (Proc::open().unwrap(), Ancestors::new());
        let agent = || ancestors.named(&proc, pid).unwrap().0;
        assert_eq!(agent().as_deref(), Some(&b"first"[..]));
        assert!(ancestors.known(pid).is_some());
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        said();
        assert_eq!(agent().as_deref(), Some(&b"second"[..]));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn nobody_is_asked_twice_and_what_was_read_does_not_count_for_ever() {
        let (mut child, mut said) = shell("echo $$; sh -c 'echo $$; read _'; true", Some("one"));
        let (parent, pid): (u32, u32) = (said().parse().unwrap(), said().parse().unwrap());
        let (proc, ancestors) = (Proc::open().unwrap(), Ancestors::new());
        let named: Named = (Some(b"one".to_vec()), None);
        assert_eq!(ancestors.named(&proc, pid), Some(named));
        assert_eq!(ancestors.0.lock().len(), 1, "its own environment says it already");
        ancestors.0.lock().clear();

        // As if each had said so itself, a moment or long ago.
        let now = Instant::now();
        let Some(long_ago) = now.checked_sub(2 * HOLDS) else { return };
        let other: Named = (Some(b"other".to_vec()), None);
        for (read, expected) in [(now, &b"other"[..]), (long_ago, b"one")] {
            let line = [parent, pid].map(|pid| (pid, stat(&proc, pid)));
            ancestors.remember(line.to_vec(), read, &other);
            assert_eq!(ancestors.named(&proc, pid).unwrap().0.unwrap(), expected);
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn one_that_changed_meanwhile_says_nothing_of_those_below_it() {
        let (proc, ancestors) = (Proc::open().unwrap(), Ancestors::new());
        let own = stat(&proc, std::process::id());
        let line = vec![(7, own.clone()), (6, None), (5, own)];
        ancestors.remember(line, Instant::now(), &Named::default());
        assert_eq!(ancestors.0.lock().keys().copied().collect::<Vec<_>>(), [5]);
        // There are never more than fit.
        for pid in 100..300 {
            let own = stat(&proc, std::process::id());
            ancestors.remember(vec![(pid, own)], Instant::now(), &Named::default());
            assert!(ancestors.0.lock().len() <= KNOWN_MAX);
        }
    }

    #[test]
    fn of_a_token_what_is_secret_is_left_out() {
        let token = b"0123456789abcdef:builder:1795489119.5:c0de".to_vec();
        let agent = Some(b"builder".to_vec());
        assert_eq!(without_secret(token), (b"0123456789abcdef".to_vec(), agent));
        assert_eq!(without_secret(b"session 1".to_vec()), (b"session 1".to_vec(), None));
    }

    #[test]
    fn a_variable_that_only_begins_like_ours_names_nobody() {
        assert_eq!(
            named_in(b"LIGHTHOUSE_AGENTS=x\0XLIGHTHOUSE_AGENT=y\0LIGHTHOUSE_AGENT=\0"),
            (None, None)
        );
        assert_eq!(named_in(b"A=1\0LIGHTHOUSE_AGENT=a=b\0").0.as_deref(), Some(&b"a=b"[..]));
    }
}
