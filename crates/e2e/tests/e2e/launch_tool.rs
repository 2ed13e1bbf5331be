//! What `mayfly` tells of the container-launchers: `status`, `explain`, `wait` and `confirm`, with a real router. What the
//! launcher says, the test puts into etcd, so that each phase lasts as long as it is looked at.

use std::time::{Duration, Instant};

use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::{Finished, Process};
use serde_json::{Value, json};

const TEMP: &str =
    "{name: temp-1, services: [{name: frontend, version: 0.0.1, route: /}, {name: backend, version: 0.0.3}]}";

/// What a launcher says.
async fn says(mayfly: &Mayfly, node: &str, launching: Value) {
    let record = json!({"applied_revision": 1, "ready": true, "detail": {"launching": launching}});
    let key = format!("/mayfly/status/container-launcher/{node}");
    mayfly.etcd.put(&key, &record.to_string()).await.unwrap();
}

/// What the leader says of `backend@0.0.3`.
async fn says_of_backend(mayfly: &Mayfly, backend: Value) {
    says(
        mayfly,
        "host-1",
        json!({"leading": true, "backends": {"backend@0.0.3": backend}}),
    )
    .await;
}

async fn tool(mayfly: &Mayfly, arguments: &[&str]) -> Finished {
    mayfly.run("mayfly", arguments).await.unwrap()
}

#[track_caller]
fn contains(text: &str, part: &str) {
    assert!(text.contains(part), "no {part:?} in {text}");
}

fn parsed(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap()
}

/// A router, an instance of frontend, `temp-1`, and a leader that another one stands by for.
async fn mayfly() -> (Mayfly, impl Sized) {
    let mayfly = Mayfly::start().await.unwrap();
    let frontend = mayfly.instance("frontend", "0.0.1").await.unwrap();
    mayfly.save("temp-1.yaml", TEMP);
    mayfly.answers("www-temp-1.example.com", "frontend@0.0.1").await;
    says(&mayfly, "host-2", json!({"leading": false})).await;
    let leader = "/mayfly/leaders/container-launcher";
    mayfly.etcd.put(leader, "host-1").await.unwrap();
    (mayfly, frontend)
}

