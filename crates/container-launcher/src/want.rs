//! How a backend is started: its definition against what this launcher allows, as a [`Launch`] that an engine takes. Pure
//! but for a look at where the links of a volume point. Everyone who may push a file may write a definition, so it is checked
//! here again with what only the launcher knows: the images, networks and directories that it allows, and how much a
//! container may use. What a definition leaves open is filled in here, so nothing is left to a default of the engine.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mayfly_core::definition::{Cpus, Definition, Memory, NetworkName, VariableName, Volume};
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
    /// The network of a definition that names none.
    pub network: NetworkName,
    /// Patterns of the networks that may be joined beside that one.
    pub allowed_networks: Vec<String>,
    /// The most memory of a container, and what one has whose definition does not say.
    pub memory: Memory,
    /// Likewise, of processors.
    pub cpus: Cpus,
    /// How many processes and threads a container may have.
    pub processes: u32,
    /// The name servers that containers ask; those of the engine, where there is none.
    pub dns: Vec<IpAddr>,
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
        let definition = Definition {
            networks: networks(definition, terms)?,
            memory: Some(at_most("memory", definition.memory, terms.memory)?),
            cpus: Some(at_most("cpus", definition.cpus, terms.cpus)?),
            ..Definition::clone(definition)
        };
        volumes(&definition, &terms.volume_roots)?;
        let digest = digest(&definition, image.as_str(), terms);
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
                backend: backend.clone(),
                labels,
                digest,
                image,
                pull: terms.pull,
                definition: Arc::new(definition),
                processes: terms.processes,
                dns: terms.dns.clone(),
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

/// The networks of a definition; the launcher's own, where it names none.
fn networks(definition: &Definition, terms: &Terms) -> Result<Vec<NetworkName>, String> {
    let Terms {
        network,
        allowed_networks: patterns,
        ..
    } = terms;
    let may_join = |name: &NetworkName| {
        name == network || patterns.iter().any(|pattern| matches(pattern, name.as_str()))
    };
    if let Some(name) = definition.networks.iter().find(|name| !may_join(name)) {
        let own = [network.to_string()];
        let allowed: Vec<&str> = own.iter().chain(patterns).map(String::as_str).collect();
        return Err(format!(
            "network {name} is not allowed here: allowed is {} (--network, --allow-network)",
            allowed.join(", ")
        ));
    }
    match definition.networks.as_slice() {
        [] => Ok(vec![network.clone()]),
        named => Ok(named.to_vec()),
    }
}

/// What a definition asks for, or the most there is, where it does not say.
fn at_most<T: Copy + Ord + Display>(field: &str, asked: Option<T>, most: T) -> Result<T, String> {
    match asked {
        Some(asked) if asked > most => Err(format!(
            "{field} {asked} is more than a container may have here: at most {most} (--{field})"
        )),
        asked => Ok(asked.unwrap_or(most)),
    }
}

/// Whether the volumes of a definition lie below the roots: as they are written, and where this launcher sees the files of
/// the engine's host, also where links take them.
fn volumes(definition: &Definition, roots: &[String]) -> Result<(), String> {
    let allowed = || match roots {
        [] => "this launcher allows no volumes".to_owned(),
        roots => format!("allowed is what lies below {}", roots.join(", ")),
    };
    // Beside the engine both see the same files; in a container, or for an engine elsewhere, nothing is found.
    let real = |path: &str| std::fs::canonicalize(path).ok();
    for source in definition.volumes.iter().map(Volume::source) {
        if !roots.iter().any(|root| Path::new(source).starts_with(root)) {
            return Err(format!(
                "volume {source} is not allowed here: {} (--volume-root)",
                allowed()
            ));
        }
        let Some(target) = real(source) else {
            continue;
        };
        let is_below = |root: &String| target.starts_with(real(root).unwrap_or_else(|| root.into()));
        if !roots.iter().any(is_below) {
            return Err(format!(
                "volume {source} is not allowed here: by a link it is somewhere else, and {} (--volume-root)",
                allowed()
            ));
        }
    }
    Ok(())
}

