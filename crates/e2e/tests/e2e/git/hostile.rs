//! Pushes that nobody makes by mistake: trees and refs that git itself would not write, and pushes that
//! are small on the way and large on the server.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mayfly_e2e::mayfly::Mayfly;
use mayfly_e2e::process::Finished;
use mayfly_e2e::process::binary;

use super::{Repository, finish};

/// The gits of this machine: the one in PATH, and Debian's where that is another.
fn gits() -> Vec<Option<PathBuf>> {
    let path = std::env::var_os("PATH").unwrap();
    let debian = Path::new("/usr/bin/git").canonicalize().ok();
    let first = std::env::split_paths(&path).find_map(|at| at.join("git").canonicalize().ok());
    match debian {
        Some(found) if first.as_ref() != Some(&found) => vec![None, Some("/usr/bin".into())],
        _ => vec![None],
    }
}

impl Repository {
    /// A blob in the clone.
    pub(super) async fn blob(&self, content: &[u8]) -> String {
        self.object("blob", content).await
    }

    /// A tree of any entries: mode, name and object.
    pub(super) async fn tree(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let mut raw = Vec::new();
        for (mode, name, object) in entries {
            raw.extend_from_slice(&[mode.as_bytes(), b" ", name, b"\0"].concat());
            let octet = |at| u8::from_str_radix(&object[at..at + 2], 16).unwrap();
            raw.extend((0..object.len()).step_by(2).map(octet));
        }
        self.object("tree", &raw).await
    }

    /// A commit of such a tree.
    pub(super) async fn commit(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let tree = self.tree(entries).await;
        self.line(&format!("commit-tree -m made {tree}")).await
    }

    async fn object(&self, kind: &str, content: &[u8]) -> String {
        let file = self.clone.join(".git/object");
        fs::write(&file, content).unwrap();
        self.line(&format!("hash-object -t {kind} -w --literally .git/object"))
            .await
    }

    pub(super) async fn line(&self, line: &str) -> String {
        self.git(line).await.ok().unwrap().trim().to_owned()
    }

    /// Runs git in the bare repository.
    pub(super) async fn server(&self, line: &str) -> String {
        let mut command = self.git_command();
        command.current_dir(&self.bare).args(line.split_whitespace());
        finish(&command).await.ok().unwrap().trim().to_owned()
    }

    /// All files outside of the two repositories.
    fn around(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut directories = vec![self.bare.parent().unwrap().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path == self.bare || path == self.clone {
                    continue;
                } else if path.is_dir() {
                    directories.push(path);
                } else {
                    let content = fs::read(&path).unwrap_or_default();
                    found.insert(path, content);
                }
            }
        }
        found
    }

    /// A push has to be refused with these parts, and nothing may be written or left.
    pub(super) async fn harmless(&self, push: &str, parts: &[&str]) {
        let (before, main) = (self.around(), self.main().await);
        let outcome = self.git(push).await;
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        has(&outcome, parts);
        assert_eq!(self.around(), before, "{push}");
        assert_eq!(self.main().await, main, "{push}");
        assert_eq!(fs::read_dir(&self.temporary).unwrap().count(), 0, "{push}");
    }
}

fn has(outcome: &Finished, parts: &[&str]) {
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part} in {}", outcome.stderr);
    }
}

/// Paths from any directory to a file beside the repository.
fn up_to(path: &Path) -> String {
    format!("{}{}", "/..".repeat(16), path.display())
}

