//! `mayfly explain` says what HAProxy then does. That it does so for requests of every kind, haproxy-updater's own tests
//! show; here the whole way from etcd.

use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::Mayfly;
use serde_json::Value;

#[tokio::test]
async fn what_is_explained_is_what_is_answered() {
    let mayfly = Mayfly::start_with(&["--domain", "svc.local"]).await.unwrap();
    let _web = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save(
        "two.yaml",
        "- {name: qa, services: [{name: web, version: ^1, route: /shop}, {name: ghost, version: 7, route: /ghost}]}
- {name: heir, header: inherits, extends: qa}",
    );
    let settled = async || {
        mayfly
            .get("www-heir.x", "/shop")
            .await
            .is_ok_and(|answer| answer.status == 200)
    };
    mayfly_e2e::eventually(mayfly_e2e::mayfly::SOON, "heir is answered", settled).await;
    for (arguments, host, path, value) in [
        (
            &["http://www-heir.x/shop/1?a=b"][..],
            "www-heir.x",
            "/shop/1?a=b",
            None,
        ),
        (&["www-qa.x/shop"], "www-qa.x", "/shop", None),
        (&["www-qa.x"], "www-qa.x", "/", None),
        (&["www-qa.x/ghost"], "www-qa.x", "/ghost", None),
        (&["www-hair.x"], "www-hair.x", "/", None),
        (&["heir", "web"], "web.svc.local", "/", Some("inherits")),
        (&["heir", "wep"], "wep.svc.local", "/", Some("inherits")),
        (
            &["web.svc.local", "--header", "heir"],
            "web.svc.local",
            "/",
            Some("heir"),
        ),
        (&["web.svc.local"], "web.svc.local", "/", None),
        (&["web", "--header", "inherits"], "web", "/", Some("inherits")),
        (&["http://web/x"], "web", "/x", None),
        (&["www-qa.x/shop/%2e./y"], "www-qa.x", "/shop/%2e./y", None),
        (
            &["web.svc.local", "--header", "qa, qa"],
            "web.svc.local",
            "/",
            Some("qa, qa"),
        ),
        (
            &["web.svc.local", "--header", "qa, inherits"],
            "web.svc.local",
            "/",
            Some("qa, inherits"),
        ),
    ] {
        let explained = mayfly
            .run("mayfly", &[&["explain", "--format", "json"], arguments].concat())
            .await
            .unwrap();
        let answer: Value = serde_json::from_str(&explained.stdout).unwrap();
        let answer = &answer["answer"];
        let (side, mut request) = match host.ends_with(".x") {
            true => (mayfly.edge, Request::get(host, path)),
            false => (mayfly.internal, Request::get(host, path)),
        };
        if let Some(value) = value {
            request = request.header("x-mayfly", value);
        }
        let found = request.send(side).await.unwrap();
        if found.status == 200 {
            assert_eq!(
                answer["backend"],
                found.backend().unwrap(),
                "{arguments:?}: {answer}"
            );
            assert_eq!(explained.code, Some(0));
        } else {
            assert_eq!(answer["text"], found.body.trim_end(), "{arguments:?}: {answer}");
            assert_eq!(
                (&answer["status"], explained.code),
                (&found.status.into(), Some(1))
            );
        }
    }
    let table = mayfly.run("mayfly", &["explain", "www-hair.x"]).await.unwrap();
    assert!(
        table.stdout.contains("did you mean www-heir?"),
        "{}",
        table.stdout
    );
    let unknown = mayfly.run("mayfly", &["explain", "hair", "web"]).await.unwrap();
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.stderr.contains("did you mean heir?"),
        "{}",
        unknown.stderr
    );
}
