//! Which gateway a scenario speaks to: a running one, or one that is started for it.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::client::Endpoint;
use crate::client::calls::Api;
use crate::error::LoadError;
use crate::monitor::{Monitor, Process};
use crate::server::ChildServer;

/// How to reach the gateway.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Gateway")]
pub(crate) struct TargetOptions {
    /// Address of a running gateway.
    #[arg(long, requires = "key", value_name = "URL")]
    url: Option<String>,
    /// API key for --url.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The demo.json of a running `buho demo`.
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    demo_file: Option<PathBuf>,
    /// A gateway's binary, to be started with `demo` and ended again.
    #[arg(long, value_name = "BINARY", conflicts_with_all = ["url", "demo_file"])]
    start: Option<PathBuf>,
    /// Data folder for --start; without it a new one that is removed at the end.
    #[arg(long, requires = "start", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration file for --start.
    #[arg(long, requires = "start", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The store for --start.
    #[arg(long, requires = "start", value_enum)]
    store: Option<StoreKind>,
    /// Nodes of the database, for --store cql.
    #[arg(long, requires = "store", value_name = "HOST:PORT,…")]
    contact_points: Option<String>,
    /// Keyspace in the database, for --store cql. Without it, one of the gateway's choice.
    #[arg(long, requires = "store")]
    keyspace: Option<String>,
    /// An option of the gateway for --start, such as streams.ring_bytes_max=1048576.
    #[arg(long, requires = "start", value_name = "SECTION.OPTION=VALUE")]
    set: Vec<Setting>,
    /// Process id of a running gateway, so that its CPU and memory are reported.
    #[arg(long, conflicts_with = "start", value_name = "PID")]
    pid: Option<u32>,
    /// The device to send from; without it the first one.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

/// What keeps the data of a gateway that is started here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoreKind {
    /// A folder.
    Embedded,
    /// A database that speaks CQL.
    Cql,
}

/// An option of the gateway, handed over in its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    variable: String,
    value: String,
}

impl Setting {
    /// `section.option` becomes `BUHO_SECTION__OPTION`.
    fn new(path: &str, value: &str) -> Self {
        Self {
            variable: format!("BUHO_{}", path.to_uppercase().replace('.', "__")),
            value: value.to_owned(),
        }
    }
}

impl FromStr for Setting {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (path, value) = text
            .split_once('=')
            .filter(|(path, _)| path.contains('.'))
            .ok_or("a setting is SECTION.OPTION=VALUE")?;
        Ok(Self::new(path, value))
    }
}

/// How a gateway is started, so that it can be started again.
#[derive(Debug, Clone)]
struct Starting {
    binary: PathBuf,
    data: PathBuf,
    config: Option<PathBuf>,
    settings: Vec<Setting>,
    /// Whether the data folder holds the store.
    is_embedded: bool,
}

impl Starting {
    fn of(options: &TargetOptions, binary: &Path, data: &Path) -> Self {
        let mut settings = options.set.clone();
        match options.store {
            Some(StoreKind::Embedded) => settings.push(Setting::new("store.kind", "embedded")),
            Some(StoreKind::Cql) => settings.push(Setting::new("store.kind", "cql")),
            None => {}
        }
        let cql = [
            ("contact_points", &options.contact_points),
            ("keyspace", &options.keyspace),
        ];
        for (name, value) in cql {
            let value = value.as_deref();
            settings.extend(value.map(|value| Setting::new(&format!("cql.{name}"), value)));
        }
        let cluster = Setting::new("cql.cluster", &own_cluster());
        let is_named = settings.iter().any(|it| it.variable == cluster.variable);
        // A new folder shall mean new data in a database too.
        if options.store == Some(StoreKind::Cql) && options.data.is_none() && !is_named {
            settings.push(cluster);
        }
        Self {
            binary: binary.to_owned(),
            data: data.to_owned(),
            config: options.config.clone(),
            settings,
            is_embedded: options.store != Some(StoreKind::Cql),
        }
    }

    async fn run(&self, command: &str) -> Result<ChildServer, LoadError> {
        ChildServer::start(self.command(&[command, "--listen", "127.0.0.1:0"])).await
    }

    /// Has the stopped gateway's store flushed and compacted.
    async fn compact(&self) -> Result<(), LoadError> {
        let doing = "compacting the store";
        let done = self.command(&["store", "compact"]).output().await;
        let done = done.map_err(LoadError::io(doing))?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        Err(LoadError::Target(format!("{doing}: {}", said.trim())))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut process = Command::new(&self.binary);
        process.args(words).arg("--data").arg(&self.data);
        if let Some(config) = &self.config {
            process.arg("--config").arg(config);
        }
        for setting in &self.settings {
            process.env(&setting.variable, &setting.value);
        }
        process
    }
}

