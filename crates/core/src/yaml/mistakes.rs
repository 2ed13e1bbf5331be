//! The usual mistakes in YAML, told from the lines around them. A parser says where it could not go
//! on, often a line or more after the mistake, and which rule of the grammar failed there. People
//! need the line to change, and what would be right.

use super::Mark;

/// A mistake and its place.
type Found = (Mark, String);

/// Where the mistake is and what would be right, for a parser that stopped at `mark` of `text`
/// because of `reason`. The place and the reason are the parser's own where nothing better is known.
pub(super) fn explain(text: &str, mark: Mark, reason: &str) -> Found {
    let lines: Vec<&str> = text.lines().take(mark.line + 1).collect();
    let document = Document::around(&lines, mark);
    let (mark, message) = document
        .conflict()
        .or_else(|| document.tab(reason))
        .or_else(|| document.quote(reason))
        .or_else(|| document.indicator())
        .or_else(|| document.separator(reason))
        .or_else(|| document.indentation(reason))
        .unwrap_or_else(|| (mark, general(reason)));
    (mark, format!("not YAML: {message}"))
}

/// What is said when only the parser's reason is known.
fn general(reason: &str) -> String {
    match reason {
        _ if reason.contains("unprintable") => format!("{reason}: only text is allowed here"),
        _ if reason.contains("flow ") || reason.starts_with("illegal placement") => {
            format!("{reason}: is a bracket before this place not closed, or is a comma missing?")
        }
        _ if reason.starts_with("block sequence entries") => {
            "a list begins on the line after the name of its field".to_owned()
        }
        _ => reason.to_owned(),
    }
}

/// The document in which the parser stopped.
struct Document<'text> {
    /// Its lines up to the one after `mark`, each with its number.
    lines: Vec<(usize, &'text str)>,
    /// Where the parser stopped.
    mark: Mark,
}

impl<'text> Document<'text> {
    fn around(lines: &[&'text str], mark: Mark) -> Self {
        // A `---` at which the parser stopped begins the next document.
        let before = lines.len().min(mark.line - 1);
        let first = lines[..before].iter().rposition(|line| line.starts_with("---"));
        let lines = (1..).zip(lines.iter().copied());
        Self {
            lines: lines.skip(first.unwrap_or(0)).collect(),
            mark,
        }
    }

    /// The line in which the parser stopped.
    fn line(&self) -> &'text str {
        let line = self.lines.iter().find(|(number, _)| *number == self.mark.line);
        line.map_or("", |(_, line)| line)
    }

    /// The lines with content before `line`, the nearest first.
    fn before(&self, line: usize) -> impl Iterator<Item = (usize, &'text str)> {
        let lines = self.lines.iter().rev().copied();
        lines.filter(move |(number, text)| {
            let content = text.trim_start();
            *number < line && !content.is_empty() && !content.starts_with('#')
        })
    }

    /// What Git leaves in a file when two changes do not fit.
    fn conflict(&self) -> Option<Found> {
        let is_mark = |line: &str| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ");
        let (line, _) = self.lines.iter().find(|(_, line)| is_mark(line))?;
        let message = "a conflict that Git has marked: choose one side, and remove the lines that begin \
                       with `<<<<<<<`, `=======` and `>>>>>>>`";
        Some((at(*line, 0), message.to_owned()))
    }

    fn tab(&self, reason: &str) -> Option<Found> {
        if !reason.contains("tab") && !reason.contains("valid YAML whitespace") {
            return None;
        }
        let from_here = self.lines.iter().filter(|(line, _)| *line >= self.mark.line);
        let mut tabs = from_here.filter_map(|(line, text)| Some((*line, text.find('\t')?, *text)));
        let (line, offset, text) = tabs.next()?;
        let column = text[..offset].chars().count();
        Some((at(line, column), "a tab: use spaces".to_owned()))
    }

    fn quote(&self, reason: &str) -> Option<Found> {
        let message = match reason {
            _ if !reason.contains("quoted scalar") => return None,
            _ if reason.contains("end of stream") || reason.contains("indentation") => {
                "this quote is not closed"
            }
            _ if reason.contains("escape") || reason.contains("hexadecimal") => {
                "a backslash in double quotes begins an escape: use single quotes"
            }
            _ if reason.contains("trailing content") => {
                "text after the closing quote: put the whole value in quotes, and write a single quote \
                 within single quotes twice"
            }
            _ => return None,
        };
        Some((self.mark, message.to_owned()))
    }

