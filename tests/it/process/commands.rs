//! Back-office commands: they speak to the running gateway over its socket.

use serde_json::Value;
use tempfile::tempdir;

use super::binary::{Binary, buho, run};
use crate::house::{Base, Case, cases};

async fn json(arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = run(buho(arguments)).await;
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("not one JSON object: {stdout}"))
}

async fn a_tenant_and_a_key_are_made_on_the_command_line() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut gateway = Binary::serve(&data).await;
    let at = data.to_str().unwrap();
    let made = json(&["tenant", "create", "--name", "Acme", "--data", at, "--json"]).await;
    let tenant = made["tenant"]["id"].as_str().unwrap();
    let made = json(&[
        "--data",
        at,
        "--json",
        "key",
        "create",
        "--tenant",
        tenant,
        "--scopes",
        "devices:read",
    ])
    .await;
    let (key, secret) = (
        made["key"]["id"].as_str().unwrap(),
        made["secret"].as_str().unwrap(),
    );
    let base = Base::default();
    base.set(gateway.url());
    let client = crate::house::Client::new(&base, tenant, key, secret);
    client.get("/v1/devices").await.expect(200);
    let me = client.get("/v1/me").await.expect(200);
    assert_eq!(
        (&me["tenant"]["name"], &me["scopes"]),
        (&"Acme".into(), &serde_json::json!(["devices:read"]))
    );
    let tree = json(&["supervision", "--data", at, "--json"]).await;
    assert!(
        tree["tree"].is_object() || tree["tree"].is_array(),
        "{tree}"
    );
    gateway.operator().revoke(key).await;
    crate::house::until("the key is refused", async || {
        client.get("/v1/me").await.status == 401
    })
    .await;
    assert!(gateway.terminate().await.success());
}

async fn an_admin_key_is_made_on_the_command_line() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut gateway = Binary::serve(&data).await;
    let at = data.to_str().unwrap();
    let words = ["admin-key", "create", "--name", "watch"];
    let made = json(&[&words[..], &["--data", at, "--json"]].concat()).await;
    let key = &made["key"];
    assert_eq!(
        (&key["kind"], &key["name"], &key["scopes"]),
        (
            &"adm".into(),
            &"watch".into(),
            &serde_json::json!(["admin:tenants"])
        )
    );
    let base = Base::default();
    base.set(gateway.url());
    let secret = made["secret"].as_str().unwrap();
    let client = crate::house::Client::new(&base, "", key["id"].as_str().unwrap(), secret);
    client.get("/v1/me").await.problem(403, "forbidden");
    let metrics = client.call("GET", "/metrics");
    let metrics = metrics.header("x-forwarded-for", "192.0.2.1").send();
    metrics.await.expect(200);
    let (code, stdout, _) = run(buho(&["admin-key", "create", "--data", at])).await;
    assert!(code == Some(0) && stdout.contains("buho_adm_"), "{stdout}");
    assert!(gateway.terminate().await.success());
}

async fn a_command_for_people_says_its_ids_in_words() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut gateway = Binary::serve(&data).await;
    let at = data.to_str().unwrap();
    let (code, stdout, _) = run(buho(&["tenant", "create", "--name", "Acme", "--data", at])).await;
    assert_eq!(code, Some(0));
    assert!(stdout.contains("ten_"), "{stdout}");
    gateway.kill().await;
}

async fn without_a_gateway_a_command_fails_with_one_line() {
    let folder = tempdir().unwrap();
    let at = folder.path().join("data").display().to_string();
    let (code, _, stderr) = run(buho(&["tenant", "create", "--name", "Acme", "--data", &at])).await;
    assert_eq!(
        (code, stderr.trim_end().lines().count()),
        (Some(1), 1),
        "{stderr}"
    );
}

async fn what_the_gateway_refuses_is_told_and_fails() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut gateway = Binary::serve(&data).await;
    let at = data.to_str().unwrap();
    let absent = "ten_00000000000000000000000000";
    let (code, _, stderr) = run(buho(&["key", "create", "--tenant", absent, "--data", at])).await;
    assert!(
        code.is_some_and(|code| code != 0) && !stderr.is_empty(),
        "{code:?} {stderr}"
    );
    let error = gateway
        .operator()
        .ask(&serde_json::json!({"command": "dance"}))
        .await;
    assert!(error["error"]["code"].is_string(), "{error}");
    let error = gateway
        .operator()
        .ask(&serde_json::json!({"command": "key_create", "tenant": absent}))
        .await;
    assert!(error["error"]["detail"].is_string(), "{error}");
    gateway.kill().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_tenant_and_a_key_are_made_on_the_command_line,
    an_admin_key_is_made_on_the_command_line,
    a_command_for_people_says_its_ids_in_words,
    without_a_gateway_a_command_fails_with_one_line.embedded(),
    what_the_gateway_refuses_is_told_and_fails,
];
