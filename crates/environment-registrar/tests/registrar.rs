//! The registrar against etcd: restarts, faults, rivals, and an etcd that is changed by hand, emptied or out of reach.

#![allow(clippy::unwrap_used)]

mod harness;

use std::os::unix::fs::symlink;
use std::process::Command;

use harness::{GRACE, LIMIT, World, environment};
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::poll::throughout;
use mayfly_e2e::process;

const BAD: &str = "name: a\nservices:\n  - {name: backend, version: \"1 0\"}\n";

#[tokio::test]
async fn a_restart_writes_differences_only_and_leaves_foreign_records_alone() {
    let mut world = World::new(&[
        ("a.yaml", &environment("a", "1")),
        ("b.yaml", "name: b"),
        ("c.yaml", "name: c"),
    ])
    .await;
    world.foreign("theirs", "www-theirs").await;
    world
        .etcd
        .put(
            "/mayfly/environments/by-hand",
            r#"{"name":"by-hand","prefix":"p","header":"h"}"#,
        )
        .await
        .unwrap();
    world.start(&[]).await;
    world.until(&["a:1", "b", "by-hand", "c", "theirs"]).await;
    let before = world.entry("a").await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&before.value).unwrap();
    assert_eq!(
        json["source"],
        serde_json::json!({"registrar": "us", "file": "a.yaml"})
    );

    world.kill().await;
    world.write("b.yaml", &environment("b", "2"));
    world.remove("c.yaml");
    world.start(&[]).await;
    world.until(&["a:1", "b:2", "by-hand", "theirs"]).await;
    assert_eq!(
        world.entry("a").await.unwrap(),
        before,
        "what has not changed is not written"
    );

    // An orderly end leaves the environments and takes the status record away.
    world.stop().await;
    assert_eq!(world.all().await, ["a:1", "b:2", "by-hand", "theirs"]);
    assert!(world.etcd.list("/mayfly/status/").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_fault_keeps_the_last_good_version_until_it_is_mended_also_over_a_restart() {
    let mut world = World::started(&[("a.yaml", &environment("a", "1")), ("b.yaml", "name: b")]).await;
    world.until(&["a:1", "b"]).await;
    world.write("a.yaml", BAD);
    world
        .set_aside(
            "a.yaml:a",
            "line 3, column 30, services[0].version: \"1 0\" is not a version",
        )
        .await;
    world.write("b.yaml", &environment("b", "2"));
    world.until(&["a:1", "b:2"]).await;

    world.kill().await;
    world.start(&[]).await;
    world.set_aside("a.yaml:a", "is not a version").await;
    world.settled().await;
    assert_eq!(world.all().await, ["a:1", "b:2"]);

    for broken in ["name: a\nservices: [", "\u{0}\u{1}", "- name: [a\n"] {
        world.write("a.yaml", broken);
        world.set_aside("a.yaml", "not YAML").await;
    }
    // Deleted and made again, broken at first.
    world.remove("a.yaml");
    world.write("a.yaml", BAD);
    world.set_aside("a.yaml:a", "is not a version").await;
    throughout(GRACE * 2, "the last good version", async || {
        world.all().await == ["a:1", "b:2"]
    })
    .await;
    world.write("a.yaml", &environment("a", "3"));
    world.until(&["a:3", "b:2"]).await;
    world
        .status("nothing set aside", |status| status.set_aside.is_empty())
        .await;
}

#[tokio::test]
async fn one_bad_entry_of_five_harms_nobody_and_neither_does_a_hostile_file() {
    let five = "- name: a\n- name: b\n- {name: c, prefix: \"x\\n\"}\n- name: d\n- name: e\n";
    let world = World::new(&[("five.yaml", five), ("f.yaml", "name: f")]).await;
    let deep = format!("name: deep\nservices: {}", "[".repeat(100_000));
    world.write("deep.yaml", &deep);
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let aliases = vec![format!("*a{}", level - 1); 8].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    world.write("bomb.yaml", &bomb);
    std::fs::File::create(world.path("envs/huge.yaml"))
        .unwrap()
        .set_len(100 << 20)
        .unwrap();
    symlink("nowhere", world.path("envs/dangling.yaml")).unwrap();
    let mut world = world;
    world.start(&[]).await;
    world.until(&["a", "b", "d", "e", "f"]).await;
    for (key, reason) in [
        ("five.yaml:c", "is not a prefix"),
        ("deep.yaml", "too many levels"),
        ("bomb.yaml", "aliases expand to too much"),
        ("huge.yaml", "104857600 bytes"),
        ("dangling.yaml", "No such file"),
    ] {
        world.set_aside(key, reason).await;
    }
}

#[tokio::test]
async fn names_prefixes_and_headers_belong_to_who_came_first() {
    let mut world = World::started(&[("b.yaml", "{name: x, prefix: p}")]).await;
    world.foreign("theirs", "q").await;
    world.until(&["theirs", "x"]).await;
    world.write("a.yaml", "{name: x, prefix: other}");
    world.set_aside("a.yaml:x", "is registered from b.yaml").await;
    world.write(
        "c.yaml",
        "- {name: y, prefix: q}\n- {name: theirs, prefix: z}\n- {name: z, header: x}",
    );
    for (key, reason) in [
        (
            "c.yaml:y",
            "prefix q is taken by environment theirs of the registrar of node them",
        ),
        ("c.yaml:theirs", "is registered by the registrar of node them"),
        ("c.yaml:z", "header x is taken by environment x of b.yaml"),
    ] {
        world.set_aside(key, reason).await;
    }
    world.settled().await;
    assert_eq!(world.all().await, ["theirs", "x"]);
    // Who came first is known over a restart, and the place is free once it has gone.
    world.kill().await;
    world.start(&[]).await;
    world.set_aside("a.yaml:x", "is registered from b.yaml").await;
    world.remove("b.yaml");
    world.store.delete(&World::key("theirs")).await.unwrap();
    world.until(&["theirs", "x", "y"]).await;
    world
        .set_aside("c.yaml:z", "header x is taken by environment x of a.yaml")
        .await;
}

#[tokio::test]
async fn two_registrars_do_not_overwrite_each_other() {
    let mut world = World::started(&[("a.yaml", &environment("a", "1")), ("mine.yaml", "name: mine")]).await;
    let first = world.registrar.take();
    let log = world.path("second.log");
    std::fs::create_dir(world.path("second")).unwrap();
    std::fs::write(world.path("second/a.yaml"), environment("a", "2")).unwrap();
    std::fs::write(world.path("second/b.yaml"), "name: b").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_environment-registrar"));
    command.arg("watch").arg(world.path("second")).args([
        "--node",
        "second",
        "--etcd",
        &world.etcd.endpoint(),
    ]);
    let second = process::Process::spawn("second", &command, &log).unwrap();
    world.until(&["a:1", "b", "mine"]).await;
    mayfly_e2e::eventually(LIMIT, "the second registrar's report", async || {
        second
            .output()
            .contains("is registered by the registrar of node us")
    })
    .await;
    throughout(GRACE * 2, "the first one's record", async || {
        world.all().await == ["a:1", "b", "mine"]
    })
    .await;
    world.remove("a.yaml");
    world.until(&["a:2", "b", "mine"]).await;
    drop(first);
}

#[tokio::test]
async fn of_two_registrars_of_one_node_the_first_stands_by() {
    let world = World::started(&[("a.yaml", &environment("a", "1"))]).await;
    world.until(&["a:1"]).await;
    std::fs::create_dir(world.path("second")).unwrap();
    std::fs::write(world.path("second/b.yaml"), "name: b").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_environment-registrar"));
    let grace = format!("{}ms", GRACE.as_millis());
    command.arg("watch").arg(world.path("second"));
    command.args([
        "--node",
        "us",
        "--grace",
        &grace,
        "--etcd",
        &world.etcd.endpoint(),
    ]);
    let mut second = process::Process::spawn("second", &command, &world.path("second.log")).unwrap();
    mayfly_e2e::eventually(LIMIT, "the first one's report", async || {
        let output = world.registrar.as_ref().unwrap().output();
        output.contains("another environment-registrar has started as node us")
    })
    .await;
    world.until(&["b"]).await;
    let entry = world.entry("b").await;
    throughout(GRACE * 4, "the second one's record", async || {
        world.all().await == ["b"] && world.entry("b").await == entry
    })
    .await;
    second.terminate(LIMIT).await.unwrap();
    world.until(&["a:1"]).await;
}

#[tokio::test]
async fn what_is_changed_by_hand_or_lost_is_published_again() {
    let mut world = World::started(&[("a.yaml", &environment("a", "1")), ("b.yaml", "name: b")]).await;
    world.until(&["a:1", "b"]).await;
    for value in [
        "no JSON",
        r#"{"name":"a","prefix":"p","header":"h"}"#,
        r#"{"name":"b","prefix":"p","header":"h"}"#,
    ] {
        world.etcd.put("/mayfly/environments/a", value).await.unwrap();
        world.until(&["a:1", "b"]).await;
    }
    world
        .store
        .delete_all(&world.store.keyspace().registry())
        .await
        .unwrap();
    world.until(&["a:1", "b"]).await;
    world.etcd.restart_emptied().await.unwrap();
    world.until(&["a:1", "b"]).await;
    world.etcd.put("/mayfly/environments/a%", "x").await.unwrap();
    world
        .set_aside("/mayfly/environments/a%", "is not an environment name")
        .await;
}

#[tokio::test]
async fn etcd_may_be_out_of_reach() {
    let mut world = World::new(&[("a.yaml", &environment("a", "1"))]).await;
    world.etcd.kill9().await.unwrap();
    world.spawn(&[]);
    // Faults are reported although there is nothing to publish to.
    world.write("b.yaml", "name: B");
    let registrar = world.registrar.as_ref().unwrap();
    mayfly_e2e::eventually(LIMIT, "the fault in the log", async || {
        registrar.output().contains("is not an environment name")
    })
    .await;
    world.etcd.restart().await.unwrap();
    world.until(&["a:1"]).await;
    let created = world.created("a").await;
    world.etcd.kill9().await.unwrap();
    world.write("a.yaml", &environment("a", "2"));
    world.write("b.yaml", "name: b");
    world.etcd.restart().await.unwrap();
    world.until(&["a:2", "b"]).await;
    assert_eq!(world.created("a").await, created);
}

#[tokio::test]
async fn the_admin_endpoint_tells_readiness_and_numbers() {
    let mut world = World::new(&[("a.yaml", "name: a"), ("bad.yaml", "name: B")]).await;
    let admin = mayfly_e2e::port::free();
    world.start(&["--admin", &admin.to_string()]).await;
    world.until(&["a"]).await;
    let get = async |path: &'static str| mayfly_e2e::http::Request::get("admin", path).send(admin).await;
    assert_eq!(get("/readyz").await.unwrap().status, 200);
    let metrics = get("/metrics").await.unwrap().body;
    mayfly_e2e::metrics::check(&metrics).unwrap();
    for line in [
        "mayfly_environments 1",
        "mayfly_environment_files 2",
        "mayfly_environment_faults 1",
        "mayfly_environment_puts_total 1",
        "mayfly_definitions 0",
        "mayfly_definition_faults 0",
        "mayfly_set_aside 1",
        "mayfly_etcd_connected 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} is not in\n{metrics}"
        );
    }
}

