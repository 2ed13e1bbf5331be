//! `mayfly apply`: registers the environments of files without a registrar. Everything is checked
//! before anything is written: each file by itself, the files against each other, and all against
//! what is registered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{bail, ensure};
use mayfly_core::environment_file::{self, ParsedEnvironments};
use mayfly_core::lint;
use mayfly_core::names::EnvironmentName;
use mayfly_core::outside::AddressRule;
use mayfly_core::records::Environment;
use mayfly_core::records::lifetime::{Life, Moment};
use mayfly_core::records::switching;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::retry::Tries;
use mayfly_daemon::store::{Guard, LeaseId, Store};
use mayfly_daemon::{environments, input, output};

use crate::clash::clashes;
use crate::registry::{Registry, is_applied, origin, source};

const EXAMPLES: &str = "\
Examples:
  mayfly apply -f temp-1.yaml
  mayfly apply -f environments/ --dry-run       shows what would happen
  generate | mayfly apply -f -                  reads standard input
  mayfly apply -f qa.yaml --force               takes the environment qa over from a registrar

Prints a line for each environment: created, changed or unchanged. An applied environment needs no file: it ends by
`expires` or `idle`, or with `mayfly delete`.";

/// Reads environments from files and registers them in etcd, without a registrar
///
/// If any file has a fault, nothing is written. The command can change an environment that `mayfly
/// apply` registered. Without --force, it refuses an environment that a registrar registered from a
/// file. An environment that has ended begins a new life.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Reads environments from this file, from the *.yaml and *.yml files of this directory, or
    /// from standard input (`-`); repeatable
    #[arg(short = 'f', long = "file", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Takes over environments that a registrar or another program registered
    ///
    /// Each of these environments is missing in etcd for some milliseconds.
    #[arg(long)]
    pub force: bool,

    /// Shows what would happen, and writes nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Applies files.
///
/// # Errors
/// When a file has a fault, an environment can't be registered beside what is there, or etcd does
/// not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let wanted = wanted(common, input::read(&args.files, environment_file::parse))?;
    let store = common.store()?;
    let mut done = BTreeSet::new();
    // Whoever changes one of them at the same moment makes us look again.
    let mut tries = Tries::default();
    while tries.next().await {
        let registry = Registry::read(&store).await?;
        let now = SystemTime::now();
        let left = wanted.iter().filter(|it| !done.contains(&it.name));
        let steps = match plan(&registry, left.cloned().collect(), args.force, now) {
            Ok(steps) => steps,
            Err(refusals) => {
                for line in &refusals {
                    output::complain(line);
                }
                bail!(match done.len() {
                    0 => "nothing was registered".to_owned(),
                    count => format!("only {count} of {} environments were registered", wanted.len()),
                });
            }
        };
        if done.is_empty() {
            warn_of_missing_parents(&registry, &wanted);
            if registry.live.is_empty() && registry.ended.is_empty() {
                if let Err(unused) = store.ensure_used().await {
                    output::complain(&format!("note: {unused:#}"));
                }
            }
        }
        let mut again = false;
        for step in steps {
            if args.dry_run {
                output::print(&step.line("would be "))?;
            } else if carry_out(&store, &step, now).await? {
                output::print(&step.line(""))?;
                done.insert(step.environment.name.clone());
            } else {
                again = true;
            }
        }
        if !again {
            return Ok(ExitCode::SUCCESS);
        }
    }
    bail!("another writer keeps changing the same environments: try again")
}

/// The environments of files without any fault, with their source.
fn wanted(common: &CommonArgs, files: Vec<(String, ParsedEnvironments)>) -> anyhow::Result<Vec<Environment>> {
    // What routers refuse they say themselves: `mayfly status` has it.
    let checked = lint::check(&files, &[], &AddressRule::off());
    if checked.faults > 0 {
        output::complain(&checked.text());
        bail!("nothing was registered");
    }
    let mut wanted = Vec::new();
    for (file, parsed) in files {
        let name = Path::new(&file).file_name().unwrap_or_default();
        let source = source(common, name.to_string_lossy().into_owned())?;
        for found in parsed.entries {
            let mut environment = found.environment;
            environment.source = Some(source.clone());
            wanted.push(environment);
        }
    }
    ensure!(!wanted.is_empty(), "the files contain no environment");
    Ok(wanted)
}

