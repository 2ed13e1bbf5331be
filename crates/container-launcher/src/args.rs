//! The command line. A type checks each argument while it is parsed.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use globset::{Glob, GlobMatcher};
use mayfly_core::records::definition::{Cpus, Memory, NetworkName, VariableName};
use mayfly_daemon::args::{CommonArgs, duration, ttl};
use mayfly_daemon::docker::EngineUrl;

use crate::engine::Pull;
use crate::recipe::LaunchTerms;

/// The pause after a second failure in a row: long enough for an engine to restart, and short
/// enough for a person who has just pushed the image.
const RETRY: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  container-launcher --dry-run                              # prints what the launcher would start and retire now
  container-launcher --retire-after 30min --allow-image 'registry.example/team/*'
  container-launcher --engine swarm --docker tcp://127.0.0.1:2375
  container-launcher --variable DOCKER_ACCOUNT_NAME=team --volume-root /srv/mayfly
  container-launcher --network mayfly --dns 10.0.0.53 --memory 2g --cpus 2

Service definitions describe how to start a container. environment-registrar registers them from /etc/mayfly/services.
Exit codes: 0 success, 1 failure, 2 wrong usage.";

/// Starts the containers that environments need, and retires those that no environment needs
///
/// A version is needed if an environment names it exactly. Instances that other programs started
/// count, too, and the launcher never touches them. Several launchers may run on one etcd. One is
/// active, and another takes over when the active one is gone. A program with the engine's socket
/// can become root on the host. So run the launcher on a host where only operators have accounts.
#[derive(Debug, Clone, Parser)]
#[command(name = "container-launcher", version, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    pub common: CommonArgs,

    /// Runs the containers on one Docker engine or on a Docker Swarm
    #[arg(long, env = "MAYFLY_ENGINE", value_enum, default_value_t)]
    pub engine: EngineKind,

    /// Uses the engine at this URL: unix:// with a path, or tcp:// with host and port
    #[arg(
        long,
        env = "DOCKER_HOST",
        value_name = "URL",
        default_value = "unix:///var/run/docker.sock"
    )]
    pub docker: EngineUrl,

    /// Retires a backend that no environment has needed for this long
    #[arg(long, env = "MAYFLY_RETIRE_AFTER", value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub retire_after: Duration,

    /// Drains an instance for this long before stopping or deregistering it
    #[arg(long, env = "MAYFLY_DRAIN", value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub drain: Duration,

    /// Kills a container that takes longer than this to stop
    #[arg(long, env = "MAYFLY_STOP_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub stop_timeout: Duration,

    /// Waits this long before it starts a version that lacks instances. In this time, another
    /// program may start them.
    #[arg(long, env = "MAYFLY_PATIENCE", value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub patience: Duration,

    /// Removes a container that does not answer within this time after its start
    ///
    /// The launcher then tries again. --retry-most limits the pause before this. The limit applies
    /// only to containers that were started while this launcher leads: earlier ones may be in use.
    #[arg(long, env = "MAYFLY_START_TIMEOUT", value_name = "TIME", default_value = "2min", value_parser = duration)]
    pub start_timeout: Duration,

    /// Pauses at most this long between two attempts to start a backend
    ///
    /// After the first failure, the launcher retries without a pause. After the second failure, it
    /// waits 1s. Each further failure doubles the pause.
    #[arg(long, env = "MAYFLY_RETRY_MOST", value_name = "TIME", default_value = "5min", value_parser = duration)]
    pub retry_most: Duration,

    /// Runs at most this many containers in total
    #[arg(long, env = "MAYFLY_MAX_CONTAINERS", value_name = "N", default_value_t = 200)]
    pub max_containers: usize,

    /// Starts at most this many containers at the same time
    #[arg(long, env = "MAYFLY_STARTS_AT_ONCE", value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    pub starts_at_once: usize,

    /// Starts only images that match this pattern, such as registry.example/team/*; repeatable
    /// [default: any image from any registry that the engine reaches]
    #[arg(
        long,
        env = "MAYFLY_ALLOW_IMAGE",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    pub allow_image: Vec<Glob>,

    /// Connects containers to this network of the engine if their definition names no network
    ///
    /// A definition may name another network only if --allow-network allows that network.
    #[arg(long, env = "MAYFLY_NETWORK", value_name = "NAME", default_value = "mayfly")]
    pub network: NetworkName,

    /// Allows service definitions to name networks that match this pattern, such as team-*;
    /// repeatable [default: none]
    ///
    /// A definition may always name the network of --network.
    #[arg(
        long,
        env = "MAYFLY_ALLOW_NETWORK",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    pub allow_network: Vec<Glob>,

    /// Limits the memory of a container, in bytes or with a unit, such as 64k, 512m or 2g
    ///
    /// A definition may ask for less. The launcher refuses a definition that asks for more.
    #[arg(long, env = "MAYFLY_MEMORY", value_name = "AMOUNT", default_value = "512m")]
    pub memory: Memory,

    /// Limits how many processors a container may use, such as 0.5
    ///
    /// A definition may ask for less. The launcher refuses a definition that asks for more.
    #[arg(long, env = "MAYFLY_CPUS", value_name = "N", default_value = "1")]
    pub cpus: Cpus,

    /// Limits the number of processes and threads of a container, 16 to 1000000
    #[arg(long, env = "MAYFLY_PROCESSES", value_name = "N", default_value_t = 1024, value_parser = processes)]
    pub processes: u32,

    /// Uses this name server in containers, such as the dnsmasq that resolves *.service; repeatable
    /// [default: the name servers of the engine]
    #[arg(long, env = "MAYFLY_DNS", value_name = "ADDRESS", value_delimiter = ',')]
    pub dns: Vec<IpAddr>,

    /// Allows service definitions to mount files below this directory of the host, read-only;
    /// repeatable [default: none]
    ///
    /// Let only operators write below this directory: a link there can point to any file of the
    /// host.
    #[arg(long, env = "MAYFLY_VOLUME_ROOT", value_name = "DIRECTORY", value_delimiter = ',', value_parser = absolute)]
    pub volume_root: Vec<String>,

    /// Replaces ${NAME} in the image of a service definition with VALUE; repeatable
    ///
    /// Without VALUE, the launcher uses the value of the environment variable NAME. Everyone who
    /// may write a definition can read the value.
    #[arg(long, env = "MAYFLY_VARIABLE", value_name = "NAME[=VALUE]", value_delimiter = ',', value_parser = variable)]
    pub variable: Vec<Variable>,

    /// Chooses when the engine pulls an image
    ///
    /// If an image was pushed again under the same tag, `mayfly relaunch` pulls it.
    #[arg(long, env = "MAYFLY_PULL", value_enum, default_value_t)]
    pub pull: Pull,

    /// Withholds deletions if many entries vanish from etcd within this time. With 0, acts on every
    /// deletion at once.
    ///
    /// A loss of many entries may be a fault. If all environments or all instances vanish together,
    /// the launcher continues for this time as if they were still registered. If half of the
    /// environments that need launched containers (at least two) vanish within this time, the
    /// launcher retires nothing until they are registered again. If the loss was intended, run
    /// `mayfly confirm container-launcher`. docs/concepts/trust.md has all rules.
    #[arg(long, env = "MAYFLY_DISTRUST", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub distrust: Duration,

    /// Keeps the daemon's records in etcd for this long after the daemon dies, 2s to 1h
    ///
    /// After this time, the instances of a dead registrar are deregistered, and another launcher
    /// takes over from a dead one.
    #[arg(long, env = "MAYFLY_TTL", value_name = "TIME", default_value = "15s", value_parser = ttl)]
    pub ttl: Duration,

    /// Prints what the launcher would start and retire now, and exits
    #[arg(long)]
    pub dry_run: bool,
}

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
    pub fn terms(&self) -> anyhow::Result<LaunchTerms> {
        let matchers =
            |globs: &[Glob]| -> Vec<GlobMatcher> { globs.iter().map(Glob::compile_matcher).collect() };
        let value = |variable: &Variable| {
            let Variable { name, value } = variable;
            let value = match value {
                Some(value) => value.clone(),
                None => std::env::var(name.as_str()).with_context(|| {
                    format!(
                        "--variable {name} has no value, and there is no environment variable \
                         {name}; write --variable {name}=VALUE, or set the environment variable"
                    )
                })?,
            };
            Ok((name.clone(), value))
        };
        Ok(LaunchTerms {
            prefix: self.common.prefix.clone(),
            retire_after: self.retire_after,
            drain: self.drain,
            patience: self.patience,
            start_timeout: self.start_timeout,
            pauses: (RETRY.min(self.retry_most), self.retry_most),
            max_containers: self.max_containers,
            starts_at_once: self.starts_at_once,
            allowed_images: matchers(&self.allow_image),
            network: self.network.clone(),
            allowed_networks: matchers(&self.allow_network),
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
    Err("it must be an absolute path without `.` and `..`, such as /srv/mayfly".to_owned())
}

fn processes(text: &str) -> Result<u32, String> {
    match text.parse() {
        // Fewer start no program of any size, and more are no limit.
        Ok(number @ 16..=1_000_000) => Ok(number),
        _ => Err("it must be a number from 16 to 1000000".to_owned()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("it must be a number of at least 1".to_owned()),
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
            ("--starts-at-once 0", "at least 1"),
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
