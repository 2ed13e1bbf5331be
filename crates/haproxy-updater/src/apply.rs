//! Keeps HAProxy in sync with the routing: takes what has changed in it, plans, applies, and reads
//! everything again when anything is in doubt. It knows nothing of etcd and of times; the loop
//! around it ([`crate::run`]) says when. Beside it: what needs a reload ([`reload`]), changes by
//! other programs ([`drift`]), results of the checks ([`health`]), servers that wait for the end of
//! their connections ([`leaving`]), HAProxy's notes of use ([`used`]), its counters of calls without
//! an environment ([`calls`]), and what replaced processes still say of both ([`replaced`]).

pub mod calls;
pub mod drift;
pub mod health;
pub mod leaving;
pub mod reload;
pub mod replaced;
pub mod used;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use mayfly_core::explain;
use mayfly_core::haproxy_faults;
use mayfly_core::routing::{Routing, Touched};
use mayfly_core::shorten::counted;
use mayfly_core::version::BackendId;
use mayfly_daemon::retry::Backoff;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::actual::ActualRouting;
use crate::haproxy::files::{self, FilesVersion, HaproxyFiles, Stale, Texts};
use crate::haproxy::maps::Map;
use crate::haproxy::render::Renderer;
use crate::haproxy::rows::slot_row;
use crate::haproxy::slots::{self, Pool};
use crate::haproxy::sockets::{Runtime, Trouble};
use crate::haproxy::tokens::{Bind, ConfigPath, ServerName, Slot, Word};
use crate::haproxy::wanted::Wanted;
use crate::metrics::Metrics;
use crate::plan::{PlanScope, RuntimePlan, plan};

use reload::RefusedConfig;

/// Reading a row from HAProxy and comparing it takes some microseconds, half a thousandth of this:
/// an idle router should take next to no CPU time, however much it routes.
const PATIENCE: Duration = Duration::from_millis(10);

/// What the applier is made of.
pub struct Parts {
    pub renderer: Renderer,
    pub files: HaproxyFiles,
    pub runtime: Runtime,
    pub master: ConfigPath,
    /// How many slots to begin with.
    pub slots: u32,
    /// How a process is recognized that this applier has brought in sync.
    pub token: Word,
    pub metrics: Metrics,
}

/// Whether HAProxy has what it should have.
#[derive(Debug)]
enum SyncState {
    /// It is a process that this applier has not brought in sync yet.
    Unknown,
    /// It is the process that was in sync; what it has now has to be read.
    Doubtful,
    /// It has everything but these changes.
    Behind(Touched),
    InSync,
}

pub struct Applier {
    parts: Parts,
    pool: Pool,
    sync: SyncState,
    /// What HAProxy has, as it was last known.
    actual: ActualRouting,
    /// Backends that wait for a slot.
    waiting: BTreeSet<BackendId>,
    /// Those of them that the log has counted.
    logged_waiting: BTreeSet<BackendId>,
    /// Servers that wait for the end of their connections.
    leaving: leaving::LeavingServers,
    /// Servers behind TLS that HAProxy cannot have, since it has not loaded the authorities.
    untrusted: BTreeSet<(Slot, ServerName)>,
    /// Rows beyond those that there should be, which do no harm.
    surplus: BTreeMap<Map, i64>,
    refusal: Option<RefusedConfig>,
    /// When a refused configuration is tried again.
    retries: Backoff,
    /// When HAProxy's process was replaced last.
    replaced_at: Option<Instant>,
    uses: used::SavedUses,
    lost: calls::SavedCalls,
    /// HAProxy's version, once it has answered.
    version: Option<String>,
    /// How many states were made for the disk.
    states: u64,
    /// The files that the next one has to bring.
    stale: Stale,
}

impl Applier {
    /// An applier that takes over the slots as they are on disk.
    pub fn new(parts: Parts) -> Self {
        let mut pool = Pool::new(parts.slots.max(parts.files.present_total()));
        pool.adopt(&parts.files.present_slots());
        Self {
            parts,
            pool,
            sync: SyncState::Unknown,
            actual: ActualRouting::default(),
            waiting: BTreeSet::new(),
            logged_waiting: BTreeSet::new(),
            leaving: leaving::LeavingServers::new(),
            untrusted: BTreeSet::new(),
            surplus: BTreeMap::new(),
            refusal: None,
            retries: reload::retries(),
            replaced_at: None,
            uses: used::SavedUses::default(),
            lost: calls::SavedCalls::default(),
            version: None,
            states: 0,
            stale: Stale::all(),
        }
    }

