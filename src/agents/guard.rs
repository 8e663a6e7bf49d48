//! Whether somebody may: who needs a session, and what the policy says.
//!
//! Who somebody is comes, in this order, from the cgroup a policy names; from what the process or an ancestor was registered
//! as, and where none was, from its environment or an ancestor's. Of those two, from the session whose token is there
//! (`LIGHTHOUSE_SESSION`), and from the name (`LIGHTHOUSE_AGENT`).
//! Where sessions are demanded and can be looked up, a name alone is not believed.
//!
//! Invariants: who cannot be known has no session and is no agent; what is refused is logged, at most
//! [`TOLD_MAX`] lines a second.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::policy::{Access, Policy, Section};

/// Refusals that are logged in one second; of more only the next second's first line tells.
pub const TOLD_MAX: u64 = 20;

/// Finds the agent of a session by its token; `None` where there is no such session, or not any more.
pub type Sessions = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What a process, or an ancestor of it, was registered as, or says of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// The agent it works for, by name; `LIGHTHOUSE_AGENT`.
    pub agent: Vec<u8>,
    /// Its session's token, where there is one; `LIGHTHOUSE_SESSION`.
    pub session: Vec<u8>,
    /// Its cgroup, which it does not choose.
    pub cgroup: Vec<u8>,
}

/// Who somebody is, as far as it is believed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Believed {
    /// Empty: no agent.
    pub agent: Vec<u8>,
    /// Whether it has a session.
    pub in_session: bool,
}

/// What somebody is about to do to one path.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// In which directory of the mount.
    pub section: Section,
    /// Names from there on.
    pub path: &'a [Vec<u8>],
    /// What.
    pub access: Access,
    /// With all that is below it.
    pub below: bool,
}

/// Decides who may.
pub struct Guard {
    require_session: bool,
    policy: Policy,
    sessions: Option<Sessions>,
    began: Instant,
    /// The second that is counted, and how many refusals it has.
    told: AtomicU64,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("require_session", &self.require_session)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// Demands a session of everybody if `require_session`, and lets `policy` decide over the rest. Without
    /// `sessions` whatever a process says is its session is taken for one.
    #[must_use]
    pub fn new(require_session: bool, policy: Policy, sessions: Option<Sessions>) -> Self {
        let (began, told) = (Instant::now(), AtomicU64::new(0));
        Self { require_session, policy, sessions, began, told }
    }

    /// Whether a cgroup tells who somebody is.
    #[must_use]
    pub fn names_cgroups(&self) -> bool {
        self.policy.names_cgroups()
    }

    /// Who somebody is.
    #[must_use]
    pub fn believe(&self, identity: &Identity) -> Believed {
        if let Some(agent) = self.policy.agent_in(&identity.cgroup) {
            return Believed { agent: agent.to_vec(), in_session: true };
        }
        let by_name = |in_session| Believed { agent: identity.agent.clone(), in_session };
        let Some(sessions) = &self.sessions else { return by_name(!identity.session.is_empty()) };
        match std::str::from_utf8(&identity.session).ok().and_then(sessions) {
            Some(agent) => Believed { agent: agent.into_bytes(), in_session: true },
            None if self.require_session => Believed::default(),
            None => by_name(false),
        }
    }

    /// Whether somebody may do this; if not, why.
    #[must_use]
    pub fn refuses(&self, who: &Believed, attempts: &[Attempt<'_>]) -> Option<&'static str> {
        if self.require_session && !who.in_session {
            return Some("it has no session");
        }
        let permitted = |attempt: &Attempt<'_>| {
            let Attempt { section, path, access, below } = *attempt;
            match below {
                true => self.policy.permits_below(&who.agent, section, path, access),
                false => self.policy.permits(&who.agent, section, path, access),
            }
        };
        (!attempts.iter().all(permitted)).then_some("the policy closes it")
    }

    /// Tells the log that `who` (user, process) may not do something.
    pub fn tell(&self, who: &Believed, (uid, pid): (u32, u32), doing: &str, path: &str, why: &str) {
        let second = self.began.elapsed().as_secs();
        let counted = self.told.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |told| {
            Some(if told >> 32 == second { told + 1 } else { second << 32 | 1 })
        });
        // It always gives a value back, the one before.
        let before = counted.unwrap_or_default();
        let (then, count) = (before >> 32, before & u64::from(u32::MAX));
        if then == second && count >= TOLD_MAX {
            return;
        }
        let silent = if then == second { 0 } else { count.saturating_sub(TOLD_MAX) };
        let agent = String::from_utf8_lossy(&who.agent);
        tracing::warn!(%agent, uid, pid, path, silent, "refused to {doing}: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(agent: &str, session: &str) -> Identity {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Identity { agent: bytes(agent), session: bytes(session), cgroup: bytes("/x/y") }
    }

    fn believed(agent: &str, in_session: bool) -> Believed {
        Believed { agent: agent.as_bytes().to_vec(), in_session }
    }

    fn known() -> Option<Sessions> {
        Some(Box::new(|token| (token == "token").then(|| "true".to_owned())))
    }

    #[test]
    fn a_session_that_can_be_looked_up_is_not_taken_at_its_word() {
        let strict = Guard::new(true, Policy::default(), known());
        assert_eq!(strict.believe(&identity("any", "token")), believed("true", true));
        assert_eq!(strict.believe(&identity("any", "other")), Believed::default());
        assert_eq!(strict.believe(&identity("any", "")), Believed::default());
        let open = Guard::new(false, Policy::default(), known());
        assert_eq!(open.believe(&identity("any", "other")), believed("any", false));
        let alone = Guard::new(true, Policy::default(), None);
        assert_eq!(alone.believe(&identity("any", "s")), believed("any", true));
        assert_eq!(alone.believe(&identity("any", "")), believed("any", false));
    }

    #[test]
    fn a_cgroup_is_believed_before_all_else() {
        let policy = Policy::parse("cgroup /x service").unwrap();
        let guard = Guard::new(true, policy, known());
        assert_eq!(guard.believe(&identity("any", "token")), believed("service", true));
    }

    #[test]
    fn every_path_of_an_attempt_must_be_permitted() {
        let policy = Policy::parse("* /current/shut none").unwrap();
        let guard = Guard::new(false, policy.clone(), None);
        let (open, shut) = (vec![b"open".to_vec()], vec![b"shut".to_vec()]);
        let attempt =
            |path| Attempt { section: Section::Current, path, access: Access::Read, below: false };
        let who = believed("a", false);
        assert_eq!(guard.refuses(&who, &[attempt(&open)]), None);
        assert!(guard.refuses(&who, &[attempt(&open), attempt(&shut)]).is_some());
        let strict = Guard::new(true, policy, None);
        assert!(strict.refuses(&who, &[]).is_some());
        assert_eq!(strict.refuses(&believed("a", true), &[attempt(&open)]), None);
    }
}