/// A name that no other run has.
fn own_cluster() -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    format!("load_{}_{now}", std::process::id())
}

#[derive(Debug, Deserialize)]
struct Demo {
    url: String,
    key: String,
    devices: Vec<DemoDevice>,
}

#[derive(Debug, Deserialize)]
struct DemoDevice {
    id: String,
}

/// How a restart went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restart {
    /// When the process was started.
    pub(crate) began: Instant,
    /// From the request to end to the end.
    pub(crate) stopped: Duration,
    /// From the start to the line that says where it listens.
    pub(crate) ready: Duration,
}

/// A gateway that is ready for a scenario.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Where and with which key.
    pub(crate) endpoint: Endpoint,
    /// The device to send from.
    pub(crate) device: String,
    /// Its process, if known.
    pub(crate) pid: Option<u32>,
    /// The same for a watch that was begun, kept true over restarts.
    process: Option<Process>,
    child: Option<ChildServer>,
    starting: Option<Starting>,
    /// Kept until the gateway has ended.
    folder: Option<TempDir>,
}

impl Gateway {
    /// Connects to the gateway, or starts one.
    pub(crate) async fn reach(options: &TargetOptions) -> Result<Self, LoadError> {
        let mut gateway = if let Some(binary) = &options.start {
            Self::start(options, binary).await?
        } else if let Some(path) = &options.demo_file {
            let demo = read_demo(path)?;
            Self::running(address(&demo.url)?, demo)
        } else if let (Some(url), Some(key)) = (&options.url, &options.key) {
            Self::at(address(url)?, key.clone()).await?
        } else {
            return Err(LoadError::Target(
                "name a gateway: --url with --key, --demo-file, or --start".to_owned(),
            ));
        };
        if let Some(device) = &options.device {
            gateway.device.clone_from(device);
        }
        if gateway.device.is_empty() {
            return Err(LoadError::Target("the tenant has no device".to_owned()));
        }
        gateway.pid = gateway.pid.or(options.pid);
        Ok(gateway)
    }

    async fn start(options: &TargetOptions, binary: &Path) -> Result<Self, LoadError> {
        let folder = match options.data {
            Some(_) => None,
            None => Some(TempDir::new().map_err(LoadError::io("making a data folder"))?),
        };
        let data = options.data.as_deref();
        let data = data
            .or(folder.as_ref().map(TempDir::path))
            .unwrap_or_else(|| Path::new("data"));
        let starting = Starting::of(options, binary, data);
        let child = starting.run("demo").await?;
        let address = child.address;
        let demo = wait_for_demo(&data.join("demo.json")).await?;
        Ok(Self {
            pid: Some(child.pid),
            child: Some(child),
            starting: Some(starting),
            folder,
            // The port of this run; the file may remember another.
            ..Self::running(address, demo)
        })
    }

    /// Ends a gateway that was started here and starts it again on the same data; answers how long each took.
    pub(crate) async fn restart(&mut self) -> Result<Restart, LoadError> {
        self.start_anew(false).await
    }

    /// As [`Self::restart`], with all tables of an embedded store flushed and compacted in between; whether that was done.
    pub(crate) async fn restart_compacted(&mut self) -> Result<bool, LoadError> {
        self.start_anew(true).await?;
        Ok(self.starting.as_ref().is_some_and(|it| it.is_embedded))
    }

    async fn start_anew(&mut self, compacts: bool) -> Result<Restart, LoadError> {
        let own = || LoadError::Target("only a gateway of --start can be restarted".to_owned());
        let child = self.child.take().ok_or_else(own)?;
        let starting = self.starting.as_ref().ok_or_else(own)?;
        let began = Instant::now();
        child.stop().await?;
        let stopped = began.elapsed();
        if compacts && starting.is_embedded {
            starting.compact().await?;
        }
        let began = Instant::now();
        let child = starting.run("serve").await?;
        let ready = began.elapsed();
        self.pid = Some(child.pid);
        if let Some(process) = &self.process {
            process.store(child.pid, Ordering::Relaxed);
        }
        self.endpoint.address = child.address;
        self.child = Some(child);
        Ok(Restart {
            began,
            stopped,
            ready,
        })
    }

    /// Begins to watch its process, and any that follows it.
    pub(crate) fn watch(&mut self) -> Option<Monitor> {
        let process = Process::new(self.pid?.into());
        self.process = Some(Arc::clone(&process));
        Some(Monitor::follow(process))
    }

