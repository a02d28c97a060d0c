//! Whether the values make sense together.

use super::{Config, ConfigError, Consistency, Cql, StoreKind};

/// A Unix socket's address has this much room for a path, the closing zero not counted.
const SOCKET_PATH_MAX: usize = 107;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// An option, its value, the least and the greatest that it may be.
type Range = (&'static str, u64, u64, u64);

impl Config {
    /// Whether every value makes sense.
    ///
    /// # Errors
    ///
    /// Names the first option that does not, and says why.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (option, value, least, greatest) in self.ranges() {
            if !(least..=greatest).contains(&value) {
                return Err(invalid(
                    option,
                    format!("{value} is not between {least} and {greatest}"),
                ));
            }
        }
        if self.devices.reconnect_max_ms < self.devices.reconnect_first_ms {
            return Err(invalid(
                "devices.reconnect_max_ms",
                "it is less than devices.reconnect_first_ms",
            ));
        }
        if self.store.path.as_os_str().is_empty() {
            return Err(invalid("store.path", "it is empty"));
        }
        if self.store.kind == StoreKind::Cql {
            check_cql(&self.cql)?;
        }
        if let Some(url) = &self.server.public_url {
            check_url(url)?;
        }
        self.server
            .allowed_origins
            .iter()
            .try_for_each(|origin| check_origin(origin))?;
        self.check_socket()
    }

    fn ranges(&self) -> [Range; 28] {
        let (server, store, cql, streams) = (&self.server, &self.store, &self.cql, &self.streams);
        let (chats, devices, simulator) = (&self.chats, &self.devices, &self.simulator);
        [
            (
                "server.header_time_max_ms",
                server.header_time_max_ms,
                1,
                HOUR_MS,
            ),
            (
                "server.connections_max",
                wide(server.connections_max),
                1,
                1_000_000,
            ),
            (
                "server.stop_time_max_ms",
                server.stop_time_max_ms,
                1,
                15_000,
            ),
            (
                "server.worker_threads",
                wide(server.worker_threads),
                0,
                1024,
            ),
            ("store.cache_bytes", store.cache_bytes, MIB, TIB),
            ("store.reader_threads", wide(store.reader_threads), 1, 256),
            (
                "cql.request_time_max_ms",
                cql.request_time_max_ms,
                10,
                HOUR_MS,
            ),
            (
                "cql.commit_time_max_ms",
                cql.commit_time_max_ms,
                10,
                HOUR_MS,
            ),
            ("cql.concurrency", wide(cql.concurrency), 1, 1024),
            ("cql.lease_ms", cql.lease_ms, 3_000, HOUR_MS),
            ("streams.heartbeat_ms", streams.heartbeat_ms, 1, HOUR_MS),
            ("streams.auth_ms", streams.auth_ms, 1, HOUR_MS),
            ("streams.write_stall_ms", streams.write_stall_ms, 1, HOUR_MS),
            ("streams.max_lag", streams.max_lag, 1, u64::MAX),
            (
                "streams.retention_seconds",
                streams.retention_seconds,
                1,
                10 * 366 * 24 * 3600,
            ),
            ("streams.in_flight", u64::from(streams.in_flight), 1, 10_000),
            (
                "streams.ring_bytes_max",
                wide(streams.ring_bytes_max),
                MIB,
                TIB,
            ),
            ("chats.idle_ms", chats.idle_ms, 1, DAY_MS),
            (
                "chats.resident_max",
                wide(chats.resident_max),
                1,
                10_000_000,
            ),
            ("chats.door", wide(chats.door), 1, 65_536),
            (
                "chats.command_time_max_ms",
                chats.command_time_max_ms,
                1,
                HOUR_MS,
            ),
            (
                "devices.reconnect_first_ms",
                devices.reconnect_first_ms,
                1,
                DAY_MS,
            ),
            (
                "devices.reconnect_max_ms",
                devices.reconnect_max_ms,
                1,
                DAY_MS,
            ),
            (
                "devices.connects_max",
                wide(devices.connects_max),
                1,
                65_536,
            ),
            ("outbox.window", wide(self.outbox.window), 1, 65_536),
            ("simulator.qr_first_ms", simulator.qr_first_ms, 1, HOUR_MS),
            ("simulator.qr_next_ms", simulator.qr_next_ms, 1, HOUR_MS),
            (
                "tokens.ttl_default_seconds",
                self.tokens.ttl_default_seconds,
                1,
                3600,
            ),
        ]
    }

    fn check_socket(&self) -> Result<(), ConfigError> {
        let socket = self.operator_socket();
        let bytes = socket.as_os_str().len();
        if bytes == 0 || SOCKET_PATH_MAX < bytes {
            let reason = format!(
                "the socket's path {} has {bytes} bytes, but a Unix socket's path has 1 to {SOCKET_PATH_MAX}; \
                 set operator.socket to a shorter one",
                socket.display()
            );
            return Err(invalid("operator.socket", reason));
        }
        Ok(())
    }
}

