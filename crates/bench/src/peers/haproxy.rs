//! HAProxy with a few lines written by hand, which only a proxy of this benchmark can be content with: what any router with
//! HAProxy could reach at best.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mayfly_e2e::port;
use mayfly_e2e::process::Process;

use crate::fleet::{self, VERSIONS};
use crate::peers::ready;
use crate::scaled::ScaledMayfly;

/// Limit for haproxy-updater to write the maps.
const WRITTEN: Duration = Duration::from_secs(60);

/// The second tries of Mayfly's template. Because of `empty-response`, HAProxy copies the buffer of
/// each request before it sends it on; for a failed connection alone it would keep no copy.
const RETRIES: &str = "  option redispatch 1
  retries 20
  retry-on conn-failure empty-response
  http-request disable-l7-retry unless { method GET HEAD OPTIONS }
";

pub struct Haproxy {
    /// Where clients connect from outside.
    pub edge: SocketAddr,
    /// Where services connect.
    pub internal: SocketAddr,
    _process: Process,
}

impl Haproxy {
    /// One server, and nothing to decide.
    ///
    /// # Errors
    /// When it does not start.
    pub fn bare(scaled: &ScaledMayfly) -> Result<Self> {
        let address = port::free();
        let server = server(scaled.instance(0, 0)?);
        let text = format!("frontend edge\n  bind {address}\n  default_backend one\nbackend one\n{server}");
        Self::start(scaled.mayfly.directory(), "bare", &text, (address, address))
    }

    /// The same behind TLS, with this certificate.
    ///
    /// # Errors
    /// When it does not start.
    pub fn bare_tls(scaled: &ScaledMayfly, certificate: &Path) -> Result<Self> {
        let address = port::free();
        let (server, certificate) = (server(scaled.instance(0, 0)?), certificate.display());
        let text = format!(
            "frontend edge\n  bind {address} ssl crt {certificate} alpn h2,http/1.1 ssl-min-ver TLSv1.2\n  \
             default_backend one\nbackend one\n{server}"
        );
        Self::start(scaled.mayfly.directory(), "bare-tls", &text, (address, address))
    }

    /// The least that leads each request to the right instance, by Mayfly's maps as they are now: the environment of the host
    /// or of `x-mayfly`, the service of the path or of the host, the version, the backend; and both headers set. It believes
    /// whatever a client sends, says nothing of what it does not find, inherits nothing and never tries again.
    ///
    /// # Errors
    /// When the maps can't be read, or it does not start.
    pub fn least(scaled: &ScaledMayfly) -> Result<Self> {
        Self::by_maps(scaled, "least", "")
    }

    /// The same, and it tries again as Mayfly does: what a router can reach that keeps a request
    /// until it is answered.
    ///
    /// # Errors
    /// As [`Haproxy::least`].
    pub fn least_with_retries(scaled: &ScaledMayfly) -> Result<Self> {
        Self::by_maps(scaled, "least-retries", RETRIES)
    }

    fn by_maps(scaled: &ScaledMayfly, name: &str, settings: &str) -> Result<Self> {
        let (edge, internal) = (port::free(), port::free());
        written(scaled)?;
        let map = |name| scaled.mayfly.map_file(name).display().to_string();
        let slots = read(&scaled.mayfly.map_file("slots"))?;
        let lead_on = format!(
            "  http-request set-header baggage mayfly=%[var(txn.environment)]\n  \
             use_backend %[var(txn.environment),concat(/,txn.service),map_str({}),map_str({})]\n",
            map("versions"),
            map("slots")
        );
        let mut text = format!(
            "frontend edge from common\n  bind {edge}\n  \
             http-request set-var(txn.path) path\n  \
             http-request set-var(txn.environment) req.hdr(host),field(1,.),map_str({})\n  \
             http-request set-var(txn.service) var(txn.environment),concat(,txn.path,/),map_beg({}),field(2,:)\n  \
             http-request set-header x-mayfly %[var(txn.environment)]\n{lead_on}\
             frontend internal from common\n  bind {internal}\n  \
             http-request set-var(txn.environment) req.hdr(x-mayfly)\n  \
             http-request set-var(txn.service) req.hdr(host),field(1,.)\n{lead_on}",
            map("edge"),
            map("routes")
        );
        text += &format!("defaults slots from common\n{settings}");
        for service in 0..scaled.scale.services {
            for (number, version) in VERSIONS.iter().enumerate() {
                let backend = format!("{}@{version} ", fleet::service(service));
                let slot = slots.lines().find_map(|row| row.strip_prefix(&backend));
                let slot = slot.with_context(|| format!("{backend}has no slot"))?;
                text += &format!(
                    "backend {slot} from slots\n{}",
                    server(scaled.instance(service, number)?)
                );
            }
        }
        Self::start(scaled.mayfly.directory(), name, &text, (edge, internal))
    }

    fn start(
        directory: &Path,
        name: &str,
        text: &str,
        (edge, internal): (SocketAddr, SocketAddr),
    ) -> Result<Self> {
        let config = directory.join(format!("{name}.cfg"));
        let common =
            "defaults common\n  mode http\n  timeout connect 2s\n  timeout client 1m\n  timeout server 1m\n";
        std::fs::write(&config, format!("{common}{text}"))
            .with_context(|| format!("write {}", config.display()))?;
        let mut command = Command::new("haproxy");
        command.args(["-W", "-db", "-f"]).arg(&config);
        let name = format!("{name} haproxy");
        let process = Process::spawn(&name, &command, &directory.join(format!("{name}.log")))?;
        ready(internal, &process)?;
        Ok(Self {
            edge,
            internal,
            _process: process,
        })
    }
}

/// Waits until the maps on disk have every environment: they follow those in memory.
fn written(scaled: &ScaledMayfly) -> Result<()> {
    let environments = scaled.scale.environments;
    let wanted = [
        ("edge", environments),
        ("routes", environments),
        ("versions", environments * scaled.scale.services),
    ];
    let start = Instant::now();
    for (map, wanted) in wanted {
        let file = scaled.mayfly.map_file(map);
        while read(&file)?.lines().count() < wanted {
            ensure!(
                start.elapsed() < WRITTEN,
                "{} has no {wanted} rows",
                file.display()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

fn server(instance: SocketAddr) -> String {
    format!("  server one {instance} check inter 2s\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_retries_are_those_of_the_template() {
        let template = include_str!("../../../haproxy-updater/templates/haproxy.cfg.tera");
        let settings: Vec<_> = template.lines().map(str::trim).collect();
        for setting in RETRIES.lines().map(str::trim) {
            assert!(settings.contains(&setting), "{setting}");
        }
    }
}
