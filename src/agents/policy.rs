//! What agents may do where: rules from a file, in the permission words of the Python bridge.
//!
//! ```text
//! # who        where                  may
//! *            /                      filesystem_read context_access stream_access
//! builder-*    /current               filesystem_read filesystem_write
//! builder-*    /current/deploy        filesystem_read
//! -            /current/two%20words   none
//!
//! # who is whoever runs in a cgroup, or below it
//! cgroup /system.slice/builder.service builder-7
//! ```
//!
//! *Who* is the name of an agent, the beginning of one and `*`, `*` for everybody, or `-` for whoever is no agent.
//! *Where* is a path in the mount, a byte of it as `%XX` where it is blank, `%` or `#`. Of the rules about somebody and
//! a path, or what it is below, the one with the longest path decides, of several with the same path the last. Where there
//! is none, nothing is refused.
//!
//! | word | lets |
//! |---|---|
//! | `filesystem_read` | read below `current/` and `history/` |
//! | `filesystem_write` | change what is below `current/`, and labels; read below `current/` too |
//! | `ast_access` | read below `shadows/` |
//! | `context_access` | read below `context/`; over HTTP take packages away too |
//! | `stream_access` | read below `streams/`, and events over HTTP |
//! | `debug_access` | read below `debug/` |
//! | `none` | nothing |
//!
//! The past of a path below `current/`, and its shadow, are closed to whom the path is closed; and so is `files.json` of a
//! package that shows it.
//!
//! Paths are names of what is judged: whatever there is below `current/` and `shadows/`, a package of `context/` and a file in
//! it, a stream (which is closed from any event on) or `streams/from`, a file of `debug/`. `history/` is judged as a whole. A
//! rule about anything else could never apply, and is not understood.
//!
//! Invariant: pure; a file that is not wholly understood is no policy.

use std::fmt;

/// Longest policy, in bytes.
pub const POLICY_MAX: u64 = 1 << 20;

/// A directory directly below the mount's root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Section {
    /// `current/`
    Current,
    /// `history/`
    History,
    /// `shadows/`
    Shadows,
    /// `context/`
    Context,
    /// `streams/`
    Streams,
    /// `debug/`
    Debug,
}

impl Section {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Current, "current"),
        (Self::History, "history"),
        (Self::Shadows, "shadows"),
        (Self::Context, "context"),
        (Self::Streams, "streams"),
        (Self::Debug, "debug"),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::History => "history",
            Self::Shadows => "shadows",
            Self::Context => "context",
            Self::Streams => "streams",
            Self::Debug => "debug",
        }
    }

    fn of(name: &[u8]) -> Option<Self> {
        Self::ALL.iter().find(|(_, is)| is.as_bytes() == name).map(|&(section, _)| section)
    }

    /// Why no attempt ever is at `path`, names from the section on, or below it.
    fn never(self, path: &[Vec<u8>]) -> Option<String> {
        let (known, judged, rest): (&[&str], _, _) = match self {
            Self::Current | Self::Shadows => return None,
            Self::History if path.is_empty() => return None,
            Self::History => {
                return Some(
                    "/history is judged as a whole, and what is in it as its path below /current"
                        .to_owned(),
                );
            }
            Self::Context => (&PACKAGE_FILES, "a package's file", path.get(1..)),
            Self::Streams => (&STREAMS, "a stream", Some(path)),
            Self::Debug => (&DEBUG_FILES, "a file there", Some(path)),
        };
        match rest.unwrap_or_default() {
            [] => None,
            [name] if known.iter().any(|known| known.as_bytes() == name) => None,
            _ => Some(format!(
                "below /{} no path is longer than to {judged}, which is one of {}",
                self.name(),
                known.join(", ")
            )),
        }
    }
}

/// What is judged in `streams/`.
const STREAMS: [&str; 7] = [
    "validation_requests",
    "expert_responses",
    "pair_sessions",
    "file_changes",
    "agent_activities",
    "debug_events",
    "from",
];

/// What is judged in `debug/`.
const DEBUG_FILES: [&str; 4] =
    ["performance.json", "cache_stats.json", "health.json", "operation_log.txt"];

/// What is judged in a package.
const PACKAGE_FILES: [&str; 3] = ["manifest.json", "files.json", "context.json"];

/// What somebody is about to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Read content.
    Read,
    /// Change it, its attributes or its name.
    Write,
}

/// Words, as bits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Words(u8);

