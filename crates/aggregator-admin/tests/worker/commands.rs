//! Commands of an operator.

use storage_core::domain::candle::Candle;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::redis::codec::candles::hash_fields;
use storage_core::redis::functions::{Expiry, put};
use storage_core::redis::keys;
use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;
use crate::{LATE_MINUTE, MINUTE_US, OLD_US, symbol, ticks};

#[tokio::test]
async fn verify_finds_a_wrong_candle_and_repair_mends_it() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(LATE_MINUTE).await;
        stores.admin(&["refresh", "--all"]);
        let wrong = stores.admin(&["verify"]);
        assert_eq!(wrong.code, Some(1));
        let expected = "XRPETH 1m 2019-10-11T00:00:00Z: found (2,2,2,2,100000000,1), expected (1,3,1,3,300000000,3)";
        assert!(wrong.stdout.contains(expected), "{}", wrong.stdout);

        let repaired = stores.admin(&["repair", "XRPETH", "--from", "2019-10-11", "--to", "2019-10-12"]);
        assert!(
            repaired.stdout.contains("computed 1 minutes of XRPETH"),
            "{}{}",
            repaired.stdout,
            repaired.stderr
        );
        assert_eq!(stores.admin(&["verify"]).code, Some(0));

        stores.database.execute("UPDATE candles_1m SET high = 9").await;
        let stale = stores.admin(&[
            "verify",
            "--symbol",
            "XRPETH",
            "--from",
            "2019-10-11",
            "--to",
            "2019-10-12",
        ]);
        assert!(
            stale.stdout.contains("XRPETH 1d 2019-10-11T00:00:00Z"),
            "{}",
            stale.stdout
        );
        assert_eq!(stores.admin(&["verify", "--symbol", "OTHER"]).code, Some(0));
        assert_eq!(stores.admin(&["verify", "--from", "2019-10-12"]).code, Some(0));
    }
}

#[tokio::test]
async fn candles_are_one_series_up_to_the_open_one() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(LATE_MINUTE).await;
        let revision = (1_i64 << 40).try_into().unwrap();
        let making = Candle::of_tick(
            Timeframe::M1,
            OLD_US + MINUTE_US,
            0.00141342,
            "9.2E-7".parse().unwrap(),
            revision,
        );
        let key = keys::candle_current(Timeframe::M1, &symbol());
        put(
            &key,
            revision,
            Expiry::AfterMs(60_000),
            None,
            &hash_fields(&making, false),
        )
        .query_async::<i64>(&mut stores.redis.connect())
        .await
        .unwrap();
        let csv = stores.admin(&["candles", "XRPETH", "1m", "--format", "csv"]);
        let expected = "time,open,high,low,close,volume,trades,state\n\
            2019-10-11T00:00:00Z,2.0,2.0,2.0,2.0,1,1,stored\n\
            2019-10-11T00:01:00Z,0.00141342,0.00141342,0.00141342,0.00141342,0.00000092,1,making\n";
        assert_eq!(csv.stdout, expected, "{}", csv.stderr);
        let json = stores
            .admin(&["candles", "XRPETH", "1m", "--format", "json", "--limit", "1"])
            .stdout;
        assert!(
            json.contains("\"state\": \"making\"") && !json.contains("stored"),
            "{json}"
        );
        assert!(stores.admin(&["candles", "XRPETH", "1m"]).stdout.contains("◀ open"));
        let before = stores
            .admin(&["candles", "XRPETH", "1m", "--to", "2019-10-11T00:01:00Z"])
            .stdout;
        assert!(!before.contains("making"), "{before}");
        assert!(
            stores
                .admin(&["candles", "XRPETH", "1m", "--chart"])
                .stdout
                .contains('┤')
        );
        assert_eq!(stores.admin(&["candles", "XRP:ETH", "1m"]).code, Some(64));
    }
}

