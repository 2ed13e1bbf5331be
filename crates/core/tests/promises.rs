//! What the pages for contributors promise of the tree: which crate may know what, that etcd's keys
//! and values are read in one place, that each test that a page names exists, and that each fixed
//! fault can be brought back.

// A test that cannot read the tree fails.
#![allow(clippy::unwrap_used)]

mod sources;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use sources::{Sources, product, root, sources};

/// The pages that name tests: in paragraphs or points that have `Tests:` in front of the names, or
/// in the last column of tables, which is headed `tests`.
const PAGES: [&str; 3] = [
    "docs/contributing/invariants.md",
    "docs/contributing/track-record.md",
    "docs/security.md",
];

#[test]
fn no_crate_depends_on_what_it_must_not_know() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let unknown = dependencies(&manifest)
            .into_iter()
            .filter(|other| !may_know(&name, other));
        wrong.extend(unknown.map(|other| format!("{name}: {other}")));
    }
    assert_eq!(wrong, [] as [String; 0]);
}

#[test]
fn no_second_place_spells_a_key_or_reads_a_value() {
    assert_eq!(second_places(&sources()), [] as [String; 0]);
}

#[test]
fn each_test_that_a_page_names_exists() {
    let sources = sources();
    let mut missing = Vec::new();
    for page in PAGES {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let names = tests_of(&text);
        assert!(names.len() > 20, "{page} names {} tests only", names.len());
        let unknown = names.into_iter().filter(|name| !exists(&sources, name));
        missing.extend(unknown.map(|name| format!("{page}: {name}")));
    }
    assert_eq!(missing, [] as [String; 0]);
}

#[test]
fn each_fixed_fault_can_be_brought_back() {
    let page = fs::read_to_string(root().join("docs/contributing/testing.md")).unwrap();
    let folder = root().join("crates/simulation/mutants");
    let mut patches = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let refused = refused(&root(), &path);
        assert_eq!(refused, "", "the code has changed since the patch was written");
        assert!(
            page.contains(&format!("| `{name}` |")),
            "testing.md has no row of {name}"
        );
        patches += 1;
    }
    assert!(patches > 10, "{patches} patches only");
}

#[test]
fn each_fault_is_found() {
    let manifest = "[package]\nname = \"x\"\n\n[dependencies]\nclap.workspace = true\n# a = \"1\"\n\
                    tokio = { version = \"1\" }\n\n[dev-dependencies]\nproptest = \"1\"\n";
    assert_eq!(dependencies(manifest), ["clap", "tokio"]);
    for (name, other) in [
        ("core", "tokio"),
        ("core", "etcd-client"),
        ("core", "clap"),
        ("core", "mayfly-daemon"),
        ("mayfly", "etcd-client"),
        ("dns-updater", "haproxy-updater"),
    ] {
        assert!(!may_know(name, other), "{name} {other}");
    }
    let planted = |path: &str, text: &str| vec![(Path::new(path).to_owned(), text.to_owned())];
    for (path, text, found) in [
        ("crates/a/src/b.rs", "let key = format!(\"/mayfly/x\");", 1),
        ("crates/a/src/b.rs", "match Record::decode(&key, value) {", 1),
        (
            "crates/a/src/b.rs",
            "// \"/mayfly/x\"\n#[cfg(test)]\nmod tests {\n    \"/mayfly\"\n}\n",
            0,
        ),
        ("crates/a/src/tests/b.rs", "\"/mayfly/x\"", 0),
        ("crates/core/src/keys.rs", "\"/mayfly\"", 0),
        (
            "crates/daemon/src/watch/change.rs",
            "Record::decode(&key, value)",
            0,
        ),
    ] {
        assert_eq!(second_places(&planted(path, text)).len(), found, "{path}: {text}");
    }
    let page = "Not `this::one`.\n\nTests: `a::b_c`,\n`d`.\n\n- Good. Tests: `e::f`.\n- Not `g`.\n\n\
                | of `h` | tests |\n|---|---|\n| of `i` | `j::k`, `l` |\n\n| of `m` | cost |\n|---|---|\n| `n` | `o` |\n";
    let names = ["a::b_c", "d", "e::f", "j::k", "l"].map(str::to_owned);
    assert_eq!(tests_of(page), BTreeSet::from(names));
    let source = planted("crates/a/src/plan/tests.rs", "    fn nothing_goes() {");
    for (name, there) in [
        ("plan::nothing_goes", true),
        ("nothing_goes", true),
        ("plan::nothing", false),
        ("apply::nothing_goes", false),
    ] {
        assert_eq!(exists(&source, name), there, "{name}");
    }
}

