//! An instance of the end-to-end tests as a process of its own, so that a test can kill it or put it into a container.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    mayfly_e2e::instance::main(std::env::args().skip(1)).await
}