#[tokio::test]
async fn status_and_explain_say_what_is_done_about_what_is_missing() {
    let (mayfly, _frontend) = mayfly().await;
    // The one that was elected says nothing of itself yet.
    let none = "no container-launcher leads: nothing is started at present";
    contains(&tool(&mayfly, &["status", "temp-1"]).await.stdout, none);
    let explained = tool(&mayfly, &["explain", "temp-1", "backend"]).await;
    assert_eq!(explained.code, Some(1));
    contains(&explained.stdout, none);
    contains(
        &tool(&mayfly, &["status"]).await.stdout,
        "standing by: no launcher leads",
    );

    let running = json!({"state": "running", "wanted": 1, "live": 1});
    let failed = json!({"state": "failed", "reason": "exited with 1", "wanted": 2, "live": 0, "failures": 2,
        "next_try": "2999-01-31T18:00:00Z", "output": ["starting", "cannot read \u{1b}[2J /etc/x"]});
    let both = json!({"leading": true, "guard": "4 of 7 environments vanished within 3 s", "more": 5,
        "backends": {"backend@0.0.3": failed, "other@1": running}});
    says(&mayfly, "host-1", both.clone()).await;
    let all = tool(&mayfly, &["status"]).await.stdout;
    for part in [
        "ready, leading, retires nothing: 4 of 7 environments vanished within 3 s",
        "ready, standing by: host-1 leads",
        "BACKEND        LIVE  FAILURES  NEXT TRY",
        "backend@0.0.3  0/2   2         in ",
        "failed: exited with 1\n",
        "other@1        1/1   -         -",
        "and 5 more\n",
    ] {
        contains(&all, part);
    }
    let one = tool(&mayfly, &["status", "temp-1"]).await.stdout;
    contains(&one, "- no instance of backend@0.0.3 is live\n");
    contains(
        &one,
        "- backend@0.0.3: failed: exited with 1 (0 of 2 live, failed 2 times in a row, next try at 2999-01-31T18:00:00Z)\n",
    );
    contains(
        &one,
        "  backend@0.0.3 printed last:\n    starting\n    cannot read \\u{1b}[2J /etc/x\n",
    );
    assert!(!one.contains("other@1"), "{one}");
    let shown = parsed(&tool(&mayfly, &["status", "--format", "json"]).await);
    assert_eq!(shown["launching"], both);
    assert_eq!(
        shown["environments"][0]["launching"],
        json!({"backend@0.0.3": failed})
    );
    let leading: Vec<_> = shown["daemons"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|daemon| daemon["daemon"] == "container-launcher")
        .map(|daemon| (&daemon["leading"], &daemon["guard"]))
        .collect();
    assert_eq!(
        leading,
        [(&json!(true), &both["guard"]), (&json!(false), &Value::Null)]
    );

    let explained = tool(&mayfly, &["explain", "temp-1", "backend"]).await;
    assert_eq!(explained.code, Some(1));
    contains(
        &explained.stdout,
        "launcher     backend@0.0.3    failed: exited with 1 (0 of 2",
    );
    contains(
        &explained.stdout,
        "the router itself answers with 503: no instance of backend@0.0.3",
    );
    contains(&explained.stdout, "    cannot read \\u{1b}[2J /etc/x\n");
    let explained = parsed(&tool(&mayfly, &["explain", "temp-1", "backend", "--format", "json"]).await);
    assert_eq!(explained["launching"], failed);
    let last = explained["steps"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["step"], &last["key"]),
        (&json!("launcher"), &json!("backend@0.0.3"))
    );

    says_of_backend(&mayfly, json!({"state": "no-definition", "wanted": 1, "live": 0})).await;
    contains(
        &tool(&mayfly, &["explain", "temp-1", "backend"]).await.stdout,
        "no service definition describes how to start backend at 0.0.3",
    );
    contains(
        &tool(&mayfly, &["status", "temp-1"]).await.stdout,
        "- backend@0.0.3: no definition (write one, or start an instance by hand)\n",
    );
    // What is there needs no launcher.
    let explained = tool(&mayfly, &["explain", "temp-1", "frontend"]).await;
    assert!(
        explained.code == Some(0) && !explained.stdout.contains("launcher"),
        "{explained:?}"
    );
}

#[tokio::test]
async fn without_a_launcher_nothing_is_said_of_one() {
    let (mayfly, _frontend) = mayfly().await;
    mayfly
        .etcd
        .delete("/mayfly/leaders/container-launcher")
        .await
        .unwrap();
    mayfly
        .etcd
        .delete("/mayfly/status/container-launcher/host-2")
        .await
        .unwrap();
    for arguments in [
        &["status"][..],
        &["status", "temp-1"],
        &["status", "--format", "json"],
        &["explain", "temp-1", "backend"],
        &["explain", "temp-1", "backend", "--format", "json"],
        &["wait", "temp-1", "--timeout", "300ms", "--format", "json"],
    ] {
        let told = tool(&mayfly, arguments).await;
        let all = told.stdout + &told.stderr;
        contains(&all, "backend@0.0.3 ");
        assert!(!all.contains("launch"), "{arguments:?}: {all}");
    }
}

/// Waits until a program has printed a text.
async fn prints(process: &Process, text: &str) {
    eventually(SOON, text, async || process.output().contains(text)).await;
}

