//! The command line. A type checks each argument while it is parsed, so a mistake is reported with
//! what would be right, before anything starts.

pub mod docker;

use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use mayfly_core::check::Check;
use mayfly_core::names::{Hostname, ServiceName};
use mayfly_core::records::{Protocol, Weight};
use mayfly_core::version::{BackendId, Version};
use mayfly_daemon::args::{CommonArgs, duration, interval, ttl};
use mayfly_daemon::output::Format;

use crate::location::AdvertisedHost;

pub use docker::DockerArguments;

const EXAMPLES: &str = "\
Examples:
  container-registrar register backend 0.0.2 auto 8080 --check /health
  container-registrar register shop 3 auto 8000 --check /up --check-host shop.example.com
  container-registrar register frontend.service 0.0.1 10.0.0.5 8080 --etcd etcd-1:2379,etcd-2:2379
  container-registrar docker --network mayfly
  container-registrar list backend
  container-registrar register --permanent billing 1 https://billing.internal 443
  container-registrar deregister backend 0.0.2 10.0.0.5 8080

Exit codes: 0 success, 1 failure, 2 wrong usage.";

/// Registers running instances of services in etcd, so that Mayfly routes to them
#[derive(Debug, Parser)]
#[command(name = "container-registrar", version, about, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// What no single argument shows.
    ///
    /// # Errors
    /// As a mistake in the command line, to be shown with exit code 2.
    pub fn check(&self) -> Result<(), clap::Error> {
        match &self.command {
            Command::Register(register) => register.check(),
            Command::Docker(docker) => docker.check(),
            Command::Deregister(_) | Command::List(_) => Ok(()),
        }
    }
}

