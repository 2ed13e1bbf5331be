//! Follows an engine: its events as they come, a look at each container that one of them concerns, and a list of all after
//! every doubt, and now and then without one. One question is on the way at a time, and no event waits for an answer.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{ContainerInspectResponse, EventMessage, EventMessageTypeEnum};
use futures_util::StreamExt as _;
use mayfly_core::labels;
use mayfly_daemon::retry::Backoff;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::engine::{Engine, Trouble};
use crate::args::docker::EngineUrl;

/// How often a silent engine is asked whether it is there.
const PING: Duration = Duration::from_secs(5);
/// How far back a new observer lets the engine tell: a container that got its stop signal then may still be ending.
const PAST: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Debug)]
pub enum Seen {
    /// The engine answers, with this version of its API.
    Connected(String),
    /// A container as it is now, or as the engine refuses to tell.
    Container(String, Result<Box<ContainerInspectResponse>, String>),
    /// There is no such container any more.
    Gone(String),
    /// The engine has sent a container a signal.
    Signalled {
        /// The container.
        id: String,
        /// The number of the signal.
        signal: String,
        /// When, by the engine's clock.
        at: SystemTime,
    },
    /// The process of a container has ended.
    Ended {
        /// The container.
        id: String,
        /// When, by the engine's clock.
        at: SystemTime,
    },
    /// Every container has been looked at since the last doubt.
    InStep,
    /// The engine cannot be followed: why.
    Lost(String),
}

/// A question to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Job {
    List,
    Inspect(String),
    /// No question: all before it are answered.
    Tell,
    Ping,
}

enum Answer {
    Listed(Vec<String>),
    Inspected(Option<Box<ContainerInspectResponse>>),
    Alive,
}

type Work = Pin<Box<dyn Future<Output = Result<Answer, Trouble>> + Send>>;

/// Follows the engine for ever.
///
/// # Errors
/// None; it ends when nobody listens any more.
pub async fn run(url: EngineUrl, list_again: Duration, seen: mpsc::Sender<Seen>) -> anyhow::Result<()> {
    let mut observer = Observer {
        since: SystemTime::now() - PAST,
        known: BTreeSet::new(),
        jobs: VecDeque::new(),
        touched: false,
        seen,
    };
    let mut backoff = Backoff::default();
    loop {
        match observer.follow(&url, list_again, &mut backoff).await {
            Ok(()) => return Ok(()),
            Err(trouble) => {
                if observer.seen.send(Seen::Lost(trouble.to_string())).await.is_err() {
                    return Ok(());
                }
            }
        }
        backoff.rest().await;
    }
}

struct Observer {
    /// Since when events have to be told.
    since: SystemTime,
    /// The containers that exist as far as was seen.
    known: BTreeSet<String>,
    jobs: VecDeque<Job>,
    /// Whether an event has concerned the container that is being looked at.
    touched: bool,
    seen: mpsc::Sender<Seen>,
}

