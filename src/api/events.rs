//! Events: kept, looked for, a page at a time, and as they come.
//!
//! An event is told in the Python bridge's words ([`native`]). `/event/store` and `/event/query` are the
//! bridge's; `/events` has every field, and a cursor to go on from.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Map, Value, json};

use crate::legacy::event::{Event, id_parts, kind};
use crate::legacy::native::{self, Cursor, NewEvent, PROJECT, Teller, Told};
use crate::tree::moment::{self, Moment};
use crate::tree::operation::{S_IFMT, S_IFREG};
use crate::tree::{Seq, Timestamp, Tree};

use super::acting::{Acting, Content, Must, READ};
use super::ask::{Fields, Query, TreePath};
use super::problem::{Problem, answer, fault};
use super::routes::{Answer, Asked, EVENT_MAX, waiting, whole};
use super::session::{TEXT_MAX, hex, random};
use super::state::Shared;

/// Events on one page.
const PAGE: u64 = 100;
const PAGE_MAX: u64 = 1000;
/// Events looked at for one page: then it ends, even if it is not full.
const LOOKED_AT_MAX: usize = 100_000;
/// Content of files that `/event/query` shows, in bytes: of one, and of all together.
const CONTENT_MAX: u64 = 64 << 10;
const CONTENT_MAX_IN_ALL: u64 = 4 << 20;
/// How often it is looked whether there are new events, while somebody follows.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a stream is silent at most, so that both sides notice when the other is gone.
const BEAT: Duration = Duration::from_secs(15);

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
fn io_problem(err: std::io::Error) -> Problem {
    Problem::unavailable(format!("the log cannot be read: {err}"))
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
struct Filter {
    kind: Option<String>,
    agent: Option<String>,
    /// Without a slash at its end.
    path: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Filter {
    fn fits(&self, told: &Told) -> bool {
        let event = &told.event;
        let time = event.timestamp.time;
        self.kind.as_ref().is_none_or(|kind| *kind == event.kind)
            && self.agent.as_deref().is_none_or(|agent| event.who() == Some(agent))
            && self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time <= until)
            && self.path.as_deref().is_none_or(|path| about(event, path))
    }
}

/// Whether `event` is about `path` or something below it.
fn about(event: &Event, path: &str) -> bool {
    const NAMES: [&str; 5] = ["path", "old_path", "new_path", "source_path", "dest_path"];
    NAMES.iter().filter_map(|name| event.datum(name)).any(|named| {
        named.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// The type named in a query. One that nobody knows fits nothing.
fn wanted_kind(name: &str) -> String {
    kind(name).map_or_else(|| name.to_owned(), str::to_owned)
}

/// A moment in time, or the first instant of what a name names.
fn time_of(query: &Query, name: &str) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = query.text(name) else { return Ok(None) };
    match moment::parse(text.replace(' ', "+").as_bytes(), Timestamp::now()) {
        Some(Moment::At(time) | Moment::Ago(time)) => Ok(Some(time)),
        Some(Moment::After(_)) | None => {
            let msg = "must be a time such as 2024-01-15T10:00:00Z, or 10min-ago";
            Err(Problem::invalid(vec![fault("datetime_parsing", &["query", name], msg)]))
        }
    }
}

fn path_filter(query: &Query) -> Result<Option<String>, Problem> {
    let path = query.text("path").map(TreePath::from_text).transpose()?;
    Ok(path.filter(|path| !path.names.is_empty()).map(|path| path.text()))
}

fn cursor(text: &str) -> Result<Cursor, Problem> {
    text.parse().map_err(|_| Problem::bad(format!("{text:?} is no cursor: SEQUENCE or SEQUENCE.N")))
}

/// What one look through the log found.
struct Found {
    told: Vec<Told>,
    /// Where to go on.
    next: Cursor,
    /// Whether that was all there is.
    end: bool,
}

fn look(tree: &Tree, after: Cursor, filter: &Filter, limit: usize) -> Result<Found, Problem> {
    let mut teller = Teller::new(tree, PROJECT, after).map_err(io_problem)?;
    look_on(&mut teller, after, filter, limit)
}

fn look_on(
    teller: &mut Teller,
    after: Cursor,
    filter: &Filter,
    limit: usize,
) -> Result<Found, Problem> {
    let mut found = Found { told: Vec::new(), next: after, end: false };
    for _ in 0..LOOKED_AT_MAX {
        if found.told.len() >= limit {
            return Ok(found);
        }
        let Some(told) = teller.read().map_err(io_problem)? else {
            found.end = true;
            return Ok(found);
        };
        found.next = told.cursor;
        if filter.fits(&told) {
            found.told.push(told);
        }
    }
    Ok(found)
}

fn with_cursor(told: &Told) -> Value {
    let mut fields = told.to_json();
    fields.insert("cursor".to_owned(), told.cursor.to_string().into());
    Value::Object(fields)
}

pub(crate) async fn page(shared: Shared, asked: Asked) -> Answer {
    let query = Query::parse(asked.parts.uri.query())?;
    let limit = query.number("limit", 1..=PAGE_MAX)?.unwrap_or(PAGE);
    let filter = Filter {
        kind: query.text("type").map(wanted_kind),
        agent: query.text("agent").map(str::to_owned),
        path: path_filter(&query)?,
        since: time_of(&query, "since")?,
        until: time_of(&query, "until")?,
    };
    let after = query.text("after").map(cursor).transpose()?;
    let tree = shared.tree()?.clone();
    waiting(move || {
        // Foreign events have times of their own: they may be older than where they are in the log.
        let after = after.unwrap_or_default();
        let found = look(&tree, after, &filter, usize::try_from(limit).unwrap_or(usize::MAX))?;
        let said = json!({
            "events": found.told.iter().map(with_cursor).collect::<Vec<_>>(),
            "next": found.next.to_string(),
            "end": found.end,
            "last": tree.last().0,
        });
        Ok(answer(StatusCode::OK, &said))
    })
    .await
}

pub(crate) async fn query(shared: Shared, asked: Asked) -> Answer {
    let query = Query::parse(asked.parts.uri.query())?;
    let limit = query.number("limit", 1..=PAGE_MAX)?.unwrap_or(PAGE);
    let filter = Filter {
        kind: query.text("event_type").map(wanted_kind),
        agent: query.text("agent_id").map(str::to_owned),
        path: None,
        since: time_of(&query, "start_time")?,
        until: time_of(&query, "end_time")?,
    };
    let acting = shared.acting(&asked.session)?;
    waiting(move || {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut found = Found { told: Vec::new(), next: Cursor::default(), end: false };
        let mut teller =
            Teller::new(&acting.tree, PROJECT, Cursor::default()).map_err(io_problem)?;
        while found.told.len() < limit && !found.end {
            let left = limit - found.told.len();
            let more = look_on(&mut teller, found.next, &filter, left)?;
            found.told.extend(more.told);
            (found.next, found.end) = (more.next, more.end);
        }
        // A version is told when it ends, and others may have been told of meanwhile.
        found.told.sort_by_key(|told| told.seq);
        let mut left = CONTENT_MAX_IN_ALL;
        let events: Vec<Value> =
            found.told.iter().map(|told| as_queried(&acting, told, &mut left)).collect();
        let said = json!({
            "count": events.len(),
            "message": format!("{} events", events.len()),
            "events": events,
        });
        Ok(answer(StatusCode::OK, &said))
    })
    .await
}

/// An event as the Python bridge answers a query: without metadata, its id in parts, a file's content with it.
fn as_queried(acting: &Acting, told: &Told, left: &mut u64) -> Value {
    let event = &told.event;
    let mut data = event.data.clone();
    if matches!(event.kind.as_str(), "file_created" | "file_modified")
        && !data.contains_key("content")
        && let Some(content) = content_then(acting, told, (*left).min(CONTENT_MAX))
    {
        *left = left.saturating_sub(content.len() as u64);
        data.insert("content".to_owned(), content.into());
    }
    json!({
        "event_id": parts_of(&event.id),
        "event_type": event.kind,
        "aggregate_id": event.aggregate_id,
        "aggregate_type": event.aggregate_type,
        "timestamp": event.timestamp.text,
        "data": data,
        "source_agent": event.source_agent,
        "source_component": event.source_component,
        "sequence": told.seq.0,
    })
}

/// What a file held after an event, if it is short, text, and for this user to read.
fn content_then(acting: &Acting, told: &Told, max: u64) -> Option<String> {
    let path = TreePath::from_text(told.event.datum("path")?).ok()?;
    let inode = acting.find(&path, told.seq).ok()?;
    acting.may(&inode, READ, told.seq).ok()?;
    if inode.mode & S_IFMT != S_IFREG || inode.size > max {
        return None;
    }
    let len = usize::try_from(inode.size).ok()?;
    let bytes = acting.read(inode.ino, 0, len, told.seq).ok()?;
    String::from_utf8(bytes.to_vec()).ok()
}

fn parts_of(id: &str) -> Value {
    match id_parts(id) {
        Some((nanos, count, node)) => {
            json!({ "timestamp_ns": nanos, "sequence": count, "node_id": node })
        }
        // As its store had it, which is all that is known.
        None => Value::String(id.to_owned()),
    }
}

/// The id of the event that is told of change `seq`.
fn id_of(tree: &Tree, seq: Seq) -> Result<String, Problem> {
    /// So many may be told between a change and the end of its version.
    const BETWEEN: usize = 64;
    let mut teller = Teller::new(tree, PROJECT, Cursor::before(seq)).map_err(io_problem)?;
    for _ in 0..BETWEEN {
        match teller.read().map_err(io_problem)? {
            Some(told) if told.seq == seq => return Ok(told.event.id),
            Some(_) => (),
            None => break,
        }
    }
    Ok(native::id(seq, Timestamp::now()))
}

/// A random UUID of version 4.
pub(super) fn uuid() -> Result<String, Problem> {
    let mut bytes = random::<16>().map_err(io_problem)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    let parts = parts.map(|(from, to)| text.get(from..to).unwrap_or_default());
    Ok(parts.join("-"))
}

pub(crate) async fn store(shared: Shared, asked: Asked) -> Answer {
    let acting = shared.acting(&asked.session)?;
    let body = whole(&shared, asked.body, EVENT_MAX).await?;
    let mut fields = Fields::parse(&body)?;
    let named = fields.optional_text("event_type", TEXT_MAX);
    let aggregate_id = fields.optional_text("aggregate_id", TEXT_MAX);
    let aggregate_type = fields.optional_text("aggregate_type", TEXT_MAX);
    let agent = fields.optional_text("agent_id", TEXT_MAX);
    let (data, metadata) = (fields.object("data"), fields.object("metadata"));
    fields.done()?;
    // One that nobody knows is kept as the Python bridge kept it.
    let kind = named.as_deref().and_then(kind).unwrap_or("system_started");
    let aggregate_id = aggregate_id.map_or_else(uuid, Ok)?;
    let (id, seq) = waiting(move || {
        if let Some(change) = Change::of(kind, &data)? {
            let seq = change.make(&acting)?;
            return Ok((id_of(&acting.tree, seq)?, seq));
        }
        let new = NewEvent {
            kind,
            aggregate_id,
            aggregate_type: aggregate_type.unwrap_or_else(|| "http_server".to_owned()),
            source_agent: Some(agent.unwrap_or_else(|| "http_server".to_owned())),
            source_component: "http_server".to_owned(),
            data,
            metadata,
        };
        let told = native::keep(&acting.tree, acting.origin(), &new)?;
        Ok((told.event.id, told.seq))
    })
    .await?;
    let said = json!({
        "event_id": parts_of(&id),
        "status": "stored",
        "message": format!("event {seq} stored"),
        "sequence": seq.0,
    });
    Ok(answer(StatusCode::OK, &said))
}

/// What an event about files asks of the tree.
enum Change {
    Content { path: TreePath, content: Vec<u8> },
    Remove { path: TreePath, directory: bool },
    Move { from: TreePath, to: TreePath },
    Copy { from: TreePath, to: TreePath },
    Directory { path: TreePath },
}

impl Change {
    /// The change that an event of `kind` with `data` asks for; `None` if it is about something else.
    fn of(kind: &str, data: &Map<String, Value>) -> Result<Option<Self>, Problem> {
        let text = |names: &[&str]| -> Result<TreePath, Problem> {
            let found = names.iter().find_map(|name| data.get(*name));
            let name = names.first().copied().unwrap_or_default();
            let loc = ["body", "data", name];
            match found {
                Some(Value::String(path)) => TreePath::from_text(path),
                Some(_) => {
                    let msg = "Input should be a valid string";
                    Err(Problem::invalid(vec![fault("string_type", &loc, msg)]))
                }
                None => Err(Problem::invalid(vec![fault("missing", &loc, "Field required")])),
            }
        };
        let path = || text(&["path", "file_path"]);
        Ok(Some(match kind {
            "file_created" | "file_modified" => {
                let content = match data.get("content") {
                    None | Some(Value::Null) => Vec::new(),
                    Some(Value::String(content)) => content.clone().into_bytes(),
                    Some(_) => {
                        let loc = ["body", "data", "content"];
                        let msg = "Input should be a valid string";
                        return Err(Problem::invalid(vec![fault("string_type", &loc, msg)]));
                    }
                };
                Self::Content { path: path()?, content }
            }
            "file_deleted" => Self::Remove { path: path()?, directory: false },
            "directory_deleted" => Self::Remove { path: path()?, directory: true },
            "file_moved" | "directory_moved" => {
                Self::Move { from: text(&["old_path"])?, to: text(&["new_path"])? }
            }
            "file_copied" => {
                Self::Copy { from: text(&["source_path"])?, to: text(&["dest_path"])? }
            }
            "directory_created" => Self::Directory { path: path()? },
            _ => return Ok(None),
        }))
    }

    /// Makes it, and returns its last event. What is not there is a contradiction here: 409.
    fn make(self, acting: &Acting) -> Result<Seq, Problem> {
        let contradicts = |problem: Problem| match problem.status {
            StatusCode::NOT_FOUND => Problem::conflict(problem.words()),
            _ => problem,
        };
        match self {
            Self::Content { path, content } => {
                acting.make_parents(&path)?;
                let (inode, _) = acting.replace(&path, &Content::Short(content), None, Must::Be)?;
                return Ok(inode.changed);
            }
            Self::Remove { path, directory } => {
                let inode = acting.entry(&path, Seq::NOW, false).map_err(contradicts)?.inode;
                if let Some(inode) = inode
                    && directory != (inode.mode & S_IFMT == crate::tree::operation::S_IFDIR)
                {
                    let kind = if directory { "no directory" } else { "a directory" };
                    return Err(Problem::conflict(format!("{} is {kind}", path.text())));
                }
                acting.remove(&path, directory, None).map_err(contradicts)?;
            }
            Self::Move { from, to } => {
                acting.entry(&from, Seq::NOW, false).map_err(contradicts)?;
                acting.make_parents(&to)?;
                acting.rename(&from, &to).map_err(contradicts)?;
            }
            Self::Copy { from, to } => {
                acting.find(&from, Seq::NOW).map_err(contradicts)?;
                acting.make_parents(&to)?;
                acting.copy(&from, &to).map_err(contradicts)?;
            }
            Self::Directory { path } => {
                let made = acting.make_directory(&path, true)?;
                let made =
                    made.ok_or_else(|| Problem::conflict(format!("{} is there", path.text())))?;
                return Ok(made.changed);
            }
        }
        Ok(acting.tree.last())
    }
}

/// Looks now and then whether there are new events, as long as somebody follows.
pub(super) async fn look_for_more(shared: Shared) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if *shared.stopping.borrow() {
            return;
        }
        if shared.last.receiver_count() == 0 {
            continue;
        }
        let Ok(tree) = shared.tree().cloned() else { continue };
        let Ok(last) = waiting(move || Ok(tree.last().0)).await else { continue };
        shared.last.send_if_modified(|seen| std::mem::replace(seen, last) != last);
    }
}

/// Somebody who follows.
struct Follower {
    shared: Shared,
    filter: Filter,
    tree: Tree,
    teller: Option<Teller>,
    at: Cursor,
    last: tokio::sync::watch::Receiver<u64>,
    begun: bool,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.counts.streams_open.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) async fn stream(shared: Shared, asked: Asked) -> Answer {
    let query = Query::parse(asked.parts.uri.query())?;
    let filter = Filter {
        kind: query.text("type").map(wanted_kind),
        agent: query.text("agent").map(str::to_owned),
        path: path_filter(&query)?,
        ..Filter::default()
    };
    let resumed = asked.parts.headers.get("last-event-id").map(HeaderValue::to_str).transpose();
    let resumed = resumed.map_err(|_| Problem::bad("Last-Event-ID is no cursor"))?;
    let after = resumed.filter(|id| !id.is_empty()).or(query.text("after"));
    let tree = shared.tree()?.clone();
    let at = match after {
        Some(text) => cursor(text)?,
        None => Cursor { seq: tree.last(), nth: u32::MAX },
    };
    shared.counts.streams_open.fetch_add(1, Ordering::Relaxed);
    let follower = Follower {
        last: shared.last.subscribe(),
        shared,
        filter,
        tree,
        teller: None,
        at,
        begun: false,
    };
    let events = stream::unfold(follower, |mut follower| async move {
        let piece = follower.next().await?;
        Some((Ok::<Bytes, std::io::Error>(piece), follower))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // So that a proxy does not collect them.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

impl Follower {
    /// What is to be sent next; `None` when the server stops, or the log cannot be read.
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.begun, true) {
            // At once, so that the client knows it is connected.
            return Some(Bytes::from_static(b": following\nretry: 1000\n\n"));
        }
        loop {
            if *self.shared.stopping.borrow() {
                return None;
            }
            self.last.mark_unchanged();
            let found = self.look().await?;
            if !found.is_empty() {
                return Some(found.into());
            }
            let quiet = tokio::time::timeout(BEAT, async {
                tokio::select! {
                    changed = self.last.changed() => changed.is_ok(),
                    () = self.shared.stops() => false,
                }
            });
            match quiet.await {
                Ok(true) => (),
                Ok(false) => return None,
                Err(_) => return Some(Bytes::from_static(b": still here\n\n")),
            }
        }
    }

    async fn look(&mut self) -> Option<String> {
        /// So many are sent in one piece.
        const AT_ONCE: usize = 100;
        let teller = self.teller.take();
        let (tree, after, filter) = (self.tree.clone(), self.at, self.filter.clone());
        let looked = waiting(move || {
            let mut teller = match teller {
                Some(teller) => teller,
                None => Teller::new(&tree, PROJECT, after).map_err(io_problem)?,
            };
            let found = look_on(&mut teller, after, &filter, AT_ONCE)?;
            Ok((teller, found))
        });
        let (teller, found) = match looked.await {
            Ok(looked) => looked,
            Err(problem) => {
                tracing::warn!(why = problem.words(), "a stream of events ended");
                return None;
            }
        };
        self.teller = Some(teller);
        self.at = found.next;
        if !found.end {
            // There is more without waiting.
            self.last.mark_changed();
        }
        let mut text = String::new();
        for told in &found.told {
            let data = with_cursor(told);
            text.push_str(&format!(
                "id: {}\nevent: {}\ndata: {data}\n\n",
                told.cursor, told.event.kind
            ));
        }
        Some(text)
    }
}
