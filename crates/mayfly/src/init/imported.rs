//! A compose file of the team becomes the first services of a project, by `mayfly import compose`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use mayfly_core::definition_file;
use mayfly_core::names::{DnsPrefix, EnvironmentName};
use mayfly_core::records::definition::{Definition, Volume};

use crate::import::around::ImportCommand;
use crate::import::outcome::{HeldValues, ImportWishes};
use crate::import::write::NewFile;
use crate::import::{self, ImportPlaces, host_paths};

use super::Args;
use super::answers::InitAnswers;
use super::files::{LauncherLimits, ProjectFile, ProjectSettings};

/// The environment, and its prefix.
const ENVIRONMENT: &str = "prod";
const PREFIX: &str = "www";
/// The changes of the compose file, in the directory of a project.
pub const OVERLAY: &str = "overlay.yml";

/// What an import adds to a project.
#[derive(Debug)]
pub struct ImportedProject {
    /// What becomes of each service, and what to change by hand.
    pub report: String,
    /// Definitions, the environment and the overlay.
    pub files: Vec<ProjectFile>,
    /// The paths of those with values of variables, which are not for Git.
    pub held: Vec<String>,
    /// What the launcher has to allow for these definitions.
    pub limits: LauncherLimits,
}

/// Reads the compose files for a project that will be in `directory`.
///
/// # Errors
/// When a compose file has a fault: a line for each.
pub fn import(
    args: &Args,
    directory: &Path,
    answers: &InitAnswers,
    settings: &ProjectSettings,
) -> anyhow::Result<ImportedProject> {
    let environment: EnvironmentName = ENVIRONMENT.parse()?;
    let prefix: DnsPrefix = PREFIX.parse()?;
    let mut closed = vec![directory.to_owned()];
    if let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) {
        closed.extend(std::fs::canonicalize(parent).map(|parent| parent.join(name)));
    }
    let wishes = ImportWishes {
        command: ImportCommand::Init,
        files: args.compose.clone(),
        env_file: None,
        shell: import::shell(),
        profiles: args.profile.clone(),
        environment,
        prefix,
        routes: args.route.clone(),
        key_prefix: Some(format!("/{}", answers.project).parse()?),
        network: format!("{}_mayfly", answers.project),
        dns: Some(settings.get("MAYFLY_DNS").to_owned()),
        root: std::env::current_dir().context("cannot find the working directory")?,
        // It has the passwords.
        closed: closed.clone(),
    };
    let places = ImportPlaces {
        services: directory.join("services"),
        environment: directory.join(format!("environments/{ENVIRONMENT}.yaml")),
        overlay: Some(directory.join(OVERLAY)),
    };
    let made = import::compose(&wishes, &places)?;
    let below = |path: &PathBuf| path.strip_prefix(directory).unwrap_or(path).display().to_string();
    let is_definition = |file: &&NewFile| file.path.starts_with(&places.services);
    let definitions: Vec<Definition> = made
        .files
        .iter()
        .filter(is_definition)
        .flat_map(|file| definition_file::parse(file.text.as_bytes()).entries)
        .map(|entry| entry.definition)
        .collect();
    links(&definitions, &closed)?;
    let held = made.files.iter().filter(|file| file.held != HeldValues::Own);
    Ok(ImportedProject {
        report: made.report,
        held: held.map(|file| below(&file.path)).collect(),
        files: made
            .files
            .iter()
            .map(|file| {
                let (mode, has_group) = match file.held {
                    HeldValues::Own => (0o644, false),
                    _ if is_definition(&file) => (0o640, true),
                    _ => (0o600, false),
                };
                ProjectFile {
                    mode,
                    has_group,
                    ..ProjectFile::new(&below(&file.path), &file.text)
                }
            })
            .collect(),
        limits: limits(&definitions),
    })
}

