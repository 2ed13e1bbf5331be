//! Services of a Docker Swarm, each with one task. Swarm chooses the node and restarts a task that
//! ends; the launcher takes over again once Swarm has given up.

mod spec;
mod tasks;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bollard::errors::Error;
use bollard::models::{Service, Task, TaskState};
use bollard::query_parameters::{ListServicesOptionsBuilder, ListTasksOptionsBuilder};
use mayfly_core::keys::KeySpace;
use mayfly_core::records::definition::NetworkName;
use mayfly_core::version::BackendId;
use mayfly_daemon::docker::{EngineUrl, failed, found, reason, status, within};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::connect::EngineConnection;
use super::containers::{labelled, name_of, other};
use super::events::Events;
use super::labels::{self, Labels, UnitOwner, is_task};
use super::{Engine, Inventory, Launch, NotOurs, Progress, Unit, UnitState, output};
use super::{QUESTION, WORK};

/// How often tasks are looked at while something is not as it should be. Swarm sends no events of
/// them.
const LOOK: Duration = Duration::from_secs(1);
/// How often, while all is well.
const CALM: Duration = Duration::from_secs(5);
/// How long a task may stay in one state before it runs.
const STUCK: Duration = Duration::from_secs(60);
/// How long a node may pull an image. Swarm does not report the progress.
const PULL: Duration = Duration::from_secs(900);

/// The services of one swarm, by one of its managers.
#[derive(Debug)]
pub struct Swarm {
    connection: EngineConnection,
    owner: UnitOwner,
    grace: Duration,
    events: Events,
    calm: AtomicBool,
}

impl Swarm {
    /// The swarm of the manager at an address. It need not be there yet. `prefix` is the key
    /// prefix, which marks what this launcher makes. `grace` is how long a container has to end by
    /// itself when it is stopped: Swarm wants to know that when it is made, also for the stops that
    /// Swarm decides on.
    pub fn new(url: &EngineUrl, prefix: &KeySpace, grace: Duration) -> Self {
        let happenings = ["create", "update", "remove", "start", "die", "destroy"];
        Self {
            connection: EngineConnection::new(url),
            owner: UnitOwner::new(prefix),
            grace,
            events: Events::new([("type", &["service", "container"]), ("event", &happenings)]),
            calm: AtomicBool::new(false),
        }
    }

    /// The service of exactly this name, if there is one.
    async fn named(client: &bollard::Docker, name: &str) -> Result<Option<Service>, Error> {
        let service = found(within(QUESTION, client.inspect_service(name, None)).await)?;
        // An engine accepts the beginning of an id for a name, too.
        Ok(service.filter(|service| self::name(service) == name))
    }

    /// The unit that a service of ours is, by those of its tasks that are meant to run; `None` if
    /// its labels are wrong.
    async fn unit(
        client: &bollard::Docker,
        service: &Service,
        meant: &[&Task],
    ) -> anyhow::Result<Option<Unit>> {
        let name = name(service);
        let (backend, digest) = match labels::unit(&labels_of(service)) {
            Ok(said) => said,
            Err(reason) => {
                debug!("cannot read the labels of service `{name}` of this launcher: {reason}");
                return Ok(None);
            }
        };
        let id = service.id.as_deref().unwrap_or_default();
        let past = match meant {
            [] => tasks(client, [("service", vec![id])].into()).await?,
            _ => Vec::new(),
        };
        let all = tasks::newest_first(meant.iter().copied().chain(&past));
        Ok(Some(Unit {
            name: name.to_owned(),
            backend,
            digest,
            state: tasks::state(&all),
            containers: tasks::running(&all).into_iter().collect(),
            // A node has pulled it, and Swarm does not report which image that is.
            image: None,
        }))
    }

