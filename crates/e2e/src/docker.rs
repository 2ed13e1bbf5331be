//! A Docker engine of a test's own: containerd and dockerd in namespaces of their own ([`place`]), with their data, sockets
//! and networks, so that a test may restart or kill it and nothing of it meets the machine's engine. Several run side
//! by side. There is no registry: images are made of the instance of the tests ([`image`]).
//!
//! The host reaches the containers of every bridge network by their addresses, and published ports at
//! [`DockerEngine::ip`]. Containers reach the host's address [`DockerEngine::host_ip`] and nothing else.

mod image;
mod place;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::eventually;
use crate::process::{self, Process};
use place::Place;

pub use image::{ENDS_AT_ONCE, HEALTHCHECK};

/// The bridge network that every engine has.
pub const NETWORK: &str = "mayfly";
/// The bridge network for services of a swarm, after [`DockerEngine::swarm_init`].
pub const SWARM_NETWORK: &str = "mayfly-swarm";
/// Limit for a start or an end of dockerd, and for one command.
const LIMIT: Duration = Duration::from_secs(60);

/// A running (or stopped, or killed) engine. Dropped, it takes its containers, networks and files along.
#[derive(Debug)]
pub struct DockerEngine {
    dockerd: Option<Process>,
    place: Place,
    directory: TempDir,
}

