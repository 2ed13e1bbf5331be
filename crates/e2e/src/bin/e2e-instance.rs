//! An instance of the end-to-end tests as a process of its own, so that a test can kill it.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    mayfly_e2e::instance::serve_forever(std::env::args().skip(1)).await
}
