//! A server as a child process, and what a process uses.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::error::LoadError;

/// How long a server may take to say where it listens.
const READY: Duration = Duration::from_secs(60);
/// How long a server may take to end: the contract allows 15 s.
const STOP: Duration = Duration::from_secs(20);
/// Ticks of `/proc/PID/stat` a second. Linux shows them to user space as 100 on every architecture.
const TICKS_PER_SECOND: u64 = 100;

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
    /// Resident memory in bytes.
    pub(crate) rss: u64,
    /// Open file descriptors.
    pub(crate) descriptors: u64,
    /// Those of them that are files on a disk.
    pub(crate) files: u64,
    /// Threads.
    pub(crate) threads: u64,
}

/// Reads what a process has used.
pub(crate) fn usage(pid: u32) -> Result<Usage, LoadError> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        std::fs::read_to_string(&path).map_err(LoadError::io(format!("reading {path}")))
    };
    let unreadable = || LoadError::Protocol(format!("/proc/{pid} is not as proc(5) says"));
    let status = read("status")?;
    let (descriptors, files) = descriptors(pid)?;
    Ok(Usage {
        cpu: parse_cpu(&read("stat")?).ok_or_else(unreadable)?,
        rss: parse_status(&status, "VmRSS:").ok_or_else(unreadable)? * 1_024,
        descriptors,
        files,
        threads: parse_status(&status, "Threads:").ok_or_else(unreadable)?,
    })
}

/// All descriptors, and those of files: sockets, pipes and the like have no path.
fn descriptors(pid: u32) -> Result<(u64, u64), LoadError> {
    let path = format!("/proc/{pid}/fd");
    let entries = std::fs::read_dir(&path).map_err(LoadError::io(format!("reading {path}")))?;
    Ok(entries.flatten().fold((0, 0), |(all, files), entry| {
        // One that was closed meanwhile leads nowhere.
        let is_file = std::fs::read_link(entry.path()).is_ok_and(|it| it.is_absolute());
        (all + 1, files + u64::from(is_file))
    }))
}

/// What this process has used, and those of its children that have ended.
pub(crate) fn own_cpu() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    Some(parse_cpu(&stat)? + parse_ended_children(&stat)?)
}

/// `utime` + `stime`.
fn parse_cpu(stat: &str) -> Option<Duration> {
    parse_ticks(stat, 11)
}

/// `cutime` + `cstime`.
fn parse_ended_children(stat: &str) -> Option<Duration> {
    parse_ticks(stat, 13)
}

/// The sum of two fields of `/proc/PID/stat`. The name in field 2 may hold spaces and brackets, so counting starts behind
/// its last bracket.
fn parse_ticks(stat: &str, skip: usize) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(skip);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + system) * (1_000 / TICKS_PER_SECOND),
    ))
}

/// The number behind a name in `/proc/PID/status`.
fn parse_status(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim_end_matches("kB").trim().parse().ok()
}

/// Resident memory once it has stopped moving, at most some seconds later.
pub(crate) async fn settled_rss(pid: u32) -> Result<u64, LoadError> {
    const READINGS: u32 = 40;
    let mut last = usage(pid)?.rss;
    let mut quiet = 0;
    for _ in 0..READINGS {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = usage(pid)?.rss;
        quiet = if now.abs_diff(last) <= now / 500 {
            quiet + 1
        } else {
            0
        };
        last = now;
        if quiet >= 4 {
            break;
        }
    }
    Ok(last)
}

/// Waits until a process has used next to nothing for a second, or the time is up. Answers whether it is quiet.
pub(crate) async fn quiet(pid: u32, at_most: Duration) -> Result<bool, LoadError> {
    let until = Instant::now() + at_most;
    let mut last = usage(pid)?.cpu;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = usage(pid)?.cpu;
        if now.saturating_sub(last) <= Duration::from_millis(30) {
            return Ok(true);
        }
        last = now;
    }
    Ok(false)
}

/// A server that this program started, and ends.
#[derive(Debug)]
pub(crate) struct ChildServer {
    child: Child,
    /// Its process id.
    pub(crate) pid: u32,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Reads its stdout on, so that the pipe never fills up.
    drain: JoinSet<()>,
}