#[tokio::test]
async fn wait_tells_what_each_backend_does_until_all_that_was_started_answers() {
    let (mayfly, _frontend) = mayfly().await;
    let mut command = mayfly.command("mayfly").unwrap();
    command.args(["wait", "temp-1", "--timeout", "60s"]);
    says_of_backend(&mayfly, json!({"state": "no-definition", "wanted": 1, "live": 0})).await;
    let mut waiting = mayfly.spawn("mayfly-wait", &command).unwrap();
    for (state, told) in [
        (
            json!({"state": "no-definition"}),
            "no definition (write one, or start an instance by hand)",
        ),
        (json!({"state": "waiting"}), "waiting (0 of 2 live)"),
        (
            json!({"state": "pulling", "percent": 40}),
            "pulling 40 % (0 of 2 live)",
        ),
        (json!({"state": "starting"}), "starting (0 of 2 live)"),
        // Once or twice may be a passing thing.
        (
            json!({"state": "failed", "reason": "exited with 1", "failures": 2}),
            "failed: exited with 1 (0 of 2 live, failed 2 times in a row)",
        ),
        // A new try is under way, however many have failed.
        (
            json!({"state": "checking", "failures": 7}),
            "checking (0 of 2 live, failed 7 times in a row)",
        ),
    ] {
        let mut backend = state;
        backend["wanted"] = json!(if told.starts_with("no definition") { 1 } else { 2 });
        backend["live"] = json!(0);
        says_of_backend(&mayfly, backend).await;
        let told = format!("waiting: no instance of backend@0.0.3 is live; backend@0.0.3: {told}\n");
        prints(&waiting, &told).await;
    }
    let _first = mayfly.instance("backend", "0.0.3").await.unwrap();
    prints(&waiting, "waiting: backend@0.0.3: checking (0 of 2 live").await;
    assert!(waiting.is_running());
    let _second = mayfly.instance("backend", "0.0.3").await.unwrap();
    assert_eq!(waiting.wait(SOON).await.unwrap().code(), Some(0));
    let found = mayfly.call("temp-1", "backend").await.unwrap().backend().unwrap();
    assert_eq!(found, "backend@0.0.3");
}

#[tokio::test]
async fn wait_gives_up_at_once_on_what_fails_again_and_again() {
    let (mayfly, _frontend) = mayfly().await;
    let failed = |failures: usize| {
        json!({"state": "failed", "reason": "exited with 1", "wanted": 1, "live": 0, "failures": failures,
            "output": ["cannot read /etc/x"]})
    };
    // Of a backend that the environment does not resolve to, it is no matter.
    let others =
        json!({"leading": true, "backends": {"backend@0.0.3": failed(2), "backend@0.0.2": failed(9)}});
    says(&mayfly, "host-1", others).await;
    let late = tool(&mayfly, &["wait", "temp-1", "--timeout", "2s"]).await;
    assert_eq!(late.code, Some(1));
    let reasons = "no instance of backend@0.0.3 is live; backend@0.0.3: failed: exited with 1 (failed 2 times in a row)\n";
    contains(
        &late.stderr,
        &format!("error: temp-1 is not in force after 2s: {reasons}"),
    );
    contains(
        &late.stderr,
        "  backend@0.0.3 printed last:\n    cannot read /etc/x\n",
    );

    let mut command = mayfly.command("mayfly").unwrap();
    command.args(["wait", "temp-1", "--timeout", "300s", "--format", "json"]);
    let mut waiting = mayfly.spawn("mayfly-wait", &command).unwrap();
    prints(&waiting, "failed 2 times in a row").await;
    let begin = Instant::now();
    says_of_backend(&mayfly, failed(3)).await;
    assert_eq!(waiting.wait(SOON).await.unwrap().code(), Some(1));
    assert!(begin.elapsed() < Duration::from_secs(60));
    prints(
        &waiting,
        "error: temp-1 cannot come into force: backend@0.0.3 keeps failing: ",
    )
    .await;
    prints(
        &waiting,
        "  backend@0.0.3 printed last:\n    cannot read /etc/x\n",
    )
    .await;
    let outcome = tool(&mayfly, &["wait", "temp-1", "--format", "json"]).await;
    assert_eq!(outcome.code, Some(1));
    let outcome = parsed(&outcome);
    assert_eq!(
        (&outcome["ready"], &outcome["launching"]),
        (&json!(false), &json!({"backend@0.0.3": failed(3)}))
    );

    // Somebody starts one by hand: that counts, whatever the launcher still says.
    let _backend = mayfly.instance("backend", "0.0.3").await.unwrap();
    tool(&mayfly, &["wait", "temp-1"]).await.ok().unwrap();
}

