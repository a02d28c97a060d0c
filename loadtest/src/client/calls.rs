//! The few calls with which scenarios prepare a gateway. One connection a call: these are not measured.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::Endpoint;
use super::http::{Answer, Connection, request};
use super::sends::{path, read_sent};
use crate::error::{LoadError, Problem};

/// How long a call may take.
const CALL: Duration = Duration::from_secs(30);
/// How long a device may take to be connected.
const LINK: Duration = Duration::from_secs(30);

/// A device, as far as scenarios look at it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Device {
    /// Its id.
    pub(crate) id: String,
    /// Its state, where the answer tells it.
    #[serde(default)]
    pub(crate) state: String,
}

/// A page of the log.
#[derive(Debug, Deserialize)]
pub(crate) struct EventPage {
    /// The entries.
    pub(crate) items: Vec<Place>,
    /// Where to go on.
    pub(crate) next_cursor: String,
}

/// An entry of the log, as far as a reader needs it.
#[derive(Debug, Deserialize)]
pub(crate) struct Place {
    /// Its place.
    pub(crate) seq: u64,
}

/// A page of messages.
#[derive(Debug, Deserialize)]
pub(crate) struct MessagePage {
    /// The messages.
    pub(crate) items: Vec<MessageId>,
    /// Where to go on, if there is more.
    pub(crate) next_cursor: Option<String>,
}

/// A message, as far as a reader needs it.
#[derive(Debug, Deserialize)]
pub(crate) struct MessageId {
    /// Its id.
    pub(crate) id: String,
}

/// An acknowledgement that does not say where its event is.
pub(crate) fn no_cursor() -> LoadError {
    LoadError::Protocol("an acknowledgement without a readable event_cursor".to_owned())
}

/// The gateway's REST API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    endpoint: Endpoint,
}

impl Api {
    /// The API at an endpoint.
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    /// Makes virtual phones send no receipts.
    pub(crate) async fn silence_phones(&self, device: &str) -> Result<(), LoadError> {
        self.phones(device, &json!({"auto_receipts": null})).await
    }

    /// Makes virtual phones confirm what they get, as they do unless told otherwise.
    pub(crate) async fn let_phones_confirm(&self, device: &str) -> Result<(), LoadError> {
        let confirm = json!({"auto_receipts": {"deliver_ms": 50}});
        self.phones(device, &confirm).await
    }

    async fn phones(&self, device: &str, behaviour: &Value) -> Result<(), LoadError> {
        let path = format!("/v1/devices/{device}/simulations/phones/*");
        self.call("PUT", &path, Some(behaviour)).await.map(drop)
    }

    /// All devices of the first page.
    pub(crate) async fn devices(&self) -> Result<Vec<Device>, LoadError> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Device>,
        }
        let page: Page = self.read("GET", "/v1/devices?limit=200", None).await?;
        Ok(page.items)
    }

    /// Makes a simulated device.
    pub(crate) async fn create_device(&self, name: &str) -> Result<Device, LoadError> {
        let body = json!({"name": name, "connector": "simulator"});
        self.read("POST", "/v1/devices", Some(&body)).await
    }

    /// Links a simulated device: connect, play the phone that scans the QR, wait until connected.
    pub(crate) async fn link_device(&self, device: &str) -> Result<(), LoadError> {
        let deadline = Instant::now() + LINK;
        let path = format!("/v1/devices/{device}/connect");
        self.call("POST", &path, Some(&json!({"method": "qr"})))
            .await?;
        let path = format!("/v1/devices/{device}/simulations/scan");
        loop {
            // A QR that is not there yet is 409.
            match self.call("POST", &path, Some(&json!({}))).await {
                Ok(_) => break,
                Err(LoadError::Refused { problem, .. })
                    if problem.status == 409 && Instant::now() < deadline =>
                {
                    sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error),
            }
        }
        let path = format!("/v1/devices/{device}");
        loop {
            let found: Device = self.read("GET", &path, None).await?;
            if found.state == "connected" {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(LoadError::Protocol(format!(
                    "device {device} is still {} after {LINK:?}",
                    found.state
                )));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many devices are connected.
    pub(crate) async fn connected(&self) -> Result<u64, LoadError> {
        #[derive(Deserialize)]
        struct Sessions {
            counts: HashMap<String, u64>,
        }
        let found: Sessions = self.read("GET", "/v1/sessions?limit=1", None).await?;
        Ok(found.counts.get("connected").copied().unwrap_or_default())
    }

    /// Sends one message; answers the place of its event.
    pub(crate) async fn send(&self, device: &str, body: &Value) -> Result<u64, LoadError> {
        let answer = self.call("POST", &path(device), Some(body)).await?;
        read_sent(&answer)?.seq().ok_or_else(no_cursor)
    }

    /// Where the log stands.
    pub(crate) async fn head(&self) -> Result<String, LoadError> {
        Ok(self.events("now").await?.next_cursor)
    }

    /// A page of the places of `message.created` after a cursor.
    pub(crate) async fn events(&self, after: &str) -> Result<EventPage, LoadError> {
        let path = format!("/v1/events?after={after}&types=message.created&limit=1000");
        self.read("GET", &path, None).await
    }

    /// A page of messages: the history of a chat, or of a device.
    pub(crate) async fn messages(&self, path: &str) -> Result<MessagePage, LoadError> {
        self.read("GET", path, None).await
    }

    /// The bytes of any page.
    pub(crate) async fn page(&self, path: &str) -> Result<Bytes, LoadError> {
        self.call("GET", path, None).await.map(|answer| answer.body)
    }

    /// Removes a device.
    pub(crate) async fn delete_device(&self, device: &str) -> Result<(), LoadError> {
        self.call("DELETE", &format!("/v1/devices/{device}"), None)
            .await
            .map(drop)
    }

    async fn read<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, LoadError> {
        let answer = self.call(method, path, body).await?;
        serde_json::from_slice(&answer.body).map_err(|source| LoadError::Body {
            call: format!("{method} {path}"),
            source,
        })
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, LoadError> {
        let call = || format!("{method} {path}");
        let body = body.map(Value::to_string);
        let bytes = request(
            &self.endpoint,
            method,
            path,
            body.as_deref().map(str::as_bytes),
        );
        let mut connection = Connection::new(self.endpoint.address);
        let Ok(answer) = timeout(CALL, connection.exchange(&bytes)).await else {
            return Err(LoadError::Refused {
                call: call(),
                problem: Problem {
                    status: 0,
                    code: "(no answer)".to_owned(),
                    detail: format!("nothing within {CALL:?}"),
                },
            });
        };
        let answer = answer?;
        if answer.succeeded() {
            return Ok(answer);
        }
        Err(LoadError::Refused {
            call: call(),
            problem: answer.problem(),
        })
    }
}
