//! `mayfly local`: an environment of one's own for as long as the command runs, in which one
//! service is a process on this machine.
//!
//! The chain: [`ssh`] (with `--via`: one connection to the host of a router) -> [`relay`] (ports of
//! this machine that lead through it) -> [`probe`] (does the process answer?) -> [`plan`] (pure:
//! the records, and what is printed) -> [`claim`] (environment and instance in etcd, under one
//! lease). [`link`] keeps the connection open, and [`running`] keeps etcd in sync with the process.
//! This module prepares all of them.

mod claim;
mod link;
mod plan;
mod probe;
mod relay;
mod running;
mod ssh;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use mayfly_core::address::Address;
use mayfly_core::check::{self, Check};
use mayfly_core::index::EnvironmentView;
use mayfly_core::locality::only_here;
use mayfly_core::names::{EnvironmentName, NodeName, ServiceName};
use mayfly_core::nearest::nearest;
use mayfly_core::records::{Environment, Protocol};
use mayfly_core::upstream::Upstream;
use mayfly_core::version::BackendId;
use mayfly_daemon::args::{CommonArgs, duration, ttl};
use mayfly_daemon::output::{complain, printable};
use mayfly_daemon::own_address;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::store::Endpoint;
use mayfly_state::state::State;
use tokio::sync::watch;

use crate::registry::{Registry, local_source};
use crate::{apply, clash};
use claim::SessionClaim;
use link::SshLink;
use plan::{EdgeUrl, Session};
use probe::ProcessCheck;
use running::RunningSession;
use ssh::{Ssh, SshHost};

/// Services that are named at most where the one that is meant is unknown.
const MOST_NAMED: usize = 10;

const EXAMPLES: &str = "\
Examples:
  mayfly local backend 8080 --environment temp-1
  mayfly local backend 8080 -e temp-1 --via ssh://router.example.com --url https://www.example.com
  mayfly local backend 8080 -e temp-1 --name ada-cart --check /health

Exit codes: 0 ended by Ctrl-C, and nothing is left in etcd; 1 failure; 2 wrong command line.";

/// Routes one service of your own environment to a process on this machine, until Ctrl-C
///
/// The new environment extends ENV, and its version of SERVICE is the process at PORT of this
/// machine. Only requests of the new environment reach the process. The command waits until the
/// process answers, and registers nothing before that. Then it prints how to open the new
/// environment. While the process is down later, the new environment is incomplete.
///
/// After Ctrl-C, the base environment answers again immediately. After the time of --drain, nothing
/// is left in etcd. If the command is killed or the machine sleeps, the new environment ends after
/// the time of --ttl. When the machine wakes, the command registers the environment again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service that your process replaces
    #[arg(value_name = "SERVICE")]
    pub service: ServiceName,

    /// The port at which your process listens
    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// Inherits all services except SERVICE from this environment
    #[arg(short = 'e', long, value_name = "ENV")]
    pub environment: EnvironmentName,

    /// Names the new environment [default: local-USER]
    #[arg(long, value_name = "NAME")]
    pub name: Option<EnvironmentName>,

    /// Connects by ssh to the host of a router; use this flag if routers cannot reach this machine
    ///
    /// ssh forwards a port of that host to your process, and ports of this machine to etcd and to
    /// the router. --etcd is then an address that HOST reaches. ssh must log in without asking a
    /// question.
    #[arg(long, env = "MAYFLY_VIA", value_name = "ssh://HOST")]
    pub via: Option<SshHost>,

    /// Uses this ssh configuration in place of ~/.ssh/config
    #[arg(long, env = "MAYFLY_SSH_CONFIG", value_name = "FILE", requires = "via")]
    pub ssh_config: Option<PathBuf>,

    /// Registers the process at this IP address of this machine (with --via: of HOST) [default: the
    /// address from which this machine reaches the routers; with --via: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,

    /// Uses HAProxy's internal side at this address for calls from your process to services
    /// [default: port 80 of the router's address]
    #[arg(long, value_name = "HOST:PORT")]
    pub internal: Option<Upstream>,

    /// Forwards this port of this machine to HAProxy's internal side, for calls from your process
    /// to services. Needs --via. [default: PORT + 10000, or any free port]
    #[arg(long, value_name = "PORT", requires = "via", value_parser = clap::value_parser!(u16).range(1..))]
    pub proxy_port: Option<u16>,

    /// Prints this URL with the prefix of the new environment in place of the first label
    ///
    /// Give the URL of any environment. `https://www.example.com` becomes
    /// `https://www-temp-1.example.com` for an environment with the prefix `www-temp-1`.
    #[arg(long, env = "MAYFLY_URL", value_name = "URL")]
    pub url: Option<EdgeUrl>,

    /// Registers the process while it passes this check: `tcp`, or a path such as /health that
    /// answers 2xx or 3xx
    #[arg(long, value_name = "tcp|PATH", default_value = "tcp")]
    pub check: Check,

    /// Sends requests to your process in this protocol: `http`, or `h2c` for HTTP/2 in clear text
    #[arg(long, value_name = "NAME", default_value = "http")]
    pub protocol: Protocol,

    /// Keeps the new environment in etcd for this long after the command is killed, 2s to 1h
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = ttl)]
    pub ttl: Duration,

    /// Waits this long after Ctrl-C, so that the process can finish its requests
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub drain: Duration,
}