#[tokio::test]
async fn a_dead_letter_is_requeued_once_with_the_id_it_had() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores
            .database
            .execute(
                "INSERT INTO dead_letters (stream, entry_id, reason, fields, truncated) VALUES
                    ('stream:ticks:9', '5-1', 'qty 1 is too large', '{\"symbol\": \"XRPETH\", \"qty\": \"1\",
                        \"price\": \"1\", \"ts_us\": \"1570752000000000\"}', false),
                    ('stream:signals', '6-1', 'field `x` is missing', '{}', true)",
            )
            .await;
        let list = stores.admin(&["dead-letters", "list"]).stdout;
        assert!(list.contains("ticks:9/5-1") && list.contains("signals/6-1"), "{list}");
        assert!(
            stores
                .admin(&["dead-letters", "show", "5-1"])
                .stdout
                .contains("\"qty\": \"1\"")
        );

        let all = stores.admin(&["dead-letters", "requeue", "--all"]);
        assert_eq!(all.code, Some(1));
        assert!(
            all.stdout.contains("signals/6-1 stays: a value was too long"),
            "{}",
            all.stdout
        );
        assert_eq!(
            stores.redis.entries(ticks()).await,
            ["price=1 qty=1 symbol=XRPETH ts_us=1570752000000000 storage_requeued=5-1"]
        );
        let again = stores.admin(&["dead-letters", "requeue", "ticks:9/5-1"]);
        assert_eq!(again.code, Some(1));
        assert!(again.stderr.contains("requeued already"), "{}", again.stderr);
        assert!(!stores.admin(&["dead-letters", "list"]).stdout.contains("5-1"));
        assert!(
            stores
                .admin(&["dead-letters", "list", "--requeued-too"])
                .stdout
                .contains("5-1")
        );
    }
}

#[tokio::test]
async fn decimals_of_a_symbol_with_rows_change_only_when_asked_to_rescale() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(LATE_MINUTE).await;
        stores.admin(&["refresh", "--all"]);
        let refused = stores.admin(&["symbols", "set", "XRPETH", "--volume-decimals", "2"]);
        assert_eq!(refused.code, Some(64));
        assert!(refused.stderr.contains("add --rescale"), "{}", refused.stderr);
        let done = stores.admin(&["symbols", "set", "XRPETH", "--volume-decimals", "2", "--rescale"]);
        assert!(
            done.stdout.contains("rewrote 1 candles and 3 ticks"),
            "{}{}",
            done.stdout,
            done.stderr
        );
        assert_eq!(stores.database.number("SELECT volume FROM candles_1d").await, 100);
        assert!(
            stores
                .admin(&["candles", "XRPETH", "1d", "--format", "csv"])
                .stdout
                .contains(",1,1,stored")
        );
        assert!(stores.admin(&["symbols"]).stdout.contains("XRPETH"));

        // Redis has lost it, PostgreSQL has not.
        redis::cmd("DEL")
            .arg(keys::symbols())
            .query_async::<()>(&mut stores.redis.connect())
            .await
            .unwrap();
        let migrated = stores.admin(&["migrate"]).stdout;
        assert!(migrated.contains("symbols: XRPETH has 2 decimals"), "{migrated}");
    }
}

