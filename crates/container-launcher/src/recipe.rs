//! How a backend is started: its definition, checked against what this launcher allows, as a
//! [`Launch`] for an engine. Pure but for a look at where the links of a volume point. Everyone who
//! may push a file may write a definition, so it is checked here against what only the launcher
//! knows: the images, networks and directories that it allows, and how much a container may use.
//! What a definition leaves open is filled in here, so nothing depends on a default of the engine.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use globset::GlobMatcher;
use mayfly_core::keys::KeySpace;
use mayfly_core::labels::Labelled;
use mayfly_core::records::definition::{Cpus, Definition, Memory, NetworkName, VariableName, Volume};
use mayfly_core::records::{self, Weight};
use mayfly_core::version::BackendId;
use mayfly_daemon::file::real_path;

use crate::engine::{Launch, Pull, Unit};
use crate::naming;

/// What an operator has decided.
#[derive(Debug, Clone)]
pub struct LaunchTerms {
    /// The key prefix, which marks our units.
    pub prefix: KeySpace,
    /// How long a backend must not be needed before it is retired.
    pub retire_after: Duration,
    /// How long an instance gets no new requests before it is stopped.
    pub drain: Duration,
    /// How long a backend must lack instances before one is started: another one may be about to
    /// appear.
    pub patience: Duration,
    /// How long a container that runs may take to answer.
    pub start_timeout: Duration,
    /// The limits of a pause between two tries.
    pub pauses: (Duration, Duration),
    /// How many units there may be.
    pub max_containers: usize,
    /// How many are started at the same time.
    pub starts_at_once: usize,
    /// Patterns of the images that may be started; any image, where there is none.
    pub allowed_images: Vec<GlobMatcher>,
    /// The network of a definition that names none.
    pub network: NetworkName,
    /// Patterns of the networks that may be joined beside that one.
    pub allowed_networks: Vec<GlobMatcher>,
    /// The most memory of a container, and what one has whose definition does not say.
    pub memory: Memory,
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
    /// Whether an operator requests new units.
    is_again: bool,
}

/// Separates the digest of a definition from the revision of the request to relaunch its units.
const AGAIN: char = '+';

