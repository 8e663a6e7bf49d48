//! Sessions: who may ask over HTTP, and as which agent.
//!
//! ```text
//! <session id>:<agent id>:<created>:<hmac>
//!  32 hex digits           Unix seconds, as 1795489119.575809
//!  hmac = hex HMAC-SHA256 of the first three parts, joined by `:`, under the secret
//! ```
//!
//! The shape is the Python bridge's, whose clients take tokens as opaque. A session is looked up by its id,
//! and the whole token compared in constant time.
//!
//! Invariants: a token ends after an hour without use, and after eight hours whatever its use; an agent has
//! at most [`PER_AGENT`] sessions, and there are at most [`SESSIONS_MAX`] in all: the one idle longest goes.
//! Pure: the clock comes in as `now`.

use std::fmt::{self, Write as _};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use rustc_hash::FxHashMap;
use sha2::Sha256;

/// How long a session lasts without being used.
pub(crate) const IDLE: Duration = Duration::from_secs(3600);
/// How long it lasts at most.
pub(crate) const LIFE: Duration = Duration::from_secs(8 * 3600);
/// Sessions one agent may have.
pub(crate) const PER_AGENT: usize = 3;
/// Sessions in all.
pub(crate) const SESSIONS_MAX: usize = 10_000;
/// Longest agent id, address or user agent, in bytes.
pub(crate) const TEXT_MAX: usize = 256;
/// A token shorter than this is none.
pub(crate) const TOKEN_MIN: usize = 10;

/// Something nobody may see: it is not printed, and compared in constant time.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The secret with these bytes.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// A new one, from the kernel's random numbers.
    ///
    /// # Errors
    ///
    /// What `getrandom(2)` says.
    pub fn random() -> std::io::Result<Self> {
        random::<32>().map(|bytes| Self(bytes.to_vec()))
    }

    /// Whether `other` is the same, in a time that depends on the lengths alone.
    #[must_use]
    pub fn is(&self, other: &[u8]) -> bool {
        same(&self.0, other)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Compares without ending at the first difference.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |found, (a, b)| found | (a ^ b));
    // The compiler must not see that nothing after the first difference matters.
    a.len() == b.len() && std::hint::black_box(differing) == 0
}

pub(super) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // Up to 256 bytes come whole.
    debug_assert_eq!(got, N);
    Ok(bytes)
}

/// What is known of a session that may be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Session {
    /// Its name; no secret, and in the log with every change that is made in it.
    pub(crate) id: String,
    /// The agent it was made for.
    pub(crate) agent: String,
}

/// A session as it was made.
pub(crate) struct Made {
    /// The session.
    pub(crate) session: Session,
    /// What its owner shows from now on.
    pub(crate) token: String,
    /// When it was made, since 1970.
    pub(crate) created: Duration,
}

/// Why there is no session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NoSession {
    /// No such token, or its session is over.
    Unknown,
    /// It was made for another agent.
    OtherAgent,
    /// It is used from another address or by another program than it was made for.
    OtherClient,
}

struct Kept {
    token: String,
    agent: String,
    address: String,
    program: String,
    created: Duration,
    used: Duration,
}

/// All sessions.
pub(crate) struct Sessions {
    secret: Secret,
    kept: FxHashMap<String, Kept>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tokens are as secret as the key they are made under.
        f.debug_struct("Sessions").field("kept", &self.kept.len()).finish_non_exhaustive()
    }
}

impl Sessions {
    /// None yet; tokens are made under `secret`.
    pub(crate) fn new(secret: Secret) -> Self {
        Self { secret, kept: FxHashMap::default() }
    }

    /// Makes a session for `agent` at `now` (since 1970).
    ///
    /// # Errors
    ///
    /// Without random numbers.
    pub(crate) fn make(
        &mut self,
        agent: &str,
        (address, program): (&str, &str),
        now: Duration,
    ) -> std::io::Result<Made> {
        self.drop_ended(now);
        let own = self.kept.values().filter(|kept| kept.agent == agent).count();
        if own >= PER_AGENT {
            self.drop_idlest(|kept| kept.agent == agent);
        }
        if self.kept.len() >= SESSIONS_MAX {
            self.drop_idlest(|_| true);
        }
        let id = hex(&random::<16>()?);
        let signed = format!("{id}:{agent}:{}", seconds(now));
        let token = format!("{signed}:{}", hex(&self.sign(signed.as_bytes())));
        let kept = Kept {
            token: token.clone(),
            agent: agent.to_owned(),
            address: address.to_owned(),
            program: program.to_owned(),
            created: now,
            used: now,
        };
        self.kept.insert(id.clone(), kept);
        Ok(Made { session: Session { id, agent: agent.to_owned() }, token, created: now })
    }

    /// The session of `token`, used at `now` from an address by a program; empty ones are not compared.
    ///
    /// # Errors
    ///
    /// [`NoSession`].
    pub(crate) fn used(
        &mut self,
        token: &str,
        agent: Option<&str>,
        (address, program): (&str, &str),
        now: Duration,
    ) -> Result<Session, NoSession> {
        let id = token.split(':').next().unwrap_or_default();
        let kept = self.kept.get_mut(id).filter(|kept| !kept.is_over(now));
        let kept = kept.filter(|kept| same(kept.token.as_bytes(), token.as_bytes()));
        let kept = kept.ok_or(NoSession::Unknown)?;
        if agent.is_some_and(|agent| agent != kept.agent) {
            return Err(NoSession::OtherAgent);
        }
        let differs = |then: &str, now: &str| !then.is_empty() && !now.is_empty() && then != now;
        if differs(&kept.address, address) || differs(&kept.program, program) {
            return Err(NoSession::OtherClient);
        }
        kept.used = now;
        Ok(Session { id: id.to_owned(), agent: kept.agent.clone() })
    }

