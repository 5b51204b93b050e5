//! A bare client: it packs commands and scans replies to their end, the minimum that any client of Redis does.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::time::Duration;

use acceptance::redis_server::OPERATOR;
use anyhow::{Context, bail, ensure};

/// Minimum number of bytes that one read requests.
const CHUNK_BYTES: usize = 256 * 1024;

/// A connection to Redis without a client library.
pub(crate) struct Client {
    stream: TcpStream,
    out: Vec<u8>,
    /// Bytes read from the connection. Those from `parsed` to `filled` are still to be parsed.
    read: Vec<u8>,
    parsed: usize,
    filled: usize,
}

impl Client {
    /// Connects to a Redis without users.
    pub(crate) fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).context("connect to Redis")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self {
            stream,
            out: Vec::new(),
            read: vec![0; CHUNK_BYTES],
            parsed: 0,
            filled: 0,
        })
    }

    /// Connects to a Redis with the project's users, with all rights.
    pub(crate) fn operator(port: u16) -> anyhow::Result<Self> {
        let mut client = Self::connect(port)?;
        client.pack(&[b"AUTH", OPERATOR.as_bytes(), OPERATOR.as_bytes()]);
        client.send()?;
        client.skip(1)?;
        Ok(client)
    }

    /// Appends a command to the buffer that [`Client::send`] sends.
    pub(crate) fn pack(&mut self, parts: &[&[u8]]) {
        let _ = write!(self.out, "*{}\r\n", parts.len());
        for part in parts {
            let _ = write!(self.out, "${}\r\n", part.len());
            self.out.extend_from_slice(part);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    /// Sends the packed commands.
    pub(crate) fn send(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Reads one reply to its end. It is valid until the next reply is read.
    pub(crate) fn reply(&mut self) -> anyhow::Result<Reply<'_>> {
        let (mut at, mut items, mut entry_header, mut last_id) = (self.parsed, 1_usize, false, 0..0_usize);
        while items > 0 {
            let Some(end) = self.line_end(at) else {
                let moved = self.fill()?;
                at -= moved;
                last_id = last_id.start.saturating_sub(moved)..last_id.end.saturating_sub(moved);
                continue;
            };
            let kind = self.read[at];
            let line = at + 1..end;
            match kind {
                b'*' => {
                    let length = number(&self.read[line])?;
                    items += usize::try_from(length).unwrap_or(0);
                    entry_header = length == 2;
                    at = end + 2;
                }
                b'$' => {
                    let length = usize::try_from(number(&self.read[line])?).ok();
                    let next = end + 2 + length.map_or(0, |length| length + 2);
                    if next > self.filled {
                        let moved = self.fill()?;
                        at -= moved;
                        last_id = last_id.start.saturating_sub(moved)..last_id.end.saturating_sub(moved);
                        continue;
                    }
                    if entry_header {
                        last_id = end + 2..next - 2;
                        entry_header = false;
                    }
                    at = next;
                }
                b'-' => bail!("Redis: {}", String::from_utf8_lossy(&self.read[line])),
                b'+' | b':' => at = end + 2,
                other => bail!("the reply begins with byte {other}, which is not a type of RESP2"),
            }
            items -= 1;
        }
        let begin = std::mem::replace(&mut self.parsed, at);
        Ok(Reply {
            bytes: &self.read[begin..at],
            last_id: &self.read[last_id],
        })
    }

    /// Reads `replies` replies and discards them.
    pub(crate) fn skip(&mut self, replies: usize) -> anyhow::Result<()> {
        for _ in 0..replies {
            self.reply()?;
        }
        Ok(())
    }

    /// Returns the connection, for reading the replies on another thread.
    pub(crate) fn replies(&self) -> std::io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Sets the time without a reply after which reading fails.
    pub(crate) fn set_read_timeout(&self, patience: Duration) -> std::io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    /// Closes the sending side of the connection.
    pub(crate) fn close(self) -> std::io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    fn line_end(&self, at: usize) -> Option<usize> {
        let found = self.read[at..self.filled].iter().position(|byte| *byte == b'\r')?;
        (at + found + 1 < self.filled).then_some(at + found)
    }

    /// Reads more bytes. Returns by how many bytes it moved the earlier ones towards the front.
    fn fill(&mut self) -> anyhow::Result<usize> {
        let moved = self.parsed;
        if moved > 0 {
            self.read.copy_within(moved..self.filled, 0);
            self.filled -= moved;
            self.parsed = 0;
        }
        if self.read.len() - self.filled < CHUNK_BYTES {
            self.read.resize(self.read.len() * 2, 0);
        }
        let count = loop {
            match self.stream.read(&mut self.read[self.filled..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        ensure!(count > 0, "Redis has closed the connection");
        self.filled += count;
        Ok(moved)
    }
}

/// A reply in the encoding of the protocol.
pub(crate) struct Reply<'a> {
    pub(crate) bytes: &'a [u8],
    /// ID of the last stream entry; empty if the reply contains no entries.
    pub(crate) last_id: &'a [u8],
}

impl<'a> Reply<'a> {
    /// Returns the bulk strings, in order.
    pub(crate) fn strings(&self) -> impl Iterator<Item = &'a [u8]> {
        let (bytes, mut at) = (self.bytes, 0);
        std::iter::from_fn(move || {
            loop {
                let line = line(bytes, at)?;
                let kind = *bytes.get(at)?;
                let length = number(&bytes[at + 1..line.end])
                    .ok()
                    .and_then(|length| usize::try_from(length).ok());
                at = line.end + 2;
                if let (b'$', Some(length)) = (kind, length) {
                    let string = &bytes[at..at + length];
                    at += length + 2;
                    return Some(string);
                }
            }
        })
    }
}

fn line(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let found = bytes.get(at..)?.iter().position(|byte| *byte == b'\r')?;
    Some(at..at + found)
}

fn number(digits: &[u8]) -> anyhow::Result<i64> {
    let (negative, digits) = digits.strip_prefix(b"-").map_or((false, digits), |rest| (true, rest));
    ensure!(
        digits.iter().all(u8::is_ascii_digit),
        "the reply contains a length that is not a number"
    );
    let value = digits
        .iter()
        .fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    Ok(if negative { -value } else { value })
}
