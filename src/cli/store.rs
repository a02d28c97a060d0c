//! Commands for the whole store. A backup is made by the running gateway, all else where none runs.

use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use actors::ports::Clock;
use gateway::SystemClock;
use gateway::config::{Config, StoreKind};
use gateway::operator::client::ask;
use gateway::operator::line::Command;
use gateway::telemetry::{Chain, start_log};
use gateway::transfer::{self, Phase, Place, Tally, TransferError};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::arguments::StoreCommand;
use super::{Failure, STORE, print};

/// How often the gateway is asked how far its backup came.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn carry(config: &Config, command: StoreCommand, json: bool) -> Result<(), Failure> {
    match command {
        StoreCommand::Backup { to } => backup(config, &to, json),
        StoreCommand::Restore { from, into } => {
            // A gateway on servers would never look into its folder.
            let usual = (config.store.kind == StoreKind::Embedded).then_some(&config.store.path);
            match into.as_ref().or(usual) {
                Some(into) => restore(config, &from, into, json),
                None => Err(Failure::wrong(
                    "store.kind is cql: name a folder with --into, and copy the store in it with `buho store copy`",
                )),
            }
        }
        StoreCommand::Compact => compact(&config.store.path, json),
        StoreCommand::Copy { from, to } => copy(config, &from, &to, json),
    }
}

fn backup(config: &Config, to: &Path, json: bool) -> Result<(), Failure> {
    let path = std::path::absolute(to).map_err(|error| Failure::failed(Chain(&error)))?;
    let socket = config.operator_socket();
    let told = |command: &Command| {
        let answer = ask(&socket, command).map_err(|error| Failure::failed(Chain(&error)))?;
        Ok::<_, Failure>(answer.get("backup").cloned().unwrap_or_default())
    };
    let bar = bar(json);
    let mut standing = told(&Command::StoreBackup { path: path.clone() })?;
    loop {
        let number = |name: &str| standing.get(name).and_then(Value::as_u64);
        match standing.get("state").and_then(Value::as_str) {
            Some("running") => show(
                &bar,
                Phase::Write,
                number("records").unwrap_or_default(),
                number("about").unwrap_or_default(),
            ),
            Some("done") => break,
            Some(_) | None => {
                bar.finish_and_clear();
                let reason = print::member(&standing, "reason");
                return Err(Failure::failed(format!("the backup has failed: {reason}")));
            }
        }
        sleep(LOOK_EVERY);
        standing = told(&Command::StoreBackupState {})?;
    }
    bar.finish_and_clear();
    let tally = standing.get("tally").cloned().unwrap_or_default();
    let tally: Tally = serde_json::from_value(tally).unwrap_or_default();
    end(&format!("backup in {}", path.display()), &tally, json);
    Ok(())
}

fn restore(config: &Config, from: &Path, into: &Path, json: bool) -> Result<(), Failure> {
    start_log(&config.log);
    let bar = bar(json);
    let progress = |phase, records, total| show(&bar, phase, records, total);
    let restored = transfer::restore(from, into, SystemClock.now(), &progress);
    let restored = runtime()?.block_on(Box::pin(restored));
    bar.finish_and_clear();
    let restored = restored.map_err(|error| failed(&error))?;
    let told = format!("store of {} in {}", restored.made_at, into.display());
    end(&told, &restored.tally, json);
    Ok(())
}

fn copy(config: &Config, from: &Place, to: &Place, json: bool) -> Result<(), Failure> {
    start_log(&config.log);
    let bar = bar(json);
    let progress = |phase, records, total| show(&bar, phase, records, total);
    let copied = transfer::copy(config, from, to, Arc::new(SystemClock), &progress);
    let copied = runtime()?.block_on(Box::pin(copied));
    bar.finish_and_clear();
    let tally = copied.map_err(|error| failed(&error))?;
    end(&format!("copy of {from} in {to}"), &tally, json);
    Ok(())
}

fn compact(path: &Path, json: bool) -> Result<(), Failure> {
    let bar = bar(json);
    bar.set_message("tables");
    let shown = bar.clone();
    let told = move |done, of| {
        shown.set_length(u64::try_from(of).unwrap_or_default());
        shown.set_position(u64::try_from(done).unwrap_or_default());
    };
    let compacted = transfer::compact(path, Arc::new(SystemClock), told);
    let compacted = runtime()?.block_on(compacted);
    bar.finish_and_clear();
    let bytes = compacted.map_err(|error| failed(&error))?;
    if json {
        print::to_stdout(&json!({ "bytes": bytes }).to_string());
    } else {
        print::to_stdout(&format!(
            "store in {}: {bytes} bytes in its tables",
            path.display()
        ));
    }
    Ok(())
}

fn runtime() -> Result<Runtime, Failure> {
    let mut builder = Builder::new_multi_thread();
    let built = builder.worker_threads(2).enable_all().build();
    built.map_err(|error| Failure::failed(Chain(&error)))
}

fn failed(error: &TransferError) -> Failure {
    let line = Chain(error).to_string();
    if error.is_of_opening() {
        Failure { code: STORE, line }
    } else {
        Failure::failed(line)
    }
}

/// A bar where it is known how many records there are, and a count where it is not.
const BAR: &str = "{msg:>6} {wide_bar} {human_pos}/{human_len} {eta}";
const COUNT: &str = "{msg:>6} {spinner} {human_pos} records, {per_sec}, {elapsed}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A bar on stderr, where that is a terminal and people read.
fn bar(json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    ProgressBar::no_length().with_style(style(BAR))
}

fn show(bar: &ProgressBar, phase: Phase, records: u64, about: u64) {
    let word = match phase {
        Phase::Check => "check",
        Phase::Write => "write",
        Phase::Verify => "verify",
    };
    if bar.message() != word {
        bar.reset();
        bar.set_style(style(if about == 0 { COUNT } else { BAR }));
        bar.set_message(word);
    }
    // What is counted is never exact.
    bar.set_length(about.max(records));
    bar.set_position(records);
}

/// Says what there is now.
fn end(what: &str, tally: &Tally, json: bool) {
    if json {
        print::to_stdout(&json!({ "records": tally.records(), "kinds": tally }).to_string());
        return;
    }
    let kinds: Vec<String> = tally
        .kinds()
        .map(|(kind, sum)| format!("{:>12} {kind}", sum.count))
        .collect();
    print::to_stdout(&format!(
        "{what}: {} records, {} bytes, verified\n{}",
        tally.records(),
        tally.bytes(),
        kinds.join("\n")
    ));
}
