//! `mayfly init`: writes a compose project of Mayfly into a directory.
//!
//! [`answers`] is what a person decides, [`host`] what this machine says: a free network, the
//! engine's socket, and what is in the way. [`files`] makes the texts of both, and [`directory`]
//! puts them into their place: all or none, over nothing that is there. [`imported`] is what a
//! compose file of the team adds, and [`later`] is for imports into a project that is there.

mod answers;
mod directory;
mod files;
mod host;
mod imported;
mod later;
mod repository;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use mayfly_core::names::{Hostname, RoutePath};
use mayfly_core::records::definition::ImageReference;
use mayfly_daemon::output::{self, complain};
use mayfly_daemon::shutdown::Shutdown;

use answers::{InitAnswers, ProjectName};
use directory::{PlaceFound, StagedProject};
use files::{FileKind, LauncherLimits, ProjectFile, ProjectSettings};
use host::HostFacts;
pub use later::project_around;

use crate::import;
use crate::quoting::{quoted, quoted_path};

const EXAMPLES: &str = "\
Examples:
  mayfly init shop                              asks for project, domain and port
  mayfly init shop --project shop --domain shop.example --port 80
  mayfly init mayfly --compose docker-compose.yml     also imports your services
  mayfly init mayfly --compose a.yml --compose b.yml --route web=/ --profile tools
  mayfly init /tmp/new --yes --skip-checks      writes the defaults, without checks of this host

The directory gets a compose project (docker-compose.yml, .env), passwords of etcd's users, environments/prod.yaml,
services/, the Git repository environments.git with its hooks, and a program ./mayfly for the operator. Before it
writes anything, `mayfly init` looks for an engine, compose, the images of Mayfly, free ports and a free network, and
prints everything that is in the way.

`mayfly init` overwrites nothing. If `mayfly init` made the directory before, it only adds missing files. It refuses any
other directory that is not empty.

Exit codes: 0 success; 1 something is in the way, and nothing was written; 2 wrong command line.";

/// Writes a compose project that runs Mayfly on this host
///
/// Without a terminal, give --project, --domain and --port, or --yes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The directory of the project, created if needed
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    /// The name of the compose project. All keys in etcd begin with /NAME. [default: asks, and
    /// suggests mayfly]
    #[arg(long, value_name = "NAME")]
    pub project: Option<ProjectName>,

    /// The domain of the environments: production is www.DOMAIN [default: asks, and suggests
    /// example.com]
    #[arg(long, value_name = "NAME")]
    pub domain: Option<Hostname>,

    /// The port of this host for requests from outside [default: asks, and suggests 80]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// The port of 127.0.0.1 for the page and the API [default: the first free port from 8620 on]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub page_port: Option<u16>,

    /// Imports the services of this compose file, as `mayfly import compose` does; repeatable
    ///
    /// Later files override earlier files. The project then contains a definition of each service
    /// that Mayfly can start, an environment file for production with the present versions, and
    /// overlay.yml with the changes to the compose file.
    #[arg(long, value_name = "FILE")]
    pub compose: Vec<PathBuf>,

    /// Imports the services of this profile, too; repeatable. `*` means all profiles.
    #[arg(long, value_name = "NAME", requires = "compose")]
    pub profile: Vec<String>,

    /// Routes a public path to a service: `web=/` sends / to web; repeatable [default: / for the
    /// service that publishes a port]
    #[arg(long, value_name = "SERVICE=PATH", value_parser = import::route, requires = "compose")]
    pub route: Vec<(String, RoutePath)>,

    /// Uses Mayfly's images from this registry and account, such as registry:5000/team
    ///
    /// scripts/build.sh builds the images for the account in DOCKER_ACCOUNT_NAME.
    #[arg(
        long,
        env = "MAYFLY_IMAGES",
        value_name = "NAME",
        default_value = "mayfly",
        value_parser = images
    )]
    pub images: String,

    /// Asks no questions, and uses the default of each value that is not given
    #[arg(long)]
    pub yes: bool,

    /// Does not check this host; use this flag to prepare a directory for another host
    #[arg(long)]
    pub skip_checks: bool,
}

/// What an image's name may begin with.
fn images(text: &str) -> Result<String, String> {
    match format!("{text}/etcd:1").parse::<ImageReference>() {
        Ok(_) => Ok(text.to_owned()),
        Err(fault) => Err(format!("{}; such as registry:5000/team", fault.rule())),
    }
}

/// Writes the project, or completes one, and prints what to do next.
///
/// # Errors
/// When something is in the way, or a file cannot be written.
pub async fn run(args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    // Dropping the work removes what it has staged.
    tokio::select! {
        outcome = init(args) => outcome,
        () = shutdown.begun() => bail!("interrupted"),
    }
}

