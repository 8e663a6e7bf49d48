//! Other servers on the same work: a memory filesystem on each library, and libfuse's own example.
//!
//! Each has the settings that make it fastest; its file says which. All are mounted with `default_permissions`, as ours
//! and the bare loops are: somebody has to check rights where others may enter, and these servers do not. (It costs a
//! GETATTR of the directory before each change of names but the first, for the kernel takes a change for the end of what it
//! knew.) Two of them are no Rust:
//!
//! - `fusepy`, `memory.py` beside this on fusepy and libfuse 2, as the Python bridge was. It needs Python with `venv`,
//!   PyPI and Debian's `libfuse2`.
//! - `passthrough_ll` of libfuse over a directory of the backing filesystem, built from the source that Debian's
//!   `libfuse3-dev` brings. `passthrough_hp` is not in there: give one that was built elsewhere in `BENCH_SERVERS`.
//!
//! What cannot be had is named in one line and left out.

mod fuse3;
mod fuser;
mod helper;
mod polyfuse;
mod tree;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) use helper::hand_over;

use crate::server::{PASSTHROUGH, Spec};

/// What the command line calls those that this program is itself.
pub(crate) const BUILT_IN: [&str; 3] = ["polyfuse", "fuser", "fuse3"];
/// Threads of those that can use several: what four bring, on two CPUs, a lone client sees as well.
const THREADS: usize = 4;
/// How long everything may be cached.
const VALID: Duration = Duration::from_secs(3600);
/// The version is pinned, so that the same commit asks the same next year.
const FUSEPY: &str = "fusepy==3.0.1";
/// Where Debian puts the examples of libfuse.
const EXAMPLES: &str = "/usr/share/doc/libfuse3-dev/examples";

/// Serves at `at` until unmounted.
pub(crate) fn serve(name: &str, at: &Path) -> io::Result<()> {
    match name {
        "polyfuse" => polyfuse::serve(at),
        "fuser" => fuser::serve(at),
        "fuse3" => fuse3::serve(at),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Those that are programs of their own, as far as they can be had; for the rest a line each. What is built is kept
/// in `directory`.
pub(crate) fn external(directory: &Path) -> Vec<Spec> {
    let made = [("fusepy", fusepy(directory)), (PASSTHROUGH, passthrough(directory))];
    let had = made.into_iter().filter_map(|(name, command)| match command {
        Ok(command) => Some(Spec::new(name, "", &command)),
        Err(why) => {
            println!("SKIPPED: {name}: {why}");
            None
        }
    });
    had.collect()
}

fn fusepy(directory: &Path) -> Result<String, String> {
    let venv = directory.join("venv");
    let python = venv.join("bin/python");
    let script = directory.join("memory.py");
    fs::write(&script, include_str!("memory.py")).map_err(|error| error.to_string())?;
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    let installed = |python: &Path| run(Command::new(python).args(["-c", "import fuse"]));
    if !venv.join("lib").is_dir() || installed(&python).is_err() {
        run(Command::new(&python).args(["-m", "pip", "install", "-q", FUSEPY]))?;
        // It looks for libfuse when it is imported.
        installed(&python).map_err(|why| format!("{why} (Debian: libfuse2)"))?;
    }
    Ok(format!("{} {} {{at}}", python.display(), script.display()))
}

fn passthrough(directory: &Path) -> Result<String, String> {
    let source = Path::new(EXAMPLES).join("passthrough_ll.c");
    if !source.exists() {
        return Err(format!("no {} (Debian: libfuse3-dev)", source.display()));
    }
    let program: PathBuf = directory.join(PASSTHROUGH);
    if !program.exists() {
        let line = format!(
            "cc -O2 {} -o {} $(pkg-config fuse3 --cflags --libs)",
            source.display(),
            program.display()
        );
        run(Command::new("sh").args(["-c", &line]))?;
    }
    Ok(format!(
        "{} -f -o source={{store}},default_permissions,cache=always {{at}}",
        program.display()
    ))
}

/// Runs it to its end; the error is the last line it wrote.
fn run(command: &mut Command) -> Result<(), String> {
    io::stdout().flush().map_err(|error| error.to_string())?;
    let program = command.get_program().to_string_lossy().into_owned();
    let ended =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    Err(last.map_or_else(|| format!("{program}: {}", ended.status), str::to_owned))
}
