//! Why a request was refused, as the Python bridge says it: `{"detail": ...}`.
//!
//! Invariant: nothing a client sends is answered with 500. What is wrong with a request is a 4xx, what is
//! wrong here 503 or 507, and `detail` says what.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::tree::Refusal;

/// A refusal on its way to the client.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    detail: Value,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: Value::String(detail.into()), header: None }
    }

    pub(crate) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    pub(crate) fn missing(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// 422, with one entry for each thing that is not as it must be.
    pub(crate) fn invalid(what: Vec<Value>) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, detail: Value::Array(what), header: None }
    }

    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// The reason, in words.
    pub(crate) fn words(&self) -> String {
        self.detail.as_str().map_or_else(|| self.detail.to_string(), str::to_owned)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = answer(self.status, &json!({ "detail": self.detail }));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// What is not as it must be, at `loc`, as entries of a 422 say it.
pub(crate) fn fault(kind: &str, loc: &[&str], msg: &str) -> Value {
    json!({ "type": kind, "loc": loc, "msg": msg })
}

/// `value` as a JSON answer.
pub(crate) fn answer(status: StatusCode, value: &Value) -> Response {
    let mut response = written(Body::from(value.to_string()));
    *response.status_mut() = status;
    response
}

/// JSON that is text already, as an answer.
pub(crate) fn written(text: Body) -> Response {
    let mut response = Response::new(text);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::NotFound | Refusal::NoData => StatusCode::NOT_FOUND,
            Refusal::Stale
            | Refusal::Exists
            | Refusal::NotADirectory
            | Refusal::IsADirectory
            | Refusal::NotEmpty
            | Refusal::CrossesItself
            | Refusal::TooManyLinks => StatusCode::CONFLICT,
            Refusal::NameTooLong | Refusal::NotSupported | Refusal::Range | Refusal::Invalid => {
                StatusCode::BAD_REQUEST
            }
            Refusal::NotPermitted | Refusal::DefaultAclOnFile => StatusCode::FORBIDDEN,
            Refusal::TooLarge | Refusal::ValueTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Refusal::ReadOnly(_) | Refusal::Io(_) | Refusal::Damaged(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, refusal.to_string())
    }
}
