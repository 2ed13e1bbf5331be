//! A short-lived container of this very program in the network of another container, whose name
//! servers it shares. Neither a registry nor a program in the image of the service is needed: the
//! image is made of this program and the libraries that it runs with, and removed afterwards. What a
//! killed doctor leaves, the next one removes.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, LogsOptionsBuilder,
    PruneContainersOptionsBuilder, PruneImagesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder, StartContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt as _;
use mayfly_daemon::docker::{failed, line, within};
use mayfly_daemon::output::json_line;

use super::probe::{ProbeAnswers, ProbeJob};

/// How long the engine may take for what it does at once.
const WORK: Duration = Duration::from_secs(60);
/// How long a probe may take; it limits itself more strictly.
const PROBE: Duration = Duration::from_secs(30);
/// What this program is called in the image.
const PROGRAM: &str = "program";
/// What the names of the containers begin with.
const NAME: &str = "mayfly-doctor";
/// The label of the image and the containers.
const LABEL: &str = "mayfly.doctor";
/// The age, by the engine's clock, from which on what has the label was left by a doctor that was
/// killed: another one may be at work.
const LEFT: &str = "15m";
/// A user without permissions, by number: the image has no list of users.
const NOBODY: &str = "65534:65534";
/// Its memory, in bytes.
const MEMORY: i64 = 256 << 20;

/// An image of this program on an engine.
#[derive(Debug)]
pub struct Helper {
    client: Docker,
    image: String,
    command: Vec<String>,
    /// What the names of its containers begin with. In a container every doctor has the same id of
    /// a process, so that is not enough.
    stem: String,
    count: AtomicU32,
}

impl Helper {
    /// Brings this program to the engine, and removes what killed ones left there.
    ///
    /// # Errors
    /// When it cannot be read, or the engine does not take it.
    pub async fn bring(client: &Docker) -> anyhow::Result<Self> {
        sweep(client).await;
        let packed = tokio::task::spawn_blocking(pack)
            .await
            .context("pack this program")?;
        let Packed { tar, command } =
            packed.context("cannot read this program to import it into the engine")?;
        let options = CreateImageOptionsBuilder::default()
            .from_src("-")
            .changes(vec![format!("LABEL {LABEL}=")])
            .build();
        let body = bollard::body_full(tar.into());
        let mut report = client.create_image(Some(options), Some(body), None);
        let mut image = None;
        let done = async {
            while let Some(step) = report.next().await {
                let step = step.map_err(failed("import this program into the engine"))?;
                let id = step.status.filter(|status| status.starts_with("sha256:"));
                image = id.or(image.take());
            }
            anyhow::Ok(())
        };
        let done = tokio::time::timeout(WORK, done).await;
        done.map_err(|_| anyhow!("the engine did not import this program in time"))??;
        drop(report);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis();
        Ok(Self {
            client: client.clone(),
            image: image.context("the engine does not report which image it made from this program")?,
            command,
            stem: format!("{NAME}-{}-{now}", std::process::id()),
            count: AtomicU32::new(0),
        })
    }

    /// Lets a job be done in the network of a container.
    ///
    /// # Errors
    /// When the engine refuses, or no answer comes in time.
    pub async fn ask(&self, container: &str, job: &ProbeJob) -> anyhow::Result<ProbeAnswers> {
        let name = self.name(self.count.fetch_add(1, Ordering::Relaxed));
        let mut command = self.command.clone();
        command.extend(["doctor", "--probe"].map(str::to_owned));
        command.push(json_line(job)?.trim_end().to_owned());
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: Some(command),
            user: Some(NOBODY.to_owned()),
            labels: Some([(LABEL.to_owned(), String::new())].into()),
            host_config: Some(HostConfig {
                network_mode: Some(format!("container:{container}")),
                memory: Some(MEMORY),
                memory_swap: Some(MEMORY),
                pids_limit: Some(200),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                readonly_rootfs: Some(true),
                // Whatever the engine does with other logs, this one is read.
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    config: None,
                }),
                restart_policy: Some(RestartPolicy {
                    name: Some(RestartPolicyNameEnum::NO),
                    maximum_retry_count: None,
                }),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let created = within(WORK, self.client.create_container(Some(options), body)).await;
        created.map_err(failed("create the helper container"))?;
        let answer = self.output(&name).await;
        self.remove(&name).await;
        answer
    }

    /// Starts a container, waits for its end and gives what it printed.
    async fn output(&self, name: &str) -> anyhow::Result<ProbeAnswers> {
        let started = within(
            WORK,
            self.client.start_container(name, None::<StartContainerOptions>),
        )
        .await;
        started.map_err(failed("start the helper container"))?;
        let mut end = self.client.wait_container(name, None::<WaitContainerOptions>);
        // A code other than 0 is an error here; what was printed says more.
        if tokio::time::timeout(PROBE, end.next()).await.is_err() {
            bail!("the helper container does not end");
        }
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        let mut logs = self.client.logs(name, Some(options));
        let mut printed = Vec::new();
        let read = async {
            while let Some(Ok(piece)) = logs.next().await {
                printed.extend_from_slice(piece.as_ref());
            }
        };
        let _ = tokio::time::timeout(WORK, read).await;
        let text = String::from_utf8_lossy(&printed);
        serde_json::from_str(&text)
            .map_err(|_| anyhow!("the helper container printed no answer: {}", line(&text)))
    }

