//! How a backend is started: its definition against what this launcher allows, as a [`Launch`] that an engine takes. Pure.
//! Everyone who may push a file may write a definition, so it is checked here again with what only the launcher knows: the
//! images and directories that it allows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mayfly_core::definition::{Definition, VariableName};
use mayfly_core::keys::KeySpace;
use mayfly_core::labels::{self, Labelled};
use mayfly_core::records::{self, Weight};
use mayfly_core::version::BackendId;

use crate::engine::{Launch, Pull};
use crate::naming;

/// What an operator has decided.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The key prefix, by which units are known to be ours.
    pub prefix: KeySpace,
    /// How long nobody has to need a backend before it is retired.
    pub retire_after: Duration,
    /// How long an instance gets no new requests before it is stopped.
    pub drain: Duration,
    /// How long a backend has to lack instances before one is started: somebody else may be about to.
    pub patience: Duration,
    /// How long a container that runs may take to answer.
    pub start_timeout: Duration,
    /// The limits of a pause between two tries.
    pub pauses: (Duration, Duration),
    /// How many units there may be.
    pub max_containers: usize,
    /// How many are started at the same time.
    pub starts_at_once: usize,
    /// Patterns of the images that may be started, `*` standing for any text; any image, where there is none.
    pub allowed_images: Vec<String>,
    /// Patterns of the networks that may be joined; any, where there is none.
    pub allowed_networks: Vec<String>,
    /// The directories of the host below which volumes may lie.
    pub volume_roots: Vec<String>,
    /// What `${NAME}` in an image stands for.
    pub variables: BTreeMap<VariableName, String>,
    /// When to pull an image.
    pub pull: Pull,
}

/// How every unit of a backend is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// How many there are to be.
    pub instances: usize,
    /// A unit, but for its name.
    launch: Launch,
}

impl Recipe {
    /// The recipe for a backend.
    ///
    /// # Errors
    /// Why it may not be started, and what would be right.
    pub fn new(backend: &BackendId, definition: &Arc<Definition>, terms: &Terms) -> Result<Self, String> {
        if !definition.allows(&backend.version) {
            let range = definition.versions.as_ref();
            let range = range.map_or_else(String::new, ToString::to_string);
            return Err(format!(
                "version {} is none that the definition of {} allows (versions: {range})",
                backend.version, backend.service
            ));
        }
        let image = definition.image.reference(&backend.version, &terms.variables);
        let image = image.map_err(|error| error.to_string())?;
        let patterns = &terms.allowed_images;
        if !patterns.is_empty() && !patterns.iter().any(|pattern| matches(pattern, image.as_str())) {
            return Err(format!(
                "image {image} is not allowed here: allowed is {} (--allow-image)",
                patterns.join(", ")
            ));
        }
        let patterns = &terms.allowed_networks;
        let may_join =
            |network: &str| patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, network));
        if let Some(network) = definition
            .networks
            .iter()
            .find(|network| !may_join(network.as_str()))
        {
            return Err(format!(
                "network {network} is not allowed here: allowed is {} (--allow-network)",
                patterns.join(", ")
            ));
        }
        let below = |source: &str, root: &String| {
            let rest = source.strip_prefix(root.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let volumes = definition.volumes.iter();
        let mut outside =
            volumes.filter(|volume| !terms.volume_roots.iter().any(|root| below(volume.source(), root)));
        if let Some(volume) = outside.next() {
            let roots = match terms.volume_roots.as_slice() {
                [] => "this launcher allows no volumes".to_owned(),
                roots => format!("allowed is what lies below {}", roots.join(", ")),
            };
            return Err(format!(
                "volume {} is not allowed here: {roots} (--volume-root)",
                volume.source()
            ));
        }
        let digest = digest(definition, image.as_str());
        let labelled = Labelled {
            backend: backend.clone(),
            port: definition.port,
            check: definition.check.clone(),
            protocol: definition.protocol,
            weight: Weight::default(),
        };
        let mut labels = labelled.labels();
        labels.insert(labels::LAUNCHER.to_owned(), terms.prefix.to_string());
        labels.insert(labels::DEFINITION.to_owned(), digest.clone());
        Ok(Self {
            instances: definition.instances.count(),
            launch: Launch {
                name: String::new(),
                labels,
                digest,
                image,
                pull: terms.pull,
                definition: definition.clone(),
            },
        })
    }

    /// What tells a unit by this recipe from one by an earlier one.
    pub fn digest(&self) -> &str {
        &self.launch.digest
    }

    /// The unit of a name.
    pub fn unit(&self, name: String) -> Launch {
        Launch {
            name,
            ..self.launch.clone()
        }
    }
}

