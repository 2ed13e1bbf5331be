//! The command line. Whatever reaches haproxy.cfg is checked by its type while it is read, so that a mistake is told
//! before anything starts.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use mayfly_core::names::{EnvironmentName, Hostname};
use mayfly_core::outside::MOST;
use mayfly_daemon::args::{AddressArgs, CommonArgs, interval};

use crate::advertise::Advertised;
use crate::reach::Reach;
use crate::render::{AnsweredBy, Renderer, Settings, TEMPLATE};
use crate::slots::{MOST_OUTSIDE, MOST_SLOTS};
use crate::text::{Bind, CaFile, ConfigPath, HealthPath, Millis, Pseudonym};

const EXAMPLES: &str = "\
Examples:
  haproxy-updater --etcd etcd-1:2379 --advertise 10.0.0.1
  haproxy-updater --dir $PWD/haproxy --edge-bind 127.0.0.1:8000 --internal-bind 127.0.0.1:8080
  haproxy-updater template > my.cfg.tera
  haproxy-updater --template my.cfg.tera render > haproxy.cfg

HAProxy itself is started beside it, once <dir>/haproxy.cfg exists, and shares only the directory:
  haproxy -W -S <dir>/run/master.sock -f <dir>/haproxy.cfg

Exit codes: 0 fine, 1 failure, 2 wrong usage.";

/// Follows etcd and makes a running HAProxy route accordingly, without reloads.
#[derive(Debug, Parser)]
#[command(name = "haproxy-updater", version, about, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// What every daemon takes.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What HAProxy is to do.
    #[command(flatten)]
    pub options: Options,
    /// What to do; without a command, it follows etcd until told to end.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of following etcd.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the configuration that the flags and the template make, without servers
    Render,
    /// Print the built-in template, to begin one of your own with
    Template,
}

