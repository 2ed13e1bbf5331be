//! environment-registrar is killed while files and directories change.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Length;
use super::loaded::{LoadedMayfly, Outcome};
use super::whole;

/// Leases play no part here.
const TTL: &str = "10s";
/// A registrar that was started anew has etcd in step, deletes included, which wait a second. It does not know whether
/// files that changed just now are whole until they have stayed the same for 2 s.
const ANEW: Duration = Duration::from_secs(3);
/// The changes of a round come in this time, and the kill is somewhere in it.
const STORM: Duration = Duration::from_millis(200);
/// Files with one environment each.
const SINGLE: usize = 6;

/// Killed at random points while files of two directories change, and started again by its supervisor.
pub async fn killed(length: Length) -> Result<Outcome> {
    let mut loaded = LoadedMayfly::start(length, TTL).await?;
    fs::create_dir_all(loaded.mayfly.directory().join("services")).context("make a directory")?;
    let first = loaded.mayfly.etcd.revision().await?;
    for round in 1..=length.pick(3, 20) {
        let (from, to) = if round % 2 == 1 {
            ("1.0.0", "2.0.0")
        } else {
            ("2.0.0", "1.0.0")
        };
        let mut registrar = loaded.mayfly.registrar.take().context("a registrar")?;
        let kill = async {
            tokio::time::sleep(STORM * (RandomState::new().hash_one(round) % 1_000) as u32 / 1_000).await;
            registrar.kill9().await
        };
        let storm = async {
            loaded.change(from, to);
            storm(&loaded, round).await
        };
        let (killed, came) = tokio::join!(kill, storm);
        killed?;
        came?;
        loaded.mayfly.start_registrar(&[])?;
        let since = Instant::now();
        loaded.converges(to, since, ANEW).await;
        let wanted = wanted(round);
        loaded
            .sees("etcd as the files say", since, ANEW, async |loaded| {
                let found = whole::at(&loaded.mayfly.etcd, 0).await?;
                ensure!(found == wanted, "{found:?}, not {wanted:?}");
                Ok(())
            })
            .await;
    }
    let seen = whole::since(&loaded.mayfly.etcd, first, &[]).await?;
    ensure!(seen > SINGLE, "nothing was published: {seen}");
    Ok(loaded.end().await)
}

/// What etcd is to have after a round.
fn wanted(round: usize) -> BTreeMap<String, usize> {
    let mut names: Vec<String> = (0..SINGLE).map(|n| format!("single-{n}")).collect();
    names.extend(
        [
            "first",
            "second",
            "third",
            "services/a",
            "services/b",
            "services/c",
        ]
        .map(str::to_owned),
    );
    if round % 2 == 1 {
        names.push("passing".to_owned());
    }
    names.into_iter().map(|name| (name, round)).collect()
}

/// Every file changes: some are renamed into place, some written in place with pauses; one comes or goes.
async fn storm(loaded: &LoadedMayfly, round: usize) -> Result<()> {
    let (mayfly, services) = (&loaded.mayfly, loaded.mayfly.directory().join("services"));
    let several = ["first", "second", "third"].map(|name| whole::environment(name, round));
    in_place(&mayfly.environments().join("several.yaml"), &several).await?;
    for n in 0..SINGLE {
        let name = format!("single-{n}");
        mayfly.save(&format!("{name}.yaml"), &whole::environment(&name, round));
        tokio::time::sleep(STORM / 12).await;
    }
    let several = ["a", "b"].map(|name| whole::definition(name, round));
    in_place(&services.join("several.yaml"), &several).await?;
    let beside = mayfly.directory().join("definition.new");
    fs::write(&beside, whole::definition("c", round)).context("write a definition")?;
    fs::rename(&beside, services.join("c.yaml")).context("rename a definition")?;
    if round % 2 == 1 {
        mayfly.save("passing.yaml", &whole::environment("passing", round));
    } else {
        mayfly.remove("passing.yaml");
    }
    Ok(())
}

/// Writes a file as careless programs do, document by document.
async fn in_place(path: &Path, documents: &[String]) -> Result<()> {
    let mut file = fs::File::create(path).with_context(|| format!("write {}", path.display()))?;
    for document in documents {
        let (head, tail) = document.split_at(document.len() / 2);
        for half in [head, tail] {
            file.write_all(half.as_bytes()).context("write half a document")?;
            tokio::time::sleep(STORM / 24).await;
        }
    }
    Ok(())
}
