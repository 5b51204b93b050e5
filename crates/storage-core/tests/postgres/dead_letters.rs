use serde_json::json;
use storage_core::domain::signal::Signal;
use storage_core::postgres::queries::dead_letters::{self, Filter, NewDeadLetter, WaitingCount};
use storage_core::postgres::queries::signals;
use storage_core::testing::postgres::TestDatabase;

use crate::{OLD_US, revision, symbol};

pub(crate) fn letter(stream: &str, entry_id: &str, reason: &str) -> NewDeadLetter {
    NewDeadLetter {
        stream: stream.into(),
        entry_id: entry_id.into(),
        reason: reason.into(),
        fields: json!({"symbol": "A:B", "rubbish": "zero\0byte"}),
        truncated: false,
    }
}

pub(crate) fn signal() -> Signal {
    Signal {
        signal_id: "s-1".into(),
        symbol: symbol("A"),
        strategy: "breakout".into(),
        side: "buy".into(),
        strength: 0.8,
        price: 42.0,
        ts_us: OLD_US,
        expires_us: OLD_US + 1,
        revision: revision(7),
    }
}

#[tokio::test]
async fn dead_letters_are_written_once_and_requeued_once() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let letters = [
            letter("stream:ticks:0", "1-0", "field `qty` is missing"),
            letter("stream:ticks:0", "2-0", "100% wrong\0"),
            letter("stream:signals", "1-0", "field `side` is missing"),
        ];
        assert_eq!(dead_letters::insert(conn, &letters).await.unwrap(), 3);
        assert_eq!(dead_letters::insert(conn, &letters).await.unwrap(), 0, "redelivered");
        assert_eq!(dead_letters::insert(conn, &[]).await.unwrap(), 0);

        assert_eq!(dead_letters::find(conn, None, "1-0").await.unwrap().len(), 2);
        let found = dead_letters::find(conn, Some("stream:ticks:0"), "1-0").await.unwrap();
        assert_eq!(found[0].fields, json!({"symbol": "A:B", "rubbish": "zero\u{fffd}byte"}));
        let percent = Filter {
            reason: Some("0% w".into()),
            ..Filter::default()
        };
        assert_eq!(dead_letters::list(conn, &percent, 10).await.unwrap().len(), 1);
        let ticks = Filter {
            stream: Some("stream:ticks:0".into()),
            ..Filter::default()
        };
        assert_eq!(dead_letters::list(conn, &ticks, 1).await.unwrap().len(), 1);

        assert!(
            dead_letters::mark_requeued(conn, "stream:ticks:0", "1-0", "9-0")
                .await
                .unwrap()
        );
        assert!(
            !dead_letters::mark_requeued(conn, "stream:ticks:0", "1-0", "9-1")
                .await
                .unwrap()
        );
        assert_eq!(dead_letters::list(conn, &ticks, 10).await.unwrap().len(), 1);
        let all = Filter {
            requeued_too: true,
            ..ticks
        };
        assert_eq!(dead_letters::list(conn, &all, 10).await.unwrap().len(), 2);
        let waiting = |stream: &str| WaitingCount {
            stream: stream.into(),
            letters: 1,
        };
        assert_eq!(
            dead_letters::waiting(conn).await.unwrap(),
            [waiting("stream:signals"), waiting("stream:ticks:0")]
        );
    }
}

#[tokio::test]
async fn a_redelivered_signal_is_the_same_row() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let signal = signal();
        let other = Signal {
            signal_id: "s-2".into(),
            ..signal.clone()
        };
        assert_eq!(signals::insert(conn, &[signal.clone(), other]).await.unwrap(), 2);
        assert_eq!(signals::insert(conn, &[signal.clone(), signal]).await.unwrap(), 0);
    }
}
