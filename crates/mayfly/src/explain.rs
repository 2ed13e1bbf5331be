//! `mayfly explain`: how a request is routed, step by step, and where it would fail. What routers
//! do is core's, and `mayfly_state` makes the answer; this reads etcd once and prints.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::SystemTime;

use mayfly_core::names::{EnvironmentName, Hostname, ServiceName};
use mayfly_core::records::access::UserName;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, Color, Format, complain, printable};
use mayfly_state::explain::{ExplainRequest, explain};
use mayfly_state::state::{DaemonView, State};

const EXAMPLES: &str = "\
Examples:
  mayfly explain http://www-temp-1.example.com/api/x       a request from outside
  mayfly explain www-temp-1.example.com
  mayfly explain 'https://www.example.com/?mayfly=temp-1'  a link on another host
  mayfly explain www-temp-1.example.com --user guest       a request of the user guest
  mayfly explain temp-1 backend                            a call to backend inside temp-1
  mayfly explain backend.service --header temp-1           the same call, in the form that a router sees

JSON: {\"side\": \"edge\" or \"internal\", \"steps\": [{\"step\", \"key\", \"found\", \"note\"}], \"answer\":
  {\"answered_by\": \"backend\", \"backend\", \"environment\", \"origin\", \"servers\"} or
  {\"answered_by\": \"router\", \"status\", \"text\"}}
  and `launching`: what the container-launcher reports about a backend without an instance; and `environment`, if an
  instance answers in an environment that lacks something: {\"name\", \"complete\", \"reasons\"}

Exit codes: 0 an instance would answer; 1 no instance would answer; 2 wrong command line.";

/// Explains step by step how a request is routed, and where and why it would fail
///
/// The command reads etcd, as the routers do. It does not know whether a registered instance really
/// answers: only the routers check that. If no instance is registered, the command shows what the
/// container-launcher does about it. If the environment is incomplete, the last line says what is
/// missing, because the instance that answers may call it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to explain: a URL, a host name, or an environment with a SERVICE
    ///
    /// A host without a scheme counts as an https:// URL. The redirect to HTTPS applies only to a
    /// URL with http://.
    #[arg(value_name = "URL|HOST|ENV")]
    pub target: String,

    /// The service that gets the request inside the environment
    #[arg(value_name = "SERVICE")]
    pub service: Option<ServiceName>,

    /// Explains a request with this value of the header x-mayfly
    ///
    /// Not with an environment and a SERVICE: such a call has the header of the environment.
    #[arg(long, value_name = "VALUE", conflicts_with = "service")]
    pub header: Option<String>,

    /// Explains a request that has these cookies, such as mayfly=temp-1
    #[arg(long, value_name = "COOKIES", default_value = "", conflicts_with = "service")]
    pub cookie: String,

    /// Explains a request as if this user had sent it with the right password
    #[arg(long, value_name = "NAME", conflicts_with = "service")]
    pub user: Option<UserName>,

    /// Explains a request from this address
    #[arg(long, value_name = "IP", conflicts_with = "service")]
    pub from: Option<IpAddr>,

    /// Sets the domain of service names [default: the domain that the routers report, or `service`]
    #[arg(long, env = "MAYFLY_DOMAIN", value_name = "NAME")]
    pub domain: Option<Hostname>,

    /// Uses this environment for internal requests that name no environment [default: the
    /// environment that the routers report]
    #[arg(long, env = "MAYFLY_DEFAULT_ENVIRONMENT", value_name = "NAME")]
    pub default_environment: Option<EnvironmentName>,

    /// Prints the output in this format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// Chooses when to use colour
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub color: Color,
}

/// Explains.
///
/// # Errors
/// When the arguments make no request, or etcd does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let state = State::read_settled(&common.store()?, 1).await?;
    let explained = explain(&state, &question(args), SystemTime::now())?;
    let look = args.color.look();
    match args.format {
        Format::Json => output::print(&output::json(&explained.output)?)?,
        Format::Table => output::print_painted(&explained.text(look), look)?,
    }
    if explained.routers.is_empty() {
        complain("note: no router is registered");
    }
    for DaemonView { node, error, lag, .. } in &explained.routers {
        match (error, lag) {
            (Some(error), _) => complain(&format!(
                "note: router {node} may route differently: {}",
                printable(error)
            )),
            (None, 0) => {}
            (None, _) => complain(&format!(
                "note: router {node} lags behind and may route differently for a moment"
            )),
        }
    }
    Ok(match explained.output.explanation.answer.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn question(args: &Args) -> ExplainRequest {
    ExplainRequest {
        target: args.target.clone(),
        service: args.service.clone(),
        header: args.header.clone(),
        cookie: args.cookie.clone(),
        user: args.user.clone(),
        from: args.from,
        domain: args.domain.clone(),
        default_environment: args.default_environment.clone(),
    }
}
