//! The documents hold together: README.md and the other pages at the root, and docs/.
//!
//! Lines end at 100 columns, links and anchors lead somewhere, YAML is what `mayfly lint` accepts, shellcheck finds nothing
//! in shell blocks, no word stands there that the glossary rules out, and every page is in docs/SUMMARY.md. That the shell
//! blocks run is for crates/e2e, that the reference of the command line is true for `reference.rs`.

// Clippy knows of #[test] functions only; what they share is test code too.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use mayfly_e2e::documents::{Block, Page, pages};
use serde::Deserialize as _;

/// The most columns of a line.
const MOST_COLUMNS: usize = 100;
/// What a block may be; shell that is to be run and checked is `sh`.
const LANGUAGES: [&str; 20] = [
    "sh",
    "text",
    "yaml",
    "json",
    "mermaid",
    "ini",
    "toml",
    "rust",
    "haproxy",
    "http",
    "html",
    "diff",
    "python",
    "javascript",
    "java",
    "go",
    "csharp",
    "php",
    "ruby",
    "nginx",
];
/// The section of the glossary with the words that are not used, in code spans in a table's first column.
const GLOSSARY: &str = "docs/concepts/glossary.md";
const NOT_USED: &str = "## Words that are not used";
const SUMMARY: &str = "docs/SUMMARY.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn lines_end_at_100_columns() {
    none(each_page(too_wide));
}

#[test]
fn blocks_are_of_a_known_kind() {
    none(each_page(odd_blocks));
}

#[test]
fn links_and_anchors_lead_somewhere() {
    let all = pages(&root()).unwrap();
    none(bad_links(&root(), &all));
}

#[test]
fn yaml_blocks_are_accepted() {
    none(each_page(bad_yaml));
}

#[test]
fn shellcheck_finds_nothing_in_shell_blocks() {
    none(each_page(bad_shell));
}

#[test]
fn words_that_the_glossary_rules_out_are_not_used() {
    let glossary = Page::read(&root(), Path::new(GLOSSARY)).unwrap();
    let words = words_not_used(&glossary);
    assert!(
        words.len() > 5,
        "{GLOSSARY} has too few below `{NOT_USED}`: {words:?}"
    );
    none(each_page(|page| bad_words(page, &words)));
}

#[test]
fn every_page_is_in_the_summary_once() {
    let all = pages(&root()).unwrap();
    none(not_in_summary(&all));
}

#[test]
fn no_block_deletes_the_volumes_of_an_application() {
    none(each_page(foreign_volumes));
}

/// What was found is shown one on a line.
#[track_caller]
fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn each_page(check: impl Fn(&Page) -> Vec<String>) -> Vec<String> {
    let all = pages(&root()).unwrap();
    assert!(all.len() > 20, "too few to be the documents: {}", all.len());
    all.iter().flat_map(check).collect()
}

fn at(page: &Page, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", page.path.display())
}

fn too_wide(page: &Page) -> Vec<String> {
    let columns = |text: &str| {
        // What cannot be broken does not count.
        let words = text.split(' ').filter(|word| !word.contains("://"));
        words
            .map(|word| word.chars().count() + 1)
            .sum::<usize>()
            .saturating_sub(1)
    };
    let wide = page
        .outside_blocks()
        .filter(|(_, text)| !text.trim_start().starts_with('|') && columns(text) > MOST_COLUMNS);
    wide.map(|(line, text)| at(page, line, &format!("{} columns", text.chars().count())))
        .collect()
}

fn odd_blocks(page: &Page) -> Vec<String> {
    let fault = |block: &Block| {
        Some(match block {
            Block { is_closed: false, .. } => "the block has no end".to_owned(),
            Block {
                not_run: Some(reason),
                ..
            } if reason.is_empty() => "why is it not run?".to_owned(),
            Block { language, .. } if !LANGUAGES.contains(&language.as_str()) => {
                format!(
                    "a block of {language:?}, which is none of {}",
                    LANGUAGES.join(", ")
                )
            }
            _ => return None,
        })
    };
    let faults = page
        .blocks
        .iter()
        .filter_map(|block| Some(at(page, block.line, &fault(block)?)));
    faults.collect()
}

