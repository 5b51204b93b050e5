//! State of a scenario.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use acceptance::disk_filler::DiskFiller;
use acceptance::oracle::Trade;
use acceptance::pipeline::Pipeline;
use acceptance::producer;
use acceptance::publisher::Publisher;
use acceptance::redis_server::Written;
use acceptance::replicated::Replicated;
use nix::sys::signal::Signal;
use serde_json::Value;
use storage_core::testing::certificates::Certificates;
use storage_core::testing::process::ServerProcess;
use storage_core::testing::program::Outcome;
use tokio::task::JoinHandle;

/// The pipeline of a scenario, what was sent to it, and the outcomes of commands.
#[derive(Debug, cucumber::World)]
#[world(init = Self::start)]
pub(crate) struct World {
    // First, as fields are dropped in order: Redis may use the certificates.
    pub(crate) pipeline: Pipeline,
    pub(crate) started: Instant,
    /// Trades that were sent and must be counted, in order.
    pub(crate) trades: Vec<Trade>,
    pub(crate) feed: Option<Publisher>,
    /// Keeps the disk of the dedicated database server full.
    pub(crate) disk_filler: Option<DiskFiller>,
    /// Outcome of the last command of a step.
    pub(crate) outcome: Option<Outcome>,
    /// Outcomes of the last programs that a step ran together, by command.
    pub(crate) outcomes: BTreeMap<String, Outcome>,
    pub(crate) notes: Notes,
}

/// Values that a step keeps for a later step of the same topic.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Stream and ID of the last entry of a trade or of an invalid tick.
    pub(crate) entry: (String, String),
    /// Number of kills at the points of a table.
    pub(crate) kills: usize,
    /// Slowest handover after each signal.
    pub(crate) handovers_ms: HashMap<Signal, u128>,
    /// Start of the minute of the trades, since 1970, by the number of days ago.
    pub(crate) minutes_us: HashMap<i64, i64>,
    /// Messages since the subscription, each with its channel.
    pub(crate) messages: Arc<Mutex<Vec<(String, Value)>>>,
    /// Number of published 1-minute candles that were fresh, and of all, at the begin and at the end of a delay.
    pub(crate) ages: Option<[(f64, f64); 2]>,
    /// A replay in the background.
    pub(crate) replay: Option<JoinHandle<io::Result<Outcome>>>,
    pub(crate) replicated: Option<Replicated>,
    /// Sizes of the files of Redis at its backup.
    pub(crate) backup: Option<Written>,
    pub(crate) certificates: Option<Certificates>,
    /// A Prometheus and its port.
    pub(crate) prometheus: Option<(ServerProcess, u16)>,
}

impl World {
    async fn start() -> anyhow::Result<Self> {
        Ok(Self {
            pipeline: Pipeline::start().await?,
            started: Instant::now(),
            trades: Vec::new(),
            feed: None,
            disk_filler: None,
            outcome: None,
            outcomes: BTreeMap::new(),
            notes: Notes::default(),
        })
    }

    /// Ends the processes that use the database, and the database.
    pub(crate) async fn close(&mut self) {
        self.feed = None;
        self.disk_filler = None;
        self.pipeline.close().await;
    }

    /// Sends a trade that must be counted, and returns its stream and ID.
    pub(crate) async fn send(&mut self, trade: Trade) -> (String, String) {
        let entry = self.pipeline.send(&trade.symbol, &producer::fields(&trade)).await;
        self.trades.push(trade);
        entry
    }

    pub(crate) fn feed(&self) -> &Publisher {
        self.feed.as_ref().expect("a feed")
    }

    pub(crate) fn outcome(&self) -> &Outcome {
        self.outcome.as_ref().expect("a command that ran")
    }
}
