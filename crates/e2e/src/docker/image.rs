//! Images without a registry: the program `e2e-instance` and the libraries that it needs, imported as a file system.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::DockerEngine;
use crate::process;
use crate::process::binary;

/// A change for [`DockerEngine::image_with`]: the engine asks the instance's /health every half second, and two bad
/// answers in a row make it unhealthy.
pub const HEALTHCHECK: &str = r#"HEALTHCHECK --interval=500ms --timeout=2s --retries=2 CMD ["/e2e-instance", "ask", "127.0.0.1:8080", "/health"]"#;
/// A change for [`DockerEngine::image_with`]: a container that prints a line and exits at once, with code 3.
pub const ENDS_AT_ONCE: &str = r#"ENV E2E_SAY="no such basket" E2E_EXIT=3"#;

const LIMIT: Duration = Duration::from_secs(60);

impl DockerEngine {
    /// Makes an image of the tests' instance: `team/backend:0.0.1` listens at port 8080, exposes it, and says that it is
    /// `backend` of version `0.0.1`.
    ///
    /// # Errors
    /// When `e2e-instance` has not been built, or the engine refuses.
    pub async fn image(&self, name: &str) -> Result<()> {
        self.image_with(name, &[]).await
    }

    /// As [`DockerEngine::image`], with further instructions as a Dockerfile has them; `EXPOSE` stands in for 8080.
    /// [`crate::instance`] says what the variables of the instance are.
    ///
    /// # Errors
    /// As [`DockerEngine::image`].
    pub async fn image_with(&self, name: &str, changes: &[&str]) -> Result<()> {
        let tar = self.directory().join("instance.tar");
        if !tar.exists() {
            pack(&self.directory().join("instance"), &tar).await?;
        }
        let (path, version) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let service = path.rsplit('/').next().unwrap_or(path);
        let command = format!(r#"CMD ["0.0.0.0:8080", "{service}", "{version}"]"#);
        let mut all = vec![r#"ENTRYPOINT ["/e2e-instance"]"#, &command];
        if !changes.iter().any(|change| change.starts_with("EXPOSE")) {
            all.push("EXPOSE 8080");
        }
        all.extend(changes);
        let mut arguments = vec!["import"];
        for change in all {
            arguments.extend(["--change", change]);
        }
        let tar = tar.to_string_lossy();
        arguments.extend([&*tar, name]);
        self.docker(&arguments).await.map(drop)
    }
}

/// Packs the instance, with its libraries where the dynamic linker looks for them, into a tar file.
async fn pack(directory: &Path, tar: &Path) -> Result<()> {
    let program = binary("e2e-instance")?;
    let mut ldd = Command::new("ldd");
    ldd.arg(&program);
    let listed = process::run(&ldd, LIMIT).await?.ok()?;
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, or only the path.
    let libraries = listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let mut files = vec![(program.clone(), directory.join("e2e-instance"))];
    for library in libraries {
        let inside = directory.join(library.trim_start_matches('/'));
        files.push((library.into(), inside));
    }
    ensure!(files.len() > 1, "ldd lists no library of {}", program.display());
    for (from, to) in files {
        std::fs::create_dir_all(to.parent().context("a directory")?).context("make a directory")?;
        std::fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
    }
    let mut command = Command::new("tar");
    command.arg("-C").arg(directory).arg("-cf").arg(tar).arg(".");
    process::run(&command, LIMIT).await?.ok()?;
    std::fs::remove_dir_all(directory).context("remove what was packed")
}
