//! Formats of recorded trades, and a reader for them.

pub(crate) mod binance;
pub(crate) mod ticks_csv;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow};
use csv::ByteRecord;
use storage_core::config::Misconfigured;
use storage_core::domain::entry::Entry;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::Tick;
use tracing::warn;

/// Formats of recorded trades.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aggregate trades as published by Binance, with or without a header, times in ms or µs
    BinanceAggTrades,
    /// Columns symbol,ts_us,price,qty,trade_id,side with this header
    TicksCsv,
}

/// Layout of a certain file.
#[derive(Debug)]
pub(crate) enum Layout {
    /// Aggregate trades of one symbol.
    Binance(Symbol),
    /// Ticks of any symbols.
    TicksCsv,
}

impl Layout {
    /// Returns the layout of the file at `path`, whose symbol is given or in the name.
    ///
    /// # Errors
    /// [`Misconfigured`] if the symbol is missing, or is given for a format with a symbol in each line.
    pub(crate) fn of(format: Format, path: &Path, symbol: Option<Symbol>) -> Result<Self, Misconfigured> {
        match (
            format,
            symbol.or_else(|| binance::symbol_in(path).filter(|_| format == Format::BinanceAggTrades)),
        ) {
            (Format::BinanceAggTrades, Some(symbol)) => Ok(Self::Binance(symbol)),
            (Format::BinanceAggTrades, None) => Err(Misconfigured::new(format!(
                "the name of {} has no symbol; add `--symbol SYMBOL`",
                path.display()
            ))),
            (Format::TicksCsv, Some(_)) => Err(Misconfigured::new(
                "--symbol does not apply to ticks-csv, where every line has a symbol; leave it out",
            )),
            (Format::TicksCsv, None) => Ok(Self::TicksCsv),
        }
    }

    fn quoting(&self) -> bool {
        matches!(self, Self::TicksCsv)
    }

    /// Returns `true` if the first line is a header.
    fn is_header(&self, row: &ByteRecord) -> anyhow::Result<bool> {
        match self {
            Self::Binance(_) => Ok(binance::is_header(row)),
            Self::TicksCsv => ticks_csv::check_header(row).map(|()| true),
        }
    }

    fn tick(&self, row: &ByteRecord) -> anyhow::Result<Tick> {
        match self {
            Self::Binance(symbol) => binance::tick(symbol, row),
            Self::TicksCsv => ticks_csv::tick(row),
        }
    }
}

/// Number of skipped lines, shared with the thread that reads.
pub(crate) type Skipped = Arc<AtomicU64>;

/// Iterator over the ticks of a file, each with the position of its end in bytes.
pub(crate) struct TickReader<R> {
    rows: csv::Reader<R>,
    row: ByteRecord,
    layout: Layout,
    name: String,
    skipped: Option<Skipped>,
    ended: bool,
}

impl<R: Read> TickReader<R> {
    /// Creates a reader of `input`, with its `name` for messages. Bad lines are counted in `skipped`; without a counter
    /// they end the reading.
    pub(crate) fn new(input: R, name: impl Into<String>, layout: Layout, skipped: Option<Skipped>) -> Self {
        let rows = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .quoting(layout.quoting())
            .buffer_capacity(1 << 16)
            .from_reader(input);
        Self {
            rows,
            row: ByteRecord::new(),
            layout,
            name: name.into(),
            skipped,
            ended: false,
        }
    }

    /// Reads the next line. Returns `Some(Ok(None))` for a header or a skipped line.
    fn read(&mut self) -> Option<anyhow::Result<Option<Tick>>> {
        let first = self.rows.position().byte() == 0;
        match self.rows.read_byte_record(&mut self.row) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(Err(anyhow!(error).context(format!("reading {}", self.name)))),
        }
        if first {
            match self.layout.is_header(&self.row) {
                Ok(true) => return Some(Ok(None)),
                Ok(false) => {}
                Err(error) => return Some(Err(error.context(self.place()))),
            }
        }
        match (self.layout.tick(&self.row), &self.skipped) {
            (Ok(tick), _) => Some(Ok(Some(tick))),
            (Err(error), Some(skipped)) => {
                if skipped.fetch_add(1, Ordering::Relaxed) == 0 {
                    warn!("skipping bad lines; the first one: {}: {error:#}", self.place());
                }
                Some(Ok(None))
            }
            (Err(error), None) => Some(Err(error).with_context(|| self.place())),
        }
    }

    fn place(&self) -> String {
        let line = self.row.position().map_or(0, csv::Position::line);
        format!("{}:{line}", self.name)
    }
}

