//! What a request asks for: paths, ranges, queries and bodies, read from what anybody may send.
//!
//! Pure. Invariants: nothing here panics, whatever it is given; a [`TreePath`] has no component that is
//! empty, `.`, `..` or longer than a name can be, and none with a `/` or NUL in it.

use serde_json::{Map, Value};

use super::problem::{Problem, fault};

/// Longest name of a component, in bytes.
const NAME_MAX: usize = 255;
/// Most components of a path.
const DEPTH_MAX: usize = 2048;

/// A path in the tree.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TreePath {
    /// Its components; none is the root.
    pub(crate) names: Vec<Vec<u8>>,
    /// It ended in a slash.
    pub(crate) directory: bool,
}

impl TreePath {
    /// From the part of a URL behind the endpoint's own, with or without a slash at its front.
    pub(crate) fn from_url(text: &str) -> Result<Self, Problem> {
        let text = relative(text)?;
        let Some(pieces) = split(text) else { return Ok(Self { names: vec![], directory: true }) };
        let names = pieces.iter().map(|piece| {
            decode(piece, false)
                .ok_or_else(|| Problem::bad("a % in the path is not followed by two hex digits"))
        });
        Self::checked(names.collect::<Result<_, _>>()?, text.ends_with('/'))
    }

    /// From text such as `/src/a.py`, as events carry it.
    pub(crate) fn from_text(text: &str) -> Result<Self, Problem> {
        let text = relative(text)?;
        let Some(pieces) = split(text) else { return Ok(Self { names: vec![], directory: true }) };
        let names = pieces.iter().map(|piece| piece.as_bytes().to_vec());
        Self::checked(names.collect(), text.ends_with('/'))
    }

    /// From bytes that were decoded already.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Problem> {
        let names: Vec<Vec<u8>> = bytes
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        let directory = names.is_empty() || bytes.ends_with(b"/");
        Self::checked(names, directory)
    }

    fn checked(names: Vec<Vec<u8>>, directory: bool) -> Result<Self, Problem> {
        if names.len() > DEPTH_MAX {
            return Err(Problem::bad(format!("the path has more than {DEPTH_MAX} components")));
        }
        for name in &names {
            if name.is_empty() || matches!(name.as_slice(), b"." | b"..") {
                return Err(Problem::bad("no component of a path may be empty, `.` or `..`"));
            }
            if name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                return Err(Problem::bad("no component of a path may have a slash or NUL in it"));
            }
            if name.len() > NAME_MAX {
                return Err(Problem::bad(format!("no name is longer than {NAME_MAX} bytes")));
            }
        }
        Ok(Self { names, directory })
    }

    /// As people read it, from the root of the tree.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for name in &self.names {
            text.push('/');
            text.push_str(&String::from_utf8_lossy(name));
        }
        if text.is_empty() { "/".to_owned() } else { text }
    }

    /// As it stands in a URL.
    pub(crate) fn url(&self) -> String {
        self.names.iter().map(|name| encode(name)).collect::<Vec<_>>().join("/")
    }
}

/// A path without the slash it may begin with; a second one would be a name without letters.
fn relative(text: &str) -> Result<&str, Problem> {
    let text = text.strip_prefix('/').unwrap_or(text);
    if text.starts_with('/') {
        return Err(Problem::bad("no component of a path may be empty, `.` or `..`"));
    }
    Ok(text)
}

/// The components of a path without the slash at its front; `None` for the root. A slash at the end is none.
fn split(text: &str) -> Option<Vec<&str>> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.is_empty() { None } else { Some(text.split('/').collect()) }
}

/// Undoes `%XX`, and with `plus` takes `+` for a space.
pub(crate) fn decode(text: &str, plus: bool) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high << 4 | low).ok()?
            }
            b'+' if plus => b' ',
            byte => byte,
        });
    }
    Some(bytes)
}

/// One component of a path as it stands in a URL.
pub(crate) fn encode(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for &byte in name {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push_str(&super::session::hex(&[byte]).to_ascii_uppercase());
        }
    }
    text
}

