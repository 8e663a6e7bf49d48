//! One event of the Python bridge.
//!
//! It was written as a MessagePack map or as JSON, with only those of its thirteen fields that were set. What is
//! taken and what is refused is what the bridge took and refused: unknown keys are ignored, a missing field has
//! its default, a field of a wrong type makes the whole no event.
//!
//! Invariants: [`Event::kind`] is one of [`KINDS`]; [`Event::id`] is `<nanoseconds>_<count>_<node>`.

use serde_json::{Map, Value};

pub use super::time::Stamp;

use super::{msgpack, time};
use crate::store::event::{Format, Timestamp};

/// Every type of event the bridge knows.
pub const KINDS: [&str; 43] = [
    "command_received",
    "command_validated",
    "command_executed",
    "command_failed",
    "agent_registered",
    "agent_disconnected",
    "agent_heartbeat",
    "shadow_updated",
    "shadow_created",
    "shadow_deleted",
    "file_created",
    "file_modified",
    "file_deleted",
    "file_moved",
    "file_copied",
    "directory_created",
    "directory_deleted",
    "directory_moved",
    "validation_request_submitted",
    "validation_policy_applied",
    "validation_escalated_to_expert",
    "validation_decision_made",
    "agent_session_started",
    "agent_session_ended",
    "expert_agent_summoned",
    "expert_agent_responded",
    "pair_session_started",
    "pair_session_ended",
    "pair_suggestion_made",
    "pair_suggestion_accepted",
    "pair_suggestion_rejected",
    "shadow_annotation_created",
    "shadow_annotation_updated",
    "shadow_annotation_deleted",
    "system_started",
    "system_shutdown",
    "degradation_triggered",
    "recovery_completed",
    "project_initialized",
    "backup_created",
    "snapshot_created",
    "snapshot_restored",
    "custom",
];

/// The type named so, in either of the two ways clients name one: `file_created` or `FILE_CREATED`.
#[must_use]
pub fn kind(name: &str) -> Option<&'static str> {
    KINDS.into_iter().find(|kind| *kind == name || kind.to_ascii_uppercase() == name)
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `event_id`.
    pub id: String,
    /// The number its store gave it. Not unique over several runs of the bridge.
    pub sequence: Option<i64>,
    /// `event_type`.
    pub kind: String,
    /// What it is about: the project's id for files.
    pub aggregate_id: String,
    /// What kind of thing that is.
    pub aggregate_type: String,
    /// When.
    pub timestamp: Stamp,
    /// A UUID.
    pub correlation_id: Option<String>,
    /// A UUID.
    pub causation_id: Option<String>,
    /// What happened.
    pub data: Map<String, Value>,
    /// What else is known.
    pub metadata: Map<String, Value>,
    /// Who did it.
    pub source_agent: Option<String>,
    /// Which part of the bridge says so.
    pub source_component: String,
    /// Always 1.
    pub schema_version: i64,
}

/// What stands for fields that an event may lack and no constant can stand for.
#[derive(Clone, Debug)]
pub struct Missing {
    /// For `event_id`.
    pub id: String,
    /// For `timestamp`.
    pub time: Timestamp,
}

/// Why some bytes are no event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EventError {
    /// They are not of their format; the text says what is wrong.
    Format(String),
    /// They are a value, but no map.
    NotAMap,
    /// This field is missing.
    Missing(&'static str),
    /// This field has a value of a wrong type or form.
    Field(&'static str),
}

impl std::fmt::Display for EventError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Format(what) => f.write_str(what),
            Self::NotAMap => f.write_str("it is no map of fields"),
            Self::Missing(field) => write!(f, "`{field}` is missing"),
            Self::Field(field) => write!(f, "`{field}` has no value it may have"),
        }
    }
}

impl std::error::Error for EventError {}

impl Event {
    /// Reads an event from its bytes.
    pub fn decode(bytes: &[u8], format: Format, missing: &Missing) -> Result<Self, EventError> {
        let value = match format {
            Format::MessagePack => {
                msgpack::decode(bytes).map_err(|what| EventError::Format(what.to_owned()))?
            }
            Format::Json => serde_json::from_slice(bytes)
                .map_err(|err| EventError::Format(format!("it is not JSON: {err}")))?,
        };
        match value {
            Value::Object(fields) => Self::from_fields(fields, missing),
            _ => Err(EventError::NotAMap),
        }
    }

