//! Schedule of faults: kind, target, time and duration, as a pure function of the seed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use acceptance::faults::NetworkFault;
use acceptance::network::Store;
use acceptance::producer::PARTITIONS;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use storage_core::redis::stream::Stream;

/// Workers; a fault names one by its index.
pub(crate) const WORKERS: [&str; 7] = [
    "hot-writer 1",
    "hot-writer 2",
    "hot-writer 3",
    "warm-syncer 1",
    "warm-syncer 2",
    "aggregator-admin 1",
    "aggregator-admin 2",
];

/// Index of the producer, behind those of the workers.
pub(crate) const PRODUCER: usize = WORKERS.len();

/// Time at the start and at the end without a fault.
const MARGIN: Duration = Duration::from_secs(2);
/// Number of draws for a fault whose target has no other fault at that time.
const ATTEMPTS: usize = 50;

/// A fault to inject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A worker is killed and started again.
    Kill(usize),
    /// A worker is suspended (SIGSTOP) and resumed.
    Suspend(usize),
    /// A worker receives SIGTERM and is started again.
    Terminate(usize),
    /// The network between clients and a store fails.
    Network {
        store: Store,
        clients: Clients,
        fault: NetworkFault,
    },
    /// Redis is killed and started again.
    RedisRestart,
    /// Redis crashes and loses its last writes, and the producer sends them again.
    RedisLosesWrites { within: Duration },
    /// Redis is at its memory limit.
    RedisFull,
    /// The clock of Redis jumps by this number of seconds, and back.
    ClockStep(i64),
    /// Every function is removed from Redis.
    FunctionsFlushed,
    /// A group is destroyed.
    GroupDestroyed(Stream, &'static str),
    /// A group is reset to the oldest entry.
    GroupSetBack(Stream, &'static str),
    /// The database server is killed and started again.
    DatabaseRestart,
    /// The disk of the database is full.
    DiskFull,
    /// PostgreSQL terminates every session.
    SessionsTerminated,
}

/// Clients whose connections fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clients {
    /// One worker, or the producer.
    One(usize),
    /// All workers and the producer.
    All,
}

/// A scheduled fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Time since the start.
    pub(crate) at: Duration,
    /// Time until recovery.
    pub(crate) lasts: Duration,
    pub(crate) fault: Fault,
}

/// Kind of database server, which determines the faults that are possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// A server in WebAssembly with one session: only the network to it can fail.
    Embedded,
    /// A server that can be killed.
    Native,
    /// A server on a small disk, which is lost when it is killed.
    NativeOnSmallDisk,
}

/// A target of faults, which has at most one fault at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Worker(usize),
    Link(Store, usize),
    Redis,
    Database,
}

/// Returns `count` faults spread over `length`.
pub(crate) fn schedule(seed: u64, length: Duration, count: u32, server: Server) -> Vec<Event> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut busy_until: BTreeMap<Target, Duration> = BTreeMap::new();
    let slot = length.saturating_sub(2 * MARGIN) / count.max(1);
    let mut events = Vec::new();
    for number in 0..count {
        let at = MARGIN + slot * number + slot.mul_f64(rng.random());
        let drawn = (0..ATTEMPTS).find_map(|_| {
            let (fault, longest) = draw(&mut rng, server);
            let lasts = Duration::from_millis(rng.random_range(200..=longest));
            let free = fault
                .targets()
                .iter()
                .all(|target| busy_until.get(target).is_none_or(|until| *until < at));
            free.then_some(Event { at, lasts, fault })
        });
        if let Some(event) = drawn {
            for target in event.fault.targets() {
                busy_until.insert(target, event.at + event.lasts);
            }
            events.push(event);
        }
    }
    events
}

/// Returns a random fault, and its longest duration in ms.
fn draw(rng: &mut Xoshiro256PlusPlus, server: Server) -> (Fault, u64) {
    match rng.random_range(0..25) {
        0..=5 => (Fault::Kill(rng.random_range(0..WORKERS.len())), 5_000),
        6 | 7 => (Fault::Suspend(rng.random_range(0..WORKERS.len())), 5_000),
        8..=10 => (Fault::Terminate(rng.random_range(0..WORKERS.len())), 5_000),
        11..=15 => (network(rng), 4_000),
        16 => (Fault::RedisRestart, 3_000),
        17 => {
            let within = Duration::from_millis(rng.random_range(50..=1_000));
            (Fault::RedisLosesWrites { within }, 2_000)
        }
        18 => (Fault::RedisFull, 3_000),
        19 => (Fault::FunctionsFlushed, 1_000),
        20 => {
            let (stream, group) = group(rng);
            (Fault::GroupDestroyed(stream, group), 200)
        }
        21 => {
            let (stream, group) = group(rng);
            (Fault::GroupSetBack(stream, group), 200)
        }
        22 => {
            let seconds = rng.random_range(2..=30);
            (
                Fault::ClockStep(if rng.random_bool(0.5) { seconds } else { -seconds }),
                4_000,
            )
        }
        _ if server == Server::Embedded => (network(rng), 4_000),
        23 if server == Server::Native => (Fault::DatabaseRestart, 4_000),
        23 => (Fault::DiskFull, 4_000),
        _ => (Fault::SessionsTerminated, 200),
    }
}

