//! The command line. A type checks each value that reaches haproxy.cfg while it is parsed, so a
//! mistake is reported before anything starts.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand};
use mayfly_core::explain::ShareLinks;
use mayfly_core::names::{EnvironmentName, Hostname};
use mayfly_core::outside::MOST;
use mayfly_daemon::args::{AddressArgs, CommonArgs, duration, interval};
use mayfly_daemon::own_address::Advertised;

use crate::haproxy::render::{AnsweredBy, RenderSettings, Renderer, TEMPLATE, TlsSettings};
use crate::haproxy::slots::{MOST_OUTSIDE, MOST_SLOTS};
use crate::haproxy::tokens::{Bind, CaFile, ConfigPath, EdgeBind, HealthPath, Millis, Pseudonym};
use crate::haproxy::traces::Traces;
use crate::reach::Reach;

const EXAMPLES: &str = "\
Examples:
  haproxy-updater --etcd etcd-1:2379 --advertise 10.0.0.1
  haproxy-updater --dir $PWD/haproxy --edge-bind 127.0.0.1:8000 --internal-bind 127.0.0.1:8080
  haproxy-updater template > my.cfg.tera
  haproxy-updater --template my.cfg.tera render > haproxy.cfg

Start HAProxy as soon as <dir>/haproxy.cfg exists. HAProxy and haproxy-updater share only this directory:
  haproxy -W -S <dir>/run/master.sock -f <dir>/haproxy.cfg

Exit codes: 0 success, 1 failure, 2 wrong usage.";

/// Configures a running HAProxy from etcd, and keeps it up to date
#[derive(Debug, Parser)]
#[command(name = "haproxy-updater", version, about, after_help = EXAMPLES, after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    pub common: CommonArgs,
    /// What HAProxy is to do, and where it is.
    #[command(flatten)]
    pub options: Options,
    /// What to do; without a command, it follows etcd until it is told to end.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of following etcd.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Renders haproxy.cfg from the flags and the template, and prints it
    ///
    /// The output contains no servers, because servers come from etcd.
    Render,
    /// Prints the built-in template, as a starting point for --template
    Template,
}

