//! haproxy-updater and HAProxy as two users that share one group, as their units of deploy/systemd are: they route, reload and
//! repair, and HAProxy, which faces the world, changes nothing but its two sockets. And a registrar that is not root. Needs
//! root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::poll::throughout;
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
const REGISTRAR: User = User {
    id: 64_903,
    group: 64_903,
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

/// The keys of etcd that come from files, by the ends of their names.
async fn registered(mayfly: &Mayfly) -> Result<Vec<String>> {
    let mut all = mayfly.etcd.list("/mayfly/environments/").await?;
    all.extend(mayfly.etcd.list("/mayfly/services/").await?);
    Ok(all
        .keys()
        .filter_map(|key| key.rsplit('/').next())
        .map(str::to_owned)
        .collect())
}

/// How many files the registrar reports because it may not look at them.
async fn denied(mayfly: &Mayfly) -> Result<usize> {
    let all = mayfly.set_aside("environment-registrar").await?;
    Ok(all
        .iter()
        .filter(|(_, reason)| reason.contains("Permission denied"))
        .count())
}

/// As `chmod -R 644` leaves a directory: its names can be listed, and no file can be looked at.
#[tokio::test]
async fn what_a_registrar_may_list_and_not_enter_deletes_nothing() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test starts programs as other users: run it as root"
    );
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    let (environments, services) = (mayfly.environments(), mayfly.directory().join("services"));
    fs::create_dir(&services).unwrap();
    let set = |mode: u32| {
        for directory in [&environments, &services] {
            fs::set_permissions(directory, Permissions::from_mode(mode)).unwrap();
        }
    };
    fs::set_permissions(mayfly.directory(), Permissions::from_mode(0o755)).unwrap();
    set(0o755);
    let files = [
        (environments.join("dev.yaml"), "name: dev"),
        (environments.join("qa.yaml"), "name: qa"),
        (
            services.join("web.yaml"),
            "{name: web, image: 'team/web:{{ version }}', port: 80}",
        ),
    ];
    for (path, text) in files {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    }
    mayfly.etcd.restart().await.unwrap();
    let mut command = mayfly.command("environment-registrar").unwrap();
    command
        .arg("watch")
        .arg(&environments)
        .args(["--grace", "300ms", "--archive-keep", "0"]);
    let command = REGISTRAR.wrap(&command, mayfly.directory()).unwrap();
    mayfly.registrar = Some(mayfly.spawn("environment-registrar", &command).unwrap());
    let becomes = async |mayfly: &Mayfly, expected: &[&str], denials: usize| {
        let what = format!("{expected:?} are registered, and {denials} files cannot be looked at");
        eventually(SOON, &what, async || -> Result<()> {
            let (found, denied) = (registered(mayfly).await?, denied(mayfly).await?);
            ensure!(
                found == expected && denied == denials,
                "{found:?}, {denied} files cannot be looked at"
            );
            Ok(())
        })
        .await;
    };
    becomes(&mayfly, &["dev", "qa", "web"], 0).await;

    set(0o644);
    becomes(&mayfly, &["dev", "qa", "web"], 3).await;
    // Longer than the grace.
    let what = "nothing is deleted while no file can be looked at";
    throughout(Duration::from_millis(1500), what, async || -> Result<()> {
        let found = registered(&mayfly).await?;
        ensure!(found == ["dev", "qa", "web"], "{found:?} are registered");
        Ok(())
    })
    .await;

    set(0o755);
    becomes(&mayfly, &["dev", "qa", "web"], 0).await;
    // What is gone is gone.
    mayfly.remove("qa.yaml");
    becomes(&mayfly, &["dev", "web"], 0).await;
}
