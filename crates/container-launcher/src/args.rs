//! The command line. Every argument is checked by its type while it is read.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use mayfly_core::definition::{Cpus, Memory, NetworkName, VariableName};
use mayfly_daemon::args::{CommonArgs, duration};

use crate::engine::Pull;
use crate::want::Terms;

const EXAMPLES: &str = "\
Examples:
  container-launcher --dry-run                              what it would start and retire now
  container-launcher --retire-after 30min --allow-image 'registry.example/team/*'
  container-launcher --engine swarm --docker tcp://127.0.0.1:2375
  container-launcher --variable DOCKER_ACCOUNT_NAME=team --volume-root /srv/mayfly
  container-launcher --network mayfly --dns 10.0.0.53 --memory 2g --cpus 2

Service definitions say how a container is started; environment-registrar brings them from /etc/mayfly/services to etcd.
Exit codes: 0 fine, 1 failure, 2 wrong usage.";

/// Starts the containers that environments need and nobody runs, and retires those that none needs any more
///
/// Needed is every version that some environment asks for by name. What somebody else runs counts, and is never touched.
/// Several launchers may run on one etcd: one leads, another takes over when it is gone. Whoever controls the engine's
/// socket controls its host: run this where no user of Mayfly has an account.
#[derive(Debug, Clone, Parser)]
#[command(name = "container-launcher", version, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// What every daemon takes.
    #[command(flatten)]
    pub common: CommonArgs,

    /// What runs the containers: one Docker engine, or a Docker Swarm
    #[arg(long, env = "MAYFLY_ENGINE", value_enum, default_value_t)]
    pub engine: EngineKind,

    /// Where the engine listens (of a Swarm: a manager), as unix:///path or tcp://host:port
    #[arg(
        long,
        env = "DOCKER_HOST",
        value_name = "URL",
        default_value = "unix:///var/run/docker.sock"
    )]
    pub docker: String,

    /// Retire a backend that no environment has needed for so long
    #[arg(long, env = "MAYFLY_RETIRE_AFTER", value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub retire_after: Duration,

    /// How long a container that is to be stopped gets no new requests before
    #[arg(long, env = "MAYFLY_DRAIN", value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub drain: Duration,

    /// How long a container may take to end by itself once it is told to
    #[arg(long, env = "MAYFLY_STOP_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub stop_timeout: Duration,

    /// How long a version has to be missing before a container is started: somebody else may be about to
    #[arg(long, env = "MAYFLY_PATIENCE", value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub patience: Duration,

    /// How long a container that runs may take until it is registered as answering; it counts as failed then
    #[arg(long, env = "MAYFLY_START_TIMEOUT", value_name = "TIME", default_value = "2min", value_parser = duration)]
    pub start_timeout: Duration,

    /// How long the pause after a second failure in a row is; it doubles with each further one. The first is followed by a
    /// new try at once
    #[arg(long, env = "MAYFLY_RETRY", value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub retry: Duration,

    /// How long a pause is at most
    #[arg(long, env = "MAYFLY_RETRY_MOST", value_name = "TIME", default_value = "5min", value_parser = duration)]
    pub retry_most: Duration,

    /// How many containers may be there in all
    #[arg(long, env = "MAYFLY_MAX_CONTAINERS", value_name = "N", default_value_t = 200)]
    pub max_containers: usize,

    /// How many are started at the same time
    #[arg(long, env = "MAYFLY_STARTS_AT_ONCE", value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    pub starts_at_once: usize,

    /// Start only images that have this form, as registry.example/team/*; may be repeated [default: any image, from any
    /// registry that the engine reaches]
    #[arg(
        long,
        env = "MAYFLY_ALLOW_IMAGE",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    pub allow_image: Vec<String>,

    /// The network of the engine that containers join whose definition names none. A definition may name this one, and
    /// others only by --allow-network
    #[arg(long, env = "MAYFLY_NETWORK", value_name = "NAME", default_value = "mayfly")]
    pub network: NetworkName,

    /// Let definitions name networks of this form, such as team-*, beside --network; may be repeated [default: none]
    #[arg(
        long,
        env = "MAYFLY_ALLOW_NETWORK",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    pub allow_network: Vec<String>,

    /// How much memory a container may use: bytes, or with k, m, g. A definition may ask for less; one that asks for more
    /// is refused
    #[arg(long, env = "MAYFLY_MEMORY", value_name = "AMOUNT", default_value = "512m")]
    pub memory: Memory,

    /// How many processors a container may use, such as 0.5. A definition may ask for less; one that asks for more is
    /// refused
    #[arg(long, env = "MAYFLY_CPUS", value_name = "N", default_value = "1")]
    pub cpus: Cpus,

    /// How many processes and threads a container may have
    #[arg(long, env = "MAYFLY_PROCESSES", value_name = "N", default_value_t = 1024, value_parser = processes)]
    pub processes: u32,

    /// The address of a name server that containers ask, such as the dnsmasq that resolves *.service; may be repeated
    /// [default: those of the engine]
    #[arg(long, env = "MAYFLY_DNS", value_name = "ADDRESS", value_delimiter = ',')]
    pub dns: Vec<IpAddr>,

    /// Let definitions mount, read-only, what lies below this directory of the host; may be repeated [default: nothing].
    /// Nobody but operators may write below it: a link there may point to anything on the host
    #[arg(long, env = "MAYFLY_VOLUME_ROOT", value_name = "DIRECTORY", value_delimiter = ',', value_parser = absolute)]
    pub volume_root: Vec<String>,

    /// What ${NAME} in the image of a definition stands for; without a value it is taken from the environment. May be
    /// repeated. Everyone who may write a definition can read it
    #[arg(long, env = "MAYFLY_VARIABLE", value_name = "NAME[=VALUE]", value_delimiter = ',', value_parser = variable)]
    pub variable: Vec<Variable>,

    /// When to pull an image
    #[arg(long, env = "MAYFLY_PULL", value_enum, default_value_t)]
    pub pull: Pull,

    /// Keep everything when half of all environments vanish within this time, until an operator says that it is meant
    /// (`mayfly confirm container-launcher`) or they are back
    #[arg(long, env = "MAYFLY_GUARD_WINDOW", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub guard_window: Duration,

    /// How long to go on as before when etcd suddenly lacks all environments or instances
    #[arg(long, env = "MAYFLY_GRACE", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub grace: Duration,

    /// How long its lead and its records in etcd outlive a launcher that dies, from 2s
    #[arg(long, env = "MAYFLY_TTL", value_name = "TIME", default_value = "15s", value_parser = ttl)]
    pub ttl: Duration,

    /// Print what would be done now, and end
    #[arg(long)]
    pub dry_run: bool,
}