/// Refuses a volume that a link takes to where no launched container may look: the launcher, in its
/// container, does not see the links of the host.
fn links(definitions: &[Definition], closed: &[PathBuf]) -> anyhow::Result<()> {
    for definition in definitions {
        for source in definition.volumes.iter().map(Volume::source) {
            let Ok(target) = std::fs::canonicalize(source) else {
                continue;
            };
            if let Some(reason) = host_paths::closed(&target, closed) {
                let name = &definition.name;
                bail!("the volume `{source}` of {name} is a link: {reason}; remove the volume or the link");
            }
        }
    }
    Ok(())
}

/// Exactly what these definitions ask for, and at least the defaults.
fn limits(definitions: &[Definition]) -> LauncherLimits {
    let mut limits = LauncherLimits::default();
    for definition in definitions {
        // Any version of each image.
        limits
            .images
            .insert(definition.image.to_string().replace("{{ version }}", "*"));
        let volumes = definition.volumes.iter().map(|volume| volume.source().to_owned());
        limits.volumes.extend(volumes);
        limits.memory = limits
            .memory
            .max(definition.memory.map_or(0, |memory| memory.bytes()));
        limits.nano_cpus = limits
            .nano_cpus
            .max(definition.cpus.map_or(0, |cpus| cpus.nano()));
    }
    limits
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Command};
    use crate::init::host::HostFacts;

    #[test]
    fn a_compose_file_becomes_services_and_what_they_may_use() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("docker-compose.yml");
        let text = "
services:
  web:
    image: shop/web:1.4.0
    ports: ['80:8080']
    environment: {ORDERS_URL: 'http://orders:9000'}
    volumes: ['/srv/texts:/texts:ro']
    mem_limit: 1g
    env_file: web.env
  orders: {image: 'registry.example:5000/shop/orders:2.1.0', cpus: 2.5}
";
        std::fs::write(&file, text).unwrap();
        std::fs::write(parent.path().join("web.env"), "KEY=s3cret\n").unwrap();
        let answers = InitAnswers::new("shop", "shop.example", 80);
        let facts = HostFacts::unknown(None);
        let settings = ProjectSettings::new(&answers, &facts, "mayfly", &LauncherLimits::default());
        let line = format!("mayfly init shop --compose {}", file.display());
        let Command::Init(args) = Arguments::parse_from(line.split(' ')).command else {
            panic!("{line}");
        };
        let imported = import(&args, Path::new("/srv/shop"), &answers, &settings).unwrap();
        assert_eq!(imported.held, ["services/web.yaml"]);
        let paths: Vec<&str> = imported.files.iter().map(|file| &*file.path).collect();
        let expected = [
            "services/web.yaml",
            "services/orders.yaml",
            OVERLAY,
            "environments/prod.yaml",
        ];
        assert_eq!(paths, expected);
        // The registrar reads what holds a secret, and nobody else does.
        let modes: Vec<_> = imported
            .files
            .iter()
            .map(|file| (file.mode, file.has_group))
            .collect();
        assert_eq!(
            modes,
            [(0o640, true), (0o644, false), (0o644, false), (0o644, false)]
        );
        let settings = ProjectSettings::new(&answers, &facts, "mayfly", &imported.limits);
        for (key, value) in [
            (
                "MAYFLY_ALLOW_IMAGE",
                "registry.example:5000/shop/orders:*,shop/web:*",
            ),
            ("MAYFLY_VOLUME_ROOT", "/srv/texts"),
            ("MAYFLY_MEMORY", "1073741824"),
            ("MAYFLY_CPUS", "2.5"),
        ] {
            assert_eq!(settings.get(key), value, "{key}");
        }
        std::os::unix::fs::symlink("/etc", parent.path().join("texts")).unwrap();
        let link = text.replace("/srv/texts", &parent.path().join("texts").display().to_string());
        std::fs::write(&file, link).unwrap();
        let refused = import(&args, Path::new("/srv/shop"), &answers, &settings).unwrap_err();
        assert!(
            refused.to_string().contains("is a link: `/etc` would open"),
            "{refused}"
        );
        std::fs::write(&file, "services: {web: {}}\n").unwrap();
        assert!(import(&args, Path::new("/srv/shop"), &answers, &settings).is_err());
    }
}
