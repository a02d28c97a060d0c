//! CQL servers that ask who comes, and that prove who they are.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use super::binary::{Binary, buho, run};
use crate::house::{Case, Cluster, cases, phone, until};

/// A certificate that no server here has.
const STRANGER: &str = include_str!("stranger.pem");
const SECURED: &[(&str, &str)] = &[("BUHO_CQL_LOGIN", "1"), ("BUHO_CQL_TLS", "1")];
const MUTUAL: &[(&str, &str)] = &[("BUHO_CQL_TLS", "mutual")];
/// The server's first user, and its password.
const USER: &str = "cassandra";

async fn a_login_and_a_certificate_are_asked_for_and_given() {
    let cluster = Cluster::start_with(1, SECURED).await;
    let folder = tempdir().unwrap();
    let (data, config) = (folder.path().join("data"), folder.path().join("try.toml"));
    let settings = |more: &str, certificate: &Path| {
        let certificate = certificate.display();
        let servers = cluster.settings(&data);
        format!("{servers}cql.tls_ca_file = \"{certificate}\"\ncql.user = \"{USER}\"\n{more}\n")
    };
    let tried = async |settings: &str| {
        fs::write(&config, settings).unwrap();
        let config = config.to_str().unwrap();
        let (code, _, said) = run(buho(&["schema", "apply", "--config", config])).await;
        (code, said)
    };
    let password = format!("cql.password = \"{USER}\"");
    let right = settings(&password, &cluster.certificate());
    // The server makes its first user soon after it answers.
    until("the first user is known", async || {
        tried(&right).await.0 == Some(0)
    })
    .await;

    let mut gateway = Binary::serve_on(&data, &right).await;
    let client = gateway.tenant().await;
    let device = client.device("one").await;
    let sent = device.send(&phone(0), "over TLS").await;
    let found = device.message(sent["id"].as_str().unwrap()).await;
    assert_eq!(found["content"]["text"], "over TLS");
    assert!(gateway.terminate().await.success());

    let secret = folder.path().join("password");
    fs::write(&secret, format!("{USER}\n")).unwrap();
    let in_file = format!("cql.password_file = \"{}\"", secret.display());
    let (code, said) = tried(&settings(&in_file, &cluster.certificate())).await;
    assert_eq!(code, Some(0), "{said}");

    let wrong = "cql.password = \"not-the-password\"";
    let (code, said) = tried(&settings(wrong, &cluster.certificate())).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("username") || said.contains("password"),
        "{said}"
    );
    assert!(!said.contains("not-the-password"), "{said}");

    let stranger = folder.path().join("stranger.pem");
    fs::write(&stranger, STRANGER).unwrap();
    let (code, said) = tried(&settings(&password, &stranger)).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("certificate"), "{said}");

    let (code, said) = tried(&settings(&password, &folder.path().join("absent.pem"))).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("absent.pem"), "{said}");
    fs::write(&stranger, "no certificate").unwrap();
    let (code, said) = tried(&settings(&password, &stranger)).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("stranger.pem"), "{said}");
}

async fn a_server_may_ask_for_a_certificate_of_the_gateway_too() {
    let cluster = Cluster::start_with(1, MUTUAL).await;
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let servers = cluster.settings(&data);
    let server = cluster.certificate();
    let nameless = format!("{servers}cql.tls_ca_file = {server:?}\n");
    let config = folder.path().join("nameless.toml");
    fs::write(&config, &nameless).unwrap();
    let apply = ["schema", "apply", "--config", config.to_str().unwrap()];
    let (code, _, said) = run(buho(&apply)).await;
    assert_eq!(code, Some(3), "{said}");

    let [certificate, key] = cluster.client_identity();
    let named =
        format!("{nameless}cql.tls_cert_file = {certificate:?}\ncql.tls_key_file = {key:?}\n");
    let mut gateway = Binary::serve_on(&data, &named).await;
    let device = gateway.tenant().await.device("one").await;
    device.send(&phone(0), "to one who knows me").await;
    assert!(gateway.terminate().await.success());
}

pub(crate) const CASES: &[Case] = cases![
    a_login_and_a_certificate_are_asked_for_and_given
        .threaded()
        .own_servers(),
    a_server_may_ask_for_a_certificate_of_the_gateway_too
        .threaded()
        .own_servers(),
];