impl<R: Read> Iterator for TickReader<R> {
    type Item = anyhow::Result<(Tick, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match self.read() {
                Some(Ok(None)) => {}
                Some(Ok(Some(tick))) => return Some(Ok((tick, self.rows.position().byte()))),
                Some(Err(error)) => {
                    self.ended = true;
                    return Some(Err(error));
                }
                None => self.ended = true,
            }
        }
        None
    }
}

/// Decodes a tick with the rules of the stream's readers.
fn decode<'a>(fields: impl IntoIterator<Item = (&'static str, &'a [u8])>) -> anyhow::Result<Tick> {
    Ok(Tick::from_entry(&Entry::new(StreamId::START, fields))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = "1,0.5,23.00000000,1,1,1570752011620,true\n\
                        2,0.5,x,1,1,1570752011621,false\n\n\
                        3,0.25,9.2E-7,2,2,1570752011622123,False\n";

    fn read(text: &str, layout: Layout, skipped: Option<Skipped>) -> (Vec<Tick>, Option<String>) {
        let mut ticks = Vec::new();
        for tick in TickReader::new(text.as_bytes(), "file.csv", layout, skipped) {
            match tick {
                Ok((tick, _)) => ticks.push(tick),
                Err(error) => return (ticks, Some(format!("{error:#}"))),
            }
        }
        (ticks, None)
    }

    fn binance() -> Layout {
        Layout::Binance("XRPETH".parse().unwrap())
    }

    #[test]
    fn a_bad_line_ends_the_reading_with_its_number() {
        let (ticks, error) = read(ROWS, binance(), None);
        assert_eq!(ticks.len(), 1);
        assert_eq!(error.unwrap(), "file.csv:2: field `qty` is not a decimal number");
    }

    #[test]
    fn bad_lines_are_skipped_and_counted_on_request() {
        let skipped = Skipped::default();
        let (ticks, error) = read(ROWS, binance(), Some(skipped.clone()));
        assert_eq!((ticks.len(), error, skipped.load(Ordering::Relaxed)), (2, None, 1));
    }

    #[test]
    fn a_header_is_optional_for_binance() {
        let header = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\r\n";
        let row = "1,0.5,1,1,1,1570752011620,true\r\n";
        for text in [
            format!("{header}{row}"),
            row.to_owned(),
            format!("\u{feff}{header}{row}"),
            format!("\u{feff}{row}"),
        ] {
            let (ticks, error) = read(&text, binance(), None);
            assert_eq!((ticks.len(), error), (1, None), "{text}");
        }
    }

    #[test]
    fn positions_reach_the_end_of_the_file() {
        let reader = TickReader::new(ROWS.as_bytes(), "file.csv", binance(), Some(Skipped::default()));
        let positions: Vec<u64> = reader.map(|tick| tick.unwrap().1).collect();
        assert!(positions.is_sorted());
        assert_eq!(positions.last(), Some(&u64::try_from(ROWS.len()).unwrap()));
    }

    #[test]
    fn an_empty_file_has_no_ticks() {
        assert_eq!(read("", binance(), None), (vec![], None));
        assert_eq!(read("", Layout::TicksCsv, None), (vec![], None));
    }

    #[test]
    fn the_symbol_is_an_argument_or_in_the_name() {
        let of = |format, path: &str, symbol: Option<&str>| {
            Layout::of(format, Path::new(path), symbol.map(|symbol| symbol.parse().unwrap()))
        };
        let symbol_of = |path: &str, symbol| match of(Format::BinanceAggTrades, path, symbol).unwrap() {
            Layout::Binance(symbol) => symbol.to_string(),
            Layout::TicksCsv => String::new(),
        };
        assert_eq!(symbol_of("/data/BTCUSDT-aggTrades-2024-01-01.csv", None), "BTCUSDT");
        assert_eq!(symbol_of("x.csv", Some("A.B")), "A.B");
        let error = of(Format::BinanceAggTrades, "x.csv", None).unwrap_err();
        assert!(error.to_string().contains("--symbol"), "{error}");
        assert!(of(Format::TicksCsv, "x.csv", Some("A")).is_err());
        assert!(matches!(of(Format::TicksCsv, "x.csv", None), Ok(Layout::TicksCsv)));
    }
}
