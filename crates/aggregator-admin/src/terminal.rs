//! What a command shows: lines and tables on stdout. A reader that goes away, as `head` does, is no failure.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use storage_core::service::Stopped;

/// Writes a line.
pub(crate) fn say(line: impl Display) -> anyhow::Result<()> {
    write(format_args!("{line}\n"))
}

/// Writes text as it is.
pub(crate) fn write(text: impl Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = write!(out, "{text}").and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Stopped.into()),
        written => written.context("writing to stdout"),
    }
}

/// Whether colours will be seen as such.
pub(crate) fn has_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// A table with these columns; those whose name begins with `>` are aligned to the right.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')))
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| column.trim_start_matches('>')));
    for (at, column) in columns.iter().enumerate() {
        if let Some(aligned) = table.column_mut(at).filter(|_| column.starts_with('>')) {
            aligned.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A number with its thousands set apart: `12,477`.
pub(crate) fn thousands(number: impl Into<i128>) -> String {
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

/// A size as people say it: `36.6 MB`.
pub(crate) fn size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
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

/// A span of time in its largest units: `1 d 4 h`, `12 min`, `3 s`.
pub(crate) fn span(seconds: i64) -> String {
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
}
