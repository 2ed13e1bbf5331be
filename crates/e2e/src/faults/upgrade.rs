//! Every daemon is replaced by that of another version, one after the other, and each time changes
//! of all kinds must work between the versions that then run beside each other.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Length;
use super::loaded::{AT_LAST, LoadedMayfly, Outcome};
use crate::eventually;
use crate::http::Request;
use crate::instance::Service;
use crate::mayfly::Mayfly;
use crate::port;
use crate::process::Process;

/// Leases play no part here.
const TTL: &str = "15s";
/// A daemon ends in good order.
const ENDS: Duration = Duration::from_secs(20);
/// A changed file right after a daemon was replaced. environment-registrar waits 2 s for files that
/// have just changed when it starts.
const IN_EFFECT: Duration = Duration::from_secs(5);
/// Every key is as before, and every name and page follows.
const FOLLOWS: Duration = Duration::from_secs(5);

/// The daemons that watch etcd and have a status record.
const WATCHING: [&str; 3] = ["environment-registrar", "haproxy-updater", "dns-updater"];

/// Which daemons are replaced first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    RegistrarsFirst,
    RoutersFirst,
}

/// What is replaced in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Environments,
    Instances,
    Router,
    Names,
}

impl Order {
    fn parts(self) -> [Part; 4] {
        let mut parts = [Part::Environments, Part::Instances, Part::Router, Part::Names];
        if self == Self::RoutersFirst {
            parts.reverse();
        }
        parts
    }
}

/// How the registrar of an instance is replaced: both ways of docs/guides/upgrading.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handover {
    /// The new one starts before the old one ends.
    Overlap,
    /// The old one is killed.
    Kill,
}

/// Starts the programs in `before`, replaces them by those beside the test, and goes back (not in
/// the short form).
pub async fn there_and_back(before: PathBuf, order: Order, length: Length) -> Result<Outcome> {
    let admin = port::free();
    let mut mayfly = Mayfly::bare(&["--admin", &admin.to_string()])?;
    mayfly.programs = Some(before.clone());
    mayfly.start_all().await?;
    mayfly.start_dns().await?;
    let loaded = LoadedMayfly::on(mayfly, admin, length, TTL).await?;
    let strange = Service::start("web", "9.0.0").await?;
    put_strange_records(&loaded, &strange).await?;
    let mut upgrade = Upgrade {
        loaded,
        before: before.clone(),
        web: ["1.0.0", "2.0.0"],
        earlier: WATCHING.into(),
    };
    upgrade.works().await?;
    let there = (None, Handover::Overlap);
    let back = (Some(before), Handover::Kill);
    for (programs, handover) in length.pick(vec![there.clone()], vec![there, back]) {
        upgrade.loaded.mayfly.programs = programs;
        for part in order.parts() {
            upgrade.replace(part, handover).await?;
            upgrade.works().await?;
        }
    }
    let kept = upgrade.loaded.mayfly.etcd.get_json(NEWER).await?;
    ensure!(kept == newer(), "the record of a later version became {kept}");
    Ok(upgrade.loaded.end().await)
}

struct Upgrade {
    loaded: LoadedMayfly,
    before: PathBuf,
    /// The version of web in prod, and the other one.
    web: [&'static str; 2],
    /// Which of the daemons that watch etcd are of the earlier version.
    earlier: BTreeSet<&'static str>,
}

impl Upgrade {
    /// Replaces a part by that of the programs which the Mayfly now has.
    async fn replace(&mut self, part: Part, handover: Handover) -> Result<()> {
        let daemon = match part {
            Part::Environments => Some(WATCHING[0]),
            Part::Router => Some(WATCHING[1]),
            Part::Names => Some(WATCHING[2]),
            Part::Instances => None,
        };
        let mayfly = &mut self.loaded.mayfly;
        if mayfly.programs.is_some() {
            self.earlier.extend(daemon);
        } else if let Some(daemon) = daemon {
            self.earlier.remove(daemon);
        }
        match part {
            Part::Environments => {
                end(mayfly.registrar.take()).await?;
                mayfly.start_registrar(&[])
            }
            Part::Router => {
                end(mayfly.updater.take()).await?;
                mayfly.start_updater()
            }
            Part::Names => {
                end(mayfly.dns_updater.take()).await?;
                let command = mayfly.dns_watch()?;
                mayfly.dns_updater = Some(mayfly.spawn("dns-updater", &command)?);
                Ok(())
            }
            Part::Instances => self.replace_registrars(handover).await,
        }
    }

    async fn replace_registrars(&mut self, handover: Handover) -> Result<()> {
        let mayfly = &self.loaded.mayfly;
        for (number, instance) in self.loaded.instances.iter_mut().enumerate() {
            let (service, version) = [
                ("web", "1.0.0"),
                ("web", "1.0.0"),
                ("web", "2.0.0"),
                ("api", "1.0.0"),
            ][number];
            let at = instance.service.address();
            let key = format!("/mayfly/backends/{service}/{version}/{at}");
            let lease = mayfly.etcd.lease_of(&key).await?;
            if handover == Handover::Kill {
                instance.registrar.kill9().await?;
            }
            let new = mayfly.register(service, version, at, &["--ttl", TTL])?;
            eventually(AT_LAST, &format!("the new registrar has {key}"), async || {
                let now = mayfly.etcd.lease_of(&key).await?;
                ensure!(now != lease, "it still has its lease");
                anyhow::Ok(())
            })
            .await;
            let old = std::mem::replace(&mut instance.registrar, new);
            if handover == Handover::Overlap {
                end(Some(old)).await?;
            }
        }
        Ok(())
    }

