//! What `mayfly explain` answers: how a request is routed, step by step, and where it would fail.
//! What routers do is core's; this makes a request of what is asked, and adds what only etcd says:
//! what has ended, what is kept, and what the launcher does.

mod text;

use std::net::IpAddr;
use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};
use mayfly_core::explain::{Explanation, Login, Request, Responder, Settings, Side, Step, bare_host};
use mayfly_core::keys::{Daemon, Key};
use mayfly_core::launching::{Backend, Phase};
use mayfly_core::names::{EnvironmentName, Hostname, ServiceName};
use mayfly_core::records::Environment;
use mayfly_core::records::access::UserName;
use mayfly_core::version::BackendId;
use mayfly_daemon::output::{Look, printable};
use serde::Serialize;

use crate::attention;
use crate::launchers::{self, Launchers};
use crate::state::{DaemonView, State};
use text::{needs_attention, text};

#[derive(Debug, Clone, Default)]
pub struct ExplainRequest {
    /// A URL or a host; with a service, an environment.
    pub target: String,
    /// The service that is called inside the environment.
    pub service: Option<ServiceName>,
    /// The value of `x-mayfly` that is sent.
    pub header: Option<String>,
    /// The cookies that are sent.
    pub cookie: String,
    /// Who gives the right password.
    pub user: Option<UserName>,
    /// The address of the client.
    pub from: Option<IpAddr>,
    /// The domain of the services' names, where the routers' is not meant.
    pub domain: Option<Hostname>,
    /// The environment of requests that name none, where the routers' is not meant.
    pub default_environment: Option<EnvironmentName>,
}

#[derive(Debug)]
pub struct Explained {
    /// What is printed as JSON.
    pub output: ExplainOutput,
    /// The routers, whose state may differ.
    pub routers: Vec<DaemonView>,
}

impl Explained {
    /// The answer for people.
    pub fn text(&self, look: Look) -> String {
        let needed = needs_attention(&self.output, &self.routers);
        text(&self.output, look) + &attention::sentence(&needed, look)
    }
}

/// Explains how a request is routed.
///
/// # Errors
/// When what is asked makes no request.
pub fn explain(state: &State, asked: &ExplainRequest, now: SystemTime) -> anyhow::Result<Explained> {
    let settings = settings(state, asked)?;
    let request = request(state, asked, &settings)?;
    let mut explanation = state.index.explain(&settings, &request);
    tell_end(&mut explanation, state, now);
    tell_kept(&mut explanation, state);
    let mut routers = state.daemons();
    routers.retain(|daemon| daemon.daemon == Daemon::HaproxyUpdater);
    let mut output = ExplainOutput::of(explanation, &state.launchers());
    output.environment = EnvironmentLack::of(state, &output.explanation.answer);
    Ok(Explained { output, routers })
}

/// Where nobody has the prefix or header, says of whom it was that has ended: that is meant rather
/// than what is spelt alike.
fn tell_end(explanation: &mut Explanation, state: &State, now: SystemTime) {
    // The routers say so themselves.
    if matches!(explanation.answer, Responder::Router { status: 410, .. }) {
        return;
    }
    let Some(step) = explanation.steps.last_mut().filter(|step| step.found.is_none()) else {
        return;
    };
    let key = step.key.as_str();
    let ended = match step.step {
        "prefix" => state.ended_with(|environment| environment.prefix.as_str() == key),
        "environment" => state.ended_with(|environment| environment.header.as_str() == key),
        "default environment" => state.ended_with(|environment| environment.name.as_str() == key),
        _ => None,
    };
    let Some(environment) = ended else { return };
    let is_there = |other: &Environment| match step.step {
        "prefix" => other.prefix == environment.prefix,
        _ => other.header == environment.header,
    };
    // One that wants it now and is set aside says more.
    if !state.index.environments().any(is_there) {
        let kept = state.only_kept(&environment.name);
        step.note = Some(kept.unwrap_or_else(|| state.end_in_words(environment, now)));
    }
}

