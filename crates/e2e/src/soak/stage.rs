//! The Mayfly of a soak, with the load on it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;
use tokio::sync::{Mutex, RwLock};

use super::failure::{self, Begin};
use super::level::Samples;
use super::{Endured, Phase};
use crate::faults::loaded::{DEV, WWW, prod, targets};
use crate::http::Request;
use crate::instance::{Service, ServiceProcess};
use crate::load::{Expected, Load};
use crate::mayfly::{Instance, Mayfly};
use crate::process::Process;
use crate::{eventually, port};

/// Leases of instances. A frozen etcd is back before they end.
pub(super) const TTL: &str = "15s";
/// Whatever happens, it is right again by then, or the soak fails.
pub(super) const AT_LAST: Duration = Duration::from_secs(120);
/// After the end the load may go on so long until it is stopped.
const MARGIN: Duration = Duration::from_secs(900);
/// So many failed requests are explained.
const EXPLAINED: usize = 20;
/// Good instances beside the two that are killed: one of seven tries of a request finds one.
const GOOD: usize = 4;

pub(super) struct Stage {
    /// Locked for a moment at a time: what a fault does lasts longer than its doing.
    pub mayfly: Mutex<Mayfly>,
    /// The two of web 1.0.0 that are killed.
    pub victims: Mutex<Vec<Instance<ServiceProcess>>>,
    /// Those that never are: web 2.0.0, api 1.0.0, and more of web 1.0.0.
    spared: Vec<Instance<ServiceProcess>>,
    _good: Vec<Service>,
    web: Option<Process>,
    pub web_address: SocketAddr,
    pub edge: SocketAddr,
    pub admin: SocketAddr,
    pub www: Expected,
    /// The version of web that prod has.
    pub version: Cell<&'static str>,
    load: Load,
    load_begun: Begin,
    /// haproxy-updater reads it at each start.
    _template: NamedTempFile,
    /// Held for writing while HAProxy starts from its files, which a change of the last moments may
    /// not be in; held for reading until a change is in effect.
    pub changing: RwLock<()>,
    pub phase: Phase,
    pub until: Instant,
    pub begun: Instant,
    events: RefCell<BTreeMap<&'static str, u64>>,
    /// What began and what was right again, with the time since the begin.
    noted: RefCell<Vec<(Duration, String)>>,
    slowest: RefCell<BTreeMap<&'static str, Duration>>,
    pub samples: RefCell<Samples>,
}

