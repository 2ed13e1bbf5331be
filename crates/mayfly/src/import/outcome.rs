//! What an import is asked for, and what each service comes to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mayfly_core::keys::KeySpace;
use mayfly_core::names::{DnsPrefix, EnvironmentName, RoutePath, ServiceName};

use super::around::ImportCommand;
use super::decide::Decided;

/// What an import is made of.
#[derive(Debug, Clone)]
pub struct ImportWishes {
    pub command: ImportCommand,
    /// The compose files, the later ones over the earlier ones.
    pub files: Vec<PathBuf>,
    /// The file of variables; by default `.env` beside the first file, if it is there.
    pub env_file: Option<PathBuf>,
    /// The variables of the shell.
    pub shell: BTreeMap<String, String>,
    /// The profiles whose services are included.
    pub profiles: Vec<String>,
    /// The name of the environment.
    pub environment: EnvironmentName,
    /// The first label of its host.
    pub prefix: DnsPrefix,
    /// The public paths of services, by their names in the compose file; a guess if there is none.
    pub routes: Vec<(String, RoutePath)>,
    /// The key prefix of the Mayfly that is to register what stays in the compose file; every one
    /// that sees it by default.
    pub key_prefix: Option<KeySpace>,
    /// The name of the engine's network that routed services are in.
    pub network: String,
    /// The address of the dnsmasq that resolves `*.service`, if it is known.
    pub dns: Option<String>,
    /// The working directory: relative paths of the compose file are seen from there.
    pub root: PathBuf,
    /// Paths of the host that no launched container may have, beside those of the system.
    pub closed: Vec<PathBuf>,
}

/// Whose values a written file has, which only the compose file's directory had before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldValues {
    /// Those of the compose files themselves.
    #[default]
    Own,
    /// Variables of the shell or of `.env`.
    Variables,
    /// An `env_file`.
    EnvFile,
}

/// What a service comes to.
#[derive(Debug)]
pub(super) struct ImportedService {
    pub(super) it: Decided,
    /// Whether a definition is written.
    pub(super) is_launched: bool,
    pub(super) routes: Vec<RoutePath>,
    /// The variables that are rewritten, with their new values.
    pub(super) env: BTreeMap<String, String>,
    /// The command, if it is rewritten.
    pub(super) command: Option<Vec<String>>,
    /// Whose values its settings have.
    pub(super) held: HeldValues,
    /// The routed services that it calls.
    pub(super) calls: Vec<ServiceName>,
}