#[tokio::test]
async fn policies_are_set_to_the_configuration_unless_that_loses_data() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        assert!(stores.admin(&["plan"]).stdout.starts_with("nothing to do"));
        let losing = ["apply", "--set", "admin.retain_candles_1m=1day"];
        let refused = stores.admin(&losing);
        assert_eq!(refused.code, Some(64));
        assert!(
            refused
                .stderr
                .contains("admin.retain_candles_1m must be at least 6days"),
            "{}",
            refused.stderr
        );

        let settings = [
            "--set",
            "admin.retain_ticks=30d",
            "--set",
            "admin.compress_after=2d",
            "--set",
            "admin.refresh_window=5d",
        ];
        let ask = |command| stores.admin(&[&[command], &settings[..]].concat());
        if stores.database.edition() == Edition::Apache {
            assert!(ask("plan").stdout.contains("drop chunks of ticks older than 30days"));
            continue;
        }
        let planned = ask("plan").stdout;
        assert!(planned.contains("aggregator-admin apply"), "{planned}");
        let changed = "SELECT count(*) FROM timescaledb_information.jobs
            WHERE hypertable_name IS NOT NULL AND ((config->>'drop_after')::interval = '30 days'
                OR (config->>'compress_after')::interval = '2 days' OR (config->>'start_offset')::interval = '5 days')";
        assert_eq!(stores.database.number(changed).await, 0);
        let applied = ask("apply");
        assert_eq!(applied.code, Some(0), "{}", applied.stderr);
        assert_eq!(stores.database.number(changed).await, 14);
        assert!(ask("plan").stdout.starts_with("nothing to do"));
        assert_eq!(stores.admin(&["apply"]).code, Some(0));
        assert_eq!(stores.database.number(changed).await, 0);
    }
}

/// Two runs of the compression of `ticks`, as TimescaleDB's scheduler records them; the second one failed.
const FAILED_RUN: &str = "
    INSERT INTO _timescaledb_internal.bgw_job_stat
    SELECT (jsonb_populate_record(NULL::_timescaledb_internal.bgw_job_stat, jsonb_build_object(
        'job_id', job_id, 'last_start', now(), 'last_finish', now(), 'next_start', now(), 'last_run_success', false,
        'last_successful_finish', now(), 'total_runs', 2, 'total_duration', '0 s', 'total_duration_failures', '0 s',
        'total_successes', 1, 'total_failures', 1, 'total_crashes', 0, 'consecutive_failures', 1,
        'consecutive_crashes', 0, 'flags', 0))).*
    FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression' AND hypertable_name = 'ticks';
    INSERT INTO _timescaledb_internal.bgw_job_stat_history
        (job_id, pid, execution_start, execution_finish, succeeded, data)
    SELECT job_id, 1, now(), now(), false, jsonb_build_object('error_data', jsonb_build_object('message', 'no space'))
    FROM _timescaledb_internal.bgw_job_stat";

#[tokio::test]
async fn failed_runs_of_policies_are_listed() {
    let Some(database) = TestDatabase::start(Edition::Community).await else {
        return;
    };
    let stores = Stores::ready(database).await;
    stores.database.execute(FAILED_RUN).await;
    let status = stores.admin(&["status"]).stdout;
    assert!(
        status.contains("compress ticks every 60 min, 1 of 2 runs failed, last at"),
        "{status}"
    );
    assert!(
        status.contains("warning: the compress policy of ticks failed at") && status.contains(": no space"),
        "{status}"
    );
    let status: serde_json::Value = serde_json::from_str(&stores.admin(&["status", "--json"]).stdout).unwrap();
    let jobs = status["history"]["jobs"].as_array().unwrap();
    let failed = jobs.iter().find(|job| job["failures"] == 1).unwrap();
    assert_eq!(
        (&failed["table"], &failed["last_error"]),
        (&"ticks".into(), &"no space".into())
    );
}

#[tokio::test]
async fn compression_jobs_wait_for_writers_without_a_second_change() {
    let Some(database) = TestDatabase::start(Edition::Community).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let first = stores.admin(&["migrate"]).stdout;
    assert!(first.contains("compression jobs: they wait for writers"), "{first}");
    assert_eq!(
        stores
            .database
            .number(
                "SELECT count(*) FROM timescaledb_information.jobs
                     WHERE proc_name = 'policy_compression' AND config->>'reindex' = 'false'"
            )
            .await,
        8
    );
    assert!(stores.admin(&["migrate"]).stdout.starts_with("nothing to do"));
}

