//! How versions are compared. A tag is read as numbers where it has them: `v1.2`, `2026.12.01`,
//! `1.2.3.4`, `2026-12-01`, `2.0.330-63-gc1cfb6864`. Any count of parts, leading zeros or not;
//! where both tags are semantic versions the outcome is that of semver.org, section 11.

use std::cmp::Ordering;

/// A tag read as numbers and what follows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbers<'a> {
    /// The numbers, without closing zeros.
    pub(super) numbers: Vec<Number<'a>>,
    /// What makes it a pre-release; empty for a release.
    pub(super) pre: Vec<PrereleasePart<'a>>,
}

/// A number of any length, without leading zeros; nothing is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Number<'a>(&'a str);

impl<'a> Number<'a> {
    fn new(digits: &'a str) -> Self {
        Self(digits.trim_start_matches('0'))
    }

    pub(super) fn is_zero(self) -> bool {
        self.0.is_empty()
    }
}

impl Ord for Number<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then(self.0.cmp(other.0))
    }
}

impl PartialOrd for Number<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A part of a pre-release, in the order of semver: numbers come before texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PrereleasePart<'a> {
    /// Digits only.
    Number(Number<'a>),
    /// Anything else.
    Text(&'a str),
}

/// The numbers of a tag; `None` for one that has none, as `main-4f2a` or the hash `4f2a9c1`.
pub(super) fn read(tag: &str) -> Option<Numbers<'_>> {
    let text = tag.strip_prefix('v').unwrap_or(tag);
    if let Some(date) = date(text) {
        return Some(Numbers::new(date, ""));
    }
    let (numbers, rest) = leading(text)?;
    let mut marks = rest.chars();
    match marks.next() {
        None => Some(Numbers::new(numbers, "")),
        Some('-') if !marks.as_str().is_empty() => Some(Numbers::new(numbers, marks.as_str())),
        // Where `+` is not allowed, `_` is written for it: build metadata, which says nothing of
        // the order.
        Some('_') => Some(Numbers::new(numbers, "")),
        // `1.2rc1`, `24.04.lts`; without a dot it may be a hash.
        Some('.') if numbers.len() > 1 => Some(Numbers::new(numbers, marks.as_str())),
        Some(letter) if letter.is_ascii_alphabetic() && numbers.len() > 1 => {
            Some(Numbers::new(numbers, rest))
        }
        _ => None,
    }
}

/// The numbers that a text begins with, and the rest.
pub(super) fn leading(text: &str) -> Option<(Vec<Number<'_>>, &str)> {
    let (mut numbers, mut rest) = (Vec::new(), text);
    loop {
        let end = rest
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        numbers.push(Number::new(&rest[..end]));
        rest = &rest[end..];
        match rest.strip_prefix('.') {
            Some(more) if more.starts_with(|letter: char| letter.is_ascii_digit()) => rest = more,
            _ => break,
        }
    }
    (!numbers.is_empty()).then_some((numbers, rest))
}

/// `2026-12-01`: three numbers, the first of four digits.
fn date(text: &str) -> Option<Vec<Number<'_>>> {
    let parts: Vec<&str> = text.split('-').collect();
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_date = parts.len() == 3 && parts[0].len() == 4 && parts.iter().all(digits);
    is_date.then(|| parts.into_iter().map(Number::new).collect())
}

/// The parts of a pre-release. `git describe` writes the number of commits and the hash in one:
/// `63-gc1cfb6864`.
fn parts(pre: &str) -> Vec<PrereleasePart<'_>> {
    let described = pre.split_once("-g").filter(|(count, hash)| {
        let is_count = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        is_count && hash.bytes().take_while(u8::is_ascii_hexdigit).count() >= 4
    });
    let texts: Vec<&str> = match described {
        Some((count, hash)) => vec![count, hash],
        None if pre.is_empty() => Vec::new(),
        None => pre.split('.').collect(),
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    texts
        .into_iter()
        .map(|text| match is_number(text) {
            true => PrereleasePart::Number(Number::new(text)),
            false => PrereleasePart::Text(text),
        })
        .collect()
}

impl<'a> Numbers<'a> {
    pub(super) fn new(mut numbers: Vec<Number<'a>>, pre: &'a str) -> Self {
        while numbers.last().is_some_and(|last| last.is_zero()) {
            numbers.pop();
        }
        // Build metadata.
        let pre = pre.split(['_', '+']).next().unwrap_or_default();
        Self {
            numbers,
            pre: parts(pre),
        }
    }
}

impl Ord for Numbers<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let pre = || match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre.cmp(&other.pre),
        };
        self.numbers.cmp(&other.numbers).then_with(pre)
    }
}

impl PartialOrd for Numbers<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
