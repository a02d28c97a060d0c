//! The first minute: a tenant, two linked simulated devices and a key, kept in `demo.json` in the store's folder.
//!
//! What is already there is found again, so that a second run, or one after a run that was cut short, shows the same.

use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway::config::Config;
use gateway::operator::client::{AskError, ask};
use gateway::operator::line::Command;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const TENANT: &str = "demo";
const KEY: &str = "demo";
/// The devices: a name for people, and a number on the simulated network.
const DEVICES: [(&str, &str); 2] = [("Ana", "51999000001"), ("Bruno", "51999000002")];
const SHEET: &str = "demo.json";
/// The longest that one call may take; linking waits up to 5 s for a QR.
const CALL_MAX: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const ANSWER_MAX: usize = 1 << 20;

/// Why the demonstration could not be laid out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The file can't be read or written.
    #[error("{path} can't be kept")]
    Sheet {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The operator's socket refuses.
    #[error("the demonstration's tenant or key could not be made")]
    Operator(#[from] AskError),
    /// The API can't be reached.
    #[error("the gateway's own API can't be reached: {what}")]
    Call {
        /// Which call.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API refuses.
    #[error("{what} was answered by {status}: {detail}")]
    Refused {
        /// Which call.
        what: String,
        /// The answer's status.
        status: StatusCode,
        /// The answer's words.
        detail: String,
    },
    /// An answer lacks what it should have.
    #[error("the answer to {0} is not of the expected form")]
    Form(String),
}

/// What the demonstration is made of: what `demo.json` holds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sheet {
    url: String,
    tenant: String,
    key: String,
    devices: Vec<SheetDevice>,
}

#[derive(Serialize, Deserialize)]
struct SheetDevice {
    id: String,
    number: String,
}

/// Finds or makes all of it, and keeps it in the file.
pub(crate) async fn lay_out(config: &Config, address: SocketAddr) -> Result<Sheet, DemoError> {
    let path = config.store.path.join(SHEET);
    let address = reachable(address);
    let (tenant, key, known) = match read(&path)? {
        Some(sheet) if works(address, &sheet.key).await? => {
            (sheet.tenant, sheet.key, sheet.devices)
        }
        Some(_) | None => {
            let (tenant, key) = make_key(config.operator_socket()).await?;
            (tenant, key, Vec::new())
        }
    };
    let api = Api { address, key };
    let mut devices = Vec::with_capacity(DEVICES.len());
    for (name, number) in DEVICES {
        let known = known.iter().find(|device| device.number == number);
        devices.push(api.linked_device(known, name, number).await?);
    }
    let sheet = Sheet {
        url: format!("http://{address}"),
        tenant,
        key: api.key,
        devices,
    };
    write(&path, &sheet).map_err(|source| DemoError::Sheet { path, source })?;
    Ok(sheet)
}

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            tenant,
            key,
            devices,
        } = self;
        writeln!(f, "\n  tenant  {tenant}\n  key     {key}")?;
        for device in devices {
            writeln!(f, "  device  {}  number {}", device.id, device.number)?;
        }
        let auth = format!("-H 'Authorization: Bearer {key}'");
        writeln!(
            f,
            "\nWatch what happens:\n\n  curl -N {auth} '{url}/v1/events/stream?after=now'"
        )?;
        let (Some(sender), Some(receiver)) = (devices.first(), devices.get(1)) else {
            return Ok(());
        };
        let message = format!(
            r#"{{"to":"{}","content":{{"type":"text","text":"Hola"}}}}"#,
            receiver.number
        );
        writeln!(
            f,
            "\nSend a message from the first device to the second:\n\n  curl {auth} -H 'Content-Type: application/json' \
             -d '{message}' '{url}/v1/devices/{}/messages'",
            sender.id
        )?;
        write!(
            f,
            "\nRead the chat at the second device:\n\n  curl {auth} '{url}/v1/devices/{}/chats/{}/messages'\n",
            receiver.id, sender.number
        )
    }
}

/// The address under which this machine reaches a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, address.port())
}

