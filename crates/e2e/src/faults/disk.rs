//! The disks that Mayfly writes to are full, or read-only.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Length;
use super::loaded::{LoadedMayfly, Outcome};
use crate::disk::Disk;
use crate::mayfly::{Mayfly, SOON};
use crate::process::Process;
use crate::{eventually, port};

/// Leases play no part here.
const TTL: &str = "10s";
/// A change at run time needs no disk.
const IN_EFFECT: Duration = Duration::from_secs(1);
/// Log and status say what is wrong: the files of HAProxy are written 5 s after a change at the latest.
const TOLD: Duration = Duration::from_secs(7);
/// Everything is on disk again.
const MENDED: Duration = Duration::from_secs(10);

/// What is wrong, as each of the three says it, in their logs and status records.
const SAID: [(&str, &str); 3] = [
    ("haproxy-updater", "cannot write HAProxy's files"),
    ("dns-updater", "hosts"),
    ("environment-registrar", "nothing is archived"),
];

/// Those of haproxy-updater, dns-updater and environment-registrar, one kind of fault after the other.
pub async fn unwritable(length: Length) -> Result<Outcome> {
    let admin = port::free();
    let mut mayfly = Mayfly::bare(&["--admin", &admin.to_string()])?;
    let path = |name: &str| mayfly.directory().join(name);
    let places = [path("haproxy"), path("hosts"), path("archive")];
    let mut disks = Vec::new();
    for place in &places {
        std::fs::create_dir_all(place).context("make a directory")?;
        disks.push(Disk::over(place, 2)?);
    }
    std::fs::create_dir(places[0].join("run")).context("make a directory")?;
    mayfly.start_all().await?;
    mayfly.start_dns().await?;
    let mut loaded = LoadedMayfly::on(mayfly, admin, length, TTL).await?;
    let internal = [loaded.mayfly.internal.ip()];
    loaded.mayfly.resolves("web.service", &internal).await;
    settled(&mut loaded, &places, "1.0.0", 1).await;
    for (round, (from, to)) in [("1.0.0", "2.0.0"), ("2.0.0", "1.0.0")].into_iter().enumerate() {
        let full = round == 0;
        for disk in &disks {
            // Somebody may be just writing.
            eventually(SOON, "a disk that cannot be written", async || match full {
                true => disk.fill(),
                false => disk.read_only(true),
            })
            .await;
        }
        let before = files(&places, false)?;
        let since = Instant::now();
        loaded.change(from, to);
        loaded.converges(to, since, IN_EFFECT).await;
        let service = format!("extra-{round}");
        let extra = loaded.mayfly.killable(&service, "1.0.0", &[]).await?;
        loaded.instances.push(extra);
        loaded
            .sees("shown in log and status", Instant::now(), TOLD, async |loaded| {
                for (daemon, words) in SAID {
                    told(loaded, daemon, words, true).await?;
                }
                Ok(())
            })
            .await;
        loaded.last(0, 5).await;
        ensure!(
            files(&places, false)? == before,
            "a file was changed on a disk that cannot be written"
        );
        for disk in &disks {
            match full {
                true => disk.free()?,
                false => disk.read_only(false)?,
            }
        }
        let since = Instant::now();
        settled(&mut loaded, &places, to, round + 2).await;
        loaded
            .sees("on disk again", since, MENDED, async |loaded| {
                let dnsmasq = loaded.mayfly.dnsmasq.as_ref().context("dnsmasq")?;
                let found = dnsmasq.lookup(&format!("{service}.service")).await?;
                ensure!(found == internal, "{service}.service is at {found:?}");
                for (daemon, words) in SAID {
                    told(loaded, daemon, words, false).await?;
                }
                let left = files(&places, true)?;
                ensure!(
                    left.is_empty(),
                    "what could not be written was left: {:?}",
                    left.keys()
                );
                Ok(())
            })
            .await;
    }
    drop(disks);
    Ok(loaded.end().await)
}

/// The files have this version, and the archive so many contents.
async fn settled(loaded: &mut LoadedMayfly, places: &[PathBuf; 3], version: &str, contents: usize) {
    loaded
        .sees("on disk again", Instant::now(), MENDED, async |loaded| {
            let map = std::fs::read_to_string(loaded.mayfly.map_file("versions")).context("read a map")?;
            let row = format!("prod/web web@{version}");
            ensure!(map.lines().any(|line| line == row), "{map}");
            let archived = files(&places[2..], false)?;
            let of_prod = archived
                .iter()
                .filter(|(path, _)| path.parent().is_some_and(|parent| parent.ends_with("prod")));
            let count = of_prod.count();
            ensure!(
                count == contents,
                "{count} contents of prod are archived, not {contents}"
            );
            Ok(())
        })
        .await;
}

/// Whether a daemon says what is wrong, or no longer does.
async fn told(loaded: &LoadedMayfly, daemon: &str, words: &str, wanted: bool) -> Result<()> {
    let status = loaded.mayfly.status(daemon).await?;
    let (error, aside) = (status["error"].to_string(), status["set_aside"].to_string());
    let says = error.contains(words) || aside.contains(words);
    ensure!(says == wanted, "{daemon}: {status}");
    let mayfly = &loaded.mayfly;
    let process: &Process = match daemon {
        "haproxy-updater" => mayfly.updater.as_ref(),
        "dns-updater" => mayfly.dns_updater.as_ref(),
        _ => mayfly.registrar.as_ref(),
    }
    .context("a daemon")?;
    let output = process.output();
    let logged = output
        .lines()
        .any(|line| line.contains("WARN") && line.contains(words));
    ensure!(logged, "{daemon} says nothing: {output}");
    Ok(())
}

/// Every file below some directories, but sockets and what fills a disk: those that are in their place, or those on their way.
fn files(places: &[PathBuf], temporary: bool) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open: Vec<PathBuf> = places.to_vec();
    while let Some(directory) = open.pop() {
        let entries = std::fs::read_dir(&directory);
        for entry in entries.with_context(|| format!("list {}", directory.display()))? {
            let entry = entry.context("list a directory")?;
            let (path, name) = (entry.path(), entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            let of_interest = name.to_string_lossy().starts_with('.') == temporary && name != Disk::FILLER;
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() && of_interest {
                let octets = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                found.insert(path, octets);
            }
        }
    }
    Ok(found)
}
