//! A session that runs: keeps etcd in sync with the process and the connection, and ends both in
//! good order.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use mayfly_core::address::Address;
use mayfly_core::names::NodeName;
use mayfly_core::records::{self, InstanceState};
use mayfly_daemon::output::{self, complain, printable};
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::store::Store;
use mayfly_state::state::State;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::claim::{ClaimError, SessionClaim, SessionRecords};
use super::link::{ReachedAt, SshLink};
use super::plan::Session;
use super::probe::Answering;
use crate::wait;

/// How long etcd may take for each step of the way out.
const LAST_WRITE: Duration = Duration::from_secs(3);
/// When etcd is asked again after it did not answer.
const RETRY: Duration = Duration::from_millis(500);
/// How long routers may take until it is said that they have not applied the environment.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(10);

pub struct RunningSession {
    pub session: Session,
    pub store: Store,
    pub claim: SessionClaim,
    /// Where the process is registered; changes with each ssh connection.
    pub place: watch::Receiver<ReachedAt>,
    pub answering: watch::Receiver<Answering>,
    /// The node that the address of the process belongs to.
    pub beside: NodeName,
    /// What is printed once the process has answered.
    pub opened: String,
    /// The port of the process.
    pub port: u16,
    pub ttl: Duration,
    pub drain: Duration,
    /// Whether the process answered when it was told last.
    pub answered: Option<bool>,
    /// What is in etcd, or should be; nothing before the first answer.
    pub wanted: Option<SessionRecords>,
    pub _link: Option<SshLink>,
}

impl RunningSession {
    /// Runs until the shutdown begins, or another program ends the environment.
    ///
    /// # Errors
    /// In the latter case, and when it cannot end in good order.
    pub async fn follow(&mut self, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
        let outcome = tokio::select! {
            error = self.keep() => error,
            () = shutdown.begun() => return self.leave().await,
        };
        // What is still there of this session goes.
        let _ = timeout(LAST_WRITE, self.claim.end()).await;
        Err(outcome.into())
    }

    /// Keeps etcd in sync with the process, until another program ends the session.
    async fn keep(&mut self) -> ClaimError {
        let (mut changed, mut is_open, mut is_troubled) = (true, false, false);
        loop {
            if changed {
                self.wanted = self.want(SystemTime::now()).or(self.wanted.take());
            }
            // Without a connection nothing can be written.
            let (Some(wanted), true) = (&self.wanted, self.place.borrow().is_some()) else {
                changed = self.news(None).await;
                continue;
            };
            let written = match changed || is_troubled {
                true => self.claim.put(wanted).await,
                false => self.claim.keep(wanted).await,
            };
            match written {
                Ok(()) => {}
                Err(ClaimError::Store(error)) => {
                    if !std::mem::replace(&mut is_troubled, true) {
                        complain(&error.retrying());
                    }
                    changed = self.news(Some(Instant::now() + RETRY)).await;
                    continue;
                }
                Err(error) => return error,
            }
            if std::mem::take(&mut is_troubled) {
                complain("etcd answers again");
            }
            if !std::mem::replace(&mut is_open, true) {
                self.open();
            }
            changed = self.news(Some(Instant::now() + self.ttl / 3)).await;
        }
    }

    /// Waits for news of the process or of the connection, at most until then; says whether there
    /// are some.
    async fn news(&mut self, until: Option<Instant>) -> bool {
        let over = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let (place, answering) = (&mut self.place, &mut self.answering);
        tokio::select! {
            Ok(()) = place.changed() => true,
            Ok(()) = answering.changed() => true,
            () = over => false,
        }
    }

    /// What should be in etcd; `None` while nothing is known yet, or the process never answered.
    fn want(&mut self, now: SystemTime) -> Option<SessionRecords> {
        let answering = self.answering.borrow_and_update().clone()?;
        let place = *self.place.borrow_and_update();
        let answers = answering.is_ok();
        if self.answered.replace(answers) != Some(answers) {
            let port = self.port;
            match &answering {
                Ok(()) if self.wanted.is_none() => {}
                Ok(()) => complain(&format!("your process at port {port} answers")),
                Err(reason) => complain(&format!(
                    "your process at port {port} does not answer: {}; waiting for the process",
                    printable(reason)
                )),
            }
        }
        if self.wanted.is_none() && !answers {
            return None;
        }
        self.record(place?, self.state(), false, now)
    }

    /// An instance that does not answer takes no requests, and may come back at any moment.
    fn state(&self) -> InstanceState {
        match self.answered {
            Some(true) => InstanceState::Up,
            _ => InstanceState::Draining,
        }
    }

    fn record(
        &self,
        place: Address,
        state: InstanceState,
        is_ending: bool,
        now: SystemTime,
    ) -> Option<SessionRecords> {
        // The name was short enough when the session began.
        let environment = self.session.environment(is_ending, now).ok()?;
        let (key, instance) = self.session.instance(place, state, &self.beside);
        Some(SessionRecords {
            environment: records::to_json(&environment),
            instance: (key, records::to_json(&instance)),
        })
    }

    /// Says how to open the environment, and when all routers have it.
    fn open(&self) {
        let Session {
            name,
            parent,
            backend,
            ..
        } = &self.session;
        let text = format!(
            "{name} is open: its service {} is your process, and its other services are those of {parent}\n{}Ctrl-C ends {name}\n",
            backend.service, self.opened
        );
        // Without a reader the session is worth no less.
        let _ = output::print(&text);
        let (store, name) = (self.store.clone(), name.clone());
        tokio::spawn(async move {
            let state = State::new(store.keyspace(), 1);
            let waited = wait::until(&store, state, &name, IN_FORCE_WITHIN, |_| {}).await;
            let outcome = waited.latest;
            match outcome.is_ready() {
                true => drop(output::print(&format!("{name} is in force everywhere\n"))),
                false => complain(&format!(
                    "{name} is not in force yet: {}",
                    printable(&outcome.reasons.join("; "))
                )),
            }
        });
    }

    /// Lets the base environment answer, then the process finish what it has begun, and deletes
    /// everything.
    async fn leave(&mut self) -> anyhow::Result<ExitCode> {
        if self.wanted.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
        let name = self.session.name.clone();
        let lease = format!("{name} ends when its lease expires, in at most {:?}", self.ttl);
        let (place, now) = (*self.place.borrow(), SystemTime::now());
        let last = place.and_then(|place| {
            let based = self.record(place, self.state(), true, now)?;
            Some((based, self.record(place, InstanceState::Draining, true, now)?))
        });
        let Some((based, drained)) = last else {
            bail!("there is no ssh connection: {lease}");
        };
        match self.last_write(&based).await {
            Ok(()) => {
                sleep(self.drain).await;
                // A router goes on with an instance that only vanishes.
                self.last_write(&drained).await.context(lease.clone())?;
            }
            Err(error) => match error.downcast_ref() {
                Some(ClaimError::Gone(_) | ClaimError::Taken { .. }) => complain(&error.to_string()),
                _ => return Err(error.context(lease)),
            },
        }
        match timeout(LAST_WRITE, self.claim.end()).await {
            Ok(Ok(())) => output::print(&format!("{name} has ended\n"))?,
            Ok(Err(error)) => return Err(anyhow::Error::from(error).context(lease)),
            Err(_) => bail!("etcd does not answer: {lease}"),
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn last_write(&mut self, wanted: &SessionRecords) -> anyhow::Result<()> {
        match timeout(LAST_WRITE, self.claim.put(wanted)).await {
            Ok(written) => Ok(written?),
            Err(_) => bail!("etcd does not answer within {LAST_WRITE:?}"),
        }
    }
}
