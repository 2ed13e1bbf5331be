//! The demo's `frontend`: an HTML page made with the answer of `backend`, which it calls by name.

use axum::http::Uri;
use clap::Parser;
use mayfly_demo_services::frontend;
use mayfly_demo_services::server::{ServiceArgs, serve};

/// Answers with a page made from what the backend says
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
    /// URL of the backend, plain HTTP
    #[arg(long, env = "BACKEND_URL", default_value = "http://backend.service/")]
    backend_url: Uri,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let routes = frontend::routes(&args.service.version, &args.service.instance, args.backend_url);
    serve(&args.service, routes).await
}
