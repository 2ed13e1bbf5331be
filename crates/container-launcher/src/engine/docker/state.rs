//! What the state of a container means.

use bollard::models::{ContainerState, ContainerStateStatusEnum, ContainerSummaryStateEnum};

use mayfly_daemon::docker::line;

use crate::engine::UnitState;

/// The state of a container in a list; `None` where the container has to be inspected.
pub(super) fn listed(state: Option<ContainerSummaryStateEnum>) -> Option<UnitState> {
    use ContainerSummaryStateEnum as State;
    match state {
        // Paused is what a person does by hand: its process is there.
        Some(State::RUNNING | State::RESTARTING | State::PAUSED | State::STOPPING) => {
            Some(UnitState::Running)
        }
        Some(State::REMOVING) => Some(UnitState::Leaving),
        Some(State::CREATED | State::EXITED | State::DEAD | State::EMPTY) | None => None,
    }
}

/// The state of a container, and why it does not run.
pub(super) fn inspected(state: ContainerState) -> UnitState {
    use ContainerStateStatusEnum as State;
    let error = state.error.as_deref().map(line).filter(|error| !error.is_empty());
    let exit = state.exit_code.unwrap_or_default();
    match (state.status, error) {
        (Some(State::RUNNING | State::RESTARTING | State::PAUSED | State::STOPPING), _) => UnitState::Running,
        (Some(State::REMOVING), _) => UnitState::Leaving,
        // The engine leaves one that it could not start as created, too.
        (_, Some(error)) => UnitState::Ended(format!("the engine cannot start it: {error}")),
        (Some(State::CREATED), None) => UnitState::Created,
        _ if state.oom_killed == Some(true) => UnitState::Ended(format!(
            "exited with {exit}: it needed more memory than its limit"
        )),
        _ => UnitState::Ended(format!("exited with {exit}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_it_does_not_run() {
        use ContainerStateStatusEnum as State;
        let ended = |text: &str| UnitState::Ended(text.to_owned());
        for (status, error, exit, oom, expected) in [
            (State::CREATED, "", 0, false, UnitState::Created),
            (
                State::CREATED,
                "OCI runtime\nfailed",
                127,
                false,
                ended("the engine cannot start it: OCI runtime failed"),
            ),
            (State::RUNNING, "", 0, false, UnitState::Running),
            (State::PAUSED, "", 0, false, UnitState::Running),
            (State::EXITED, "", 3, false, ended("exited with 3")),
            (
                State::EXITED,
                "",
                137,
                true,
                ended("exited with 137: it needed more memory than its limit"),
            ),
            (State::DEAD, "", 1, false, ended("exited with 1")),
            (State::REMOVING, "", 0, false, UnitState::Leaving),
        ] {
            let state = ContainerState {
                status: Some(status),
                error: Some(error.to_owned()),
                exit_code: Some(exit),
                oom_killed: Some(oom),
                ..ContainerState::default()
            };
            assert_eq!(inspected(state), expected, "{status:?} {error}");
        }
    }
}
