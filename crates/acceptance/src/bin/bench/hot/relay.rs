//! Baseline: a bare client that reads ticks and publishes each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{JoinHandle, spawn_blocking};

use super::client::Client;
use super::drain::BATCH_ENTRIES;
use super::load::stream;

/// The client on a thread of its own.
pub(crate) struct Relay {
    end: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Relay {
    pub(crate) fn start(port: u16, partitions: u16) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let thread = spawn_blocking({
            let end = end.clone();
            move || relay(port, partitions, &end)
        });
        Self { end, thread }
    }

    /// Ends the client and returns its error if it has failed.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.await?
    }
}

/// Reads all streams and publishes every tick, until `end`.
fn relay(port: u16, partitions: u16, end: &AtomicBool) -> anyhow::Result<()> {
    let (mut reader, mut publisher) = (Client::operator(port)?, Client::operator(port)?);
    let streams: Vec<String> = (0..partitions).map(stream).collect();
    let mut positions = vec![b"0-0".to_vec(); streams.len()];
    let count = BATCH_ENTRIES.to_string();
    while !end.load(Ordering::Relaxed) {
        let mut command: Vec<&[u8]> = vec![b"XREAD", b"COUNT", count.as_bytes(), b"BLOCK", b"250", b"STREAMS"];
        command.extend(streams.iter().map(String::as_bytes));
        command.extend(positions.iter().map(Vec::as_slice));
        reader.pack(&command);
        reader.send()?;
        let reply = reader.reply()?;
        let (mut strings, mut at, mut published) = (reply.strings().peekable(), 0, 0);
        while let Some(string) = strings.next() {
            if let Some(found) = streams.iter().position(|stream| stream.as_bytes() == string) {
                at = found;
                continue;
            }
            positions[at] = string.to_vec();
            let values: Vec<&[u8]> = strings.by_ref().take(12).skip(1).step_by(2).collect();
            let [symbol, ts_us, price, qty, trade_id, side] = values[..] else {
                anyhow::bail!("an entry has {} fields, expected 6", values.len())
            };
            let message = [
                br#"{"symbol":""#,
                symbol,
                br#"","price":"#,
                price,
                br#","qty":""#,
                qty,
                br#"","ts_us":"#,
                ts_us,
                br#","trade_id":""#,
                trade_id,
                br#"","side":""#,
                side,
                br#""}"#,
            ];
            publisher.pack(&[b"PUBLISH", &[b"tick:", symbol].concat(), &message.concat()]);
            published += 1;
        }
        publisher.send()?;
        publisher.skip(published)?;
    }
    Ok(())
}
