//! The files of a project. Those of deploy/compose are the templates: only the values in .env
//! depend on answers and on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use super::answers::InitAnswers;
use super::host::HostFacts;

/// The values of all others.
const SETTINGS: &str = include_str!("../../../../deploy/compose/.env");
/// The name of their file, and what an init of any version has written first into it.
pub const SETTINGS_NAME: &str = ".env";
pub const MARK: &str = "# The answers that `mayfly init` got";

/// What Git does not get.
pub const IGNORED: &str = ".gitignore";

/// What depends on the version alone: path, content, and whether it is a program.
const VERBATIM: [(&str, &str, bool); 3] = [
    (
        "docker-compose.yml",
        include_str!("../../../../deploy/compose/docker-compose.yml"),
        false,
    ),
    ("mayfly", include_str!("../../../../deploy/compose/mayfly"), true),
    (
        IGNORED,
        include_str!("../../../../deploy/compose/.gitignore"),
        false,
    ),
];

/// A beginning for what the team writes.
const BEGINNINGS: [(&str, &str); 2] = [
    (
        "environments/prod.yaml",
        include_str!("../../../../deploy/compose/environments/prod.yaml"),
    ),
    (
        "services/web.yaml.example",
        include_str!("../../../../deploy/compose/services/web.yaml.example"),
    ),
];

/// The scripts that make and renew the Git repository, as they lie in a checkout.
const SCRIPTS: [(&str, &str); 6] = [
    (
        ".mayfly/deploy/git/init-environments-repo.sh",
        include_str!("../../../../deploy/git/init-environments-repo.sh"),
    ),
    (
        ".mayfly/deploy/git/hooks/pre-receive",
        include_str!("../../../../deploy/git/hooks/pre-receive"),
    ),
    (
        ".mayfly/deploy/git/hooks/post-receive",
        include_str!("../../../../deploy/git/hooks/post-receive"),
    ),
    (
        ".mayfly/deploy/git/hooks/environments.sh",
        include_str!("../../../../deploy/git/hooks/environments.sh"),
    ),
    (
        ".mayfly/deploy/git/hooks/limited.sh",
        include_str!("../../../../deploy/git/hooks/limited.sh"),
    ),
    (
        ".mayfly/scripts/lib.sh",
        include_str!("../../../../scripts/lib.sh"),
    ),
];

/// Those that get a random password: etcd's users, and the token of the page.
const PASSWORDS: [&str; 10] = [
    "root",
    "environment-registrar",
    "container-registrar",
    "container-launcher",
    "haproxy-updater",
    "dns-updater",
    "operator",
    "local",
    "web",
    "web-token",
];

/// The password that etcd alone can change: a new one would let nobody in.
pub const ROOT: &str = "passwords/root";

/// Directories, with their modes. Those that the registrar writes to belong to its user.
pub const DIRECTORIES: [(&str, u32, bool); 4] = [
    ("environments", 0o755, true),
    ("services", 0o755, false),
    ("archive", 0o755, true),
    // The passwords themselves can be read by the users of the containers. So only this keeps other
    // accounts of the host from them.
    ("passwords", 0o700, false),
];

/// A file that a project has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectFile {
    /// Below the directory.
    pub path: String,
    pub content: String,
    pub mode: u32,
    /// Whether it belongs to the group of the registrar.
    pub has_group: bool,
    pub kind: FileKind,
}

/// What a file is, for a project that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Each version of Mayfly has its own, which nobody edits.
    OfVersion,
    /// Each version of Mayfly has the beginning. Imports and people add to it.
    Extended,
    /// A beginning for what the team writes. It never comes back: an empty production would end the
    /// services of the present one.
    Beginning,
    /// A project has its own.
    OfProject,
}

/// What the launcher allows definitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LauncherLimits {
    /// Patterns of images; those of the project by default.
    pub images: BTreeSet<String>,
    /// Paths of the host.
    pub volumes: BTreeSet<String>,
    /// The most memory of a container, where the default is less.
    pub memory: u64,
    /// The most processors of a container in billionths, where the default is less.
    pub nano_cpus: u64,
}

/// The launcher's own limits of a container.
const MEMORY: u64 = 512 << 20;
const NANO_CPUS: u64 = 1_000_000_000;

impl ProjectFile {
    /// A file that people write.
    pub fn new(path: &str, content: &str) -> Self {
        Self {
            path: path.to_owned(),
            content: content.to_owned(),
            mode: 0o644,
            has_group: false,
            kind: FileKind::OfProject,
        }
    }
}