    /// A value that begins with a character that means something.
    fn indicator(&self) -> Option<Found> {
        let line = self.line();
        let stopped = line.char_indices().nth(self.mark.column - 1);
        let offset = match stopped {
            Some((offset, _)) if is_begin_of_value(&line[..offset]) => offset,
            // A template in braces is read as a mapping within a mapping, to its end.
            _ => line.find(": {{").map(|offset| offset + 2)?,
        };
        let first = line[offset..].chars().next()?;
        if !">|*&!%@`,[]{}?".contains(first) {
            return None;
        }
        let column = line[..offset].chars().count();
        let message = format!("a value that begins with `{first}` must stand in quotes");
        Some((at(self.mark.line, column), message))
    }

    /// A space or a colon that is missing, or a colon too many.
    fn separator(&self, reason: &str) -> Option<Found> {
        let is_second_colon = reason.starts_with("mapping values");
        if !is_second_colon && !reason.starts_with("simple key") {
            return None;
        }
        let line = self.line();
        let key: String = line.chars().take(self.mark.column - 1).collect();
        if is_second_colon && has_colon(&key) {
            let message = "a second `: ` in one line: put the value in quotes";
            return Some((self.mark, message.to_owned()));
        }
        let (number, mut text) = self.before(self.mark.line).next()?;
        let (indentation, content) = parts(text);
        if let Some(message) = missing_space(content) {
            return Some((at(number, indentation), message));
        }
        if is_second_colon && parts(line).0 > indentation {
            let message = "indented further than the line before, so that it continues its value: indent \
                           the fields of one mapping alike, or put the value in quotes";
            return Some((at(self.mark.line, parts(line).0), message.to_owned()));
        }
        // A text without a colon goes on in lines that are indented further.
        let mut number = number;
        for (line_before, text_before) in self.before(number) {
            if own_indentation(text_before) >= own_indentation(text) {
                break;
            }
            if has_colon(text_before) {
                if is_second_colon && !text_before.trim_end().ends_with(':') {
                    let message = "a `: ` in a value that goes on over lines: put the value in quotes";
                    return Some((self.mark, message.to_owned()));
                }
                break;
            }
            (number, text) = (line_before, text_before);
        }
        let (indentation, content) = parts(text);
        if has_colon(content) {
            return None;
        }
        let name: String = content.split_whitespace().next()?.chars().take(40).collect();
        let message = format!(
            "this line has no colon: write `{name}: …` for a field, or indent the line further if it \
             continues a value"
        );
        Some((at(number, indentation), message))
    }

    fn indentation(&self, reason: &str) -> Option<Found> {
        let own = own_indentation(self.line());
        let first = self.lines.iter().find(|(_, line)| !line.trim().is_empty());
        let is_less = first.is_some_and(|(_, first)| own < own_indentation(first));
        let is_known = reason.contains("did not find expected key")
            || reason.contains("expected '-' indicator")
            || (is_less && reason.contains("<document start>"));
        let message = "this indentation fits no line before: indent the fields of one mapping, and the items \
                       of one list, alike";
        is_known.then(|| (at(self.mark.line, own), message.to_owned()))
    }
}

/// The place after so many characters of a line.
fn at(line: usize, characters: usize) -> Mark {
    Mark {
        line,
        column: characters + 1,
    }
}

fn own_indentation(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// The characters before the content of a line, with the dashes of lists, and the content.
fn parts(line: &str) -> (usize, &str) {
    let mut content = line.trim_start_matches(' ');
    while let Some(item) = content.strip_prefix("- ") {
        content = item.trim_start_matches(' ');
    }
    (line.len() - content.len(), content)
}

fn has_colon(text: &str) -> bool {
    text.contains(": ") || text.trim_end().ends_with(':')
}

/// Whether a value begins after this part of a line.
fn is_begin_of_value(line: &str) -> bool {
    let trimmed = line.trim_end_matches(' ');
    trimmed.len() < line.len() && (trimmed.ends_with(':') || trimmed.ends_with('-'))
}

/// What to write where `name:value` or `-item` lacks a space.
fn missing_space(content: &str) -> Option<String> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
    let content = content.trim_end();
    if let Some(item) = content.strip_prefix('-').filter(|item| !item.starts_with('-')) {
        let item: String = item.chars().take(40).collect();
        return Some(format!("a space is missing after the dash: write `- {item}`"));
    }
    let (name, value) = content.split_once(':')?;
    let is_name = !name.is_empty() && name.len() <= 40 && name.chars().all(is_letter);
    let value: String = value.chars().take(40).collect();
    (is_name && !value.is_empty() && !value.starts_with(' '))
        .then(|| format!("a space is missing after the colon: write `{name}: {value}`"))
}

#[cfg(test)]
mod tests {
    use crate::yaml::{Limits, read};

