//! `list`: the backups in the folder.

use anyhow::Context;
use chrono::{DateTime, Utc};
use storage_core::terminal::{self, Table, say, size, span, table};

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
        let complete: Vec<&Manifest> = all.iter().filter_map(Found::manifest).collect();
        let text = serde_json::to_string_pretty(&complete).context("writing JSON")?;
        terminal::write(text + "\n")
    } else if all.is_empty() {
        say(format_args!("no backups in {}", destination.folder().display()))
    } else {
        say(shown(destination, &all, Utc::now())?)
    }
}

fn shown(destination: &Destination, all: &[Found], now: DateTime<Utc>) -> anyhow::Result<Table> {
    let mut shown = table(&["kind", "name", ">age", ">took", ">size", "content"]);
    for found in all {
        let (took, size_shown, content) = match &found.state {
            State::Complete(manifest) => {
                let took = (manifest.finished - manifest.started).as_seconds_f64();
                (
                    format!("{took:.1} s"),
                    size(manifest.size_bytes()),
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
        shown.add_row([
            found.kind.to_string(),
            found.name.to_string(),
            span((now - found.name.time()).num_seconds().max(0)),
            took,
            size_shown,
            content,
        ]);
    }
    Ok(shown)
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
