//! An answer of the gateway, and the few ways in which a test reads one.

use reqwest::header::HeaderMap;
use serde_json::Value;

/// A whole answer, read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Method and path of the call, for the texts of failures.
    pub(crate) what: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
    /// The body as JSON; null where it is not.
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) async fn read(
        what: String,
        response: reqwest::Response,
    ) -> Result<Self, reqwest::Error> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let bytes = response.bytes().await?.to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Self {
            what,
            status,
            headers,
            bytes,
            body,
        })
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// The body of an answer that must have this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.what, self.text());
        self.body
    }

    /// The body of an answer that must be a success of any kind.
    #[track_caller]
    pub(crate) fn success(self) -> Value {
        assert!(
            self.is_success(),
            "{}: {} {}",
            self.what,
            self.status,
            self.text()
        );
        self.body
    }

    /// The body of an answer that must be this problem, in the form that RFC 9457 and the contract give it.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        let told = format!("{}: {} {}", self.what, self.status, self.text());
        assert_eq!(self.status, status, "{told}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{told}"
        );
        assert_eq!(self.body["code"], code, "{told}");
        assert_eq!(self.body["status"], status, "{told}");
        assert_eq!(self.body["type"], format!("/problems/{code}"), "{told}");
        assert!(
            self.body["title"].is_string() && self.body["detail"].is_string(),
            "{told}"
        );
        assert_eq!(
            self.body["request_id"].as_str(),
            self.header("x-request-id"),
            "{told}"
        );
        let is_wait = matches!(status, 429 | 503);
        assert!(!is_wait || self.header("retry-after").is_some(), "{told}");
        self.body
    }

    /// The pointers of a 422, in the order given.
    #[track_caller]
    pub(crate) fn pointers(self) -> Vec<String> {
        let told = format!("{}: {} {}", self.what, self.status, self.text());
        assert_eq!(self.status, 422, "{told}");
        let errors = self.body["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("no errors[]: {told}"));
        let pointer = |error: &Value| {
            assert!(
                error["detail"].is_string(),
                "an error without detail: {told}"
            );
            error["pointer"]
                .as_str()
                .unwrap_or_else(|| panic!("no pointer: {told}"))
                .into()
        };
        errors.iter().map(pointer).collect()
    }
}
