//! Bad environment files: a message with its place, the last good version stays, everything else goes on.

use std::fs;
use std::io::Write;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};

fn one(name: &str, version: &str) -> String {
    format!("name: {name}\nservices:\n  - {{name: frontend, version: {version}, route: /}}\n")
}

/// The whole chain with `good` on frontend 1.0.0 from good.yaml.
async fn mayfly() -> (Mayfly, Vec<impl Sized>) {
    let mayfly = Mayfly::start().await.unwrap();
    let mut instances = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        instances.push(mayfly.instance("frontend", version).await.unwrap());
    }
    mayfly.save("good.yaml", &one("good", "1.0.0"));
    mayfly.answers("www-good.example.com", "frontend@1.0.0").await;
    (mayfly, instances)
}

/// Waits until the registrar has warned of `file` with all `parts` in one line.
async fn told(mayfly: &Mayfly, file: &str, parts: &[&str]) {
    eventually(
        SOON,
        &format!("{file} is told with {parts:?}"),
        async || -> Result<()> {
            let output = mayfly.registrar.as_ref().unwrap().output();
            let lines: Vec<&str> = output
                .lines()
                .filter(|l| l.contains("WARN") && l.contains(file))
                .collect();
            ensure!(
                lines
                    .iter()
                    .any(|line| parts.iter().all(|part| line.contains(part))),
                "{lines:#?}"
            );
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
async fn a_file_that_is_mended_after_an_error_is_taken() {
    let (mayfly, _instances) = mayfly().await;
    mayfly.save(
        "good.yaml",
        "name: good\nservices:\n  - {name: frontend, version: 2.0.0, rout: /}\n",
    );
    told(&mayfly, "good.yaml", &["line 3, column 38", "rout", "`route`"]).await;
    assert_eq!(
        mayfly
            .get("www-good.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "frontend@1.0.0"
    );
    // Everything else goes on meanwhile.
    mayfly.save("other.yaml", &one("other", "2.0.0"));
    mayfly.answers("www-other.example.com", "frontend@2.0.0").await;
    mayfly.save("good.yaml", &one("good", "2.0.0"));
    mayfly.answers("www-good.example.com", "frontend@2.0.0").await;
}

#[tokio::test]
async fn a_deleted_file_removes_its_environment() {
    let (mayfly, _instances) = mayfly().await;
    mayfly.save("other.yaml", &one("other", "2.0.0"));
    mayfly.answers("www-other.example.com", "frontend@2.0.0").await;
    mayfly.remove("good.yaml");
    eventually(SOON, "www-good is unknown", async || {
        mayfly.get("www-good.example.com", "/").await.unwrap().status == 410
    })
    .await;
    assert_eq!(
        mayfly.get("www-other.example.com", "/").await.unwrap().status,
        200
    );
    assert_eq!(mayfly.call("good", "frontend").await.unwrap().status / 100, 4);
}

#[tokio::test]
async fn a_repeated_name_prefix_or_header_harms_only_who_repeats_it() {
    let (mayfly, _instances) = mayfly().await;
    for (file, text, field) in [
        ("name.yaml", one("good", "2.0.0"), "name"),
        (
            "prefix.yaml",
            format!("{}prefix: www-good\n", one("thief-1", "2.0.0")),
            "prefix",
        ),
        (
            "header.yaml",
            format!("{}header: good\n", one("thief-2", "2.0.0")),
            "header",
        ),
    ] {
        mayfly.save(file, &text);
        told(&mayfly, file, &[field, "good.yaml"]).await;
        assert_eq!(
            mayfly
                .get("www-good.example.com", "/")
                .await
                .unwrap()
                .backend()
                .unwrap(),
            "frontend@1.0.0"
        );
        assert_eq!(
            mayfly.call("good", "frontend").await.unwrap().backend().unwrap(),
            "frontend@1.0.0"
        );
    }
    for thief in ["thief-1", "thief-2"] {
        assert_eq!(
            mayfly
                .etcd
                .get(&format!("/mayfly/environments/{thief}"))
                .await
                .unwrap(),
            None
        );
    }
    // When the first one goes, the repeated name is free for the other.
    mayfly.remove("good.yaml");
    mayfly.answers("www-good.example.com", "frontend@2.0.0").await;
}

#[tokio::test]
async fn within_one_file_too_a_repetition_is_told() {
    let (mayfly, _instances) = mayfly().await;
    mayfly.save(
        "twice.yaml",
        &format!("---\n{}---\n{}", one("twin", "1.0.0"), one("twin", "2.0.0")),
    );
    told(&mayfly, "twice.yaml", &["twin"]).await;
    mayfly.save("twice.yaml", "name: twin\nname: twin-2\nservices: [frontend]\n");
    told(&mayfly, "twice.yaml", &["line 2", "name"]).await;
    mayfly.save(
        "twice.yaml",
        "{name: twin, services: [{name: a, route: /x}, {name: b, route: /x/}, a]}",
    );
    told(&mayfly, "twice.yaml", &["/x"]).await;
    assert_eq!(mayfly.get("www-good.example.com", "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn hostile_yaml_is_refused_and_everything_else_goes_on() {
    let (mayfly, _instances) = mayfly().await;
    let lines = |n: usize| -> String {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..n {
            let alias = format!("*a{}", i - 1);
            text += &format!("a{i}: &a{i} [{}]\n", vec![alias; 9].join(","));
        }
        text + "name: laughs\n"
    };
    let deep = format!(
        "name: deep\nservices: {}{}\n",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let deep_block: String = (0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    for (file, text) in [
        ("laughs.yaml", lines(30)),
        ("deep.yaml", deep),
        ("deep-block.yaml", deep_block),
        (
            "many-aliases.yaml",
            format!("a: &a x\nb: [{}]\n", "*a,".repeat(200_000)),
        ),
        ("tag.yaml", "name: !!python/object/apply:os.system [id]\n".into()),
        ("binary.yaml", "\u{0}\u{1}\u{2}name: x\n".into()),
        ("number.yaml", "42\n".into()),
        ("tabs.yaml", "name: x\n\tservices: []\n".into()),
        (
            "injection.yaml",
            "{name: \"x\\n  server evil 1.2.3.4:80\", services: []}".into(),
        ),
    ] {
        mayfly.save(file, &text);
        told(&mayfly, file, &["line ", "column "]).await;
    }
    fs::write(mayfly.environments().join("latin1.yaml"), b"name: caf\xe9\n").unwrap();
    told(&mayfly, "latin1.yaml", &["line ", "column "]).await;
    // 100 MB, valid YAML even.
    let mut huge = fs::File::create(mayfly.directory().join("huge.new")).unwrap();
    let block = format!("# {}\n", "x".repeat(1_048_573)).into_bytes();
    for _ in 0..100 {
        huge.write_all(&block).unwrap();
    }
    huge.write_all(one("huge", "1.0.0").as_bytes()).unwrap();
    fs::rename(
        mayfly.directory().join("huge.new"),
        mayfly.environments().join("huge.yaml"),
    )
    .unwrap();
    told(&mayfly, "huge.yaml", &["line ", "column "]).await;

    mayfly.save("good.yaml", &one("good", "2.0.0"));
    mayfly.answers("www-good.example.com", "frontend@2.0.0").await;
    let environments = mayfly.etcd.list("/mayfly/environments/").await.unwrap();
    assert_eq!(
        environments.keys().collect::<Vec<_>>(),
        ["/mayfly/environments/good"]
    );
    let id = mayfly.registrar.as_ref().unwrap().id();
    let memory = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let peak = memory.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    let kilobytes: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kilobytes < 200_000, "the registrar took {kilobytes} kB");
}

#[tokio::test]
async fn what_is_not_a_plain_file_is_passed_over() {
    let (mayfly, _instances) = mayfly().await;
    fs::create_dir(mayfly.environments().join("directory.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", mayfly.environments().join("dangling.yaml")).unwrap();
    std::os::unix::fs::symlink("loop.yaml", mayfly.environments().join("loop.yaml")).unwrap();
    let fifo = mayfly.environments().join("pipe.yaml");
    let mut make = std::process::Command::new("mkfifo");
    mayfly_e2e::process::run(make.arg(&fifo), SOON)
        .await
        .unwrap()
        .ok()
        .unwrap();
    mayfly.save("empty.yaml", "");
    mayfly.save("comment.yaml", "# nothing yet\n");
    mayfly.save("good.yaml", &one("good", "2.0.0"));
    mayfly.answers("www-good.example.com", "frontend@2.0.0").await;
}
