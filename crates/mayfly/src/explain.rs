//! `mayfly explain`: how a request is routed, step by step, and where it would fail. What routers do is core's; this
//! reads etcd once, makes a request of the arguments, and prints.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use mayfly_core::explain::{Answer, Explanation, Request, Settings, Side, Step, bare_host};
use mayfly_core::launching::{Backend, Phase};
use mayfly_core::names::{EnvironmentName, Hostname, ServiceName};
use mayfly_core::records::Environment;
use mayfly_core::routing::Table as Rows;
use mayfly_core::version::BackendId;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, Format, Table, complain, printable};
use serde::Serialize;

use crate::launchers::{self, Launchers};
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
  and `launching`, what a container-launcher says of the backend, where it has something to say of one without an instance

Exit codes: 0 an instance would answer; 1 none would; 2 the command line is wrong.";

/// Explain step by step how a request is routed, and where it would fail and why
///
/// It goes by what stands in etcd, as the routers do. Whether an instance that is registered really answers, only the
/// routers' own checks know. Where there is none, it says what a container-launcher does about that.
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
    let state = State::read(&common.store()?, 1).await?;
    let settings = settings(&state, args)?;
    let request = request(&state, args, &settings)?;
    let told = Told::of(state.index.explain(&settings, &request), &state.launchers());
    output::print(&match args.format {
        Format::Json => output::json(&told)?,
        Format::Table => text(&told),
    })?;
    let mut routers = state.daemons();
    routers.retain(|daemon| daemon.daemon == "haproxy-updater");
    if routers.is_empty() {
        complain("note: no router is there that would do so");
    }
    for DaemonView { node, error, lag, .. } in &routers {
        match (error, lag) {
            (Some(error), _) => complain(&format!(
                "note: router {node} may do otherwise: {}",
                printable(error)
            )),
            (None, 0) => {}
            (None, _) => complain(&format!(
                "note: router {node} lags behind, and may do otherwise for a moment"
            )),
        }
    }
    Ok(match told.explanation.answer.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    explanation: Explanation,
    /// What a launcher says of a backend without an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    launching: Option<Backend>,
}

impl Told {
    /// Where no instance answers, one more step: what the launcher does about it.
    fn of(mut explanation: Explanation, launchers: &Launchers) -> Self {
        let nobody = matches!(explanation.answer, Answer::Router { status: 503, .. });
        let wanted = explanation.steps.last().filter(|_| nobody);
        let (step, launching) = wanted
            .and_then(|step| about(&step.key, launchers))
            .map_or((None, None), |(step, backend)| (Some(step), backend));
        explanation.steps.extend(step);
        Self {
            explanation,
            launching,
        }
    }
}

/// What a launcher does about a backend, or a service at a selector that nothing fits; nothing, where that is none of its
/// business.
fn about(wanted: &str, launchers: &Launchers) -> Option<(Step, Option<Backend>)> {
    let step = |found: Option<String>, note: Option<String>| Step {
        step: "launcher",
        key: wanted.to_owned(),
        found,
        note,
    };
    let (service, selector) = wanted.split_once('@')?;
    let backend: Option<BackendId> = wanted.parse().ok();
    if !launchers.are_there || backend.as_ref().is_some_and(|id| id.version.is_outside()) {
        return None;
    }
    let Some(leader) = &launchers.leader else {
        return Some((step(None, Some(launchers::NONE_LEADS.to_owned())), None));
    };
    let said = backend.as_ref().and_then(|backend| launchers.backend(backend));
    let Some(said) = said else {
        let note = match backend.filter(|backend| backend.version.as_str() != "latest") {
            Some(_) => format!(
                "the container-launcher of {} does not say anything of it",
                leader.node
            ),
            None => launchers::only_exact(service, selector),
        };
        return Some((step(None, Some(note)), None));
    };
    let told = match said.phase {
        Phase::NoDefinition => step(
            None,
            Some(format!(
                "no definition says how {service} is started at {selector}: write one, or start an instance by hand"
            )),
        ),
        _ => step(Some(launchers::words(said)), None),
    };
    Some((told, Some(said.clone())))
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
        allow_header_at_edge: told.as_ref().is_some_and(|told| told.allow_header_at_edge),
        health_path: told.and_then(|told| told.health_path),
    })
}