fn bad_links(root: &Path, all: &[Page]) -> Vec<String> {
    let anchors: BTreeMap<&Path, Vec<String>> = all
        .iter()
        .map(|page| (page.path.as_path(), page.anchors()))
        .collect();
    let fault = |page: &Page, target: &str| {
        if target.contains("://") || target.starts_with("mailto:") {
            return None;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let path = match file {
            "" => page.path.clone(),
            file => resolved(page.path.parent()?, file),
        };
        if path.starts_with("..") || !root.join(&path).exists() {
            return Some(format!("there is no {target}"));
        }
        // A browser scrolls to lines of a file by such an anchor, and to nothing else.
        let known = anchors.get(path.as_path());
        let is_there = anchor.is_empty() || known.is_some_and(|known| known.iter().any(|it| it == anchor));
        (!is_there).then(|| format!("{} has no heading for #{anchor}", path.display()))
    };
    let links = all
        .iter()
        .flat_map(|page| page.links().into_iter().map(move |link| (page, link)));
    links
        .filter_map(|(page, link)| Some(at(page, link.line, &fault(page, &link.target)?)))
        .collect()
}

/// A path below the root, without `.` and `..` where that is possible.
fn resolved(folder: &Path, file: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in folder.join(file).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if path.file_name().is_some() => drop(path.pop()),
            part => path.push(part),
        }
    }
    path
}

fn bad_yaml(page: &Page) -> Vec<String> {
    let blocks = page.blocks.iter().filter(|block| block.language == "yaml");
    let faults = blocks.filter_map(|block| {
        let fault = parsed(&block.text()).and_then(|()| linted(block)).err()?;
        Some(at(page, block.line, &fault))
    });
    faults.collect()
}

fn parsed(text: &str) -> Result<(), String> {
    for document in serde_yaml::Deserializer::from_str(text) {
        serde_yaml::Value::deserialize(document).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// What `mayfly lint` says of a block that begins with the path of an environment file or a service definition.
fn linted(block: &Block) -> Result<(), String> {
    let path = block
        .lines
        .first()
        .and_then(|line| line.strip_prefix("# "))
        .unwrap_or_default();
    let kind = match path.split_once('/') {
        Some(("environments", _)) => &[][..],
        Some(("services", _)) => &["--services"],
        _ => return Ok(()),
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory
        .path()
        .join(Path::new(path).file_name().ok_or("it names no file")?);
    fs::write(&file, block.text()).unwrap();
    let mut lint = Command::new(env!("CARGO_BIN_EXE_mayfly"));
    let done = lint.arg("lint").args(kind).arg(&file).output().unwrap();
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&[done.stdout, done.stderr].concat())
            .trim()
            .to_owned()),
    }
}

/// All shell blocks of a page as one script, each on the lines that it has in the page.
fn bad_shell(page: &Page) -> Vec<String> {
    let mut lines = vec![String::new(); page.lines.len()];
    let blocks = page.blocks.iter().filter(|block| block.language == "sh");
    for (line, text) in blocks.flat_map(|block| (block.line..).zip(&block.lines)) {
        lines[line].clone_from(text);
    }
    if lines.iter().all(String::is_empty) {
        return Vec::new();
    }
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("page.sh");
    fs::write(&script, lines.join("\n") + "\n").unwrap();
    // The blocks are run with `set -e`, so `cd` need not be checked; what they read is not there; and a variable that is
    // set for a command alone may be called as a command is.
    let mut shellcheck = Command::new("shellcheck");
    shellcheck.args([
        "--shell=bash",
        "--norc",
        "--exclude=SC2164,SC1090,SC1091,SC2209",
        "--format=gcc",
    ]);
    let done = shellcheck
        .arg(&script)
        .output()
        .expect("run shellcheck: install the package shellcheck, as scripts/test.sh does");
    let found = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    let name = format!("{}:", script.display());
    let faults = found.lines().map(|line| match line.strip_prefix(&name) {
        Some(fault) => format!("{}:{fault}", page.path.display()),
        None => line.to_owned(),
    });
    faults.collect()
}

/// Commands that delete the volumes of a project which they name by its files: that of somebody's application.
fn foreign_volumes(page: &Page) -> Vec<String> {
    let blocks = page.blocks.iter().filter(|block| block.language == "sh");
    let lines = blocks.flat_map(|block| (block.line + 1..).zip(&block.lines));
    let deletes = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let has = |names: [&str; 2]| words.iter().any(|word| names.contains(word));
        words.contains(&"down") && has(["--volumes", "-v"]) && has(["--file", "-f"])
    };
    let found = lines.filter(|(_, text)| deletes(text));
    found
        .map(|(line, _)| at(page, line, "it deletes the volumes of an application"))
        .collect()
}

