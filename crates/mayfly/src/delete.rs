//! `mayfly delete`: ends environments. Their history stays, so that a registrar does not bring them
//! back from their files, and `mayfly keep` can. What a pattern matches is shown, and nothing ends
//! until that is confirmed.

use std::collections::{BTreeMap, BTreeSet};
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
use mayfly_core::shorten::{counted, first_of};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::retry::Tries;
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
/// command shows which environments a pattern matches, and asks before it ends any environment. A
/// pattern never ends a protected environment, even with --force.
///
/// Environments that extend a deleted environment stay, but are incomplete. The command names them.
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

/// Children of one environment that a note names.
const CHILDREN_NAMED: usize = 10;

/// Deletes environments; those that can be are, although others can't. Without the answer `yes` to
/// the question none is.
///
/// # Errors
/// When one of them is not registered or is protected, or etcd does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let (patterns, named): (Vec<_>, Vec<_>) = args.names.iter().partition(|name| name.is_open());
    let mut names: Vec<EnvironmentName> = Vec::new();
    for name in named {
        let name = name.to_string().parse()?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let registry = Registry::read(&store).await?;
    let selection = Selection::of(&registry, &patterns, names);
    output::print(&selection.text(&registry))?;
    let mut code = ExitCode::SUCCESS;
    let mut fail = |reason: &str| {
        output::complain(&format!("error: {reason}"));
        code = ExitCode::FAILURE;
    };
    selection.unmatched.iter().for_each(|reason| fail(reason));
    selection.confirm(args.yes)?;
    let mut deleted = BTreeSet::new();
    let named = selection.named.into_iter().map(|name| (name, args.force));
    let matched = selection.matched.into_iter().map(|name| (name, false));
    for (name, force) in named.chain(matched) {
        match delete(&store, &name, force).await {
            Ok(line) => {
                output::print(&line)?;
                deleted.insert(name);
            }
            Err(error) => fail(&format!("{error:#}")),
        }
    }
    for (parent, children) in orphans(&registry, &deleted) {
        let (extend, are) = match children.len() {
            1 => ("extends", "is"),
            _ => ("extend", "are"),
        };
        let children = first_of(children.iter().map(|it| it.as_str()), CHILDREN_NAMED);
        output::complain(&format!(
            "note: {children} {extend} {parent}, and {are} incomplete until {parent} is registered again"
        ));
    }
    Ok(code)
}

/// The environments that extend some of these and are not among them, by the environment that they
/// extend.
fn orphans<'a>(
    registry: &'a Registry,
    ended: &'a BTreeSet<EnvironmentName>,
) -> BTreeMap<&'a EnvironmentName, Vec<&'a EnvironmentName>> {
    let mut children: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for environment in registry.environments().filter(|it| !ended.contains(&it.name)) {
        if let Some(parent) = environment.extends.as_ref().and_then(|parent| ended.get(parent)) {
            children.entry(parent).or_default().push(&environment.name);
        }
    }
    children
}

/// What names and patterns mean.
#[derive(Debug, Default)]
struct Selection {
    /// The environments that are named in full.
    named: Vec<EnvironmentName>,
    /// Those that match a pattern, and are to end as well.
    matched: BTreeSet<EnvironmentName>,
    /// Those that match and stay, each with the reason.
    kept: Vec<String>,
    /// Why a pattern ends nothing.
    unmatched: Vec<String>,
}

