//! Follows an engine: takes its events, looks at each container that one of them concerns, and
//! lists all containers after every doubt and from time to time. One request is on its way at a
//! time, and no event waits for an answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{EventMessage, EventMessageTypeEnum, Service};
use futures_util::StreamExt as _;
use mayfly_core::labels;
use mayfly_daemon::docker::EngineUrl;
use mayfly_daemon::retry::Backoff;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::debug;

use super::container::Inspected;
use super::engine::{EngineClient, EngineError, ListedContainers, is_task};

/// How often to list all containers although nothing has happened: no event gets lost on a
/// connection, so this is for changes without an event.
const LIST_AGAIN: Duration = Duration::from_secs(60);
/// How often a silent engine is asked whether it is there.
const PING: Duration = Duration::from_secs(5);
/// How far back the events of a new observer begin: a container that got its stop signal then may
/// still be ending.
const PAST: Duration = super::desired::LONG_AFTER;
/// How long the services of a swarm are not asked for again: the answer is long, and an update of
/// one service makes several events for each of its tasks. A wrong label can be reported later.
const SERVICES_REST: Duration = Duration::from_secs(5);

/// How long to wait before a container is asked for again that the engine did not describe; at last
/// as long as between two pings, since an engine logs each refusal.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How often what was found of a container is discarded because of an event meanwhile: events that
/// never rest must not delay everything else.
const MOST_DISCARDED: usize = 3;

/// How long a chain of containers that share a network may be.
const MOST_OWNERS: usize = 4;

#[derive(Debug)]
pub enum Observation {
    /// The engine answers, with this version of its API.
    Connected(String),
    /// A container as it is now, or why the engine does not describe it.
    Container(String, Result<Box<Inspected>, String>),
    /// The container no longer exists.
    Gone(String),
    /// The engine has sent a container a signal.
    Signalled {
        id: String,
        /// The number of the signal.
        signal: String,
        /// When, by the engine's clock.
        at: SystemTime,
    },
    /// The process of a container has ended.
    Ended {
        id: String,
        /// When, by the engine's clock.
        at: SystemTime,
    },
    /// The services of the swarm that the engine manages.
    Services(Vec<Service>),
    /// Every container has been looked at since the last doubt.
    InSync,
    /// The engine cannot be followed: why.
    Lost(String),
}

/// A request to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Job {
    List,
    Inspect(String),
    /// No request: all before it are answered.
    InSync,
    Ping,
    Services,
}

enum EngineAnswer {
    Listed(ListedContainers),
    Services(Option<Vec<Service>>),
    Inspected(Option<Box<Inspected>>),
    Alive,
}

type EngineCall = Pin<Box<dyn Future<Output = Result<EngineAnswer, EngineError>> + Send>>;

/// Follows the engine.
///
/// # Errors
/// None; it ends when the receiver is dropped.
pub async fn run(url: EngineUrl, sender: mpsc::Sender<Observation>) -> anyhow::Result<()> {
    let mut observer = EngineObserver::new(SystemTime::now() - PAST, sender);
    let mut backoff = Backoff::default();
    loop {
        match observer.follow(&url, &mut backoff).await {
            Ok(()) => return Ok(()),
            Err(trouble) => {
                if !observer.send(Observation::Lost(trouble.to_string())).await {
                    return Ok(());
                }
            }
        }
        backoff.rest().await;
    }
}

/// When to ask for the services of the swarm. They only show labels in the wrong place, so
/// registering does not wait for them.
#[derive(Debug, Default)]
struct ServiceSchedule {
    /// They may have changed since they were asked for.
    wanted: bool,
    /// All containers have been looked at since the connection began.
    in_sync: bool,
    /// The engine does not list them.
    unknown: bool,
    asked: Option<Instant>,
}