/// What HAProxy is to do, and where it is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options")]
pub struct Options {
    /// The directory that HAProxy shares: haproxy.cfg, maps/ and run/
    #[arg(
        long,
        env = "MAYFLY_HAPROXY_DIR",
        value_name = "DIR",
        default_value = "/var/lib/mayfly/haproxy",
        global = true
    )]
    pub dir: PathBuf,

    /// Where HAProxy takes traffic from outside; several with commas
    #[arg(
        long,
        visible_alias = "edge",
        env = "MAYFLY_EDGE_BIND",
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "*:80",
        global = true
    )]
    pub edge_bind: Vec<Bind>,

    /// The path at which HAProxy itself answers 200 at the edge while it serves, whatever the host:
    /// for the balancer before it
    #[arg(
        long,
        env = "MAYFLY_EDGE_HEALTH_PATH",
        value_name = "PATH",
        default_value = "/.mayfly/health",
        global = true
    )]
    pub edge_health_path: HealthPath,

    /// Where HAProxy takes traffic between services; several with commas [default: port 8080 at the
    /// address of --advertise, which is followed as it changes]
    ///
    /// Whoever reaches it chooses an environment by x-mayfly, and reaches services that have no
    /// route. In a container whose host is advertised, give `*:8080` and publish the port where
    /// only services get.
    #[arg(
        long,
        visible_alias = "internal",
        env = "MAYFLY_INTERNAL_BIND",
        value_name = "ADDRESS",
        value_delimiter = ',',
        global = true
    )]
    pub internal_bind: Vec<Bind>,

    /// HAProxy's run-time socket [default: <dir>/run/haproxy.sock]
    #[arg(long, env = "MAYFLY_RUNTIME_SOCKET", value_name = "PATH", global = true)]
    pub runtime_socket: Option<ConfigPath>,

    /// HAProxy's master socket, for the rare reloads [default: <dir>/run/master.sock]
    #[arg(long, env = "MAYFLY_MASTER_SOCKET", value_name = "PATH", global = true)]
    pub master_socket: Option<ConfigPath>,

    /// The haproxy program that checks a configuration before it is put in place, if there is one
    #[arg(
        long,
        env = "MAYFLY_HAPROXY",
        value_name = "PATH",
        default_value = "haproxy",
        global = true
    )]
    pub haproxy: PathBuf,

    /// A template of your own for haproxy.cfg (Tera); begin with what `haproxy-updater template` prints
    #[arg(long, env = "MAYFLY_TEMPLATE", value_name = "FILE", global = true)]
    pub template: Option<PathBuf>,

    /// How many backends HAProxy has room for at first; doubled by a reload when less than a quarter is free
    #[arg(
        long,
        env = "MAYFLY_SLOTS",
        value_name = "N",
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SLOTS)),
        global = true
    )]
    pub slots: u32,

    /// The domain of the services' names: backend.service
    #[arg(
        long,
        env = "MAYFLY_DOMAIN",
        value_name = "NAME",
        default_value = "service",
        global = true
    )]
    pub domain: Hostname,

    /// The environment of internal requests that name none; without it they get a 400
    #[arg(long, env = "MAYFLY_DEFAULT_ENVIRONMENT", value_name = "NAME", global = true)]
    pub default_environment: Option<EnvironmentName>,

    /// Let clients outside choose their environment by x-mayfly; without it the header is removed at the edge
    ///
    /// A page of another origin cannot use it by itself: its browser asks before (CORS preflight)
    /// without the header, so the host decides who answers that, and HAProxy's own refusals carry
    /// no CORS headers.
    #[arg(long, env = "MAYFLY_ALLOW_HEADER_AT_EDGE", global = true)]
    pub allow_header_at_edge: bool,

    /// Another proxy stands before the edge: believe its x-forwarded-* headers and add to them.
    /// Without it, whatever a client says in forwarded, x-forwarded-*, x-real-ip, x-original-url
    /// and the like is removed
    #[arg(long, env = "MAYFLY_BEHIND_PROXY", global = true)]
    pub behind_proxy: bool,

    /// Where responses say which backend answered, in x-mayfly-answered-by
    #[arg(
        long,
        env = "MAYFLY_ANSWERED_BY",
        value_enum,
        default_value_t,
        value_name = "WHERE",
        global = true
    )]
    pub answered_by: AnsweredBy,

    /// Let HAProxy write a line for each request to its standard output
    #[arg(long, env = "MAYFLY_ACCESS_LOG", global = true)]
    pub access_log: bool,

    /// How long HAProxy waits for a connection to an instance before it tries another
    #[arg(
        long,
        env = "MAYFLY_CONNECT_TIMEOUT",
        value_name = "TIME",
        default_value = "1s",
        global = true
    )]
    pub connect_timeout: Millis,

    /// How long an instance may take to answer, and either side may be silent
    #[arg(
        long,
        env = "MAYFLY_IDLE_TIMEOUT",
        value_name = "TIME",
        default_value = "1m",
        global = true
    )]
    pub idle_timeout: Millis,

    /// How long an upgraded connection, such as a WebSocket, may be silent
    #[arg(
        long,
        env = "MAYFLY_TUNNEL_TIMEOUT",
        value_name = "TIME",
        default_value = "1h",
        global = true
    )]
    pub tunnel_timeout: Millis,

    /// The PEM file with the authorities that https:// servers are verified with, at the same path for HAProxy; loaded
    /// when HAProxy starts or reloads. `@system-ca`: those of the system that HAProxy runs on
    #[arg(
        long,
        env = "MAYFLY_CA_FILE",
        value_name = "PATH",
        default_value_t,
        global = true
    )]
    pub ca_file: CaFile,

    /// What environments may name.
    #[command(flatten)]
    pub addresses: AddressArgs,

    /// How many addresses outside to take of all environments, of those that were registered first; 100 at most of one
    #[arg(
        long,
        env = "MAYFLY_MAX_ADDRESSES",
        value_name = "N",
        default_value_t = MOST as u32,
        value_parser = clap::value_parser!(u32).range(0..=i64::from(MOST_OUTSIDE)),
        global = true
    )]
    pub max_addresses: u32,

    /// How often to resolve the host names of servers again, with the resolver of this system; one that fails, or takes
    /// more than a second, less often each time, but every 5 minutes
    #[arg(long, env = "MAYFLY_RESOLVE", value_name = "TIME", default_value = "10s", value_parser = interval, global = true)]
    pub resolve: Duration,

    /// The address of the internal side for dns-updater: an IP address, a host name, or `auto` for the address of the
    /// interface that leads to etcd
    #[arg(
        long,
        env = "MAYFLY_ADVERTISE",
        value_name = "ADDRESS",
        default_value = "auto",
        global = true
    )]
    pub advertise: Advertised,

    /// How often to look whether HAProxy was started anew by somebody else
    #[arg(long, env = "MAYFLY_LOOK", value_name = "TIME", default_value = "500ms", value_parser = interval, global = true)]
    pub look: Duration,

    /// How often to look whether somebody else has changed HAProxy, and repair it: all servers, and how many rows the maps
    /// have; and what every row says where there are few (400 with 4s), else every 10 ms for each row
    #[arg(long, env = "MAYFLY_VERIFY", value_name = "TIME", default_value = "4s", value_parser = interval, global = true)]
    pub verify: Duration,

    /// How often at most to let etcd know that an environment with an idle time is used; more often where a quarter of
    /// its idle time is shorter
    #[arg(long, env = "MAYFLY_REPORT_USE", value_name = "TIME", default_value = "30s", value_parser = interval, global = true)]
    pub report_use: Duration,

    /// How many live instances each service of an environment has to have; below, the environment is reported as
    /// incomplete
    #[arg(
        long,
        env = "MAYFLY_MIN_INSTANCES",
        value_name = "N",
        default_value_t = 1,
        global = true
    )]
    pub min_instances: usize,

    /// Go on routing what etcd loses without a word: the last instance of a backend, or half of all instances within this
    /// time, while they answer HAProxy's check; and all environments at once. Until they are back, or an operator says that it
    /// is meant (`mayfly confirm haproxy-updater`); `off` believes everything
    #[arg(long, env = "MAYFLY_GUARD", value_name = "TIME|off", default_value = "10s", value_parser = guard, global = true)]
    pub guard: Window,
}

