//! `top`: what a mount is asked for, how fast it answers, and what waits for an answer, as it happens.
//!
//! ```text
//!  top --- child: getxattr(MOUNTPOINT, "user.lighthouse.meter") ---> server: what it measured since it began
//!       <-- JSON -- two of them give what came between
//! ```
//!
//! A server that hangs does not answer this either. So another process asks, and the kernel is asked how many wait. Who waits for
//! a request that lies in an entry of a ring cannot be killed until it is answered, as over `/dev/fuse` once the server
//! has read it (Linux 6.18). So `top` ends when it is to, and leaves that process behind, which ends once the server goes on or
//! its connection is aborted.

use std::fmt::{Display, Write as _};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::Serialize;

use crate::meter::{JSON_MAX, Snapshot, Summary, Waiting};
use crate::proto::op::name;
use crate::transport::mount_table::{self, MountEntry};
use crate::transport::unmount;
use crate::view::METER_XATTR;

use super::output::{self, Latency, us};
use super::{CliError, flag};

/// How long an answer may take before it is said that there is none.
const PATIENCE: Duration = Duration::from_secs(2);
/// Names the mount point to the process that asks, which is this program too.
const ASKS: &str = "LIGHTHOUSE_FUSE_TOP_CHILD";
/// Before the number of what the kernel says instead of an answer, which is JSON.
const ERRNO: &str = "!";
/// Lines of a terminal that does not tell.
const LINES: usize = 24;

/// Show what MOUNTPOINT is asked for, how fast it answers, and what waits, until ^C
///
/// Times are those within the server, from a request's arrival to its answer, and never too short: too long by
/// an eighth at most.
#[derive(Debug, clap::Args)]
pub(super) struct TopArgs {
    /// Where a store is mounted; without it, the mount that the working directory is in
    mountpoint: Option<PathBuf>,
    /// Seconds between two looks
    #[arg(long, short, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds, env = "LIGHTHOUSE_FUSE_INTERVAL")]
    interval: f64,
    /// End after so many looks
    #[arg(long, short = 'n', value_name = "N", env = "LIGHTHOUSE_FUSE_LAST",
          value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// Print one JSON object per look
    #[arg(long, env = "LIGHTHOUSE_FUSE_JSON", value_parser = flag())]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("from 0.1 to 3600 seconds".to_owned()),
    }
}

pub(super) fn run(args: &TopArgs) -> Result<ExitCode, CliError> {
    if let Some(mountpoint) = std::env::var_os(ASKS) {
        return answer_questions(Path::new(&mountpoint));
    }
    let mount = mount_of(args.mountpoint.as_deref())?;
    let interval = Duration::from_secs_f64(args.interval);
    let mut asker = Asker::start(mount.mountpoint.clone())?;
    let terminal = io::stdout().is_terminal() && !args.json;
    let mut out = io::stdout().lock();
    let mut earlier = asker.ask(PATIENCE)?;
    let mut looks = 0;
    while args.last.is_none_or(|last| looks < last) {
        let begun = Instant::now();
        thread::sleep(interval);
        let now = asker.ask(PATIENCE)?;
        let look = match (&earlier, &now) {
            (Some(earlier), Some(now)) => Look::Between(Between::new(earlier, now)),
            // Answers again: the next look has two ends.
            (None, Some(_)) => Look::Back,
            (_, None) => Look::Silent {
                seconds: asker.asked.elapsed().max(begun.elapsed()).as_secs_f64(),
                waiting: unmount::waiting(mount.minor).ok(),
            },
        };
        if now.is_some() {
            earlier = now;
        }
        show(&mut out, &mount, &look, args.json, terminal)?;
        looks += 1;
    }
    Ok(ExitCode::SUCCESS)
}

