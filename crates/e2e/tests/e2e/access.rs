//! An environment that is open to some: from `mayfly access` to the edge, and no password anywhere.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use serde_json::Value;

/// Open to all.
const TEMP: &str = "{name: temp-1, services: [{name: web, version: 1.0.0, route: /}]}\n";
const CHILD: &str = "{name: child, extends: temp-1}\n";

fn file(access: &Value) -> String {
    format!("{{name: temp-1, access: {access}, services: [{{name: web, version: 1.0.0, route: /}}]}}\n")
}

/// `guest:...` as the header says it.
fn basic(password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("guest:{password}")))
}

async fn status(mayfly: &Mayfly, name: &str, login: Option<&str>) -> Result<u16> {
    let mut request = Request::get(&format!("www-{name}.example.com"), "/");
    if let Some(login) = login {
        request = request.header("authorization", login);
    }
    Ok(request.send(mayfly.edge).await?.status)
}

async fn becomes(mayfly: &Mayfly, name: &str, login: Option<&str>, expected: u16) {
    let what = format!("{name} answers {expected}");
    eventually(SOON, &what, async || -> Result<()> {
        let found = status(mayfly, name, login).await?;
        ensure!(found == expected, "{found}");
        Ok(())
    })
    .await;
}

/// All files below a directory that hold a text.
fn holding(directory: &Path, text: &[u8], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            holding(&path, text, found);
        } else if kind.is_file() {
            let content = std::fs::read(&path).unwrap_or_default();
            if content.windows(text.len()).any(|window| window == text) {
                found.push(path.display().to_string());
            }
        }
    }
}

/// Makes a password as an operator does.
async fn password(mayfly: &Mayfly) -> (String, Value) {
    let made = mayfly
        .run("mayfly", &["access", "temp-1", "--format", "json"])
        .await
        .unwrap();
    let made: Value = serde_json::from_str(&made.ok().unwrap()).unwrap();
    (
        made["password"].as_str().unwrap().to_owned(),
        made["access"].clone(),
    )
}

