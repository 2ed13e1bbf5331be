//! A whole Mayfly with a steady load on it: two environments, one of which inherits from the other, at the edge and inside.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::eventually;
use crate::faults::Length;
use crate::http::Request;
use crate::instance::ServiceProcess;
use crate::load::{Expected, Load, Report, Target};
use crate::mayfly::{Instance, Mayfly};
use crate::port;

/// The host of the base environment, `prod`.
pub const WWW: &str = "www.example.com";
/// The host of its heir, `dev`, which has web 2.0.0 whatever the base chooses.
pub const DEV: &str = "www-dev.example.com";

/// After a fault everything is in step again by then, or the case fails.
pub const AT_LAST: Duration = Duration::from_secs(60);
/// Requests a second.
const RATE: (u32, u32) = (300, 1_200);
/// On a machine that runs other tests meanwhile, a limit of time is so many times as long.
const BUSY: u32 = 5;

pub struct LoadedMayfly {
    pub mayfly: Mayfly,
    /// Two of web 1.0.0, one of web 2.0.0, one of api 1.0.0, in this order; more as a case adds them.
    pub instances: Vec<Instance<ServiceProcess>>,
    /// Who may answer [`WWW`]; [`DEV`] and api are always answered by the same.
    pub www: Expected,
    /// The metrics and status page of haproxy-updater.
    pub admin: SocketAddr,
    /// How long this is to last.
    pub length: Length,
    /// When requests fail that [`LoadedMayfly::outage`] counts apart.
    pub excuse: &'static str,
    load: Load,
    seen: Vec<Seen>,
}

/// Something that came to pass, how long it took, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    what: String,
    took: Duration,
    within: Duration,
}

/// What a case has seen.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What the load has seen.
    pub report: Report,
    /// When the requests failed that are counted apart.
    pub excuse: &'static str,
    seen: Vec<Seen>,
}

impl LoadedMayfly {
    /// Starts everything and the load; leases live for `ttl`.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(length: Length, ttl: &str) -> Result<Self> {
        let admin = port::free();
        let mayfly = Mayfly::start_with(&["--admin", &admin.to_string()]).await?;
        Self::on(mayfly, admin, length, ttl).await
    }

    /// The same on a Mayfly of the case's own, whose haproxy-updater has its admin page at `admin`.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn on(mayfly: Mayfly, admin: SocketAddr, length: Length, ttl: &str) -> Result<Self> {
        let mut instances = Vec::new();
        for (service, version) in [
            ("web", "1.0.0"),
            ("web", "1.0.0"),
            ("web", "2.0.0"),
            ("api", "1.0.0"),
        ] {
            instances.push(mayfly.killable(service, version, &["--ttl", ttl]).await?);
        }
        mayfly.save("prod.yaml", &prod("1.0.0"));
        mayfly.save(
            "dev.yaml",
            "{name: dev, extends: prod, services: [{name: web, version: 2.0.0}]}",
        );
        mayfly.answers(WWW, "web@1.0.0").await;
        mayfly.answers(DEV, "web@2.0.0").await;
        mayfly.calls("dev", "api", "api@1.0.0").await;
        let www = Expected::only(&["web@1.0.0"]);
        let targets = targets(mayfly.edge, mayfly.internal, &www);
        let load = Load::steady_for(targets, length.pick(RATE.0, RATE.1), length.seconds(180, 900));
        Ok(Self {
            mayfly,
            instances,
            www,
            admin,
            length,
            excuse: "while HAProxy was down",
            load,
            seen: Vec::new(),
        })
    }

    /// Lets some seconds pass under load.
    pub async fn last(&self, short: u64, full: u64) {
        tokio::time::sleep(self.length.seconds(short, full)).await;
    }

    /// Changes the version that [`WWW`] chooses, from one to another.
    pub fn change(&self, from: &str, to: &str) {
        self.www.set(&[&format!("web@{from}"), &format!("web@{to}")]);
        self.mayfly.save("prod.yaml", &prod(to));
    }

    /// Waits until [`WWW`] is answered by this version, which is to be within this time from `since`; from then on by no other.
    ///
    /// # Panics
    /// When it never is.
    pub async fn converges(&mut self, version: &str, since: Instant, within: Duration) {
        let backend = format!("web@{version}");
        self.sees("changes in effect", since, within, async |loaded| {
            let found = loaded.mayfly.get(WWW, "/").await?.backend()?;
            ensure!(found == backend, "{found} answers");
            Ok(())
        })
        .await;
        self.www.set(&[&backend]);
    }

    /// Waits until `condition` holds, which is to be within this time from `since`.
    ///
    /// # Panics
    /// When it never does.
    pub async fn sees(
        &mut self,
        what: &str,
        since: Instant,
        within: Duration,
        condition: impl AsyncFn(&Self) -> Result<()>,
    ) {
        let this = &*self;
        eventually(AT_LAST, what, async || condition(this).await).await;
        self.saw(what, since.elapsed(), within);
    }

    /// Notes that something came to pass.
    pub fn saw(&mut self, what: &str, took: Duration, within: Duration) {
        let what = what.to_owned();
        self.seen.push(Seen { what, took, within });
    }

    /// Says that HAProxy itself is down, or up again; or that requests fail for another excuse.
    pub fn outage(&self, begins: bool) {
        self.load.outage(begins);
    }

    /// Waits until haproxy-updater's log has a line with all these words.
    ///
    /// # Panics
    /// When it never has.
    pub async fn says(&self, words: &[&str]) {
        eventually(AT_LAST, &format!("haproxy-updater says {words:?}"), async || {
            let output = self.mayfly.updater.as_ref().context("an updater")?.output();
            let said = output
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)));
            ensure!(said, "{output}");
            Ok(())
        })
        .await;
    }

    /// What haproxy-updater's metric says.
    ///
    /// # Errors
    /// When the admin page does not answer, or has no such metric.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let page = Request::get("admin", "/metrics").send(self.admin).await?;
        let row = page.body.lines().find_map(|line| line.strip_prefix(name));
        let row = row.with_context(|| format!("no {name} in {}", page.body))?;
        row.trim().parse().with_context(|| format!("read {name}{row}"))
    }

    /// Ends the load and returns what was seen.
    pub async fn end(self) -> Outcome {
        Outcome {
            report: self.load.stop().await,
            excuse: self.excuse,
            seen: self.seen,
        }
    }
}

