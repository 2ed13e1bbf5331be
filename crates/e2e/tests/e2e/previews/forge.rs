//! A forge as far as deploy/ci needs one: it runs the step of action.yml that makes and removes a
//! preview, and the jobs of gitlab.yml, with the values that GitHub and GitLab put in.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::{Finished, Process, binary, run};
use mayfly_e2e::{eventually, port};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Above what any job takes: each waits for its preview.
const LIMIT: Duration = Duration::from_secs(60);
/// A program that kills the job at one of its calls, and else does what its namesake does. What the
/// server runs is not of the job.
const KILLER: &str = r#"#!/bin/sh
if [ "${GIT_DIR#*/}" != "${GIT_DIR:-}" ]; then
    count=$(($(cat "$STEPS") + 1))
    echo "$count" >"$STEPS"
    [ "$count" -lt "$KILL_AT" ] || kill -9 0
fi
exec "$REAL" "$@"
"#;

/// What a forge tells of a pull request.
#[derive(Clone)]
pub struct PullRequest {
    pub number: usize,
    /// The repository that it comes from.
    pub head: String,
    /// Its branch, and the branch that it goes to.
    pub branch: String,
    pub onto: String,
}

impl PullRequest {
    pub fn of(number: usize) -> Self {
        Self {
            number,
            head: "example/shop".to_owned(),
            branch: format!("branch-{number}"),
            onto: "main".to_owned(),
        }
    }
}

/// The step of a job at which it is killed.
pub struct Kill(pub usize);

pub struct Forge {
    /// The address of the read API.
    pub api: String,
    directory: PathBuf,
    repository: PathBuf,
    deployed: PathBuf,
    variables: BTreeMap<String, String>,
    jobs: std::sync::Arc<AtomicUsize>,
    _web: Option<Process>,
}

/// Where the script is.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/ci")
}

fn read(file: &str) -> Value {
    serde_yaml::from_str(&fs::read_to_string(directory().join(file)).unwrap()).unwrap()
}

impl Forge {
    /// A repository of environments that has `qa`, and mayfly-web.
    pub async fn start(mayfly: &Mayfly) -> Self {
        let address: SocketAddr = port::free();
        let mut command = mayfly.command("mayfly-web").unwrap();
        command.args([
            "--bind",
            &address.to_string(),
            "--edge-url",
            "https://*.example.com/",
        ]);
        let web = mayfly.spawn("mayfly-web", &command).unwrap();
        eventually(SOON, "mayfly-web listens", async || {
            TcpStream::connect(address).await
        })
        .await;
        let forge = Self {
            api: format!("http://{address}"),
            directory: mayfly.directory().join("jobs"),
            repository: mayfly.directory().join("environments.git"),
            deployed: mayfly.environments(),
            variables: BTreeMap::new(),
            jobs: std::sync::Arc::default(),
            _web: Some(web),
        };
        fs::create_dir(&forge.directory).unwrap();
        let mut command = Command::new(directory().join("../git/init-environments-repo.sh"));
        command.arg("--lint").arg(binary("mayfly").unwrap());
        command.arg(&forge.repository).arg(&forge.deployed);
        run(&command, LIMIT).await.unwrap().ok().unwrap();
        let qa = "name: qa\nservices:\n  - {name: web, version: 0.0.1, route: /}\n";
        let script = format!(
            "git init -q -b main seed && cd seed && printf '%s' '{qa}' >qa.yaml && git add qa.yaml && \
             git -c user.name=a -c user.email=a@example.com commit -qm qa && git push -q '{}' main",
            forge.repository.display()
        );
        forge.shell(&script).await.ok().unwrap();
        forge
    }

