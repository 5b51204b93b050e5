//! The WAL archive as a recovery from a base backup sees it: which segments it reads, in which order, and how far they lead. A recovery
//! that meets a segment that is missing or damaged ends there as if that were the end, and the server takes writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};

use super::lsn::Lsn;
use super::recovery::{PARTIAL, SEGMENT, TIMELINE, quoted, segment_of};
use super::wal_reader::WalReader;
use crate::manifest::BaseContent;

/// How long after damage was seen the archive is read again: the last segment may have been written meanwhile.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// How far an archive leads from a base backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The last record that a recovery reads; the end of the base backup, where the archive holds none after it.
    pub(crate) last: Lsn,
    /// The latest time at which a transaction ended until there.
    pub(crate) newest: Option<DateTime<Utc>>,
    /// Why it leads no further, though there is more.
    pub(crate) damage: Option<Damage>,
}

/// What is wrong with a file of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    file: String,
    reason: String,
    /// What to remove where the base backup has the segment, too: a recovery takes the archive's first.
    pub(crate) needless: Option<PathBuf>,
}

impl Damage {
    fn of(file: &str, reason: impl fmt::Display) -> Self {
        Self {
            file: file.to_owned(),
            reason: reason.to_string(),
            needless: None,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WAL file {} {}", self.file, self.reason)?;
        match &self.needless {
            Some(path) => write!(f, "; the base backup has that segment, too: run `rm {}`", quoted(path)),
            None => Ok(()),
        }
    }
}

/// A timeline, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timeline {
    id: u32,
    begin: Lsn,
}

/// A segment that a recovery asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    number: u64,
    /// Its file, if there is one, and else the file that there should be.
    file: Result<String, String>,
    /// The timelines that its pages may be of.
    timelines: Vec<u32>,
    /// Whether the base backup holds it, too.
    is_in_backup: bool,
}

/// Reads what a recovery from `base` would read in `folder`.
///
/// # Errors
/// When the folder can't be read.
pub(crate) async fn reach(folder: &Path, base: &BaseContent) -> anyhow::Result<Reach> {
    let mut seen = read(folder, base).await?;
    while seen.damage.is_some() {
        tokio::time::sleep(SECOND_LOOK).await;
        let again = read(folder, base).await?;
        if again.damage == seen.damage {
            break;
        }
        seen = again;
    }
    Ok(seen)
}

async fn read(folder: &Path, base: &BaseContent) -> anyhow::Result<Reach> {
    let (folder, base) = (folder.to_path_buf(), base.clone());
    tokio::task::spawn_blocking(move || read_blocking(&folder, &base))
        .await
        .context("reading the WAL archive")?
}

