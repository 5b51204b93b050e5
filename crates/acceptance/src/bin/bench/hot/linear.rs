//! Growth of cost with the number of ticks and of symbols.

use super::plot::{Panel, Series, svg};
use super::throughput::{SYMBOLS, round};
use crate::bench::Bench;
use crate::figure::{Figure, Target};

const TICKS_DESCRIPTION: &str = "Time of hot-writer to drain increasing numbers of ticks of 500 symbols: time per \
    tick of the largest number, divided by that of 100,000 ticks. Linear cost gives 1. The plot shows all points and \
    those of the bare client.";
const SYMBOLS_DESCRIPTION: &str = "Time of hot-writer to drain the same number of ticks of increasing numbers of \
    symbols: that of 100,000 symbols, divided by that of 10. The plot shows all points and those of the bare client.";

/// Draws both plots into one file, and returns the cost of the last point of each.
pub(crate) async fn linear(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let ticks: &[u64] = bench.sized(&[10_000, 100_000, 1_000_000, 10_000_000], &[10_000, 100_000, 400_000]);
    let by_ticks = points(bench, ticks.iter().map(|ticks| (*ticks, SYMBOLS)), |ticks, _| {
        ticks as f64
    })
    .await?;
    let fixed = bench.sized(1_000_000, 100_000);
    let symbols = [10, 100, 1_000, 10_000, 100_000];
    let by_symbols = points(
        bench,
        symbols.into_iter().map(|symbols| (fixed, symbols)),
        |_, symbols| symbols as f64,
    )
    .await?;

    let mut growth = Figure::new(
        "a tick of the most ticks",
        TICKS_DESCRIPTION,
        "µs",
        "a tick of 100,000",
        Target::None,
    );
    let a_tick = |point: &(f64, f64)| point.1 * 1e6 / point.0;
    if let [_, few, .., many] = &by_ticks.ours[..] {
        growth.push(a_tick(many), a_tick(few));
    }
    let mut by_symbol = Figure::new(
        "ticks of 100,000 symbols",
        SYMBOLS_DESCRIPTION,
        "s",
        "of 10 symbols",
        Target::None,
    );
    if let [few, .., many] = &by_symbols.ours[..] {
        by_symbol.push(many.1, few.1);
    }
    growth.note = Some(format!("plot in {}", bench.svg.display()));

    let panel = |title, x_label, points: Points| Panel {
        title,
        x_label,
        y_label: "seconds",
        series: [
            Series {
                name: "hot-writer",
                points: points.ours,
            },
            Series {
                name: "bare XREAD",
                points: points.theirs,
            },
        ],
    };
    let by_ticks = panel("500 symbols".to_owned(), "ticks", by_ticks);
    let by_symbols = panel(format!("{fixed} ticks"), "symbols", by_symbols);
    if let Some(folder) = bench.svg.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&bench.svg, svg(&[by_ticks, by_symbols]))?;
    Ok(vec![growth, by_symbol])
}

/// Points of a plot: number of ticks or symbols, and seconds.
struct Points {
    ours: Vec<(f64, f64)>,
    theirs: Vec<(f64, f64)>,
}

/// Measures each load once.
async fn points(
    bench: &Bench,
    loads: impl Iterator<Item = (u64, usize)>,
    at: impl Fn(u64, usize) -> f64,
) -> anyhow::Result<Points> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (ticks, symbols) in loads {
        let (bare, hot_writer) = round(bench, bench.load(ticks, symbols)).await?;
        ours.push((at(ticks, symbols), hot_writer.seconds));
        theirs.push((at(ticks, symbols), bare.seconds));
    }
    Ok(Points { ours, theirs })
}
