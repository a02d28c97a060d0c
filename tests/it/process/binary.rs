//! Starting the binary, speaking to it, ending it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

use crate::house::{Base, Client, Operator, Store, phone};

/// How long the binary may take to say that it listens: making tables is slow.
const START_MAX: Duration = Duration::from_secs(300);
/// Twice the time that a graceful end may take.
const END_MAX: Duration = Duration::from_secs(30);
/// How long a command may take that does its work and ends; the same goes for it.
const COMMAND_MAX: Duration = Duration::from_secs(300);

/// A running gateway in a process of its own.
#[derive(Debug)]
pub(crate) struct Binary {
    child: Child,
    /// The gateway itself, which may be a child of a tracer.
    pid: Pid,
    has_ended: bool,
    data: PathBuf,
    url: String,
    /// What its log must not hold.
    secrets: Mutex<Vec<String>>,
    // Whatever is said after the ready line is read away, so that the pipe never fills.
    _listener: JoinSet<()>,
}

/// `buho` with arguments.
pub(crate) fn buho(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_buho"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The arguments of a gateway on any free port.
pub(crate) fn serve_arguments(data: &Path) -> [String; 5] {
    let data = data.display().to_string();
    [
        "serve".into(),
        "--data".into(),
        data,
        "--listen".into(),
        "127.0.0.1:0".into(),
    ]
}

/// Runs a command to its end.
pub(crate) async fn run(mut command: Command) -> (Option<i32>, String, String) {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = timeout(COMMAND_MAX, command.output())
        .await
        .expect("the command ends")
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

impl Binary {
    /// Starts `buho serve` on a folder; it must come to listen.
    pub(crate) async fn serve(data: &Path) -> Self {
        Self::serve_on(data, &Store::current().settings(data)).await
    }

    /// As [`Self::serve`], on a store that is told by its settings.
    pub(crate) async fn serve_on(data: &Path, store: &str) -> Self {
        let arguments = serve_arguments(data);
        let command = buho(&arguments.each_ref().map(String::as_str));
        Self::start_on(command, data, store).await
    }

    /// Starts any command that runs the gateway on that folder, and on the case's store; a process that ends instead of
    /// listening fails the test.
    pub(crate) async fn start(command: Command, data: &Path) -> Self {
        Self::start_on(command, data, &Store::current().settings(data)).await
    }

    async fn start_on(mut command: Command, data: &Path, store: &str) -> Self {
        let (log, config) = (data.with_extension("stderr"), data.with_extension("toml"));
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&config, store).unwrap();
        command
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command.stderr(Stdio::from(
            File::options()
                .create(true)
                .append(true)
                .open(&log)
                .unwrap(),
        ));
        let mut child = command.spawn().expect("the binary");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(url) = line.strip_prefix("buho listening on ") {
                    return Some(url.trim().to_owned());
                }
            }
            None
        };
        let Some(url) = timeout(START_MAX, listening)
            .await
            .expect("a ready line in time")
        else {
            let code = child.wait().await.unwrap().code();
            panic!(
                "ended with {code:?}: {}",
                fs::read_to_string(&log).unwrap_or_default()
            );
        };
        let mut listener = JoinSet::new();
        listener.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            pid: gateway_of(child.id().expect("it runs")),
            child,
            has_ended: false,
            data: data.into(),
            url,
            secrets: Mutex::default(),
            _listener: listener,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn operator(&self) -> Operator {
        Operator::at(&self.data)
    }

    /// A new tenant's client; its base can be moved with [`Binary::lead`].
    pub(crate) async fn tenant(&self) -> Client {
        let base = Base::default();
        base.set(&self.url);
        let client = self.operator().tenant("process", &base).await;
        self.keep_secret(&client);
        client
    }

    fn keep_secret(&self, client: &Client) {
        let secret = client.secret().to_owned();
        self.secrets.lock().unwrap().push(secret);
    }

    /// What it and those before it on this folder have said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.data.with_extension("stderr")).unwrap_or_default()
    }

    /// Its log holds no panic, and neither a secret nor a text nor a number in full.
    fn check_log(&self) {
        let log = self.log();
        let mut words = self.secrets.lock().unwrap().clone();
        words.extend((0..10).map(phone));
        words.extend(["panicked at", "xxxxxxxx", "eyJ"].map(str::to_owned));
        for line in log.lines() {
            let found = words.iter().find(|it| line.contains(it.as_str()));
            assert_eq!(found, None, "in the log: {line}");
        }
    }

    /// Leads a client to this process.
    pub(crate) fn lead(&self, client: &Client) {
        client.base().set(&self.url);
        self.keep_secret(client);
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> usize {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("VmRSS");
        let kibibytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kibibytes * 1_024
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        timeout(END_MAX, self.child.wait())
            .await
            .expect("a killed process ends")
            .unwrap();
        self.has_ended = true;
        self.check_log();
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the process takes a signal");
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let status = timeout(END_MAX, self.child.wait())
            .await
            .expect("the process ends")
            .unwrap();
        self.has_ended = true;
        self.check_log();
        status
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        if !self.has_ended {
            // It may have ended by itself.
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}

/// The gateway's own process: the one that was started, or the child of a tracer.
fn gateway_of(started: u32) -> Pid {
    let is_gateway = |pid: u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim() == "buho"
    };
    let gateway = if is_gateway(started) {
        started
    } else {
        let mut below = processes().filter(|pid| parent_of(*pid) == Some(started));
        below
            .find(|pid| is_gateway(*pid))
            .expect("the gateway below its tracer")
    };
    Pid::from_raw(i32::try_from(gateway).unwrap()).unwrap()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}
