//! One table of what can be asked: the router and the description are both made from it.

use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, any, on};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::problem::Problem;
use super::session::{NoSession, Session, TOKEN_MIN};
use super::state::{Shared, since_1970};
use super::{bridge, context, dav, events, files, metrics, openapi, processes, upstream};

/// Longest body that is taken into memory, in bytes.
pub(crate) const BODY_MAX: usize = 1 << 20;
/// Longest event, in bytes: files come in them.
pub(crate) const EVENT_MAX: usize = 16 << 20;

/// Who may ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    /// Anybody.
    Anybody,
    /// Whoever has a session.
    Agents,
    /// The same, and programs that know only Basic authentication may show the token as a password.
    AgentsOrBasic,
}

/// A request of somebody who may ask.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) session: Session,
    pub(crate) parts: Parts,
    pub(crate) body: Body,
}

pub(crate) type Answer = Result<Response, Problem>;

/// What can be asked in one place.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    /// As the router reads it; `{*path}` is any number of components.
    pub(crate) path: &'static str,
    pub(crate) who: Who,
    pub(crate) summary: &'static str,
    /// Name, type and meaning of each parameter of the query.
    pub(crate) query: &'static [(&'static str, &'static str, &'static str)],
    /// The schema of the body, if there is one.
    pub(crate) body: Option<&'static str>,
    /// Statuses beside those every route may have, and what each means.
    pub(crate) answers: &'static [(u16, &'static str)],
    pub(crate) run: fn(Shared, Asked) -> BoxFuture<'static, Answer>,
}

macro_rules! run {
    ($handler:path) => {
        |shared, asked| Box::pin($handler(shared, asked))
    };
}

const AT: (&str, &str, &str) =
    ("at", "string", "A moment, named as below history/: @N, a time, 10min-ago, a label");
const ELSEWHERE: &[(u16, &str)] = &[
    (200, "What the server says that it is passed to, which may answer otherwise too"),
    (501, "Belongs to another part of Lighthouse, and no server is named to pass it to"),
    (502, "The server that it is passed to does not answer"),
    (504, "It does not answer in time"),
    (508, "It passes it back"),
];

