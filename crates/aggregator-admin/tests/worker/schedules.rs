//! Schedules of the policies, and lengths of chunks.

use storage_core::postgres::edition::Edition;
use storage_core::testing::polling::until_true;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::program::Outcome;

use crate::harness::Stores;

/// Runs a command with settings.
fn run(stores: &Stores, command: &str, settings: &[&str]) -> Outcome {
    let set = settings.iter().flat_map(|setting| ["--set", setting]);
    stores.admin(&[command].into_iter().chain(set).collect::<Vec<_>>())
}

/// Returns the intervals of the policies in minutes, with their number.
async fn schedules(stores: &Stores) -> Vec<String> {
    let schedules = "
        SELECT concat_ws(' ', count(*), proc_name, extract(epoch FROM schedule_interval)::bigint / 60) AS text
        FROM timescaledb_information.jobs WHERE hypertable_name IS NOT NULL
        GROUP BY proc_name, schedule_interval ORDER BY proc_name, schedule_interval";
    stores.database.texts(schedules).await
}

/// Returns the length of each chunk of `table` in hours, oldest first.
async fn chunks(stores: &Stores, table: &str) -> Vec<String> {
    let chunks = format!(
        "SELECT (extract(epoch FROM range_end - range_start)::bigint / 3600)::text AS text
         FROM timescaledb_information.chunks WHERE hypertable_name = '{table}' ORDER BY range_start"
    );
    stores.database.texts(&chunks).await
}

#[tokio::test]
async fn schedules_and_chunk_intervals_are_planned_and_applied() {
    let settings = [
        "admin.refresh_every=10m",
        "admin.compress_every=2h",
        "admin.retain_every=12h",
        "admin.retain_candles_4h=30days",
        "admin.chunk_ticks=6h",
        "admin.chunk_candles_1d=2000days",
    ];
    for database in TestDatabase::start_each().await {
        let is_community = database.edition() == Edition::Community;
        let stores = Stores::ready(database).await;
        let add_tick = async |day: u32| {
            let row = format!("INSERT INTO ticks VALUES ('2026-01-{day} 12:00Z', 'XRPETH', 1, 1, NULL, 1, '', 1)");
            stores.database.execute(&row).await;
        };
        let defaults = schedules(&stores).await;
        assert_eq!(defaults.len(), if is_community { 4 } else { 0 }, "{defaults:?}");
        let unchanged = run(&stores, "plan", &[]).stdout;
        assert!(unchanged.starts_with("nothing to do"), "{unchanged}");
        add_tick(1).await;

        let planned = run(&stores, "plan", &settings).stdout;
        let differences = ["length of new chunks", "1day", "6h", "1000days", "2000days"];
        let of_policies = [
            "refresh every",
            "5m",
            "10m",
            "compress every",
            "2h",
            "drop every",
            "12h",
        ];
        for expected in differences.iter().chain(&of_policies) {
            let is_expected = is_community || !of_policies.contains(expected);
            assert!(planned.contains(expected) || !is_expected, "{expected}: {planned}");
        }
        let of_new_chunks = "a chunk interval affects new chunks only: existing chunks keep their length";
        assert!(planned.contains(of_new_chunks), "{planned}");
        if !is_community {
            let own = "every 12h: drop chunks of candles_4h older than 30days";
            assert!(planned.contains(own), "{planned}");
        }
        assert_eq!(schedules(&stores).await, defaults, "a plan changes nothing");

        let applied = run(&stores, "apply", &settings);
        assert_eq!(applied.code, Some(0), "{}", applied.stderr);
        if is_community {
            let expected = [
                "8 policy_compression 120",
                "5 policy_refresh_continuous_aggregate 10",
                "1 policy_retention 720",
            ];
            assert_eq!(schedules(&stores).await, expected);
        }
        add_tick(2).await;
        assert_eq!(
            chunks(&stores, "ticks").await,
            ["24", "6"],
            "existing chunks keep their length"
        );
        let again = run(&stores, "plan", &settings).stdout;
        assert!(again.starts_with("nothing to do"), "{again}");

        assert_eq!(run(&stores, "apply", &[]).code, Some(0));
        assert_eq!(schedules(&stores).await, defaults);
        add_tick(3).await;
        assert_eq!(chunks(&stores, "ticks").await, ["24", "6", "24"]);
    }
}

