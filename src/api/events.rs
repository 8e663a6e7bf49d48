//! Events: kept, looked for, a page at a time, and as they come.
//!
//! An event is told in the Python bridge's words ([`native`]). `/event/store` and `/event/query` are the
//! bridge's; `/events` has every field, and a cursor to go on from.
//!
//! Invariant: an answer takes memory for [`ANSWER_MAX`] bytes and one event, however long the log and its events are.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use crate::agents::policy::Section;
use crate::legacy::event::{id_parts, kind};
use crate::legacy::native::{self, Cursor, NewEvent, PROJECT, Teller, Told};
use crate::tree::moment::{self, Moment};
use crate::tree::operation::{S_IFMT, S_IFREG};
use crate::tree::{Seq, Timestamp, Tree};

use super::acting::{Acting, Content, Must, READ};
use super::ask::{Fields, Query, TreePath};
use super::look::{Filter, Look, Stop, in_turn, io_problem};
use super::problem::{Problem, answer, fault, written};
use super::routes::{Answer, Asked, EVENT_MAX, waiting, whole};
use super::session::{TEXT_MAX, hex, random};
use super::state::Shared;
use super::upstream::{Peer, while_there};

/// Events on one page.
const PAGE: u64 = 100;
const PAGE_MAX: u64 = 1000;
/// Turns for one page: then it ends, even if it is not full.
const PAGE_TURNS: u32 = 40;
/// Text of events that one answer holds, in bytes; the last may be longer than what is left.
const ANSWER_MAX: usize = 4 << 20;
/// Content of files that `/event/query` shows, in bytes: of one, and of all together.
const CONTENT_MAX: u64 = 64 << 10;
const CONTENT_MAX_IN_ALL: u64 = 4 << 20;
/// Events sent in one piece of a stream, and bytes of them.
const AT_ONCE: usize = 100;
const PIECE_MAX: usize = 256 << 10;
/// How often it is looked whether there are new events, while somebody follows.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a stream is silent at most, so that both sides notice when the other is gone.
const BEAT: Duration = Duration::from_secs(15);

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

/// Who asks, and may be told what happened: what all of `streams/` in a mount tells, from any event on.
fn listening(shared: &Shared, asked: &Asked) -> Result<Acting, Problem> {
    let acting = shared.acting(&asked.session)?;
    acting.may_read_section(Section::Streams, &[], true)?;
    Ok(acting)
}

