//! Which fault is made when, against whom and for how long: a pure function of the seed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use acceptance::network::Store;
use acceptance::pipeline::PARTITIONS;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use storage_core::redis::stream::Stream;

/// The workers, in the order in which a fault names them.
pub(crate) const WORKERS: [&str; 7] = [
    "hot-writer 1",
    "hot-writer 2",
    "hot-writer 3",
    "warm-syncer 1",
    "warm-syncer 2",
    "aggregator-admin 1",
    "aggregator-admin 2",
];

/// The producer's place behind the workers, among those who have a connection.
pub(crate) const PRODUCER: usize = WORKERS.len();

/// Time at the start and at the end without a fault.
const MARGIN: Duration = Duration::from_secs(2);
/// How often another fault is drawn when what it concerns suffers from one already.
const ATTEMPTS: usize = 50;

/// What is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A worker is killed, and another started.
    Kill(usize),
    /// A worker stands still, and goes on.
    Stop(usize),
    /// A worker is told to end, and another started.
    Leave(usize),
    /// The network between some and a store.
    Network { store: Store, of: Ends, trouble: Trouble },
    /// Redis is killed and started again.
    RedisRestart,
    /// Redis loses what it was told in the last milliseconds, and the producer sends it again.
    RedisCut { back: Duration },
    /// Redis is at its memory limit.
    RedisFull,
    /// Redis's clock jumps by so many seconds, and back.
    ClockStep(i64),
    /// The functions are gone.
    FunctionsFlushed,
    /// A group is gone.
    GroupDestroyed(Stream, &'static str),
    /// A group is back at the beginning.
    GroupRewound(Stream, &'static str),
    /// The database server is killed and started again.
    DatabaseRestart,
    /// The disk that the database lies on is full.
    DiskFull,
    /// The database ends every session, in mid-transaction where there is one.
    SessionsEnded,
}

/// Whose connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// One worker's, or the producer's.
    One(usize),
    /// Everybody's.
    All,
}

/// What a network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Every connection is reset; new ones are taken.
    Reset,
    /// Every connection is reset, and new ones are too.
    Refuse,
    /// What is sent arrives nowhere, and nobody says so.
    Silence,
    /// Every piece takes so long.
    Slow(Duration),
    /// Pieces of so many bytes.
    Slice(usize),
}

/// A fault and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Since the start.
    pub(crate) at: Duration,
    /// After how long it is healed.
    pub(crate) lasts: Duration,
    pub(crate) fault: Fault,
}

/// The database server, by which some faults can be made and others not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// In WebAssembly, one session at a time: only the network to it fails.
    Embedded,
    /// It can be killed.
    Native,
    /// It lies on a small disk, which is lost when it is killed.
    NativeOnSmallDisk,
}

/// What can suffer from one fault at a time only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Resource {
    Worker(usize),
    Link(Store, usize),
    Redis,
    Database,
}

/// `count` faults spread over `length`.
pub(crate) fn schedule(seed: u64, length: Duration, count: u32, server: Server) -> Vec<Event> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut busy_until: BTreeMap<Resource, Duration> = BTreeMap::new();
    let slot = length.saturating_sub(2 * MARGIN) / count.max(1);
    let mut events = Vec::new();
    for number in 0..count {
        let at = MARGIN + slot * number + slot.mul_f64(rng.random());
        let drawn = (0..ATTEMPTS).find_map(|_| {
            let (fault, longest) = draw(&mut rng, server);
            let lasts = Duration::from_millis(rng.random_range(200..=longest));
            let free = fault
                .concerns()
                .iter()
                .all(|resource| busy_until.get(resource).is_none_or(|until| *until < at));
            free.then_some(Event { at, lasts, fault })
        });
        if let Some(event) = drawn {
            for resource in event.fault.concerns() {
                busy_until.insert(resource, event.at + event.lasts);
            }
            events.push(event);
        }
    }
    events
}