#[tokio::test]
async fn a_password_opens_an_environment_and_is_nowhere_to_be_found() {
    let mayfly = Mayfly::start_with(&["--access-log"]).await.unwrap();
    let _web = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("temp-1.yaml", TEMP);
    mayfly.save("child.yaml", CHILD);
    becomes(&mayfly, "child", None, 200).await;

    let (secret, access) = password(&mayfly).await;
    mayfly.save("temp-1.yaml", &file(&access));
    becomes(&mayfly, "temp-1", None, 401).await;
    let login = basic(&secret);
    assert_eq!(status(&mayfly, "child", None).await.unwrap(), 401);
    assert_eq!(status(&mayfly, "child", Some(&login)).await.unwrap(), 200);
    assert_eq!(status(&mayfly, "temp-1", Some(&login)).await.unwrap(), 200);
    assert_eq!(
        status(&mayfly, "temp-1", Some(&basic("wrong"))).await.unwrap(),
        401
    );
    // The tool says to whom it is open, and what becomes of whom.
    let told = mayfly
        .run("mayfly", &["status", "child"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert!(
        told.contains("open to users guest (inherited from temp-1)"),
        "{told}"
    );
    for (user, expected) in [
        (&["--user", "guest"][..], "answered by web@1.0.0"),
        (&[], "with 401: "),
    ] {
        let arguments = [&["explain", "www-child.example.com"], user].concat();
        let told = mayfly.run("mayfly", &arguments).await.unwrap().stdout;
        assert!(told.contains(expected), "{told}");
    }

    // A clear password in a file is refused, and no message shows it.
    let clear = file(&serde_json::json!({"users": {"guest": "my-own-secret"}}));
    mayfly.save("temp-1.yaml", &clear);
    eventually(SOON, "the file is refused", async || {
        let told = mayfly.run("mayfly", &["status"]).await.unwrap().stdout;
        (told.contains("temp-1.yaml") && told.contains("mayfly access")).then_some(())
    })
    .await;
    assert_eq!(status(&mayfly, "temp-1", Some(&login)).await.unwrap(), 200);
    mayfly.save("temp-1.yaml", &file(&access));

    let known = mayfly
        .etcd
        .get("/mayfly/environments/temp-1")
        .await
        .unwrap()
        .unwrap();
    assert!(known.contains("sha256:"), "{known}");
    let everything = mayfly
        .run("mayfly", &["status", "--format", "json"])
        .await
        .unwrap();
    for text in [
        secret.as_str(),
        login.trim_start_matches("Basic "),
        "my-own-secret",
    ] {
        let mut found = Vec::new();
        holding(mayfly.directory(), text.as_bytes(), &mut found);
        assert_eq!(found, [""; 0], "{text}");
        assert!(!everything.stdout.contains(text) && !known.contains(text));
    }
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}

#[tokio::test]
async fn a_change_of_access_is_in_force_like_any_other() {
    let mayfly = Mayfly::start().await.unwrap();
    let _web = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("child.yaml", CHILD);
    let mut times = Vec::new();
    for round in 0..20 {
        let (networks, expected) = match round % 2 {
            0 => (serde_json::json!(["10.0.0.0/8"]), 403),
            _ => (serde_json::json!(["127.0.0.0/8"]), 200),
        };
        let start = Instant::now();
        mayfly.save("temp-1.yaml", &file(&serde_json::json!({"from": networks})));
        // In the first round `child` is closed already, since what it extends is not there.
        becomes(&mayfly, "temp-1", None, expected).await;
        becomes(&mayfly, "child", None, expected).await;
        times.push(start.elapsed());
    }
    times.sort();
    println!("in force after {:?} (median), {:?} (most)", times[10], times[19]);
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}

/// Files are all that HAProxy starts from.
#[tokio::test]
async fn access_and_links_hold_over_restarts() {
    let mut mayfly = Mayfly::start_with(&["--share-links", "all"]).await.unwrap();
    let _web = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("temp-1.yaml", TEMP);
    mayfly.save("child.yaml", CHILD);
    mayfly.save("open.yaml", &TEMP.replace("temp-1", "open"));
    becomes(&mayfly, "child", None, 200).await;
    let (secret, access) = password(&mayfly).await;
    mayfly.save("temp-1.yaml", &file(&access));
    becomes(&mayfly, "temp-1", None, 401).await;
    let login = basic(&secret);
    let hold = async |mayfly: &Mayfly, when: &str| {
        becomes(mayfly, "open", None, 200).await;
        for name in ["temp-1", "child"] {
            assert_eq!(status(mayfly, name, None).await.unwrap(), 401, "{when}: {name}");
            let known = status(mayfly, name, Some(&login)).await.unwrap();
            assert_eq!(known, 200, "{when}: {name}");
            let link = Request::get("www-open.example.com", &format!("/?mayfly={name}"));
            let refused = link.send(mayfly.edge).await.unwrap();
            assert_eq!(refused.status, 401, "{when}: {name}");
            let cookie = Request::get("www-open.example.com", "/")
                .header("cookie", &format!("mayfly={name}"))
                .header("authorization", &login);
            let answer = cookie.send(mayfly.edge).await.unwrap();
            assert_eq!(answer.echo().unwrap().header("x-mayfly"), name, "{when}");
        }
    };
    hold(&mayfly, "before").await;
    // HAProxy has it before the files do.
    eventually(SOON, "the files are written", async || {
        let rows = |map: &str| std::fs::read_to_string(mayfly.map_file(map)).unwrap_or_default();
        (rows("access").lines().count() == 2 && rows("edge").lines().count() == 3).then_some(())
    })
    .await;
    mayfly.updater.take().unwrap().terminate(SOON).await.unwrap();
    mayfly.haproxy.restart().await.unwrap();
    hold(&mayfly, "HAProxy is new, haproxy-updater is down").await;
    mayfly.start_updater().unwrap();
    mayfly.haproxy.restart().await.unwrap();
    hold(&mayfly, "both are new").await;
}
