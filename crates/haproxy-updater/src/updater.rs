//! The loop around the engine: when to apply, to look, to verify, to write the files and to see servers off, and what
//! to say of it in etcd. The first change is applied at once; what arrives meanwhile is taken together in the next
//! round.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mayfly_core::keys::{Daemon, Key};
use mayfly_core::names::NodeName;
use mayfly_core::records::{self, Router};
use mayfly_core::version::BackendId;
use mayfly_daemon::admin::Readiness;
use mayfly_daemon::args::Endpoint;
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::status::StatusReporter;
use mayfly_daemon::watch::{Batch, Change, Watch};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

use crate::advertise::Advertised;
use crate::args::internal_bind;
use crate::engine::{Engine, write};
use crate::follow::Follower;
use crate::guard::{Guard, Health};
use crate::reach::Reach;
use crate::runtime::Trouble;
use crate::uses::report::Reporter;

/// The files are written when nothing has changed for this long,
const QUIET: Duration = Duration::from_millis(200);
/// or when the first change that they lack is this old.
const STALE: Duration = Duration::from_secs(5);
/// A router whose HAProxy is away for longer is no longer advertised.
const AWAY_GRACE: Duration = Duration::from_secs(5);
/// How often the checks are asked about what the guard keeps.
const JUDGE: Duration = Duration::from_millis(500);
/// How often they are asked about services outside.
const OUTSIDE: Duration = Duration::from_secs(2);
/// How often a name to advertise is looked up again.
const RELOCATE: Duration = Duration::from_secs(30);

/// Keys that the guard keeps of which the status record tells at most; who finds fewer than there are takes all for kept.
const MOST_KEPT: usize = 500;
/// Missing services that the status record tells of at most; it counts them all.
const MOST_MISSING: usize = 20;

/// The times that the operator sets.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How often to look whether HAProxy is still the same process.
    pub look: Duration,
    /// How often to look whether somebody else has changed it.
    pub verify: Duration,
}

/// What the loop says of itself, and where.
pub struct Voice {
    /// Keeps the keys in etcd.
    pub advertiser: Advertiser,
    /// The status record.
    pub status: StatusReporter,
    /// `/readyz`.
    pub readiness: Readiness,
    /// This node.
    pub node: NodeName,
    /// Where the internal side is.
    pub advertised: Advertised,
    /// The address that the internal side listens at, where it follows the one that is advertised.
    pub listens: Option<IpAddr>,
    /// Where etcd is, to find the interface that leads there.
    pub endpoints: Vec<Endpoint>,
    /// Which addresses outside are asked, depending on where this router is.
    pub reach: Reach,
}

/// The loop's state.
pub struct Updater {
    guard: Guard,
    engine: Engine,
    follower: Follower,
    voice: Voice,
    times: Times,
    reporter: Reporter,
    /// The revision up to which the index knows everything.
    revision: Option<i64>,
    /// When HAProxy was first found away.
    away_since: Option<Instant>,
    backoff: Backoff,
    next_try: Instant,
    /// When the files began to lack something, and when they last began to lack more.
    stale: Option<(Instant, Instant)>,
    writing: Option<JoinHandle<anyhow::Result<()>>>,
    write_backoff: Backoff,
    /// Not before: writing has failed just now.
    next_write: Instant,
    /// Where this router is, as last found.
    address: Option<IpAddr>,
    /// Whether the router record stands in etcd.
    is_advertised: bool,
    /// The last failure, to be told once.
    failure: Option<String>,
    file_failure: Option<String>,
    /// What the guard keeps, as it was told last.
    alarm: Option<String>,
    /// Services outside of which HAProxy's check finds every server dead.
    unanswered: BTreeSet<BackendId>,
}