/// A fault, and how long it may last in ms.
fn draw(rng: &mut Xoshiro256PlusPlus, server: Server) -> (Fault, u64) {
    match rng.random_range(0..25) {
        0..=5 => (Fault::Kill(rng.random_range(0..WORKERS.len())), 5_000),
        6 | 7 => (Fault::Stop(rng.random_range(0..WORKERS.len())), 5_000),
        8..=10 => (Fault::Leave(rng.random_range(0..WORKERS.len())), 5_000),
        11..=15 => (network(rng), 4_000),
        16 => (Fault::RedisRestart, 3_000),
        17 => {
            let back = Duration::from_millis(rng.random_range(50..=1_000));
            (Fault::RedisCut { back }, 2_000)
        }
        18 => (Fault::RedisFull, 3_000),
        19 => (Fault::FunctionsFlushed, 1_000),
        20 => {
            let (stream, group) = group(rng);
            (Fault::GroupDestroyed(stream, group), 200)
        }
        21 => {
            let (stream, group) = group(rng);
            (Fault::GroupRewound(stream, group), 200)
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
        _ => (Fault::SessionsEnded, 200),
    }
}

fn network(rng: &mut Xoshiro256PlusPlus) -> Fault {
    let store = if rng.random_bool(0.5) {
        Store::Redis
    } else {
        Store::Database
    };
    let of = match store {
        _ if rng.random_bool(0.25) => Ends::All,
        Store::Redis => Ends::One(rng.random_range(0..=PRODUCER)),
        // Hot-writers have no database.
        Store::Database => Ends::One(rng.random_range(3..WORKERS.len())),
    };
    let trouble = match rng.random_range(0..5) {
        0 => Trouble::Reset,
        1 => Trouble::Refuse,
        2 => Trouble::Silence,
        3 => Trouble::Slow(Duration::from_millis(rng.random_range(10..=200))),
        _ => Trouble::Slice(rng.random_range(1..=100)),
    };
    Fault::Network { store, of, trouble }
}

fn group(rng: &mut Xoshiro256PlusPlus) -> (Stream, &'static str) {
    let streams = Stream::all(PARTITIONS);
    let stream = streams[rng.random_range(0..streams.len())];
    let groups = stream.groups();
    (stream, groups[rng.random_range(0..groups.len())])
}

impl Fault {
    fn concerns(&self) -> Vec<Resource> {
        match self {
            Self::Kill(worker) | Self::Stop(worker) | Self::Leave(worker) => vec![Resource::Worker(*worker)],
            Self::Network {
                store,
                of: Ends::One(end),
                ..
            } => vec![Resource::Link(*store, *end)],
            Self::Network {
                store, of: Ends::All, ..
            } => (0..=PRODUCER).map(|end| Resource::Link(*store, end)).collect(),
            Self::RedisRestart
            | Self::RedisCut { .. }
            | Self::RedisFull
            | Self::ClockStep(_)
            | Self::FunctionsFlushed
            | Self::GroupDestroyed(..)
            | Self::GroupRewound(..) => vec![Resource::Redis],
            Self::DatabaseRestart | Self::DiskFull | Self::SessionsEnded => vec![Resource::Database],
        }
    }

    /// The kind of fault, for counting.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Kill(worker) => format!("kill -9 {}", program(*worker)),
            Self::Stop(worker) => format!("SIGSTOP {}", program(*worker)),
            Self::Leave(worker) => format!("SIGTERM {}", program(*worker)),
            Self::Network { store, .. } => format!("network to {}", name(*store)),
            Self::RedisCut { .. } => "Redis loses its last entries".to_owned(),
            Self::ClockStep(_) => "Redis's clock jumps".to_owned(),
            Self::GroupDestroyed(..) => "group destroyed".to_owned(),
            Self::GroupRewound(..) => "group rewound".to_owned(),
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
            Self::Stop(worker) => write!(f, "SIGSTOP {}", WORKERS[*worker]),
            Self::Leave(worker) => write!(f, "SIGTERM {}", WORKERS[*worker]),
            Self::Network { store, of, trouble } => write!(f, "network of {of} to {}: {trouble}", name(*store)),
            Self::RedisRestart => f.write_str("kill -9 Redis"),
            Self::RedisCut { back } => write!(f, "Redis loses its last {} ms", back.as_millis()),
            Self::RedisFull => f.write_str("Redis is full"),
            Self::ClockStep(seconds) => write!(f, "Redis's clock jumps by {seconds:+} s"),
            Self::FunctionsFlushed => f.write_str("FUNCTION FLUSH"),
            Self::GroupDestroyed(stream, group) => write!(f, "group {group} of {stream} destroyed"),
            Self::GroupRewound(stream, group) => write!(f, "group {group} of {stream} rewound to its beginning"),
            Self::DatabaseRestart => f.write_str("kill -QUIT the database server"),
            Self::DiskFull => f.write_str("the database's disk is full"),
            Self::SessionsEnded => f.write_str("pg_terminate_backend of all sessions"),
        }
    }
}

fn name(store: Store) -> &'static str {
    match store {
        Store::Redis => "Redis",
        Store::Database => "the database",
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::One(end) => f.write_str(WORKERS.get(*end).unwrap_or(&"the producer")),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => f.write_str("reset"),
            Self::Refuse => f.write_str("refused"),
            Self::Silence => f.write_str("silent"),
            Self::Slow(delay) => write!(f, "slow ({} ms)", delay.as_millis()),
            Self::Slice(bytes) => write!(f, "sliced ({bytes} bytes)"),
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
    fn faults_are_as_many_as_wanted_in_order_and_inside_the_time() {
        for seed in 0..20 {
            let events = schedule(seed, TEN_MINUTES, 100, Server::Native);
            assert_eq!(events.len(), 100, "seed {seed}");
            assert!(events.is_sorted_by_key(|event| event.at));
            assert!(events.iter().all(|event| event.at <= TEN_MINUTES));
        }
    }

    #[test]
    fn nothing_suffers_from_two_faults_at_a_time() {
        let events = schedule(3, TEN_MINUTES, 300, Server::Native);
        for (number, event) in events.iter().enumerate() {
            let later = events[number + 1..]
                .iter()
                .take_while(|later| later.at <= event.at + event.lasts);
            for later in later {
                let both = later
                    .fault
                    .concerns()
                    .into_iter()
                    .find(|resource| event.fault.concerns().contains(resource));
                assert_eq!(both, None, "{event:?} {later:?}");
            }
        }
    }

    #[test]
    fn the_embedded_server_is_neither_killed_nor_told_to_end_sessions() {
        let events = schedule(1, TEN_MINUTES, 300, Server::Embedded);
        assert!(
            events
                .iter()
                .all(|event| !event.fault.concerns().contains(&Resource::Database))
        );
    }
}