/// Undoes base64, with or without padding.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut held, mut bits) = (0_u32, 0);
    for char in text.bytes() {
        let six = match char {
            b'A'..=b'Z' => char - b'A',
            b'a'..=b'z' => char - b'a' + 26,
            b'0'..=b'9' => char - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            // The eight bits above those that are left.
            bytes.push((held >> bits & 0xff) as u8);
            held &= (1 << bits) - 1;
        }
    }
    (bits < 6).then_some(bytes)
}

/// The parameters of a URL.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Problem> {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let read = |text| String::from_utf8(decode(text, true)?).ok();
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((read(name)?, read(value)?))
        });
        let pairs: Option<Vec<_>> = pairs.collect();
        pairs.map(Self).ok_or_else(|| Problem::bad("the query is not encoded UTF-8"))
    }

    /// The value of `name`, the last if there are several; an empty one is none.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().rfind(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The number `name`, which must lie in `range`.
    pub(crate) fn number(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        let msg = format!("must be a number from {} to {}", range.start(), range.end());
        number
            .map(Some)
            .ok_or_else(|| Problem::invalid(vec![fault("int_parsing", &["query", name], &msg)]))
    }

    /// Whether `name` is set.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false" | "0" | "no") => Ok(false),
            Some("true" | "1" | "yes") => Ok(true),
            Some(_) => {
                let msg = "must be true or false";
                Err(Problem::invalid(vec![fault("bool_parsing", &["query", name], msg)]))
            }
        }
    }
}

/// What a `Range` header asks for of something that is `len` bytes long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    /// All of it: no range, or one that is not understood and so does not count (RFC 9110).
    Whole,
    /// These bytes: first, and how many.
    Bytes(u64, u64),
    /// Nothing of it lies there.
    Beyond,
}

/// Reads one range of bytes. Several at once are answered with the whole, as RFC 9110 allows.
pub(crate) fn part(header: Option<&str>, len: u64) -> Part {
    let Some(spec) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else { return Part::Whole };
    let (first, last) = (first.trim(), last.trim());
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return Part::Whole;
    }
    // More digits than fit: beyond every file.
    let number = |text: &str| text.parse().unwrap_or(u64::MAX);
    match (first.is_empty(), last.is_empty()) {
        (true, true) => Part::Whole,
        (true, false) => match number(last).min(len) {
            0 => Part::Beyond,
            count => Part::Bytes(len - count, count),
        },
        (false, _) => {
            let first = number(first);
            let last = if last.is_empty() { u64::MAX } else { number(last) };
            if last < first {
                return Part::Whole;
            }
            if first >= len {
                return Part::Beyond;
            }
            Part::Bytes(first, last.min(len - 1) - first + 1)
        }
    }
}

/// Whether one of the tags of an `If-Match` or `If-None-Match` header is `tag`; `*` is any, where there is one.
pub(crate) fn lists_tag(header: &str, tag: Option<&str>) -> bool {
    let Some(tag) = tag else { return false };
    header.trim() == "*"
        || header.split(',').any(|one| one.trim().strip_prefix("W/").unwrap_or(one.trim()) == tag)
}

/// A JSON object that was sent, and what is wrong with it so far.
#[derive(Debug)]
pub(crate) struct Fields {
    object: Map<String, Value>,
    faults: Vec<Value>,
}

