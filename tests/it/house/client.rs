//! One credential and the gateway it is for.

use std::sync::{Arc, Mutex};

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use super::{Answer, PATIENCE, Pauses, Store, until_some};

/// Where the gateway is now. Shared by all clients of one gateway, for its port changes with a restart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Base(Arc<Mutex<String>>);

impl Base {
    pub(crate) fn set(&self, url: &str) {
        *self.0.lock().unwrap() = url.into();
    }

    pub(crate) fn url(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> String {
        self.url().trim_start_matches("http://").into()
    }
}

/// Calls the gateway with one credential, or with none.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Base,
    secret: Option<String>,
    tenant: String,
    key: String,
}

impl Client {
    pub(crate) fn new(base: &Base, tenant: &str, key: &str, secret: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("an HTTP client");
        Self {
            http,
            base: base.clone(),
            secret: Some(secret.into()),
            tenant: tenant.into(),
            key: key.into(),
        }
    }

    /// The same way in without any credential.
    pub(crate) fn anonymous(&self) -> Self {
        Self {
            secret: None,
            ..self.clone()
        }
    }

    /// The same way in with another credential.
    pub(crate) fn with(&self, secret: &str) -> Self {
        Self {
            secret: Some(secret.into()),
            ..self.clone()
        }
    }

    pub(crate) const fn base(&self) -> &Base {
        &self.base
    }

    pub(crate) fn tenant_id(&self) -> &str {
        &self.tenant
    }

    /// The id of the key.
    pub(crate) fn key_id(&self) -> &str {
        &self.key
    }

    /// The key's secret.
    #[track_caller]
    pub(crate) fn secret(&self) -> &str {
        self.secret.as_deref().expect("a client with a credential")
    }

    pub(crate) fn credential(&self) -> Option<&str> {
        self.secret.as_deref()
    }

    /// Begins a call that needs more than a body.
    pub(crate) fn call(&self, method: &str, path: &str) -> Call {
        let url = format!("{}{path}", self.base.url());
        let verb = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.http.request(verb, url);
        if let Some(secret) = &self.secret {
            request = request.header("authorization", format!("Bearer {secret}"));
        }
        Call {
            what: format!("{method} {path}"),
            request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path).send().await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path).json(&body).send().await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.call("PUT", path).json(&body).send().await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call("PATCH", path).json(&body).send().await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path).send().await
    }

    /// What is there.
    pub(crate) async fn read(&self, path: &str) -> Value {
        insist(|| self.get(path)).await.expect(200)
    }

    /// Where the log ends now.
    pub(crate) async fn head(&self) -> String {
        let page = self.read("/v1/events?after=now").await;
        page["head"].as_str().expect("a head").into()
    }

    /// The first entry of a type after a cursor that also fits; waits for it.
    pub(crate) async fn until_entry(
        &self,
        after: &str,
        kind: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        let path = format!("/v1/events?after={after}&types={kind}&limit=1000");
        until_some(&format!("there is a {kind} that fits"), async || {
            let page = self.get(&path).await.expect(200);
            let items = page["items"].as_array().expect("items").clone();
            items.into_iter().find(&fits)
        })
        .await
    }
}

/// A call's answer. CQL servers that are busy with the rest of the run, or come back from a fault, may be away for a moment:
/// then the call is made again, for what was turned away has not happened.
pub(crate) async fn insist<F: Future<Output = Answer>>(call: impl Fn() -> F) -> Answer {
    let (begun, mut pauses) = (Instant::now(), Pauses::default());
    loop {
        let answer = call().await;
        let is_away = answer.body["code"] == "unavailable" && Store::is_on_servers();
        if !is_away || PATIENCE < begun.elapsed() {
            return answer;
        }
        pauses.next().await;
    }
}

/// A call that is being put together.
#[derive(Debug)]
pub(crate) struct Call {
    what: String,
    request: RequestBuilder,
}

impl Call {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// The `Idempotency-Key`.
    pub(crate) fn once(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.request = self.request.json(body);
        self
    }

    /// Any bytes under any type.
    pub(crate) fn raw(mut self, kind: &str, body: impl Into<reqwest::Body>) -> Self {
        self.request = self.request.header("content-type", kind).body(body);
        self
    }

    /// A body without a type.
    pub(crate) fn bare(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.request = self.request.body(body);
        self
    }

    /// The answer; a call without one fails the test.
    pub(crate) async fn send(self) -> Answer {
        let what = self.what.clone();
        self.attempt()
            .await
            .unwrap_or_else(|error| panic!("{what}: no answer: {error:?}"))
    }

    /// The answer, or why there is none.
    pub(crate) async fn attempt(self) -> Result<Answer, reqwest::Error> {
        let response = self.request.timeout(Duration::from_secs(60)).send().await?;
        Answer::read(self.what, response).await
    }

    /// The head of an answer whose body does not end.
    pub(crate) async fn open(self) -> Result<Response, reqwest::Error> {
        self.request.send().await
    }
}
