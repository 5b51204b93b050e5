//! The WAL archive as a recovery from a base backup reads it: the segments, their order, and the position that it
//! reaches.
//!
//! PostgreSQL ends a recovery at a missing or damaged segment as it does at the end of the archive, and then accepts
//! writes. So the archive is checked before a restore.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};

use super::lsn::Lsn;
use super::segment;
use super::wal_reader::WalReader;
use crate::content::BaseContent;
use crate::tool::shell_quoted;

/// Pause before a damaged archive is read again: pg_receivewal may have been writing the last segment.
const RECHECK_PAUSE: Duration = Duration::from_millis(500);

/// Position and time that a recovery from a base backup reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecoveryEnd {
    /// Last record that a recovery reads, or the end of the base backup if the archive has no later record.
    pub(crate) last: Lsn,
    /// Latest end of a transaction up to `last`.
    pub(crate) newest: Option<DateTime<Utc>>,
    /// Damage that ends a recovery before the end of the archive.
    pub(crate) damage: Option<Damage>,
}

/// Missing or damaged file of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    file: String,
    reason: String,
    /// The damaged file, if the base backup contains the same segment: a recovery prefers the archive's, so it must be
    /// removed.
    pub(crate) redundant: Option<PathBuf>,
}

impl Damage {
    fn of(file: &str, reason: impl fmt::Display) -> Self {
        Self {
            file: file.to_owned(),
            reason: reason.to_string(),
            redundant: None,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WAL file {} {}", self.file, self.reason)?;
        match &self.redundant {
            Some(path) => write!(
                f,
                "; the base backup contains this segment too, so run `rm {}`",
                shell_quoted(path)
            ),
            None => Ok(()),
        }
    }
}

/// Timeline and the position of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timeline {
    id: u32,
    begin: Lsn,
}

/// Segment that a recovery reads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RequiredSegment {
    number: u64,
    /// Name of the file, as an error if it is missing.
    file: Result<String, String>,
    /// Timelines that the segment's pages may belong to.
    timelines: Vec<u32>,
    /// `true` if the base backup contains the segment too.
    is_in_backup: bool,
}

/// Reads all WAL in `folder` that a recovery from `base` would read.
pub(crate) async fn reach(folder: &Path, base: &BaseContent) -> anyhow::Result<RecoveryEnd> {
    let mut seen = read(folder, base).await?;
    while seen.damage.is_some() {
        tokio::time::sleep(RECHECK_PAUSE).await;
        let again = read(folder, base).await?;
        if again.damage == seen.damage {
            break;
        }
        seen = again;
    }
    Ok(seen)
}

async fn read(folder: &Path, base: &BaseContent) -> anyhow::Result<RecoveryEnd> {
    let (folder, base) = (folder.to_path_buf(), base.clone());
    tokio::task::spawn_blocking(move || read_blocking(&folder, &base))
        .await
        .context("reading the WAL archive")?
}

fn read_blocking(folder: &Path, base: &BaseContent) -> anyhow::Result<RecoveryEnd> {
    let segment_bytes = segment_bytes(base)?;
    let end: Lsn = base.end_lsn.parse()?;
    let mut reader = WalReader::new(
        base.system_identifier
            .parse()
            .context("reading the system identifier of the base backup")?,
    );
    let reach = |reader: &WalReader, damage| RecoveryEnd {
        last: reader.last.map_or(end, |last| last.max(end)),
        newest: reader.newest,
        damage,
    };
    let history = |file: &str| fs::read_to_string(folder.join(file));
    let required = match required_segments(&names(folder)?, history, base, segment_bytes) {
        Ok(required) => required,
        Err(damage) => return Ok(reach(&reader, Some(damage))),
    };
    for (index, segment) in required.iter().enumerate() {
        let is_last = index + 1 == required.len();
        let damage = |file: &str, reason: anyhow::Error| Damage {
            redundant: segment.is_in_backup.then(|| folder.join(file)),
            ..Damage::of(file, format_args!("{reason:#}"))
        };
        let file = match &segment.file {
            Ok(file) => file,
            Err(_) if segment.is_in_backup => {
                reader.skip();
                continue;
            }
            Err(file) => return Ok(reach(&reader, Some(damage(file, anyhow!("is missing"))))),
        };
        let content = match fs::read(folder.join(file)) {
            Ok(content) => content,
            Err(error) => return Ok(reach(&reader, Some(damage(file, anyhow!("can't be read: {error}"))))),
        };
        let start = Lsn(segment.number * segment_bytes);
        let checked = match content.len() as u64 == segment_bytes {
            true => reader.read(&content, start, &segment.timelines, is_last),
            false => Err(anyhow!("has {} bytes instead of {segment_bytes}", content.len())),
        };
        if let Err(error) = checked {
            return Ok(reach(&reader, Some(damage(file, error))));
        }
    }
    Ok(reach(&reader, None))
}

/// Returns the last archived segment for the output of `list`. It looks only at the names of the files.
pub(crate) fn summary(folder: &Path, base: &BaseContent) -> anyhow::Result<String> {
    let history = |file: &str| fs::read_to_string(folder.join(file));
    let required = match required_segments(&names(folder)?, history, base, segment_bytes(base)?) {
        Ok(required) => required,
        Err(damage) => return Ok(damage.to_string()),
    };
    let missing = required
        .iter()
        .find(|segment| segment.file.is_err() && !segment.is_in_backup);
    Ok(match (missing, required.last()) {
        (Some(RequiredSegment { file: Err(file), .. }), _) => format!("WAL file {file} is missing"),
        (_, Some(RequiredSegment { file: Ok(file), .. })) => format!("archived up to {file}"),
        _ => "no WAL archived".to_owned(),
    })
}

