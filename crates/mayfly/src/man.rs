//! `mayfly man`: the manual pages of this tool, made of the same text as `--help`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;
use mayfly_daemon::output;

const EXAMPLES: &str = "\
Examples:
  mayfly man | man -l -                     shows the page of mayfly itself
  mayfly man /usr/local/share/man/man1      then: man mayfly, man mayfly-apply";

/// Writes the manual pages: one for the tool and one for each command
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Writes the pages into this directory, and creates it if needed [default: prints only the page
    /// mayfly(1)]
    #[arg(value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
}

/// Writes the pages of the tool that has this command line.
///
/// # Errors
/// When a file can't be written.
pub fn run(args: &Args, tool: Command) -> anyhow::Result<ExitCode> {
    let pages = pages(tool)?;
    match &args.directory {
        Some(directory) => write(&pages, directory)?,
        None => output::print(&pages[0].1)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write(pages: &[(String, String)], directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    for (name, page) in pages {
        let path = directory.join(name);
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The pages with the names of their files; that of the tool first.
fn pages(mut tool: Command) -> anyhow::Result<Vec<(String, String)>> {
    // Only a command that was built has what flags are global.
    tool.build();
    let mut pages = vec![page(tool.clone())?];
    for command in tool.get_subcommands().filter(|it| it.get_name() != "help") {
        pages.push(page(command.clone())?);
    }
    Ok(pages)
}

fn page(command: Command) -> anyhow::Result<(String, String)> {
    let man = Man::new(command);
    let (name, mut page) = (man.get_filename(), Vec::new());
    man.render(&mut page)
        .with_context(|| format!("cannot write the page {name}"))?;
    Ok((name, String::from_utf8_lossy(&page).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        write(&pages(crate::args::command()).unwrap(), directory.path()).unwrap();
        for name in [
            "mayfly",
            "mayfly-lint",
            "mayfly-apply",
            "mayfly-delete",
            "mayfly-keep",
        ] {
            let page = fs::read_to_string(directory.path().join(format!("{name}.1"))).unwrap();
            assert!(
                page.contains(".SH SYNOPSIS") && page.contains("Examples"),
                "{name}: {page}"
            );
        }
    }
}