    /// The folder of a gateway that was started here.
    pub(crate) fn data(&self) -> Option<&Path> {
        self.starting
            .as_ref()
            .map(|starting| starting.data.as_path())
    }

    /// What the gateway's binary calls itself, where it was started here.
    pub(crate) async fn version(&self) -> String {
        let Some(starting) = &self.starting else {
            return format!("a running server at {}", self.endpoint.address);
        };
        let asked = Command::new(&starting.binary).arg("--version").output();
        let answer = asked.await.map(|output| output.stdout).unwrap_or_default();
        let version = String::from_utf8_lossy(&answer).trim().to_owned();
        let settings = starting.settings.iter();
        settings.fold(version, |text, setting| {
            format!("{text} {}={}", setting.variable, setting.value)
        })
    }

    fn running(address: SocketAddr, demo: Demo) -> Self {
        Self {
            endpoint: Endpoint {
                address,
                credential: Some(demo.key),
            },
            device: demo
                .devices
                .into_iter()
                .next()
                .map_or_else(String::new, |device| device.id),
            pid: None,
            process: None,
            child: None,
            starting: None,
            folder: None,
        }
    }

    async fn at(address: SocketAddr, key: String) -> Result<Self, LoadError> {
        let endpoint = Endpoint {
            address,
            credential: Some(key),
        };
        let devices = Api::new(endpoint.clone()).devices().await?;
        let device = devices
            .iter()
            .find(|device| device.state == "connected")
            .or(devices.first())
            .map_or_else(String::new, |device| device.id.clone());
        Ok(Self {
            endpoint,
            device,
            pid: None,
            process: None,
            child: None,
            starting: None,
            folder: None,
        })
    }

    /// Ends the gateway if it was started here.
    pub(crate) async fn finish(self) -> Result<(), LoadError> {
        if let Some(child) = self.child {
            child.stop().await?;
        }
        if let Some(folder) = self.folder {
            folder
                .close()
                .map_err(LoadError::io("removing the data folder"))?;
        }
        Ok(())
    }
}

/// The address in `http://HOST:PORT`. Only loopback: load must never reach a machine by mistake.
fn address(url: &str) -> Result<SocketAddr, LoadError> {
    let wrong = |why: &str| LoadError::Target(format!("{url}: {why}"));
    let host = url
        .strip_prefix("http://")
        .ok_or_else(|| wrong("only http:// is spoken"))?
        .trim_end_matches('/');
    let address = host
        .to_socket_addrs()
        .map_err(LoadError::io(format!("resolving {host}")))?
        .next()
        .ok_or_else(|| wrong("no such host"))?;
    if !address.ip().is_loopback() {
        return Err(wrong("load goes to loopback only"));
    }
    Ok(address)
}

fn read_demo(path: &Path) -> Result<Demo, LoadError> {
    let doing = format!("reading {}", path.display());
    let bytes = std::fs::read(path).map_err(LoadError::io(doing.clone()))?;
    serde_json::from_slice(&bytes).map_err(|source| LoadError::Body {
        call: doing,
        source,
    })
}

/// The file may come a moment after the ready line.
async fn wait_for_demo(path: &Path) -> Result<Demo, LoadError> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match read_demo(path) {
            Ok(demo) => return Ok(demo),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_over_http_is_a_target() {
        assert_eq!(address("http://127.0.0.1:8080/").unwrap().port(), 8_080);
        assert!(address("https://127.0.0.1:8080").is_err());
        assert!(address("http://192.0.2.1:8080").is_err());
        assert!(address("http://127.0.0.1").is_err());
    }

    #[test]
    fn a_setting_becomes_a_variable() {
        let setting: Setting = "cql.contact_points=127.0.0.1:9042".parse().unwrap();
        assert_eq!(setting.variable, "BUHO_CQL__CONTACT_POINTS");
        assert_eq!(setting.value, "127.0.0.1:9042");
        assert!("store=cql".parse::<Setting>().is_err());
    }

    #[test]
    fn a_demo_file_gives_key_and_first_device() {
        let text = r#"{"url":"http://127.0.0.1:8080","tenant":"ten_1","key":"buho_key_1",
            "devices":[{"id":"dev_1","number":"51900000001"},{"id":"dev_2","number":"51900000002"}]}"#;
        let demo: Demo = serde_json::from_str(text).unwrap();
        let gateway = Gateway::running(address(&demo.url).unwrap(), demo);
        assert_eq!(gateway.device, "dev_1");
        assert_eq!(gateway.endpoint.credential.as_deref(), Some("buho_key_1"));
    }
}