impl Updater {
    /// A loop that has not begun.
    pub fn new(
        guard: Guard,
        engine: Engine,
        follower: Follower,
        reporter: Reporter,
        voice: Voice,
        times: Times,
    ) -> Self {
        Self {
            guard,
            engine,
            follower,
            voice,
            times,
            reporter,
            revision: None,
            away_since: None,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(5)),
            next_try: Instant::now(),
            stale: None,
            writing: None,
            // Where there is room again, the files are current soon.
            write_backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
            next_write: Instant::now(),
            address: None,
            is_advertised: false,
            failure: None,
            file_failure: None,
            alarm: None,
            unanswered: BTreeSet::new(),
        }
    }

    /// Runs until it is told to end.
    ///
    /// # Errors
    /// None at present: whatever fails is tried again, and said.
    pub async fn run(mut self, mut watch: Watch, shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut look = interval(self.times.look);
        let mut verified_at = Instant::now();
        let mut verify = interval(self.times.verify);
        let mut relocate = interval(RELOCATE);
        let mut judge = interval(JUDGE);
        let mut outside = interval(OUTSIDE);
        for ticks in [&mut look, &mut verify, &mut relocate, &mut judge, &mut outside] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut see_off = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut see_off_at = Instant::now();
        loop {
            let write_at = self
                .stale
                .map(|(first, last)| (first + STALE).min(last + QUIET).max(self.next_write));
            tokio::select! {
                () = shutdown.begun() => break,
                batch = watch.next_batch_coalesced() => {
                    self.take(batch).await;
                    see_off.reset();
                    see_off_at = Instant::now();
                }
                (name, addresses) = self.follower.next() => {
                    match addresses {
                        Some(addresses) => {
                            self.engine.index.resolved(&name, addresses);
                            self.changed(Instant::now()).await;
                            see_off.reset();
                            see_off_at = Instant::now();
                        }
                        // Only what is to be said of it has changed.
                        None => self.publish(),
                    }
                }
                _ = look.tick() => self.look().await,
                _ = verify.tick(), if self.engine.in_step() => {
                    // By the rows that there are now: their number may have grown since they were read last.
                    if verified_at.elapsed() < self.engine.patience() {
                        match self.engine.glance().await {
                            // There is nothing new to tell.
                            Ok(false) => {}
                            Ok(true) => self.conclude(Ok(())),
                            Err(error) => self.conclude(Err(error)),
                        }
                    } else {
                        let verified = self.engine.verify().await;
                        self.conclude(verified);
                        verified_at = Instant::now();
                    }
                }
                _ = judge.tick(), if self.engine.in_step() && self.guard.held_instances().next().is_some() => self.judge().await,
                _ = outside.tick(), if self.engine.in_step() => self.ask_of_outside().await,
                _ = relocate.tick() => self.relocate().await,
                () = sleep_until(write_at.unwrap_or_else(Instant::now)), if write_at.is_some() && self.writing.is_none() => {
                    self.begin_to_write();
                }
                written = finished(&mut self.writing), if self.writing.is_some() => {
                    self.writing = None;
                    self.told_of_files(written);
                }
                // Before the first listing nothing is known of any environment.
                () = sleep_until(self.reporter.next()), if self.revision.is_some() => {
                    self.reporter.look(&mut self.engine).await;
                }
                outcome = self.reporter.ended(), if self.reporter.is_under_way() => {
                    self.reporter.conclude(outcome, &mut self.engine).await;
                }
                () = sleep_until(see_off_at), if self.engine.has_leaving() => {
                    self.see_off().await;
                    see_off_at = Instant::now() + see_off.next_delay().max(Duration::from_millis(20));
                }
            }
        }
        self.end().await;
        Ok(())
    }

    async fn take(&mut self, batch: Batch) {
        let begun = Instant::now();
        let revision = batch.revision;
        if self.revision.is_some_and(|before| revision < before) {
            self.engine.index.age();
        }
        let changes = self.guard.filter(batch, begun);
        self.tell(changes);
        if self.revision.replace(revision).is_none() {
            // HAProxy may be waiting for its very first configuration.
            self.next_try = begun;
            self.mark_stale();
        }
        self.changed(begun).await;
    }

    /// Tells the index what the guard lets through.
    fn tell(&mut self, changes: Vec<Change>) {
        self.pass_on(changes);
        let gone = self.guard.let_go(|key| self.engine.index.is_superseded(key));
        self.pass_on(gone);
        let alarm = self.guard.alarm();
        let held = i64::try_from(self.guard.held()).unwrap_or(i64::MAX);
        let before = self.engine.metrics().guard_held.set(held);
        match &alarm {
            Some(alarm) if held > before => warn!("{alarm}; if it is meant: mayfly confirm haproxy-updater"),
            None if before > 0 => info!("nothing is kept any more that etcd has lost"),
            _ => {}
        }
        self.alarm = alarm;
    }

    fn pass_on(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.reporter.take(&change);
            match change {
                Change::Put(entry) => self.engine.index.put(&entry.key, &entry.value, entry.revision()),
                Change::Delete { key } => self.engine.index.delete(&key),
            }
        }
    }

    /// Asks HAProxy's checks about the instances that the guard keeps.
    async fn judge(&mut self) {
        // With HAProxy away, or not in step yet, nothing is known of them.
        let Ok(health) = self.engine.health(self.guard.held_instances()).await else {
            return;
        };
        let begun = Instant::now();
        let of = |key: &str| health.get(key).copied().unwrap_or(Health::Unchecked);
        let gone = self.guard.judge(of, begun);
        if !gone.is_empty() {
            self.tell(gone);
            self.changed(begun).await;
        }
    }

    /// Asks HAProxy's checks about services outside, which no registrar looks after.
    async fn ask_of_outside(&mut self) {
        let Ok(unanswered) = self.engine.unanswered_outside().await else {
            return;
        };
        if unanswered != self.unanswered {
            self.engine.index.set_unanswered(&unanswered);
            self.unanswered = unanswered;
            self.publish();
        }
    }

    /// Brings HAProxy in step with what the index was told.
    async fn changed(&mut self, begun: Instant) {
        if self.engine.resolve() {
            self.mark_stale();
        }
        let known = self.follower.need(self.engine.index.host_names());
        if !known.is_empty() {
            for (name, addresses) in known {
                self.engine.index.resolved(&name, addresses);
            }
            self.engine.resolve();
        }
        let failing = self.failure.is_some() && begun < self.next_try;
        if self.away_since.is_none() && !failing && !self.engine.in_step() {
            self.apply().await;
            self.engine
                .metrics()
                .apply_seconds
                .observe(begun.elapsed().as_secs_f64());
        } else {
            self.publish();
        }
    }

    fn mark_stale(&mut self) {
        let now = Instant::now();
        let first = self.stale.map_or(now, |(first, _)| first);
        self.stale = Some((first, now));
    }

    async fn look(&mut self) {
        if let Err(Trouble::Away(_)) = self.engine.look().await {
            let since = *self.away_since.get_or_insert_with(Instant::now);
            self.voice.readiness.set_not_ready();
            if self.is_advertised && since.elapsed() > AWAY_GRACE {
                warn!("haproxy is away: this router is no longer advertised");
                self.is_advertised = false;
                self.voice
                    .advertiser
                    .set(Key::Router(self.voice.node.clone()), None);
            }
            if self.revision.is_some() && self.failure.is_none() {
                self.conclude(Err(anyhow::anyhow!(
                    "haproxy does not run; the files are kept current"
                )));
            }
            return;
        }
        if self.away_since.take().is_some() {
            self.backoff.reset();
            self.next_try = Instant::now();
        }
        // Before the first listing nothing is known, and what HAProxy has is better than nothing.
        if self.revision.is_some() && !self.engine.in_step() && Instant::now() >= self.next_try {
            self.apply().await;
        }
    }

    async fn apply(&mut self) {
        let mut applied = self.engine.apply().await;
        if applied.as_ref().is_err_and(|error| !is_away(error)) && self.backoff.failures() == 0 {
            // Something was not as it was thought to be: everything is read, and planned again.
            self.engine.metrics().failures.inc();
            applied = self.engine.apply().await;
        }
        self.conclude(applied);
    }

    /// Draws the conclusion from a round.
    fn conclude(&mut self, result: anyhow::Result<()>) {
        match result {
            Ok(()) => {
                self.backoff.reset();
                if self.failure.take().is_some() {
                    info!("haproxy is in step again");
                }
            }
            Err(error) => {
                if is_away(&error) {
                    self.away_since.get_or_insert_with(Instant::now);
                }
                self.next_try = Instant::now() + self.backoff.next_delay();
                self.engine.metrics().failures.inc();
                let text = format!("{error:#}");
                if self.failure.as_ref() != Some(&text) {
                    warn!("{text}; trying again");
                }
                self.failure = Some(text);
                // What is on disk may come from a round that did not come to its end.
                self.mark_stale();
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        let Some(revision) = self.revision else { return };
        let missing = self.engine.missing(MOST_MISSING);
        let pool = self.engine.pool();
        let failing = self.follower.failures();
        let failing: BTreeMap<&str, &str> = failing.map(|(name, reason)| (name.as_str(), reason)).collect();
        let nameless: Vec<_> = self.engine.index.host_names_without_address().collect();
        let detail = json!({
            "haproxy_version": self.engine.version(),
            "reloads": self.engine.metrics().reloads.get(),
            "slots_total": pool.total(),
            "slots_used": pool.used(),
            "backends_without_slot": self.engine.waiting(),
            "host_names": self.follower.len(),
            "host_names_failing": failing,
            "host_names_without_address": nameless,
            "host_names_refused": self.engine.index.refused_host_names(),
            "address_rule": self.engine.index.rule(),
            "missing": missing,
            "guard": self.alarm,
            "guard_keeps": self.guard.keeps().take(MOST_KEPT).collect::<Vec<_>>(),
            "guard_keeps_all": self.guard.held() <= MOST_KEPT,
            "not_answering": self.unanswered.iter().take(MOST_MISSING).map(ToString::to_string).collect::<Vec<_>>(),
            "settings": self.engine.settings(),
        });
        if self.engine.in_step() {
            self.voice.status.applied(revision, self.engine.index.set_aside());
            if !self.voice.readiness.is_ready() {
                info!(revision, "in step with etcd");
                self.voice.readiness.set_ready();
            }
            if let Some(address) = self.address {
                let haproxy_version = self.engine.version().unwrap_or_default().to_owned();
                let router = Router {
                    address,
                    haproxy_version,
                };
                self.is_advertised = true;
                self.voice.advertiser.set(
                    Key::Router(self.voice.node.clone()),
                    Some(records::to_json(&router)),
                );
            }
        }
        let error = self
            .failure
            .as_deref()
            .or(self.engine.refusal())
            .or(self.file_failure.as_deref())
            .or(self.alarm.as_deref())
            .map(str::to_owned)
            .or_else(|| self.engine.distrust());
        self.voice.status.update(|status| {
            status.error = error;
            if let serde_json::Value::Object(detail) = detail {
                status.detail = detail;
            }
        });
    }

    async fn relocate(&mut self) {
        match self.voice.advertised.locate(&self.voice.endpoints).await {
            Ok(address) if self.address.replace(address) != Some(address) => {
                if let Some(before) = self.voice.listens.filter(|before| *before != address) {
                    info!("the internal side moves from {before} to {address}, which is to be advertised");
                    self.voice.listens = Some(address);
                    self.engine.listen_at(internal_bind(address));
                    self.next_try = Instant::now();
                    self.mark_stale();
                }
                self.publish();
            }
            Ok(_) => {}
            Err(error) => warn!("{error:#}"),
        }
        // Interfaces come and go, too.
        let rule = self.voice.reach.rule(self.address);
        if *self.engine.index.rule() != rule {
            self.engine.index.set_rule(rule);
            // Before the first listing nothing is known, and what HAProxy has is better than nothing.
            if self.revision.is_some() {
                self.changed(Instant::now()).await;
            }
        }
    }

    fn begin_to_write(&mut self) {
        self.stale = None;
        match self.engine.state() {
            Ok(Some(state)) => {
                let files = self.engine.files().clone();
                self.writing = Some(tokio::spawn(async move { write(&files, state).await }));
            }
            Ok(None) => {}
            Err(error) => self.told_of_files(Err(error)),
        }
    }

    fn told_of_files(&mut self, written: anyhow::Result<()>) {
        let failure = written
            .err()
            .map(|error| format!("cannot write the files of haproxy: {error:#}"));
        match &failure {
            None => self.write_backoff.reset(),
            Some(text) => {
                if self.file_failure.as_ref() != Some(text) {
                    warn!("{text}; trying again");
                }
                self.engine.distrust_files();
                self.mark_stale();
                self.next_write = Instant::now() + self.write_backoff.next_delay();
            }
        }
        if failure != self.file_failure {
            self.file_failure = failure;
            self.publish();
        }
    }

    async fn see_off(&mut self) {
        match self.engine.see_off(Instant::now()).await {
            // A slot may have become empty that somebody waits for.
            Ok(true) if self.engine.waiting() > 0 => self.apply().await,
            Ok(_) => {}
            Err(trouble) => self.conclude(Err(trouble.into())),
        }
    }

    /// Leaves the files current. HAProxy goes on as it is, so the router record stays until its lease runs out: an
    /// updater that is started anew puts it under a lease of its own before.
    async fn end(&mut self) {
        if let Some(writing) = self.writing.take() {
            self.told_of_files(writing.await.unwrap_or_else(|error| Err(error.into())));
        }
        if self.stale.is_some() && self.revision.is_some() {
            if let Ok(Some(state)) = self.engine.state() {
                let written = write(self.engine.files(), state).await;
                self.told_of_files(written);
            }
        }
    }
}

fn is_away(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Trouble>(), Some(Trouble::Away(_)))
}

/// The key of this daemon's status.
pub const DAEMON: Daemon = Daemon::HaproxyUpdater;

async fn finished(writing: &mut Option<JoinHandle<anyhow::Result<()>>>) -> anyhow::Result<()> {
    match writing {
        Some(handle) => handle.await.unwrap_or_else(|error| Err(error.into())),
        None => std::future::pending().await,
    }
}