/// Everything that can be asked.
pub(crate) const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/health",
        who: Who::Anybody,
        summary: "Whether the store works and the mount is up, or deliberately off",
        query: &[],
        body: None,
        answers: &[
            (200, "It does"),
            (503, "It does not; `reason` says why, or how far the start is"),
        ],
        run: run!(bridge::health),
    },
    Route {
        method: "GET",
        path: "/status",
        who: Who::Anybody,
        summary: "What works, and for how long",
        query: &[],
        body: None,
        answers: &[(200, "The state of each part")],
        run: run!(bridge::status),
    },
    Route {
        method: "GET",
        path: "/openapi.json",
        who: Who::Anybody,
        summary: "This description",
        query: &[],
        body: None,
        answers: &[(200, "An OpenAPI document")],
        run: run!(openapi::document),
    },
    Route {
        method: "POST",
        path: "/session/create",
        who: Who::Anybody,
        summary: "Make a session for an agent",
        query: &[],
        body: Some("SessionCreate"),
        answers: &[
            (200, "The session and its token"),
            (401, "A session key is demanded, and none was shown"),
            (403, "The session key is another, or a web page of another origin asks"),
        ],
        run: run!(bridge::session_create),
    },
    Route {
        method: "POST",
        path: "/session/validate",
        who: Who::Anybody,
        summary: "Whether a token is one of this agent, from this client",
        query: &[],
        body: Some("SessionValidate"),
        answers: &[(200, "Whether it is")],
        run: run!(bridge::session_validate),
    },
    Route {
        method: "POST",
        path: "/session/processes",
        who: Who::Agents,
        summary: "Register a process: what it and its descendants do through the mount is this session's agent's. Asked by \
                  root or its own user, on the server's machine",
        query: &[],
        body: Some("ProcessRegister"),
        answers: &[
            (201, "It is registered, until it ends, the session does, or it is taken back"),
            (404, "The server sees no such process"),
            (409, "It started at another time, or too many are registered"),
        ],
        run: run!(processes::register),
    },
    Route {
        method: "GET",
        path: "/session/processes",
        who: Who::Agents,
        summary: "The processes that are registered in this session",
        query: &[],
        body: None,
        answers: &[(200, "The processes")],
        run: run!(processes::list),
    },
    Route {
        method: "DELETE",
        path: "/session/processes/{pid}",
        who: Who::Agents,
        summary: "Take back the registration of a process in this session",
        query: &[],
        body: None,
        answers: &[(204, "It is taken back"), (404, "None of this number is registered in it")],
        run: run!(processes::take_back),
    },
    Route {
        method: "POST",
        path: "/event/store",
        who: Who::Agents,
        summary: "Keep an event; one about files or directories changes the tree",
        query: &[],
        body: Some("EventStore"),
        answers: &[
            (200, "It is stored"),
            (404, "It is about something that is not there"),
            (409, "The tree contradicts it"),
        ],
        run: run!(events::store),
    },
    Route {
        method: "GET",
        path: "/event/query",
        who: Who::Agents,
        summary: "Events that fit all filters, by sequence; without metadata, as the Python bridge told them",
        query: &[
            ("event_type", "string", "Only of this type, by either name"),
            ("agent_id", "string", "Only of this agent"),
            ("start_time", "string", "Not earlier than this"),
            ("end_time", "string", "Not later than this"),
            ("limit", "integer", "At most so many: 1 to 1000, by default 100"),
        ],
        body: None,
        answers: &[(200, "The events")],
        run: run!(events::query),
    },
    Route {
        method: "GET",
        path: "/events",
        who: Who::Agents,
        summary: "Events with all their fields, by sequence, a page at a time",
        query: &[
            (
                "after",
                "string",
                "Only what comes after this cursor: SEQUENCE or SEQUENCE.N, as `next` gives it",
            ),
            ("type", "string", "Only of this type, by either name"),
            ("agent", "string", "Only of this agent"),
            ("path", "string", "Only about this path and what is below it"),
            ("since", "string", "Not earlier than this moment"),
            ("until", "string", "Not later than this moment"),
            ("limit", "integer", "At most so many: 1 to 1000, by default 100"),
        ],
        body: None,
        answers: &[(200, "The events, and where the next page begins")],
        run: run!(events::page),
    },
    Route {
        method: "GET",
        path: "/events/stream",
        who: Who::Agents,
        summary: "Events as they come, as server-sent events; Last-Event-ID goes on behind that one",
        query: &[
            (
                "after",
                "string",
                "Begin behind this cursor; without it, with what happens from now on",
            ),
            ("type", "string", "Only of this type, by either name"),
            ("agent", "string", "Only of this agent"),
            ("path", "string", "Only about this path and what is below it"),
        ],
        body: None,
        answers: &[(200, "The stream")],
        run: run!(events::stream),
    },
    Route {
        method: "GET",
        path: "/files/{*path}",
        who: Who::Agents,
        summary: "Content of a file, or a listing of a directory, now or at a moment",
        query: &[
            AT,
            ("limit", "integer", "Names of a directory on one page: 1 to 10000, by default 1000"),
            ("after", "integer", "Where a page of a listing begins, as `next` gives it"),
        ],
        body: None,
        answers: &[
            (200, "The content, or the listing"),
            (206, "The part that Range asks for"),
            (304, "The file is still what If-None-Match names"),
            (404, "There is nothing"),
            (409, "A file is where a directory would have to be"),
            (412, "It is not what If-Match names"),
            (416, "It is shorter than that"),
        ],
        run: run!(files::get),
    },
    Route {
        method: "PUT",
        path: "/files/{*path}",
        who: Who::Agents,
        summary: "Make the body the content of a file; with a slash at the end, make a directory",
        query: &[
            ("parents", "boolean", "Make directories above it that are missing"),
            ("mode", "string", "Permissions in octal, such as 755"),
        ],
        body: Some("Bytes"),
        answers: &[
            (201, "It is new"),
            (204, "It was there, and is replaced"),
            (404, "There is no directory to put it into"),
            (409, "Something else is there"),
            (412, "It is not what If-Match or If-None-Match names"),
            (413, "It is too long"),
            (507, "The disk is full"),
        ],
        run: run!(files::put),
    },
    Route {
        method: "DELETE",
        path: "/files/{*path}",
        who: Who::Agents,
        summary: "Take away a file or directory",
        query: &[("recursive", "boolean", "With all that is in it")],
        body: None,
        answers: &[
            (204, "It is gone"),
            (404, "There is nothing"),
            (409, "The directory is not empty"),
            (412, "It is not what If-Match names"),
        ],
        run: run!(files::delete),
    },
    Route {
        method: "POST",
        path: "/context/packages",
        who: Who::Agents,
        summary: "Make a context package: a directory below context/ of the mount, with its files as they are now",
        query: &[],
        body: Some("ContextPackage"),
        answers: &[
            (201, "It is made"),
            (409, "One of this id is there"),
            (507, "There are 10,000, or their manifests would take more than 32 MiB"),
        ],
        run: run!(context::make),
    },
    Route {
        method: "GET",
        path: "/context/packages",
        who: Who::Agents,
        summary: "The context packages that are there",
        query: &[],
        body: None,
        answers: &[(200, "Their manifests")],
        run: run!(context::list),
    },
    Route {
        method: "GET",
        path: "/context/packages/{package_id}",
        who: Who::Agents,
        summary: "The manifest of a context package",
        query: &[],
        body: None,
        answers: &[(200, "The manifest"), (404, "There is none of this id")],
        run: run!(context::get),
    },
    Route {
        method: "DELETE",
        path: "/context/packages/{package_id}",
        who: Who::Agents,
        summary: "Take a context package away",
        query: &[],
        body: None,
        answers: &[(204, "It is gone"), (404, "There is none of this id")],
        run: run!(context::remove),
    },
    Route {
        method: "GET",
        path: "/metrics",
        who: Who::Agents,
        summary: "Live counters, for Prometheus",
        query: &[],
        body: None,
        answers: &[(200, "Text in the exposition format 0.0.4")],
        run: run!(metrics::text),
    },
    elsewhere("POST", "/validate"),
    elsewhere("POST", "/expert/register"),
    elsewhere("POST", "/expert/delegate"),
    elsewhere("POST", "/task/dispatch"),
    elsewhere("POST", "/collaboration/start"),
    elsewhere("POST", "/elicitation/create"),
    elsewhere("GET", "/elicitation/pending"),
    elsewhere("POST", "/elicitation/respond"),
    elsewhere("GET", "/elicitation/status/{elicitation_id}"),
    elsewhere("GET", "/elicitation/metrics"),
];

