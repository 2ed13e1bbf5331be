//! HAProxy is killed while its files lack the last change: it answers from them until haproxy-updater has found the new
//! process. docs/reliability.md names this limit.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::Signal;

const HOST: &str = "www.example.com";

/// Checks configurations as haproxy does, but not while a file lies beside it.
const HESITANT: &str = "#!/bin/sh\nwhile [ -e \"$0.hold\" ]; do sleep 0.05; done\nexec haproxy \"$@\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_haproxy_answers_from_its_files_until_it_is_in_sync() {
    let place = tempfile::tempdir().unwrap();
    let (program, hold) = (place.path().join("haproxy"), place.path().join("haproxy.hold"));
    fs::write(&program, HESITANT).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut mayfly = Mayfly::start_with(&["--haproxy", program.to_str().unwrap()])
        .await
        .unwrap();
    let mut old = mayfly.killable("web", "1.0.0", &["--drain", "0s"]).await.unwrap();
    mayfly.save(
        "prod.yaml",
        "{name: prod, prefix: www, services: [{name: web, version: 1.0.0, route: /}]}",
    );
    mayfly.answers(HOST, "web@1.0.0").await;
    let config = mayfly.haproxy_directory().join("haproxy.cfg");
    let on_disk = async |address: &str| {
        eventually(SOON, &format!("haproxy.cfg has {address}"), async || {
            fs::read_to_string(&config).unwrap().contains(address)
        })
        .await;
    };
    on_disk(&old.service.address().to_string()).await;

    // A new instance takes the place of the old one, and the files do not follow.
    fs::write(&hold, "").unwrap();
    let new = mayfly.killable("web", "1.0.0", &[]).await.unwrap();
    old.registrar.terminate(SOON).await.unwrap();
    let (from, to) = (old.service.address(), new.service.address());
    eventually(
        SOON,
        "the new instance is in rotation alone",
        async || -> Result<()> {
            ensure!(mayfly.haproxy.sends_to(to).await? && !mayfly.haproxy.sends_to(from).await?);
            Ok(())
        },
    )
    .await;
    old.service.kill9().await.unwrap();
    assert_eq!(mayfly.get(HOST, "/").await.unwrap().status, 200);

    // The window, which lasts until haproxy-updater looks again, at most half a second.
    mayfly.updater.as_mut().unwrap().signal(Signal::Stop).unwrap();
    mayfly.haproxy.restart().await.unwrap();
    let answer = mayfly.get(HOST, "/").await.unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    mayfly.updater.as_mut().unwrap().signal(Signal::Cont).unwrap();

    // HAProxy is in sync, though the files are not yet.
    mayfly.answers(HOST, "web@1.0.0").await;
    assert!(!fs::read_to_string(&config).unwrap().contains(&to.to_string()));
    fs::remove_file(&hold).unwrap();
    on_disk(&to.to_string()).await;
}
