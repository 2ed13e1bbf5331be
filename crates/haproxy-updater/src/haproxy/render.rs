//! haproxy.cfg from its template: a pure function of the settings and of the servers in their
//! slots. A hash of the settings alone is part of the configuration, so a running HAProxy can be
//! asked which settings it has.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail};
use mayfly_core::explain::ShareLinks;
use mayfly_core::names::{EnvironmentName, Hostname};
use mayfly_core::records::ended::{self, Why};
use mayfly_core::routing::Table;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::haproxy::maps::Map;
use crate::haproxy::tls::CRT_LIST;
use crate::haproxy::tokens::{
    Bind, CaFile, ConfigPath, EdgeBind, HealthPath, Millis, Pseudonym, ServerName, Slot, shown_as_they_are,
};
use crate::haproxy::traces::Traces;

/// The template that is used unless the operator gives another.
pub const TEMPLATE: &str = include_str!("../../templates/haproxy.cfg.tera");
const NAME: &str = "haproxy.cfg";

/// The longest head that passes HAProxy's buffer of 16,384 bytes together with the headers that are
/// added.
const HEAD_BYTES: &str = "14,800";

/// On which side a response says which backend answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AnsweredBy {
    /// Only on the internal side
    #[default]
    Internal,
    /// On the internal side and at the edge
    Everywhere,
    /// Nowhere
    Never,
}

/// What the operator decides about the configuration. Every field is a checked type.
#[derive(Debug, Clone)]
pub struct RenderSettings {
    pub runtime_socket: ConfigPath,
    /// The directory of the maps.
    pub maps: ConfigPath,
    /// Listeners for traffic from outside.
    pub edge: Vec<EdgeBind>,
    /// Listeners for TLS from outside.
    pub tls: TlsSettings,
    /// Where HAProxy itself says at the edge that it serves.
    pub health_path: HealthPath,
    /// Listeners for traffic between services.
    pub internal: Vec<Bind>,
    /// How this router recognizes requests that it has sent outside.
    pub pseudonym: Pseudonym,
    /// The domain of the services' names.
    pub domain: Hostname,
    /// The environment of internal requests that name none.
    pub default_environment: Option<EnvironmentName>,
    /// Whether a client may choose its environment by `x-mayfly`.
    pub allow_header_at_edge: bool,
    /// On which hosts a link chooses the environment.
    pub share_links: ShareLinks,
    /// Whether another proxy, whose `x-forwarded-*` can be believed, stands before the edge.
    pub behind_proxy: bool,
    /// Who learns which backend answered.
    pub answered_by: AnsweredBy,
    /// How the environment travels with a trace.
    pub traces: Traces,
    /// Whether HAProxy logs each request to its standard output.
    pub access_log: bool,
    /// Whether heads of 32 kB pass, in place of [`HEAD_BYTES`].
    pub large_heads: bool,
    /// The authorities that certificates of servers behind TLS are verified with.
    pub ca_file: CaFile,
    /// How long a connection to an instance may take to open.
    pub connect_timeout: Millis,
    /// How long an instance may take to answer, and a connection may be silent.
    pub idle_timeout: Millis,
    /// How long an upgraded connection (WebSocket) may be silent.
    pub tunnel_timeout: Millis,
}

/// How the edge serves TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    pub binds: Vec<EdgeBind>,
    /// The directory of the certificates that HAProxy reads.
    pub certificates: ConfigPath,
    /// Whether there are any: without one HAProxy does not start with such a listener.
    pub are_there: bool,
    /// Whether requests in clear text are redirected.
    pub redirect: bool,
}

/// The same for the template, where there are listeners and certificates.
#[derive(Serialize)]
struct TlsView {
    binds: Vec<String>,
    crt_list: ConfigPath,
    /// The port that requests in clear text are redirected to, with its colon; nothing for that of
    /// `https`.
    redirect: Option<String>,
}

impl TlsSettings {
    /// The port that requests in clear text are redirected to, where they are.
    pub fn redirects_to(&self) -> Option<u16> {
        let first = self.binds.first().filter(|_| self.are_there && self.redirect)?;
        Some(first.place.place().1)
    }

