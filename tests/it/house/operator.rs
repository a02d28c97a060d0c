//! The operator's way in: one JSON line each way over the Unix socket in the data folder.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{Base, Client, Store, until_some};

/// Speaks to the operator's socket of one gateway.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    socket: PathBuf,
}

impl Operator {
    pub(crate) fn at(data: &Path) -> Self {
        Self {
            socket: data.join("operator.sock"),
        }
    }

    /// Asks and gives the answer as it came, an error too.
    pub(crate) async fn ask(&self, question: &Value) -> Value {
        let mut stream = UnixStream::connect(&self.socket)
            .await
            .expect("the operator's socket");
        stream
            .write_all(format!("{question}\n").as_bytes())
            .await
            .unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a JSON line: {line:?}"))
    }

    /// Asks for something that shall be there then: again where CQL servers are busy, for then nothing was made.
    async fn make(&self, wish: &Value) -> Value {
        until_some("the operator is answered", async || {
            let made = self.ask(wish).await;
            let is_away = Store::is_on_servers() && made["error"]["code"] == "unavailable";
            (!is_away).then_some(made)
        })
        .await
    }

    /// Makes a tenant and a key for all that is its own.
    pub(crate) async fn tenant(&self, name: &str, base: &Base) -> Client {
        let wish = json!({"command": "tenant_create", "name": name});
        let made = self.make(&wish).await;
        let tenant = made["tenant"]["id"]
            .as_str()
            .unwrap_or_else(|| panic!("no tenant: {made}"));
        self.key(base, json!({"tenant": tenant})).await
    }

    /// Makes a key; `wish` is the command's members.
    pub(crate) async fn key(&self, base: &Base, mut wish: Value) -> Client {
        wish["command"] = json!("key_create");
        wish["name"] = json!("test");
        let made = self.make(&wish).await;
        let secret = made["secret"]
            .as_str()
            .unwrap_or_else(|| panic!("no key: {made}"));
        let id = made["key"]["id"].as_str().expect("a key's id");
        Client::new(base, wish["tenant"].as_str().unwrap(), id, secret)
    }

    /// Makes an admin key.
    pub(crate) async fn admin_key(&self, base: &Base) -> Client {
        let made = self.make(&json!({"command": "admin_key_create"})).await;
        let secret = made["secret"]
            .as_str()
            .unwrap_or_else(|| panic!("no key: {made}"));
        let id = made["key"]["id"].as_str().expect("a key's id");
        Client::new(base, "", id, secret)
    }

    /// Takes a key back.
    pub(crate) async fn revoke(&self, key: &str) {
        let gone = self
            .ask(&json!({"command": "key_revoke", "key": key}))
            .await;
        assert_eq!(gone["key"]["id"], key, "not revoked: {gone}");
    }
}