impl Stage {
    pub async fn start(rate: u32, lasts: Duration) -> Result<Self> {
        let admin = port::free();
        let template = NamedTempFile::new().context("make a file")?;
        std::fs::write(&template, failure::template()).context("write the template")?;
        let mut mayfly = Mayfly::start_with(&[
            "--admin",
            &admin.to_string(),
            "--access-log",
            "--template",
            &template.path().to_string_lossy(),
        ])
        .await?;
        mayfly.start_dns().await?;
        let mut victims = Vec::new();
        for _ in 0..2 {
            victims.push(
                mayfly
                    .killable("web", "1.0.0", &["--ttl", TTL, "--drain", "1s"])
                    .await?,
            );
        }
        let mut spared = Vec::new();
        for (service, version) in [("web", "2.0.0"), ("api", "1.0.0")] {
            spared.push(mayfly.killable(service, version, &["--ttl", TTL]).await?);
        }
        let mut good = Vec::new();
        for _ in 0..GOOD {
            let service = Service::start("web", "1.0.0").await?;
            let address = service.address().to_string();
            let record = format!(r#"{{"address": "{address}"}}"#);
            mayfly
                .etcd
                .put(&format!("/mayfly/backends/web/1.0.0/{address}"), &record)
                .await?;
            good.push(service);
        }
        mayfly.save("prod.yaml", &prod("1.0.0"));
        mayfly.save(
            "dev.yaml",
            "{name: dev, extends: prod, services: [{name: web, version: 2.0.0}]}",
        );
        mayfly.answers(WWW, "web@1.0.0").await;
        mayfly.answers(DEV, "web@2.0.0").await;
        mayfly.calls("dev", "api", "api@1.0.0").await;
        let web_address = port::free();
        let mut command = mayfly.command("mayfly-web")?;
        command.args(["--bind", &web_address.to_string()]);
        let web = mayfly.spawn("mayfly-web", &command)?;
        let www = Expected::only(&["web@1.0.0"]);
        let load = targets(mayfly.edge, mayfly.internal, &www);
        let (begun, load_begun) = (Instant::now(), Begin::now());
        let load = Load::steady_for(load, rate, lasts + MARGIN);
        Ok(Self {
            edge: mayfly.edge,
            mayfly: Mutex::new(mayfly),
            victims: Mutex::new(victims),
            spared,
            _good: good,
            web: Some(web),
            web_address,
            admin,
            www,
            version: Cell::new("1.0.0"),
            load,
            load_begun,
            _template: template,
            changing: RwLock::new(()),
            phase: Phase::Lethal,
            until: Instant::now(),
            begun,
            events: RefCell::default(),
            noted: RefCell::default(),
            slowest: RefCell::default(),
            samples: RefCell::default(),
        })
    }

    /// Whether this half has not ended yet.
    pub fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Notes that a fault or a change begins, and logs it: a failed request then shows amid what it
    /// came.
    pub fn event(&self, what: &'static str) {
        self.note(what.to_owned());
        *self.events.borrow_mut().entry(what).or_default() += 1;
    }

    /// Notes that something is right again.
    pub fn took(&self, what: &'static str, time: Duration) {
        self.note(format!("{what}: right again after {:.2} s", time.as_secs_f64()));
        let mut slowest = self.slowest.borrow_mut();
        let most = slowest.entry(what).or_default();
        *most = (*most).max(time);
    }

    fn note(&self, what: String) {
        let at = self.begun.elapsed();
        eprintln!("{:6.1} s  {what}", at.as_secs_f64());
        self.noted.borrow_mut().push((at, what));
    }

    pub fn outage(&self, begins: bool) {
        self.load.outage(begins);
    }

    /// Who answers at the edge for a host.
    pub async fn answers(&self, host: &str) -> Result<String> {
        Request::get(host, "/").send(self.edge).await?.backend()
    }

    /// Both environments are answered as they should be.
    pub async fn routes_right(&self) -> Result<()> {
        let www = self.answers(WWW).await?;
        ensure!(
            www == format!("web@{}", self.version.get()),
            "{www} answers for www"
        );
        let dev = self.answers(DEV).await?;
        ensure!(dev == "web@2.0.0", "{dev} answers for dev");
        Ok(())
    }

    /// The whole Mayfly is as it should be, and every process runs.
    pub async fn is_right(&mut self) -> Result<()> {
        let since = Instant::now();
        let this = &*self;
        eventually(AT_LAST, "everything is right", async || {
            this.routes_right().await?;
            this.agrees().await
        })
        .await;
        self.took("everything right after a half", since.elapsed());
        let web = self.web.as_mut().context("mayfly-web")?;
        ensure!(web.is_running(), "mayfly-web has ended: {}", web.output());
        for instance in &mut self.spared {
            ensure!(
                instance.registrar.is_running(),
                "a registrar has ended: {}",
                instance.registrar.output()
            );
        }
        let mut mayfly = self.mayfly.lock().await;
        let mayfly = &mut *mayfly;
        ensure!(mayfly.haproxy.is_running(), "HAProxy has ended");
        for process in [
            &mut mayfly.registrar,
            &mut mayfly.updater,
            &mut mayfly.dns_updater,
        ] {
            let process = process.as_mut().context("a daemon")?;
            ensure!(
                process.is_running(),
                "{} has ended: {}",
                process.name(),
                process.output()
            );
        }
        Ok(())
    }

    /// HAProxy has what etcd has, etcd what the files say, and nothing is set aside.
    async fn agrees(&self) -> Result<()> {
        let mayfly = self.mayfly.lock().await;
        let servers = mayfly.haproxy.servers().await?.len();
        let instances = mayfly.etcd.list("/mayfly/backends/").await?.len();
        ensure!(
            servers == instances,
            "{servers} servers for {instances} instances"
        );
        let mut registered: Vec<_> = mayfly
            .etcd
            .list("/mayfly/environments/")
            .await?
            .into_keys()
            .collect();
        let mut files = Vec::new();
        for file in std::fs::read_dir(mayfly.environments()).context("list the files")? {
            let name = file.context("a file")?.file_name().to_string_lossy().into_owned();
            files.push(format!("/mayfly/environments/{}", name.trim_end_matches(".yaml")));
        }
        registered.sort();
        files.sort();
        ensure!(registered == files, "registered {registered:?}, files {files:?}");
        for daemon in ["environment-registrar", "haproxy-updater", "dns-updater"] {
            let aside = mayfly.set_aside(daemon).await?;
            ensure!(aside.is_empty(), "{daemon} sets aside {aside:?}");
        }
        let dnsmasq = mayfly.dnsmasq.as_ref().context("dnsmasq")?;
        let found = dnsmasq.lookup("web.service").await?;
        ensure!(found == [mayfly.internal.ip()], "web.service is at {found:?}");
        Ok(())
    }

    /// Takes a sample of every process that lives through the second half.
    pub async fn sample(&self) {
        let mut all = Vec::new();
        {
            let mayfly = self.mayfly.lock().await;
            let daemons = [&mayfly.registrar, &mayfly.updater, &mayfly.dns_updater];
            let daemons = daemons.into_iter().flatten();
            all.extend(daemons.map(|daemon| (daemon.name().to_owned(), daemon.id())));
            if let Some(dnsmasq) = &mayfly.dnsmasq {
                all.push(("dnsmasq".to_owned(), dnsmasq.id()));
            }
            if let Ok(worker) = mayfly.haproxy.worker().await {
                all.push(("haproxy".to_owned(), worker));
            }
        }
        all.extend(self.web.iter().map(|web| ("mayfly-web".to_owned(), web.id())));
        let registrar = &self.spared[0].registrar;
        all.push(("container-registrar".to_owned(), registrar.id()));
        let mut samples = self.samples.borrow_mut();
        for (name, process) in all {
            samples.take(&name, process);
        }
    }

    pub async fn end(self) -> Endured {
        let report = self.load.stop().await;
        let log = self.mayfly.into_inner().haproxy.output();
        let noted = self.noted.into_inner();
        let failures = report.failures.iter().take(EXPLAINED);
        let failures = failures
            .map(|(when, why)| self.load_begun.explain(*when, why.clone(), &log, &noted))
            .collect();
        Endured {
            report,
            failures,
            events: self.events.into_inner(),
            slowest: self.slowest.into_inner(),
            trends: self.samples.into_inner().trends(),
        }
    }
}
