//! Merges the layers of the configuration: defaults, then the file, then the environment, then flags. A later layer
//! overrides an earlier one, key by key.
//!
//! One file serves all programs, so a program ignores the sections of the others. It refuses every other unknown key,
//! and names the file or the variable that holds it. No message shows a value that may be a secret.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use figment::error::Kind;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::flags::{Flags, Override};
use super::{Configuration, Misconfigured, zero};

/// The sections that several programs have.
const SHARED_SECTIONS: [&str; 5] = ["redis", "postgres", "telemetry", "stream", "service"];

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

/// Returns the effective configuration from the process's environment and `flags`.
///
/// # Errors
/// If the file can't be read, a key is unknown, or a value doesn't fit.
pub fn load<C: Configuration>(flags: &Flags) -> Result<C, Misconfigured> {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    load_from(flags, environment)
}

/// Does the same as [`load`], with the environment as an argument.
fn load_from<C: Configuration>(
    flags: &Flags,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<C, Misconfigured> {
    let defaults = defaults::<C>()?;
    let is_foreign = |section: &str| {
        !defaults.keys.contains_key(section)
            && SHARED_SECTIONS
                .iter()
                .chain(C::FOREIGN_SECTIONS)
                .any(|foreign| *foreign == section)
    };
    let mut figment = Figment::from(&defaults);
    if let Some(path) = &flags.file {
        figment = figment.merge(file(path, &defaults.keys, is_foreign)?);
    }
    for Override { source, key, .. } in &flags.overrides {
        refuse_unknown(source, &defaults.keys, &nested(key, Value::from("")), "")?;
    }
    let overrides = environment_overrides(environment, &defaults.keys, is_foreign)?;
    for Override { source, key, text } in overrides.into_iter().chain(flags.overrides.clone()) {
        let layer = typed::<C>(&Figment::from(&defaults), source, &key, text);
        figment = figment.merge(layer);
    }
    let config = figment.extract().map_err(|error| explain(&error))?;
    refuse_zero::<C>(&figment, &defaults, &config)?;
    Ok(config)
}

fn defaults<C: Configuration>() -> Result<Layer, Misconfigured> {
    let Ok(Value::Dict(_, mut keys)) = Value::serialize(C::default()) else {
        return Err(Misconfigured::new("the defaults are not a table of sections"));
    };
    for (key, text) in C::DEFAULTS {
        if let Some((section, name)) = key.split_once('.')
            && let Some(Value::Dict(_, section)) = keys.get_mut(section)
        {
            section.insert(name.to_owned(), Value::from(*text));
        }
    }
    Ok(Layer {
        source: "the defaults".into(),
        keys,
    })
}

/// Returns `config` as TOML, secrets masked.
pub fn render<C: Serialize>(config: &C) -> anyhow::Result<String> {
    toml::to_string(config).context("writing the configuration as TOML")
}

/// Values from one source: a file, the environment or a flag.
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

fn file(path: &Path, known: &Dict, is_foreign: impl Fn(&str) -> bool) -> Result<Layer, Misconfigured> {
    let source = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|error| Misconfigured::new(format!("cannot read {source}: {error}")))?;
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
    keys.retain(|section, _| !is_foreign(section));
    refuse_unknown(&source, known, &keys, "")?;
    Ok(Layer { source, keys })
}

fn environment_overrides(
    environment: impl IntoIterator<Item = (String, String)>,
    known: &Dict,
    is_foreign: impl Fn(&str) -> bool,
) -> Result<Vec<Override>, Misconfigured> {
    let environment: BTreeMap<String, String> = environment.into_iter().collect();
    let mut overrides = Vec::new();
    for (name, key) in SHORT_NAMES {
        // Compose files pass an unset variable on as an empty one.
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
        if is_foreign(section_of(&key)) {
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

/// Converts a text to the type of its key: text if `C` accepts text, else a number, boolean or array.
fn typed<C: DeserializeOwned>(defaults: &Figment, source: String, key: &str, text: String) -> Layer {
    let value = match text.parse::<Value>() {
        Ok(value) if value.as_str().is_none() && !takes_text::<C>(defaults, key, &text) => value,
        _ => Value::from(text),
    };
    let keys = nested(key, value);
    Layer { source, keys }
}

/// Returns `true` if `C` accepts `text`, unconverted, for `key`.
fn takes_text<C: DeserializeOwned>(defaults: &Figment, key: &str, text: &str) -> bool {
    let layer = Layer {
        source: String::new(),
        keys: nested(key, Value::from(text)),
    };
    defaults.clone().merge(layer).extract::<C>().is_ok()
}

/// Refuses zero where it has no meaning, see [`zero`].
fn refuse_zero<C: Configuration>(figment: &Figment, defaults: &Layer, config: &C) -> Result<(), Misconfigured> {
    let Ok(Value::Dict(_, keys)) = Value::serialize(config) else {
        return Ok(());
    };
    let defaults = Figment::from(defaults);
    let Some((key, wanted)) = zero::find(&keys, C::ZERO_ALLOWED, |key| {
        takes_text::<C>(&defaults, key, "any text")
    }) else {
        return Ok(());
    };
    let source = source_of(figment.find_metadata(&key));
    Err(Misconfigured::new(format!("{source}: `{key}`: {wanted}")))
}

/// Returns `a.b.c` and a value as nested tables.
fn nested(key: &str, value: Value) -> Dict {
    match key.split_once('.') {
        Some((section, rest)) => Dict::from([(section.into(), nested(rest, value).into())]),
        None => Dict::from([(key.into(), value)]),
    }
}

fn section_of(key: &str) -> &str {
    key.split_once('.').map_or(key, |(section, _)| section)
}

/// Refuses a key of `given` that `known` lacks. A table that is empty in `known` takes any key.
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

/// Names the source and the key, and the problem without a value that may be a secret.
fn explain(error: &figment::Error) -> Misconfigured {
    let source = source_of(error.metadata.as_ref());
    let key = error.path.join(".");
    let problem = match &error.kind {
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) if may_be_secret(&key) => {
            format!("must be {expected}")
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("must be {expected}, found {actual}")
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
