//! What is registered, and what has been: environments and their history, read at one revision.

use std::collections::BTreeMap;

use mayfly_core::keys::Key;
use mayfly_core::names::{EnvironmentName, NodeName};
use mayfly_core::nearest::nearest;
use mayfly_core::records::{self, Environment, Source};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::printable;
use mayfly_daemon::store::{Entry, Store, StoreError};

/// The environments of etcd.
#[derive(Debug, Default)]
pub struct Registry {
    /// What is registered now.
    pub live: BTreeMap<EnvironmentName, Live>,
    /// What has ended, as it was last registered.
    pub ended: BTreeMap<EnvironmentName, Environment>,
}

/// An environment that is registered.
#[derive(Debug)]
pub struct Live {
    /// Its key.
    pub entry: Entry,
    /// What the key says, or why that is no environment.
    pub record: Result<Environment, String>,
}

impl Registry {
    /// Reads what etcd has.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn read(store: &Store) -> Result<Self, StoreError> {
        let listing = store.list(&store.keyspace().registry()).await?;
        let mut registry = Self::default();
        for entry in listing.entries {
            // A key that is none of ours names no environment; the daemons report it.
            match store.keyspace().parse(&entry.key) {
                Ok(Key::Environment(name)) => {
                    let record =
                        records::parse_environment(&name, &entry.value).map_err(|error| error.to_string());
                    registry.live.insert(name, Live { entry, record });
                }
                Ok(Key::History(name)) => {
                    if let Ok(environment) = records::parse_environment(&name, &entry.value) {
                        registry.ended.insert(name, environment);
                    }
                }
                _ => {}
            }
        }
        let Self { live, ended } = &mut registry;
        ended.retain(|name, _| !live.contains_key(name));
        Ok(registry)
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

/// That there is no environment of a name, and which was meant.
pub fn unknown<'a>(name: &EnvironmentName, known: impl Iterator<Item = &'a EnvironmentName>) -> String {
    let known: Vec<&str> = known.map(EnvironmentName::as_str).collect();
    match nearest(name.as_str(), &known) {
        Some(meant) => format!("there is no environment {name}; did you mean {meant}?"),
        None => format!("there is no environment {name}"),
    }
}

/// The beginning of the name by which this tool registers. No host has such a name, so that no registrar takes what was
/// applied for its own and misses its file.
const TOOL: &str = "mayfly_apply.";

/// What the source of a record says that this tool registered.
///
/// # Errors
/// When this host's name can't be read and none is given.
pub fn source(common: &CommonArgs, file: String) -> anyhow::Result<Source> {
    let mut node = format!("{TOOL}{}", common.node()?);
    // A name of a node is at most 128 ASCII letters.
    node.truncate(128);
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

/// Where an environment comes from, for people: completes "it was registered ...".
pub fn origin(environment: &Environment) -> String {
    let Some(Source { registrar, file }) = &environment.source else {
        return "by hand".to_owned();
    };
    // The name of a file can hold anything that a terminal would act upon.
    let file = printable(file);
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
    struct Program {
        #[command(flatten)]
        common: CommonArgs,
    }

    #[test]
    fn what_this_tool_registers_is_told_from_what_a_registrar_does() {
        let long = "n".repeat(128);
        for node in ["host-1", &long] {
            let common = Program::parse_from(["x", "--node", node]).common;
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
