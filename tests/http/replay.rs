//! Every exchange that was recorded with the Python bridge, asked again.

use serde_json::{Value, json};

use crate::client::{Place, Server, Session};

/// Exchanges whose status is another here, and why.
const DIFFERENT: &[(&str, u16, &str)] = &[
    ("metrics", 403, "there are metrics now, for who has a session"),
    ("event-store-lower", 409, "an event that contradicts the tree is refused: there is no /x"),
    ("event-store-forbidden", 200, "no content is refused"),
    ("event-query-limit0", 422, "a bad request is no failure of the server"),
];

/// Endpoints of other parts of Lighthouse: 501 for who has a session.
const ELSEWHERE: &[&str] = &["/validate", "/expert/", "/task/", "/collaboration/", "/elicitation/"];

#[test]
fn every_recorded_exchange_is_answered_as_recorded_or_for_a_named_reason_otherwise() {
    let recorded = include_str!("../data/legacy-http/exchanges.json");
    let recorded: Vec<Value> = serde_json::from_str(recorded).unwrap();
    assert!(recorded.len() > 40);
    let place = Place::new();
    let server = place.serve();
    let session = server.session("mcp_server");
    let mut used: Vec<&str> = Vec::new();
    for exchange in &recorded {
        let name = exchange["name"].as_str().unwrap();
        let (method, path) = exchange["request"].as_str().unwrap().split_once(' ').unwrap();
        let answer = ask(&server, &session, exchange, name, (method, path));
        let is_elsewhere = ELSEWHERE.iter().any(|prefix| path.starts_with(prefix));
        let with_session = exchange["auth_scheme"] == "Bearer"
            && !matches!(name, "validate-shorttoken" | "validate-badtoken");
        let recorded_status = exchange["status"].as_u64().unwrap();
        let different = DIFFERENT.iter().find(|(different, ..)| *different == name);
        let expected = match different {
            Some(&(name, status, _)) => {
                used.push(name);
                assert_ne!(u64::from(status), recorded_status, "{name} is not different");
                status
            }
            None if is_elsewhere && with_session => 501,
            None => u16::try_from(recorded_status).unwrap(),
        };
        assert_eq!(answer.status, expected, "{name}: {answer:?}");
        let kind = exchange["content_type"].as_str().unwrap();
        assert_eq!(answer.header("content-type"), kind, "{name}");
        if name == "cors" {
            assert_eq!(answer.text(), "OK");
            assert_eq!(answer.header("access-control-allow-origin"), "http://localhost:3000");
            continue;
        }
        let body = answer.json();
        if u64::from(expected) == recorded_status {
            same_shape(&exchange["body"], &body, name);
        } else if expected >= 400 {
            assert!(body["detail"].is_string() || body["detail"].is_array(), "{name}: {body}");
        }
        match name {
            // Filters work: these are of one type, or of one agent.
            "event-query-type" => {
                each(&body, |event| event["event_type"] == "file_created");
                assert_eq!(
                    body["events"][0]["data"],
                    json!({"path": "/src/a.py", "content": "print(1)\n"})
                );
                assert_eq!(body["events"][0]["aggregate_id"], "default");
            }
            "event-query-agent" => each(&body, |event| event["source_agent"] == "mcp_server"),
            "event-query" => {
                let sequences: Vec<u64> = body["events"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|event| event["sequence"].as_u64().unwrap())
                    .collect();
                assert!(sequences.is_sorted(), "{sequences:?}");
            }
            // The file is in the tree.
            "event-store" => assert_eq!(session.get("/files/src/a.py").body, b"print(1)\n"),
            _ => (),
        }
    }
    assert_eq!(used.len(), DIFFERENT.len(), "only {used:?} were met");
}

fn ask(
    server: &Server,
    session: &Session<'_>,
    exchange: &Value,
    name: &str,
    (method, path): (&str, &str),
) -> crate::client::Answer {
    let mut headers = vec![("content-type", "application/json")];
    let bearer = session.bearer();
    match (name, exchange["auth_scheme"].as_str()) {
        ("validate-shorttoken", _) => headers.push(("authorization", "Bearer short")),
        ("validate-badtoken", _) => headers.push(("authorization", "Bearer 0123456789abcdef")),
        (_, Some("Basic")) => headers.push(("authorization", "Basic YTpi")),
        (_, Some("Bearer")) => headers.push(("authorization", &bearer)),
        _ => (),
    }
    if method == "OPTIONS" {
        headers.push(("origin", "http://localhost:3000"));
        headers.push(("access-control-request-method", "POST"));
    }
    let mut body = exchange["json"].clone();
    if let Some(token) = body.get_mut("session_token") {
        *token = session.token.clone().into();
    }
    let mut target = path.to_owned();
    if let Some(parameters) = exchange["params"].as_object() {
        for (at, (name, value)) in parameters.iter().enumerate() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            target.push_str(&format!("{}{name}={value}", if at == 0 { '?' } else { '&' }));
        }
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    // The session was made for no client in particular, so this one must be made for a certain address.
    if name == "validate-session-badip" {
        let bound = json!({"agent_id": "mcp_server", "ip_address": "127.0.0.1", "user_agent": "LighthouseMCP/1.0"});
        let made = server.post("/session/create", None, &bound).json();
        let mut asked = exchange["json"].clone();
        asked["session_token"] = made["session_token"].clone();
        return server.post(path, None, &asked);
    }
    server.ask(method, &target, &headers, body.as_bytes())
}

fn each(body: &Value, holds: impl Fn(&Value) -> bool) {
    let events = body["events"].as_array().unwrap();
    assert!(!events.is_empty() && events.iter().all(holds), "{body}");
}

/// Whether two values have the same names and types; texts, numbers and how long lists are may differ.
fn same_shape(recorded: &Value, answered: &Value, at: &str) {
    match (recorded, answered) {
        (Value::Object(recorded), Value::Object(answered)) => {
            let names = |of: &serde_json::Map<String, Value>| {
                let mut names: Vec<String> = of.keys().cloned().collect();
                names.sort();
                names
            };
            assert_eq!(names(recorded), names(answered), "{at}");
            for (name, value) in recorded {
                // What an event says is its own.
                if name != "data" {
                    same_shape(value, &answered[name], &format!("{at}.{name}"));
                }
            }
        }
        (Value::Array(recorded), Value::Array(answered)) => {
            assert_eq!(recorded.is_empty(), answered.is_empty(), "{at}");
            if at.ends_with(".events") {
                for event in answered {
                    same_shape(&recorded[0], event, at);
                }
                return;
            }
            assert_eq!(recorded.len(), answered.len(), "{at}");
            for (recorded, answered) in recorded.iter().zip(answered) {
                same_shape(recorded, answered, at);
            }
        }
        // An agent that is not known.
        (Value::Null, Value::String(_)) if at.ends_with(".source_agent") => (),
        (Value::String(_), Value::Null) if at.ends_with(".source_agent") => (),
        (recorded, answered) => {
            let kind = |value: &Value| {
                (
                    value.is_string(),
                    value.is_u64(),
                    value.is_f64(),
                    value.is_boolean(),
                    value.is_null(),
                )
            };
            assert_eq!(kind(recorded), kind(answered), "{at}: {recorded} became {answered}");
            let fixed = ["status", "service", "event_type", "node_id", "valid", "type", "agent_id"];
            let name = at.rsplit('.').next().unwrap();
            if fixed.contains(&name) && !at.contains(".events") {
                assert_eq!(recorded, answered, "{at}");
            }
        }
    }
}