const fn elsewhere(method: &'static str, path: &'static str) -> Route {
    Route {
        method,
        path,
        who: Who::Agents,
        summary: "Passed on, if there is where to: an endpoint of the Python bridge beside its filesystem",
        query: &[],
        body: if matches!(method.as_bytes(), b"POST") { Some("PassedOn") } else { None },
        answers: ELSEWHERE,
        run: run!(upstream::elsewhere),
    }
}

/// The router of everything.
pub(crate) fn router(shared: Shared) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let filter = match route.method {
            "GET" => MethodFilter::GET,
            "PUT" => MethodFilter::PUT,
            "DELETE" => MethodFilter::DELETE,
            _ => MethodFilter::POST,
        };
        let handler = move |State(shared): State<Shared>, request: Request| async move {
            let answered = answer(route.who, shared, request, route.run).await;
            let mut response = answered.unwrap_or_else(Problem::into_response);
            if route.path.starts_with("/files/") {
                // Anybody may change the tree: who keeps an answer asks whether it still holds.
                let asks = HeaderValue::from_static("no-cache");
                response.headers_mut().insert(header::CACHE_CONTROL, asks);
            }
            response
        };
        router = router.route(route.path, on(filter, handler));
        if let Some(root) = route.path.strip_suffix("{*path}") {
            router = router.route(root, on(filter, handler));
        }
    }
    let dav = |State(shared): State<Shared>, request: Request| async move {
        let answered = answer(Who::AgentsOrBasic, shared, request, |shared, asked| {
            Box::pin(dav::serve(shared, asked))
        });
        answered.await.unwrap_or_else(Problem::into_response)
    };
    for path in ["/dav", "/dav/", "/dav/{*path}"] {
        router = router.route(path, any(dav));
    }
    router
        .fallback(|| async { Problem::missing("Not Found") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        })
        .with_state(shared)
}

