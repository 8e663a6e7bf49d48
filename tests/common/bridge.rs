//! Writes what the Python bridge wrote: records of its log.

use std::io::Write;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;

/// The secret of what is written here.
pub(crate) const SECRET: &[u8] = b"lighthouse-fixture-secret-01";

/// A value as MessagePack.
pub(crate) fn pack(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(yes) => out.push(0xc2 + u8::from(*yes)),
        Value::Number(number) => match number.as_u64() {
            Some(number) => {
                out.push(0xcf);
                out.extend(number.to_be_bytes());
            }
            None => {
                out.push(0xcb);
                out.extend(number.as_f64().unwrap().to_be_bytes());
            }
        },
        Value::String(text) => {
            out.push(0xdb);
            out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            out.extend(text.as_bytes());
        }
        Value::Array(list) => {
            out.push(0xdd);
            out.extend(u32::try_from(list.len()).unwrap().to_be_bytes());
            list.iter().for_each(|value| pack(value, out));
        }
        Value::Object(map) => {
            out.push(0xdf);
            out.extend(u32::try_from(map.len()).unwrap().to_be_bytes());
            for (key, value) in map {
                pack(&Value::String(key.clone()), out);
                pack(value, out);
            }
        }
    }
}

/// A whole record.
pub(crate) fn record(payload: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut mac: Hmac<Sha256> = Hmac::new_from_slice(secret).unwrap();
    mac.update(payload);
    let mut record = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    record.extend_from_slice(&mac.finalize().into_bytes());
    record.extend_from_slice(payload);
    record
}

/// Event `number` of a made-up project: files come, change, move, are copied and go; others happen in between.
pub(crate) fn event(number: u64) -> Value {
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut roll = |sides: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % sides
    };
    let mut path = || format!("/src/{}/{}/file_{}.py", roll(20), roll(10), roll(50));
    let (one, two) = (path(), path());
    let content = format!("VERSION = {number}\n").repeat(1 + roll(40) as usize);
    let (kind, data) = match roll(20) {
        0 => ("file_deleted", json!({"path": one})),
        1 => ("file_moved", json!({"old_path": one, "new_path": two})),
        2 => ("file_copied", json!({"source_path": one, "dest_path": two})),
        3 => ("directory_created", json!({"path": format!("/new/{}", roll(100))})),
        4 => ("directory_deleted", json!({"path": format!("/new/{}", roll(100))})),
        5..=8 => ("agent_heartbeat", json!({"uptime": number, "ok": true})),
        9..=12 => ("file_created", json!({"path": one, "content": content, "size": content.len()})),
        _ => ("file_modified", json!({"path": one, "content": content, "size": content.len()})),
    };
    let (seconds, micros) = (number / 100, number % 100 * 10_000);
    let (hour, minute) = (seconds / 3600, seconds / 60 % 60);
    json!({
        "sequence": number,
        "event_type": kind,
        "aggregate_id": "default",
        "data": data,
        "metadata": {"operation": "file_modification", "session_id": format!("session {}", roll(5))},
        "source_agent": format!("agent {}", roll(7)),
        "source_component": "bridge_aggregate",
        "timestamp": format!(
            "2026-01-{:02}T{:02}:{minute:02}:{:02}.{micros:06}+00:00", 1 + hour / 24, hour % 24, seconds % 60
        ),
        "event_id": format!("{}_0_lighthouse-01", 1_000_000_000 + number * 1000),
    })
}

/// Writes a log of `count` such events.
pub(crate) fn write_log(out: &mut dyn Write, count: u64) {
    for number in 1..=count {
        let mut payload = Vec::new();
        pack(&event(number), &mut payload);
        out.write_all(&record(&payload, SECRET)).unwrap();
    }
}

/// The files and directories of a project, by the rules of the bridge alone: content by path, and paths.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Project {
    pub(crate) files: std::collections::BTreeMap<String, String>,
    pub(crate) directories: std::collections::BTreeSet<String>,
}

impl Project {
    fn link(&mut self, path: &str) {
        for (at, _) in path.match_indices('/').skip(1) {
            self.directories.insert(path[..at].to_owned());
        }
    }

    /// Does what an event says, in the fields that the bridge prints.
    pub(crate) fn apply(&mut self, event: &Map<String, Value>) {
        let data = &event["data"];
        let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
        let path =
            data["path"].as_str().or(data["file_path"].as_str()).unwrap_or_default().to_owned();
        match event["event_type"].as_str().unwrap() {
            "file_created" | "file_modified" => {
                self.link(&path);
                self.files.insert(path, text("content"));
            }
            "file_deleted" => _ = self.files.remove(&path),
            "file_moved" => {
                self.link(&text("new_path"));
                if let Some(content) = self.files.remove(&text("old_path")) {
                    self.files.insert(text("new_path"), content);
                }
            }
            "file_copied" => {
                if let Some(content) = self.files.get(&text("source_path")).cloned() {
                    self.link(&text("dest_path"));
                    self.files.insert(text("dest_path"), content);
                }
            }
            "directory_created" => {
                self.link(&path);
                self.directories.insert(path);
            }
            "directory_deleted" => self.let_go(&path),
            "directory_moved" if self.directories.contains(&text("old_path")) => {
                self.link(&text("new_path"));
                self.directories.insert(text("new_path"));
                self.let_go(&text("old_path"));
            }
            _ => (),
        }
    }

    /// A directory that still holds something stays.
    fn let_go(&mut self, path: &str) {
        let inside = format!("{path}/");
        let held =
            self.files.keys().chain(&self.directories).any(|other| other.starts_with(&inside));
        if !held {
            self.directories.remove(path);
        }
    }
}
