//! Requests that wait until an environment is in force.

use super::*;

#[tokio::test]
async fn a_wait_ends_when_the_environment_is_in_force() {
    let mayfly = Mayfly::start().await.unwrap();
    register(&mayfly, "prod", None, web_at("1.0.0")).await;
    let web = Web::in_sync(&mayfly).await;
    let refused = web.ask("/v1/environments/prod?wait=300ms").await;
    assert_eq!(refused.status, 504);
    let problem: Value = serde_json::from_str(&refused.body).unwrap();
    assert!(
        problem["reasons"]
            .to_string()
            .contains("no instance of web@1.0.0 is live"),
        "{problem}"
    );
    // Nobody knows it yet.
    let address = web.address;
    let waiting = tokio::spawn(async move {
        let path = "/v1/environments/late?wait=9s";
        Request::get(&address.to_string(), path)
            .send(address)
            .await
            .unwrap()
    });
    let _instance = mayfly.instance("web", "1.0.0").await.unwrap();
    register(&mayfly, "late", Some("prod"), json!([])).await;
    let answer = waiting.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let outcome: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        (&outcome["ready"], &outcome["reasons"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(
        mayfly
            .get("www-late.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@1.0.0"
    );
}

#[tokio::test]
async fn a_wait_gives_what_failed_before_its_next_try() {
    let mayfly = Mayfly::start().await.unwrap();
    register(&mayfly, "prod", None, web_at("1")).await;
    let leader = "/mayfly/leaders/container-launcher";
    mayfly.etcd.put(leader, "host-1").await.unwrap();
    let says = async |failures: usize, next_try: &str| {
        let failed = json!({"state": "failed", "reason": "exited with 1", "wanted": 1, "live": 0,
            "failures": failures, "next_try": next_try});
        let launching = json!({"leading": true, "backends": {"web@1": failed}});
        let record = json!({"applied_revision": 1, "ready": true, "detail": {"launching": launching}});
        let key = "/mayfly/status/container-launcher/host-1";
        mayfly.etcd.put(key, &record.to_string()).await.unwrap();
    };
    let (due, too_late) = ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z");
    says(7, too_late).await;
    let web = Web::in_sync(&mayfly).await;
    let ask = async |limit: &str| {
        let answer = web.ask(&format!("/v1/environments/prod?wait={limit}")).await;
        assert_eq!(answer.status, 504, "{}", answer.body);
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        (problem["failing"].clone(), problem["detail"].to_string())
    };
    let (failing, detail) = ask("60s").await;
    assert_eq!(failing, "web@1", "{detail}");

    says(7, due).await;
    eventually(SOON, "a try is due", async || {
        web.ask("/v1/environments/prod").await.body.contains(due)
    })
    .await;
    let (failing, detail) = ask("300ms").await;
    assert!(
        failing.is_null() && detail.contains("is not in force after 0.3s"),
        "{detail}"
    );
    let mut failures = 7;
    let tries = eventually(SOON, "the wait is given up", async || {
        failures += 1;
        says(failures, due).await;
        // The wait goes on meanwhile.
        false
    });
    let (_, detail) = tokio::select! {
        () = tries => unreachable!(),
        given_up = ask("60s") => given_up,
    };
    assert!(
        detail.contains("cannot come into force: web@1 keeps failing") && !detail.contains("failed 7 times"),
        "{detail}"
    );
}
