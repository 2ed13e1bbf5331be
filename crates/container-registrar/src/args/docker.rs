//! The arguments of `docker`.

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _};
use mayfly_daemon::docker::EngineUrl;

use super::{Arguments, Keeping};
use crate::location::AdvertisedHost;

const MORE: &str = "\
Labels of a container:
  mayfly.service=backend   the service; only containers with this label are registered
  mayfly.version=0.0.1     the version of the service [default: the tag of the image]
  mayfly.port=8080         the port in the container [default: the only exposed one]
  mayfly.check=/health     the check that the container must pass to be registered: tcp, or a path
  mayfly.check-host=NAME   the Host header of each HTTP check [default: SERVICE.service, as callers do]
  mayfly.protocol=h2c      the protocol of the service: http (the default) or h2c
  mayfly.weight=50         the container's share of the requests, 0 to 256 [default: 100]
  mayfly.prefix=/mayfly    the key prefix of the Mayfly, if several share an engine [default: any]
A HEALTHCHECK of the image counts, too. A container with a wrong or misspelt label is set aside.
Other containers are not affected. In a swarm, label the containers (--container-label), not the
service.

A container on the network of another (network_mode: service:x) is registered at the address of x.
When x restarts, the engine leaves the container without a network. The container is then set aside
until the container restarts, too.

When the engine sends a container its stop signal, the registrar drains the container. When the
container's process ends, the registrar deregisters it.

When the registrar ends, the containers keep running, and their entries stay in etcd for --ttl. A
registrar that starts within that time takes the entries over. So a restart causes no outage.

The registrar only reads from the engine: GET /version, /_ping, /events, /containers/json and
/containers/ID/json. If tasks of a swarm run on the engine and the engine is a manager, the registrar
also reads /services, if the engine allows that.

Examples:
  container-registrar docker                              # each container has one network
  container-registrar docker --network mayfly
  container-registrar docker --published --host 10.0.0.5
  container-registrar docker --docker tcp://docker-read:2375 --network demo_default";

#[derive(Debug, Clone, Args)]
#[command(after_help = MORE, after_long_help = MORE)]
pub struct DockerArguments {
    /// Uses the engine at this URL: unix:// with a path, or tcp:// with host and port
    #[arg(
        long,
        env = "DOCKER_HOST",
        value_name = "URL",
        default_value = "unix:///var/run/docker.sock"
    )]
    pub docker: EngineUrl,

    /// Registers containers at their address on this network [default: the only network of a
    /// container]
    #[arg(
        long,
        env = "MAYFLY_NETWORK",
        value_name = "NAME",
        conflicts_with = "published"
    )]
    pub network: Option<String>,

    /// Registers containers at the host's address and their published ports
    #[arg(long, env = "MAYFLY_PUBLISHED")]
    pub published: bool,

    /// Sets the host for --published: an IP address, a host name or `auto`
    ///
    /// `auto` is the address from which this host reaches etcd or, if etcd is on loopback, the
    /// address of the default route. With a loopback address, ports that are published on loopback
    /// are registered, too.
    #[arg(long, env = "MAYFLY_HOST", value_name = "HOST", default_value = "auto")]
    pub host: AdvertisedHost,

    /// How they are checked and kept.
    #[command(flatten)]
    pub keeping: Keeping,
}

impl DockerArguments {
    pub(super) fn check(&self) -> Result<(), clap::Error> {
        let AdvertisedHost::Tls(_) = self.host else {
            return Ok(());
        };
        let text = format!(
            "{} cannot be the host of containers: containers are checked in clear text",
            self.host
        );
        Err(Arguments::command().error(ErrorKind::ValueValidation, text))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mayfly_daemon::own_address::Advertised;

    use super::*;
    use crate::args::Command;
    use clap::Parser as _;

    fn parse(line: &str) -> Result<DockerArguments, clap::Error> {
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
            (None, false, AdvertisedHost::Clear(Advertised::Auto))
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
            ("--docker ssh://docker:22", "TLS and ssh are not supported"),
            ("--network a --published", "cannot be used with"),
            ("--published --host https://a", "clear text"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }
}
