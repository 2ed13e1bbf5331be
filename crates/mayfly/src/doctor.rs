//! `mayfly doctor`: looks for the faults that stop an installation from working although every
//! program runs. [`records`] finds what etcd shows, [`engine`] what a Docker engine shows. To see
//! what a service sees, [`helper`] starts this program in the network of a container, where
//! [`probe`] asks for names and connections, and [`inside`] judges the answers. [`finding`] is what
//! all of them report.

mod engine;
mod finding;
mod helper;
mod inside;
mod probe;
mod records;

use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::bail;
use mayfly_core::names::{EnvironmentName, Hostname};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::docker::EngineUrl;
use mayfly_daemon::output::{self, Color, Format, complain};
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::store::Store;
use mayfly_state::state::State;

use finding::{DoctorCheck, Examination};

const EXAMPLES: &str = "\
Examples:
  mayfly doctor                              examines the whole installation
  mayfly doctor temp-1                       examines temp-1, what it extends, and its services
  mayfly doctor --docker tcp://10.0.0.5:2375 looks into the containers of another engine
  mayfly doctor --ignore haproxy             accepts the known faults of this HAProxy
  mayfly doctor --outside registry.internal  looks up this name in each container, not example.com
  mayfly doctor --format json | jq -r '.findings[].cure'

Checks, by the names that --ignore takes:
  prefix         daemons report below --prefix
  daemons        each daemon is in sync and reports no error; a router and a dns-updater are there
  versions       all daemons have one version
  haproxy        the version of HAProxy has no known fault
  certificates   no certificate of the edge ends soon or has a fault
  environments   each environment is complete
  parents        an environment that others extend exists, and the first of a chain is protected
  header         no service dropped x-mayfly and baggage in the last 10 minutes
  archive        the archive of environment files outlives a restart of the registrar
  clock          the clocks of daemons and engine agree with the clock of this host
  engine         the engine answers; several Mayflies on it do not take each other's containers
  names          in a container, the names of services resolve to a router
  router         from a container, that router answers at port 80
  outside-names  in a container, names of other servers resolve
  etcd           no container reaches etcd

For the last four checks, doctor groups the containers that have the same networks and name servers.
In the network of one container of each group, doctor starts a short-lived container of this
program, and removes it afterwards. The image of the service needs no additional program. The engine
must let doctor create containers; deploy/engine-read does not.

JSON, one object: findings [check, where, what, cure], unchecked [check, why], notes, ignored.

Exit codes: 0 nothing was found and everything was checked; 1 a finding, or etcd does not answer;
2 wrong command line; 3 nothing was found, but something could not be checked.";

/// Finds faults of the installation, and names a cure for each fault
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Examines only this environment, the environments that it extends, and their services
    #[arg(value_name = "ENV")]
    pub environment: Option<EnvironmentName>,

    /// Uses the engine at this URL: unix:// with a path, or tcp:// with host and port
    #[arg(
        long,
        env = "DOCKER_HOST",
        value_name = "URL",
        default_value = "unix:///var/run/docker.sock"
    )]
    pub docker: EngineUrl,

    /// Checks in each container that this host name resolves. Give a name of a server outside
    /// Mayfly.
    #[arg(long, env = "MAYFLY_OUTSIDE", value_name = "HOST", default_value = probe::OUTSIDE)]
    pub outside: Hostname,

    /// Leaves out these checks, separated by commas
    #[arg(long, env = "MAYFLY_IGNORE", value_name = "CHECK", value_delimiter = ',')]
    pub ignore: Vec<DoctorCheck>,

    /// Prints the output in this format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// Chooses when to use colour
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub color: Color,

    /// What to do inside a container: doctor itself starts it so.
    #[arg(long, hide = true, value_name = "JSON")]
    pub probe: Option<String>,
}

/// Examines the installation.
///
/// # Errors
/// When etcd does not answer, there is no such environment, or nothing can be printed.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    if let Some(job) = &args.probe {
        return probe::run(job).await;
    }
    let store = common.store()?;
    let mut found = Examination::ignoring(&args.ignore);
    if let Some(state) = read(&store, &mut found).await? {
        let only = args.environment.as_ref();
        if let Some(name) = only.filter(|name| state.index.environment(name).is_none()) {
            complain(&format!("error: {}", state.unknown(name)));
            return Ok(ExitCode::FAILURE);
        }
        let scope = records::Examined::of(&state, only);
        records::examine(&state, &scope, SystemTime::now(), &mut found);
        if full(&store).await {
            found.push(
                DoctorCheck::Daemons,
                "etcd",
                "the database is full, so etcd accepts no new data",
                "compact and defragment the database: docs/guides/troubleshooting.md",
            );
        }
        if !engine::examine(common, args, &state, &scope, shutdown, &mut found).await {
            return Ok(ExitCode::from(130));
        }
    }
    found.sort();
    match args.format {
        Format::Json => output::print(&output::json(&found)?)?,
        Format::Table => {
            let look = args.color.look();
            output::print_painted(&found.text(look), look)?;
        }
    }
    Ok(ExitCode::from(found.exit_code()))
}

/// Whether etcd's database is full, as far as etcd lets this user ask.
async fn full(store: &Store) -> bool {
    store.is_full().await.unwrap_or_default()
}

/// All that etcd has below the prefix; `None` where there is nothing, which is then a finding.
async fn read(store: &Store, found: &mut Examination) -> anyhow::Result<Option<State>> {
    let error = match State::read_settled(store, 1).await {
        Ok(state) => return Ok(Some(state)),
        Err(error) => error,
    };
    // Only an etcd that answers shows which prefix is meant, and only to who may read everything.
    let Ok(used) = store.prefixes_in_use().await else {
        bail!(error);
    };
    let own = store.keyspace().to_string();
    if used.contains(&own) {
        bail!(error);
    }
    let used: Vec<String> = used.into_iter().collect();
    let (what, cure) = match used.as_slice() {
        [] => (
            "etcd has nothing of Mayfly at all".to_owned(),
            "start the daemons, or give the etcd that they use by --etcd (MAYFLY_ETCD)".to_owned(),
        ),
        [first, ..] => (
            format!("there is no record; the daemons report below {}", used.join(", ")),
            format!("give the prefix of the daemons: --prefix {first} (MAYFLY_PREFIX)"),
        ),
    };
    found.push(DoctorCheck::Prefix, format!("prefix {own}"), what, cure);
    Ok(None)
}