impl ChildServer {
    /// Starts a server and waits for its line `… listening on http://ADDRESS`.
    pub(crate) async fn start(mut command: Command) -> Result<Self, LoadError> {
        let doing = "starting the server";
        let log = NamedTempFile::new().map_err(LoadError::io(doing))?;
        let errors = log.reopen().map_err(LoadError::io(doing))?;
        let program = command.as_std().get_program().display().to_string();
        let mut child = command
            // A yardstick server ends when this pipe does, so that none outlives a killed load test.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(LoadError::io(format!("{doing} {program}")))?;
        let stdout = child.stdout.take();
        let (Some(pid), Some(stdout)) = (child.id(), stdout) else {
            return Err(LoadError::Protocol("the server ended at once".to_owned()));
        };
        let mut lines = BufReader::new(stdout).lines();
        let Ok(Some(address)) = timeout(READY, ready(&mut lines)).await else {
            return Err(not_ready(log.path()));
        };
        let mut drain = JoinSet::new();
        drain.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            child,
            pid,
            address,
            drain,
        })
    }

    /// Asks the server to end, and waits until it has.
    pub(crate) async fn stop(mut self) -> Result<(), LoadError> {
        let doing = "ending the server";
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let (Some(pid), None) = (pid, self.child.try_wait().map_err(LoadError::io(doing))?) {
            kill_process(pid, Signal::TERM).map_err(|error| LoadError::io(doing)(error.into()))?;
        }
        if timeout(STOP, self.child.wait()).await.is_err() {
            self.child.kill().await.map_err(LoadError::io(doing))?;
        }
        self.drain.shutdown().await;
        Ok(())
    }
}

async fn ready(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<SocketAddr> {
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(address) = parse_ready(&line) {
            return Some(address);
        }
    }
    None
}

fn parse_ready(line: &str) -> Option<SocketAddr> {
    let (_, address) = line.split_once("listening on http://")?;
    address.trim().trim_end_matches('/').parse().ok()
}

fn not_ready(log: &Path) -> LoadError {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(10).collect();
    let tail: Vec<_> = lines.into_iter().rev().collect();
    LoadError::Target(format!(
        "the server did not say where it listens; the end of its log:\n{}",
        tail.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_found_behind_a_hostile_name() {
        let stat = "4242 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 25 30 10 20 0 5 0 100 200 300";
        assert_eq!(parse_cpu(stat), Some(Duration::from_millis(1_750)));
        let children = parse_ended_children(stat);
        assert_eq!(children, Some(Duration::from_millis(400)));
        assert_eq!(parse_cpu("4242 (a) S 1 2"), None);
    }

    #[test]
    fn numbers_are_found_with_and_without_a_unit() {
        let status = "Name:\tbuho\nVmHWM:\t  9000 kB\nVmRSS:\t    5124 kB\nThreads:\t3\n";
        assert_eq!(parse_status(status, "VmRSS:"), Some(5_124));
        assert_eq!(parse_status(status, "Threads:"), Some(3));
        assert_eq!(parse_status("Name:\tbuho\n", "VmRSS:"), None);
    }

    #[test]
    fn our_own_process_has_a_usage() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss > 100_000 && usage.threads > 0 && usage.descriptors > 2);
    }

    #[tokio::test]
    async fn what_a_child_used_is_ours_once_it_has_ended() {
        let before = own_cpu().unwrap();
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let mut child = Command::new("sh").args(["-c", busy]).spawn().unwrap();
        child.wait().await.unwrap();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(parse_ended_children(&stat).unwrap() > Duration::ZERO);
        assert!(before < own_cpu().unwrap());
    }

    #[test]
    fn only_the_ready_line_is_ready() {
        let line = "buho listening on http://127.0.0.1:41237";
        assert_eq!(parse_ready(line).unwrap().port(), 41_237);
        assert_eq!(parse_ready("listening soon"), None);
        assert_eq!(parse_ready("buho listening on http://somewhere"), None);
    }
}
