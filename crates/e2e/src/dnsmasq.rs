//! A real dnsmasq on a loopback port that serves a hosts directory, and a resolver that asks it directly.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use tokio::net::UdpSocket;

use crate::process::Process;
use crate::{eventually, port};

#[derive(Debug)]
pub struct Dnsmasq {
    address: SocketAddr,
    process: Process,
    command: Command,
    log: PathBuf,
    domain: String,
}

impl Dnsmasq {
    /// Starts dnsmasq on `hosts` (a directory) for the domain `domain` and waits until it answers; its log goes
    /// into `directory`.
    ///
    /// # Errors
    /// When the program `dnsmasq` is missing or does not start.
    pub async fn start(hosts: &Path, domain: &str, directory: &Path) -> Result<Self> {
        Self::start_at(port::free(), hosts, domain, directory, &[]).await
    }

    /// The same at an address, with further arguments.
    ///
    /// # Errors
    /// As [`Dnsmasq::start`].
    pub async fn start_at(
        address: SocketAddr,
        hosts: &Path,
        domain: &str,
        directory: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--no-poll",
        ]);
        command.args([
            "--bind-interfaces",
            "--log-facility=-",
            "--log-queries",
            "--user=",
            "--pid-file=",
        ]);
        command
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()));
        command
            .arg(format!("--local=/{domain}/"))
            .arg(format!("--hostsdir={}", hosts.display()))
            .args(arguments);
        let log = directory.join("dnsmasq.log");
        let mut dnsmasq = Self {
            address,
            process: Process::spawn("dnsmasq", &command, &log)?,
            command,
            log,
            domain: domain.into(),
        };
        dnsmasq.starts().await;
        Ok(dnsmasq)
    }

    async fn starts(&mut self) {
        let nothing = format!("nothing.{}", self.domain);
        eventually(Duration::from_secs(10), "dnsmasq answers", async || {
            if !self.process.is_running() {
                panic!("dnsmasq does not start: {}", self.process.output());
            }
            lookup(self.address, &nothing).await
        })
        .await;
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill9(&mut self) -> Result<()> {
        self.process.kill9().await
    }

    /// Starts it again and waits until it answers.
    ///
    /// # Errors
    /// When it runs.
    pub async fn restart(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "dnsmasq runs already");
        self.process = Process::spawn("dnsmasq", &self.command, &self.log)?;
        self.starts().await;
        Ok(())
    }

    /// Where it answers, by UDP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process id: the same as before means that it was not restarted.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The IPv4 addresses of a name, sorted; none when there is no such name.
    ///
    /// # Errors
    /// When dnsmasq does not answer or fails.
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>> {
        lookup(self.address, name).await
    }

    /// The IPv6 addresses of a name, sorted; none when there is no such name.
    ///
    /// # Errors
    /// When dnsmasq does not answer or fails.
    pub async fn lookup_v6(&self, name: &str) -> Result<Vec<IpAddr>> {
        query(self.address, name, TYPE::AAAA, 3).await
    }
}

/// Asks the DNS server at `server` for the IPv4 addresses of `name`, sorted; none when there is no such name.
///
/// # Errors
/// When no answer has come after three questions, 500 ms each, or the server fails.
pub async fn lookup(server: SocketAddr, name: &str) -> Result<Vec<IpAddr>> {
    query(server, name, TYPE::A, 3).await
}

/// As [`lookup`], with one question only.
///
/// # Errors
/// When no answer has come after 500 ms, or the server fails.
pub async fn lookup_once(server: SocketAddr, name: &str) -> Result<Vec<IpAddr>> {
    query(server, name, TYPE::A, 1).await
}

async fn query(server: SocketAddr, name: &str, kind: TYPE, questions: u32) -> Result<Vec<IpAddr>> {
    let mut question = Packet::new_query(4711);
    question.set_flags(PacketFlag::RECURSION_DESIRED);
    let host = Name::new(name).with_context(|| format!("{name} as a DNS name"))?;
    question.questions.push(Question::new(
        host,
        QTYPE::TYPE(kind),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    let question = question.build_bytes_vec().context("build a DNS question")?;
    let unspecified: IpAddr = if server.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let socket = UdpSocket::bind((unspecified, 0))
        .await
        .context("open a UDP socket")?;
    socket.connect(server).await.context("set the DNS server")?;
    let mut buffer = [0; 4096];
    for _ in 0..questions {
        // An error here is the kernel's word that nothing listens yet; the next question may find it.
        let _ = socket.send(&question).await;
        let received = tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut buffer)).await;
        let Ok(Ok(length)) = received else { continue };
        let answer = Packet::parse(&buffer[..length]).context("read a DNS answer")?;
        // REFUSED: the name is not in its domain, and it has nobody to ask.
        ensure!(
            matches!(answer.rcode(), RCODE::NoError | RCODE::NameError | RCODE::Refused),
            "ask {server} for {name}: {:?}",
            answer.rcode()
        );
        let mut found: Vec<IpAddr> = answer
            .answers
            .iter()
            .filter_map(|record| match &record.rdata {
                RData::A(a) => Some(IpAddr::from(a.address.to_be_bytes())),
                RData::AAAA(a) => Some(IpAddr::from(a.address.to_be_bytes())),
                _ => None,
            })
            .collect();
        found.sort();
        return Ok(found);
    }
    bail!("ask {server} for {name}: no answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_serves_a_hosts_directory_and_follows_a_rename() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        std::fs::create_dir(&hosts).unwrap();
        std::fs::write(
            hosts.join("mayfly"),
            "10.1.2.3 backend.service\nfd00::1 backend.service\n",
        )
        .unwrap();
        let dnsmasq = Dnsmasq::start(&hosts, "service", dir.path()).await.unwrap();
        let expected: IpAddr = "10.1.2.3".parse().unwrap();
        eventually(Duration::from_secs(5), "the first answer", async || {
            dnsmasq.lookup("backend.service").await.unwrap() == [expected]
        })
        .await;
        assert_eq!(
            dnsmasq.lookup_v6("backend.service").await.unwrap(),
            ["fd00::1".parse::<IpAddr>().unwrap()]
        );
        assert!(dnsmasq.lookup("other.service").await.unwrap().is_empty());
        std::fs::write(dir.path().join("new"), "10.1.2.4 backend.service\n").unwrap();
        std::fs::rename(dir.path().join("new"), hosts.join("mayfly")).unwrap();
        eventually(Duration::from_secs(5), "the new answer", async || {
            dnsmasq.lookup("backend.service").await.unwrap() == ["10.1.2.4".parse::<IpAddr>().unwrap()]
        })
        .await;
    }
}
