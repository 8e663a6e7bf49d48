//! Who may: asked where something is opened, made or changed, and nowhere else. What the kernel has cached (names,
//! attributes, listings) it gives out without asking, so looking at those is judged by modes alone.
//!
//! A file is judged by each of its names: one that is closed closes it, so that a second name opens nothing. What is
//! read or written through an open file was judged when it was opened.

use crate::agents::guard::{Attempt, Guard};
use crate::agents::policy::{Access, Section};
use crate::proto::types::Caller;
use crate::tree::{Ino, Seq};

use super::context::{PackageFile, steps};
use super::made::Made;
use super::nodes::{Place, Tense};
use super::{Asker, Refusal, TreeRefusal, View};

type Path = Vec<Vec<u8>>;

impl View {
    /// Refuses to open `place` where somebody may not.
    pub(super) fn may_open(
        &self,
        asker: &Asker<'_>,
        place: Place,
        access: Access,
    ) -> Result<(), Refusal> {
        let Some(guard) = self.agents.guard() else { return Ok(()) };
        let mut paths: Vec<(Section, Path)> = Vec::new();
        let in_tree = |ino: Ino, tense| -> Result<Vec<(Section, Path)>, Refusal> {
            let found = self.tree.paths(ino, self.at(tense)?)?;
            Ok(found.into_iter().map(|path| (Section::Current, path)).collect())
        };
        match place {
            Place::Root => (),
            // Where a session is shown.
            Place::Made(Made::Agent | Made::AgentLine(_)) => return Ok(()),
            Place::History => paths.push((Section::History, Vec::new())),
            Place::Tree(Tense::Now, ino) => paths = in_tree(ino, Tense::Now)?,
            Place::Tree(tense @ Tense::Past(_), ino) => {
                paths = in_tree(ino, tense)?;
                paths.push((Section::History, Vec::new()));
            }
            Place::Made(Made::Shadow(ino)) => {
                paths = in_tree(ino, Tense::Now)?;
                let shadows: Vec<_> =
                    paths.iter().map(|(_, path)| (Section::Shadows, path.clone())).collect();
                paths.extend(shadows);
            }
            Place::Made(made) => {
                if let Made::PackageFile(by, PackageFile::Files) = made {
                    paths = self.shown_in(by)?;
                }
                paths.extend(self.made_paths(made)?.into_iter().map(|path| (section(made), path)));
            }
        }
        let attempts: Vec<_> = paths
            .iter()
            .map(|(section, path)| Attempt { section: *section, path, access, below: false })
            .collect();
        ask(self, guard, asker, "open", &attempts)
    }

    /// What `files.json` of the package that `by` made shows: each file as it was named, and all its names of then.
    fn shown_in(&self, by: Seq) -> Result<Vec<(Section, Path)>, Refusal> {
        let package = self.package(by)?;
        let mut paths = Vec::new();
        for text in &package.files_involved {
            match self.involved(text, package.seq) {
                Ok(inode) => paths.extend(self.tree.paths(inode.ino, package.seq)?),
                Err(TreeRefusal::NotFound | TreeRefusal::NotADirectory) => (),
                Err(refusal) => return Err(refusal.into()),
            }
            paths.push(steps(text).map(|name| name.as_bytes().to_vec()).collect());
        }
        Ok(paths.into_iter().map(|path| (Section::Current, path)).collect())
    }

    /// What `made` is called, names from the directory of its section on: by whichever of them rules name it.
    fn made_paths(&self, made: Made) -> Result<Vec<Path>, Refusal> {
        let id = |by| Ok::<_, Refusal>(self.package(by)?.package_id.clone().into_bytes());
        let from = || b"from".to_vec();
        Ok(match made {
            Made::Stream(None, name) => vec![vec![name.text().to_vec()]],
            // It is the same stream, wherever it begins.
            Made::Stream(Some(_), name) => vec![vec![name.text().to_vec()], vec![from()]],
            Made::StreamsFrom | Made::StreamsSince(_) => vec![vec![from()]],
            Made::Package(by) => vec![vec![id(by)?]],
            Made::PackageFile(by, file) => vec![vec![id(by)?, file.text().to_vec()]],
            Made::DebugFile(file) => vec![vec![file.text().to_vec()]],
            Made::Streams
            | Made::Context
            | Made::Shadow(_)
            | Made::Debug
            | Made::Agent
            | Made::AgentLine(_) => vec![Vec::new()],
        })
    }

