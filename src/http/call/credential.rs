//! Where a credential stands in a request, and where the request comes from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap, Uri, header};
use ipnet::IpNet;

use super::query::decode_component;
use crate::problem::{ApiError, Code};

/// The credential of a request; `None` where there is none.
///
/// # Errors
///
/// `unauthenticated` for two that differ, for one in the query, and for another scheme than Bearer.
pub(crate) fn credential_of(headers: &HeaderMap, uri: &Uri) -> Result<Option<String>, ApiError> {
    if uri.query().is_some_and(holds_credential) {
        return Err(refused(
            "A credential in the query string is refused: query strings end up in logs.",
        ));
    }
    let mut found: Option<&str> = None;
    let bearers = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .map(|it| it.to_str().ok().and_then(bearer));
    let keys = headers
        .get_all("apikey")
        .iter()
        .map(|it| it.to_str().ok().map(str::trim));
    for credential in bearers.chain(keys) {
        let credential = credential.ok_or_else(|| refused("The only scheme is Bearer."))?;
        if found.is_some_and(|it| it != credential) {
            return Err(refused("Two different credentials came in one request."));
        }
        found = Some(credential);
    }
    Ok(found.map(str::to_owned))
}

fn refused(detail: &str) -> ApiError {
    ApiError::new(Code::Unauthenticated).detail(detail)
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
}

fn holds_credential(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        let name = decode_component(name).unwrap_or_default();
        matches!(&*name, "token" | "access_token" | "apikey")
    })
}

/// The peer of a request's connection. A request without one comes from nowhere: no rule about addresses fits it.
pub(crate) fn peer_of(extensions: &Extensions) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |it| {
        it.0.ip().to_canonical()
    })
}

/// Where a request comes from: the peer, or what trusted proxies say in `X-Forwarded-For`, read from its end up to the
/// first address that is no trusted proxy.
pub(crate) fn client_of(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|it| it.contains(address));
    if !is_trusted(&peer) {
        return peer;
    }
    let mut client = peer;
    for value in headers.get_all("x-forwarded-for").iter().rev() {
        for text in value.to_str().unwrap_or_default().rsplit(',') {
            // What can't be read was not written by a proxy that we trust.
            let Some(address) = address(text.trim()) else {
                return client;
            };
            client = address;
            if !is_trusted(&client) {
                return client;
            }
        }
    }
    client
}

fn address(text: &str) -> Option<IpAddr> {
    let plain = text.parse::<IpAddr>().ok();
    let address = plain.or_else(|| text.parse::<SocketAddr>().ok().map(|it| it.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    fn found(list: &[(&str, &str)], uri: &str) -> Result<Option<String>, Code> {
        credential_of(&headers(list), &uri.parse().unwrap()).map_err(|it| it.code())
    }

    #[test]
    fn one_credential_is_found_wherever_it_may_stand() {
        let some = Ok(Some("k".to_owned()));
        assert_eq!(found(&[], "/v1/me"), Ok(None));
        assert_eq!(found(&[("authorization", "Bearer k")], "/v1/me"), some);
        assert_eq!(
            found(
                &[("authorization", "bearer  k ")],
                "/v1/me?ticket=t&q=token"
            ),
            some
        );
        assert_eq!(found(&[("apikey", "k")], "/v1/me"), some);
        assert_eq!(
            found(&[("apikey", "k"), ("authorization", "Bearer k")], "/v1/me"),
            some
        );
        assert_eq!(
            found(
                &[("authorization", "Bearer k"), ("authorization", "Bearer k")],
                "/v1/me"
            ),
            some
        );
        assert_eq!(
            found(&[("authorization", "Bearer")], "/v1/me"),
            Ok(Some(String::new()))
        );
    }

    #[test]
    fn two_credentials_other_schemes_and_queries_are_refused() {
        let bad = Err(Code::Unauthenticated);
        assert_eq!(
            found(&[("apikey", "a"), ("authorization", "Bearer b")], "/"),
            bad
        );
        assert_eq!(
            found(
                &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
                "/"
            ),
            bad
        );
        assert_eq!(found(&[("apikey", "a"), ("apikey", "b")], "/"), bad);
        assert_eq!(found(&[("authorization", "Basic YTpi")], "/"), bad);
        assert_eq!(
            found(&[("authorization", "Basic YTpi"), ("apikey", "a")], "/"),
            bad
        );
        for query in [
            "token=a",
            "access_token=a",
            "apikey=a",
            "a=1&token",
            "%74oken=a",
            "token",
        ] {
            assert_eq!(
                found(&[("authorization", "Bearer a")], &format!("/?{query}")),
                bad,
                "{query}"
            );
        }
        for query in ["tokens=a", "q=token", "Token=a"] {
            assert!(
                found(&[("authorization", "Bearer a")], &format!("/?{query}")).is_ok(),
                "{query}"
            );
        }
    }

    #[test]
    fn forwarded_addresses_count_only_behind_trusted_proxies() {
        let trusted: Vec<IpNet> = vec![
            "10.0.0.0/8".parse().unwrap(),
            "127.0.0.1/32".parse().unwrap(),
        ];
        for (peer, forwarded, client) in [
            ("192.0.2.9", "198.51.100.1", "192.0.2.9"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "203.0.113.7, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
            ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
            ("10.0.0.1", "unknown", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.1, garbage, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ] {
            let headers = headers(&[("x-forwarded-for", forwarded)]);
            let told = client_of(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(told.to_string(), client, "{peer} {forwarded}");
        }
        let twice = headers(&[
            ("x-forwarded-for", "203.0.113.7"),
            ("x-forwarded-for", "198.51.100.1"),
        ]);
        assert_eq!(
            client_of("10.0.0.1".parse().unwrap(), &twice, &trusted).to_string(),
            "198.51.100.1"
        );
    }
}
