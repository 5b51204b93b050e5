//! The table of figures, and the JSON file with every sample.

use std::fs;
use std::path::Path;

use comfy_table::{CellAlignment, Table, TableStyle, presets};
use serde::Serialize;

use crate::bench::Bench;
use crate::figure::{Figure, Samples, Target};
use crate::machine::Machine;

const COLUMNS: [&str; 8] = [
    "figure",
    "ours",
    "compared with",
    "theirs",
    "unit",
    "ratio",
    "target",
    "met",
];

/// Figures of a run, and what they depend on.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    quick: bool,
    rounds: usize,
    seed: u64,
    uniform: bool,
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    pub(crate) async fn new(bench: &Bench) -> anyhow::Result<Self> {
        Ok(Self {
            machine: Machine::current().await?,
            quick: bench.quick,
            rounds: bench.rounds,
            seed: bench.seed,
            uniform: bench.uniform,
            figures: Vec::new(),
        })
    }

    /// Writes the report to `file` as JSON.
    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(fs::write(file, serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// Formats the table for a terminal.
    pub(crate) fn table(&self) -> String {
        self.format(presets::UTF8_FULL_CONDENSED)
    }

    /// Formats the table as Markdown.
    pub(crate) fn markdown(&self) -> String {
        self.format(presets::ASCII_MARKDOWN)
    }

    fn format(&self, style: TableStyle) -> String {
        let mut table = Table::new();
        table.load_style(style).set_header(COLUMNS);
        self.figures.iter().for_each(|figure| {
            table.add_row(row(figure));
        });
        for column in [1, 3, 5, 6] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let notes = self.figures.iter().filter_map(|figure| {
            let note = figure.note.as_ref()?;
            Some(format!("\n- {}: {note}", figure.name))
        });
        let notes: String = notes.collect();
        let gap = if notes.is_empty() { "" } else { "\n" };
        format!("{}\n\n{table}\n{gap}{}", self.machine, notes.trim_start())
    }
}

fn row(figure: &Figure) -> [String; 8] {
    let ratio = figure.ratio.median();
    let range = |samples: &Samples| format!("{} ({}…{})", short(ratio), short(samples.min()), short(samples.max()));
    [
        figure.name.clone(),
        short(figure.ours.median()),
        figure.compared_with.to_owned(),
        short(figure.theirs.median()),
        figure.unit.to_owned(),
        match figure.ratio.0.len() {
            0 => "-".to_owned(),
            1 => short(ratio),
            _ => range(&figure.ratio),
        },
        match figure.target {
            Target::AtLeast(least) => format!("≥ {least}"),
            Target::AtMost(most) => format!("≤ {most}"),
            Target::OursAtMost(most) => format!("ours ≤ {most}"),
            Target::None => "-".to_owned(),
        },
        match figure.meets_target() {
            Some(true) => "yes".to_owned(),
            Some(false) => "no".to_owned(),
            None => "-".to_owned(),
        },
    ]
}

/// Formats a number with three significant digits, and with commas between thousands.
fn short(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".to_owned(),
        large if large >= 1_000.0 => {
            let digits = format!("{value:.0}");
            let mut grouped = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at).is_multiple_of(3) {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
