//! The command line. Every argument is checked by its type while it is read, so that a mistake is told with what
//! would be right, before anything starts.

pub mod docker;

use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use mayfly_core::check::Check;
use mayfly_core::names::ServiceName;
use mayfly_core::records::{Protocol, Weight};
use mayfly_core::version::{BackendId, Version};
use mayfly_daemon::args::{CommonArgs, duration, interval};
use mayfly_daemon::output::Format;

use crate::location::Host;

pub use docker::Docker;

const EXAMPLES: &str = "\
Examples:
  container-registrar register backend 0.0.2 auto 8080 --check /health
  container-registrar register frontend.service 0.0.1 10.0.0.5 8080 --etcd etcd-1:2379,etcd-2:2379
  container-registrar docker --network mayfly
  container-registrar list backend
  container-registrar register --permanent billing 1 https://billing.internal 443
  container-registrar deregister backend 0.0.2 10.0.0.5 8080

Exit codes: 0 fine, 1 failure, 2 wrong usage.";

/// Advertises a running instance of a service in etcd, so that Mayfly routes to it.
#[derive(Debug, Parser)]
#[command(name = "container-registrar", version, about, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// What every daemon takes.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to do.
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
        let Host::Tls(_) = self.instance.host else {
            return Ok(());
        };
        let text = if !self.permanent {
            format!(
                "{} needs --permanent: a running instance is registered by its address, and is asked in clear text",
                self.instance.host
            )
        } else if matches!(self.check, Some(Check::Http(_))) {
            format!("{} can be checked with `--check tcp` only", self.instance.host)
        } else {
            return Ok(());
        };
        Err(Arguments::command().error(ErrorKind::ValueValidation, text))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Advertise an instance until told to end (SIGTERM): then mark it draining, wait, and remove it
    Register(Box<Register>),
    /// Remove a permanent entry, or that of an instance whose registrar is gone
    Deregister(Instance),
    /// Show the instances in etcd
    List(List),
    /// Advertise every labelled container of a Docker engine
    Docker(Box<Docker>),
}

/// One instance, in the order of arguments of the first Mayfly.
#[derive(Debug, Clone, Args)]
pub struct Instance {
    /// The service: a DNS label such as `backend`; `backend.service` is the same
    pub service: ServiceName,
    /// Its version: letters, digits, `_`, `.`, `-`, such as 0.0.2
    pub version: Version,
    /// Where it listens: an IP address, a host name, `auto` for the address that leads to etcd; or, for a permanent
    /// entry, https:// and a host
    pub host: Host,
    /// The port it listens at
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
}

impl Instance {
    /// The backend that it is an instance of.
    pub fn backend(&self) -> BackendId {
        BackendId {
            service: self.service.clone(),
            version: self.version.clone(),
        }
    }
}

/// The arguments of `register`.
#[derive(Debug, Clone, Args)]
pub struct Register {
    /// What to advertise.
    #[command(flatten)]
    pub instance: Instance,

    /// Write an entry that stays until it is deregistered, and end: for a server that Mayfly has not started, on another
    /// machine or in another company. The routers resolve its host name and check whether it lives; --check asks it
    /// once, beforehand. --ttl, --drain and the other options of a running registrar do not matter
    #[arg(long)]
    pub permanent: bool,

    /// Advertise it only while it answers: `tcp`, or the path of an http URL such as /health (2xx and 3xx are fine)
    #[arg(long, env = "MAYFLY_CHECK", value_name = "tcp|PATH")]
    pub check: Option<Check>,

    /// How it is checked and kept.
    #[command(flatten)]
    pub keeping: Keeping,

    /// What it speaks
    #[arg(long, env = "MAYFLY_PROTOCOL", value_enum, default_value_t)]
    pub protocol: Speaks,

    /// Its share of the requests relative to its siblings, 0 to 256
    #[arg(long, env = "MAYFLY_WEIGHT", value_name = "N", default_value_t)]
    pub weight: Weight,

    /// Other services are at the same address and port, and each of them is registered with this option, too: one
    /// process, or one proxy, that serves several. Otherwise the address belongs to the backend that registered it last
    #[arg(long, env = "MAYFLY_SHARED")]
    pub shared: bool,

    /// On SIGTERM, how long it stays marked as draining before it is removed
    #[arg(long, env = "MAYFLY_DRAIN", value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub drain: Duration,

    /// A note for people and tools; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = note)]
    pub meta: Vec<(String, String)>,
}

/// What an instance speaks.
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
    /// How long an entry outlives a registrar that dies
    #[arg(long, env = "MAYFLY_TTL", value_name = "TIME", default_value = "15s", value_parser = ttl)]
    pub ttl: Duration,

    /// How often to check
    #[arg(long, env = "MAYFLY_CHECK_INTERVAL", value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub check_interval: Duration,

    /// How long an answer may take
    #[arg(long, env = "MAYFLY_CHECK_TIMEOUT", value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub check_timeout: Duration,

    /// Take it out after this many failures in a row
    #[arg(long, env = "MAYFLY_FALL", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub fall: u32,

    /// Bring it back after this many successes in a row (the first success of all brings it in)
    #[arg(long, env = "MAYFLY_RISE", value_name = "M", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub rise: u32,
}

/// The arguments of `list`.
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only instances of this service
    pub service: Option<ServiceName>,
    /// Only instances of this version of it
    pub version: Option<Version>,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    let (least, most) = (Duration::from_secs(2), Duration::from_secs(3600));
    if (least..=most).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("it has to be from 2s to 1h".to_owned())
    }
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
            "register backend latest auto 80 --ttl 30 --check /health?deep=1 --check-interval 500ms --check-timeout 200ms \
             --fall 5 --rise 1 --protocol h2c --weight 0 --drain 0s --meta zone=north --meta note=",
        );
        assert_eq!(register.instance.version.as_str(), "latest");
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
            ("register backend 1 https://a:443 443", "argument of its own"),
            ("register backend 1 auto 0", "1..=65535"),
            ("register backend 1 auto http", "invalid"),
            ("register backend 1 auto 80 --ttl 1s", "2s to 1h"),
            ("register backend 1 auto 80 --ttl soon", "looks like 15s"),
            ("register backend 1 auto 80 --check http", "tcp"),
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