/// The internal side at an address.
pub fn internal_bind(address: IpAddr) -> Bind {
    Bind::at(address, 8080)
}

/// The window of the guard, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window(pub Option<Duration>);

fn guard(text: &str) -> Result<Window, String> {
    match text {
        "off" => Ok(Window(None)),
        _ => interval(text)
            .map(|window| Window(Some(window)))
            .map_err(|error| format!("{error}, or `off`")),
    }
}

impl Arguments {
    /// The template with the settings that these arguments are.
    ///
    /// # Errors When there is no name for this node, the template cannot be read, or what it makes
    /// lacks something that Mayfly relies on.
    pub fn renderer(&self) -> anyhow::Result<Renderer> {
        self.options.renderer(self.pseudonym()?)
    }

    /// Without `--internal-bind` the internal side listens where it is advertised: whether it is
    /// so.
    pub fn listens_where_advertised(&self) -> bool {
        self.options.internal_bind.is_empty()
    }

    /// Node and prefix tell the routers of one team apart, and the listeners those of two teams
    /// that chose the same.
    fn pseudonym(&self) -> anyhow::Result<Pseudonym> {
        let own = [self.common.node()?.to_string(), self.common.prefix.to_string()];
        let binds = self.options.edge_bind.iter().chain(&self.options.internal_bind);
        Ok(Pseudonym::of(own.into_iter().chain(binds.map(Bind::to_string))))
    }
}

impl Options {
    /// The shared directory as an absolute path.
    ///
    /// # Errors
    /// When the path cannot stand in haproxy.cfg.
    pub fn dir(&self) -> anyhow::Result<ConfigPath> {
        let path = std::path::absolute(&self.dir).context("cannot find the current directory (--dir)")?;
        let text = path
            .to_str()
            .context("the path of the directory is not ASCII (--dir)")?;
        text.parse().context("cannot use the directory (--dir)")
    }

    /// HAProxy's run-time socket.
    ///
    /// # Errors
    /// As [`Options::dir`].
    pub fn runtime_socket(&self) -> anyhow::Result<ConfigPath> {
        self.runtime_socket
            .clone()
            .map_or_else(|| Ok(self.dir()?.join("run/haproxy.sock")), Ok)
    }

    /// HAProxy's master socket.
    ///
    /// # Errors
    /// As [`Options::dir`].
    pub fn master_socket(&self) -> anyhow::Result<ConfigPath> {
        self.master_socket
            .clone()
            .map_or_else(|| Ok(self.dir()?.join("run/master.sock")), Ok)
    }