/// The mount of ours that `path` is in, or of whose tree it is in a part.
fn mount_of(path: Option<&Path>) -> Result<MountEntry, CliError> {
    let path = path.unwrap_or(Path::new("."));
    let cannot = |err| CliError::new(format!("cannot find {}: {err}", path.display()));
    let table = mount_table::read()
        .map_err(|err| CliError::new(format!("cannot read the table of mounts: {err}")))?;
    let whole = |mount: &MountEntry| {
        whole_of(&table, mount).cloned().ok_or_else(|| {
            CliError::new(format!(
                "{} is a part of what is mounted from {}, and all of it is not seen from here: name where that is",
                mount.mountpoint.display(),
                mount.source.display()
            ))
        })
    };
    // By its text where possible: a mount whose server hangs must not be asked about itself.
    let absolute = std::path::absolute(path).map_err(cannot)?;
    if let Some(mount) = innermost(&table, &absolute) {
        return whole(mount);
    }
    let found = path.canonicalize().map_err(cannot)?;
    let mount = innermost(&table, &found).ok_or_else(|| {
        CliError::new(format!(
            "{} is in no mount of lighthouse-fuse; `lighthouse-fuse status STORE` tells where a store is mounted",
            found.display()
        ))
    })?;
    whole(mount)
}

/// The innermost mount of ours that `path` is in.
fn innermost<'t>(table: &'t [MountEntry], path: &Path) -> Option<&'t MountEntry> {
    let ours = table.iter().filter(|mount| mount.is_ours());
    let around = ours.filter(|mount| path.starts_with(&mount.mountpoint));
    around.max_by_key(|mount| mount.mountpoint.components().count())
}

/// `mount`, or if it is a bind mount of a part, which does not tell what its server measures, one of the whole.
fn whole_of<'t>(table: &'t [MountEntry], mount: &'t MountEntry) -> Option<&'t MountEntry> {
    if mount.root == "/" {
        return Some(mount);
    }
    table.iter().find(|other| {
        let is_seen = mount_table::topmost(table, &other.mountpoint) == Some(*other);
        other.is_ours() && other.minor == mount.minor && other.root == "/" && is_seen
    })
}

/// Asks the server from a process of its own, one question at a time.
struct Asker {
    process: Child,
    /// One byte each.
    questions: ChildStdin,
    /// One line each.
    answers: BufReader<ChildStdout>,
    mountpoint: PathBuf,
    /// When the question was asked that is not answered yet.
    open: bool,
    asked: Instant,
}

impl Asker {
    fn start(mountpoint: PathBuf) -> Result<Self, CliError> {
        let cannot = |err: &dyn Display| {
            CliError::new(format!("cannot start the process that asks the server: {err}"))
        };
        let program = std::env::current_exe().map_err(|err| cannot(&err))?;
        let mut process = Command::new(program)
            .arg("top")
            .env(ASKS, &mountpoint)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Whoever reads what `top` says to its end must not wait for what is left behind.
            .stderr(Stdio::null())
            .spawn()
            .map_err(|err| cannot(&err))?;
        let pipes = (process.stdin.take(), process.stdout.take());
        let (Some(questions), Some(answers)) = pipes else {
            return Err(cannot(&"it has no pipes"));
        };
        let answers = BufReader::new(answers);
        Ok(Self { process, questions, answers, mountpoint, open: false, asked: Instant::now() })
    }

    /// What the server says within `patience`; `None` if it says nothing. Goes on waiting for an answer that did not
    /// come before.
    fn ask(&mut self, patience: Duration) -> Result<Option<Snapshot>, CliError> {
        let at = self.mountpoint.display().to_string();
        let gone = |err: &dyn Display| {
            CliError::new(format!("the process that asks the server of {at} has ended: {err}"))
        };
        if !self.open {
            self.questions.write_all(b"?").map_err(|err| gone(&err))?;
            self.asked = Instant::now();
            self.open = true;
        }
        let mut line = Vec::new();
        if !is_readable(self.answers.get_ref(), patience).map_err(|err| gone(&err))? {
            return Ok(None);
        }
        self.answers.read_until(b'\n', &mut line).map_err(|err| gone(&err))?;
        self.open = false;
        let answer = line.strip_suffix(b"\n").ok_or_else(|| gone(&"start `top` again"))?;
        let json = answer_in(answer).map_err(|errno| {
            CliError::new(match errno {
                Errno::NODATA => format!(
                    "the server of {at} does not tell what it measures: it is older than this program; start it again"
                ),
                Errno::NOTCONN | Errno::CONNABORTED => {
                    format!("the server of {at} is gone; `lighthouse-fuse umount {at}` clears the mount away")
                }
                errno => format!("cannot ask the server of {at}: {errno}"),
            })
        })?;
        serde_json::from_slice(json).map(Some).map_err(|err| {
            CliError::new(format!(
                "the server of {at} answers what this program does not understand ({err}): they are not of one version"
            ))
        })
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // Not waited for, see above.
        let _ = self.process.kill();
    }
}

