//! The project's documents as tests read them: a page's headings, links, prose and code blocks, each with its line.
//!
//! Of Markdown this knows what the documents use: fenced blocks, ATX headings, inline links, link definitions, code
//! spans, tables and comments. [`runner`] runs the shell blocks of a page.

pub mod runner;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What says, on the line before a block, that it is not run, and why.
const NOT_RUN: &str = "<!-- not run:";

/// A Markdown file.
#[derive(Debug, Clone)]
pub struct Page {
    /// Below the root of the tree.
    pub path: PathBuf,
    /// Its lines as they are.
    pub lines: Vec<String>,
    /// Its fenced blocks.
    pub blocks: Vec<Block>,
}

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The line of its opening fence, from 1.
    pub line: usize,
    /// The first word after the fence.
    pub language: String,
    /// What is between the fences, without the indentation of the fence.
    pub lines: Vec<String>,
    /// Why it is not run, if the page says so; empty where it gives no reason.
    pub not_run: Option<String>,
    /// Whether its closing fence is there.
    pub is_closed: bool,
}

/// A link of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its line, from 1.
    pub line: usize,
    /// Where it leads.
    pub target: String,
}

/// Every page of the tree: the Markdown files at its root and below docs/, by path.
///
/// # Errors
/// When one cannot be read.
pub fn pages(root: &Path) -> Result<Vec<Page>> {
    let mut paths = Vec::new();
    let mut folders = vec![PathBuf::from("docs")];
    for name in names(root)? {
        if name.extension().is_some_and(|extension| extension == "md") {
            paths.push(name);
        }
    }
    while let Some(folder) = folders.pop() {
        for name in names(&root.join(&folder))? {
            let path = folder.join(name);
            if root.join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| Page::read(root, path)).collect()
}

fn names(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.file_name().into())).collect()
}

impl Page {
    /// Reads a file, which is at `path` below `root`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(root: &Path, path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(root.join(path)).with_context(|| format!("read {}", path.display()))?;
        Ok(Self::parse(path, &text))
    }

    /// A page of this text.
    pub fn parse(path: &Path, text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let blocks = blocks(&lines);
        Self {
            path: path.to_owned(),
            lines,
            blocks,
        }
    }

    /// The lines outside of blocks with their numbers, as they are.
    pub fn outside_blocks(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_outside = |line: usize| !self.blocks.iter().any(|block| block.covers(line));
        let numbered = (1..).zip(self.lines.iter().map(String::as_str));
        numbered.filter(move |(line, _)| is_outside(*line))
    }

    /// The same without what is in code spans and comments: blanks are in their place.
    pub fn prose(&self) -> Vec<(usize, String)> {
        let mut prose: Vec<(usize, String)> = Vec::new();
        let mut last = 0;
        for (line, text) in self.outside_blocks() {
            // A block parts two paragraphs as an empty line does.
            if line != last + 1 {
                prose.push((last + 1, String::new()));
            }
            prose.push((line, text.to_owned()));
            last = line;
        }
        let mut start = 0;
        while start < prose.len() {
            let end = prose[start..]
                .iter()
                .position(|(_, text)| text.trim().is_empty())
                .map_or(prose.len(), |at| start + at);
            blank(&mut prose[start..end]);
            start = end + 1;
        }
        prose
    }

    /// What a link can name after `#`: the headings as GitHub and mdBook write them, and `id`s.
    pub fn anchors(&self) -> Vec<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut anchors = Vec::new();
        for (_, line) in self.outside_blocks() {
            if let Some(heading) = heading(line) {
                let anchor = anchor(heading);
                let count = seen.entry(anchor.clone()).or_default();
                anchors.push(match *count {
                    0 => anchor,
                    count => format!("{anchor}-{count}"),
                });
                *count += 1;
            }
            anchors.extend(attributes(line, "id"));
        }
        anchors
    }

    /// Its title: the first heading.
    pub fn title(&self) -> Option<&str> {
        self.outside_blocks().find_map(|(_, line)| heading(line))
    }

    /// Its links, images included.
    pub fn links(&self) -> Vec<Link> {
        let mut links = Vec::new();
        for (line, text) in self.prose() {
            let mut targets: Vec<String> = text.split("](").skip(1).filter_map(target).collect();
            targets.extend(definition(&text));
            targets.extend(attributes(&text, "href"));
            targets.extend(attributes(&text, "src"));
            links.extend(targets.into_iter().map(|target| Link { line, target }));
        }
        links
    }

    /// The shell blocks, which are run in their order, each with the output that the page shows of it.
    pub fn runs(&self) -> impl Iterator<Item = (&Block, Option<&Block>)> {
        let shell = self.blocks.iter().enumerate().filter(|(_, block)| block.is_run());
        shell.map(|(at, block)| {
            (
                block,
                self.blocks.get(at + 1).filter(|next| self.is_output(block, next)),
            )
        })
    }

    /// Whether a block directly follows another and shows its output.
    fn is_output(&self, block: &Block, next: &Block) -> bool {
        let between = &self.lines[block.end().min(next.line - 1)..next.line - 1];
        next.language == "text" && between.iter().all(|line| line.trim().is_empty())
    }
}

