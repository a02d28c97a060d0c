//! The house: a whole gateway on port 0 in a folder of its own, spoken to only over the wire.
//!
//! Everything that a test needs to behave like an integrator lives here: the HTTP client, the WebSocket, the
//! event stream, the operator's socket, and the patience to wait for a state instead of for a time.

mod answer;
mod bugs;
mod case;
mod client;
mod cluster;
mod device;
mod handshake;
mod history;
mod operator;
mod proxy;
mod raw;
mod socket;
mod sse;
mod store;
mod wait;

pub(crate) use answer::Answer;
pub(crate) use bugs::{Moment, WANTED, hush_wanted_panics, panic_in};
pub(crate) use case::{Case, cases};
pub(crate) use client::{Base, Client, insist};
pub(crate) use cluster::Cluster;
pub(crate) use device::{Device, person, phone, text};
pub(crate) use handshake::Codec;
pub(crate) use history::{cursor_of, cursor_place, ladder, read_log, walk};
pub(crate) use operator::Operator;
pub(crate) use proxy::Proxy;
pub(crate) use raw::RawSocket;
pub(crate) use socket::{Heard, Socket};
pub(crate) use sse::Sse;
pub(crate) use store::{Lease, Store, cql_settings};
pub(crate) use wait::{Dice, PATIENCE, Pauses, option, say, seed, until, until_some};

use std::ops::Deref;
use std::path::PathBuf;

use gateway::Gateway;
use gateway::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A gateway that runs inside the test's own process, with one tenant and one key that may do everything.
#[derive(Debug)]
pub(crate) struct House {
    folder: TempDir,
    /// The settings that lead to its store.
    store: String,
    gateway: Option<Gateway>,
    client: Client,
}

impl House {
    /// Starts a gateway on an empty store of the case's kind and makes a tenant.
    pub(crate) async fn open() -> Self {
        Self::open_with("").await
    }

    /// As [`Self::open`], with more settings, such as `chats.idle_ms = 1`.
    pub(crate) async fn open_with(settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the store");
        let store = Store::current().settings_with(&data(&folder), Lease::Long);
        let gateway = start(&store, settings).await;
        let base = Base::default();
        base.set(&format!("http://{}", gateway.address()));
        let client = Operator::at(&data(&folder)).tenant("house", &base).await;
        Self {
            folder,
            store,
            gateway: Some(gateway),
            client,
        }
    }

    /// The credential of the first tenant, with all rights.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// The way of the machine's operator.
    pub(crate) fn operator(&self) -> Operator {
        Operator::at(&data(&self.folder))
    }

    /// Another tenant, with a key for all that is its own.
    pub(crate) async fn tenant(&self) -> Client {
        self.operator().tenant("neighbour", self.base()).await
    }

    /// Another key of the first tenant that may do only this.
    pub(crate) async fn key(&self, scopes: &str) -> Client {
        let tenant = self.client.tenant_id();
        self.operator()
            .key(self.base(), json!({"tenant": tenant, "scopes": scopes}))
            .await
    }

    /// Another key of the first tenant that sees only these devices, with all rights on them.
    pub(crate) async fn device_key(&self, devices: &[&Device]) -> Client {
        let ids: Vec<Value> = devices.iter().map(|device| json!(device.id)).collect();
        let tenant = self.client.tenant_id();
        self.operator()
            .key(self.base(), json!({"tenant": tenant, "devices": ids}))
            .await
    }

    /// Stops the gateway and starts it again on the same store; all clients of the house find it.
    pub(crate) async fn restart(&mut self) {
        self.restart_with("").await;
    }

    /// As [`Self::restart`], with more settings than the usual ones.
    pub(crate) async fn restart_with(&mut self, settings: &str) {
        let running = self.gateway.take().expect("the house is open");
        running.stop().await;
        let gateway = start(&self.store, settings).await;
        self.base().set(&format!("http://{}", gateway.address()));
        self.gateway = Some(gateway);
    }

    /// Stops the gateway. A house that was not closed fails its test.
    pub(crate) async fn close(mut self) {
        let running = self.gateway.take().expect("the house is open");
        running.stop().await;
    }
}

impl Deref for House {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let left_open = self.gateway.is_some() && !std::thread::panicking();
        assert!(!left_open, "the house was left open: close it");
    }
}

/// A setting under which no disk has room for the embedded store.
pub(crate) const DISK_FULL: &str = "store.min_free = 1_000_000_000_000_000_000";

fn data(folder: &TempDir) -> PathBuf {
    folder.path().join("data")
}

async fn start(store: &str, settings: &str) -> Gateway {
    let toml = format!("server.listen = \"127.0.0.1:0\"\n{store}{settings}\n");
    let config = Config::from_toml(&toml).expect("the configuration is valid");
    Gateway::start(config).await.expect("the gateway starts")
}
