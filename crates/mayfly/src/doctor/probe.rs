//! What doctor does inside the network of a container: it resolves names as the services there do,
//! and tries connections. It reads its job from the command line and prints the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use mayfly_daemon::output;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::route_table::{self, KernelRoute};

/// The name that is asked for by default: it is kept for such uses, and resolves everywhere.
pub const OUTSIDE: &str = "example.com";
/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(4);
/// A host that is no service: a router answers such a request itself, so no service sees it.
const NO_SERVICE: &str = "mayfly-doctor.invalid";
/// The most of an answer that is read.
const MOST: u64 = 4096;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeJob {
    pub names: BTreeSet<String>,
    /// The environment in which a router is asked.
    pub header: String,
    /// A name that is none of Mayfly's.
    pub outside: String,
    /// Where etcd is, as `host:port`.
    pub etcd: BTreeSet<String>,
    /// Ports at which the host of the container may have etcd.
    pub etcd_ports: BTreeSet<u16>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAnswers {
    pub names: BTreeMap<String, Lookup>,
    /// By address: why what answers there is no router; empty for a router.
    pub routers: BTreeMap<IpAddr, String>,
    pub outside: Lookup,
    /// Where etcd takes connections.
    pub etcd: BTreeSet<String>,
    /// The name servers that are asked.
    pub name_servers: Vec<String>,
}

/// What a name resolves to, or why it does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    pub addresses: BTreeSet<IpAddr>,
    pub error: Option<String>,
}

/// Does a job.
///
/// # Errors
/// When the job cannot be read, or the answers cannot be printed.
pub async fn run(job: &str) -> anyhow::Result<ExitCode> {
    let job: ProbeJob = serde_json::from_str(job).context("cannot read --probe: doctor writes it")?;
    let answers = answer(job).await;
    output::print(&output::json_line(&answers)?)?;
    // A lookup that hangs is on a thread that would hold up the end.
    std::process::exit(0);
}

async fn answer(job: ProbeJob) -> ProbeAnswers {
    let mut lookups = JoinSet::new();
    for name in job.names {
        lookups.spawn(async { (resolve(&name).await, name) });
    }
    let (outside, etcd) = tokio::join!(resolve(&job.outside), reached(job.etcd, &job.etcd_ports));
    let names: BTreeMap<String, Lookup> = lookups
        .join_all()
        .await
        .into_iter()
        .map(|(lookup, name)| (name, lookup))
        .collect();
    let mut asking = JoinSet::new();
    let addresses: BTreeSet<IpAddr> = names.values().flat_map(|name| &name.addresses).copied().collect();
    for address in addresses {
        let header = job.header.clone();
        asking.spawn(async move { (address, ask_router(address, &header).await) });
    }
    ProbeAnswers {
        names,
        routers: asking.join_all().await.into_iter().collect(),
        outside,
        etcd,
        name_servers: name_servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
    }
}

async fn resolve(name: &str) -> Lookup {
    match timeout(LIMIT, tokio::net::lookup_host((name, 80))).await {
        Ok(Ok(found)) => Lookup {
            addresses: found.map(|address| address.ip()).collect(),
            error: None,
        },
        Ok(Err(error)) => Lookup::failed(error.to_string()),
        Err(_) => Lookup::failed("no name server answers in time".to_owned()),
    }
}

impl Lookup {
    pub fn failed(error: String) -> Self {
        Self {
            addresses: BTreeSet::new(),
            error: Some(error),
        }
    }
}

/// Why what is at an address is no router that answers here; empty if it is one.
async fn ask_router(address: IpAddr, header: &str) -> String {
    let request =
        format!("GET / HTTP/1.1\r\nhost: {NO_SERVICE}\r\nx-mayfly: {header}\r\nconnection: close\r\n\r\n");
    match timeout(LIMIT, exchange((address, 80), &request)).await {
        Ok(Ok(answer)) => judge(&answer),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    }
}

