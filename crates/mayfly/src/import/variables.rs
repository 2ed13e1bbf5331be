//! Variables in a compose file (`$A`, `${A}`, `${A:-b}`, `${A:?message}`, `${A:+b}`, nested), and
//! files of variables (`.env`, `env_file`).

use std::collections::{BTreeMap, BTreeSet};

use super::faults::Spot;

/// Most text that variables may make of a file, in bytes: a short file can name a long value often.
const LIMIT: usize = 4 << 20;
/// Deepest nesting of defaults.
const DEPTH: usize = 16;

/// Variables by name.
pub(super) type Variables = BTreeMap<String, String>;

/// Fills variables in, and keeps which.
#[derive(Debug)]
pub(super) struct Interpolation {
    left: usize,
    /// Variables without a value and without a default.
    pub(super) unset: BTreeSet<String>,
    /// Variables whose value came into settings, which are written.
    pub(super) used: BTreeSet<String>,
    /// Whether the text is of settings.
    pub(super) is_setting: bool,
    /// The variables that settings, and tags of images, name: by the place of the text.
    pub(super) named: BTreeMap<Spot, BTreeSet<String>>,
}

impl Default for Interpolation {
    fn default() -> Self {
        Self {
            left: LIMIT,
            unset: BTreeSet::new(),
            used: BTreeSet::new(),
            is_setting: false,
            named: BTreeMap::new(),
        }
    }
}

/// The variables that a text names, before they are filled in.
pub(super) fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
        } else if let Some(name) = name(rest.strip_prefix('{').unwrap_or(rest)) {
            names.insert(name.to_owned());
        }
    }
    names
}

/// The part of an image that has its tag, before variables are filled in: all of it where a variable
/// may hold the tag with the name.
pub(super) fn tag_part(image: &str) -> &str {
    let (mut depth, mut begin) = (0_usize, 0);
    for (at, letter) in image.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            '/' | ':' if depth == 0 => begin = at + 1,
            '@' if depth == 0 => return &image[begin..at],
            _ => {}
        }
    }
    &image[begin..]
}

impl Interpolation {
    /// The text with its variables filled in; else what is wrong with it.
    pub(super) fn fill(&mut self, text: &str, variables: &Variables) -> Result<String, String> {
        if !text.contains('$') {
            return Ok(text.to_owned());
        }
        let mut filled = String::new();
        let mut rest = text;
        self.expand(&mut rest, variables, 0, Some(&mut filled))?;
        Ok(filled)
    }

    /// Expands to the end of the text, or with `depth` to the closing brace. Without `out` the text
    /// is only skipped: it is a default that is not used.
    fn expand(
        &mut self,
        rest: &mut &str,
        variables: &Variables,
        depth: usize,
        mut out: Option<&mut String>,
    ) -> Result<(), String> {
        loop {
            let stop = rest.find(|letter| letter == '$' || (depth > 0 && letter == '}'));
            let Some(stop) = stop else {
                if depth > 0 {
                    return Err("a `${` has no `}`".to_owned());
                }
                self.push(&mut out, rest)?;
                *rest = "";
                return Ok(());
            };
            self.push(&mut out, &rest[..stop])?;
            *rest = &rest[stop..];
            if let Some(after) = rest.strip_prefix('}') {
                *rest = after;
                return Ok(());
            }
            *rest = &rest[1..];
            if let Some(after) = rest.strip_prefix('$') {
                *rest = after;
                self.push(&mut out, "$")?;
            } else if let Some(after) = rest.strip_prefix('{') {
                *rest = after;
                self.braced(rest, variables, depth + 1, &mut out)?;
            } else {
                let name = name(rest).ok_or("a `$` that begins no variable: write `$$`")?;
                *rest = &rest[name.len()..];
                if out.is_some() {
                    let value = self.value(name, variables);
                    self.push(&mut out, value)?;
                }
            }
        }
    }

    /// What follows `${`.
    fn braced(
        &mut self,
        rest: &mut &str,
        variables: &Variables,
        depth: usize,
        out: &mut Option<&mut String>,
    ) -> Result<(), String> {
        if depth > DEPTH {
            return Err(format!("more than {DEPTH} defaults inside of each other"));
        }
        let name = name(rest).ok_or("a `${` that begins no variable: write `$$` for a `$`")?;
        *rest = &rest[name.len()..];
        if let Some(after) = rest.strip_prefix('}') {
            *rest = after;
            if out.is_some() {
                let value = self.value(name, variables);
                self.push(out, value)?;
            }
            return Ok(());
        }
        let colon = rest.strip_prefix(':');
        let operator = colon.unwrap_or(rest);
        let value = variables.get(name).map(String::as_str);
        let value = value.filter(|value| colon.is_none() || !value.is_empty());
        let kind = operator.chars().next();
        let kind = kind.filter(|kind| "-?+".contains(*kind));
        let kind = kind.ok_or_else(|| format!("`${{{name}` is not followed by `}}`, `:-`, `:?` or `:+`"))?;
        *rest = &operator[1..];
        let active = out.is_some();
        match (kind, value) {
            ('-', None) | ('+', Some(_)) => self.expand(rest, variables, depth, out.as_deref_mut()),
            ('?', None) if active => {
                let mut message = String::new();
                self.expand(rest, variables, depth, Some(&mut message))?;
                let message = if message.is_empty() {
                    "it is required".to_owned()
                } else {
                    message
                };
                Err(format!("the variable {name} is not set: {message}"))
            }
            (kind, value) => {
                self.expand(rest, variables, depth, None)?;
                if let (true, true, Some(value)) = (active, kind != '+', value) {
                    self.note(name);
                    self.push(out, value)?;
                }
                Ok(())
            }
        }
    }

