//! Command line of every program: the flags of the configuration, the shared subcommands, and exit codes.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{ArgMatches, Command, Subcommand, value_parser};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::config::Configuration;
use crate::config::flags::Flags;
use crate::config::layers;
use crate::error_class::{DONE, MISUSED, exit_code};
use crate::service::{ABORT_TIMEOUT, Stopped};
use crate::terminal;

/// Identity of a program; created by [`program!`](crate::program).
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Name of the executable, such as `hot-writer`.
    pub name: &'static str,
    /// Version of the build.
    pub version: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
}

/// The [`Program`](crate::cli::Program) of the crate that calls the macro, as its Cargo.toml describes it.
#[macro_export]
macro_rules! program {
    () => {
        $crate::cli::Program {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            about: env!("CARGO_PKG_DESCRIPTION"),
        }
    };
}

/// Parses the command line, loads the configuration, runs the command `S`, and reports its error on stderr. The exit
/// code follows the table in [`error_class`](crate::error_class).
pub fn main<S: Subcommand, C: Configuration>(
    program: Program,
    run: impl AsyncFnOnce(S, C) -> anyhow::Result<()>,
) -> ExitCode {
    dispatch(program, std::env::args_os(), run).into()
}

fn dispatch<S: Subcommand, C: Configuration>(
    program: Program,
    args: impl IntoIterator<Item = OsString>,
    run: impl AsyncFnOnce(S, C) -> anyhow::Result<()>,
) -> u8 {
    let mut command = command::<S, C>(program);
    let parsed = command.try_get_matches_from_mut(args).and_then(|matches| {
        let own = match matches.subcommand_name() {
            Some(CHECK_CONFIG | COMPLETIONS | MAN) => None,
            _ => Some(S::from_arg_matches(&matches)?),
        };
        Ok((matches, own))
    });
    let (matches, own) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // A closed stdout or stderr does not change the exit code.
            let _ = error.print();
            return if error.use_stderr() { MISUSED } else { DONE };
        }
    };
    let result = match own {
        Some(own) => load(&matches).and_then(|config| block_on(run(own, config))),
        None => shared::<C>(program, command, &matches),
    };
    if let Err(error) = &result
        && !Stopped::caused(error)
    {
        // A closed stderr does not change the exit code.
        let _ = writeln!(
            io::stderr(),
            "error: {}",
            terminal::visible_lines(&format!("{error:#}"))
        );
    }
    exit_code(&result)
}

const CHECK_CONFIG: &str = "check-config";
const COMPLETIONS: &str = "completions";
const MAN: &str = "man";

fn command<S: Subcommand, C: Configuration>(program: Program) -> Command {
    let command = Command::new(program.name)
        .version(program.version)
        .about(program.about)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .args(Flags::args::<C>());
    let shell = clap::Arg::new("shell")
        .value_name("SHELL")
        .required(true)
        .value_parser(value_parser!(Shell));
    S::augment_subcommands(command)
        .subcommand(Command::new(CHECK_CONFIG).about("Prints the effective configuration, secrets masked"))
        .subcommand(
            Command::new(COMPLETIONS)
                .about("Prints a completion script for a shell")
                .arg(shell),
        )
        .subcommand(Command::new(MAN).about("Prints the manual pages of the program and its commands (roff)"))
}

/// Runs a subcommand that every program has.
fn shared<C: Configuration>(program: Program, mut command: Command, matches: &ArgMatches) -> anyhow::Result<()> {
    let mut text = Vec::new();
    match matches.subcommand() {
        Some((COMPLETIONS, arguments)) => {
            let shell = arguments.get_one::<Shell>("shell").copied().unwrap_or(Shell::Bash);
            clap_complete::generate(shell, &mut command, program.name, &mut text);
        }
        Some((MAN, _)) => manual(command, &mut text)?,
        _ => text = layers::render(&load::<C>(matches)?)?.into_bytes(),
    }
    terminal::write(String::from_utf8_lossy(&text))
}

fn load<C: Configuration>(matches: &ArgMatches) -> anyhow::Result<C> {
    Ok(layers::load(&Flags::of::<C>(matches)?)?)
}

/// Writes the manual page of the program, then one for each of its commands.
fn manual(command: Command, out: &mut Vec<u8>) -> io::Result<()> {
    let name = command.get_name().to_owned();
    let pages: Vec<Command> = command
        .get_subcommands()
        .map(|page| {
            page.clone()
                .display_name(format!("{name}-{}", page.get_name()))
                .bin_name(format!("{name} {}", page.get_name()))
        })
        .collect();
    Man::new(command).render(out)?;
    pages.into_iter().try_for_each(|page| Man::new(page).render(out))
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    let result = runtime.block_on(work);
    // A blocked thread must not keep an aborted process alive.
    runtime.shutdown_timeout(ABORT_TIMEOUT);
    result
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::config::Misconfigured;
    use crate::config::redis::RedisConfig;

    #[derive(clap::Subcommand)]
    enum Commands {
        /// Runs the worker
        Run {
            #[arg(long)]
            number: Option<u32>,
        },
    }

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        redis: RedisConfig,
    }

    impl Configuration for Config {}

    const PROGRAM: Program = Program {
        name: "worker",
        version: "1.2.3",
        about: "Works",
    };

    fn code_of(args: &[&str], result: impl FnOnce() -> anyhow::Result<()>) -> u8 {
        let args = ["worker"].iter().chain(args).map(OsString::from);
        dispatch(PROGRAM, args, async |_: Commands, _: Config| result())
    }

    #[test]
    fn the_command_is_valid() {
        command::<Commands, Config>(PROGRAM).debug_assert();
    }

    #[test]
    fn usage_errors_exit_64_and_the_shared_commands_0() {
        let never = || panic!("the command must not run");
        for args in [
            &["--nonsense"][..],
            &["run", "--number", "x"],
            &["completions", "nonsense"],
            &["run", "--set", "redis.nonsense=1"],
            &[],
        ] {
            assert_eq!(code_of(args, never), 64, "{args:?}");
        }
        for args in [
            &["--help"][..],
            &["--version"],
            &["check-config"],
            &["completions", "fish"],
            &["man"],
        ] {
            assert_eq!(code_of(args, never), 0, "{args:?}");
        }
    }

    #[test]
    fn the_result_of_the_command_is_the_exit_code() {
        assert_eq!(code_of(&["run"], || Ok(())), 0);
        assert_eq!(code_of(&["run"], || Err(anyhow!("failed"))), 1);
        assert_eq!(code_of(&["run"], || Err(Misconfigured::new("wrong").into())), 64);
    }

    #[test]
    fn the_manual_has_a_page_for_each_command() {
        let mut text = Vec::new();
        manual(command::<Commands, Config>(PROGRAM), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for page in ["worker", "worker-run", "worker-check-config"] {
            assert!(text.contains(&format!(".TH {page} 1")), "{page}: {text}");
        }
        assert!(text.contains("redis\\-url"), "{text}");
    }
}