/// Every file of a project, in the order of writing.
pub fn wanted(settings: &ProjectSettings) -> Vec<ProjectFile> {
    let mut files = vec![ProjectFile::new(SETTINGS_NAME, &settings.text)];
    files.extend(VERBATIM.map(|(path, content, is_program)| ProjectFile {
        mode: if is_program { 0o755 } else { 0o644 },
        kind: match path {
            IGNORED => FileKind::Extended,
            _ => FileKind::OfVersion,
        },
        ..ProjectFile::new(path, content)
    }));
    files.extend(BEGINNINGS.map(|(path, content)| ProjectFile {
        kind: FileKind::Beginning,
        ..ProjectFile::new(path, content)
    }));
    files.extend(SCRIPTS.map(|(path, content)| ProjectFile {
        mode: 0o755,
        kind: FileKind::OfVersion,
        ..ProjectFile::new(path, content)
    }));
    files.extend(PASSWORDS.map(|name| {
        let password = hex::encode(rand::random::<[u8; 24]>()) + "\n";
        ProjectFile::new(&format!("passwords/{name}"), &password)
    }));
    files
}

/// The lines by which Git ignores these files, which are named from the directory of the project;
/// without those that the text has.
pub fn ignored(files: &[String], present: &str) -> String {
    let mut lines: Vec<String> = files.iter().map(|file| format!("/{file}\n")).collect();
    lines.retain(|line| !present.lines().any(|other| other == line.trim_end()));
    lines.sort();
    lines.dedup();
    match lines.is_empty() {
        true => String::new(),
        false => format!("# These contain values of variables.\n{}", lines.concat()),
    }
}

/// The content of .env.
#[derive(Debug, Clone)]
pub struct ProjectSettings {
    text: String,
    values: BTreeMap<String, String>,
}

impl ProjectSettings {
    /// Those of a new project.
    pub fn new(answers: &InitAnswers, facts: &HostFacts, images: &str, limits: &LauncherLimits) -> Self {
        let [a, b, c, _] = facts.network.octets();
        let port = match answers.port {
            80 => String::new(),
            port => format!(":{port}"),
        };
        let list = |all: &BTreeSet<String>| all.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let allowed = match limits.images.is_empty() {
            true => format!("{}/*", answers.project),
            false => list(&limits.images),
        };
        let mut values = vec![
            ("COMPOSE_PROJECT_NAME", answers.project.to_string()),
            ("MAYFLY_IMAGES", images.to_owned()),
            ("MAYFLY_VERSION", env!("CARGO_PKG_VERSION").to_owned()),
            ("MAYFLY_HTTP_PORT", answers.port.to_string()),
            ("MAYFLY_EDGE_URL", format!("http://*.{}{port}", answers.domain)),
            ("MAYFLY_PAGE_PORT", facts.page_port.to_string()),
            ("MAYFLY_SUBNET", format!("{a}.{b}.{c}.0/22")),
            ("MAYFLY_SUBNET_OF_SERVICES", format!("{a}.{b}.{}.0/23", c + 2)),
            ("MAYFLY_ROUTER", format!("{a}.{b}.{c}.80")),
            ("MAYFLY_DNS", format!("{a}.{b}.{c}.53")),
            ("MAYFLY_CONTROL", format!("{a}.{b}.{}", c + 4)),
            ("MAYFLY_DOCKER_SOCKET", facts.socket.clone()),
            ("MAYFLY_DOCKER_GROUP", facts.group.clone()),
            ("MAYFLY_OWNER", facts.owner.clone()),
            ("MAYFLY_ALLOW_IMAGE", allowed),
            ("MAYFLY_VOLUME_ROOT", list(&limits.volumes)),
        ];
        if limits.memory > MEMORY {
            values.push(("MAYFLY_MEMORY", limits.memory.to_string()));
        }
        if limits.nano_cpus > NANO_CPUS {
            // A definition has at most three decimals.
            let cpus = limits.nano_cpus as f64 / NANO_CPUS as f64;
            values.push(("MAYFLY_CPUS", cpus.to_string()));
        }
        let mut text = String::new();
        for line in SETTINGS.lines() {
            let key = line.split_once('=').map(|(key, _)| key);
            match values.iter().find(|(name, _)| Some(*name) == key) {
                Some((name, value)) => text += &format!("{name}={value}\n"),
                None => text += &format!("{line}\n"),
            }
        }
        let values = parse(&text);
        Self { text, values }
    }

