use proptest::prelude::*;

use super::*;

const PAGE: usize = 8_192;
/// Size of a segment: four pages, to keep the tests short.
const SEGMENT: usize = 4 * PAGE;
const SYSTEM: u64 = 7_575_757_575_757_575_757;
const START: Lsn = Lsn(0x3000000);

/// Writes WAL as a server does.
struct Writer {
    bytes: Vec<u8>,
    previous: u64,
    records: Vec<Lsn>,
}

impl Writer {
    fn new() -> Self {
        Self {
            bytes: Vec::new(),
            previous: 0x2FFFFF8,
            records: Vec::new(),
        }
    }

    fn page_header(&mut self, remaining: usize) {
        let at = START.0 + self.bytes.len() as u64;
        let is_first = self.bytes.len().is_multiple_of(SEGMENT);
        let flags = u16::from(remaining > 0) | if is_first { LONG_HEADER } else { 0 };
        self.bytes.extend(0xD116_u16.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(u32::try_from(remaining).unwrap().to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_first {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes.extend(u32::try_from(SEGMENT).unwrap().to_le_bytes());
            self.bytes.extend(u32::try_from(PAGE).unwrap().to_le_bytes());
        }
    }

    fn put(&mut self, record: &[u8]) {
        for (written, byte) in record.iter().enumerate() {
            if self.bytes.len().is_multiple_of(PAGE) {
                self.page_header(record.len() - written);
            }
            self.bytes.push(*byte);
        }
        while !self.bytes.len().is_multiple_of(8) {
            self.bytes.push(0);
        }
    }

    fn record(&mut self, manager: u8, info: u8, main: &[u8]) {
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page_header(0);
        }
        let at = START.0 + self.bytes.len() as u64;
        let mut data = vec![254];
        data.extend(u32::try_from(main.len()).unwrap().to_le_bytes());
        data.extend(main);
        let mut header = u32::try_from(RECORD_HEADER_BYTES + data.len())
            .unwrap()
            .to_le_bytes()
            .to_vec();
        header.extend(5_u32.to_le_bytes());
        header.extend(self.previous.to_le_bytes());
        header.extend([info, manager, 0, 0]);
        let crc = crc32c(&[&data, &header]);
        header.extend(crc.to_le_bytes());
        header.extend(data);
        self.put(&header);
        self.previous = at;
        self.records.push(Lsn(at));
    }

    /// Leaves the rest of the segment unused, as `pg_switch_wal()` does.
    fn switch(&mut self) {
        self.record(XLOG, 0x40, &[]);
        self.end_segment();
    }

    fn end_segment(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(SEGMENT), 0);
    }
}

fn read(wal: &[u8]) -> (WalReader, anyhow::Result<()>) {
    let mut reader = WalReader::new(SYSTEM);
    let segments: Vec<&[u8]> = wal.chunks(SEGMENT).collect();
    let mut result = Ok(());
    for (index, segment) in segments.iter().enumerate() {
        let start = Lsn(START.0 + (index * SEGMENT) as u64);
        result = reader.read(segment, start, &[1], index + 1 == segments.len());
        if result.is_err() {
            break;
        }
    }
    (reader, result)
}

/// Returns complete segments with records of these sizes.
fn wal(sizes: &[usize]) -> Writer {
    let mut writer = Writer::new();
    for (index, size) in sizes.iter().enumerate() {
        let manager = if index % 3 == 0 { TRANSACTION } else { 10 };
        let mut main = (index as u64 * 1_000_000).to_le_bytes().to_vec();
        main.resize(8 + size, 0xA5);
        writer.record(manager, 0, &main);
    }
    writer.end_segment();
    writer
}

#[test]
fn the_checksum_is_crc_32c() {
    assert_eq!(crc32c(&[b"1234", b"56789"]), 0xE306_9283);
}