/// The digest of all that makes a container what it is. How many there are, which versions are allowed and where the
/// definition comes from does not.
fn digest(definition: &Definition, image: &str, terms: &Terms) -> String {
    let essence = Definition {
        versions: None,
        instances: Default::default(),
        source: None,
        ..definition.clone()
    };
    let mut octets = records::to_json(&essence);
    octets.extend(image.as_bytes());
    octets.extend(format!("{} {:?}", terms.processes, terms.dns).into_bytes());
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
            network: "mayfly".parse().unwrap(),
            allowed_networks: Vec::new(),
            memory: "512m".parse().unwrap(),
            cpus: "1".parse().unwrap(),
            processes: 1024,
            dns: Vec::new(),
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
        // What it asks for is what it would have anyway.
        for same in [
            r#", "networks": ["mayfly"]"#,
            r#", "memory": "512m", "cpus": "1""#,
        ] {
            assert_eq!(digest(same), plain, "{same}");
        }
        for other in [
            Terms {
                processes: 9,
                ..terms()
            },
            Terms {
                network: "other".parse().unwrap(),
                ..terms()
            },
            Terms {
                dns: vec!["10.0.0.53".parse().unwrap()],
                ..terms()
            },
        ] {
            assert_ne!(recipe("", "1", &other).unwrap().digest(), plain, "{other:?}");
        }
    }

    #[test]
    fn what_a_definition_leaves_open_is_the_launcher_s() {
        let launch = recipe("", "1", &terms()).unwrap().unit("n".to_owned());
        let Definition {
            networks,
            memory,
            cpus,
            ..
        } = &*launch.definition;
        assert_eq!(networks, &["mayfly".parse().unwrap()]);
        assert_eq!(
            (memory.unwrap().to_string(), cpus.unwrap().to_string()),
            ("512m".into(), "1".into())
        );
        assert_eq!(
            (launch.processes, launch.backend.to_string()),
            (1024, "x@1".to_owned())
        );
        let less = recipe(r#", "memory": "64m", "cpus": "0.5""#, "1", &terms()).unwrap();
        assert_eq!(less.launch.definition.memory.unwrap().to_string(), "64m");
        assert_eq!(less.launch.definition.cpus.unwrap().to_string(), "0.5");
    }

    #[test]
    fn a_volume_that_a_link_takes_out_of_its_root_is_refused() {
        let directory = std::env::temp_dir().join(format!("mayfly-want-{}", std::process::id()));
        let root = directory.join("root");
        std::fs::create_dir_all(root.join("inside")).unwrap();
        std::fs::create_dir_all(directory.join("secret")).unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        std::os::unix::fs::symlink("inside", root.join("in")).unwrap();
        std::os::unix::fs::symlink("root", directory.join("alias")).unwrap();
        let asked = |root: &str, below: &str| {
            let root = directory.join(root).display().to_string();
            let terms = Terms {
                volume_roots: vec![root.clone()],
                ..terms()
            };
            recipe(&format!(r#", "volumes": ["{root}/{below}:/x"]"#), "1", &terms).map(drop)
        };
        let all = [
            ("root", "inside"),
            ("root", "in"),
            ("root", "not-there"),
            ("alias", "in"),
            ("root", "out"),
        ];
        let told = all.map(|(root, below)| asked(root, below));
        std::fs::remove_dir_all(&directory).unwrap();
        let [fine @ .., refused] = told;
        assert_eq!(fine, [const { Ok(()) }; 4]);
        assert!(refused.unwrap_err().contains("by a link it is somewhere else"));
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
                "network etcd is not allowed here: allowed is mayfly, mayfly* (--network, --allow-network)",
            ),
            (
                r#", "networks": ["bridge"]"#,
                "1",
                &terms(),
                "network bridge is not allowed here: allowed is mayfly (--network",
            ),
            (
                r#", "memory": "513m""#,
                "1",
                &terms(),
                "memory 513m is more than a container may have here: at most 512m (--memory)",
            ),
            (r#", "cpus": "1.001""#, "1", &terms(), "at most 1 (--cpus)"),
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
