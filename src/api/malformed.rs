//! What is no HTTP/1.1 request, refused as all else is: with a status and `{"detail": ...}`.
//!
//! hyper answers such bytes itself, with an empty body, and ends the connection. No request is handed to us, so there
//! is no place to answer from; but hyper then writes while no answer of ours is under way, and that can be seen where
//! its bytes go to the socket.
//!
//! ```text
//!        a request is handed to us               its body is dropped, and all of it written
//!  idle --------------------------> answering ------------------------------------------> idle
//!    |
//!    +-- hyper writes --> refused: ours is sent in its place, and what else hyper writes is not
//! ```
//!
//! Invariant: no byte of an answer of ours changes. Where the end of one still waits to be written when what follows
//! is refused, hyper's own refusal stays as it is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::{Buf, Bytes};
use hyper::body::{Frame, SizeHint};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::serve::{HEAD_MAX, HEADERS_MAX};
use super::state::Shared;

/// How far a connection is with an answer of ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Answering(Arc<AtomicU8>);

/// No answer is under way.
const IDLE: u8 = 0;
/// A request was handed to us.
const BEGUN: u8 = 1;
/// hyper has taken all of the answer, and may have to write some of it still.
const TAKEN: u8 = 2;

impl Answering {
    /// A request was handed to us.
    pub(super) fn begin(&self) {
        self.0.store(BEGUN, Ordering::Relaxed);
    }

    /// `response`, which is taken when its body is dropped.
    pub(super) fn with(&self, response: Response) -> axum::http::Response<Marked> {
        response.map(|body| Marked { body, answering: self.clone() })
    }

    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Relaxed) == IDLE
    }

    /// All that hyper had is written. Whether that ends an answer.
    fn written(&self) -> bool {
        let ended = self.0.load(Ordering::Relaxed) == TAKEN;
        if ended {
            self.0.store(IDLE, Ordering::Relaxed);
        }
        ended
    }
}

/// The body of an answer under way.
#[derive(Debug)]
pub(super) struct Marked {
    body: Body,
    answering: Answering,
}

impl Drop for Marked {
    fn drop(&mut self) {
        self.answering.0.store(TAKEN, Ordering::Relaxed);
    }
}

impl HttpBody for Marked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection on which hyper's own refusals are replaced.
#[derive(Debug)]
pub(super) struct Watched {
    stream: TcpStream,
    shared: Shared,
    answering: Answering,
    /// How the next request begins, as far as it was read.
    begins: [u8; HEAD.len()],
    begins_len: usize,
    /// What is left of our refusal.
    instead: Option<Bytes>,
}

/// How a request begins whose answer has no body.
const HEAD: &[u8; 5] = b"HEAD ";

impl Watched {
    pub(super) fn new(stream: TcpStream, shared: Shared, answering: Answering) -> Self {
        let begins = [0; HEAD.len()];
        Self { stream, shared, answering, begins, begins_len: 0, instead: None }
    }

    /// Looks at how a request begins.
    fn read(&mut self, bytes: &[u8]) {
        if self.answering.is_idle()
            && let Some(room) = self.begins.get_mut(self.begins_len..)
        {
            let len = room.len().min(bytes.len());
            room[..len].copy_from_slice(&bytes[..len]);
            self.begins_len += len;
        }
    }

    /// Looks at what hyper is about to write.
    fn writes(&mut self, bytes: &[u8]) {
        if self.instead.is_none()
            && self.answering.is_idle()
            && let Some((status, refusal)) = refusal(bytes, self.begins == *HEAD)
        {
            self.shared.counts.answered(status);
            self.instead = Some(refusal.into());
        }
    }
}

/// Our refusal in the place of hyper's, and its status; `None` where `bare` is no such answer.
fn refusal(bare: &[u8], no_body: bool) -> Option<(u16, String)> {
    const EMPTY: &str = "content-length: 0\r\n";
    let bare = std::str::from_utf8(bare).ok()?;
    let status = bare.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let (before, after) =
        bare.split_once(EMPTY).filter(|(_, after)| after.ends_with("\r\n\r\n"))?;
    let why = match status {
        414 => "the target of the request is too long".to_owned(),
        431 => format!("the head of the request is longer than {HEAD_MAX} bytes, or has more than {HEADERS_MAX} headers"),
        _ => "this is no request of HTTP/1.1: the method, target, version, a header or the length cannot be understood".to_owned(),
    };
    let body = json!({ "detail": why }).to_string();
    let (len, body) = (body.len(), if no_body { "" } else { &body });
    let told = format!("content-type: application/json\r\ncontent-length: {len}\r\n");
    Some((status, format!("{before}{told}{after}{body}")))
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.read(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.writes(pieces.first().map_or(&[][..], |piece| &**piece));
        let Some(instead) = &mut this.instead else {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, pieces);
        };
        while !instead.is_empty() {
            match ready!(Pin::new(&mut this.stream).poll_write(cx, instead))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => instead.advance(written),
            }
        }
        Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.answering.written() {
            (self.begins, self.begins_len) = ([0; HEAD.len()], 0);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\ndate: Thu, 26 Nov 2026 09:00:00 GMT\r\n\r\n";

    #[test]
    fn a_refusal_says_why_and_keeps_the_rest_of_the_head() {
        let (status, said) = refusal(BARE.as_bytes(), false).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert_eq!(status, 400);
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"));
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
        assert!(head.ends_with("GMT"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["detail"].as_str().unwrap().contains("no request"), "{body}");
        let (_, without) = refusal(BARE.as_bytes(), true).unwrap();
        assert_eq!(without, format!("{head}\r\n\r\n"));
    }

    #[test]
    fn anything_but_a_bare_answer_is_left_alone() {
        for other in [
            "",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nmore",
            "HTTP/1.1 ",
            "HTTP/1.1 four\r\ncontent-length: 0\r\n\r\n",
            "\u{fc}",
        ] {
            assert_eq!(refusal(other.as_bytes(), false), None, "{other:?}");
        }
    }
}