#[tokio::test]
async fn combinations_that_lose_data_or_make_no_sense_are_refused_with_the_reason() {
    let Some(database) = TestDatabase::start_each().await.pop() else {
        return;
    };
    let stores = Stores::ready(database).await;
    let refused: [(&[&str], &str); 11] = [
        (
            &["admin.refresh_every=0s"],
            "`admin.refresh_every`: must be at least 1ms",
        ),
        (&["admin.compress_every=-1h"], "admin.compress_every"),
        (
            &["admin.chunk_signals=0s"],
            "`admin.chunk_signals`: must be at least 1ms",
        ),
        (
            &["admin.refresh_every=30s"],
            "admin.refresh_every must be at least 1m (admin.policy_interval)",
        ),
        (
            &["admin.refresh_every=4days"],
            "admin.refresh_window is 4days but must be at least",
        ),
        (
            &["admin.retain_every=9days", "admin.retain_candles_1m=8days"],
            "admin.retain_every must be at most 8days (admin.retain_candles_1m)",
        ),
        (
            &["admin.compress_every=8days", "admin.retain_ticks=8days"],
            "admin.compress_every must be at most 7days (admin.retain_ticks less admin.compress_after)",
        ),
        (
            &["admin.chunk_candles_1m=5m"],
            "admin.chunk_candles_1m must be at least 1h",
        ),
        (
            &["admin.chunk_candles_1d=12h"],
            "admin.chunk_candles_1d must be at least 1day",
        ),
        (
            &["admin.chunk_ticks=30days", "admin.retain_ticks=8days"],
            "admin.chunk_ticks must be at most 8days (admin.retain_ticks): a chunk is dropped once all of it is older",
        ),
        (
            &["admin.chunk_candles_1m=9days", "admin.retain_candles_1m=8days"],
            "admin.chunk_candles_1m must be at most 8days (admin.retain_candles_1m)",
        ),
    ];
    for (settings, reason) in refused {
        for command in ["plan", "apply", "run"] {
            let outcome = run(&stores, command, settings);
            assert_eq!(outcome.code, Some(64), "{command} {settings:?}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(reason), "{command}: {}", outcome.stderr);
        }
    }
}

#[tokio::test]
async fn aggregator_admin_runs_each_policy_at_its_interval() {
    let looks = "admin.policy_interval=1s";
    let often = [looks, "admin.refresh_every=1s", "admin.retain_every=12h"];
    let retention = [looks, "admin.retain_ticks=30days", "admin.retain_every=1s"];
    for database in TestDatabase::start_each().await {
        let edition = database.edition();
        let stores = Stores::ready(database).await;
        let runs = |kind: &str| format!("aggregator_admin_policy_runs_total{{kind=\"{kind}\"}}");
        if edition == Edition::Community {
            assert_eq!(run(&stores, "apply", &often).code, Some(0));
        }
        let retained = ["admin.retain_ticks=30days"];
        let worker = stores.worker_with(&[&often[..], &retained].concat());
        // One run refreshes all timeframes of the Apache edition.
        let (refreshes, rare, first) = match edition {
            Edition::Community => (5.0, "compress", 8.0),
            Edition::Apache => (1.0, "retain", 1.0),
        };
        until_true("three refreshes", async || {
            worker.metric(&runs("refresh")).await >= 3.0 * refreshes
        })
        .await;
        assert_eq!(
            worker.metric(&runs(rare)).await,
            first,
            "the first turn runs everything once"
        );
        let worker = match edition {
            // An applied interval needs no restart.
            Edition::Community => {
                let compression = [looks, "admin.compress_every=1s"];
                assert_eq!(run(&stores, "apply", &compression).code, Some(0));
                worker
            }
            Edition::Apache => {
                worker.stop().await;
                stores.worker_with(&[&retention[..], &["admin.refresh_every=12h"]].concat())
            }
        };
        until_true("more runs", async || worker.metric(&runs(rare)).await >= 3.0 * first).await;
        if edition == Edition::Apache {
            assert_eq!(worker.metric(&runs("refresh")).await, 1.0);
        }
        worker.stop().await;
    }
}
