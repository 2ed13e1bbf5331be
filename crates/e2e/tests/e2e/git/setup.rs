//! A repository that was set up by an earlier Mayfly, and one that is set up again.

use std::fs;

use mayfly_e2e::mayfly::Mayfly;

use super::{Repository, definition, finish};

#[tokio::test]
async fn the_check_knows_which_addresses_the_routers_allow() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    repository.init().await.ok().unwrap();
    repository.write("qa.yaml", "name: qa\n");
    repository.pushed().await;
    let file = "name: dev\nservices: [{name: legacy, address: '127.0.0.1:9999'}]\n";
    repository.write("dev.yaml", file);
    repository.refused(&["dev.yaml:2:", "127.0.0.1"]).await;
    repository
        .server("config mayfly.allowAddress 127.0.0.0/8,*.internal")
        .await;
    repository.write("dev.yaml", file);
    repository.pushed().await;
    assert!(repository.deployed.join("dev.yaml").exists());
}

#[tokio::test]
async fn the_pusher_is_told_what_is_old_and_setting_up_again_mends_it() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    let own = mayfly.directory().join("my definitions");
    repository.init_with(&[&own]).await.ok().unwrap();
    repository.write("dev.yaml", "name: dev\n");
    assert!(!repository.pushed().await.contains("note: "));

    let settings = [
        ("receive.fsckObjects", "true"),
        ("receive.advertisePushOptions", "true"),
        ("receive.maxInputSize", "64m"),
    ];
    for (setting, _) in settings {
        repository.server(&format!("config --unset {setting}")).await;
    }
    let hook = repository.bare.join("hooks/post-receive");
    let text = fs::read_to_string(&hook).unwrap();
    fs::write(&hook, format!("{text}# of an earlier Mayfly\n")).unwrap();
    repository.write("dev.yaml", "name: dev\nidle: 8h\n");
    let told = repository.pushed().await;
    for part in [
        "note: the hooks of this repository are older than those of ",
        "lacks the setting receive.fsckObjects receive.advertisePushOptions receive.maxInputSize",
        "note: an operator fixes that by running ",
        "/deploy/git/init-environments-repo.sh '",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }

    // The repository alone says what else it was set up with; an operator's own limit stays.
    repository.server("config receive.maxInputSize 1m").await;
    repository.server("config mayfly.branch live").await;
    for _ in 0..2 {
        let mut again = repository.command(Repository::script());
        finish(again.arg(&repository.bare)).await.ok().unwrap();
    }
    for (setting, value) in [
        settings[0],
        settings[1],
        ("receive.maxInputSize", "1m"),
        ("core.useReplaceRefs", "false"),
        ("mayfly.branch", "live"),
        ("mayfly.environments", repository.deployed.to_str().unwrap()),
        ("mayfly.services", own.to_str().unwrap()),
    ] {
        assert_eq!(
            repository.server(&format!("config --get-all {setting}")).await,
            value
        );
    }
    assert_eq!(fs::read_to_string(&hook).unwrap(), text);
    repository.write("services/backend.yaml", &definition("backend", 80));
    let push = repository.push("live").await;
    assert!(
        push.code == Some(0) && !push.stderr.contains("note: "),
        "{push:?}"
    );
    assert!(own.join("backend.yaml").exists());

    let nowhere = mayfly.directory().join("nowhere.git");
    let mut unknown = repository.command(Repository::script());
    let unknown = finish(unknown.arg(&nowhere)).await;
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(
        unknown.stderr.contains("has not been set up yet") && !nowhere.exists(),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn a_program_that_is_older_than_the_hooks_is_named() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    repository.write("dev.yaml", "name: dev\n");
    repository.pushed().await;
    repository.write("qa.yaml", "name: qa\n");
    // As clap ends where it does not know an argument.
    let script = mayfly.directory().join("old");
    fs::write(
        &script,
        "#!/bin/sh\necho 'unexpected argument --beside' >&2; exit 2\n",
    )
    .unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    repository
        .server(&format!("config mayfly.lint {}", script.display()))
        .await;
    let parts = [
        "unexpected argument",
        "ended with exit code 2",
        "the mayfly that belongs to these hooks",
    ];
    repository.refused(&parts).await;
}