    /// Refuses to change the attributes of `ino` where somebody may not.
    pub(super) fn may_change(&self, asker: &Asker<'_>, ino: Ino) -> Result<(), Refusal> {
        let Some(guard) = self.agents.guard() else { return Ok(()) };
        let paths = self.tree.paths(ino, Seq::NOW)?;
        let attempts: Vec<_> = paths.iter().map(|path| changed(path, false)).collect();
        ask(self, guard, asker, "change", &attempts)
    }

    /// Refuses to make, link or take away names where somebody may not. With `below` the names, and what is under
    /// them, move.
    pub(super) fn may_name(
        &self,
        asker: &Asker<'_>,
        names: &[(Ino, &[u8])],
        below: bool,
    ) -> Result<(), Refusal> {
        let Some(guard) = self.agents.guard() else { return Ok(()) };
        let mut paths = Vec::with_capacity(names.len());
        for &(parent, name) in names {
            // What has no path itself is a directory that is gone, in which nothing can be made.
            paths.extend(self.tree.path_in(parent, name, Seq::NOW)?);
        }
        let attempts: Vec<_> = paths.iter().map(|path| changed(path, below)).collect();
        ask(self, guard, asker, "change names", &attempts)
    }

    /// Refuses to make or take away a label where somebody may not.
    pub(super) fn may_label(&self, asker: &Asker<'_>) -> Result<(), Refusal> {
        let Some(guard) = self.agents.guard() else { return Ok(()) };
        let path = Vec::new();
        let (section, access) = (Section::History, Access::Write);
        let attempt = Attempt { section, path: &path, access, below: false };
        ask(self, guard, asker, "label", &[attempt])
    }
}

fn changed(path: &Path, below: bool) -> Attempt<'_> {
    Attempt { section: Section::Current, path, access: Access::Write, below }
}

fn section(made: Made) -> Section {
    match made {
        Made::Streams | Made::StreamsFrom | Made::StreamsSince(_) | Made::Stream(..) => {
            Section::Streams
        }
        Made::Context | Made::Package(_) | Made::PackageFile(..) => Section::Context,
        Made::Shadow(_) => Section::Shadows,
        Made::Debug | Made::DebugFile(_) | Made::Agent | Made::AgentLine(_) => Section::Debug,
    }
}

fn ask(
    view: &View,
    guard: &Guard,
    asker: &Asker<'_>,
    doing: &str,
    attempts: &[Attempt<'_>],
) -> Result<(), Refusal> {
    let Caller { uid, gid, pid } = asker.caller;
    let who = guard.believe(&view.agents.identity(uid, gid, pid));
    let Some(why) = guard.refuses(&who, attempts) else { return Ok(()) };
    let path = attempts.first().map(|attempt| shown(attempt.path)).unwrap_or_default();
    guard.tell(&who, (uid, pid), doing, &path, why);
    Err(Refusal::NotAllowed)
}

fn shown(path: &[Vec<u8>]) -> String {
    path.iter().fold(String::new(), |mut text, name| {
        text.push('/');
        text.push_str(&String::from_utf8_lossy(name));
        text
    })
}

#[cfg(test)]
mod tests {
    use crate::agents::policy::Policy;

    use super::super::debug::DebugFile;
    use super::super::streams::StreamName;
    use super::*;

    #[test]
    fn a_policy_can_name_whatever_is_beside_the_tree() {
        let streams = StreamName::ALL.map(|name| (b"/streams/".to_vec(), name.text()));
        let files = DebugFile::ALL.map(|file| (b"/debug/".to_vec(), file.text()));
        let package = PackageFile::ALL.map(|file| (b"/context/p/".to_vec(), file.text()));
        for (above, name) in streams.into_iter().chain(files).chain(package) {
            let path = String::from_utf8([above, name.to_vec()].concat()).unwrap();
            assert!(Policy::parse(&format!("* {path} none")).is_ok(), "{path}");
        }
    }
}
