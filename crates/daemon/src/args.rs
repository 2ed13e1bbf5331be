//! The arguments that every daemon takes. Each is a flag with an environment variable, and each is
//! checked by its type while the command line is read, so a mistake is reported before anything
//! starts. [`parse`] reads the command line of every program.

mod access;
mod variables;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use mayfly_core::keys::KeySpace;
use mayfly_core::names::NodeName;
use mayfly_core::outside::Allowed;
use mayfly_core::records::lifetime::parse_span;

use crate::logs::{self, LogFormat};
use crate::store::{Endpoint, Store};
pub use access::AccessArgs;
pub use variables::{parse, parse_as};

/// Flatten this into the top-level arguments of a program; its flags may stand before or after a
/// subcommand.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub struct CommonArgs {
    /// Connects to etcd at these endpoints, separated by commas; https:// for TLS
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

    /// Begins every key in etcd with this prefix. If several Mayflies share an etcd, each needs its
    /// own prefix.
    #[arg(
        long,
        env = "MAYFLY_PREFIX",
        value_name = "KEY",
        default_value_t,
        global = true
    )]
    pub prefix: KeySpace,

    /// Names this daemon in etcd; the name must be unique among daemons of the same kind [default:
    /// the host name]
    #[arg(long, env = "MAYFLY_NODE", value_name = "NAME", global = true)]
    pub node: Option<NodeName>,

    /// Serves /healthz, /readyz and /metrics at this address, such as 127.0.0.1:9101 [default: off]
    #[arg(long, env = "MAYFLY_ADMIN", value_name = "ADDRESS", global = true)]
    pub admin: Option<SocketAddr>,

    /// Sets the log level, such as debug, or a filter, such as info,mayfly_daemon=debug
    #[arg(
        long,
        env = "MAYFLY_LOG",
        value_name = "FILTER",
        default_value = "info",
        value_parser = log_filter,
        global = true
    )]
    pub log: String,

    /// Sets the format of the log lines
    #[arg(long, env = "MAYFLY_LOG_FORMAT", value_enum, default_value_t, global = true)]
    pub log_format: LogFormat,

    /// A store that is used instead of one of the above: that of the simulation.
    #[arg(skip)]
    pub given: Option<Store>,
}

/// Which addresses outside an environment may name. Flatten this into the arguments of a program
/// that has to know.
#[derive(Debug, Clone, Default, Args)]
pub struct AddressArgs {
    /// Allows environments to name only these external addresses: host names and networks,
    /// separated by commas [default: all, except special ones such as loopback addresses]
    ///
    /// An entry is a host name (billing.example), a wildcard (*.internal), an address (10.0.0.5) or
    /// a network (10.0.0.0/8, fd00::/8). Some addresses always need an entry, such as 127.0.0.0/8.
    /// These are loopback and link-local addresses, metadata addresses of clouds, and the addresses
    /// at which the router itself listens.
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
        // The kernel's own answer, which needs no unsafe call; Mayfly runs where HAProxy runs, on
        // Linux.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("cannot read the host name: give a name with --node")?;
        host.trim()
            .parse()
            .context("the host name of this machine is not a valid node name: give a name with --node")
    }

    /// A store for these endpoints and this prefix. Connects with its first call.
    ///
    /// # Errors
    /// When the endpoints, the files for TLS and the user do not go together.
    pub fn store(&self) -> anyhow::Result<Store> {
        if let Some(given) = &self.given {
            return Ok(given.clone());
        }
        let access = self.access.access(&self.etcd)?;
        Ok(Store::with_access(self.etcd.clone(), self.prefix.clone(), access))
    }
}

/// Reads a span of time from an argument, such as `15s`, `500ms` or `2min`; a bare number counts
/// seconds. For clap's `value_parser`.
///
/// # Errors
/// When it is none, with what would be right.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<u32>() {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => parse_span(text),
    };
    parsed.ok_or_else(|| "a duration looks like 15s, 500ms, 2m or 2min".to_owned())
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
        Err("it must be at least 10ms".to_owned())
    }
}

/// As [`duration`], for the life of a daemon's records in etcd without the daemon: 2s to 1h.
///
/// # Errors
/// When it is none or out of that range, with what would be right.
pub fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if (Duration::from_secs(2)..=Duration::from_secs(3600)).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("it must be from 2s to 1h".to_owned())
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
    struct CommonProgram {
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
        let before = CommonProgram::try_parse_from(["x", "--peer", "a:1,b:2", "watch"]).unwrap();
        let after = CommonProgram::try_parse_from(["x", "watch", "--etcd", "a:1", "--etcd", "b:2"]).unwrap();
        assert_eq!(before.common.etcd, after.common.etcd);
        assert!(matches!(after.command, Some(Command::Watch)));
    }

    #[test]
    fn the_node_is_the_host_unless_given() {
        let given = CommonProgram::try_parse_from(["x", "--node", "n-1"]).unwrap();
        assert_eq!(given.common.node().unwrap().as_str(), "n-1");
        let host = CommonProgram::try_parse_from(["x"])
            .unwrap()
            .common
            .node()
            .unwrap();
        assert!(!host.as_str().is_empty());
        assert!(CommonProgram::try_parse_from(["x", "--node", "a b"]).is_err());
        assert!(CommonProgram::try_parse_from(["x", "--prefix", "mayfly"]).is_err());
        assert!(CommonProgram::try_parse_from(["x", "--log", "info,=,="]).is_err());
    }
}
