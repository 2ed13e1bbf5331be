//! The directory of environments is a work tree of git, and git is stopped half way through it.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Length;
use super::loaded::{LoadedMayfly, Outcome};
use super::whole;
use crate::process::{self, Process};

/// Leases play no part here.
const TTL: &str = "10s";
/// What git has completed is in effect, deletes included, which wait a second.
const COMPLETED: Duration = Duration::from_secs(2);
/// Longer than it takes until an environment whose file is missing is deleted.
const HALF: Duration = Duration::from_millis(1_500);
/// Files in the work tree; each has an environment of its own, and the first or the last one that moves.
const FILES: usize = 40;

/// Checkouts are killed at random points; files are left empty, cut off, with marks of a conflict or missing.
pub async fn half(length: Length) -> Result<Outcome> {
    let mut loaded = LoadedMayfly::start(length, TTL).await?;
    let git = Git::new(&loaded).await?;
    let whole_checkout = git.checkout(1).await?;
    in_effect(&mut loaded, 1).await;
    let first = loaded.mayfly.etcd.revision().await?;
    let stay: Vec<String> = wanted(1).into_keys().collect();
    let (mut at, mut halves, mut tries) = (1, 0, 0);
    while halves < length.pick(2, 12) {
        tries += 1;
        ensure!(tries < 300, "git was hit half way {halves} times only");
        let to = 3 - at;
        let mut checkout = git.spawn(&loaded, &git.checkout_of(to))?;
        let point = (RandomState::new().hash_one(tries) % 1_000) as u32;
        tokio::time::sleep(whole_checkout * point / 1_000).await;
        let _ = checkout.kill9().await;
        if git.lock().exists() {
            halves += 1;
            tokio::time::sleep(HALF).await;
        }
        git.unlock()?;
        git.checkout(to).await?;
        in_effect(&mut loaded, to).await;
        at = to;
    }
    left_behind(&mut loaded, &git, at).await?;
    whole::since(&loaded.mayfly.etcd, first, &stay).await?;
    // What is deleted in good order goes.
    fs::remove_file(git.tree.join("file-9.yaml")).context("delete a file")?;
    let gone = async |loaded: &LoadedMayfly| {
        let found = whole::at(&loaded.mayfly.etcd, 0).await?;
        ensure!(!found.contains_key("file-9"), "{found:?}");
        Ok(())
    };
    loaded
        .sees("a deleted file followed", Instant::now(), COMPLETED, gone)
        .await;
    Ok(loaded.end().await)
}

/// Files as a writer leaves them that was stopped, for longer than the grace; none of that may show in etcd.
async fn left_behind(loaded: &mut LoadedMayfly, git: &Git, at: usize) -> Result<()> {
    let before = whole::at(&loaded.mayfly.etcd, 0).await?;
    let new = |n: usize| whole::environment(&format!("file-{n}"), 3);
    let write = |file: &str, text: &str| fs::write(git.tree.join(file), text).context("damage a file");
    write("file-1.yaml", "")?;
    write("file-2.yaml", "\n\n")?;
    let conflict = format!("<<<<<<< HEAD\n{}=======\n{}>>>>>>> theirs\n", new(3), new(3));
    write("file-3.yaml", &conflict)?;
    let four = new(4);
    let (head, tail) = four.split_at(90);
    write(
        "file-4.yaml",
        &format!("{head}\n<<<<<<< HEAD\n=======\n{tail}>>>>>>> theirs\n"),
    )?;
    // In the middle of a key.
    let five = new(5);
    let cut = five.rfind("version").context("a version")? + 3;
    write("file-5.yaml", &five[..cut])?;
    for other in [
        "file-6.yaml.orig",
        ".file-6.yaml.swp",
        "#file-6.yaml#",
        ".file-6.yaml",
        "file-6.yaml~",
    ] {
        write(other, &new(6))?;
    }
    fs::write(git.lock(), "").context("make git's lock")?;
    fs::remove_file(git.tree.join("file-7.yaml")).context("delete a file")?;
    let told = async |loaded: &LoadedMayfly| {
        let status = loaded.mayfly.status("environment-registrar").await?;
        let error = status["error"].as_str().unwrap_or_default();
        ensure!(error.contains("index.lock"), "it does not say why: {status}");
        Ok(())
    };
    // It says so when it comes to delete what is missing, and does not.
    loaded
        .sees("the reason told", Instant::now(), COMPLETED, told)
        .await;
    tokio::time::sleep(HALF).await;
    let after = whole::at(&loaded.mayfly.etcd, 0).await?;
    ensure!(after == before, "{after:?}, not {before:?}");
    git.unlock()?;
    git.checkout(at).await?;
    in_effect(loaded, at).await;
    Ok(())
}

