//! A repository of environment files and service definitions whose branch main is deployed by `git push`.

mod beside;
mod hostile;
mod limits;
mod setup;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::binary;
use mayfly_e2e::process::{Finished, run};

/// A bare repository that deploys into the environments of a Mayfly, and a clone of it.
struct Repository {
    bare: PathBuf,
    clone: PathBuf,
    deployed: PathBuf,
    /// Where what the check writes goes.
    temporary: PathBuf,
    /// Where a git other than the usual one is.
    git: Option<PathBuf>,
}

impl Repository {
    async fn new(mayfly: &Mayfly) -> Self {
        Self::with_git(mayfly, None).await
    }

    async fn with_git(mayfly: &Mayfly, git: Option<PathBuf>) -> Self {
        // Blanks and quotes may stand in any path.
        let it = Self {
            bare: mayfly.directory().join("it's a repository.git"),
            clone: mayfly.directory().join("clone"),
            deployed: mayfly.environments(),
            temporary: mayfly.directory().join("temporary"),
            git,
        };
        fs::create_dir(&it.temporary).unwrap();
        it.init().await.ok().unwrap();
        let mut clone = it.git_command();
        clone.arg("init").arg("--initial-branch=main").arg(&it.clone);
        finish(&clone).await.ok().unwrap();
        it.git("remote add origin @bare").await.ok().unwrap();
        it
    }

    async fn init(&self) -> Finished {
        self.init_with(&[]).await
    }

    /// The script that sets a repository up.
    fn script() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/git/init-environments-repo.sh")
    }

    /// With further arguments: a directory for service definitions.
    async fn init_with(&self, arguments: &[&Path]) -> Finished {
        let mut command = self.command(Self::script());
        command.arg("--lint").arg(binary("mayfly").unwrap());
        command.arg(&self.bare).arg(&self.deployed).args(arguments);
        finish(&command).await
    }

    /// A command that no setting of the developer reaches.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some(git) = &self.git {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path = std::iter::once(git.clone()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(path).unwrap());
        }
        command
            .env("TMPDIR", &self.temporary)
            .env("HOME", self.bare.parent().unwrap())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "test")
            .env("GIT_AUTHOR_EMAIL", "test@example.com")
            .env("GIT_COMMITTER_NAME", "test")
            .env("GIT_COMMITTER_EMAIL", "test@example.com");
        command
    }

    /// A command of git: the program is looked for where the test's own PATH says, so it is named in full.
    fn git_command(&self) -> Command {
        self.command(self.git.as_ref().map_or("git".into(), |git| git.join("git")))
    }

    /// Runs the deployment of all files on the server.
    async fn deploy_all(&self) -> Finished {
        let hook = self.bare.join("hooks/post-receive");
        finish(self.command(hook).arg("--all")).await
    }

    /// Runs git in the clone; the arguments are words, and `@bare` is the repository.
    async fn git(&self, line: &str) -> Finished {
        let mut command = self.git_command();
        command.current_dir(&self.clone);
        for word in line.split_whitespace() {
            if word == "@bare" {
                command.arg(&self.bare);
            } else {
                command.arg(word);
            }
        }
        finish(&command).await
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.clone.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.clone.join(file)).unwrap();
    }

    /// Commits everything and pushes it as `to`.
    async fn push(&self, to: &str) -> Finished {
        self.git("add --all").await.ok().unwrap();
        self.git("commit --allow-empty --message=change")
            .await
            .ok()
            .unwrap();
        self.git(&format!("push --force origin HEAD:{to}")).await
    }

    /// Commits everything and pushes it to main, which has to be taken and deployed.
    async fn pushed(&self) -> String {
        let push = self.push("main").await;
        assert_eq!(push.code, Some(0), "{push:?}");
        assert!(push.stderr.contains(" written, "), "{push:?}");
        push.stderr
    }

    /// A push to main has to be refused with these parts in the pusher's terminal, and to change nothing; what was
    /// committed for it is undone.
    async fn refused(&self, parts: &[&str]) {
        let (main, files) = (self.main().await, self.deployed());
        let push = self.push("main").await;
        assert_eq!(push.code, Some(1), "{push:?}");
        for part in parts {
            assert!(push.stderr.contains(part), "{part} in {}", push.stderr);
        }
        assert!(!push.stderr.contains(": ok, "), "{}", push.stderr);
        assert_eq!((self.main().await, self.deployed()), (main, files));
        self.git("reset --quiet --hard HEAD~1").await.ok().unwrap();
    }

    async fn main(&self) -> String {
        let listed = self.git("ls-remote origin refs/heads/main").await;
        listed.ok().unwrap()
    }

    /// The files of the directory that is deployed into.
    fn deployed(&self) -> BTreeMap<String, String> {
        Self::files(&self.deployed)
    }

    /// The names of the definitions that are deployed.
    fn definitions(&self) -> Vec<String> {
        Self::files(&self.deployed.with_file_name("services"))
            .into_keys()
            .collect()
    }

    fn files(directory: &Path) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            files.insert(name, fs::read_to_string(path).unwrap());
        }
        files
    }

    fn names(&self) -> Vec<String> {
        self.deployed().into_keys().collect()
    }
}

