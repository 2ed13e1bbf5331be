//! What is registered, and what has been: environments and their history, read at one revision.

use std::collections::BTreeMap;

use mayfly_core::index::Revision;
use mayfly_core::keys::Key;
use mayfly_core::names::{EnvironmentName, NodeName};
use mayfly_core::records::{Environment, Record, Source};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::printable;
use mayfly_daemon::store::{LeaseId, Store, StoreError};
use mayfly_daemon::watch::{self, Change, Stored, Unreadable};

#[derive(Debug, Default)]
pub struct Registry {
    /// What is registered now.
    pub live: BTreeMap<EnvironmentName, LiveEnvironment>,
    /// What has ended, as it was last registered.
    pub ended: BTreeMap<EnvironmentName, Environment>,
}

/// An environment that is registered.
#[derive(Debug)]
pub struct LiveEnvironment {
    /// The revisions at which its key came to be and was last put.
    pub revision: Revision,
    /// The lease that it hangs on.
    pub lease: Option<LeaseId>,
    /// What the key says, or why that is no environment.
    pub record: Result<Environment, String>,
}

impl Registry {
    /// Reads what etcd has.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn read(store: &Store) -> Result<Self, StoreError> {
        let batch = watch::look(store, &store.keyspace().registry()).await?;
        let mut registry = Self::default();
        for change in batch.changes {
            match change {
                Change::Put(Stored {
                    record: Record::Environment(environment),
                    revision,
                    lease,
                }) => registry.add(environment.name.clone(), Ok(environment), revision, lease),
                Change::Unreadable(Unreadable {
                    key: Key::Environment(name),
                    reason,
                    revision,
                    lease,
                    ..
                }) => registry.add(name, Err(reason), revision, lease),
                Change::Put(Stored {
                    record: Record::History(environment),
                    ..
                }) => drop(registry.ended.insert(environment.name.clone(), environment)),
                _ => {}
            }
        }
        let Self { live, ended } = &mut registry;
        ended.retain(|name, _| !live.contains_key(name));
        Ok(registry)
    }

    fn add(
        &mut self,
        name: EnvironmentName,
        record: Result<Environment, String>,
        revision: Revision,
        lease: Option<LeaseId>,
    ) {
        let live = LiveEnvironment {
            revision,
            lease,
            record,
        };
        self.live.insert(name, live);
    }

    /// The environments that are registered and can be read.
    pub fn environment(&self, name: &EnvironmentName) -> Option<&Environment> {
        self.live.get(name)?.record.as_ref().ok()
    }

    /// All that can be read.
    pub fn environments(&self) -> impl Iterator<Item = &Environment> {
        self.live.values().filter_map(|live| live.record.as_ref().ok())
    }
}

/// The beginning of the name by which this tool registers. No host has such a name, so that no
/// registrar takes what was applied for its own and misses its file.
const TOOL: &str = "mayfly_apply.";
/// The same of `mayfly local`: its environments end with its process.
const LOCAL: &str = "mayfly_local.";

/// What the source of a record says that this tool registered.
///
/// # Errors
/// When this host's name can't be read and none is given.
pub fn source(common: &CommonArgs, file: String) -> anyhow::Result<Source> {
    source_as(TOOL, common, file)
}

/// The same of `mayfly local`. `what` is in place of a file.
///
/// # Errors
/// As [`source`].
pub fn local_source(common: &CommonArgs, what: String) -> anyhow::Result<Source> {
    source_as(LOCAL, common, what)
}

fn source_as(tool: &str, common: &CommonArgs, file: String) -> anyhow::Result<Source> {
    let mut node = format!("{tool}{}", common.node()?);
    // The name of a node is ASCII.
    node.truncate(NodeName::LIMIT);
    Ok(Source {
        registrar: node.parse::<NodeName>()?,
        file,
    })
}

/// Whether an environment was registered by this tool, on whatever host.
pub fn is_applied(environment: &Environment) -> bool {
    let source = environment.source.as_ref();
    source.is_some_and(|source| source.registrar.as_str().starts_with(TOOL))
}

/// Whether an environment is one of `mayfly local`.
pub fn is_local(environment: &Environment) -> bool {
    let source = environment.source.as_ref();
    source.is_some_and(|source| source.registrar.as_str().starts_with(LOCAL))
}

/// Where an environment comes from, for people: completes "it was registered ...".
pub fn origin(environment: &Environment) -> String {
    let Some(Source { registrar, file }) = &environment.source else {
        return "by hand".to_owned();
    };
    // The name of a file can hold anything that a terminal would act upon.
    let file = printable(file);
    if let Some(host) = registrar.as_str().strip_prefix(LOCAL) {
        return format!("by `mayfly local` on {host} for {file}");
    }
    match registrar.as_str().strip_prefix(TOOL) {
        Some(host) => format!("by `mayfly apply` on {host} from {file}"),
        None => format!("by the registrar of {registrar} from its file {file}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct NodeProgram {
        #[command(flatten)]
        common: CommonArgs,
    }

    #[test]
    fn what_this_tool_registers_is_distinguished_from_what_a_registrar_does() {
        let long = "n".repeat(128);
        for node in ["host-1", &long] {
            let common = NodeProgram::parse_from(["x", "--node", node]).common;
            let source = source(&common, "a\u{1b}.yaml".to_owned()).unwrap();
            assert_ne!(source.registrar, common.node().unwrap());
            let mut environment: Environment =
                serde_json::from_str(r#"{"name": "a", "prefix": "a", "header": "a"}"#).unwrap();
            assert_eq!(
                (is_applied(&environment), origin(&environment).as_str()),
                (false, "by hand")
            );
            environment.source = Some(source);
            assert!(is_applied(&environment));
            if node == "host-1" {
                assert_eq!(
                    origin(&environment),
                    "by `mayfly apply` on host-1 from a\\u{1b}.yaml"
                );
            }
            environment.source.as_mut().unwrap().registrar = common.node().unwrap();
            assert!(!is_applied(&environment));
        }
    }
}
