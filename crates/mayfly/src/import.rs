//! `mayfly import`: makes service definitions and a first environment of what another tool's files
//! describe, and says what has to be changed by hand. It needs no etcd.
//!
//! The chain: `tree` (YAML with places), `variables` (`.env`, `${A:-b}`), `project` (several files,
//! `include`, `extends`; `merge`), `service` (checked fields; `ports`, `words`, `keys`,
//! `host_paths`, `env_files`, `amounts`), `decide` (what each service is; `kind`, `calls`), `plan`
//! (the texts, of `outcome`; `resolving`, `texts`, `overlay`, `report`): all of it pure. [`mod@write`]
//! writes all files or none. [`compose`] is the whole as a function.

mod amounts;
pub mod around;
mod calls;
mod decide;
mod env_files;
mod faults;
pub mod host_paths;
mod image;
mod keys;
mod kind;
mod merge;
mod nodes;
pub mod outcome;
mod overlay;
pub mod plan;
mod ports;
mod project;
mod reading;
mod report;
mod resolving;
mod service;
mod texts;
mod tree;
mod variables;
mod words;
pub mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use clap::parser::ValueSource;
use mayfly_core::file::{SIZE_LIMIT, too_long};
use mayfly_core::keys::KeySpace;
use mayfly_core::lint::{Around, check_among};
use mayfly_core::names::{DnsPrefix, EnvironmentName, RoutePath};
use mayfly_core::outside::{AddressRule, MOST};
use mayfly_core::printable::printable;
use mayfly_core::{definition_file, environment_file};
use mayfly_daemon::input::read;
use mayfly_daemon::output;

use around::{ImportCommand, ProjectAround};
use outcome::{HeldValues, ImportWishes};
use plan::{ImportFaults, ImportPlan};
use write::{NewFile, WriteOutcome};

use crate::quoting::quoted_path;

