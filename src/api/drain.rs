//! Reads what a client still sends of a body nobody wanted, so that the client gets to read why.
//!
//! A connection that is closed while its client sends is reset, and the answer under way is lost with it: instead
//! of a reason there is a broken pipe (RFC 9112, section 9.6). So once a request is refused, the rest of its body is read and thrown
//! away before the answer goes out, within limits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::EXPECT;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::timeout;

/// How much is read at most. Who is to send more than that is cut off.
const LEFT_MAX: u64 = 8 << 20;
/// How long it may take.
const LEFT_WITHIN: Duration = Duration::from_secs(5);
/// Who sends nothing for so long is waiting for the answer.
const SILENCE: Duration = Duration::from_millis(500);

/// A body that the next one can go on with. Shared from the start, for when a request is refused its body may be in the
/// hands of whoever passes it on to an upstream.
#[derive(Clone)]
struct Passed(Arc<Mutex<Incoming>>);

impl HttpBody for Passed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}

/// What `answer` makes of the request, once nothing of its body is left unread.
pub(super) async fn answered<F>(
    request: hyper::Request<Incoming>,
    answer: impl FnOnce(Request) -> F,
) -> Response
where
    F: Future<Output = Response>,
{
    let body = request.body();
    // A client that waits to be asked for its body must not be asked for one that is not wanted.
    let asks = request.headers().contains_key(EXPECT);
    if asks || body.is_end_stream() || body.size_hint().lower() > LEFT_MAX {
        return answer(request.map(Body::new)).await;
    }
    let (head, body) = request.into_parts();
    let mut body = Passed(Arc::new(Mutex::new(body)));
    let response = answer(Request::from_parts(head, Body::new(body.clone()))).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        let rest = async {
            let mut left = LEFT_MAX;
            while let Ok(Some(Ok(frame))) = timeout(SILENCE, body.frame()).await {
                let len = frame.data_ref().map_or(0, Bytes::len) as u64;
                let Some(less) = left.checked_sub(len) else { break };
                left = less;
            }
        };
        // Late or not: the answer goes out.
        let _ = timeout(LEFT_WITHIN, rest).await;
    }
    response
}