impl DockerEngine {
    /// Starts an engine and makes its network [`NETWORK`].
    ///
    /// # Errors
    /// Without root, when docker.io is not installed, or when it does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(json!({})).await
    }

    /// As [`DockerEngine::start`], with further options of dockerd's configuration file, such as `live-restore`.
    ///
    /// # Errors
    /// As [`DockerEngine::start`].
    pub async fn start_with(options: Value) -> Result<Self> {
        ensure!(
            geteuid().is_root(),
            "tests with a Docker engine of their own need root: they start one in namespaces of its own"
        );
        place::sweep();
        // Not below a long TMPDIR: a socket's path holds 107 bytes.
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}-", place::prefix(std::process::id())))
            .tempdir()
            .context("make a directory")?;
        let place = Place::start(directory.path()).await?;
        let mut engine = Self {
            dockerd: None,
            place,
            directory,
        };
        engine.configure(options)?;
        engine.start_again().await?;
        engine.docker(&["network", "create", NETWORK]).await?;
        Ok(engine)
    }

    fn configure(&self, options: Value) -> Result<()> {
        let path = |name: &str| self.directory.path().join(name);
        let mut config = json!({
            "data-root": path("data"),
            "exec-root": path("exec"),
            "pidfile": path("docker.pid"),
            "containerd": self.place.containerd(),
            "hosts": [self.host_url()],
            "bridge": "none",
            "iptables": false,
            "ip6tables": false,
            "ip-masq": false,
            "default-address-pools": [{ "base": self.place.networks(), "size": 24 }],
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": format!("/{}", self.place.name()),
            "log-level": "warn",
        });
        for (option, value) in options.as_object().into_iter().flatten() {
            config[option] = value.clone();
        }
        std::fs::write(path("daemon.json"), config.to_string()).context("write dockerd's configuration")
    }

    /// Starts dockerd again after [`DockerEngine::stop`] or [`DockerEngine::kill9`], and waits until it answers.
    ///
    /// # Errors
    /// When it runs, or does not start.
    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(
            self.dockerd.as_mut().is_none_or(|process| !process.is_running()),
            "dockerd runs already"
        );
        let mut command = self.place.command("dockerd", true);
        command
            .arg("--config-file")
            .arg(self.directory.path().join("daemon.json"));
        let mut process = Process::spawn("dockerd", &command, &self.directory.path().join("dockerd.log"))?;
        eventually(LIMIT, "dockerd answers", async || {
            assert!(
                process.is_running(),
                "dockerd does not start: {}",
                process.output()
            );
            self.docker(&["version"]).await
        })
        .await;
        self.dockerd = Some(process);
        Ok(())
    }

    /// Ends dockerd in good order: it stops its containers, unless it was started with `live-restore`.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn stop(&mut self) -> Result<()> {
        self.end(Signal::TERM).await
    }

    /// Kills dockerd; its containers live on until it is started again.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill9(&mut self) -> Result<()> {
        self.end(Signal::KILL).await
    }

    async fn end(&mut self, signal: Signal) -> Result<()> {
        self.signal_dockerd(signal)?;
        let process = self.dockerd.as_mut().context("dockerd was never started")?;
        process.wait(LIMIT).await.map(drop)
    }

    /// Ends dockerd in good order and starts it again.
    ///
    /// # Errors
    /// When it does not run, or does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Freezes dockerd: its sockets take connections and nothing answers. Containers run on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        let id = self.signal_dockerd(Signal::STOP)?;
        process::wait_until_stopped(id)
    }

    /// Thaws it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal_dockerd(Signal::CONT)?;
        // nsenter, which waits for dockerd, stops with it and does not go on with it.
        let process = self.dockerd.as_ref().context("dockerd was never started")?;
        let nsenter = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        kill_process(nsenter.context("nsenter's id")?, Signal::CONT).context("send nsenter a signal")
    }

    /// Sends dockerd a signal, and gives its process id.
    fn signal_dockerd(&self, signal: Signal) -> Result<u32> {
        let process = self.dockerd.as_ref().context("dockerd was never started")?;
        // The process is nsenter, which waits for dockerd, and has to see its end: nobody else would take a dead dockerd away.
        let pid = Pid::from_raw(place::child(process.id()).context("find dockerd")?).context("its id")?;
        kill_process(pid, signal).context("send dockerd a signal")?;
        u32::try_from(pid.as_raw_nonzero().get()).context("its id")
    }

    /// The directory of its files, for a test's own too.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The socket of its API.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// Where its API is, as DOCKER_HOST.
    pub fn host_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The address of the engine's own host, where published ports listen.
    pub fn ip(&self) -> Ipv4Addr {
        self.place.inside()
    }

    /// The address of the test's host, as containers see it.
    pub fn host_ip(&self) -> Ipv4Addr {
        self.place.outside()
    }

    /// Runs the docker client on this engine and gives what it printed, trimmed.
    ///
    /// # Errors
    /// When it fails or takes longer than a minute, with all that it printed.
    pub async fn docker(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("docker");
        command
            .args(arguments)
            .env("DOCKER_HOST", self.host_url())
            // What the developer's client is configured to, proxies for containers say, must not change a test.
            .env("DOCKER_CONFIG", self.directory.path().join("client"))
            .env("HOME", self.directory.path());
        let done = process::run(&command, LIMIT).await?;
        let printed = done
            .ok()
            .with_context(|| format!("docker {}", arguments.join(" ")))?;
        Ok(printed.trim().to_owned())
    }

    /// `docker run --detach` on the network [`NETWORK`], with further options; gives the container's whole id.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn run(&self, name: &str, image: &str, options: &[&str]) -> Result<String> {
        let mut arguments = vec!["run", "--detach", "--name", name];
        if !options.iter().any(|option| option.starts_with("--network")) {
            arguments.extend(["--network", NETWORK]);
        }
        arguments.extend(options);
        arguments.push(image);
        self.docker(&arguments).await
    }

    /// The address of a container on a network.
    ///
    /// # Errors
    /// When it has none there.
    pub async fn ip_of(&self, container: &str, network: &str) -> Result<IpAddr> {
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
        let found = self.docker(&["inspect", "--format", &format, container]).await?;
        found
            .parse()
            .with_context(|| format!("{container} has no address on {network}: {found:?}"))
    }

    /// Kills the process of a container, as a crash would (SIGKILL), behind the engine's back.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill9_container(&self, container: &str) -> Result<()> {
        let id = self
            .docker(&["inspect", "--format", "{{.Id}}", container])
            .await?;
        let pid = place::first_process_of(&id).with_context(|| format!("{container} does not run"))?;
        let pid = Pid::from_raw(pid).context("the id of a process")?;
        kill_process(pid, Signal::KILL).with_context(|| format!("kill the process of {container}"))
    }

    /// Makes the engine a swarm of one node, with a network [`SWARM_NETWORK`] for services that is a bridge, so that the
    /// host reaches their tasks. (An overlay network can be made besides; the host does not reach addresses on it.)
    ///
    /// # Errors
    /// When the engine refuses.
    pub async fn swarm_init(&self) -> Result<()> {
        self.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"])
            .await?;
        let (config, subnet) = (format!("{SWARM_NETWORK}-config"), self.place.swarm_network());
        self.docker(&["network", "create", "--config-only", "--subnet", &subnet, &config])
            .await?;
        let create = ["network", "create", "--scope", "swarm", "--driver", "bridge"];
        let from = ["--config-from", &config, SWARM_NETWORK];
        self.docker(&[&create[..], &from[..]].concat()).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Request;
    use crate::mayfly::SOON;

    /// What a test may leave behind: processes, interfaces, mounts, control groups, files.
    fn left_behind(name: &str, directory: &Path, interface: &str) -> Vec<String> {
        let mut left = place::traces(name, directory);
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let path = directory.to_string_lossy();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&*path))
                .map(str::to_owned),
        );
        let interface = Path::new("/sys/class/net").join(interface);
        let paths = [directory, &interface];
        left.extend(
            paths
                .iter()
                .filter(|path| path.exists())
                .map(|path| path.display().to_string()),
        );
        left
    }

    async fn answers(address: (IpAddr, u16), backend: &str) {
        eventually(SOON, "the container answers", async || -> Result<()> {
            let answer = Request::get("x", "/").send(address.into()).await?;
            ensure!(answer.backend()? == backend);
            Ok(())
        })
        .await;
    }

    #[tokio::test]
    async fn two_engines_side_by_side_run_containers_and_leave_nothing() {
        let (mut one, two) = (
            DockerEngine::start().await.unwrap(),
            DockerEngine::start().await.unwrap(),
        );
        one.image("team/backend:0.0.1").await.unwrap();
        one.image_with("backend:0.0.2", &[ENDS_AT_ONCE]).await.unwrap();
        two.image_with("backend:0.0.1", &[HEALTHCHECK]).await.unwrap();
        one.run(
            "backend-1",
            "team/backend:0.0.1",
            &["--publish", "9000:8080", "--restart", "always"],
        )
        .await
        .unwrap();
        two.run("backend-1", "backend:0.0.1", &[]).await.unwrap();
        let here = one.ip_of("backend-1", NETWORK).await.unwrap();
        answers((here, 8080), "backend@0.0.1").await;
        answers((one.ip().into(), 9000), "backend@0.0.1").await;
        answers(
            (two.ip_of("backend-1", NETWORK).await.unwrap(), 8080),
            "backend@0.0.1",
        )
        .await;
        eventually(SOON, "the engine finds it healthy", async || {
            let state = two
                .docker(&["inspect", "--format", "{{.State.Health.Status}}", "backend-1"])
                .await;
            state.unwrap() == "healthy"
        })
        .await;

        one.run("backend-2", "backend:0.0.2", &[]).await.unwrap();
        let code = one.docker(&["wait", "backend-2"]).await.unwrap();
        assert_eq!(code, "3");
        assert_eq!(
            one.docker(&["logs", "backend-2"]).await.unwrap(),
            "no such basket"
        );

        two.kill9_container("backend-1").await.unwrap();
        assert_eq!(two.docker(&["wait", "backend-1"]).await.unwrap(), "137");
        one.kill9().await.unwrap();
        assert!(one.docker(&["ps"]).await.is_err());
        one.start_again().await.unwrap();
        one.restart().await.unwrap();
        answers(
            (one.ip_of("backend-1", NETWORK).await.unwrap(), 8080),
            "backend@0.0.1",
        )
        .await;

        let traces = |engine: &DockerEngine| {
            let place = &engine.place;
            (
                place.name().to_owned(),
                engine.directory().to_owned(),
                place.interface(),
            )
        };
        let all = [traces(&one), traces(&two)];
        for (name, directory, interface) in &all {
            // This very look finds what there is.
            let found = left_behind(name, directory, interface);
            assert!(found.len() > 5, "{found:?}");
        }
        drop((one, two));
        for (name, directory, interface) in &all {
            eventually(SOON, "nothing is left", async || -> Result<()> {
                let left = left_behind(name, directory, interface);
                ensure!(left.is_empty(), "{left:#?}");
                Ok(())
            })
            .await;
        }
    }

    #[tokio::test]
    async fn a_swarm_of_one_node() {
        let engine = DockerEngine::start().await.unwrap();
        engine.image("backend:0.0.1").await.unwrap();
        engine.swarm_init().await.unwrap();
        let create = [
            "service",
            "create",
            "--quiet",
            "--name",
            "backend-1",
            "--network",
            SWARM_NETWORK,
            "backend:0.0.1",
        ];
        engine.docker(&create).await.unwrap();
        let container = engine.docker(&["ps", "--quiet"]).await.unwrap();
        let ip = engine.ip_of(&container, SWARM_NETWORK).await.unwrap();
        answers((ip, 8080), "backend@0.0.1").await;
    }
}