    fn wanted<'a>(&'a self, routing: &'a Routing) -> Wanted<'a> {
        let settings = self.parts.renderer.settings();
        Wanted {
            routing,
            pool: &self.pool,
            default_environment: settings.default_environment.as_ref(),
            ca_file: &settings.ca_file,
        }
    }

    /// Takes what has changed in what HAProxy should have.
    pub fn note(&mut self, touched: Touched, routing: &Routing) {
        self.stale.note(&touched, routing);
        if touched.is_empty() {
            return;
        }
        match &mut self.sync {
            // All is going to be read.
            SyncState::Unknown | SyncState::Doubtful => {}
            SyncState::Behind(earlier) => earlier.extend(touched),
            SyncState::InSync => self.sync = SyncState::Behind(touched),
        }
    }

    /// What HAProxy has has to be read, unless it has to be anyway.
    fn doubt(&mut self) {
        if !matches!(self.sync, SyncState::Unknown) {
            self.sync = SyncState::Doubtful;
        }
    }

    fn is_known(&self) -> bool {
        matches!(self.sync, SyncState::Behind(_) | SyncState::InSync)
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether HAProxy is known to have all that was resolved.
    pub fn in_sync(&self) -> bool {
        matches!(self.sync, SyncState::InSync)
    }

    /// HAProxy's version, once it has answered.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Backends for which there is no slot yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What is wrong with the authorities, if servers behind TLS are left out for want of them.
    pub fn distrust(&self) -> Option<String> {
        let count = self.untrusted.len();
        let ca_file = &self.parts.renderer.settings().ca_file;
        (count > 0).then(|| {
            let next = match ca_file.path() {
                Some(_) => "Make the template load it (see `haproxy-updater template`)",
                None => {
                    "Install ca-certificates where HAProxy runs and restart HAProxy, or set \
                     --ca-file to a PEM file of authorities"
                }
            };
            format!(
                "no requests go to {} behind TLS, because HAProxy has not loaded {ca_file}. {next}",
                counted(count, "server")
            )
        })
    }

    /// The settings that decide where a request goes, for `mayfly explain`.
    pub fn settings(&self) -> explain::Settings {
        let settings = self.parts.renderer.settings();
        explain::Settings {
            domain: settings.domain.clone(),
            default_environment: settings.default_environment.clone(),
            allow_header_at_edge: settings.allow_header_at_edge,
            share_links: settings.share_links,
            health_path: Some(settings.health_path.to_string()),
            redirect_to_https: settings.tls.redirects_to(),
        }
    }

    /// The internal side is to listen here from now on: the next round sees to it.
    pub fn listen_at(&mut self, internal: Bind) {
        self.parts.renderer.listen_at(internal);
        self.doubt();
    }

    /// There are certificates from now on: the next round makes HAProxy listen for TLS. Says
    /// whether there were none.
    pub fn serve_tls(&mut self) -> bool {
        let is_new = self.parts.renderer.serve_tls(true);
        if is_new {
            self.doubt();
        }
        is_new
    }

    /// Where certificates are kept, once HAProxy neither serves TLS nor starts with TLS listeners:
    /// those that lie there are of no use.
    pub fn unused_certificates(&self) -> Option<&ConfigPath> {
        let tls = &self.parts.renderer.settings().tls;
        let is_settled = self.in_sync() && self.refusal.is_none();
        (tls.binds.is_empty() && is_settled).then_some(&tls.certificates)
    }

    pub fn files(&self) -> &HaproxyFiles {
        &self.parts.files
    }

    pub fn runtime(&self) -> &Runtime {
        &self.parts.runtime
    }

    /// The socket of its master process.
    pub fn master(&self) -> &ConfigPath {
        &self.parts.master
    }

    pub fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    /// Brings HAProxy in sync with the routing.
    ///
    /// # Errors
    /// When HAProxy is away or did not do what it was asked; everything is then in doubt, and the
    /// next call reads it.
    pub async fn apply(&mut self, routing: &Routing) -> anyhow::Result<()> {
        let result = match &self.sync {
            SyncState::Unknown | SyncState::Doubtful => self.read_and_repair(routing, false).await,
            SyncState::Behind(_) | SyncState::InSync => self.catch_up(routing).await,
        };
        self.end_round(result, routing).await
    }

    /// Ends a round that came so far.
    async fn end_round(&mut self, result: anyhow::Result<()>, routing: &Routing) -> anyhow::Result<()> {
        let result = match result {
            Ok(()) => self.grow_if_needed(routing).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.doubt();
        }
        result
    }

    /// Makes the changes that HAProxy does not have yet.
    async fn catch_up(&mut self, routing: &Routing) -> anyhow::Result<()> {
        let mut touched = match std::mem::replace(&mut self.sync, SyncState::InSync) {
            SyncState::Behind(touched) => touched,
            _ => Touched::default(),
        };
        self.allot(routing, &mut touched, false, true);
        let plan = plan(PlanScope::Touched(&touched), &self.wanted(routing), &self.actual);
        Ok(self.carry_out(plan).await?)
    }

    /// Looks whether HAProxy is still the process that this applier has brought in sync; else
    /// everything is in doubt.
    ///
    /// # Errors
    /// When HAProxy is away or cannot be understood; everything is then in doubt.
    pub async fn look(&mut self) -> Result<(), Trouble> {
        let knows = self.parts.runtime.knows(&self.parts.token).await;
        self.parts
            .metrics
            .haproxy_up
            .set(i64::from(!matches!(knows, Err(Trouble::Away(_)))));
        match knows {
            Ok(true) => Ok(()),
            Ok(false) => {
                if !matches!(
                    std::mem::replace(&mut self.sync, SyncState::Unknown),
                    SyncState::Unknown
                ) {
                    self.replaced();
                    info!("HAProxy was restarted by another program: bringing it in sync");
                    // The reason why it refused the configuration may be gone.
                    self.refusal = None;
                    self.retries.reset();
                }
                Ok(())
            }
            Err(trouble) => {
                if self.is_known() {
                    warn!("{trouble}");
                }
                self.doubt();
                Err(trouble)
            }
        }
    }

    /// How long to wait at least before HAProxy is read again without a reason.
    pub fn patience(routing: &Routing) -> Duration {
        let rows = u32::try_from(routing.len()).unwrap_or(u32::MAX);
        PATIENCE.saturating_mul(rows)
    }

    /// Reads all that HAProxy has and repairs every difference.
    ///
    /// # Errors
    /// As [`Applier::apply`].
    pub async fn verify(&mut self, routing: &Routing) -> anyhow::Result<()> {
        self.forget_hindrance();
        let undisturbed = self.in_sync();
        let result = self.read_and_repair(routing, undisturbed).await;
        self.end_round(result, routing).await
    }

    /// Reads all that HAProxy has and repairs every difference. With `undisturbed`, it is the
    /// process that was in sync and nothing was to be changed: then another program has made the
    /// difference.
    async fn read_and_repair(&mut self, routing: &Routing, undisturbed: bool) -> anyhow::Result<()> {
        self.doubt();
        self.surplus.clear();
        let info = self.parts.runtime.info().await?;
        self.note_version(info.version);
        let fingerprint = self.parts.renderer.fingerprint(self.pool.total())?;
        if info.description != fingerprint.description() {
            self.settings_differ(&fingerprint, routing).await?;
        }
        self.actual = ActualRouting::read(&self.parts.runtime).await?;
        self.adopt();
        self.allot_all(routing, true);
        let plan = plan(PlanScope::Everything, &self.wanted(routing), &self.actual);
        if undisturbed && !plan.commands.is_empty() {
            warn!(
                "another program has changed HAProxy's tables or servers: undoing this with {}",
                counted(plan.commands.len(), "command")
            );
            self.parts
                .metrics
                .drift_repairs
                .inc_by(plan.commands.len() as u64);
        }
        if !undisturbed || !plan.commands.is_empty() {
            self.stale = Stale::all();
        }
        // What is gone altogether no plan looks at.
        let servers = &self.actual.servers;
        self.leaving.retain(|(slot, _), _| servers.contains_key(slot));
        self.untrusted.clear();
        self.carry_out(plan).await?;
        if !self.parts.runtime.knows(&self.parts.token).await? {
            self.parts.runtime.mark(&self.parts.token).await?;
        }
        self.sync = SyncState::InSync;
        Ok(())
    }

    fn note_version(&mut self, version: String) {
        if self.version.as_ref() != Some(&version) {
            for fault in haproxy_faults::known(&version) {
                info!("{fault}");
            }
            self.version = Some(version);
        }
    }

    /// Takes over the slots that HAProxy's map gives.
    fn adopt(&mut self) {
        let rows = self.actual.rows.get(&Map::Slots).into_iter().flatten();
        let rows = rows.filter_map(|(backend, slot)| slot_row(backend, slot));
        self.pool.adopt(&rows.collect::<Vec<_>>());
    }

    /// Gives and takes slots for the backends that were touched, or for all. A slot that is known
    /// to hold servers of its former backend still is not given on.
    fn allot(&mut self, routing: &Routing, touched: &mut Touched, everything: bool, known: bool) {
        let is_empty = |slot: Slot| !known || !self.actual.servers.contains_key(&slot);
        slots::allot(
            &mut self.pool,
            routing,
            touched,
            &mut self.waiting,
            everything,
            is_empty,
        );
        // What was resolved is noted already; what was given and taken is among the touched
        // backends, too.
        self.stale.note(touched, routing);
        self.parts.metrics.slots_total.set(self.pool.total().into());
        self.parts.metrics.slots_free.set(self.pool.free().into());
    }

    fn allot_all(&mut self, routing: &Routing, known: bool) {
        self.allot(routing, &mut Touched::default(), true, known);
    }

    async fn carry_out(&mut self, plan: RuntimePlan) -> Result<(), Trouble> {
        for text in &plan.refused {
            warn!("cannot send {text:?} to HAProxy: it has characters that no command may contain");
        }
        self.parts.runtime.run(&plan.commands).await?;
        for command in &plan.commands {
            self.actual.play(command);
        }
        self.actual.forget_tables();
        self.note_leaving(&plan.slots, plan.leaving);
        let distrust = self.distrust();
        self.untrusted.retain(|(slot, _)| !plan.slots.contains(slot));
        self.untrusted.extend(plan.untrusted);
        if let Some(text) = self.distrust().filter(|text| distrust.as_ref() != Some(text)) {
            warn!("{text}");
        }
        Ok(())
    }

    /// Another program has changed files: the next state has to bring them again.
    pub fn note_damage(&mut self, damage: Stale) {
        self.stale.extend(damage);
    }

    /// The state that should be on disk. While HAProxy refuses this configuration, that is the last
    /// good one; `None` where there was none.
    ///
    /// # Errors
    /// When the template cannot be rendered.
    pub fn state(&mut self, routing: &Routing) -> anyhow::Result<Option<FilesVersion>> {
        if !self.is_known() {
            // HAProxy is away: what was resolved has not been given slots yet.
            self.allot_all(routing, false);
        }
        let fingerprint = self.parts.renderer.fingerprint(self.pool.total())?;
        let refusal = self.refusal.as_ref();
        if let Some(refusal) = refusal.filter(|refusal| refusal.forbids(&fingerprint)) {
            let texts = refusal.good.clone().map(|good| Texts {
                config: Some(good),
                maps: BTreeMap::new(),
            });
            self.states += u64::from(texts.is_some());
            let number = self.states;
            return Ok(texts.map(|texts| FilesVersion { number, texts }));
        }
        self.next_state(routing).map(Some)
    }

    /// A state could not be written: the next one has to bring all files.
    pub fn distrust_files(&mut self) {
        self.stale = Stale::all();
    }

    fn next_state(&mut self, routing: &Routing) -> anyhow::Result<FilesVersion> {
        // HAProxy starts without the authorities of the system, but not with a server that asks for
        // them.
        let ca_file = &self.parts.renderer.settings().ca_file;
        let tls = ca_file.path().is_some() || self.actual.ca_files.contains(ca_file.as_str());
        let texts = files::texts(&self.parts.renderer, &self.wanted(routing), &self.stale, tls)?;
        self.stale = Stale::default();
        self.states += 1;
        Ok(FilesVersion {
            number: self.states,
            texts,
        })
    }
}

/// Writes files where blocking is allowed, and says which others are damaged.
///
/// # Errors
/// As [`HaproxyFiles::write`].
pub async fn write(files: &HaproxyFiles, state: FilesVersion) -> anyhow::Result<Stale> {
    let files = files.clone();
    mayfly_daemon::tasks::blocking(move || files.write(state))
        .await
        .context("the task that writes HAProxy's files failed")?
}

/// Puts a configuration back that was good, where blocking is allowed: `haproxy -c` may be running
/// for another state meanwhile, and it needs this thread to come to an end.
///
/// # Errors
/// As [`HaproxyFiles::restore`].
async fn restore(files: &HaproxyFiles, good: String) -> anyhow::Result<()> {
    let files = files.clone();
    mayfly_daemon::tasks::blocking(move || files.restore(&good))
        .await
        .context("the task that restores haproxy.cfg failed")?
}