    fn view(&self) -> Option<TlsView> {
        let is_served = self.are_there && !self.binds.is_empty();
        let redirect = self.redirects_to().map(|port| match port {
            443 => String::new(),
            port => format!(":{port}"),
        });
        is_served.then(|| TlsView {
            binds: self.binds.iter().map(EdgeBind::to_string).collect(),
            crt_list: self.certificates.join(CRT_LIST),
            redirect,
        })
    }
}

/// A server as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerLine {
    /// Its name in the slot.
    pub name: ServerName,
    /// Its address, `ip:port`.
    pub address: String,
    /// All its options, from [`crate::haproxy::commands::server_options`].
    pub options: String,
}

/// The servers of the slots that have any.
pub type SlotServers = BTreeMap<Slot, Vec<ServerLine>>;

#[derive(Serialize)]
struct SlotView<'a> {
    name: String,
    servers: &'a [ServerLine],
}

/// Which settings a configuration has: a hash over all of it but the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// As it stands in the description of the configuration.
    pub fn description(&self) -> String {
        format!("mayfly {}", self.0)
    }
}

shown_as_they_are!(Fingerprint);

/// A configuration that has all that Mayfly relies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    pub fingerprint: Fingerprint,
}

/// A template together with the settings that it is rendered with.
#[derive(Debug)]
pub struct Renderer {
    tera: tera::Tera,
    settings: RenderSettings,
    /// Fingerprints by number of slots, so that asking for one again costs nothing.
    fingerprints: Mutex<BTreeMap<u32, Fingerprint>>,
}

impl Renderer {
    /// Reads a template.
    ///
    /// # Errors
    /// When it is not a Tera template; the message has the place.
    pub fn new(template: &str, settings: RenderSettings) -> anyhow::Result<Self> {
        let mut tera = tera::Tera::default();
        tera.autoescape_on(Vec::new());
        tera.add_raw_template(NAME, template)
            .context("cannot read the template of haproxy.cfg")?;
        Ok(Self {
            tera,
            settings,
            fingerprints: Mutex::default(),
        })
    }

    /// The settings it renders with.
    pub fn settings(&self) -> &RenderSettings {
        &self.settings
    }

    /// The internal side is to listen here from now on.
    pub fn listen_at(&mut self, internal: Bind) {
        self.settings.internal = vec![internal];
        self.fingerprints = Mutex::default();
    }

    /// Whether there are certificates from now on. Says whether that is new.
    pub fn serve_tls(&mut self, are_there: bool) -> bool {
        let is_new = std::mem::replace(&mut self.settings.tls.are_there, are_there) != are_there;
        if is_new {
            self.fingerprints = Mutex::default();
        }
        is_new
    }

    /// Renders the configuration with `total` slots.
    ///
    /// # Errors
    /// When the template asks for something that does not exist, or its result lacks something that
    /// Mayfly relies on.
    pub fn render(&self, total: u32, servers: &SlotServers) -> anyhow::Result<Rendered> {
        let fingerprint = self.fingerprint(total)?;
        let text = self.text(total, servers, &fingerprint.0)?;
        check(&text, total, &self.settings, &fingerprint)?;
        Ok(Rendered { text, fingerprint })
    }

