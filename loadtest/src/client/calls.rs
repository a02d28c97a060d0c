//! The few calls with which scenarios prepare a gateway. One connection a call: these are not measured.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::Endpoint;
use super::http::{Answer, Connection, request};
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

    /// Makes virtual phones send no receipts, or lets them be as they are by default.
    pub(crate) async fn silence_phones(&self, device: &str) -> Result<(), LoadError> {
        let path = format!("/v1/devices/{device}/simulations/phones/*");
        self.call("PUT", &path, Some(&json!({"auto_receipts": null})))
            .await
            .map(drop)
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
