//! A link on another host leads to an environment, and its cookie keeps it there until the environment ends.

use anyhow::{Context as _, Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::http::{Answer, Request};
use mayfly_e2e::mayfly::{Mayfly, SOON};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HOST: &str = "www.example.com";

const FILES: &str = "
- name: prod
  prefix: www
  services: [{name: web, version: 1.0.0, route: /}]
- name: temp-1
  extends: prod
  services: [{name: web, version: 2.0.0, route: /}]
";

async fn ask(mayfly: &Mayfly, path: &str, cookie: &str) -> Result<Answer> {
    let mut request = Request::get(HOST, path);
    if !cookie.is_empty() {
        request = request.header("cookie", cookie);
    }
    request.send(mayfly.edge).await
}

/// What the browser sends from now on.
fn cookie_of(answer: &Answer) -> Option<String> {
    let set = answer.headers.get("set-cookie")?;
    Some(set.split(';').next()?.to_owned())
}

/// What stands behind a request of `mayfly explain`, in the words of its last line.
async fn explained(mayfly: &Mayfly, path: &str, cookie: &str) -> String {
    let url = format!("https://{HOST}{path}");
    let told = mayfly
        .run("mayfly", &["explain", &url, "--cookie", cookie])
        .await
        .unwrap();
    told.stdout
}

#[tokio::test]
async fn a_link_leads_to_an_environment_until_it_ends() {
    let mayfly = Mayfly::start_with(&["--share-links", "all", "--answered-by", "everywhere"])
        .await
        .unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    let _two = mayfly.instance("web", "2.0.0").await.unwrap();
    mayfly.save("all.yaml", FILES);
    mayfly.answers(HOST, "web@1.0.0").await;
    mayfly.answers("www-temp-1.example.com", "web@2.0.0").await;

    let linked = ask(&mayfly, "/shop?mayfly=temp-1&page=2", "").await.unwrap();
    let echo = linked.echo().unwrap();
    assert_eq!(
        (echo.version.as_str(), echo.path.as_str()),
        ("2.0.0", "/shop?page=2")
    );
    let cookie = cookie_of(&linked).unwrap();
    assert_eq!(cookie, "mayfly=temp-1");
    // The cookie alone, also for what the page loads, and for a WebSocket.
    let next = ask(&mayfly, "/app.js", &format!("theme=dark; {cookie}"))
        .await
        .unwrap();
    let echo = next.echo().unwrap();
    assert_eq!(
        (echo.version.as_str(), echo.header("cookie").as_str()),
        ("2.0.0", "theme=dark")
    );
    assert_eq!(next.headers["cache-control"], "no-store");
    let upgraded = upgrade(&mayfly, &cookie).await.unwrap();
    assert!(upgraded.starts_with("HTTP/1.1 101 "), "{upgraded}");
    assert!(
        upgraded.contains("x-mayfly-answered-by: web@2.0.0; own"),
        "{upgraded}"
    );
    for (path, cookie, backend) in [
        ("/?mayfly=temp-1", "", "answered by web@2.0.0 in temp-1"),
        ("/", "a=1; mayfly=temp-1", "answered by web@2.0.0 in temp-1"),
        ("/?mayfly=", "mayfly=temp-1", "answered by web@1.0.0 in prod"),
    ] {
        let told = explained(&mayfly, path, cookie).await;
        assert!(told.contains(backend), "{path} {cookie}: {told}");
    }
    // Who asks without either is where the host leads.
    mayfly.answers(HOST, "web@1.0.0").await;

    mayfly.remove("all.yaml");
    mayfly.save("all.yaml", FILES.split("- name: temp-1").next().unwrap());
    eventually(SOON, "the link says that it ended", async || -> Result<()> {
        let answer = ask(&mayfly, "/?mayfly=temp-1", "").await?;
        let found = (answer.status, &answer.body);
        ensure!(answer.status == 410, "{found:?}");
        ensure!(
            answer.body.starts_with("410: the environment temp-1 ended at 2"),
            "{found:?}"
        );
        ensure!(cookie_of(&answer).is_none(), "{answer:?}");
        let told = explained(&mayfly, "/?mayfly=temp-1", "").await;
        ensure!(told.contains(answer.body.trim_end()), "{told}");
        Ok(())
    })
    .await;
    let cleared = ask(&mayfly, "/", &cookie).await.unwrap();
    assert_eq!(cleared.backend().unwrap(), "web@1.0.0");
    assert!(
        cleared.headers["set-cookie"].starts_with("mayfly=; Max-Age=0; "),
        "{cleared:?}"
    );
    let never = ask(&mayfly, "/?mayfly=temp-9", "").await.unwrap();
    assert_eq!(never.status, 404);
    assert!(
        never.body.contains("no environment has the name temp-9"),
        "{never:?}"
    );
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}

/// The head of the answer to a WebSocket's handshake.
async fn upgrade(mayfly: &Mayfly, cookie: &str) -> Result<String> {
    let mut stream = TcpStream::connect(mayfly.edge).await?;
    let request = format!(
        "GET /live HTTP/1.1\r\nhost: {HOST}\r\ncookie: {cookie}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 4_096];
    let length = tokio::time::timeout(SOON, stream.read(&mut head))
        .await
        .context("no answer")??;
    Ok(String::from_utf8_lossy(&head[..length]).into_owned())
}
