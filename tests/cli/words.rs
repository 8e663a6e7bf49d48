//! What the program says of itself, how options are given, and what is no command line at all.

use std::collections::BTreeSet;
use std::process::Stdio;

use crate::fixture::{Place, finished, line_of, program};
use crate::{Outcome, Skipped, tests};

tests![
    every_command_has_help_and_a_version,
    every_option_is_also_a_variable,
    the_readme_names_every_variable_that_serve_reads,
    a_flags_variable_reads_as_people_write_it,
    wrong_usage_is_two,
    a_missing_store_is_one_line_with_the_mend,
    a_message_is_one_line_whatever_a_name_holds,
    completions_know_every_command,
    bash_takes_the_completions,
    manual_pages_cover_every_command_and_render,
    a_closed_pipe_ends_quietly,
    nobody_listening_is_no_panic,
];

/// Commands, as `help` lists them.
fn commands(place: &Place) -> Vec<String> {
    let help = place.output(&["--help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    let names: Vec<String> = names.filter(|name| name != "help").collect();
    for expected in [
        "mount",
        "serve",
        "hand-over",
        "umount",
        "run",
        "import",
        "log",
        "status",
        "top",
        "replay",
        "health",
        "verify",
        "completions",
        "man",
    ] {
        assert!(names.iter().any(|name| name == expected), "{expected} is missing: {names:?}");
    }
    names
}

fn every_command_has_help_and_a_version() -> Outcome {
    let place = Place::new();
    let version = place.output(&["--version"]);
    assert_eq!(version, format!("lighthouse-fuse {}\n", env!("CARGO_PKG_VERSION")));
    for name in commands(&place) {
        let help = place.output(&[&name, "--help"]);
        let first = help.lines().next().unwrap();
        assert!(first.starts_with(char::is_uppercase) && !first.ends_with('.'), "{name}: {first}");
        assert_eq!(help, place.output(&["help", &name]));
        assert!(place.output(&[&name, "--version"]).contains(env!("CARGO_PKG_VERSION")));
    }
    Ok(())
}

fn every_option_is_also_a_variable() -> Outcome {
    let place = Place::new();
    for name in commands(&place) {
        let help = place.output(&[&name, "--help"]);
        let words: Vec<&str> = help.split_whitespace().collect();
        let mut options = BTreeSet::new();
        for line in help.lines() {
            let line = line.trim_start();
            // A dash alone is before a possible value.
            if line.starts_with('-') && !line.starts_with("- ") {
                let long = line.split_whitespace().find(|word| word.starts_with("--"));
                options.insert(long.unwrap_or(line));
            }
        }
        assert!(options.contains("--quiet") && options.contains("--log-level"), "{options:?}");
        for option in options.iter().filter(|name| !["--help", "--version"].contains(name)) {
            let variable = option.strip_prefix("--").unwrap().to_uppercase().replace('-', "_");
            // Those of the Python bridge keep their names.
            let ours = format!("LIGHTHOUSE_FUSE_{variable}=]");
            let bridges = format!("LIGHTHOUSE_{variable}=]");
            let has = words.contains(&&*ours) || name == "serve" && words.contains(&&*bridges);
            assert!(has, "{name}: {option} has no variable {ours}");
        }
    }
    Ok(())
}

fn the_readme_names_every_variable_that_serve_reads() -> Outcome {
    let readme = include_str!("../../README.md");
    let help = Place::new().output(&["serve", "--help"]);
    let variables = help.split_whitespace().filter_map(|word| word.split_once('='));
    let variables = variables.map(|(name, _)| name).filter(|name| name.starts_with("LIGHTHOUSE_"));
    // Those of ours are told in one line: each option has its own.
    let bridges: BTreeSet<&str> =
        variables.filter(|name| !name.starts_with("LIGHTHOUSE_FUSE_")).collect();
    assert!(bridges.len() > 15, "{bridges:?}");
    for variable in bridges {
        // Of a secret there is one that names a file, which is told beside it.
        let told = variable.strip_suffix("_FILE").unwrap_or(variable);
        assert!(
            readme.contains(&format!("`{told}`")) || readme.contains(&format!("`{told}=1`")),
            "{variable}"
        );
    }
    Ok(())
}

fn a_flags_variable_reads_as_people_write_it() -> Outcome {
    let place = Place::new();
    std::fs::create_dir(place.path("empty")).unwrap();
    place.output(&["import", "store", "empty"]);
    for (value, json) in
        [("1", true), ("true", true), ("yes", true), ("0", false), ("", false), ("false", false)]
    {
        let mut command = place.command(&["status", "store"]);
        let output = finished(command.env("LIGHTHOUSE_FUSE_JSON", value));
        assert!(output.status.success(), "{value:?}: {output:?}");
        assert_eq!(output.stdout.starts_with(b"{"), json, "{value:?}: {output:?}");
    }
    let mut command = place.command(&["log"]);
    let output =
        finished(command.env("LIGHTHOUSE_FUSE_STORE", "store").env("LIGHTHOUSE_FUSE_LAST", "1"));
    assert_eq!(output.stdout.iter().filter(|&&byte| byte == b'\n').count(), 1, "{output:?}");
    let mut command = place.command(&["verify", "store"]);
    let output = finished(command.env("LIGHTHOUSE_FUSE_QUIET", "1"));
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    Ok(())
}

fn wrong_usage_is_two() -> Outcome {
    let place = Place::new();
    let before = place.listing();
    for arguments in [
        &["--bogus"][..],
        &["bogus"],
        &[],
        &["mount", "store"],
        &["mount", "store", "at", "more"],
        &["run", "store"],
        &["run", "store", "sh"],
        &["log", "-n", "many"],
        &["status", "store", "--bogus"],
        &["mount", "store", "at", "--memory", "1X"],
        &["mount", "store", "at", "--readers", "0"],
        &["completions", "csh"],
    ] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
    }
    let mut command = place.command(&["status", "store"]);
    let output = finished(command.env("LIGHTHOUSE_FUSE_LOG_LEVEL", "loud"));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(place.listing(), before);
    Ok(())
}

fn a_missing_store_is_one_line_with_the_mend() -> Outcome {
    let place = Place::new();
    std::fs::write(place.path("file"), "x").unwrap();
    std::fs::create_dir(place.path("other")).unwrap();
    std::fs::write(place.path("other/file"), "x").unwrap();
    let before = place.listing();
    for arguments in [
        &["status", "gone"][..],
        &["verify", "gone"],
        &["log", "--store", "gone"],
        &["status", "gone/below"],
        &["status", "other"],
    ] {
        let line = place.refusal(arguments);
        assert!(
            line.contains(arguments.last().unwrap()) && line.contains("make one with"),
            "{line}"
        );
    }
    for arguments in [&["status", "file"][..], &["verify", "file"], &["mount", "file", "at"]] {
        let line = place.refusal(arguments);
        assert!(line.contains("file is no directory; name another"), "{line}");
    }
    let line = place.refusal(&["mount", "other", "at"]);
    assert!(line.contains("no store and not empty; choose another"), "{line}");
    let line = place.refusal(&["log"]);
    assert!(line.contains("is in no mounted project; name the store with --store"), "{line}");
    assert_eq!(place.listing(), before);
    Ok(())
}

fn a_message_is_one_line_whatever_a_name_holds() -> Outcome {
    let place = Place::new();
    for name in ["a\nb", "a\u{1b}[1mb", "a\rb"] {
        let line = place.refusal(&["status", name]);
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    Ok(())
}

fn completions_know_every_command() -> Outcome {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.output(&["completions", shell]);
        for name in commands(&place) {
            assert!(script.contains(&name), "{shell} does not know {name}");
        }
    }
    Ok(())
}

fn bash_takes_the_completions() -> Outcome {
    let place = Place::new();
    std::fs::write(place.path("script"), place.output(&["completions", "bash"])).unwrap();
    let ask = "source ./script && COMP_WORDS=(lighthouse-fuse st) COMP_CWORD=1 && \
               _lighthouse__fuse lighthouse-fuse st lighthouse-fuse && echo \"${COMPREPLY[@]}\"";
    let bash = |script: &str| place.under_deadline("bash").arg("-c").arg(script).output().unwrap();
    if bash("true").status.code() == Some(127) {
        return Err(Skipped("bash is not installed".into()));
    }
    let output = bash(ask);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "status\n");
    Ok(())
}

