//! What the container-launchers of this etcd report: which of them leads, and what that one does
//! about backends that an environment needs. Nothing is decided here.

use std::collections::BTreeMap;

use mayfly_core::index::{EnvironmentView, ServiceView};
use mayfly_core::launching::{Backend, Launching, Phase};
use mayfly_core::names::NodeName;
use mayfly_core::version::BackendId;
use mayfly_daemon::output::printable;

/// What is said where launchers are there and none leads.
pub const NONE_LEADS: &str = "no container-launcher leads: nothing is started at present";

/// All launchers, as far as they concern the commands that ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launchers {
    /// Whether there is one at all.
    pub are_there: bool,
    pub leader: Option<Leader>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub node: NodeName,
    pub launching: Launching,
    /// Whether it says so with the newest service definitions in mind.
    pub is_current: bool,
}

impl Launchers {
    /// The one that works.
    ///
    /// # Errors
    /// That none does.
    pub fn leads(&self) -> anyhow::Result<&Leader> {
        match &self.leader {
            Some(leader) => Ok(leader),
            None if self.are_there => anyhow::bail!("{NONE_LEADS}"),
            None => anyhow::bail!(
                "there is no container-launcher: is one running on this etcd, with the same --prefix?"
            ),
        }
    }

    /// What the leader says of a backend.
    pub fn backend(&self, backend: &BackendId) -> Option<&Backend> {
        self.leader.as_ref()?.launching.backend(backend)
    }

    /// What the leader says of those backends of an environment that lack instances, or that have
    /// fewer than it is about to start.
    pub fn unsettled(&self, view: &EnvironmentView) -> BTreeMap<String, Backend> {
        let services = view.services.iter().filter(|service| !service.outside);
        let unsettled = services.filter_map(|service| {
            let backend = self.backend(&chosen(service)?)?;
            let coming = is_coming(&backend.phase) && service.live < backend.wanted;
            let key = chosen(service)?.to_string();
            (service.missing.is_some() || coming).then(|| (key, backend.clone()))
        });
        unsettled.collect()
    }

    /// The same in words, and why nothing is done about what is missing.
    pub fn reasons(&self, view: &EnvironmentView) -> Vec<String> {
        let missing: Vec<&ServiceView> = view
            .services
            .iter()
            .filter(|service| service.missing.is_some() && !service.outside)
            .collect();
        if self.leader.is_none() {
            let stuck = self.are_there && !missing.is_empty();
            return stuck.then(|| NONE_LEADS.to_owned()).into_iter().collect();
        }
        let unsettled = self.unsettled(view);
        let lines = unsettled
            .iter()
            .map(|(name, backend)| format!("{name}: {}", words(backend)));
        let moving = missing
            .into_iter()
            .filter(|service| chosen(service).is_none())
            .map(|service| only_exact(&service.service.to_string(), &service.selector));
        lines.chain(moving).collect()
    }
}

/// Why a launcher does nothing about a service whose version is chosen among those that run.
pub fn only_exact(service: &str, selector: &str) -> String {
    format!("a container-launcher starts exact versions only, but {service} is requested as {selector}")
}

/// What a launcher says of a backend, on one line.
pub fn words(backend: &Backend) -> String {
    let mut further = Vec::new();
    if backend.phase == Phase::NoDefinition {
        further.push("write one, or start an instance by hand".to_owned());
    }
    if backend.wanted > 1 {
        further.push(format!("{} of {} live", backend.live, backend.wanted));
    }
    let why = match (&backend.phase, &backend.failure) {
        (Phase::Failed { .. }, _) | (_, None) => String::new(),
        (_, Some(failure)) => format!(": {failure}"),
    };
    match backend.failures {
        0 if matches!(backend.phase, Phase::Failed { .. }) => {}
        // It runs, and could not be started now.
        0 => further.extend(backend.failure.clone()),
        1 => further.push(format!("failed once{why}")),
        failures => further.push(format!("failed {failures} times in a row{why}")),
    }
    if let Some(next_try) = &backend.next_try {
        further.push(format!("next try at {next_try}"));
    }
    let phase = printable(&backend.phase.to_string());
    match further.is_empty() {
        true => phase,
        false => format!("{phase} ({})", printable(&further.join(", "))),
    }
}

/// The last lines of output of those that printed some, indented below the name of each.
pub fn outputs<'a>(backends: impl IntoIterator<Item = (&'a String, &'a Backend)>) -> String {
    let printed = backends
        .into_iter()
        .filter(|(_, backend)| !backend.output.is_empty());
    let outputs = printed.map(|(name, backend)| {
        let lines = backend
            .output
            .iter()
            .map(|line| format!("    {}\n", printable(line)));
        format!(
            "  {} printed last:\n{}",
            printable(name),
            lines.collect::<String>()
        )
    });
    outputs.collect()
}