#[tokio::test]
async fn check_and_list() {
    let world = World::started(&[
        ("a.yaml", &environment("a", "1.10")),
        ("b.yaml", "{name: b, extends: a}"),
    ])
    .await;
    world.until(&["a:1.10", "b"]).await;
    let program = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_environment-registrar"));
        command.args(arguments).current_dir(world.path("envs"));
        command
    };
    let run = async |arguments: &[&str]| process::run(&program(arguments), LIMIT).await.unwrap();

    let good = run(&["check", "a.yaml", "b.yaml"]).await;
    assert_eq!(
        (good.code, good.stdout.as_str()),
        (Some(0), "a.yaml: ok, 1 environment\nb.yaml: ok, 1 environment\n")
    );
    assert_eq!(run(&["check", "."]).await.code, Some(0));
    world.write(
        "bad.yaml",
        "name: a\nservices:\n  - {name: backend, verison: 1}\n",
    );
    let bad = run(&["check", "a.yaml", "bad.yaml", "missing.yaml"]).await;
    let expected = "a.yaml: ok, 1 environment\n\
        bad.yaml:3:21: services[0].verison: unknown field: did you mean `version`?\n\
        missing.yaml:1:1: there is no such file\n\
        2 faults in 2 of 3 files\n";
    assert_eq!(
        (bad.code, bad.stdout.as_str()),
        (Some(1), expected),
        "{}",
        bad.stderr
    );
    assert_eq!(run(&["check"]).await.code, Some(2));
    std::fs::create_dir(world.path("envs/defs")).unwrap();
    for name in ["x", "y"] {
        world.write(
            &format!("defs/{name}.yaml"),
            "name: x\nimage: 'x:{{ version }}'\nport: 80\n",
        );
    }
    let one = run(&["check", "--services", "defs/x.yaml"]).await;
    let expected = "defs/x.yaml: ok, 1 definition\n";
    assert_eq!((one.code, one.stdout.as_str()), (Some(0), expected));
    let both = run(&["check", "a.yaml", "--services", "defs"]).await;
    let expected = "a.yaml: ok, 1 environment\ndefs/x.yaml: ok, 1 definition\n\
        defs/y.yaml:1:7: name: service \"x\" is taken at defs/x.yaml:1: each can be used only once\n\
        1 fault in 1 of 3 files\n";
    assert_eq!((both.code, both.stdout.as_str()), (Some(1), expected));

    let etcd = world.etcd.endpoint();
    let table = run(&["list", "--etcd", &etcd]).await.ok().unwrap();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[1][..8],
        ["a", "www-a", "a", "-", "-", "backend:1.10", "a.yaml", "(us)"]
    );
    assert_eq!(lines[1][8..].join(" "), "no instance of backend@1.10 is live");
    assert_eq!(lines[2][..4], ["b", "www-b", "b", "a"]);
    let json = run(&["list", "--etcd", &etcd, "--format", "json"])
        .await
        .ok()
        .unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["services"][0]["version"], "1.10");
    // What is known beside the records; in YAML they stay what a file says.
    for listed in json.as_array_mut().unwrap() {
        assert_eq!(listed["complete"], false);
        let listed = listed.as_object_mut().unwrap();
        listed.retain(|field, _| field != "complete" && field != "missing");
    }
    let yaml = run(&["list", "--etcd", &etcd, "--format", "yaml"])
        .await
        .ok()
        .unwrap();
    std::fs::write(world.path("listed.yaml"), &yaml).unwrap();
    let listed = world.path("listed.yaml");
    let check = run(&["check", listed.to_str().unwrap()]).await;
    assert_eq!(
        check.code,
        Some(0),
        "a list is an environment file: {check:?}\n{yaml}"
    );
    assert!(yaml.contains("version: '1.10'"), "{yaml}");
    world.etcd.put("/mayfly/environments/c", "no JSON").await.unwrap();
    let partly = run(&["list", "--etcd", &etcd]).await;
    assert_eq!((partly.code, partly.stdout), (Some(0), table));
    assert!(
        partly.stderr.contains("/mayfly/environments/c is set aside"),
        "{}",
        partly.stderr
    );

    let other = run(&["list", "--etcd", &etcd, "--prefix", "/other"]).await;
    assert_eq!((other.code, other.stdout.as_str()), (Some(1), ""));
    assert!(
        other.stderr.contains("etcd has no keys below /other"),
        "{}",
        other.stderr
    );
}