/// Runs a session until Ctrl-C.
///
/// # Errors
/// When ssh does not connect, the environment cannot be registered, or another program ends it.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    if args.protocol == Protocol::H2c && args.check != Check::Tcp {
        bail!("an HTTP check uses HTTP/1.1: with --protocol h2c give --check tcp");
    }
    if args.internal.as_ref().is_some_and(|internal| internal.tls) {
        bail!("the internal side has no HTTPS: give --internal as HOST:PORT, without https://");
    }
    let mut running = tokio::select! {
        () = shutdown.begun() => return Ok(ExitCode::SUCCESS),
        running = prepare(common, args) => running?,
    };
    running.follow(shutdown).await
}

async fn prepare(common: &CommonArgs, args: &Args) -> anyhow::Result<RunningSession> {
    let session = session(common, args)?;
    let link = match &args.via {
        Some(host) => {
            let ssh = Ssh {
                host: host.clone(),
                config: args.ssh_config.clone(),
            };
            Some(SshLink::open(ssh, &common.etcd).await?)
        }
        None => None,
    };
    let mut common = common.clone();
    if let Some(link) = &link {
        common.etcd = link.endpoints().to_vec();
    }
    let store = common.store()?;
    let read = async {
        let state = State::read(&store, 1).await?;
        anyhow::Ok((state, Registry::read(&store).await?))
    };
    let (state, registry) = read.await.with_context(|| hint(link.as_ref(), args))?;
    let now = SystemTime::now();
    let environment = session.environment(false, now)?;
    let parent = base(&state, &registry, &session)?;

    let routers: Vec<(NodeName, IpAddr)> = state.routers().map(|(node, ip)| (node.clone(), ip)).collect();
    let internal = match (&args.internal, routers.first()) {
        (Some(given), _) => Some(given.host_and_port()),
        (None, Some((_, address))) => Some(SocketAddr::new(*address, 80).to_string()),
        (None, None) => None,
    };
    let domain = state.settings().map(|settings| settings.domain.to_string());
    let domain = domain.as_deref().unwrap_or("service");
    let mut opened = plan::opened(&environment, parent, args.url.as_ref(), state.settings().as_ref());
    let (place, beside, places, link) = match link {
        None => {
            let ip = match args.address {
                Some(ip) => ip,
                None => own_address(&routers, &common.etcd).await?,
            };
            if let Some(what) = only_here(ip) {
                complain(&format!(
                    "note: {ip} is {what}: only routers on this machine reach your process there"
                ));
            }
            let address = Address::new(ip, args.port)?;
            if let Some(backend) = state.backend_at(address) {
                bail!(
                    "{address} is registered already as {backend}, and an address belongs to one backend: end that \
                     registration, or let this process listen at another port"
                );
            }
            opened += &plan::calls(internal.as_deref(), domain);
            let (_, place) = watch::channel(Some(address));
            let at = SocketAddr::new(ip, args.port);
            (place, session.node.clone(), vec![at], None)
        }
        Some(mut link) => {
            let listens = args.address.unwrap_or(Ipv4Addr::LOCALHOST.into());
            if only_here(listens).is_some() && routers.len() > 1 {
                bail!(
                    "there are {} routers, but only one router reaches a port at {listens} of {}: give an address of \
                     that host with --address; sshd there must allow this (GatewayPorts clientspecified)",
                    routers.len(),
                    args.via.as_ref().map(ToString::to_string).unwrap_or_default()
                );
            }
            // The port is sshd's choice; this is about the address.
            Address::new(listens, 1)?;
            let port = args
                .proxy_port
                .unwrap_or(args.port.checked_add(10_000).unwrap_or(0));
            let proxy = link.forward(listens, args.port, internal, port).await?;
            if let (Some(wanted), Some(got)) = (args.proxy_port, proxy) {
                if wanted != got {
                    bail!("--proxy-port {wanted} is in use: choose another");
                }
            }
            let proxy = proxy.map(|port| format!("127.0.0.1:{port}"));
            opened += &plan::calls(proxy.as_deref(), domain);
            let beside = match routers.as_slice() {
                [(node, _)] => node.clone(),
                _ => session.node.clone(),
            };
            let places = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            let places = places.map(|ip| SocketAddr::new(ip, args.port)).to_vec();
            (link.place(), beside, places, Some(link))
        }
    };
    // The connection with which etcd was read is gone.
    let store = common.store()?;
    let (told, answering) = watch::channel(None);
    let question = ProcessCheck {
        places,
        check: args.check.clone(),
        host: check::host(None, &session.backend.service),
    };
    tokio::spawn(probe::follow(question, told));
    Ok(RunningSession {
        claim: SessionClaim::new(store.clone(), session.name.clone(), args.ttl),
        session,
        store,
        place,
        answering,
        beside,
        opened,
        port: args.port,
        ttl: args.ttl,
        drain: args.drain,
        answered: None,
        wanted: None,
        _link: link,
    })
}

