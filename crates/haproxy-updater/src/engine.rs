//! Keeps HAProxy in step with the routing: takes batches of changes, plans, applies, and reads everything again when
//! anything is in doubt. It knows no etcd and decides no times; the loop around it ([`crate::updater`]) says when.
//! Beside it: what needs a reload ([`reload`]), what somebody else has changed ([`glance`]), what the checks found ([`health`]),
//! servers that have to wait for their connections ([`leaving`]), and what HAProxy has noted of use ([`used`]).

pub mod glance;
pub mod health;
pub mod leaving;
pub mod reload;
pub mod used;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use mayfly_core::explain;
use mayfly_core::index::{Index, Shortage};
use mayfly_core::names::EnvironmentName;
use mayfly_core::routing::Touched;
use mayfly_core::version::BackendId;
use tracing::{info, warn};

use crate::files::{self, Files, Stale, Version};
use crate::metrics::Metrics;
use crate::model::{Actual, Map};
use crate::plan::{Plan, Scope, Wanted, plan};
use crate::render::Renderer;
use crate::runtime::{Runtime, Trouble};
use crate::slots::{self, Pool};
use crate::text::{Bind, ConfigPath, ServerName, Slot, Word};

use reload::Refusal;

/// Reading a row from HAProxy and comparing it takes some microseconds: half a thousandth of this, for an idle router is to
/// take next to no CPU time, however much it routes.
const PATIENCE: Duration = Duration::from_millis(10);

/// What the engine is made of.
pub struct Parts {
    /// Makes the configuration.
    pub renderer: Renderer,
    /// The shared directory.
    pub files: Files,
    /// HAProxy's run-time socket.
    pub runtime: Runtime,
    /// HAProxy's master socket.
    pub master: ConfigPath,
    /// How many slots to begin with.
    pub slots: u32,
    /// How a process is known again that this engine has brought in step.
    pub token: Word,
    /// Where to count.
    pub metrics: Metrics,
}

/// Keeps HAProxy in step.
pub struct Engine {
    parts: Parts,
    /// All records, and the routing that follows.
    pub index: Index,
    pool: Pool,
    /// Changes that HAProxy has not been told of.
    touched: Touched,
    /// What HAProxy has, if that is known.
    actual: Actual,
    known: bool,
    /// Whether the process that was last seen knows the token.
    told: bool,
    /// Backends that wait for a slot.
    waiting: BTreeSet<BackendId>,
    /// Servers that wait for the end of their connections.
    leaving: leaving::Leaving,
    /// Servers behind TLS that HAProxy cannot have, since it has not loaded the authorities.
    untrusted: BTreeSet<(Slot, ServerName)>,
    /// Rows beyond those that there should be, which do no harm.
    surplus: BTreeMap<Map, i64>,
    refusal: Option<Refusal>,
    replaced: used::Replaced,
    /// HAProxy's version, once it has answered.
    version: Option<String>,
    /// How many states were made for the disk.
    states: u64,
    /// The files that the next one has to bring.
    stale: Stale,
}

impl Engine {
    /// An engine that takes over the slots as they are on disk.
    pub fn new(parts: Parts, index: Index) -> Self {
        let mut pool = Pool::new(parts.slots.max(parts.files.present_total()));
        pool.adopt(&parts.files.present_slots());
        Self {
            parts,
            index,
            pool,
            touched: Touched::default(),
            actual: Actual::default(),
            known: false,
            told: false,
            waiting: BTreeSet::new(),
            leaving: leaving::Leaving::new(),
            untrusted: BTreeSet::new(),
            surplus: BTreeMap::new(),
            refusal: None,
            replaced: used::Replaced::default(),
            version: None,
            states: 0,
            stale: Stale::all(),
        }
    }