fn manual_pages_cover_every_command_and_render() -> Outcome {
    let place = Place::new();
    let page = place.output(&["man"]);
    for name in commands(&place) {
        let written = format!("lighthouse\\-fuse\\-{}(1)", name.replace('-', "\\-"));
        assert!(page.contains(&written), "{name} is missing");
        let page = place.output(&["man", &name]);
        assert!(page.contains("LIGHTHOUSE_FUSE_QUIET"), "{name}: variables are missing");
    }
    assert!(page.contains("Exit codes"));
    assert!(place.refusal(&["man", "bogus"]).contains("`lighthouse-fuse help` lists them"));
    std::fs::write(place.path("page"), page).unwrap();
    let mut groff = place.under_deadline("groff");
    let output = finished(groff.args(["-man", "-Tutf8", "-ww", "page"]));
    if output.status.code() == Some(127) {
        return Err(Skipped("groff is not installed".into()));
    }
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("history"));
    Ok(())
}

fn a_closed_pipe_ends_quietly() -> Outcome {
    let place = Place::new();
    std::fs::create_dir(place.path("tree")).unwrap();
    for number in 0..2000 {
        std::fs::write(place.path(&format!("tree/{number}")), "x").unwrap();
    }
    place.output(&["import", "--quiet", "store", "tree"]);
    let lines = place.output(&["log", "--store", "store"]);
    assert!(lines.len() > 128 << 10, "more than a pipe holds, or this shows nothing");
    for arguments in ["log --store store", "log --store store --json", "log --store store -n 1999"]
    {
        // Where dash keeps no status of a pipe's first command, a file does.
        let script = format!("({} {arguments}; echo $? > code) 2> said | head -n 1", program());
        assert_eq!(place.shell(&script).lines().count(), 1);
        assert_eq!(place.shell("cat code"), "0\n", "{arguments}");
        assert_eq!(place.shell("cat said"), "", "{arguments}");
    }
    let script = format!(
        "({} log --store store --follow -n 1; echo $? > code) 2> said | head -n 1",
        program()
    );
    assert_eq!(place.shell(&script).lines().count(), 1);
    assert_eq!(place.shell("cat code said"), "0\n", "--follow sees that its reader went away");
    Ok(())
}

fn nobody_listening_is_no_panic() -> Outcome {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = place.command(&["status", "gone"]);
    let status = command.stderr(Stdio::from(writer)).status().unwrap();
    assert_eq!(status.code(), Some(1));
    // Where there is no standard output at all, the failure is one line.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = finished(place.command(&["man"]).stdout(full));
    assert!(line_of(&output).starts_with("cannot write to standard output"));
    Ok(())
}
