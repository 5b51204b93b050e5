//! Whether cost grows as ticks and symbols do, and no faster.

use super::plot::{Panel, Series, svg};
use super::throughput::{SYMBOLS, round};
use crate::bench::Bench;
use crate::figure::{Figure, Reach};

const TICKS_EXPLAINED: &str = "Time of hot-writer to empty streams of more and more ticks of 500 symbols; per tick at the most ticks, by \
    that at 100,000. Cost that grows as ticks do stays at 1. The plot shows all points, and the bare client's.";
const SYMBOLS_EXPLAINED: &str = "Time of hot-writer to empty streams of the same ticks of more and more symbols; at 100,000 symbols, by \
    that at 10. The plot shows all points, and the bare client's.";

/// Draws both plots into one file, and says how much the last point costs.
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
        TICKS_EXPLAINED,
        "µs",
        "a tick of 100,000",
        Reach::Reported,
    );
    let a_tick = |point: &(f64, f64)| point.1 * 1e6 / point.0;
    if let [_, few, .., many] = &by_ticks.ours[..] {
        growth.push(a_tick(many), a_tick(few));
    }
    let mut spread = Figure::new(
        "ticks of 100,000 symbols",
        SYMBOLS_EXPLAINED,
        "s",
        "of 10 symbols",
        Reach::Reported,
    );
    if let [few, .., many] = &by_symbols.ours[..] {
        spread.push(many.1, few.1);
    }
    growth.note = Some(format!("plot in {}", bench.svg.display()));

    let panel = |title, across, points: Points| Panel {
        title,
        across,
        up: "seconds",
        series: [
            Series {
                name: "hot-writer",
                points: points.ours,
            },
            Series {
                name: "bare XREAD",
                points: points.limit,
            },
        ],
    };
    let by_ticks = panel("500 symbols".to_owned(), "ticks", by_ticks);
    let by_symbols = panel(format!("{fixed} ticks"), "symbols", by_symbols);
    if let Some(folder) = bench.svg.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&bench.svg, svg(&[by_ticks, by_symbols]))?;
    Ok(vec![growth, spread])
}

/// What is plotted: where, and the seconds.
struct Points {
    ours: Vec<(f64, f64)>,
    limit: Vec<(f64, f64)>,
}

/// Measures each load of so many ticks and symbols once.
async fn points(
    bench: &Bench,
    loads: impl Iterator<Item = (u64, usize)>,
    at: impl Fn(u64, usize) -> f64,
) -> anyhow::Result<Points> {
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for (ticks, symbols) in loads {
        let (barely, drained) = round(bench, bench.load(ticks, symbols)).await?;
        ours.push((at(ticks, symbols), drained.seconds));
        limit.push((at(ticks, symbols), barely.seconds));
    }
    Ok(Points { ours, limit })
}
