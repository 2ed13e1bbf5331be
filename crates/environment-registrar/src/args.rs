//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mayfly_core::records::definition::Memory;
use mayfly_daemon::args::{AddressArgs, CommonArgs, duration, interval};

use crate::desired::{Quota, SourceLimit};

const EXAMPLES: &str = "\
Examples:
  environment-registrar watch                           watches /etc/mayfly/environments
  environment-registrar watch ./environments --etcd 10.0.0.1:2379,10.0.0.2:2379
  environment-registrar watch /mnt/nfs/environments --poll 1s
  environment-registrar watch --archive /var/lib/mayfly/archive --archive-keep 50
  environment-registrar watch --write-back              writes files for what `mayfly apply` registers
  environment-registrar watch --max-environments-of 'pr-*=30' --max-environments-of '*-pr-*=10'
  environment-registrar watch --services ./services     reads service definitions from ./services
  environment-registrar check environments/*.yaml       finds faults before the files are saved
  environment-registrar check --services services/      the same for service definitions
  environment-registrar list --format json              lists what is registered

An environment file:
  name: temp-1
  extends: qa               # optional: services that are not named here come from qa
  services:
    - name: backend
      version: 0.0.2        # exact, or latest (the default), or a range such as ^1.2
      route: /api           # optional: the public path of this service

Also optional: prefix (default www-<name>), header (default <name>), description,
and how long it lives:
  expires: 8h               # counted from the first registration; or 2030-01-31T18:00:00Z
  idle: 2h                  # ends the environment after 2 hours without a request
  protected: true           # never ends the environment, even when its file is deleted

A new version takes over when it has a live instance. Until then the old version stays in use.
With `switch: at-once` the new version takes over immediately.

An environment that has ended stays ended while its file stays the same. To bring the environment
back, change the file, or run `mayfly keep temp-1 8h`.";

/// Keeps the environments in etcd in sync with a directory of YAML files
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub struct Arguments {
    /// What every program of Mayfly takes.
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keeps etcd in sync with a directory of environments and a directory of service definitions
    ///
    /// The registrar reads all *.yaml and *.yml files of both directories. A file that breaks a
    /// rule is reported, and the last good version of its environments stays in force. Other files
    /// are not affected. The registrar does not change environments of another registrar (another
    /// --node). So keep --node when you move a registrar to another machine.
    ///
    /// An environment ends when its file is deleted, unless it is protected. If an environment has
    /// expired, was idle for too long or was deleted in etcd, the registrar reports this. It
    /// registers the environment again only when the content of its file changes.
    Watch(DirectoryArguments),
    /// Checks files without etcd, and prints a line for each fault. Exits with 1 if a file has a
    /// fault.
    Check {
        /// Environment files, directories with *.yaml and *.yml files, or `-` for standard input
        #[arg(required_unless_present = "services", value_name = "FILE")]
        files: Vec<PathBuf>,

        /// Checks the service definitions in this file, or in the *.yaml and *.yml files of this
        /// directory; repeatable
        #[arg(long, value_name = "PATH")]
        services: Vec<PathBuf>,

        #[command(flatten)]
        addresses: AddressArgs,
    },
    /// Lists the environments that are registered in etcd, and the services that they lack
    List(ListOptions),
}

#[derive(Debug, Clone, Copy, Args)]
pub struct ListOptions {
    /// Prints the list in this format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// Counts an environment as complete only if each service has at least this many live instances
    #[arg(long, env = "MAYFLY_MIN_INSTANCES", value_name = "N", default_value_t = 1)]
    pub min_instances: usize,
}

#[derive(Debug, Clone, Args)]
pub struct DirectoryArguments {
    /// The directory of environment files; it need not exist yet
    #[arg(
        env = "MAYFLY_ENVIRONMENTS",
        value_name = "DIRECTORY",
        default_value = "/etc/mayfly/environments"
    )]
    pub directory: PathBuf,

    /// Reads service definitions from this directory; it need not exist [default: `services`
    /// beside DIRECTORY]
    ///
    /// A service definition describes how to start a service.
    #[arg(long, env = "MAYFLY_SERVICES", value_name = "DIRECTORY")]
    pub services: Option<PathBuf>,

    /// Scans the directories at this interval, such as 1s, instead of waiting for events [default:
    /// off]
    ///
    /// Use this flag for file systems without events (NFS, some mounts of virtual machines). The
    /// registrar reads a changed file after the file has stayed the same for 2s.
    #[arg(long, env = "MAYFLY_POLL", value_name = "TIME", value_parser = interval)]
    pub poll: Option<Duration>,

    /// Keeps an environment or definition for this long after no file contains it any more
    ///
    /// Some editors save a file by deleting and creating it. This time prevents a gap.
    #[arg(long, env = "MAYFLY_GRACE", value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub grace: Duration,

    /// Deletes even protected environments when their files are gone. Without this flag, the
    /// registrar keeps and reports them.
    #[arg(long, env = "MAYFLY_FORCE")]
    pub force: bool,

    /// Archives earlier contents of environment files, and the files of ended environments, in this
    /// directory [default: `archive` beside DIRECTORY]
    ///
    /// Each archived content is a file <ARCHIVE>/<environment>/<UTC time>.yaml.
    #[arg(long, env = "MAYFLY_ARCHIVE", value_name = "DIRECTORY")]
    pub archive: Option<PathBuf>,

    /// Keeps at most this many files for each environment in the archive. The newest file has the
    /// current content.
    ///
    /// With 0, the registrar archives nothing, and the files of ended environments stay.
    #[arg(
        long,
        env = "MAYFLY_ARCHIVE_KEEP",
        value_name = "NUMBER",
        default_value_t = 10
    )]
    pub archive_keep: usize,

    /// Writes a file for each environment that was registered elsewhere (by `mayfly apply`, another
    /// registrar, etcdctl)
    ///
    /// The first line of such a copy marks it as a copy. The registrar changes and deletes the copy
    /// together with the environment in etcd. When you change a copy, it becomes a file like any
    /// other, and this registrar registers it. The registrar never overwrites or deletes a file
    /// that a person wrote or changed. If the file and etcd change at the same time, the file wins,
    /// and the registrar reports this.
    #[arg(long, env = "MAYFLY_WRITE_BACK")]
    pub write_back: bool,

    /// Registers at most this many environments
    ///
    /// Environments that are registered already stay. The registrar refuses further environments
    /// and reports the reason.
    #[arg(
        long,
        env = "MAYFLY_MAX_ENVIRONMENTS",
        value_name = "NUMBER",
        default_value_t = Quota::default().environments
    )]
    pub max_environments: usize,

    /// Limits the number of environments of each source, such as a repository or a person;
    /// repeatable [default: no limit]
    ///
    /// PATTERN is a name in which `*` stands for any text. Environments that match PATTERN, and
    /// whose names are the same up to the last `*`, belong to one source. `pr-*=30` allows 30
    /// environments such as pr-7. `*-pr-*=10` allows 10 such as shop-pr-7, and 10 such as api-pr-7.
    /// The first pattern that matches a name applies. Environments that are registered already
    /// stay. The registrar refuses further environments and reports the reason.
    #[arg(
        long,
        env = "MAYFLY_MAX_ENVIRONMENTS_OF",
        value_name = "PATTERN=NUMBER",
        value_delimiter = ','
    )]
    pub max_environments_of: Vec<SourceLimit>,

    /// Limits the space that all environments and their histories take in etcd, such as 256m or 1g
    ///
    /// etcd's own limit is --quota-backend-bytes (2g by default). It also counts earlier revisions.
    #[arg(long, env = "MAYFLY_MAX_BYTES", value_name = "BYTES", default_value = "256m")]
    pub max_bytes: Memory,
}

impl DirectoryArguments {
    /// How much of etcd the environments may take. It is asked for once, and holds as long as the
    /// process lives.
    pub fn quota(&self) -> Quota {
        Quota {
            environments: self.max_environments,
            bytes: usize::try_from(self.max_bytes.bytes()).unwrap_or(usize::MAX),
            sources: self.max_environments_of.clone().leak(),
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
            "{} is the directory of the environments: name another directory for service definitions with --services",
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
    /// One JSON array of the records, each with `complete`; an incomplete one also with `missing`.
    Json,
    /// One environment file with all environments.
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
    fn a_limit_of_a_source_has_a_pattern_and_a_number() {
        let limits =
            |text: &str| match Arguments::try_parse_from(["x", "watch", "--max-environments-of", text]) {
                Ok(arguments) => match arguments.command {
                    Command::Watch(options) => Ok(options.quota().sources),
                    _ => panic!("not watch"),
                },
                Err(error) => Err(error.to_string()),
            };
        let name = "shop-pr-1".parse().unwrap();
        let quota = Quota {
            sources: limits("pr-*=3,*-pr-*=2").unwrap(),
            ..Quota::default()
        };
        assert_eq!(quota.source_of(&name), Some((1, "shop-pr-")));
        assert_eq!(quota.sources[1].environments, 2);
        for text in ["pr-*", "pr-1=2", "pr-*=", "pr-*=-1", "PR-*=1", "=1"] {
            let error = limits(text).unwrap_err();
            assert!(error.contains("as pr-*=20"), "{text}: {error}");
        }
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
        assert!(error.contains("name another directory"), "{error}");
    }
}
