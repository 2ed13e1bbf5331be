//! The state of a service by its tasks: Swarm makes a new task each time that it restarts a
//! container, and keeps some of those that have ended.

use std::cmp::Reverse;

use bollard::models::{Task, TaskState};
use mayfly_core::labels::UNIT;
use mayfly_core::version::BackendId;
use mayfly_daemon::docker::line;

use crate::engine::UnitState;
use crate::engine::labels::{self, Labels, UnitOwner};

/// Tasks in the order in which they were made, the newest first, each once.
pub(super) fn newest_first<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> Vec<&'a Task> {
    let mut all: Vec<&Task> = tasks.into_iter().collect();
    // RFC 3339 in UTC with as many decimals as are not zero: in the order of the text once its end
    // is off.
    let made = |task: &Task| {
        task.created_at
            .clone()
            .map(|text| text.trim_end_matches('Z').to_owned())
    };
    all.sort_by_cached_key(|task| Reverse((made(task), task.id.clone())));
    all.dedup_by_key(|task| task.id.clone());
    all
}

/// How a service with these tasks is, the newest of them first. It has ended when Swarm means none
/// to run any more.
pub(super) fn state(tasks: &[&Task]) -> UnitState {
    let meant = |task: &&&Task| {
        use TaskState as State;
        !matches!(
            task.desired_state,
            Some(
                State::SHUTDOWN
                    | State::REMOVE
                    | State::COMPLETE
                    | State::FAILED
                    | State::REJECTED
                    | State::ORPHANED
            )
        )
    };
    if running(tasks).is_some() {
        return UnitState::Running;
    }
    match tasks.first() {
        Some(newest) if !tasks.iter().any(|task| meant(&task)) => UnitState::Ended(ending(newest)),
        // A service that has no task yet will have one.
        _ => UnitState::Starting,
    }
}

/// The id of the container of the task that runs and is meant to.
pub(super) fn running(tasks: &[&Task]) -> Option<String> {
    let runs = |task: &&&Task| {
        task.desired_state == Some(TaskState::RUNNING) && state_of(task) == Some(TaskState::RUNNING)
    };
    container(tasks.iter().find(runs)?)
}

/// The id of the container of a task, if there is or was one.
pub(super) fn container(task: &Task) -> Option<String> {
    let container = task.status.as_ref()?.container_status.as_ref()?;
    container.container_id.clone().filter(|id| !id.is_empty())
}

pub(super) fn state_of(task: &Task) -> Option<TaskState> {
    task.status.as_ref()?.state
}

/// Whether there is no process of it any more.
pub(super) fn has_ended(task: &Task) -> bool {
    use TaskState as State;
    let state = state_of(task);
    matches!(
        state,
        Some(
            State::COMPLETE
                | State::SHUTDOWN
                | State::FAILED
                | State::REJECTED
                | State::REMOVE
                | State::ORPHANED
        )
    )
}

/// What Swarm says of a task.
pub(super) fn description(task: &Task) -> String {
    let status = task.status.clone().unwrap_or_default();
    let texts = [status.err, status.message];
    let text = texts.into_iter().flatten().find(|text| !text.is_empty());
    line(&text.unwrap_or_default())
}

/// Why a task has ended.
fn ending(task: &Task) -> String {
    let status = task.status.as_ref();
    let exit = status.and_then(|status| status.container_status.as_ref()?.exit_code);
    let said = description(task);
    match exit {
        Some(0) if state_of(task) == Some(TaskState::COMPLETE) => "exited with 0".to_owned(),
        Some(exit) if said.contains("non-zero exit") => format!("exited with {exit}"),
        _ => said,
    }
}