fn wanted(number: usize) -> BTreeMap<String, usize> {
    let mut all: BTreeMap<_, _> = (0..FILES).map(|n| (format!("file-{n}"), number)).collect();
    all.insert("mover".to_owned(), number);
    all
}

async fn in_effect(loaded: &mut LoadedMayfly, number: usize) {
    let wanted = wanted(number);
    let right = async |loaded: &LoadedMayfly| {
        let found = whole::at(&loaded.mayfly.etcd, 0).await?;
        ensure!(found == wanted, "{found:?}");
        Ok(())
    };
    loaded
        .sees(
            "what git has completed in effect",
            Instant::now(),
            COMPLETED,
            right,
        )
        .await;
}

/// A work tree with two tagged commits.
struct Git {
    tree: PathBuf,
    home: PathBuf,
}

impl Git {
    async fn new(loaded: &LoadedMayfly) -> Result<Self> {
        let (tree, home) = (loaded.mayfly.environments(), loaded.mayfly.directory().to_owned());
        let source = home.join("source");
        fs::create_dir(&source).context("make a directory")?;
        let this = Self { tree, home };
        this.run(&source, &["init", "--quiet", "--initial-branch=main"])
            .await?;
        for number in [1, 2] {
            for n in 0..FILES {
                let mut text = whole::environment(&format!("file-{n}"), number);
                if n == (number - 1) * (FILES - 1) {
                    text += &whole::environment("mover", number);
                }
                fs::write(source.join(format!("file-{n}.yaml")), text).context("write a file")?;
            }
            this.run(&source, &["add", "--all"]).await?;
            this.run(&source, &["commit", "--quiet", "--message=change"])
                .await?;
            this.run(&source, &["tag", &format!("v{number}")]).await?;
        }
        this.run(&this.tree, &["init", "--quiet", "--initial-branch=main"])
            .await?;
        let from = source.display().to_string();
        this.run(&this.tree, &["fetch", "--quiet", "--tags", &from])
            .await?;
        Ok(this)
    }

    /// A git that no setting of the developer reaches.
    fn command(&self, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.arg("-C").arg(directory).args(arguments);
        command.env("HOME", &self.home).env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "test");
            command.env(format!("GIT_{who}_EMAIL"), "test@example.com");
        }
        command
    }

    async fn run(&self, directory: &Path, arguments: &[&str]) -> Result<()> {
        let done = process::run(&self.command(directory, arguments), Duration::from_secs(30)).await?;
        done.ok().map(drop).with_context(|| format!("git {arguments:?}"))
    }

    fn checkout_of(&self, number: usize) -> Command {
        let tag = format!("v{number}");
        self.command(&self.tree, &["checkout", "--quiet", "--force", "--detach", &tag])
    }

    /// Checks a commit out to its end, and says how long that took.
    async fn checkout(&self, number: usize) -> Result<Duration> {
        let start = Instant::now();
        let done = process::run(&self.checkout_of(number), Duration::from_secs(30)).await?;
        done.ok().context("check out")?;
        Ok(start.elapsed())
    }

    fn spawn(&self, loaded: &LoadedMayfly, command: &Command) -> Result<Process> {
        loaded.mayfly.spawn("git", command)
    }

    /// There from before git changes the first file until it has changed the last one.
    fn lock(&self) -> PathBuf {
        self.tree.join(".git/index.lock")
    }

    /// Removes whatever a killed git has locked, as whoever finds it does: the index, or what HEAD is.
    fn unlock(&self) -> Result<()> {
        for entry in fs::read_dir(self.tree.join(".git")).context("read git's directory")? {
            let path = entry.context("read git's directory")?.path();
            if path.extension().is_some_and(|extension| extension == "lock") {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}