async fn finish(command: &Command) -> Finished {
    run(command, Duration::from_secs(30)).await.unwrap()
}

fn one(name: &str, version: &str) -> String {
    format!("name: {name}\nservices:\n  - {{name: frontend, version: {version}, route: /}}\n")
}

#[tokio::test]
async fn a_pushed_environment_answers_until_its_file_is_deleted_by_a_push() {
    let mayfly = Mayfly::start().await.unwrap();
    let _old = mayfly.instance("frontend", "0.0.1").await.unwrap();
    let _new = mayfly.instance("frontend", "0.0.2").await.unwrap();
    let repository = Repository::new(&mayfly).await;
    repository.write("dev.yaml", &one("dev", "0.0.1"));
    repository.write("README.md", "no environment");
    repository.pushed().await;
    mayfly.answers("www-dev.example.com", "frontend@0.0.1").await;
    repository.write("dev.yaml", &one("dev", "0.0.2"));
    repository.write("temp.yml", &one("temp", "0.0.1"));
    repository.pushed().await;
    mayfly.answers("www-dev.example.com", "frontend@0.0.2").await;
    mayfly.answers("www-temp.example.com", "frontend@0.0.1").await;
    repository.remove("temp.yml");
    repository.pushed().await;
    eventually(SOON, "temp no longer answers", async || {
        mayfly
            .get("www-temp.example.com", "/")
            .await
            .is_ok_and(|answer| answer.status == 410)
    })
    .await;
    mayfly.answers("www-dev.example.com", "frontend@0.0.2").await;
}