/// Whether an answer is a router's own; only a router speaks so of a host that is no service.
fn judge(answer: &str) -> String {
    let own = [
        "the internal side answers for",
        "no environment has the x-mayfly value",
    ];
    match own.iter().any(|words| answer.contains(words)) {
        true => String::new(),
        false => format!(
            "another server answers: {}",
            answer.lines().next().unwrap_or("nothing")
        ),
    }
}

async fn exchange(to: impl tokio::net::ToSocketAddrs, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // A server may close as it likes: what it said counts.
    let _ = stream.take(MOST).read_to_end(&mut answer).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Where etcd takes connections: at these places, and at these ports of the container's host.
async fn reached(places: BTreeSet<String>, ports: &BTreeSet<u16>) -> BTreeSet<String> {
    let mut trying = JoinSet::new();
    for place in places {
        trying.spawn(async move {
            let connected = timeout(LIMIT, TcpStream::connect(&place)).await;
            matches!(connected, Ok(Ok(_))).then_some(place)
        });
    }
    for gateway in gateways(&route_table::of_kernel()) {
        for port in ports.iter().copied() {
            trying.spawn(async move {
                let request = "GET /version HTTP/1.1\r\nhost: etcd\r\nconnection: close\r\n\r\n";
                let answer = timeout(LIMIT, exchange((gateway, port), request)).await;
                // Another program may have the port there.
                let is_etcd = |answer: &String| {
                    answer.contains("etcdserver") || answer.contains("HTTP request to an HTTPS server")
                };
                let answered = matches!(&answer, Ok(Ok(answer)) if is_etcd(answer));
                answered.then(|| format!("{gateway}:{port}"))
            });
        }
    }
    trying.join_all().await.into_iter().flatten().collect()
}

/// The gateways of default routes.
fn gateways(routes: &[KernelRoute]) -> BTreeSet<Ipv4Addr> {
    let routes = routes
        .iter()
        .filter(|route| route.to.is_unspecified() && !route.gateway.is_unspecified());
    routes.map(|route| route.gateway).collect()
}

fn name_servers(resolv_conf: &str) -> Vec<String> {
    let server = |line: &str| {
        line.trim()
            .strip_prefix("nameserver")
            .map(|rest| rest.trim().to_owned())
    };
    resolv_conf.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_and_name_servers_are_read() {
        let route = |to: [u8; 4], width: u8, gateway: [u8; 4]| KernelRoute {
            to: to.into(),
            width,
            gateway: gateway.into(),
        };
        let routes = [
            route([0; 4], 0, [192, 168, 0, 1]),
            route([192, 168, 0, 0], 24, [0; 4]),
            route([10, 0, 0, 0], 8, [192, 168, 0, 2]),
            route([0; 4], 0, [0; 4]),
        ];
        assert_eq!(gateways(&routes), [Ipv4Addr::new(192, 168, 0, 1)].into());
        assert_eq!(
            name_servers("search x\nnameserver 127.0.0.11\n nameserver 10.0.0.53\n#nameserver 1.1.1.1\n"),
            ["127.0.0.11", "10.0.0.53"]
        );
    }

    #[test]
    fn only_a_router_is_one() {
        let router = "HTTP/1.1 404 Not Found\r\n\r\n404: the host mayfly-doctor.invalid is not a service: \
                      the internal side answers for <service>.service and <service>.\n";
        assert_eq!(judge(router), "");
        assert_eq!(
            judge("HTTP/1.1 200 OK\r\n\r\nhello"),
            "another server answers: HTTP/1.1 200 OK"
        );
        assert_eq!(judge(""), "another server answers: nothing");
    }

    #[tokio::test]
    async fn what_listens_is_reached_and_nothing_else() {
        let etcd = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = etcd.local_addr().unwrap().to_string();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nothing = closed.local_addr().unwrap().to_string();
        drop(closed);
        let found = reached([place.clone(), nothing].into(), &BTreeSet::new()).await;
        assert_eq!(found, [place].into());
    }
}
