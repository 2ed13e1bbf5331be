//! What this host says: the engine and its socket, compose, free ports and a free network. It is
//! asked through the program `docker`, so that contexts and DOCKER_HOST count as for compose.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::answers::InitAnswers;
use crate::import::host_paths::{PLAIN, is_plain};

/// How long a program may take; an engine that answers later is of no use.
const PATIENCE: Duration = Duration::from_secs(30);
/// The networks that are tried, in this order: a /21 each.
const NETWORKS: [[u8; 4]; 6] = [
    [172, 31, 240, 0],
    [172, 30, 240, 0],
    [10, 250, 240, 0],
    [10, 111, 224, 0],
    [192, 168, 240, 0],
    [172, 29, 240, 0],
];
const WIDTH: u8 = 21;
/// The ports that are tried for the page.
const PAGE_PORTS: std::ops::RangeInclusive<u16> = 8620..=8639;
/// The images of a project.
const IMAGES: [&str; 9] = [
    "etcd",
    "haproxy",
    "dnsmasq",
    "environment-registrar",
    "container-registrar",
    "container-launcher",
    "haproxy-updater",
    "dns-updater",
    "mayfly-web",
];
/// The user and group of Mayfly's images.
const OWNER: &str = "10001:10001";

/// What a project depends on.
#[derive(Debug, Clone)]
pub struct HostFacts {
    pub compose: String,
    /// The engine's socket, and its group; empty if nobody knows.
    pub socket: String,
    pub group: String,
    /// The first address of the networks.
    pub network: Ipv4Addr,
    pub page_port: u16,
    /// The user and group of the directories that the registrar writes to.
    pub owner: String,
}

impl HostFacts {
    /// Those of a host that nobody has looked at.
    pub fn unknown(page_port: Option<u16>) -> Self {
        Self {
            compose: "docker compose".to_owned(),
            socket: "/var/run/docker.sock".to_owned(),
            group: String::new(),
            network: NETWORKS[0].into(),
            page_port: page_port.unwrap_or(*PAGE_PORTS.start()),
            owner: owner(),
        }
    }
}

/// The user of the registrar: root gives the directories away, and others keep them.
fn owner() -> String {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    match user.is_root() {
        true => OWNER.to_owned(),
        false => format!("{}:{}", user.as_raw(), group.as_raw()),
    }
}

/// The ids of an owner, if the directories have to be given to it.
pub fn ids(owner: &str) -> Option<(u32, u32)> {
    let (user, group) = owner.split_once(':')?;
    Some((user.parse().ok()?, group.parse().ok()?))
}

/// Looks at everything that a project needs, and returns all that is in the way.
///
/// # Errors
/// When /proc cannot be read.
pub async fn look(
    answers: &InitAnswers,
    page_port: Option<u16>,
    images: &str,
) -> anyhow::Result<Result<HostFacts, Vec<String>>> {
    let mut facts = HostFacts::unknown(page_port);
    let mut faults = Vec::new();
    if let Err(fault) = answer_of("git", &["--version"]).await {
        faults.push(format!(
            "cannot run git, for the repository of environments: {fault}; install git"
        ));
    }
    match compose().await {
        Ok(name) => facts.compose = name,
        Err(fault) => faults.push(fault),
    }
    let listening = listening()?;
    if listening.contains(&answers.port) {
        faults.push(format!(
            "port {} of this host is taken: stop the program that listens there (ss -ltnp), or choose another \
             port with --port",
            answers.port
        ));
    }
    let is_free = |port: &u16| !listening.contains(port) && *port != answers.port;
    match page_port {
        Some(port) if !is_free(&port) => {
            faults.push(format!(
                "port {port} of this host is taken: choose another port with --page-port"
            ));
        }
        Some(_) => {}
        None => match PAGE_PORTS.clone().find(is_free) {
            Some(port) => facts.page_port = port,
            None => faults.push("no port from 8620 to 8639 is free: give --page-port".to_owned()),
        },
    }
    if let Err(fault) = answer_of("docker", &["version", "--format", "{{.Server.Version}}"]).await {
        faults.push(format!(
            "cannot reach a Docker engine: {fault}; start the engine (Debian: install docker.io), or run `mayfly init` \
             as a user who may use the engine"
        ));
        return Ok(Err(faults));
    }
    match socket().await {
        Ok((socket, group)) => (facts.socket, facts.group) = (socket, group),
        Err(fault) => faults.push(fault),
    }
    match network().await {
        Ok(network) => facts.network = network,
        Err(fault) => faults.push(fault),
    }
    faults.extend(in_use(answers).await);
    faults.extend(missing_images(images).await);
    Ok(match &*faults {
        [] => Ok(facts),
        _ => Err(faults),
    })
}