/// The words that a glossary rules out, each as its parts.
fn words_not_used(glossary: &Page) -> BTreeSet<Vec<String>> {
    let section = glossary
        .lines
        .iter()
        .skip_while(|line| line.as_str() != NOT_USED)
        .skip(1);
    let rows = section
        .take_while(|line| !line.starts_with('#'))
        .filter(|line| line.starts_with('|'));
    let first = rows.filter_map(|row| row.split('|').nth(1));
    first
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(parts))
        .collect()
}

fn parts(text: &str) -> Vec<String> {
    text.split_whitespace().map(bare).collect()
}

/// A word as it is compared: in lower case and without what stands around it.
fn bare(word: &str) -> String {
    word.trim_matches(|letter: char| !letter.is_alphanumeric())
        .to_lowercase()
}

fn bad_words(page: &Page, not_used: &BTreeSet<Vec<String>>) -> Vec<String> {
    let prose = page.prose();
    // An empty line parts: no phrase goes over it.
    let words: Vec<(usize, String)> = prose
        .iter()
        .flat_map(|(line, text)| {
            let words = text.split_whitespace().map(|word| (*line, bare(word)));
            let end = text.trim().is_empty().then(|| (*line, String::new()));
            words.chain(end).collect::<Vec<_>>()
        })
        .collect();
    let mut faults = Vec::new();
    for phrase in not_used {
        let found = words
            .windows(phrase.len())
            .filter(|window| window.iter().map(|(_, word)| word).eq(phrase));
        faults.extend(found.map(|window| {
            at(
                page,
                window[0].0,
                &format!("`{}`: see {GLOSSARY}", phrase.join(" ")),
            )
        }));
    }
    faults
}

fn not_in_summary(all: &[Page]) -> Vec<String> {
    let Some(summary) = all.iter().find(|page| page.path == Path::new(SUMMARY)) else {
        return vec![format!("there is no {SUMMARY}")];
    };
    let listed: Vec<PathBuf> = summary
        .links()
        .iter()
        .map(|link| resolved(Path::new("docs"), &link.target))
        .collect();
    let pages = all
        .iter()
        .filter(|page| page.path.starts_with("docs") && page.path != summary.path);
    let faults = pages.filter_map(|page| {
        let times = listed.iter().filter(|path| **path == page.path).count();
        (times != 1).then(|| format!("{}: it is in {SUMMARY} {times} times", page.path.display()))
    });
    faults.collect()
}

mod each_fault_is_found {
    use super::*;

    fn page(text: &str) -> Page {
        Page::parse(Path::new("docs/x.md"), text)
    }

    #[test]
    fn of_width() {
        let (fits, wide) = ("a".repeat(100), "a".repeat(101));
        assert_eq!(too_wide(&page(&fits)), [""; 0]);
        assert_eq!(
            too_wide(&page(&format!("x\n{wide}"))),
            ["docs/x.md:2: 101 columns"]
        );
        for allowed in [
            format!("| {wide} |"),
            format!("```text\n{wide}\n```"),
            format!("see https://{wide}"),
        ] {
            assert_eq!(too_wide(&page(&allowed)), [""; 0], "{allowed}");
        }
        assert_eq!(too_wide(&page(&format!("{wide} http://a"))).len(), 1);
    }

    #[test]
    fn of_blocks() {
        let found = odd_blocks(&page(
            "```sh\n```\n<!-- not run: -->\n```sh\n```\n```bash\n```\n```\n```\n```sh\n",
        ));
        let lines: Vec<&str> = found
            .iter()
            .filter_map(|fault| fault.split(": ").next())
            .collect();
        assert_eq!(
            lines,
            ["docs/x.md:4", "docs/x.md:6", "docs/x.md:8", "docs/x.md:10"],
            "{found:?}"
        );
    }