impl Block {
    /// Whether it is a shell block that is run.
    pub fn is_run(&self) -> bool {
        self.language == "sh" && self.not_run.is_none()
    }

    /// Its text.
    pub fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The line of its closing fence.
    fn end(&self) -> usize {
        self.line + self.lines.len() + usize::from(self.is_closed)
    }

    fn covers(&self, line: usize) -> bool {
        (self.line..=self.end()).contains(&line)
    }
}

fn blocks(lines: &[String]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<(Block, usize, String)> = None;
    for (at, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        let Some((mut block, indent, fence)) = open.take() else {
            let fence: String = text.chars().take_while(|letter| *letter == '`').collect();
            if fence.len() >= 3 {
                let language = text[fence.len()..].split_whitespace().next().unwrap_or_default();
                let block = Block {
                    line: at + 1,
                    language: language.to_owned(),
                    lines: Vec::new(),
                    not_run: at.checked_sub(1).and_then(|before| not_run(&lines[before])),
                    is_closed: false,
                };
                open = Some((block, line.len() - text.len(), fence));
            }
            continue;
        };
        if text.trim_end() == fence {
            block.is_closed = true;
            blocks.push(block);
            continue;
        }
        let indented = line.len() - text.len();
        block.lines.push(line[indented.min(indent)..].to_owned());
        open = Some((block, indent, fence));
    }
    blocks.extend(open.map(|(block, ..)| block));
    blocks
}

fn not_run(line: &str) -> Option<String> {
    let reason = line.trim().strip_prefix(NOT_RUN)?.strip_suffix("-->")?;
    Some(reason.trim().to_owned())
}

/// The text of a heading.
fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    (1..=6)
        .contains(&level)
        .then(|| text.strip_prefix(' '))
        .flatten()
        .map(str::trim)
}

/// The anchor of a heading: letters, digits, `-` and `_` stay, in lower case; a blank becomes `-`.
fn anchor(heading: &str) -> String {
    // Of a link the text counts.
    let mut text = String::new();
    let mut rest = heading;
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    let letter = |letter: char| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        letter if letter.is_alphanumeric() => Some(letter),
        _ => None,
    };
    text.to_lowercase().chars().filter_map(letter).collect()
}

/// The target of a link, from what follows `](`.
fn target(rest: &str) -> Option<String> {
    let mut depth = 0;
    let end = rest.find(|letter| {
        depth += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth < 0
    })?;
    // A title may follow.
    let target = rest[..end].split_whitespace().next().unwrap_or_default();
    Some(target.trim_start_matches('<').trim_end_matches('>').to_owned())
}

/// The target of a link definition: `[name]: target`.
fn definition(line: &str) -> Option<String> {
    let (name, target) = line.trim_start().strip_prefix('[')?.split_once("]: ")?;
    let is_name = !name.is_empty() && !name.contains(']');
    is_name
        .then(|| target.split_whitespace().next().map(str::to_owned))
        .flatten()
}

/// The values of an HTML attribute in a line.
fn attributes(line: &str, name: &str) -> Vec<String> {
    let start = format!(" {name}=\"");
    let values = line
        .split(&start)
        .skip(1)
        .filter_map(|rest| rest.split('"').next());
    values.map(str::to_owned).collect()
}