impl Register {
    fn check(&self) -> Result<(), clap::Error> {
        let AdvertisedHost::Tls(_) = self.instance.host else {
            return Ok(());
        };
        let text = if !self.permanent {
            format!(
                "{} needs --permanent: a running instance is registered by its address and checked in clear text",
                self.instance.host
            )
        } else if matches!(self.check, Some(Check::Http(_))) {
            format!("{} supports only `--check tcp`", self.instance.host)
        } else {
            return Ok(());
        };
        Err(Arguments::command().error(ErrorKind::ValueValidation, text))
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Registers an instance until SIGTERM. Then drains it for the time of --drain, and deregisters
    /// it.
    Register(Box<Register>),
    /// Deregisters a permanent entry, or the entry of an instance whose registrar is gone
    Deregister(InstanceArguments),
    /// Lists the instances in etcd
    List(List),
    /// Registers every labelled container of a Docker engine
    Docker(Box<DockerArguments>),
}

/// One instance, in the order of arguments of the first Mayfly.
#[derive(Debug, Clone, Args)]
pub struct InstanceArguments {
    /// The name of the service: a DNS label such as `backend`. The ending `.service` may follow.
    pub service: ServiceName,
    /// The version of the service: letters, digits, `_`, `.`, `-`, such as 0.0.2
    pub version: Version,
    /// The host of the instance: an IP address, a host name or `auto`
    ///
    /// `auto` is the address from which this host reaches etcd or, if etcd is on loopback, the
    /// address of the default route. An entry that was made with --permanent may have https://
    /// before the host, as in `https://billing.internal`.
    pub host: AdvertisedHost,
    /// The port at which the instance listens
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
}

impl InstanceArguments {
    /// The backend that it is an instance of.
    pub fn backend(&self) -> BackendId {
        BackendId {
            service: self.service.clone(),
            version: self.version.clone(),
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct Register {
    #[command(flatten)]
    pub instance: InstanceArguments,

    /// Writes an entry and exits; the entry stays until it is deregistered
    ///
    /// Use this option for a server that Mayfly does not start, such as an external service. The
    /// routers resolve the server's host name and check the server. With --check, the registrar
    /// checks the server a single time, before it writes the entry. --ttl, --drain and the other
    /// options of a running registrar have no effect.
    #[arg(long)]
    pub permanent: bool,

    /// Registers the instance only while it passes this check: `tcp`, or a path such as /health
    /// that answers 2xx or 3xx
    #[arg(long, env = "MAYFLY_CHECK", value_name = "tcp|PATH")]
    pub check: Option<Check>,

    /// Sends this Host header in each HTTP check [default: SERVICE.service, as callers do]
    #[arg(long, env = "MAYFLY_CHECK_HOST", value_name = "NAME")]
    pub check_host: Option<Hostname>,

    /// How it is checked and kept.
    #[command(flatten)]
    pub keeping: Keeping,

    /// Routes requests to the instance in this protocol
    #[arg(long, env = "MAYFLY_PROTOCOL", value_enum, default_value_t)]
    pub protocol: Speaks,

    /// Sets the instance's share of the requests, 0 to 256, relative to the other instances
    #[arg(long, env = "MAYFLY_WEIGHT", value_name = "N", default_value_t)]
    pub weight: Weight,

    /// Allows other services at the same address and port; each of them needs this option
    ///
    /// Use this option for one process or proxy that serves several services. Without this option,
    /// the address belongs to the backend that registered it last.
    #[arg(long, env = "MAYFLY_SHARED")]
    pub shared: bool,

    /// Drains an instance for this long before stopping or deregistering it
    #[arg(long, env = "MAYFLY_DRAIN", value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub drain: Duration,

    /// Adds a note to the entry, such as zone=north, for people and tools; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = note)]
    pub meta: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Speaks {
    /// HTTP/1.1, WebSocket included
    #[default]
    Http,
    /// HTTP/2 in clear text with prior knowledge, as gRPC uses it
    H2c,
}

impl From<Speaks> for Protocol {
    fn from(speaks: Speaks) -> Self {
        match speaks {
            Speaks::Http => Self::Http,
            Speaks::H2c => Self::H2c,
        }
    }
}

/// How instances are checked, and kept in etcd.
#[derive(Debug, Clone, Args)]
pub struct Keeping {
    /// Keeps the daemon's records in etcd for this long after the daemon dies, 2s to 1h
    ///
    /// After this time, the instances of a dead registrar are deregistered, and another launcher
    /// takes over from a dead one.
    #[arg(long, env = "MAYFLY_TTL", value_name = "TIME", default_value = "15s", value_parser = ttl)]
    pub ttl: Duration,

    /// Checks each instance at this interval
    #[arg(long, env = "MAYFLY_CHECK_INTERVAL", value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub check_interval: Duration,

    /// Fails a check if the answer takes longer than this
    #[arg(long, env = "MAYFLY_CHECK_TIMEOUT", value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub check_timeout: Duration,

    /// Deregisters an instance after this many failed checks in a row
    #[arg(long, env = "MAYFLY_FALL", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub fall: u32,

    /// Registers a failed instance again after it passes this many checks in a row. A new instance
    /// needs to pass only one check.
    #[arg(long, env = "MAYFLY_RISE", value_name = "M", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub rise: u32,
}

#[derive(Debug, Clone, Args)]
pub struct List {
    /// Lists only instances of this service
    pub service: Option<ServiceName>,
    /// Lists only instances of this version of the service
    pub version: Option<Version>,
    /// Prints the instances in this format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

fn note(text: &str) -> Result<(String, String), String> {
    let rule = "a note looks like zone=north: letters, digits, `_`, `.`, `-`, then `=`, then at most 256 printable characters";
    let (key, value) = text.split_once('=').ok_or(rule)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let good = (1..=64).contains(&key.len())
        && key.bytes().all(allowed)
        && value.len() <= 256
        && !value.chars().any(char::is_control);
    if good {
        Ok((key.to_owned(), value.to_owned()))
    } else {
        Err(rule.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        let words = std::iter::once("container-registrar").chain(line.split(' '));
        let arguments = Arguments::try_parse_from(words)?;
        arguments.check().map(|()| arguments)
    }

    fn register(line: &str) -> Register {
        match parse(line).unwrap().command {
            Command::Register(register) => *register,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_mayfly_s_order_and_defaults() {
        let register = register("register frontend.service 0.0.1 10.0.0.5 8080 --peer etcd:4001");
        assert_eq!(register.instance.backend().to_string(), "frontend@0.0.1");
        let keeping = &register.keeping;
        assert_eq!(
            (keeping.ttl, register.drain),
            (Duration::from_secs(15), Duration::from_secs(5))
        );
        assert_eq!((keeping.fall, keeping.rise, register.check), (3, 2, None));
        assert_eq!(
            (u16::from(register.weight), register.protocol),
            (100, Speaks::Http)
        );
    }

    #[test]
    fn every_option() {
        let register = register(
            "register backend latest auto 80 --ttl 30 --check /health?deep=1 --check-host shop.example.com --check-interval 500ms --check-timeout 200ms \
             --fall 5 --rise 1 --protocol h2c --weight 0 --drain 0s --meta zone=north --meta note=",
        );
        assert_eq!(register.instance.version.as_str(), "latest");
        assert_eq!(register.check_host.unwrap().as_str(), "shop.example.com");
        assert_eq!(register.keeping.ttl, Duration::from_secs(30));
        assert_eq!(register.meta[0], ("zone".to_owned(), "north".to_owned()));
        assert_eq!(Protocol::from(register.protocol), Protocol::H2c);
    }

    #[test]
    fn a_permanent_entry() {
        let register = register("register --permanent legacy.service 1 https://billing.internal 443");
        assert!(register.permanent && register.instance.service.as_str() == "legacy");
        assert_eq!(register.instance.host.to_string(), "https://billing.internal");
    }

    #[test]
    fn the_suffix_of_a_service_may_be_left_out_or_not() {
        for line in ["list frontend.service", "list frontend"] {
            match parse(line).unwrap().command {
                Command::List(list) => assert_eq!(list.service.unwrap().as_str(), "frontend"),
                other => panic!("{other:?}"),
            }
        }
        for line in [
            "deregister frontend.service 1 auto 80",
            "deregister frontend 1 auto 80",
        ] {
            match parse(line).unwrap().command {
                Command::Deregister(instance) => assert_eq!(instance.backend().to_string(), "frontend@1"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (line, part) in [
            ("register Back_End 1 auto 80", "lower-case"),
            ("register backend 1+2 auto 80", "letters, digits"),
            ("register backend 1 0.0.0.0 80", "IP address"),
            ("register backend 1 ho/st 80", "host name"),
            ("register backend 1 https://a 443", "--permanent"),
            ("register backend 1 https://a:443 443", "a separate argument"),
            ("register backend 1 auto 0", "1..=65535"),
            ("register backend 1 auto http", "invalid"),
            ("register backend 1 auto 80 --ttl 1s", "2s to 1h"),
            ("register backend 1 auto 80 --ttl soon", "looks like 15s"),
            ("register backend 1 auto 80 --check http", "tcp"),
            (
                "register backend 1 auto 80 --check / --check-host a:80",
                "host name",
            ),
            (
                "register backend 1 auto 80 --check / --check-host A",
                "lower-case",
            ),
            ("register backend 1 auto 80 --check-timeout 0", "10ms"),
            ("register backend 1 auto 80 --fall 0", "1.."),
            ("register backend 1 auto 80 --weight 257", "0 to 256"),
            ("register backend 1 auto 80 --protocol h3", "h2c"),
            ("register backend 1 auto 80 --meta zone", "zone=north"),
            ("register backend 1 auto 80 --etcd ftp://x", "scheme"),
            ("register backend 1 auto", "<PORT>"),
            ("list Back_End", "lower-case"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn the_definition_is_sound_and_help_has_examples() {
        let mut command = Arguments::command();
        command.clone().debug_assert();
        assert!(
            command
                .render_help()
                .to_string()
                .contains("register backend 0.0.2 auto 8080")
        );
    }
}
