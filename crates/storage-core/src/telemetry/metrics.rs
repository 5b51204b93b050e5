//! Metrics, each defined once by [`define_metrics!`](crate::define_metrics): name, kind, labels with their possible
//! values, buckets, and help text from the doc comment.
//!
//! Names follow `<worker>_<name>_<unit>[_total]`, with seconds and bytes as units. All are registered at the start, so
//! that a zero shows. A label has bounded values; any other value counts as `other`. Clippy refuses the macros of
//! `metrics` everywhere else.

#![allow(clippy::disallowed_macros)] // the one place that may use them

use anyhow::Context;
use metrics::Label;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Buckets of durations in seconds: 1 ms to 30 s.
pub const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0,
];
/// Buckets of long durations in seconds: 0.1 s to 1 h.
pub const LONG_SECONDS: &[f64] = &[
    0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
];
/// Buckets of batch sizes.
pub const BATCH_SIZES: &[f64] = &[
    1.0, 5.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 25000.0,
];

/// Value of a label for every value that is not one of its possible ones.
const OTHER: &str = "other";

/// A label and its possible values; the list is empty for values that are known at run time only, such as partitions.
pub type LabelValues = (&'static str, &'static [&'static str]);

/// Defines metrics, each as a static handle, and `DEFINITIONS` with all of them.
///
/// ```
/// storage_core::define_metrics! {
///     prefix "hot_writer";
///
///     /// Ticks folded into candles.
///     Counter TICKS_FOLDED = "ticks_folded_total";
///     /// Entries that could not be used, by reason.
///     Counter DEAD_LETTERS = "dead_letters_total", reason = &["future", "price"];
///     /// Entries not folded yet.
///     Gauge LAG = "lag_entries", partition = &[];
///     /// Time from reading a batch to having written it.
///     Histogram(storage_core::telemetry::metrics::SECONDS) BATCH_DURATION = "batch_seconds";
/// }
///
/// TICKS_FOLDED.increment(3);
/// DEAD_LETTERS.increment("future", 1);
/// LAG.set("0", 12.0);
/// BATCH_DURATION.record(0.25);
/// ```
#[macro_export]
macro_rules! define_metrics {
    (
        prefix $prefix:literal;
        $(
            $(#[doc = $doc:literal])+
            $kind:ident $(($buckets:expr))? $name:ident = $metric:literal
                $(, $label:ident = $values:expr)* ;
        )+
    ) => {
        $(
            $(#[doc = $doc])+
            pub(crate) static $name: $crate::telemetry::metrics::$kind<
                { <[&str]>::len(&[$(stringify!($label)),*]) }
            > = $crate::telemetry::metrics::$kind::new(
                concat!($prefix, "_", $metric),
                concat!($($doc),+),
                &[$((stringify!($label), $values)),*],
                $($buckets,)?
            );
        )+

        /// Every metric defined here.
        pub(crate) static DEFINITIONS: $crate::telemetry::metrics::Definitions = &[$(&$name.0),+];
    };
}

/// Every metric that a worker defines.
pub type Definitions = &'static [&'static Definition];

/// Definition of a metric of any kind.
#[derive(Debug)]
pub struct Definition {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    labels: &'static [LabelValues],
}

#[derive(Debug)]
enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

impl Definition {
    /// Returns labels with these values; a value that is not possible becomes `other`.
    fn labels(&self, values: &[&str]) -> Vec<Label> {
        self.labels
            .iter()
            .zip(values)
            .map(|((label, possible), &value)| {
                let is_possible = possible.is_empty() || possible.contains(&value);
                let value = if is_possible { value } else { OTHER };
                Label::new(*label, value.to_owned())
            })
            .collect()
    }

    /// Returns every combination of the labels' possible values; none if those of a label are known at run time only.
    fn combinations(&self) -> Vec<Vec<Label>> {
        let mut combinations = vec![Vec::new()];
        for (label, values) in self.labels {
            combinations = combinations
                .iter()
                .flat_map(|labels: &Vec<Label>| {
                    values.iter().map(|value| {
                        let mut labels = labels.clone();
                        labels.push(Label::from_static_parts(label, value));
                        labels
                    })
                })
                .collect();
        }
        combinations
    }

    /// Registers the help text and every combination of labels at zero.
    fn register(&self) {
        let help = self.help.trim();
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, help),
            Kind::Gauge => metrics::describe_gauge!(self.name, help),
            Kind::Histogram(_) => metrics::describe_histogram!(self.name, help),
        }
        for labels in self.combinations() {
            match self.kind {
                Kind::Counter => metrics::counter!(self.name, labels).increment(0),
                Kind::Gauge => metrics::gauge!(self.name, labels).set(0.0),
                // Creating the handle registers the metric.
                Kind::Histogram(_) => drop(metrics::histogram!(self.name, labels)),
            }
        }
    }
}

/// A number that only grows; its name ends in `_total`.
#[derive(Debug)]
pub struct Counter<const N: usize>(pub Definition);

/// A number that goes up and down.
#[derive(Debug)]
pub struct Gauge<const N: usize>(pub Definition);

/// A distribution of values by buckets; its name ends in the unit.
#[derive(Debug)]
pub struct Histogram<const N: usize>(pub Definition);

impl<const N: usize> Counter<N> {
    /// Creates the metric; [`define_metrics!`](crate::define_metrics) checks the name at compile time.
    pub const fn new(name: &'static str, help: &'static str, labels: &'static [LabelValues; N]) -> Self {
        assert!(ends_with(name, "_total"), "a counter's name ends in _total");
        Self(Definition {
            kind: Kind::Counter,
            name,
            help,
            labels,
        })
    }

    fn add(&self, labels: [&str; N], n: u64) {
        metrics::counter!(self.0.name, self.0.labels(&labels)).increment(n);
    }
}

impl Counter<0> {
    /// Adds `n`.
    pub fn increment(&self, n: u64) {
        self.add([], n);
    }
}

impl Counter<1> {
    /// Adds `n` for the value of the label.
    pub fn increment(&self, value: &str, n: u64) {
        self.add([value], n);
    }
}

impl Counter<2> {
    /// Adds `n` for the values of both labels.
    pub fn increment(&self, first: &str, second: &str, n: u64) {
        self.add([first, second], n);
    }
}

impl<const N: usize> Gauge<N> {
    /// Creates the metric; [`define_metrics!`](crate::define_metrics) checks the name at compile time.
    pub const fn new(name: &'static str, help: &'static str, labels: &'static [LabelValues; N]) -> Self {
        assert!(!ends_with(name, "_total"), "a gauge's name does not end in _total");
        Self(Definition {
            kind: Kind::Gauge,
            name,
            help,
            labels,
        })
    }

    fn write(&self, labels: [&str; N], value: f64) {
        metrics::gauge!(self.0.name, self.0.labels(&labels)).set(value);
    }
}

impl Gauge<0> {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.write([], value);
    }
}

