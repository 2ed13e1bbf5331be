//! `mayfly init --compose` as it is run: what it writes for Git and for the registrar, and what its messages name. Also
//! the program `./mayfly` of a project.

// Clippy knows of #[test] functions only; what they share is test code too.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

/// One has values of an `env_file`, one those of `.env`, one neither; and one stays.
const SHOP: &str = "
services:
  web: {image: 'shop/web:1.4.0', ports: ['80:8080'], env_file: web.env}
  orders: {image: 'shop/orders:2.1.0', expose: ['8080'], environment: {DB: '${DB}'}}
  catalog: {image: 'shop/catalog:3.0.1', expose: ['8080']}
  files: {image: 'shop/files:1.0.0', expose: ['8080'], env_file: web.env, volumes: ['data:/data']}
";

fn directory(compose: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("c.yml", compose);
    write("web.env", "KEY=s3cret\nORDERS_URL=http://orders:8080\n");
    write(".env", "DB=postgres://shop:pass@db/x\n");
    directory
}

/// What a command prints, and whether it succeeds.
fn run(directory: &Path, program: &str, arguments: &str) -> (bool, String) {
    let mut command = Command::new(program);
    command
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .env("HOME", directory)
        .env_remove("MAYFLY_IMAGES")
        .env_remove("DB");
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[track_caller]
fn mayfly(directory: &Path, arguments: &str) -> String {
    let (is_success, text) = run(directory, env!("CARGO_BIN_EXE_mayfly"), arguments);
    assert!(is_success, "{arguments}: {text}");
    text
}

#[track_caller]
fn git(directory: &Path, arguments: &str) -> String {
    let (is_success, text) = run(directory, "git", arguments);
    assert!(is_success, "{arguments}: {text}");
    text
}

const INIT: &str = "init m --yes --skip-checks --compose c.yml";
/// What an import into the project m needs to know.
const INTO: &str = "--environment m/new/environments/prod.yaml --overlay m/new/overlay.yml \
                    --network mayfly_mayfly --prefix /mayfly";

#[test]
fn values_of_the_environment_do_not_get_into_git() {
    let directory = directory(SHOP);
    let path = directory.path();
    let text = mayfly(path, INIT);
    let line = "not for Git, because of values of an env_file, of .env or of the shell: services/web.yaml, \
                services/orders.yaml, overlay.yml; .gitignore names these files\n";
    assert!(text.contains(line), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    let added = || {
        let m = path.join("m");
        git(&m, "init --quiet");
        git(&m, "add --all");
        git(&m, "ls-files")
    };
    let files = added();
    // What has no such value may be in Git.
    for name in ["services/catalog.yaml", "environments/prod.yaml", ".gitignore"] {
        assert!(files.contains(name), "{name}: {files}");
    }
    for name in ["services/web.yaml", "services/orders.yaml", "overlay.yml"] {
        assert!(!files.contains(name), "{name}: {files}");
    }
    // The names are no difference to what this version writes, and stay.
    let ignored = fs::read_to_string(path.join("m/.gitignore")).unwrap();
    let text = mayfly(path, "init m");
    assert!(!text.contains(".gitignore"), "{text}");
    assert_eq!(fs::read_to_string(path.join("m/.gitignore")).unwrap(), ignored);
}

#[test]
fn the_registrar_can_read_what_is_imported_later() {
    let directory = directory(SHOP);
    let path = directory.path();
    mayfly(path, INIT);
    fs::write(path.join("web.env"), "KEY=t0ken\nORDERS_URL=http://orders:8080\n").unwrap();
    fs::write(
        path.join("c.yml"),
        SHOP.to_owned() + "  mail: {image: 'shop/mail:1', expose: ['80'], env_file: web.env}\n",
    )
    .unwrap();
    let text = mayfly(
        path,
        &format!("import compose c.yml --services m/new/services {INTO}"),
    );
    assert!(!text.contains("let the group of environment-registrar"), "{text}");
    let of = |name: &str| fs::metadata(path.join("m").join(name)).unwrap();
    let before = of("services/web.yaml");
    for name in ["web", "mail"] {
        let new = of(&format!("new/services/{name}.yaml"));
        assert_eq!(
            (new.permissions().mode() & 0o777, new.uid(), new.gid()),
            (0o640, before.uid(), before.gid()),
            "{name}"
        );
    }
    assert_eq!(
        of("new/services/catalog.yaml").permissions().mode() & 0o777,
        0o644
    );
    // Neither there nor once it is in use.
    let ignored = fs::read_to_string(path.join("m/.gitignore")).unwrap();
    for name in [
        "/new/services/mail.yaml",
        "/services/mail.yaml",
        "/new/overlay.yml",
    ] {
        assert!(ignored.lines().any(|line| line == name), "{name}: {ignored}");
    }
    // A second import adds no second line.
    mayfly(
        path,
        &format!("import compose c.yml --services m/new/services {INTO}"),
    );
    assert_eq!(fs::read_to_string(path.join("m/.gitignore")).unwrap(), ignored);
}

#[test]
fn what_the_messages_of_init_name_works_with_init() {
    let tools = "  tool: {image: 'shop/tool:1', expose: ['80'], profiles: [ops]}\n";
    let texts = "    volumes: ['./texts:/texts:ro']\n";
    let compose = format!(
        "services:\n  web:\n    image: shop/web:1\n    ports: ['80:8080']\n{texts}  api: {{image: 'shop/api:1', ports: ['81:80']}}\n{tools}"
    );
    let directory = directory(&compose);
    let path = directory.path();
    fs::rename(path.join("c.yml"), path.join("docker-compose.yml")).unwrap();
    let over = "services: {web: {environment: {MODE: fast}}}\n";
    fs::write(path.join("docker-compose.override.yml"), over).unwrap();
    let text = mayfly(path, "init one --yes --skip-checks --compose docker-compose.yml");
    for part in [
        "to import it, too, name it after this file (`mayfly init`: with a second --compose)",
        "in the profile `ops`: to import it, name the profile with --profile",
        "to choose another one, give --route SERVICE=PATH",
        "MAYFLY_VOLUME_ROOT in .env allows `",
        "as a second compose file (overlay.yml)",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        !text.contains("--volume-root") && !text.contains("--overlay"),
        "{text}"
    );
    let text = mayfly(
        path,
        "init two --yes --skip-checks --compose docker-compose.yml --compose docker-compose.override.yml \
         --profile ops --route api=/",
    );
    assert!(
        !text.contains("not imported") && !text.contains("second --compose"),
        "{text}"
    );
    let part = "-f docker-compose.yml -f docker-compose.override.yml -f ";
    assert!(text.contains(part), "{text}");
    let web = fs::read_to_string(path.join("two/services/web.yaml")).unwrap();
    assert!(web.contains("MODE: fast"), "{web}");
    assert!(path.join("two/services/tool.yaml").exists());
    let prod = fs::read_to_string(path.join("two/environments/prod.yaml")).unwrap();
    assert!(
        prod.contains("- name: api\n  version: '1'\n  route: /\n"),
        "{prod}"
    );
    // The command that a second init prints works, too.
    let again = "init two --compose docker-compose.yml --compose docker-compose.override.yml --profile ops --route api=/";
    let (is_success, text) = run(path, env!("CARGO_BIN_EXE_mayfly"), again);
    assert!(!is_success, "{text}");
    let (_, command) = text.split_once("run: mayfly ").unwrap();
    let (import, diff) = command.split_once("; then compare: ").unwrap();
    mayfly(path, import.trim());
    assert!(path.join("two/new/services/tool.yaml").exists());
    assert!(diff.trim().starts_with("diff -r "), "{diff}");
    let same = Command::new("sh")
        .args(["-c", diff.trim()])
        .current_dir(path)
        .output()
        .unwrap();
    assert!(same.status.success(), "{same:?}");
}

#[test]
fn the_program_of_a_project_says_which_files_it_does_not_see() {
    let directory = directory(SHOP);
    let path = directory.path();
    mayfly(path, INIT);
    let bin = path.join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("docker"), "#!/bin/sh\nexit 0\n").unwrap();
    fs::set_permissions(bin.join("docker"), fs::Permissions::from_mode(0o755)).unwrap();
    let clone = path.join("clone");
    fs::create_dir(&clone).unwrap();
    let search = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let lint = |arguments: &[&str]| {
        let mut program = Command::new(path.join("m/mayfly"));
        program.args(arguments).current_dir(&clone).env("PATH", &search);
        let output = program.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let text = lint(&["lint", ".", "--services", "../m/services"]);
    assert!(
        text.starts_with("mayfly: ../m/services is not below ")
            && text.contains("call ./mayfly in a directory above both"),
        "{text}"
    );
    assert_eq!(lint(&["lint", ".", "--services", "../none"]), "");
    assert_eq!(lint(&["explain", "http://www.example.com/"]), "");
    let inside = clone.join("x.yaml").display().to_string();
    fs::write(&inside, "").unwrap();
    assert_eq!(lint(&["lint", &inside]), "");
}

#[test]
fn the_account_of_the_images_comes_from_the_variable_that_the_project_has() {
    let directory = directory(SHOP);
    let status = Command::new(env!("CARGO_BIN_EXE_mayfly"))
        .args(INIT.split_whitespace())
        .current_dir(directory.path())
        .env("MAYFLY_IMAGES", "registry:5000/team")
        .output()
        .unwrap()
        .status;
    assert!(status.success());
    let settings = fs::read_to_string(directory.path().join("m/.env")).unwrap();
    assert!(
        settings
            .lines()
            .any(|line| line == "MAYFLY_IMAGES=registry:5000/team"),
        "{settings}"
    );
}
