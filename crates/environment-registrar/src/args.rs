//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mayfly_core::definition::Memory;
use mayfly_daemon::args::{AddressArgs, CommonArgs, duration, interval};

use crate::merge::Quota;

const EXAMPLES: &str = "\
Examples:
  environment-registrar watch                           watch /etc/mayfly/environments
  environment-registrar watch ./environments --etcd 10.0.0.1:2379,10.0.0.2:2379
  environment-registrar watch /mnt/nfs/environments --poll 1s
  environment-registrar watch --archive /var/lib/mayfly/archive --archive-keep 50
  environment-registrar watch --write-back              files for what `mayfly apply` registers
  environment-registrar watch --services ./services     where service definitions are, if there are any
  environment-registrar check environments/*.yaml       say what is wrong, before it is saved there
  environment-registrar check --services services/      the same of service definitions
  environment-registrar list --format json              what is registered

An environment file:
  name: temp-1
  extends: qa               # optional: all that is not named here is as in qa
  services:
    - name: backend
      version: 0.0.2        # exact, or latest (the default), or a range such as ^1.2
      route: /api           # optional: the public path that leads here

Also optional: prefix (default www-<name>), header (default <name>), description,
and how long it lives:
  expires: 8h               # from its first registration; or 2030-01-31T18:00:00Z
  idle: 2h                  # it ends when no request came for so long
  protected: true           # it never ends, nor with its file

A new version is used as soon as it has a live instance, and the old one until then;
with `switch: at-once` it is used at once.

What has ended does not come back because its file is still there: change the file,
or `mayfly keep temp-1 8h`.";

/// Keeps the environments of etcd in step with a directory of YAML files
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub struct Arguments {
    /// What every program of Mayfly takes.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch a directory and keep etcd in step with its *.yaml and *.yml files, and another one of service definitions
    ///
    /// A file that breaks a rule is reported, and the last good version of its environments stays; the other files are
    /// not affected. Environments that another registrar (another --node) has registered are left alone, so keep the
    /// node's name when you move this registrar to another machine or container.
    ///
    /// An environment goes with its file, unless it is protected. One that has expired, was not used for too long, or was
    /// removed through etcd is reported, and registered again only when its file asks for something else.
    Watch(WatchOptions),
    /// Check files without etcd: one line for each fault, exit code 1 if there is one
    Check {
        /// Files of environments, directories with *.yaml and *.yml files, or `-` for standard input
        #[arg(required_unless_present = "services", value_name = "FILE")]
        files: Vec<PathBuf>,

        /// A file of service definitions, or a directory with *.yaml and *.yml files; may be given again
        #[arg(long, value_name = "PATH")]
        services: Vec<PathBuf>,

        /// What routers allow.
        #[command(flatten)]
        addresses: AddressArgs,
    },
    /// List the environments that are registered in etcd, and what they lack
    List(ListOptions),
}

/// How to list.
#[derive(Debug, Clone, Copy, Args)]
pub struct ListOptions {
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// How many live instances each service has to have
    #[arg(long, env = "MAYFLY_MIN_INSTANCES", value_name = "N", default_value_t = 1)]
    pub min_instances: usize,
}

/// How to watch.
#[derive(Debug, Clone, Args)]
pub struct WatchOptions {
    /// The directory; it need not exist yet
    #[arg(
        env = "MAYFLY_ENVIRONMENTS",
        value_name = "DIRECTORY",
        default_value = "/etc/mayfly/environments"
    )]
    pub directory: PathBuf,

    /// The directory of service definitions, which say how a container of a service is started; it need not exist. By
    /// default `services` beside the directory
    #[arg(long, env = "MAYFLY_SERVICES", value_name = "DIRECTORY")]
    pub services: Option<PathBuf>,

    /// Look at the directories this often instead of waiting for events, for file systems without any (NFS, some mounts
    /// of virtual machines)
    #[arg(long, env = "MAYFLY_POLL", value_name = "TIME", value_parser = interval)]
    pub poll: Option<Duration>,

    /// How long an environment or definition that no file names any more stays: a save by delete and create makes no gap
    #[arg(long, env = "MAYFLY_GRACE", value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub grace: Duration,

    /// Delete protected environments too when no file names them any more; else they stay and are reported
    #[arg(long, env = "MAYFLY_FORCE")]
    pub force: bool,

    /// Where earlier contents go: <ARCHIVE>/<environment>/<UTC time>.yaml, and the files of environments that have ended;
    /// by default `archive` beside the directory
    #[arg(long, env = "MAYFLY_ARCHIVE", value_name = "DIRECTORY")]
    pub archive: Option<PathBuf>,

    /// How many contents of each environment are archived, that in force included; with 0 nothing is, and the files of
    /// ended environments stay
    #[arg(
        long,
        env = "MAYFLY_ARCHIVE_KEEP",
        value_name = "NUMBER",
        default_value_t = 10
    )]
    pub archive_keep: usize,

    /// Make a file of each environment that was registered elsewhere (by `mayfly apply`, another registrar, etcdctl)
    ///
    /// Such a copy begins with a comment that says so, and follows etcd: it changes and goes with the environment. Change
    /// it, and it counts like any other file: it is registered from here. A file that a person wrote or changed is never
    /// overwritten or deleted; where etcd changed at the same time, that is reported and the file wins.
    #[arg(long, env = "MAYFLY_WRITE_BACK")]
    pub write_back: bool,

    /// How many environments of its files the registrar registers; those that are registered stay, and what is new beyond
    /// is refused with the reason
    #[arg(
        long,
        env = "MAYFLY_MAX_ENVIRONMENTS",
        value_name = "NUMBER",
        default_value_t = Quota::default().environments
    )]
    pub max_environments: usize,

    /// How much of etcd they may take together, with their histories: 256m, 1g; mind etcd's own --quota-backend-bytes, which
    /// is 2g by default and counts earlier revisions too
    #[arg(long, env = "MAYFLY_MAX_BYTES", value_name = "BYTES", default_value = "256m")]
    pub max_bytes: Memory,

    /// Look through the whole of each directory this often even without an event; by default every 30s, and up to every
    /// 10m where there are so many files that it would take more than a 5000th of the time
    #[arg(long, env = "MAYFLY_RESCAN", value_name = "TIME", value_parser = interval)]
    pub rescan: Option<Duration>,
}

impl WatchOptions {
    /// How much of etcd the environments may take.
    pub fn quota(&self) -> Quota {
        Quota {
            environments: self.max_environments,
            bytes: usize::try_from(self.max_bytes.octets()).unwrap_or(usize::MAX),
        }
    }

    /// The directory of service definitions.
    ///
    /// # Errors
    /// When it is that of the environments, where each file would be taken for both.
    pub fn services(&self) -> anyhow::Result<PathBuf> {
        let directory = std::path::absolute(&self.directory)?;
        let beside = || directory.parent().unwrap_or(&directory).join("services");
        let services = match &self.services {
            Some(services) => std::path::absolute(services)?,
            None => beside(),
        };
        anyhow::ensure!(
            services != directory,
            "{} is the directory of the environments: name another one for service definitions with --services",
            services.display()
        );
        Ok(services)
    }
}

/// How to print a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON array of the records, each with `complete`, and what is `missing` where it is not.
    Json,
    /// An environment file with all of them.
    Yaml,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        let help = Arguments::command().render_long_help().to_string();
        assert!(
            help.contains("environment-registrar watch ./environments"),
            "{help}"
        );
    }

    #[test]
    fn defaults() {
        let Command::Watch(options) = Arguments::parse_from(["x", "watch"]).command else {
            panic!("not watch")
        };
        assert_eq!(options.directory, PathBuf::from("/etc/mayfly/environments"));
        assert_eq!((options.poll, options.grace), (None, Duration::from_secs(1)));
        assert_eq!(options.services().unwrap(), PathBuf::from("/etc/mayfly/services"));
        assert_eq!(options.quota(), Quota::default());
        assert!(Arguments::try_parse_from(["x", "check"]).is_err());
        assert!(Arguments::try_parse_from(["x", "watch", "--poll", "0s"]).is_err());
    }

    #[test]
    fn service_definitions_lie_in_a_directory_of_their_own() {
        let services = |arguments: &[&str]| {
            let all = ["x", "watch"].iter().chain(arguments);
            match Arguments::parse_from(all).command {
                Command::Watch(options) => options.services(),
                _ => panic!("not watch"),
            }
        };
        assert_eq!(
            services(&["/a/envs", "--services", "/b"]).unwrap(),
            PathBuf::from("/b")
        );
        assert_eq!(services(&["/a/envs"]).unwrap(), PathBuf::from("/a/services"));
        let error = services(&["/a/services"]).unwrap_err().to_string();
        assert!(error.contains("name another one"), "{error}");
    }
}
