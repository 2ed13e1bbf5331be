//! `mayfly diff`: says by its exit code how far two environments are apart.

use std::fs;

use mayfly_e2e::mayfly::Mayfly;
use serde_json::Value;

#[tokio::test]
async fn the_exit_code_says_whether_more_differs_than_is_allowed() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    let file = mayfly.directory().join("all.yaml");
    let text = "- {name: prod, services: [{name: web, version: 1, route: /}, {name: api, version: 1}]}\n\
                - {name: qa, extends: prod, services: [{name: api, version: 2}]}\n";
    fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    mayfly
        .run("mayfly", &["apply", "-f", &file])
        .await
        .unwrap()
        .ok()
        .unwrap();
    let diff = async |line: &str| {
        let words: Vec<&str> = ["diff"].into_iter().chain(line.split(' ')).collect();
        mayfly.run("mayfly", &words).await.unwrap()
    };
    let found = diff("qa prod").await;
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(
        found.stdout.contains("api      version  2 (own)  1 (own)\n"),
        "{found:?}"
    );
    assert!(
        found
            .stdout
            .ends_with("1 of 2 services differs between qa and prod\n"),
        "{found:?}"
    );
    assert_eq!(diff("qa prod --at-most 1").await.code, Some(0));
    assert_eq!(diff("qa qa").await.code, Some(0));
    let json = diff("qa prod --format json").await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(
        (&json["differing"], &json["of"]),
        (&1.into(), &2.into()),
        "{json}"
    );
    assert_eq!(json["services"][0]["a"]["version"], "2", "{json}");
    let unknown = diff("qa prd").await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("did you mean prod?"), "{unknown:?}");
}