    fn wanted(&self) -> Wanted<'_> {
        let default_environment: Option<&EnvironmentName> =
            self.parts.renderer.settings().default_environment.as_ref();
        Wanted {
            routing: self.index.routing(),
            pool: &self.pool,
            default_environment,
            ca_file: &self.parts.renderer.settings().ca_file,
        }
    }

    /// Resolves what the index was told. Says whether anything has changed.
    pub fn resolve(&mut self) -> bool {
        let touched = self.index.resolve();
        let changed = !touched.is_empty();
        self.stale.note(&touched);
        self.touched.extend(touched);
        changed
    }

    /// The pool of slots.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether HAProxy is known to have all that was resolved.
    pub fn in_step(&self) -> bool {
        self.known && self.touched.is_empty()
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
                Some(_) => "does the configuration load it (see `haproxy-updater template`)?",
                None => "install ca-certificates where HAProxy runs and restart HAProxy, or give --ca-file",
            };
            format!("{count} servers behind TLS are left out: haproxy has not loaded {ca_file}; {next}")
        })
    }

    /// What the environments lack, with the first `most` services; the numbers follow.
    pub fn missing(&mut self, most: usize) -> Shortage {
        self.index.settle();
        let missing = self.index.shortage(most);
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let metrics = &self.parts.metrics;
        metrics.incomplete_environments.set(number(missing.environments));
        metrics.missing_services.set(number(missing.services));
        missing
    }

    /// The settings that decide where a request goes, for whoever explains it.
    pub fn settings(&self) -> explain::Settings {
        let settings = self.parts.renderer.settings();
        explain::Settings {
            domain: settings.domain.clone(),
            default_environment: settings.default_environment.clone(),
            allow_header_at_edge: settings.allow_header_at_edge,
            health_path: Some(settings.health_path.to_string()),
        }
    }

    /// The internal side is to listen here from now on: the next round sees to it.
    pub fn listen_at(&mut self, internal: Bind) {
        self.parts.renderer.listen_at(internal);
        self.known = false;
    }

    /// The shared directory.
    pub fn files(&self) -> &Files {
        &self.parts.files
    }

    /// The numbers.
    pub fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    /// Brings HAProxy in step with all that was resolved.
    ///
    /// # Errors
    /// When HAProxy is away or did not do what it was told; everything is then in doubt, and the next call reads it.
    pub async fn apply(&mut self) -> anyhow::Result<()> {
        let result = if self.known {
            self.allot(false);
            let plan = plan(Scope::Touched(&self.touched), &self.wanted(), &self.actual);
            self.carry_out(plan).await.map_err(Into::into)
        } else {
            self.sync(false).await
        };
        let result = match result {
            Ok(()) => self.grow_if_needed().await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.known = false;
        }
        result
    }

    /// Looks whether HAProxy is still the process that this engine has brought in step; else everything is in doubt.
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
                self.known = false;
                if std::mem::take(&mut self.told) {
                    self.replaced.begin();
                    info!("haproxy was started anew by somebody else: bringing it in step");
                    // Who started it may have mended what made it refuse the configuration.
                    self.refusal = None;
                }
                Ok(())
            }
            Err(trouble) => {
                if std::mem::take(&mut self.known) {
                    warn!("{trouble}");
                }
                Err(trouble)
            }
        }
    }

    /// How long to wait at least before HAProxy is read again without a reason.
    pub fn patience(&self) -> Duration {
        let rows = u32::try_from(self.index.routing().len()).unwrap_or(u32::MAX);
        PATIENCE.saturating_mul(rows)
    }

    /// Reads all that HAProxy has and repairs every difference.
    ///
    /// # Errors
    /// As [`Engine::apply`].
    pub async fn verify(&mut self) -> anyhow::Result<()> {
        self.forget_hindrance();
        let result = match self.sync(true).await {
            Ok(()) => self.grow_if_needed().await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.known = false;
        }
        result
    }

    async fn sync(&mut self, drift: bool) -> anyhow::Result<()> {
        self.known = false;
        self.surplus.clear();
        let info = self.parts.runtime.info().await?;
        self.version = Some(info.version);
        let fingerprint = self.parts.renderer.fingerprint(self.pool.total())?;
        if info.description != fingerprint.description() {
            self.settings_differ(&fingerprint).await?;
        }
        self.actual = self.parts.runtime.read().await?;
        self.known = true;
        self.adopt();
        let undisturbed = drift && self.touched.is_empty();
        self.allot(true);
        let plan = plan(Scope::Everything, &self.wanted(), &self.actual);
        if undisturbed && !plan.commands.is_empty() {
            warn!(
                commands = plan.commands.len(),
                "haproxy was changed by somebody else: repairing it"
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
            self.parts.runtime.tell(&self.parts.token).await?;
        }
        self.told = true;
        Ok(())
    }

    /// Takes over the slots that HAProxy's map gives.
    fn adopt(&mut self) {
        let rows = self.actual.rows.get(&Map::Slots).into_iter().flatten();
        let rows = rows.filter_map(|(backend, slot)| Some((backend.parse().ok()?, slot.parse().ok()?)));
        self.pool.adopt(&rows.collect::<Vec<_>>());
    }

    /// Gives and takes slots for the backends that were touched, or for all. A slot that still holds servers of its
    /// former backend is not given on.
    fn allot(&mut self, everything: bool) {
        let is_empty = |slot: Slot| !self.known || !self.actual.servers.contains_key(&slot);
        slots::allot(
            &mut self.pool,
            self.index.routing(),
            &mut self.touched,
            &mut self.waiting,
            everything,
            is_empty,
        );
        // What was resolved is noted already; what was given and taken is among the touched backends, too.
        self.stale.note(&self.touched);
        self.parts.metrics.slots_total.set(self.pool.total().into());
        self.parts.metrics.slots_free.set(self.pool.free().into());
    }

    async fn carry_out(&mut self, plan: Plan) -> Result<(), Trouble> {
        for text in &plan.refused {
            warn!("cannot tell haproxy of {text:?}: no command may carry it");
        }
        self.parts.runtime.run(&plan.commands, &mut self.actual).await?;
        self.actual.forget_tables();
        self.note_leaving(&plan.slots, plan.leaving);
        let distrust = self.distrust();
        self.untrusted.retain(|(slot, _)| !plan.slots.contains(slot));
        self.untrusted.extend(plan.untrusted);
        if let Some(text) = self.distrust().filter(|text| distrust.as_ref() != Some(text)) {
            warn!("{text}");
        }
        self.touched = Touched::default();
        Ok(())
    }

    /// The state that should be on disk; `None` while HAProxy refuses this configuration.
    ///
    /// # Errors
    /// When the template cannot be rendered.
    pub fn state(&mut self) -> anyhow::Result<Option<Version>> {
        if !self.known {
            // HAProxy is away: what was resolved has not been given slots yet.
            self.allot(true);
        }
        let fingerprint = self.parts.renderer.fingerprint(self.pool.total())?;
        if self
            .refusal
            .as_ref()
            .is_some_and(|refusal| refusal.forbids(&fingerprint))
        {
            return Ok(None);
        }
        self.next_state().map(Some)
    }

    /// A state could not be written: the next one has to bring all files.
    pub fn distrust_files(&mut self) {
        self.stale = Stale::all();
    }

    fn next_state(&mut self) -> anyhow::Result<Version> {
        // HAProxy starts without the authorities of the system, but not with a server that asks for them.
        let ca_file = &self.parts.renderer.settings().ca_file;
        let tls = ca_file.path().is_some() || self.actual.ca_files.contains(ca_file.as_str());
        let texts = files::texts(&self.parts.renderer, &self.wanted(), &self.stale, tls)?;
        self.stale = Stale::default();
        self.states += 1;
        Ok(Version {
            number: self.states,
            texts,
        })
    }
}

/// Writes files where blocking is allowed.
///
/// # Errors
/// As [`Files::write`].
pub async fn write(files: &Files, state: Version) -> anyhow::Result<()> {
    let files = files.clone();
    tokio::task::spawn_blocking(move || files.write(state))
        .await
        .context("the task that writes files died")?
}