impl Words {
    const READ: u8 = 1;
    const WRITE: u8 = 2;
    const AST: u8 = 4;
    const CONTEXT: u8 = 8;
    const STREAM: u8 = 16;
    const DEBUG: u8 = 32;

    fn bit(word: &str) -> Option<u8> {
        Some(match word {
            "filesystem_read" => Self::READ,
            "filesystem_write" => Self::WRITE,
            "ast_access" => Self::AST,
            "context_access" => Self::CONTEXT,
            "stream_access" => Self::STREAM,
            "debug_access" => Self::DEBUG,
            "none" => 0,
            _ => return None,
        })
    }

    fn permit(self, section: Section, access: Access) -> bool {
        let enough = match (section, access) {
            (Section::Current, Access::Read) => Self::READ | Self::WRITE,
            (Section::Current | Section::History, Access::Write) => Self::WRITE,
            (Section::History, Access::Read) => Self::READ,
            (Section::Shadows, Access::Read) => Self::AST,
            (Section::Context, Access::Read) => Self::CONTEXT,
            (Section::Streams, Access::Read) => Self::STREAM,
            (Section::Debug, Access::Read) => Self::DEBUG,
            // Nobody can write there, whatever a policy says.
            (_, Access::Write) => return true,
        };
        self.0 & enough != 0
    }
}

/// Whom a rule is about.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Who {
    Everybody,
    Nobody,
    Agent(Vec<u8>),
    Beginning(Vec<u8>),
}

impl Who {
    fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some("") => Self::Everybody,
            Some(beginning) => Self::Beginning(beginning.as_bytes().to_vec()),
            None if text == "-" => Self::Nobody,
            None => Self::Agent(text.as_bytes().to_vec()),
        }
    }

    fn is(&self, agent: &[u8]) -> bool {
        match self {
            Self::Everybody => true,
            Self::Nobody => agent.is_empty(),
            Self::Agent(name) => name == agent,
            Self::Beginning(beginning) => !agent.is_empty() && agent.starts_with(beginning),
        }
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Rule {
    who: Who,
    /// From the mount's root on.
    path: Vec<Vec<u8>>,
    words: Words,
}

/// Rules about what agents may do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    rules: Vec<Rule>,
    /// Names from the root of cgroups on, and the agent.
    cgroups: Vec<(Vec<Vec<u8>>, Vec<u8>)>,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyError {
    /// In which line, from 1 on.
    pub line: usize,
    /// What.
    pub what: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for PolicyError {}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    ///
    /// The first line that says nothing that can be understood.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut policy = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.split_once('#').map_or(line, |(before, _)| before);
            let mut words = line.split_ascii_whitespace();
            let Some(who) = words.next() else { continue };
            policy.line(who, words).map_err(|what| PolicyError { line: number + 1, what })?;
        }
        Ok(policy)
    }

    fn line<'t>(
        &mut self,
        who: &'t str,
        mut words: impl Iterator<Item = &'t str>,
    ) -> Result<(), String> {
        let path = words.next().ok_or("it ends early: WHO PATH WORD..., or cgroup PATH AGENT")?;
        let path = components(path)?;
        if who == "cgroup" {
            let agent = words.next().ok_or("it names no agent")?;
            if words.next().is_some() {
                return Err("there is more than cgroup PATH AGENT".to_owned());
            }
            self.cgroups.push((path, agent.as_bytes().to_vec()));
            return Ok(());
        }
        if let Some((first, rest)) = path.split_first() {
            let section = Section::of(first)
                .ok_or("its path begins with no directory of the mount, such as /current")?;
            if let Some(why) = section.never(rest) {
                return Err(why);
            }
        }
        let mut bits = None;
        for word in words {
            let bit = Words::bit(word).ok_or_else(|| format!("{word:?} is no word for a right"))?;
            if bits.is_some_and(|bits| bits == 0 || bit == 0) {
                return Err("`none` stands alone".to_owned());
            }
            bits = Some(bits.unwrap_or(0) | bit);
        }
        let words = Words(bits.ok_or("it names no right; `none` is a word for that")?);
        self.rules.push(Rule { who: Who::parse(who), path, words });
        Ok(())
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.cgroups.is_empty()
    }

    /// Whether it says who runs in some cgroup.
    #[must_use]
    pub fn names_cgroups(&self) -> bool {
        !self.cgroups.is_empty()
    }

    /// Whether `agent` (empty: whoever is none) may have `access` to `path`, names from the directory of `section` on.
    #[must_use]
    pub fn permits<N: AsRef<[u8]>>(
        &self,
        agent: &[u8],
        section: Section,
        path: &[N],
        access: Access,
    ) -> bool {
        let decides = self
            .rules
            .iter()
            .filter(|rule| rule.who.is(agent) && rule.covers(section, path))
            // Of several with the same length the last.
            .max_by_key(|rule| rule.path.len());
        decides.is_none_or(|rule| rule.words.permit(section, access))
    }

    /// Whether it may have it to `path` and to all that rules know below it: who moves a directory moves that as well.
    #[must_use]
    pub fn permits_below<N: AsRef<[u8]>>(
        &self,
        agent: &[u8],
        section: Section,
        path: &[N],
        access: Access,
    ) -> bool {
        let below =
            self.rules.iter().filter_map(|rule| rule.path.split_first()).filter(|(first, rest)| {
                first.as_slice() == section.name().as_bytes() && begins(rest, path)
            });
        self.permits(agent, section, path, access)
            && below.into_iter().all(|(_, rest)| self.permits(agent, section, rest, access))
    }

    /// The agent that whoever runs in `cgroup` is; the longest path that is named decides.
    #[must_use]
    pub fn agent_in(&self, cgroup: &[u8]) -> Option<&[u8]> {
        let names: Vec<&[u8]> =
            cgroup.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
        let among = self.cgroups.iter().filter(|(path, _)| begins(&names, path));
        among.max_by_key(|(path, _)| path.len()).map(|(_, agent)| agent.as_slice())
    }
}