async fn init(args: &Args) -> anyhow::Result<ExitCode> {
    let directory = std::path::absolute(&args.directory)
        .with_context(|| format!("cannot find {}", args.directory.display()))?;
    match directory::look(&directory)? {
        PlaceFound::Nothing => create(args, &directory).await,
        PlaceFound::Ours => complete(args, &directory).await,
        PlaceFound::Foreign(name) => bail!(
            "{} is not empty and was not made by `mayfly init` (it contains {name}): name a new directory",
            directory.display()
        ),
    }
}

async fn create(args: &Args, directory: &Path) -> anyhow::Result<ExitCode> {
    let given = InitAnswers::given(args);
    let answers = match args.yes {
        true => given.or_defaults(),
        false if given.is_complete() => given.or_defaults(),
        false if std::io::stdin().is_terminal() => {
            let asked = tokio::task::spawn_blocking(move || given.ask());
            asked.await.context("cannot ask")??
        }
        false => {
            complain(
                "error: there is no terminal for questions: give --project, --domain and --port, or --yes for the defaults",
            );
            return Ok(ExitCode::from(2));
        }
    };
    let unknown = HostFacts::unknown(args.page_port);
    let facts = match args.skip_checks {
        true => unknown,
        false => match host::look(&answers, args.page_port, &args.images).await? {
            Ok(facts) => facts,
            Err(mut faults) => {
                // What is wrong with the compose file does not depend on the host.
                let settings =
                    ProjectSettings::new(&answers, &unknown, &args.images, &LauncherLimits::default());
                if !args.compose.is_empty() {
                    let import = imported::import(args, directory, &answers, &settings);
                    faults.extend(import.err().map(|fault| fault.to_string()));
                }
                faults
                    .iter()
                    .for_each(|fault| complain(&format!("error: {fault}")));
                complain("nothing was written; --skip-checks writes the files anyway");
                return Ok(ExitCode::FAILURE);
            }
        },
    };
    let mut settings = ProjectSettings::new(&answers, &facts, &args.images, &LauncherLimits::default());
    let (mut files, mut held, mut report) = (Vec::new(), Vec::new(), String::new());
    if !args.compose.is_empty() {
        let imported = imported::import(args, directory, &answers, &settings)?;
        settings = ProjectSettings::new(&answers, &facts, &args.images, &imported.limits);
        let note = import::not_for_git(&imported.held, ".gitignore names these files");
        report = imported.report + "\n" + &note;
        (files, held) = (imported.files, imported.held);
    }
    let staged = StagedProject::new(directory)?;
    for mut file in with(files, files::wanted(&settings)) {
        if file.path == files::IGNORED {
            file.content += &files::ignored(&held, &file.content);
        }
        staged.write(&file)?;
    }
    repository::set_up(&staged.path(), directory).await?;
    staged.finish(directory)?;
    output::print(&(report + &next(args, directory, &settings, &facts.compose)))?;
    Ok(ExitCode::SUCCESS)
}

/// The files of an import, and those of a project that are not among them. An example is not needed
/// beside definitions.
fn with(imported: Vec<ProjectFile>, own: Vec<ProjectFile>) -> Vec<ProjectFile> {
    let is_missing = |file: &ProjectFile| {
        let is_replaced = imported.iter().any(|other| other.path == file.path);
        !is_replaced && (imported.is_empty() || !file.path.ends_with(".example"))
    };
    let mut files: Vec<ProjectFile> = own.into_iter().filter(is_missing).collect();
    files.extend(imported);
    files
}

