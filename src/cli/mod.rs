//! The command line: what may be said, and what the exit code means.
//!
//! 0: ended as asked · 1: failed while running · 2: wrong arguments or configuration · 3: the store can't be opened.
//! Every failure is one line on stderr that says what to do.

mod arguments;
mod back_office;
mod print;
mod schema;
mod serve;
mod store;

use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use gateway::config::{Config, DEFAULTS, Overrides};
use gateway::telemetry::Chain;

use arguments::{Arguments, Command, ConfigCommand, Places};
use serve::Opening;

/// The exit code of wrong arguments or configuration.
const WRONG: u8 = 2;
/// The exit code of a store that can't be opened.
const STORE: u8 = 3;
/// The exit code of what failed while running.
const FAILED: u8 = 1;

/// Why the program ends without having done as asked.
#[derive(Debug)]
struct Failure {
    code: u8,
    line: String,
}

impl Failure {
    fn wrong(line: impl Display) -> Self {
        Self {
            code: WRONG,
            line: line.to_string(),
        }
    }

    fn failed(line: impl Display) -> Self {
        Self {
            code: FAILED,
            line: line.to_string(),
        }
    }
}

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    match Arguments::try_parse().map_or_else(|error| refuse(&error), carry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print::to_stderr(&format!("buho: {}", failure.line));
            ExitCode::from(failure.code)
        }
    }
}

fn carry(arguments: Arguments) -> Result<(), Failure> {
    let places = arguments.places;
    match arguments.command {
        Command::Demo { listen } => serve::serve(configuration(&places, listen)?, Opening::Demo),
        Command::Serve { listen } => serve::serve(configuration(&places, listen)?, Opening::Plain),
        Command::Config { command } => show_configuration(&places, &command),
        Command::Tenant { command } => {
            back_office::tenant(&configuration(&places, None)?, command, places.json)
        }
        Command::Key { command } => {
            back_office::key(&configuration(&places, None)?, command, places.json)
        }
        Command::AdminKey { command } => {
            back_office::admin_key(&configuration(&places, None)?, command, places.json)
        }
        Command::Jwt { command } => {
            back_office::jwt(&configuration(&places, None)?, &command, places.json)
        }
        Command::Schema { command } => {
            schema::carry(&configuration(&places, None)?, &command, places.json)
        }
        Command::Store { command } => {
            store::carry(&configuration(&places, None)?, command, places.json)
        }
        Command::Supervision => {
            back_office::supervision(&configuration(&places, None)?, places.json)
        }
    }
}

fn configuration(places: &Places, listen: Option<std::net::SocketAddr>) -> Result<Config, Failure> {
    let overrides = Overrides {
        listen,
        data: places.data.clone(),
    };
    Config::load(places.config.as_deref(), &overrides)
        .map_err(|error| Failure::wrong(Chain(&error)))
}

fn show_configuration(places: &Places, command: &ConfigCommand) -> Result<(), Failure> {
    let config = match command {
        ConfigCommand::Default if !places.json => {
            print::to_stdout(DEFAULTS.trim_end());
            return Ok(());
        }
        ConfigCommand::Default => {
            Config::from_toml("").map_err(|error| Failure::wrong(Chain(&error)))?
        }
        ConfigCommand::Show => configuration(places, None)?,
    };
    if places.json {
        let shown =
            serde_json::to_string(&config).map_err(|error| Failure::failed(Chain(&error)))?;
        print::to_stdout(&shown);
    } else {
        print::to_stdout(config.to_toml().trim_end());
    }
    Ok(())
}

/// Help and version are what was asked for; all else is a line that says what is wrong.
fn refuse(error: &clap::Error) -> Result<(), Failure> {
    let told = error.render().to_string();
    let kind = error.kind();
    if matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        print::to_stdout(told.trim_end());
        return Ok(());
    }
    if matches!(
        kind,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    ) {
        return Err(Failure::wrong(
            "a command is missing: try `buho demo`, or see `buho --help`",
        ));
    }
    Err(Failure::wrong(format!(
        "{}; see `buho --help`",
        in_one_line(&told)
    )))
}

fn in_one_line(told: &str) -> String {
    let lines = told.lines().map(str::trim).filter(|line| {
        !line.is_empty() && !line.starts_with("Usage:") && !line.starts_with("For more information")
    });
    let told = lines.collect::<Vec<_>>().join(" ");
    told.strip_prefix("error: ")
        .map(str::to_owned)
        .unwrap_or(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &[&str]) -> Failure {
        let error = Arguments::try_parse_from(words).unwrap_err();
        refuse(&error).unwrap_err()
    }

    #[test]
    fn wrong_arguments_are_told_in_one_line() {
        for words in [
            &["buho"][..],
            &["buho", "tenant"],
            &["buho", "srve"],
            &["buho", "serve", "--lisen", "127.0.0.1:1"],
            &["buho", "serve", "--listen", "here"],
            &["buho", "tenant", "create"],
            &["buho", "tenant", "show", "dev_1"],
            &[
                "buho",
                "tenant",
                "limits",
                "ten_00000000000000000000000000",
                "--set",
                "devices",
            ],
        ] {
            let failure = refused(words);
            assert_eq!(failure.code, 2, "{words:?}");
            assert!(
                !failure.line.contains('\n') && failure.line.contains("buho --help"),
                "{}",
                failure.line
            );
        }
        assert!(
            refused(&["buho", "serve", "--lisen", "x"])
                .line
                .contains("--listen")
        );
    }

    #[test]
    fn help_is_no_failure() {
        let error = Arguments::try_parse_from(["buho", "--help"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DisplayHelp);
    }
}
