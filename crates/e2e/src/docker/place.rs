//! Where an engine of a test's own runs: process, mount and network namespaces of its own, in which containerd is the
//! first process. When that ends, also because the test was killed, the kernel ends every process in there, and with
//! them go mounts, bridges and rules of the firewall. Left are empty control groups and a directory, which [`sweep`]
//! removes for a test that could not.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;
use crate::process::{self, Process};

const LIMIT: Duration = Duration::from_secs(30);
/// 100.64.0.0/10 is for the inside of a carrier's network, so hosts hardly use it; each engine gets a /20 of it.
const FIRST: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const SLOTS: u32 = 1024;
/// The tests' directories, control groups and interfaces begin with this.
const PREFIX: &str = "mayfly-engine";

static ENGINES: AtomicU32 = AtomicU32::new(0);

/// What belongs to the engines of one test process begins with this.
pub(super) fn prefix(test: u32) -> String {
    format!("{PREFIX}-{test}")
}

/// A place in which containerd runs.
#[derive(Debug)]
pub(super) struct Place {
    name: String,
    /// Which /20 it has.
    slot: u32,
    /// unshare, which waits for containerd.
    containerd: Process,
    socket: PathBuf,
    /// containerd, as the host counts processes.
    init: i32,
}

impl Place {
    /// Makes a place whose files are in `directory`, starts containerd there and connects it with the host.
    pub(super) async fn start(directory: &Path) -> Result<Self> {
        let name = format!(
            "{}-{}",
            prefix(std::process::id()),
            ENGINES.fetch_add(1, Ordering::Relaxed)
        );
        let socket = directory.join("containerd.sock");
        let config = directory.join("containerd.toml");
        let path = |name: &str| directory.join(name).display().to_string();
        std::fs::write(
            &config,
            format!(
                "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
                 [grpc]\naddress = {:?}\n[debug]\nlevel = \"warn\"\n",
                path("containerd"),
                path("containerd-state"),
                socket
            ),
        )
        .context("write containerd's configuration")?;
        // Where shims have sockets and the machine's engine its own; each is hidden by an empty one.
        let hidden = ["/run/containerd", "/run/docker"];
        for directory in hidden {
            std::fs::create_dir_all(directory).with_context(|| format!("make {directory}"))?;
        }
        let mut command = Command::new("unshare");
        command
            .args([
                "--pid",
                "--mount",
                "--net",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["sh", "-c"])
            .arg(
                "for d in /run/containerd /run/docker; do mount -t tmpfs none $d || exit 1; done; \
                 exec containerd --config \"$0\"",
            )
            .arg(&config);
        let mut containerd = Process::spawn("containerd", &command, &directory.join("containerd.log"))?;
        eventually(LIMIT, "containerd listens", async || {
            assert!(
                containerd.is_running(),
                "containerd does not start: {}",
                containerd.output()
            );
            tokio::net::UnixStream::connect(&socket).await
        })
        .await;
        let init = child(containerd.id()).context("find containerd")?;
        let mut place = Self {
            name,
            slot: 0,
            containerd,
            socket,
            init,
        };
        place.connect().await?;
        Ok(place)
    }

    /// A pair of interfaces with a network of two addresses between the host and the place. The name of the host's end is
    /// what reserves a slot, and the kernel frees it.
    async fn connect(&mut self) -> Result<()> {
        let init = self.init.to_string();
        let first = std::process::id() % SLOTS;
        let mut refused = String::new();
        for slot in (0..SLOTS).map(|n| (first + n) % SLOTS) {
            self.slot = slot;
            if !self.is_free().await? {
                continue;
            }
            let add = [
                "link",
                "add",
                &self.interface(),
                "type",
                "veth",
                "peer",
                "name",
                "uplink",
            ];
            match ip(&[&add[..], &["netns", &init]].concat()).await {
                Ok(_) => return self.address().await,
                Err(error) => refused = format!("{error:#}"),
            }
            ensure!(
                refused.contains("exists"),
                "connect the engine with the host: {refused}"
            );
        }
        bail!("no network for an engine is left: {refused}");
    }

    /// Whether the host has no way of its own to any address of the slot.
    async fn is_free(&self) -> Result<bool> {
        let within = ip(&["-4", "route", "show", "root", &self.subnet(0, 20)]).await?;
        let around = ip(&["-4", "route", "show", "match", &self.subnet(0, 20)]).await?;
        Ok(within.is_empty() && around.lines().all(|route| route.starts_with("default")))
    }

    async fn address(&self) -> Result<()> {
        let (interface, inside, outside) = (self.interface(), self.inside(), self.outside());
        ip(&["address", "add", &format!("{outside}/31"), "dev", &interface]).await?;
        ip(&["link", "set", &interface, "up"]).await?;
        for arguments in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", &format!("{inside}/31"), "dev", "uplink"],
            &["link", "set", "uplink", "up"],
        ] {
            let mut command = self.command("ip", false);
            command.args(arguments);
            process::run(&command, LIMIT).await?.ok()?;
        }
        let way = self.subnet(0, 20);
        ip(&["route", "add", &way, "via", &inside.to_string()])
            .await
            .map(drop)
    }