impl Rule {
    fn covers<N: AsRef<[u8]>>(&self, section: Section, path: &[N]) -> bool {
        match self.path.split_first() {
            None => true,
            Some((first, rest)) => {
                first.as_slice() == section.name().as_bytes() && begins(path, rest)
            }
        }
    }
}

/// Whether `path` begins with `with`, name by name.
fn begins<N: AsRef<[u8]>, M: AsRef<[u8]>>(path: &[N], with: &[M]) -> bool {
    path.len() >= with.len()
        && path.iter().zip(with).all(|(name, other)| name.as_ref() == other.as_ref())
}

/// The names in a path that begins with a slash.
fn components(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let rest = text.strip_prefix('/').ok_or_else(|| format!("{text:?} begins with no slash"))?;
    let names = rest.split('/').filter(|name| !name.is_empty());
    let decoded = names.map(|name| {
        let name = decoded(name).ok_or_else(|| format!("{name:?} has a `%` without two digits"))?;
        match &name[..] {
            b"." | b".." => Err("a name is `.` or `..`".to_owned()),
            bytes if bytes.iter().any(|byte| matches!(byte, 0 | b'/')) => {
                Err("no name can have such a byte".to_owned())
            }
            _ => Ok(name),
        }
    });
    decoded.collect()
}

