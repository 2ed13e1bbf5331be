//! The changes of the compose file, as a second compose file to be used beside it.

use std::collections::BTreeMap;

use mayfly_core::labels;
use serde_json::{Map, Value, json};

use super::calls::masked;
use super::decide::Role;
use super::outcome::{ImportWishes, ImportedService};
use super::texts::yaml;

/// What the networks of the overlay call Mayfly's network.
const NETWORK: &str = "mayfly";

/// What becomes of values that may be secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    Written,
    Hidden,
}

/// The text; empty if nothing is to be changed.
pub(super) fn text(outcomes: &[ImportedService], wishes: &ImportWishes, secrets: Secrets) -> String {
    let has_launched = outcomes.iter().any(|outcome| outcome.is_launched);
    let services: BTreeMap<&str, Value> = outcomes
        .iter()
        .filter_map(|outcome| {
            Some((
                outcome.it.name.as_str(),
                service(outcome, has_launched, wishes, secrets)?,
            ))
        })
        .collect();
    if services.is_empty() {
        return String::new();
    }
    let uses_network = services.values().any(|service| service.get("networks").is_some());
    let mut overlay = BTreeMap::from([("services", json!(services))]);
    if uses_network {
        let network = json!({ NETWORK: {"external": true, "name": escaped(&wishes.network)} });
        overlay.insert("networks", network);
    }
    yaml(&overlay)
}

fn service(
    outcome: &ImportedService,
    has_launched: bool,
    wishes: &ImportWishes,
    secrets: Secrets,
) -> Option<Value> {
    let service = &outcome.it.service;
    let mut changes = Map::new();
    if outcome.is_launched {
        // Mayfly starts it.
        if service.has_replicas {
            changes.insert("deploy".to_owned(), json!({"replicas": 0}));
        } else {
            changes.insert("scale".to_owned(), json!(0));
        }
        return Some(Value::Object(changes));
    }
    let routed = match &outcome.it.role {
        Role::Off(_) => return None,
        Role::Routed(routed) => Some(routed),
        Role::Worker | Role::Apart(_) if !outcome.resolves() => return None,
        // What compose starts finds it as before.
        Role::Shared(_) if !has_launched && !outcome.resolves() => return None,
        Role::Worker | Role::Apart(_) | Role::Shared(_) => None,
    };
    if service.network_mode.is_none() {
        // A service without networks is in `default`, and would leave it.
        let mut networks = service.networks.clone();
        if networks.is_empty() {
            networks.push("default".to_owned());
        }
        networks.push(NETWORK.to_owned());
        changes.insert("networks".to_owned(), json!(networks));
    }
    if let Some(dns) = outcome.dns(wishes) {
        changes.insert("dns".to_owned(), json!([dns]));
    }
    let mut all = BTreeMap::new();
    // What the registrar needs to know, and what no label says yet.
    if let Some(routed) = routed {
        let version = routed.version_label.as_ref();
        let needed = [
            (labels::SERVICE, Some(routed.name.to_string())),
            (labels::VERSION, version.map(ToString::to_string)),
            (labels::PORT, Some(routed.port.to_string())),
            (labels::CHECK, Some(escaped(&routed.check.to_string()))),
            (labels::OF, wishes.key_prefix.as_ref().map(ToString::to_string)),
        ];
        let needed = needed
            .into_iter()
            .filter(|(label, _)| !service.labels.contains_key(*label));
        all.extend(needed.filter_map(|(label, value)| Some((label, value?))));
    }
    if !all.is_empty() {
        changes.insert("labels".to_owned(), json!(all));
    }
    if !outcome.env.is_empty() {
        let env: BTreeMap<&str, String> = outcome
            .env
            .iter()
            .map(|(name, value)| {
                let is_of_file = service.of_files.contains(name);
                (name.as_str(), escaped(&shown(value, is_of_file, secrets)))
            })
            .collect();
        changes.insert("environment".to_owned(), json!(env));
    }
    if let Some(command) = &outcome.command {
        let words: Vec<String> = command
            .iter()
            .map(|word| escaped(&shown(word, false, secrets)))
            .collect();
        changes.insert("command".to_owned(), json!(words));
    }
    (!changes.is_empty()).then_some(Value::Object(changes))
}

/// A value, if it may be shown.
fn shown(value: &str, is_of_file: bool, secrets: Secrets) -> String {
    match (secrets, is_of_file) {
        (Secrets::Written, _) => value.to_owned(),
        (Secrets::Hidden, true) => "…".to_owned(),
        (Secrets::Hidden, false) => masked(value),
    }
}

/// A text in which compose fills no variable in.
fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}
