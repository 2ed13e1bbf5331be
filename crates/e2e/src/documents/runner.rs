//! Runs the shell blocks of a page, all in one shell and in their order, and compares what they print with what the page
//! shows of it. The script has each block on the lines where the page has it, so that what fails is told by its line.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Page;
use crate::process::{Process, binary};

/// What stands for any text within a line, and alone on a line for any lines.
const ANYTHING: char = '…';
/// A page's limit: generous, since several run side by side.
const LIMIT: Duration = Duration::from_secs(120);
/// Lines of errors that are shown.
const TAIL: usize = 15;
const HOST: &str = include_str!("host.sh");

/// A page whose blocks are being run.
#[derive(Debug)]
pub struct Run {
    page: Page,
    /// Where its script, its outputs and its log are.
    directory: PathBuf,
    shell: Process,
}

impl Run {
    /// Runs the blocks of a page on this machine, in the directory `inside`.
    ///
    /// # Errors
    /// When the shell cannot be started.
    pub fn here(page: &Page, inside: &Path, directory: &Path) -> Result<Self> {
        let mut command = Command::new("bash");
        command.arg(script(page, directory)?).current_dir(inside);
        // What the pages take from the person's environment; the others are for scripts/test.sh.
        for name in ["HOME", "DOCKER_HOST", "SHOP_PORT", "MAYFLY_IMAGES"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        Self::spawn(page, &command, directory)
    }

    /// Runs the blocks of a page on a host of its own, on which all of Mayfly runs: host.sh says what. Needs root.
    /// The directories `copied` of `root` are in the working directory.
    ///
    /// # Errors
    /// When it cannot be started, or the programs are not built.
    pub fn on_own_host(page: &Page, root: &Path, copied: &[&str], directory: &Path) -> Result<Self> {
        let host = directory.join("host.sh");
        std::fs::write(&host, HOST).context("write host.sh")?;
        let work = directory.join("work");
        std::fs::create_dir_all(&work).context("make a directory")?;
        for name in copied {
            copy(&root.join(name), &work.join(name))?;
        }
        let programs = binary("mayfly")?;
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--net",
                "--uts",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
            ])
            .arg(host)
            .arg(directory)
            .arg(programs.parent().context("the directory of the programs")?)
            .arg(script(page, directory)?);
        Self::spawn(page, &command, directory)
    }

    fn spawn(page: &Page, command: &Command, directory: &Path) -> Result<Self> {
        let shell = Process::spawn("bash", command, &directory.join("errors"))?;
        Ok(Self {
            page: page.clone(),
            directory: directory.to_owned(),
            shell,
        })
    }

    /// What went wrong, each with its place.
    ///
    /// # Errors
    /// When it has not ended within two minutes.
    pub async fn faults(mut self) -> Result<Vec<String>> {
        let path = self.page.path.display().to_string();
        let ended = self
            .shell
            .wait(LIMIT)
            .await
            .with_context(|| format!("{path}: {}", self.errors()))?;
        if !ended.success() {
            return Ok(vec![format!("{path}: {ended}\n{}", self.errors())]);
        }
        let shown = self
            .page
            .runs()
            .filter_map(|(block, output)| Some((block.line, output?)));
        let faults = shown.filter_map(|(line, output)| {
            let printed = std::fs::read_to_string(printed(&self.directory, line)).unwrap_or_default();
            let expected: Vec<&str> = output.lines.iter().map(|line| line.trim_end()).collect();
            let found: Vec<&str> = printed.trim_end().lines().map(str::trim_end).collect();
            let fault = || {
                format!(
                    "{path}:{}: what is printed is not what is shown:\n{printed}",
                    output.line
                )
            };
            (!is_shown(&expected, &found)).then(fault)
        });
        Ok(faults.collect())
    }

    /// The end of what was printed on stderr, and by the block that was run last.
    fn errors(&self) -> String {
        let errors = self.shell.output();
        let lines: Vec<&str> = errors.lines().collect();
        let mut text = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        let begun = self
            .page
            .runs()
            .map(|(block, _)| printed(&self.directory, block.line));
        if let Some(last) = begun.filter(|path| path.exists()).last() {
            text += &format!("\nstdout:\n{}", std::fs::read_to_string(last).unwrap_or_default());
        }
        text
    }
}

