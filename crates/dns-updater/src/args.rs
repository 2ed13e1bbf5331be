//! The command line. Every argument is checked by its type while it is read, so that a mistake is told with what
//! would be right, before anything starts.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mayfly_core::names::Hostname;
use mayfly_daemon::args::{CommonArgs, duration, interval};
use mayfly_daemon::output::Format;

const EXAMPLES: &str = "\
Examples:
  dns-updater watch --hosts-file /var/lib/mayfly/hosts/mayfly.hosts
  dnsmasq --hostsdir=/var/lib/mayfly/hosts --local=/service/     # reads the file by itself
  dns-updater update db.service 10.0.0.7 10.0.0.8
  dns-updater delete db.service

Exit codes: 0 fine, 1 failure, 2 wrong usage.";

/// Writes the hosts file that dnsmasq serves, from etcd, and keeps static records in etcd.
#[derive(Debug, Parser)]
#[command(name = "dns-updater", version, about, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// What every daemon takes.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the hosts file, and go on writing it as etcd changes, until told to end
    Watch(Watch),
    /// Put a static record: a host name and its addresses, in place of those it had
    Update {
        /// The host name as it will be asked for, domain included: db.service
        host: Hostname,
        /// Its addresses, IPv4 or IPv6
        #[arg(required = true, value_name = "IP")]
        addresses: Vec<IpAddr>,
    },
    /// Delete static records
    Delete {
        /// The host names
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<Hostname>,
    },
    /// Show the static records
    List {
        /// How to print them
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Delete all static records
    Reset,
}

/// The arguments of `watch`.
#[derive(Debug, Clone, Args)]
pub struct Watch {
    /// The file to write; in a directory of its own that dnsmasq reads with --hostsdir
    #[arg(
        long,
        env = "MAYFLY_HOSTS_FILE",
        value_name = "FILE",
        default_value = "/var/lib/mayfly/hosts/mayfly.hosts",
        value_parser = hosts_file
    )]
    pub hosts_file: PathBuf,

    /// The domain of the services: `backend` becomes `backend.<DOMAIN>`
    #[arg(long, env = "MAYFLY_DOMAIN", value_name = "DOMAIN", default_value = "service")]
    pub domain: Hostname,

    /// How long to go on when all environments, instances or routers vanish from etcd at once (0: not at all)
    #[arg(long, env = "MAYFLY_VANISH_GRACE", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub vanish_grace: Duration,

    /// How often to look whether somebody else changed or removed the file
    #[arg(long, env = "MAYFLY_REPAIR_INTERVAL", value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub repair_interval: Duration,
}

fn hosts_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    // What dnsmasq passes over in a directory.
    let ignored =
        name.starts_with('.') || name.ends_with('~') || (name.starts_with('#') && name.ends_with('#'));
    if name.is_empty() || text.ends_with('/') || ignored {
        return Err(
            "it has to name a file that dnsmasq reads: not a directory, and no name such as .x, x~ or #x#"
                .to_owned(),
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("dns-updater").chain(line.split(' ')))
    }

    #[test]
    fn commands() {
        let Command::Watch(watch) = parse("watch --domain svc.example --etcd a:1").unwrap().command else {
            panic!("not watch")
        };
        assert_eq!(watch.domain.as_str(), "svc.example");
        assert_eq!(watch.vanish_grace, Duration::from_secs(60));
        let Command::Update { host, addresses } =
            parse("update db.service 10.0.0.7 fd00::7").unwrap().command
        else {
            panic!("not update")
        };
        assert_eq!((host.as_str(), addresses.len()), ("db.service", 2));
        assert!(matches!(parse("reset").unwrap().command, Command::Reset));
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (line, part) in [
            ("update db_1.service 10.0.0.7", "DNS labels"),
            ("update db.service 10.0.0", "IP"),
            ("update db.service", "<IP>"),
            ("delete", "<HOST>"),
            ("watch --domain -x", "x"),
            ("watch --hosts-file /tmp/", "has to name a file"),
            ("watch --hosts-file /tmp/.hosts", "has to name a file"),
            ("watch --vanish-grace soon", "looks like"),
            ("watch --repair-interval 1ms", "10ms"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn the_definition_is_sound_and_help_has_examples() {
        use clap::CommandFactory as _;
        let mut command = Arguments::command();
        command.clone().debug_assert();
        assert!(command.render_help().to_string().contains("--hostsdir="));
    }
}
