//! An etcd of three members, each on a host of its own that can be cut off, with the times that etcd has by default.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Etcd;
use crate::network::{Host, Network};

/// How long a member may take to say what it knows.
const STATUS: Duration = Duration::from_millis(500);

/// Three members.
#[derive(Debug)]
pub struct Cluster {
    /// The members. Reads and writes of one go through the whole cluster, as far as it reaches that.
    pub members: Vec<Etcd>,
    /// Who they are to each other.
    names: Vec<String>,
    network: Network,
}

impl Cluster {
    /// Starts the three, and waits until they have a leader; logs of hosts go into `directory`.
    ///
    /// # Errors
    /// When not run as root, or a program is missing.
    pub async fn start(directory: &Path) -> Result<Self> {
        let network = Network::new(directory)?;
        let mut members = Vec::new();
        for _ in 0..3 {
            let host = network.host()?;
            let mut member = Etcd::reserve_at(host.address().into())?;
            member.host = Some(Arc::new(host));
            members.push(member);
        }
        let names = members
            .iter()
            .enumerate()
            .map(|(number, member)| format!("node{number}=http://{}", member.peer));
        let names = names.collect();
        let mut cluster = Self {
            members,
            names,
            network,
        };
        for number in 0..3 {
            cluster.launch(number)?;
        }
        for member in &cluster.members {
            member.serves().await;
        }
        Ok(cluster)
    }

    /// An [`Etcd`] without a process that stands for the whole.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn client(&self) -> Result<Etcd> {
        let mut client = Etcd::reserve_at(self.network.own().into())?;
        client.clients = self.members.iter().map(Etcd::address).collect();
        Ok(client)
    }

    fn launch(&mut self, number: usize) -> Result<()> {
        let all = self.names.join(",");
        self.members[number].launch(&format!("node{number}"), &all, &[])
    }

    /// Starts a member again, and waits until it takes part.
    ///
    /// # Errors
    /// When it runs.
    pub async fn restart(&mut self, number: usize) -> Result<()> {
        self.launch(number)?;
        self.members[number].serves().await;
        Ok(())
    }

    /// Whom a member takes for the leader.
    ///
    /// # Errors
    /// When it does not answer, or knows none.
    pub async fn leader_of(&self, number: usize) -> Result<usize> {
        let member = &self.members[number];
        let nothing = json!({});
        let asked = member.call("/v3/maintenance/status", &nothing);
        let status = tokio::time::timeout(STATUS, asked)
            .await
            .context("ask a member")??;
        let leader = status["leader"].as_str().context("a leader")?;
        let local = json!({ "linearizable": false });
        let asked = member.call("/v3/cluster/member/list", &local);
        let list = tokio::time::timeout(STATUS, asked)
            .await
            .context("ask a member")??;
        let all = list["members"].as_array().context("members")?;
        let name = all.iter().find(|member| member["ID"] == leader);
        let name = name
            .and_then(|member| member["name"].as_str())
            .context("a name")?;
        name.trim_start_matches("node").parse().context("a number")
    }

    /// The leader, if all members but `without` agree.
    ///
    /// # Errors
    /// When they do not, or one does not answer.
    pub async fn leader(&self, without: Option<usize>) -> Result<usize> {
        let mut found = None;
        for number in (0..3).filter(|number| Some(*number) != without) {
            let leader = self.leader_of(number).await?;
            ensure!(Some(leader) != without, "the old leader is still believed in");
            ensure!(found.is_none_or(|other| other == leader), "no agreement");
            found = Some(leader);
        }
        found.context("a leader")
    }

    /// The member that a process of this machine is connected to.
    ///
    /// # Errors
    /// When it is connected to none, or the kernel does not say it.
    pub fn used_by(&self, process: u32) -> Result<usize> {
        let mut sockets = Vec::new();
        let open = std::fs::read_dir(format!("/proc/{process}/fd")).context("list open files")?;
        for file in open.flatten() {
            let target = std::fs::read_link(file.path()).unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            let socket = target
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'));
            sockets.extend(socket.map(str::to_owned));
        }
        let table = std::fs::read_to_string("/proc/self/net/tcp").context("read the connections")?;
        let rows = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        // The third word is the other side, the fourth the state (01: established), the tenth the socket.
        let own = rows.filter(|row| {
            row.get(3) == Some(&"01")
                && row
                    .get(9)
                    .is_some_and(|socket| sockets.iter().any(|own| own == socket))
        });
        let own: Vec<_> = own.collect();
        let used = (0..3).find(|number| {
            let remote = hexadecimal(self.members[*number].address());
            own.iter().any(|row| row[2] == remote)
        });
        used.context("it is connected to no member")
    }

    /// The host of a member.
    ///
    /// # Panics
    /// Never: each has one.
    pub fn host(&self, number: usize) -> &Host {
        self.members[number].host.as_ref().expect("a member has a host")
    }

    /// Cuts a member off from the other members, or joins it again; everybody else reaches it all the time.
    ///
    /// # Errors
    /// When it is so already.
    pub fn part(&self, number: usize, parted: bool) -> Result<()> {
        for other in (0..3).filter(|other| *other != number) {
            let address: Ipv4Addr = match self.members[other].address().ip() {
                IpAddr::V4(address) => address,
                IpAddr::V6(address) => anyhow::bail!("{address} is no address of a host"),
            };
            match parted {
                true => self.host(number).avoid(address)?,
                false => self.host(number).reach(address)?,
            }
        }
        Ok(())
    }
}

/// An address as the kernel has it in memory.
fn hexadecimal(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) => u32::from_ne_bytes(ip.octets()),
        IpAddr::V6(_) => 0,
    };
    format!("{ip:08X}:{:04X}", address.port())
}