/// Waits until there is something to read, or `patience` is over.
fn is_readable(pipe: &ChildStdout, patience: Duration) -> io::Result<bool> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => (),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// What asks: for each byte of standard input a line on standard output, until one of them ends.
fn answer_questions(mountpoint: &Path) -> Result<ExitCode, CliError> {
    // Whoever ends `top` ends this, as far as that can be.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    let (mut questions, mut out) = (io::stdin().lock(), io::stdout().lock());
    let mut value = vec![0; JSON_MAX];
    while questions.read(&mut [0])? > 0 {
        match rustix::fs::getxattr(mountpoint, METER_XATTR, &mut value) {
            Ok(len) => out.write_all(value.get(..len).unwrap_or_default())?,
            Err(errno) => write!(out, "{ERRNO}{}", errno.raw_os_error())?,
        }
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What such a line says, without its end.
fn answer_in(line: &[u8]) -> Result<&[u8], Errno> {
    let Some(errno) = line.strip_prefix(ERRNO.as_bytes()) else { return Ok(line) };
    let number = std::str::from_utf8(errno).ok().and_then(|text| text.parse().ok());
    Err(number.map_or(Errno::IO, Errno::from_raw_os_error))
}

/// What one look shows.
enum Look {
    /// Two answers.
    Between(Between),
    /// The first answer after a silence.
    Back,
    /// No answer.
    Silent { seconds: f64, waiting: Option<u64> },
}

/// What came between two answers. Names are stable: scripts read them.
#[derive(Debug, Serialize)]
struct Between {
    seconds: f64,
    requests_per_second: f64,
    refused_per_second: f64,
    /// The one first that took the most time.
    operations: Vec<Line>,
    in_flight: Vec<Waits>,
}

#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    per_second: f64,
    /// Of the time that readers spent on all.
    share: f64,
    #[serde(flatten)]
    took: Latency,
}

#[derive(Debug, Serialize)]
struct Waits {
    name: &'static str,
    age_us: f64,
    node: u64,
    pid: u32,
    command: String,
}

impl Between {
    fn new(earlier: &Snapshot, now: &Snapshot) -> Self {
        // Another server by now: all that it measured is new.
        let nothing = Snapshot::default();
        let earlier = if now.uptime_ns < earlier.uptime_ns { &nothing } else { earlier };
        let seconds = (now.uptime_ns - earlier.uptime_ns) as f64 / 1e9;
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let spent: Vec<(u32, Summary)> = now
            .operations
            .iter()
            .map(|(opcode, summary)| (*opcode, summary.since(&earlier.of(*opcode))))
            .filter(|(_, summary)| summary.count() > 0)
            .collect();
        let time = |summary: &Summary| summary.total_ns() as f64;
        let all: f64 = spent.iter().map(|(_, summary)| time(summary)).sum();
        let mut operations: Vec<Line> = spent
            .iter()
            .map(|(opcode, summary)| Line {
                name: name(*opcode),
                per_second: rate(summary.count()),
                share: if all > 0.0 { time(summary) / all } else { 0.0 },
                took: summary.into(),
            })
            .collect();
        operations.sort_by(|one, other| other.share.total_cmp(&one.share));
        let in_flight = now.in_flight.iter().map(|waiting| {
            let Waiting { age_ns, opcode, node, pid, ref command } = *waiting;
            Waits { name: name(opcode), age_us: us(age_ns), node, pid, command: command.clone() }
        });
        Self {
            seconds,
            requests_per_second: operations.iter().map(|line| line.per_second).sum(),
            refused_per_second: rate(now.refused.saturating_sub(earlier.refused)),
            operations,
            // The question itself is always among them.
            in_flight: in_flight.filter(|waits| !is_our_question(waits)).collect(),
        }
    }
}

/// Whether `waits` is this program asking the mount's root.
fn is_our_question(waits: &Waits) -> bool {
    waits.name == "GETXATTR" && waits.node == 1
}

/// A duration in microseconds, as people read it.
fn span(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.1} us"),
        us if us < 1e6 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

fn show(
    out: &mut impl Write,
    mount: &MountEntry,
    look: &Look,
    json: bool,
    terminal: bool,
) -> Result<(), CliError> {
    if json {
        let value = match look {
            Look::Between(between) => serde_json::to_value(between).unwrap_or_default(),
            Look::Back => serde_json::json!({ "answers": true }),
            Look::Silent { seconds, waiting } => {
                serde_json::json!({ "answers": false, "seconds": seconds, "waiting": waiting })
            }
        };
        writeln!(out, "{value}")?;
        return Ok(out.flush()?);
    }
    let text = text_of(mount, look);
    if !terminal {
        writeln!(out, "{text}")?;
        return Ok(out.flush()?);
    }
    let lines = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_row.into());
    let lines = if lines == 0 { LINES } else { lines };
    // From the top, each line to its end, and what is below: so nothing flickers.
    write!(out, "\x1b[H")?;
    for line in text.lines().take(lines.saturating_sub(1)) {
        writeln!(out, "{line}\x1b[K")?;
    }
    write!(out, "\x1b[J")?;
    Ok(out.flush()?)
}

