//! `/metrics`: live counters, as Prometheus reads them.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::routes::{Answer, Asked, waiting};
use super::state::{Mount, Shared, Stage, since_1970};

/// Text that grows by one metric after another.
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        _ = writeln!(self.0, "# HELP lighthouse_{name} {help}\n# TYPE lighthouse_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        _ = writeln!(self.0, "lighthouse_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.sample(name, "", value);
    }
}

pub(crate) async fn text(shared: Shared, _: Asked) -> Answer {
    let text = waiting(move || Ok(collect(&shared)));
    let mut response = Response::new(Body::from(text.await?));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn collect(shared: &Shared) -> String {
    let mut text = Text(String::with_capacity(4096));
    let up = |yes| u8::from(yes);
    text.one(
        "uptime_seconds",
        "gauge",
        "Since HTTP began.",
        shared.started.elapsed().as_secs_f64(),
    );
    text.one(
        "serving",
        "gauge",
        "Whether the tree is served.",
        up(*shared.stage.read() == Stage::Serving),
    );
    text.one(
        "mount_up",
        "gauge",
        "Whether the mount works.",
        up(*shared.mount.read() == Mount::Up),
    );
    let agents = shared.sessions.lock().agents(since_1970());
    text.one("session_agents", "gauge", "Agents that have a session.", agents);

    let counts = &shared.counts;
    text.head("http_answers_total", "counter", "Answers, by the class of their status.");
    for (class, count) in counts.answers.iter().enumerate().skip(1) {
        text.sample("http_answers_total", &format!("{{class=\"{class}xx\"}}"), count.load(Relaxed));
    }
    for (name, kind, help, count) in [
        ("http_connections_total", "counter", "Connections taken.", &counts.connections),
        ("http_connections_open", "gauge", "Connections now.", &counts.connections_open),
        ("http_streams_open", "gauge", "Who follows events now.", &counts.streams_open),
        ("http_received_bytes_total", "counter", "Bytes of bodies taken.", &counts.received),
        ("http_sent_bytes_total", "counter", "Bytes of files sent.", &counts.sent),
        ("http_panics_total", "counter", "Handlers that panicked.", &counts.panics),
    ] {
        text.one(name, kind, help, count.load(Relaxed));
    }

    if let Some(passing) = &shared.passing {
        let counts = &passing.counts;
        let outcomes =
            [("answered", &counts.answered), ("failed", &counts.failed), ("late", &counts.late)];
        text.head(
            "upstream_requests_total",
            "counter",
            "Requests passed on, by what became of them.",
        );
        for (outcome, count) in outcomes {
            let label = format!("{{outcome=\"{outcome}\"}}");
            text.sample("upstream_requests_total", &label, count.load(Relaxed));
        }
    }

    if let Some(tree) = shared.tree.get() {
        text.one("last_sequence", "counter", "The number of the last event.", tree.last().0);
        let horizon = tree.store().horizon().0;
        text.one("horizon_sequence", "counter", "The oldest tree that can be shown.", horizon);
        let writable = up(tree.store().refusal().is_none());
        text.one("store_writable", "gauge", "Whether the store takes changes.", writable);
        if let Ok((space, totals)) = tree.space() {
            let live = tree.store().live();
            text.one("live_bytes", "gauge", "What the present tree refers to.", live);
            text.one("inodes", "gauge", "Inodes of the present tree.", totals.inodes);
            let available = space.available;
            text.one("available_bytes", "gauge", "What may still be written.", available);
        }
        if let Ok(size) = tree.store().size() {
            text.head("store_bytes", "gauge", "What the store takes on the disk.");
            text.sample("store_bytes", "{part=\"log\"}", size.log);
            text.sample("store_bytes", "{part=\"content\"}", size.content);
        }
    }

    if let Some(counts) = shared.ask_counts.get().and_then(|ask| ask()) {
        text.head("fuse_requests_total", "counter", "Requests of the kernel, by operation.");
        for (name, count) in counts.requests {
            text.sample("fuse_requests_total", &format!("{{operation=\"{name}\"}}"), count);
        }
        text.head("fuse_request_seconds", "summary", "From a request's arrival to its answer.");
        for (name, took) in counts.took {
            let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
            for (quantile, ns) in ["0.5", "0.99", "0.999"].into_iter().zip(took.within_ns) {
                let labels = format!("{{operation=\"{name}\",quantile=\"{quantile}\"}}");
                text.sample("fuse_request_seconds", &labels, seconds(ns));
            }
            let labels = format!("{{operation=\"{name}\"}}");
            text.sample("fuse_request_seconds_sum", &labels, seconds(took.total_ns));
            text.sample("fuse_request_seconds_count", &labels, took.count);
        }
        for (name, kind, help, count) in [
            ("fuse_refused_total", "counter", "Requests answered with an errno.", counts.refused),
            (
                "fuse_malformed_total",
                "counter",
                "Messages dropped or refused before anybody was asked.",
                counts.malformed,
            ),
            ("fuse_panics_total", "counter", "Handlers that panicked.", counts.panics),
        ] {
            text.one(name, kind, help, count);
        }
    }
    text.0
}