    fn value<'v>(&mut self, name: &str, variables: &'v Variables) -> &'v str {
        match variables.get(name) {
            Some(value) => {
                self.note(name);
                value
            }
            None => {
                self.unset.insert(name.to_owned());
                ""
            }
        }
    }

    fn note(&mut self, name: &str) {
        if self.is_setting {
            self.used.insert(name.to_owned());
        }
    }

    fn push(&mut self, out: &mut Option<&mut String>, text: &str) -> Result<(), String> {
        let Some(out) = out else { return Ok(()) };
        let left = self.left.checked_sub(text.len());
        self.left = left.ok_or("the variables expand the file to too much text: use fewer of them")?;
        out.push_str(text);
        Ok(())
    }
}

/// The name of a variable at the beginning of a text.
fn name(text: &str) -> Option<&str> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let end = text.bytes().position(|byte| !is_part(byte)).unwrap_or(text.len());
    let name = &text[..end];
    (!name.is_empty() && !name.as_bytes()[0].is_ascii_digit()).then_some(name)
}

/// A name of a file of variables, and its value if it has one.
pub(super) type FileEntry = (String, Option<String>);

/// The entries of a file of variables, in its order. A name without `=` has no value: it means that
/// of the shell. Else the line, and what is wrong there.
pub(super) fn dotenv(
    text: &str,
    around: &Variables,
    interpolation: &mut Interpolation,
) -> Result<Vec<FileEntry>, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut entries: Vec<FileEntry> = Vec::new();
    let mut known = around.clone();
    let mut rest = text;
    while !rest.is_empty() {
        let line = text[..text.len() - rest.len()].matches('\n').count() + 1;
        let (first, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let bare = first.trim();
        if bare.is_empty() || bare.starts_with('#') {
            rest = after;
            continue;
        }
        let wrong = |message: String| (line, message);
        let bare = bare.strip_prefix("export ").unwrap_or(bare).trim_start();
        let Some((name, _)) = bare.split_once('=') else {
            check_name(bare).map_err(wrong)?;
            entries.push((bare.to_owned(), None));
            rest = after;
            continue;
        };
        let name = name.trim_end();
        check_name(name).map_err(wrong)?;
        let equals = first.find('=').unwrap_or_default();
        let value = rest[equals + 1..].trim_start_matches([' ', '\t']);
        let (value, after) = match value.chars().next() {
            Some(quote @ ('\'' | '"')) => {
                let end =
                    closing(&value[1..], quote).ok_or_else(|| wrong(format!("a {quote} is not closed")))?;
                let after = &value[end + 2..];
                (
                    &value[..end + 2],
                    after.split_once('\n').map_or("", |(_, after)| after),
                )
            }
            _ => {
                let (value, _) = value.split_once('\n').unwrap_or((value, ""));
                let value = value.split_once(" #").map_or(value, |(value, _)| value);
                (value.trim(), after)
            }
        };
        let value = match value.strip_prefix('\'') {
            Some(literal) => literal.strip_suffix('\'').unwrap_or(literal).to_owned(),
            None => {
                let quoted = value
                    .strip_prefix('"')
                    .map(|value| value.strip_suffix('"').unwrap_or(value));
                let value = quoted.map_or_else(|| value.to_owned(), unescaped);
                interpolation.fill(&value, &known).map_err(wrong)?
            }
        };
        known.entry(name.to_owned()).or_insert_with(|| value.clone());
        entries.push((name.to_owned(), Some(value)));
        rest = after;
    }
    Ok(entries)
}

/// The entries of a file whose values have neither quotes nor variables. Blanks at the end of a line
/// belong to the value.
pub(super) fn raw_entries(text: &str) -> Result<Vec<FileEntry>, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut entries = Vec::new();
    for (at, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line, None),
        };
        check_name(name).map_err(|message| (at + 1, message))?;
        entries.push((name.to_owned(), value));
    }
    Ok(entries)
}

