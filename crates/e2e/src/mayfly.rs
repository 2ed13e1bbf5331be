//! All of Mayfly around one etcd: HAProxy with its updater, the environment registrar on a directory, instances
//! with their container registrars, and dnsmasq with the DNS updater where a test wants them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::clock::Clock;
use crate::dnsmasq::Dnsmasq;
use crate::etcd::Etcd;
use crate::haproxy::Haproxy;
use crate::http::{Answer, Request};
use crate::instance::{Outgoing, Service, ServiceProcess};
use crate::names::Names;
use crate::network::Host;
use crate::process::{self, Finished, Process, binary};
use crate::user::User;
use crate::{eventually, port};

/// Limit for what should happen at once: generous, since several tests share two cores.
pub const SOON: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Mayfly {
    // Fields are dropped in this order: daemons first, so that they do not log the end of what they use.
    /// The environment registrar, watching [`Mayfly::environments`].
    pub registrar: Option<Process>,
    pub updater: Option<Process>,
    pub dns_updater: Option<Process>,
    pub haproxy: Haproxy,
    /// dnsmasq, after [`Mayfly::start_dns`].
    pub dnsmasq: Option<Dnsmasq>,
    pub etcd: Etcd,
    /// Where clients from outside connect.
    pub edge: SocketAddr,
    /// Where services connect.
    pub internal: SocketAddr,
    /// Host names that only haproxy-updater sees, after [`Mayfly::start_with_names`].
    pub names: Option<Names>,
    /// Further arguments of every program, such as those for TLS.
    pub arguments: Vec<String>,
    /// Where the passwords of the users are that deploy/etcd-roles.sh has made, if each program is to log in.
    pub passwords: Option<PathBuf>,
    /// The directory of Mayfly's programs from now on, if they are not those beside the test.
    pub programs: Option<PathBuf>,
    /// What Mayfly's programs see in place of the machine's clock, if a test has set it.
    pub clock: Option<Clock>,
    /// Who runs haproxy-updater, if a test has said so.
    pub updater_user: Option<User>,
    updater_arguments: Vec<String>,
    directory: TempDir,
}

/// An instance of a service with its container registrar.
#[derive(Debug)]
pub struct Instance<S> {
    /// The container registrar; [`Process::terminate`] takes the instance out of rotation in good order.
    pub registrar: Process,
    pub service: S,
}

