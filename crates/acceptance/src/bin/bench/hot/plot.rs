//! Plots with logarithmic axes, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 320.0;
/// Margins around the plotting area, for labels.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 32.0;
const BOTTOM: f64 = 48.0;
const COLOURS: [&str; 2] = ["#1f6feb", "#8c959f"];

/// A plot.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x_label: &'static str,
    pub(crate) y_label: &'static str,
    pub(crate) series: [Series; 2],
}

/// Points joined by a line.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Range of an axis, as exponents of ten.
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (from, to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        Self {
            from,
            to: to.max(from + 1),
        }
    }

    /// Returns the position of a value on the axis, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from)
    }

    fn powers(&self) -> impl Iterator<Item = (f64, String)> {
        (self.from..=self.to).map(|power| {
            let label = match power {
                0..3 => format!("{}", 10_i32.pow(power.unsigned_abs())),
                3..6 => format!("{}k", 10_i32.pow(power.unsigned_abs() - 3)),
                6.. => format!("{}M", 10_i32.pow(power.unsigned_abs() - 6)),
                _ => format!("{:.*}", power.unsigned_abs() as usize, 10_f64.powi(power)),
            };
            (10_f64.powi(power), label)
        })
    }
}

/// Draws the panels side by side.
pub(crate) fn svg(panels: &[Panel]) -> String {
    let width = WIDTH * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    for (at, panel) in panels.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate({} 0)\">", WIDTH * at as f64);
        draw(&mut out, panel);
        out.push_str("</g>\n");
    }
    out + "</svg>\n"
}

fn draw(out: &mut String, panel: &Panel) {
    let points = || panel.series.iter().flat_map(|series| &series.points);
    let (across, up) = (
        Axis::of(points().map(|point| point.0)),
        Axis::of(points().map(|point| point.1)),
    );
    let x = |value: f64| LEFT + across.place(value) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - up.place(value) * (HEIGHT - TOP - BOTTOM);
    let text = |out: &mut String, x: f64, y: f64, anchor: &str, text: &str| {
        let _ = writeln!(
            out,
            "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    };
    let line = |out: &mut String, from: (f64, f64), to: (f64, f64)| {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(out, "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"#d0d7de\"/>");
    };
    for (value, label) in across.powers() {
        line(out, (x(value), TOP), (x(value), HEIGHT - BOTTOM));
        text(out, x(value), HEIGHT - BOTTOM + 16.0, "middle", &label);
    }
    for (value, label) in up.powers() {
        line(out, (LEFT, y(value)), (WIDTH - RIGHT, y(value)));
        text(out, LEFT - 6.0, y(value) + 4.0, "end", &label);
    }
    text(out, f64::midpoint(LEFT, WIDTH - RIGHT), 20.0, "middle", &panel.title);
    text(
        out,
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 10.0,
        "middle",
        panel.x_label,
    );
    let _ = writeln!(
        out,
        "<text transform=\"translate(14 {:.0}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        HEIGHT / 2.0,
        panel.y_label
    );
    for (at, (series, colour)) in panel.series.iter().zip(COLOURS).enumerate() {
        let path: Vec<String> = series
            .points
            .iter()
            .map(|(a, b)| format!("{:.1} {:.1}", x(*a), y(*b)))
            .collect();
        let _ = writeln!(
            out,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join("L")
        );
        for (a, b) in &series.points {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(*a),
                y(*b)
            );
        }
        let below = TOP + 14.0 + 16.0 * at as f64;
        let _ = writeln!(
            out,
            "<circle cx=\"{}\" cy=\"{}\" r=\"3\" fill=\"{colour}\"/>",
            LEFT + 12.0,
            below - 4.0
        );
        text(out, LEFT + 20.0, below, "start", series.name);
    }
}
