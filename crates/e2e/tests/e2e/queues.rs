//! The example of demo/queues with a real Redis: the right version handles each message exactly
//! once while environments change.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mayfly_e2e::process;

/// Far more than it takes, also beside a compiler.
const LIMIT: Duration = Duration::from_secs(150);

#[tokio::test]
async fn each_message_is_handled_once_by_the_right_version() {
    let mayfly = process::binary("mayfly").unwrap();
    for program in ["mayfly-web", "haproxy-updater"] {
        process::binary(program).unwrap();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // By its first line, Debian's Python runs it, which has the package redis.
    let mut test = Command::new(root.join("demo/queues/test.py"));
    test.args(["--messages", "300", "--programs"])
        .arg(mayfly.parent().unwrap());
    let done = process::run(&test, LIMIT).await.unwrap();
    let said = done.ok().unwrap();
    assert!(said.contains("twice 0, lost 0, wrong 0"), "{said}");
}
