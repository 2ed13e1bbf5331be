//! `mayfly delete`: ends environments. Their history stays, so that a registrar does not bring them back from their
//! files, and `mayfly keep` can.

use std::process::ExitCode;

use anyhow::bail;
use mayfly_core::keys::Key;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::{self, Environment};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::store::{Guard, Store};
use mayfly_daemon::{environments, output};

use crate::registry::{Registry, is_applied, origin, unknown};

const EXAMPLES: &str = "\
Examples:
  mayfly delete temp-1
  mayfly delete temp-1 temp-2
  mayfly delete --force prod          although it is protected
  mayfly keep temp-1 8h               bring it back";

/// End environments, wherever they were registered
///
/// An environment whose file is still in the directory of a registrar stays ended all the same, until the file is
/// changed; the registrar then archives the file. A protected one comes back from its file: delete the file as well.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The environments
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<EnvironmentName>,

    /// Also those that are protected
    #[arg(long)]
    pub force: bool,
}

/// Deletes environments; those that can be are, although others can't.
///
/// # Errors
/// When one of them is not registered or is protected, or etcd does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        match delete(&store, name, args.force).await {
            Ok(line) => output::print(&line)?,
            Err(error) => {
                output::complain(&format!("error: {error:#}"));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// Deletes one and says what that means.
async fn delete(store: &Store, name: &EnvironmentName, force: bool) -> anyhow::Result<String> {
    // Whoever changes it at the same moment makes us look again: it may be protected now.
    for _ in 0..5 {
        let Some(entry) = store.get(&Key::Environment(name.clone())).await? else {
            match store.get(&Key::History(name.clone())).await? {
                Some(_) => bail!("{name} has ended already"),
                None => bail!("{}", unknown(name, Registry::read(store).await?.live.keys())),
            }
        };
        let environment = records::parse_environment(name, &entry.value).ok();
        if environment.as_ref().is_some_and(|it| it.protected) && !force {
            bail!("{name} is protected: delete it with --force");
        }
        let guard = Guard::ModRevision(entry.mod_revision);
        if environments::unregister(store, name, guard, false).await? {
            return Ok(told(name, environment.as_ref()));
        }
    }
    bail!("somebody else changes {name} all the time: try again")
}

fn told(name: &EnvironmentName, environment: Option<&Environment>) -> String {
    let mut text = format!("{name} deleted\n");
    let with_file = environment.filter(|it| it.source.is_some() && !is_applied(it));
    if let Some(environment) = with_file {
        let origin = origin(environment);
        text += &if environment.protected {
            format!(
                "  it was registered {origin}: being protected, it comes back unless that is deleted, too\n"
            )
        } else {
            format!("  it was registered {origin}: that does not bring it back unless it is changed\n")
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_happens_to_a_file_is_told() {
        let name = "a".parse().unwrap();
        let told = |registrar: &str, protected: bool| {
            let source = json!({"registrar": registrar, "file": "a.yaml"});
            let record =
                json!({"name": "a", "prefix": "a", "header": "a", "source": source, "protected": protected});
            told(&name, Some(&serde_json::from_value(record).unwrap()))
        };
        assert_eq!(told("mayfly_apply.pc", false), "a deleted\n");
        let file = "a deleted\n  it was registered by the registrar of host-1 from its file a.yaml: ";
        assert_eq!(
            told("host-1", false),
            format!("{file}that does not bring it back unless it is changed\n")
        );
        assert!(told("host-1", true).starts_with(&format!("{file}being protected, it comes back")));
        assert_eq!(super::told(&name, None), "a deleted\n");
    }
}
