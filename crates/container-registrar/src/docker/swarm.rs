//! Services of a swarm whose labels are in the wrong place: on the service instead of its
//! containers. Only a manager knows them.

use std::collections::HashMap;

use bollard::models::Service;
use mayfly_core::keys::KeySpace;
use mayfly_core::labels;
use mayfly_core::records::SetAside;

/// Those of ours, each with what would be right.
pub fn misplaced(services: &[Service], prefix: &KeySpace) -> Vec<SetAside> {
    services
        .iter()
        .filter_map(|service| misplaced_labels(service, prefix))
        .collect()
}

fn misplaced_labels(service: &Service, prefix: &KeySpace) -> Option<SetAside> {
    let spec = service.spec.as_ref()?;
    let labels = spec.labels.as_ref()?;
    let task = spec.task_template.as_ref();
    let container = task.and_then(|task| task.container_spec.as_ref()?.labels.as_ref());
    // If labels of the containers are wrong, that is reported for the containers.
    if container.is_some_and(concern) || !concern(labels) {
        return None;
    }
    let pairs = labels.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    if labels::is_of_another(pairs, prefix) == Ok(true) {
        return None;
    }
    let label = names(labels).filter(|name| labels::concern([*name])).min()?;
    Some(SetAside {
        key: format!("swarm service {}", spec.name.as_deref().unwrap_or_default()),
        reason: format!(
            "`{label}` is a label of the service, not of its containers; create the service with \
             --container-label, or in a stack file put \
             `labels` beside `image`, not under `deploy`"
        ),
    })
}

fn concern(labels: &HashMap<String, String>) -> bool {
    labels::concern(names(labels))
}

fn names(labels: &HashMap<String, String>) -> impl Iterator<Item = &str> {
    labels.keys().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(labels: Value, container: Value, expected: Option<&str>) {
        let service = json!({ "Spec": {
            "Name": "web_backend", "Labels": labels,
            "TaskTemplate": { "ContainerSpec": { "Image": "backend:1", "Labels": container } },
        } });
        let service: Service = serde_json::from_value(service).unwrap();
        let found = misplaced(&[service], &KeySpace::default());
        assert_eq!(found.len(), usize::from(expected.is_some()), "{found:?}");
        for (SetAside { key, reason }, expected) in found.iter().zip(expected) {
            assert_eq!(key, "swarm service web_backend");
            assert!(
                reason.starts_with(expected) && reason.contains("--container-label"),
                "{reason}"
            );
        }
    }

    #[test]
    fn labels_of_a_service_are_reported_if_its_containers_have_none() {
        let ours = json!({ "mayfly.service": "backend", "mayfly.port": "80" });
        check(
            ours.clone(),
            json!({}),
            Some("`mayfly.service` is a label of the service"),
        );
        check(ours.clone(), Value::Null, Some("`mayfly.service` is"));
        check(
            ours.clone(),
            json!({ "com.docker.stack.namespace": "web" }),
            Some("`mayfly.service` is"),
        );
        check(
            json!({ "mayfly.servce": "backend" }),
            json!({}),
            Some("`mayfly.servce` is"),
        );
        // With labels in both places it is registered, and misspelt ones are reported for its
        // containers.
        check(ours.clone(), ours.clone(), None);
        check(ours, json!({ "mayfly.servce": "backend" }), None);
        check(json!({ "com.docker.stack.namespace": "web" }), json!({}), None);
        check(Value::Null, Value::Null, None);
        check(
            json!({ "mayfly.service": "backend", "mayfly.prefix": "/other" }),
            json!({}),
            None,
        );
    }
}
