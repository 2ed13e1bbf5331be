//! Links in a real Chromium: what a person sees who follows one, comes back, and comes too late.
//! `MAYFLY_SCREENSHOTS` names a directory for pictures of the pages.

use anyhow::{Result, ensure};
use mayfly_e2e::browser::Browser;
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};

const FILES: &str = "
- name: prod
  prefix: www
  services: [{name: web, version: 1.0.0, route: /}]
- name: temp-1
  extends: prod
  services: [{name: web, version: 2.0.0, route: /}]
";

/// Keeps a picture of the page, if one is wanted.
async fn picture(browser: &Browser, name: &str) {
    let picture = browser.screenshot().await.unwrap();
    assert!(picture.starts_with(b"\x89PNG"), "{name} is no picture");
    if let Some(directory) = std::env::var_os("MAYFLY_SCREENSHOTS") {
        let file = std::path::Path::new(&directory).join(format!("{name}.png"));
        std::fs::write(file, picture).unwrap();
    }
}

#[tokio::test]
async fn a_person_follows_a_link_until_it_ends() {
    let mayfly = Mayfly::start_with(&["--share-links", "all"]).await.unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    let _two = mayfly.instance("web", "2.0.0").await.unwrap();
    mayfly.save("all.yaml", FILES);
    mayfly.answers("www.example.com", "web@1.0.0").await;
    mayfly.answers("www-temp-1.example.com", "web@2.0.0").await;
    let browser = Browser::start(mayfly.directory(), (900, 600)).await.unwrap();
    let edge = mayfly.edge;
    let home = format!("http://www.example.com:{}", edge.port());
    let opened = async |path: &str| {
        browser.open(&format!("{home}{path}")).await.unwrap();
        browser.shown().await.unwrap()
    };
    // What the instance answers is JSON.
    let is_from = |shown: &str, version: &str| {
        let wanted = format!("\"version\":\"{version}\"");
        shown.replace(' ', "").contains(&wanted)
    };

    let own = opened("/shop").await;
    assert!(is_from(&own, "1.0.0"), "{own}");
    let linked = opened("/shop?mayfly=temp-1").await;
    assert!(is_from(&linked, "2.0.0"), "{linked}");
    let cookie = browser.cookie("mayfly").await.unwrap().unwrap();
    assert_eq!(cookie["value"], "temp-1", "{cookie}");
    assert_eq!(
        (&cookie["httpOnly"], &cookie["sameSite"]),
        (&true.into(), &"Lax".into()),
        "{cookie}"
    );
    // It lasts as long as the browser.
    assert!(cookie.get("expiry").is_none(), "{cookie}");
    // The cookie alone; the instance does not see it.
    let kept = opened("/cart").await;
    assert!(is_from(&kept, "2.0.0"), "{kept}");
    assert!(!kept.contains("\"cookie\""), "{kept}");
    // What the page loads comes from there, too.
    let loaded = browser
        .script("return fetch('/api').then(answer => answer.text())")
        .await
        .unwrap();
    assert!(is_from(loaded.as_str().unwrap(), "2.0.0"), "{loaded}");

    let deleted = mayfly.run("mayfly", &["delete", "temp-1"]).await.unwrap();
    deleted.ok().unwrap();
    eventually(SOON, "the link has ended", async || -> Result<()> {
        browser.open(&format!("{home}/shop?mayfly=temp-1")).await?;
        let shown = browser.shown().await?;
        ensure!(
            shown.contains("410: the environment temp-1 ended at 2"),
            "{shown}"
        );
        Ok(())
    })
    .await;
    let shown = browser.shown().await.unwrap();
    assert!(shown.starts_with("This environment has ended"), "{shown}");
    assert!(
        shown.contains("`mayfly keep temp-1 8h` brings it back"),
        "{shown}"
    );
    picture(&browser, "link-ended").await;
    // One that is mistyped.
    let never = opened("/shop?mayfly=temp-9").await;
    assert!(never.starts_with("This link does not work"), "{never}");
    assert!(
        never.contains("404: no environment has the name temp-9"),
        "{never}"
    );
    picture(&browser, "link-to-nothing").await;
    // Its way out: the same page without the link, and without the cookie.
    browser.follow("Open this page without the link").await.unwrap();
    let out = browser.shown().await.unwrap();
    assert!(is_from(&out, "1.0.0"), "{out}");
    assert_eq!(browser.url().await.unwrap(), format!("{home}/shop?mayfly="));
    assert_eq!(browser.cookie("mayfly").await.unwrap(), None);
    // The host of the environment itself.
    browser
        .open(&format!("http://www-temp-1.example.com:{}/", edge.port()))
        .await
        .unwrap();
    let shown = browser.shown().await.unwrap();
    assert!(shown.starts_with("This environment has ended"), "{shown}");
    assert!(!shown.contains("without the link"), "{shown}");
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}