    /// Waits until the task of a service runs.
    async fn follow(
        client: &bollard::Docker,
        name: &str,
        report: &(impl Fn(Progress) + Send + Sync),
    ) -> anyhow::Result<()> {
        let (mut last, mut since) = (None, Instant::now());
        loop {
            let listed = tasks(client, [("service", vec![name])].into()).await?;
            let all = tasks::newest_first(&listed);
            match tasks::state(&all) {
                UnitState::Running => return Ok(()),
                UnitState::Ended(why) => bail!("{why}"),
                UnitState::Created | UnitState::Starting | UnitState::Leaving => {}
            }
            let now = all.first().map(|task| (task.id.clone(), tasks::state_of(task)));
            if now != last {
                since = Instant::now();
                last = now;
                report(match all.first().and_then(|task| tasks::state_of(task)) {
                    Some(TaskState::PREPARING) => Progress::Pulling(None),
                    _ => Progress::Starting,
                });
            }
            let pulls = matches!(last, Some((_, Some(TaskState::PREPARING))));
            if since.elapsed() > if pulls { PULL } else { STUCK } {
                let why = all
                    .first()
                    .map(|task| tasks::description(task))
                    .unwrap_or_default();
                bail!(
                    "service `{name}` has not started for {} s: {why}",
                    since.elapsed().as_secs()
                );
            }
            sleep(LOOK / 2).await;
        }
    }
}

impl Engine for Swarm {
    async fn inventory(&self) -> anyhow::Result<Inventory> {
        let client = self.connection.client().await?;
        let options = ListServicesOptionsBuilder::default()
            .filters(&[("label", vec![self.owner.filter()])].into())
            .build();
        let services = within(QUESTION, client.list_services(Some(options))).await;
        let services = services.map_err(trouble("list the services of the swarm"))?;
        // Not those of the past, of which there are many.
        let meant = tasks(
            &client,
            [("desired-state", vec!["running", "ready", "accepted"])].into(),
        )
        .await?;
        let mut inventory = Inventory::default();
        for service in services
            .iter()
            .filter(|service| self.owner.owns(name(service), &labels_of(service)))
        {
            let of_it = meant.iter().filter(|task| task.service_id == service.id);
            inventory
                .units
                .extend(Self::unit(&client, service, &of_it.collect::<Vec<_>>()).await?);
        }
        inventory.units.sort_by(|a, b| a.name.cmp(&b.name));
        let foreign = meant.iter().filter_map(|task| tasks::other(task, &self.owner));
        let mut others: Vec<_> = foreign.collect();
        for container in labelled(&client).await? {
            let labels = container.labels.clone().unwrap_or_default();
            // Swarm lists those of tasks, wherever they run.
            if !is_task(name_of(&container), &labels) && !self.owner.is_anothers(&labels) {
                others.extend(other(&client, &container, &labels).await);
            }
        }
        for backend in others {
            *inventory.others.entry(backend).or_default() += 1;
        }
        let calm = inventory
            .units
            .iter()
            .all(|unit| unit.state == UnitState::Running);
        self.calm.store(calm, Ordering::Relaxed);
        Ok(inventory)
    }

    async fn start(
        &self,
        launch: &Launch,
        report: impl Fn(Progress) + Send + Sync,
    ) -> anyhow::Result<Option<String>> {
        let client = self.connection.client().await?;
        report(Progress::Starting);
        let mut networks = Vec::new();
        for network in &launch.definition.networks {
            networks.push(swarm_network(&client, network).await?);
        }
        let name = &launch.name;
        // Assumes that all nodes of a swarm keep logs as this one does.
        let log = self.connection.log(&client).await?;
        let spec = spec::spec(launch, self.owner.labels(launch), networks, self.grace, log);
        match within(WORK, client.create_service(spec, None)).await {
            Ok(_) => {}
            Err(error) if status(&error) == Some(409) => {
                let there = Self::named(&client, name).await;
                let there = there.map_err(trouble(format!("look at service `{name}`")))?;
                let there =
                    there.with_context(|| format!("cannot create service `{name}`: {}", reason(&error)))?;
                if let Some(whose) = self.owner.stranger(name, &labels_of(&there), &launch.backend) {
                    bail!(
                        "service `{name}` already exists, and {whose}; remove that service if nothing needs it"
                    );
                }
            }
            Err(error) => return Err(trouble(format!("create service `{name}`"))(error)),
        }
        Self::follow(&client, name, &report).await?;
        // The nodes pull, and take what they have if that fails.
        Ok(None)
    }