fn check_cql(cql: &Cql) -> Result<(), ConfigError> {
    let address = |it: &String| {
        it.rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if cql.contact_points.is_empty() || !cql.contact_points.iter().all(address) {
        let reason = "it must be a list of host:port";
        return Err(invalid("cql.contact_points", reason));
    }
    let starts = |it: &str| it.starts_with(|it: char| it.is_ascii_lowercase());
    let plain = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_';
    if !starts(&cql.keyspace) || !cql.keyspace.chars().all(plain) || 48 < cql.keyspace.len() {
        let reason = "it must be 1 to 48 of a-z, 0-9 and _, and begin with a letter";
        return Err(invalid("cql.keyspace", reason));
    }
    if cql.consistency == Consistency::LocalQuorum && cql.datacenter.is_empty() {
        let reason = "\"local_quorum\" needs cql.datacenter beside it: a quorum of any other one has not seen the writes";
        return Err(invalid("cql.consistency", reason));
    }
    if cql.cluster.is_empty() || 128 < cql.cluster.len() {
        return Err(invalid("cql.cluster", "it must have 1 to 128 characters"));
    }
    let (cert, key) = (
        cql.tls_cert_file.as_os_str().is_empty(),
        cql.tls_key_file.as_os_str().is_empty(),
    );
    if cert != key {
        let reason = "it needs cql.tls_key_file beside it, and the other way round";
        return Err(invalid("cql.tls_cert_file", reason));
    }
    if !cert && cql.tls_ca_file.as_os_str().is_empty() {
        let reason = "it needs cql.tls_ca_file beside it";
        return Err(invalid("cql.tls_cert_file", reason));
    }
    if !cql.password.reveal().is_empty() && !cql.password_file.as_os_str().is_empty() {
        let reason = "cql.password is set as well; one of them is enough";
        return Err(invalid("cql.password_file", reason));
    }
    Ok(())
}

fn check_url(url: &str) -> Result<(), ConfigError> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let plain = |rest: &str| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && !rest.contains(['?', '#', '@'])
            && !rest.contains(char::is_whitespace)
    };
    if !rest.is_some_and(plain) || url.ends_with('/') {
        let reason = "it must be like https://gateway.example.com, without a slash at the end";
        return Err(invalid("server.public_url", reason));
    }
    Ok(())
}

fn check_origin(origin: &str) -> Result<(), ConfigError> {
    let plain = |(scheme, host): (&str, &str)| {
        let unusual = |it: char| it.is_whitespace() || it.is_uppercase() || "/?#@*".contains(it);
        !scheme.is_empty()
            && scheme.chars().all(|it| it.is_ascii_lowercase())
            && !host.is_empty()
            && !host.contains(unusual)
    };
    if !origin.split_once("://").is_some_and(plain) {
        let reason =
            format!("`{origin}` must be like https://app.example.com or http://127.0.0.1:3000");
        return Err(invalid("server.allowed_origins", reason));
    }
    Ok(())
}

fn invalid(option: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        place: format!("`{option}`"),
        reason: reason.into(),
    }
}

fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(lines: &str) -> String {
        Config::from_toml(lines).unwrap_err().to_string()
    }

    #[test]
    fn a_number_out_of_range_is_refused_with_its_range() {
        assert_eq!(
            refused("[chats]\ndoor = 0"),
            "`chats.door` is not valid: 0 is not between 1 and 65536"
        );
        assert!(refused("[server]\nstop_time_max_ms = 15001").contains("server.stop_time_max_ms"));
        assert!(
            refused("[devices]\nreconnect_first_ms = 2000\nreconnect_max_ms = 1000")
                .contains("devices.reconnect_max_ms")
        );
    }

    #[test]
    fn a_long_socket_path_names_the_option_that_shortens_it() {
        let long = "d".repeat(SOCKET_PATH_MAX - "/operator.sock".len());
        assert!(Config::from_toml(&format!("[store]\npath = '{long}'")).is_ok());
        assert!(refused(&format!("[store]\npath = '{long}d'")).contains("operator.socket"));
        assert!(
            Config::from_toml(&format!(
                "[store]\npath = '{long}d'\n[operator]\nsocket = '/run/b.sock'"
            ))
            .is_ok()
        );
    }

    #[test]
    fn a_cql_store_is_checked_where_it_is_wanted() {
        let cql = |lines: &str| format!("[store]\nkind = 'cql'\n[cql]\n{lines}");
        assert!(Config::from_toml(&cql("")).is_ok());
        assert!(Config::from_toml("[cql]\nkeyspace = 'No'").is_ok());
        for (lines, option) in [
            ("contact_points = []", "cql.contact_points"),
            ("contact_points = ['here']", "cql.contact_points"),
            ("consistency = 'local_quorum'", "cql.consistency"),
            ("keyspace = 'No'", "cql.keyspace"),
            ("cluster = ''", "cql.cluster"),
            ("replication = 'many'", "cql.replication"),
            ("consistency = 'two'", "cql.consistency"),
            ("lease_ms = 1", "cql.lease_ms"),
            ("tls_cert_file = 'c'", "cql.tls_cert_file"),
            ("password = 'a'\npassword_file = 'b'", "cql.password_file"),
            ("keyspce = 'b'", "cql.keyspace"),
        ] {
            let told = refused(&cql(lines));
            assert!(told.contains(option), "{lines}: {told}");
        }
    }

    #[test]
    fn addresses_are_written_in_one_way_only() {
        for url in [
            "gateway.example.com",
            "https://",
            "https://a.example/",
            "https://user@a.example",
            "https:///x",
        ] {
            assert!(
                refused(&format!("[server]\npublic_url = '{url}'")).contains("server.public_url"),
                "{url}"
            );
        }
        for origin in [
            "*",
            "https://*",
            "a.example",
            "https://a.example/",
            "https://A.example",
            "null",
        ] {
            let lines = format!("[server]\nallowed_origins = ['{origin}']");
            assert!(
                refused(&lines).contains("server.allowed_origins"),
                "{origin}"
            );
        }
        let good = "[server]\npublic_url = 'https://a.example/base'\nallowed_origins = ['http://127.0.0.1:3000']";
        assert!(Config::from_toml(good).is_ok());
        assert!(refused("[server]\ntrusted_proxies = ['here']").contains("server.trusted_proxies"));
    }
}
