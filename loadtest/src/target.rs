//! Which gateway a scenario speaks to: a running one, or one that is started for it.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::client::Endpoint;
use crate::client::calls::Api;
use crate::error::LoadError;
use crate::server::{ChildServer, Usage, usage};

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
    /// Process id of a running gateway, so that its CPU and memory are reported.
    #[arg(long, conflicts_with = "start", value_name = "PID")]
    pid: Option<u32>,
    /// The device to send from; without it the first one.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
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

/// A gateway that is ready for a scenario.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Where and with which key.
    pub(crate) endpoint: Endpoint,
    /// The device to send from.
    pub(crate) device: String,
    /// Its process, if known.
    pub(crate) pid: Option<u32>,
    child: Option<ChildServer>,
    /// Kept until the gateway has ended.
    folder: Option<TempDir>,
}

impl Gateway {
    /// Connects to the gateway, or starts one.
    pub(crate) async fn reach(options: &TargetOptions) -> Result<Self, LoadError> {
        let mut gateway = if let Some(binary) = &options.start {
            Self::start(binary, options.data.as_deref()).await?
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

    async fn start(binary: &Path, data: Option<&Path>) -> Result<Self, LoadError> {
        let folder = match data {
            Some(_) => None,
            None => Some(TempDir::new().map_err(LoadError::io("making a data folder"))?),
        };
        let data = data
            .or(folder.as_ref().map(TempDir::path))
            .unwrap_or_else(|| Path::new("data"));
        let mut command = Command::new(binary);
        command
            .args(["demo", "--listen", "127.0.0.1:0", "--data"])
            .arg(data);
        let child = ChildServer::start(command).await?;
        let demo = wait_for_demo(&data.join("demo.json")).await?;
        Ok(Self {
            pid: Some(child.pid),
            // The port of this run; the file may remember another.
            ..Self::running(child.address, demo).with(child, folder)
        })
    }

    fn with(self, child: ChildServer, folder: Option<TempDir>) -> Self {
        Self {
            child: Some(child),
            folder,
            ..self
        }
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
            child: None,
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
            child: None,
            folder: None,
        })
    }

    /// What the gateway's process has used, if it is known.
    pub(crate) fn usage(&self) -> Result<Option<Usage>, LoadError> {
        self.pid.map(usage).transpose()
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
    fn a_demo_file_gives_key_and_first_device() {
        let text = r#"{"url":"http://127.0.0.1:8080","tenant":"ten_1","key":"buho_key_1",
            "devices":[{"id":"dev_1","number":"51900000001"},{"id":"dev_2","number":"51900000002"}]}"#;
        let demo: Demo = serde_json::from_str(text).unwrap();
        let gateway = Gateway::running(address(&demo.url).unwrap(), demo);
        assert_eq!(gateway.device, "dev_1");
        assert_eq!(gateway.endpoint.credential.as_deref(), Some("buho_key_1"));
    }
}
