//! The SQLSTATE of an error, which diesel drops.
//!
//! The SQLSTATE decides whether a statement is retried or a row is rejected; messages can't, because they are
//! translated and reworded. diesel keeps the code for eight kinds and drops the others (value out of range, disk full,
//! undefined table, …). So [`Annotated`], a stream between tokio-postgres and the socket, appends the code to the
//! message of each `ErrorResponse`, and [`of_message`] reads it there.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

const PREFIX: &str = " (SQLSTATE ";
const CODE_BYTES: usize = 5;

/// Returns the code that [`Annotated`] appended to a message.
pub(super) fn of_message(message: &str) -> Option<&str> {
    let (_, code) = message.strip_suffix(')')?.rsplit_once(PREFIX)?;
    (code.len() == CODE_BYTES && code.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(code)
}

/// A server's stream in which each error message ends with its SQLSTATE.
pub(super) struct Annotated<S> {
    inner: S,
    annotator: Annotator,
    read: Box<[u8]>,
    ready: Vec<u8>,
    taken: usize,
}

impl<S> Annotated<S> {
    /// Wraps a stream that starts with a message of the protocol: one after the TLS handshake.
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            annotator: Annotator::default(),
            read: vec![0; 16 * 1024].into_boxed_slice(),
            ready: Vec::new(),
            taken: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Annotated<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.taken == this.ready.len() {
            this.ready.clear();
            this.taken = 0;
            let mut chunk = ReadBuf::new(&mut this.read);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.annotator.push(chunk.filled(), &mut this.ready);
        }
        let rest = &this.ready[this.taken..];
        let n = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..n]);
        this.taken += n;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Annotated<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Annotated<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

/// Connector for TLS connections whose decrypted stream is [`Annotated`].
pub(super) struct AnnotatedTls<T>(pub(super) T);

impl<S, T> TlsConnect<S> for AnnotatedTls<T>
where
    T: TlsConnect<S, Future: Send + 'static, Stream: Unpin>,
{
    type Stream = Annotated<T::Stream>;
    type Error = T::Error;
    type Future = futures::future::BoxFuture<'static, Result<Self::Stream, Self::Error>>;

    fn connect(self, stream: S) -> Self::Future {
        let connecting = self.0.connect(stream);
        Box::pin(async move { connecting.await.map(Annotated::new) })
    }
}

const HEADER_BYTES: usize = 5;
const ERROR_RESPONSE: u8 = b'E';

/// Parser of a stream that arrives in pieces; rewrites its error messages.
#[derive(Default)]
struct Annotator {
    header: Vec<u8>,
    body_left: usize,
    error: Option<Vec<u8>>,
}

impl Annotator {
    fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let (part, rest) = bytes.split_at(bytes.len().min(self.body_left));
                self.error.as_mut().unwrap_or(out).extend_from_slice(part);
                self.body_left -= part.len();
                bytes = rest;
            } else {
                let (part, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES - self.header.len()));
                self.header.extend_from_slice(part);
                bytes = rest;
                if self.header.len() == HEADER_BYTES {
                    self.begin_body(out);
                }
            }
            if self.body_left == 0
                && let Some(body) = self.error.take()
            {
                write_message(ERROR_RESPONSE, &annotate(&body), out);
            }
        }
    }

    fn begin_body(&mut self, out: &mut Vec<u8>) {
        let header = std::mem::take(&mut self.header);
        let length = header[1..].iter().fold(0_usize, |n, byte| n << 8 | usize::from(*byte));
        // The length includes itself.
        self.body_left = length.saturating_sub(4);
        if header[0] == ERROR_RESPONSE {
            self.error = Some(Vec::new());
        } else {
            out.extend_from_slice(&header);
        }
    }
}

fn write_message(tag: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(body);
}

/// Appends the code (field `C`) to the message (field `M`) of an error. Each field is a letter and zero-terminated
/// text.
fn annotate(body: &[u8]) -> Vec<u8> {
    let fields = || body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
    let code = fields()
        .find_map(|field| field.strip_prefix(b"C"))
        .filter(|code| code.len() == CODE_BYTES);
    let mut annotated = Vec::with_capacity(body.len() + 32);
    for field in fields() {
        annotated.extend_from_slice(field);
        if let (b'M', Some(code)) = (field[0], code) {
            annotated.extend_from_slice(PREFIX.as_bytes());
            annotated.extend_from_slice(code);
            annotated.push(b')');
        }
        annotated.push(0);
    }
    annotated.push(0);
    annotated
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_message(tag, body, &mut out);
        out
    }

    #[test]
    fn the_code_is_read_back_from_the_message() {
        assert_eq!(of_message("value out of range (SQLSTATE 22003)"), Some("22003"));
        assert_eq!(of_message("value out of range"), None);
        assert_eq!(of_message("(SQLSTATE 22003) or so"), None);
    }

    proptest! {
        #[test]
        fn errors_are_annotated_and_the_rest_is_passed_on_however_the_stream_is_cut(
            rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
            pieces in prop::collection::vec(1usize..30, 1..60),
        ) {
            let mut sent = Vec::new();
            let mut expected = Vec::new();
            for row in &rows {
                sent.extend(message(b'D', row));
                expected.extend(message(b'D', row));
                sent.extend(message(b'E', b"SERROR\0C22003\0Mout of range\0\0"));
                expected.extend(message(b'E', b"SERROR\0C22003\0Mout of range (SQLSTATE 22003)\0\0"));
                sent.extend(message(b'Z', b"I"));
                expected.extend(message(b'Z', b"I"));
            }
            let mut annotator = Annotator::default();
            let mut passed = Vec::new();
            let mut rest = sent.as_slice();
            for piece in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                annotator.push(now, &mut passed);
                rest = later;
            }
            prop_assert_eq!(passed, expected);
        }
    }
}