/// What a program prints, without blanks at the end, or why it fails.
async fn answer_of(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let output = match timeout(PATIENCE, command.output()).await {
        Err(_) => return Err(format!("`{program}` did not end within {} s", PATIENCE.as_secs())),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!("the program `{program}` is not installed"));
        }
        Ok(Err(error)) => return Err(format!("cannot run `{program}`: {error}")),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().rev().find(|line| !line.trim().is_empty());
    Err(last.map_or_else(
        || format!("`{program}` failed without a message"),
        |line| line.trim().to_owned(),
    ))
}

/// How compose is called here: v2, or 1.29.
async fn compose() -> Result<String, String> {
    let mut old = None;
    for name in ["docker compose", "docker-compose"] {
        let mut words = name.split(' ');
        let program = words.next().unwrap_or_default();
        let arguments: Vec<&str> = words.chain(["version", "--short"]).collect();
        let Ok(version) = answer_of(program, &arguments).await else {
            continue;
        };
        match is_supported(&version) {
            true => return Ok(name.to_owned()),
            false => old = Some(version),
        }
    }
    Err(match old {
        Some(version) => format!("compose {version} is too old: install 1.29 or v2"),
        None => "compose is missing: install 1.29 or v2 (Debian: docker-compose)".to_owned(),
    })
}

fn is_supported(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse::<u32>);
    let major = numbers.next().and_then(Result::ok).unwrap_or(0);
    let minor = numbers.next().and_then(Result::ok).unwrap_or(0);
    (major, minor) >= (1, 29)
}

/// The ports of this host at which something listens, at any address.
fn listening() -> anyhow::Result<Vec<u16>> {
    let mut ports = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // Without IPv6 there is no second file.
        match fs::read_to_string(path) {
            Ok(table) => ports.extend(listening_in(&table)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        }
    }
    Ok(ports)
}

/// The local ports of the lines in the state LISTEN (0A).
fn listening_in(table: &str) -> Vec<u16> {
    let lines = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listen = lines.filter(|words| words.get(3) == Some(&"0A"));
    listen
        .filter_map(|words| {
            words[1]
                .rsplit_once(':')
                .and_then(|(_, port)| u16::from_str_radix(port, 16).ok())
        })
        .collect()
}

/// The engine's socket, and the group that may use it.
async fn socket() -> Result<(String, String), String> {
    let format = "{{.Endpoints.docker.Host}}";
    let endpoint = answer_of("docker", &["context", "inspect", "--format", format]).await?;
    let Some(path) = endpoint.strip_prefix("unix://") else {
        return Err(format!(
            "the engine is at {endpoint}: run `mayfly init` on the engine's host, which has the socket"
        ));
    };
    if !is_plain(path) {
        return Err(format!(
            "the path of the engine's socket, {path}, has other characters than {PLAIN}: give the socket another path"
        ));
    }
    match fs::metadata(path) {
        Ok(metadata) => Ok((path.to_owned(), metadata.gid().to_string())),
        Err(error) => Err(format!(
            "cannot find the group of the engine's socket {path}: {error}"
        )),
    }
}

/// A network that overlaps neither a network of the engine nor a route of the host, such as that of
/// a VPN.
async fn network() -> Result<Ipv4Addr, String> {
    let mut used = routes(&fs::read_to_string("/proc/net/route").unwrap_or_default());
    let ids = answer_of("docker", &["network", "ls", "--quiet"]).await?;
    let format = "{{range .IPAM.Config}}{{println .Subnet}}{{end}}";
    let mut arguments = vec!["network", "inspect", "--format", format];
    arguments.extend(ids.lines());
    let subnets = answer_of("docker", &arguments).await?;
    used.extend(subnets.lines().filter_map(subnet));
    let free = NETWORKS.map(Ipv4Addr::from).into_iter();
    let mut free = free.filter(|network| !used.iter().any(|other| overlaps((*network, WIDTH), *other)));
    free.next().ok_or_else(|| {
        let tried = NETWORKS.map(|network| format!("{}/{WIDTH}", Ipv4Addr::from(network)));
        format!(
            "every network that `mayfly init` tried overlaps a network of this host ({}): remove unused networks \
             (docker network prune), or use --skip-checks and write a free network into .env",
            tried.join(", ")
        )
    })
}