fn with_cursor(told: Told) -> Value {
    let cursor = told.cursor.to_string();
    let mut fields = told.into_json();
    fields.insert("cursor".to_owned(), cursor.into());
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
    // Foreign events have times of their own: they may be older than where they are in the log.
    let after = query.text("after").map(cursor).transpose()?.unwrap_or_default();
    let tree = listening(&shared, &asked)?.tree;
    while_there(Peer::of(&asked), async move {
        let mut look = {
            let tree = tree.clone();
            in_turn(&shared, move || Look::behind(&tree, after, filter)).await?
        };
        let (mut text, mut count, mut stop) = (String::new(), 0, Stop::Late);
        for _ in 0..PAGE_TURNS {
            let turn = in_turn(&shared, move || {
                let stop = look.turn(|told| {
                    let comma = if count == 0 { "" } else { "," };
                    _ = write!(text, "{comma}{}", with_cursor(told));
                    count += 1;
                    count < limit && text.len() < ANSWER_MAX
                })?;
                Ok((look, text, count, stop))
            });
            (look, text, count, stop) = turn.await?;
            if stop != Stop::Late {
                break;
            }
        }
        let (end, last, next) = (stop == Stop::End, tree.last(), look.at);
        let said = format!(r#"{{"end":{end},"events":[{text}],"last":{last},"next":"{next}"}}"#);
        Ok(written(said.into()))
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
    let acting = listening(&shared, &asked)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    while_there(Peer::of(&asked), async move {
        let (tree, after) = (acting.tree.clone(), Cursor::default());
        let mut look = in_turn(&shared, move || Look::behind(&tree, after, filter)).await?;
        let mut found = Queried::new(acting);
        loop {
            let turn = in_turn(&shared, move || {
                let stop = look.turn(|told| {
                    found.add(told);
                    found.events.len() < limit
                })?;
                Ok((look, found, stop))
            });
            let stop;
            (look, found, stop) = turn.await?;
            if stop != Stop::Late {
                break;
            }
        }
        found.sort();
        found.answer(shared)
    })
    .await
}

/// What a query found, on its way into an answer.
struct Queried {
    acting: Acting,
    /// Each event's sequence and text; without the text it is told once more when it is its turn.
    events: VecDeque<(Seq, Option<String>)>,
    /// Bytes of texts that may still be kept.
    room: usize,
    /// Bytes of content that may still be shown.
    content: u64,
    /// Whether the agent may see the past, once that matters.
    looks_back: Option<bool>,
    count: usize,
}

impl Queried {
    fn new(acting: Acting) -> Self {
        Self {
            acting,
            events: VecDeque::new(),
            room: ANSWER_MAX,
            content: CONTENT_MAX_IN_ALL,
            looks_back: None,
            count: 0,
        }
    }

    fn add(&mut self, told: Told) {
        let seq = told.seq;
        if told.cursor.nth > 0 {
            // A version's: short, and behind the event that it is found at.
            let text = self.text(told);
            self.room = self.room.saturating_sub(text.len());
            self.events.push_back((seq, Some(text)));
            return;
        }
        let content = self.content;
        let text = (self.room > 0).then(|| self.text(told));
        let text = text.filter(|text| text.len() <= self.room);
        if let Some(text) = &text {
            self.room -= text.len();
        } else {
            // No other is kept from here on.
            (self.room, self.content) = (0, content);
        }
        self.events.push_back((seq, text));
    }

    /// A version is told when it ends, and others may have been told of meanwhile.
    fn sort(&mut self) {
        self.events.make_contiguous().sort_by_key(|(seq, _)| *seq);
        self.count = self.events.len();
    }

    /// All of it, with its length if that is known; piece by piece where events are told once more.
    fn answer(mut self, shared: Shared) -> Answer {
        if self.events.iter().all(|(_, text)| text.is_some()) {
            let mut text = String::new();
            self.write(&mut text)?;
            return Ok(written(text.into()));
        }
        let pieces = stream::unfold(Some(self), move |rest| {
            let shared = shared.clone();
            async move {
                let mut rest = rest?;
                let piece = in_turn(&shared, move || {
                    let mut text = String::new();
                    let more = rest.write(&mut text)?;
                    Ok((Bytes::from(text), more.then_some(rest)))
                });
                Some(match piece.await {
                    Ok((text, rest)) => (Ok(text), rest),
                    // The client sees that it has not all of it.
                    Err(problem) => (Err(std::io::Error::other(problem.words())), None),
                })
            }
        });
        Ok(written(Body::from_stream(pieces)))
    }

    /// Writes what comes next, up to an event that is told once more; whether there is more behind that.
    fn write(&mut self, text: &mut String) -> Result<bool, Problem> {
        let count = self.count;
        if self.events.len() == count {
            _ = write!(text, r#"{{"count":{count},"events":["#);
        }
        while let Some((seq, kept)) = self.events.pop_front() {
            if self.events.len() + 1 < count {
                text.push(',');
            }
            if let Some(kept) = kept {
                text.push_str(&kept);
            } else {
                text.push_str(&self.again(seq)?);
                if !self.events.is_empty() {
                    return Ok(true);
                }
            }
        }
        _ = write!(text, r#"],"message":"{count} events"}}"#);
        Ok(false)
    }

    /// The text of the event that is change `seq`.
    fn again(&mut self, seq: Seq) -> Result<String, Problem> {
        let at = Cursor { seq, nth: 0 };
        let teller = Teller::new(&self.acting.tree, PROJECT, Cursor::before(seq));
        let told = teller.and_then(|mut teller| teller.read()).map_err(io_problem)?;
        let told = told.filter(|told| told.cursor == at);
        let told = told.ok_or_else(|| Problem::unavailable(format!("event {seq} is gone")))?;
        Ok(self.text(told))
    }

    /// An event as the Python bridge answers a query: without metadata, its id in parts, a file's content with it.
    fn text(&mut self, told: Told) -> String {
        let content = self.content_of(&told);
        let (seq, mut event) = (told.seq, told.event);
        if let Some(content) = content {
            self.content = self.content.saturating_sub(content.len() as u64);
            event.data.insert("content".to_owned(), content.into());
        }
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| _ = fields.insert(name.to_owned(), value);
        put("event_id", parts_of(&event.id));
        put("event_type", event.kind.into());
        put("aggregate_id", event.aggregate_id.into());
        put("aggregate_type", event.aggregate_type.into());
        put("timestamp", event.timestamp.text.into());
        put("data", Value::Object(event.data));
        put("source_agent", event.source_agent.into());
        put("source_component", event.source_component.into());
        put("sequence", seq.0.into());
        Value::Object(fields).to_string()
    }

    fn content_of(&mut self, told: &Told) -> Option<String> {
        let event = &told.event;
        if !matches!(event.kind.as_str(), "file_created" | "file_modified")
            || event.data.contains_key("content")
        {
            return None;
        }
        // Of the past, even where nothing has changed since.
        let acting = &self.acting;
        let looks_back = self.looks_back.get_or_insert_with(|| acting.may_look_back().is_ok());
        if !*looks_back {
            return None;
        }
        content_then(acting, told, self.content.min(CONTENT_MAX))
    }
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
                Ok(acting.replace(&path, &Content::Short(content), None, Must::Be)?.seq)
            }
            Self::Remove { path, directory } => {
                let inode = acting.entry(&path, Seq::NOW, false).map_err(contradicts)?.inode;
                if let Some(inode) = inode
                    && directory != (inode.mode & S_IFMT == crate::tree::operation::S_IFDIR)
                {
                    let kind = if directory { "no directory" } else { "a directory" };
                    return Err(Problem::conflict(format!("{} is {kind}", path.text())));
                }
                acting.remove(&path, directory, None).map_err(contradicts)
            }
            Self::Move { from, to } => {
                let moved = acting.entry(&from, Seq::NOW, false).map_err(contradicts)?.inode;
                if moved.is_none() {
                    return Err(Problem::conflict(format!("{} does not exist", from.text())));
                }
                acting.make_parents(&to)?;
                acting.rename(&from, &to).map_err(contradicts)
            }
            Self::Copy { from, to } => {
                acting.find(&from, Seq::NOW).map_err(contradicts)?;
                acting.make_parents(&to)?;
                acting.copy(&from, &to).map_err(contradicts)
            }
            Self::Directory { path } => {
                let made = acting.make_directory(&path, true, None)?;
                let made =
                    made.ok_or_else(|| Problem::conflict(format!("{} is there", path.text())))?;
                Ok(made.changed)
            }
        }
    }
}

/// Looks now and then whether the log went on, as long as somebody follows.
pub(super) async fn look_for_more(shared: Shared) {
    let mut seen = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if *shared.stopping.borrow() {
            return;
        }
        if shared.more.receiver_count() == 0 {
            continue;
        }
        let Ok(tree) = shared.tree().cloned() else { continue };
        // A version that ends is told, and is no event of the log; an event is there a moment before it is told.
        let look = waiting(move || Ok((tree.last(), tree.store().log_end())));
        let Ok(now) = look.await else { continue };
        if seen.replace(now) != Some(now) {
            shared.more.send_replace(());
        }
    }
}

/// Somebody who follows.
struct Follower {
    shared: Shared,
    look: Option<Look>,
    /// Where to go on, as the client is told.
    at: Cursor,
    more: tokio::sync::watch::Receiver<()>,
    /// When something must be sent, be there an event or not.
    beat: Instant,
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
    let after = after.map(cursor).transpose()?;
    let tree = listening(&shared, &asked)?.tree;
    let look = in_turn(&shared, move || match after {
        Some(after) => Look::behind(&tree, after, filter),
        None => Look::from_now(&tree, filter),
    });
    let look = look.await?;
    shared.counts.streams_open.fetch_add(1, Ordering::Relaxed);
    let follower = Follower {
        more: shared.more.subscribe(),
        shared,
        at: look.at,
        look: Some(look),
        beat: Instant::now() + BEAT,
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
            // At once, so that the client knows it is connected, and where it goes on if that ends.
            return Some(self.says(": following", "retry: 1000\n"));
        }
        loop {
            if *self.shared.stopping.borrow() {
                return None;
            }
            self.more.mark_unchanged();
            let found = self.turn().await?;
            if !found.is_empty() {
                self.beat = Instant::now() + BEAT;
                return Some(found.into());
            }
            if Instant::now() >= self.beat {
                return Some(self.says(": still here", ""));
            }
            let quiet = timeout_at(self.beat, async {
                tokio::select! {
                    changed = self.more.changed() => changed.is_ok(),
                    () = self.shared.stops() => false,
                }
            });
            match quiet.await {
                Ok(true) => (),
                Ok(false) => return None,
                Err(_) => return Some(self.says(": still here", "")),
            }
        }
    }

    /// Something that is no event, with the place to go on at: that is remembered all the same.
    fn says(&mut self, comment: &str, field: &str) -> Bytes {
        self.beat = Instant::now() + BEAT;
        format!("{comment}\nid: {}\n{field}\n", self.at).into()
    }

    async fn turn(&mut self) -> Option<String> {
        let mut look = self.look.take()?;
        let turn = in_turn(&self.shared, move || {
            let (mut text, mut count) = (String::new(), 0);
            let stop = look.turn(|told| {
                let (cursor, kind) = (told.cursor, told.event.kind.clone());
                let data = with_cursor(told);
                _ = write!(text, "id: {cursor}\nevent: {kind}\ndata: {data}\n\n");
                count += 1;
                count < AT_ONCE && text.len() < PIECE_MAX
            })?;
            Ok((look, text, stop))
        });
        let (look, text, stop) = match turn.await {
            Ok(turn) => turn,
            Err(problem) => {
                tracing::warn!(why = problem.words(), "a stream of events ended");
                return None;
            }
        };
        self.at = look.at;
        self.look = Some(look);
        if stop != Stop::End {
            // There is more without waiting.
            self.more.mark_changed();
        }
        Some(text)
    }
}