/// Adds what is missing in a directory of an earlier init, and names what this version has
/// otherwise.
async fn complete(args: &Args, directory: &Path) -> anyhow::Result<ExitCode> {
    let settings = ProjectSettings::read(directory)?;
    if !args.compose.is_empty() {
        bail!("{}", import_again(args, directory, &settings));
    }
    let mut notes = settings.missing();
    let mut added = Vec::new();
    let wanted = files::wanted(&settings);
    for file in wanted.iter().filter(|file| file.kind != FileKind::Beginning) {
        if file.path == files::ROOT && !directory.join(&file.path).exists() {
            notes.push(lost_root(&settings));
            continue;
        }
        match directory::add(directory, file)? {
            directory::FileAdded::Written => added.push(file.path.clone()),
            directory::FileAdded::Kept => {}
            directory::FileAdded::Differs
                if matches!(file.kind, FileKind::OfVersion | FileKind::Extended) =>
            {
                notes.push(format!("{} differs from the file of this version", file.path));
            }
            directory::FileAdded::Differs => {}
        }
    }
    if repository::is_needed(directory, &added) {
        repository::set_up(directory, directory).await?;
        added.push(repository::NAME.to_owned());
    }
    let mut text = match &*added {
        [] if !directory.join(files::ROOT).exists() => "nothing was written\n".to_owned(),
        [] => format!("{} is complete: nothing was written\n", directory.display()),
        added => format!("added to {}: {}\n", directory.display(), added.join(", ")),
    };
    if !notes.is_empty() {
        text += "\nNot changed by `mayfly init`:\n";
        notes.iter().for_each(|note| text += &format!("  {note}\n"));
        text += "To compare: mayfly init /tmp/new --yes --skip-checks, and diff -r the two directories\n";
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// How to import for a project that is there: beside its files, which differ if the compose file has
/// changed.
fn import_again(args: &Args, directory: &Path, settings: &ProjectSettings) -> String {
    let place = quoted_path(directory);
    let files: String = args
        .compose
        .iter()
        .map(|file| format!(" {}", quoted_path(file)))
        .collect();
    let profiles = args
        .profile
        .iter()
        .map(|name| format!(" --profile {}", quoted(name)));
    let routes = args
        .route
        .iter()
        .map(|(service, path)| format!(" --route {}", quoted(&format!("{service}={path}"))));
    let more: String = profiles.chain(routes).collect();
    format!(
        "{place} exists already, and --compose is only for a new project; to import beside its files, run: mayfly import \
         compose{files} --services {place}/new/services --environment {place}/new/environments/prod.yaml \
         --overlay {place}/new/{0} --network {1}_mayfly --prefix /{1} --dns {2}{more}; then compare: diff -r \
         {place}/new/services {place}/services",
        imported::OVERLAY,
        settings.get("COMPOSE_PROJECT_NAME"),
        settings.get("MAYFLY_DNS"),
    )
}

/// What to do about the password of etcd's user root, which is missing.
fn lost_root(settings: &ProjectSettings) -> String {
    format!(
        "{0} is missing, and etcd accepts only its present password of the user root: write that password into {0}. \
         If the password is lost, save the records of etcd (mayfly dump), end the project (down), remove the volume \
         {1}_etcd, and write a new password (openssl rand -hex 24 >{0})",
        files::ROOT,
        settings.get("COMPOSE_PROJECT_NAME"),
    )
}

fn next(args: &Args, directory: &Path, settings: &ProjectSettings, compose: &str) -> String {
    let place = directory.display();
    let mut commands = Vec::new();
    if settings.get("MAYFLY_DOCKER_GROUP").is_empty() {
        commands.push(format!(
            "edit {place}/.env: MAYFLY_DOCKER_GROUP, and networks that are free on the host"
        ));
    }
    if args.compose.is_empty() {
        commands.push(format!(
            "describe your services in {place}/services, name them in environments/prod.yaml, and allow their images \
             in .env (MAYFLY_ALLOW_IMAGE)"
        ));
    }
    let roots = settings.get("MAYFLY_VOLUME_ROOT");
    if !roots.is_empty() {
        commands.push(format!(
            "look at MAYFLY_VOLUME_ROOT in {place}/.env: everyone who can write a definition can read {roots}"
        ));
    }
    commands.push(format!("(cd {} && {compose} up -d)", quoted_path(directory)));
    let own = match args.compose.as_slice() {
        [file] => with_override(file),
        files => files.to_vec(),
    };
    if !own.is_empty() {
        let overlay = directory.join(imported::OVERLAY);
        let all = own.iter().chain([&overlay]);
        let files: String = all.map(|file| format!(" -f {}", quoted_path(file))).collect();
        commands.push(format!("{compose}{files} up -d"));
    }
    let program = quoted_path(&directory.join("mayfly"));
    commands.push(format!("{program} wait prod --timeout 2min"));
    commands.push(format!("curl {}", settings.curl_of(&settings.url_of("www"))));
    // Compose reads the names in .env from the directory of the first file.
    let name_of = |file: &PathBuf| match file.file_name() {
        Some(name) if file.parent() == own[0].parent() => name.to_string_lossy().into_owned(),
        _ => std::path::absolute(file)
            .unwrap_or_else(|_| file.clone())
            .display()
            .to_string(),
    };
    let both = own.first().map_or_else(String::new, |file| {
        let name = name_of(file);
        let names: Vec<String> = own.iter().map(name_of).collect();
        format!(
            "Always use overlay.yml together with {name}: `up` of {name} alone stops production. So write this line into
the file .env beside {name}: COMPOSE_FILE={}:{place}/{}
",
            names.join(":"),
            imported::OVERLAY
        )
    });
    let commands: String = commands.iter().map(|command| format!("  {command}\n")).collect();
    format!(
        "{place} has the compose project {}. Next:

{commands}
{both}Browsers need a wildcard DNS record {} with the address of this host.
The team pushes environments to {place}/{}.
The page is at http://127.0.0.1:{}/. Its token is in {place}/passwords/web-token.
",
        settings.get("COMPOSE_PROJECT_NAME"),
        settings.wildcard(),
        repository::NAME,
        settings.get("MAYFLY_PAGE_PORT"),
    )
}

/// A compose file and the one that compose reads beside it by itself, if there is one. Compose
/// reads it no more once files are named.
fn with_override(file: &Path) -> Vec<PathBuf> {
    let names = ["compose", "docker-compose"]
        .into_iter()
        .flat_map(|name| ["yml", "yaml"].map(|ending| format!("{name}.override.{ending}")));
    let beside = names
        .map(|name| file.with_file_name(name))
        .find(|path| path != file && path.exists());
    std::iter::once(file.to_owned()).chain(beside).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Command};

    fn next_of(line: &str) -> String {
        next_in("/srv/m", line.split(' '))
    }

    fn next_in<'a>(directory: &str, words: impl Iterator<Item = &'a str>) -> String {
        let Command::Init(args) = Arguments::parse_from(words).command else {
            panic!("no init");
        };
        let answers = InitAnswers::given(&args).or_defaults();
        let limits = LauncherLimits {
            volumes: args.compose.iter().map(|_| "/srv/texts".to_owned()).collect(),
            ..LauncherLimits::default()
        };
        let settings = ProjectSettings::new(&answers, &HostFacts::unknown(None), "mayfly", &limits);
        next(&args, Path::new(directory), &settings, "docker compose")
    }

    #[test]
    fn what_is_next_names_the_edge_and_what_is_left_to_do() {
        let text = next_of("mayfly init m --domain shop.example --port 8000");
        for part in [
            "(cd /srv/m && docker compose up -d)",
            "--header 'Host: www.shop.example' http://127.0.0.1:8000/",
            "*.shop.example",
            "MAYFLY_DOCKER_GROUP",
            "describe your services",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = next_of("mayfly init m --compose app.yml");
        assert!(
            text.contains("docker compose -f app.yml -f /srv/m/overlay.yml up -d"),
            "{text}"
        );
        assert!(!text.contains("describe your services"), "{text}");
        assert!(
            text.contains("the file .env beside app.yml: COMPOSE_FILE=app.yml:/srv/m/overlay.yml\n"),
            "{text}"
        );
        assert!(text.contains("can read /srv/texts\n"), "{text}");
    }

    /// The words of each command as a shell runs it, by stand-ins of the programs.
    fn words_of(commands: &str, directory: &Path) -> Vec<String> {
        let script = "say() { for word; do printf '<%s>' \"$word\"; done; echo; }
            docker() { say \"$PWD\" docker \"$@\"; }\n"
            .to_owned();
        let mut shell = std::process::Command::new("sh");
        let shell = shell.args(["-euc", &(script + commands)]).current_dir(directory);
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{commands}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn the_commands_that_are_next_work_with_blanks_in_paths() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        for name in ["a b", "it's $HOME"] {
            let project = top.join(name);
            std::fs::create_dir(&project).unwrap();
            let program = project.join("mayfly");
            std::fs::write(&program, "#!/bin/sh\nprintf '<%s>' \"$0\" \"$@\"; echo\n").unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let place = project.display().to_string();
            let words = ["mayfly", "init", "m", "--compose", "my app.yml"];
            let text = next_in(&place, words.into_iter());
            let commands: Vec<&str> = text
                .lines()
                .map(str::trim)
                .filter(|line| line.contains(" up -d") || line.contains(" wait "))
                .filter(|line| !line.starts_with("Always"))
                .collect();
            let top = top.display();
            assert_eq!(
                words_of(&commands.join("\n"), dir.path()),
                [
                    format!("<{place}><docker><compose><up><-d>"),
                    format!("<{top}><docker><compose><-f><my app.yml><-f><{place}/overlay.yml><up><-d>"),
                    format!("<{place}/mayfly><wait><prod><--timeout><2min>"),
                ],
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_that_compose_reads_by_itself_is_named_too() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["docker-compose.yml", "docker-compose.override.yml"] {
            std::fs::write(dir.path().join(name), "services: {}\n").unwrap();
        }
        let place = dir.path().display();
        let text = next_of(&format!("mayfly init m --compose {place}/docker-compose.yml"));
        for part in [
            format!(
                "-f {place}/docker-compose.yml -f {place}/docker-compose.override.yml -f /srv/m/overlay.yml up -d"
            ),
            "COMPOSE_FILE=docker-compose.yml:docker-compose.override.yml:/srv/m/overlay.yml\n".to_owned(),
        ] {
            assert!(text.contains(&part), "{part}: {text}");
        }
    }
}