/// Puts blanks in the place of code spans and comments, which may go over several lines of a paragraph.
fn blank(paragraph: &mut [(usize, String)]) {
    let whole: Vec<&str> = paragraph.iter().map(|(_, text)| text.as_str()).collect();
    let mut letters: Vec<char> = whole.join("\n").chars().collect();
    let mut at = 0;
    while at < letters.len() {
        let starts = |text: &str, at: usize| {
            text.chars()
                .enumerate()
                .all(|(n, letter)| letters.get(at + n) == Some(&letter))
        };
        let end = if starts("<!--", at) {
            (at..letters.len())
                .find(|end| starts("-->", *end))
                .map(|end| end + 3)
        } else if letters[at] == '`' {
            let run = run(&letters, at);
            let mut next = at + run;
            loop {
                match (next..letters.len()).find(|next| letters[*next] == '`') {
                    Some(found) if self::run(&letters, found) == run => break Some(found + run),
                    Some(found) => next = found + self::run(&letters, found),
                    None => break None,
                }
            }
            // What is not closed is no span.
            .or(Some(at + run))
        } else {
            None
        };
        let end = end.unwrap_or(at + 1);
        if end > at + 1 {
            let covered = letters[at..end].iter_mut().filter(|letter| **letter != '\n');
            covered.for_each(|letter| *letter = ' ');
        }
        at = end;
    }
    let blanked: String = letters.into_iter().collect();
    for ((_, text), line) in paragraph.iter_mut().zip(blanked.split('\n')) {
        line.clone_into(text);
    }
}

/// How many backticks are there.
fn run(letters: &[char], at: usize) -> usize {
    letters[at..].iter().take_while(|letter| **letter == '`').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page::parse(Path::new("docs/x.md"), text)
    }

    #[test]
    fn blocks_have_a_language_lines_and_a_reason() {
        let page = page(
            "# A\n\n```sh\necho a\n```\n\n```text\na\n```\n- x\n\n  ```yaml\n  a:\n    b: 1\n  ```\n\
             <!-- not run: no docker here -->\n````sh\n```\n````\n```sh\nopen\n",
        );
        let shapes: Vec<_> = page
            .blocks
            .iter()
            .map(|block| {
                (
                    block.line,
                    block.language.as_str(),
                    block.lines.join("|"),
                    block.not_run.as_deref(),
                )
            })
            .collect();
        let expected = [
            (3, "sh", "echo a".to_owned(), None),
            (7, "text", "a".to_owned(), None),
            (12, "yaml", "a:|  b: 1".to_owned(), None),
            (17, "sh", "```".to_owned(), Some("no docker here")),
            (20, "sh", "open".to_owned(), None),
        ];
        assert_eq!(shapes, expected);
        assert!(page.blocks[3].is_closed && !page.blocks[4].is_closed);
        let runs: Vec<_> = page
            .runs()
            .map(|(block, output)| (block.line, output.map(|output| output.line)))
            .collect();
        assert_eq!(runs, [(3, Some(7)), (20, None)]);
        let outside: Vec<usize> = page.outside_blocks().map(|(line, _)| line).collect();
        assert_eq!(outside, [1, 2, 6, 10, 11, 16]);
    }

    #[test]
    fn anchors_are_those_of_github() {
        let page = page(
            "# Route to `a.b` (c)\n## `--edge-bind`\n## Same\n## Same\n```sh\n# none\n```\n#none\n\
             ## See [the *page*](x.md)\n<a id=\"own\"></a>\n",
        );
        let expected = [
            "route-to-ab-c",
            "--edge-bind",
            "same",
            "same-1",
            "see-the-page",
            "own",
        ];
        assert_eq!(page.anchors(), expected);
        assert_eq!(page.title(), Some("Route to `a.b` (c)"));
    }

    #[test]
    fn links_outside_of_code() {
        let page = page(
            "[a](b.md#c) and ![i](i.png \"title\") `[no](no.md)`\n`` [no](no.md) ` `` [wiki](x_(y).md)\n\
             `a\nb [no](no.md)` [yes](yes.md)\n[d]: e.md\n<img src=\"f.png\"> <!-- [no](no.md) -->\n\n\
             a ` alone [still](still.md)\n```sh\n[no](no.md)\n```\n",
        );
        let found: Vec<_> = page
            .links()
            .into_iter()
            .map(|link| (link.line, link.target))
            .collect();
        let expected = [
            (1, "b.md#c"),
            (1, "i.png"),
            (2, "x_(y).md"),
            (4, "yes.md"),
            (5, "e.md"),
            (6, "f.png"),
            (8, "still.md"),
        ];
        assert_eq!(found, expected.map(|(line, target)| (line, target.to_owned())));
    }
}