#[tokio::test]
async fn a_bad_push_is_refused_with_file_line_and_reason() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    repository.write("dev.yaml", "name: dev\n");
    repository.pushed().await;

    repository.write(
        "bad.yaml",
        "name: bad\nservices:\n  - {name: backend, verison: 1}\n",
    );
    let reason = "bad.yaml:3:21: services[0].verison: unknown field: did you mean `version`?";
    repository
        .refused(&[reason, "1 fault in 1 of 2 files", "refused: nothing"])
        .await;
    repository.write("other.yaml", "name: other\nprefix: www-dev\n");
    let reason =
        "other.yaml:2:9: prefix: prefix \"www-dev\" is taken at dev.yaml:1: each can be used only once";
    repository.refused(&[reason]).await;
    repository.write("again.yml", "name: dev\n");
    repository
        .refused(&["again.yml:1:7: name: name \"dev\" is taken at dev.yaml:1"])
        .await;
    // Whatever the files are called: who was there first is not blamed.
    repository.write("a.yaml", "name: a\nprefix: www-dev\n");
    repository
        .refused(&["a.yaml:2:9: prefix: prefix \"www-dev\" is taken at dev.yaml:1"])
        .await;
    std::os::unix::fs::symlink("/etc/passwd", repository.clone.join("link.yaml")).unwrap();
    repository.refused(&["link.yaml: a link is not accepted"]).await;
    repository.write("odd\nname.yaml", "name: odd\n");
    repository
        .refused(&["odd\\nname.yaml': a name with slashes, control or direction characters"])
        .await;

    // Another branch is work in progress: it is told, and not deployed.
    repository.write("bad.yaml", "name: Bad\n");
    let push = repository.push("work").await;
    assert_eq!(push.code, Some(0), "{push:?}");
    for part in [
        "bad.yaml:1:7: name: ",
        "note: work was accepted, but would be refused as main",
    ] {
        assert!(push.stderr.contains(part), "{part} in {}", push.stderr);
    }
    assert_eq!(repository.names(), ["dev.yaml"]);
    repository.git("reset --quiet --hard HEAD~1").await.ok().unwrap();
    let push = repository.git("push origin :main").await;
    assert!(
        push.code == Some(1) && push.stderr.contains("main cannot be deleted"),
        "{push:?}"
    );

    // Where the files can't go, nothing is taken either; nor where nobody can check.
    let aside = mayfly.directory().join("aside");
    fs::rename(&repository.deployed, &aside).unwrap();
    let push = repository.push("main").await;
    assert!(
        push.code == Some(1) && push.stderr.contains("there is no directory"),
        "{push:?}"
    );
    fs::rename(&aside, &repository.deployed).unwrap();
    let config = repository.bare.join("config");
    let settings = fs::read_to_string(&config).unwrap();
    fs::write(&config, settings.replace("lint = ", "lint = /nonexistent")).unwrap();
    let push = repository.push("main").await;
    assert!(
        push.code == Some(1) && push.stderr.contains("no program mayfly"),
        "{push:?}"
    );
    repository.init().await.ok().unwrap();
    repository.pushed().await;
}

#[tokio::test]
async fn odd_names_are_deployed_and_what_did_not_come_by_a_push_is_left_alone() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    mayfly.save("local.yaml", "name: local\n");
    mayfly.save("same.yaml", "name: same\n");
    fs::write(repository.deployed.join("notes.txt"), "notes").unwrap();
    let odd = [
        "-f.yaml",
        "a b.yaml",
        "$(touch pwned).yaml",
        "ü;'\"`*].yml",
        "@.yaml",
    ];
    for (index, name) in odd.iter().enumerate() {
        repository.write(name, &format!("name: odd-{index}\n"));
    }
    repository.write("same.yaml", "name: same\n");
    repository.write("sub/inside.yaml", "name: inside\n");
    repository.write(".hidden.yaml", "[");
    repository.write(".gitattributes", "*.yaml export-ignore eol=crlf\n");
    repository.write("UPPER.YAML", "name: upper\n");
    repository.write("temp-2.yaml.txt", "name: temp-2\n");
    repository.write("docs/README.md", "notes");
    repository.write(".github/x.yaml", "[");
    let told = repository.pushed().await;
    for (part, is_told) in [
        ("note: the folder sub is ignored", true),
        ("note: UPPER.YAML is ignored", true),
        ("note: temp-2.yaml.txt is ignored", true),
        ("docs", false),
        (".github", false),
    ] {
        assert_eq!(told.contains(part), is_told, "{part}: {told}");
    }
    let mut expected: Vec<&str> = [&odd[..], &["local.yaml", "notes.txt", "same.yaml"]].concat();
    expected.sort_unstable();
    assert_eq!(repository.names(), expected);
    assert_eq!(repository.deployed()["a b.yaml"], "name: odd-1\n");

    repository.write("local.yaml", "name: mine\n");
    repository
        .refused(&[
            "local.yaml: /",
            "already has a file of that name, which no push put there",
        ])
        .await;

    // What the registrar archived does not come back, and what was changed there stays, until it changes in git.
    mayfly.remove("-f.yaml");
    mayfly.save("@.yaml", "name: odd-4\ndescription: by hand\n");
    repository.write("a b.yaml", "name: odd-1\nidle: 8h\n");
    let told = repository.pushed().await;
    assert!(told.contains(": 1 written, 0 deleted, 5 unchanged"), "{told}");
    assert!(!repository.names().contains(&"-f.yaml".to_owned()));
    assert!(repository.deployed()["@.yaml"].contains("by hand"));

    for name in odd {
        repository.remove(name);
    }
    repository.pushed().await;
    assert_eq!(repository.names(), ["local.yaml", "notes.txt", "same.yaml"]);
}

