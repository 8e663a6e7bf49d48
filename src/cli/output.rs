//! How bytes, sizes and times are written for people, and how something is said beside the output.

use std::fmt::{Arguments, Write};
use std::io;

use jiff::Timestamp;
use serde::Serialize;

use crate::meter::Summary;

/// Says one line on standard error. That nobody listens any more (a closed pipe, a terminal that went
/// away) is no reason to stop serving, nor to panic as `eprintln!` does.
pub(super) fn say(line: Arguments<'_>) {
    _ = io::Write::write_fmt(&mut io::stderr().lock(), format_args!("{line}\n"));
}

/// `text` on one line: what a path may hold and a terminal or a reader of lines would take for
/// something else is written as `\xNN`.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for char in text.chars() {
        push(&mut line, char);
    }
    line
}

/// Adds `char`, or its bytes as `\xNN` if it is a control character.
fn push(text: &mut String, char: char) {
    if !char.is_control() {
        text.push(char);
        return;
    }
    let mut utf8 = [0; 4];
    for byte in char.encode_utf8(&mut utf8).bytes() {
        _ = write!(text, "\\x{byte:02x}");
    }
}

/// A path or name on one line: bytes that are not printable UTF-8 are written as `\xNN`, and a
/// backslash as `\\`, so that the original can be told.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => text.push_str("\\\\"),
                char => push(&mut text, char),
            }
        }
        for byte in chunk.invalid() {
            _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// A size as people read it, in binary units.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Nanoseconds as microseconds.
pub(super) fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// How long something took, in microseconds. Names are stable: scripts read them.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
}

impl From<&Summary> for Latency {
    fn from(summary: &Summary) -> Self {
        Self {
            p50_us: us(summary.within_ns(50.0)),
            p99_us: us(summary.within_ns(99.0)),
            max_us: us(summary.longest_ns()),
        }
    }
}

/// A time in RFC 3339, in UTC, to the microsecond.
pub(super) fn time(time: crate::store::event::Timestamp) -> String {
    Timestamp::from_nanosecond(i128::from(time.0))
        .map_or_else(|_| format!("{} ns", time.0), |time| format!("{time:.6}"))
}

/// What time it is.
pub(super) fn now() -> crate::store::event::Timestamp {
    let now = Timestamp::now().as_nanosecond();
    crate::store::event::Timestamp(i64::try_from(now).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_can_be_told_from_what_is_printed() {
        assert_eq!(printable(b"a b/\xc3\xa4"), "a b/\u{e4}");
        assert_eq!(printable(b"\\x41\n\xff"), "\\\\x41\\x0a\\xff");
    }

    #[test]
    fn a_message_is_one_line_whatever_a_path_holds() {
        assert_eq!(one_line("no /a\nb\\: \u{e4}\u{1b}"), "no /a\\x0ab\\: \u{e4}\\x1b");
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn times_are_rfc_3339() {
        let noon = crate::store::event::Timestamp(43_200_000_001_000);
        assert_eq!(time(noon), "1970-01-01T12:00:00.000001Z");
    }
}