/// What a look shows to people.
fn text_of(mount: &MountEntry, look: &Look) -> String {
    let mut text = output::printable(mount.mountpoint.as_os_str().as_encoded_bytes());
    // A String takes all.
    let _ = match look {
        Look::Silent { seconds, waiting } => {
            let waiting = waiting.map_or("how many requests wait is not known".to_owned(), |n| {
                format!("{n} requests wait in the kernel")
            });
            writeln!(
                text,
                ": no answer for {seconds:.1} s; {waiting}. SIGUSR1 makes a server of mount or serve write \
                 what it is at to STORE/{}",
                super::flight::FILE
            )
        }
        Look::Back => writeln!(text, ": answers again"),
        Look::Between(between) => write_between(&mut text, between),
    };
    text
}

fn write_between(text: &mut String, between: &Between) -> std::fmt::Result {
    writeln!(
        text,
        ": {:.0} requests/s, {:.0} refused/s, {} in flight, over {:.1} s",
        between.requests_per_second,
        between.refused_per_second,
        between.in_flight.len(),
        between.seconds
    )?;
    writeln!(
        text,
        "\n{:<16} {:>10} {:>7} {:>10} {:>10} {:>10}",
        "OPERATION", "PER S", "TIME", "P50", "P99", "MAX"
    )?;
    for line in &between.operations {
        writeln!(
            text,
            "{:<16} {:>10.1} {:>6.1}% {:>10} {:>10} {:>10}",
            line.name,
            line.per_second,
            line.share * 100.0,
            span(line.took.p50_us),
            span(line.took.p99_us),
            span(line.took.max_us)
        )?;
    }
    if between.in_flight.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n{:<16} {:>10} {:>18} {:>8}  COMMAND", "WAITS FOR", "SINCE", "NODE", "PID")?;
    for waits in &between.in_flight {
        writeln!(
            text,
            "{:<16} {:>10} {:>18} {:>8}  {}",
            waits.name,
            span(waits.age_us),
            format!("{:#x}", waits.node),
            waits.pid,
            output::printable(waits.command.as_bytes())
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::{Meter, Request};

    fn snapshot(meter: &Meter, asked: &[u32]) -> Snapshot {
        let lane = meter.lane();
        for &opcode in asked {
            let request = Request { opcode, node: 2, pid: 7, errno: 0 };
            meter.answered(lane, Instant::now(), &request);
        }
        thread::sleep(Duration::from_millis(2));
        meter.snapshot(|_| String::new())
    }

    #[test]
    fn for_a_part_that_is_mounted_elsewhere_the_whole_is_asked() {
        let table = mount_table::parse(
            b"\
2 1 0:40 / /p rw - fuse.lighthouse /stores/other rw
3 1 0:41 / /hidden rw - fuse.lighthouse /stores/one rw
4 3 0:42 / /hidden rw - tmpfs none rw
5 1 0:41 / /q rw - fuse.lighthouse /stores/one rw
6 2 0:41 /current /p/part rw - fuse.lighthouse /stores/one rw
7 2 0:43 /current /p/alone rw - fuse.lighthouse /stores/alone rw
",
        );
        let asked = |path: &str| {
            let mount = innermost(&table, Path::new(path)).unwrap();
            whole_of(&table, mount).map(|mount| mount.id)
        };
        assert_eq!(asked("/p/current"), Some(2));
        assert_eq!(asked("/p/part/src"), Some(5));
        assert_eq!(asked("/p/alone"), None);
    }

    #[test]
    fn what_came_between_is_told_and_nothing_of_before() {
        let meter = Meter::default();
        let earlier = snapshot(&meter, &[3, 3, 3, 1]);
        let between = Between::new(&earlier, &snapshot(&meter, &[3, 15, 15]));
        let count = |name: &str| {
            let line = between.operations.iter().find(|line| line.name == name)?;
            Some((line.per_second * between.seconds).round())
        };
        assert_eq!(
            (count("GETATTR"), count("READ"), count("LOOKUP")),
            (Some(1.0), Some(2.0), None)
        );
        let text = {
            let mut text = String::new();
            write_between(&mut text, &between).unwrap();
            text
        };
        assert!(text.contains("READ") && !text.contains("LOOKUP"), "{text}");
    }

    #[test]
    fn of_another_server_everything_is_new() {
        let old = Meter::default();
        thread::sleep(Duration::from_millis(20));
        let earlier = snapshot(&old, &[3; 9]);
        let between = Between::new(&earlier, &snapshot(&Meter::default(), &[3]));
        let line = between.operations.first().unwrap();
        assert_eq!((line.per_second * between.seconds).round(), 1.0);
    }

    #[test]
    fn who_waits_is_shown_on_one_line_whatever_his_name_and_the_question_itself_is_not() {
        let meter = Meter::default();
        let mut now = snapshot(&meter, &[]);
        let waiting = |opcode, node, command: &str| Waiting {
            age_ns: 12_000_000_000,
            opcode,
            node,
            pid: 4,
            command: command.to_owned(),
        };
        now.in_flight = vec![waiting(16, 9, "a\n\x1b[2J"), waiting(22, 1, "asker")];
        let between = Between::new(&Snapshot::default(), &now);
        assert_eq!(between.in_flight.len(), 1);
        let mut text = String::new();
        write_between(&mut text, &between).unwrap();
        let line = text.lines().last().unwrap();
        assert!(line.starts_with("WRITE") && line.ends_with("a\\x0a\\x1b[2J"), "{line}");
        assert!(line.contains("12.0 s"), "{line}");
    }

    #[test]
    fn an_answer_is_what_the_server_says_or_what_the_kernel_does() {
        assert_eq!(answer_in(b"{}"), Ok(&b"{}"[..]));
        assert_eq!(answer_in(b"!107"), Err(Errno::NOTCONN));
        assert_eq!(answer_in(b"!x"), Err(Errno::IO));
    }

    #[test]
    fn spans_have_the_unit_they_are_read_in() {
        let told = [0.4, 999.0, 1_500.0, 2e6].map(span);
        assert_eq!(told, ["0.4 us", "999.0 us", "1.5 ms", "2.0 s"]);
    }
}
