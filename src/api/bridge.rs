//! What the Python bridge answered besides its events: health, status, sessions.

use axum::http::{StatusCode, header};
use serde_json::{Map, Value, json};

use super::ask::Fields;
use super::problem::{Problem, answer};
use super::routes::{Answer, Asked, BODY_MAX, is_known_origin, shown_token, whole};
use super::session::{IDLE, TEXT_MAX, seconds};
use super::state::{Mount, Shared, Stage, since_1970, words};

/// The name the Python bridge gives itself.
const SERVICE: &str = "lighthouse-bridge";

/// Whether all is well, or why not.
fn trouble(shared: &Shared) -> Option<(&'static str, String)> {
    let stage = shared.stage.read().clone();
    match &stage {
        Stage::Serving => (),
        Stage::Failed(why) => return Some(("unhealthy", why.clone())),
        Stage::Opening | Stage::Importing { .. } => return Some(("starting", words(&stage))),
    }
    if let Some(why) = shared.tree.get().and_then(|tree| tree.store().refusal()) {
        return Some(("degraded", format!("the store takes no changes: {why}")));
    }
    match &*shared.mount.read() {
        Mount::Up | Mount::Off => None,
        Mount::Pending => Some(("starting", "the mount is being made".to_owned())),
        Mount::Down(why) => Some(("degraded", why.clone())),
    }
}

pub(crate) async fn health(shared: Shared, _: Asked) -> Answer {
    let Some((status, reason)) = trouble(&shared) else {
        return Ok(answer(StatusCode::OK, &json!({ "status": "healthy", "service": SERVICE })));
    };
    let mut said = json!({ "status": status, "service": SERVICE, "reason": reason });
    if let Stage::Importing { done, total, .. } = &*shared.stage.read()
        && let Some(said) = said.as_object_mut()
    {
        said.insert("progress".to_owned(), json!({ "done": done, "total": total }));
    }
    Ok(answer(StatusCode::SERVICE_UNAVAILABLE, &said))
}

pub(crate) async fn status(shared: Shared, _: Asked) -> Answer {
    let trouble = trouble(&shared);
    let works = |yes| if yes { "operational" } else { "unavailable" };
    let store = shared.tree().is_ok_and(|tree| tree.store().refusal().is_none());
    let mount = *shared.mount.read() == Mount::Up;
    // Other parts of Lighthouse are not in this program; how another server's are, it is to be asked.
    let elsewhere = if shared.passing.is_some() { "upstream" } else { works(false) };
    let mut said = json!({
        "status": works(store).replace("unavailable", "stopped"),
        "mode": trouble.as_ref().map_or("normal", |(mode, _)| mode),
        "components": {
            "event_store": works(store),
            "speed_layer": elsewhere,
            "expert_coordinator": elsewhere,
            "fuse_mount": works(mount),
        },
        "active_agents": shared.sessions.lock().agents(since_1970()),
        "pending_validations": 0,
        "uptime_seconds": shared.started.elapsed().as_secs_f64(),
    });
    if let (Some((_, reason)), Some(said)) = (trouble, said.as_object_mut()) {
        said.insert("reason".to_owned(), reason.into());
    }
    Ok(answer(StatusCode::OK, &said))
}

pub(crate) async fn session_create(shared: Shared, asked: Asked) -> Answer {
    let headers = asked.parts.headers;
    // A page that a browser shows from elsewhere can send this, and with a name of ours that it has
    // pointed at this machine even read the answer.
    if headers.get(header::ORIGIN).is_some_and(|origin| !is_known_origin(origin)) {
        let why = "pages of this origin may have no session";
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
    let body = whole(&shared, asked.body, BODY_MAX).await?;
    let mut fields = Fields::parse(&body)?;
    let agent = fields.text("agent_id", TEXT_MAX);
    let address = fields.text("ip_address", TEXT_MAX);
    let program = fields.text("user_agent", TEXT_MAX);
    fields.object("metadata");
    let key = fields.optional_text("session_key", TEXT_MAX);
    if agent.contains(':') {
        fields.fault("value_error", "agent_id", "Value error, must have no colon in it");
    }
    fields.done()?;
    if let Some(wanted) = &shared.config.session_key {
        match shown_token(&headers).or(key.as_deref()) {
            None => {
                let why = "show the session key, as `Authorization: Bearer KEY` or `session_key`";
                return Err(Problem::new(StatusCode::UNAUTHORIZED, why));
            }
            Some(key) if !wanted.is(key.as_bytes()) => {
                return Err(Problem::new(StatusCode::FORBIDDEN, "this is not the session key"));
            }
            Some(_) => (),
        }
    }
    let made = shared.sessions.lock().make(&agent, (&address, &program), since_1970());
    let made = made.map_err(|err| Problem::unavailable(format!("no random numbers: {err}")))?;
    let said = json!({
        "session_id": made.session.id,
        "session_token": made.token,
        "expires_at": seconds(made.created + IDLE),
        "agent_id": made.session.agent,
    });
    Ok(answer(StatusCode::OK, &said))
}

pub(crate) async fn session_validate(shared: Shared, asked: Asked) -> Answer {
    let body = whole(&shared, asked.body, BODY_MAX).await?;
    let mut fields = Fields::parse(&body)?;
    let token = fields.text("session_token", BODY_MAX);
    let agent = fields.text("agent_id", BODY_MAX);
    let address = fields.optional_text("ip_address", BODY_MAX).unwrap_or_default();
    let program = fields.optional_text("user_agent", BODY_MAX).unwrap_or_default();
    fields.done()?;
    let mut sessions = shared.sessions.lock();
    let used = sessions.used(&token, Some(&agent), (&address, &program), since_1970());
    let said = Map::from_iter([("valid".to_owned(), Value::Bool(used.is_ok()))]);
    Ok(answer(StatusCode::OK, &Value::Object(said)))
}