    /// Those of a project that is there.
    ///
    /// # Errors
    /// When they cannot be read, or the name of the project is missing.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(SETTINGS_NAME);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let values = parse(&text);
        if !values.contains_key("COMPOSE_PROJECT_NAME") {
            bail!(
                "{} has no COMPOSE_PROJECT_NAME: restore that line",
                path.display()
            );
        }
        Ok(Self { text, values })
    }

    /// A value; empty if it is missing.
    pub fn get(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    /// The lines that this version has and the file has not.
    pub fn missing(&self) -> Vec<String> {
        let missing = parse(SETTINGS)
            .into_iter()
            .filter(|(key, _)| !self.values.contains_key(key));
        missing
            .map(|(key, value)| format!("{SETTINGS_NAME} lacks {key}; add the line {key}={value}"))
            .collect()
    }

    /// The URL of an environment with this prefix.
    pub fn url_of(&self, prefix: &str) -> String {
        self.get("MAYFLY_EDGE_URL").replacen('*', prefix, 1)
    }

    /// The name for a DNS record.
    pub fn wildcard(&self) -> String {
        host(self.get("MAYFLY_EDGE_URL")).to_owned()
    }

    /// What curl needs to ask for this URL on this host, without DNS.
    pub fn curl_of(&self, url: &str) -> String {
        let port = self.get("MAYFLY_HTTP_PORT");
        let port = port.rsplit_once(':').map_or(port, |(_, port)| port);
        let colon = if port == "80" {
            String::new()
        } else {
            format!(":{port}")
        };
        format!("--header 'Host: {}' http://127.0.0.1{colon}/", host(url))
    }
}

/// The host of a URL, without its port.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find([':', '/']).unwrap_or(rest.len());
    &rest[..end]
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(answers: &InitAnswers) -> ProjectSettings {
        let facts = HostFacts {
            // That of root.
            owner: "10001:10001".to_owned(),
            ..HostFacts::unknown(None)
        };
        ProjectSettings::new(answers, &facts, "mayfly", &LauncherLimits::default())
    }

    #[test]
    fn the_defaults_are_the_template() {
        let settings = settings(&InitAnswers::new("mayfly", "example.com", 80));
        assert_eq!(settings.text, SETTINGS);
        assert!(SETTINGS.starts_with(MARK));
        assert_eq!(settings.missing(), [""; 0]);
    }

    #[test]
    fn answers_and_the_host_become_values() {
        let facts = HostFacts {
            network: [10, 250, 240, 0].into(),
            group: "998".to_owned(),
            ..HostFacts::unknown(Some(9000))
        };
        let answers = InitAnswers::new("shop", "shop.example", 8000);
        let settings = ProjectSettings::new(&answers, &facts, "team", &LauncherLimits::default());
        for (key, value) in [
            ("COMPOSE_PROJECT_NAME", "shop"),
            ("MAYFLY_IMAGES", "team"),
            ("MAYFLY_EDGE_URL", "http://*.shop.example:8000"),
            ("MAYFLY_PAGE_PORT", "9000"),
            ("MAYFLY_SUBNET", "10.250.240.0/22"),
            ("MAYFLY_SUBNET_OF_SERVICES", "10.250.242.0/23"),
            ("MAYFLY_CONTROL", "10.250.244"),
            ("MAYFLY_DOCKER_GROUP", "998"),
            ("MAYFLY_ALLOW_IMAGE", "shop/*"),
        ] {
            assert_eq!(settings.get(key), value, "{key}");
        }
        assert_eq!(settings.url_of("www-dev"), "http://www-dev.shop.example:8000");
        assert_eq!(settings.wildcard(), "*.shop.example");
    }

    #[test]
    fn every_variable_of_the_project_has_a_value() {
        let values = parse(SETTINGS);
        for (name, content, _) in VERBATIM {
            for (at, _) in content.match_indices("${") {
                // `$${` is for the shell of a container.
                if content[..at].ends_with('$') {
                    continue;
                }
                let rest = &content[at + 2..];
                let end = rest.find(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
                let variable = &rest[..end.unwrap()];
                // `${NAME:-...}` has a value of its own, and `${1}` is for the shell of the script.
                if variable.is_empty() || rest[end.unwrap()..].starts_with(":-") {
                    continue;
                }
                assert!(values.contains_key(variable), "{name}: {variable}");
            }
        }
    }

    #[test]
    fn every_secret_of_the_project_has_a_file() {
        let (_, compose, _) = VERBATIM[0];
        let compose: serde_yaml::Value = serde_yaml::from_str(compose).unwrap();
        let secrets = compose["secrets"].as_mapping().unwrap();
        let files: BTreeSet<&str> = secrets
            .values()
            .map(|secret| secret["file"].as_str().unwrap())
            .collect();
        let wanted: Vec<String> = PASSWORDS.map(|name| format!("./passwords/{name}")).into();
        assert_eq!(files, wanted.iter().map(String::as_str).collect());
    }

    #[test]
    fn passwords_are_random_and_behind_a_closed_directory() {
        let settings = settings(&InitAnswers::new("mayfly", "example.com", 80));
        let passwords = |files: Vec<ProjectFile>| -> Vec<String> {
            let files = files
                .into_iter()
                .filter(|file| file.path.starts_with("passwords/"));
            files.map(|file| file.content).collect()
        };
        let (one, other) = (passwords(wanted(&settings)), passwords(wanted(&settings)));
        assert_eq!(one.len(), PASSWORDS.len());
        assert!(
            one.iter()
                .all(|password| password.len() == 49 && !other.contains(password))
        );
        assert!(DIRECTORIES.contains(&("passwords", 0o700, false)));
    }
}
