//! `mayfly init` writes a project as a whole and over nothing, and what it writes works for Git. The demo step of
//! scripts/test.sh starts such a project, by the blocks of docs/adopt.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mayfly_e2e::process::{Finished, binary, run};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
/// What is different in each project.
const OWN: [&str; 4] = ["passwords", "archive", "environments.git", ".mayfly"];

/// A directory for projects.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(binary("mayfly").unwrap());
        command.arg("init").args(arguments.split_whitespace());
        command.current_dir(self.0.path()).env("HOME", self.0.path());
        command
    }

    async fn init(&self, arguments: &str) -> Finished {
        run(&self.command(arguments), LIMIT).await.unwrap()
    }

    /// A project `shop`, without a look at this host.
    async fn shop(&self) -> PathBuf {
        self.init("shop --yes --skip-checks").await.ok().unwrap();
        self.path("shop")
    }

    /// Everything in the directory for projects, hidden names too.
    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// The files below a directory with their contents, by path; without those of `except` at its top.
fn files(directory: &Path, except: &[&str]) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        for entry in fs::read_dir(directory.join(&below)).unwrap() {
            let entry = entry.unwrap();
            let path = below.join(entry.file_name());
            if except.iter().any(|name| path == Path::new(name)) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                left.push(path);
            } else {
                let content = fs::read(entry.path()).unwrap();
                found.insert(path, String::from_utf8_lossy(&content).into_owned());
            }
        }
    }
    found
}

#[tokio::test]
async fn deploy_compose_is_what_it_writes() {
    let bench = Bench::new();
    let shop = bench.shop().await;
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut expected = files(&repository.join("deploy/compose"), &OWN);
    if !rustix::process::geteuid().is_root() {
        // The owner is the user who runs this.
        expected.remove(Path::new(".env"));
    }
    for (path, content) in expected {
        assert_eq!(fs::read_to_string(shop.join(&path)).unwrap(), content, "{path:?}");
    }
    let written: Vec<PathBuf> = files(&shop, &OWN).into_keys().collect();
    let tracked: Vec<PathBuf> = files(&repository.join("deploy/compose"), &OWN)
        .into_keys()
        .collect();
    assert_eq!(written, tracked);
    let mut lint = Command::new(binary("mayfly").unwrap());
    lint.args(["lint", "environments", "--services", "services"])
        .current_dir(&shop);
    run(&lint, LIMIT).await.unwrap().ok().unwrap();
}