    /// Which addresses outside are asked, by what is known of where this router listens.
    pub fn reach(&self) -> Reach {
        let binds = self.edge_bind.iter().chain(&self.internal_bind);
        Reach::new(
            self.addresses.allow_address.clone(),
            self.max_addresses as usize,
            binds,
        )
    }

    /// The template with the settings that these options are, for a router of this name.
    ///
    /// # Errors
    /// When the template cannot be read, or what it makes lacks something that Mayfly relies on.
    fn renderer(&self, pseudonym: Pseudonym) -> anyhow::Result<Renderer> {
        if self.internal_bind.is_empty() {
            bail!("cannot tell where the internal side listens: give --internal-bind");
        }
        let settings = Settings {
            runtime_socket: self.runtime_socket()?,
            maps: self.dir()?.join("maps"),
            edge: self.edge_bind.clone(),
            health_path: self.edge_health_path.clone(),
            internal: self.internal_bind.clone(),
            pseudonym,
            domain: self.domain.clone(),
            default_environment: self.default_environment.clone(),
            allow_header_at_edge: self.allow_header_at_edge,
            behind_proxy: self.behind_proxy,
            answered_by: self.answered_by,
            access_log: self.access_log,
            ca_file: self.ca_file.clone(),
            connect_timeout: self.connect_timeout,
            idle_timeout: self.idle_timeout,
            tunnel_timeout: self.tunnel_timeout,
        };
        let template = match &self.template {
            None => TEMPLATE.to_owned(),
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the template {} (--template)", path.display()))?,
        };
        let renderer = Renderer::new(&template, settings)?;
        renderer.render(self.slots, &Default::default())?;
        Ok(renderer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("haproxy-updater").chain(line.split_whitespace()))
    }

    #[test]
    fn defaults_make_a_configuration() {
        let options = parse("").unwrap().options;
        assert_eq!(
            options.runtime_socket().unwrap().as_str(),
            "/var/lib/mayfly/haproxy/run/haproxy.sock"
        );
        assert_eq!(
            options.master_socket().unwrap().as_str(),
            "/var/lib/mayfly/haproxy/run/master.sock"
        );
        let mut arguments = parse("").unwrap();
        assert!(arguments.listens_where_advertised());
        arguments.options.internal_bind = vec![internal_bind("10.0.0.5".parse().unwrap())];
        let config = arguments
            .renderer()
            .unwrap()
            .render(4, &Default::default())
            .unwrap();
        let binds = config.text.lines().filter(|line| line.starts_with("    bind "));
        assert_eq!(
            binds.collect::<Vec<_>>(),
            ["    bind *:80", "    bind 10.0.0.5:8080"]
        );
    }

    #[test]
    fn flags_stand_before_or_after_the_command() {
        for line in [
            "--edge-bind 127.0.0.1:8000,[::1]:8000 --slots 4 render",
            "render --edge 127.0.0.1:8000,[::1]:8000 --slots 4",
        ] {
            let arguments = parse(line).unwrap();
            assert!(matches!(arguments.command, Some(Command::Render)));
            assert_eq!(
                (arguments.options.edge_bind.len(), arguments.options.slots),
                (2, 4)
            );
        }
    }

    #[test]
    fn the_guard_has_a_window_or_is_off() {
        for (line, window) in [("", Some(10)), ("--guard 1min", Some(60)), ("--guard off", None)] {
            let found = parse(line).unwrap().options.guard;
            assert_eq!(found, Window(window.map(Duration::from_secs)), "{line}");
        }
        let error = parse("--guard never").unwrap_err().to_string();
        assert!(error.contains("or `off`"), "{error}");
    }

    #[test]
    fn what_would_break_haproxy_cfg_is_refused() {
        for flag in [
            "--edge-bind=*:80\n",
            "--internal-bind=80",
            "--edge-health-path=health",
            "--runtime-socket=/a\"b",
            "--domain=a;b",
            "--default-environment=A",
            "--slots=0",
            "--max-addresses=32769",
            "--allow-address=*",
            "--allow-address=10.0.0.1/8",
            "--tunnel-timeout=0s",
            "--look=0s",
            "--advertise=a b",
        ] {
            assert!(
                Arguments::try_parse_from(["haproxy-updater", flag]).is_err(),
                "{flag}"
            );
        }
        let mut options = parse("").unwrap().options;
        options.dir = "/tmp/a b".into();
        assert!(options.dir().is_err());
    }
}