#[tokio::test]
async fn what_etcd_refuses_holds_up_nothing_else() {
    let etcd = Etcd::start_with(&["--max-request-bytes", "3000"]).await.unwrap();
    let mut world = World::new_on(etcd, &[("b.yaml", "name: b"), ("c.yaml", "name: c")]);
    world.start(&[]).await;
    world.until(&["b", "c"]).await;
    // The record and its history take a little more than twice the room of the services.
    let services: String = (0..40)
        .map(|number| format!("\n  - {{name: service-{number}, version: 1.0.0}}"))
        .collect();
    world.write("a.yaml", &format!("name: a\nservices:{services}"));
    world.write("d.yaml", "name: d");
    world.remove("c.yaml");
    world.until(&["b", "d"]).await;
    let refused = |status: &mayfly_core::records::Status| {
        status
            .error
            .as_deref()
            .is_some_and(|error| error.contains("too large"))
    };
    world.status("the refusal", refused).await;
    world.write("a.yaml", "name: a");
    world.until(&["a", "b", "d"]).await;
    world.status("no refusal", |status| status.error.is_none()).await;
}

#[tokio::test]
async fn a_definition_that_etcd_refuses_holds_up_no_other() {
    let etcd = Etcd::start_with(&["--max-request-bytes", "3000"]).await.unwrap();
    let mut world = World::new_on(etcd, &[]);
    std::fs::create_dir(world.path("services")).unwrap();
    let save = |world: &World, name: &str, argument: &str| {
        let text = format!("name: {name}\nimage: 'x:{{{{ version }}}}'\nport: 80\ncommand: [{argument}]\n");
        std::fs::write(world.path("services").join(format!("{name}.yaml")), text).unwrap();
    };
    save(&world, "a", &"x".repeat(4000));
    save(&world, "b", "x");
    save(&world, "c", "x");
    world.start(&[]).await;
    world.set_aside("services/a.yaml:a", "too large").await;
    let keys = async || -> Vec<String> {
        let all = world.etcd.list("/mayfly/services/").await.unwrap();
        all.into_keys().collect()
    };
    let becomes = async |names: &[&str]| {
        let expected: Vec<_> = names.iter().map(|it| format!("/mayfly/services/{it}")).collect();
        mayfly_e2e::eventually(LIMIT, "the definitions", async || keys().await == expected).await;
    };
    becomes(&["b", "c"]).await;
    // Neither what comes nor what goes later.
    save(&world, "d", "x");
    std::fs::remove_file(world.path("services/b.yaml")).unwrap();
    becomes(&["c", "d"]).await;
    save(&world, "a", "x");
    becomes(&["a", "c", "d"]).await;
    world
        .status("nothing set aside", |status| status.set_aside.is_empty())
        .await;
}