/// Where the output of the block at a line goes.
fn printed(directory: &Path, line: usize) -> PathBuf {
    directory.join(format!("printed-{line}"))
}

/// Writes the script of a page; the path ends as the page's does, since bash begins its messages with it.
fn script(page: &Page, directory: &Path) -> Result<PathBuf> {
    let mut lines = vec![String::new(); page.lines.len()];
    let first = lines.first_mut().context("the page is empty")?;
    *first = "set -euE; trap 'echo \"$0: line $LINENO: exit code $?\" >&2' ERR".to_owned();
    for (block, _) in page.runs() {
        ensure!(
            block.line > 1,
            "{}: the title of a page comes first",
            page.path.display()
        );
        // In the place of the fence.
        lines[block.line - 1] = format!("exec >'{}'", printed(directory, block.line).display());
        for (line, text) in lines[block.line..].iter_mut().zip(&block.lines) {
            line.clone_from(text);
        }
    }
    let path = directory.join("pages").join(&page.path);
    std::fs::create_dir_all(path.parent().context("the page's directory")?).context("make a directory")?;
    std::fs::write(&path, lines.join("\n") + "\n").context("write the script")?;
    Ok(path)
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .context("run cp")?;
    ensure!(copied.success(), "copy {}: {copied}", from.display());
    Ok(())
}

/// Whether lines are what was shown of them.
fn is_shown(shown: &[&str], found: &[&str]) -> bool {
    match shown.split_first() {
        None => found.is_empty(),
        Some((line, rest)) if line.trim() == ANYTHING.to_string() => {
            (0..=found.len()).any(|skipped| is_shown(rest, &found[skipped..]))
        }
        Some((line, rest)) => found
            .split_first()
            .is_some_and(|(first, others)| is_line(line, first) && is_shown(rest, others)),
    }
}

fn is_line(shown: &str, found: &str) -> bool {
    let mut parts = shown.split(ANYTHING);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = found.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            return false;
        };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn faults(text: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let page = Page::parse(Path::new("docs/x.md"), text);
        let run = Run::here(&page, directory.path(), directory.path()).unwrap();
        run.faults().await.unwrap()
    }

    #[tokio::test]
    async fn blocks_run_in_one_shell_and_in_their_order() {
        let page = "# x\n```sh\nname=a\n```\n<!-- not run: it fails -->\n```sh\nfalse\n```\n- x\n  ```sh\n  cat <<END\n  $name b\n  END\n                      ```\n\n  ```text\n  a …\n  ```\n";
        assert_eq!(faults(page).await, [""; 0]);
    }

    #[tokio::test]
    async fn each_fault_is_told_with_its_line() {
        for (page, parts) in [
            (
                "# x\n```sh\ntrue\nfalse\n```\n",
                ["docs/x.md", "docs/x.md: line 4: exit code 1"],
            ),
            (
                "# x\n```sh\ntrue\n```\n```sh\necho \"$unset\"\n```\n",
                ["line 6:", "unset: unbound variable"],
            ),
            (
                "# x\n```sh\necho a\n```\n```text\nb\n```\n",
                ["docs/x.md:5: what is printed", "\na\n"],
            ),
            (
                "# x\n```sh\necho said\nexit 3\n```\n",
                ["exit status: 3", "stdout:\nsaid\n"],
            ),
        ] {
            let found = faults(page).await.join("\n");
            for part in parts {
                assert!(found.contains(part), "no {part:?} in {found}");
            }
        }
    }

    #[test]
    fn what_is_shown_may_leave_things_out() {
        for (shown, found, is_it) in [
            ("a", "a", true),
            ("a", "a\nb", false),
            ("a\nb", "a", false),
            ("a … c", "a b c", true),
            ("a … c", "a b d", false),
            ("a…a", "a", false),
            ("… b … d", "x b y d", true),
            ("a\n…\nd", "a\nb\nc\nd", true),
            ("a\n…\nd", "a\nd", true),
            ("a\n…", "b", false),
            ("…", "", true),
            ("", "", true),
        ] {
            let lines = |text: &'static str| text.lines().collect::<Vec<_>>();
            assert_eq!(
                is_shown(&lines(shown), &lines(found)),
                is_it,
                "{shown:?} {found:?}"
            );
        }
    }
}