/// What git says against applying a patch to a tree; nothing where it applies. The tree need not be
/// a repository, and one that has the tree in a folder does not count.
fn refused(tree: &Path, patch: &Path) -> String {
    let tree = tree.canonicalize().unwrap();
    let mut git = Command::new("git");
    git.args(["apply", "--check"]).arg(patch).current_dir(&tree);
    let above = tree.parent().unwrap();
    let output = git.env("GIT_CEILING_DIRECTORIES", above).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => String::new(),
        false => said,
    }
}

/// The names in the section `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().map(str::trim);
    let section = lines
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names = section.filter_map(|line| line.split(['.', ' ', '=']).next());
    names.map(str::to_owned).collect()
}

/// Whether the crate in a folder may depend on another one.
fn may_know(folder: &str, other: &str) -> bool {
    const PURE: [&str; 7] = ["tokio", "clap", "notify", "tempfile", "hyper", "axum", "bollard"];
    // Programs. Only the tests of the tool use them, to compare their arguments.
    const DAEMONS: [&str; 6] = [
        "environment-registrar",
        "container-registrar",
        "container-launcher",
        "haproxy-updater",
        "dns-updater",
        "mayfly-web",
    ];
    match other {
        "etcd-client" => folder == "daemon",
        "mayfly-daemon" => folder != "core",
        _ if DAEMONS.contains(&other) => false,
        _ => folder != "core" || !PURE.contains(&other),
    }
}

/// Product code that spells the prefix of the keys, or decodes a record, where only one place may.
fn second_places(sources: &Sources) -> Vec<String> {
    let rules = [
        ("\"/mayfly", &["crates/core/src/keys.rs"][..]),
        (
            "Record::decode(",
            &["crates/core/src/records", "crates/daemon/src/watch"],
        ),
    ];
    let mut found = Vec::new();
    for (path, text) in sources {
        let name = path.to_string_lossy();
        let is_product = name.contains("/src/") && !name.contains("/tests") && !is_harness(&name);
        for (spelt, allowed) in rules {
            let is_allowed = allowed.iter().any(|place| name.starts_with(place));
            if is_product && !is_allowed && product(text).contains(spelt) {
                found.push(format!("{name}: {spelt}"));
            }
        }
    }
    found
}

/// The crates that only test and measure.
fn is_harness(path: &str) -> bool {
    path.starts_with("crates/e2e") || path.starts_with("crates/bench")
}

/// What stands in backquotes behind `Tests:`, or in a column of tests.
fn tests_of(page: &str) -> BTreeSet<String> {
    let page = page.replace("\n- ", "\n\n- ");
    let named = page
        .split("\n\n")
        .flat_map(|part| match part.split_once("Tests:") {
            Some((_, names)) => vec![names],
            None if part.lines().next().is_some_and(|head| head.ends_with(" tests |")) => {
                part.lines().filter_map(last_cell).collect()
            }
            None => Vec::new(),
        });
    let spans = named.flat_map(|names| names.split('`').skip(1).step_by(2));
    spans.map(str::to_owned).collect()
}

/// The last cell of a table's row.
fn last_cell(row: &str) -> Option<&str> {
    row.trim_end().strip_suffix('|')?.rsplit('|').next()
}

/// Whether there is a test of the last part of a name, in a file or folder that has the other parts.
fn exists(sources: &Sources, name: &str) -> bool {
    let (modules, function) = name.rsplit_once("::").unwrap_or(("", name));
    let defined = format!("fn {function}(");
    sources.iter().any(|(path, text)| {
        let path = path.with_extension("");
        let has = |module: &str| path.iter().any(|part| part == module);
        text.contains(&defined) && modules.split("::").all(|module| module.is_empty() || has(module))
    })
}
