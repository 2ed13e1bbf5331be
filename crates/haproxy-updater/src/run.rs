//! The loop: takes changes of what should be ([`DesiredRouting`]), applies them to HAProxy, checks
//! HAProxy, writes its files, and reports to etcd which environments are used and which services
//! drop the header. The first change is
//! applied at once; those that arrive meanwhile are applied together in the next round.

mod checks;
mod counting;
mod filing;
mod locating;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use mayfly_core::keys::Key;
use mayfly_core::names::Hostname;
use mayfly_daemon::advice::Advised;
use mayfly_daemon::failure::retrying;
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::tasks::blocking;
use mayfly_daemon::watch::Batch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::advertise::OPTION;
use crate::apply::Applier;
use crate::args::internal_bind;
use crate::certificates::{self, CertificateTurn, EdgeCertificates};
use crate::desired::DesiredRouting;
use crate::haproxy::sockets::Trouble;
use crate::lost::report::LostReporter;
use crate::reach::Reach;
use crate::report::RouterReport;
use crate::usage::report::UsageReporter;
pub use checks::Checks;
use checks::PeriodicCheck;
pub use counting::TrafficReader;
use filing::Filing;
pub use locating::Locating;

/// A router whose HAProxy is away for longer than this is no longer advertised. One that has never
/// seen its HAProxy waits as long before it logs that.
const AWAY_GRACE: Duration = Duration::from_secs(5);

/// Where this router is, and what follows from that.
pub struct Location {
    /// Finds the address to advertise.
    pub locating: Locating,
    /// The address that the internal side listens at, where it follows the one that is advertised.
    pub listens: Option<IpAddr>,
    /// Which addresses outside are asked.
    pub reach: Reach,
}

/// What reads back from HAProxy, each at a pace of its own.
pub struct Readers {
    /// Which environments were used.
    pub usage: UsageReporter,
    /// Which instances drop the header.
    pub lost: LostReporter,
    /// How many requests each backend got.
    pub traffic: TrafficReader,
}

/// The parts of the daemon, and how its rounds went.
pub struct Run {
    desired: DesiredRouting,
    applier: Applier,
    certificates: Option<EdgeCertificates>,
    readers: Readers,
    report: RouterReport,
    location: Location,
    checks: Checks,
    filing: Filing,
    /// When HAProxy was first found away.
    away_since: Option<Instant>,
    backoff: Backoff,
    next_try: Instant,
    /// Whether HAProxy has been in sync since the start.
    has_been_in_sync: bool,
    /// Whether those of a time when TLS was served were removed since the start.
    has_removed_certificates: bool,
    /// The last failure, to be logged once.
    failure: Option<String>,
}

/// A change of what HAProxy should have.
enum DesiredChange {
    Records(Batch),
    /// A host name has other addresses, or its report has changed.
    Name(Hostname, Option<BTreeSet<IpAddr>>),
    /// The address of this router was looked up.
    Address(anyhow::Result<IpAddr>),
}

