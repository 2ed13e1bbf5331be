//! Environments that take from others what they do not name themselves.

use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};

/// Four environments in a row: `d` reaches `a` by three steps.
const ROW: &str = "
- {name: a, services: [{name: front, version: 1.0.0, route: /}, {name: back, version: 1.0.0}, {name: deep, version: 1.0.0}]}
- {name: b, extends: a, services: [{name: back, version: 2.0.0}]}
- {name: c, extends: b, services: [{name: front, version: 2.0.0}]}
- {name: d, extends: c, services: [{name: other, version: 1.0.0, route: /other}]}
";

async fn row() -> (Mayfly, Vec<impl Sized>) {
    let mayfly = Mayfly::start().await.unwrap();
    let mut instances = Vec::new();
    for (service, version) in [
        ("front", "1.0.0"),
        ("front", "2.0.0"),
        ("back", "1.0.0"),
        ("back", "2.0.0"),
        ("deep", "1.0.0"),
        ("other", "1.0.0"),
    ] {
        instances.push(mayfly.instance(service, version).await.unwrap());
    }
    mayfly.save("row.yaml", ROW);
    for (environment, backend) in [
        ("a", "front@1.0.0"),
        ("c", "front@2.0.0"),
        ("a", "back@1.0.0"),
        ("b", "back@2.0.0"),
        ("d", "deep@1.0.0"),
        ("d", "other@1.0.0"),
    ] {
        mayfly
            .calls(
                environment,
                backend.split('@').next().unwrap_or_default(),
                backend,
            )
            .await;
    }
    (mayfly, instances)
}

#[tokio::test]
async fn three_levels_of_services_and_routes_and_the_nearest_wins() {
    let (mayfly, _instances) = row().await;
    for (environment, service, backend) in [
        ("a", "front", "front@1.0.0"),
        ("b", "front", "front@1.0.0"),
        ("d", "front", "front@2.0.0"),
        ("c", "back", "back@2.0.0"),
        ("d", "back", "back@2.0.0"),
        ("b", "deep", "deep@1.0.0"),
        ("c", "deep", "deep@1.0.0"),
        ("d", "other", "other@1.0.0"),
    ] {
        assert_eq!(
            mayfly
                .call(environment, service)
                .await
                .unwrap()
                .backend()
                .unwrap(),
            backend,
            "{environment}"
        );
    }
    for (host, path, backend) in [
        ("www-a.example.com", "/", "front@1.0.0"),
        ("www-b.example.com", "/", "front@1.0.0"),
        ("www-d.example.com", "/", "front@2.0.0"),
        ("www-d.example.com", "/other/x", "other@1.0.0"),
        ("www-c.example.com", "/other/x", "front@2.0.0"),
    ] {
        let answer = mayfly.get(host, path).await.unwrap();
        assert_eq!(answer.backend().unwrap(), backend, "{host}{path}");
        let environment = &host[4..5];
        assert_eq!(answer.echo().unwrap().header("x-mayfly"), environment);
    }
    let missing = mayfly.call("d", "nothing").await.unwrap();
    assert_eq!(missing.status, 404);
    assert!(
        missing.body.contains("nothing") && missing.body.contains('d'),
        "{}",
        missing.body
    );
}

#[tokio::test]
async fn a_change_of_the_parent_reaches_the_child_at_once() {
    let (mayfly, _instances) = row().await;
    mayfly.save(
        "row.yaml",
        &ROW.replace("{name: deep, version: 1.0.0}", "{name: deep, version: 3.0.0}"),
    );
    let _three = mayfly.instance("deep", "3.0.0").await.unwrap();
    mayfly.calls("d", "deep", "deep@3.0.0").await;
    mayfly.calls("a", "deep", "deep@3.0.0").await;
}