/// The backend that a service of an environment waits for, or leads to; `None` where nothing fits.
fn chosen(service: &ServiceView) -> Option<BackendId> {
    let version = service.awaited.as_ref().or(service.version.as_ref())?;
    format!("{}@{version}", service.service).parse().ok()
}

/// Whether more instances are on their way, or would be if the last try had not failed.
fn is_coming(phase: &Phase) -> bool {
    match phase {
        Phase::Waiting
        | Phase::Pulling { .. }
        | Phase::Starting
        | Phase::Checking
        | Phase::Foreign
        | Phase::Failed { .. } => true,
        Phase::Running | Phase::Unused { .. } | Phase::Retiring | Phase::NoDefinition => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::index::Index;
    use mayfly_core::keys::KeySpace;
    use mayfly_core::records::Record;

    fn backend(phase: Phase, wanted: usize, failures: usize) -> Backend {
        Backend {
            phase,
            wanted,
            live: 0,
            images: [].into(),
            failures,
            failure: None,
            next_try: None,
            output: vec!["line 1".to_owned(), "\u{1b}[2J".to_owned()],
            not_pulled: None,
        }
    }

    fn launchers(backends: Vec<(&str, Backend)>) -> Launchers {
        let backends = backends
            .into_iter()
            .map(|(name, backend)| (name.to_owned(), backend));
        let launching = Launching {
            leading: true,
            backends: backends.collect(),
            ..Launching::default()
        };
        Launchers {
            are_there: true,
            leader: Some(Leader {
                node: "host-1".parse().unwrap(),
                is_current: true,
                launching,
            }),
        }
    }

    /// `a` at 1 has one instance; `b` at 1, `c` at `^2` and `d` outside have none.
    fn view() -> EnvironmentView {
        let mut index = Index::new(KeySpace::default());
        let record = r#"{"name": "temp", "prefix": "t", "header": "t", "services": [{"name": "a", "version": "1"},
            {"name": "b", "version": "1"}, {"name": "c", "version": "^2"}, {"name": "d", "version": "https://d.example"}]}"#;
        index.put(Record::Environment(serde_json::from_str(record).unwrap()), 1);
        let instance = serde_json::from_str(r#"{"address": "10.0.0.1:80"}"#).unwrap();
        index.put(
            Record::Instance("a@1".parse().unwrap(), "x".parse().unwrap(), instance),
            2,
        );
        index.believe_names(std::collections::BTreeMap::new());
        index.resolve();
        index.settle();
        index.view(&"temp".parse().unwrap()).unwrap()
    }

    fn reasons(backends: Vec<(&str, Backend)>) -> Vec<String> {
        launchers(backends).reasons(&view())
    }

    #[test]
    fn what_is_missing_or_on_its_way_is_reported() {
        let moving = "a container-launcher starts exact versions only, but c is requested as ^2";
        let pulling = Phase::Pulling { percent: Some(40) };
        assert_eq!(
            reasons(vec![
                ("b@1", backend(pulling, 1, 0)),
                ("x@1", backend(Phase::Checking, 1, 0))
            ]),
            ["b@1: pulling 40 %", moving]
        );
        // A second instance is not there yet; of what has all its instances, an older word no
        // longer counts.
        assert_eq!(
            reasons(vec![("a@1", backend(Phase::Checking, 2, 1))]),
            ["a@1: checking (0 of 2 live, failed once)", moving]
        );
        assert_eq!(reasons(vec![("a@1", backend(Phase::Checking, 1, 0))]), [moving]);
        assert_eq!(
            reasons(vec![("b@1", backend(Phase::NoDefinition, 1, 0))]).len(),
            2
        );
    }

    #[test]
    fn without_a_leader_that_is_reported_and_without_a_launcher_nothing() {
        let mut none = Launchers::default();
        assert!(none.reasons(&view()).is_empty());
        none.are_there = true;
        assert_eq!(none.reasons(&view()), [NONE_LEADS]);
        assert!(none.unsettled(&view()).is_empty());
    }

    #[test]
    fn what_has_no_definition_is_told_with_the_cure() {
        assert_eq!(
            words(&backend(Phase::NoDefinition, 1, 0)),
            "no definition (write one, or start an instance by hand)"
        );
    }

    #[test]
    fn words_and_output_play_no_tricks_on_a_terminal() {
        let reason = "exited with 1\n".to_owned();
        let mut failed = backend(Phase::Failed { reason }, 1, 3);
        failed.next_try = Some("2030-01-31T18:00:00Z".to_owned());
        assert_eq!(
            words(&failed),
            "failed: exited with 1\\n (failed 3 times in a row, next try at 2030-01-31T18:00:00Z)"
        );
        let said = BTreeMap::from([("b@1".to_owned(), failed)]);
        assert_eq!(
            outputs(&said),
            "  b@1 printed last:\n    line 1\n    \\u{1b}[2J\n"
        );
    }
}
