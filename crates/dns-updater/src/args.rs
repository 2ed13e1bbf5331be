//! The command line. A type checks each argument while it is parsed, so a mistake is reported with
//! what would be right, before anything starts.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mayfly_core::names::Hostname;
use mayfly_daemon::args::{CommonArgs, duration};
use mayfly_daemon::output::Format;

const EXAMPLES: &str = "\
Examples:
  dns-updater watch --hosts-file /var/lib/mayfly/hosts/mayfly.hosts
  dnsmasq --hostsdir=/var/lib/mayfly/hosts --local=/service/     # dnsmasq reads the file on each change
  dns-updater update db.service 10.0.0.7 10.0.0.8
  dns-updater delete db.service

Exit codes: 0 success, 1 failure, 2 wrong usage.";

/// Writes a hosts file for dnsmasq from the records in etcd, and manages static records
#[derive(Debug, Parser)]
#[command(name = "dns-updater", version, about, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Writes the hosts file whenever etcd changes, until SIGTERM
    Watch(WatchArguments),
    /// Sets a static record: these addresses replace earlier addresses of the host name
    Update {
        /// The host name with its domain, such as db.service
        host: Hostname,
        /// The addresses of the host, IPv4 or IPv6
        #[arg(required = true, value_name = "IP")]
        addresses: Vec<IpAddr>,
    },
    /// Deletes static records
    Delete {
        /// The host names
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<Hostname>,
    },
    /// Lists the static records
    List {
        /// Prints the records in this format
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Deletes all static records
    Reset,
}

#[derive(Debug, Clone, Args)]
pub struct WatchArguments {
    /// Writes this hosts file
    ///
    /// Give the file a directory of its own: dnsmasq reads all files of that directory (--hostsdir).
    #[arg(
        long,
        env = "MAYFLY_HOSTS_FILE",
        value_name = "FILE",
        default_value = "/var/lib/mayfly/hosts/mayfly.hosts",
        value_parser = hosts_file
    )]
    pub hosts_file: PathBuf,

    /// Appends this domain to service names: the default makes `backend.service` of `backend`
    #[arg(long, env = "MAYFLY_DOMAIN", value_name = "NAME", default_value = "service")]
    pub domain: Hostname,

    /// Withholds deletions if many entries vanish from etcd within this time. With 0, acts on every
    /// deletion at once.
    ///
    /// A loss of many entries may be a fault. If all instances or all routers vanish together
    /// without deregistering, dns-updater keeps their names for this time. If all environments (at
    /// least two) vanish together, dns-updater keeps their names until they are registered again.
    /// If the loss was intended, run `mayfly confirm haproxy-updater`. docs/concepts/trust.md has
    /// all rules.
    #[arg(long, env = "MAYFLY_DISTRUST", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub distrust: Duration,
}

fn hosts_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    // dnsmasq skips such names in a directory.
    let ignored =
        name.starts_with('.') || name.ends_with('~') || (name.starts_with('#') && name.ends_with('#'));
    if name.is_empty() || text.ends_with('/') || ignored {
        return Err(
            "it must name a file that dnsmasq reads: not a directory, and no name such as .x, x~ or #x#"
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
        assert_eq!(watch.distrust, Duration::from_secs(60));
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
            ("watch --hosts-file /tmp/", "must name a file"),
            ("watch --hosts-file /tmp/.hosts", "must name a file"),
            ("watch --distrust soon", "looks like"),
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