#[tokio::test]
async fn wait_gives_what_failed_before_its_next_try() {
    let (mayfly, _frontend) = mayfly().await;
    for (next_try, outcome) in [
        ("2020-01-01T00:00:00Z", "is not in force after 300ms"),
        // That is too late for this wait.
        (
            "2099-01-01T00:00:00Z",
            "cannot come into force: backend@0.0.3 keeps failing",
        ),
    ] {
        let failed = json!({"state": "failed", "reason": "exited with 1", "wanted": 1, "live": 0, "failures": 7,
            "next_try": next_try});
        says_of_backend(&mayfly, failed).await;
        let waited = tool(&mayfly, &["wait", "temp-1", "--timeout", "300ms"]).await;
        assert_eq!(waited.code, Some(1));
        contains(&waited.stderr, &format!("error: temp-1 {outcome}: "));
    }
}

#[tokio::test]
async fn a_drain_is_no_live_instance() {
    let (mayfly, frontend) = mayfly().await;
    let backend = mayfly.instance("backend", "0.0.3").await.unwrap();
    tool(&mayfly, &["wait", "temp-1"]).await.ok().unwrap();
    let drain = format!("/mayfly/drains/backend/0.0.3/{}", backend.service.address());
    mayfly.etcd.put(&drain, "").await.unwrap();
    let draining = "no instance of backend@0.0.3 is live (1 draining)";
    contains(&tool(&mayfly, &["status", "temp-1"]).await.stdout, draining);
    let waited = tool(&mayfly, &["wait", "temp-1", "--timeout", "300ms"]).await;
    assert_eq!(waited.code, Some(1));
    contains(&waited.stderr, draining);
    mayfly.etcd.delete(&drain).await.unwrap();
    tool(&mayfly, &["wait", "temp-1"]).await.ok().unwrap();
    drop(frontend);
}

#[tokio::test]
async fn a_word_is_given_only_where_something_is_held_back() {
    let (mayfly, _frontend) = mayfly().await;
    let confirm = ["confirm", "container-launcher"];
    let key = "/mayfly/confirmations/container-launcher";
    let refused = async |part: &str| {
        let answer = tool(&mayfly, &confirm).await;
        assert_eq!(answer.code, Some(1));
        contains(&answer.stderr, part);
        assert_eq!(mayfly.etcd.get(key).await.unwrap(), None);
    };
    refused("no container-launcher leads").await;
    says(&mayfly, "host-1", json!({"leading": true})).await;
    refused("the container-launcher of host-1 withholds nothing").await;
    let guard = "4 of 7 environments vanished within 3 s";
    says(&mayfly, "host-1", json!({"leading": true, "guard": guard})).await;
    let told = tool(&mayfly, &confirm).await.ok().unwrap();
    contains(
        &told,
        &format!("the container-launcher of host-1 retires nothing: {guard}\n"),
    );
    contains(
        &told,
        "the confirmation expires if container-launcher does not act on it within 1m",
    );
    let word = mayfly.etcd.get_json(key).await.unwrap();
    assert_eq!(word["by"], "test");
    assert!(word["at"].as_str().unwrap().ends_with('Z'), "{word}");
    let lease = mayfly.etcd.lease_of(key).await.unwrap().unwrap();
    let left = mayfly.etcd.left_of(&lease).await.unwrap();
    assert!((30..=60).contains(&left), "{left}");
    let unknown = tool(&mayfly, &["confirm", "dns-updater"]).await;
    assert_eq!(unknown.code, Some(2));
}