/// A kind of engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// The containers of one Docker engine
    #[default]
    Docker,
    /// Services of a Docker Swarm, one for each instance; the engine has to be a manager
    Swarm,
}

/// A variable, with its value if one was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    name: VariableName,
    value: Option<String>,
}

impl Arguments {
    /// The terms that the launcher works by.
    ///
    /// # Errors
    /// When a variable without a value is not in the environment.
    pub fn terms(&self) -> anyhow::Result<Terms> {
        let value = |variable: &Variable| {
            let Variable { name, value } = variable;
            let value = match value {
                Some(value) => value.clone(),
                None => std::env::var(name.as_str()).with_context(|| {
                    format!("--variable {name} has no value, and the environment has none")
                })?,
            };
            Ok((name.clone(), value))
        };
        Ok(Terms {
            prefix: self.common.prefix.clone(),
            retire_after: self.retire_after,
            drain: self.drain,
            patience: self.patience,
            start_timeout: self.start_timeout,
            pauses: (self.retry, self.retry_most),
            max_containers: self.max_containers,
            starts_at_once: self.starts_at_once,
            allowed_images: self.allow_image.clone(),
            network: self.network.clone(),
            allowed_networks: self.allow_network.clone(),
            memory: self.memory,
            cpus: self.cpus,
            processes: self.processes,
            dns: self.dns.clone(),
            volume_roots: self.volume_root.clone(),
            variables: self.variable.iter().map(value).collect::<anyhow::Result<_>>()?,
            pull: self.pull,
        })
    }
}

fn variable(text: &str) -> Result<Variable, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let name = name.parse().map_err(|error| format!("{error}"))?;
    Ok(Variable { name, value })
}

fn absolute(text: &str) -> Result<String, String> {
    let climbs = text.split('/').any(|part| part == ".." || part == ".");
    if text.starts_with('/') && !climbs {
        return Ok(text.to_owned());
    }
    Err("it has to be an absolute path without `.` and `..`, as /srv/mayfly".to_owned())
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if (Duration::from_secs(2)..=Duration::from_secs(3600)).contains(&ttl) {
        return Ok(ttl);
    }
    Err("it has to be from 2s to 1h".to_owned())
}

fn processes(text: &str) -> Result<u32, String> {
    match text.parse() {
        // Fewer start no program of any size, and more are no limit.
        Ok(number @ 16..=1_000_000) => Ok(number),
        _ => Err("it has to be a number from 16 to 1000000".to_owned()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("it has to be a number from 1 on".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("container-launcher").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        let help = Arguments::command().render_long_help().to_string();
        assert!(help.contains("container-launcher --dry-run"), "{help}");
    }

    #[test]
    fn defaults() {
        let terms = parse("").unwrap().terms().unwrap();
        assert_eq!(terms.retire_after, Duration::from_secs(3600));
        assert_eq!((terms.max_containers, terms.pull), (200, Pull::Missing));
        assert!(terms.allowed_images.is_empty() && terms.volume_roots.is_empty());
        assert!(terms.allowed_networks.is_empty() && terms.dns.is_empty());
        let limits = (terms.memory.to_string(), terms.cpus.to_string(), terms.processes);
        assert_eq!(limits, ("512m".to_owned(), "1".to_owned(), 1024));
        assert_eq!(terms.network.as_str(), "mayfly");
    }

    #[test]
    fn variables_are_given_or_taken_from_the_environment() {
        let terms = parse("--variable A=x --variable PATH").unwrap().terms().unwrap();
        assert_eq!(terms.variables[&"A".parse().unwrap()], "x");
        assert!(!terms.variables[&"PATH".parse().unwrap()].is_empty());
        let error = parse("--variable NOT_THERE_1").unwrap().terms().unwrap_err();
        assert!(error.to_string().contains("NOT_THERE_1"), "{error}");
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (line, part) in [
            ("--engine podman", "swarm"),
            ("--retire-after soon", "looks like 15s"),
            ("--variable 1A=x", "no digit first"),
            ("--volume-root srv", "absolute path"),
            ("--volume-root /srv/../etc", "absolute path"),
            ("--starts-at-once 0", "from 1 on"),
            ("--ttl 1s", "2s to 1h"),
            ("--pull sometimes", "missing"),
            ("--memory lots", "such as 256m"),
            ("--cpus 0", "such as 2 or 0.5"),
            ("--processes 3", "from 16"),
            ("--network host", "host's network"),
            ("--dns dnsmasq", "dnsmasq"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }
}