    #[test]
    fn of_links() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("docs/a")).unwrap();
        for file in ["docs/x.md", "docs/a/y.md", "LICENSE"] {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let texts = [
            (
                "docs/x.md",
                "# One two\n[good](a/y.md#three) [good](#one-two) [good](../LICENSE) [good](https://a/b#c) [good](a)\n\
                 [gone](a/z.md)\n[anchor](a/y.md#four)\n[own](#two)\n[out](../../x.md)\n",
            ),
            ("docs/a/y.md", "# Three\n[good](../x.md) [gone](x.md)\n"),
        ];
        let pages: Vec<Page> = texts
            .iter()
            .map(|(path, text)| Page::parse(Path::new(path), text))
            .collect();
        let expected = [
            "docs/x.md:3: there is no a/z.md",
            "docs/x.md:4: docs/a/y.md has no heading for #four",
            "docs/x.md:5: docs/x.md has no heading for #two",
            "docs/x.md:6: there is no ../../x.md",
            "docs/a/y.md:2: there is no x.md",
        ];
        assert_eq!(bad_links(directory.path(), &pages), expected);
    }

    #[test]
    fn of_volumes() {
        let text = "```sh\ncompose --file app.yml down --volumes\ncompose down --volumes\ncompose -f a.yml down\n```";
        let expected = ["docs/x.md:2: it deletes the volumes of an application"];
        assert_eq!(foreign_volumes(&page(text)), expected);
    }

    #[test]
    fn of_yaml() {
        let good = "# environments/dev.yaml\nname: dev\n---\nname: qa\nextends: prod";
        let definition = "# services/a.yaml\nname: a\nimage: \"example/a:{{ version }}\"\nport: 80";
        for text in [
            good,
            definition,
            "a: [1]\n---\nb",
            "# docker-compose.yml\nservices: {}",
        ] {
            assert_eq!(
                bad_yaml(&page(&format!("```yaml\n{text}\n```"))),
                [""; 0],
                "{text}"
            );
        }
        for (text, part) in [
            (
                "# environments/dev.yaml\nname: dev\nservcies: []",
                "dev.yaml:3:1: servcies",
            ),
            (
                "# services/a.yaml\nname: a\nimage: a/a\nport: 80\nchekc: /",
                "a.yaml:5:1: chekc",
            ),
            ("a: [", "docs/x.md:1: "),
        ] {
            let found = bad_yaml(&page(&format!("```yaml\n{text}\n```")));
            assert!(found.len() == 1 && found[0].contains(part), "{part} in {found:?}");
        }
    }

    #[test]
    fn of_shell() {
        let good = "# x\n```sh\nname=a\ncd /tmp\n```\ntext\n```sh\necho \"$name\"\n```\n```text\nif\n```\n";
        assert_eq!(bad_shell(&page(good)), [""; 0]);
        let found = bad_shell(&page("# x\n\n```sh\nname=$1\necho $name\n```\n"));
        assert!(
            found.len() == 1 && found[0].starts_with("docs/x.md:5:6: note: Double quote"),
            "{found:?}"
        );
        assert!(!bad_shell(&page("# x\n```sh\nif true\n```\n")).is_empty());
    }

    #[test]
    fn of_words() {
        let glossary = "## Other\n| `b` |\n## Words that are not used\n\n| not | but |\n|---|---|\n| `octet`, `octets` | byte |\n\
                        | `in step` | `in sync` |\n\n## More\n| `a` |\n";
        let words = words_not_used(&page(glossary));
        assert_eq!(words.len(), 3, "{words:?}");
        let text = "`octets` are not *Octets*, nor are\nthey \"in\nstep\".\n\nin\n\nstep `in step` instep\n```text\nin step\n```\n";
        let expected = ["docs/x.md:2: `in step`: see ", "docs/x.md:1: `octets`: see "]
            .map(|start| format!("{start}{GLOSSARY}"));
        assert_eq!(bad_words(&page(text), &words), expected);
    }

    #[test]
    fn of_the_summary() {
        let of = |path: &str, text: &str| Page::parse(Path::new(path), text);
        let all = [
            of(
                "docs/SUMMARY.md",
                "- [A](a.md)\n- [B](c/b.md)\n- [B](c/../c/b.md)\n- [R](../README.md)\n",
            ),
            of("docs/a.md", ""),
            of("docs/c/b.md", ""),
            of("docs/c/d.md", ""),
            of("README.md", ""),
        ];
        let expected = [
            "docs/c/b.md: it is in docs/SUMMARY.md 2 times",
            "docs/c/d.md: it is in docs/SUMMARY.md 0 times",
        ];
        assert_eq!(not_in_summary(&all), expected);
        assert_eq!(not_in_summary(&all[1..]).len(), 1);
    }
}