    /// The same forge with another setting.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut variables = self.variables.clone();
        variables.insert(name.to_owned(), value.to_owned());
        Self {
            api: self.api.clone(),
            directory: self.directory.clone(),
            repository: self.repository.clone(),
            deployed: self.deployed.clone(),
            variables,
            jobs: self.jobs.clone(),
            _web: None,
        }
    }

    /// The same forge, whose pushes come by an ssh that forces limited.sh with these arguments.
    pub fn with_key(&self, arguments: &str) -> Self {
        let (ssh, repository) = (self.directory.join("ssh"), self.repository.display());
        let script =
            format!("shift\nSSH_ORIGINAL_COMMAND=$* exec '{repository}/hooks/limited.sh' {arguments}\n");
        fs::write(&ssh, script).unwrap();
        let command = format!("sh '{}'", ssh.display());
        let forge = self
            .with("GIT_SSH_COMMAND", &command)
            .with("GIT_SSH_VARIANT", "simple");
        forge.with("PREVIEW_REPOSITORY", &format!("server:{repository}"))
    }

    async fn shell(&self, script: &str) -> Finished {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(&self.directory);
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", &self.directory);
        run(&command, LIMIT).await.unwrap()
    }

    async fn git(&self, line: &str) -> Finished {
        let script = format!("git --git-dir='{}' {line}", self.repository.display());
        self.shell(&script).await
    }

    /// The files of the branch that is deployed.
    pub async fn files(&self) -> Vec<String> {
        let listed = self.git("ls-tree --name-only main").await.ok().unwrap();
        listed.lines().map(str::to_owned).collect()
    }

    /// A file of it.
    pub async fn file(&self, name: &str) -> Option<String> {
        self.git(&format!("show main:{name}")).await.ok().ok()
    }

    /// The files that the registrar sees.
    pub async fn deployed(&self) -> Vec<String> {
        let listed = self.shell(&format!("ls '{}'", self.deployed.display())).await;
        listed.ok().unwrap().lines().map(str::to_owned).collect()
    }

    /// The job of a push.
    pub async fn up(&self, event: &PullRequest, job: usize, services: &str) -> Finished {
        self.github("synchronize", event, job, services, None).await
    }

    /// The job of a close, or of a merge.
    pub async fn down(&self, event: &PullRequest, job: usize) -> Finished {
        self.github("closed", event, job, "", None).await
    }

    /// A job that is killed at a step, unless it ends before; without services that of a close.
    pub async fn killed_at(&self, kill: Kill, event: &PullRequest, job: usize, services: &str) -> Finished {
        let action = if services.is_empty() {
            "closed"
        } else {
            "synchronize"
        };
        self.github(action, event, job, services, Some(kill)).await
    }

    /// Runs the step of action.yml; what it prints is the comment.
    async fn github(
        &self,
        action: &str,
        event: &PullRequest,
        job: usize,
        services: &str,
        kill: Option<Kill>,
    ) -> Finished {
        let action_file = read("action.yml");
        let pull_request = json!({"number": event.number,
            "head": {"ref": event.branch, "repo": {"full_name": event.head}},
            "base": {"ref": event.onto, "repo": {"full_name": "example/shop"}}});
        let mut inputs: Value = json!({});
        for (name, input) in action_file["inputs"].as_object().unwrap() {
            inputs[name] = input["default"].clone();
        }
        inputs["repository"] = json!(self.repository);
        inputs["api"] = json!(self.api);
        inputs["services"] = json!(services);
        let context = json!({"inputs": inputs,
            "github": {"run_id": job, "event": {"action": action, "pull_request": pull_request}}});
        let step = &action_file["runs"]["steps"][0];
        let mut variables = BTreeMap::new();
        for (name, value) in step["env"].as_object().unwrap() {
            let path = value.as_str().unwrap().trim_matches(['$', '{', '}', ' ']);
            let found = &context.pointer(&format!("/{}", path.replace('.', "/"))).unwrap();
            let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            variables.insert(name.clone(), text);
        }
        variables.extend(self.variables.clone());
        let place = self.place();
        variables.insert("GITHUB_ACTION_PATH".to_owned(), directory().display().to_string());
        variables.insert("RUNNER_TEMP".to_owned(), place.display().to_string());
        let mut done = self
            .job(&place, step["run"].as_str().unwrap(), &variables, kill)
            .await;
        done.stdout = fs::read_to_string(place.join("mayfly-preview.md")).unwrap_or_default();
        done
    }

    /// Runs a job of gitlab.yml.
    pub async fn gitlab(&self, job: &str, predefined: &Value, services: &str) -> Finished {
        let template = read("gitlab.yml");
        let mut variables = self.variables.clone();
        let source = format!("file://{}", self.directory.join("mayfly").display());
        for (name, value) in [
            ("PREVIEW_REPOSITORY", self.repository.display().to_string()),
            ("PREVIEW_API", self.api.clone()),
            ("PREVIEW_SERVICES", services.to_owned()),
            ("PREVIEW_SOURCE", source),
        ] {
            variables.insert(name.to_owned(), value);
        }
        for part in [&template[".mayfly-preview"], &template[job]] {
            for (name, value) in part["variables"].as_object().unwrap() {
                let value = value.as_str().unwrap();
                let expanded = match value.strip_prefix('$') {
                    Some(name) => predefined[name].as_str().unwrap(),
                    None => value,
                };
                variables.insert(name.clone(), expanded.to_owned());
            }
        }
        // The repository of the script, with one commit.
        let script = format!(
            "[ -d mayfly ] || {{ mkdir -p mayfly/deploy && cp -r '{}' mayfly/deploy/ci && cd mayfly && \
             git init -q -b main && git add . && git -c user.name=a -c user.email=a@example.com commit -qm a; }}",
            directory().display()
        );
        self.shell(&script).await.ok().unwrap();
        let lines = template[".mayfly-preview"]["script"].as_array().unwrap();
        let lines: Vec<&str> = lines.iter().map(|line| line.as_str().unwrap()).collect();
        self.job(&self.place(), &lines.join("\n"), &variables, None).await
    }

    /// A directory for a job.
    fn place(&self) -> PathBuf {
        let place = self
            .directory
            .join(self.jobs.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&place).unwrap();
        place
    }

    /// Runs a job in a session of its own, so that all of it can be killed.
    async fn job(
        &self,
        place: &Path,
        script: &str,
        variables: &BTreeMap<String, String>,
        kill: Option<Kill>,
    ) -> Finished {
        let mut command = Command::new("setsid");
        command
            .args(["--wait", "sh", "-e", "-c", script])
            .current_dir(place);
        command.envs(variables);
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", place)
            .env("TMPDIR", place);
        let path = std::env::var("PATH").unwrap();
        if let Some(Kill(at)) = kill {
            let steps = place.join("steps");
            fs::write(&steps, "0").unwrap();
            for name in ["git", "curl"] {
                let real = std::env::split_paths(&path).map(|directory| directory.join(name));
                let real = real.into_iter().find(|path| path.is_file()).unwrap();
                let text = KILLER.replace("$REAL", real.to_str().unwrap());
                fs::write(place.join(name), text).unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                fs::set_permissions(place.join(name), mode).unwrap();
            }
            command.env("STEPS", &steps).env("KILL_AT", at.to_string());
            command.env("PATH", format!("{}:{path}", place.display()));
        }
        run(&command, LIMIT).await.unwrap()
    }
}
