//! A Mayfly with an engine, the registrar of its containers, and launchers.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mayfly_e2e::docker::{DockerEngine, NETWORK};
use mayfly_e2e::eventually;
use mayfly_e2e::launching;
use mayfly_e2e::mayfly::Mayfly;
use mayfly_e2e::process::{Finished, Process};
use serde_json::Value;

/// For what takes some seconds: containers start and stop, and several tests share two cores.
pub const LATER: Duration = Duration::from_secs(90);

/// All of it. Dropped, the launchers go first and the engine last.
pub struct MayflyWithEngine {
    /// The launchers by their nodes' order.
    pub launchers: Vec<Process>,
    /// The registrar of the engine's containers.
    pub registrar: Process,
    pub mayfly: Mayfly,
    pub engine: DockerEngine,
}

impl MayflyWithEngine {
    /// Everything but a launcher. `images` are made of the tests' instance.
    pub async fn start(images: &[&str]) -> Self {
        Self::start_on(DockerEngine::start().await.unwrap(), images, NETWORK).await
    }

    /// As [`MayflyWithEngine::start`], on an engine that is there, with the network that instances are registered by.
    pub async fn start_on(engine: DockerEngine, images: &[&str], network: &str) -> Self {
        for image in images {
            engine.image(image).await.unwrap();
        }
        let mayfly = Mayfly::start().await.unwrap();
        let registrar = launching::registrar(&mayfly, &engine, network).unwrap();
        Self {
            launchers: Vec::new(),
            registrar,
            mayfly,
            engine,
        }
    }

    /// The arguments of a launcher.
    fn arguments(&self, node: &str, arguments: &[&str]) -> Command {
        launching::launcher(&self.mayfly, &self.engine, node, arguments).unwrap()
    }

    /// Starts a launcher as node `test`, or once more.
    pub fn launch(&mut self, arguments: &[&str]) {
        self.launch_as("test", arguments);
    }

    /// Starts a launcher as another node.
    pub fn launch_as(&mut self, node: &str, arguments: &[&str]) {
        let command = self.arguments(node, arguments);
        let name = format!("container-launcher-{node}");
        self.launchers.push(self.mayfly.spawn(&name, &command).unwrap());
    }

    /// Runs a launcher to its end.
    pub async fn run_launcher(&self, arguments: &[&str]) -> Finished {
        let command = self.arguments("test", arguments);
        mayfly_e2e::process::run(&command, Duration::from_secs(30))
            .await
            .unwrap()
    }

    /// Saves the definition of a service whose image is `team/<service>:<version>`; `more` are further lines.
    pub fn define(&self, service: &str, more: &str) {
        self.define_with(service, &format!("team/{service}"), NETWORK, more);
    }

    /// As [`MayflyWithEngine::define`], with another image and network.
    pub fn define_with(&self, service: &str, image: &str, network: &str, more: &str) {
        launching::define(&self.mayfly, service, image, network, more).unwrap();
    }

    /// Saves an environment whose route `/` leads to the first of its services, given as `backend=0.0.1`.
    pub fn environment(&self, name: &str, services: &[&str]) {
        let mut text = format!("name: {name}\nservices:\n");
        for (at, choice) in services.iter().enumerate() {
            let (service, version) = choice.split_once('=').unwrap();
            text += &format!("  - {{name: {service}, version: \"{version}\"");
            text += if at == 0 { ", route: /}\n" } else { "}\n" };
        }
        self.mayfly.save(&format!("{name}.yaml"), &text);
    }

    /// Waits until an environment is answered by a backend.
    pub async fn answers(&self, environment: &str, backend: &str) {
        let host = format!("www-{environment}.example.com");
        eventually(
            LATER,
            &format!("{host} is answered by {backend}"),
            async || -> Result<()> {
                let found = self.mayfly.get(&host, "/").await?.backend()?;
                ensure!(
                    found == backend,
                    "{found} answers; {:?}",
                    self.backend(backend).await.ok()
                );
                Ok(())
            },
        )
        .await;
    }

    /// The names of all containers that a launcher has made, running or not.
    pub async fn containers(&self) -> BTreeSet<String> {
        let format = "{{.Names}}";
        let arguments = [
            "ps",
            "-a",
            "--filter",
            "label=mayfly.launcher",
            "--format",
            format,
        ];
        let listed = self.engine.docker(&arguments).await.unwrap();
        listed.split_whitespace().map(str::to_owned).collect()
    }

    /// How many containers of a backend a launcher has made, by their states.
    pub async fn states(&self, backend: &str) -> Result<Vec<String>> {
        let (service, version) = backend.split_once('@').context("a backend")?;
        let service = format!("label=mayfly.service={service}");
        let version = format!("label=mayfly.version={version}");
        let arguments = [
            "ps",
            "-a",
            "--filter",
            "label=mayfly.launcher",
            "--filter",
            &service,
            "--filter",
            &version,
            "--format",
            "{{.State}}",
        ];
        let listed = self.engine.docker(&arguments).await?;
        Ok(listed.split_whitespace().map(str::to_owned).collect())
    }

    /// Waits until a backend has exactly so many containers, all running.
    pub async fn runs(&self, backend: &str, count: usize) {
        eventually(
            LATER,
            &format!("{count} containers of {backend} run"),
            async || -> Result<()> {
                let states = self.states(backend).await?;
                ensure!(states == vec!["running"; count], "{states:?}");
                Ok(())
            },
        )
        .await;
    }

    /// What the launcher that leads says of itself.
    pub async fn launching(&self) -> Result<Value> {
        let all = self
            .mayfly
            .etcd
            .list("/mayfly/status/container-launcher/")
            .await?;
        let leads = |value: &Value| value["detail"]["launching"]["leading"] == true;
        let mut records = all
            .values()
            .filter_map(|text| serde_json::from_str::<Value>(text).ok());
        let leader = records.find(leads).context("no launcher leads")?;
        Ok(leader["detail"]["launching"].clone())
    }

    /// What the leading launcher says of a backend.
    pub async fn backend(&self, backend: &str) -> Result<Value> {
        let launching = self.launching().await?;
        let said = &launching["backends"][backend];
        ensure!(!said.is_null(), "it says nothing of {backend}: {launching}");
        Ok(said.clone())
    }

    /// Waits until the leading launcher says of a backend that it is in a state, and why; gives all that it says.
    pub async fn says(&self, backend: &str, state: &str, reason: &str) -> Value {
        eventually(
            LATER,
            &format!("{backend} is {state}: {reason}"),
            async || -> Result<Value> {
                let said = self.backend(backend).await?;
                ensure!(said["state"] == state, "{said}");
                let why = said["reason"].as_str().unwrap_or_default();
                ensure!(why.contains(reason), "{said}");
                Ok(said)
            },
        )
        .await
    }

    /// Waits until the leading launcher has nothing to say of a backend.
    pub async fn forgets(&self, backend: &str) {
        eventually(
            LATER,
            &format!("nothing is said of {backend}"),
            async || -> Result<()> {
                let launching = self.launching().await?;
                let said = &launching["backends"][backend];
                ensure!(said.is_null(), "{said}");
                Ok(())
            },
        )
        .await;
    }
}
