//! Names of WAL segment files, and which of them a recovery still needs.

use std::collections::BTreeSet;

use anyhow::ensure;

use super::lsn::Lsn;

/// Length of the timeline in a segment's name, in hexadecimal digits. Log and segment number have the same length.
const PART_LENGTH: usize = 8;
const NAME_LENGTH: usize = 3 * PART_LENGTH;
/// Suffix of the segment that pg_receivewal is still writing.
pub(crate) const PARTIAL: &str = ".partial";

/// Returns the name of the segment with this number, counted from the server's first.
pub(crate) fn name(timeline: u32, number: u64, segment_bytes: u64) -> String {
    let per_log = (1 << 32) / segment_bytes;
    format!("{timeline:08X}{:08X}{:08X}", number / per_log, number % per_log)
}

/// Returns the name of the segment that contains `lsn`.
pub(crate) fn containing(timeline: u32, lsn: &str, segment_bytes: u64) -> anyhow::Result<String> {
    let Lsn(position) = lsn.parse()?;
    ensure!(
        segment_bytes.is_power_of_two() && segment_bytes < 1 << 32,
        "{segment_bytes} is not a size of a WAL segment"
    );
    Ok(name(timeline, position / segment_bytes, segment_bytes))
}

/// Returns number and timeline of a segment's file, complete or partial; `None` for any other file.
pub(crate) fn parse(file: &str, segment_bytes: u64) -> Option<(u64, u32)> {
    let name = complete_name(file)?;
    let part = |from: usize| u64::from_str_radix(&name[from..from + PART_LENGTH], 16).ok();
    let timeline = u32::try_from(part(0)?).ok()?;
    let per_log = (1 << 32) / segment_bytes;
    Some((part(PART_LENGTH)? * per_log + part(2 * PART_LENGTH)?, timeline))
}

/// Returns a segment's name without its timeline: segments of all timelines compare alike, as in pg_archivecleanup.
pub(crate) fn without_timeline(file: &str) -> Option<&str> {
    complete_name(file).map(|name| &name[PART_LENGTH..])
}

fn complete_name(file: &str) -> Option<&str> {
    let name = file.strip_suffix(PARTIAL).unwrap_or(file);
    (name.len() == NAME_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(name)
}

/// Returns the segments in `files` that no recovery from segment `oldest_needed` reads. Timeline histories always stay.
pub(crate) fn outdated(files: &BTreeSet<String>, oldest_needed: &str) -> BTreeSet<String> {
    let Some(oldest) = without_timeline(oldest_needed) else {
        return BTreeSet::new();
    };
    files
        .iter()
        .filter(|file| without_timeline(file).is_some_and(|segment| segment < oldest))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_as_postgresql_names_them() {
        for (timeline, lsn, megabytes, segment) in [
            (1, "0/2000028", 16, "000000010000000000000002"),
            (0x1A, "16/B374D848", 16, "0000001A00000016000000B3"),
            (1, "1/80000000", 64, "000000010000000100000020"),
        ] {
            assert_eq!(containing(timeline, lsn, megabytes << 20).unwrap(), segment);
            let number = lsn.parse::<Lsn>().unwrap().0 / (megabytes << 20);
            assert_eq!(parse(segment, megabytes << 20), Some((number, timeline)));
        }
        assert!(containing(1, "x", 16 << 20).is_err());
        assert!(containing(1, "0/1", 0).is_err());
        assert_eq!(parse("00000002.history", 16 << 20), None);
    }

    #[test]
    fn the_archive_keeps_the_segments_that_the_oldest_base_backup_needs() {
        let files: BTreeSet<String> = [
            "000000010000000000000001",
            "000000010000000000000002",
            "000000010000000000000003.partial",
            "00000002.history",
            "000000020000000000000001.partial",
            "000000020000000000000004",
            "notes.txt",
        ]
        .map(Into::into)
        .into();
        let expected = ["000000010000000000000001", "000000020000000000000001.partial"]
            .map(String::from)
            .into();
        assert_eq!(outdated(&files, "000000010000000000000002"), expected);
        assert!(outdated(&files, "garbage").is_empty());
    }
}
