//! Processes that work for a session: registered, listed, taken back. What they do through the mount is the session's
//! agent's from then on, and what they start does too.
//!
//! A session's token alone must not make somebody else's process an agent's. So the client has to be on this machine, and
//! the kernel is asked whose its end of the connection is: only root and the process's own user may register it. What comes
//! from elsewhere, or through a proxy of another user, is refused; through the mount a process registers itself (`.agent`).
//!
//! Numbers of processes are those of the server's pid namespace. From another one the same number means another process:
//! it is refused where the request says when the process started, which no two have in common.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::agents::register::{Claim, Process, Register, Unregistered};

use super::ask::{Fields, TreePath};
use super::problem::{Problem, answer};
use super::routes::{Answer, Asked, BODY_MAX, shown_token, waiting, whole};
use super::session::Session;
use super::state::Shared;

/// Where they are, in paths of requests.
const PLACE: &str = "/session/processes";
/// Whom the kernel shows where a user has no number in our user namespace (`/proc/sys/kernel/overflowuid`).
const OVERFLOW_UID: u32 = 65_534;
/// `TCP_ESTABLISHED`: in any other state the kernel may show the superuser as the owner.
const ESTABLISHED: &str = "01";

/// Both ends of the connection that a request came over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) peer: SocketAddr,
    pub(crate) own: SocketAddr,
}

impl From<Unregistered> for Problem {
    fn from(why: Unregistered) -> Self {
        let status = match why {
            Unregistered::NoSuchProcess => StatusCode::NOT_FOUND,
            Unregistered::Another | Unregistered::Already | Unregistered::TooMany => {
                StatusCode::CONFLICT
            }
            Unregistered::NoSession => StatusCode::FORBIDDEN,
            Unregistered::Malformed => StatusCode::BAD_REQUEST,
        };
        Self::new(status, why.to_string())
    }
}

fn shown(process: &Process, session: &Session) -> Value {
    json!({
        "pid": process.pid,
        "start_time": process.start_time,
        "program": process.name,
        "agent_id": session.agent,
        "session_id": session.id,
    })
}

pub(crate) async fn register(shared: Shared, asked: Asked) -> Answer {
    let forbidden = |why| Problem::new(StatusCode::FORBIDDEN, why);
    let elsewhere = "only programs of the machine this server runs on may register a process; through the mount a \
                     process registers itself: echo \"$LIGHTHOUSE_SESSION\" > MOUNT/.agent";
    let ends = asked.parts.extensions.get::<Ends>().copied();
    let ends = ends.filter(|ends| ends.peer.ip().to_canonical().is_loopback());
    let ends = ends.ok_or_else(|| forbidden(elsewhere))?;
    let token = shown_token(&asked.parts.headers).map(str::to_owned);
    let body = whole(&shared, asked.body, BODY_MAX).await?;
    let mut fields = Fields::parse(&body)?;
    let pid = fields.number("pid", u64::from(u32::MAX));
    let started = fields.optional_number("start_time", u64::MAX);
    fields.done()?;
    let pid = u32::try_from(pid).map_err(|_| Unregistered::NoSuchProcess)?;
    let session = asked.session;
    let said = waiting(move || {
        let register = register_of(&shared)?;
        let process = register.look(pid)?;
        if started.is_some_and(|started| started != process.start_time) {
            return Err(Unregistered::Another.into());
        }
        match owner(ends).filter(|&uid| uid != OVERFLOW_UID) {
            Some(uid) if uid == 0 || uid == process.uid => (),
            Some(_) => return Err(forbidden("the process is another user's")),
            None => return Err(forbidden("it cannot be seen which user asks")),
        }
        let (agent, id) = (session.agent.clone().into_bytes(), session.id.clone().into_bytes());
        register.register(&process, Claim { agent, session: id, token })?;
        tracing::info!(pid, agent = session.agent, session = session.id, "registered a process");
        Ok(shown(&process, &session))
    });
    Ok(answer(StatusCode::CREATED, &said.await?))
}