#[tokio::test]
async fn a_second_init_writes_nothing() {
    let bench = Bench::new();
    let shop = bench.shop().await;
    // git may write its own files again. The program is large, and has a time.
    let all = || files(&shop, &["environments.git", ".mayfly/bin"]);
    let written = || {
        fs::metadata(shop.join(".mayfly/bin/mayfly"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = (all(), written());
    let printed = bench.init("shop").await.ok().unwrap();
    assert!(printed.contains("is complete: nothing was written"), "{printed}");
    assert_eq!((all(), written()), before);
}

#[tokio::test]
async fn what_is_missing_comes_back_and_what_was_changed_stays() {
    let bench = Bench::new();
    let shop = bench.shop().await;
    let compose = shop.join("docker-compose.yml");
    fs::write(&compose, "# of an older Mayfly\n").unwrap();
    // An empty production would end the services of the present one.
    fs::remove_file(shop.join("environments/prod.yaml")).unwrap();
    let settings = fs::read_to_string(shop.join(".env")).unwrap();
    let settings = settings
        .lines()
        .filter(|line| !line.starts_with("MAYFLY_MAX_CONTAINERS="))
        .map(|line| format!("{line}\n").replace("COMPOSE_PROJECT_NAME=mayfly", "COMPOSE_PROJECT_NAME=shop"));
    let settings: String = settings.collect();
    fs::write(shop.join(".env"), &settings).unwrap();
    fs::remove_file(shop.join("mayfly")).unwrap();
    fs::remove_dir_all(shop.join(".mayfly")).unwrap();
    fs::remove_file(shop.join("passwords/root")).unwrap();
    fs::remove_file(shop.join("passwords/local")).unwrap();
    fs::write(shop.join("environments.git/hooks/pre-receive"), "old").unwrap();

    let printed = bench.init("shop").await.ok().unwrap();
    for part in [
        "mayfly, ",
        "docker-compose.yml differs from the file of this version",
        ".env lacks MAYFLY_MAX_CONTAINERS; add the line MAYFLY_MAX_CONTAINERS=50",
        "environments.git",
        "passwords/root is missing, and etcd accepts only its present password",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert!(!shop.join("passwords/root").exists());
    assert!(shop.join("passwords/local").exists());
    assert_eq!(fs::read_to_string(&compose).unwrap(), "# of an older Mayfly\n");
    assert_eq!(fs::read_to_string(shop.join(".env")).unwrap(), settings);
    assert!(!shop.join("environments/prod.yaml").exists());
    assert!(shop.join(".mayfly/bin/mayfly").exists());
    assert_ne!(
        fs::read_to_string(shop.join("environments.git/hooks/pre-receive")).unwrap(),
        "old"
    );
}

#[tokio::test]
async fn the_program_of_the_operator_runs_nothing_of_its_settings() {
    let bench = Bench::new();
    let shop = bench.shop().await;
    let owned = bench.path("owned");
    let settings = fs::read_to_string(shop.join(".env")).unwrap();
    let hostile = format!(
        "MAYFLY_VOLUME_ROOT=/srv/$(touch {0}),`touch {0}`\n",
        owned.display()
    );
    let settings = settings.replace("MAYFLY_VOLUME_ROOT=\n", &hostile);
    assert!(settings.contains(&hostile), "{settings}");
    fs::write(shop.join(".env"), settings).unwrap();
    // In place of the engine's program: it prints what it is called with.
    fs::create_dir(bench.path("bin")).unwrap();
    let docker = bench.path("bin/docker");
    fs::write(&docker, "#!/bin/sh\n[ $1 = network ] || echo \"$*\"\n").unwrap();
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
    let mut program = Command::new(shop.join("mayfly"));
    let path = std::env::var("PATH").unwrap();
    program.arg("status").current_dir(&shop);
    program.env("PATH", format!("{}:{path}", bench.path("bin").display()));
    let printed = run(&program, LIMIT).await.unwrap().ok().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for part in [
        "--network mayfly_control ",
        "--env MAYFLY_PREFIX=/mayfly ",
        &*format!(" mayfly/environment-registrar:{version} status"),
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert!(!owned.exists());
}

#[tokio::test]
async fn nothing_foreign_is_touched() {
    let bench = Bench::new();
    for (name, file) in [("theirs", "theirs/x"), ("theirs", "theirs/.env")] {
        fs::create_dir_all(bench.path(name)).unwrap();
        fs::write(bench.path(file), "SECRET=1\n").unwrap();
        let refused = bench.init(&format!("{name} --yes --skip-checks")).await;
        assert_eq!(refused.code, Some(1));
        assert!(
            refused.stderr.contains("was not made by `mayfly init`"),
            "{}",
            refused.stderr
        );
        assert!(!bench.path(name).join("docker-compose.yml").exists());
    }
    fs::write(bench.path("file"), "x").unwrap();
    symlink("/nowhere/at/all", bench.path("link")).unwrap();
    for name in ["file", "link", "file/shop"] {
        let refused = bench.init(&format!("{name} --yes --skip-checks")).await;
        assert_eq!(refused.code, Some(1), "{name}");
    }
    assert_eq!(fs::read_to_string(bench.path("file")).unwrap(), "x");
    let left: BTreeSet<String> = ["theirs", "file", "link"].map(str::to_owned).into();
    assert_eq!(bench.names(), left);
}

#[tokio::test]
async fn a_killed_init_leaves_a_project_or_nothing() {
    let bench = Bench::new();
    let mut is_made = 0;
    for milliseconds in [0, 5, 20, 40, 80, 160, 320] {
        let mut command = bench.command("shop --yes --skip-checks");
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Whenever it is killed, the same holds.
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        let _ = child.kill();
        child.wait().unwrap();
        if bench.path("shop").exists() {
            is_made += 1;
            let again = bench.init("shop").await.ok().unwrap();
            assert!(again.contains("nothing was written"), "{again}");
            fs::remove_dir_all(bench.path("shop")).unwrap();
        }
    }
    // What the killed ones have left beside it is gone after the next one, once their scripts have ended.
    for _ in 0..20 {
        bench.shop().await;
        if bench.names().len() == 1 {
            return;
        }
        fs::remove_dir_all(bench.path("shop")).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{:?}; {is_made} were not killed in time", bench.names());
}

#[tokio::test]
async fn of_two_at_once_one_makes_the_project() {
    let bench = Bench::new();
    let (one, other) = tokio::join!(
        bench.init("shop --yes --skip-checks --project one"),
        bench.init("shop --yes --skip-checks --project two")
    );
    assert!(
        one.code == Some(0) || other.code == Some(0),
        "{} {}",
        one.stderr,
        other.stderr
    );
    let settings = fs::read_to_string(bench.path("shop/.env")).unwrap();
    let is_one = settings.contains("COMPOSE_PROJECT_NAME=one\n");
    assert_eq!(if is_one { one.code } else { other.code }, Some(0));
    assert_eq!(bench.names(), ["shop".to_owned()].into());
}

#[tokio::test]
async fn without_a_terminal_it_says_what_to_give() {
    let bench = Bench::new();
    let refused = bench.init("shop --project shop").await;
    assert_eq!(refused.code, Some(2));
    assert!(
        refused
            .stderr
            .contains("give --project, --domain and --port, or --yes"),
        "{}",
        refused.stderr
    );
    for wrong in [
        "--project My-Shop",
        "--domain -x",
        "--port 0",
        "--port 70000",
        "--images $(id)",
    ] {
        let refused = bench.init(&format!("shop --yes --skip-checks {wrong}")).await;
        assert_eq!(refused.code, Some(2), "{wrong}");
    }
    assert_eq!(bench.names(), BTreeSet::new());
}

#[tokio::test]
async fn what_is_in_the_way_is_said_at_once_and_nothing_is_written() {
    let bench = Bench::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let line = format!("shop --project shop --domain shop.example --port {port} --compose missing.yml");
    let mut command = bench.command(&line);
    command.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let refused = run(&command, LIMIT).await.unwrap();
    assert_eq!(refused.code, Some(1));
    for part in [
        &*format!("port {port} of this host is taken"),
        "cannot reach a Docker engine",
        "missing.yml:1:1: there is no such file",
        "nothing was written",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    // A host with nothing at all.
    let mut command = bench.command("shop --yes");
    command.env("PATH", bench.0.path());
    let refused = run(&command, LIMIT).await.unwrap();
    for part in [
        "`git` is not installed",
        "compose is missing",
        "`docker` is not installed",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    assert_eq!(bench.names(), BTreeSet::new());
}

#[tokio::test]
async fn a_compose_file_is_imported_with_the_project_or_not_at_all() {
    let bench = Bench::new();
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/shop/docker-compose.yml");
    fs::write(bench.path("broken.yml"), "services: {web: {}}\n").unwrap();
    for file in ["broken.yml", "missing.yml"] {
        let refused = bench
            .init(&format!("shop --yes --skip-checks --compose {file}"))
            .await;
        assert_eq!(refused.code, Some(1), "{file}");
        assert!(refused.stderr.contains(file), "{}", refused.stderr);
        assert!(!bench.path("shop").exists());
    }
    let line = format!("shop --yes --skip-checks --compose {}", shop.display());
    let printed = bench.init(&line).await.ok().unwrap();
    for part in [
        "web: routed, and started by Mayfly",
        "redis: stays as it is",
        "/shop/overlay.yml up -d",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let settings = fs::read_to_string(bench.path("shop/.env")).unwrap();
    let images = "shop/catalog:*,shop/orders:*,shop/payments:*,shop/prices:*,shop/stock:*,shop/web:*";
    assert!(
        settings.contains(&format!("MAYFLY_ALLOW_IMAGE={images}\n")),
        "{settings}"
    );
    let mut lint = Command::new(binary("mayfly").unwrap());
    lint.args(["lint", "environments", "--services", "services"])
        .current_dir(bench.path("shop"));
    run(&lint, LIMIT).await.unwrap().ok().unwrap();
    assert!(!bench.path("shop/services/web.yaml.example").exists());
    // The second time it is said how to import into what is there.
    let refused = bench.init(&line).await;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("mayfly import compose"),
        "{}",
        refused.stderr
    );
    let again = bench.init("shop").await.ok().unwrap();
    assert!(again.contains("nothing was written"), "{again}");
}

#[tokio::test]
async fn the_team_pushes_environments_and_no_address_outside() {
    let bench = Bench::new();
    let shop = bench.shop().await;
    let git = |line: &str, directory: &Path| {
        let mut git = Command::new("git");
        git.args(line.split_whitespace()).current_dir(directory);
        git.env("HOME", bench.0.path()).env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{role}_NAME"), "Ada");
            git.env(format!("GIT_{role}_EMAIL"), "ada@example.com");
        }
        git
    };
    let clone = bench.path("clone");
    let run = async |line: &str, directory: &Path| run(&git(line, directory), LIMIT).await.unwrap();
    run("clone -q shop/environments.git clone", bench.0.path())
        .await
        .ok()
        .unwrap();
    fs::write(clone.join("dev.yaml"), "name: dev\nextends: prod\n").unwrap();
    for line in ["add .", "commit -qm dev", "push -q origin HEAD:main"] {
        run(line, &clone).await.ok().unwrap();
    }
    assert!(shop.join("environments/dev.yaml").exists());
    let outside = "name: dev\nextends: prod\nservices: [{name: pay, address: 'http://pay.example'}]\n";
    fs::write(clone.join("dev.yaml"), outside).unwrap();
    run("commit -qam outside", &clone).await.ok().unwrap();
    let refused = run("push -q origin HEAD:main", &clone).await;
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("dev.yaml:3:"), "{}", refused.stderr);
    // Other accounts of the host see no password.
    let mode = fs::metadata(shop.join("passwords")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
