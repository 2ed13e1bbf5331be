//! `mayfly import compose` as it is run: what it writes, and that it never writes over anything or
//! leaves half of it.

// Clippy knows of #[test] functions only; what they share is test code too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SHOP: &str = "services:\n  web: {image: 'shop/web:1.4.0', ports: ['80:8080']}\n  \
                    orders: {image: 'shop/orders:2.1.0', expose: ['8080']}\n";

/// A directory with a compose file.
fn directory(compose: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("c.yml"), compose).unwrap();
    directory
}

fn mayfly(directory: &Path, arguments: &[&str]) -> Output {
    let mut mayfly = Command::new(env!("CARGO_BIN_EXE_mayfly"));
    mayfly.args(arguments).current_dir(directory).output().unwrap()
}

fn import(directory: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = mayfly(directory, &[&["import", "compose", "c.yml"], more].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// All files below a directory, with their content.
fn files(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(
                path.clone(),
                String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned(),
            )),
        }
    }
    found
}

#[test]
fn what_is_written_lints_and_a_second_run_changes_nothing() {
    let directory = directory(SHOP);
    let path = directory.path();
    let dry = import(path, &["--dry-run"]);
    assert_eq!(dry.0, Some(0), "{}", dry.1);
    assert_eq!(files(path).len(), 1);
    let (code, text) = import(path, &["--overlay", "over.yml"]);
    assert_eq!(code, Some(0), "{text}");
    let written = files(path);
    let names = [
        "c.yml",
        "environments/prod.yaml",
        "over.yml",
        "services/orders.yaml",
        "services/web.yaml",
    ];
    assert!(
        written.keys().eq(names.map(|name| path.join(name)).iter()),
        "{written:?}"
    );
    let lint = mayfly(path, &["lint", "environments", "--services", "services"]);
    assert!(lint.status.success(), "{lint:?}");
    let (code, text) = import(path, &["--overlay", "over.yml"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("environments/prod.yaml: unchanged"), "{text}");
    assert_eq!(files(path), written);
}

#[test]
fn nothing_is_overwritten_and_nothing_is_half_written() {
    for (foreign, content, arguments, reason) in [
        (
            "services/web.yaml",
            "name: web\n",
            &[][..],
            "services/web.yaml exists already, and line 2 is not",
        ),
        (
            "environments/prod.yaml",
            "# mine\n",
            &[][..],
            "environments/prod.yaml exists already, and line 1 is not",
        ),
        (
            "environments/other.yaml",
            "{name: other, prefix: www}\n",
            &[][..],
            "environments/prod.yaml would have a fault",
        ),
        (
            "services/all.yaml",
            "{name: web, image: 'a:{{ version }}', port: 80}\n",
            &[][..],
            "services/web.yaml would have a fault",
        ),
        ("services", "a file\n", &[][..], "cannot"),
        ("environments", "a file\n", &[][..], "cannot"),
        (
            "mine.yml",
            "mine\n",
            &["--overlay", "mine.yml"][..],
            "mine.yml exists already",
        ),
        (
            "x",
            "",
            &["--environment", "environments/Prod.yaml"][..],
            "the file name without `.yaml` must be the name of an environment",
        ),
        (
            "x",
            "",
            &["--environment", "environments/prod"][..],
            "the file name must end in .yaml or .yml",
        ),
        (
            "x",
            "",
            &["--env-file", "no.env"][..],
            "no.env:1:1: there is no such file",
        ),
    ] {
        let directory = directory(SHOP);
        let path = directory.path();
        let foreign = path.join(foreign);
        fs::create_dir_all(foreign.parent().unwrap()).unwrap();
        fs::write(&foreign, content).unwrap();
        let before = files(path);
        let (code, text) = import(path, arguments);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(reason), "{reason:?} is not in:\n{text}");
        assert_eq!(files(path), before, "{text}");
        let made: Vec<_> = ["services", "environments"]
            .iter()
            .filter(|name| path.join(name).exists())
            .collect();
        let there: Vec<_> = ["services", "environments"]
            .iter()
            .filter(|name| foreign.starts_with(path.join(name)))
            .collect();
        assert_eq!(made, there, "{text}");
    }
}