type HostNetwork = (Ipv4Addr, u8);

fn subnet(line: &str) -> Option<HostNetwork> {
    let (address, width) = line.trim().split_once('/')?;
    Some((
        address.parse().ok()?,
        width.parse().ok().filter(|width| *width <= 32)?,
    ))
}

/// The networks of /proc/net/route. The default route is none.
fn routes(table: &str) -> Vec<HostNetwork> {
    let routes = crate::route_table::read(table).into_iter();
    let routes = routes.filter(|route| route.width != 0);
    routes.map(|route| (route.to, route.width)).collect()
}

/// Two networks overlap exactly if they are the same under the wider of both masks.
fn overlaps(one: HostNetwork, other: HostNetwork) -> bool {
    let width = one.1.min(other.1);
    let mask = u32::MAX.checked_shl(32 - u32::from(width)).unwrap_or(0);
    (u32::from(one.0) ^ u32::from(other.0)) & mask == 0
}

/// Whether the engine has containers or volumes of a project of this name: they would become those
/// of the new one.
async fn in_use(answers: &InitAnswers) -> Option<String> {
    let project = &answers.project;
    let label = format!("label=com.docker.compose.project={project}");
    let containers = answer_of("docker", &["ps", "--all", "--quiet", "--filter", &label]).await;
    let volumes = answer_of("docker", &["volume", "ls", "--quiet", "--filter", &label]).await;
    match (containers, volumes) {
        (Ok(containers), Ok(volumes)) if containers.is_empty() && volumes.is_empty() => None,
        (Ok(_), Ok(_)) => Some(format!(
            "the engine has containers or volumes of a compose project {project}: choose another name with --project, \
             or remove these (docker ps -a --filter {label}, docker volume ls --filter {label})"
        )),
        (Err(fault), _) | (_, Err(fault)) => Some(format!("cannot list the projects of the engine: {fault}")),
    }
}

async fn missing_images(prefix: &str) -> Option<String> {
    let version = env!("CARGO_PKG_VERSION");
    let mut missing = Vec::new();
    for name in IMAGES {
        let image = format!("{prefix}/{name}:{version}");
        if answer_of("docker", &["image", "inspect", "--format", "{{.Id}}", &image])
            .await
            .is_err()
        {
            missing.push(image);
        }
    }
    (!missing.is_empty()).then(|| {
        format!(
            "the engine lacks {}: build the images with scripts/build.sh in a checkout of Mayfly {version}, or give \
             the account of your images with --images",
            missing.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_compose() {
        for (version, expected) in [
            ("1.29.2", true),
            ("v2.26.1", true),
            ("2.26.1-4", true),
            ("5.0.1", true),
            ("1.25.0", false),
            ("", false),
            ("dev", false),
        ] {
            assert_eq!(is_supported(version), expected, "{version}");
        }
    }

    #[test]
    fn what_listens() {
        let table = "\
  sl  local_address rem_address   st tx_queue
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 00000000:0050 00000000:0000 0A 00000000:00000000
   2: 0100007F:0051 0100007F:C350 01 00000000:00000000
";
        assert_eq!(listening_in(table), [8080, 80]);
        let six = "  sl\n   0: 00000000000000000000000000000000:01BB 0:0 0A\n nonsense\n";
        assert_eq!(listening_in(six), [443]);
    }

    #[test]
    fn networks_overlap() {
        let network = |text| subnet(text).unwrap();
        for (one, other, expected) in [
            ("172.31.240.0/21", "172.31.0.0/16", true),
            ("172.31.240.0/21", "172.31.247.9/32", true),
            ("172.31.240.0/21", "172.31.248.0/21", false),
            ("172.31.240.0/21", "172.17.0.0/16", false),
            ("172.31.240.0/21", "0.0.0.0/0", true),
            ("10.0.0.1/32", "10.0.0.1/32", true),
        ] {
            assert_eq!(overlaps(network(one), network(other)), expected, "{one} {other}");
            assert_eq!(overlaps(network(other), network(one)), expected, "{other} {one}");
        }
        assert_eq!(subnet("fd00::/8"), None);
        assert_eq!(subnet("10.0.0.0/33"), None);
    }

    #[test]
    fn routes_of_the_kernel() {
        let table = "\
Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0
";
        assert_eq!(routes(table), [(Ipv4Addr::new(172, 17, 0, 0), 16)]);
    }
}