async fn answer(
    who: Who,
    shared: Shared,
    request: Request,
    run: fn(Shared, Asked) -> BoxFuture<'static, Answer>,
) -> Answer {
    let (parts, body) = request.into_parts();
    let session = match who {
        Who::Anybody => Session { id: String::new(), agent: String::new() },
        Who::Agents => authenticated(&shared, &parts.headers)?,
        Who::AgentsOrBasic => match dav::authenticated(&shared, &parts.headers) {
            Some(session) => session?,
            None => authenticated(&shared, &parts.headers).map_err(dav::ask_for_password)?,
        },
    };
    run(shared, Asked { session, parts, body }).await
}

/// The session of a request. Who shows nothing, or another scheme, is refused as the Python bridge did: 403.
fn authenticated(shared: &Shared, headers: &HeaderMap) -> Result<Session, Problem> {
    let forbidden = |why| Problem::new(StatusCode::FORBIDDEN, why);
    let token = shown_token(headers).ok_or_else(|| forbidden("Not authenticated"))?;
    if token.len() < TOKEN_MIN {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "Invalid authentication token"));
    }
    with_token(shared, token).map_err(|_| forbidden("Invalid or expired session"))
}

/// The session that has `token`.
pub(crate) fn with_token(shared: &Shared, token: &str) -> Result<Session, NoSession> {
    shared.sessions.lock().used(token, None, ("", ""), since_1970())
}

/// What stands behind `Bearer` in the header `Authorization`. An agent's name in it may be of any letters.
pub(crate) fn shown_token(headers: &HeaderMap) -> Option<&str> {
    let header = std::str::from_utf8(headers.get(header::AUTHORIZATION)?.as_bytes()).ok()?;
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Takes a whole body into memory.
pub(crate) async fn whole(shared: &Shared, mut body: Body, max: usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    while let Some(piece) = next_piece(shared, &mut body).await? {
        if piece.len() > max - bytes.len() {
            let why = format!("the body is longer than {max} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// The next piece of a body; `None` at its end.
pub(crate) async fn next_piece(shared: &Shared, body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        let frame = tokio::time::timeout(shared.config.patience, body.frame()).await;
        match frame.map_err(|_| too_slow())? {
            None => return Ok(None),
            Some(Ok(frame)) => {
                // Anything but data says nothing here.
                let Ok(data) = frame.into_data() else { continue };
                shared.counts.received.fetch_add(data.len() as u64, Ordering::Relaxed);
                return Ok(Some(data));
            }
            Some(Err(error)) => return Err(Problem::bad(format!("the body ended early: {error}"))),
        }
    }
}

fn too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "the rest of the body did not come in time")
}

/// Does what may wait for the disk, on a thread that may.
pub(crate) async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a handler failed");
            Err(Problem::unavailable("this request could not be served; the log says more"))
        }
    }
}

/// Answers one request, whatever becomes of it.
pub(crate) async fn call(shared: Shared, router: Router, request: Request) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let stopping = *shared.stopping.borrow();
    let mut response = if let Some(response) = preflight(&request) {
        response
    } else if stopping {
        Problem::unavailable("the server is stopping").into_response()
    } else {
        // In a task of its own, so that its panic ends nothing else.
        let answered = tokio::spawn(TowerToHyperService::new(router).call(request)).await;
        match answered {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(error) => {
                shared.counts.panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "a handler panicked");
                Problem::unavailable("this request could not be served; the log says more")
                    .into_response()
            }
        }
    };
    if let Some(origin) = origin.filter(is_known_origin) {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    shared.counts.answered(response.status().as_u16());
    response
}

/// Origins of pages that may ask, as the Python bridge has them.
const ORIGINS: [&str; 3] =
    ["http://localhost:3000", "http://127.0.0.1:3000", "http://localhost:8080"];

/// Whether pages from there may ask.
pub(crate) fn is_known_origin(origin: &HeaderValue) -> bool {
    ORIGINS.iter().any(|known| origin == known)
}

/// The answer to a browser that asks whether it may ask.
fn preflight(request: &Request) -> Option<Response> {
    let asks = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD);
    let origin = request.headers().get(header::ORIGIN);
    let (Some(asks), Some(origin)) = (asks, origin) else { return None };
    if request.method() != Method::OPTIONS {
        return None;
    }
    let allowed = is_known_origin(origin) && (asks == "GET" || asks == "POST");
    let text = if allowed { "OK" } else { "Disallowed CORS origin or method" };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = if allowed { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if allowed {
        let methods = HeaderValue::from_static("GET, POST");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let names = HeaderValue::from_static("Authorization, Content-Type");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    Some(response)
}
