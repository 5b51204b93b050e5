//! Ticks that were deleted by hand: written again while a stream holds them.

use storage_core::domain::entry::Fields;
use storage_core::redis::stream::{HOT_WRITER, WARM_SYNCER};
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::program::Outcome;

use crate::harness::Stores;
use crate::{MINUTE_US, OLD_US, symbol, ticks};

const DAY: [&str; 3] = ["verify", "--to", "2019-10-12"];

fn passes(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
}

/// Runs the first command of aggregator-admin that `outcome` advises.
fn run_advice(stores: &Stores, outcome: &Outcome) -> Outcome {
    let mut parts = outcome.stderr.split('`');
    let advice = parts.find(|part| part.starts_with("aggregator-admin "));
    let advice = advice.unwrap_or_else(|| panic!("{}{}", outcome.stdout, outcome.stderr));
    let arguments: Vec<&str> = advice.split(' ').skip(1).collect();
    let outcome = stores.admin(&arguments);
    passes(&outcome);
    outcome
}

/// Returns five trades of each of three minutes, of which the last one has no trade IDs.
fn trades() -> Vec<Fields> {
    let trade = |n: i64| {
        let (minute, at) = (n / 5, n % 5);
        let mut fields = vec![
            ("symbol", symbol().to_string()),
            ("ts_us", (OLD_US + minute * MINUTE_US + at * 7_000_000).to_string()),
            ("price", (10 + n).to_string()),
            ("qty", "0.5".to_owned()),
        ];
        if minute < 2 {
            fields.push(("trade_id", n.to_string()));
        }
        fields
    };
    (0..15).map(trade).collect()
}

#[tokio::test]
async fn ticks_that_were_deleted_are_written_again_by_the_printed_command_while_a_stream_holds_them() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        let syncer = stores.warm_syncer();
        let mut all = trades();
        // A repeated entry is not a missing trade.
        all.insert(3, all[1].clone());
        stores.redis.add_all(ticks(), &all).await;
        stores.redis.drained(ticks(), WARM_SYNCER).await;
        redis::cmd("XGROUP")
            .arg(("SETID", ticks().key(), HOT_WRITER, "$"))
            .exec_async(&mut stores.redis.connect())
            .await
            .unwrap();
        stores
            .database
            .execute(
                "INSERT INTO candles_1m
                 SELECT time_bucket(INTERVAL '1 minute', time), symbol, first(price, time), max(price), min(price),
                     last(price, time), sum(lots), count(*), max(revision) FROM ticks GROUP BY 1, 2",
            )
            .await;
        passes(&stores.admin(&["refresh", "--all"]));
        passes(&stores.admin(&DAY));
        let remaining = "SELECT count(*) FROM ticks";
        let deletions = [
            "DELETE FROM ticks WHERE trade_no IN (3, 7)",
            "DELETE FROM ticks WHERE time >= '2019-10-11 00:02Z'",
            "DELETE FROM ticks",
        ];
        for deletion in deletions {
            stores.database.execute(deletion).await;
            let found = stores.admin(&DAY);
            assert_eq!(found.code, Some(1), "{deletion}");
            assert!(
                found.stderr.contains("`ticks` lacks and the streams still hold"),
                "{deletion}: {}",
                found.stderr
            );
            let mended = run_advice(&stores, &found);
            assert!(
                mended.stdout.contains("moved warm-syncer back to") && mended.stdout.contains("mended "),
                "{}",
                mended.stdout
            );
            passes(&stores.admin(&DAY));
            assert_eq!(stores.database.number(remaining).await, 15, "{deletion}");
        }

        // Force does not lower a minute whose ticks a stream holds.
        stores.database.execute(deletions[1]).await;
        passes(&stores.admin(&[&DAY[..], &["--repair", "--force"]].concat()));
        assert_eq!(stores.database.number(remaining).await, 15);

        // Without the entries, nothing in the stores brings the ticks back.
        redis::cmd("XTRIM")
            .arg((ticks().key(), "MAXLEN", 4))
            .exec_async(&mut stores.redis.connect())
            .await
            .unwrap();
        stores
            .database
            .execute("DELETE FROM ticks WHERE time >= '2019-10-11 00:01Z' AND trade_no <> 5")
            .await;
        let found = stores.admin(&DAY);
        assert!(
            found
                .stderr
                .contains("1 minutes count trades that neither `ticks` nor a stream holds: only a file of trades"),
            "{}",
            found.stderr
        );
        let repaired = stores.admin(&[&DAY[..], &["--repair"]].concat());
        assert!(
            repaired.stdout.contains("moved warm-syncer back to")
                && repaired.stderr.contains("2 minutes count trades that neither"),
            "the first trade of the last minute is lost: {}{}",
            repaired.stdout,
            repaired.stderr
        );
        run_advice(&stores, &repaired);
        passes(&stores.admin(&DAY));
        assert_eq!(stores.database.number(remaining).await, 5 + 1 + 4);
        assert_eq!(
            stores.database.number("SELECT sum(trades) FROM candles_1d").await,
            5 + 1 + 4
        );
        syncer.stop().await;
    }
}
