//! The Git repository through which the team changes environments. The scripts of deploy/git make
//! it, and check pushes with a copy of this program, since who pushes may not start containers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use super::files::ProjectSettings;

/// The repository, in the directory of a project.
pub const NAME: &str = "environments.git";
/// Where the scripts are, and the program that checks.
const SCRIPTS: &str = ".mayfly/deploy/git";
const PROGRAM: &str = ".mayfly/bin/mayfly";

/// Whether a repository has to be made, or its hooks to be renewed from new scripts.
pub fn is_needed(directory: &Path, added: &[String]) -> bool {
    !directory.join(NAME).exists()
        || !directory.join(PROGRAM).exists()
        || added.iter().any(|path| path.starts_with(SCRIPTS))
}

/// Makes the repository in `directory`, which will be at `place`, or renews one.
///
/// # Errors
/// When a program fails.
pub async fn set_up(directory: &Path, place: &Path) -> anyhow::Result<()> {
    copy_program(&directory.join(PROGRAM))?;
    let repository = directory.join(NAME);
    let mut script = Command::new(directory.join(SCRIPTS).join("init-environments-repo.sh"));
    script.arg("--lint").arg(directory.join(PROGRAM)).arg(&repository);
    script.args([directory.join("environments"), directory.join("services")]);
    succeed(&mut script).await?;
    let settings = ProjectSettings::read(directory)?;
    for (key, value) in [
        (
            "mayfly.environments",
            place.join("environments").display().to_string(),
        ),
        ("mayfly.services", place.join("services").display().to_string()),
        ("mayfly.lint", place.join(PROGRAM).display().to_string()),
        ("mayfly.scripts", place.join(SCRIPTS).display().to_string()),
        (
            "mayfly.allowAddress",
            settings.get("MAYFLY_ALLOW_ADDRESS").to_owned(),
        ),
    ] {
        let mut git = Command::new("git");
        git.arg("--git-dir")
            .arg(&repository)
            .args(["config", key, &value]);
        succeed(&mut git).await?;
    }
    Ok(())
}

/// Copies this program, as a whole.
fn copy_program(to: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot copy this program to {}", to.display());
    let this = std::env::current_exe().with_context(cannot)?;
    let beside = to.with_extension("new");
    fs::create_dir_all(to.parent().unwrap_or(to)).with_context(cannot)?;
    fs::copy(&this, &beside).with_context(cannot)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).with_context(cannot)?;
    fs::rename(&beside, to).with_context(cannot)
}

async fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command
        .output()
        .await
        .with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("cannot set up the repository: {name}: {}", errors.trim_end());
    }
    Ok(())
}
