//! Hosts of a test's own that can be cut off: network namespaces that a switch joins with each other and with this machine.
//! Needs root. Each namespace lives as long as the process that holds it, so nothing is left of them when a test is killed.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::Process;

/// 198.18.0.0/15 is for benchmarks of networks, so hosts hardly use it; each network gets a /24 of its lower half.
const RANGE: [u8; 2] = [198, 18];

/// A switch with a link to this machine.
#[derive(Debug)]
pub struct Network {
    switch: Process,
    directory: PathBuf,
    number: u8,
    hosts: AtomicU8,
}

/// A host on a network.
#[derive(Debug)]
pub struct Host {
    namespace: Process,
    address: Ipv4Addr,
    switch: u32,
    port: String,
}

impl Network {
    /// A network without hosts; logs go into `directory`.
    ///
    /// # Errors
    /// When not run as root, or `ip` is missing (Debian: iproute2).
    pub fn new(directory: &Path) -> Result<Self> {
        let switch = namespace("switch", directory)?;
        let id = switch.id().to_string();
        let first = u8::try_from(std::process::id() % 256).unwrap_or(0);
        // The name of the link is taken by one test only, and with it the number.
        let number = (0..=255).map(|offset| first.wrapping_add(offset)).find(|number| {
            let link = link(*number);
            ip(
                None,
                &[
                    "link", "add", &link, "type", "veth", "peer", "name", "uplink", "netns", &id,
                ],
            )
            .is_ok()
        });
        let number = number
            .context("make a link to a network namespace: every number is taken, or this is not root")?;
        let network = Self {
            switch,
            directory: directory.into(),
            number,
            hosts: AtomicU8::new(2),
        };
        let inside = Some(network.switch.id());
        ip(
            inside,
            &["link", "add", "bridge", "type", "bridge", "forward_delay", "0"],
        )?;
        ip(inside, &["link", "set", "bridge", "up"])?;
        ip(inside, &["link", "set", "uplink", "master", "bridge", "up"])?;
        let link = link(number);
        let address = format!("{}/24", network.own());
        ip(None, &["address", "add", &address, "dev", &link])?;
        ip(None, &["link", "set", &link, "up"])?;
        Ok(network)
    }

    /// This machine's address on it.
    pub fn own(&self) -> Ipv4Addr {
        self.address(1)
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(RANGE[0], RANGE[1], self.number, host)
    }

    /// Another host on it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn host(&self) -> Result<Host> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        let (address, switch) = (self.address(number), self.switch.id());
        let namespace = namespace(&format!("host-{number}"), &self.directory)?;
        let (id, port) = (namespace.id(), format!("port{number}"));
        ip(
            Some(switch),
            &[
                "link",
                "add",
                &port,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                &id.to_string(),
            ],
        )?;
        ip(Some(switch), &["link", "set", &port, "master", "bridge", "up"])?;
        ip(Some(id), &["link", "set", "lo", "up"])?;
        let with_mask = format!("{address}/24");
        ip(Some(id), &["address", "add", &with_mask, "dev", "eth0"])?;
        ip(Some(id), &["link", "set", "eth0", "up"])?;
        Ok(Host {
            namespace,
            address,
            switch,
            port,
        })
    }
}

impl Host {
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The command that starts `command` there.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = enter(self.namespace.id());
        wrapped.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(key, value);
            }
        }
        wrapped
    }

    /// Gives it a default route, by way of the switch.
    ///
    /// # Errors
    /// When it has one.
    pub fn route_by_default(&self) -> Result<()> {
        ip(
            Some(self.namespace.id()),
            &["route", "add", "default", "dev", "eth0"],
        )
    }

    /// From now on nothing that it sends arrives anywhere, and nothing arrives there; nobody is told.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cut(&self) -> Result<()> {
        ip(Some(self.switch), &["link", "set", &self.port, "nomaster"])
    }

    /// Ends [`Host::cut`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn join(&self) -> Result<()> {
        ip(
            Some(self.switch),
            &["link", "set", &self.port, "master", "bridge"],
        )
    }

    /// From now on what it sends to `other` is lost; everybody else it reaches.
    ///
    /// # Errors
    /// When it does so already.
    pub fn avoid(&self, other: Ipv4Addr) -> Result<()> {
        let route = format!("{other}/32");
        ip(Some(self.namespace.id()), &["route", "add", "blackhole", &route])
    }

    /// Ends [`Host::avoid`].
    ///
    /// # Errors
    /// When it does not.
    pub fn reach(&self, other: Ipv4Addr) -> Result<()> {
        let route = format!("{other}/32");
        ip(Some(self.namespace.id()), &["route", "del", "blackhole", &route])
    }
}

/// The name of a network's link on this machine.
fn link(number: u8) -> String {
    format!("mayfly{number}")
}

/// A process that holds a network namespace.
fn namespace(name: &str, directory: &Path) -> Result<Process> {
    let mut command = Command::new("unshare");
    command.args(["--net", "sleep", "infinity"]);
    let mut process = Process::spawn(name, &command, &directory.join(format!("{name}.log")))?;
    let of = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).context("read a network namespace");
    let (own, start) = (of("self")?, Instant::now());
    while of(&process.id().to_string())? == own {
        ensure!(
            process.is_running(),
            "make a network namespace: {}",
            process.output()
        );
        ensure!(
            start.elapsed() < Duration::from_secs(10),
            "a network namespace was not made within 10 s"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(process)
}

fn enter(id: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{id}/ns/net")).arg("--");
    command
}

/// Runs `ip`, in the namespace that a process holds.
fn ip(inside: Option<u32>, arguments: &[&str]) -> Result<()> {
    let mut command = match inside {
        Some(id) => {
            let mut command = enter(id);
            command.arg("ip");
            command
        }
        None => Command::new("ip"),
    };
    let output = command.args(arguments).output().context("run ip (of iproute2)")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::eventually;
    use crate::http::Request;
    use crate::instance::ServiceProcess;

    #[tokio::test]
    async fn a_host_is_cut_off_and_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let network = Network::new(directory.path()).unwrap();
        let (one, two) = (network.host().unwrap(), network.host().unwrap());
        let service = ServiceProcess::start_on(&one, "web", "1", directory.path())
            .await
            .unwrap();
        let answers = async |address: SocketAddr| {
            let request = Request::get("web.service", "/");
            let answer = tokio::time::timeout(Duration::from_millis(300), request.send(address)).await;
            answer.is_ok_and(|answer| answer.is_ok())
        };
        let soon = Duration::from_secs(10);
        eventually(soon, "it answers", async || answers(service.address()).await).await;
        one.cut().unwrap();
        assert!(!answers(service.address()).await);
        one.join().unwrap();
        eventually(soon, "it answers again", async || {
            answers(service.address()).await
        })
        .await;
        // Between two hosts.
        let mut ping = Command::new("bash");
        let target = format!("exec 3<>/dev/tcp/{}/{}", one.address(), service.address().port());
        ping.args(["-c", &target]);
        let reaches = async || {
            let limit = Duration::from_millis(500);
            let ended = crate::process::run(&two.wrap(&ping), limit).await;
            ended.is_ok_and(|ended| ended.code == Some(0))
        };
        assert!(reaches().await);
        two.avoid(one.address()).unwrap();
        assert!(!reaches().await);
        two.reach(one.address()).unwrap();
        assert!(reaches().await);
    }
}