/// Who it is, and what it is called.
fn session(common: &CommonArgs, args: &Args) -> anyhow::Result<Session> {
    let user = ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    let person = user.as_deref().and_then(plan::label);
    let (name, person) = match (&args.name, person) {
        (Some(name), person) => (name.clone(), person.unwrap_or_else(|| name.to_string())),
        (None, Some(person)) => (format!("local-{person}").parse()?, person),
        (None, None) => bail!("the variable USER has no usable name: name the environment with --name"),
    };
    if name == args.environment {
        bail!("{name} cannot extend itself: choose another --name");
    }
    let backend = BackendId {
        service: args.service.clone(),
        version: plan::version(&plan::label(&person).unwrap_or_default(), rand::random())?,
    };
    Ok(Session {
        name,
        parent: args.environment.clone(),
        backend,
        protocol: args.protocol,
        person,
        node: common.node()?,
        source: local_source(common, format!("{}:{}", args.service, args.port))?,
    })
}

/// The base environment, if the new one can be registered.
fn base<'a>(state: &State, registry: &'a Registry, session: &Session) -> anyhow::Result<&'a Environment> {
    let Some(parent) = registry.environment(&session.parent) else {
        bail!("{}", state.unknown(&session.parent));
    };
    if let Some(there) = registry.live.get(&session.name) {
        return Err(claim::taken(&session.name, there.record.as_ref().ok()).into());
    }
    let environment = session.environment(false, SystemTime::now())?;
    let mut refusals = clash::clashes(registry, &[&environment]);
    refusals.extend(apply::lineages(registry, std::slice::from_ref(&environment)));
    if !refusals.is_empty() {
        bail!("{}", refusals.join("; "));
    }
    if let Some(view) = state.index.view(&session.parent) {
        if let Some(note) = unknown_service(&view, &session.backend.service) {
            complain(&note);
        }
    }
    Ok(parent)
}

/// A service that the base environment does not have may be new, or mistyped.
fn unknown_service(view: &EnvironmentView, service: &ServiceName) -> Option<String> {
    let known: Vec<&str> = view.services.iter().map(|it| it.service.as_str()).collect();
    if known.contains(&service.as_str()) {
        return None;
    }
    let meant = match nearest(service.as_str(), &known) {
        Some(known) => format!("did you mean {known}?"),
        None => format!("it has {}", known[..known.len().min(MOST_NAMED)].join(", ")),
    };
    Some(format!("note: {} has no service {service}: {meant}", view.name))
}

/// The address of this machine that leads to the routers, or to etcd.
async fn own_address(routers: &[(NodeName, IpAddr)], etcd: &[Endpoint]) -> anyhow::Result<IpAddr> {
    let towards = routers
        .iter()
        .map(|(_, ip)| SocketAddr::new(*ip, 80).to_string().parse());
    let towards = towards.collect::<Result<Vec<Endpoint>, _>>()?;
    let towards = towards.iter().chain(etcd).cloned().collect::<Vec<_>>();
    own_address::find(&towards)
        .await
        .map_err(|error| anyhow!("{error}; give the address of this machine with --address, or use --via"))
}

/// What may be wrong where etcd does not answer.
fn hint(link: Option<&SshLink>, args: &Args) -> String {
    match (link, &args.via) {
        (Some(link), Some(host)) => {
            let last = link.last_line();
            let last = last.map(|line| format!(" (ssh: {})", printable(&line)));
            format!(
                "cannot read etcd through {host}; --etcd must be an address that {host} reaches{}",
                last.unwrap_or_default()
            )
        }
        _ => "cannot read etcd; if this machine does not reach etcd, use --via".to_owned(),
    }
}
