//! Reaching the servers: addresses, certificates, the user, and the profile of every call.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use scylla::client::PoolSize;
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::{DefaultRetryPolicy, FallthroughRetryPolicy};
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::statement::{Consistency, SerialConsistency};

use super::OpenError;
use crate::config::{self, Cql};

/// How long reaching one server may take.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long one server may take over a call that may be repeated, before another is asked too.
const ASK_ANOTHER: Duration = Duration::from_millis(250);

/// How many copies a call has to reach, and a light transaction.
const fn consistency(cql: &Cql) -> (Consistency, SerialConsistency) {
    match cql.consistency {
        config::Consistency::One => (Consistency::One, SerialConsistency::Serial),
        config::Consistency::Quorum => (Consistency::Quorum, SerialConsistency::Serial),
        config::Consistency::LocalQuorum => {
            (Consistency::LocalQuorum, SerialConsistency::LocalSerial)
        }
        config::Consistency::All => (Consistency::All, SerialConsistency::Serial),
    }
}

/// How a read sees what light transactions have written.
pub(super) const fn serial(cql: &Cql) -> Consistency {
    match consistency(cql).1 {
        SerialConsistency::Serial => Consistency::Serial,
        SerialConsistency::LocalSerial => Consistency::LocalSerial,
    }
}

/// The profile of calls that change nothing when they are made twice: one server that stands still holds none of them up.
pub(super) fn patient(session: &Session) -> ExecutionProfileHandle {
    let another = SimpleSpeculativeExecutionPolicy {
        max_retry_count: 1,
        retry_interval: ASK_ANOTHER,
    };
    session
        .get_default_execution_profile_handle()
        .pointee_to_builder()
        .retry_policy(Arc::new(DefaultRetryPolicy::new()))
        .speculative_execution_policy(Some(Arc::new(another)))
        .build()
        .into_handle()
}

/// Reaches the servers; looks into no keyspace yet.
pub(super) async fn connect(cql: &Cql) -> Result<Session, OpenError> {
    let (consistency, serial) = consistency(cql);
    let mut routes = DefaultPolicy::builder().token_aware(true);
    if !cql.datacenter.is_empty() {
        routes = routes
            .prefer_datacenter(cql.datacenter.clone())
            // A quorum of another datacenter has not seen what counted in this one, nor who owns the cluster.
            .permit_dc_failover(cql.consistency != config::Consistency::LocalQuorum);
    }
    let profile = ExecutionProfile::builder()
        .consistency(consistency)
        .serial_consistency(Some(serial))
        .request_timeout(Some(cql.request_time_max()))
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .load_balancing_policy(routes.build())
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&cql.contact_points)
        .connection_timeout(CONNECT_MAX)
        // A server that stands still or is cut off keeps its connections, and is sent its share of the calls until they
        // are dropped.
        .keepalive_interval(cql.silence_max())
        .keepalive_timeout(cql.silence_max())
        .pool_size(PoolSize::PerShard(std::num::NonZeroUsize::MIN))
        .keyspaces_to_fetch([&cql.keyspace])
        .default_execution_profile_handle(profile.into_handle())
        .tls_context(tls(cql)?);
    if !cql.user.is_empty() {
        builder = builder.user(&cql.user, password(cql)?);
    }
    builder
        .build()
        .await
        .map_err(|source| OpenError::Unreachable {
            points: cql.contact_points.join(", "),
            source: Box::new(source),
        })
}

fn unreadable(
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> OpenError {
    OpenError::File {
        path: path.to_owned(),
        source: source.into(),
    }
}

fn password(cql: &Cql) -> Result<String, OpenError> {
    if cql.password_file.as_os_str().is_empty() {
        return Ok(cql.password.reveal().to_owned());
    }
    let read = std::fs::read_to_string(&cql.password_file);
    read.map(|it| it.trim_end().to_owned())
        .map_err(|error| unreadable(&cql.password_file, error))
}

fn tls(cql: &Cql) -> Result<Option<Arc<rustls::ClientConfig>>, OpenError> {
    if cql.tls_ca_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, OpenError> {
        let found = CertificateDer::pem_file_iter(path).map_err(|it| unreadable(path, it))?;
        let found: Vec<_> = found
            .map(|it| it.map_err(|error| unreadable(path, error)))
            .collect::<Result<_, _>>()?;
        if found.is_empty() {
            return Err(unreadable(path, "it has no certificate"));
        }
        Ok(found)
    };
    let mut roots = rustls::RootCertStore::empty();
    for root in certificates(&cql.tls_ca_file)? {
        let added = roots.add(root);
        added.map_err(|error| unreadable(&cql.tls_ca_file, error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unreadable(&cql.tls_ca_file, error))?
        .with_root_certificates(roots);
    if cql.tls_cert_file.as_os_str().is_empty() {
        return Ok(Some(Arc::new(builder.with_no_client_auth())));
    }
    let key = PrivateKeyDer::from_pem_file(&cql.tls_key_file)
        .map_err(|error| unreadable(&cql.tls_key_file, error))?;
    let own = builder.with_client_auth_cert(certificates(&cql.tls_cert_file)?, key);
    let own = own.map_err(|error| unreadable(&cql.tls_key_file, error))?;
    Ok(Some(Arc::new(own)))
}
