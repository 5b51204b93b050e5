//! What a soak did, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::run::Soak;

impl Soak {
    /// What was sent, what must have come of it, what was done to it and how it took that.
    pub(crate) async fn summary(&mut self) -> String {
        let mut text = String::new();
        if let Some(publisher) = &self.pipeline.publisher {
            let _ = writeln!(
                text,
                "entries    {} sent, of {} in the load; {} batches failed and were sent again",
                publisher.accepted(),
                self.load.entries.len(),
                publisher.failures()
            );
        }
        let _ = writeln!(
            text,
            "must be    {} distinct ticks of {} lots in {} candles, {} duplicates left out, {} dead letters",
            self.expected.ticks(),
            self.expected.lots(),
            self.expected.candles(),
            self.load.duplicates(),
            self.expected.dead_letters()
        );
        for (kind, count) in &self.made {
            let _ = writeln!(text, "fault      {count:3} {kind}");
        }
        let _ = writeln!(text, "restarts   {} of workers that ended by themselves", self.restarts);
        let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for watched in std::mem::take(&mut self.handovers) {
            let cause = watched.cause;
            times.entry(cause).or_default().extend(watched.time().await);
        }
        for (cause, mut times) in times.into_iter().filter(|(_, times)| !times.is_empty()) {
            times.sort();
            let shown: Vec<String> = times.iter().map(|time| format!("{:.1}", time.as_secs_f64())).collect();
            let _ = writeln!(text, "hand-over  after {cause}: {} s", shown.join(" "));
        }
        let _ = match self.drained_after {
            Some(time) => write!(
                text,
                "drained    {:.1} s after the last tick was due",
                time.as_secs_f64()
            ),
            None => write!(text, "drained    never"),
        };
        text
    }
}