/// The backend that a running task not made by a launcher is an instance of.
pub(super) fn other(task: &Task, owner: &UnitOwner) -> Option<BackendId> {
    if state_of(task) != Some(TaskState::RUNNING) {
        return None;
    }
    let container = task.spec.as_ref()?.container_spec.as_ref()?;
    let labels: &Labels = container.labels.as_ref()?;
    // What its image exposes is known only on its node: the label is assumed to be right.
    let exposed = [80];
    let image = container.image.as_deref().unwrap_or_default();
    let ours = labels.get(UNIT).is_some_and(|name| owner.owns(name, labels));
    labels::other(labels, image, &exposed).filter(|_| !ours && !owner.is_anothers(labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::{ContainerStatus, TaskStatus};

    /// A task in a state that is meant to be in another, with what Swarm says and the exit code.
    fn task(made: &str, state: TaskState, meant: TaskState, err: &str, exit: i64) -> Task {
        Task {
            id: Some(format!("task-{made}")),
            created_at: Some(format!("2030-01-31T18:00:{made}Z")),
            desired_state: Some(meant),
            status: Some(TaskStatus {
                state: Some(state),
                err: Some(err.to_owned()),
                container_status: Some(ContainerStatus {
                    container_id: Some(format!("container-{made}")),
                    exit_code: Some(exit),
                    ..ContainerStatus::default()
                }),
                ..TaskStatus::default()
            }),
            ..Task::default()
        }
    }

    #[test]
    fn a_service_ends_when_swarm_gives_up() {
        use TaskState as State;
        let ended = |text: &str| UnitState::Ended(text.to_owned());
        let failed = |made| task(made, State::FAILED, State::SHUTDOWN, "task: non-zero exit (3)", 3);
        let missing = "No such image: backend:7";
        for (tasks, expected) in [
            (vec![], UnitState::Starting),
            (
                vec![task("01", State::PREPARING, State::RUNNING, "", 0)],
                UnitState::Starting,
            ),
            (
                vec![task("01", State::RUNNING, State::RUNNING, "", 0)],
                UnitState::Running,
            ),
            // Swarm has not decided yet.
            (
                vec![task("01", State::FAILED, State::RUNNING, "", 0)],
                UnitState::Starting,
            ),
            (
                vec![failed("01"), task("02", State::READY, State::READY, "", 0)],
                UnitState::Starting,
            ),
            (
                vec![
                    failed("01.5"),
                    failed("01"),
                    task("02", State::RUNNING, State::RUNNING, "", 0),
                ],
                UnitState::Running,
            ),
            (vec![failed("01.12"), failed("01")], ended("exited with 3")),
            (
                vec![task("01", State::REJECTED, State::SHUTDOWN, missing, 0)],
                ended(missing),
            ),
            (
                vec![task("01", State::COMPLETE, State::SHUTDOWN, "", 0)],
                ended("exited with 0"),
            ),
            // The newest says why.
            (
                vec![
                    task("02", State::REJECTED, State::SHUTDOWN, missing, 0),
                    failed("01.9"),
                ],
                ended(missing),
            ),
            // It is being stopped, and none takes its place.
            (
                vec![task("01", State::RUNNING, State::SHUTDOWN, "stopping", 0)],
                ended("stopping"),
            ),
        ] {
            assert_eq!(state(&newest_first(&tasks)), expected, "{tasks:?}");
        }
    }

    #[test]
    fn the_newest_is_first_however_many_decimals_its_time_has() {
        let made = ["01", "01.5", "01.12", "00.999999999", "02"];
        let tasks = made.map(|made| task(made, TaskState::FAILED, TaskState::SHUTDOWN, "", 1));
        let twice = tasks.iter().chain(&tasks);
        let order: Vec<_> = newest_first(twice)
            .into_iter()
            .map(|task| task.id.clone().unwrap())
            .collect();
        let expected = ["02", "01.5", "01.12", "01", "00.999999999"];
        assert_eq!(order, expected.map(|made| format!("task-{made}")));
    }

    #[test]
    fn only_a_task_that_is_meant_to_run_has_a_container_that_counts() {
        use TaskState as State;
        let tasks = [
            task("02", State::RUNNING, State::RUNNING, "", 0),
            task("01", State::RUNNING, State::SHUTDOWN, "", 0),
        ];
        assert_eq!(running(&newest_first(&tasks)).as_deref(), Some("container-02"));
        assert_eq!(running(&newest_first(&tasks[1..])), None);
    }
}
