//! The arguments that every daemon takes. Each is a flag with an environment variable, and each is checked by
//! its type while the command line is read, so a mistake is told before anything starts. [`parse`] reads the command
//! line of every program.

mod access;
mod endpoint;
mod variables;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use mayfly_core::keys::KeySpace;
use mayfly_core::names::NodeName;
use mayfly_core::outside::Allowed;

use crate::logs::{self, LogFormat};
use crate::store::Store;
pub use access::AccessArgs;
pub use endpoint::{Endpoint, EndpointError};
pub use variables::{parse, parse_as};

/// Flatten this into the top-level arguments of a program; its flags may stand before or after a subcommand.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub struct CommonArgs {
    /// Where etcd listens: one or more endpoints, separated by commas; https:// for TLS
    #[arg(
        long,
        alias = "peer",
        env = "MAYFLY_ETCD",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379",
        global = true
    )]
    pub etcd: Vec<Endpoint>,

    /// TLS, user and password.
    #[command(flatten)]
    pub access: AccessArgs,

    /// The beginning of every key in etcd; several Mayflies can share an etcd by having a prefix each
    #[arg(
        long,
        env = "MAYFLY_PREFIX",
        value_name = "KEY",
        default_value_t,
        global = true
    )]
    pub prefix: KeySpace,

    /// The name of this node in etcd, unique for each daemon of a kind [default: the host name]
    #[arg(long, env = "MAYFLY_NODE", value_name = "NAME", global = true)]
    pub node: Option<NodeName>,

    /// Serve /healthz, /readyz and /metrics at this address, such as 127.0.0.1:9101 [default: off]
    #[arg(long, env = "MAYFLY_ADMIN", value_name = "ADDRESS", global = true)]
    pub admin: Option<SocketAddr>,

    /// What to log: a level, or a filter such as info,mayfly_daemon=debug
    #[arg(
        long,
        env = "MAYFLY_LOG",
        value_name = "FILTER",
        default_value = "info",
        value_parser = log_filter,
        global = true
    )]
    pub log: String,

    /// How a line of the log looks
    #[arg(long, env = "MAYFLY_LOG_FORMAT", value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,
}

/// Which addresses outside an environment may name. Flatten this into the arguments of a program that has to know.
#[derive(Debug, Clone, Default, Args)]
pub struct AddressArgs {
    /// The services outside that environments may name by `address`: host names (billing.example, *.internal) and addresses
    /// or networks (10.0.0.5, 10.0.0.0/8, fd00::/8), several with commas. Loopback, link-local and what else is the
    /// host's own need an entry of their own, such as 127.0.0.0/8 [default: any but those]
    #[arg(
        long,
        env = "MAYFLY_ALLOW_ADDRESS",
        value_name = "NAME|NETWORK",
        value_delimiter = ',',
        global = true
    )]
    pub allow_address: Vec<Allowed>,
}

impl CommonArgs {
    /// The node's name: as given, else the host's.
    ///
    /// # Errors
    /// When none was given and the host's name cannot be read or is not a node name.
    pub fn node(&self) -> anyhow::Result<NodeName> {
        if let Some(node) = &self.node {
            return Ok(node.clone());
        }
        // The kernel's own answer, which needs no unsafe call; Mayfly runs where HAProxy runs, on Linux.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("cannot read the host name: give a name with --node")?;
        host.trim()
            .parse()
            .context("the host name cannot name this node: give a name with --node")
    }

    /// A store for these endpoints and this prefix. Connects with its first call.
    ///
    /// # Errors
    /// When the endpoints, the files for TLS and the user do not go together.
    pub fn store(&self) -> anyhow::Result<Store> {
        let access = self.access.access(&self.etcd)?;
        Ok(Store::new(self.etcd.clone(), self.prefix.clone()).with_access(access))
    }
}

/// Reads a span of time from an argument, such as `15s`, `500ms` or `2min`; a bare number counts seconds. For clap's
/// `value_parser`.
///
/// # Errors
/// When it is none, with what would be right.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<u32>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) => humantime::parse_duration(text),
    };
    parsed.map_err(|_| "a span of time looks like 15s, 500ms or 2min".to_owned())
}

/// As [`duration`], for the interval of something that is done again and again: at least 10 ms.
///
/// # Errors
/// When it is none or shorter, with what would be right.
pub fn interval(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if span >= Duration::from_millis(10) {
        Ok(span)
    } else {
        Err("it has to be at least 10ms".to_owned())
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    match logs::filter(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("a filter looks like `info` or `info,mayfly_daemon=debug`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        common: CommonArgs,
        #[command(subcommand)]
        command: Option<Command>,
    }

    #[derive(clap::Subcommand)]
    enum Command {
        Watch,
    }

    #[test]
    fn durations() {
        assert_eq!(duration("15"), Ok(Duration::from_secs(15)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "-1", "soon", "1.5.s"] {
            assert!(duration(bad).unwrap_err().contains("15s"), "{bad}");
        }
    }

    #[test]
    fn flags_stand_before_or_after_the_command_and_peer_is_etcd() {
        let before = Program::try_parse_from(["x", "--peer", "a:1,b:2", "watch"]).unwrap();
        let after = Program::try_parse_from(["x", "watch", "--etcd", "a:1", "--etcd", "b:2"]).unwrap();
        assert_eq!(before.common.etcd, after.common.etcd);
        assert!(matches!(after.command, Some(Command::Watch)));
    }

    #[test]
    fn the_node_is_the_host_unless_given() {
        let given = Program::try_parse_from(["x", "--node", "n-1"]).unwrap();
        assert_eq!(given.common.node().unwrap().as_str(), "n-1");
        let host = Program::try_parse_from(["x"]).unwrap().common.node().unwrap();
        assert!(!host.as_str().is_empty());
        assert!(Program::try_parse_from(["x", "--node", "a b"]).is_err());
        assert!(Program::try_parse_from(["x", "--prefix", "mayfly"]).is_err());
        assert!(Program::try_parse_from(["x", "--log", "info,=,="]).is_err());
    }
}
