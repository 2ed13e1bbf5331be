//! Who lost the header: a chain from the edge through three services, of which the second one
//! forwards nothing.

use std::net::SocketAddr;
use std::time::Duration;

use mayfly_e2e::instance::Service;
use mayfly_e2e::mayfly::{Instance, Mayfly};
use mayfly_e2e::{eventually, port};
use serde_json::{Value, json};

/// What `mayfly status` has to say after the last call, and when.
const WITHIN: Duration = Duration::from_secs(10);
/// Calls that are made.
const CALLS: u64 = 41;

/// `a`, `b` and `c`, each with an address of its own, as containers have.
async fn chain(mayfly: &mut Mayfly) -> Vec<Instance<Service>> {
    mayfly.start_dns().await.unwrap();
    let mut instances = Vec::new();
    for (service, version) in [("a", "0.0.1"), ("b", "0.0.7"), ("c", "0.0.1")] {
        let address = SocketAddr::new(port::another_ip().into(), port::free().port());
        instances.push(mayfly.instance_at(address, service, version).await.unwrap());
    }
    mayfly.save(
        "prod.yaml",
        "{name: prod, prefix: www, services: [{name: a, version: 0.0.1, route: /}, {name: b, version: 0.0.7}, {name: c, version: 0.0.1}]}",
    );
    mayfly.save("qa.yaml", "{name: qa, extends: prod}");
    mayfly.answers("www-qa.example.com", "a@0.0.1").await;
    for service in ["b", "c"] {
        mayfly
            .calls(
                "qa",
                service,
                &format!("{service}@0.0.{}", if service == "b" { 7 } else { 1 }),
            )
            .await;
        mayfly
            .resolves(&format!("{service}.service"), &[mayfly.internal.ip()])
            .await;
    }
    instances
}

async fn lost(mayfly: &Mayfly) -> Value {
    let finished = mayfly
        .run("mayfly", &["status", "--format", "json"])
        .await
        .unwrap();
    let status: Value = serde_json::from_str(&finished.stdout).unwrap();
    status["lost_headers"].clone()
}

async fn names_who_drops(updater_arguments: &[&str], arrives: bool) {
    let mut mayfly = Mayfly::start_with(updater_arguments).await.unwrap();
    let _instances = chain(&mut mayfly).await;
    let get = async |path: &str| {
        let answer = mayfly.get("www-qa.example.com", path).await.unwrap();
        answer.echo().unwrap().called.unwrap()
    };
    // A chain that forwards says nothing.
    for _ in 0..CALLS {
        let b = get("/?call=b,c").await;
        assert_eq!(b.called.unwrap().header("x-mayfly"), "qa", "{:?}", b.call_failed);
    }
    for number in 0..CALLS {
        let b = get("/?call=b,c&drop=b").await;
        assert_eq!(b.header("x-mayfly"), "qa");
        match arrives {
            // Silently in the wrong environment.
            true => assert_eq!(b.called.unwrap().header("x-mayfly"), "prod"),
            false => assert!(b.call_failed.is_some(), "call {number}"),
        }
    }
    let expected = json!([{"service": "b", "version": "0.0.7", "calls": CALLS}]);
    eventually(WITHIN, "mayfly status names b", async || {
        let found = lost(&mayfly).await;
        if found == expected {
            Ok(())
        } else {
            Err(found.to_string())
        }
    })
    .await;
    let words = mayfly.run("mayfly", &["status"]).await.unwrap().stdout;
    let expected = "b@0.0.7 dropped the header in 41 calls in the last 10 min";
    assert!(words.contains(expected), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_names_the_service_that_drops_the_header() {
    names_who_drops(&[], false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_environment_does_not_hide_who_drops_the_header() {
    names_who_drops(&["--default-environment", "prod"], true).await;
}