    /// Reads an event from its fields.
    pub fn from_fields(
        mut fields: Map<String, Value>,
        missing: &Missing,
    ) -> Result<Self, EventError> {
        let id = match fields.remove("event_id") {
            None => missing.id.clone(),
            Some(id) => id_text(&id).ok_or(EventError::Field("event_id"))?,
        };
        let kind = required(&mut fields, "event_type")?;
        if !KINDS.contains(&&*kind) {
            return Err(EventError::Field("event_type"));
        }
        let timestamp = match fields.remove("timestamp") {
            None => time::of(missing.time),
            Some(Value::String(text)) => {
                time::parse(&text).ok_or(EventError::Field("timestamp"))?
            }
            Some(_) => return Err(EventError::Field("timestamp")),
        };
        Ok(Self {
            id,
            kind,
            timestamp,
            aggregate_id: required(&mut fields, "aggregate_id")?,
            aggregate_type: string_or(&mut fields, "aggregate_type", "unknown")?,
            sequence: match fields.remove("sequence") {
                None | Some(Value::Null) => None,
                Some(number) => Some(integer(&number).ok_or(EventError::Field("sequence"))?),
            },
            correlation_id: uuid(&mut fields, "correlation_id")?,
            causation_id: uuid(&mut fields, "causation_id")?,
            data: map(&mut fields, "data")?,
            metadata: map(&mut fields, "metadata")?,
            source_agent: match fields.remove("source_agent") {
                None | Some(Value::Null) => None,
                Some(Value::String(agent)) => Some(agent),
                Some(_) => return Err(EventError::Field("source_agent")),
            },
            source_component: string_or(&mut fields, "source_component", "unknown")?,
            schema_version: match fields.remove("schema_version") {
                None => 1,
                Some(number) => integer(&number).ok_or(EventError::Field("schema_version"))?,
            },
        })
    }

    /// All thirteen fields, as the bridge prints them.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        self.clone().into_json()
    }

    /// The same, without a copy of what may be long.
    #[must_use]
    pub fn into_json(self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| _ = fields.insert(name.to_owned(), value);
        put("event_id", self.id.into());
        put("sequence", self.sequence.into());
        put("event_type", self.kind.into());
        put("aggregate_id", self.aggregate_id.into());
        put("aggregate_type", self.aggregate_type.into());
        put("timestamp", self.timestamp.text.into());
        put("correlation_id", self.correlation_id.into());
        put("causation_id", self.causation_id.into());
        put("data", Value::Object(self.data));
        put("metadata", Value::Object(self.metadata));
        put("source_agent", self.source_agent.into());
        put("source_component", self.source_component.into());
        put("schema_version", self.schema_version.into());
        fields
    }

    /// Who did it, as far as the event says.
    #[must_use]
    pub fn who(&self) -> Option<&str> {
        self.source_agent.as_deref().or_else(|| self.metadata.get("agent_id")?.as_str())
    }

    /// In which session.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.metadata.get("session_id")?.as_str()
    }

    /// The path that the data of a file or directory event names; moves and copies name two others.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.datum("path").or_else(|| self.datum("file_path"))
    }

    /// A string in the data.
    #[must_use]
    pub fn datum(&self, key: &str) -> Option<&str> {
        self.data.get(key)?.as_str()
    }
}

/// The three parts of an id: nanoseconds, count and node.
#[must_use]
pub fn id_parts(id: &str) -> Option<(u64, u64, &str)> {
    let mut parts = id.split('_');
    let (nanos, count, node) = (parts.next()?, parts.next()?, parts.next()?);
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok());
    let parsed = (number(nanos)??, number(count)??, node);
    parts.next().is_none().then_some(parsed)
}

