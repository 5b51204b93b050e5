//! `list`: the backups in the folder.

use std::io::{Write, stdout};

use anyhow::Context;
use chrono::{DateTime, Utc};
use comfy_table::{CellAlignment, Table, presets};

use super::sized;
use crate::content::Content;
use crate::destination::{Destination, Found, State};
use crate::manifest::{Kind, Manifest};
use crate::postgres::archive;

/// Prints all backups as a table, oldest first, or the manifests of the complete ones as JSON.
pub(super) async fn list(destination: &Destination, json: bool) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        all.extend(destination.found(kind).await?);
    }
    all.sort_by_key(|found| (found.name, found.kind));
    if json {
        let complete: Vec<&Manifest> = all.iter().filter_map(complete).collect();
        let text = serde_json::to_string_pretty(&complete).context("writing JSON")?;
        writeln!(stdout(), "{text}")?;
    } else if all.is_empty() {
        writeln!(stdout(), "no backups in {}", destination.folder().display())?;
    } else {
        writeln!(stdout(), "{}", table(destination, &all, Utc::now())?)?;
    }
    Ok(())
}

fn complete(found: &Found) -> Option<&Manifest> {
    match &found.state {
        State::Complete(manifest) => Some(manifest),
        State::Incomplete | State::Damaged(_) => None,
    }
}

fn table(destination: &Destination, all: &[Found], now: DateTime<Utc>) -> anyhow::Result<Table> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["KIND", "NAME", "AGE", "TOOK", "SIZE", "CONTENT"]);
    for found in all {
        let (took, size, content) = match &found.state {
            State::Complete(manifest) => {
                let took = (manifest.finished - manifest.started).as_seconds_f64();
                (
                    format!("{took:.1} s"),
                    sized(manifest.size_bytes()),
                    summary(destination, &manifest.content)?,
                )
            }
            State::Incomplete => (
                String::new(),
                String::new(),
                "incomplete: being written, or interrupted".to_owned(),
            ),
            State::Damaged(reason) => (String::new(), String::new(), format!("damaged: the manifest {reason}")),
        };
        table.add_row([
            found.kind.to_string(),
            found.name.to_string(),
            age(found.name.time(), now),
            took,
            size,
            content,
        ]);
    }
    for column in 2..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Ok(table)
}

/// Summarizes the contents; for a base backup also the last archived WAL segment.
fn summary(destination: &Destination, content: &Content) -> anyhow::Result<String> {
    let summary = content.summary();
    let Content::Base(base) = content else {
        return Ok(summary);
    };
    let wal = destination.wal_folder(&base.system_identifier);
    if !wal.exists() {
        return Ok(summary);
    }
    Ok(format!("{summary}, {}", archive::summary(&wal, base)?))
}

/// Formats an age in its largest unit.
fn age(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - time).num_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