fn check_name(name: &str) -> Result<(), String> {
    let is_good = !name.is_empty()
        && !name
            .chars()
            .any(|letter| letter.is_whitespace() || letter.is_control());
    let rule = "a line is NAME=VALUE, a comment (#) or empty";
    is_good.then_some(()).ok_or_else(|| rule.to_owned())
}

/// Where the closing quote is.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            _ if letter == quote => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, false) => plain.push(letter),
            _ => match letters.next() {
                Some('n') => plain.push('\n'),
                Some('t') => plain.push('\t'),
                Some('r') => plain.push('\r'),
                // A dollar sign that is escaped is none of a variable.
                Some('$') => plain.push_str("$$"),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        let pairs = [("A", "a"), ("EMPTY", ""), ("B", "$A")];
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn variables_are_filled_in_as_compose_does() {
        for (text, expected) in [
            ("plain", Ok("plain")),
            ("$A-${A}", Ok("a-a")),
            ("$$A $${A}", Ok("$A ${A}")),
            ("${NONE}|$NONE", Ok("|")),
            ("${NONE:-x}${NONE-y}", Ok("xy")),
            ("${EMPTY:-x}|${EMPTY-y}", Ok("x|")),
            ("${A:+x}${EMPTY:+y}${EMPTY+z}${NONE+w}", Ok("xz")),
            ("${NONE:-${ALSO_NONE:-${A}}}", Ok("a")),
            ("${NONE:-http://x:80/}", Ok("http://x:80/")),
            // The value of a variable is not read again.
            ("${B}", Ok("$A")),
            ("${A:?needed}", Ok("a")),
            ("${A:-${NONE:?never}}", Ok("a")),
            ("${NONE:?set $A}", Err("the variable NONE is not set: set a")),
            ("${EMPTY:?}", Err("the variable EMPTY is not set: it is required")),
            ("${EMPTY?}", Ok("")),
            ("${A", Err("`${A` is not followed by `}`, `:-`, `:?` or `:+`")),
            ("${A:-x", Err("a `${` has no `}`")),
            ("${}", Err("a `${` that begins no variable: write `$$` for a `$`")),
            ("5$", Err("a `$` that begins no variable: write `$$`")),
            ("$1", Err("a `$` that begins no variable: write `$$`")),
        ] {
            let filled = Interpolation::default().fill(text, &variables());
            assert_eq!(filled.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn variables_of_a_tag() {
        for (image, expected) in [
            ("shop/web:${TAG:-1:2/3}", &["TAG"][..]),
            (
                "${REGISTRY:-localhost:5000}/web:v$TAG-${FLAVOUR}",
                &["FLAVOUR", "TAG"],
            ),
            ("${IMAGE}", &["IMAGE"]),
            ("${REGISTRY}/web:1@sha256:${DIGEST}", &[]),
            ("web:$$TAG", &[]),
            ("web:${", &[]),
        ] {
            let names = named(tag_part(image));
            assert!(names.iter().eq(expected.iter()), "{image}: {names:?}");
        }
    }

    #[test]
    fn what_variables_make_of_a_file_is_limited() {
        let variables = Variables::from([("A".to_owned(), "x".repeat(1 << 20))]);
        let mut interpolation = Interpolation::default();
        let filled: Vec<_> = (0..5)
            .map(|_| interpolation.fill("$A", &variables).is_ok())
            .collect();
        assert_eq!(filled, [true, true, true, true, false]);
        let deep = format!("{}x{}", "${N:-".repeat(10_000), "}".repeat(10_000));
        let error = Interpolation::default()
            .fill(&deep, &Variables::new())
            .unwrap_err();
        assert_eq!(error, "more than 16 defaults inside of each other");
    }

    #[test]
    fn files_of_variables() {
        let text = "\u{feff}# comment\n\nexport A1=1\nB1 = two words # not this\nC1='$A'\nD1=\"x\\n${A} \\$A\"\nE1=$B1\nF1\nG1=\r\nH1=a=b#c\nI1='two\nlines'\nJ1=end";
        let entries = dotenv(text, &variables(), &mut Interpolation::default()).unwrap();
        let shown: Vec<String> = entries
            .iter()
            .map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("(none)")))
            .collect();
        assert_eq!(
            shown,
            [
                "A1=1",
                "B1=two words",
                "C1=$A",
                "D1=x\na $A",
                "E1=two words",
                "F1=(none)",
                "G1=",
                "H1=a=b#c",
                "I1=two\nlines",
                "J1=end"
            ]
        );
        for (text, line) in [("A=1\nB C\n", 2), ("A='x", 1), ("\n\n=x", 3), ("A=${B", 1)] {
            let found = dotenv(text, &variables(), &mut Interpolation::default());
            assert_eq!(found.unwrap_err().0, line, "{text}");
        }
    }
}