    /// The fingerprint that the configuration with `total` slots has.
    ///
    /// # Errors
    /// When the template cannot be rendered.
    pub fn fingerprint(&self, total: u32) -> anyhow::Result<Fingerprint> {
        let mut known = self.fingerprints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fingerprint) = known.get(&total) {
            return Ok(fingerprint.clone());
        }
        let hash = Sha256::digest(self.text(total, &SlotServers::new(), "")?);
        let fingerprint = Fingerprint(hex::encode(&hash[..8]));
        known.insert(total, fingerprint.clone());
        Ok(fingerprint)
    }

    fn text(&self, total: u32, servers: &SlotServers, hash: &str) -> anyhow::Result<String> {
        let settings = &self.settings;
        let slots: Vec<SlotView> = (1..=total)
            .map(Slot)
            .map(|slot| SlotView {
                name: slot.to_string(),
                servers: servers.get(&slot).map_or(&[], Vec::as_slice),
            })
            .collect();
        let mut context = tera::Context::new();
        context.insert("hash", hash);
        context.insert("runtime_socket", &settings.runtime_socket);
        context.insert("maps", &settings.maps);
        context.insert(
            "binds",
            &BTreeMap::from([
                ("edge", texts(&settings.edge)),
                ("internal", texts(&settings.internal)),
            ]),
        );
        context.insert("tls", &settings.tls.view());
        context.insert("health_path", &settings.health_path);
        context.insert("pseudonym", &settings.pseudonym);
        context.insert("domain", settings.domain.as_str());
        context.insert("domain_pattern", &settings.domain.as_str().replace('.', "\\."));
        context.insert("default_environment", &settings.default_environment);
        context.insert("allow_header_at_edge", &settings.allow_header_at_edge);
        context.insert("share_links", settings.share_links.as_str());
        context.insert("behind_proxy", &settings.behind_proxy);
        let answered_by = BTreeMap::from([
            ("edge", settings.answered_by == AnsweredBy::Everywhere),
            ("internal", settings.answered_by != AnsweredBy::Never),
        ]);
        context.insert("answered_by", &answered_by);
        let ends = Why::ALL.map(|why| {
            let part = |number: u8| format!("%[var(txn.ended),field({number},/)]");
            let words = ended::in_words(&part(1), &part(2), why);
            BTreeMap::from([("why", why.as_str().to_owned()), ("words", words)])
        });
        context.insert("ends", &ends);
        context.insert("traceparent", &settings.traces.traceparent.of_10_000());
        context.insert("tracestate", &settings.traces.tracestate);
        context.insert("access_log", &settings.access_log);
        context.insert("large_heads", &settings.large_heads);
        let head_bytes = match settings.large_heads {
            true => "32,768",
            false => HEAD_BYTES,
        };
        context.insert("head_bytes", head_bytes);
        context.insert("ca_file", &settings.ca_file.path());
        context.insert("connect_timeout", &settings.connect_timeout.to_string());
        context.insert("idle_timeout", &settings.idle_timeout.to_string());
        context.insert("tunnel_timeout", &settings.tunnel_timeout.to_string());
        context.insert("slots", &slots);
        self.tera
            .render(NAME, &context)
            .context("cannot render the template of haproxy.cfg")
    }
}

fn texts(all: &[impl fmt::Display]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// Checks what haproxy-updater relies on in the result of an operator's template: without it, it
/// would reload again and again, or change maps that no rule reads.
fn check(text: &str, total: u32, settings: &RenderSettings, fingerprint: &Fingerprint) -> anyhow::Result<()> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let description = format!("description {}", fingerprint.description());
    if !lines.contains(&description.as_str()) {
        bail!("the template lacks the line `description mayfly {{{{ hash }}}}` in its section global");
    }
    let socket = format!("stats socket {} ", settings.runtime_socket);
    if !lines
        .iter()
        .any(|line| line.starts_with(&socket) && line.contains(" level admin"))
    {
        bail!("the template lacks the line `stats socket {{{{ runtime_socket }}}} mode 660 level admin`");
    }
    if let Some(tls) = settings.tls.view() {
        let list = format!(" crt-list {} ", tls.crt_list);
        let has = |bind: &String| {
            let start = format!("bind {bind} ssl ");
            lines
                .iter()
                .any(|line| line.starts_with(&start) && line.contains(&list))
        };
        if !tls.binds.iter().all(has) {
            bail!(
                "the template needs the line `bind {{{{ bind }}}} ssl crt-list \
                 {{{{ tls.crt_list }}}} ...` for each of `tls.binds`, and lacks at least one"
            );
        }
    }
    let is_needed = |map: &Map| match map {
        Map::Table(Table::Links) => settings.share_links != ShareLinks::Off,
        Map::Table(Table::Protected) => settings.share_links == ShareLinks::Unprotected,
        map => !map.is_optional(),
    };
    for map in Map::ALL.into_iter().filter(is_needed) {
        if !text.contains(&format!("({})", map.path(&settings.maps))) {
            bail!("the template does not use {{{{ maps }}}}/{}.map", map.as_str());
        }
    }
    let mut backends = std::collections::BTreeSet::new();
    for line in &lines {
        backends.extend(
            line.strip_prefix("backend ")
                .and_then(|rest| rest.split_whitespace().next()),
        );
    }
    if let Some(missing) = (1..=total)
        .map(|slot| Slot(slot).to_string())
        .find(|slot| !backends.contains(slot.as_str()))
    {
        bail!(
            "the template has no backend {missing}: it needs one backend for each slot (variable \
             `slots`)"
        );
    }
    Ok(())
}
