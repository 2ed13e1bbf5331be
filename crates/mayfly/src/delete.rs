//! `mayfly delete`: ends environments. Their history stays, so that a registrar does not bring them
//! back from their files, and `mayfly keep` can. What a pattern matches is shown, and ends only when
//! that is confirmed.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::bail;
use mayfly_core::keys::Key;
use mayfly_core::names::EnvironmentName;
use mayfly_core::pattern::NamePattern;
use mayfly_core::records::ended::{Ended, Why};
use mayfly_core::records::lifetime::Moment;
use mayfly_core::records::{Environment, Record};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::store::{Guard, Store};
use mayfly_daemon::watch::{Change, Stored, Unreadable, look_up};
use mayfly_daemon::{environments, output};

use mayfly_state::state::unknown;

use crate::registry::{Registry, is_applied, is_local, origin};

const EXAMPLES: &str = "\
Examples:
  mayfly delete temp-1
  mayfly delete temp-1 temp-2
  mayfly delete 'pr-*'                shows which environments match, and asks
  mayfly delete 'pr-*' --yes          does not ask; for scripts
  mayfly delete --force prod          deletes prod although prod is protected
  mayfly keep temp-1 8h               brings temp-1 back";

/// Ends environments, wherever they were registered
///
/// If the environment's file is still in the directory of a registrar, the registrar archives the
/// file. The environment stays ended until the content of its file changes, or `mayfly keep` brings
/// it back. A protected environment comes back from its file: delete the file as well.
///
/// In a pattern `*` stands for any text; quote it, so that the shell does not replace it. The
/// command shows which environments a pattern matches, and asks before it ends them. A pattern
/// never ends a protected environment, even with --force.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The environments to delete: names, or patterns such as 'pr-*'
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<NamePattern>,

    /// Ends protected environments, too, if they are named in full
    #[arg(long)]
    pub force: bool,

    /// Does not ask before it ends the environments that match a pattern
    #[arg(long)]
    pub yes: bool,
}

/// Deletes environments; those that can be are, although others can't.
///
/// # Errors
/// When one of them is not registered or is protected, or etcd does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let mut names: Vec<(EnvironmentName, bool)> = Vec::new();
    let mut code = ExitCode::SUCCESS;
    let mut fail = |reason: &str| {
        output::complain(&format!("error: {reason}"));
        code = ExitCode::FAILURE;
    };
    let (patterns, exact): (Vec<_>, Vec<_>) = args.names.iter().partition(|name| name.is_open());
    for name in exact {
        names.push((name.to_string().parse()?, args.force));
    }
    if !patterns.is_empty() {
        let selection = Selection::of(&Registry::read(&store).await?, &patterns);
        output::print(&selection.text())?;
        selection.unmatched.iter().for_each(|reason| fail(reason));
        if let Err(error) = selection.confirm(args.yes) {
            fail(&error.to_string());
        } else {
            names.extend(selection.matched.into_iter().map(|name| (name, false)));
        }
    }
    for (name, force) in names {
        match delete(&store, &name, force).await {
            Ok(line) => output::print(&line)?,
            Err(error) => fail(&format!("{error:#}")),
        }
    }
    Ok(code)
}

/// What patterns match.
#[derive(Debug, Default)]
struct Selection {
    /// The environments that are to end.
    matched: BTreeSet<EnvironmentName>,
    /// Those that match and stay, each with the reason.
    kept: Vec<String>,
    /// Why a pattern ends nothing.
    unmatched: Vec<String>,
}

impl Selection {
    fn of(registry: &Registry, patterns: &[&NamePattern]) -> Self {
        let mut selection = Self::default();
        let mut kept = BTreeSet::new();
        for pattern in patterns {
            let mut is_any = false;
            for (name, live) in registry.live.iter().filter(|(name, _)| pattern.matches(name)) {
                is_any = true;
                match &live.record {
                    Ok(environment) if !environment.protected => {
                        selection.matched.insert(name.clone());
                    }
                    Ok(_) => {
                        kept.insert(format!("{name} is protected"));
                    }
                    // It may be protected.
                    Err(_) => {
                        kept.insert(format!("{name} cannot be read"));
                    }
                }
            }
            if !is_any {
                let reason = format!("no environment matches {pattern}; `mayfly status` lists all");
                selection.unmatched.push(reason);
            }
        }
        selection.kept = kept.into_iter().collect();
        selection
    }

    /// What matches, for the person who is asked.
    fn text(&self) -> String {
        let matched = self.matched.iter().map(|name| format!("matches: {name}\n"));
        let kept = self.kept.iter().map(|reason| format!("kept: {reason}\n"));
        matched.chain(kept).collect()
    }

