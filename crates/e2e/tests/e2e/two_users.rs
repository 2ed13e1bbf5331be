//! haproxy-updater and HAProxy as two users that share one group, as their units of scripts/systemd are: they route, reload and
//! repair, and HAProxy, which faces the world, changes nothing but its two sockets. Needs root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::user::User;
use mayfly_e2e::world::{SOON, World};

/// Of the numbers that systemd gives to users that it makes up, so they are nobody's.
const ROUTER: u32 = 64_900;
const UPDATER: User = User {
    id: 64_901,
    group: ROUTER,
};
const HAPROXY: User = User {
    id: 64_902,
    group: ROUTER,
};

/// Owner, group and permissions.
fn rights(path: &Path) -> (u32, u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.uid(), found.gid(), found.mode() & 0o7777)
}

async fn routes(world: &World, version: &str) {
    let file = format!("{{name: dev, services: [{{name: web, version: {version}, route: /}}]}}");
    world.save("dev.yaml", &file);
    let backend = format!("web@{version}");
    world.answers("www-dev.example.com", &backend).await;
}

#[tokio::test]
async fn two_users_of_one_group_route_reload_and_repair() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test starts programs as other users: run it as root"
    );
    // Two versions do not fit, so the second one needs a reload.
    let mut world = World::bare(&["--slots", "1", "--verify", "300ms"]).unwrap();
    fs::set_permissions(world.directory(), Permissions::from_mode(0o755)).unwrap();
    let shared = world.haproxy_directory();
    fs::remove_dir_all(&shared).unwrap();
    // As systemd makes a StateDirectory=.
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
    chown(&shared, Some(UPDATER.id), Some(UPDATER.group)).unwrap();
    world.updater_user = Some(UPDATER);
    world.haproxy.user = Some(HAPROXY);
    world.start_all().await.unwrap();

    let _one = world.instance("web", "1.0.0").await.unwrap();
    let _two = world.instance("web", "2.0.0").await.unwrap();
    routes(&world, "1.0.0").await;
    routes(&world, "2.0.0").await;
    eventually(SOON, "the pool has grown by a reload", async || -> Result<()> {
        ensure!(world.reloads().await? > 0);
        Ok(())
    })
    .await;

    let edge = world.map_file("edge");
    let clear = format!("clear map {}", edge.display());
    world.haproxy.ask(&clear).await.unwrap();
    world.answers("www-dev.example.com", "web@2.0.0").await;

    // The sockets of one that was killed are still there.
    world.haproxy.restart().await.unwrap();
    routes(&world, "1.0.0").await;

    let run = shared.join("run");
    assert_eq!(rights(&run), (UPDATER.id, ROUTER, 0o770));
    for socket in ["haproxy.sock", "master.sock"] {
        assert_eq!(rights(&run.join(socket)), (HAPROXY.id, ROUTER, 0o660), "{socket}");
    }
    let maps = fs::read_dir(shared.join("maps")).unwrap();
    for file in maps
        .map(|entry| entry.unwrap().path())
        .chain([shared.join("haproxy.cfg")])
    {
        assert_eq!(rights(&file), (UPDATER.id, ROUTER, 0o644), "{}", file.display());
    }
    for directory in [&shared, &shared.join("maps")] {
        assert_eq!(rights(directory), (UPDATER.id, ROUTER, 0o755));
    }
}
