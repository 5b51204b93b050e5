//! `ticks-csv`: the fields of the ingress streams as columns. `trade_id` and `side` may be empty.

use std::io::Write;

use anyhow::{Context, ensure};
use csv::ByteRecord;
use storage_core::domain::entry::Fields;
use storage_core::domain::tick::Tick;

use super::decode;

/// Names of the columns.
pub(crate) const COLUMNS: [&str; 6] = ["symbol", "ts_us", "price", "qty", "trade_id", "side"];

pub(super) fn check_header(row: &ByteRecord) -> anyhow::Result<()> {
    ensure!(
        row.iter().eq(COLUMNS.iter().map(|name| name.as_bytes())),
        "the header is not `{}`",
        COLUMNS.join(",")
    );
    Ok(())
}

pub(super) fn tick(row: &ByteRecord) -> anyhow::Result<Tick> {
    ensure!(
        row.len() == COLUMNS.len(),
        "{} columns instead of {}",
        row.len(),
        COLUMNS.len()
    );
    decode(COLUMNS.into_iter().zip(row))
}

/// Writer of ticks, including invalid ones.
pub(crate) struct Writer<W: Write>(csv::Writer<W>);

impl<W: Write> Writer<W> {
    /// Creates a writer and writes the header.
    pub(crate) fn new(out: W) -> anyhow::Result<Self> {
        let mut rows = csv::Writer::from_writer(out);
        rows.write_record(COLUMNS).context("writing ticks")?;
        Ok(Self(rows))
    }

    /// Writes a row. A missing field becomes an empty column.
    pub(crate) fn write(&mut self, fields: &Fields) -> anyhow::Result<()> {
        let value = |column| {
            fields
                .iter()
                .find(|(name, _)| *name == column)
                .map_or("", |(_, value)| value)
        };
        self.0.write_record(COLUMNS.map(value)).context("writing ticks")
    }

    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        self.0.flush().context("writing ticks")
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Layout, TickReader};
    use super::*;
    use storage_core::redis::codec::ticks::entry_fields;

    fn read(text: &str) -> anyhow::Result<Vec<Tick>> {
        TickReader::new(text.as_bytes(), "t.csv", Layout::TicksCsv, None)
            .map(|tick| Ok(tick?.0))
            .collect()
    }

    #[test]
    fn written_ticks_are_read_back() {
        let text =
            "symbol,ts_us,price,qty,trade_id,side\nBTCUSDT,1700000000123456,42000.1,0.005,\"a,1\",buy\nA/B,1,2,3,,\n";
        let ticks = read(text).unwrap();
        assert_eq!(ticks[0].trade_id.as_deref(), Some("a,1"));
        assert_eq!((ticks[1].trade_id.as_deref(), ticks[1].side), (None, None));
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out).unwrap();
        for tick in &ticks {
            writer.write(&entry_fields(tick)).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    #[test]
    fn a_missing_header_is_an_error() {
        let error = read("BTCUSDT,1,2,3,,\n").unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "t.csv:1: the header is not `symbol,ts_us,price,qty,trade_id,side`"
        );
    }

    #[test]
    fn a_tick_that_the_pipeline_rejects_is_a_bad_line() {
        for row in [
            "A:B,1,2,3,,",
            "A,soon,2,3,,",
            "A,1,NaN,3,,",
            "A,1,2,,,",
            "A,1700000000000000000,2,3,,",
            "A,1,2,3",
            "A,1,2,3,,,",
        ] {
            let error = read(&format!("symbol,ts_us,price,qty,trade_id,side\n{row}\n")).unwrap_err();
            assert!(format!("{error:#}").starts_with("t.csv:2: "), "{error:#}");
        }
    }
}
