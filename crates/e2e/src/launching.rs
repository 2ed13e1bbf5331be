//! A launcher and the registrar of an engine's containers, for a Mayfly.

use std::process::Command;

use anyhow::{Context, Result};

use crate::docker::DockerEngine;
use crate::mayfly::Mayfly;
use crate::process::Process;
use crate::process::binary;

/// Arguments that make a launcher quick, where a test does not give others.
const QUICK: [(&str, &str); 4] = [
    ("--patience", "300ms"),
    ("--drain", "500ms"),
    ("--ttl", "3s"),
    ("--stop-timeout", "5s"),
];

/// Starts the registrar of the engine's containers, which are reached by this network.
///
/// # Errors
/// When it has not been built.
pub fn registrar(mayfly: &Mayfly, engine: &DockerEngine, network: &str) -> Result<Process> {
    let mut command = mayfly.command("container-registrar")?;
    command
        .args(["docker", "--docker", &engine.host_url(), "--network", network])
        .args(["--ttl", "5s", "--check-interval", "200ms"]);
    mayfly.spawn("container-registrar-docker", &command)
}

/// The command of a launcher that runs as a node.
///
/// # Errors
/// When it has not been built.
pub fn launcher(mayfly: &Mayfly, engine: &DockerEngine, node: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary("container-launcher")?);
    command.args(["--etcd", &mayfly.etcd.endpoint(), "--node", node]);
    command.args(["--docker", &engine.host_url()]);
    for (flag, value) in QUICK.iter().filter(|(flag, _)| !arguments.contains(flag)) {
        command.args([flag, value]);
    }
    command.args(arguments);
    Ok(command)
}

/// Saves the definition of a service beside the environments; `more` are further lines.
///
/// # Errors
/// When the file cannot be written.
pub fn define(mayfly: &Mayfly, service: &str, image: &str, network: &str, more: &str) -> Result<()> {
    let text = format!(
        "name: {service}\nimage: '{image}:{{{{ version }}}}'\nport: 8080\ncheck: /health\nnetworks: [{network}]\n{more}\n"
    );
    let directory = mayfly.directory().join("services");
    std::fs::create_dir_all(&directory).context("make the directory of definitions")?;
    let beside = mayfly.directory().join("definition.new");
    std::fs::write(&beside, text).context("write a definition")?;
    std::fs::rename(&beside, directory.join(format!("{service}.yaml"))).context("rename a definition")
}