impl ServiceSchedule {
    /// When they are to be asked for, if at all.
    fn due(&self, now: Instant) -> Option<Instant> {
        let due = self.asked.map_or(now, |asked| asked + SERVICES_REST);
        (self.wanted && self.in_sync && !self.unknown).then_some(due)
    }

    /// Whether they are to be asked for now; then they count as asked for.
    fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due(now).is_some_and(|due| due <= now);
        if due {
            self.wanted = false;
            self.asked = Some(now);
        }
        due
    }
}

/// A container that the engine did not describe although it has it.
struct UndescribedContainer {
    backoff: Backoff,
    /// When to look at it again; `None` while that look is queued or on its way.
    again_at: Option<Instant>,
}

struct EngineObserver {
    /// From when on events are asked for.
    since: SystemTime,
    /// The containers that exist, as far as is known.
    known: BTreeSet<String>,
    /// For those that share the network of others: the ids of these.
    owners: BTreeMap<String, BTreeSet<String>>,
    services: ServiceSchedule,
    jobs: VecDeque<Job>,
    /// Whether an event has concerned the container that is being looked at.
    touched: bool,
    /// How often in a row what was found of a container was discarded.
    discarded: BTreeMap<String, usize>,
    /// The containers that the engine did not describe, by id.
    undescribed: BTreeMap<String, UndescribedContainer>,
    sender: mpsc::Sender<Observation>,
}

impl EngineObserver {
    fn new(since: SystemTime, sender: mpsc::Sender<Observation>) -> Self {
        Self {
            since,
            known: BTreeSet::new(),
            owners: BTreeMap::new(),
            services: ServiceSchedule::default(),
            jobs: VecDeque::new(),
            touched: false,
            discarded: BTreeMap::new(),
            undescribed: BTreeMap::new(),
            sender,
        }
    }

