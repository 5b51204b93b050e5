//! Rights for finding lost entries and for reading the settings of Redis.

use std::time::Duration;

use redis::cmd;
use storage_core::domain::stream_id::StreamId;
use storage_core::redis::groups::resume;
use storage_core::redis::look::{self, Look};
use storage_core::redis::lost::{self, Losses};
use storage_core::redis::preflight::{self, Findings};
use storage_core::redis::stream::{self, AGGREGATOR_ADMIN, HOT_WRITER, Stream, WARM_SYNCER};
use storage_core::redis::stream_reader::StreamReader;
use storage_core::telemetry::readiness::Readiness;

use super::{FIRST_SECOND, Server, some_fields};

/// Adds an entry and trims it.
async fn lose_one(server: &Server, stream: Stream) {
    let mut root = server.0.connect();
    stream::add(stream, &some_fields()).exec_async(&mut root).await.unwrap();
    let mut trim = cmd("XTRIM");
    trim.arg(stream.key())
        .arg("MAXLEN")
        .arg(0)
        .exec_async(&mut root)
        .await
        .unwrap();
}

/// Trims an entry that `group` has not read, and checks that the worker `name` records it.
async fn lose(server: &Server, name: &str, group: &'static str, stream: Stream) {
    lose_one(server, stream).await;
    if stream.groups() == [AGGREGATOR_ADMIN] || (stream, group) == (Stream::Signals, HOT_WRITER) {
        server.read(name, group, stream).await;
    } else {
        let from = resume(&mut server.user(name), stream, group).await.unwrap();
        let losses = Losses::new(&crate::LOST, &Readiness::default());
        let config = server.config(name);
        let reader = StreamReader::new(&config, stream, from, FIRST_SECOND).reporting_losses(&config, group, losses);
        { reader }.next(10, Duration::from_millis(50)).await.unwrap();
    }
    let records = lost::records(&mut server.user("aggregator-admin")).await.unwrap();
    let found = records
        .iter()
        .any(|record| record.stream == stream.to_string() && record.group == group);
    assert!(found, "{name}: {stream}: {records:?}");
}

/// Checks that the user `name` may read the settings of Redis, which has no append-only file here.
async fn inspect(server: &Server, name: &str) {
    let Findings { faults, warnings } = preflight::inspect(&server.config(name)).await.unwrap();
    assert!(faults.is_empty(), "{name}: {faults:?}");
    assert!(
        warnings.len() == 1 && warnings[0].contains("appendonly"),
        "{name}: {warnings:?}"
    );
}

#[tokio::test]
async fn every_worker_records_lost_entries_and_reads_the_settings() {
    let server = Server::start().await;
    for (name, group, streams) in [
        (HOT_WRITER, HOT_WRITER, vec![Stream::Ticks(0), Stream::Signals]),
        (
            WARM_SYNCER,
            WARM_SYNCER,
            vec![Stream::Ticks(0), Stream::Candles(0), Stream::Signals, Stream::Dead],
        ),
        (
            AGGREGATOR_ADMIN,
            AGGREGATOR_ADMIN,
            vec![Stream::Repairs, Stream::Rollups, Stream::Backups],
        ),
    ] {
        for stream in streams {
            lose(&server, name, group, stream).await;
        }
        inspect(&server, name).await;
    }
    inspect(&server, "backup-runner").await;
}

#[tokio::test]
async fn aggregator_admin_looks_for_losses_that_no_reader_notices() {
    let server = Server::start().await;
    let mut admin = server.user("aggregator-admin");
    for stream in Stream::all(2) {
        let (mut root, key) = (server.0.connect(), stream.key());
        let create = cmd("XGROUP").arg("CREATE").arg(&key).arg("external").arg("0").clone();
        create.exec_async(&mut root).await.unwrap();
        let lost = lost::of_external_group(&mut admin, stream, "external", StreamId::START).await;
        assert_eq!(lost.unwrap(), None);
        lose_one(&server, stream).await;
        let lost = lost::of_external_group(&mut admin, stream, "external", StreamId::START).await;
        assert_eq!(lost.unwrap().map(|lost| lost.entries), Some(1), "{stream}");
        lost::record(&mut admin, stream, "external", 1).await.unwrap();
        let seen = Look::at(&mut admin, stream, 1).await.unwrap();
        look::store(
            &mut admin,
            &seen.map(|seen| (stream.to_string(), seen)).into_iter().collect(),
        )
        .await
        .unwrap();
        assert_eq!(look::stored(&mut admin).await.unwrap().len(), 1);
    }
    let records = lost::records(&mut admin).await.unwrap();
    assert_eq!(records.len(), Stream::all(2).len());
}
