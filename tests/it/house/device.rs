//! A simulated device and what a test does with it.

use serde_json::{Value, json};

use super::{Answer, Client, insist, until};

/// A device of one tenant.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) client: Client,
    pub(crate) id: String,
    /// Its address on the simulated network.
    pub(crate) jid: String,
}

/// A number of a virtual phone.
pub(crate) fn phone(index: usize) -> String {
    format!("5199900{index:04}")
}

/// The address of a virtual phone.
pub(crate) fn person(index: usize) -> String {
    format!("{}@s.whatsapp.net", phone(index))
}

/// A text message's content.
pub(crate) fn text(words: &str) -> Value {
    json!({"type": "text", "text": words})
}

impl Client {
    /// Makes a simulated device that is not connected yet.
    pub(crate) async fn fresh_device(&self, name: &str) -> Device {
        let wish = json!({"name": name, "connector": "simulator"});
        let make = || self.post("/v1/devices", wish.clone());
        let made = insist(make).await.expect(201);
        Device {
            client: self.clone(),
            id: made["id"].as_str().expect("a device's id").into(),
            jid: String::new(),
        }
    }

    /// Makes a simulated device, scans its code and waits until it is connected.
    pub(crate) async fn device(&self, name: &str) -> Device {
        let mut device = self.fresh_device(name).await;
        for step in ["/connect", "/simulations/scan"] {
            insist(|| device.post(step, json!({}))).await.success();
        }
        device.until_state("connected").await;
        let made = self.read(&device.path("")).await;
        device.jid = made["jid"]
            .as_str()
            .expect("a linked device has a jid")
            .into();
        device
    }
}

impl Device {
    /// A path below this device.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v1/devices/{}{rest}", self.id)
    }

    pub(crate) async fn get(&self, rest: &str) -> Answer {
        self.client.get(&self.path(rest)).await
    }

    pub(crate) async fn post(&self, rest: &str, body: Value) -> Answer {
        self.client.post(&self.path(rest), body).await
    }

    pub(crate) async fn put(&self, rest: &str, body: Value) -> Answer {
        self.client.put(&self.path(rest), body).await
    }

    /// Posts something that must be accepted.
    pub(crate) async fn takes(&self, rest: &str, body: Value) -> Value {
        insist(|| self.post(rest, body.clone())).await.expect(202)
    }

    /// Sends a text; it must be accepted.
    pub(crate) async fn send(&self, to: &str, words: &str) -> Value {
        let body = json!({"to": to, "content": text(words)});
        self.takes("/messages", body).await
    }

    /// Sends a body under an idempotency key.
    pub(crate) async fn send_once(&self, key: &str, body: &Value) -> Answer {
        self.client
            .call("POST", &self.path("/messages"))
            .once(key)
            .json(body)
            .send()
            .await
    }

    /// Lets a virtual phone write to this device; must be accepted.
    pub(crate) async fn hears(&self, from: &str, words: &str) -> Value {
        let body = json!({"from": from, "content": text(words)});
        self.takes("/simulations/messages", body).await
    }

    /// Tells how a virtual phone, or with `*` every one, behaves.
    pub(crate) async fn phone_behaves(&self, number: &str, body: Value) {
        let path = format!("/simulations/phones/{number}");
        insist(|| self.put(&path, body.clone())).await.success();
    }

    pub(crate) async fn state(&self) -> String {
        let session = self.client.read(&self.path("/session")).await;
        session["state"].as_str().expect("a state").into()
    }

    pub(crate) async fn until_state(&self, state: &str) {
        let what = format!("{} is {state}", self.id);
        until(&what, async || self.state().await == state).await;
    }

    pub(crate) async fn message(&self, id: &str) -> Value {
        let path = self.path(&format!("/messages/{id}"));
        self.client.read(&path).await
    }

    pub(crate) async fn until_status(&self, id: &str, status: &str) {
        let what = format!("{id} is {status}");
        until(&what, async || self.message(id).await["status"] == status).await;
    }

    /// The messages of a chat, oldest first.
    pub(crate) async fn history(&self, chat: &str) -> Vec<Value> {
        let path = self.path(&format!("/chats/{chat}/messages?order=asc&limit=200"));
        super::walk(&self.client, &path).await
    }
}
