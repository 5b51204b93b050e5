//! Versions of PostgreSQL and TimescaleDB with known faults.

use super::edition::{Edition, Server};

/// A fault and the versions that have it.
struct Known {
    /// `true` if only a server with several sessions has the fault: refreshes that overlap, or a scheduler.
    is_of_sessions: bool,
    /// First and last version of PostgreSQL; `None` for all.
    postgres: Option<[Version; 2]>,
    /// First and last version of TimescaleDB.
    timescale: [Version; 2],
    /// The effect and the remedy.
    fault: &'static str,
}

/// Major, minor and patch.
type Version = [u32; 3];

/// The faults concern continuous aggregates and jobs, which the Apache edition lacks.
const KNOWN: [Known; 3] = [
    Known {
        is_of_sessions: false,
        postgres: None,
        timescale: [[0, 0, 0], [2, 17, u32::MAX]],
        fault: "refreshes can't be forced, so `aggregator-admin refresh` fails; update TimescaleDB to 2.18 or later",
    },
    Known {
        is_of_sessions: true,
        postgres: None,
        timescale: [[2, 21, 0], [2, 26, 2]],
        fault: "refreshes that overlap leave duplicate rows in the larger timeframes; update TimescaleDB to 2.26.3 or \
                later, and find and remove duplicates with `aggregator-admin verify` and \
                `aggregator-admin refresh --all`",
    },
    Known {
        is_of_sessions: true,
        postgres: Some([[17, 12, 0], [17, 12, u32::MAX]]),
        timescale: [[0, 0, 0], [2, 29, 2]],
        fault: "every scheduled job ends as failed, \"cannot drop portal\", though its work is done; update \
                TimescaleDB to a version after 2.29.2, or run another minor version of PostgreSQL 17",
    },
];

/// Describes the known faults of the versions of `server`, with remedies.
pub fn faults(server: &Server) -> Vec<String> {
    if server.edition == Edition::Apache {
        return Vec::new();
    }
    let (postgres, timescale) = (&server.postgres_version, &server.timescale_version);
    let within = |[first, last]: [Version; 2], text: &str| (first..=last).contains(&version(text));
    KNOWN
        .iter()
        .filter(|known| {
            within(known.timescale, timescale)
                && known.postgres.is_none_or(|range| within(range, postgres))
                && !(known.is_of_sessions && server.single_session)
        })
        .map(|known| format!("PostgreSQL {postgres} with TimescaleDB {timescale}: {}", known.fault))
        .collect()
}

/// Parses `2.23.0-dev` as 2.23.0 and `17.12 (Debian 17.12-1)` as 17.12.0; a part that is not a number counts as 0.
fn version(text: &str) -> Version {
    let numbers = text
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()
        .unwrap_or_default();
    let mut parts = numbers.split('.').map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(postgres: &str, timescale: &str, edition: Edition) -> Server {
        Server {
            postgres_version: postgres.to_owned(),
            timescale_version: timescale.to_owned(),
            edition,
            has_scheduler: true,
            single_session: false,
        }
    }

    fn found(postgres: &str, timescale: &str, edition: Edition) -> Vec<String> {
        faults(&server(postgres, timescale, edition))
    }

    #[test]
    fn known_bad_versions_are_named_with_what_to_do() {
        for timescale in ["2.21.0", "2.23.0", "2.23.0-dev", "2.26.2"] {
            let faults = found("17.5", timescale, Edition::Community);
            assert!(
                matches!(faults.as_slice(), [fault] if fault.contains("duplicate rows") && fault.contains("2.26.3")),
                "{timescale}: {faults:?}"
            );
        }
        let portal = found("17.12 (Debian 17.12-1.pgdg12+1)", "2.29.2", Edition::Community);
        assert!(
            matches!(portal.as_slice(), [fault] if fault.contains("cannot drop portal")),
            "{portal:?}"
        );
        assert_eq!(found("17.12", "2.23.0", Edition::Community).len(), 2);
        assert!(found("16.4", "2.17.2", Edition::Community)[0].contains("can't be forced"));
    }

    #[test]
    fn other_versions_and_the_apache_edition_have_none() {
        for (postgres, timescale) in [
            ("17.5", "2.18.0"),
            ("17.5", "2.20.3"),
            ("17.11", "2.26.3"),
            ("17.13", "2.29.2"),
            ("17.12", "2.29.3"),
            ("17.12", "2.30.0"),
            ("18.1", "3.0"),
        ] {
            assert_eq!(found(postgres, timescale, Edition::Community), Vec::<String>::new());
        }
        assert!(found("17.12", "2.23.0", Edition::Apache).is_empty());
        let embedded = Server {
            has_scheduler: false,
            single_session: true,
            ..server("17.12", "2.23.0", Edition::Community)
        };
        assert!(faults(&embedded).is_empty());
    }
}