    /// How many agents have a session at `now`.
    pub(crate) fn agents(&self, now: Duration) -> usize {
        let live = self.kept.values().filter(|kept| !kept.is_over(now));
        live.map(|kept| &kept.agent).collect::<rustc_hash::FxHashSet<_>>().len()
    }

    fn drop_ended(&mut self, now: Duration) {
        self.kept.retain(|_, kept| !kept.is_over(now));
    }

    fn drop_idlest(&mut self, of: impl Fn(&Kept) -> bool) {
        let among = self.kept.iter().filter(|(_, kept)| of(kept));
        let idlest = among.min_by_key(|(_, kept)| kept.used).map(|(id, _)| id.clone());
        if let Some(id) = idlest {
            self.kept.remove(&id);
        }
    }

    fn sign(&self, text: &[u8]) -> Vec<u8> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.secret.0);
        let mut mac = mac.expect("HMAC takes keys of any length");
        mac.update(text);
        mac.finalize().into_bytes().to_vec()
    }
}

impl Kept {
    fn is_over(&self, now: Duration) -> bool {
        // A clock that was set back ends nothing.
        now.saturating_sub(self.used) >= IDLE || now.saturating_sub(self.created) >= LIFE
    }
}

/// Unix seconds with a fraction, as Python prints a float of them.
pub(crate) fn seconds(since_1970: Duration) -> String {
    let text = format!("{}.{:06}", since_1970.as_secs(), since_1970.subsec_micros());
    let short = text.trim_end_matches('0');
    if short.ends_with('.') { format!("{short}0") } else { short.to_owned() }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_millis(1_795_489_119_575);
    const ANY: (&str, &str) = ("", "");

    fn sessions() -> Sessions {
        Sessions::new(Secret::new(b"test".to_vec()))
    }

    #[test]
    fn a_token_has_four_parts_and_works_until_it_is_idle_for_an_hour() {
        let mut all = sessions();
        let made = all.make("mcp_server", ("127.0.0.1", "x/1"), NOW).unwrap();
        let parts: Vec<&str> = made.token.split(':').collect();
        assert_eq!((parts.len(), parts[1], parts[2]), (4, "mcp_server", "1795489119.575"));
        assert_eq!((parts[0].len(), parts[3].len()), (32, 64));
        let mut at = NOW;
        for _ in 0..3 {
            at += IDLE - Duration::from_secs(1);
            assert_eq!(all.used(&made.token, None, ANY, at), Ok(made.session.clone()));
        }
        assert_eq!(all.used(&made.token, None, ANY, at + IDLE), Err(NoSession::Unknown));
    }

    #[test]
    fn a_session_ends_after_eight_hours_whatever_its_use() {
        let mut all = sessions();
        let made = all.make("a", ANY, NOW).unwrap();
        let mut at = NOW;
        while at + IDLE / 2 < NOW + LIFE {
            at += IDLE / 2;
            assert!(all.used(&made.token, None, ANY, at).is_ok());
        }
        assert_eq!(all.used(&made.token, None, ANY, NOW + LIFE), Err(NoSession::Unknown));
    }

    #[test]
    fn every_changed_byte_of_a_token_is_noticed() {
        let mut all = sessions();
        let token = all.make("agent", ANY, NOW).unwrap().token;
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1;
            let other = String::from_utf8(bytes).unwrap();
            assert_eq!(all.used(&other, None, ANY, NOW), Err(NoSession::Unknown), "{other}");
        }
        assert_eq!(all.used(&token[..token.len() - 1], None, ANY, NOW), Err(NoSession::Unknown));
        assert_eq!(all.used("", None, ANY, NOW), Err(NoSession::Unknown));
    }

    #[test]
    fn another_agent_or_client_has_no_session() {
        let mut all = sessions();
        let token = all.make("a", ("10.0.0.1", "x/1"), NOW).unwrap().token;
        assert_eq!(all.used(&token, Some("b"), ANY, NOW), Err(NoSession::OtherAgent));
        assert_eq!(all.used(&token, None, ("9.9.9.9", ""), NOW), Err(NoSession::OtherClient));
        assert_eq!(all.used(&token, None, ("", "y"), NOW), Err(NoSession::OtherClient));
        assert!(all.used(&token, Some("a"), ("10.0.0.1", "x/1"), NOW).is_ok());
    }

    #[test]
    fn the_fourth_session_of_an_agent_ends_the_one_idle_longest() {
        let mut all = sessions();
        let at = |n| NOW + Duration::from_secs(n);
        let tokens: Vec<_> = (0..3).map(|n| all.make("a", ANY, at(n)).unwrap().token).collect();
        assert!(all.used(&tokens[0], None, ANY, at(5)).is_ok());
        all.make("b", ANY, at(6)).unwrap();
        all.make("a", ANY, at(7)).unwrap();
        let live = |all: &mut Sessions, n: usize| all.used(&tokens[n], None, ANY, at(8)).is_ok();
        assert_eq!([0, 1, 2].map(|n| live(&mut all, n)), [true, false, true]);
        assert_eq!(all.agents(at(8)), 2);
    }

    #[test]
    fn times_are_printed_as_python_does() {
        assert_eq!(seconds(Duration::from_secs(5)), "5.0");
        assert_eq!(seconds(Duration::from_micros(1_500_000)), "1.5");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let mut all = Sessions::new(Secret::new(b"hunter2".to_vec()));
        let token = all.make("a", ANY, NOW).unwrap().token;
        let said = format!("{all:?} {:?}", all.secret);
        assert!(
            !said.contains("hunter2") && !said.contains("104") && !said.contains(&token),
            "{said}"
        );
    }
}
