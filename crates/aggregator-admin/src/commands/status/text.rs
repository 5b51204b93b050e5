//! The status report as text of 80 columns and more. Pure.

use storage_core::postgres::queries::storage;
use storage_core::terminal::{size, span, table, thousands, visible};

use super::report::{
    Backup, Compression, History, Hot, Job, Leases, LostEntries, OpenCandles, Replica, Report, Rollup, UnreadStream,
    Verification,
};

/// Width of the titles at the left.
const TITLE: usize = 15;

/// Formats the report, without its problems.
pub(super) fn of(report: &Report) -> String {
    let parts = [report.history.as_ref().map(history), report.hot.as_ref().map(hot)];
    let mut parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.extend(warnings(&report.warnings));
    parts.join("\n\n")
}

fn history(history: &History) -> String {
    let head = [
        format!("PostgreSQL {}, schema up to date", history.postgres_version),
        format!(
            "TimescaleDB {}, {} edition",
            history.timescaledb_version, history.edition
        ),
        format!("identity {}", history.database),
    ];
    let policies = [format!("run by {}", history.scheduler)]
        .into_iter()
        .chain(history.jobs.iter().map(job));
    let facts = [
        compression(&history.compression),
        section("materialized", history.rollups.iter().map(rollup)),
        section("dead letters", dead_letters(history)),
        section("policies", policies),
        section("verification", verification(&history.verification)),
    ];
    let head = [section("database", head)]
        .into_iter()
        .chain(warnings(&history.warnings));
    let head: Vec<String> = head.collect();
    [head.join("\n"), tables(history), facts.join("\n")].join("\n\n")
}

fn job(job: &Job) -> String {
    let every = span(i64::try_from(job.every_seconds).unwrap_or(i64::MAX));
    let mut line = format!("{} {} every {every}", job.kind, job.table);
    if job.failures > 0 {
        line.push_str(&format!(
            ", {} of {} runs failed",
            thousands(job.failures),
            thousands(job.runs)
        ));
    }
    if let (Some(at), Some(error)) = (&job.last_failure, &job.last_error) {
        line.push_str(&format!(", last at {}: {}", seconds(Some(at)), visible(error)));
    }
    line
}

fn verification(verification: &Verification) -> Vec<String> {
    let Some(oldest) = &verification.oldest else {
        return Vec::new();
    };
    let compared = format!(
        "{} days compared, the oldest at {}",
        verification.days,
        seconds(Some(oldest))
    );
    let differences = (verification.differences > 0).then(|| {
        let differences = thousands(verification.differences);
        format!("{differences} candles differed from their source; run `aggregator-admin verify`")
    });
    let missing = (verification.missing > 0).then(|| {
        let missing = thousands(verification.missing);
        format!("{missing} minutes lacked trades; the log of aggregator-admin names the commands that list them")
    });
    [compared].into_iter().chain(differences).chain(missing).collect()
}

fn tables(history: &History) -> String {
    let mut tables = table(&["table", ">rows", "oldest", "newest", ">chunks", ">compressed", ">size"]);
    let number = |number: Option<i64>| number.map(thousands).unwrap_or_default();
    for row in &history.tables {
        let about = if row.rows_estimated { "~" } else { "" };
        tables.add_row([
            row.table.to_owned(),
            format!("{about}{}", thousands(row.rows)),
            seconds(row.oldest.as_deref()),
            seconds(row.newest.as_deref()),
            number(row.chunks),
            number(row.compressed_chunks),
            row.size_bytes.map(size).unwrap_or_default(),
        ]);
    }
    tables.to_string()
}

