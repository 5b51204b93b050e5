//! Merges the layers of the configuration: defaults, then the file, then the environment, then
//! flags. The later goes before the earlier, key by key.
//!
//! One file serves all workers, so a worker ignores the sections of its siblings; every other key
//! that it doesn't know is refused, with the place where it stands. No message shows a value that
//! may be a secret.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use figment::error::Kind;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Misconfigured, zero};

/// Every section that some worker has.
const SECTIONS: [&str; 9] = [
    "redis",
    "postgres",
    "telemetry",
    "stream",
    "service",
    "hot",
    "warm",
    "admin",
    "backup",
];

/// Environment variables with a name of their own, and the key that each sets.
const SHORT_NAMES: [(&str, &str); 5] = [
    ("REDIS_URL", "redis.url"),
    ("REDIS_PASSWORD_FILE", "redis.password_file"),
    ("DATABASE_URL", "postgres.url"),
    ("DATABASE_PASSWORD_FILE", "postgres.password_file"),
    ("METRICS_LISTEN", "telemetry.metrics_listen"),
];

/// Every key is also an environment variable: `STORAGE_<SECTION>__<KEY>`.
const PREFIX: &str = "STORAGE_";

// The flags about configuration that every worker has. A doc comment would become the description
// of the worker in its `--help`.
#[allow(missing_docs)]
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub struct CommonArgs {
    /// TOML file with the configuration
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// URL of Redis [env: REDIS_URL]; a password belongs into REDIS_PASSWORD_FILE, as flags show in
    /// process lists
    #[arg(long, global = true, value_name = "URL")]
    pub redis_url: Option<String>,
    /// URL of PostgreSQL [env: DATABASE_URL]; a password belongs into DATABASE_PASSWORD_FILE
    #[arg(long, global = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// Address of /metrics, /healthz and /readyz [env: METRICS_LISTEN]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub metrics_listen: Option<String>,
    /// Sets any key of the configuration; may be repeated
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

/// The effective configuration from the process's environment and `flags`.
///
/// # Errors
/// If the file can't be read, a key is unknown, or a value doesn't fit.
pub fn load<C: DeserializeOwned + Serialize + Default>(flags: &CommonArgs) -> Result<C, Misconfigured> {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    load_from(flags, environment)
}

/// As [`load`], with the environment as an argument.
///
/// # Errors
/// As [`load`].
pub fn load_from<C: DeserializeOwned + Serialize + Default>(
    flags: &CommonArgs,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<C, Misconfigured> {
    let defaults = match Value::serialize(C::default()) {
        Ok(Value::Dict(_, keys)) => Layer {
            source: "the defaults".into(),
            keys,
        },
        _ => {
            return Err(Misconfigured::new("the defaults are not a table of sections"));
        }
    };
    let mut figment = Figment::from(&defaults);
    if let Some(path) = &flags.config {
        figment = figment.merge(file(path, &defaults.keys)?);
    }
    let overrides = environment_overrides(environment, &defaults.keys)?
        .into_iter()
        .chain(flag_overrides(flags, &defaults.keys)?);
    for Override { source, key, text } in overrides {
        let layer = typed::<C>(&Figment::from(&defaults), source, &key, text);
        figment = figment.merge(layer);
    }
    let config = figment.extract().map_err(|error| explain(&error))?;
    refuse_zero::<C>(&figment, &defaults, &config)?;
    Ok(config)
}

/// Prints the effective configuration as TOML, secrets masked: the subcommand `check-config`.
///
/// # Errors
/// As [`load`], or if stdout is closed.
pub fn check<C: DeserializeOwned + Serialize + Default>(flags: &CommonArgs) -> anyhow::Result<()> {
    let text = render(&load::<C>(flags)?)?;
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("writing to stdout")
}

/// `config` as TOML, secrets masked.
///
/// # Errors
/// If `config` isn't a struct of sections.
pub fn render<C: Serialize>(config: &C) -> anyhow::Result<String> {
    toml::to_string(config).context("writing the configuration as TOML")
}

/// Values that came from one place.
struct Layer {
    source: String,
    keys: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.keys.clone()))
    }
}

/// One key set by the environment or by a flag.
struct Override {
    source: String,
    key: String,
    text: String,
}

fn file(path: &Path, known: &Dict) -> Result<Layer, Misconfigured> {
    let source = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|error| Misconfigured::new(format!("can't read {source}: {error}")))?;
    // The parser's own message quotes the line, which may hold a secret.
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        Misconfigured::new(format!("{source}, line {line}: {}", error.message()))
    })?;
    let Ok(Value::Dict(_, mut keys)) = Value::serialize(table) else {
        return Err(Misconfigured::new(format!("{source}: not a table of sections")));
    };
    keys.retain(|section, _| known.contains_key(section) || !is_sibling(section));
    refuse_unknown(&source, known, &keys, "")?;
    Ok(Layer { source, keys })
}

fn environment_overrides(
    environment: impl IntoIterator<Item = (String, String)>,
    known: &Dict,
) -> Result<Vec<Override>, Misconfigured> {
    let environment: BTreeMap<String, String> = environment.into_iter().collect();
    let mut overrides = Vec::new();
    for (name, key) in SHORT_NAMES {
        // Set but empty is how compose files pass on what isn't set.
        if let Some(text) = environment.get(name).filter(|text| !text.is_empty())
            && known.contains_key(section_of(key))
        {
            overrides.push(Override {
                source: name.into(),
                key: key.into(),
                text: text.clone(),
            });
        }
    }
    for (name, text) in &environment {
        let Some(path) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let key = path.to_lowercase().replace("__", ".");
        let section = section_of(&key);
        if !known.contains_key(section) && is_sibling(section) {
            continue;
        }
        refuse_unknown(name, known, &nested(&key, Value::from("")), "")?;
        overrides.push(Override {
            source: name.clone(),
            key,
            text: text.clone(),
        });
    }
    Ok(overrides)
}