#[tokio::test]
async fn an_own_route_and_an_inherited_one_compete_by_length() {
    let mayfly = Mayfly::start().await.unwrap();
    let mut instances = Vec::new();
    for service in ["front", "api", "own"] {
        instances.push(mayfly.instance(service, "1").await.unwrap());
    }
    mayfly.save(
        "row.yaml",
        "
- {name: base, services: [{name: front, version: '1', route: /}, {name: api, version: '1', route: /api/v1}]}
- {name: kid, extends: base, services: [{name: own, version: '1', routes: [/api, /]}]}
",
    );
    for service in ["front", "api", "own"] {
        mayfly.calls("kid", service, &format!("{service}@1")).await;
    }
    mayfly.answers("www-kid.example.com", "own@1").await;
    mayfly.answers("www-base.example.com", "front@1").await;
    for (host, path, service) in [
        ("www-kid.example.com", "/x", "own"),
        ("www-kid.example.com", "/api/v2", "own"),
        ("www-kid.example.com", "/api/v1/x", "api"),
        ("www-base.example.com", "/api", "front"),
    ] {
        assert_eq!(
            mayfly.get(host, path).await.unwrap().echo().unwrap().service,
            service,
            "{host}{path}"
        );
    }
}

#[tokio::test]
async fn the_answer_says_which_backend_and_whether_it_was_inherited() {
    let (mayfly, _instances) = row().await;
    let of = async |environment: &str, service: &str| {
        let answer = mayfly.call(environment, service).await.unwrap();
        let ours = answer
            .headers
            .iter()
            .filter(|(name, _)| name.starts_with("x-mayfly"));
        ours.map(|(_, value)| value.clone()).collect::<Vec<_>>().join(" ")
    };
    let (own, inherited) = (of("b", "back").await, of("d", "back").await);
    assert!(own.contains("back@2.0.0") && own.contains("own"), "{own}");
    assert!(
        inherited.contains("back@2.0.0") && inherited.contains("inherited"),
        "{inherited}"
    );
    let outside = mayfly.get("www-b.example.com", "/").await.unwrap();
    assert!(
        !outside.headers.keys().any(|name| name.starts_with("x-mayfly")),
        "{:?}",
        outside.headers
    );
}

#[tokio::test]
async fn a_cycle_or_a_missing_parent_is_that_environments_problem_alone() {
    let (mayfly, _instances) = row().await;
    mayfly.save(
        "broken.yaml",
        "
- {name: circle-1, extends: circle-2, services: [{name: front, version: 1.0.0, route: /}]}
- {name: circle-2, extends: circle-1, services: [{name: back, version: 1.0.0}]}
- {name: orphan, extends: nowhere, services: [{name: front, version: 1.0.0, route: /}]}
- {name: too-deep, extends: d, services: [{name: front, version: 1.0.0, route: /}]}
- {name: healthy, extends: a}
",
    );
    mayfly.answers("www-healthy.example.com", "front@1.0.0").await;
    for (environment, service, backend) in [("d", "deep", "deep@1.0.0"), ("a", "front", "front@1.0.0")] {
        assert_eq!(
            mayfly
                .call(environment, service)
                .await
                .unwrap()
                .backend()
                .unwrap(),
            backend
        );
    }
    // Whoever looks finds out which environment has which problem.
    eventually(SOON, "the problems are told", async || {
        let mut told = mayfly.registrar.as_ref().unwrap().output();
        for daemon in ["environment-registrar", "haproxy-updater"] {
            told += &mayfly.status(daemon).await.unwrap_or_default().to_string();
        }
        for name in ["circle-1", "circle-2", "orphan", "too-deep"] {
            if !told.contains(name) {
                return Err(format!("{name} is not told about"));
            }
        }
        Ok(())
    })
    .await;
    // Mended, it works.
    mayfly.save(
        "broken.yaml",
        "{name: orphan, extends: a, services: [{name: back, version: 2.0.0}]}",
    );
    mayfly.calls("orphan", "back", "back@2.0.0").await;
    mayfly.calls("orphan", "deep", "deep@1.0.0").await;
}
