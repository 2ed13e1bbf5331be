//! One file that anybody may push: it must neither fill etcd, nor hold up others, nor show what lies elsewhere.

// Helpers of a test stand outside of its `#[test]` functions.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Instant;

use harness::{LIMIT, World, environment};
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::eventually;

/// A file with so many environments.
fn many(count: usize) -> String {
    (0..count)
        .map(|number| format!("- {{name: a{number:05}}}\n"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_holds_up_nobody_and_stops_at_the_quota() {
    let mut world = World::new(&[("good.yaml", &environment("good", "1.0"))]).await;
    world
        .start(&["--max-environments", "1400", "--archive-keep", "0"])
        .await;
    world.until(&["good:1.0"]).await;
    world.write("a.yaml", &many(1700));
    eventually(LIMIT, "the flood has begun", async || world.entry("a00000").await).await;
    let start = Instant::now();
    world.write("good.yaml", &environment("good", "1.1"));
    let good = async || {
        let entry = world.entry("good").await?;
        String::from_utf8(entry.value)
            .ok()
            .filter(|record| record.contains("1.1"))
    };
    eventually(LIMIT, "the change is published", good).await;
    let changed = start.elapsed();
    world
        .set_aside("a.yaml:a01399", "(--max-environments); delete")
        .await;
    eventually(LIMIT, "the flood is over", async || {
        (world.all().await.len() == 1400).then_some(())
    })
    .await;
    let changed_at = world.entry("good").await.unwrap().mod_revision;
    let last = world.entry("a01398").await.unwrap().mod_revision;
    assert!(
        changed_at < last,
        "the change waited for the flood: {changed_at}, {last}"
    );
    eprintln!("the change took {changed:?}, the flood {:?}", start.elapsed());
    // After a restart the same are registered.
    world.stop().await;
    world
        .start(&["--max-environments", "1400", "--archive-keep", "0"])
        .await;
    world
        .set_aside("a.yaml:a01399", "300 more environments of this file")
        .await;
    assert!(world.entry("good").await.is_some() && world.entry("a01398").await.is_some());
    // They go as they came: those of a small file first.
    world.write("b.yaml", "# nothing");
    world.remove("a.yaml");
    world.remove("good.yaml");
    eventually(LIMIT, "the small file's is gone", async || {
        world.entry("good").await.is_none().then_some(())
    })
    .await;
    assert!(!world.all().await.is_empty(), "the flood had gone before");
    world.until(&[]).await;
    let log = fs::read_to_string(world.path("registrar.log")).unwrap();
    assert!(!log.contains("another program keeps changing"), "{log}");
}

#[tokio::test]
async fn links_out_of_the_directory_show_nothing() {
    let world = World::new(&[]).await;
    fs::create_dir(world.path("private")).unwrap();
    fs::create_dir(world.path("services")).unwrap();
    let secret = "password: hunter2\nname: hunter2-name\nprefix: \"hunter2 prefix\"\n";
    fs::write(world.path("private/x"), secret).unwrap();
    symlink("../private/x", world.path("envs/x.yaml")).unwrap();
    symlink("../private/x", world.path("services/x.yaml")).unwrap();
    let mut world = world;
    world.start(&[]).await;
    for key in ["x.yaml", "services/x.yaml"] {
        world
            .set_aside(key, "a link to a file outside this directory is not followed")
            .await;
    }
    // The file itself is taken.
    fs::remove_file(world.path("envs/x.yaml")).unwrap();
    world.write("x.yaml", "name: x");
    world.until(&["x"]).await;
    let log = fs::read_to_string(world.path("registrar.log")).unwrap();
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn an_archived_content_is_for_those_who_may_read_the_file() {
    let mut world = World::new(&[]).await;
    let text = "name: a\nexpires: 2s\n";
    world.write(".a", text);
    let file = world.path("envs/a.yaml");
    fs::set_permissions(world.path("envs/.a"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(world.path("envs/.a"), &file).unwrap();
    world.start(&[]).await;
    eventually(LIMIT, "the file moved to the archive", async || {
        (!file.exists()).then_some(())
    })
    .await;
    let archived = fs::read_dir(world.path("archive/a")).unwrap();
    for entry in archived {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_full_etcd_is_called_so_and_what_goes_still_goes() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes", "4194304"])
        .await
        .unwrap();
    let mut world = World::new_on(etcd, &[("good.yaml", "name: good")]);
    world.start(&["--archive-keep", "0"]).await;
    world.until(&["good"]).await;
    let large = vec![b'x'; 1_000_000];
    eventually(LIMIT, "etcd is full", async || {
        world.etcd.put_bytes(b"/other", &large).await.err()
    })
    .await;
    assert!(world.store.is_full().await.unwrap());
    world.write("late.yaml", "name: late");
    let log = || fs::read_to_string(world.path("registrar.log")).unwrap();
    eventually(LIMIT, "it is told", async || {
        let reported = "etcd's database is full (alarm NOSPACE) and refuses all writes";
        log().contains(reported).then_some(()).ok_or_else(log)
    })
    .await;
    // etcd still deletes, and so does the registrar.
    world.remove("good.yaml");
    world.until(&[]).await;
}

#[tokio::test]
async fn where_etcd_lost_its_data_a_rival_has_not_what_a_protected_one_had() {
    let prod = "{name: prod, prefix: www, protected: true}";
    let mut world = World::started(&[("prod.yaml", prod)]).await;
    world.until(&["prod"]).await;
    world.write("aaa.yaml", "{name: aaa, prefix: www, header: prod}");
    world
        .set_aside("aaa.yaml:aaa", "is taken by environment prod of prod.yaml")
        .await;
    world.stop().await;
    world.etcd.restart_emptied().await.unwrap();
    world.start(&[]).await;
    world.until(&["prod"]).await;
    world
        .set_aside("aaa.yaml:aaa", "is taken by environment prod of prod.yaml")
        .await;
}
