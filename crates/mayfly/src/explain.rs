//! `mayfly explain`: how a request is routed, step by step, and where it would fail. What routers do is core's; this
//! reads etcd once, makes a request of the arguments, and prints.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use mayfly_core::explain::{Answer, Explanation, Request, Settings, Side, bare_host};
use mayfly_core::names::{EnvironmentName, Hostname, ServiceName};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, Format, Table, printable};

use crate::state::{DaemonView, State};

const EXAMPLES: &str = "\
Examples:
  mayfly explain http://www-temp-1.example.com/api/x       from outside
  mayfly explain www-temp-1.example.com
  mayfly explain temp-1 backend                            a call of backend inside temp-1
  mayfly explain backend.service --header temp-1           the same, as the router sees it

JSON: {\"side\": \"edge\" or \"internal\", \"steps\": [{\"step\", \"key\", \"found\", \"note\"}], \"answer\":
  {\"answered_by\": \"backend\", \"backend\", \"environment\", \"origin\", \"servers\"} or
  {\"answered_by\": \"router\", \"status\", \"text\"}}

Exit codes: 0 an instance would answer; 1 none would; 2 the command line is wrong.";

/// Explain step by step how a request is routed, and where it would fail and why
///
/// It goes by what stands in etcd, as the routers do. Whether an instance that is registered really answers, only the
/// routers' own checks know.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A URL or a host; or an environment, with a service after it
    #[arg(value_name = "URL|HOST|ENV")]
    pub target: String,

    /// The service that is called inside the environment
    #[arg(value_name = "SERVICE")]
    pub service: Option<ServiceName>,

    /// The value of x-mayfly that the request has
    #[arg(long, value_name = "VALUE")]
    pub header: Option<String>,

    /// The domain of the services' names [default: what the routers say, else service]
    #[arg(long, env = "MAYFLY_DOMAIN", value_name = "NAME")]
    pub domain: Option<Hostname>,

    /// The environment of internal requests that name none [default: what the routers say]
    #[arg(long, env = "MAYFLY_DEFAULT_ENVIRONMENT", value_name = "NAME")]
    pub default_environment: Option<EnvironmentName>,

    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Explains.
///
/// # Errors
/// When the arguments make no request, or etcd does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let state = State::read(&common.store(), 1).await?;
    let settings = settings(&state, args)?;
    let request = request(&state, args, &settings)?;
    let explanation = state.index.explain(&settings, &request);
    output::print(&match args.format {
        Format::Json => output::json(&explanation)?,
        Format::Table => text(&explanation),
    })?;
    let mut routers = state.daemons();
    routers.retain(|daemon| daemon.daemon == "haproxy-updater");
    if routers.is_empty() {
        eprintln!("note: no router is there that would do so");
    }
    for DaemonView { node, error, lag, .. } in &routers {
        match (error, lag) {
            (Some(error), _) => eprintln!("note: router {node} may do otherwise: {}", printable(error)),
            (None, 0) => {}
            (None, _) => eprintln!("note: router {node} lags behind, and may do otherwise for a moment"),
        }
    }
    Ok(match explanation.answer.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn settings(state: &State, args: &Args) -> anyhow::Result<Settings> {
    let told = state.settings();
    let domain = match (&args.domain, &told) {
        (Some(domain), _) => domain.clone(),
        (None, Some(told)) => told.domain.clone(),
        (None, None) => "service".parse()?,
    };
    let theirs = told.as_ref().and_then(|told| told.default_environment.clone());
    Ok(Settings {
        domain,
        default_environment: args.default_environment.clone().or(theirs),
        allow_header_at_edge: told.is_some_and(|told| told.allow_header_at_edge),
    })
}

fn request(state: &State, args: &Args, settings: &Settings) -> anyhow::Result<Request> {
    let Some(service) = &args.service else {
        let (host, path) = host_and_path(&args.target)?;
        let suffix = format!(".{}", settings.domain);
        let side = match bare_host(&host).ends_with(&suffix) {
            true => Side::Internal,
            false => Side::Edge,
        };
        let value = args.header.clone();
        return Ok(Request {
            side,
            host,
            path,
            value,
        });
    };
    let name: EnvironmentName = args
        .target
        .parse()
        .context("the first of two is an environment")?;
    let Some(environment) = state.index.environment(&name) else {
        bail!("{}", state.unknown(&name));
    };
    let own = environment.header.to_string();
    Ok(Request {
        side: Side::Internal,
        host: Hostname::of_service(service, &settings.domain)?.to_string(),
        path: "/".to_owned(),
        value: Some(args.header.clone().unwrap_or(own)),
    })
}

/// The host, with its port, and the path of a URL, with or without a scheme.
fn host_and_path(target: &str) -> anyhow::Result<(String, String)> {
    let rest = match target.split_once("://") {
        Some((scheme, rest)) if ["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) => rest,
        Some((scheme, _)) => bail!("{scheme}:// is not routed; a URL begins with http:// or https://"),
        None => target,
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@') {
        bail!(
            "{:?} has no host; a URL looks like http://www-temp-1.example.com/api",
            printable(target)
        );
    }
    Ok((host.to_owned(), path.to_owned()))
}

fn text(explanation: &Explanation) -> String {
    let mut table = Table::new(["STEP", "LOOKED UP", "FOUND", "NOTE"]);
    for step in &explanation.steps {
        table.row([
            step.step.to_owned(),
            step.key.clone(),
            step.found.clone().unwrap_or_else(|| "-".to_owned()),
            step.note.clone().unwrap_or_default(),
        ]);
    }
    let end = match &explanation.answer {
        Answer::Backend {
            backend,
            environment,
            origin,
            servers,
        } => {
            format!(
                "answered by {backend} in {environment} ({origin}) at {}",
                servers.join(" or ")
            )
        }
        Answer::Router { text, .. } => format!("the router answers itself with {text}"),
    };
    format!("{}\n{}\n", table.render(), printable(&end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_hosts() {
        for (target, host, path) in [
            (
                "http://www-a.example.com:81/api/x?y=1#z",
                "www-a.example.com:81",
                "/api/x",
            ),
            ("HTTPS://www-a", "www-a", "/"),
            ("www-a.example.com", "www-a.example.com", "/"),
            ("www-a/x/", "www-a", "/x/"),
            ("www-a?x", "www-a", "/"),
        ] {
            assert_eq!(
                host_and_path(target).unwrap(),
                (host.to_owned(), path.to_owned()),
                "{target}"
            );
        }
        for bad in ["", "/x", "ftp://a/", "http://", "a b"] {
            assert!(host_and_path(bad).is_err(), "{bad}");
        }
    }
}