/// Where instances are looked for, says which routers keep one that etcd has lost.
fn tell_kept(explanation: &mut Explanation, state: &State) {
    let steps = explanation.steps.iter_mut();
    for step in steps.filter(|step| step.step == "instances") {
        let backend = step.key.clone();
        let is_of_it = |key: &Key| matches!(key, Key::Instance(kept, _) if kept.to_string() == backend);
        if let Some(keepers) = state.keepers(is_of_it) {
            let kept = format!("{keepers} the vanished instances of this backend while they answer");
            step.note = Some(match step.note.take() {
                Some(note) => format!("{note}; {kept}"),
                None => kept,
            });
        }
    }
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
pub struct ExplainOutput {
    /// The way of the request, and what becomes of it.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// What a launcher says of a backend without an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launching: Option<Backend>,
    /// What the environment lacks that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentLack>,
}

/// What an environment lacks in which an instance answers: the calls that this instance makes may
/// fail.
#[derive(Debug, Serialize)]
pub struct EnvironmentLack {
    pub name: EnvironmentName,
    /// Whether only a part of it is set aside, and every service has its instances.
    pub complete: bool,
    /// What is missing or set aside, in words.
    pub reasons: Vec<String>,
}

impl EnvironmentLack {
    fn of(state: &State, answer: &Responder) -> Option<Self> {
        let Responder::Backend { environment, .. } = answer else {
            return None;
        };
        let view = state.index.view(&environment.parse().ok()?)?;
        let reasons = view.reasons();
        (!reasons.is_empty()).then_some(Self {
            name: view.name,
            complete: view.complete,
            reasons,
        })
    }
}

impl ExplainOutput {
    /// Where no instance answers, one more step: what the launcher does about it.
    fn of(mut explanation: Explanation, launchers: &Launchers) -> Self {
        let nobody = matches!(explanation.answer, Responder::Router { status: 503, .. });
        let wanted = explanation.steps.last().filter(|_| nobody);
        let (step, launching) = wanted
            .and_then(|step| about(&step.key, launchers))
            .map_or((None, None), |(step, backend)| (Some(step), backend));
        explanation.steps.extend(step);
        Self {
            explanation,
            launching,
            environment: None,
        }
    }
}

/// What a launcher does about a backend, or a service at a selector that nothing fits; nothing,
/// where that is none of its business.
fn about(wanted: &str, launchers: &Launchers) -> Option<(Step, Option<Backend>)> {
    let step = |found: Option<String>, note: Option<String>| Step {
        step: "launcher",
        key: wanted.to_owned(),
        found,
        note,
    };
    let (service, selector) = wanted.split_once('@')?;
    let backend: Option<BackendId> = wanted.parse().ok();
    let is_elsewhere = |id: &BackendId| id.version.is_outside() || id.version.is_on_laptop();
    if !launchers.are_there || backend.as_ref().is_some_and(is_elsewhere) {
        return None;
    }
    let Some(leader) = &launchers.leader else {
        return Some((step(None, Some(launchers::NONE_LEADS.to_owned())), None));
    };
    let said = backend.as_ref().and_then(|backend| launchers.backend(backend));
    let Some(said) = said else {
        let note = match backend.filter(|backend| backend.version.as_str() != "latest") {
            Some(_) => format!(
                "the container-launcher of {} reports nothing about it",
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
                "no service definition describes how to start {service} at {selector}: write a \
                 definition, or start an instance by hand"
            )),
        ),
        _ => step(Some(launchers::words(said)), None),
    };
    Some((told, Some(said.clone())))
}