#[tokio::test]
async fn a_parent_that_is_probably_misspelt_is_deployed_and_noted() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    repository.write("prod.yaml", "name: prod\n");
    repository.write("qa.yaml", "{name: qa, extends: prd}\n");
    let told = repository.pushed().await;
    let note = "qa.yaml: note: qa extends `prd`, which no file has: did you mean `prod`?";
    assert!(told.contains(note), "{told}");
    assert_eq!(repository.names(), ["prod.yaml", "qa.yaml"]);
}

#[tokio::test]
async fn a_service_that_is_probably_misspelt_is_deployed_and_noted() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    repository.write(
        "prod.yaml",
        "{name: prod, services: [{name: orders, version: 1}]}\n",
    );
    let temp = "{name: temp, extends: prod, services: [{name: order, version: 2}]}\n";
    repository.write("temp.yaml", temp);
    let told = repository.pushed().await;
    let note = "temp.yaml: note: temp has a service `order`, which no environment above it names: did you \
                mean `orders`?";
    assert!(told.contains(note), "{told}");
    assert_eq!(repository.names(), ["prod.yaml", "temp.yaml"]);
}

#[tokio::test]
async fn an_interrupted_deployment_is_completed_by_the_next_push() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    for name in ["a", "b", "c"] {
        repository.write(&format!("{name}.yaml"), &format!("name: {name}\n"));
    }
    repository.pushed().await;
    // As it is when the power fails after `a` was written, with `b` and the deletion of `gone` still to come.
    let manifest = repository.bare.join("mayfly-deployed");
    let text = fs::read_to_string(&manifest).unwrap();
    let lines = text.lines().map(|line| match line.split_once('\t') {
        Some((_, "b.yaml")) => "-\tb.yaml\n-\tgone.yaml\n".to_owned(),
        _ => format!("{line}\n"),
    });
    fs::write(&manifest, lines.collect::<String>()).unwrap();
    mayfly.remove("b.yaml");
    mayfly.save("gone.yaml", "name: gone\n");
    fs::write(repository.deployed.join(".mayfly-push.Xy1234"), "name: b").unwrap();
    repository.write("c.yaml", "name: c\nidle: 8h\n");
    repository.pushed().await;
    assert_eq!(repository.names(), ["a.yaml", "b.yaml", "c.yaml"]);

    // Several at once wait for each other, and `--all` puts back what is missing. A push back in history is one, too.
    mayfly.remove("a.yaml");
    let (first, second) = tokio::join!(repository.deploy_all(), repository.deploy_all());
    for finished in [first, second] {
        assert!(finished.stderr.contains("3 written, 0 deleted"), "{finished:?}");
    }
    assert_eq!(repository.names(), ["a.yaml", "b.yaml", "c.yaml"]);
    let back = repository.git("push --force origin HEAD~1:main").await;
    assert_eq!(back.code, Some(0), "{back:?}");
    assert_eq!(repository.deployed()["c.yaml"], "name: c\n");
}

fn definition(name: &str, port: u16) -> String {
    format!("name: {name}\nimage: '{name}:{{{{ version }}}}'\nport: {port}\n")
}

