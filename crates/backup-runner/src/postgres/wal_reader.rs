//! Reads WAL as a recovery does, page by page and record by record, and finds its end or the first damage. Pure.
//!
//! PostgreSQL's `xlog_internal.h` and `xlogrecord.h` define pages and records; their layout is the same since 9.5.

use anyhow::{Context, ensure};
use chrono::{DateTime, TimeDelta, Utc};

use super::lsn::Lsn;

/// Flag of a page that begins with the rest of a record.
const CONTINUES: u16 = 0x1;
/// Flag of a segment's first page.
const LONG_HEADER: u16 = 0x2;
/// Flag of a page that replaces an incomplete record after a crash.
const OVERWRITES: u16 = 0x8;
const HEADER_BYTES: usize = 24;
const LONG_HEADER_BYTES: usize = 40;
const RECORD_HEADER_BYTES: usize = 24;
/// PostgreSQL's limit, `XLogRecordMaxSize`.
const MAX_RECORD_BYTES: usize = 1020 << 20;
/// Resource manager of records about the WAL itself.
const XLOG: u8 = 0;
/// Resource manager of the ends of transactions.
const TRANSACTION: u8 = 1;
/// PostgreSQL's epoch, 2000-01-01, in µs since 1970.
const EPOCH_US: i64 = 946_684_800_000_000;

/// State between two segments.
#[derive(Debug)]
pub(crate) struct WalReader {
    system_identifier: u64,
    /// `true` if the previous segment was read, so the state of its last record is known.
    is_synced: bool,
    /// Record that continues in the next page.
    open: Option<OpenRecord>,
    /// Position of the previous record.
    previous: Option<Lsn>,
    /// Position of the last complete record.
    pub(crate) last: Option<Lsn>,
    /// Latest end of a transaction.
    pub(crate) newest: Option<DateTime<Utc>>,
}

#[derive(Debug)]
struct OpenRecord {
    at: Lsn,
    length: usize,
    bytes: Vec<u8>,
}

/// Position to continue at after a page.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Page,
    /// The rest of the segment is unused.
    Segment,
    /// The WAL ends at this byte of the page.
    End(usize),
}

impl WalReader {
    pub(crate) fn new(system_identifier: u64) -> Self {
        Self {
            system_identifier,
            is_synced: false,
            open: None,
            previous: None,
            last: None,
            newest: None,
        }
    }

    /// Records that a segment is skipped.
    pub(crate) fn skip(&mut self) {
        self.is_synced = false;
        self.open = None;
        self.previous = None;
    }