impl Recipe {
    /// The recipe for a backend.
    ///
    /// # Errors
    /// Why it may not be started, and what would be right.
    pub fn new(
        backend: &BackendId,
        definition: &Arc<Definition>,
        terms: &LaunchTerms,
    ) -> Result<Self, String> {
        if !definition.allows(&backend.version) {
            let range = definition.versions.as_ref();
            let range = range.map_or_else(String::new, ToString::to_string);
            return Err(format!(
                "the definition of {} does not allow version {} (versions: {range})",
                backend.service, backend.version
            ));
        }
        let image = definition.image.reference(&backend.version, &terms.variables);
        let image = image.map_err(|error| error.to_string())?;
        let patterns = &terms.allowed_images;
        if !patterns.is_empty() && !fit(patterns, image.as_str()) {
            return Err(format!(
                "image {image} is not allowed; --allow-image allows {}",
                texts(patterns).collect::<Vec<_>>().join(", ")
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
            check_host: definition.check_host.clone(),
            protocol: definition.protocol,
            weight: Weight::default(),
        };
        Ok(Self {
            instances: definition.instances.count(),
            launch: Launch {
                name: String::new(),
                backend: backend.clone(),
                labels: labelled.labels(),
                digest,
                image,
                pull: terms.pull,
                definition: Arc::new(definition),
                processes: terms.processes,
                dns: terms.dns.clone(),
            },
            is_again: false,
        })
    }

    /// The same for a backend that is to be relaunched, by an operator's request of this revision:
    /// only units that were made for that request count, and their image is pulled if it can be.
    #[must_use]
    pub fn again(mut self, revision: i64) -> Self {
        let launch = &mut self.launch;
        launch.digest = format!("{}{AGAIN}{revision}", launch.digest);
        if launch.pull == Pull::Missing {
            launch.pull = Pull::Newest;
        }
        self.is_again = true;
        self
    }

    /// What distinguishes a unit of this recipe from one of an earlier recipe.
    pub fn digest(&self) -> &str {
        &self.launch.digest
    }

    /// Whether a unit was made by this recipe. Without a request to relaunch it, it does not matter
    /// which request it was made for: the launcher forgets a request when it is done.
    pub fn made(&self, unit: &Unit) -> bool {
        let digest = match self.is_again {
            true => unit.digest.as_str(),
            false => unit.digest.split(AGAIN).next().unwrap_or_default(),
        };
        digest == self.launch.digest
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
fn networks(definition: &Definition, terms: &LaunchTerms) -> Result<Vec<NetworkName>, String> {
    let LaunchTerms {
        network,
        allowed_networks: patterns,
        ..
    } = terms;
    let may_join = |name: &NetworkName| name == network || fit(patterns, name.as_str());
    if let Some(name) = definition.networks.iter().find(|name| !may_join(name)) {
        let allowed: Vec<&str> = std::iter::once(network.as_str()).chain(texts(patterns)).collect();
        return Err(format!(
            "network `{name}` is not allowed; --network and --allow-network allow {}",
            allowed.join(", ")
        ));
    }
    match definition.networks.as_slice() {
        [] => Ok(vec![network.clone()]),
        named => Ok(named.to_vec()),
    }
}

/// What a definition asks for, or the limit if it asks for nothing.
fn at_most<T: Copy + Ord + Display>(field: &str, asked: Option<T>, most: T) -> Result<T, String> {
    match asked {
        Some(asked) if asked > most => {
            Err(format!("{field} {asked} exceeds the limit of {most} (--{field})"))
        }
        asked => Ok(asked.unwrap_or(most)),
    }
}

/// Checks that the volumes of a definition lie below the roots: as they are written and, where this
/// launcher sees the files of the engine's host, also where links lead.
fn volumes(definition: &Definition, roots: &[String]) -> Result<(), String> {
    let allowed = || match roots {
        [] => "without --volume-root no volume is allowed".to_owned(),
        roots => format!("--volume-root allows only paths below {}", roots.join(", ")),
    };
    // Beside the engine both see the same files; in a container, or for an engine elsewhere,
    // nothing is found, and paths stay as they are written.
    for source in definition.volumes.iter().map(Volume::source).map(Path::new) {
        if !roots.iter().any(|root| source.starts_with(root)) {
            return Err(format!(
                "volume `{}` is not allowed: {}",
                source.display(),
                allowed()
            ));
        }
        let target = real_path(source);
        if !roots
            .iter()
            .any(|root| target.starts_with(real_path(Path::new(root))))
        {
            return Err(format!(
                "volume `{}` is not allowed: a link in its path leads to another place, and {}",
                source.display(),
                allowed()
            ));
        }
    }
    Ok(())
}

/// The digest of everything that defines a container. The number of instances, the allowed versions
/// and the origin of the definition do not.
fn digest(definition: &Definition, image: &str, terms: &LaunchTerms) -> String {
    let essence = Definition {
        versions: None,
        instances: Default::default(),
        source: None,
        ..definition.clone()
    };
    let mut bytes = records::to_json(&essence);
    bytes.extend(image.as_bytes());
    bytes.extend(format!("{} {:?}", terms.processes, terms.dns).into_bytes());
    naming::digest(&bytes)
}

/// Whether a text has the form of one of the patterns.
fn fit(patterns: &[GlobMatcher], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.is_match(text))
}

/// The patterns as they were written.
fn texts(patterns: &[GlobMatcher]) -> impl Iterator<Item = &str> {
    patterns.iter().map(|pattern| pattern.glob().glob())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn terms() -> LaunchTerms {
        LaunchTerms {
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

    pub(crate) fn patterns(text: &str) -> Vec<GlobMatcher> {
        vec![globset::Glob::new(text).unwrap().compile_matcher()]
    }

    fn recipe(more: &str, version: &str, terms: &LaunchTerms) -> Result<Recipe, String> {
        let text = format!(
            r#"{{"name": "x", "image": "registry.example/team/x:{{{{ version }}}}", "port": 80{more}}}"#
        );
        let definition = Arc::new(records::parse(text.as_bytes()).unwrap());
        Recipe::new(&format!("x@{version}").parse().unwrap(), &definition, terms)
    }

    #[test]
    fn a_unit_says_what_it_is() {
        let launch = recipe(
            r#", "check": "/health", "check-host": "shop.example""#,
            "1",
            &terms(),
        )
        .unwrap()
        .unit("n".to_owned());
        let pairs = launch
            .labels
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        let labelled = mayfly_core::labels::read(pairs, "", &[]).unwrap().unwrap();
        assert_eq!(labelled.backend.to_string(), "x@1");
        assert_eq!(labelled.check_host.unwrap().as_str(), "shop.example");
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
            LaunchTerms {
                processes: 9,
                ..terms()
            },
            LaunchTerms {
                network: "other".parse().unwrap(),
                ..terms()
            },
            LaunchTerms {
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
            let terms = LaunchTerms {
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
            ("alias", "not-there"),
            ("root", "out"),
            ("root", "out/not-there"),
        ];
        let outcomes = all.map(|(root, below)| asked(root, below));
        std::fs::remove_dir_all(&directory).unwrap();
        let [fine @ .., to_what_exists, to_what_will_be_made] = outcomes;
        assert_eq!(fine, [const { Ok(()) }; 5]);
        for refused in [to_what_exists, to_what_will_be_made] {
            let reason = refused.unwrap_err();
            assert!(
                reason.contains("a link in its path leads to another place"),
                "{reason}"
            );
        }
    }

    #[test]
    fn what_may_not_be_had_is_refused() {
        let strict = LaunchTerms {
            allowed_images: patterns("registry.example/team/*"),
            volume_roots: vec!["/srv/mayfly/".to_owned()],
            ..terms()
        };
        assert!(recipe("", "1", &strict).is_ok());
        let fenced = LaunchTerms {
            allowed_networks: patterns("mayfly*"),
            ..terms()
        };
        assert!(recipe(r#", "networks": ["mayfly-2"]"#, "1", &fenced).is_ok());
        let elsewhere = LaunchTerms {
            allowed_images: patterns("team/*"),
            ..terms()
        };
        for (more, version, terms, part) in [
            (
                r#", "versions": "^1""#,
                "2",
                &strict,
                "does not allow version 2 (versions: ^1)",
            ),
            ("", "1", &elsewhere, "--allow-image allows team/*"),
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
                "network `etcd` is not allowed; --network and --allow-network allow mayfly, mayfly*",
            ),
            (
                r#", "networks": ["bridge"]"#,
                "1",
                &terms(),
                "network `bridge` is not allowed; --network and --allow-network allow mayfly",
            ),
            (
                r#", "memory": "513m""#,
                "1",
                &terms(),
                "memory 513m exceeds the limit of 512m (--memory)",
            ),
            (
                r#", "cpus": "1.001""#,
                "1",
                &terms(),
                "exceeds the limit of 1 (--cpus)",
            ),
            (
                r#", "volumes": ["/etc:/x"]"#,
                "1",
                &terms(),
                "without --volume-root no volume is allowed",
            ),
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
    fn patterns_stand_for_any_text_also_across_slashes() {
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
            assert_eq!(fit(&patterns(pattern), text), fits, "{pattern} {text}");
        }
    }
}
