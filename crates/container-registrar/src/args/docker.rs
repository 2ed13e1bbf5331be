//! The arguments of `docker`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _};
use mayfly_daemon::args::interval;

use super::{Arguments, Keeping};
use crate::location::Host;

const MORE: &str = "\
Labels of a container:
  mayfly.service=backend   the service; only containers with this label are registered
  mayfly.version=0.0.1     its version [default: the tag of the image]
  mayfly.port=8080         the port in the container [default: the only one that is exposed]
  mayfly.check=/health     register it only while it answers: tcp, or a path
  mayfly.protocol=h2c      what it speaks: http (the default) or h2c
  mayfly.weight=50         its share of the requests, 0 to 256 [default: 100]
A HEALTHCHECK of the image counts as well. A container whose labels break a rule is set aside; all others go on.

A container is marked as draining when the engine sends it its stop signal, and gone when its process is. When this
program ends, its containers live on: it leaves their entries to their lease (--ttl), and whoever is started within that
time takes them over, so a restart is no outage.

It only reads: GET /version, /_ping, /events, /containers/json and /containers/ID/json.

Examples:
  container-registrar docker                              # the containers have one network each
  container-registrar docker --network mayfly
  container-registrar docker --published --host 10.0.0.5
  container-registrar docker --docker tcp://docker-read:2375 --network demo_default";

/// The arguments of `docker`.
#[derive(Debug, Clone, Args)]
#[command(after_help = MORE, after_long_help = MORE)]
pub struct Docker {
    /// Where the engine listens: unix:// and a path, or tcp:// with host and port
    #[arg(
        long,
        env = "DOCKER_HOST",
        value_name = "URL",
        default_value = "unix:///var/run/docker.sock"
    )]
    pub docker: EngineUrl,

    /// Register the containers' addresses on this network [default: on the only one that a container has]
    #[arg(
        long,
        env = "MAYFLY_NETWORK",
        value_name = "NAME",
        conflicts_with = "published"
    )]
    pub network: Option<String>,

    /// Register the host's address with the ports at which the containers are published
    #[arg(long, env = "MAYFLY_PUBLISHED")]
    pub published: bool,

    /// With --published, the host: an IP address, a host name, or `auto` for the address that leads to etcd
    #[arg(long, env = "MAYFLY_HOST", value_name = "HOST", default_value = "auto")]
    pub host: Host,

    /// How they are checked and kept.
    #[command(flatten)]
    pub keeping: Keeping,

    /// How often to list all containers although nothing has happened
    #[arg(long, env = "MAYFLY_LIST_AGAIN", value_name = "TIME", default_value = "1min", value_parser = interval)]
    pub list_again: Duration,
}

impl Docker {
    pub(super) fn check(&self) -> Result<(), clap::Error> {
        let Host::Tls(_) = self.host else { return Ok(()) };
        let text = format!(
            "{} cannot be the host of containers: they are asked in clear text",
            self.host
        );
        Err(Arguments::command().error(ErrorKind::ValueValidation, text))
    }
}

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineUrl {
    /// The path of a socket.
    Unix(String),
    /// `host:port`.
    Tcp(String),
}

impl FromStr for EngineUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |place: &str| {
            let (host, port) = place.rsplit_once(':')?;
            (!host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(())
        };
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.to_owned())),
            Some(("tcp", place)) if !place.contains('/') && port(place).is_some() => {
                Ok(Self::Tcp(place.to_owned()))
            }
            _ => Err(
                "an engine is unix:// with an absolute path, or tcp:// with host and port; neither TLS nor ssh is spoken"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(place) => write!(f, "tcp://{place}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;
    use clap::Parser as _;

    fn parse(line: &str) -> Result<Docker, clap::Error> {
        let words = ["container-registrar", "docker"]
            .into_iter()
            .chain(line.split_whitespace());
        let arguments = Arguments::try_parse_from(words)?;
        arguments.check()?;
        match arguments.command {
            Command::Docker(docker) => Ok(*docker),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_and_options() {
        let docker = parse("--docker unix:///run/x.sock").unwrap();
        assert_eq!(
            (docker.network, docker.published, docker.host),
            (None, false, Host::Auto)
        );
        assert_eq!(docker.keeping.ttl, Duration::from_secs(15));
        let docker = parse("--published --host 10.0.0.5 --docker tcp://[fd00::1]:2375 --fall 1").unwrap();
        assert_eq!(docker.docker.to_string(), "tcp://[fd00::1]:2375");
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (line, part) in [
            ("--docker /var/run/docker.sock", "unix:// with an absolute path"),
            ("--docker unix://docker.sock", "unix:// with an absolute path"),
            ("--docker tcp://docker", "host and port"),
            ("--docker tcp://docker:0", "host and port"),
            ("--docker ssh://docker:22", "neither TLS nor ssh"),
            ("--network a --published", "cannot be used with"),
            ("--published --host https://a", "clear text"),
            ("--list-again 0s", "10ms"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }
}
