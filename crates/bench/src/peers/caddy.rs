//! Caddy with its admin API. A route for each environment holds the choice of its services as a `map`; all lead to one
//! `reverse_proxy`, since half a million of those would be no fair Caddy. A change is one PATCH of one row.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mayfly_e2e::port;
use mayfly_e2e::process::Process;

use crate::changeable::Changeable;
use crate::fleet::{self, VERSIONS};
use crate::peers::ready;
use crate::probe::{self, Probe};
use crate::scaled::ScaledMayfly;

pub struct Caddy {
    /// Where clients from outside connect.
    pub edge: SocketAddr,
    /// Where services connect.
    pub internal: SocketAddr,
    admin: SocketAddr,
    process: Process,
    /// The instances of the first service, by version.
    web: Vec<SocketAddr>,
    change: (String, String),
}

impl Caddy {
    /// Starts it with the routing that a Mayfly has. Its files go into a directory of its own in `directory`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(program: &Path, directory: &Path, scaled: &ScaledMayfly) -> Result<Self> {
        let directory = directory.join("caddy");
        std::fs::create_dir_all(&directory).context("make a directory for Caddy")?;
        let (edge, internal, admin) = (port::free(), port::free(), port::free());
        let config = directory.join("caddy.json");
        std::fs::write(&config, render(scaled, edge, internal, admin)?)
            .context("write Caddy's configuration")?;
        let mut command = Command::new(program);
        command.args(["run", "--config"]).arg(&config);
        for variable in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(variable, &directory);
        }
        let web = (0..VERSIONS.len()).map(|version| scaled.instance(0, version));
        let caddy = Self {
            edge,
            internal,
            admin,
            process: Process::spawn("caddy", &command, &directory.join("caddy.log"))?,
            web: web.collect::<Result<_>>()?,
            change: Default::default(),
        };
        ready(edge, &caddy.process)?;
        let backend = format!("web@{}", VERSIONS[fleet::version(0, 0)]);
        caddy
            .probe(0)
            .until(super::START, |answer| answer.is_from(&backend))
            .with_context(|| format!("caddy: {}", caddy.process.output()))?;
        Ok(caddy)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Changeable for Caddy {
    fn prepare(&mut self, environment: usize, version: usize) -> Result<()> {
        let row = row(environment, 0, self.web[version]);
        self.change = (format!("/id/{environment}-0"), row);
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let (path, row) = &self.change;
        let answer = probe::send_json(self.admin, "PATCH", path, row)?;
        ensure!(answer.status == 200, "Caddy refuses: {answer:?}");
        Ok(())
    }

    fn probe(&self, environment: usize) -> Probe {
        Probe::new(self.edge, &fleet::host(environment), &[])
    }
}

fn row(environment: usize, service: usize, instance: SocketAddr) -> String {
    let name = fleet::service(service);
    format!(r#"{{"@id":"{environment}-{service}","input":"{name}.service","outputs":["{instance}"]}}"#)
}

fn render(
    scaled: &ScaledMayfly,
    edge: SocketAddr,
    internal: SocketAddr,
    admin: SocketAddr,
) -> Result<String> {
    let scale = scaled.scale;
    let port = |side: SocketAddr| {
        format!(
            r#"[{{"vars":{{"{{http.request.local.port}}":["{}"]}}}}]"#,
            side.port()
        )
    };
    let mut text = format!(
        r#"{{"admin":{{"listen":"{admin}","origins":["{admin}"],"config":{{"persist":false}}}},"logging":{{"logs":{{"default":{{"level":"ERROR"}}}}}},"apps":{{"http":{{"servers":{{"all":{{"listen":["{edge}","{internal}"],"automatic_https":{{"disable":true}},"routes":["#
    );
    // The edge: the first label of the host says which environment is meant, and the path which service.
    let _ = write!(
        text,
        r#"{{"match":{},"handle":[{{"handler":"map","source":"{{http.request.host.labels.2}}","destinations":["{{environment}}"],"mappings":["#,
        port(edge)
    );
    for number in 0..scale.environments {
        let (name, comma) = (fleet::environment(number), if number == 0 { "" } else { "," });
        let _ = write!(text, r#"{comma}{{"input":"www-{name}","outputs":["{name}"]}}"#);
    }
    let _ = write!(
        text,
        r#"]}},{{"handler":"headers","request":{{"set":{{"x-mayfly":["{{environment}}"]}}}}}},{{"handler":"vars","service":"web.service"}}]}}"#
    );
    let _ = write!(
        text,
        r#",{{"match":{},"handle":[{{"handler":"vars","service":"{{http.request.host}}"}}]}}"#,
        port(internal)
    );
    for number in 0..scale.environments {
        let _ = write!(
            text,
            r#",{{"match":[{{"header":{{"x-mayfly":["{}"]}}}}],"handle":[{{"handler":"map","source":"{{http.vars.service}}","destinations":["{{backend}}"],"mappings":["#,
            fleet::environment(number)
        );
        for service in 0..scale.services {
            let instance = scaled.instance(service, fleet::version(number, service))?;
            let comma = if service == 0 { "" } else { "," };
            let _ = write!(text, "{comma}{}", row(number, service, instance));
        }
        text.push_str("]}]}");
    }
    text.push_str(r#",{"handle":[{"handler":"reverse_proxy","upstreams":[{"dial":"{backend}"}]}]}]}}}}}"#);
    Ok(text)
}
