//! Who owns a container or service, by its labels: the key prefix of a launcher marks what it has
//! made. So launchers of several Mayflies can share an engine, and one that takes over knows what
//! its predecessor has made.

use std::collections::HashMap;

use mayfly_core::keys::KeySpace;
use mayfly_core::labels::{self, DEFINITION, LAUNCHER, SERVICE, UNIT, VERSION};
use mayfly_core::version::BackendId;

use super::Launch;

/// The label that Swarm puts on the containers of its services.
const SWARM_TASK: &str = "com.docker.swarm.task.id";

/// The labels of a container.
pub(super) type Labels = HashMap<String, String>;

/// Whose mark is looked for and put on what is made.
#[derive(Debug, Clone)]
pub(super) struct UnitOwner {
    prefix: KeySpace,
}

impl UnitOwner {
    pub(super) fn new(prefix: &KeySpace) -> Self {
        Self {
            prefix: prefix.clone(),
        }
    }

    /// Whether a launcher with this prefix has made what has this name and these labels. The labels
    /// alone do not say so: an image that was made of a container hands them on.
    pub(super) fn owns(&self, name: &str, labels: &Labels) -> bool {
        let has = |label: &str, text: &str| labels.get(label).is_some_and(|found| found == text);
        has(LAUNCHER, &self.prefix.to_string()) && has(UNIT, name)
    }

    /// Why something of this name is not our unit of a backend; `None` if it is.
    pub(super) fn stranger(&self, name: &str, labels: &Labels, backend: &BackendId) -> Option<String> {
        if !self.owns(name, labels) {
            return Some("this launcher did not create it".to_owned());
        }
        match unit(labels) {
            Ok((found, _)) if found == *backend => None,
            Ok((found, _)) => Some(format!("it belongs to {found}, not to {backend}")),
            Err(reason) => Some(format!(
                "its labels {SERVICE} and {VERSION} name no backend ({reason})"
            )),
        }
    }

    /// Whether our registrar does not register it: it belongs to another Mayfly, or the label that
    /// says so is wrong.
    pub(super) fn is_anothers(&self, labels: &Labels) -> bool {
        labels::is_of_another(pairs(labels), &self.prefix) != Ok(false)
    }

    /// The labels of a unit: all that the launch asks for, and whatever it says, those by which it
    /// is found again.
    pub(super) fn labels(&self, launch: &Launch) -> Labels {
        let mark = [
            (LAUNCHER.to_owned(), self.prefix.to_string()),
            (DEFINITION.to_owned(), launch.digest.clone()),
            (UNIT.to_owned(), launch.name.clone()),
        ];
        launch.labels.clone().into_iter().chain(mark).collect()
    }

    /// What to filter a list by, to get only what this launcher has made.
    pub(super) fn filter(&self) -> String {
        format!("{LAUNCHER}={}", self.prefix)
    }
}

/// Whether Swarm has made this container for a task: it names it after the task's id. The label
/// alone does not show it, since any image can have it.
pub(super) fn is_task(name: &str, labels: &Labels) -> bool {
    let task = labels.get(SWARM_TASK).filter(|task| !task.is_empty());
    task.is_some_and(|task| {
        name.strip_suffix(task.as_str())
            .is_some_and(|rest| rest.ends_with('.'))
    })
}

/// The backend and the digest of the definition of a unit.
///
/// # Errors
/// When the labels were changed so that they do not say it.
pub(super) fn unit(labels: &Labels) -> Result<(BackendId, String), String> {
    let text = |name: &str| labels.get(name).map(String::as_str).unwrap_or_default();
    let backend = BackendId {
        service: text(SERVICE)
            .parse()
            .map_err(|error| format!("label {SERVICE}: {error}"))?,
        version: text(VERSION)
            .parse()
            .map_err(|error| format!("label {VERSION}: {error}"))?,
    };
    Ok((backend, text(DEFINITION).to_owned()))
}

/// The backend that a container not made by a launcher is an instance of; `None` where there is
/// none, or its labels are wrong.
pub(super) fn other(labels: &Labels, image: &str, exposed: &[u16]) -> Option<BackendId> {
    let read = labels::read(pairs(labels), image, exposed).ok().flatten();
    read.map(|labelled| labelled.backend)
}

fn pairs(labels: &Labels) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().map(|(name, text)| (name.as_str(), text.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .collect()
    }

    #[test]
    fn a_label_of_an_image_hides_no_unit_and_makes_no_task() {
        let owner = UnitOwner::new(&KeySpace::default());
        let unit = labels("mayfly.launcher=/mayfly mayfly.unit=n com.docker.swarm.task.id=1");
        assert!(owner.owns("n", &unit));
        assert!(!is_task("n", &unit) && !is_task("n", &labels("com.docker.swarm.task.id=")));
        let task = labels("com.docker.swarm.task.id=0abc mayfly.unit=n mayfly.launcher=/mayfly");
        assert!(is_task("n.1.0abc", &task) && !owner.owns("n.1.0abc", &task));
    }

    #[test]
    fn what_another_mayfly_or_nobody_registers_is_not_counted() {
        let owner = UnitOwner::new(&KeySpace::default());
        for (text, expected) in [
            ("mayfly.service=x", false),
            ("mayfly.service=x mayfly.prefix=/mayfly", false),
            ("mayfly.service=x mayfly.launcher=/mayfly", false),
            ("mayfly.service=x mayfly.prefix=/other", true),
            ("mayfly.service=x mayfly.launcher=/other", true),
            // Its registrar reports it, and registers nothing.
            ("mayfly.service=x mayfly.prefix=other", true),
        ] {
            assert_eq!(owner.is_anothers(&labels(text)), expected, "{text}");
        }
    }

    #[test]
    fn one_of_our_name_may_be_a_stranger() {
        let owner = UnitOwner::new(&KeySpace::default());
        let backend = "x@1".parse().unwrap();
        for (text, part) in [
            (
                "mayfly.launcher=/mayfly mayfly.unit=n mayfly.service=x mayfly.version=1",
                "",
            ),
            (
                "mayfly.launcher=/mayfly mayfly.unit=n mayfly.service=y mayfly.version=1",
                "it belongs to y@1",
            ),
            (
                "mayfly.launcher=/mayfly mayfly.unit=n mayfly.service=x mayfly.version=2",
                "it belongs to x@2",
            ),
            (
                "mayfly.launcher=/mayfly mayfly.unit=n mayfly.service=x",
                "name no backend",
            ),
            (
                "mayfly.launcher=/other mayfly.unit=n mayfly.service=x mayfly.version=1",
                "did not create it",
            ),
            ("", "did not create it"),
        ] {
            let reason = owner.stranger("n", &labels(text), &backend).unwrap_or_default();
            assert!(
                reason.contains(part) && reason.is_empty() == part.is_empty(),
                "{text}: {reason}"
            );
        }
    }
}
