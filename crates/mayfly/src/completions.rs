//! `mayfly completions`: what a shell needs to complete the commands and flags of this tool.

use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;
use mayfly_daemon::output;

const EXAMPLES: &str = "\
Examples:
  source <(mayfly completions bash)                                          for this shell only
  mayfly completions bash > /etc/bash_completion.d/mayfly
  mayfly completions zsh > /usr/local/share/zsh/site-functions/_mayfly
  mayfly completions fish > ~/.config/fish/completions/mayfly.fish";

/// Prints the completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell for which to print completions
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish"]))]
    pub shell: String,
}

/// Prints the completions to standard output.
///
/// # Errors
/// When they can't be printed.
pub fn run(args: &Args, tool: Command) -> anyhow::Result<ExitCode> {
    output::print(&script(&args.shell, tool)?)?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: &str, mut tool: Command) -> anyhow::Result<String> {
    let shell: Shell = shell.parse().map_err(anyhow::Error::msg)?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut tool, "mayfly", &mut script);
    Ok(String::from_utf8_lossy(&script).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_learns_the_commands() {
        for shell in ["bash", "zsh", "fish"] {
            let script = script(shell, crate::args::command()).unwrap();
            for word in ["lint", "apply", "dry-run"] {
                assert!(script.contains(word), "{word} for {shell}");
            }
        }
    }
}
