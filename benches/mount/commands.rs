//! Whole commands: what a developer waits for.
//!
//! What they work on is made here, the same each time: a repository and an archive of 2,000 files in 100 directories,
//! and a crate without dependencies. What `npm ci` installs is named by the lock file in `npm/`: small packages, as they
//! are in the registry; they are fetched once into a cache on the disk before anything is measured. Each server starts
//! every round with nothing of it. A formatter stands for programs that think between two requests, as all do that an
//! interpreter runs: how long a server that waits for the next one stays awake decides there. A script stands for processes that
//! change a file or two and end: what it takes to find out who they are decides there.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::laps::{Percentiles, median};
use crate::questions::{UNIQUE, in_turn};
use crate::report::{Cell, Row};
use crate::server::{DISK, Server};

/// How many files the repository and the archive have, and in how many directories.
const FILES: usize = 2000;
const DIRECTORIES: usize = 100;
/// How many modules the crate has.
const MODULES: usize = 40;

/// Where the things are that commands work on, outside of all that is measured.
struct Sources {
    /// Goes away at the end.
    directory: tempfile::TempDir,
    /// Whether the packages could be had.
    npm: bool,
}

/// A command to wait for.
struct Task {
    name: &'static str,
    /// Who runs it is in the directory that it may fill.
    line: fn(&Sources) -> String,
    /// What is in that directory before it is measured.
    prepare: fn(&Sources) -> String,
}

const TASKS: &[Task] = &[
    Task {
        name: "git clone",
        line: |sources| format!("git clone -q --no-local {} clone", sources.path("repository")),
        prepare: |_| String::new(),
    },
    Task {
        name: "tar x",
        line: |sources| format!("tar xf {}", sources.path("archive.tar")),
        prepare: |_| String::new(),
    },
    Task {
        name: "cargo build",
        line: |_| "cargo build -q --offline".into(),
        prepare: |sources| format!("cp -r {}/. .", sources.path("crate")),
    },
    Task {
        name: "npm ci",
        line: |sources| format!("{} ci", npm(sources)),
        prepare: |sources| format!("cp {}/*.json .", sources.path("npm")),
    },
    Task {
        name: "format, in Python",
        line: |sources| format!("python3 {} tree", sources.path("format.py")),
        prepare: |sources| format!("tar xf {}", sources.path("archive.tar")),
    },
    Task {
        name: "script, in sh",
        line: |_| {
            "set -e; n=0; while [ $n -lt 100 ]; do cp 1.txt $n.copy; sed s/line/row/ $n.copy > $n.new; \
             mv $n.new $n.copy; n=$((n + 1)); done"
                .into()
        },
        prepare: |sources| format!("cp {} .", sources.path("tree/1/1.txt")),
    },
    Task {
        name: "rm -rf",
        line: |_| "rm -rf tree".into(),
        prepare: |sources| format!("tar xf {}", sources.path("archive.tar")),
    },
];

fn npm(sources: &Sources) -> String {
    format!(
        "npm --cache {} --prefer-offline --no-audit --no-fund --no-update-notifier --ignore-scripts \
         --loglevel=error",
        sources.path("npm-cache")
    )
}

impl Sources {
    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn make() -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut sources = Self { directory, npm: false };
        sources.fill().map_err(|error| error.to_string())?;
        let top = sources.directory.path();
        run(
            top,
            "tar cf archive.tar tree && cp -r tree repository && cd repository && git init -q && \
             git add . && git -c user.name=bench -c user.email=bench@localhost commit -q -m all",
        )?;
        let fetched =
            run(&top.join("npm"), &format!("{} ci && rm -rf node_modules", npm(&sources)));
        sources.npm = match fetched {
            Ok(()) => true,
            Err(why) => {
                println!("SKIPPED: npm ci: {why}");
                false
            }
        };
        Ok(sources)
    }

    fn fill(&self) -> std::io::Result<()> {
        let top = self.directory.path();
        for n in 0..FILES {
            let directory = top.join(format!("tree/{}", n % DIRECTORIES));
            fs::create_dir_all(&directory)?;
            // Of 0.5 to 16 KiB, as sources are.
            let lines = 8 + n * 37 % 250;
            let text: String = (0..lines)
                .map(|line| format!("line {line} of file {n}: {:048x}\n", n * line))
                .collect();
            fs::write(directory.join(format!("{n}.txt")), text)?;
        }
        let source = top.join("crate/src");
        fs::create_dir_all(&source)?;
        fs::write(
            top.join("crate/Cargo.toml"),
            "[package]\nname = \"fixed\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n",
        )?;
        let mut main = String::new();
        for n in 0..MODULES {
            main += &format!("mod part{n};\n");
            let body: String = (0..40)
                .map(|f| {
                    format!(
                        "pub fn f{f}(x: u64) -> String {{ format!(\"{{:?}}\", vec![x; {f}]) }}\n"
                    )
                })
                .collect();
            fs::write(source.join(format!("part{n}.rs")), body)?;
        }
        let sum: Vec<String> =
            (0..MODULES * 40).map(|n| format!("part{}::f{}({n}).len()", n / 40, n % 40)).collect();
        main += &format!("fn main() {{ println!(\"{{}}\", {}); }}\n", sum.join(" + "));
        fs::write(source.join("main.rs"), main)?;
        fs::write(top.join("format.py"), include_str!("format.py"))?;
        let npm = top.join("npm");
        fs::create_dir_all(&npm)?;
        fs::write(npm.join("package.json"), include_str!("npm/package.json"))?;
        fs::write(npm.join("package-lock.json"), include_str!("npm/package-lock.json"))
    }
}