/// Leaves out the fraction of an RFC 3339 time, which a table has no room for.
fn seconds(time: Option<&str>) -> String {
    let time = time.unwrap_or_default();
    time.split_once('.')
        .map_or_else(|| time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

fn compression(compression: &Compression) -> String {
    let of_table = |table: &storage::Compression| match table.compressed_chunks {
        0 => format!("{}: 0 of {} chunks", table.table_name, table.chunks),
        compressed => format!(
            "{}: {compressed} of {} chunks, {} became {}",
            table.table_name,
            table.chunks,
            size(table.before_bytes),
            size(table.after_bytes)
        ),
    };
    let unavailable = compression.reason.map(|reason| format!("unavailable: {reason}"));
    section(
        "compression",
        unavailable.into_iter().chain(compression.tables.iter().map(of_table)),
    )
}

fn rollup(rollup: &Rollup) -> String {
    match (&rollup.materialized_until, rollup.lag_seconds) {
        (Some(until), Some(lag)) if rollup.is_behind => {
            format!("{} until {until}, {} behind", rollup.timeframe, span(lag))
        }
        (Some(until), _) => format!("{} until {until}", rollup.timeframe),
        (None, _) => format!("{} not yet", rollup.timeframe),
    }
}

fn dead_letters(history: &History) -> Vec<String> {
    let total: i64 = history.dead_letters.values().sum();
    if total == 0 {
        return Vec::new();
    }
    let of_stream = |(stream, letters): (&String, &i64)| format!("{} in {stream}", thousands(*letters));
    let mut lines: Vec<String> = history.dead_letters.iter().map(of_stream).collect();
    lines.push("run `aggregator-admin dead-letters list` for their reasons".to_owned());
    lines
}

fn hot(hot: &Hot) -> String {
    let partitions = hot.partitions.map_or_else(
        || "no number of partitions; run `aggregator-admin migrate`".to_owned(),
        |count| format!("{count} partitions"),
    );
    let head = section("Redis", [format!("functions: {}", hot.functions), partitions]);
    let facts = [
        section("hot-writers", owners(&hot.hot_writers, &hot.leases)),
        section("open candles", open_candles(&hot.open_candles)),
        section("warm-syncers", owners(&hot.warm_syncers, &hot.warm_syncer_leases)),
        section("lost entries", hot.lost.iter().map(lost)),
        section("unread streams", hot.unread.iter().map(unread)),
        section("last backups", hot.backups.iter().map(backup)),
    ];
    let parts = [Some(head), streams(hot), Some(facts.join("\n"))];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

fn streams(hot: &Hot) -> Option<String> {
    let mut streams = table(&["stream", ">entries", "group", ">lag", ">pending"]);
    for stream in &hot.streams {
        let mut first = [stream.stream.clone(), thousands(stream.entries)];
        for group in &stream.groups {
            let [name, entries] = std::mem::take(&mut first);
            let lag = group.lag.map_or("?".to_owned(), thousands);
            streams.add_row([name, entries, group.group.clone(), lag, thousands(group.pending)]);
        }
    }
    (!hot.streams.is_empty()).then(|| streams.to_string())
}

/// Returns a line per replica with its partitions, and one for the partitions without an owner.
fn owners(replicas: &[Replica], leases: &Leases) -> Vec<String> {
    let owned_by = |owner: Option<&str>| {
        let owned = leases.iter().filter(|(_, holder)| holder.as_deref() == owner);
        ranges(owned.map(|(partition, _)| *partition))
    };
    let replica = |replica: &Replica| {
        let partitions = match owned_by(Some(&replica.instance)).as_str() {
            "" => "owns no partition".to_owned(),
            owned => format!("owns {owned}"),
        };
        format!(
            "{}, seen {} s ago, {partitions}",
            replica.instance, replica.seen_seconds_ago
        )
    };
    let mut lines: Vec<String> = replicas.iter().map(replica).collect();
    if lines.is_empty() {
        lines.push("none".to_owned());
    }
    lines.extend(
        Some(owned_by(None))
            .filter(|free| !free.is_empty())
            .map(|free| format!("without an owner: {free}")),
    );
    lines
}

/// Returns a line per replica that writes open candles.
fn open_candles(replicas: &[OpenCandles]) -> Vec<String> {
    let replica = |candles: &OpenCandles| {
        format!(
            "{}: 1m up to {} ms old, {:.1} % of Redis, {} waiting",
            candles.instance,
            thousands(candles.max_age_ms),
            candles.write_share * 100.0,
            thousands(candles.waiting),
        )
    };
    match replicas {
        [] => vec!["idle: none was written in the last seconds".to_owned()],
        _ => replicas.iter().map(replica).collect(),
    }
}

/// Formats ascending numbers as ranges: `0-3, 5`.
fn ranges(numbers: impl IntoIterator<Item = u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if number == last.saturating_add(1) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let range = |(first, last): (u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.into_iter().map(range).collect::<Vec<_>>().join(", ")
}

fn lost(lost: &LostEntries) -> String {
    let entries = thousands(lost.entries);
    format!(
        "{entries} of {} not read by {}, last at {}",
        lost.stream,
        visible(&lost.group),
        lost.last
    )
}

fn unread(stream: &UnreadStream) -> String {
    format!(
        "{} has {} entries, but no worker reads it; send them to a stream of the table above",
        stream.key,
        thousands(stream.entries)
    )
}

fn backup(backup: &Backup) -> String {
    format!(
        "{} {}, {} ago, {} in {:.1} s",
        backup.kind,
        backup.name,
        span(backup.age_seconds),
        size(backup.size_bytes),
        backup.took_seconds
    )
}

fn warnings(warnings: &[String]) -> Option<String> {
    let lines = warnings.iter().map(|warning| format!("warning: {warning}"));
    (!warnings.is_empty()).then(|| lines.collect::<Vec<_>>().join("\n"))
}

/// Formats lines under a title at their left.
fn section(title: &str, lines: impl IntoIterator<Item = String>) -> String {
    let lines: Vec<String> = lines.into_iter().collect();
    let text = if lines.is_empty() {
        "none".to_owned()
    } else {
        lines.join(&format!("\n{:TITLE$}", ""))
    };
    format!("{title:TITLE$}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(instance: &str) -> Replica {
        Replica {
            instance: instance.to_owned(),
            seen_seconds_ago: 1,
        }
    }

    fn leases(holders: &[Option<&str>]) -> Leases {
        (0..)
            .zip(holders.iter().map(|holder| holder.map(str::to_owned)))
            .collect()
    }

    #[test]
    fn every_replica_is_listed_with_its_partitions() {
        let leases = leases(&[Some("a"), Some("a"), None, Some("a"), Some("b")]);
        let expected = [
            "a, seen 1 s ago, owns 0-1, 3",
            "b, seen 1 s ago, owns 4",
            "c, seen 1 s ago, owns no partition",
            "without an owner: 2",
        ];
        assert_eq!(owners(&[replica("a"), replica("b"), replica("c")], &leases), expected);
    }

    #[test]
    fn partitions_without_replicas_have_no_owner() {
        assert_eq!(owners(&[], &leases(&[None, None])), ["none", "without an owner: 0-1"]);
        assert_eq!(owners(&[], &leases(&[])), ["none"]);
    }

    #[test]
    fn every_replica_that_writes_open_candles_is_listed_with_their_age() {
        let candles = OpenCandles {
            instance: "a".to_owned(),
            max_age_ms: 1_234,
            write_share: 0.0421,
            waiting: 2_500,
        };
        assert_eq!(
            open_candles(&[candles]),
            ["a: 1m up to 1,234 ms old, 4.2 % of Redis, 2,500 waiting"]
        );
        assert_eq!(open_candles(&[]), ["idle: none was written in the last seconds"]);
    }

    #[test]
    fn a_policy_is_listed_with_its_failures() {
        let mut policy = Job {
            id: 1000,
            kind: "compress",
            table: "ticks".to_owned(),
            every_seconds: 3_600,
            config: serde_json::Value::Null,
            runs: 1_234,
            failures: 0,
            last_failure: None,
            last_error: None,
        };
        assert_eq!(job(&policy), "compress ticks every 60 min");
        policy.failures = 2;
        policy.last_failure = Some("2026-11-28T14:51:23.776486Z".to_owned());
        policy.last_error = Some("deadlock detected".to_owned());
        assert_eq!(
            job(&policy),
            "compress ticks every 60 min, 2 of 1,234 runs failed, last at 2026-11-28T14:51:23Z: deadlock detected"
        );
    }

    #[test]
    fn lines_stand_under_their_title() {
        assert_eq!(section("lost entries", []), "lost entries   none");
        let lines = section("policies", ["one".to_owned(), "two".to_owned()]);
        assert_eq!(lines, "policies       one\n               two");
    }

    #[test]
    fn times_in_tables_have_no_fraction() {
        assert_eq!(seconds(Some("2026-11-28T14:51:23.776486Z")), "2026-11-28T14:51:23Z");
        assert_eq!(seconds(Some("2026-11-28T14:51:00Z")), "2026-11-28T14:51:00Z");
        assert_eq!(seconds(None), "");
    }
}