/// Three places of a router at which a load asks.
pub fn targets(edge: SocketAddr, internal: SocketAddr, www: &Expected) -> Vec<Target> {
    let inside = Request::get("api.service", "/").header("x-mayfly", "dev");
    let all = [
        (edge, Request::get(WWW, "/"), www.clone()),
        (edge, Request::get(DEV, "/"), Expected::only(&["web@2.0.0"])),
        (internal, inside, Expected::only(&["api@1.0.0"])),
    ];
    let target = |(to, request, expected)| Target {
        to,
        request,
        expected,
    };
    all.map(target).into()
}

/// The base environment.
pub fn prod(web: &str) -> String {
    format!(
        "name: prod\nprefix: www\nservices:\n  - {{name: web, version: {web}, route: /}}\n  - {{name: api, version: 1.0.0}}\n"
    )
}

impl Outcome {
    /// What came to pass, as `what in 0.12 s`, the slowest of each kind.
    pub fn seen(&self) -> Vec<String> {
        let mut slowest: Vec<(&str, Duration)> = Vec::new();
        for Seen { what, took, .. } in &self.seen {
            match slowest.iter_mut().find(|(other, _)| other == what) {
                Some((_, most)) => *most = (*most).max(*took),
                None => slowest.push((what, *took)),
            }
        }
        let told = slowest.iter();
        told.map(|(what, took)| format!("{what} in {:.2} s", took.as_secs_f64()))
            .collect()
    }

    /// The promises that were not kept.
    pub fn broken(&self, length: Length) -> Vec<String> {
        let mut broken = Vec::new();
        if let Some((when, why)) = self.report.failures.first() {
            broken.push(format!(
                "{} of {} requests failed, first after {when:?}: {why}",
                self.report.failures.len(),
                self.report.requests
            ));
        }
        for Seen { what, took, within } in &self.seen {
            if *took > *within * length.pick(BUSY, 1) {
                broken.push(format!("{what} in {took:?}, not within {within:?}"));
            }
        }
        broken
    }
}