/// An id as text: some writers print its three parts as an object.
fn id_text(id: &Value) -> Option<String> {
    match id {
        Value::String(text) => id_parts(text).map(|_| text.clone()),
        Value::Object(parts) => {
            let nanos = parts.get("timestamp_ns")?.as_u64()?;
            let count = parts.get("sequence").map_or(Some(0), Value::as_u64)?;
            let node = parts.get("node_id")?.as_str()?;
            let text = format!("{nanos}_{count}_{node}");
            id_parts(&text).is_some().then_some(text)
        }
        _ => None,
    }
}

fn required(fields: &mut Map<String, Value>, name: &'static str) -> Result<String, EventError> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(EventError::Field(name)),
        None => Err(EventError::Missing(name)),
    }
}

fn string_or(
    fields: &mut Map<String, Value>,
    name: &'static str,
    default: &str,
) -> Result<String, EventError> {
    match fields.remove(name) {
        None => Ok(default.to_owned()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(EventError::Field(name)),
    }
}

fn map(
    fields: &mut Map<String, Value>,
    name: &'static str,
) -> Result<Map<String, Value>, EventError> {
    match fields.remove(name) {
        None => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(EventError::Field(name)),
    }
}

fn uuid(fields: &mut Map<String, Value>, name: &'static str) -> Result<Option<String>, EventError> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
            let others = text.bytes().filter(|byte| *byte == b'-').count();
            let fits = digits == 32 && digits + others == text.len();
            fits.then_some(Some(text)).ok_or(EventError::Field(name))
        }
        Some(_) => Err(EventError::Field(name)),
    }
}

/// An integer, or what the bridge took for one: digits, or a number without a fraction.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64().filter(|float| float.fract() == 0.0)?;
            // Beyond 2^53 a number with a point is none that counts events.
            (float.abs() < 9.0e15).then_some(float as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &Value) -> Result<Event, EventError> {
        let missing = Missing { id: "7_0_missing".to_owned(), time: Timestamp(1_500_000_000) };
        Event::decode(text.to_string().as_bytes(), Format::Json, &missing)
    }

    #[test]
    fn what_is_missing_has_its_default() {
        let event = read(&json!({"event_type": "custom", "aggregate_id": "x"})).unwrap();
        let expected = json!({
            "event_id": "7_0_missing", "sequence": null, "event_type": "custom", "aggregate_id": "x",
            "aggregate_type": "unknown", "timestamp": "1970-01-01T00:00:01.500000+00:00",
            "correlation_id": null, "causation_id": null, "data": {}, "metadata": {},
            "source_agent": null, "source_component": "unknown", "schema_version": 1,
        });
        assert_eq!(Value::Object(event.to_json()), expected);
        assert_eq!(read(&expected).unwrap(), event);
    }

    #[test]
    fn an_id_in_parts_is_the_id_in_one() {
        let id = json!({"timestamp_ns": 5, "sequence": 0, "node_id": "lighthouse-01"});
        let event = read(&json!({"event_id": id, "event_type": "custom", "aggregate_id": "x"}));
        assert_eq!(event.unwrap().id, "5_0_lighthouse-01");
    }

    #[test]
    fn fields_of_a_wrong_form_make_no_event() {
        for (field, value) in [
            ("event_type", json!("unheard_of")),
            ("event_id", json!("1_2_3_4")),
            ("event_id", json!("a_0_n")),
            ("event_id", json!(null)),
            ("timestamp", json!("yesterday")),
            ("timestamp", json!(5)),
            ("aggregate_id", json!(5)),
            ("data", json!([])),
            ("metadata", json!(null)),
            ("sequence", json!("five")),
            ("sequence", json!(1.5)),
            ("correlation_id", json!("no uuid")),
        ] {
            let mut fields = json!({"event_type": "custom", "aggregate_id": "x"});
            fields[field] = value;
            assert!(matches!(read(&fields), Err(EventError::Field(name)) if name == field));
        }
        let nothing = read(&json!({"event_type": "custom"}));
        assert_eq!(nothing, Err(EventError::Missing("aggregate_id")));
        assert_eq!(read(&json!([])), Err(EventError::NotAMap));
    }

    #[test]
    fn types_are_known_by_both_their_names() {
        assert_eq!(kind("FILE_CREATED"), Some("file_created"));
        assert_eq!(kind("file_created"), Some("file_created"));
        assert_eq!(kind("File_Created"), None);
    }
}