fn flag_overrides(flags: &CommonArgs, known: &Dict) -> Result<Vec<Override>, Misconfigured> {
    let named = [
        ("--redis-url", "redis.url", &flags.redis_url),
        ("--database-url", "postgres.url", &flags.database_url),
        ("--metrics-listen", "telemetry.metrics_listen", &flags.metrics_listen),
    ];
    let mut overrides: Vec<Override> = named
        .into_iter()
        .filter_map(|(flag, key, text)| {
            Some(Override {
                source: flag.into(),
                key: key.into(),
                text: text.clone()?,
            })
        })
        .collect();
    for assignment in &flags.set {
        let Some((key, text)) = assignment.split_once('=') else {
            return Err(Misconfigured::new("--set wants SECTION.KEY=VALUE, with an equals sign"));
        };
        let (key, text) = (key.trim().to_owned(), text.trim().to_owned());
        overrides.push(Override {
            source: format!("--set {key}"),
            key,
            text,
        });
    }
    for Override { source, key, .. } in &overrides {
        refuse_unknown(source, known, &nested(key, Value::from("")), "")?;
    }
    Ok(overrides)
}

/// A text as the type that its key has: text if `C` takes it as text, otherwise what it says
/// (number, boolean, array).
fn typed<C: DeserializeOwned>(defaults: &Figment, source: String, key: &str, text: String) -> Layer {
    let as_text = nested(key, Value::from(text.clone()));
    if takes_text::<C>(defaults, key, &text) {
        return Layer { source, keys: as_text };
    }
    match text.parse::<Value>() {
        Ok(value) if value.as_str().is_none() => Layer {
            source,
            keys: nested(key, value),
        },
        _ => Layer { source, keys: as_text },
    }
}

/// Returns `true` if `C` takes `text` as it is for `key`.
fn takes_text<C: DeserializeOwned>(defaults: &Figment, key: &str, text: &str) -> bool {
    let layer = Layer {
        source: String::new(),
        keys: nested(key, Value::from(text)),
    };
    defaults.clone().merge(layer).extract::<C>().is_ok()
}

/// Refuses zero where it means nothing, see [`zero`].
fn refuse_zero<C: DeserializeOwned + Serialize>(
    figment: &Figment,
    defaults: &Layer,
    config: &C,
) -> Result<(), Misconfigured> {
    let Ok(Value::Dict(_, keys)) = Value::serialize(config) else {
        return Ok(());
    };
    let defaults = Figment::from(defaults);
    let Some((key, wanted)) = zero::find(&keys, |key| takes_text::<C>(&defaults, key, "any text")) else {
        return Ok(());
    };
    let source = source_of(figment.find_metadata(&key));
    Err(Misconfigured::new(format!("{source}: `{key}`: {wanted}")))
}

/// `a.b.c` and a value as nested tables.
fn nested(key: &str, value: Value) -> Dict {
    match key.split_once('.') {
        Some((section, rest)) => Dict::from([(section.into(), nested(rest, value).into())]),
        None => Dict::from([(key.into(), value)]),
    }
}

fn section_of(key: &str) -> &str {
    key.split_once('.').map_or(key, |(section, _)| section)
}

fn is_sibling(section: &str) -> bool {
    SECTIONS.contains(&section)
}

/// Refuses what `given` has and `known` hasn't. A table that is empty in `known` takes any key.
fn refuse_unknown(source: &str, known: &Dict, given: &Dict, path: &str) -> Result<(), Misconfigured> {
    for (key, value) in given {
        match (known.get(key), value) {
            (None, _) => {
                let keys: Vec<&str> = known.keys().map(String::as_str).collect();
                return Err(Misconfigured::new(format!(
                    "{source}: unknown key `{path}{key}`; known here: {}",
                    keys.join(", ")
                )));
            }
            (Some(Value::Dict(_, known)), Value::Dict(_, given)) if !known.is_empty() => {
                refuse_unknown(source, known, given, &format!("{path}{key}."))?;
            }
            (Some(Value::Dict(_, known)), _) if !known.is_empty() => {
                return Err(Misconfigured::new(format!(
                    "{source}: `{path}{key}` is a section, not a value"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The place and the key, then what is wrong with it; not the value where it may be a secret.
fn explain(error: &figment::Error) -> Misconfigured {
    let source = source_of(error.metadata.as_ref());
    let key = error.path.join(".");
    let problem = match &error.kind {
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) if may_be_secret(&key) => {
            format!("wants {expected}")
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("wants {expected}, found {actual}")
        }
        kind => kind.to_string(),
    };
    Misconfigured::new(format!("{source}: `{key}`: {problem}"))
}

fn source_of(metadata: Option<&Metadata>) -> &str {
    metadata.map_or("the configuration", |metadata| &metadata.name)
}

fn may_be_secret(key: &str) -> bool {
    ["url", "password", "secret", "token", "key"]
        .iter()
        .any(|part| key.contains(part))
}

#[cfg(test)]
mod tests;
