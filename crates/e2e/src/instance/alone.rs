//! The program `e2e-instance`: an instance as a process of its own, alone or the first one of a container.
//!
//! `e2e-instance ADDRESS SERVICE VERSION` serves; `e2e-instance ask ADDRESS PATH` is for a HEALTHCHECK: it exits with 0 when
//! the answer is 2xx. Variables change how it serves:
//!
//! - `E2E_SAY=TEXT` prints a line first; `E2E_EXIT=CODE` exits with this code at once;
//! - `E2E_READY_AFTER=MS` listens only then; `E2E_SILENT=1` takes connections and never answers;
//! - `E2E_LINGER=MS`: after SIGTERM it serves on for so long (0 by default), then finishes the requests that have
//!   begun, and ends.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::Service;
use crate::http::Request;

/// Runs it until it is told to end.
///
/// # Errors
/// When the arguments are wrong or the address cannot be bound.
pub async fn main(mut arguments: impl Iterator<Item = String>) -> Result<ExitCode> {
    let mut next = || {
        arguments
            .next()
            .context("usage: e2e-instance ADDRESS SERVICE VERSION | ask ADDRESS PATH")
    };
    let (first, second, third) = (next()?, next()?, next()?);
    if first == "ask" {
        let answer = Request::get("localhost", &third)
            .send(second.parse().context("read the address")?)
            .await?;
        return Ok(ExitCode::from(u8::from(!(200..300).contains(&answer.status))));
    }
    let address: SocketAddr = first.parse().context("read the address")?;
    // The first process of a container is killed by SIGTERM only when it handles it; from the very beginning, thus.
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    if let Ok(text) = std::env::var("E2E_SAY") {
        println!("{text}");
    }
    if let Some(code) = variable::<u8>("E2E_EXIT")? {
        return Ok(code.into());
    }
    let serving = async {
        sleep(millis("E2E_READY_AFTER")?).await;
        if variable::<u8>("E2E_SILENT")? == Some(1) {
            return silent(address).await;
        }
        Ok(Some(Service::start_at(address, &second, &third, None).await?))
    };
    let service = tokio::select! {
        service = serving => service?,
        _ = term.recv() => return Ok(ExitCode::SUCCESS),
    };
    term.recv().await;
    sleep(millis("E2E_LINGER")?).await;
    if let Some(service) = service {
        service.end().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes connections and never answers.
async fn silent(address: SocketAddr) -> Result<Option<Service>> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))?;
    let mut open = Vec::new();
    loop {
        open.push(listener.accept().await.context("take a connection")?);
    }
}

fn millis(name: &str) -> Result<Duration> {
    Ok(Duration::from_millis(variable(name)?.unwrap_or(0)))
}

fn variable<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(name: &str) -> Result<Option<T>> {
    // An empty one takes back what the image says.
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let value = text.parse().with_context(|| format!("read {name}"))?;
    Ok(Some(value))
}
