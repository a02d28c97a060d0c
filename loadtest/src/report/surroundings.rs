//! Where and how a report came to be: machine, versions, command, and what else ran meanwhile.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::{Timestamp, Unit};
use serde::{Deserialize, Serialize};

use super::float;
use crate::server::own_cpu;

/// Ticks of `/proc/stat` a second. Linux shows them to user space as 100 on every architecture.
const TICKS_PER_SECOND: u64 = 100;

/// Where and how a report came to be.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Surroundings {
    /// The command, as it was given.
    pub(crate) command: String,
    /// When the run began.
    pub(crate) began: String,
    /// How long it took.
    pub(crate) seconds: f64,
    /// The processor's name and how many there are.
    pub(crate) processor: String,
    /// Memory of the machine in MiB.
    pub(crate) memory_mib: f64,
    /// The system and its release.
    pub(crate) system: String,
    /// What the server says it is.
    pub(crate) server: String,
    /// Processors that were busy with something that is neither the server nor this program, on average.
    pub(crate) others_busy: Option<f64>,
}

/// A run that is under way.
#[derive(Debug)]
pub(crate) struct Watch {
    began: Timestamp,
    clock: Instant,
    busy: Option<Duration>,
    own: Option<Duration>,
}

impl Watch {
    /// Starts watching.
    pub(crate) fn start() -> Self {
        Self {
            began: Timestamp::now(),
            clock: Instant::now(),
            busy: machine_busy(),
            own: own_cpu(),
        }
    }

    /// Ends watching. `server` is what the server's process used meanwhile, if it still runs: those that were started and
    /// ended by this program are known. Only with it can others be told apart.
    pub(crate) fn end(self, server: Option<Duration>, server_version: String) -> Surroundings {
        let seconds = self.clock.elapsed().as_secs_f64();
        let since = |before: Option<Duration>, now: Option<Duration>| {
            Some(now?.saturating_sub(before?).as_secs_f64())
        };
        let others = || {
            let busy = since(self.busy, machine_busy())?;
            let ours = since(self.own, own_cpu())? + server?.as_secs_f64();
            Some(((busy - ours) / seconds.max(0.001)).max(0.0))
        };
        let rounded = self.began.round(Unit::Second).unwrap_or(self.began);
        Surroundings {
            command: std::env::args()
                .map(|word| shown(&word))
                .collect::<Vec<_>>()
                .join(" "),
            began: rounded.to_string(),
            seconds,
            processor: processor(),
            memory_mib: memory_mib(),
            system: read("/proc/sys/kernel/ostype") + " " + &read("/proc/sys/kernel/osrelease"),
            server: server_version,
            others_busy: others(),
        }
    }
}

/// A word of the command: paths without their folders, which say nothing elsewhere, and spaces within quotes.
fn shown(word: &str) -> String {
    let name = Path::new(word)
        .file_name()
        .filter(|_| word.starts_with('/'));
    let word = name.map_or_else(|| word.into(), OsStr::to_string_lossy);
    if word.contains(' ') {
        format!("'{word}'")
    } else {
        word.into_owned()
    }
}

fn read(path: &str) -> String {
    // What can't be read is left out of the report.
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn processor() -> String {
    let text = read("/proc/cpuinfo");
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("processor", |(_, name)| name.trim());
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{count} × {name}")
}

fn memory_mib() -> f64 {
    let text = read("/proc/meminfo");
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    float(kilobytes.unwrap_or_default()) / 1_024.0
}

/// Time that all processors were busy since the machine started.
fn machine_busy() -> Option<Duration> {
    busy(&read("/proc/stat"))
}

/// user, nice, system, (idle, iowait,) irq, softirq, steal.
fn busy(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line
        .split_ascii_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let busy = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .map(|(_, ticks)| ticks)
        .sum::<u64>();
    Some(Duration::from_millis(busy * (1_000 / TICKS_PER_SECOND)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let stat = "cpu  100 10 50 9000 700 5 5 30 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_command_is_shown_without_the_folders_of_a_machine() {
        assert_eq!(shown("/srv/bin/buho"), "buho");
        assert_eq!(shown("--rate"), "--rate");
        assert_eq!(shown("50/s: due p99<=5"), "'50/s: due p99<=5'");
    }

    #[test]
    fn a_run_knows_its_machine() {
        let found = Watch::start().end(Some(Duration::ZERO), "x".to_owned());
        assert!(
            found.memory_mib > 100.0 && found.others_busy.is_some(),
            "{found:?}"
        );
    }
}
