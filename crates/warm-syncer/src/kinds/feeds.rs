//! Heartbeats of feeds: they extend the feed's coverage.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use storage_core::domain::entry::Entry;
use storage_core::domain::heartbeat::{Coverage, Heartbeat};
use storage_core::domain::rejection::Rejection;
use storage_core::postgres::queries::coverage;

use super::Kind;
use crate::labels;
use crate::outcome::{Item, Written};

/// All feeds.
pub(crate) struct Feeds {
    /// Time without a heartbeat after which a feed was not connected.
    pub(crate) timeout: Duration,
    /// `true` if times before 1973 are accepted.
    pub(crate) before_1973: bool,
}

impl Kind for Feeds {
    const LABEL: &'static str = labels::FEEDS;
    type Row = Heartbeat;

    fn decode(&self, entry: &Entry) -> Result<Heartbeat, Rejection> {
        Heartbeat::from_entry(entry, self.before_1973)
    }

    async fn write(&self, connection: &mut AsyncPgConnection, items: &[Item<Heartbeat>]) -> QueryResult<Written> {
        let feeds: BTreeSet<&str> = items.iter().map(|item| item.row.feed.as_str()).collect();
        let mut rows: BTreeMap<String, Vec<Coverage>> = BTreeMap::new();
        for latest in coverage::latest(connection, &feeds).await? {
            rows.entry(latest.feed.clone()).or_default().push(latest);
        }
        for Item { row: heartbeat, .. } in items {
            let of_feed = rows.entry(heartbeat.feed.clone()).or_default();
            let new = Coverage::extend(of_feed.last_mut(), heartbeat, self.timeout);
            of_feed.extend(new);
        }
        let rows: Vec<Coverage> = rows.into_values().flatten().collect();
        coverage::write(connection, &rows).await?;
        Ok(Written {
            rows: rows.len(),
            ..Written::default()
        })
    }
}