#[tokio::test]
async fn names_that_are_none_of_files_are_refused_on_every_branch_and_nothing_is_written() {
    for git in gits() {
        let mayfly = Mayfly::bare(&[]).unwrap();
        let repository = Repository::with_git(&mayfly, git).await;
        // An operator's own file.
        mayfly.save("prod.yaml", "name: prod\nprotected: true\n");
        repository.write("dev.yaml", "name: dev\n");
        repository.pushed().await;
        let (file, dev) = ("100644", repository.blob(b"name: dev\n").await);
        let evil = repository.blob(b"# of the pusher\n").await;
        let own = up_to(&repository.deployed.join("prod.yaml"));
        let beside = up_to(&mayfly.directory().join("escaped.yaml"));
        let long = format!("{}.yaml", "x".repeat(251));
        let names: [&[u8]; 9] = [
            own.as_bytes(),
            beside.as_bytes(),
            b"../escaped.yaml",
            b"sub/inside.yaml",
            b"services/inside.yaml",
            b"\xff.yaml",
            b"\x1b[31m.yaml",
            "a\u{61c}\u{202e}b.yaml".as_bytes(),
            long.as_bytes(),
        ];
        let mut refs = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let commit = repository.commit(&[(file, name, &evil)]).await;
            refs.push(format!("{commit}:refs/heads/top-{index}"));
            let services = repository.tree(&[(file, name, &evil)]).await;
            let commit = repository.commit(&[("40000", b"services", &services)]).await;
            refs.push(format!("{commit}:refs/heads/in-services-{index}"));
        }
        let twice = repository
            .commit(&[(file, b"a.yaml", &evil), (file, b"a.yaml", &dev)])
            .await;
        refs.push(format!("{twice}:refs/heads/twice"));
        // As they are pushed to what is deployed, below it, and into the folder of definitions.
        let below = format!("services/{}", up_to(&mayfly.directory().join("escaped.yaml")));
        let main = repository
            .commit(&[(file, b"dev.yaml", &dev), (file, below.as_bytes(), &evil)])
            .await;
        let dotted = repository
            .commit(&[(file, b"/../escaped.yaml", &evil), (file, b"dev.yaml", &dev)])
            .await;

        // git itself.
        for commit in [&main, &dotted] {
            let push = format!("push --force origin {commit}:refs/heads/main");
            repository.harmless(&push, &["fullPathname"]).await;
            let push = format!("push --force origin {commit}:refs/heads/work");
            repository.harmless(&push, &["fullPathname"]).await;
        }
        // The hooks, in a repository that was set up before they were mended.
        repository.server("config receive.fsckObjects false").await;
        for commit in [&main, &dotted] {
            let push = format!("push --force origin {commit}:refs/heads/main");
            let reason = "escaped.yaml: a name with slashes, control or direction characters";
            let parts = [reason, "refused: nothing of main was changed"];
            repository.harmless(&push, &parts).await;
        }
        let push = format!("push --force origin {}", refs.join(" "));
        let told: Vec<_> = (0..names.len())
            .flat_map(|n| [format!("top-{n}"), format!("in-services-{n}")])
            .chain(["twice".to_owned()])
            .map(|name| format!("refused: {name} cannot be accepted"))
            .collect();
        let mut parts: Vec<_> = told.iter().map(String::as_str).collect();
        parts.push("a.yaml: the tree has two entries of this name");
        repository.harmless(&push, &parts).await;

        // What got onto main before is neither deployed nor deleted elsewhere.
        let outside = mayfly.directory().join("outside.yaml");
        fs::write(&outside, "name: outside\n").unwrap();
        let manifest = repository.bare.join("mayfly-deployed");
        let poisoned = format!(
            "{}{dev}\tservices/{}\n",
            fs::read_to_string(&manifest).unwrap(),
            up_to(&outside)
        );
        fs::write(&manifest, poisoned).unwrap();
        repository.write("qa.yaml", "name: qa\n");
        let told = repository.pushed().await;
        assert!(
            told.contains("which no file of the directories can have"),
            "{told}"
        );
        assert!(outside.exists());
        let good = repository.main().await;
        repository
            .line(&format!("push origin {main}:refs/tags/kept"))
            .await;
        repository
            .server(&format!("update-ref refs/heads/main {main}"))
            .await;
        let before = repository.around();
        let deployment = repository.deploy_all().await;
        assert_eq!(deployment.code, Some(1), "{deployment:?}");
        has(
            &deployment,
            &["escaped.yaml: a name with slashes", "NOT deployed"],
        );
        assert_eq!(
            (repository.around(), repository.main().await == good),
            (before, false)
        );
    }
}

#[tokio::test]
async fn what_is_checked_is_what_is_deployed_and_only_branches_and_tags_are_taken() {
    for git in gits() {
        let mayfly = Mayfly::bare(&[]).unwrap();
        let repository = Repository::with_git(&mayfly, git).await;
        repository.write("dev.yaml", "name: dev\n");
        repository.pushed().await;
        let good = repository.blob(b"name: fresh\n").await;
        let evil = repository.blob(b"name: [never, checked]\n").await;
        let fresh = repository.commit(&[("100644", b"fresh.yaml", &good)]).await;
        let push = format!("push --force origin {fresh}:refs/heads/main {evil}:refs/replace/{good}");
        repository
            .harmless(&push, &["only branches and tags are accepted"])
            .await;
        let push = "push --force origin HEAD:refs/notes/commits";
        repository
            .harmless(push, &["refs/notes/commits: only branches and tags"])
            .await;
        // One that came with an earlier push, and can go.
        repository
            .line(&format!("push origin {fresh}:refs/heads/work"))
            .await;
        repository
            .line(&format!("push origin {evil}:refs/tags/evil"))
            .await;
        repository
            .server(&format!("update-ref refs/replace/{good} {evil}"))
            .await;
        repository.server("config --unset core.useReplaceRefs").await;
        let push = repository
            .git(&format!("push --force origin {fresh}:refs/heads/main"))
            .await;
        assert_eq!(push.code, Some(0), "{push:?}");
        assert_eq!(repository.deployed()["fresh.yaml"], "name: fresh\n");
        repository
            .line(&format!("push origin :refs/replace/{good}"))
            .await;
    }
}