    /// A command inside the place.
    pub(super) fn command(&self, program: &str, all: bool) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--net"]);
        if all {
            command.args(["--pid", "--mount"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Its name, which no other place has.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn containerd(&self) -> &Path {
        &self.socket
    }

    /// What bridge networks are taken from: the lower half of the slot.
    pub(super) fn networks(&self) -> String {
        self.subnet(0, 21)
    }

    /// A network in the upper half.
    pub(super) fn swarm_network(&self) -> String {
        self.subnet(8 << 8, 24)
    }

    /// The place's own address.
    pub(super) fn inside(&self) -> Ipv4Addr {
        self.nth(0xfff)
    }

    /// The host's address, as the place sees it.
    pub(super) fn outside(&self) -> Ipv4Addr {
        self.nth(0xffe)
    }

    /// The host's end of the way into the place.
    pub(super) fn interface(&self) -> String {
        format!("mayfly-e{}", self.slot)
    }

    fn subnet(&self, offset: u32, bits: u32) -> String {
        format!("{}/{bits}", self.nth(offset))
    }

    fn nth(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(FIRST) + (self.slot << 12) + offset)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(init) = Pid::from_raw(self.init).filter(|_| self.containerd.is_running()) {
            let _ = kill_process(init, Signal::KILL);
        }
        // The first process of a namespace ends as the last one: then nobody is left in any control group. There is
        // nothing to await here, so this is the one place where a thread waits.
        let start = Instant::now();
        while self.containerd.is_running() && start.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        for group in control_groups() {
            if group.ends_with(&self.name) {
                remove_group(&group);
            }
        }
    }
}

async fn ip(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(arguments);
    process::run(&command, LIMIT)
        .await
        .context("run ip (of iproute2)")?
        .ok()
        .with_context(|| format!("ip {}", arguments.join(" ")))
}

/// The only child of a process.
pub(super) fn child(parent: u32) -> Result<i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let first = children.split_whitespace().next().context("it has no child")?;
    first.parse().context("read its child's id")
}

/// The process that a container has as its first, as the host counts them.
pub(super) fn first_process_of(container: &str) -> Option<i32> {
    entries(Path::new("/proc")).iter().find_map(|process| {
        let read = |name: &str| std::fs::read_to_string(process.join(name)).unwrap_or_default();
        let status = read("status");
        // Its id in every namespace, from the outermost.
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let first = ids.split_whitespace().last() == Some("1") && read("cgroup").contains(container);
        first
            .then(|| process.file_name()?.to_str()?.parse().ok())
            .flatten()
    })
}

/// What is there of a place: its control groups, and the processes in them or with its directory on their command line.
#[cfg(test)]
pub(super) fn traces(name: &str, directory: &Path) -> Vec<String> {
    let groups = control_groups().into_iter().filter(|group| group.ends_with(name));
    let says = |process: &Path, file: &str, text: &str| {
        std::fs::read(process.join(file)).is_ok_and(|found| String::from_utf8_lossy(&found).contains(text))
    };
    let directory = directory.to_string_lossy();
    let processes = entries(Path::new("/proc"))
        .into_iter()
        .filter(|process| says(process, "cgroup", name) || says(process, "cmdline", &directory));
    groups
        .chain(processes)
        .map(|path| path.display().to_string())
        .collect()
}

/// Removes what tests left behind that were killed: control groups and directories of processes that are no more.
pub(super) fn sweep() {
    let is_left = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        owner.is_some_and(|id| id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists())
    };
    for group in control_groups().iter().filter(|group| is_left(group)) {
        remove_group(group);
    }
    for directory in entries(&std::env::temp_dir()).iter().filter(|path| is_left(path)) {
        let _ = std::fs::remove_dir_all(directory);
    }
}

/// The control groups of engines of tests, in every hierarchy.
fn control_groups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = entries(root);
    let below = hierarchies.iter().flat_map(|hierarchy| entries(hierarchy));
    let all = below.chain(hierarchies.clone());
    let ours = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
    };
    all.filter(ours).collect()
}

fn remove_group(group: &Path) {
    for below in entries(group).iter().filter(|path| path.is_dir()) {
        remove_group(below);
    }
    let _ = std::fs::remove_dir(group);
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(directory).into_iter().flatten().flatten();
    found.map(|entry| entry.path()).collect()
}
