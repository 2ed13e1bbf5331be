//! haproxy.cfg from its template: a pure function of the settings and of the servers in their slots. The settings
//! alone are hashed, and the hash stands in the configuration, so that a running HAProxy can be asked which settings
//! it has; servers come and go without it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail};
use mayfly_core::names::{EnvironmentName, Hostname};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::text::{Bind, CaFile, ConfigPath, HealthPath, Millis, Pseudonym, ServerName, Slot};

/// The template that is used unless the operator gives another.
pub const TEMPLATE: &str = include_str!("../templates/haproxy.cfg.tera");
const NAME: &str = "haproxy.cfg";

/// On which side a response says which backend answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AnsweredBy {
    /// On the internal side only.
    #[default]
    Internal,
    /// At the edge, too.
    Everywhere,
    /// Nowhere.
    Never,
}

/// What the operator decides about the configuration. Every field is a checked type.
#[derive(Debug, Clone)]
pub struct Settings {
    /// HAProxy's run-time socket.
    pub runtime_socket: ConfigPath,
    /// The directory of the maps.
    pub maps: ConfigPath,
    /// Listeners for traffic from outside.
    pub edge: Vec<Bind>,
    /// Where HAProxy itself says at the edge that it serves.
    pub health_path: HealthPath,
    /// Listeners for traffic between services.
    pub internal: Vec<Bind>,
    /// How this router knows again what it has sent outside.
    pub pseudonym: Pseudonym,
    /// The domain of the services' names.
    pub domain: Hostname,
    /// The environment of internal requests that name none.
    pub default_environment: Option<EnvironmentName>,
    /// Whether a client may choose its environment by `x-mayfly`.
    pub allow_header_at_edge: bool,
    /// Whether another proxy, whose `x-forwarded-*` can be believed, stands before the edge.
    pub behind_proxy: bool,
    /// Who learns which backend answered.
    pub answered_by: AnsweredBy,
    /// Whether HAProxy logs each request to its standard output.
    pub access_log: bool,
    /// Whom to believe that servers behind TLS are who they should be.
    pub ca_file: CaFile,
    /// How long a connection to an instance may take to open.
    pub connect_timeout: Millis,
    /// How long an instance may take to answer, and a connection may be silent.
    pub idle_timeout: Millis,
    /// How long an upgraded connection (WebSocket) may be silent.
    pub tunnel_timeout: Millis,
}

/// A server as it stands in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerLine {
    /// Its name in the slot.
    pub name: ServerName,
    /// Its address, `ip:port`.
    pub address: String,
    /// All its options, from [`crate::command::server_options`].
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

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A configuration that has all that Mayfly relies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The whole file.
    pub text: String,
    /// Its settings.
    pub fingerprint: Fingerprint,
}

/// A template together with the settings that it is rendered with.
#[derive(Debug)]
pub struct Renderer {
    tera: tera::Tera,
    settings: Settings,
    /// Fingerprints by number of slots, so that asking for one again costs nothing.
    fingerprints: Mutex<BTreeMap<u32, Fingerprint>>,
}

impl Renderer {
    /// Reads a template.
    ///
    /// # Errors
    /// When it is not a Tera template; the message has the place.
    pub fn new(template: &str, settings: Settings) -> anyhow::Result<Self> {
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
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The internal side is to listen here from now on.
    pub fn listen_at(&mut self, internal: Bind) {
        self.settings.internal = vec![internal];
        self.fingerprints = Mutex::default();
    }

    /// Renders the configuration with `total` slots.
    ///
    /// # Errors
    /// When the template asks for something that does not exist, or its result lacks something that Mayfly relies on.
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
        let fingerprint = Fingerprint(hash[..8].iter().map(|byte| format!("{byte:02x}")).collect());
        known.insert(total, fingerprint.clone());
        Ok(fingerprint)
    }

    fn text(&self, total: u32, servers: &SlotServers, hash: &str) -> anyhow::Result<String> {
        let settings = &self.settings;
        let binds = |binds: &[Bind]| binds.iter().map(Bind::to_string).collect::<Vec<_>>();
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
                ("edge", binds(&settings.edge)),
                ("internal", binds(&settings.internal)),
            ]),
        );
        context.insert("health_path", &settings.health_path);
        context.insert("pseudonym", &settings.pseudonym);
        context.insert("domain", settings.domain.as_str());
        context.insert("domain_pattern", &settings.domain.as_str().replace('.', "\\."));
        context.insert("default_environment", &settings.default_environment);
        context.insert("allow_header_at_edge", &settings.allow_header_at_edge);
        context.insert("behind_proxy", &settings.behind_proxy);
        let answered_by = BTreeMap::from([
            ("edge", settings.answered_by == AnsweredBy::Everywhere),
            ("internal", settings.answered_by != AnsweredBy::Never),
        ]);
        context.insert("answered_by", &answered_by);
        context.insert("access_log", &settings.access_log);
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

/// What haproxy-updater relies on in whatever an operator's template makes: without it, it would reload for ever or
/// change maps that no rule reads.
fn check(text: &str, total: u32, settings: &Settings, fingerprint: &Fingerprint) -> anyhow::Result<()> {
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
    for map in crate::model::Map::ALL
        .into_iter()
        .filter(|map| !map.is_optional())
    {
        if !text.contains(&format!("({})", map.path(&settings.maps))) {
            bail!(
                "the template does not look into {{{{ maps }}}}/{}.map",
                map.as_str()
            );
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
        bail!("the template makes no backend {missing}; it has to make one for each of `slots`");
    }
    Ok(())
}