/// A check that notes each of its runs, and the files above 1 MiB that it was given.
fn noting(repository: &Repository) -> PathBuf {
    let (script, notes) = (
        repository.clone.join(".git/lint"),
        repository.clone.join(".git/notes"),
    );
    fs::write(&notes, "").unwrap();
    let text = format!(
        "#!/bin/sh\n{{ echo run; find . -type f -size +1024k; }} >>'{}'\nexec '{}' \"$@\"\n",
        notes.display(),
        binary("mayfly").unwrap().display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let config = repository.bare.join("config");
    let settings = fs::read_to_string(&config).unwrap();
    let own = binary("mayfly").unwrap().display().to_string();
    fs::write(&config, settings.replace(&own, script.to_str().unwrap())).unwrap();
    notes
}

#[tokio::test]
async fn a_push_has_limits() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    repository.write("dev.yaml", "name: dev\n");
    repository.pushed().await;
    let notes = noting(&repository);
    let head = repository.line("rev-parse HEAD").await;

    let many = |count| {
        (0..count)
            .map(|n| format!(" {head}:refs/heads/b{n}"))
            .collect::<String>()
    };
    let reason = "the push changes 21 branches and tags, at most 20 are accepted: push fewer at once";
    repository
        .harmless(&format!("push origin{}", many(21)), &[reason])
        .await;
    repository.line(&format!("push origin{}", many(20))).await;
    // Many names of one tree are judged once.
    assert_eq!(fs::read_to_string(&notes).unwrap(), "run\n");

    let comment = vec![b'#'; 1 << 20];
    let full = repository.blob(&comment).await;
    let names: Vec<_> = (0..2001).map(|n| format!("e{n:04}.yaml")).collect();
    let of = |count: usize, object| {
        let entry = move |name: &'_ String| ("100644", name.clone().into_bytes(), object);
        names[..count].iter().map(entry).collect::<Vec<_>>()
    };
    for (count, object, reason) in [
        (
            65,
            full.as_str(),
            "the files have 68157440 bytes together, at most 67108864 are accepted: push less",
        ),
        (
            2001,
            head.as_str(),
            "there are more than 2000 files at the top and in services: push fewer",
        ),
    ] {
        let owned = of(count, object);
        let mode = if object == head { "160000" } else { "100644" };
        let entries: Vec<_> = owned
            .iter()
            .map(|(_, name, object)| (mode, name.as_slice(), *object))
            .collect();
        let commit = repository.commit(&entries).await;
        for branch in ["main", "work"] {
            let push = format!("push --force origin {commit}:refs/heads/{branch}");
            repository.harmless(&push, &[reason]).await;
        }
    }

    // One file that is too long is as any fault, and is not written to be checked.
    let too_long = repository.blob(&[&comment[..], b"#"].concat()).await;
    let dev = repository.blob(b"name: dev\n").await;
    let entries: [(&str, &[u8], &str); 2] =
        [("100644", b"big.yaml", &too_long), ("100644", b"dev.yaml", &dev)];
    let commit = repository.commit(&entries).await;
    let reason = "big.yaml: the file has 1048577 bytes, at most 1048576 are accepted: split it";
    let push = format!("push --force origin {commit}:refs/heads/main");
    repository.harmless(&push, &[reason]).await;
    let push = repository
        .git(&format!("push --force origin {commit}:refs/heads/work"))
        .await;
    assert_eq!(push.code, Some(0), "{push:?}");
    has(
        &push,
        &[reason, "note: work was accepted, but would be refused as main"],
    );
    let notes = fs::read_to_string(&notes).unwrap();
    assert!(!notes.contains("big"), "{notes}");
    assert_eq!(repository.server("config receive.maxInputSize").await, "64m");
}

#[tokio::test]
async fn many_files_cost_no_more_processes_than_one() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    let processes = async |files: std::ops::Range<usize>| {
        for n in files {
            repository.write(&format!("e{n}.yaml"), &format!("name: e{n}\n"));
            repository.write(
                &format!("services/s{n}.yaml"),
                &super::definition(&format!("s{n}"), 80),
            );
        }
        let trace = mayfly.directory().join("trace");
        repository.line("add --all").await;
        repository.line("commit --message=change").await;
        let mut push = repository.git_command();
        push.current_dir(&repository.clone).env("GIT_TRACE", &trace);
        push.args(["push", "origin", "HEAD:main"]);
        finish(&push).await.ok().unwrap();
        let text = fs::read_to_string(&trace).unwrap();
        fs::remove_file(trace).unwrap();
        text.matches("trace: built-in: git").count()
    };
    let one = processes(0..1).await;
    let many = processes(1..60).await;
    assert_eq!(repository.names().len(), 60);
    assert!(
        many <= one + 5,
        "{one} processes of git for one file, {many} for many"
    );
}
