//! The demo's `backend`: says in JSON which version and instance it is, and for which environment it was asked.

use clap::Parser;
use mayfly_demo_services::backend;
use mayfly_demo_services::server::{ServiceArgs, serve};

/// Answers with its version, its instance, and the environment of the request
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    serve(
        &args.service,
        backend::routes(&args.service.version, &args.service.instance),
    )
    .await
}