/// Runs every command on all servers in turn, so many times each after one time that counts only where it is the only one.
pub(crate) fn ask(servers: &[&Server], rounds: u64) -> Vec<Row> {
    let sources = match Sources::make() {
        Ok(sources) => sources,
        Err(why) => {
            println!("SKIPPED: whole commands: {why}");
            return Vec::new();
        }
    };
    let tasks = TASKS.iter().filter(|task| task.name != "npm ci" || sources.npm);
    tasks.map(|task| task.ask(&sources, servers, rounds)).collect()
}

impl Task {
    /// A name for a directory to work in, which no run has had before: ext4 places it by that, and where
    /// something was removed lately it is slow.
    fn new_name(&self) -> String {
        let (run, number) = (std::process::id(), UNIQUE.fetch_add(1, Ordering::Relaxed));
        format!("{}-{run}-{number}", self.name.replace([' ', ','], ""))
    }

    fn ask(&self, sources: &Sources, servers: &[&Server], rounds: u64) -> Row {
        let mut took: Vec<Vec<f64>> = servers.iter().map(|_| Vec::new()).collect();
        let mut cpu = vec![0.0; servers.len()];
        let mut failed: Vec<Option<String>> = servers.iter().map(|_| None).collect();
        for round in 0..=rounds {
            for n in in_turn(servers.len(), round) {
                if failed[n].is_some() {
                    continue;
                }
                let server = servers[n];
                let directory = server.place().join(self.new_name());
                match self.one_round(sources, server, &directory) {
                    Ok((seconds, server_cpu)) if round > 0 || rounds == 0 => {
                        took[n].push(seconds);
                        cpu[n] += server_cpu;
                    }
                    Ok(_) => (),
                    Err(why) => failed[n] = Some(why),
                }
                let _ = server.remove_directory(&directory);
            }
        }
        let mut cells = Vec::new();
        for (n, server) in servers.iter().enumerate() {
            if let Some(why) = &failed[n] {
                println!("\n{}: {} FAILED: {why}", self.name, server.name);
                continue;
            }
            cells.push(Cell {
                server: server.name.clone(),
                floor: DISK,
                median: median(took[n].clone()),
                percentiles: Percentiles { p50: f64::NAN, p99: f64::NAN, p999: f64::NAN },
                cpu: server.cpu().map(|_| cpu[n] / took[n].len().max(1) as f64),
                requests: None,
            });
        }
        let row = Row { question: self.name.into(), in_mib: false, cells };
        row.print();
        row
    }

    /// How long it took, and the server's CPU time.
    fn one_round(
        &self,
        sources: &Sources,
        server: &Server,
        directory: &Path,
    ) -> Result<(f64, f64), String> {
        fs::create_dir(directory).map_err(|error| error.to_string())?;
        run(directory, &(self.prepare)(sources))?;
        // What was written before is not to be waited for now.
        rustix::fs::sync();
        let cpu = || server.cpu().unwrap_or_default();
        let (before, begin) = (cpu(), Instant::now());
        run(directory, &(self.line)(sources))?;
        Ok((begin.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64()))
    }
}

/// How many seconds a command has.
const LIMIT: &str = "300";

/// Runs a line of shell in `directory`; the error is the last line it wrote.
fn run(directory: &Path, line: &str) -> Result<(), String> {
    let mut command = Command::new("timeout");
    command.args([LIMIT, "sh", "-c", line]).current_dir(directory).stdin(Stdio::null());
    // What cargo told this program is not meant for the cargo that it runs.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_") && name != "CARGO_HOME" || name.starts_with("RUSTFLAGS") {
            command.env_remove(&*name);
        }
    }
    let ended = command.output().map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    Err(last.map_or_else(|| ended.status.to_string(), str::to_owned))
}