/// The kept sheet; `None` where there is none, or none that can be understood.
fn read(path: &Path) -> Result<Option<Sheet>, DemoError> {
    match std::fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DemoError::Sheet {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes it whole or not at all, for the gateway's own user alone.
fn write(path: &Path, sheet: &Sheet) -> io::Result<()> {
    let fresh = path.with_extension("json.new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(serde_json::to_string_pretty(sheet)?.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

/// Whether a key of an earlier run is still good.
async fn works(address: SocketAddr, key: &str) -> Result<bool, DemoError> {
    let api = Api {
        address,
        key: key.to_owned(),
    };
    let (status, _) = api.call(Method::GET, "/v1/me", None).await?;
    Ok(status == StatusCode::OK)
}

/// The tenant, made where it is not there yet, and a new key with all its rights.
async fn make_key(socket: PathBuf) -> Result<(String, String), DemoError> {
    let asked = tokio::task::spawn_blocking(move || {
        let list = ask(&socket, &Command::TenantList {})?;
        let tenants = list
            .get("tenants")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let found = tenants
            .into_iter()
            .find(|tenant| tenant.get("name").and_then(Value::as_str) == Some(TENANT))
            .cloned();
        let made = match found {
            Some(tenant) => tenant,
            None => ask(
                &socket,
                &Command::TenantCreate {
                    name: TENANT.to_owned(),
                },
            )?
            .get("tenant")
            .cloned()
            .unwrap_or_default(),
        };
        let form = || DemoError::Form("tenant_create".to_owned());
        let tenant = text(&made, "id").ok_or_else(form)?;
        let id = tenant.parse().map_err(|_| form())?;
        let command = Command::KeyCreate {
            tenant: id,
            scopes: None,
            name: Some(KEY.to_owned()),
            devices: Vec::new(),
        };
        let secret = text(&ask(&socket, &command)?, "secret");
        Ok((
            tenant,
            secret.ok_or_else(|| DemoError::Form("key_create".to_owned()))?,
        ))
    });
    asked.await.unwrap_or_else(|error| {
        Err(DemoError::Operator(AskError::Broken(io::Error::other(
            error,
        ))))
    })
}

fn text(of: &Value, member: &str) -> Option<String> {
    of.get(member).and_then(Value::as_str).map(str::to_owned)
}

/// The public API over loopback.
struct Api {
    address: SocketAddr,
    key: String,
}

impl Api {
    /// A device with this number that is linked: the known one, one that is there, or a new one.
    async fn linked_device(
        &self,
        known: Option<&SheetDevice>,
        name: &str,
        number: &str,
    ) -> Result<SheetDevice, DemoError> {
        let device = match self.find(known, number).await? {
            Some(device) => device,
            None => {
                let wish = json!({"name": name, "connector": "simulator", "number": number});
                self.expect(Method::POST, "/v1/devices", Some(&wish))
                    .await?
            }
        };
        let id = text(&device, "id").ok_or_else(|| DemoError::Form("create_device".to_owned()))?;
        if device.get("jid").is_none_or(Value::is_null) {
            let below = |path: &str| format!("/v1/devices/{id}/{path}");
            self.expect(
                Method::POST,
                &below("connect"),
                Some(&json!({"method": "qr"})),
            )
            .await?;
            self.expect(Method::POST, &below("simulations/scan"), Some(&json!({})))
                .await?;
        }
        Ok(SheetDevice {
            id,
            number: number.to_owned(),
        })
    }

    async fn find(
        &self,
        known: Option<&SheetDevice>,
        number: &str,
    ) -> Result<Option<Value>, DemoError> {
        if let Some(known) = known {
            let (status, device) = self
                .call(Method::GET, &format!("/v1/devices/{}", known.id), None)
                .await?;
            if status == StatusCode::OK {
                return Ok(Some(device));
            }
        }
        let page = self
            .expect(Method::GET, "/v1/devices?limit=200", None)
            .await?;
        let mut devices = page
            .get("items")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        Ok(devices
            .find(|device| text(device, "number").as_deref() == Some(number))
            .cloned())
    }

    /// A call that must go well.
    async fn expect(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, DemoError> {
        let what = format!("{method} {path}");
        let (status, answer) = self.call(method, path, body).await?;
        if !status.is_success() {
            let detail = text(&answer, "detail").unwrap_or_default();
            return Err(DemoError::Refused {
                what,
                status,
                detail,
            });
        }
        Ok(answer)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), DemoError> {
        let what = format!("{method} {path}");
        let answered = timeout(CALL_MAX, Box::pin(self.exchange(method, path, body))).await;
        answered
            .unwrap_or_else(|late| Err(late.into()))
            .map_err(|source| DemoError::Call { what, source })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let response = sender
            .send_request(request.body(Full::new(Bytes::from(body)))?)
            .await?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_MAX)
            .collect()
            .await?
            .to_bytes();
        Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn sheet() -> Sheet {
        let device = |id: &str, number: &str| SheetDevice {
            id: id.to_owned(),
            number: number.to_owned(),
        };
        Sheet {
            url: "http://127.0.0.1:8080".to_owned(),
            tenant: "ten_1".to_owned(),
            key: "buho_key_1".to_owned(),
            devices: vec![
                device("dev_1", "51999000001"),
                device("dev_2", "51999000002"),
            ],
        }
    }

    #[test]
    fn the_sheet_is_kept_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SHEET);
        assert!(read(&path).unwrap().is_none());
        for _ in 0..2 {
            write(&path, &sheet()).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
        assert_eq!(read(&path).unwrap().unwrap().devices[1].id, "dev_2");
        std::fs::write(&path, "{").unwrap();
        assert!(read(&path).unwrap().is_none());
    }

    #[test]
    fn three_commands_can_be_copied() {
        let told = sheet().to_string();
        assert_eq!(
            told.lines()
                .filter(|line| line.starts_with("  curl "))
                .count(),
            3
        );
        assert!(
            told.contains(r#"-d '{"to":"51999000002","content":{"type":"text","text":"Hola"}}'"#),
            "{told}"
        );
    }

    #[test]
    fn a_listener_on_every_address_is_reached_over_loopback() {
        let told = |address: &str| reachable(address.parse().unwrap()).to_string();
        assert_eq!(told("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(told("[::]:80"), "[::1]:80");
        assert_eq!(told("127.0.0.1:80"), "127.0.0.1:80");
    }
}
