//! `mayfly status` and `mayfly explain` on a terminal: colour and width, and the line that says what needs attention.

use std::process::Command;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::run;

/// What the tool prints on a terminal with so many columns; `script` (Debian: bsdutils) makes one.
async fn on_terminal(mayfly: &Mayfly, columns: u16, line: &str, variables: &[(&str, &str)]) -> String {
    let command = mayfly.command("mayfly").unwrap();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let inside = format!("stty cols {columns} rows 50; exec {} {line}", words.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &inside, "/dev/null"]);
    script
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .envs(variables.iter().copied());
    run(&script, SOON).await.unwrap().stdout.replace("\r\n", "\n")
}

/// The text without the colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    first
        + &parts
            .map(|part| part.split_once('m').map_or(part, |(_, rest)| rest))
            .collect::<String>()
}

#[tokio::test]
async fn a_terminal_gets_colour_and_lines_that_fit() {
    let mayfly = Mayfly::start().await.unwrap();
    let _web = mayfly.instance("web", "1").await.unwrap();
    let dev = "{name: dev, services: [{name: web, version: 1, route: /}, {name: a-service-with-a-long-name, version: 2}]}";
    mayfly.save("dev.yaml", dev);
    mayfly.answers("www-dev.example.com", "web@1").await;
    let expected = "\n\nneeds attention: 1 environment is incomplete (dev)\n";
    let piped = eventually(SOON, "every daemon is in sync", async || -> Result<String> {
        let shown = mayfly.run("mayfly", &["status"]).await?.ok()?;
        ensure!(shown.ends_with(expected), "{shown}");
        Ok(shown)
    })
    .await;
    assert!(!piped.contains('\x1b'), "{piped:?}");
    let painted = mayfly
        .run("mayfly", &["status", "--color", "always"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(plain(&painted), piped);
    assert!(painted.contains("\x1b[32mready\x1b[0m"), "{painted:?}");

    let wide = on_terminal(&mayfly, 500, "status", &[]).await;
    assert_eq!(plain(&wide), piped);
    assert_eq!(wide, painted);
    let narrow = on_terminal(&mayfly, 60, "status", &[]).await;
    // A terminal breaks sentences by itself.
    let is_row = |line: &&str| !line.starts_with("note of ") && !line.starts_with("needs attention");
    let widest = |text: &str| {
        let text = plain(text);
        text.lines().filter(is_row).map(|line| line.chars().count()).max()
    };
    assert!(
        widest(&piped) > Some(60) && widest(&narrow) <= Some(60),
        "{narrow}"
    );
    for (line, variables) in [
        ("status", &[("NO_COLOR", "1")][..]),
        ("status --color never", &[]),
    ] {
        let plain = on_terminal(&mayfly, 500, line, variables).await;
        assert_eq!(plain, piped, "{line} {variables:?}");
    }

    let explained = async |target: &str| {
        let line = format!("explain {target}");
        on_terminal(&mayfly, 500, &line, &[]).await
    };
    let good = explained("www-dev.example.com").await;
    assert!(good.contains("\x1b[32manswered by web@1 in dev"), "{good:?}");
    // Another service of it has no instance.
    let lacks = "\nneeds attention: dev is incomplete, so calls inside it may fail: no instance of";
    assert!(plain(&good).contains(lacks), "{good}");
    let bad = explained("www-dve.example.com").await;
    assert!(
        bad.contains("\x1b[31mthe router itself answers with 404"),
        "{bad:?}"
    );
    assert!(
        plain(&bad).ends_with("\nneeds attention: no prefix for `www-dve`: did you mean www-dev?\n"),
        "{bad}"
    );
}

/// How many watches etcd has.
async fn watches(mayfly: &Mayfly) -> u64 {
    let request = Request::get("etcd", "/metrics");
    let metrics = request.send(mayfly.etcd.address()).await.unwrap().body;
    let of_watchers = |line: &str| {
        line.strip_prefix("etcd_debugging_mvcc_watcher_total ")?
            .parse()
            .ok()
    };
    metrics.lines().find_map(of_watchers).unwrap()
}

#[tokio::test]
async fn a_daemon_that_is_behind_for_a_moment_needs_no_attention() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    let dev = r#"{"name": "dev", "prefix": "www-dev", "header": "dev", "services": []}"#;
    mayfly.etcd.put("/mayfly/environments/dev", dev).await.unwrap();
    let report = async |applied: i64| {
        let status = format!(r#"{{"applied_revision": {applied}, "ready": true}}"#);
        mayfly
            .etcd
            .put("/mayfly/status/dns-updater/late", &status)
            .await
            .unwrap();
    };
    report(1).await;
    let behind = mayfly.run("mayfly", &["status"]).await.unwrap().ok().unwrap();
    assert!(
        behind
            .trim_end()
            .ends_with("dns-updater of late is 1 revision behind"),
        "{behind}"
    );

    let before = watches(&mayfly).await;
    let mut command = mayfly.command("mayfly").unwrap();
    command.arg("status");
    let mut status = mayfly.spawn("status", &command).unwrap();
    eventually(SOON, "the command follows etcd, or has ended", async || {
        watches(&mayfly).await > before || !status.is_running()
    })
    .await;
    report(mayfly.etcd.revision().await.unwrap()).await;
    status.wait(SOON).await.unwrap();
    let shown = status.output();
    assert!(
        shown.ends_with("\nneeds attention: no router reports\n"),
        "{shown}"
    );
}