    async fn remove(&self, name: &str) {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        // One that is left has ended, and does nothing.
        let _ = within(WORK, self.client.remove_container(name, Some(options))).await;
    }

    fn name(&self, number: u32) -> String {
        format!("{}-{number}", self.stem)
    }

    /// Takes everything away again.
    pub async fn clear(self) {
        // After an interruption the last container is still there.
        let count = self.count.load(Ordering::Relaxed);
        if let Some(last) = count.checked_sub(1) {
            self.remove(&self.name(last)).await;
        }
        let options = RemoveImageOptionsBuilder::default().force(true).build();
        let _ = within(WORK, self.client.remove_image(&self.image, Some(options), None)).await;
    }
}

/// Removes containers and images that killed doctors left. An engine that refuses it keeps them.
async fn sweep(client: &Docker) {
    let mut filters = HashMap::from([("label", vec![LABEL]), ("until", vec![LEFT])]);
    // Those that have ended: a probe does so by itself.
    let containers = PruneContainersOptionsBuilder::default().filters(&filters).build();
    let _ = within(WORK, client.prune_containers(Some(containers))).await;
    // Those without a name, as this one.
    filters.insert("dangling", vec!["true"]);
    let images = PruneImagesOptionsBuilder::default().filters(&filters).build();
    let _ = within(WORK, client.prune_images(Some(images))).await;
}

/// An image, and what starts this program in it.
struct Packed {
    tar: Vec<u8>,
    command: Vec<String>,
}

/// Packs this program with what it was linked to when it was started.
fn pack() -> anyhow::Result<Packed> {
    let maps = std::fs::read_to_string("/proc/self/maps").context("read /proc/self/maps")?;
    let own = std::fs::read_link("/proc/self/exe").context("read /proc/self/exe")?;
    // By this path it can be read even after an upgrade has replaced the file.
    let mut files = vec![(PROGRAM.to_owned(), PathBuf::from("/proc/self/exe"))];
    let mut command = vec![format!("/{PROGRAM}")];
    for (name, path) in libraries(&maps, &own.to_string_lossy()) {
        // The dynamic linker, which finds the others by the directory that it is given.
        if name.starts_with("ld-") {
            let linker = format!("/{name}");
            command = [&linker, "--library-path", "/", &format!("/{PROGRAM}")]
                .map(str::to_owned)
                .to_vec();
        }
        files.push((name, path));
    }
    let mut tar = Vec::new();
    for (name, path) in files {
        let mut file = std::fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let size = file.metadata().context("read its size")?.len();
        tar.extend(header(&name, size));
        let begin = tar.len();
        file.read_to_end(&mut tar)
            .with_context(|| format!("read {}", path.display()))?;
        if (tar.len() - begin) as u64 != size {
            bail!("{} changed while it was read", path.display());
        }
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    Ok(Packed { tar, command })
}

/// The libraries of a process by their names, as the kernel lists its mappings.
fn libraries(maps: &str, own: &str) -> BTreeMap<String, PathBuf> {
    let path = |line: &str| {
        let path = &line[line.find('/')?..];
        let name = path.rsplit('/').next()?;
        let is_library = name.ends_with(".so") || name.contains(".so.");
        (is_library && path != own).then(|| (name.to_owned(), PathBuf::from(path)))
    };
    maps.lines().filter_map(path).collect()
}

/// The unit of a tar file.
const BLOCK: usize = 512;

/// The head of a program in a tar file (POSIX ustar). Names are short here.
fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut head = [0; BLOCK];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &name[..name.len().min(99)]);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    // The sum counts its own field as blanks.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_of_the_process() {
        let maps = "\
            55d0-55d1 r-xp 00000000 08:01 1 /usr/bin/mayfly\n\
            7f00-7f01 r-xp 00000000 08:01 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f02-7f03 r--p 00000000 08:01 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f04-7f05 r-xp 00000000 08:01 3 /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n\
            7f06-7f07 rw-p 00000000 00:00 0 [stack]\n\
            7f08-7f09 r--p 00000000 08:01 4 /usr/share/some.data\n";
        let names: Vec<String> = libraries(maps, "/usr/bin/mayfly").into_keys().collect();
        assert_eq!(names, ["ld-linux-x86-64.so.2", "libc.so.6"]);
    }

    #[test]
    fn what_is_packed_runs_from_another_place() {
        let directory = tempfile::tempdir().unwrap();
        let Packed { tar, command } = pack().unwrap();
        let file = directory.path().join("x.tar");
        std::fs::write(&file, tar).unwrap();
        let run = |program: &mut std::process::Command| {
            let output = program.output().unwrap();
            assert!(output.status.success(), "{program:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let tar = |way: &str| {
            let mut tar = std::process::Command::new("tar");
            tar.arg(way).arg(&file).arg("-C").arg(directory.path());
            tar
        };
        run(&mut tar("-xf"));
        // Under test this program is the test itself.
        let inside = |path: &String| match path.starts_with('/') {
            true => format!("{}{path}", directory.path().display()),
            false => path.clone(),
        };
        let mut words = command.iter().map(inside);
        let mut program = std::process::Command::new(words.next().unwrap());
        let listed = run(program.args(words).arg("--list"));
        assert!(
            listed.contains("what_is_packed_runs_from_another_place"),
            "{listed}"
        );
    }
}