impl Gauge<1> {
    /// Sets the value for the value of the label.
    pub fn set(&self, label: &str, value: f64) {
        self.write([label], value);
    }
}

impl Gauge<2> {
    /// Sets the value for the values of both labels.
    pub fn set(&self, first: &str, second: &str, value: f64) {
        self.write([first, second], value);
    }
}

impl<const N: usize> Histogram<N> {
    /// Creates the metric; [`define_metrics!`](crate::define_metrics) checks the name at compile time.
    pub const fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [LabelValues; N],
        buckets: &'static [f64],
    ) -> Self {
        assert!(
            ends_with(name, "_seconds")
                || ends_with(name, "_bytes")
                || ends_with(name, "_rows")
                || ends_with(name, "_entries"),
            "a histogram's name ends in _seconds, _bytes, _rows or _entries"
        );
        Self(Definition {
            kind: Kind::Histogram(buckets),
            name,
            help,
            labels,
        })
    }

    fn observe(&self, labels: [&str; N], value: f64) {
        metrics::histogram!(self.0.name, self.0.labels(&labels)).record(value);
    }
}

impl Histogram<0> {
    /// Records a value in the metric's unit.
    pub fn record(&self, value: f64) {
        self.observe([], value);
    }
}

impl Histogram<1> {
    /// Records a value in the metric's unit, for the value of the label.
    pub fn record(&self, label: &str, value: f64) {
        self.observe([label], value);
    }
}