    async fn remove(&self, name: &str, backend: &BackendId, grace: Duration) -> anyhow::Result<()> {
        let client = self.connection.client().await?;
        let because = |error: Error| anyhow!(why(&error));
        let Some(service) = Self::named(&client, name).await.map_err(because)? else {
            return Ok(());
        };
        if let Some(whose) = self.owner.stranger(name, &labels_of(&service), backend) {
            return Err(NotOurs(whose).into());
        }
        // By its id from here on: the name may be another service's in the next moment.
        let id = service.id.as_deref().unwrap_or_default();
        let removed = within(WORK, client.delete_service(id)).await;
        found(removed).map_err(because)?;
        // The service is gone at once, its container only after its time to end. All tasks are
        // looked through: that one is to end is not noted in the same moment.
        let start = Instant::now();
        loop {
            let all = tasks(&client, HashMap::new()).await?;
            let stops = |task: &&Task| task.service_id.as_deref() == Some(id) && !tasks::has_ended(task);
            if all.iter().find(stops).is_none() {
                return Ok(());
            }
            if start.elapsed() > grace.max(self.grace) + WORK {
                bail!("Swarm has removed the service, but its task does not end");
            }
            sleep(LOOK / 2).await;
        }
    }

    async fn output(&self, name: &str, lines: usize) -> Vec<String> {
        let printed = async {
            let client = self.connection.client().await?;
            let listed = tasks(&client, [("service", vec![name])].into()).await?;
            let all = tasks::newest_first(&listed);
            // A task without a container has printed nothing, and Swarm would wait for it.
            let task = all.iter().find(|task| tasks::container(task).is_some());
            let id = task
                .and_then(|task| task.id.as_deref())
                .context("no container yet")?;
            let logs = client.task_logs(id, Some(output::options(lines)));
            anyhow::Ok(output::last(lines, logs).await)
        };
        printed.await.unwrap_or_default()
    }

    async fn changed(&self) {
        let limit = if self.calm.load(Ordering::Relaxed) {
            CALM
        } else {
            LOOK
        };
        self.events.next(&self.connection, limit).await;
    }
}

/// Tasks of the swarm; those of a service that is gone are none.
async fn tasks(client: &bollard::Docker, filters: HashMap<&str, Vec<&str>>) -> anyhow::Result<Vec<Task>> {
    let options = ListTasksOptionsBuilder::default().filters(&filters).build();
    let listed = within(QUESTION, client.list_tasks(Some(options))).await;
    let listed = found(listed).map_err(trouble("list the tasks of the swarm"))?;
    Ok(listed.unwrap_or_default())
}

/// The id of a network of the swarm, by exactly this name.
async fn swarm_network(client: &bollard::Docker, name: &NetworkName) -> anyhow::Result<String> {
    let inspected = within(QUESTION, client.inspect_network(name.as_str(), None)).await;
    let inspected = found(inspected).map_err(failed(format!("look for network `{name}`")))?;
    let exact = inspected.filter(|network| network.name.as_deref() == Some(name.as_str()));
    let network = exact.with_context(|| {
        format!(
            "network `{name}` does not exist; create it with `docker network create --driver overlay --attachable {name}`"
        )
    })?;
    if network.scope.as_deref() != Some("swarm") {
        bail!("network `{name}` is not a network of the swarm; create it with `--driver overlay`");
    }
    network.id.with_context(|| format!("network `{name}` has no id"))
}

/// As [`failed`], and says if the engine is not a manager of a swarm.
fn trouble(what: impl std::fmt::Display) -> impl FnOnce(Error) -> anyhow::Error {
    move |error| anyhow!("cannot {what}: {}", why(&error))
}

/// As [`reason`], without Docker's advice where the engine is not a manager of a swarm.
fn why(error: &Error) -> String {
    let reason = reason(error);
    match status(error) {
        Some(503) if reason.contains("not a swarm manager") => {
            "the engine is not a manager of a swarm".to_owned()
        }
        _ => reason,
    }
}

fn name(service: &Service) -> &str {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.name.as_deref()).unwrap_or_default()
}

fn labels_of(service: &Service) -> Labels {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.labels.clone()).unwrap_or_default()
}