/// What HAProxy is to do, and where it is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options")]
pub struct Options {
    /// Shares this directory with HAProxy: haproxy.cfg, maps/ and run/
    #[arg(
        long,
        env = "MAYFLY_HAPROXY_DIR",
        value_name = "DIR",
        default_value = "/var/lib/mayfly/haproxy",
        global = true
    )]
    pub dir: PathBuf,

    /// Binds the edge, HAProxy's listener for requests from outside, to these addresses, separated
    /// by commas
    ///
    /// Write an IPv6 address in brackets, as in `[fd00::1]:80`. With `accept-proxy` after the
    /// address, as in `*:80 accept-proxy`, connections must begin with the PROXY protocol.
    #[arg(
        long,
        visible_alias = "edge",
        env = "MAYFLY_EDGE_BIND",
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "*:80",
        global = true
    )]
    pub edge_bind: Vec<EdgeBind>,

    /// Accepts HTTPS (HTTP/2 and HTTP/1.1) from outside at these addresses, separated by commas,
    /// such as `*:443` or `*:443 accept-proxy`
    ///
    /// HAProxy listens there as soon as --edge-certificates contains a certificate.
    #[arg(
        long,
        env = "MAYFLY_EDGE_TLS_BIND",
        value_name = "ADDRESS",
        value_delimiter = ',',
        global = true
    )]
    pub edge_tls_bind: Vec<EdgeBind>,

    /// Reads the certificates for --edge-tls-bind from this directory: files *.pem, each with
    /// certificate, chain and private key
    ///
    /// A file that is added, replaced or removed is in force within 2 s, without a reload. If a
    /// file cannot be used, its previous certificate stays in use. A client that sends no host name
    /// gets default.pem or, if there is none, the first file by name. HAProxy starts from copies in
    /// <dir>/tls.
    #[arg(long, env = "MAYFLY_EDGE_CERTIFICATES", value_name = "DIR", global = true)]
    pub edge_certificates: Option<PathBuf>,

    /// Redirects plain HTTP requests at the edge to HTTPS (status 308), to the port of the first
    /// --edge-tls-bind
    ///
    /// Requests for --edge-health-path are not redirected. Without a certificate, no request is
    /// redirected.
    #[arg(long, env = "MAYFLY_REDIRECT_TO_HTTPS", global = true)]
    pub redirect_to_https: bool,

    /// Answers 200 at this path of the edge, for any host, while HAProxy runs
    ///
    /// Use this path for the health check of a load balancer in front of the edge.
    #[arg(
        long,
        env = "MAYFLY_EDGE_HEALTH_PATH",
        value_name = "PATH",
        default_value = "/.mayfly/health",
        global = true
    )]
    pub edge_health_path: HealthPath,

    /// Binds the internal side, HAProxy's listener for requests between services, to these
    /// addresses, separated by commas [default: port 8080 at the address of --advertise; if that
    /// address changes, the listener moves to the new one]
    ///
    /// Anyone who reaches this listener can choose any environment with x-mayfly, and can reach
    /// services that have no route. If HAProxy runs in a container and --advertise names the host,
    /// give `*:8080`, and publish the port only at an address for services.
    #[arg(
        long,
        visible_alias = "internal",
        env = "MAYFLY_INTERNAL_BIND",
        value_name = "ADDRESS",
        value_delimiter = ',',
        global = true
    )]
    pub internal_bind: Vec<Bind>,

    /// Sends run-time commands to HAProxy through this socket [default: <dir>/run/haproxy.sock]
    #[arg(long, env = "MAYFLY_RUNTIME_SOCKET", value_name = "PATH", global = true)]
    pub runtime_socket: Option<ConfigPath>,

    /// Reloads HAProxy through this master socket; reloads are rare [default:
    /// <dir>/run/master.sock]
    #[arg(long, env = "MAYFLY_MASTER_SOCKET", value_name = "PATH", global = true)]
    pub master_socket: Option<ConfigPath>,

    /// Checks each configuration with this haproxy program before HAProxy uses the configuration
    ///
    /// If there is no such program, configurations are not checked.
    #[arg(
        long,
        env = "MAYFLY_HAPROXY",
        value_name = "PATH",
        default_value = "haproxy",
        global = true
    )]
    pub haproxy: PathBuf,

    /// Renders haproxy.cfg from this Tera template; start from the output of
    /// `haproxy-updater template`
    #[arg(long, env = "MAYFLY_TEMPLATE", value_name = "FILE", global = true)]
    pub template: Option<PathBuf>,

    /// Reserves slots in HAProxy for this many backends at the start, 1 to 65536
    ///
    /// A slot is a backend section that haproxy.cfg provides in advance, so that a new version
    /// needs no reload. When less than a quarter of the slots is free, or when a new version finds
    /// no empty slot, haproxy-updater doubles their number. This needs a reload of HAProxy.
    #[arg(
        long,
        env = "MAYFLY_SLOTS",
        value_name = "N",
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_SLOTS)),
        global = true
    )]
    pub slots: u32,

    /// Appends this domain to service names: the default makes `backend.service` of `backend`
    #[arg(
        long,
        env = "MAYFLY_DOMAIN",
        value_name = "NAME",
        default_value = "service",
        global = true
    )]
    pub domain: Hostname,

    /// Uses this environment for internal requests that name no environment. Without this flag,
    /// these requests get a 400.
    #[arg(long, env = "MAYFLY_DEFAULT_ENVIRONMENT", value_name = "NAME", global = true)]
    pub default_environment: Option<EnvironmentName>,

    /// Allows clients outside to choose the environment with the header x-mayfly. Without this
    /// flag, the edge removes the header.
    ///
    /// A script on a page of another origin cannot choose in this way. The browser first sends a
    /// CORS preflight request without the header, and the environment of the host name answers
    /// that request.
    /// HAProxy's own error answers have no CORS headers.
    #[arg(long, env = "MAYFLY_ALLOW_HEADER_AT_EDGE", global = true)]
    pub allow_header_at_edge: bool,

    /// Allows links on these hosts to choose the environment, such as
    /// `https://www.example.com/?mayfly=temp-1`
    ///
    /// With `off`, no host accepts links. With `unprotected`, the hosts of unprotected environments
    /// accept links. With `all`, all hosts accept links. A cookie keeps the choice. The instance
    /// sees neither the parameter nor the cookie. `?mayfly=` removes the cookie. A link gives no
    /// more access than the environment's own host name.
    #[arg(
        long,
        env = "MAYFLY_SHARE_LINKS",
        value_name = "WHERE",
        default_value_t,
        value_parser = PossibleValuesParser::new(ShareLinks::ALL.map(ShareLinks::as_str))
            .try_map(|text| text.parse::<ShareLinks>()),
        global = true
    )]
    pub share_links: ShareLinks,

    /// Trusts the x-forwarded-* headers of a proxy in front of the edge, and appends to them
    ///
    /// Without this flag, the edge removes the forwarding headers of a client: forwarded,
    /// x-forwarded-*, x-real-ip, x-original-url and similar ones.
    #[arg(long, env = "MAYFLY_BEHIND_PROXY", global = true)]
    pub behind_proxy: bool,

    /// Adds the response header x-mayfly-answered-by with the name of the backend that answered
    #[arg(
        long,
        env = "MAYFLY_ANSWERED_BY",
        value_enum,
        default_value_t,
        value_name = "WHERE",
        global = true
    )]
    pub answered_by: AnsweredBy,

    #[command(flatten)]
    pub traces: Traces,

    /// Logs each request as a line on the standard output of HAProxy
    #[arg(long, env = "MAYFLY_ACCESS_LOG", global = true)]
    pub access_log: bool,

    /// Accepts heads of up to 32 kB, in requests and in answers. Without this flag, the limit is
    /// 14,800 bytes.
    ///
    /// A head is the first line and the headers. With and without the flag, a head may have 200
    /// headers. The flag costs 24 kB of memory for each busy connection, and some throughput.
    #[arg(long, env = "MAYFLY_LARGE_HEADS", global = true)]
    pub large_heads: bool,

    /// Tries another instance when a connection takes longer than this to open
    #[arg(
        long,
        env = "MAYFLY_CONNECT_TIMEOUT",
        value_name = "TIME",
        default_value = "1s",
        global = true
    )]
    pub connect_timeout: Millis,

    /// Ends a request when the instance takes longer than this to answer, or when either side is
    /// silent for this long
    #[arg(
        long,
        env = "MAYFLY_IDLE_TIMEOUT",
        value_name = "TIME",
        default_value = "1m",
        global = true
    )]
    pub idle_timeout: Millis,

    /// Closes an upgraded connection, such as a WebSocket, that is silent for this long
    #[arg(
        long,
        env = "MAYFLY_TUNNEL_TIMEOUT",
        value_name = "TIME",
        default_value = "1h",
        global = true
    )]
    pub tunnel_timeout: Millis,

    /// Verifies https:// servers with the certificate authorities in this PEM file. `@system-ca`
    /// means the authorities of HAProxy's system.
    ///
    /// HAProxy reads the file at this path when it starts or reloads.
    #[arg(
        long,
        env = "MAYFLY_CA_FILE",
        value_name = "PATH",
        default_value_t,
        global = true
    )]
    pub ca_file: CaFile,

    #[command(flatten)]
    pub addresses: AddressArgs,

    /// Accepts at most this many external addresses from all environments together
    ///
    /// One environment may have at most 100. If environments have more addresses than this,
    /// environments that were registered earlier take precedence.
    #[arg(
        long,
        env = "MAYFLY_MAX_ADDRESSES",
        value_name = "N",
        default_value_t = MOST as u32,
        value_parser = clap::value_parser!(u32).range(0..=i64::from(MOST_OUTSIDE)),
        global = true
    )]
    pub max_addresses: u32,

    /// Looks up the host names of servers again at this interval
    ///
    /// haproxy-updater uses the resolver of its system. A name that fails, or takes longer than a
    /// second, is looked up less often each time, but at least every 5 minutes.
    #[arg(long, env = "MAYFLY_RESOLVE", value_name = "TIME", default_value = "10s", value_parser = interval, global = true)]
    pub resolve: Duration,

    /// Resolves the names of services to this IP address or host name of HAProxy. `auto` finds an
    /// address.
    ///
    /// dns-updater makes the names resolve to this address, at which HAProxy's internal side must
    /// answer. If --internal-bind names an address, `auto` is that address. Otherwise `auto` is the
    /// address from which this host reaches etcd or, if etcd is on loopback, the address of the
    /// default route.
    #[arg(
        long,
        env = "MAYFLY_ADVERTISE",
        value_name = "ADDRESS",
        default_value = "auto",
        global = true
    )]
    pub advertise: Advertised,

    /// Checks HAProxy and its files at this interval, and repairs what another program changed
    ///
    /// Each check compares all servers and the number of rows of each map. With the default of 4s,
    /// each check also compares all rows if there are at most 400. More rows are compared less
    /// often, at intervals of 10 ms for each row: 1,000 rows every 10 s. The files are checked even
    /// while HAProxy is not running.
    #[arg(long, env = "MAYFLY_VERIFY", value_name = "TIME", default_value = "4s", value_parser = interval, global = true)]
    pub verify: Duration,

    /// Counts an environment as complete only if each service has at least this many live instances
    #[arg(
        long,
        env = "MAYFLY_MIN_INSTANCES",
        value_name = "N",
        default_value_t = 1,
        global = true
    )]
    pub min_instances: usize,

    /// Withholds deletions if many entries vanish from etcd within this time. With 0, acts on every
    /// deletion at once.
    ///
    /// A loss of many entries may be a fault. The router keeps the last instance of a backend, and
    /// half of all instances (at least two) if they vanish within this time without deregistering.
    /// A kept instance stays routed while it passes HAProxy's check. If all environments (at least
    /// two) vanish together, the router keeps them until they are registered again. If the loss was
    /// intended, run `mayfly confirm haproxy-updater`. docs/concepts/trust.md has all rules.
    #[arg(long, env = "MAYFLY_DISTRUST", value_name = "TIME", default_value = "10s", value_parser = duration, global = true)]
    pub distrust: Duration,
}

