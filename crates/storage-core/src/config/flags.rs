//! The flags of the command line that set the configuration.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use figment::value::{Dict, Value};

use super::{Configuration, KeyFlag, Misconfigured};

/// Flags of the shared sections. A program has those whose section it has.
const SHARED: [KeyFlag; 3] = [
    KeyFlag {
        name: "redis-url",
        key: "redis.url",
        value_name: "URL",
        help: "URL of Redis [env: REDIS_URL]; pass a password in REDIS_PASSWORD_FILE, as flags show in process lists",
    },
    KeyFlag {
        name: "database-url",
        key: "postgres.url",
        value_name: "URL",
        help: "URL of PostgreSQL [env: DATABASE_URL]; pass a password in DATABASE_PASSWORD_FILE",
    },
    KeyFlag {
        name: "metrics-listen",
        key: "telemetry.metrics_listen",
        value_name: "ADDRESS",
        help: "Address of /metrics, /healthz and /readyz [env: METRICS_LISTEN]",
    },
];

const CONFIG: &str = "config";
const SET: &str = "set";

/// A key that was set outside of the configuration file.
#[derive(Debug, Clone)]
pub(super) struct Override {
    /// The flag or environment variable, for messages.
    pub(super) source: String,
    /// `section.key`.
    pub(super) key: String,
    pub(super) text: String,
}

/// Keys of the configuration that the command line sets.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub(super) file: Option<PathBuf>,
    pub(super) overrides: Vec<Override>,
}

impl Flags {
    /// Returns the arguments that a program with the configuration `C` takes, before or after its subcommand.
    pub fn args<C: Configuration>() -> Vec<Arg> {
        let arg = |name, value_name, help| {
            Arg::new(name)
                .long(name)
                .global(true)
                .value_name(value_name)
                .help(help)
                .help_heading("Configuration")
        };
        let file = arg(CONFIG, "FILE", "TOML file with the configuration").value_parser(value_parser!(PathBuf));
        let set = arg(
            SET,
            "SECTION.KEY=VALUE",
            "Sets any key of the configuration; may be repeated",
        );
        let keys = key_flags::<C>().map(|flag| arg(flag.name, flag.value_name, flag.help));
        std::iter::once(file)
            .chain(keys)
            .chain([set.action(ArgAction::Append)])
            .collect()
    }

    /// Reads the arguments of [`Self::args`].
    ///
    /// # Errors
    /// If a `--set` has no equals sign.
    pub fn of<C: Configuration>(matches: &ArgMatches) -> Result<Self, Misconfigured> {
        let mut overrides: Vec<Override> = key_flags::<C>()
            .filter_map(|flag| {
                Some(Override {
                    source: format!("--{}", flag.name),
                    key: flag.key.into(),
                    text: matches.get_one::<String>(flag.name)?.clone(),
                })
            })
            .collect();
        for assignment in matches.get_many::<String>(SET).unwrap_or_default() {
            if sets_fields::<C>(matches) && is_field(assignment) {
                continue;
            }
            let Some((key, text)) = assignment.split_once('=') else {
                return Err(Misconfigured::new("--set needs SECTION.KEY=VALUE, with an equals sign"));
            };
            overrides.push(Override {
                source: format!("--set {}", key.trim()),
                key: key.trim().to_owned(),
                text: text.trim().to_owned(),
            });
        }
        Ok(Self {
            file: matches.get_one(CONFIG).cloned(),
            overrides,
        })
    }
}

/// Returns `true` if the command is the one whose `--set` also sets fields.
fn sets_fields<C: Configuration>(matches: &ArgMatches) -> bool {
    C::FIELDS_COMMAND.is_some_and(|[outer, inner]| {
        let command = matches.subcommand().filter(|(name, _)| *name == outer);
        command.is_some_and(|(_, matches)| matches.subcommand_name() == Some(inner))
    })
}

/// Returns `true` if the assignment sets a field, not a key of the configuration.
pub fn is_field(assignment: &str) -> bool {
    assignment.split_once('=').is_some_and(|(name, _)| !name.contains('.'))
}

/// Returns the flags of the sections that `C` has.
fn key_flags<C: Configuration>() -> impl Iterator<Item = KeyFlag> {
    let known = match Value::serialize(C::default()) {
        Ok(Value::Dict(_, sections)) => sections,
        _ => Dict::new(),
    };
    let has_section = move |flag: &KeyFlag| {
        flag.key
            .split_once('.')
            .is_some_and(|(section, _)| known.contains_key(section))
    };
    SHARED.into_iter().chain(C::FLAGS.iter().copied()).filter(has_section)
}
