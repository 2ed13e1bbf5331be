//! haproxy-updater and HAProxy as two users that share one group, as their units of deploy/systemd are: they route, reload and
//! repair, and HAProxy, which faces the world, changes nothing but its two sockets. Needs root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::port;
use mayfly_e2e::tls::Authority;
use mayfly_e2e::user::User;

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

async fn routes(mayfly: &Mayfly, version: &str) {
    let file = format!("{{name: dev, services: [{{name: web, version: {version}, route: /}}]}}");
    mayfly.save("dev.yaml", &file);
    let backend = format!("web@{version}");
    mayfly.answers("www-dev.example.com", &backend).await;
}

#[tokio::test]
async fn two_users_of_one_group_route_reload_and_repair() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test starts programs as other users: run it as root"
    );
    // Two versions do not fit, so the second one needs a reload.
    // A directory that the group of the updater may read, and root alone may change.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let authority = Authority::new(place.path(), "authority").await.unwrap();
    let certificate = authority.certify("*.example.com").await.unwrap();
    let certificates = place.path().join("certificates");
    fs::create_dir(&certificates).unwrap();
    fs::copy(certificate, certificates.join("a.pem")).unwrap();
    for (path, mode) in [(&certificates, 0o750), (&certificates.join("a.pem"), 0o640)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        chown(path, Some(0), Some(ROUTER)).unwrap();
    }
    let tls = port::free();
    let (bind, directory) = (tls.to_string(), certificates.to_str().unwrap());
    let serving = ["--edge-tls-bind", &bind, "--edge-certificates", directory];
    let arguments = [&["--slots", "1", "--verify", "300ms"][..], &serving].concat();
    let mut mayfly = Mayfly::bare(&arguments).unwrap();
    fs::set_permissions(mayfly.directory(), Permissions::from_mode(0o755)).unwrap();
    let shared = mayfly.haproxy_directory();
    fs::remove_dir_all(&shared).unwrap();
    // As systemd makes a StateDirectory=.
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
    chown(&shared, Some(UPDATER.id), Some(UPDATER.group)).unwrap();
    mayfly.updater_user = Some(UPDATER);
    mayfly.haproxy.user = Some(HAPROXY);
    mayfly.start_all().await.unwrap();

    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    let _two = mayfly.instance("web", "2.0.0").await.unwrap();
    routes(&mayfly, "1.0.0").await;
    routes(&mayfly, "2.0.0").await;
    eventually(SOON, "the pool has grown by a reload", async || -> Result<()> {
        ensure!(mayfly.reloads().await? > 0);
        Ok(())
    })
    .await;

    let edge = mayfly.map_file("edge");
    let clear = format!("clear map {}", edge.display());
    mayfly.haproxy.ask(&clear).await.unwrap();
    mayfly.answers("www-dev.example.com", "web@2.0.0").await;

    // The sockets of one that was killed are still there.
    mayfly.haproxy.restart().await.unwrap();
    routes(&mayfly, "1.0.0").await;
    let client = authority.client().unwrap();
    let request = Request::get("www-dev.example.com", "/");
    let answer = request.send_tls(tls, &client, "h2").await.unwrap();
    assert_eq!(answer.backend().unwrap(), "web@1.0.0");
    let kept = shared.join("tls");
    assert_eq!(rights(&kept), (UPDATER.id, ROUTER, 0o750));
    for file in ["default", "a.pem", "crt-list"] {
        assert_eq!(rights(&kept.join(file)), (UPDATER.id, ROUTER, 0o640), "{file}");
    }

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
