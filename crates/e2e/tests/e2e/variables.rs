//! Variables of the environment mean the same in every program, for every argument that `--help` shows: an empty one is
//! not set, a boolean one takes the usual words, and a value that is refused is told with its variable.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use mayfly_e2e::process::binary;
use mayfly_e2e::process::{Finished, run};

const LIMIT: Duration = Duration::from_secs(30);

/// The programs, with commands that end at once: they cannot listen at an address that no machine of this network has,
/// their etcd is nowhere, or a file is missing. They all end with exit code 1; a wrong command line ends with 2.
const PROGRAMS: [(&str, &[&str]); 7] = [
    ("environment-registrar", &["watch", "--admin", NOWHERE]),
    (
        "container-registrar",
        &["register", "--admin", NOWHERE, "a", "1", "127.0.0.1", "9"],
    ),
    ("container-registrar", &["docker", "--admin", NOWHERE]),
    ("container-launcher", &["--admin", NOWHERE]),
    ("haproxy-updater", &["--admin", NOWHERE]),
    ("dns-updater", &["watch", "--admin", NOWHERE]),
    ("mayfly", &["lint", "/nowhere/x.yaml"]),
];

/// For documentation only (RFC 5737).
const NOWHERE: &str = "192.0.2.1:9";

/// The variables of a program in which nobody else has any, and nothing of the machine is touched.
struct Bench {
    program: &'static str,
    line: &'static [&'static str],
    directory: tempfile::TempDir,
}

impl Bench {
    fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(binary(self.program).unwrap());
        command.args(arguments).env_clear();
        command.env("PATH", std::env::var("PATH").unwrap());
        let here = self.directory.path().display().to_string();
        for (name, value) in [
            ("MAYFLY_HAPROXY_DIR", here.as_str()),
            ("MAYFLY_ENVIRONMENTS", here.as_str()),
            ("MAYFLY_HOSTS_FILE", &format!("{here}/hosts")),
            ("MAYFLY_ETCD", "127.0.0.1:1"),
            ("MAYFLY_NODE", "n"),
        ] {
            command.env(name, value);
        }
        command.envs(variables.iter().copied());
        command.current_dir(self.directory.path());
        command
    }

    async fn run(&self, variables: &[(&str, &str)]) -> Finished {
        run(&self.command(self.line, variables), LIMIT).await.unwrap()
    }

    /// All variables that the help of the command shows, and whether they are of flags without a value.
    async fn variables(&self) -> BTreeMap<String, bool> {
        let mut words: Vec<&str> = self.line.to_vec();
        words.truncate(usize::from(!self.line[0].starts_with('-')));
        words.push("--help");
        let help = run(&self.command(&words, &[]), LIMIT)
            .await
            .unwrap()
            .ok()
            .unwrap();
        let (mut found, mut is_flag) = (BTreeMap::new(), false);
        for line in help.lines().map(str::trim_start) {
            if line.starts_with("--")
                || line.starts_with('-')
                || line.starts_with('[')
                || line.starts_with('<')
            {
                is_flag = line.starts_with('-') && !line.contains('<');
            }
            for part in line.split("[env: ").skip(1) {
                let name = part.split(['=', ']']).next().unwrap_or_default();
                found.insert(name.to_owned(), is_flag);
            }
        }
        found
    }
}

#[tokio::test]
async fn every_variable_of_every_program() {
    let mut seen = BTreeSet::new();
    for (program, line) in PROGRAMS {
        let directory = tempfile::tempdir().unwrap();
        let bench = Bench {
            program,
            line,
            directory,
        };
        let variables = bench.variables().await;
        assert!(variables.len() > 8, "{program}: {variables:?}");
        // As compose makes them of what is not set.
        let left_alone = [
            "MAYFLY_HAPROXY_DIR",
            "MAYFLY_ENVIRONMENTS",
            "MAYFLY_HOSTS_FILE",
            "MAYFLY_ETCD",
        ];
        let names = variables.keys().map(String::as_str);
        let empty: Vec<_> = names
            .filter(|name| !left_alone.contains(name))
            .map(|name| (name, ""))
            .collect();
        let ended = bench.run(&empty).await;
        assert_eq!(ended.code, Some(1), "{program} with empty variables: {ended:?}");
        for (name, is_flag) in &variables {
            let words = ["1", "true", "YES", "On", "0", "False", "no", "OFF"];
            for word in words.iter().filter(|_| *is_flag) {
                let ended = bench.run(&[(name, word)]).await;
                // Some flags exclude each other; none of them is of another opinion about the words.
                assert_eq!(ended.code, Some(1), "{program} {name}={word}: {ended:?}");
            }
            // Whatever the type of the argument, if it refuses anything it refuses this.
            let ended = bench.run(&[(name, "\u{1}=:/ \u{202e}")]).await;
            assert!(matches!(ended.code, Some(1 | 2)), "{program} {name}: {ended:?}");
            assert!(!is_flag || ended.code == Some(2), "{program} {name}: {ended:?}");
            if ended.code == Some(2) {
                let told = format!("was set by the variable {name}");
                assert!(ended.stderr.contains(&told), "{program} {name}: {}", ended.stderr);
            }
            seen.insert(name.clone());
        }
    }
    assert!(seen.len() > 70, "{seen:?}");
}
