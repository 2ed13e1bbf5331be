//! An image that is pushed again under the same tag, and an operator's word that it is to be taken.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use mayfly_e2e::docker::{DockerEngine, ENDS_AT_ONCE, NETWORK};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::load::Load;
use mayfly_e2e::process::Finished;
use mayfly_e2e::registry::Registry;

use super::with_engine::{LATER, MayflyWithEngine};

/// Pushes an image whose instances say that they are of another version, as CI does: from another
/// host than that of the launcher's engine, which keeps what it has.
async fn push(engine: &DockerEngine, image: &str, says: &str, changes: &[&str]) {
    let command = format!(r#"CMD ["0.0.0.0:8080", "backend", "{says}"]"#);
    let kept = "kept:1";
    // Fails the first time, when there is none.
    let has_one = engine.docker(&["tag", image, kept]).await.is_ok();
    let changes = [&[command.as_str()], changes].concat();
    engine.image_with(image, &changes).await.unwrap();
    engine.docker(&["push", image]).await.unwrap();
    engine.docker(&["rmi", image]).await.unwrap();
    if has_one {
        engine.docker(&["tag", kept, image]).await.unwrap();
    }
}

async fn relaunch(whole: &MayflyWithEngine, arguments: &[&str]) -> Finished {
    let arguments = [&["relaunch"], arguments].concat();
    whole.mayfly.run("mayfly", &arguments).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_image_under_the_same_tag_is_taken_on_an_operator_s_word_and_no_request_fails() {
    let engine = DockerEngine::start_with(Registry::trust()).await.unwrap();
    let registry = Registry::start(IpAddr::V4(engine.host_ip())).await.unwrap();
    let image = registry.image("team/backend");
    let tagged = format!("{image}:pr-12");
    push(&engine, &tagged, "first", &[]).await;
    let mut whole = MayflyWithEngine::start_on(engine, &[], NETWORK).await;
    let none = relaunch(&whole, &["backend", "pr-12"]).await;
    assert_eq!(none.code, Some(1));
    assert!(
        none.stderr.contains("there is no container-launcher"),
        "{}",
        none.stderr
    );
    whole.launch(&[]);
    whole.define_with("backend", &image, NETWORK, "");
    whole.environment("dev", &["backend=pr-12"]);
    whole.answers("dev", "backend@first").await;
    let before = whole.containers().await;
    let image = async || whole.backend("backend@pr-12").await.unwrap()["images"].clone();
    let images_before = image().await;

    let load = Load::start(
        whole.mayfly.edge,
        Request::get("www-dev.example.com", "/?delay=15"),
    );
    push(&whole.engine, &tagged, "second", &[]).await;
    let done = relaunch(&whole, &["backend.service", "pr-12", "--wait", "90s"]).await;
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    assert!(
        done.stdout.ends_with("backend@pr-12 was launched again\n"),
        "{}",
        done.stdout
    );
    whole.answers("dev", "backend@second").await;
    whole.runs("backend@pr-12", 1).await;
    assert!(whole.containers().await.is_disjoint(&before));
    eventually(LATER, "another image is told", async || -> Result<()> {
        let now = image().await;
        ensure!(
            now.as_array().is_some_and(|all| all.len() == 1) && now != images_before,
            "{now}"
        );
        Ok(())
    })
    .await;

    // One that does not start takes nothing from anybody.
    push(&whole.engine, &tagged, "broken", &[ENDS_AT_ONCE]).await;
    let asked = relaunch(&whole, &["backend", "pr-12"]).await;
    assert_eq!(asked.code, Some(0), "{}", asked.stderr);
    whole.says("backend@pr-12", "failed", "exited with 3").await;
    let late = relaunch(&whole, &["backend", "pr-12", "--wait", "1s"]).await;
    assert_eq!(late.code, Some(1));
    assert!(
        late.stderr.contains("was not launched again within 1s"),
        "{}",
        late.stderr
    );
    whole.answers("dev", "backend@second").await;
    push(&whole.engine, &tagged, "third", &[]).await;
    let done = relaunch(&whole, &["backend", "pr-12", "--wait", "90s"]).await;
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    whole.answers("dev", "backend@third").await;
    load.stop().await.assert_flawless(100);

    let words = whole.mayfly.etcd.list("/mayfly/relaunches/").await.unwrap();
    assert!(words.is_empty(), "{words:?}");
    eventually(LATER, "it runs", async || -> Result<()> {
        let said = whole.backend("backend@pr-12").await?;
        ensure!(said["state"] == "running" && said["live"] == 1, "{said}");
        Ok(())
    })
    .await;
    for (arguments, code, part) in [
        (["backend", "pr-13"], 1, "did you mean backend pr-12?"),
        (["zzz", "1"], 1, "it launches backend@pr-12"),
        (["Back_End", "1"], 2, "lower-case"),
        (["backend", "a b"], 2, "letters, digits"),
    ] {
        let refused = relaunch(&whole, &arguments).await;
        assert_eq!(refused.code, Some(code), "{arguments:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(part), "{arguments:?}: {}", refused.stderr);
    }
}