#[test]
fn what_has_secrets_of_a_file_is_for_one_user() {
    let directory = directory("services: {web: {image: 'w:1', ports: ['80'], env_file: web.env}}\n");
    let path = directory.path();
    fs::write(path.join("web.env"), "KEY=s3cret\n").unwrap();
    let (_, dry) = import(path, &["--dry-run"]);
    let (code, text) = import(path, &[]);
    assert_eq!(code, Some(0), "{text}");
    let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        [mode("services/web.yaml"), mode("environments/prod.yaml")],
        [0o600, 0o644]
    );
    fs::write(path.join("web.env"), "KEY=s3cret2\n").unwrap();
    let (code, again) = import(path, &[]);
    assert_eq!(code, Some(1), "{again}");
    let line = "not for Git, because of values of an env_file, of .env or of the shell: services/web.yaml; name these \
                files in .gitignore\n";
    assert!(text.contains(line), "{text}");
    for text in [dry, text, again] {
        assert!(text.contains("KEY of web") && !text.contains("s3cret"), "{text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = directory(SHOP);
    let path = directory.path();
    fs::write(path.join("latin.yml"), b"services: {\xe4: 1}").unwrap();
    fs::write(path.join("huge.yml"), " ".repeat(2 << 20)).unwrap();
    for (file, reason) in [
        ("no.yml", "no.yml:1:1: there is no such file"),
        (".", ".:1:1: this is a directory"),
        ("latin.yml", "latin.yml:1:1: the file is not UTF-8"),
        ("huge.yml", "huge.yml:1:1: the file has"),
    ] {
        let output = mayfly(path, &["import", "compose", file]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!output.status.success() && text.starts_with(reason), "{text}");
    }
    assert_eq!(files(path).len(), 3);
}

#[test]
fn an_import_labels_services_with_a_key_prefix_only_if_one_was_given() {
    let compose = "services: {web: {image: acme/web, ports: ['80:8080']}}\n";
    for (variable, flag, expected) in [
        (None, None, None),
        (Some(""), None, None),
        (Some("/other"), None, Some("/other")),
        (Some("/other"), Some("/shop"), Some("/shop")),
    ] {
        let directory = directory(compose);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mayfly"));
        command.args(["import", "compose", "c.yml", "--overlay", "so.yml"]);
        command.args(flag.into_iter().flat_map(|prefix| ["--prefix", prefix]));
        match variable {
            Some(prefix) => command.env("MAYFLY_PREFIX", prefix),
            None => command.env_remove("MAYFLY_PREFIX"),
        };
        let output = command.current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let overlay = fs::read_to_string(directory.path().join("so.yml")).unwrap();
        let label = overlay
            .lines()
            .find_map(|line| line.trim().strip_prefix("mayfly.prefix: "));
        assert_eq!(label, expected, "{variable:?} {flag:?}: {overlay}");
    }
}

#[test]
fn the_command_that_is_next_works_with_blanks_in_paths() {
    let directory = directory(SHOP);
    let path = directory.path();
    let (code, text) = import(
        path,
        &["--services", "my services", "--environment", "it's/prod.yaml"],
    );
    assert_eq!(code, Some(0), "{text}");
    let next = text.lines().find_map(|line| line.strip_prefix("next: ")).unwrap();
    // The shell's own `mayfly` is the program.
    let script = format!("mayfly() {{ \"$PROGRAM\" \"$@\"; }}; {next}");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &script])
        .env("PROGRAM", env!("CARGO_BIN_EXE_mayfly"));
    let output = shell.current_dir(path).output().unwrap();
    assert!(output.status.success(), "{next}: {output:?}");
}