#[test]
fn undamaged_wal_is_read_to_its_last_record_and_commit() {
    let written = wal(&[100, 9_000, 30_000, 5, 8, 40_000]);
    let (reader, result) = read(&written.bytes);
    result.unwrap();
    assert_eq!(reader.last, written.records.last().copied());
    assert_eq!(reader.newest.unwrap().to_rfc3339(), "2000-01-01T00:00:03+00:00");
}

#[test]
fn a_switch_leaves_the_rest_of_its_segment_unused() {
    let mut written = Writer::new();
    written.record(10, 0, &[1; 50]);
    written.switch();
    written.record(10, 0, &[2; 50]);
    written.end_segment();
    let (reader, result) = read(&written.bytes);
    result.unwrap();
    assert_eq!(reader.last, written.records.last().copied());
    // The segment is incomplete unless a switch ends it.
    let mut short = wal(&[50]).bytes;
    short.extend_from_within(..);
    let error = read(&short).1.unwrap_err().to_string();
    assert!(error.contains("has no WAL from"), "{error}");
}

#[test]
fn an_incomplete_record_at_the_end_of_the_archive_is_not_damage() {
    let written = wal(&[100, 20_000]);
    let mut torn = written.bytes.clone();
    torn[2 * PAGE..].fill(0);
    let (reader, result) = read(&torn);
    result.unwrap();
    assert_eq!(reader.last, Some(written.records[0]));
}

#[test]
fn segments_that_do_not_match_their_name_are_refused() {
    let whole = wal(&[30_000, 30_000, 30_000]).bytes;
    let error = |wal: &[u8]| read(wal).1.unwrap_err().to_string();
    let mut renamed = whole.clone();
    renamed.copy_within(0..SEGMENT, SEGMENT);
    assert!(error(&renamed).contains("contains the WAL of 0/3000000 where that of 0/3008000 should be"));
    let mut foreign = whole.clone();
    foreign[SEGMENT + 24..SEGMENT + 32].copy_from_slice(&8_u64.to_le_bytes());
    assert!(error(&foreign).contains("belongs to the server with system identifier 8, not"));
    let mut of_another_timeline = whole.clone();
    of_another_timeline[SEGMENT + 4] = 9;
    assert!(error(&of_another_timeline).contains("timeline 9 is not part of its history"));
    let mut reader = WalReader::new(SYSTEM);
    let cut = reader
        .read(&whole[..SEGMENT - PAGE], START, &[1], true)
        .unwrap_err()
        .to_string();
    assert!(cut.contains("has 24576 bytes instead of 32768"), "{cut}");
}

#[test]
fn reading_may_begin_inside_a_record() {
    let written = wal(&[30_000, 70_000, 100]);
    let mut reader = WalReader::new(SYSTEM);
    for index in 1..written.bytes.len() / SEGMENT {
        let (at, start) = (index * SEGMENT, Lsn(START.0 + (index * SEGMENT) as u64));
        let is_last = at + SEGMENT == written.bytes.len();
        reader
            .read(&written.bytes[at..at + SEGMENT], start, &[1], is_last)
            .unwrap();
    }
    assert_eq!(reader.last, written.records.last().copied());
}

proptest! {
    #[test]
    fn a_changed_byte_of_a_record_is_found_before_the_record_counts(
        sizes in prop::collection::vec(0_usize..20_000, 1..12), at in any::<prop::sample::Index>(), by in 1_u8..
    ) {
        let mut written = wal(&sizes);
        prop_assert!(read(&written.bytes).1.is_ok());
        let place = at.index(written.bytes.len());
        written.bytes[place] ^= by;
        let (reader, result) = read(&written.bytes);
        let place = Lsn(START.0 + place as u64);
        if result.is_ok() {
            // The byte is padding or an unused part of a header, so everything is read.
            prop_assert_eq!(reader.last, written.records.last().copied());
        } else {
            prop_assert!(reader.last.is_none_or(|last| last <= place));
        }
    }
}