fn request(state: &State, args: &Args, settings: &Settings) -> anyhow::Result<Request> {
    let Some(service) = &args.service else {
        let (host, path) = host_and_path(&args.target)?;
        let suffix = format!(".{}", settings.domain);
        let bare = bare_host(&host);
        let side = match bare.ends_with(&suffix) || is_short(state, &bare, args.header.is_some()) {
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

/// Whether a host is a service by its short name, as services with a search domain call it;
/// prefixes come first.
fn is_short(state: &State, host: &str, has_header: bool) -> bool {
    let routing = state.index.routing();
    let has_service = |environment: &Environment| {
        let key = format!("{}/{host}", environment.name);
        routing.look_up(Rows::Versions, &key).is_some()
    };
    let is_prefix = routing.look_up(Rows::Edge, host).is_some();
    !host.contains('.') && !is_prefix && (has_header || state.index.environments().any(has_service))
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

fn text(told: &Told) -> String {
    let Told {
        explanation,
        launching,
    } = told;
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
    let wanted = explanation.steps.last().map(|step| &step.key);
    let output = launchers::outputs(wanted.zip(launching.as_ref()));
    format!("{}\n{}\n{output}", table.render(), printable(&end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::launching::Launching;

    fn explained(status: u16, wanted: &str, launchers: &Launchers) -> Told {
        let step = Step {
            step: "instances",
            key: wanted.to_owned(),
            found: None,
            note: None,
        };
        let explanation = Explanation {
            side: Side::Internal,
            steps: vec![step],
            answer: Answer::Router {
                status,
                text: "nobody".to_owned(),
            },
        };
        Told::of(explanation, launchers)
    }

    #[test]
    fn where_nobody_answers_the_launcher_is_asked() {
        let backend = |phase| Backend {
            phase,
            wanted: 1,
            live: 0,
            failure: None,
            failures: 2,
            next_try: None,
            output: vec!["no such file".to_owned()],
        };
        let failed = Phase::Failed {
            reason: "exited with 1".to_owned(),
        };
        let backends = [
            ("a@1".to_owned(), backend(failed)),
            ("b@1".to_owned(), backend(Phase::NoDefinition)),
        ];
        let mut launchers = Launchers::default();
        assert_eq!(explained(503, "a@1", &launchers).explanation.steps.len(), 1);
        launchers.are_there = true;
        let nobody = text(&explained(503, "a@1", &launchers));
        assert!(nobody.contains(launchers::NONE_LEADS), "{nobody}");
        launchers.leader = Some(launchers::Leader {
            node: "host-1".parse().unwrap(),
            is_current: true,
            launching: Launching {
                leading: true,
                backends: backends.into(),
                ..Launching::default()
            },
        });
        for (wanted, expected) in [
            ("a@1", "failed: exited with 1 (failed 2 times in a row)"),
            ("a@1", "\n  a@1 printed last:\n    no such file\n"),
            ("b@1", "no definition says how b is started at 1"),
            ("c@1", "launcher of host-1 does not say anything of it"),
            ("a@^1", "exact versions only, and a is asked for as ^1"),
            ("a@latest", "exact versions only, and a is asked for as latest"),
        ] {
            let told = text(&explained(503, wanted, &launchers));
            assert!(told.contains(expected), "no {expected:?} in {told}");
        }
        for (status, wanted) in [(404, "a@1"), (508, "a@1"), (503, "a@http://a.example")] {
            let told = explained(status, wanted, &launchers);
            assert_eq!((told.explanation.steps.len(), told.launching), (1, None));
        }
    }

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