    /// The first error in a text.
    fn error(text: &str) -> String {
        let stream = read(text, Limits::default());
        let error = stream.errors.first().map(ToString::to_string);
        error.unwrap_or_else(|| panic!("{text:?} is YAML"))
    }

    #[test]
    fn the_line_to_change_is_named() {
        let space = "not YAML: a space is missing after the";
        let colon = "not YAML: this line has no colon: write";
        let deeper = "not YAML: indented further than the line before";
        let unlike = "not YAML: this indentation fits no line before";
        let quotes =
            |first: char| format!("not YAML: a value that begins with `{first}` must stand in quotes");
        let conflict = "not YAML: a conflict that Git has marked";
        for (text, place, message) in [
            (
                "name: a\nprefix:b\n",
                "line 2, column 1",
                &*format!("{space} colon: write `prefix: b`"),
            ),
            (
                "name: a\n\n# why\nprefix:b\n# and\nheader: c\n",
                "line 4, column 1",
                space,
            ),
            (
                "name:a\nprefix: b\n",
                "line 1, column 1",
                &format!("{space} colon: write `name: a`"),
            ),
            (
                "a: 1\n---\n- name:a\n  prefix: b\n",
                "line 3, column 3",
                &format!("{space} colon: write `name: a`"),
            ),
            (
                "services:\n  - a\n  -b\n",
                "line 3, column 3",
                &format!("{space} dash: write `- b`"),
            ),
            (
                "name a\nprefix: b\n",
                "line 1, column 1",
                &format!("{colon} `name: …`"),
            ),
            (
                "name: a\nservices\n  - b\n",
                "line 2, column 1",
                &format!("{colon} `services: …`"),
            ),
            (
                "services:\n  - name: a\n    version\n  - name: b\n",
                "line 3, column 5",
                &format!("{colon} `version: …`"),
            ),
            ("name: a\n  prefix: b\n", "line 2, column 3", deeper),
            (
                "services:\n- name: a\n   version: b\n",
                "line 3, column 4",
                deeper,
            ),
            ("services:\n- name: a\n version: b\n", "line 3, column 2", unlike),
            (
                "services:\n  - name: a\n   version: b\n",
                "line 3, column 4",
                unlike,
            ),
            ("  name: a\nprefix: b\n", "line 2, column 1", unlike),
            (
                "name: a\n<<<<<<< HEAD\nprefix: b\n=======\nprefix: c\n>>>>>>> x\n",
                "line 2, column 1",
                conflict,
            ),
            (
                "<<<<<<< HEAD\nname: a\n=======\nname: b\n>>>>>>> x\n",
                "line 1, column 1",
                conflict,
            ),
            (
                "name: a\n\tprefix: b\n",
                "line 2, column 1",
                "not YAML: a tab: use spaces",
            ),
            (
                "services:\n\t- x\n",
                "line 2, column 1",
                "not YAML: a tab: use spaces",
            ),
            ("name:\ta\n", "line 1, column 6", "not YAML: a tab: use spaces"),
            ("version: >=1.2\n", "line 1, column 10", &quotes('>')),
            ("- version: *\n  name: a\n", "line 1, column 12", &quotes('*')),
            ("address: *.example\n", "line 1, column 10", &quotes('*')),
            ("services:\n- @x\n", "line 2, column 3", &quotes('@')),
            ("image: {{ x }}:1\n", "line 1, column 8", &quotes('{')),
            (
                "description: it is: b\n",
                "line 1, column 19",
                "not YAML: a second `: ` in one line",
            ),
            (
                "a: 'x\nb: 1\n",
                "line 1, column 4",
                "not YAML: this quote is not closed",
            ),
            (
                "a: \"x\n",
                "line 1, column 4",
                "not YAML: this quote is not closed",
            ),
            (
                "a: \"\\d\"\n",
                "line 1, column 4",
                "not YAML: a backslash in double quotes",
            ),
            (
                "a: 'it's'\n",
                "line 1, column 8",
                "not YAML: text after the closing quote",
            ),
            (
                "a: - b\n",
                "line 1, column 4",
                "not YAML: a list begins on the line after",
            ),
        ] {
            let error = error(text);
            assert!(
                error.starts_with(&format!("{place}: {message}")),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn a_missing_bracket_is_asked_for() {
        for text in ["a: [x\nb: 1\n", "a: [x\n", "a: {x: 1\nb: 1\n", "{a: [x}"] {
            let error = error(text);
            assert!(
                error.ends_with("not closed, or is a comma missing?"),
                "{text:?}: {error}"
            );
        }
    }
}
