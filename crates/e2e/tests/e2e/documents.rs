//! The shell blocks of the documents, run as they are on a host where all of Mayfly is up. Needs root.
//!
//! Those of the tutorial and of adopt.md need Docker: the demo step of scripts/test.sh runs them.

use std::path::Path;

use mayfly_e2e::documents::runner::Run;
use mayfly_e2e::documents::{Page, pages};
use tempfile::TempDir;

/// Pages that run at the same time.
const AT_ONCE: usize = 3;
/// Pages that need the images of the demo.
const WITH_IMAGES: [&str; 2] = ["docs/tutorial.md", "docs/adopt.md"];
/// What the blocks find in the working directory, as in a checkout.
const COPIED: [&str; 3] = ["demo", "deploy", "scripts"];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn start(page: &Page) -> (Run, TempDir) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes namespaces: run it as root"
    );
    let directory = tempfile::Builder::new().prefix("mayfly-").tempdir().unwrap();
    (
        Run::on_own_host(page, root(), &COPIED, directory.path()).unwrap(),
        directory,
    )
}

#[tokio::test]
async fn the_blocks_of_every_page_run() {
    let all = pages(root()).unwrap();
    let with_blocks = all.iter().filter(|page| page.runs().next().is_some());
    let pages: Vec<&Page> = with_blocks
        .filter(|page| !WITH_IMAGES.iter().any(|path| page.path == Path::new(path)))
        .collect();
    let mut faults = Vec::new();
    for some in pages.chunks(AT_ONCE) {
        let running: Vec<_> = some.iter().map(|page| start(page)).collect();
        for (run, _directory) in running {
            faults.extend(run.faults().await.unwrap());
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn all_of_mayfly_is_up_where_blocks_run() {
    let text = r#"# A page

```sh
cat >/etc/mayfly/environments/dev.yaml <<'END'
name: dev
services:
  - {name: frontend, version: 0.0.2, route: /}
  - {name: backend, version: 0.0.1}
END
mayfly wait dev
curl --silent --fail http://www-dev.example.com/ | grep ' on ' # by name, through dnsmasq
curl --silent --fail --header 'x-mayfly: dev' http://backend.service/
mayfly status | tail -n 1
ls demo/start.sh
```

```text
dev is in force everywhere (revision …)
frontend     0.0.2 on frontend-0.0.2
backend      0.0.1 on backend-0.0.1
…
nothing needs attention
demo/start.sh
```
"#;
    let page = Page::parse(Path::new("docs/x.md"), text);
    let (run, _directory) = start(&page);
    assert_eq!(run.faults().await.unwrap(), [""; 0]);
}
