//! `/openapi.json`: the table of routes as an OpenAPI 3.1 description.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::problem::answer;
use super::routes::{Answer, Asked, ROUTES, Route, Who};
use super::session::TEXT_MAX;
use super::state::Shared;

pub(crate) async fn document(_: Shared, _: Asked) -> Answer {
    Ok(answer(StatusCode::OK, &describe()))
}

/// The whole description.
pub(crate) fn describe() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = route.path.replace("{*path}", "{path}");
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        if let Some(methods) = methods.as_object_mut() {
            methods.insert(route.method.to_ascii_lowercase(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "lighthouse-fuse",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The tree and its events. /dav/ is the tree for WebDAV clients (RFC 4918).",
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "session": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    for piece in route.path.split('/') {
        let name = piece.strip_prefix('{').and_then(|piece| piece.strip_suffix('}'));
        if let Some(name) = name {
            let rest = name.starts_with('*');
            parameters.push(json!({
                "name": name.trim_start_matches('*'),
                "in": "path",
                "required": true,
                "description": if rest { "Path in the tree; its slashes stay slashes" } else { "Its id" },
                "schema": { "type": "string", "minLength": 1 },
            }));
        }
    }
    for (name, kind, meaning) in route.query {
        parameters.push(json!({
            "name": name, "in": "query", "required": false, "description": meaning,
            "schema": { "type": kind },
        }));
    }
    let mut responses = Map::new();
    for (status, meaning) in route.answers {
        responses.insert(status.to_string(), response(route, *status, meaning));
    }
    let mut common =
        vec![(400, "The request makes no sense"), (422, "Something in it is not as it must be")];
    if route.who != Who::Anybody {
        common.extend([
            (401, "The token is too short to be one"),
            (403, "There is no session, or its user may not do this"),
            (503, "The store is not there yet, or takes no changes"),
        ]);
    }
    if route.body.is_some() {
        common.extend([(408, "The body did not come in time"), (413, "The body is too long")]);
    }
    for (status, meaning) in common {
        responses.entry(status.to_string()).or_insert_with(|| response(route, status, meaning));
    }
    let mut said = json!({
        "summary": route.summary,
        "operationId": format!("{} {}", route.method, route.path),
        "parameters": parameters,
        "responses": responses,
    });
    let Some(fields) = said.as_object_mut() else { return said };
    if route.who != Who::Anybody {
        fields.insert("security".to_owned(), json!([{ "session": [] }]));
    }
    match route.body {
        None => (),
        Some("Bytes") => {
            let content = json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } });
            fields
                .insert("requestBody".to_owned(), json!({ "required": false, "content": content }));
        }
        Some(schema) => {
            let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
            let content = json!({ "application/json": { "schema": schema } });
            fields
                .insert("requestBody".to_owned(), json!({ "required": true, "content": content }));
        }
    }
    said
}

fn response(route: &Route, status: u16, meaning: &str) -> Value {
    let schema = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let json = |schema: Value| json!({ "description": meaning, "content": { "application/json": { "schema": schema } } });
    match (route.path, status) {
        ("/context/packages", 201) => json(json!({ "type": "object" })),
        ("/session/processes", 201) => json(schema("Process")),
        (_, 201 | 204 | 304) => json!({ "description": meaning }),
        ("/health", 200 | 503) => json(schema("Health")),
        (_, 400..) => json(schema("Problem")),
        ("/metrics", _) => json!({
            "description": meaning,
            "content": { "text/plain": { "schema": { "type": "string" } } },
        }),
        ("/events/stream", _) => json!({
            "description": meaning,
            "content": { "text/event-stream": { "schema": { "type": "string" } } },
        }),
        ("/files/{*path}", _) => json!({
            "description": meaning,
            "content": {
                "application/octet-stream": { "schema": { "type": "string", "format": "binary" } },
                "application/json": { "schema": schema("Listing") },
            },
        }),
        ("/session/create", _) => json(schema("Session")),
        ("/session/validate", _) => json(schema("Valid")),
        ("/session/processes", _) => json(schema("Processes")),
        ("/status", _) => json(schema("Status")),
        ("/event/store", _) => json(schema("Stored")),
        ("/event/query", _) => json(schema("Queried")),
        ("/events", _) => json(schema("Page")),
        _ => json(json!({ "type": "object" })),
    }
}

