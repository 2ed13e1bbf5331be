//! Envoy with file-based xDS: clusters (CDS) for all backends, and routes (RDS) for each side in a file that is replaced by a
//! rename. Each environment is a virtual host, chosen by the host at the edge and by `x-mayfly` inside: both are look-ups in
//! a hash table, the quickest that Envoy offers.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use mayfly_e2e::port;
use mayfly_e2e::process::Process;
use serde_json::{Value, json};

use crate::changeable::Changeable;
use crate::fleet::{self, Scale, VERSIONS};
use crate::peers::ready;
use crate::probe::Probe;
use crate::scaled::ScaledMayfly;

const TYPES: &str = "type.googleapis.com/envoy";

pub struct Envoy {
    /// Where clients from outside connect.
    pub edge: SocketAddr,
    /// Where services connect.
    pub internal: SocketAddr,
    process: Process,
    directory: PathBuf,
    scale: Scale,
    /// The version of the first service, by environment.
    web: Vec<usize>,
}

impl Envoy {
    /// Starts it with the routing that a Mayfly has. Its files go into a directory of its own in `directory`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(program: &Path, directory: &Path, scaled: &ScaledMayfly) -> Result<Self> {
        let directory = directory.join("envoy");
        std::fs::create_dir_all(&directory).context("make a directory for Envoy")?;
        let (edge, internal) = (port::free(), port::free());
        let scale = scaled.scale;
        let mut clusters = Vec::new();
        for service in 0..scale.services {
            for (number, version) in VERSIONS.iter().enumerate() {
                let name = format!("{}@{version}", fleet::service(service));
                clusters.push(cluster(&name, scaled.instance(service, number)?));
            }
        }
        write(
            &directory.join("clusters.json"),
            &json!({ "resources": clusters }).to_string(),
        )?;
        let bootstrap = json!({
            "node": { "id": "bench", "cluster": "bench" },
            "dynamic_resources": { "cds_config": source(&directory.join("clusters.json")) },
            "static_resources": { "listeners": [
                listener("edge", edge, &directory),
                listener("internal", internal, &directory),
            ] },
        });
        write(&directory.join("bootstrap.json"), &bootstrap.to_string())?;
        let web: Vec<usize> = (0..scale.environments)
            .map(|number| fleet::version(number, 0))
            .collect();
        // Routes have to lie there before it starts.
        write_routes(&directory, scale, &web, "json")?;
        let mut command = Command::new(program);
        command.arg("-c").arg(directory.join("bootstrap.json"));
        command.args([
            "--concurrency",
            "2",
            "--disable-hot-restart",
            "--log-level",
            "warn",
        ]);
        let log = directory.join("envoy.log");
        let mut envoy = Self {
            edge,
            internal,
            process: Process::spawn("envoy", &command, &log)?,
            directory,
            scale,
            web,
        };
        ready(edge, &envoy.process)?;
        let backend = format!("web@{}", VERSIONS[envoy.web[0]]);
        envoy
            .probe(0)
            .until(super::START, |answer| answer.is_from(&backend))
            .with_context(|| format!("envoy: {}", envoy.process.output()))?;
        anyhow::ensure!(
            envoy.process.is_running(),
            "envoy has ended: {}",
            envoy.process.output()
        );
        Ok(envoy)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Changeable for Envoy {
    fn prepare(&mut self, environment: usize, version: usize) -> Result<()> {
        self.web[environment] = version;
        write_routes(&self.directory, self.scale, &self.web, "new")
    }

    fn commit(&mut self) -> Result<()> {
        // Envoy takes them one after the other: when the edge answers right, the internal side does, too.
        for side in ["internal", "edge"] {
            let place = |ending| self.directory.join(format!("{side}.{ending}"));
            std::fs::rename(place("new"), place("json")).context("rename routes")?;
        }
        Ok(())
    }

    fn probe(&self, environment: usize) -> Probe {
        Probe::new(self.edge, &fleet::host(environment), &[])
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn source(path: &Path) -> Value {
    json!({ "resource_api_version": "V3", "path_config_source": { "path": path } })
}

fn listener(side: &str, address: SocketAddr, directory: &Path) -> Value {
    let manager = json!({
        "@type": format!("{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": side,
        "rds": { "route_config_name": side, "config_source": source(&directory.join(format!("{side}.json"))) },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": format!("{TYPES}.extensions.filters.http.router.v3.Router") },
        }],
    });
    json!({
        "name": side,
        "address": socket(address),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }] }],
    })
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn cluster(name: &str, instance: SocketAddr) -> Value {
    json!({
        "@type": format!("{TYPES}.config.cluster.v3.Cluster"),
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(instance) } }] }],
        },
    })
}

/// Both files of routes. As text: half a million routes as a tree of values would take more time than Envoy.
fn write_routes(directory: &Path, scale: Scale, web: &[usize], ending: &str) -> Result<()> {
    let (mut edge, mut internal) = (
        head("edge", ""),
        head("internal", r#""vhost_header":"x-mayfly","#),
    );
    for (number, web) in web.iter().enumerate() {
        let (name, comma) = (fleet::environment(number), if number == 0 { "" } else { "," });
        let header = format!(
            r#"{{"header":{{"key":"x-mayfly","value":"{name}"}},"append_action":"OVERWRITE_IF_EXISTS_OR_ADD"}}"#
        );
        let _ = write!(
            edge,
            r#"{comma}{{"name":"{name}","domains":["www-{name}.*"],"request_headers_to_add":[{header}],"routes":[{{"match":{{"prefix":"/"}},"route":{{"cluster":"web@{}"}}}}]}}"#,
            VERSIONS[*web]
        );
        let _ = write!(
            internal,
            r#"{comma}{{"name":"{name}","domains":["{name}"],"routes":["#
        );
        for service in 0..scale.services {
            let version = if service == 0 {
                *web
            } else {
                fleet::version(number, service)
            };
            let (comma, service) = (if service == 0 { "" } else { "," }, fleet::service(service));
            let _ = write!(
                internal,
                r#"{comma}{{"match":{{"prefix":"/","headers":[{{"name":":authority","string_match":{{"exact":"{service}.service"}}}}]}},"route":{{"cluster":"{service}@{}"}}}}"#,
                VERSIONS[version]
            );
        }
        internal.push_str("]}");
    }
    for (side, mut text) in [("edge", edge), ("internal", internal)] {
        text.push_str("]}]}");
        write(&directory.join(format!("{side}.{ending}")), &text)?;
    }
    Ok(())
}

fn head(side: &str, more: &str) -> String {
    format!(
        r#"{{"resources":[{{"@type":"{TYPES}.config.route.v3.RouteConfiguration","name":"{side}",{more}"virtual_hosts":["#
    )
}