fn read_blocking(folder: &Path, base: &BaseContent) -> anyhow::Result<Reach> {
    let segment_bytes = segment_bytes(base)?;
    let end: Lsn = base.end_lsn.parse()?;
    let mut reader = WalReader::new(base.system_identifier.parse().context("the system identifier")?);
    let reach = |reader: &WalReader, damage| Reach {
        last: reader.last.map_or(end, |last| last.max(end)),
        newest: reader.newest,
        damage,
    };
    let wanted = match wanted(
        &names(folder)?,
        |file| fs::read_to_string(folder.join(file)),
        base,
        segment_bytes,
    ) {
        Ok(wanted) => wanted,
        Err(damage) => return Ok(reach(&reader, Some(damage))),
    };
    for (index, segment) in wanted.iter().enumerate() {
        let is_last = index + 1 == wanted.len();
        let damage = |file: &str, reason: anyhow::Error| Damage {
            needless: segment.is_in_backup.then(|| folder.join(file)),
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
        let whole = match content.len() as u64 == segment_bytes {
            true => reader.read(&content, start, &segment.timelines, is_last),
            false => Err(anyhow!("has {} bytes instead of {segment_bytes}", content.len())),
        };
        if let Err(error) = whole {
            return Ok(reach(&reader, Some(damage(file, error))));
        }
    }
    Ok(reach(&reader, None))
}

/// How far the archive leads by the names of its files, in a few words for a person.
///
/// # Errors
/// When the folder can't be read.
pub(crate) fn summary(folder: &Path, base: &BaseContent) -> anyhow::Result<String> {
    let history = |file: &str| fs::read_to_string(folder.join(file));
    let wanted = match wanted(&names(folder)?, history, base, segment_bytes(base)?) {
        Ok(wanted) => wanted,
        Err(damage) => return Ok(damage.to_string()),
    };
    let missing = wanted
        .iter()
        .find(|segment| segment.file.is_err() && !segment.is_in_backup);
    Ok(match (missing, wanted.last()) {
        (Some(Wanted { file: Err(file), .. }), _) => format!("WAL file {file} is missing"),
        (_, Some(Wanted { file: Ok(file), .. })) => format!("archived up to {file}"),
        _ => "no WAL archived".to_owned(),
    })
}

/// The names of the archive's files.
pub(crate) fn names(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    if !folder.exists() {
        return Ok(BTreeSet::new());
    }
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// The size of a segment: the only one with which the base backup's first position is in its first segment.
fn segment_bytes(base: &BaseContent) -> anyhow::Result<u64> {
    (20..=30)
        .map(|bits| 1_u64 << bits)
        .find(|bytes| segment_of(base.timeline, &base.start_lsn, *bytes).is_ok_and(|name| name == base.start_segment))
        .with_context(|| format!("{} is not in segment {}", base.start_lsn, base.start_segment))
}

/// The segments from the base backup to the end of the newest timeline, as a recovery asks for them.
fn wanted(
    files: &BTreeSet<String>,
    history: impl Fn(&str) -> std::io::Result<String>,
    base: &BaseContent,
    segment_bytes: u64,
) -> Result<Vec<Wanted>, Damage> {
    let of_base = |lsn: &str| {
        lsn.parse::<Lsn>()
            .map_err(|error| Damage::of(&base.start_segment, error))
    };
    let (start, end) = (of_base(&base.start_lsn)?, of_base(&base.end_lsn)?);
    let timelines = timelines(files, history, base.timeline)?;
    let per_log = (1 << 32) / segment_bytes;
    let name = |timeline: u32, number: u64| format!("{timeline:08X}{:08X}{:08X}", number / per_log, number % per_log);
    let there: BTreeMap<(u64, u32), &String> = files
        .iter()
        .filter_map(|file| Some((parsed(file, per_log)?, file)))
        .filter(|((number, _), _)| *number >= start.0 / segment_bytes)
        .rev() // of a segment and its beginning, which both may be there for a moment, the segment
        .collect();
    let newest = timelines.last().map_or(base.timeline, |timeline| timeline.id);
    if let Some(((_, beyond), _)) = there.iter().find(|((_, timeline), _)| *timeline > newest) {
        let file = format!("{beyond:08X}.history");
        return Err(Damage::of(&file, "is missing, and with it the way to that timeline"));
    }
    let last_in_backup = (end.0.max(1) - 1) / segment_bytes;
    let of = |number: u64| {
        let asked = asked_for(&timelines, number, segment_bytes);
        let found = asked.iter().find_map(|timeline| there.get(&(number, *timeline)));
        (found, asked)
    };
    let last = there
        .keys()
        .map(|(number, _)| *number)
        .filter(|number| of(*number).0.is_some())
        .max();
    let last = last.unwrap_or(last_in_backup);
    let segment = |number| {
        let (found, asked) = of(number);
        let newest = asked.first().copied().unwrap_or(base.timeline);
        let begun = timelines.iter().map(|timeline| timeline.id);
        Wanted {
            number,
            file: found.map(|file| (*file).clone()).ok_or_else(|| name(newest, number)),
            timelines: begun.filter(|timeline| *timeline <= newest).collect(),
            is_in_backup: number <= last_in_backup,
        }
    };
    Ok((start.0 / segment_bytes..=last).map(segment).collect())
}

/// The timelines under which a recovery looks for a segment, newest first: the one that it is of and, where that begins in it, the one
/// before.
fn asked_for(timelines: &[Timeline], number: u64, segment_bytes: u64) -> Vec<u32> {
    let mut asked = Vec::new();
    for timeline in timelines.iter().rev() {
        let begins_in = timeline.begin.0 / segment_bytes;
        if begins_in <= number {
            asked.push(timeline.id);
        }
        if begins_in < number {
            break;
        }
    }
    asked
}

/// The timelines that a recovery from `base` follows, oldest first: those of the newest history that there is.
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
            "does not lead on from timeline {base}, which the base backup is of"
        )));
    };
    let ids = switches[from + 1..].iter().map(|(id, _)| *id).chain([newest]);
    let followed = switches[from..]
        .iter()
        .zip(ids)
        .map(|((_, end), id)| Timeline { id, begin: *end });
    Ok([origin].into_iter().chain(followed).collect())
}

/// Number and timeline of the segment that `file` is, or is the beginning of.
fn parsed(file: &str, per_log: u64) -> Option<(u64, u32)> {
    let name = file.strip_suffix(PARTIAL).unwrap_or(file);
    if name.len() != SEGMENT || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let part = |from: usize| u64::from_str_radix(&name[from..from + TIMELINE], 16).ok();
    let timeline = u32::try_from(part(0)?).ok()?;
    Some((part(TIMELINE)? * per_log + part(2 * TIMELINE)?, timeline))
}

#[cfg(test)]
mod tests;