#[tokio::test]
async fn a_refresh_leaves_larger_candles_whose_minutes_were_dropped() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(LATE_MINUTE).await;
        stores
            .database
            .execute("INSERT INTO candles_1m SELECT '2019-11-11 00:00Z', symbol, 1, 1, 1, 1, 1, 1, 1 FROM symbols")
            .await;
        stores.admin(&["refresh", "--all"]);
        stores
            .database
            .execute("SELECT drop_chunks('candles_1m', TIMESTAMPTZ '2019-10-20')")
            .await;
        assert_eq!(stores.admin(&["refresh", "--all"]).code, Some(0));
        assert_eq!(
            stores
                .admin(&["refresh", "--from", "2019-10-01", "--to", "2019-12-01"])
                .code,
            Some(0)
        );
        assert_eq!(stores.database.number("SELECT count(*) FROM candles_1d").await, 2);
    }
}

#[tokio::test]
async fn explain_prints_the_candle_and_the_expected_one() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(LATE_MINUTE).await;
        let wrong = stores.admin(&["explain", "XRPETH", "1m", "2019-10-11T00:00:30Z"]);
        assert!(
            wrong
                .stdout
                .contains("ticks      give another candle: (1,3,1,3,300000000,3)"),
            "{}{}",
            wrong.stdout,
            wrong.stderr
        );
        let day = stores.admin(&["explain", "XRPETH", "1d", "2019-10-11"]);
        assert_eq!(day.code, Some(0), "{}", day.stderr);
    }
}

#[tokio::test]
async fn ticks_lists_the_versions_that_were_known_at_a_time() {
    let (corrected, busted) = (1_600_000_000_000_i64 << 22, 1_600_000_060_000_i64 << 22);
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(LATE_MINUTE).await;
        let versions = format!(
            "INSERT INTO tick_versions (time, symbol, price, qty, trade_no, trade_key, revision) VALUES
                 ('2019-10-11 00:00:00Z', 'XRPETH', 1.0, 1, 2, '', 20),
                 ('2019-10-11 00:00:00Z', 'XRPETH', 1.5, 2, 2, '', {corrected}),
                 ('2019-10-11 00:00:00Z', 'XRPETH', NULL, NULL, 2, '', {busted})"
        );
        stores.database.execute(&versions).await;
        stores.database.execute("DELETE FROM ticks WHERE trade_no = 2").await;
        let list = |arguments: &[&str]| {
            let common = ["ticks", "XRPETH", "--format", "csv"];
            let output = stores.admin(&[&common[..], arguments].concat());
            let rows = output.stdout.lines().skip(1).map(|line| {
                let cells: Vec<&str> = line.split(',').collect();
                [cells[1], cells[2], cells[5], cells[6]].join(" ")
            });
            rows.collect::<Vec<_>>()
        };
        let others = ["1 2.0 trade counts", "3 3.0 trade counts"];
        let amended = ["2 1.0 trade replaced", "2 1.5 correction replaced", "2  bust busted"];
        assert_eq!(list(&[]), [&amended[..], &others].concat());
        assert_eq!(list(&["--id", "2.0"]), amended);
        assert_eq!(list(&["--limit", "1"]), others[1..]);
        assert_eq!(
            list(&["--id", "2", "--as-of", "2020-09-13T12:26:40Z"])[1],
            "2 1.5 correction counts"
        );
        assert_eq!(
            list(&["--as-of", "2020-01-01"]),
            [&["2 1.0 trade counts"], &others[..]].concat()
        );
        assert!(stores.admin(&["ticks", "XRPETH"]).stdout.contains("busted"));

        let unknown = stores.admin(&["ticks", "bust", "XRPETH", "--id", "9", "--time", "2019-10-11"]);
        assert_eq!(unknown.code, Some(1));
        assert!(
            unknown.stderr.contains("XRPETH has no trade 9 at 2019-10-11T00:00:00Z"),
            "{}",
            unknown.stderr
        );
        assert_eq!(stores.admin(&["ticks"]).code, Some(64));
    }
}
