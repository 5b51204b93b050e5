//! `candles --as-of`: candles of what was known at an earlier time.

use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;

/// Trades of one minute and the next. Trade 1 is known at 00:01; 2, of the first minute, comes at 00:06; 3 is corrected
/// at 00:07, from 12 to 11; 4 is busted at 00:08. The revision is the time of acceptance in ms, shifted by 22 bits.
const TRADES: &str = "
    CREATE FUNCTION at(clock text, seq bigint) RETURNS bigint LANGUAGE sql AS $$
        SELECT (extract(epoch FROM ('2019-10-11 ' || clock || 'Z')::timestamptz)::bigint * 1000 << 22) + seq $$;
    INSERT INTO symbols (symbol, volume_decimals) VALUES ('XRPETH', 2), ('OTHER', 8);
    INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision) VALUES
        ('2019-10-11 00:00:10Z', 'XRPETH', 10, 100, 1, '', at('00:01', 0)),
        ('2019-10-11 00:00:05Z', 'XRPETH', 9, 50, 2, '', at('00:06', 0)),
        ('2019-10-11 00:00:30Z', 'XRPETH', 11, 150, 3, '', at('00:07', 0)),
        ('2019-10-11 00:00:40Z', 'OTHER', 77, 1, 1, '', at('00:01', 1));
    INSERT INTO tick_versions (time, symbol, price, qty, trade_no, trade_key, revision) VALUES
        ('2019-10-11 00:00:30Z', 'XRPETH', 12, 1.25, 3, '', at('00:01', 2)),
        ('2019-10-11 00:00:30Z', 'XRPETH', 11, 1.5, 3, '', at('00:07', 0)),
        ('2019-10-11 00:01:20Z', 'XRPETH', 20, 2, 4, '', at('00:02', 0)),
        ('2019-10-11 00:01:20Z', 'XRPETH', NULL, NULL, 4, '', at('00:08', 0))";

#[tokio::test]
async fn candles_are_shown_as_they_were_known() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(TRADES).await;
        let candles = |timeframe: &str, as_of: &str| {
            let as_of = format!("2019-10-11T{as_of}Z");
            let shown = stores.admin(&["candles", "XRPETH", timeframe, "--as-of", &as_of, "--format", "csv"]);
            assert_eq!(shown.code, Some(0), "{}", shown.stderr);
            let lines = shown.stdout.lines().skip(1).map(|line| line.replace("2019-10-11T", ""));
            lines.collect::<Vec<_>>()
        };
        let minute = |line: &str| format!("00:0{line},stored");
        assert_eq!(candles("1m", "00:00:59"), Vec::<String>::new());
        let of_1m = ["0:00Z,10.0,12.0,10.0,12.0,2.25,2", "1:00Z,20.0,20.0,20.0,20.0,2,1"].map(minute);
        assert_eq!(candles("1m", "00:05:00"), of_1m);
        let of_5m = ["0:00Z,10.0,20.0,10.0,20.0,4.25,3"].map(minute);
        assert_eq!(candles("5m", "00:05:00"), of_5m);
        // The late trade is known, and the correction is not; then both are; then the bust removes the second minute.
        let late = ["0:00Z,9.0,12.0,9.0,12.0,2.75,3", "1:00Z,20.0,20.0,20.0,20.0,2,1"].map(minute);
        assert_eq!(candles("1m", "00:06:59.999"), late);
        let corrected = ["0:00Z,9.0,11.0,9.0,11.0,3,3", "1:00Z,20.0,20.0,20.0,20.0,2,1"].map(minute);
        assert_eq!(candles("1m", "00:07:00"), corrected);
        let busted = ["0:00Z,9.0,11.0,9.0,11.0,3,3"].map(minute);
        assert_eq!(candles("1m", "00:08:00"), busted);
        assert_eq!(candles("1d", "00:08:00"), busted);

        let last = stores.admin(&[
            "candles",
            "XRPETH",
            "1m",
            "--as-of",
            "2019-10-11T00:05:00Z",
            "--limit",
            "1",
        ]);
        assert!(
            last.stdout.contains("00:01:00Z") && !last.stdout.contains("00:00:00Z"),
            "{}",
            last.stdout
        );
    }
}

#[tokio::test]
async fn candles_whose_ticks_were_dropped_are_refused() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(TRADES).await;
        let border = "INSERT INTO complete_since VALUES ('ticks', '2019-10-11 00:00:30Z')";
        stores.database.execute(border).await;
        let candles = |arguments: &[&str]| {
            let shown = ["candles", "XRPETH", "1m", "--as-of", "2019-10-12", "--format", "csv"];
            stores.admin(&[&shown, arguments].concat())
        };
        let refused = candles(&["--from", "2019-10-11"]);
        assert_eq!(refused.code, Some(1));
        assert!(
            refused.stderr.contains("use `--from 2019-10-11T00:01:00Z`"),
            "{}",
            refused.stderr
        );
        let rest = candles(&[]);
        assert_eq!(
            (rest.code, rest.stdout.lines().count()),
            (Some(0), 1),
            "{}",
            rest.stdout
        );
    }
}