impl Fields {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Problem> {
        if body.is_empty() {
            return Err(Problem::invalid(vec![fault("missing", &["body"], "Field required")]));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(object)) => Ok(Self { object, faults: Vec::new() }),
            Ok(_) => {
                let msg = "Input should be a valid dictionary or object to extract fields from";
                Err(Problem::invalid(vec![fault("model_attributes_type", &["body"], msg)]))
            }
            Err(err) => {
                let msg = format!("JSON decode error: {err}");
                Err(Problem::invalid(vec![fault("json_invalid", &["body"], &msg)]))
            }
        }
    }

    /// The text `name`, of at most `max` bytes. What is wrong with it is kept for [`Fields::done`].
    pub(crate) fn text(&mut self, name: &str, max: usize) -> String {
        match self.optional_text(name, max) {
            Some(text) => text,
            None => {
                if !self.object.contains_key(name) {
                    self.faults.push(fault("missing", &["body", name], "Field required"));
                } else if self.object.get(name).is_some_and(Value::is_null) {
                    self.fault("string_type", name, "Input should be a valid string");
                }
                String::new()
            }
        }
    }

    /// As [`Fields::text`], but may be absent or null.
    pub(crate) fn optional_text(&mut self, name: &str, max: usize) -> Option<String> {
        match self.object.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.len() > max => {
                let msg = format!("String should have at most {max} bytes");
                self.fault("string_too_long", name, &msg);
                Some(String::new())
            }
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => {
                self.fault("string_type", name, "Input should be a valid string");
                Some(String::new())
            }
        }
    }

    /// The number `name`, of at most `max`. What is wrong with it is kept for [`Fields::done`].
    pub(crate) fn number(&mut self, name: &str, max: u64) -> u64 {
        let number = self.optional_number(name, max);
        if number.is_none() {
            self.faults.push(fault("missing", &["body", name], "Field required"));
        }
        number.unwrap_or_default()
    }

    /// As [`Fields::number`], but may be absent or null.
    pub(crate) fn optional_number(&mut self, name: &str, max: u64) -> Option<u64> {
        let value = self.object.get(name).filter(|value| !value.is_null())?;
        let number = value.as_u64().filter(|&number| number <= max);
        if number.is_none() {
            let msg = format!("Input should be a number from 0 to {max}");
            self.fault("int_type", name, &msg);
        }
        Some(number.unwrap_or_default())
    }

    /// The object `name`, or an empty one.
    pub(crate) fn object(&mut self, name: &str) -> Map<String, Value> {
        match self.object.remove(name) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(object)) => object,
            Some(_) => {
                self.fault("dict_type", name, "Input should be a valid dictionary");
                Map::new()
            }
        }
    }

    /// The texts in the list `name`, at most `count` of at most `max` bytes each; none if it is not there.
    pub(crate) fn texts(&mut self, name: &str, count: usize, max: usize) -> Vec<String> {
        let list = match self.object.remove(name) {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.fault("list_type", name, "Input should be a valid list");
                return Vec::new();
            }
        };
        if list.len() > count {
            let msg = format!("List should have at most {count} items");
            self.fault("too_long", name, &msg);
            return Vec::new();
        }
        let mut texts = Vec::with_capacity(list.len());
        for item in list {
            match item {
                Value::String(text) if text.len() <= max => texts.push(text),
                Value::String(_) => {
                    let msg = format!("String should have at most {max} bytes");
                    self.fault("string_too_long", name, &msg);
                }
                _ => self.fault("string_type", name, "Input should be a valid string"),
            }
        }
        texts
    }

    pub(crate) fn fault(&mut self, kind: &str, name: &str, msg: &str) {
        self.faults.push(fault(kind, &["body", name], msg));
    }

    /// Whether all was as it must be.
    pub(crate) fn done(self) -> Result<(), Problem> {
        if self.faults.is_empty() { Ok(()) } else { Err(Problem::invalid(self.faults)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(text: &str) -> Option<Vec<Vec<u8>>> {
        TreePath::from_url(text).ok().map(|path| path.names)
    }

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(names(""), Some(vec![]));
        assert_eq!(names("/"), Some(vec![]));
        assert_eq!(names("/a/b%20c"), Some(vec![b"a".to_vec(), b"b c".to_vec()]));
        assert_eq!(names("%ff"), Some(vec![b"\xff".to_vec()]));
        assert_eq!(names("a+b"), Some(vec![b"a+b".to_vec()]));
        assert!(TreePath::from_url("a/").unwrap().directory);
        for bad in [
            "a//b",
            "//",
            ".",
            "a/..",
            "%2e%2e/x",
            "a%2fb",
            "%00",
            "%",
            "%f",
            "%zz",
            &"a".repeat(256),
        ] {
            assert_eq!(names(bad), None, "{bad}");
        }
        assert_eq!(names(&"a/".repeat(DEPTH_MAX + 1)), None);
    }

    #[test]
    fn ranges_are_those_of_rfc_9110() {
        let of_ten = |text| part(Some(text), 10);
        assert_eq!(of_ten("bytes=0-3"), Part::Bytes(0, 4));
        assert_eq!(of_ten("bytes=4-"), Part::Bytes(4, 6));
        assert_eq!(of_ten("bytes=4-99999999999999999999"), Part::Bytes(4, 6));
        assert_eq!(of_ten("bytes=-3"), Part::Bytes(7, 3));
        assert_eq!(of_ten("bytes=-30"), Part::Bytes(0, 10));
        assert_eq!(of_ten("bytes=10-"), Part::Beyond);
        assert_eq!(of_ten("bytes=-0"), Part::Beyond);
        assert_eq!(part(Some("bytes=0-"), 0), Part::Beyond);
        for whole in [
            "bytes=3-2",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=0-1,3-4",
            "lines=1-2",
            "",
            "bytes=+1-2",
        ] {
            assert_eq!(of_ten(whole), Part::Whole, "{whole}");
        }
        assert_eq!(part(None, 10), Part::Whole);
    }

    #[test]
    fn tags_are_compared_whole() {
        assert!(lists_tag("\"1\", W/\"2\"", Some("\"2\"")));
        assert!(lists_tag("*", Some("\"2\"")));
        assert!(!lists_tag("*", None));
        assert!(!lists_tag("\"22\"", Some("\"2\"")));
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmE", "fooba")]
        {
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(from_base64("//8="), Some(vec![0xff, 0xff]));
        assert!(
            from_base64("Z").is_none()
                && from_base64("Zm9v!").is_none()
                && from_base64("=Zg").is_none()
        );
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("a=1&b=x%20y+z&a=2&c")).unwrap();
        assert_eq!(
            (query.text("a"), query.text("b"), query.text("c")),
            (Some("2"), Some("x y z"), None)
        );
        assert_eq!(query.number("a", 0..=5).unwrap(), Some(2));
        assert!(query.number("b", 0..=5).is_err() && query.number("a", 3..=5).is_err());
        assert!(Query::parse(Some("a=%ff")).is_err() && Query::parse(Some("%")).is_err());
    }

    #[test]
    fn every_fault_of_a_body_is_told() {
        let mut fields = Fields::parse(br#"{"a": 1, "d": null}"#).unwrap();
        fields.text("a", 9);
        fields.text("b", 9);
        fields.text("d", 9);
        fields.object("a");
        assert_eq!(fields.faults.len(), 4);
        assert!(fields.done().is_err());
        for bad in [&b""[..], b"[]", b"{", b"\xff", b"1", br#"{"a":1e999}"#] {
            assert!(Fields::parse(bad).is_err(), "{bad:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(Fields::parse(format!("{{\"a\":{deep}").as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_path_is_answered_and_comes_back_as_it_was(text: String) {
            if let Ok(path) = TreePath::from_url(&text) {
                let again = TreePath::from_url(&path.url()).unwrap();
                prop_assert_eq!(again.names, path.names);
            }
        }

        #[test]
        fn paths_of_odd_pieces_are_answered(text in "[/.%0-9a-fA-F]{0,40}") {
            let _ = TreePath::from_url(&text);
            let _ = TreePath::from_bytes(text.as_bytes());
            let _ = Query::parse(Some(&text));
            let _ = from_base64(&text);
        }

        #[test]
        fn a_range_lies_within_its_file(text in "(bytes=)?[0-9]{0,21}-?[0-9,-]{0,21}", len: u64) {
            if let Part::Bytes(first, count) = part(Some(&text), len) {
                prop_assert!(count > 0 && first.checked_add(count).is_some_and(|end| end <= len));
            }
        }

        #[test]
        fn any_body_is_answered(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(mut fields) = Fields::parse(&body) {
                fields.text("a", 1);
                let _ = fields.done();
            }
        }

        #[test]
        fn any_header_of_tags_is_answered(text: String) {
            let _ = lists_tag(&text, Some("\"1\""));
        }
    }
}
