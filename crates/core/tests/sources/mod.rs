//! The source files of the workspace, for tests that read the tree.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the workspace and its text.
pub type Sources = Vec<(PathBuf, String)>;

/// The directory of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every source file of the crates and the demo, by its path in the workspace.
pub fn sources() -> Sources {
    let root = root();
    let mut all = Sources::new();
    let mut folders = vec![root.join("crates"), root.join("demo")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                all.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(all.len() > 100, "too few to be the workspace: {}", all.len());
    all.sort();
    all
}

/// The text without comments that fill lines, and without items that only tests have.
pub fn product(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let indent = &line[..line.len() - line.trim_start().len()];
        if line.trim() == "#[cfg(test)]" {
            let item = lines.find(|line| !line.trim_start().starts_with("#["));
            if item.is_some_and(|item| !item.ends_with([';', '}'])) {
                lines.find(|line| {
                    line.strip_prefix(indent)
                        .is_some_and(|rest| rest.starts_with('}'))
                });
            }
        } else if !line.trim_start().starts_with("//") {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}