    /// Changes of all kinds are in effect, and nobody sets anything aside.
    async fn works(&mut self) -> Result<()> {
        let ([from, to], since) = (self.web, Instant::now());
        self.web = [to, from];
        self.loaded.change(from, to);
        let passing = "{name: passing, extends: prod, services: [{name: web, version: 9.0.0, route: /}]}";
        self.loaded.mayfly.save("passing.yaml", passing);
        self.loaded.converges(to, since, IN_EFFECT).await;
        for host in ["passing", "newer", "older"] {
            self.answered(host, since).await;
        }
        self.loaded.mayfly.remove("passing.yaml");
        let since = Instant::now();
        self.loaded
            .sees("an end in effect", since, IN_EFFECT, async |loaded| {
                let status = loaded.mayfly.get("www-passing.example.com", "/").await?.status;
                ensure!(matches!(status, 404 | 410), "the ended one answers {status}");
                Ok(())
            })
            .await;
        let expected: IpAddr = self.loaded.mayfly.internal.ip();
        self.loaded
            .sees("names right", Instant::now(), FOLLOWS, async |loaded| {
                let dnsmasq = loaded.mayfly.dnsmasq.as_ref().context("dnsmasq")?;
                let found = dnsmasq.lookup("web.service").await?;
                ensure!(found == [expected], "web.service is at {found:?}");
                Ok(())
            })
            .await;
        let earlier = self.earlier.clone();
        self.loaded
            .sees("all in sync", Instant::now(), FOLLOWS, async |loaded| {
                in_sync(loaded, &earlier).await
            })
            .await;
        self.tools_read_it().await
    }

    /// The environment of this name is answered by web 9.0.0.
    async fn answered(&mut self, name: &str, since: Instant) {
        let host = format!("www-{name}.example.com");
        self.loaded
            .sees("environments in effect", since, IN_EFFECT, async |loaded| {
                let request = Request::get(&host, "/");
                let found = request.send(loaded.mayfly.edge).await?.backend()?;
                ensure!(found == "web@9.0.0", "{found} answers at {host}");
                Ok(())
            })
            .await;
    }

    /// The tools of both versions understand what is in etcd.
    async fn tools_read_it(&mut self) -> Result<()> {
        let now = self.loaded.mayfly.programs.clone();
        for programs in [None, Some(self.before.clone())] {
            self.loaded.mayfly.programs = programs.clone();
            let done = self.loaded.mayfly.run("mayfly", &["status", "--format", "json"]);
            let done = done.await?.ok();
            let done = done.with_context(|| format!("`mayfly status` of {programs:?}"))?;
            let status: Value = serde_json::from_str(&done).context("read the status")?;
            ensure!(status.is_object(), "`mayfly status` of {programs:?}: {status}");
        }
        self.loaded.mayfly.programs = now;
        Ok(())
    }
}

async fn end(process: Option<Process>) -> Result<()> {
    let mut process = process.context("a daemon")?;
    process.terminate(ENDS).await.map(drop)
}

/// Servers as instances, and nothing set aside but what the earlier version may not know: keys of a
/// kind that came later.
async fn in_sync(loaded: &LoadedMayfly, earlier: &BTreeSet<&str>) -> Result<()> {
    let servers = loaded.mayfly.haproxy.servers().await?.len();
    let instances = loaded.mayfly.etcd.list("/mayfly/backends/").await?.len();
    ensure!(
        servers == instances,
        "{servers} servers for {instances} instances"
    );
    for daemon in WATCHING {
        let mut aside = loaded.mayfly.set_aside(daemon).await?;
        aside.retain(|(_, reason)| !earlier.contains(daemon) || reason != "not a key of mayfly");
        ensure!(aside.is_empty(), "{daemon} sets aside {aside:?}");
    }
    Ok(())
}

const NEWER: &str = "/mayfly/environments/newer";

/// An environment of a later version, with fields that no version knows yet.
fn newer() -> Value {
    json!({
        "name": "newer",
        "prefix": "www-newer",
        "header": "newer",
        "colour": {"of": ["later"]},
        "services": [{"name": "web", "version": "9.0.0", "routes": ["/"], "colour": "red"}],
    })
}

/// Records of a later version, and ones that lack whatever may be left out.
async fn put_strange_records(loaded: &LoadedMayfly, service: &Service) -> Result<()> {
    let etcd = &loaded.mayfly.etcd;
    etcd.put(NEWER, &newer().to_string()).await?;
    let older = json!({
        "name": "older",
        "prefix": "www-older",
        "header": "older",
        "services": [{"name": "web", "version": "9.0.0", "routes": ["/"]}],
    });
    etcd.put("/mayfly/environments/older", &older.to_string()).await?;
    let address = service.address().to_string();
    let instance = json!({"address": address, "colour": "red"});
    etcd.put(
        &format!("/mayfly/backends/web/9.0.0/{address}"),
        &instance.to_string(),
    )
    .await
}