fn network(rng: &mut Xoshiro256PlusPlus) -> Fault {
    let store = if rng.random_bool(0.5) {
        Store::Redis
    } else {
        Store::Database
    };
    let clients = match store {
        _ if rng.random_bool(0.25) => Clients::All,
        Store::Redis => Clients::One(rng.random_range(0..=PRODUCER)),
        // hot-writer does not connect to the database.
        Store::Database => Clients::One(rng.random_range(3..WORKERS.len())),
    };
    let fault = match rng.random_range(0..5) {
        0 => NetworkFault::Reset,
        1 => NetworkFault::Refuse,
        2 => NetworkFault::Blackhole,
        3 => NetworkFault::Slow(Duration::from_millis(rng.random_range(10..=200))),
        _ => NetworkFault::Fragment(rng.random_range(1..=100)),
    };
    Fault::Network { store, clients, fault }
}

fn group(rng: &mut Xoshiro256PlusPlus) -> (Stream, &'static str) {
    let streams = Stream::all(PARTITIONS);
    let stream = streams[rng.random_range(0..streams.len())];
    let groups = stream.groups();
    (stream, groups[rng.random_range(0..groups.len())])
}

impl Fault {
    fn targets(&self) -> Vec<Target> {
        match self {
            Self::Kill(worker) | Self::Suspend(worker) | Self::Terminate(worker) => vec![Target::Worker(*worker)],
            Self::Network {
                store,
                clients: Clients::One(end),
                ..
            } => vec![Target::Link(*store, *end)],
            Self::Network {
                store,
                clients: Clients::All,
                ..
            } => (0..=PRODUCER).map(|end| Target::Link(*store, end)).collect(),
            Self::RedisRestart
            | Self::RedisLosesWrites { .. }
            | Self::RedisFull
            | Self::ClockStep(_)
            | Self::FunctionsFlushed
            | Self::GroupDestroyed(..)
            | Self::GroupSetBack(..) => vec![Target::Redis],
            Self::DatabaseRestart | Self::DiskFull | Self::SessionsTerminated => vec![Target::Database],
        }
    }

    /// Returns the kind of the fault, without its parameters.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Kill(worker) => format!("kill -9 {}", program(*worker)),
            Self::Suspend(worker) => format!("SIGSTOP {}", program(*worker)),
            Self::Terminate(worker) => format!("SIGTERM {}", program(*worker)),
            Self::Network { store, .. } => format!("network to {}", name(*store)),
            Self::RedisLosesWrites { .. } => "Redis loses its last writes".to_owned(),
            Self::ClockStep(_) => "Redis's clock jumps".to_owned(),
            Self::GroupDestroyed(..) => "group destroyed".to_owned(),
            Self::GroupSetBack(..) => "group set back".to_owned(),
            other => other.to_string(),
        }
    }
}

fn program(worker: usize) -> &'static str {
    WORKERS[worker].split(' ').next().unwrap_or_default()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(worker) => write!(f, "kill -9 {}", WORKERS[*worker]),
            Self::Suspend(worker) => write!(f, "SIGSTOP {}", WORKERS[*worker]),
            Self::Terminate(worker) => write!(f, "SIGTERM {}", WORKERS[*worker]),
            Self::Network { store, clients, fault } => write!(f, "network of {clients} to {}: {fault}", name(*store)),
            Self::RedisRestart => f.write_str("kill -9 Redis"),
            Self::RedisLosesWrites { within } => {
                write!(f, "Redis loses the writes of its last {} ms", within.as_millis())
            }
            Self::RedisFull => f.write_str("Redis is full"),
            Self::ClockStep(seconds) => write!(f, "Redis's clock jumps by {seconds:+} s"),
            Self::FunctionsFlushed => f.write_str("FUNCTION FLUSH"),
            Self::GroupDestroyed(stream, group) => write!(f, "group {group} of {stream} destroyed"),
            Self::GroupSetBack(stream, group) => write!(f, "group {group} of {stream} set back to the oldest entry"),
            Self::DatabaseRestart => f.write_str("kill -QUIT the database server"),
            Self::DiskFull => f.write_str("the database's disk is full"),
            Self::SessionsTerminated => f.write_str("pg_terminate_backend of all sessions"),
        }
    }
}

fn name(store: Store) -> &'static str {
    match store {
        Store::Redis => "Redis",
        Store::Database => "the database",
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::One(end) => f.write_str(WORKERS.get(*end).unwrap_or(&"the producer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_MINUTES: Duration = Duration::from_secs(600);

    #[test]
    fn the_same_seed_makes_the_same_schedule_and_another_seed_another() {
        let of = |seed| schedule(seed, TEN_MINUTES, 100, Server::Native);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn a_schedule_has_the_requested_number_of_faults_in_order_and_within_the_time() {
        for seed in 0..20 {
            let events = schedule(seed, TEN_MINUTES, 100, Server::Native);
            assert_eq!(events.len(), 100, "seed {seed}");
            assert!(events.is_sorted_by_key(|event| event.at));
            assert!(events.iter().all(|event| event.at <= TEN_MINUTES));
        }
    }

    #[test]
    fn a_target_has_at_most_one_fault_at_a_time() {
        let events = schedule(3, TEN_MINUTES, 300, Server::Native);
        for (number, event) in events.iter().enumerate() {
            let later = events[number + 1..]
                .iter()
                .take_while(|later| later.at <= event.at + event.lasts);
            for later in later {
                let both = later
                    .fault
                    .targets()
                    .into_iter()
                    .find(|target| event.fault.targets().contains(target));
                assert_eq!(both, None, "{event:?} {later:?}");
            }
        }
    }

    #[test]
    fn the_embedded_server_itself_has_no_faults() {
        let events = schedule(1, TEN_MINUTES, 300, Server::Embedded);
        assert!(
            events
                .iter()
                .all(|event| !event.fault.targets().contains(&Target::Database))
        );
    }
}
