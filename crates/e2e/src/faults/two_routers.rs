//! Two routers, and the updater of one is cut off from etcd; its HAProxy is not.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::Length;
use super::loaded::{LoadedMayfly, Outcome, WWW, targets};
use crate::etcd::Etcd;
use crate::haproxy::Haproxy;
use crate::http::Request;
use crate::load::{Expected, Load};
use crate::mayfly::{Mayfly, SOON};
use crate::network::{Host, Network};
use crate::process::binary;
use crate::process::{self, Process};
use crate::{eventually, port};

/// Leases of instances.
const TTL: &str = "3s";
/// Requests a second at the second router.
const RATE: (u32, u32) = (200, 600);
/// It says that it hears nothing.
const NOTICED: Duration = Duration::from_secs(5);
/// Names lead to the other one only: what a router's lease lasts, and a moment.
const UNNAMED: Duration = Duration::from_secs(18);
/// After the cut.
const IN_STEP: Duration = Duration::from_secs(5);

/// A router beside that of the Mayfly. Its updater runs on a host of its own.
struct Router {
    updater: Process,
    _haproxy: Haproxy,
    edge: SocketAddr,
    internal: SocketAddr,
    admin: SocketAddr,
    host: Host,
    _network: Network,
    _directory: TempDir,
}

impl Router {
    async fn start(mayfly: &Mayfly, network: Network, directory: TempDir) -> Result<Self> {
        let host = network.host()?;
        let state = mayfly.directory().join("two");
        std::fs::create_dir_all(state.join("run")).context("make a directory")?;
        let address = port::another_ip().into();
        let (edge, internal) = (port::free_at(address), port::free_at(address));
        let admin = SocketAddr::new(host.address().into(), port::free().port());
        let mut command = Command::new(binary("haproxy-updater")?);
        command.args(["--node", "two", "--etcd", &mayfly.etcd.endpoint()]);
        command.arg("--dir").arg(&state);
        command.args(["--edge", &edge.to_string(), "--internal", &internal.to_string()]);
        command.args(["--advertise", &address.to_string(), "--admin", &admin.to_string()]);
        let updater = mayfly.spawn("haproxy-updater-two", &host.wrap(&command))?;
        let (master, socket) = (state.join("run/master.sock"), state.join("run/haproxy.sock"));
        let mut haproxy = Haproxy::new(&state.join("haproxy.cfg"), &master, &socket, &state);
        haproxy.start().await?;
        let router = Self {
            updater,
            _haproxy: haproxy,
            edge,
            internal,
            admin,
            host,
            _network: network,
            _directory: directory,
        };
        eventually(SOON, "the second router answers", async || {
            router.answers("web@1.0.0").await
        })
        .await;
        Ok(router)
    }

    async fn answers(&self, backend: &str) -> Result<()> {
        let found = Request::get(WWW, "/").send(self.edge).await?.backend()?;
        ensure!(found == backend, "{found} answers");
        Ok(())
    }

    /// A page of its admin endpoint, asked for on its own host.
    async fn page(&self, path: &str) -> Result<String> {
        let script = "exec 3<>/dev/tcp/$0/$1 && printf 'GET %s HTTP/1.0\\r\\n\\r\\n' $2 >&3 && cat <&3";
        let mut command = Command::new("bash");
        let (ip, port) = (self.admin.ip().to_string(), self.admin.port().to_string());
        command.args(["-c", script, &ip, &port, path]);
        process::run(&self.host.wrap(&command), SOON).await?.ok()
    }
}

/// One updater is cut off for longer than its lease lives.
pub async fn cut(length: Length) -> Result<Outcome> {
    let directory = tempfile::tempdir().context("make a directory")?;
    let network = Network::new(directory.path())?;
    let mut etcd = Etcd::reserve_at(network.own().into())?;
    etcd.restart().await?;
    let admin = port::free();
    let mayfly = Mayfly::start_on(etcd, &["--admin", &admin.to_string()]).await?;
    let mut loaded = LoadedMayfly::on(mayfly, admin, length, TTL).await?;
    let router = Router::start(&loaded.mayfly, network, directory).await?;
    let both = [loaded.mayfly.internal.ip(), router.internal.ip()];
    loaded.mayfly.start_dns().await?;
    loaded.mayfly.resolves("web.service", &sorted(&both)).await;
    let www = Expected::only(&["web@1.0.0"]);
    let load = Load::steady(
        targets(router.edge, router.internal, &www),
        length.pick(RATE.0, RATE.1),
    );

    router.host.cut()?;
    let since = Instant::now();
    loaded.change("1.0.0", "2.0.0");
    loaded.converges("2.0.0", since, Duration::from_secs(1)).await;
    loaded
        .sees("the one cut off says so", since, NOTICED, async |_| {
            let said = router.updater.output();
            let said = said
                .lines()
                .any(|line| line.contains("WARN") && line.contains("did not answer within"));
            let metrics = router.page("/metrics").await?;
            ensure!(said && metrics.contains("mayfly_watch_in_step 0"), "{metrics}");
            Ok(())
        })
        .await;
    // One of the instances that it still uses goes: in good order, but without its knowledge.
    loaded.instances[0].registrar.terminate(SOON).await?;
    loaded.instances[0].service.kill9().await?;
    // Its lease lives longer than a short form may last.
    if length == Length::Full {
        unnamed(&mut loaded, since, &both[..1]).await?;
    }
    loaded.last(0, 10).await;
    router.answers("web@1.0.0").await?;

    www.set(&["web@1.0.0", "web@2.0.0"]);
    router.host.join()?;
    let since = Instant::now();
    loaded
        .sees("back in sync and in the names", since, IN_STEP, async |loaded| {
            router.answers("web@2.0.0").await?;
            let dnsmasq = loaded.mayfly.dnsmasq.as_ref().context("dnsmasq")?;
            let found = dnsmasq.lookup("web.service").await?;
            ensure!(found == sorted(&both), "web.service is at {found:?}");
            ensure!(in_status(loaded).await?, "`mayfly status` does not show it");
            Ok(())
        })
        .await;
    www.set(&["web@2.0.0"]);
    loaded.last(0, 3).await;
    let second = load.stop().await;
    let mut outcome = loaded.end().await;
    outcome.report.add(second);
    Ok(outcome)
}

/// The names lead elsewhere, and nobody is told of a router that nobody hears of.
async fn unnamed(loaded: &mut LoadedMayfly, since: Instant, others: &[IpAddr]) -> Result<()> {
    loaded
        .sees("out of the names", since, UNNAMED, async |loaded| {
            let dnsmasq = loaded.mayfly.dnsmasq.as_ref().context("dnsmasq")?;
            let found = dnsmasq.lookup("web.service").await?;
            ensure!(found == others, "web.service is at {found:?}");
            Ok(())
        })
        .await;
    ensure!(!in_status(loaded).await?, "`mayfly status` shows the one cut off");
    Ok(())
}

/// Whether `mayfly status` shows the second router.
async fn in_status(loaded: &LoadedMayfly) -> Result<bool> {
    let status = loaded.mayfly.run("mayfly", &["status"]).await?.ok()?;
    let words = status
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut rows = words.filter(|words| words.first() == Some(&"haproxy-updater"));
    Ok(rows.any(|words| words.get(1) == Some(&"two")))
}

fn sorted<T: Ord + Clone>(all: &[T]) -> Vec<T> {
    let mut all = all.to_vec();
    all.sort();
    all
}
