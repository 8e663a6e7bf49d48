//! The Python bridge's snapshots: read, checked, and not used.
//!
//! A snapshot is `<id>.json` or `<id>.json.gz`; beside it lies `<another id>.metadata.json`, and only the sequence in both
//! says that they belong together. The state in it is all `data` of an aggregate's events laid over each other, which
//! is no state of a project, so nothing of it is imported: the log has all that it has.
//!
//! The checksum in the metadata is the SHA-256 of the state as Python prints it: keys sorted, `, ` and `: ` between,
//! everything beyond ASCII escaped.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::log::Damage;

/// Longest file that is read, in bytes, uncompressed.
const LEN_MAX: u64 = 256 << 20;

/// What was found in a directory of snapshots.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Snapshots {
    /// Snapshots whose checksum holds.
    pub good: u64,
    /// Snapshots without metadata that would vouch for them.
    pub unvouched: u64,
    /// What is wrong, and where.
    pub damage: Vec<Damage>,
}

/// Whether `dir` looks like a directory of snapshots: it holds metadata of one.
pub fn is_here(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        if entry?.file_name().to_string_lossy().ends_with(".metadata.json") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks every snapshot in `dir`.
pub fn check(dir: &Path) -> io::Result<Snapshots> {
    let mut names: Vec<String> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    names.sort();
    let mut found = Snapshots::default();
    let mut checksums: Vec<(i64, String)> = Vec::new();
    let mut states = Vec::new();
    for name in names {
        if !name.ends_with(".json") && !name.ends_with(".json.gz") {
            continue;
        }
        let read = open(&dir.join(&name)).map_err(|err| format!("it cannot be read: {err}"));
        let parsed = read.and_then(|bytes| parse(&bytes));
        let mut wrong = |what: String| {
            found.damage.push(Damage { file: name.clone(), offset: 0, len: 0, what });
        };
        let fields = match parsed {
            Ok(fields) => fields,
            Err(what) => {
                wrong(what);
                continue;
            }
        };
        if name.ends_with(".metadata.json") {
            match (fields.get("event_sequence").and_then(Value::as_i64), text(&fields, "checksum"))
            {
                (Some(sequence), Some(checksum)) => checksums.push((sequence, checksum.to_owned())),
                _ => wrong("it has no `event_sequence` or no `checksum`".to_owned()),
            }
        } else {
            match (fields.get("sequence").and_then(Value::as_i64), fields.get("state")) {
                (Some(sequence), Some(state)) => states.push((name, sequence, checksum(state))),
                _ => wrong("it has no `sequence` or no `state`".to_owned()),
            }
        }
    }
    for (file, sequence, checksum) in states {
        let mut vouching = checksums.iter().filter(|(of, _)| *of == sequence).peekable();
        if vouching.peek().is_none() {
            found.unvouched += 1;
        } else if vouching.any(|(_, expected)| *expected == checksum) {
            found.good += 1;
        } else {
            let what = "its state does not match its checksum".to_owned();
            found.damage.push(Damage { file, offset: 0, len: 0, what });
        }
    }
    Ok(found)
}

fn open(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    let compressed = path.extension().is_some_and(|extension| extension == "gz");
    let read = match compressed {
        true => MultiGzDecoder::new(file).take(LEN_MAX).read_to_end(&mut bytes)?,
        false => file.take(LEN_MAX).read_to_end(&mut bytes)?,
    };
    match read as u64 {
        LEN_MAX.. => Err(io::Error::other("it is longer than a snapshot may be")),
        _ => Ok(bytes),
    }
}

/// The fields of a snapshot or of its metadata.
pub fn parse(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("it is no JSON object".to_owned()),
        Err(err) => Err(format!("it is not JSON: {err}")),
    }
}

fn text<'f>(fields: &'f Map<String, Value>, name: &str) -> Option<&'f str> {
    fields.get(name)?.as_str()
}

/// SHA-256 of `state` as Python prints it, in hexadecimal digits.
#[must_use]
pub fn checksum(state: &Value) -> String {
    let mut printed = String::new();
    print(state, &mut printed);
    Sha256::digest(printed.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// As `json.dumps(value, sort_keys=True)` does. Maps are sorted by code points already.
fn print(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => print_float(float, out),
            None => _ = write!(out, "{number}"),
        },
        Value::String(text) => print_text(text, out),
        Value::Array(list) => {
            out.push('[');
            for (at, value) in list.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                print(value, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (at, (key, value)) in map.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                print_text(key, out);
                out.push_str(": ");
                print(value, out);
            }
            out.push('}');
        }
    }
}

/// Python writes an exponent below 10^-4 and from 10^16 on, of two digits at least.
fn print_float(float: f64, out: &mut String) {
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if float == 0.0 || (-4..16).contains(&exponent) {
        let _ = write!(out, "{float:?}");
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{digits}e{sign}{:02}", exponent.abs());
    }
}

fn print_text(text: &str, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(char),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_printed_as_python_prints_it() {
        let value = json!({"b": [1, 2.5, null, true], "a": "é✓😀\"\n\u{1}", "c": {}});
        let mut out = String::new();
        print(&value, &mut out);
        let expected =
            r#"{"a": "\u00e9\u2713\ud83d\ude00\"\n\u0001", "b": [1, 2.5, null, true], "c": {}}"#;
        assert_eq!(out, expected);
        for (float, expected) in [
            (1.0, "1.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (-1e300, "-1e+300"),
        ] {
            let mut out = String::new();
            print_float(float, &mut out);
            assert_eq!(out, expected);
        }
    }
}