    /// Reads the segment that begins at `start` and whose pages belong to `timelines`. Only the last segment may be
    /// incomplete.
    ///
    /// # Errors
    /// The damage, as the end of a sentence that begins with the name of the segment.
    pub(crate) fn read(&mut self, segment: &[u8], start: Lsn, timelines: &[u32], is_last: bool) -> anyhow::Result<()> {
        let page_bytes = self.page_bytes(segment, start)?;
        for (index, page) in segment.chunks(page_bytes).enumerate() {
            let at = Lsn(start.0 + (index * page_bytes) as u64);
            match self.page(page, at, timelines)? {
                Next::Page => {}
                Next::Segment => return Ok(()),
                Next::End(used) => {
                    ensure!(is_last, "has no WAL from {} on", Lsn(at.0 + used as u64));
                    let rest = &segment[index * page_bytes + used..];
                    ensure!(
                        rest.iter().all(|byte| *byte == 0),
                        "is damaged at {}",
                        Lsn(at.0 + used as u64)
                    );
                    self.open = None;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Checks a segment's header and returns the size of its pages. A new segment is all zeros.
    fn page_bytes(&self, segment: &[u8], start: Lsn) -> anyhow::Result<usize> {
        const DEFAULT: usize = 8_192;
        ensure!(segment.len() >= DEFAULT, "is cut off: it has {} bytes", segment.len());
        if number::<2>(segment, 0) == Some(0) {
            return Ok(DEFAULT);
        }
        let flags = number::<2>(segment, 2).unwrap_or_default();
        ensure!(flags & u64::from(LONG_HEADER) != 0, "is damaged at {start}");
        let system = number::<8>(segment, 24).unwrap_or_default();
        ensure!(
            system == self.system_identifier,
            "belongs to the server with system identifier {system}, not {}",
            self.system_identifier
        );
        let bytes = number::<4>(segment, 32).unwrap_or_default();
        ensure!(
            bytes == segment.len() as u64,
            "has {} bytes instead of {bytes}",
            segment.len()
        );
        let page_bytes = number::<4>(segment, 36).and_then(|bytes| usize::try_from(bytes).ok());
        page_bytes
            .filter(|bytes| bytes.is_power_of_two() && (1_024..=65_536).contains(bytes))
            .with_context(|| format!("is damaged at {start}"))
    }

    fn page(&mut self, page: &[u8], at: Lsn, timelines: &[u32]) -> anyhow::Result<Next> {
        let damaged = || format!("is damaged at {at}");
        let field = |offset, bytes: Option<u64>| bytes.with_context(|| format!("is damaged at {}", Lsn(at.0 + offset)));
        if field(0, number::<2>(page, 0))? == 0 {
            return Ok(Next::End(0));
        }
        let flags = u16::try_from(field(2, number::<2>(page, 2))?).with_context(damaged)?;
        let timeline = u32::try_from(field(4, number::<4>(page, 4))?).with_context(damaged)?;
        let address = Lsn(field(8, number::<8>(page, 8))?);
        let remaining = usize::try_from(field(16, number::<4>(page, 16))?).with_context(damaged)?;
        ensure!(
            address == at,
            "contains the WAL of {address} where that of {at} should be"
        );
        ensure!(
            timelines.contains(&timeline),
            "is damaged at {at}: timeline {timeline} is not part of its history"
        );
        let is_long = flags & LONG_HEADER != 0;
        let mut used = if is_long { LONG_HEADER_BYTES } else { HEADER_BYTES };
        if flags & OVERWRITES != 0 {
            self.open = None;
            self.previous = None;
        }
        let continues = flags & CONTINUES != 0;
        match &self.open {
            Some(open) => ensure!(
                continues && remaining == open.length - open.bytes.len(),
                "is damaged at {at}: the record at {} does not continue there",
                open.at
            ),
            None if continues && !self.is_synced => {
                if remaining > page.len() - used {
                    return Ok(Next::Page);
                }
                used = aligned(used + remaining);
            }
            None => ensure!(!continues, "is damaged at {at}: it begins inside a record"),
        }
        self.is_synced = true;
        self.records(page, at, used)
    }

    fn records(&mut self, page: &[u8], at: Lsn, mut used: usize) -> anyhow::Result<Next> {
        while used < page.len() {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => {
                    let record_at = Lsn(at.0 + used as u64);
                    let length = number::<4>(page, used).and_then(|length| usize::try_from(length).ok());
                    let length = length.with_context(|| format!("is damaged at {record_at}"))?;
                    if length == 0 {
                        return Ok(Next::End(used));
                    }
                    ensure!(
                        (RECORD_HEADER_BYTES..=MAX_RECORD_BYTES).contains(&length),
                        "is damaged at {record_at}"
                    );
                    OpenRecord {
                        at: record_at,
                        length,
                        bytes: Vec::new(),
                    }
                }
            };
            let taken = (open.length - open.bytes.len()).min(page.len() - used);
            open.bytes.extend_from_slice(&page[used..used + taken]);
            used += taken;
            if open.bytes.len() < open.length {
                self.open = Some(open);
                break;
            }
            used = aligned(used);
            if self.record(&open)? {
                return Ok(Next::Segment);
            }
        }
        Ok(Next::Page)
    }

    /// Checks a complete record. Returns `true` if it is a segment switch, after which the rest of the segment is
    /// unused.
    fn record(&mut self, record: &OpenRecord) -> anyhow::Result<bool> {
        let (at, bytes) = (record.at, &record.bytes);
        let wanted = number::<4>(bytes, 20).unwrap_or_default();
        let found = crc32c(&[&bytes[RECORD_HEADER_BYTES..], &bytes[..20]]);
        ensure!(
            wanted == u64::from(found),
            "is damaged at {at}: the checksum of the record does not match"
        );
        let previous = Lsn(number::<8>(bytes, 8).unwrap_or_default());
        if let Some(expected) = self.previous {
            ensure!(
                previous == expected,
                "is damaged at {at}: the record follows {previous}, not {expected}"
            );
        }
        self.previous = Some(at);
        self.last = Some(at);
        let (info, manager) = (bytes[16], bytes[17]);
        if manager == TRANSACTION {
            self.newest = self.newest.max(transaction_end(info, bytes));
        }
        Ok(manager == XLOG && info & 0xF0 == 0x40)
    }
}

/// Returns the time at which a record commits or aborts a transaction, prepared ones included.
fn transaction_end(info: u8, record: &[u8]) -> Option<DateTime<Utc>> {
    if !matches!(info & 0x70, 0x00 | 0x20 | 0x30 | 0x40) {
        return None;
    }
    let mut used = RECORD_HEADER_BYTES;
    let main = loop {
        // Skips the headers of a record's parts; the main part's is the last.
        used += match record.get(used)? {
            255 => break used + 2,
            254 => break used + 5,
            253 => 3,
            252 => 5,
            _ => return None,
        };
    };
    let us = i64::from_le_bytes(record.get(main..main + 8)?.try_into().ok()?);
    DateTime::from_timestamp_micros(EPOCH_US)?.checked_add_signed(TimeDelta::microseconds(us))
}

fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// Reads `N` bytes at `at` as a little-endian number.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let mut number = [0; 8];
    number[..N].copy_from_slice(bytes.get(at..at + N)?);
    Some(u64::from_le_bytes(number))
}

/// Computes CRC-32C, the checksum of WAL records.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(!0, |crc, byte| {
        CRC[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8)
    })
}

const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut at: u32 = 0;
    while at < 256 {
        let mut value = at;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ (0x82F6_3B78 * (value & 1));
            bit += 1;
        }
        table[at as usize] = value;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests;