const EXAMPLES: &str = "\
Examples:
  mayfly import compose docker-compose.yml      writes services/*.yaml and environments/prod.yaml
  mayfly import compose docker-compose.yml --dry-run        only prints what would be written
  mayfly import compose docker-compose.yml docker-compose.prod.yml --route web=/ --route api=/api
  mayfly import compose docker-compose.yml --dns 172.31.250.53 --network shop_mayfly --overlay mayfly.override.yml

The command overwrites no file. If a file exists with different content, the command writes no file at all.
A second run changes nothing. Variables come from the shell, then from .env beside the first file.
Exit codes: 0 success; 1 the compose file has a fault, or a file is in the way; 2 wrong command line.";

/// Creates service definitions and a first environment from a compose file. Prints what to change
/// by hand.
///
/// Each service of the compose file has one of three results, which the command prints. Either
/// Mayfly starts the service and routes to it, or the service stays in the compose file and is
/// routed by its labels, or all environments share it. The command also prints each key that a
/// definition cannot have, with file and line, and what to do instead.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The kind of files to import
    #[arg(value_enum)]
    pub kind: ImportKind,

    /// Compose files; later files override earlier files
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Writes the service definitions into this directory
    #[arg(long, value_name = "DIRECTORY", default_value = "services")]
    pub services: PathBuf,

    /// Writes the environment into this file; the file's name without `.yaml` is the environment's
    /// name
    #[arg(long, value_name = "FILE", default_value = "environments/prod.yaml")]
    pub environment: PathBuf,

    /// Writes the changes that the compose file needs into this second compose file
    #[arg(long, value_name = "FILE")]
    pub overlay: Option<PathBuf>,

    /// The first label of the environment's host name
    #[arg(long, value_name = "NAME", default_value = "www")]
    pub host_prefix: DnsPrefix,

    /// Routes a public path to a service: `web=/` sends / to web; repeatable [default: / for the
    /// service that publishes a port]
    #[arg(long, value_name = "SERVICE=PATH", value_parser = route)]
    pub route: Vec<(String, RoutePath)>,

    /// The key prefix of the labels.
    #[command(flatten)]
    pub prefix: LabelPrefix,

    /// The engine's network for routed services
    #[arg(long, value_name = "NAME", default_value = "mayfly")]
    pub network: String,

    /// The address of the dnsmasq that resolves `*.service`, for services that stay in the compose
    /// file
    #[arg(long, value_name = "IP")]
    pub dns: Option<std::net::IpAddr>,

    /// Imports the services of this profile, too; repeatable. `*` means all profiles.
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,

    /// Reads variables from this file in place of .env
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,

    /// Prints what would be written, and writes nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// The key prefix in labels, if one was given. It is the one of all commands, but for its default,
/// which stands for no label here.
#[derive(Debug, Clone, Default)]
pub struct LabelPrefix(pub Option<KeySpace>);

impl LabelPrefix {
    /// The id of the argument of all commands. clap gives the value of that one to this one.
    const ID: &str = "prefix";
}

impl clap::Args for LabelPrefix {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.arg(
            clap::Arg::new(Self::ID)
                .long(Self::ID)
                .value_name("KEY")
                .value_parser(clap::value_parser!(KeySpace))
                .help(
                    "Sets the key prefix, such as /shop, in the labels of services that stay in the compose file \
                     [default: no label]",
                )
                .long_help(
                    "Sets the key prefix, such as /shop, in the labels of services that stay in the compose file \
                     [default: no label]\n\nOnly the Mayfly with this key prefix then registers these services. \
                     Without the label, every Mayfly on the engine registers them. Without this flag, the command \
                     uses the variable MAYFLY_PREFIX if it is set.",
                ),
        )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for LabelPrefix {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let is_given = matches
            .value_source(Self::ID)
            .is_some_and(|source| source != ValueSource::DefaultValue);
        let prefix = matches.get_one(Self::ID).filter(|_| is_given).cloned();
        Ok(Self(prefix))
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The kinds of files that can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImportKind {
    /// Files of docker compose.
    Compose,
}

/// A service and its public path, as flags have them.
pub(crate) fn route(text: &str) -> Result<(String, RoutePath), String> {
    let (service, path) = text
        .split_once('=')
        .ok_or("give a service and a path, such as web=/")?;
    let path: RoutePath = path.parse().map_err(|error| format!("{error}"))?;
    Ok((service.to_owned(), path))
}

/// Where an import writes.
#[derive(Debug, Clone)]
pub struct ImportPlaces {
    /// The directory of service definitions.
    pub services: PathBuf,
    /// The file of the environment.
    pub environment: PathBuf,
    /// The file of changes of the compose file, if it is wanted.
    pub overlay: Option<PathBuf>,
}

/// An import that is ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// What becomes of each service, and what to change by hand.
    pub report: String,
    /// The files, in the order in which they are to be written.
    pub files: Vec<NewFile>,
}

/// Reads compose files and makes the files of Mayfly of them, in memory.
///
/// # Errors
/// When the compose files have a fault (the message has a line for each), or what would be written
/// conflicts with files beside it.
pub fn compose(wishes: &ImportWishes, places: &ImportPlaces) -> anyhow::Result<Import> {
    let plan = plan::plan(wishes, &|path| text_of(path), &mounted);
    let plan = plan.map_err(|ImportFaults(lines)| anyhow::anyhow!("{}", lines.join("\n")))?;
    let ImportPlan {
        definitions,
        held,
        environment,
        overlay,
        overlay_held,
        report,
    } = plan;
    let mut files: Vec<NewFile> = definitions
        .into_iter()
        .map(|(name, text)| NewFile {
            path: places.services.join(format!("{name}.yaml")),
            text,
            held: held.get(&name).copied().unwrap_or_default(),
        })
        .collect();
    let environment = NewFile {
        path: places.environment.clone(),
        text: environment,
        held: HeldValues::Own,
    };
    let conflicts = conflicts(&files, &environment, places);
    ensure!(conflicts.is_empty(), "{}", conflicts.join("\n"));
    // An empty file would be no compose file.
    if let Some(path) = places.overlay.as_ref().filter(|_| !overlay.is_empty()) {
        files.push(NewFile {
            path: path.clone(),
            text: overlay,
            held: overlay_held,
        });
    }
    // Last: until it is there, the definitions start nothing.
    files.push(environment);
    Ok(Import { report, files })
}

/// The faults that the new files would have beside those that are there, as `mayfly lint` finds
/// them.
fn conflicts(definitions: &[NewFile], environment: &NewFile, places: &ImportPlaces) -> Vec<String> {
    let shown = |path: &Path| path.display().to_string();
    let others = |directory: &Path| -> Vec<PathBuf> {
        let directory = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        directory
            .is_dir()
            .then(|| directory.to_owned())
            .into_iter()
            .collect()
    };
    let new: BTreeSet<PathBuf> = definitions
        .iter()
        .chain([environment])
        .map(|it| normal(&it.path))
        .collect();
    let is_other = |file: &String| !new.contains(&normal(Path::new(file)));
    let mut beside = read(
        &others(places.environment.parent().unwrap_or(Path::new(""))),
        environment_file::parse,
    );
    let mut definitions_beside = read(&others(&places.services), definition_file::parse);
    beside.retain(|(file, _)| is_other(file));
    definitions_beside.retain(|(file, _)| is_other(file));
    let environments = [(
        shown(&environment.path),
        environment_file::parse(environment.text.as_bytes()),
    )];
    let definitions: Vec<_> = definitions
        .iter()
        .map(|file| (shown(&file.path), definition_file::parse(file.text.as_bytes())))
        .collect();
    let around = Around {
        beside: &beside,
        definitions_beside: &definitions_beside,
        before: &[],
        definitions_before: &[],
    };
    let rule = AddressRule::new(Vec::new(), BTreeSet::new(), MOST);
    let checked = check_among(&environments, &definitions, around, &rule);
    let faults = checked.files.iter().flat_map(|file| {
        file.faults
            .iter()
            .map(move |fault| format!("{} would have a fault: {fault}", printable(&file.file)))
    });
    faults.collect()
}

/// A path without `.`, to compare it.
fn normal(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| *part != std::path::Component::CurDir)
        .collect()
}

/// The text of a file; nothing if there is none.
fn text_of(path: &Path) -> Result<Option<String>, String> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if file.metadata().is_ok_and(|it| it.is_dir()) {
        return Err("this is a directory".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(too_long(bytes.len() as u64));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| "the file is not UTF-8: save the file as UTF-8".to_owned())?;
    Ok(Some(text))
}

/// The most files that are read of what a service mounts, the most entries that are looked at, the
/// deepest level, and the longest file: settings are few and short.
const MOST_FILES: usize = 100;
const MOST_ENTRIES: usize = 2000;
const DEEPEST: usize = 3;
const LONGEST: u64 = 64 << 10;

/// The short text files at a path of the host, or below it. What cannot be read has nothing to say.
fn mounted(path: &Path) -> Vec<(PathBuf, String)> {
    let mut texts = Vec::new();
    let mut left = vec![(path.to_owned(), 0)];
    let mut entries = 0;
    while let Some((path, level)) = left.pop() {
        let Ok(metadata) = std::fs::metadata(&path) else {
            continue;
        };
        entries += 1;
        if texts.len() >= MOST_FILES || entries > MOST_ENTRIES {
            break;
        }
        if metadata.is_file() && metadata.len() <= LONGEST {
            texts.extend(text_of(&path).ok().flatten().map(|text| (path, text)));
        } else if metadata.is_dir() && level < DEEPEST {
            let names = std::fs::read_dir(&path).into_iter().flatten().flatten();
            let hidden = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with('.') || name == "node_modules"
            };
            let below = names.map(|entry| entry.path()).filter(|path| !hidden(path));
            let mut below: Vec<PathBuf> = below.take(MOST_ENTRIES).collect();
            // The last one is read first.
            below.sort_by(|one, other| other.cmp(one));
            left.extend(below.into_iter().map(|path| (path, level + 1)));
        }
    }
    texts
}

/// Imports and says what was done. `find` gives the project that a directory is in, if there is one.
///
/// # Errors
/// When the compose files have a fault, a file is in the way, or one cannot be written.
pub fn run(args: &Args, find: fn(&Path) -> Option<Box<dyn ProjectAround>>) -> anyhow::Result<ExitCode> {
    let ImportKind::Compose = args.kind;
    let stem = args
        .environment
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let name: EnvironmentName = stem.parse().with_context(|| {
        format!(
            "--environment {}: the file name without `.yaml` must be the name of an environment",
            args.environment.display()
        )
    })?;
    ensure!(
        args.environment
            .extension()
            .is_some_and(|it| it == "yaml" || it == "yml"),
        "--environment {}: the file name must end in .yaml or .yml, because a registrar reads only such files",
        args.environment.display()
    );
    let wishes = ImportWishes {
        command: ImportCommand::Import,
        files: args.files.clone(),
        env_file: args.env_file.clone(),
        shell: shell(),
        profiles: args.profile.clone(),
        environment: name,
        prefix: args.host_prefix.clone(),
        routes: args.route.clone(),
        key_prefix: args.prefix.0.clone(),
        network: args.network.clone(),
        dns: args.dns.map(|dns| dns.to_string()),
        root: std::env::current_dir().context("cannot find the working directory")?,
        closed: Vec::new(),
    };
    let places = ImportPlaces {
        services: args.services.clone(),
        environment: args.environment.clone(),
        overlay: args.overlay.clone(),
    };
    let import = match compose(&wishes, &places) {
        Ok(import) => import,
        Err(faults) => {
            output::print(&format!("{faults}\n"))?;
            bail!("nothing was written");
        }
    };
    output::print(&import.report)?;
    let differing = write::differing(&import.files)?;
    let mut text = "\n".to_owned();
    if !differing.is_empty() {
        text += &format!("{}\n", differing.join("\n"));
        output::print(&text)?;
        bail!(
            "nothing was written, because `mayfly import` overwrites no file: move these files away, or choose other names"
        );
    }
    if args.dry_run {
        for file in &import.files {
            let path = file.path.display();
            text += &match file.held {
                HeldValues::EnvFile => {
                    format!("{path} would contain values of an env_file, so its content is not shown\n\n")
                }
                HeldValues::Own | HeldValues::Variables => format!("{path} would be:\n{}\n", file.text),
            };
        }
        output::print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let project = find(&args.services);
    let outcomes = write::write(&import.files, project.is_some())?;
    let mut held = Vec::new();
    for ((path, written), file) in outcomes.iter().zip(&import.files) {
        let is_definition = path.starts_with(&args.services);
        if file.held != HeldValues::Own {
            held.push((path.as_path(), is_definition));
        }
        if let Some(project) = project.as_ref().filter(|_| file.held != HeldValues::Own) {
            // Also one that an import wrote which was ended before this.
            project.close(path, is_definition)?;
        }
        let written = match (written, file.held, &project) {
            (WriteOutcome::New, HeldValues::EnvFile | HeldValues::Variables, Some(_)) => {
                match is_definition {
                    true => "written for you and the registrar, because it contains values of variables",
                    false => "written for you alone (mode 600), because it contains values of variables",
                }
            }
            (WriteOutcome::New, HeldValues::EnvFile, None) => {
                "written for you alone (mode 600), because it contains values of an env_file"
            }
            (WriteOutcome::New, ..) => "written",
            (WriteOutcome::Unchanged, ..) => "unchanged",
        };
        text += &format!("{}: {written}\n", path.display());
    }
    let is_closed =
        |file: &NewFile| file.held == HeldValues::EnvFile && file.path.starts_with(&args.services);
    match &project {
        Some(project) => text += &project.ignore(&held)?,
        None => {
            if import.files.iter().any(is_closed) {
                text += "let the group of environment-registrar read the definitions that have mode 600\n";
            }
            let paths = held.iter().map(|(path, _)| path.display().to_string());
            text += &not_for_git(&paths.collect::<Vec<_>>(), "name these files in .gitignore");
        }
    }
    text += &format!(
        "next: mayfly lint {} --services {}\n",
        quoted_path(&args.environment),
        quoted_path(&args.services)
    );
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What is said of files with values that the team's repository does not have; nothing if there are
/// none.
pub(crate) fn not_for_git(files: &[String], cure: &str) -> String {
    if files.is_empty() {
        return String::new();
    }
    format!(
        "not for Git, because of values of an env_file, of .env or of the shell: {}; {cure}\n",
        files.join(", ")
    )
}

/// The variables of the shell whose names and values are text.
pub(crate) fn shell() -> BTreeMap<String, String> {
    let all = std::env::vars_os();
    all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests;