/// Installs the recorder of the process, with every metric of `definitions` at zero and `<worker>_build_info{version}`.
/// The handle renders them.
pub fn install(worker: &str, version: &'static str, definitions: Definitions) -> anyhow::Result<PrometheusHandle> {
    let handle = builder(definitions)?
        .install_recorder()
        .context("installing the metrics recorder")?;
    register(worker, version, definitions);
    Ok(handle)
}

fn builder(definitions: Definitions) -> anyhow::Result<PrometheusBuilder> {
    let mut builder = PrometheusBuilder::new();
    for Definition { kind, name, .. } in definitions {
        if let Kind::Histogram(buckets) = kind {
            builder = builder
                .set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)
                .with_context(|| format!("buckets of {name}"))?;
        }
    }
    Ok(builder)
}

fn register(worker: &str, version: &'static str, definitions: Definitions) {
    let build_info = format!("{worker}_build_info");
    metrics::describe_gauge!(build_info.clone(), "Always 1; the version that runs is a label.");
    metrics::gauge!(build_info, "version" => version).set(1.0);
    definitions.iter().for_each(|metric| metric.register());
}

const fn ends_with(text: &str, end: &str) -> bool {
    let (text, end) = (text.as_bytes(), end.as_bytes());
    if text.len() < end.len() {
        return false;
    }
    let mut at = 0;
    while at < end.len() {
        if text[text.len() - end.len() + at] != end[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    define_metrics! {
        prefix "test";

        /// Ticks folded
        /// into candles.
        Counter TICKS = "ticks_total";
        /// Refused, by reason.
        Counter REFUSED = "refused_total", reason = &["future", "price"];
        /// Rows written.
        Counter ROWS = "rows_total", table = &["a", "b"], outcome = &["new", "same"];
        /// Behind, by partition.
        Gauge LAG = "lag_entries", partition = &[];
        /// Connected.
        Gauge CONNECTED = "connected_count";
        /// Time of a batch.
        Histogram(&[0.1, 1.0]) BATCH = "batch_seconds";
        /// Time of a query.
        Histogram(SECONDS) QUERY = "query_seconds", table = &["a"];
    }

    fn rendered(act: impl FnOnce()) -> String {
        let recorder = builder(DEFINITIONS).unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            register("test", "1.2.3", DEFINITIONS);
            act();
        });
        recorder.handle().render()
    }

    #[track_caller]
    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|shown| shown == *line), "no line `{line}` in\n{text}");
        }
    }

    #[test]
    fn everything_shows_zero_from_the_start() {
        assert_lines(
            &rendered(|| {}),
            &[
                "# HELP test_ticks_total Ticks folded into candles.",
                "# TYPE test_ticks_total counter",
                "test_ticks_total 0",
                "test_refused_total{reason=\"future\"} 0",
                "test_refused_total{reason=\"price\"} 0",
                "test_rows_total{table=\"b\",outcome=\"same\"} 0",
                "test_connected_count 0",
                "test_batch_seconds_bucket{le=\"0.1\"} 0",
                "test_batch_seconds_count 0",
                "test_query_seconds_count{table=\"a\"} 0",
                "test_build_info{version=\"1.2.3\"} 1",
            ],
        );
    }

    #[test]
    fn handles_write_to_their_metric() {
        let text = rendered(|| {
            TICKS.increment(3);
            REFUSED.increment("price", 2);
            ROWS.increment("a", "new", 5);
            LAG.set("7", 12.0);
            CONNECTED.set(1.0);
            BATCH.record(0.5);
            QUERY.record("a", 0.002);
        });
        assert_lines(
            &text,
            &[
                "test_ticks_total 3",
                "test_refused_total{reason=\"price\"} 2",
                "test_rows_total{table=\"a\",outcome=\"new\"} 5",
                "test_lag_entries{partition=\"7\"} 12",
                "test_connected_count 1",
                "test_batch_seconds_bucket{le=\"0.1\"} 0",
                "test_batch_seconds_bucket{le=\"1\"} 1",
                "test_query_seconds_bucket{table=\"a\",le=\"0.0025\"} 1",
            ],
        );
    }

    #[test]
    fn a_label_takes_no_value_beyond_its_set() {
        let text = rendered(|| REFUSED.increment("BTCUSDT", 1));
        assert_lines(&text, &["test_refused_total{reason=\"other\"} 1"]);
        assert!(!text.contains("BTCUSDT"));
    }
}
