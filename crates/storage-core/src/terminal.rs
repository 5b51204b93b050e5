//! Output of a command: lines and tables on stdout, for a terminal of 80 columns and more.
//!
//! A reader that goes away, as `head` does, is no failure. Control characters in text from outside (symbols, reasons,
//! fields, messages of stores) are escaped, so that they can't move the cursor or forge a line.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, IsTerminal, Write};

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, TableStyle};
use terminal_size::{Width, terminal_size};

/// Narrowest table; a narrower terminal breaks its lines.
const NARROWEST: u16 = 80;

/// Prints a line, or several, with other control characters escaped.
pub fn say(text: impl Display) -> anyhow::Result<()> {
    write(format_args!("{}\n", visible_lines(&text.to_string())))
}

/// Prints text unchanged: a file format, or text with colours.
pub fn write(text: impl Display) -> anyhow::Result<()> {
    print_to(&mut io::stdout().lock(), text)
}

fn print_to(out: &mut impl Write, text: impl Display) -> anyhow::Result<()> {
    match write!(out, "{text}").and_then(|()| out.flush()) {
        // The command goes on: its exit code reports its work, not its reader.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("writing to stdout"),
    }
}

/// Replaces the line of progress on stderr, if it is a terminal; an empty text removes the line.
pub fn show_progress(text: impl Display) {
    let mut out = io::stderr();
    if out.is_terminal() {
        // A terminal that went away needs no progress.
        let _ = write!(out, "\r{text}\u{1b}[K").and_then(|()| out.flush());
    }
}

/// Returns `true` if stdout shows colours and the user wants them.
pub fn has_colour() -> bool {
    io::stdout().is_terminal() && wants_colour()
}

/// Returns `true` unless `NO_COLOR` is set to a value.
pub(crate) fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns the text with control characters escaped, line breaks included.
pub fn visible(text: &str) -> String {
    escaped(text, |_| false)
}

/// Returns the text with control characters escaped but for line breaks and tabs.
pub fn visible_lines(text: &str) -> String {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, is_kept: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if (c.is_control() || changes_direction(c)) && !is_kept(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Returns `true` for invisible characters that reorder or hide their neighbours.
fn changes_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A table of text cells. On a terminal it wraps cells to the terminal's width; elsewhere a row is a line.
#[derive(Debug)]
pub struct Table(comfy_table::Table);

/// Creates a table with these columns; those whose name begins with `>` are aligned to the right.
pub fn table(columns: &[&str]) -> Table {
    Table::of_width(columns, width())
}

impl Table {
    fn of_width(columns: &[&str], width: Option<u16>) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
        match width {
            Some(width) => table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width.max(NARROWEST)),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        table.set_header(columns.iter().map(|column| column.trim_start_matches('>')));
        for (at, column) in columns.iter().enumerate() {
            if let Some(aligned) = table.column_mut(at).filter(|_| column.starts_with('>')) {
                aligned.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self(table)
    }

    /// Adds a row, with control characters escaped.
    pub fn add_row<T: Display>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.0.add_row(cells.into_iter().map(|cell| visible(&cell.to_string())));
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in self.0.lines().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(f, "{separator}{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Returns the width of the terminal; `None` where stdout is not a terminal.
fn width() -> Option<u16> {
    let is_terminal = io::stdout().is_terminal();
    let size = terminal_size().filter(|_| is_terminal);
    size.map(|(Width(columns), _)| columns)
}

/// Formats a number with its thousands separated: `12,477`.
pub fn thousands(number: impl Into<i128>) -> String {
    let number = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if number < 0 { format!("-{grouped}") } else { grouped }
}

/// Formats a size in decimal units: `36.6 MB`.
pub fn size(bytes: impl Into<i128>) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let bytes = bytes.into();
    if bytes.abs() < 1_000 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let mut size = bytes as f64 / 1_000.0;
    let mut unit = 0;
    while size.abs() >= 999.95 && unit + 1 < UNITS.len() {
        size /= 1_000.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// Formats a span of time in its largest units: `1 d 4 h`, `12 min`, `3 s`.
pub fn span(seconds: i64) -> String {
    match seconds {
        ..0 => format!("-{}", span(seconds.saturating_neg())),
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_easily() {
        assert_eq!(
            [0, 999, 1_000, -1_234_567].map(thousands),
            ["0", "999", "1,000", "-1,234,567"]
        );
        assert_eq!(
            [0, 999, 1_000, 36_600_000, 999_999].map(size),
            ["0 B", "999 B", "1.0 kB", "36.6 MB", "1.0 MB"]
        );
        assert_eq!(
            [5, 119, 130, 7_260, 200_000].map(span),
            ["5 s", "119 s", "2 min", "2 h 1 min", "2 d 7 h"]
        );
    }

    #[test]
    fn control_characters_of_outsiders_are_escaped() {
        assert_eq!(visible("a\x1b[31m\nb\r"), "a\\u{1b}[31m\\nb\\r");
        assert_eq!(visible("XRP\u{202e}HTE"), "XRP\\u{202e}HTE");
        assert_eq!(visible("Größe ◀ 漢字"), "Größe ◀ 漢字");
        assert_eq!(visible_lines("a\nb\tc\x07"), "a\nb\tc\\u{7}");
    }

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        assert!(print_to(&mut Failing(ErrorKind::BrokenPipe), "candles").is_ok());
        assert!(print_to(&mut Failing(ErrorKind::StorageFull), "candles").is_err());
    }

    #[test]
    fn a_table_fits_a_terminal_of_80_columns_and_is_a_line_per_row_elsewhere() {
        let reason = "a reason of many words ".repeat(8);
        let rows = |width| {
            let mut table = Table::of_width(&["id", ">entries", "reason"], width);
            table.add_row(["stream:ticks:0/1-1", "12,477", reason.trim()]);
            table.add_row(["stream:ticks:0/1-2\n\x1b", "1", "short"]);
            table.to_string()
        };
        let narrow = rows(Some(40));
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
        assert!(narrow.lines().count() > 4 && narrow.contains("12,477"), "{narrow}");
        let piped = rows(None);
        assert_eq!(piped.lines().count(), 4, "{piped}");
        assert!(piped.contains("1-2\\n\\u{1b}"), "{piped}");
    }
}
