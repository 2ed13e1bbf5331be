//! A thousand instances that begin to answer in the same moment, each with a container registrar that has been waiting for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mayfly_e2e::http::Request;
use mayfly_e2e::{eventually, port};

use crate::results::{Goal, Results};
use crate::scaled::ScaledMayfly;

const BACKENDS: usize = 20;
/// For a thousand processes to start on two cores.
const START: Duration = Duration::from_secs(120);
const LIMIT: Duration = Duration::from_secs(60);

/// Measures how long it takes until HAProxy has all of them, and how many messages etcd gets meanwhile.
///
/// # Errors
/// When not all are routed within a minute.
pub async fn run(scaled: &ScaledMayfly, instances: usize, results: &mut Results) -> Result<()> {
    let count = instances;
    let arguments = ["--check", "tcp", "--check-interval", "1s"];
    let mut waiting = Vec::new();
    for number in 0..count {
        let (service, address) = (format!("burst-{}", number % BACKENDS), port::free());
        let registrar = scaled.mayfly.register(&service, "1.0.0", address, &arguments)?;
        waiting.push((service, address, registrar));
    }
    for (_, _, registrar) in &waiting {
        eventually(START, "a registrar waits for its instance", async || {
            registrar.output().contains("failed its check")
        })
        .await;
    }
    let before = messages(scaled).await?;
    let start = Instant::now();
    let mut instances = Vec::new();
    for (service, address, _) in &waiting {
        instances.push(scaled.origin.open_at(*address, service, "1.0.0")?);
    }
    let wanted: BTreeSet<String> = waiting
        .iter()
        .map(|(_, address, _)| address.to_string())
        .collect();
    loop {
        let servers: BTreeSet<String> = scaled.mayfly.haproxy.servers().await?.into_values().collect();
        if wanted.is_subset(&servers) {
            break;
        }
        let missing = wanted.difference(&servers).count();
        ensure!(start.elapsed() < LIMIT, "{missing} instances are not routed");
        // Showing a thousand servers takes HAProxy's time, too.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let time = (start.elapsed().as_secs_f64(), "s");
    let scale = format!("{count} instances");
    results.add("burst routed", "mayfly", &scale, time, Goal::AtMost(2.0));
    let messages = ((messages(scaled).await? - before) as f64, "messages");
    results.add(
        "burst",
        "etcd",
        &scale,
        messages,
        Goal::AtMost(2.0 * count as f64),
    );
    Ok(())
}

/// All messages that etcd has received, in calls and in streams.
async fn messages(scaled: &ScaledMayfly) -> Result<u64> {
    let answer = Request::get("etcd", "/metrics")
        .send(scaled.mayfly.etcd.address())
        .await?;
    let lines = answer
        .body
        .lines()
        .filter(|line| line.starts_with("grpc_server_msg_received_total{"));
    let counts: Vec<u64> = lines
        .filter_map(|line| Some(line.rsplit(' ').next()?.parse::<f64>().ok()? as u64))
        .collect();
    ensure!(!counts.is_empty(), "etcd counts no messages");
    counts
        .into_iter()
        .reduce(|sum, count| sum + count)
        .context("a count")
}