/// An object whose `required` fields have these schemas.
fn object(fields: &[(&str, Value)], required: &[&str]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn schemas() -> Value {
    let string = || json!({ "type": "string" });
    let integer = || json!({ "type": "integer", "minimum": 0 });
    let text = || json!({ "type": "string", "maxLength": TEXT_MAX });
    let any = || json!({ "type": "object" });
    let number = |max: u64| json!({ "type": "integer", "minimum": 0, "maximum": max });
    let process = object(
        &[
            ("pid", integer()),
            ("start_time", integer()),
            ("program", string()),
            ("agent_id", string()),
            ("session_id", string()),
        ],
        &["pid", "start_time", "program", "agent_id", "session_id"],
    );
    let id = object(
        &[("timestamp_ns", integer()), ("sequence", integer()), ("node_id", string())],
        &["timestamp_ns", "sequence", "node_id"],
    );
    let event_names = [
        "event_id",
        "event_type",
        "aggregate_id",
        "aggregate_type",
        "timestamp",
        "data",
        "source_agent",
        "source_component",
        "sequence",
    ];
    let event = object(
        &[
            ("event_type", string()),
            ("aggregate_id", string()),
            ("aggregate_type", string()),
            ("timestamp", string()),
            ("data", any()),
            ("source_agent", json!({ "type": ["string", "null"] })),
            ("source_component", string()),
            ("sequence", integer()),
        ],
        &event_names,
    );
    json!({
        "Problem": object(
            &[("detail", json!({ "anyOf": [string(), { "type": "array", "items": any() }] }))],
            &["detail"],
        ),
        "Health": object(
            &[
                ("status", json!({ "enum": ["healthy", "starting", "degraded", "unhealthy"] })),
                ("service", string()),
                ("reason", string()),
                ("progress", any()),
            ],
            &["status", "service"],
        ),
        "Status": object(
            &[
                ("status", json!({ "enum": ["operational", "stopped"] })),
                ("mode", string()),
                ("components", any()),
                ("active_agents", integer()),
                ("pending_validations", integer()),
                ("uptime_seconds", json!({ "type": "number" })),
            ],
            &["status", "mode", "components", "active_agents", "pending_validations", "uptime_seconds"],
        ),
        "SessionCreate": object(
            &[
                ("agent_id", json!({ "type": "string", "maxLength": TEXT_MAX, "pattern": "^[^:]*$" })),
                ("ip_address", text()),
                ("user_agent", text()),
                ("metadata", any()),
                ("session_key", text()),
            ],
            &["agent_id", "ip_address", "user_agent"],
        ),
        "Session": object(
            &[("session_id", string()), ("session_token", string()), ("expires_at", string()), ("agent_id", string())],
            &["session_id", "session_token", "expires_at", "agent_id"],
        ),
        "SessionValidate": object(
            &[("session_token", string()), ("agent_id", string()), ("ip_address", string()), ("user_agent", string())],
            &["session_token", "agent_id"],
        ),
        "PassedOn": any(),
        "ProcessRegister": object(
            &[("pid", number(u32::MAX.into())), ("start_time", number(u64::MAX))],
            &["pid"],
        ),
        "Process": process,
        "Processes": object(
            &[("processes", json!({ "type": "array", "items": process }))],
            &["processes"],
        ),
        "Valid": object(&[("valid", json!({ "type": "boolean" }))], &["valid"]),
        "ContextPackage": super::context::schema(),
        "EventStore": object(
            &[
                ("event_type", text()),
                ("aggregate_id", text()),
                ("aggregate_type", text()),
                ("agent_id", text()),
                ("data", any()),
                ("metadata", any()),
            ],
            &[],
        ),
        "Stored": object(
            &[("event_id", id), ("status", string()), ("message", string()), ("sequence", integer())],
            &["event_id", "status", "message", "sequence"],
        ),
        "Queried": object(
            &[
                ("events", json!({ "type": "array", "items": event })),
                ("count", integer()),
                ("message", string()),
            ],
            &["events", "count", "message"],
        ),
        "Page": object(
            &[
                ("events", json!({ "type": "array", "items": any() })),
                ("next", string()),
                ("end", json!({ "type": "boolean" })),
                ("last", integer()),
            ],
            &["events", "next", "end", "last"],
        ),
        "Listing": object(
            &[
                ("path", string()),
                ("sequence", integer()),
                ("entries", json!({ "type": "array", "items": any() })),
                ("next", json!({ "type": ["integer", "null"] })),
            ],
            &["path", "sequence", "entries", "next"],
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_every_schema_that_is_named_is_there() {
        let said = describe();
        for route in ROUTES {
            let path = route.path.replace("{*path}", "{path}");
            let operation = &said["paths"][&path][route.method.to_ascii_lowercase()];
            assert_eq!(operation["summary"], route.summary, "{path}");
            assert_eq!(operation["security"].is_array(), route.who != Who::Anybody, "{path}");
            for (status, _) in route.answers {
                assert!(operation["responses"][status.to_string()].is_object(), "{path} {status}");
            }
            assert!(operation["responses"]["500"].is_null(), "{path}");
        }
        let text = said.to_string();
        for named in text.split("#/components/schemas/").skip(1) {
            let name = named.split('"').next().unwrap();
            assert!(said["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