#[tokio::test]
async fn a_pushed_definition_is_registered_until_its_file_is_deleted_by_a_push() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly.start_registrar(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    let port = async |expected: Option<u16>| {
        let what = format!("the port of the registered definition is {expected:?}");
        eventually(SOON, &what, async || {
            let found = mayfly.etcd.get("/mayfly/services/backend").await.unwrap();
            let found = found.map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap());
            found.map(|record| record["port"].clone()) == expected.map(Into::into)
        })
        .await;
    };
    // A file of one name may stand at the top and among the definitions.
    repository.write("backend.yaml", "name: backend\n");
    repository.write("services/backend.yaml", &definition("backend", 80));
    repository.write("services/README.md", "no definition");
    repository.write("services/sub/inside.yaml", "[");
    repository.write("services/.hidden.yaml", "[");
    repository.pushed().await;
    port(Some(80)).await;
    assert_eq!(
        (repository.names(), repository.definitions()),
        (vec!["backend.yaml".to_owned()], vec!["backend.yaml".to_owned()])
    );

    for (file, text, parts) in [
        (
            "services/bad.yml",
            "name: bad\nimage: 'bad:{{ version }}'\nport: 80\nprivileged: true\n".to_owned(),
            &[
                "services/bad.yml:4:1: privileged: not allowed",
                "1 fault in 1 of 3 files",
            ][..],
        ),
        (
            "services/again.yaml",
            definition("backend", 81),
            &["services/again.yaml:1:7: name: service \"backend\" is taken at services/backend.yaml:1"],
        ),
        (
            "services/odd\nname.yaml",
            definition("odd", 1),
            &["odd\\nname.yaml': a name with slashes, control or direction characters"],
        ),
    ] {
        repository.write(file, &text);
        repository.refused(parts).await;
        assert_eq!(repository.definitions(), ["backend.yaml"]);
    }
    std::os::unix::fs::symlink("/etc/passwd", repository.clone.join("services/link.yaml")).unwrap();
    repository
        .refused(&["services/link.yaml: a link is not accepted"])
        .await;
    // What did not come by a push is in nobody's way and is not overwritten.
    let local = repository.deployed.with_file_name("services").join("local.yaml");
    fs::write(&local, definition("local", 1)).unwrap();
    repository.write("services/local.yaml", &definition("local", 2));
    repository
        .refused(&[
            "services/local.yaml: /",
            "/services already has a file of that name, which no push put there",
        ])
        .await;

    repository.write("services/backend.yaml", &definition("backend", 82));
    let told = repository.pushed().await;
    assert!(told.contains(": 1 written, 0 deleted, 1 unchanged"), "{told}");
    port(Some(82)).await;
    // Only definitions are left, then nothing at all.
    repository.remove("backend.yaml");
    repository.pushed().await;
    port(Some(82)).await;
    repository.remove("services/backend.yaml");
    repository.pushed().await;
    port(None).await;
    assert_eq!(repository.definitions(), ["local.yaml"]);
}

#[tokio::test]
async fn definitions_go_to_a_directory_of_their_own_which_only_they_need() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let repository = Repository::new(&mayfly).await;
    let beside = repository.deployed.with_file_name("services");
    fs::remove_dir(&beside).unwrap();
    repository.write("dev.yaml", "name: dev\n");
    repository.pushed().await;
    repository.write("services/backend.yaml", &definition("backend", 80));
    repository
        .refused(&["there is no directory", "/services on this server"])
        .await;

    let own = mayfly.directory().join("my definitions");
    repository.init_with(&[&own]).await.ok().unwrap();
    repository.write("services/backend.yaml", &definition("backend", 80));
    repository.pushed().await;
    let names: Vec<_> = Repository::files(&own).into_keys().collect();
    assert_eq!((names, beside.exists()), (vec!["backend.yaml".to_owned()], false));
    assert_eq!(repository.names(), ["dev.yaml"]);
    // Interrupted with the file still to come, and what was written beside it.
    fs::remove_file(own.join("backend.yaml")).unwrap();
    fs::create_dir(own.join(".mayfly-push.Xy1234")).unwrap();
    fs::write(own.join(".mayfly-push.Xy1234/backend.yaml"), "name").unwrap();
    repository.deploy_all().await.ok().unwrap();
    let names: Vec<_> = Repository::files(&own).into_keys().collect();
    assert_eq!(names, ["backend.yaml"]);

    let same = repository.init_with(&[&repository.deployed]).await;
    assert!(
        same.code == Some(1) && same.stderr.contains("is for the environments"),
        "{same:?}"
    );
}
