//! Who comes for an environment that has ended is told so at the edge, with when, why, and what brings it back.

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};

fn one(name: &str, more: &str) -> String {
    format!("{{name: {name}, {more} services: [{{name: web, version: 1.0.0, route: /}}]}}\n")
}

fn host(name: &str) -> String {
    format!("www-{name}.example.com")
}

/// Waits until the edge answers with this status and a text that contains this.
async fn answers(mayfly: &Mayfly, name: &str, status: u16, part: &str) {
    eventually(
        SOON,
        &format!("{name} answers {status}, {part}"),
        async || -> Result<()> {
            let answer = mayfly.get(&host(name), "/").await?;
            let found = (answer.status, &answer.body);
            ensure!(answer.status == status && answer.body.contains(part), "{found:?}");
            Ok(())
        },
    )
    .await;
}

/// A Mayfly with an environment of which nobody does anything, and one instance of what all choose.
async fn mayfly(
    files: &[(&str, &str)],
) -> (
    Mayfly,
    mayfly_e2e::mayfly::Instance<mayfly_e2e::instance::Service>,
) {
    let mayfly = Mayfly::start().await.unwrap();
    let web = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("still.yaml", &one("still", ""));
    answers(&mayfly, "still", 200, "").await;
    for (name, more) in files {
        mayfly.save(&format!("{name}.yaml"), &one(name, more));
        answers(&mayfly, name, 200, "").await;
    }
    (mayfly, web)
}

#[tokio::test]
async fn an_environment_that_has_ended_says_so_until_it_is_back() {
    let files = [
        ("old", "expires: 3s,"),
        ("idle", "idle: 2s,"),
        ("gone", ""),
        ("byhand", ""),
    ];
    let (mayfly, _web) = mayfly(&files).await;
    let pid = mayfly.haproxy.worker().await.unwrap();
    let deleted = mayfly.run("mayfly", &["delete", "gone"]).await.unwrap();
    assert!(deleted.ok().unwrap().starts_with("gone deleted"));
    let back = "8h` brings it back, and so does a change of its file.";
    answers(
        &mayfly,
        "gone",
        410,
        &format!(": `mayfly delete` ended it; `mayfly keep gone {back}"),
    )
    .await;
    mayfly.etcd.delete("/mayfly/environments/byhand").await.unwrap();
    answers(
        &mayfly,
        "byhand",
        410,
        ": it was removed through etcd; `mayfly keep byhand 8h`",
    )
    .await;
    answers(
        &mayfly,
        "old",
        410,
        &format!(": it expired; `mayfly keep old {back}"),
    )
    .await;
    answers(
        &mayfly,
        "idle",
        410,
        ": it was not used for its idle time; `mayfly keep idle 8h`",
    )
    .await;

    let answer = mayfly.get(&host("gone"), "/").await.unwrap();
    assert!(
        answer.body.starts_with("410: the environment gone ended at 2"),
        "{answer:?}"
    );
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["content-type"], "text/plain");
    // The tool says the same, of the page and of the name.
    let url = format!("http://{}/", host("gone"));
    let told = mayfly.run("mayfly", &["explain", &url]).await.unwrap();
    assert!(
        told.stdout
            .contains(answer.body.trim_end().trim_start_matches("410: ")),
        "{told:?}"
    );
    let told = mayfly.run("mayfly", &["status", "gone"]).await.unwrap();
    assert!(told.stderr.contains("`mayfly delete` ended it"), "{told:?}");
    // What never was is told as before, and who runs answers.
    answers(&mayfly, "never", 404, "no environment answers for the host").await;
    answers(&mayfly, "still", 200, "").await;

    let kept = mayfly.run("mayfly", &["keep", "gone", "1h"]).await.unwrap();
    kept.ok().unwrap();
    answers(&mayfly, "gone", 200, "").await;
    assert_eq!(mayfly.etcd.get("/mayfly/ended/gone").await.unwrap(), None);
    // A file whose environment ended with it.
    mayfly.remove("still.yaml");
    answers(
        &mayfly,
        "still",
        410,
        ": its file is gone; put the file back to bring it back.",
    )
    .await;
    mayfly.save("still.yaml", &one("still", ""));
    answers(&mayfly, "still", 200, "").await;
    assert_eq!(mayfly.etcd.get("/mayfly/ended/still").await.unwrap(), None);
    // Another environment with the prefix of one that has ended.
    mayfly.save("new.yaml", &one("new", "prefix: www-byhand,"));
    answers(&mayfly, "byhand", 200, "").await;
    assert_eq!(
        mayfly.haproxy.worker().await.unwrap(),
        pid,
        "HAProxy was reloaded"
    );
}

#[tokio::test]
async fn what_expired_without_a_registrar_is_told_when_there_is_one() {
    let (mut mayfly, _web) = mayfly(&[("old", "expires: 3s,")]).await;
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    answers(&mayfly, "old", 404, "no environment answers for the host").await;
    mayfly
        .etcd
        .delete("/mayfly/status/environment-registrar/test")
        .await
        .unwrap();
    mayfly.start_registrar(&[]).unwrap();
    answers(&mayfly, "old", 410, ": it expired; `mayfly keep old 8h`").await;
}
