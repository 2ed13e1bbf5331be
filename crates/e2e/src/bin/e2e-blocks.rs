//! Runs the shell blocks of pages on this machine, in the current directory: those of the tutorial, beside the demo.

use std::path::Path;
use std::process::ExitCode;

use mayfly_e2e::documents::{Page, runner::Run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let here = Path::new(".");
    let mut code = ExitCode::SUCCESS;
    for path in std::env::args().skip(1) {
        let page = Page::read(here, Path::new(&path))?;
        let directory = tempfile::tempdir()?;
        println!("{path}: running {} blocks", page.runs().count());
        for fault in Run::here(&page, here, directory.path())?.faults().await? {
            eprintln!("{fault}");
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
