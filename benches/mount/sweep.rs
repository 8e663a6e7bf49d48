//! Each setting of ours, asked the questions it is there for, at several values beside its default.

use crate::questions::{Size, with_words};
use crate::report::Row;
use crate::server::{Crew, Spec};

/// One setting, or two that hang together.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    /// The default, in the words of the command line.
    default: &'static str,
    /// Other values.
    values: &'static [&'static str],
    /// Names of questions, or what several have in common.
    questions: &'static [&'static str],
}

pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        name: "lifetime of names and attributes",
        default: "--lifetime 86400",
        values: &["--lifetime 0", "--lifetime 1"],
        questions: &["stat again", "walk and stat again"],
    },
    Setting {
        name: "lifetime of attributes",
        default: "--attribute-lifetime 86400",
        values: &["--attribute-lifetime 0", "--attribute-lifetime 1"],
        questions: &["stat again"],
    },
    Setting {
        name: "lifetime of absent names",
        default: "--absent-lifetime 86400",
        values: &["--absent-lifetime 0", "--absent-lifetime 1"],
        questions: &["missing name again"],
    },
    Setting {
        name: "pages kept beyond closing",
        default: "",
        values: &["--no-keep-cache"],
        questions: &["open, read 4 KiB, close", "read, warm"],
    },
    Setting {
        name: "listings kept",
        default: "",
        values: &["--no-cache-dir"],
        questions: &["list 100 names", "list 10,000 names", "walk and stat again"],
    },
    Setting {
        name: "READDIRPLUS",
        default: "--readdirplus auto",
        values: &["--readdirplus always", "--readdirplus never"],
        questions: &["list 10,000 names", "walk and stat, forgotten", "walk and stat again"],
    },
    Setting {
        name: "READDIRPLUS, listings not kept",
        default: "--readdirplus auto --no-cache-dir",
        values: &["--readdirplus always --no-cache-dir", "--readdirplus never --no-cache-dir"],
        questions: &["list 10,000 names", "walk and stat, forgotten"],
    },
    Setting {
        name: "birth times",
        default: "",
        values: &["--no-birth-times"],
        questions: &["walk and stat, forgotten", "walk and statx, forgotten"],
    },
    Setting {
        name: "new files past the cache",
        default: "",
        values: &["--no-direct-writes"],
        questions: &["create, write", "write, no fsync", "write, fsync", "read, cold"],
    },
    Setting {
        name: "operations side by side in one directory",
        default: "",
        values: &["--no-parallel-dirops"],
        questions: &["lookup of a missing name", "lookup of a name that is there"],
    },
    Setting {
        name: "largest request",
        default: "--max-write 1024",
        values: &["--max-write 64", "--max-write 128", "--max-write 256", "--max-write 512"],
        questions: &["write, no fsync", "write, fsync", "read, cold", "read, nothing cached"],
    },
    Setting {
        name: "requests nobody waits for",
        default: "--max-background 64",
        values: &["--max-background 4", "--max-background 12", "--max-background 256"],
        questions: &["read, cold", "read, nothing cached"],
    },
    Setting {
        name: "reading ahead",
        default: "--read-ahead 512",
        values: &["--read-ahead 128", "--read-ahead 2048", "--read-ahead 8192"],
        questions: &["read, cold", "read, nothing cached", "read 4 KiB anywhere"],
    },
    Setting {
        name: "splicing",
        default: "--splice-from 32768",
        values: &["--splice-from 0", "--splice-from 4096", "--splice-from 131072"],
        questions: &["read, cold", "read, nothing cached", "read in pieces"],
    },
    Setting {
        name: "readers",
        default: "--readers 4",
        values: &["--readers 1", "--readers 2", "--readers 8"],
        questions: &["getattr", "create, write", "fsync of 4 KiB"],
    },
    Setting {
        name: "looking before sleeping",
        default: "--spin 20",
        values: &["--spin 0", "--spin 5", "--spin 50", "--spin 200"],
        questions: &["getattr", "read of 4 KiB past", "create, write"],
    },
    Setting {
        name: "a CPU shared with who asks",
        default: "",
        values: &["--no-shared-cpu"],
        questions: &["getattr", "open and close", "create, write", "rename"],
    },
];

impl Setting {
    /// Starts servers for each value, the default first, and asks all of them in turn.
    pub(crate) fn ask(&self, size: &Size) -> Vec<Row> {
        println!("\n{}", self.name);
        let values = std::iter::once(&self.default).chain(self.values);
        let crews: Vec<Crew> = values
            .map(|value| {
                let name =
                    if value.is_empty() { "default" } else { value.trim_start_matches("--") };
                let spec = Spec::ours(name, &format!("--transport dev {value}"));
                Crew::start(&spec, size.crew)
            })
            .collect();
        with_words(self.questions).flat_map(|question| question.ask(&crews, size, None)).collect()
    }
}