pub(crate) async fn list(shared: Shared, asked: Asked) -> Answer {
    let own = register_of(&shared)?.of_session(asked.session.id.as_bytes());
    let own: Vec<Value> = own.iter().map(|process| shown(process, &asked.session)).collect();
    Ok(answer(
        StatusCode::OK,
        &Value::Object(Map::from_iter([("processes".to_owned(), own.into())])),
    ))
}

pub(crate) async fn take_back(shared: Shared, asked: Asked) -> Answer {
    let path = asked.parts.uri.path();
    let path = TreePath::from_url(path.strip_prefix(PLACE).unwrap_or(path))?;
    let name = <[Vec<u8>; 1]>::try_from(path.names).ok();
    let pid = name.and_then(|[name]| String::from_utf8(name).ok()?.parse().ok());
    let taken = match pid {
        Some(pid) => register_of(&shared)?.take_back(pid, asked.session.id.as_bytes()),
        None => false,
    };
    if !taken {
        return Err(Problem::missing("no such process is registered in this session"));
    }
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn register_of(shared: &Shared) -> Result<&Register, Problem> {
    let register = shared.register.get();
    register.map(AsRef::as_ref).ok_or_else(|| Problem::unavailable("nobody can be registered here"))
}

/// The user whose socket the other end of a connection within this machine is.
fn owner(ends: Ends) -> Option<u32> {
    // A socket of the newer family is listed there, whatever it is connected to.
    [("/proc/self/net/tcp", false), ("/proc/self/net/tcp6", true)].into_iter().find_map(
        |(file, six)| {
            let row = (listed(ends.peer, six)?, listed(ends.own, six)?);
            BufReader::new(File::open(file).ok()?)
                .lines()
                .map_while(Result::ok)
                .find_map(|line| owner_in(&line, (&row.0, &row.1)))
        },
    )
}

/// The owner in a line of `/proc/net/tcp` that is about this local and remote end.
fn owner_in(line: &str, (local, remote): (&str, &str)) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let same = fields.next()? == local && fields.next()? == remote;
    if !same || fields.next()? != ESTABLISHED {
        return None;
    }
    // Queues, timers and retransmissions are between.
    fields.nth(3)?.parse().ok()
}

/// An end as `/proc/net/tcp` lists it, or with `six` as `/proc/net/tcp6` does: words of the address as they lie in memory.
fn listed(end: SocketAddr, six: bool) -> Option<String> {
    let words = |bytes: &[u8]| -> String {
        let words = bytes.chunks_exact(4).filter_map(|word| word.first_chunk::<4>());
        words.map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect()
    };
    let address = match (end.ip().to_canonical(), six) {
        (IpAddr::V4(address), false) => words(&address.octets()),
        (IpAddr::V4(address), true) => words(&address.to_ipv6_mapped().octets()),
        (IpAddr::V6(address), true) => words(&address.octets()),
        (IpAddr::V6(_), false) => return None,
    };
    Some(format!("{address}:{:04X}", end.port()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_owner_of_the_other_end_is_found_by_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                eprintln!("SKIPPED in part: {address} cannot be used here");
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (served, _) = listener.accept().unwrap();
            let (peer, own) = (served.peer_addr().unwrap(), served.local_addr().unwrap());
            let uid = rustix::process::geteuid().as_raw();
            assert_eq!(owner(Ends { peer, own }), Some(uid), "{address}");
            // Whoever is gone is nobody.
            drop(client);
            assert_eq!(owner(Ends { peer, own }), None, "{address}");
        }
    }

    #[test]
    fn a_line_is_read_only_where_it_is_about_both_ends_and_connected() {
        let line = |state: &str| {
            format!(
                "   4: 0100007F:1F90 0100007F:C350 {state} 00000000:00000000 00:00000000 00000000  1000 \
                 0 12345 1 0000000000000000 20 4 30 10 -1"
            )
        };
        let ends = ("0100007F:1F90", "0100007F:C350");
        assert_eq!(owner_in(&line("01"), ends), Some(1000));
        assert_eq!(owner_in(&line("06"), ends), None, "its owner is not known any more");
        assert_eq!(owner_in(&line("01"), (ends.1, ends.0)), None);
        for odd in ["", "sl local_address", "4: 0100007F:1F90 0100007F:C350 01 x"] {
            assert_eq!(owner_in(odd, ends), None);
        }
    }
}
