//! Environments that take from others what they do not name themselves.

use mayfly_e2e::eventually;
use mayfly_e2e::world::{SOON, World};

/// Four environments in a row: `d` reaches `a` by three steps.
const ROW: &str = "
- {name: a, services: [{name: front, version: 1.0.0, route: /}, {name: back, version: 1.0.0}, {name: deep, version: 1.0.0}]}
- {name: b, extends: a, services: [{name: back, version: 2.0.0}]}
- {name: c, extends: b, services: [{name: front, version: 2.0.0}]}
- {name: d, extends: c, services: [{name: other, version: 1.0.0, route: /other}]}
";

async fn row() -> (World, Vec<impl Sized>) {
    let world = World::start().await.unwrap();
    let mut instances = Vec::new();
    for (service, version) in [
        ("front", "1.0.0"),
        ("front", "2.0.0"),
        ("back", "1.0.0"),
        ("back", "2.0.0"),
        ("deep", "1.0.0"),
        ("other", "1.0.0"),
    ] {
        instances.push(world.instance(service, version).await.unwrap());
    }
    world.save("row.yaml", ROW);
    for (environment, backend) in [
        ("a", "front@1.0.0"),
        ("c", "front@2.0.0"),
        ("a", "back@1.0.0"),
        ("b", "back@2.0.0"),
        ("d", "deep@1.0.0"),
        ("d", "other@1.0.0"),
    ] {
        world
            .calls(
                environment,
                backend.split('@').next().unwrap_or_default(),
                backend,
            )
            .await;
    }
    (world, instances)
}

#[tokio::test]
async fn three_levels_of_services_and_routes_and_the_nearest_wins() {
    let (world, _instances) = row().await;
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
            world.call(environment, service).await.unwrap().backend().unwrap(),
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
        let answer = world.get(host, path).await.unwrap();
        assert_eq!(answer.backend().unwrap(), backend, "{host}{path}");
        let environment = &host[4..5];
        assert_eq!(answer.echo().unwrap().header("x-mayfly"), environment);
    }
    let missing = world.call("d", "nothing").await.unwrap();
    assert_eq!(missing.status, 404);
    assert!(
        missing.body.contains("nothing") && missing.body.contains('d'),
        "{}",
        missing.body
    );
}

#[tokio::test]
async fn a_change_of_the_parent_reaches_the_child_at_once() {
    let (world, _instances) = row().await;
    world.save(
        "row.yaml",
        &ROW.replace("{name: deep, version: 1.0.0}", "{name: deep, version: 3.0.0}"),
    );
    let _three = world.instance("deep", "3.0.0").await.unwrap();
    world.calls("d", "deep", "deep@3.0.0").await;
    world.calls("a", "deep", "deep@3.0.0").await;
}

#[tokio::test]
async fn an_own_route_and_an_inherited_one_compete_by_length() {
    let world = World::start().await.unwrap();
    let mut instances = Vec::new();
    for service in ["front", "api", "own"] {
        instances.push(world.instance(service, "1").await.unwrap());
    }
    world.save(
        "row.yaml",
        "
- {name: base, services: [{name: front, version: '1', route: /}, {name: api, version: '1', route: /api/v1}]}
- {name: kid, extends: base, services: [{name: own, version: '1', routes: [/api, /]}]}
",
    );
    for service in ["front", "api", "own"] {
        world.calls("kid", service, &format!("{service}@1")).await;
    }
    world.answers("www-kid.example.com", "own@1").await;
    world.answers("www-base.example.com", "front@1").await;
    for (host, path, service) in [
        ("www-kid.example.com", "/x", "own"),
        ("www-kid.example.com", "/api/v2", "own"),
        ("www-kid.example.com", "/api/v1/x", "api"),
        ("www-base.example.com", "/api", "front"),
    ] {
        assert_eq!(
            world.get(host, path).await.unwrap().echo().unwrap().service,
            service,
            "{host}{path}"
        );
    }
}

#[tokio::test]
async fn the_answer_says_which_backend_and_whether_it_was_inherited() {
    let (world, _instances) = row().await;
    let of = async |environment: &str, service: &str| {
        let answer = world.call(environment, service).await.unwrap();
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
    let outside = world.get("www-b.example.com", "/").await.unwrap();
    assert!(
        !outside.headers.keys().any(|name| name.starts_with("x-mayfly")),
        "{:?}",
        outside.headers
    );
}

#[tokio::test]
async fn a_cycle_or_a_missing_parent_is_that_environments_problem_alone() {
    let (world, _instances) = row().await;
    world.save(
        "broken.yaml",
        "
- {name: circle-1, extends: circle-2, services: [{name: front, version: 1.0.0, route: /}]}
- {name: circle-2, extends: circle-1, services: [{name: back, version: 1.0.0}]}
- {name: orphan, extends: nowhere, services: [{name: front, version: 1.0.0, route: /}]}
- {name: too-deep, extends: d, services: [{name: front, version: 1.0.0, route: /}]}
- {name: healthy, extends: a}
",
    );
    world.answers("www-healthy.example.com", "front@1.0.0").await;
    for (environment, service, backend) in [("d", "deep", "deep@1.0.0"), ("a", "front", "front@1.0.0")] {
        assert_eq!(
            world.call(environment, service).await.unwrap().backend().unwrap(),
            backend
        );
    }
    // Whoever looks finds out which environment has which problem.
    eventually(SOON, "the problems are told", async || {
        let mut told = world.registrar.as_ref().unwrap().output();
        for daemon in ["environment-registrar", "haproxy-updater"] {
            told += &world.status(daemon).await.unwrap_or_default().to_string();
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
    world.save(
        "broken.yaml",
        "{name: orphan, extends: a, services: [{name: back, version: 2.0.0}]}",
    );
    world.calls("orphan", "back", "back@2.0.0").await;
    world.calls("orphan", "deep", "deep@1.0.0").await;
}
