//! What is missing, told by everybody who can be asked: the router's status and metrics, `environment-registrar list` and
//! `mayfly status`.

use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::Signal;
use mayfly_e2e::{eventually, port};
use serde_json::{Value, json};

const QA_AND_HEIR: &str = "
- name: qa
  services: [{name: frontend, version: 0.0.1, route: /}, {name: backend, version: 0.0.2}, {name: billing, version: 0.0.1}]
- {name: heir, extends: qa, services: [{name: billing, version: 0.0.1}]}
";

/// What `mayfly status --format json` shows.
async fn status(mayfly: &Mayfly) -> Value {
    let shown = mayfly
        .run("mayfly", &["status", "--format", "json"])
        .await
        .unwrap();
    serde_json::from_str(&shown.ok().unwrap()).unwrap()
}

/// Whether the environments of `mayfly status` are complete, by name.
fn complete(status: &Value) -> Vec<(&str, bool)> {
    let environments = status["environments"].as_array().unwrap().iter();
    environments
        .map(|one| (one["name"].as_str().unwrap(), one["complete"].as_bool().unwrap()))
        .collect()
}

#[tokio::test]
async fn what_is_missing_is_told_everywhere_until_it_is_there() {
    let admin = port::free();
    let mayfly = Mayfly::start_with(&["--admin", &admin.to_string()])
        .await
        .unwrap();
    let _frontend = mayfly.instance("frontend", "0.0.1").await.unwrap();
    let _billing = mayfly.instance("billing", "0.0.1").await.unwrap();
    mayfly.save("two.yaml", QA_AND_HEIR);
    let metric = async |text: &str| {
        let metrics = Request::get("x", "/metrics").send(admin).await.unwrap().body;
        metrics.lines().any(|line| line == text)
    };
    let missing =
        async || mayfly.status("haproxy-updater").await.unwrap_or_default()["detail"]["missing"].clone();
    let expected = json!({"environments": 2, "services": 1, "first": [
        {"environment": "qa", "service": "backend", "version": "0.0.2", "live": 0,
         "reason": "no instance of backend@0.0.2 is live", "inherited_by": 1}]});
    eventually(SOON, "the router tells what is missing", async || {
        missing().await == expected
    })
    .await;
    assert!(metric("mayfly_incomplete_environments 2").await && metric("mayfly_missing_services 1").await);

    let list = mayfly
        .run("environment-registrar", &["list"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(
        list.matches("no instance of backend@0.0.2 is live").count(),
        2,
        "{list}"
    );
    let list = mayfly
        .run("environment-registrar", &["list", "--format", "json"])
        .await
        .unwrap();
    let list: Value = serde_json::from_str(&list.ok().unwrap()).unwrap();
    assert_eq!(
        (&list[0]["name"], &list[0]["complete"]),
        (&json!("heir"), &json!(false))
    );
    assert_eq!(
        list[0]["missing"][0],
        "no instance of backend@0.0.2 is live (inherited from qa)"
    );

    assert_eq!(complete(&status(&mayfly).await), [("heir", false), ("qa", false)]);
    let table = mayfly
        .run("mayfly", &["status", "heir"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    let line = |service: &str| {
        table
            .lines()
            .find(|line| line.starts_with(service))
            .unwrap()
            .to_owned()
    };
    assert!(
        line("billing").contains(" own ") && line("billing").ends_with("ok"),
        "{table}"
    );
    assert!(
        line("backend").contains(" qa ") && line("backend").ends_with("is live"),
        "{table}"
    );
    // What is missing is told before HAProxy, which may just be starting, has everything.
    eventually(SOON, "the router is in step", async || {
        let daemons = status(&mayfly).await["daemons"].clone();
        let router = daemons
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["daemon"] == "haproxy-updater");
        router.is_some_and(|router| router["lag"] == 0 && router["ready"] == true)
    })
    .await;

    let _backend = mayfly.instance("backend", "0.0.2").await.unwrap();
    let none = json!({"environments": 0, "services": 0, "first": []});
    eventually(SOON, "nothing is missing", async || missing().await == none).await;
    assert!(metric("mayfly_incomplete_environments 0").await && metric("mayfly_missing_services 0").await);
    assert_eq!(complete(&status(&mayfly).await), [("heir", true), ("qa", true)]);
    let list = mayfly
        .run("environment-registrar", &["list"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(list.matches("complete").count(), 2, "{list}");
}

#[tokio::test]
async fn status_follows_what_changes_and_suggests_a_name() {
    let mut mayfly = Mayfly::bare(&["--min-instances", "2"]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    let mut command = mayfly.command("mayfly").unwrap();
    command.args(["status", "--watch", "--min-instances", "2"]);
    let mut watching = mayfly.spawn("mayfly-status", &command).unwrap();
    let shows = async |text: &str| eventually(SOON, text, async || watching.output().contains(text)).await;
    shows("no environments").await;
    let record = r#"{"name": "temp-1", "prefix": "www-temp-1", "header": "t", "expires": "2999-01-01T00:00:00Z",
        "services": [{"name": "backend", "version": "^1"}]}"#;
    mayfly
        .etcd
        .put("/mayfly/environments/temp-1", record)
        .await
        .unwrap();
    shows("no live version of backend fits ^1").await;
    let instance = r#"{"address": "10.0.0.1:80"}"#;
    mayfly
        .etcd
        .put("/mayfly/backends/backend/1.0.1/a", instance)
        .await
        .unwrap();
    shows("backend@1.0.1 has 1 of at least 2 live instances").await;
    let instance = r#"{"address": "10.0.0.2:80"}"#;
    mayfly
        .etcd
        .put("/mayfly/backends/backend/1.0.1/b", instance)
        .await
        .unwrap();
    shows("complete").await;
    watching.signal(Signal::Int).unwrap();
    assert_eq!(watching.wait(SOON).await.unwrap().code(), Some(0));

    let file = mayfly.directory().join("lives.yaml");
    std::fs::write(
        &file,
        "- {name: rests, idle: 8h}\n- {name: stays, protected: true}\n",
    )
    .unwrap();
    let applied = mayfly
        .run("mayfly", &["apply", "-f", file.to_str().unwrap()])
        .await
        .unwrap();
    applied.ok().unwrap();
    let table = mayfly.run("mayfly", &["status"]).await.unwrap().ok().unwrap();
    for (name, ends) in [
        ("rests", " unless used"),
        ("stays", "protected"),
        ("temp-1", "in "),
    ] {
        let line = table.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.contains(ends), "no {ends:?} in {table}");
    }

    let unknown = mayfly.run("mayfly", &["status", "tmep-1"]).await.unwrap();
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.stderr.contains("did you mean temp-1?"),
        "{}",
        unknown.stderr
    );
}
