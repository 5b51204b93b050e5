//! Summary of a soak, printed at its end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::run::Soak;

impl Soak {
    /// Formats the entries sent, the expected history, the faults, and the times of recovery.
    pub(crate) async fn summary(&mut self) -> String {
        let mut text = String::new();
        if let Some(publisher) = &self.publisher {
            let _ = writeln!(
                text,
                "entries    {} sent, {} in the load; {} batches failed and were sent again",
                publisher.accepted(),
                self.load.entries.len(),
                publisher.failures()
            );
        }
        let _ = writeln!(
            text,
            "expected   {} distinct ticks of {} lots in {} candles, {} duplicates dropped, {} dead letters",
            self.expected.ticks(),
            self.expected.lots(),
            self.expected.candles(),
            self.load.duplicates(),
            self.expected.dead_letters()
        );
        for (kind, count) in &self.injected {
            let _ = writeln!(text, "fault      {count:3} {kind}");
        }
        let _ = writeln!(
            text,
            "restarts   {} of workers that exited without a fault",
            self.restarts
        );
        let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for handover in std::mem::take(&mut self.handovers) {
            let cause = handover.cause;
            times.entry(cause).or_default().extend(handover.time().await);
        }
        for (cause, mut times) in times.into_iter().filter(|(_, times)| !times.is_empty()) {
            times.sort();
            let seconds: Vec<String> = times.iter().map(|time| format!("{:.1}", time.as_secs_f64())).collect();
            let _ = writeln!(text, "handover   after {cause}: {} s", seconds.join(" "));
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