    /// Follows it until there is trouble, or the receiver is dropped.
    async fn follow(&mut self, url: &EngineUrl, backoff: &mut Backoff) -> Result<(), EngineError> {
        let engine = EngineClient::connect(url).await?;
        if !self.send(Observation::Connected(engine.version())).await {
            return Ok(());
        }
        let since = self.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        let events = engine.events(&format!("{}.{:09}", since.as_secs(), since.subsec_nanos()));
        tokio::pin!(events);
        self.jobs.clear();
        self.discarded.clear();
        self.undescribed.clear();
        self.services = ServiceSchedule {
            asked: self.services.asked,
            ..ServiceSchedule::default()
        };
        let (mut again, mut ping) = (interval(LIST_AGAIN), interval(PING));
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut at_work: Option<(Job, EngineCall)> = None;
        loop {
            if at_work.is_none() {
                match self.next_job(Instant::now()) {
                    Some(Job::InSync) => {
                        backoff.reset();
                        if !self.send(Observation::InSync).await {
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
            let dues = self.services.due(Instant::now()).into_iter();
            let due = dues.chain(self.undescribed_at()).min();
            let due = due.filter(|_| at_work.is_none());
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
                    None => return Err(EngineError::Gone("the engine closed the stream of events".to_owned())),
                },
                (job, answer) = answered => {
                    at_work = None;
                    if !self.answered(job, answer).await? {
                        return Ok(());
                    }
                }
                _ = again.tick() => self.queue(Job::List),
                _ = ping.tick() => self.queue(Job::Ping),
                // The next turn of the loop asks.
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// What to ask next: of services only when there is nothing else.
    fn next_job(&mut self, now: Instant) -> Option<Job> {
        self.queue_undescribed(now);
        let job = self.jobs.pop_front();
        self.services.in_sync |= job == Some(Job::InSync);
        job.or_else(|| self.services.take_due(now).then_some(Job::Services))
    }

    fn queue(&mut self, job: Job) {
        if !self.jobs.contains(&job) {
            self.jobs.push_back(job);
        }
    }

    /// Looks at a container once more, before it may be said that all have been looked at: what was
    /// found before is not known to be true any more.
    fn look_again(&mut self, id: String) {
        let look = Job::Inspect(id);
        self.jobs.retain(|job| *job != look);
        let last = self.jobs.iter().position(|job| *job == Job::InSync);
        self.jobs.insert(last.unwrap_or(self.jobs.len()), look);
    }

    /// Queues a look at each container that the engine did not describe, where it is time for it.
    fn queue_undescribed(&mut self, now: Instant) {
        let all = self.undescribed.iter_mut();
        let due = all.filter_map(|(id, undescribed)| {
            let at = undescribed.again_at.take_if(|at| *at <= now);
            at.map(|_| id.clone())
        });
        let due: Vec<String> = due.collect();
        for id in due {
            self.look_again(id);
        }
    }

    /// When to look at the next one of them.
    fn undescribed_at(&self) -> Option<Instant> {
        let all = self.undescribed.values();
        all.filter_map(|undescribed| undescribed.again_at).min()
    }

    /// Notes that the engine did not describe a container: it is looked at again soon.
    fn note_undescribed(&mut self, id: &str) {
        let found = self.undescribed.entry(id.to_owned());
        let undescribed = found.or_insert_with(|| UndescribedContainer {
            backoff: Backoff::new(ASK_AGAIN, PING),
            again_at: None,
        });
        undescribed.again_at = Some(Instant::now() + undescribed.backoff.next_delay());
    }

    /// Sends an observation; whether there still is a receiver.
    async fn send(&self, observed: Observation) -> bool {
        self.sender.send(observed).await.is_ok()
    }

    async fn take(&mut self, event: EventMessage, at_work: Option<&Job>) -> bool {
        let at = event.time_nano.and_then(|nanos| u64::try_from(nanos).ok());
        let at = at.map_or_else(SystemTime::now, |nanos| UNIX_EPOCH + Duration::from_nanos(nanos));
        self.since = self.since.max(at);
        let actor = event.actor.unwrap_or_default();
        let attributes = actor.attributes.unwrap_or_default();
        let id = match event.typ {
            Some(EventMessageTypeEnum::CONTAINER) => actor.id,
            Some(EventMessageTypeEnum::NETWORK) => attributes.get("container").cloned(),
            _ => None,
        };
        let Some(id) = id else { return true };
        for sharer in self.sharers(&id) {
            let look = Job::Inspect(sharer);
            self.touched |= at_work == Some(&look);
            self.queue(look);
        }
        // A container's labels are among its attributes.
        let names = || attributes.keys().map(String::as_str);
        self.services.wanted |= is_task(names());
        if !labels::concern(names()) && !self.known.contains(&id) {
            return true;
        }
        let look = Job::Inspect(id.clone());
        self.touched |= at_work == Some(&look);
        let action = event.action.unwrap_or_default();
        match (action.as_str(), attributes.get("signal")) {
            ("kill", Some(signal)) => {
                let signal = signal.clone();
                self.send(Observation::Signalled { id, signal, at }).await
            }
            ("die", _) => self.send(Observation::Ended { id, at }).await,
            _ if self.known.contains(&id) => {
                self.queue(look);
                true
            }
            // The list may be older than it.
            _ => {
                self.look_again(id);
                true
            }
        }
    }

    /// Those that share the network of a container.
    fn sharers(&self, id: &str) -> Vec<String> {
        let all = self.owners.iter().filter(|(_, owners)| owners.contains(id));
        all.map(|(sharer, _)| sharer.clone()).collect()
    }

    /// Notes whose network a container shares. An event of an owner that is new to us may just have
    /// been missed.
    fn note_owners(&mut self, id: &str, inspected: &Inspected) {
        let found = inspected.owners.iter().filter_map(|owner| owner.id.clone());
        let owners: BTreeSet<String> = found.chain(inspected.next_owner().map(str::to_owned)).collect();
        if owners.is_empty() {
            self.owners.remove(id);
        } else if self.owners.get(id) != Some(&owners) {
            self.owners.insert(id.to_owned(), owners);
            self.look_again(id.to_owned());
        }
    }

    async fn answered(
        &mut self,
        job: Job,
        answer: Result<EngineAnswer, EngineError>,
    ) -> Result<bool, EngineError> {
        let id = match job {
            Job::Inspect(id) => id,
            // Whatever is wrong with it, the containers are still followed; a ping shows whether
            // the engine is there.
            Job::Services => {
                let services = match answer {
                    Ok(EngineAnswer::Services(services)) => services,
                    Ok(_) => return Ok(true),
                    Err(trouble) => {
                        debug!("cannot list the services of the swarm: {trouble}");
                        None
                    }
                };
                self.services.unknown = services.is_none();
                return Ok(self
                    .send(Observation::Services(services.unwrap_or_default()))
                    .await);
            }
            // Without these answers nothing is known.
            Job::List | Job::Ping | Job::InSync => {
                if let EngineAnswer::Listed(listed) = answer? {
                    self.services.wanted |= listed.tasks;
                    // What is not listed is looked at, too: it may have been started meanwhile.
                    let all: BTreeSet<String> =
                        listed.ids.into_iter().chain(self.known.iter().cloned()).collect();
                    for id in all {
                        self.queue(Job::Inspect(id));
                    }
                    self.queue(Job::InSync);
                }
                return Ok(true);
            }
        };
        let answer = match answer {
            Err(gone @ EngineError::Gone(_)) => return Err(gone),
            answer => answer,
        };
        if self.touched {
            // The answer may be older than the event.
            let discarded = self.discarded.entry(id.clone()).or_default();
            *discarded += 1;
            if *discarded <= MOST_DISCARDED {
                self.look_again(id);
                return Ok(true);
            }
            self.queue(Job::Inspect(id.clone()));
        }
        self.discarded.remove(&id);
        let observed = match answer {
            Ok(EngineAnswer::Inspected(Some(inspected))) => {
                self.undescribed.remove(&id);
                self.note_owners(&id, &inspected);
                Observation::Container(id.clone(), Ok(inspected))
            }
            Err(EngineError::Refused(reason)) => {
                self.note_undescribed(&id);
                Observation::Container(id.clone(), Err(reason))
            }
            Ok(_) => {
                self.undescribed.remove(&id);
                self.known.remove(&id);
                self.owners.remove(&id);
                return Ok(self.send(Observation::Gone(id)).await);
            }
            Err(gone) => return Err(gone),
        };
        self.known.insert(id);
        Ok(self.send(observed).await)
    }
}

fn work(engine: &EngineClient, job: Job) -> EngineCall {
    let engine = engine.clone();
    Box::pin(async move {
        Ok(match job {
            Job::List => EngineAnswer::Listed(engine.list().await?),
            Job::Services => EngineAnswer::Services(engine.services().await?),
            Job::Inspect(id) => EngineAnswer::Inspected(inspect(&engine, &id).await?),
            Job::Ping | Job::InSync => {
                engine.ping().await?;
                EngineAnswer::Alive
            }
        })
    })
}

/// Looks at a container, and at those whose network it shares.
async fn inspect(engine: &EngineClient, id: &str) -> Result<Option<Box<Inspected>>, EngineError> {
    let Some(container) = engine.inspect(id).await? else {
        return Ok(None);
    };
    let mut inspected = Inspected {
        container: *container,
        owners: Vec::new(),
    };
    while let Some(owner) = inspected
        .next_owner()
        .filter(|_| inspected.owners.len() < MOST_OWNERS)
    {
        let found = engine.inspect(owner).await?;
        // An engine also accepts the beginning of an id. It notes the whole id, whatever was given.
        match found.filter(|found| found.id.as_deref() == Some(owner)) {
            Some(owner) => inspected.owners.push(*owner),
            None => break,
        }
    }
    Ok(Some(Box::new(inspected)))
}

#[cfg(test)]
mod tests;