impl Observer {
    /// Follows it until there is trouble, or nobody listens.
    async fn follow(
        &mut self,
        url: &EngineUrl,
        list_again: Duration,
        backoff: &mut Backoff,
    ) -> Result<(), Trouble> {
        let engine = Engine::connect(url).await?;
        if !self.tell(Seen::Connected(engine.version())).await {
            return Ok(());
        }
        let since = self.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        let events = engine.events(&format!("{}.{:09}", since.as_secs(), since.subsec_nanos()));
        tokio::pin!(events);
        self.jobs.clear();
        let (mut again, mut ping) = (interval(list_again), interval(PING));
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut at_work: Option<(Job, Work)> = None;
        loop {
            if at_work.is_none() {
                match self.jobs.pop_front() {
                    Some(Job::Tell) => {
                        backoff.reset();
                        if !self.tell(Seen::InStep).await {
                            return Ok(());
                        }
                        continue;
                    }
                    Some(job) => {
                        self.touched = false;
                        at_work = Some((job.clone(), work(&engine, job)));
                    }
                    None => {}
                }
            }
            let answered = async {
                match &mut at_work {
                    Some((job, work)) => (job.clone(), work.as_mut().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(event) => {
                        let at_work = at_work.as_ref().map(|(job, _)| job);
                        if !self.take(event?, at_work).await {
                            return Ok(());
                        }
                    }
                    None => return Err(Trouble::Gone("the engine has ended the stream of events".to_owned())),
                },
                (job, answer) = answered => {
                    at_work = None;
                    if !self.answered(job, answer).await? {
                        return Ok(());
                    }
                }
                _ = again.tick() => self.queue(Job::List),
                _ = ping.tick() => self.queue(Job::Ping),
            }
        }
    }

    fn queue(&mut self, job: Job) {
        if !self.jobs.contains(&job) {
            self.jobs.push_back(job);
        }
    }

    /// Tells what was seen; says whether somebody still listens.
    async fn tell(&self, seen: Seen) -> bool {
        self.seen.send(seen).await.is_ok()
    }

    async fn take(&mut self, event: EventMessage, at_work: Option<&Job>) -> bool {
        let at = event.time_nano.and_then(|nanos| u64::try_from(nanos).ok());
        let at = at.map_or_else(SystemTime::now, |nanos| UNIX_EPOCH + Duration::from_nanos(nanos));
        self.since = self.since.max(at);
        let actor = event.actor.unwrap_or_default();
        let attributes = actor.attributes.unwrap_or_default();
        let id = match event.typ {
            // A container's labels are among its attributes.
            Some(EventMessageTypeEnum::CONTAINER) if attributes.contains_key(labels::SERVICE) => actor.id,
            Some(EventMessageTypeEnum::NETWORK) => attributes
                .get("container")
                .filter(|id| self.known.contains(*id))
                .cloned(),
            _ => None,
        };
        let Some(id) = id else { return true };
        let look = Job::Inspect(id.clone());
        self.touched |= at_work == Some(&look);
        let action = event.action.unwrap_or_default();
        match (action.as_str(), attributes.get("signal")) {
            ("kill", Some(signal)) => {
                let signal = signal.clone();
                self.tell(Seen::Signalled { id, signal, at }).await
            }
            ("die", _) => self.tell(Seen::Ended { id, at }).await,
            _ => {
                self.queue(look);
                true
            }
        }
    }

    async fn answered(&mut self, job: Job, answer: Result<Answer, Trouble>) -> Result<bool, Trouble> {
        let id = match job {
            Job::Inspect(id) => id,
            // Nothing else can be told by half.
            Job::List | Job::Ping | Job::Tell => {
                if let Answer::Listed(listed) = answer? {
                    // What is not listed is looked at as well, not taken for gone: it may have been started meanwhile.
                    let all: BTreeSet<String> =
                        listed.into_iter().chain(self.known.iter().cloned()).collect();
                    for id in all {
                        self.queue(Job::Inspect(id));
                    }
                    self.queue(Job::Tell);
                }
                return Ok(true);
            }
        };
        if self.touched {
            // The answer may be older than the event.
            self.queue(Job::Inspect(id));
            return Ok(true);
        }
        let seen = match answer {
            Ok(Answer::Inspected(Some(container))) => Seen::Container(id.clone(), Ok(container)),
            Err(Trouble::Refused(reason)) => Seen::Container(id.clone(), Err(reason)),
            Ok(_) => {
                self.known.remove(&id);
                return Ok(self.tell(Seen::Gone(id)).await);
            }
            Err(gone) => return Err(gone),
        };
        self.known.insert(id);
        Ok(self.tell(seen).await)
    }
}

fn work(engine: &Engine, job: Job) -> Work {
    let engine = engine.clone();
    Box::pin(async move {
        Ok(match job {
            Job::List => Answer::Listed(engine.list().await?),
            Job::Inspect(id) => Answer::Inspected(engine.inspect(&id).await?),
            Job::Ping | Job::Tell => {
                engine.ping().await?;
                Answer::Alive
            }
        })
    })
}