impl Selection {
    fn of(registry: &Registry, patterns: &[&NamePattern], named: Vec<EnvironmentName>) -> Self {
        let mut selection = Self {
            named,
            ..Self::default()
        };
        let mut kept = BTreeSet::new();
        for pattern in patterns {
            let mut is_any = false;
            for (name, live) in registry.live.iter().filter(|(name, _)| pattern.matches(name)) {
                is_any = true;
                if selection.named.contains(name) {
                    continue;
                }
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

    /// What would end, for the person who is asked; nothing where names alone say it.
    fn text(&self, registry: &Registry) -> String {
        if self.matched.is_empty() {
            return self
                .kept
                .iter()
                .map(|reason| format!("kept: {reason}\n"))
                .collect();
        }
        let named = self.named.iter().map(|name| format!("named: {name}\n"));
        let matched = self.matched.iter().map(|name| format!("matches: {name}\n"));
        let kept = self.kept.iter().map(|reason| format!("kept: {reason}\n"));
        let ended: BTreeSet<_> = self.named.iter().chain(&self.matched).cloned().collect();
        let orphans = orphans(registry, &ended).into_iter().map(|(parent, children)| {
            let children = first_of(children.iter().map(|it| it.as_str()), CHILDREN_NAMED);
            format!("incomplete without {parent}: {children}\n")
        });
        named.chain(matched).chain(kept).chain(orphans).collect()
    }

    /// Asks whether these are to end, unless that is said already.
    ///
    /// # Errors
    /// When they are not to end, or nobody is there to answer.
    fn confirm(&self, is_said: bool) -> anyhow::Result<()> {
        if is_said || self.matched.is_empty() {
            return Ok(());
        }
        let count = counted(self.named.len() + self.matched.len(), "environment");
        if !std::io::stdin().is_terminal() {
            bail!("nothing was deleted: there is no terminal for the question; to end {count}, add --yes");
        }
        output::print(&format!("end {count}? [y/N] "))?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => bail!("nothing was deleted"),
        }
    }
}

/// Deletes one and says what that means.
async fn delete(store: &Store, name: &EnvironmentName, force: bool) -> anyhow::Result<String> {
    // Whoever changes it at the same moment makes us look again: it may be protected now.
    let mut tries = Tries::default();
    while tries.next().await {
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
    use serde_json::{Value, json};

    fn registry(environments: &[Value]) -> Registry {
        let mut registry = Registry::default();
        for fields in environments {
            let mut record = json!({"prefix": fields["name"], "header": fields["name"]});
            let fields = fields.as_object().unwrap().clone();
            record.as_object_mut().unwrap().extend(fields);
            let record: Environment = serde_json::from_value(record).unwrap();
            let live = LiveEnvironment {
                revision: Revision {
                    created: 1,
                    changed: 1,
                },
                lease: None,
                record: Ok(record.clone()),
            };
            registry.live.insert(record.name, live);
        }
        registry
    }

    fn select(registry: &Registry, patterns: &[&str], named: &[&str]) -> Selection {
        let patterns: Vec<NamePattern> = patterns.iter().map(|it| it.parse().unwrap()).collect();
        let named = named.iter().map(|it| it.parse().unwrap()).collect();
        Selection::of(registry, &patterns.iter().collect::<Vec<_>>(), named)
    }

    #[test]
    fn a_pattern_ends_what_matches_and_is_not_protected() {
        let mut registry = registry(&[
            json!({"name": "pr-1"}),
            json!({"name": "pr-2", "protected": true}),
            json!({"name": "pr-3"}),
            json!({"name": "qa"}),
        ]);
        registry.live.get_mut(&"pr-3".parse().unwrap()).unwrap().record = Err("no record".to_owned());
        let selection = select(&registry, &["pr-*", "*-1", "x-*"], &[]);
        assert_eq!(
            selection.text(&registry),
            "matches: pr-1\nkept: pr-2 is protected\nkept: pr-3 cannot be read\n"
        );
        assert_eq!(
            selection.unmatched,
            ["no environment matches x-*; `mayfly status` lists all"]
        );
        assert!(select(&registry, &["pr-2*"], &[]).matched.is_empty());
        // What is named in full besides is no matter of the pattern, and --force counts for it.
        let both = select(&registry, &["pr-*"], &["pr-2", "qa"]);
        assert_eq!(
            both.text(&registry),
            "named: pr-2\nnamed: qa\nmatches: pr-1\nkept: pr-3 cannot be read\n"
        );
        assert_eq!(select(&registry, &[], &["qa"]).text(&registry), "");
    }

    #[test]
    fn without_a_terminal_nothing_that_matches_ends() {
        let registry = registry(&[json!({"name": "pr-1"}), json!({"name": "qa"})]);
        let selection = select(&registry, &["pr-*"], &[]);
        assert_eq!(
            selection.confirm(false).unwrap_err().to_string(),
            "nothing was deleted: there is no terminal for the question; to end 1 environment, add --yes"
        );
        let both = select(&registry, &["pr-*"], &["qa"]);
        let error = both.confirm(false).unwrap_err().to_string();
        assert!(error.contains("to end 2 environments"), "{error}");
        assert!(both.confirm(true).is_ok() && select(&registry, &[], &["qa"]).confirm(false).is_ok());
    }

    #[test]
    fn environments_that_extend_what_ends_are_named() {
        let registry = registry(&[
            json!({"name": "base"}),
            json!({"name": "kid-1", "extends": "base"}),
            json!({"name": "kid-2", "extends": "base"}),
            json!({"name": "grandkid", "extends": "kid-1"}),
            json!({"name": "other"}),
        ]);
        let told = |ended: &[&str]| {
            let ended: BTreeSet<EnvironmentName> = ended.iter().map(|name| name.parse().unwrap()).collect();
            let told = orphans(&registry, &ended).into_iter();
            let told = told.map(|(parent, children)| {
                format!("{parent}: {}", first_of(children.iter().map(|it| it.as_str()), 9))
            });
            told.collect::<Vec<_>>().join("; ")
        };
        assert_eq!(told(&["base", "other"]), "base: kid-1, kid-2");
        assert_eq!(told(&["base", "kid-1"]), "base: kid-2; kid-1: grandkid");
        assert_eq!(told(&["other"]), "");
        let selection = select(&registry, &["kid-*"], &[]);
        assert_eq!(
            selection.text(&registry),
            "matches: kid-1\nmatches: kid-2\nincomplete without kid-1: grandkid\n"
        );
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