/// The internal side at an address.
pub fn internal_bind(address: IpAddr) -> Bind {
    Bind::at(address, 8080)
}

impl Arguments {
    /// The template with the settings that these arguments are.
    ///
    /// # Errors When there is no name for this node, the template cannot be read, or what it makes
    /// lacks something that Mayfly relies on.
    pub fn renderer(&self) -> anyhow::Result<Renderer> {
        self.options.renderer(self.pseudonym()?)
    }

    /// Whether the internal side listens at the advertised address, as it does without
    /// `--internal-bind`.
    pub fn listens_where_advertised(&self) -> bool {
        self.options.internal_bind.is_empty()
    }

    /// Node and prefix distinguish the routers of one team. The listeners distinguish those of two
    /// teams that chose the same.
    fn pseudonym(&self) -> anyhow::Result<Pseudonym> {
        let own = [self.common.node()?.to_string(), self.common.prefix.to_string()];
        let edge = self.options.edge_bind.iter().map(EdgeBind::to_string);
        let binds = edge.chain(self.options.internal_bind.iter().map(Bind::to_string));
        Ok(Pseudonym::of(own.into_iter().chain(binds)))
    }
}

impl Options {
    /// The shared directory as an absolute path.
    ///
    /// # Errors
    /// When the path cannot stand in haproxy.cfg.
    pub fn dir(&self) -> anyhow::Result<ConfigPath> {
        let path = std::path::absolute(&self.dir).context("cannot find the current directory (--dir)")?;
        let text = path.to_str().context("the path in --dir is not ASCII")?;
        text.parse().context("cannot use the directory in --dir")
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

    /// Where HAProxy reads the certificates of the edge.
    ///
    /// # Errors
    /// As [`Options::dir`].
    pub fn kept_certificates(&self) -> anyhow::Result<ConfigPath> {
        Ok(self.dir()?.join("tls"))
    }

    /// How the edge serves TLS, once there is a certificate.
    fn tls(&self) -> anyhow::Result<TlsSettings> {
        let has_binds = !self.edge_tls_bind.is_empty();
        if has_binds != self.edge_certificates.is_some() {
            bail!("--edge-tls-bind and --edge-certificates belong together: give both or neither");
        }
        if self.redirect_to_https && !has_binds {
            bail!("--redirect-to-https needs --edge-tls-bind and --edge-certificates");
        }
        Ok(TlsSettings {
            binds: self.edge_tls_bind.clone(),
            certificates: self.kept_certificates()?,
            are_there: has_binds,
            redirect: self.redirect_to_https,
        })
    }

    /// Which addresses outside are asked, by what is known of where this router listens.
    pub fn reach(&self) -> Reach {
        let edge = self.edge_bind.iter().chain(&self.edge_tls_bind);
        let binds = edge.map(|bind| &bind.place).chain(&self.internal_bind);
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
            bail!("cannot determine the address of the internal side; set it with --internal-bind");
        }
        let settings = RenderSettings {
            runtime_socket: self.runtime_socket()?,
            maps: self.dir()?.join("maps"),
            edge: self.edge_bind.clone(),
            tls: self.tls()?,
            health_path: self.edge_health_path.clone(),
            internal: self.internal_bind.clone(),
            pseudonym,
            domain: self.domain.clone(),
            default_environment: self.default_environment.clone(),
            allow_header_at_edge: self.allow_header_at_edge,
            share_links: self.share_links,
            behind_proxy: self.behind_proxy,
            answered_by: self.answered_by,
            traces: self.traces,
            access_log: self.access_log,
            large_heads: self.large_heads,
            ca_file: self.ca_file.clone(),
            connect_timeout: self.connect_timeout,
            idle_timeout: self.idle_timeout,
            tunnel_timeout: self.tunnel_timeout,
        };
        let template = match &self.template {
            None => TEMPLATE.to_owned(),
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the template `{}` (--template)", path.display()))?,
        };
        let renderer = Renderer::new(&template, settings)?;
        renderer.render(self.slots, &Default::default())?;
        Ok(renderer)
    }
}

#[cfg(test)]
mod tests;