/// Lists the archive's files; empty if the folder does not exist.
pub(crate) fn names(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    if !folder.exists() {
        return Ok(BTreeSet::new());
    }
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Derives the size of a segment: with any other size the base backup's start would lie in another segment.
fn segment_bytes(base: &BaseContent) -> anyhow::Result<u64> {
    (20..=30)
        .map(|bits| 1_u64 << bits)
        .find(|bytes| {
            segment::containing(base.timeline, &base.start_lsn, *bytes).is_ok_and(|name| name == base.start_segment)
        })
        .with_context(|| {
            format!(
                "the base backup's manifest is wrong: position {} is not in segment {}",
                base.start_lsn, base.start_segment
            )
        })
}

/// Returns the segments from the start of the base backup to the end of the newest timeline, in the order of a
/// recovery.
fn required_segments(
    files: &BTreeSet<String>,
    history: impl Fn(&str) -> std::io::Result<String>,
    base: &BaseContent,
    segment_bytes: u64,
) -> Result<Vec<RequiredSegment>, Damage> {
    let of_base = |lsn: &str| {
        lsn.parse::<Lsn>()
            .map_err(|error| Damage::of(&base.start_segment, error))
    };
    let (start, end) = (of_base(&base.start_lsn)?, of_base(&base.end_lsn)?);
    let timelines = timelines(files, history, base.timeline)?;
    let archived: BTreeMap<(u64, u32), &String> = files
        .iter()
        .filter_map(|file| Some((segment::parse(file, segment_bytes)?, file)))
        .filter(|((number, _), _)| *number >= start.0 / segment_bytes)
        .rev() // the complete file replaces the partial one where both exist for a moment
        .collect();
    let newest = timelines.last().map_or(base.timeline, |timeline| timeline.id);
    if let Some(((_, beyond), _)) = archived.iter().find(|((_, timeline), _)| *timeline > newest) {
        let file = format!("{beyond:08X}.history");
        return Err(Damage::of(
            &file,
            "is missing, so a recovery can't follow that timeline",
        ));
    }
    let last_in_backup = (end.0.max(1) - 1) / segment_bytes;
    let find = |number: u64| {
        let candidates = candidate_timelines(&timelines, number, segment_bytes);
        let found = candidates
            .iter()
            .find_map(|timeline| archived.get(&(number, *timeline)));
        (found, candidates)
    };
    let last = archived
        .keys()
        .map(|(number, _)| *number)
        .filter(|number| find(*number).0.is_some())
        .max();
    let last = last.unwrap_or(last_in_backup);
    let segment = |number| {
        let (found, candidates) = find(number);
        let newest = candidates.first().copied().unwrap_or(base.timeline);
        let begun = timelines.iter().map(|timeline| timeline.id);
        RequiredSegment {
            number,
            file: found
                .map(|file| (*file).clone())
                .ok_or_else(|| segment::name(newest, number, segment_bytes)),
            timelines: begun.filter(|timeline| *timeline <= newest).collect(),
            is_in_backup: number <= last_in_backup,
        }
    };
    Ok((start.0 / segment_bytes..=last).map(segment).collect())
}

/// Returns the timelines under which a recovery looks for a segment, newest first: the segment's own and, if that
/// begins within the segment, the one before it.
fn candidate_timelines(timelines: &[Timeline], number: u64, segment_bytes: u64) -> Vec<u32> {
    let mut candidates = Vec::new();
    for timeline in timelines.iter().rev() {
        let begins_in = timeline.begin.0 / segment_bytes;
        if begins_in <= number {
            candidates.push(timeline.id);
        }
        if begins_in < number {
            break;
        }
    }
    candidates
}

/// Returns the timelines that a recovery from timeline `base` follows, oldest first, as the newest history file lists
/// them.
fn timelines(
    files: &BTreeSet<String>,
    history: impl Fn(&str) -> std::io::Result<String>,
    base: u32,
) -> Result<Vec<Timeline>, Damage> {
    let file_of = |timeline: u32| format!("{timeline:08X}.history");
    let newest = (base..).take_while(|timeline| *timeline == base || files.contains(&file_of(*timeline)));
    let newest = newest.last().unwrap_or(base);
    let origin = Timeline {
        id: base,
        begin: Lsn(0),
    };
    if newest == base {
        return Ok(vec![origin]);
    }
    let file = file_of(newest);
    let damage = |reason: String| Damage::of(&file, reason);
    let text = history(&file).map_err(|error| damage(format!("can't be read: {error}")))?;
    let mut switches = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
    {
        let mut words = line.split_whitespace();
        let switch = words
            .next()
            .and_then(|id| id.parse::<u32>().ok())
            .zip(words.next().and_then(|lsn| lsn.parse::<Lsn>().ok()));
        switches.push(switch.ok_or_else(|| damage("is damaged".to_owned()))?);
    }
    let from = switches.iter().position(|(id, _)| *id == base);
    let Some(from) = from else {
        return Err(damage(format!(
            "does not contain timeline {base}, to which the base backup belongs"
        )));
    };
    let ids = switches[from + 1..].iter().map(|(id, _)| *id).chain([newest]);
    let followed = switches[from..]
        .iter()
        .zip(ids)
        .map(|((_, end), id)| Timeline { id, begin: *end });
    Ok([origin].into_iter().chain(followed).collect())
}

#[cfg(test)]
mod tests;