/// What happens to one environment.
#[derive(Debug, PartialEq, Eq)]
struct EnvironmentStep {
    environment: Environment,
    change: EnvironmentChange,
    /// The revision and the lease of the key that is replaced.
    before: Option<(i64, Option<LeaseId>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EnvironmentChange {
    Unchanged,
    Created,
    /// It had ended.
    CreatedAgain,
    Changed,
    /// The key is made again: by that its registrar sees that it is no longer its own.
    TakenOver,
}

impl EnvironmentStep {
    fn line(&self, would: &str) -> String {
        let end = self.environment.ends_at();
        let end = end.map(|end| format!(", until {end}")).unwrap_or_default();
        let name = &self.environment.name;
        match self.change {
            EnvironmentChange::Unchanged => format!("{name} unchanged\n"),
            EnvironmentChange::Created => format!("{name} {would}created{end}\n"),
            EnvironmentChange::CreatedAgain => format!("{name} {would}created{end} (it had ended)\n"),
            EnvironmentChange::Changed => format!("{name} {would}changed{end}\n"),
            EnvironmentChange::TakenOver => format!("{name} {would}taken over{end}\n"),
        }
    }
}

/// The steps, in the order of the files; or every reason why nothing can be done.
fn plan(
    registry: &Registry,
    wanted: Vec<Environment>,
    force: bool,
    now: SystemTime,
) -> Result<Vec<EnvironmentStep>, Vec<String>> {
    let mut refusals = clashes(registry, &wanted.iter().collect::<Vec<_>>());
    refusals.extend(lineages(registry, &wanted));
    let mut steps = Vec::new();
    for environment in wanted {
        match step(registry, environment, force, now) {
            Ok(step) => steps.push(step),
            Err(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() {
        Ok(steps)
    } else {
        Err(refusals)
    }
}

fn step(
    registry: &Registry,
    mut environment: Environment,
    force: bool,
    now: SystemTime,
) -> Result<EnvironmentStep, String> {
    let name = environment.name.clone();
    let live = registry.live.get(&name);
    let change = match live.map(|live| &live.record) {
        None if registry.ended.contains_key(&name) => EnvironmentChange::CreatedAgain,
        None => EnvironmentChange::Created,
        Some(Ok(there)) if there.asks_for_the_same(&environment) => EnvironmentChange::Unchanged,
        Some(Ok(there)) if is_applied(there) => EnvironmentChange::Changed,
        Some(_) if force => EnvironmentChange::TakenOver,
        Some(Ok(there)) => {
            let origin = origin(there);
            return Err(format!(
                "{name}: this environment was registered {origin}: change it there, or take it over with --force"
            ));
        }
        Some(Err(reason)) => {
            return Err(format!(
                "{name}: the record in etcd is not valid ({reason}): replace the record with --force"
            ));
        }
    };
    let before = live.and_then(|live| live.record.as_ref().ok());
    environment.life = match (change, before) {
        (EnvironmentChange::Unchanged, Some(before)) => before.life.clone(),
        (_, before) => Some(Life {
            previous: before.map_or_else(Default::default, |before| {
                switching::previous(before, &environment, |name| registry.environment(name))
            }),
            ..life(before, now)
        }),
    };
    let over = environment.ends_at().filter(|end| end.left(now).is_zero());
    if let Some(end) = over.filter(|_| change != EnvironmentChange::Unchanged) {
        return Err(format!(
            "{name}: the environment would end at {end}, which is in the past: set a later `expires`"
        ));
    }
    Ok(EnvironmentStep {
        environment,
        change,
        before: live.map(|live| (live.revision.changed, live.lease)),
    })
}

/// The life of an environment that is registered over `before`: a change does not prolong it.
fn life(before: Option<&Environment>, now: SystemTime) -> Life {
    let life = before.and_then(|before| before.life.clone());
    Life {
        revived: false,
        refused: None,
        ..life.unwrap_or_else(|| Life::beginning(Moment::of(now)))
    }
}

/// The base of each environment, once the wanted ones are registered.
fn parents<'a>(
    registry: &'a Registry,
    wanted: &'a [Environment],
) -> BTreeMap<&'a EnvironmentName, Option<&'a EnvironmentName>> {
    let all = registry.environments().chain(wanted);
    all.map(|it| (&it.name, it.extends.as_ref())).collect()
}

/// Circles, and lines of more than three, that the wanted environments would be in.
pub fn lineages(registry: &Registry, wanted: &[Environment]) -> Vec<String> {
    let parents = parents(registry, wanted);
    let parents = parents
        .into_iter()
        .filter_map(|(name, parent)| Some((name, parent?)));
    let parents = parents.collect();
    let fault = |it: &Environment| {
        Some(format!(
            "{}: {}",
            it.name,
            lint::lineage_fault(&it.name, &parents)?
        ))
    };
    wanted.iter().filter_map(fault).collect()
}

/// A missing parent may come later; until then what is inherited is missing.
fn warn_of_missing_parents(registry: &Registry, wanted: &[Environment]) {
    let known = parents(registry, wanted);
    for Environment { name, extends, .. } in wanted {
        if let Some(parent) = extends.as_ref().filter(|parent| !known.contains_key(*parent)) {
            output::complain(&format!("note: {name} extends {parent}, which is not registered"));
        }
    }
}

/// Whether it was done; not when another writer has changed the environment since it was read.
async fn carry_out(store: &Store, step: &EnvironmentStep, now: SystemTime) -> anyhow::Result<bool> {
    let environment = &step.environment;
    let (guard, lease) = match step.before {
        _ if step.change == EnvironmentChange::Unchanged => return Ok(true),
        None => (Guard::Absent, None),
        Some((revision, lease)) if step.change == EnvironmentChange::TakenOver => {
            let guard = Guard::ModRevision(revision);
            // A program that is killed between the two steps leaves an ended environment, which the
            // same command registers again. etcd takes no transaction with both steps.
            if !environments::unregister(store, &environment.name, guard, false).await? {
                return Ok(false);
            }
            (Guard::Absent, lease)
        }
        Some((revision, lease)) => (Guard::ModRevision(revision), lease),
    };
    let written = environments::register(store, environment, guard, lease, now).await?;
    Ok(written.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::LiveEnvironment;
    use serde_json::{Value, json};

    fn environment(fields: Value) -> Environment {
        let mut record = json!({"prefix": fields["name"], "header": fields["name"]});
        record
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        serde_json::from_value(record).unwrap()
    }

    fn noon() -> SystemTime {
        "2030-01-31T12:00:00Z".parse::<Moment>().unwrap().time()
    }

    fn registry() -> Registry {
        let mut registry = Registry::default();
        let life = json!({"registered_at": "2030-01-31T11:00:00Z", "revived": true, "refused": "bad"});
        let source = |registrar: &str| json!({"registrar": registrar, "file": "f.yaml"});
        for (revision, fields) in [
            (3, json!({"name": "file", "source": source("host-1")})),
            (
                4,
                json!({"name": "applied", "life": life, "source": source("mayfly_apply.pc")}),
            ),
        ] {
            let record = environment(fields);
            let live = LiveEnvironment {
                revision: revision.into(),
                lease: None,
                record: Ok(record.clone()),
            };
            registry.live.insert(record.name.clone(), live);
        }
        let ended = environment(json!({"name": "ended"}));
        registry.ended.insert(ended.name.clone(), ended);
        registry
    }

    #[track_caller]
    fn check(wanted: Value, force: bool, expected: &str) {
        let wanted = wanted
            .as_array()
            .unwrap()
            .iter()
            .cloned()
            .map(environment)
            .collect();
        let found = match plan(&registry(), wanted, force, noon()) {
            Ok(steps) => steps
                .iter()
                .map(|step| step.line("would be "))
                .collect::<String>(),
            Err(refusals) => refusals.join("\n"),
        };
        assert_eq!(found.trim(), expected);
    }

    #[test]
    fn what_happens_to_each() {
        check(
            json!([{"name": "new", "expires": "8h"}, {"name": "ended"}, {"name": "applied"}, {"name": "file"}]),
            false,
            "new would be created, until 2030-01-31T20:00:00Z\n\
             ended would be created (it had ended)\napplied unchanged\nfile unchanged",
        );
        // The life goes on from the first registration.
        check(
            json!([{"name": "applied", "expires": "8h"}]),
            false,
            "applied would be changed, until 2030-01-31T19:00:00Z",
        );
        check(
            json!([{"name": "file", "idle": "8h"}]),
            true,
            "file would be taken over",
        );
    }

    #[test]
    fn what_is_refused() {
        check(
            json!([{"name": "new"}, {"name": "file", "idle": "8h"}]),
            false,
            "file: this environment was registered by the registrar of host-1 from its file f.yaml: change it there, \
             or take it over with --force",
        );
        check(
            json!([{"name": "new", "prefix": "file"}]),
            true,
            "new: prefix \"file\" belongs to file, which was registered by the registrar of host-1 from its \
             file f.yaml: choose another prefix",
        );
        check(
            json!([{"name": "new", "expires": "2030-01-31T11:59:00Z"}, {"name": "applied", "expires": "10m"}]),
            false,
            "new: the environment would end at 2030-01-31T11:59:00Z, which is in the past: set a later `expires`\n\
             applied: the environment would end at 2030-01-31T11:10:00Z, which is in the past: set a later `expires`",
        );
        check(
            json!([{"name": "applied", "extends": "new"}, {"name": "new", "extends": "applied"}]),
            false,
            "applied: applied -> new -> applied: environments can't extend each other in a circle\n\
             new: new -> applied -> new: environments can't extend each other in a circle",
        );
    }

    #[test]
    fn a_changed_environment_is_no_longer_a_revived_or_an_older_one() {
        let wanted = vec![environment(json!({"name": "applied", "idle": "1h"}))];
        let steps = plan(&registry(), wanted, false, noon()).unwrap();
        let life = steps[0].environment.life.clone().unwrap();
        assert_eq!(
            (
                life.registered_at.to_string().as_str(),
                life.revived,
                life.refused,
            ),
            ("2030-01-31T11:00:00Z", false, None)
        );
        assert_eq!(steps[0].before, Some((4, None)));
    }
}