    /// Asks whether these are to end, unless that is said already.
    ///
    /// # Errors
    /// When they are not to end, or nobody is there to answer.
    fn confirm(&self, is_said: bool) -> anyhow::Result<()> {
        let count = self.matched.len();
        if is_said || count == 0 {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            bail!(
                "there is no terminal for the question, so these {count} environments stay: to end them, add --yes"
            );
        }
        output::print(&format!("end these {count} environments? [y/N] "))?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => bail!("these {count} environments stay"),
        }
    }
}

/// Deletes one and says what that means.
async fn delete(store: &Store, name: &EnvironmentName, force: bool) -> anyhow::Result<String> {
    // Whoever changes it at the same moment makes us look again: it may be protected now.
    for _ in 0..5 {
        let Some(found) = look_up(store, Key::Environment(name.clone())).await? else {
            match store.get(&Key::History(name.clone())).await? {
                Some(_) => bail!("{name} has ended already"),
                None => bail!("{}", unknown(name, Registry::read(store).await?.live.keys())),
            }
        };
        let (environment, revision) = match found {
            Change::Put(Stored {
                record: Record::Environment(environment),
                revision,
                ..
            }) => (Some(environment), revision),
            Change::Put(Stored { revision, .. }) | Change::Unreadable(Unreadable { revision, .. }) => {
                (None, revision)
            }
            Change::Gone(_) => continue,
        };
        if environment.as_ref().is_some_and(|it| it.protected) && !force {
            bail!("{name} is protected: delete it with --force");
        }
        let guard = Guard::ModRevision(revision.changed);
        let ended = environment
            .as_ref()
            .map(|it| Ended::of(it, Moment::of(SystemTime::now()), Why::Deleted));
        if environments::end(store, name, guard, ended.as_ref()).await? {
            return Ok(report(name, environment.as_ref()));
        }
    }
    bail!("another writer keeps changing {name}: try again")
}

fn report(name: &EnvironmentName, environment: Option<&Environment>) -> String {
    let mut text = format!("{name} deleted\n");
    let with_file = environment.filter(|it| it.source.is_some() && !is_applied(it) && !is_local(it));
    if let Some(environment) = with_file {
        let origin = origin(environment);
        text += &if environment.protected {
            format!(
                "  {name} is protected and was registered {origin}: delete that file, too, or \
                 {name} comes back\n"
            )
        } else {
            format!(
                "  {name} was registered {origin}: `mayfly keep {name} 8h` brings it back, and so does a change of \
                 that file\n"
            )
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::LiveEnvironment;
    use mayfly_core::index::Revision;
    use serde_json::json;

    #[test]
    fn a_pattern_ends_what_matches_and_is_not_protected() {
        let mut registry = Registry::default();
        for (name, protected) in [("pr-1", false), ("pr-2", true), ("pr-3", false), ("qa", false)] {
            let record = json!({"name": name, "prefix": name, "header": name, "protected": protected});
            let live = LiveEnvironment {
                revision: Revision {
                    created: 1,
                    changed: 1,
                },
                lease: None,
                record: Ok(serde_json::from_value(record).unwrap()),
            };
            registry.live.insert(name.parse().unwrap(), live);
        }
        registry.live.get_mut(&"pr-3".parse().unwrap()).unwrap().record = Err("no record".to_owned());
        let select = |patterns: &[&str]| {
            let patterns: Vec<NamePattern> = patterns.iter().map(|it| it.parse().unwrap()).collect();
            Selection::of(&registry, &patterns.iter().collect::<Vec<_>>())
        };
        let selection = select(&["pr-*", "*-1", "x-*"]);
        assert_eq!(
            selection.text(),
            "matches: pr-1\nkept: pr-2 is protected\nkept: pr-3 cannot be read\n"
        );
        assert_eq!(
            selection.unmatched,
            ["no environment matches x-*; `mayfly status` lists all"]
        );
        assert!(select(&["pr-2*"]).matched.is_empty());
    }

    #[test]
    fn what_happens_to_a_file_is_reported() {
        let name = "a".parse().unwrap();
        let report = |registrar: &str, protected: bool| {
            let source = json!({"registrar": registrar, "file": "a.yaml"});
            let record =
                json!({"name": "a", "prefix": "a", "header": "a", "source": source, "protected": protected});
            report(&name, Some(&serde_json::from_value(record).unwrap()))
        };
        assert_eq!(report("mayfly_apply.pc", false), "a deleted\n");
        assert_eq!(report("mayfly_local.pc", false), "a deleted\n");
        let file = "was registered by the registrar of host-1 from its file a.yaml";
        assert_eq!(
            report("host-1", false),
            format!(
                "a deleted\n  a {file}: `mayfly keep a 8h` brings it back, and so does a change of that file\n"
            )
        );
        assert_eq!(
            report("host-1", true),
            format!("a deleted\n  a is protected and {file}: delete that file, too, or a comes back\n")
        );
        assert_eq!(super::report(&name, None), "a deleted\n");
    }
}