fn decoded(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high << 4 | low).ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Access::{Read, Write};
    use super::Section::{Context, Current, Debug, History, Shadows, Streams};
    use super::*;

    const NONE: [&str; 0] = [];

    #[test]
    fn the_longest_path_decides_and_of_equals_the_last() {
        let text = "* / filesystem_read\n\
                    builder-* /current filesystem_read filesystem_write # all of it\n\
                    builder-7 /current/deploy none\n\
                    builder-7 /current/deploy filesystem_read\n\
                    - /current/two%20words none\n";
        let policy = Policy::parse(text).unwrap();
        let permits = |agent: &str, path: &[&str], access| {
            policy.permits(agent.as_bytes(), Current, path, access)
        };
        assert!(permits("x", &["a"], Read) && !permits("x", &["a"], Write));
        assert!(permits("builder-7", &["a"], Write) && permits("builder-", &NONE, Write));
        assert!(permits("builder-7", &["deploy", "f"], Read));
        assert!(!permits("builder-7", &["deploy", "f"], Write));
        assert!(permits("builder-7", &["deployed"], Write), "names, not beginnings of names");
        assert!(!permits("", &["two words", "f"], Read) && permits("x", &["two words"], Read));
        assert!(Policy::default().permits(b"x", Current, &["a"], Write));
        let some = Policy::parse("a /current/x none").unwrap();
        assert!(
            some.permits(b"a", Current, &["y"], Write)
                && some.permits(b"b", Current, &["x"], Write)
        );
    }

    #[test]
    fn each_word_lets_what_the_bridge_had_it_let() {
        for (word, reads) in [
            ("filesystem_read", &[Current, History][..]),
            ("filesystem_write", &[Current]),
            ("ast_access", &[Shadows]),
            ("context_access", &[Context]),
            ("stream_access", &[Streams]),
            ("debug_access", &[Debug]),
            ("none", &[]),
        ] {
            let policy = Policy::parse(&format!("* / {word}")).unwrap();
            for (section, _) in Section::ALL {
                let may = policy.permits(b"", section, &NONE, Read);
                assert_eq!(may, reads.contains(&section), "{word} {section:?}");
            }
            let writes = policy.permits(b"", Current, &NONE, Write);
            assert_eq!(writes, word == "filesystem_write", "{word}");
        }
    }

    #[test]
    fn who_moves_a_directory_needs_the_right_to_all_that_rules_know_in_it() {
        let policy = Policy::parse("* /current/a/b/c none\n* /current/z none").unwrap();
        let below = |path: &[&str]| policy.permits_below(b"", Current, path, Write);
        assert!(!below(&["a"]) && !below(&["a", "b"]) && !below(&["a", "b", "c", "d"]));
        assert!(below(&["ab"]) && below(&["a", "x"]) && !below(&NONE));
    }

    #[test]
    fn a_cgroup_and_what_is_below_it_is_an_agent() {
        let policy = Policy::parse("cgroup /a.slice outer\ncgroup /a.slice/b inner").unwrap();
        assert_eq!(policy.agent_in(b"/a.slice/b/c"), Some(&b"inner"[..]));
        assert_eq!(policy.agent_in(b"/a.slice/bc"), Some(&b"outer"[..]));
        assert_eq!((policy.agent_in(b"/"), policy.agent_in(b"")), (None, None));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        for (text, line) in [
            ("x", 1),
            ("x /current", 1),
            ("x current none", 1),
            ("# fine\n\nx /current write", 3),
            ("x /elsewhere none", 1),
            ("x /history/@5 none", 1),
            ("x /history/label/src filesystem_read", 1),
            ("x /streams/debug_event none", 1),
            ("x /streams/from/@5 none", 1),
            ("x /streams/from/@5/file_changes none", 1),
            ("x /debug/health none", 1),
            ("x /debug/health.json/x none", 1),
            ("x /context/p/files none", 1),
            ("x /context/p/files.json/x none", 1),
            ("x /current none filesystem_read", 1),
            ("x /current filesystem_read none", 1),
            ("x /current/%f none", 1),
            ("x /current/%00 none", 1),
            ("x /current/a%2fb none", 1),
            ("x /current/.. none", 1),
            ("cgroup /a", 1),
            ("cgroup /a b c", 1),
        ] {
            let found = Policy::parse(text).map_err(|err| err.line);
            assert_eq!(found, Err(line), "{text}");
        }
        assert!(Policy::parse("# only this\n").unwrap().is_empty());
        let said = Policy::parse("x /streams/debug_event none").unwrap_err().to_string();
        assert!(said.contains("/streams") && said.contains("debug_events"), "{said}");
        let said = Policy::parse("x /history/@5 none").unwrap_err().to_string();
        assert!(said.contains("/history is judged as a whole"), "{said}");
    }

    #[test]
    fn a_rule_about_one_thing_beside_the_tree_goes_for_that_alone() {
        let text = "* /context/secret none\n* /context/open/files.json none\n\
                    * /streams/debug_events none\n* /debug/health.json none";
        let policy = Policy::parse(text).unwrap();
        let may = |section, path: &[&str]| policy.permits(b"", section, path, Read);
        assert!(!may(Context, &["secret"]) && !may(Context, &["secret", "manifest.json"]));
        assert!(!may(Context, &["open", "files.json"]) && may(Context, &["open", "context.json"]));
        assert!(!may(Streams, &["debug_events"]) && may(Streams, &["file_changes"]));
        assert!(!may(Debug, &["health.json"]) && may(Debug, &["performance.json"]));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[-* a-z/%0-9#\\n]{0,60}|\\PC{0,60}", path: Vec<Vec<u8>>) {
            if let Ok(policy) = Policy::parse(&text) {
                let below = policy.permits_below(b"a", Current, &path, Write);
                prop_assert!(!below || policy.permits(b"a", Current, &path, Write));
                let _ = policy.agent_in(text.as_bytes());
            }
        }
    }
}