impl Mayfly {
    /// Starts etcd, HAProxy with its updater and the environment registrar.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Mayfly::start`], with further arguments for haproxy-updater.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_with(updater_arguments: &[&str]) -> Result<Self> {
        let mut mayfly = Self::bare(updater_arguments)?;
        mayfly.start_all().await?;
        Ok(mayfly)
    }

    /// As [`Mayfly::start_with`], and haproxy-updater sees [`Mayfly::names`] in place of the machine's host names.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_with_names(updater_arguments: &[&str]) -> Result<Self> {
        let mut mayfly = Self::bare(updater_arguments)?;
        mayfly.names = Some(Names::new(mayfly.directory())?);
        mayfly.start_all().await?;
        Ok(mayfly)
    }

    /// As [`Mayfly::start_with`], around an etcd that runs already.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_on(etcd: Etcd, updater_arguments: &[&str]) -> Result<Self> {
        let mut mayfly = Self::bare(updater_arguments)?;
        mayfly.etcd = etcd;
        mayfly.start_daemons().await?;
        Ok(mayfly)
    }

    /// Starts what [`Mayfly::start`] starts, in a bare Mayfly.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_all(&mut self) -> Result<()> {
        self.etcd.restart().await?;
        self.start_daemons().await
    }

    async fn start_daemons(&mut self) -> Result<()> {
        self.start_updater()?;
        self.start_registrar(&[])?;
        self.haproxy.start().await
    }

    /// Everything has its place, and nothing runs yet, not even etcd.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn bare(updater_arguments: &[&str]) -> Result<Self> {
        // Not below /var/tmp or a long TMPDIR: a socket's path holds 107 bytes.
        let directory = tempfile::Builder::new()
            .prefix("mayfly-")
            .tempdir()
            .context("make a directory")?;
        let path = directory.path();
        for name in ["environments", "haproxy/run", "hosts"] {
            std::fs::create_dir_all(path.join(name)).context("make a directory")?;
        }
        let state = path.join("haproxy");
        let (master, socket) = (state.join("run/master.sock"), state.join("run/haproxy.sock"));
        Ok(Self {
            registrar: None,
            updater: None,
            dns_updater: None,
            haproxy: Haproxy::new(&state.join("haproxy.cfg"), &master, &socket, path),
            dnsmasq: None,
            etcd: Etcd::reserve()?,
            edge: port::free(),
            internal: port::free(),
            names: None,
            arguments: Vec::new(),
            passwords: None,
            programs: None,
            clock: None,
            updater_user: None,
            updater_arguments: updater_arguments.iter().map(ToString::to_string).collect(),
            directory,
        })
    }

    /// The directory of this Mayfly: logs, and a place for a test's own files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The directory that the environment registrar watches.
    pub fn environments(&self) -> PathBuf {
        self.directory().join("environments")
    }

    /// The directory that haproxy-updater and HAProxy share.
    pub fn haproxy_directory(&self) -> PathBuf {
        self.directory().join("haproxy")
    }

    /// The file of a map, such as `edge`.
    pub fn map_file(&self, name: &str) -> PathBuf {
        self.haproxy_directory().join("maps").join(format!("{name}.map"))
    }

    /// A command of one of Mayfly's programs for this Mayfly's etcd.
    ///
    /// # Errors
    /// When the program has not been built.
    pub fn command(&self, program: &str) -> Result<Command> {
        let path = match &self.programs {
            Some(directory) => directory.join(program),
            None => binary(program)?,
        };
        let mut command = Command::new(path);
        command
            .arg("--etcd")
            .arg(self.etcd.endpoint())
            .args(["--node", "test"])
            .args(&self.arguments);
        if let Some(passwords) = &self.passwords {
            let user = match program {
                "mayfly" => "mayfly-operator".to_owned(),
                "mayfly-web" => program.to_owned(),
                daemon => format!("mayfly-{daemon}"),
            };
            // One for this node alone, where there is one.
            let of_node = format!("{user}@test");
            let user = match passwords.join(&of_node).exists() {
                true => of_node,
                false => user,
            };
            command.args(["--etcd-user", &user, "--etcd-password-file"]);
            command.arg(passwords.join(&user));
        }
        if let Some(clock) = &self.clock {
            clock.show(&mut command);
        }
        Ok(command)
    }

    /// Runs one of Mayfly's programs to its end.
    ///
    /// # Errors
    /// When it has not been built or does not end within 30 s.
    pub async fn run(&self, program: &str, arguments: &[&str]) -> Result<Finished> {
        process::run(self.command(program)?.args(arguments), Duration::from_secs(30)).await
    }

    /// Starts one of Mayfly's daemons; its log is `<name>.log` in the Mayfly's directory.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn spawn(&self, name: &str, command: &Command) -> Result<Process> {
        Process::spawn(name, command, &self.directory().join(format!("{name}.log")))
    }

    /// Starts haproxy-updater (again).
    ///
    /// # Errors
    /// When it has not been built.
    pub fn start_updater(&mut self) -> Result<()> {
        self.start_updater_with(&[])
    }

    /// Starts haproxy-updater (again) with further arguments for this time only.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn start_updater_with(&mut self, arguments: &[&str]) -> Result<()> {
        let mut command = self.command("haproxy-updater")?;
        command.arg("--dir").arg(self.haproxy_directory());
        command
            .arg("--edge")
            .arg(self.edge.to_string())
            .arg("--internal")
            .arg(self.internal.to_string());
        // `auto` would find 127.0.0.1, from which loopback addresses are reached.
        command.arg("--advertise").arg(self.internal.ip().to_string());
        command.args(&self.updater_arguments).args(arguments);
        if let Some(names) = &self.names {
            command = names.wrap(&command);
        }
        if let Some(user) = self.updater_user {
            command = user.wrap(&command, self.directory())?;
        }
        self.updater = Some(self.spawn("haproxy-updater", &command)?);
        Ok(())
    }

    /// Starts the environment registrar (again), with further arguments.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn start_registrar(&mut self, arguments: &[&str]) -> Result<()> {
        let mut command = self.command("environment-registrar")?;
        command.arg("watch").arg(self.environments()).args(arguments);
        self.registrar = Some(self.spawn("environment-registrar", &command)?);
        Ok(())
    }

    /// Starts dnsmasq and the DNS updater.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_dns(&mut self) -> Result<()> {
        let hosts = self.directory().join("hosts");
        self.dns_updater = Some(self.spawn("dns-updater", &self.dns_watch()?)?);
        self.dnsmasq = Some(Dnsmasq::start(&hosts, "service", self.directory()).await?);
        Ok(())
    }

    /// `dns-updater watch` on this Mayfly's hosts directory.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn dns_watch(&self) -> Result<Command> {
        let mut command = self.command("dns-updater")?;
        command
            .arg("watch")
            .arg("--hosts-file")
            .arg(self.directory().join("hosts/mayfly"));
        Ok(command)
    }

    /// Saves a file in the watched directory as careful programs do: written beside, then renamed.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn save(&self, file: &str, text: &str) {
        let beside = self.directory().join(format!("{file}.new"));
        std::fs::write(&beside, text).expect("write a file");
        std::fs::rename(&beside, self.environments().join(file)).expect("rename a file");
    }

    /// Deletes a file of the watched directory.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn remove(&self, file: &str) {
        std::fs::remove_file(self.environments().join(file)).expect("delete a file");
    }

    /// Starts an instance in the test process with a container registrar beside it.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn instance(&self, service: &str, version: &str) -> Result<Instance<Service>> {
        self.instance_at(port::free(), service, version).await
    }

    /// The same at an address, from which it calls others, too.
    ///
    /// # Errors
    /// As [`Mayfly::instance`].
    pub async fn instance_at(
        &self,
        address: SocketAddr,
        service: &str,
        version: &str,
    ) -> Result<Instance<Service>> {
        let outgoing = self.dnsmasq.as_ref().map(|d| Outgoing {
            dns: d.address(),
            port: self.internal.port(),
        });
        let running = Service::start_at(address, service, version, outgoing).await?;
        let registrar = self.register(service, version, running.address(), &[])?;
        self.registered(service, version, running.address()).await;
        Ok(Instance {
            registrar,
            service: running,
        })
    }

    /// Starts an instance as a process of its own, which can be killed, with a container registrar beside it.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn killable(
        &self,
        service: &str,
        version: &str,
        arguments: &[&str],
    ) -> Result<Instance<ServiceProcess>> {
        let running = ServiceProcess::start(service, version, self.directory()).await?;
        let registrar = self.register(service, version, running.address(), arguments)?;
        self.registered(service, version, running.address()).await;
        Ok(Instance {
            registrar,
            service: running,
        })
    }

    /// Waits until an instance stands in etcd, for a few seconds at most, since a test may have taken etcd away. A router
    /// that shows a later change then has the instance, too: it takes changes in their order.
    async fn registered(&self, service: &str, version: &str, at: SocketAddr) {
        let key = format!("/mayfly/backends/{service}/{version}/{at}");
        let found = async {
            while !matches!(self.etcd.get(&key).await, Ok(Some(_))) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), found).await;
    }

    /// Starts `container-registrar register` for an address.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn register(
        &self,
        service: &str,
        version: &str,
        at: SocketAddr,
        arguments: &[&str],
    ) -> Result<Process> {
        let command = self.registering(service, version, at, arguments)?;
        self.spawn(&format!("registrar-{service}-{version}-{}", at.port()), &command)
    }

    /// Starts an instance on another host, with a container registrar beside it there.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn instance_on(
        &self,
        host: &Host,
        service: &str,
        version: &str,
        arguments: &[&str],
    ) -> Result<Instance<ServiceProcess>> {
        let running = ServiceProcess::start_on(host, service, version, self.directory()).await?;
        let command = self.registering(service, version, running.address(), arguments)?;
        let name = format!("registrar-{service}-{version}-{}", running.address().port());
        let registrar = self.spawn(&name, &host.wrap(&command))?;
        self.registered(service, version, running.address()).await;
        Ok(Instance {
            registrar,
            service: running,
        })
    }

    fn registering(
        &self,
        service: &str,
        version: &str,
        at: SocketAddr,
        arguments: &[&str],
    ) -> Result<Command> {
        let mut command = self.command("container-registrar")?;
        command.args([
            "register",
            service,
            version,
            &at.ip().to_string(),
            &at.port().to_string(),
        ]);
        command.args(arguments);
        Ok(command)
    }

    /// Sends GET `path` to the edge for `host`.
    ///
    /// # Errors
    /// When no complete answer comes.
    pub async fn get(&self, host: &str, path: &str) -> Result<Answer> {
        Request::get(host, path).send(self.edge).await
    }

    /// Sends GET / to the internal side for `<service>.service`, in an environment.
    ///
    /// # Errors
    /// When no complete answer comes.
    pub async fn call(&self, environment: &str, service: &str) -> Result<Answer> {
        let request = Request::get(&format!("{service}.service"), "/").header("x-mayfly", environment);
        request.send(self.internal).await
    }

    /// Waits until GET / at the edge for `host` is answered by `backend` (`service@version`).
    ///
    /// # Panics
    /// When it is not within 10 s.
    pub async fn answers(&self, host: &str, backend: &str) {
        let what = format!("{host} is answered by {backend}");
        eventually(SOON, &what, async || -> Result<()> {
            let found = self.get(host, "/").await?.backend()?;
            ensure!(found == backend, "{found} answers");
            Ok(())
        })
        .await;
    }

    /// Waits until a call of `service` inside `environment` is answered by `backend` (`service@version`).
    ///
    /// # Panics
    /// When it is not within 10 s.
    pub async fn calls(&self, environment: &str, service: &str, backend: &str) {
        let what = format!("{service} in {environment} is answered by {backend}");
        eventually(SOON, &what, async || -> Result<()> {
            let found = self.call(environment, service).await?.backend()?;
            ensure!(found == backend, "{found} answers");
            Ok(())
        })
        .await;
    }

    /// Waits until the name resolves to exactly these addresses.
    ///
    /// # Panics
    /// When it does not within 10 s, or dnsmasq was not started.
    pub async fn resolves(&self, name: &str, addresses: &[IpAddr]) {
        let dnsmasq = self.dnsmasq.as_ref().expect("start_dns comes first");
        let what = format!("{name} resolves to {addresses:?}");
        eventually(SOON, &what, async || -> Result<()> {
            let found = dnsmasq.lookup(name).await?;
            ensure!(found == addresses, "found {found:?}");
            Ok(())
        })
        .await;
    }

    /// The status record of a daemon.
    ///
    /// # Errors
    /// When there is none.
    pub async fn status(&self, daemon: &str) -> Result<Value> {
        self.etcd.get_json(&format!("/mayfly/status/{daemon}/test")).await
    }

    /// How often haproxy-updater says that it has reloaded HAProxy.
    ///
    /// # Errors
    /// When its status record does not say it.
    pub async fn reloads(&self) -> Result<u64> {
        let status = self.status("haproxy-updater").await?;
        status["detail"]["reloads"]
            .as_u64()
            .with_context(|| format!("no count of reloads in {status}"))
    }

    /// The entries that a daemon has set aside, as key and reason.
    ///
    /// # Errors
    /// When there is no status record.
    pub async fn set_aside(&self, daemon: &str) -> Result<Vec<(String, String)>> {
        let status = self.status(daemon).await?;
        let all = status["set_aside"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(all
            .iter()
            .map(|entry| (text(&entry["key"]), text(&entry["reason"])))
            .collect())
    }
}