impl Run {
    /// A loop that has not begun.
    pub fn new(
        desired: DesiredRouting,
        applier: Applier,
        certificates: Option<EdgeCertificates>,
        readers: Readers,
        report: RouterReport,
        location: Location,
        checks: Checks,
    ) -> Self {
        Self {
            desired,
            applier,
            certificates,
            readers,
            report,
            location,
            checks,
            filing: Filing::new(),
            away_since: None,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(5)),
            next_try: Instant::now(),
            has_been_in_sync: false,
            has_removed_certificates: false,
            failure: None,
        }
    }

    /// Runs until the shutdown begins. Whatever fails is reported and retried.
    ///
    /// # Errors
    /// When a look at the certificates has panicked.
    pub async fn run(mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        loop {
            // Before the first listing nothing is known of any environment.
            let listed = self.desired.revision().is_some();
            tokio::select! {
                () = shutdown.begun() => break,
                batch = self.desired.watch.next_batch_coalesced() => self.change(DesiredChange::Records(batch)).await,
                (name, addresses) = self.desired.follower.next() => self.change(DesiredChange::Name(name, addresses)).await,
                found = self.location.locating.found() => self.change(DesiredChange::Address(found)).await,
                check = self.checks.next(self.applier.has_leaving()) => self.check(check).await,
                turn = self.filing.next(), if listed => {
                    if self.filing.turn(turn, &mut self.applier, self.desired.routing()) {
                        self.publish();
                    }
                }
                turn = self.readers.usage.next(), if listed => self.readers.usage.turn(turn, &mut self.applier).await,
                () = self.readers.lost.next(), if listed => {
                    if self.readers.lost.look(&mut self.applier, self.desired.routing()).await {
                        self.publish();
                    }
                }
                turn = self.readers.traffic.next(), if listed => {
                    self.readers.traffic.turn(turn, &self.applier, || self.readers.usage.last_uses());
                }
                turn = next(self.certificates.as_mut()) => self.certificates_turn(turn).await?,
            }
        }
        // HAProxy goes on as it is, so the router record stays until its lease expires. A restarted
        // updater puts it under its own lease before that.
        if self.desired.revision().is_some() {
            self.filing.end(&mut self.applier, self.desired.routing()).await;
        }
        Ok(())
    }

    /// Takes a change of what HAProxy should have, and applies it.
    async fn change(&mut self, change: DesiredChange) {
        let begun = Instant::now();
        match change {
            DesiredChange::Records(batch) => {
                if self.desired.take(batch, &mut self.readers.usage) {
                    // HAProxy may be waiting for its very first configuration.
                    self.next_try = begun;
                    self.filing.mark_stale();
                }
            }
            DesiredChange::Name(name, Some(addresses)) => self.desired.resolved(&name, addresses),
            DesiredChange::Name(_, None) => return self.publish(),
            DesiredChange::Address(found) => {
                self.located(found);
                // Interfaces come and go, too.
                let rule = self.location.reach.rule(self.report.address);
                if !self.desired.set_rule(rule) || self.desired.revision().is_none() {
                    return;
                }
            }
        }
        self.checks.hurry();
        self.resolve_and_apply(begun).await;
    }

    /// Brings HAProxy in sync with what was taken.
    async fn resolve_and_apply(&mut self, begun: Instant) {
        let touched = self.desired.resolve();
        if !touched.is_empty() {
            self.filing.mark_stale();
            self.applier.note(touched, self.desired.routing());
        }
        let failing = self.failure.is_some() && begun < self.next_try;
        if self.away_since.is_none() && !failing && !self.applier.in_sync() {
            self.apply().await;
            let seconds = begun.elapsed().as_secs_f64();
            self.applier.metrics().apply_seconds.observe(seconds);
        } else {
            self.publish();
        }
    }

    /// Takes the address that was found.
    fn located(&mut self, found: anyhow::Result<IpAddr>) {
        match found {
            Ok(address) if self.report.address.replace(address) != Some(address) => {
                if let Some(doubt) = OPTION.doubt("the names of services resolve to", address) {
                    warn!("{doubt}");
                }
                if let Some(before) = self.location.listens.filter(|before| *before != address) {
                    info!(
                        "the advertised address has changed from {before} to {address}: reloading HAProxy, so that the internal \
                         side listens there"
                    );
                    self.location.listens = Some(address);
                    self.applier.listen_at(internal_bind(address));
                    self.next_try = Instant::now();
                    self.filing.mark_stale();
                }
                self.publish();
            }
            Ok(_) => {}
            Err(error) => warn!("{error:#}; retrying{}", OPTION.remedy(&error)),
        }
    }

    /// Looks at the certificates. With the first one HAProxy begins to serve TLS.
    async fn certificates_turn(&mut self, turn: CertificateTurn) -> anyhow::Result<()> {
        let Some(certificates) = &mut self.certificates else {
            return Ok(());
        };
        let listed = self.desired.revision().is_some();
        let routing = listed.then(|| self.desired.routing());
        let changed = certificates.turn(turn, routing)?;
        let begins = certificates.are_kept() && self.applier.serve_tls();
        // HAProxy may have refused its configuration for the certificates that it found.
        let can_try_again = changed.certificates && self.applier.forget_refusal();
        if begins || can_try_again {
            self.next_try = Instant::now();
            self.filing.mark_stale();
            if listed {
                self.resolve_and_apply(Instant::now()).await;
            }
        } else if changed.status {
            self.publish();
        }
        Ok(())
    }

    async fn check(&mut self, check: PeriodicCheck) {
        match check {
            PeriodicCheck::Process => self.check_process().await,
            PeriodicCheck::Drift if self.desired.revision().is_some() => {
                self.remove_unused_certificates();
                self.filing.look(&self.applier);
                self.desired.follower.look_at_file();
                if self.applier.in_sync() {
                    self.check_drift().await;
                }
            }
            PeriodicCheck::Kept
                if self.applier.in_sync() && self.desired.watch.checked().next().is_some() =>
            {
                self.check_kept().await;
            }
            PeriodicCheck::Outside if self.applier.in_sync() => {
                // No registrar looks after external services.
                let unanswered = self.applier.unanswered_outside(self.desired.routing()).await;
                if unanswered.is_ok_and(|unanswered| self.desired.set_unanswered(unanswered)) {
                    self.publish();
                }
            }
            PeriodicCheck::Leaving => match self.applier.remove_leaving(Instant::now()).await {
                // A slot may have become empty that a backend waits for.
                Ok(true) if self.applier.waiting() > 0 => {
                    self.filing.mark_stale();
                    self.apply().await;
                }
                Ok(_) => {}
                Err(trouble) => self.conclude(Err(trouble.into())),
            },
            PeriodicCheck::Drift | PeriodicCheck::Kept | PeriodicCheck::Outside => {}
        }
    }

    /// Whether HAProxy is still the process that was brought in sync.
    async fn check_process(&mut self) {
        self.report.remind();
        if let Err(Trouble::Away(_)) = self.applier.look().await {
            let since = *self.away_since.get_or_insert_with(Instant::now);
            self.report.away(since.elapsed() > AWAY_GRACE);
            if self.desired.revision().is_some() && self.failure.is_none() && !self.is_starting() {
                let advice = "Start HAProxy; haproxy-updater keeps the configuration files current";
                self.conclude(Err(Advised::new("HAProxy is not running", advice).into()));
            }
            return;
        }
        if self.away_since.take().is_some() {
            self.backoff.reset();
            self.next_try = Instant::now();
        }
        self.applier.retry_refused();
        // Before the first listing nothing is known, and what HAProxy has is better than nothing.
        if self.desired.revision().is_some() && !self.applier.in_sync() && Instant::now() >= self.next_try {
            self.apply().await;
        }
    }

    /// Removes the certificates of a time when TLS was served, once nothing starts from them.
    fn remove_unused_certificates(&mut self) {
        if self.has_removed_certificates || !self.filing.is_current() {
            return;
        }
        if let Some(kept) = self.applier.unused_certificates() {
            self.has_removed_certificates = true;
            let kept = kept.as_path().to_owned();
            // Nothing waits for it; the next start tries again.
            blocking(move || match certificates::kept::remove(&kept) {
                Ok(true) => info!(
                    "TLS is no longer configured: deleted the saved certificates in {}",
                    kept.display()
                ),
                Ok(false) => {}
                Err(error) => warn!("{error:#}"),
            });
        }
    }

    /// Whether another program has changed HAProxy.
    async fn check_drift(&mut self) {
        let routing = self.desired.routing();
        // By the rows that there are now: their number may have grown since they were read last.
        if self.checks.since_verified() < Applier::patience(routing) {
            match self.applier.check_drift(routing).await {
                // There is nothing new to say.
                Ok(false) => {}
                Ok(true) => self.conclude(Ok(())),
                Err(error) => self.conclude(Err(error)),
            }
        } else {
            let verified = self.applier.verify(routing).await;
            self.conclude(verified);
            self.checks.verified();
        }
    }

    /// Whether the instances that are kept answer.
    async fn check_kept(&mut self) {
        let kept = self.desired.watch.checked();
        let servers = |key: &Key| self.desired.index.servers_of_key(key);
        // With HAProxy away, or not in sync yet, nothing is known of them.
        let Ok(health) = self.applier.health(kept, servers).await else {
            return;
        };
        let begun = Instant::now();
        if self.desired.judge(&health, &mut self.readers.usage) {
            self.resolve_and_apply(begun).await;
        }
    }

    /// Whether HAProxy may still be about to start: it waits for its first configuration, or starts
    /// beside this daemon.
    fn is_starting(&self) -> bool {
        let since = self.away_since.unwrap_or_else(Instant::now);
        self.applier.version().is_none() && since.elapsed() < AWAY_GRACE
    }

    async fn apply(&mut self) {
        let routing = self.desired.routing();
        let mut applied = self.applier.apply(routing).await;
        if applied.as_ref().is_err_and(|error| !is_away(error)) && self.backoff.failures() == 0 {
            // Something was not as it was thought to be: everything is read, and planned again.
            self.applier.metrics().failures.inc();
            applied = self.applier.apply(routing).await;
        }
        self.conclude(applied);
    }

    /// Draws the conclusion from a round.
    fn conclude(&mut self, result: anyhow::Result<()>) {
        match result {
            Ok(()) => {
                self.backoff.reset();
                if self.failure.take().is_some() && self.has_been_in_sync {
                    info!("HAProxy is in sync again");
                }
                self.has_been_in_sync = true;
            }
            Err(error) => {
                if is_away(&error) {
                    self.away_since.get_or_insert_with(Instant::now);
                }
                self.next_try = Instant::now() + self.backoff.next_delay();
                self.applier.metrics().failures.inc();
                if !(is_away(&error) && self.is_starting()) {
                    let text = format!("{error:#}");
                    // A reload that failed is logged by the applier.
                    let is_logged = self.failure.as_ref() == Some(&text);
                    if !is_logged && self.applier.refusal() != Some(&text) {
                        warn!("{}", retrying(&error));
                    }
                    self.failure = Some(text);
                }
                // What is on disk may come from a round that did not come to its end.
                self.filing.mark_stale();
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        self.readers.traffic.note(&mut self.applier);
        let problem = self
            .failure
            .as_deref()
            .or(self.applier.refusal())
            .or(self.filing.failure());
        let problem = problem.map(str::to_owned);
        let certificates = self.certificates.as_ref();
        self.report.publish(
            &mut self.desired,
            &self.applier,
            certificates,
            self.readers.lost.list(),
            problem,
        );
    }
}

/// Waits for what is to be done for the certificates; for ever where TLS is not served.
async fn next(certificates: Option<&mut EdgeCertificates>) -> CertificateTurn {
    match certificates {
        Some(certificates) => certificates.next().await,
        None => std::future::pending().await,
    }
}

fn is_away(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Trouble>(), Some(Trouble::Away(_)))
}