/// The digest of all that makes a container what it is. How many there are, which versions are allowed and where the
/// definition comes from does not.
fn digest(definition: &Definition, image: &str) -> String {
    let essence = Definition {
        versions: None,
        instances: Default::default(),
        source: None,
        ..definition.clone()
    };
    let mut octets = records::to_json(&essence);
    octets.extend(image.as_bytes());
    naming::digest(&octets)
}

/// Whether a text has the form of a pattern, in which `*` stands for any text, also an empty one.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(after) = text.strip_prefix(begin) else {
        return false;
    };
    let ends = after.char_indices().map(|(at, _)| at).chain([after.len()]);
    ends.into_iter().any(|at| matches(rest, &after[at..]))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn terms() -> Terms {
        Terms {
            prefix: KeySpace::default(),
            retire_after: Duration::from_secs(3600),
            drain: Duration::from_secs(5),
            patience: Duration::from_secs(3),
            start_timeout: Duration::from_secs(120),
            pauses: (Duration::from_secs(1), Duration::from_secs(300)),
            max_containers: 200,
            starts_at_once: 8,
            allowed_images: Vec::new(),
            allowed_networks: Vec::new(),
            volume_roots: Vec::new(),
            variables: BTreeMap::new(),
            pull: Pull::Missing,
        }
    }

    fn recipe(more: &str, version: &str, terms: &Terms) -> Result<Recipe, String> {
        let text = format!(
            r#"{{"name": "x", "image": "registry.example/team/x:{{{{ version }}}}", "port": 80{more}}}"#
        );
        let definition = Arc::new(records::parse(text.as_bytes()).unwrap());
        Recipe::new(&format!("x@{version}").parse().unwrap(), &definition, terms)
    }

    #[test]
    fn a_unit_says_what_it_is() {
        let launch = recipe(r#", "check": "/health""#, "1", &terms())
            .unwrap()
            .unit("n".to_owned());
        let pairs = launch
            .labels
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        let labelled = labels::read(pairs, "", &[]).unwrap().unwrap();
        assert_eq!(labelled.backend.to_string(), "x@1");
        assert_eq!(launch.labels[labels::LAUNCHER], "/mayfly");
        assert_eq!(launch.image.as_str(), "registry.example/team/x:1");
    }

    #[test]
    fn the_digest_tells_what_makes_a_container_another_one() {
        let digest = |more| recipe(more, "1", &terms()).unwrap().digest().to_owned();
        let plain = digest("");
        for same in [r#", "instances": 3"#, r#", "versions": ">=0.1""#] {
            assert_eq!(digest(same), plain, "{same}");
        }
        for other in [
            r#", "env": {"A": "1"}"#,
            r#", "memory": "256m""#,
            r#", "check": "/""#,
        ] {
            assert_ne!(digest(other), plain, "{other}");
        }
    }

    #[test]
    fn what_may_not_be_had_is_refused() {
        let strict = Terms {
            allowed_images: vec!["registry.example/team/*".to_owned()],
            volume_roots: vec!["/srv/mayfly/".to_owned()],
            ..terms()
        };
        assert!(recipe("", "1", &strict).is_ok());
        let fenced = Terms {
            allowed_networks: vec!["mayfly*".to_owned()],
            ..terms()
        };
        assert!(recipe(r#", "networks": ["mayfly-2"]"#, "1", &fenced).is_ok());
        let elsewhere = Terms {
            allowed_images: vec!["team/*".to_owned()],
            ..terms()
        };
        for (more, version, terms, part) in [
            (r#", "versions": "^1""#, "2", &strict, "allows (versions: ^1)"),
            ("", "1", &elsewhere, "allowed is team/* (--allow-image)"),
            (
                r#", "volumes": ["/srv/mayfly-2:/x"]"#,
                "1",
                &strict,
                "below /srv/mayfly/",
            ),
            (
                r#", "networks": ["mayfly", "etcd"]"#,
                "1",
                &fenced,
                "network etcd is not allowed here: allowed is mayfly* (--allow-network)",
            ),
            (r#", "volumes": ["/etc:/x"]"#, "1", &terms(), "allows no volumes"),
        ] {
            let error = recipe(more, version, terms).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        for more in [
            r#", "volumes": ["/srv/mayfly:/x"]"#,
            r#", "volumes": ["/srv/mayfly/a:/x"]"#,
        ] {
            assert!(recipe(more, "1", &strict).is_ok(), "{more}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("a/*", "a/b:1", true),
            ("a/*", "b/a/c", false),
            ("*/b:*", "a/b:1", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