/// What the routers report, or what is asked for instead. Without a router they are the defaults:
/// whoever explains says so.
fn settings(state: &State, asked: &ExplainRequest) -> anyhow::Result<Settings> {
    let told = state.settings();
    let domain = match (&asked.domain, &told) {
        (Some(domain), _) => domain.clone(),
        (None, Some(told)) => told.domain.clone(),
        (None, None) => "service".parse()?,
    };
    let theirs = told.as_ref().and_then(|told| told.default_environment.clone());
    Ok(Settings {
        domain,
        default_environment: asked.default_environment.clone().or(theirs),
        allow_header_at_edge: told.as_ref().is_some_and(|told| told.allow_header_at_edge),
        share_links: told.as_ref().map(|told| told.share_links).unwrap_or_default(),
        health_path: told.as_ref().and_then(|told| told.health_path.clone()),
        redirect_to_https: told.and_then(|told| told.redirect_to_https),
    })
}

fn request(state: &State, asked: &ExplainRequest, settings: &Settings) -> anyhow::Result<Request> {
    let Some(service) = &asked.service else {
        let (tls, host, path, query) = parts(&asked.target)?;
        let suffix = format!(".{}", settings.domain);
        let bare = bare_host(&host);
        let side = match bare.ends_with(&suffix) || is_short(state, &bare, asked.header.is_some()) {
            true => Side::Internal,
            false => Side::Edge,
        };
        let value = asked.header.clone();
        return Ok(Request {
            side,
            tls,
            host,
            path,
            query,
            cookie: asked.cookie.clone(),
            from: asked.from,
            login: asked.user.as_ref().map(|user| Login {
                user: user.to_string(),
                password: None,
            }),
            value,
        });
    };
    // They would mean nothing, or another environment than the one that is named.
    ensure!(
        asked.header.is_none() && asked.cookie.is_empty() && asked.user.is_none() && asked.from.is_none(),
        "a call of a service in an environment has the header of that environment: leave out header, cookie, \
         user and from, or ask about the host of the service"
    );
    let name: EnvironmentName = asked
        .target
        .parse()
        .context("the first of two arguments is an environment")?;
    let Some(environment) = state.index.environment(&name) else {
        bail!("{}", state.unknown(&name));
    };
    Ok(Request {
        side: Side::Internal,
        tls: true,
        host: Hostname::of_service(service, &settings.domain)?.to_string(),
        path: "/".to_owned(),
        query: String::new(),
        cookie: String::new(),
        from: None,
        login: None,
        value: Some(environment.header.to_string()),
    })
}

/// Whether a host is a service by its short name, as services with a search domain call it;
/// prefixes come first.
fn is_short(state: &State, host: &str, has_header: bool) -> bool {
    let routing = state.index.routing();
    let service: Option<ServiceName> = host.parse().ok();
    let has_service = |environment: &Environment| {
        let choice = service
            .as_ref()
            .and_then(|service| routing.choice(&environment.name, service));
        choice.is_some()
    };
    let is_prefix = host
        .parse()
        .is_ok_and(|prefix| routing.header_of(&prefix).is_some());
    !host.contains('.') && !is_prefix && (has_header || state.index.environments().any(has_service))
}

/// Of a URL, with or without a scheme: whether it is one of HTTPS, the host with its port, the
/// path, and the query. Without a scheme nobody asks about the redirect from HTTP.
fn parts(target: &str) -> anyhow::Result<(bool, String, String, String)> {
    let tls = !target.to_ascii_lowercase().starts_with("http://");
    let rest = match target.split_once("://") {
        Some((scheme, rest)) if ["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) => rest,
        Some((scheme, _)) => bail!("{scheme}:// is not routed; a URL begins with http:// or https://"),
        None => target,
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    // Without what is before the `@`: it may be a password.
    ensure!(
        !host.contains('@'),
        "the URL has a user name before the `@`: leave out the user name and the password"
    );
    ensure!(
        !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control()),
        "`{}` has no host; a URL looks like http://www-temp-1.example.com/api",
        printable(target)
    );
    Ok((tls, host.to_owned(), path.to_owned(), query.to_owned()))
}

#[cfg(test)]
mod tests;
