//! Back-office commands: they speak to the running gateway over its socket.

use serde_json::{Value, json};
use tempfile::tempdir;

use super::binary::{Binary, buho, run};
use crate::house::{Base, Case, cases, phone, until};

async fn told(arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = run(buho(arguments)).await;
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("not one JSON object: {stdout}"))
}

async fn a_tenant_and_a_key_are_made_on_the_command_line() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut gateway = Binary::serve(&data).await;
    let at = data.to_str().unwrap();
    let made = told(&["tenant", "create", "--name", "Acme", "--data", at, "--json"]).await;
    let tenant = made["tenant"]["id"].as_str().unwrap();
    let made = told(&[
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
        (&"Acme".into(), &json!(["devices:read"]))
    );
    let tree = told(&["supervision", "--data", at, "--json"]).await;
    assert!(
        tree["tree"].is_object() || tree["tree"].is_array(),
        "{tree}"
    );
    gateway.operator().revoke(key).await;
    until("the key is refused", async || {
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
    let made = told(&[&words[..], &["--data", at, "--json"]].concat()).await;
    let key = &made["key"];
    assert_eq!(
        (&key["kind"], &key["name"], &key["scopes"]),
        (&"adm".into(), &"watch".into(), &json!(["admin:tenants"]))
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

/// Waits until the tree of actors has no such tenant any more.
async fn until_erased(gateway: &Binary, tenant: &str) {
    until("all that the tenant had is erased", async || {
        let question = json!({"command": "supervision"});
        let answer = gateway.operator().ask(&question).await;
        !answer["tree"].to_string().contains(tenant)
    })
    .await;
}

async fn a_deleted_tenant_is_gone_with_all_it_had_and_others_are_not() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let at = data.to_str().unwrap();
    let mut gateway = Binary::serve(&data).await;
    let (gone, other) = (gateway.tenant().await, gateway.tenant().await);
    let tenant = gone.tenant_id().to_owned();
    let (device, others) = (gone.device("one").await, other.device("one").await);
    device.send(&phone(1), "before").await;
    let mut socket = gone.socket().await;
    let wish = json!({"op": "subscribe", "filter": {}, "after": "oldest", "ack": "client", "consumer": "crm"});
    assert_eq!(socket.ask(wish).await["op"], "ready");
    let deleted = told(&["tenant", "delete", &tenant, "--data", at, "--json"]).await;
    assert_eq!(deleted["tenant"]["id"], *tenant);
    assert_eq!(socket.until_close().await, 4401);
    gone.get("/v1/me").await.problem(401, "unauthenticated");
    until_erased(&gateway, &tenant).await;
    for restarts in [false, true] {
        if restarts {
            gateway.kill().await;
            gateway = Binary::serve(&data).await;
            gateway.lead(&gone);
            gateway.lead(&other);
        }
        gone.get("/v1/me").await.problem(401, "unauthenticated");
        let listed = told(&["tenant", "list", "--data", at, "--json"]).await;
        assert!(!listed.to_string().contains(&tenant), "{listed}");
        for verb in ["show", "delete"] {
            let (code, _, said) = run(buho(&["tenant", verb, &tenant, "--data", at])).await;
            assert!(code == Some(1) && said.contains("no tenant"), "{said}");
        }
        let error = gateway
            .operator()
            .ask(&json!({"command": "key_create", "tenant": tenant}))
            .await;
        assert_eq!(error["error"]["code"], "not_found", "{error}");
        others.until_state("connected").await;
        others.send(&phone(1), "still here").await;
    }
    assert!(gateway.terminate().await.success());
}

async fn a_deletion_that_a_crash_interrupts_goes_on_after_the_next_start() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let at = data.to_str().unwrap();
    let mut gateway = Binary::serve(&data).await;
    let gone = gateway.tenant().await;
    let tenant = gone.tenant_id().to_owned();
    for index in 0..20 {
        let device = gone.device(&format!("d{index}")).await;
        device.send(&phone(index), "before").await;
    }
    told(&["tenant", "delete", &tenant, "--data", at, "--json"]).await;
    gateway.kill().await;
    let mut gateway = Binary::serve(&data).await;
    gateway.lead(&gone);
    gone.get("/v1/me").await.problem(401, "unauthenticated");
    until_erased(&gateway, &tenant).await;
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
    let error = gateway.operator().ask(&json!({"command": "dance"})).await;
    assert!(error["error"]["code"].is_string(), "{error}");
    let error = gateway
        .operator()
        .ask(&json!({"command": "key_create", "tenant": absent}))
        .await;
    assert!(error["error"]["detail"].is_string(), "{error}");
    gateway.kill().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_tenant_and_a_key_are_made_on_the_command_line,
    an_admin_key_is_made_on_the_command_line,
    a_deleted_tenant_is_gone_with_all_it_had_and_others_are_not.threaded(),
    a_deletion_that_a_crash_interrupts_goes_on_after_the_next_start.threaded(),
    a_command_for_people_says_its_ids_in_words,
    without_a_gateway_a_command_fails_with_one_line.embedded(),
    what_the_gateway_refuses_is_told_and_fails,
];
