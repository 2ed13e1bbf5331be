//! Ranges of versions in Cargo's notation, with any count of numbers and leading zeros: `^1.2`,
//! `>=2026.09,<2027`, `24.*`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use super::order::{self, Number, Numbers};
use super::{LIMIT, Version};
use crate::names::{NameError, checked_conversions};

/// A range of versions, canonical and without spaces: `^1.2`, `>=1.2,<2`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Caret,
    Tilde,
    Exact,
    Greater,
    GreaterEq,
    Less,
    LessEq,
    /// `1.2.*`
    Wildcard,
}

use Operator::{Caret, Exact, Greater, GreaterEq, Less, LessEq, Tilde, Wildcard};

const OPERATORS: [(&str, Operator); 7] = [
    (">=", GreaterEq),
    ("<=", LessEq),
    (">", Greater),
    ("<", Less),
    ("=", Exact),
    ("^", Caret),
    ("~", Tilde),
];

/// One condition of a range.
#[derive(Debug)]
struct Comparator<'a> {
    operator: Operator,
    /// Its numbers as written, zeros included: their count matters.
    numbers: Vec<Number<'a>>,
    /// The same with its pre-release, to be compared.
    full: Numbers<'a>,
    text: &'a str,
}

impl<'a> Comparator<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let text = text.trim();
        let named = OPERATORS
            .iter()
            .find_map(|(sign, operator)| Some((*operator, text.strip_prefix(sign)?.trim_start())));
        let (operator, version) = named.unwrap_or((Caret, text));
        let is_wild = |part: &str| matches!(part, "*" | "x" | "X");
        let mut given = version;
        let mut wild = false;
        while let Some((rest, _)) = given.rsplit_once('.').filter(|(_, part)| is_wild(part)) {
            (given, wild) = (rest, true);
        }
        if is_wild(given) {
            let any = named.is_none() || operator == Exact;
            return any.then(|| Self {
                operator: Wildcard,
                numbers: Vec::new(),
                full: Numbers::new(Vec::new(), ""),
                text: "*",
            });
        }
        let (numbers, rest) = order::leading(given)?;
        let pre = rest.split('+').next().unwrap_or_default();
        let pre = match pre.strip_prefix('-') {
            Some(pre) if !wild && !pre.split('.').any(str::is_empty) => pre,
            None if pre.is_empty() => pre,
            _ => return None,
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
        if !rest.bytes().all(allowed) {
            return None;
        }
        let operator = match (wild, named) {
            (true, None) => Wildcard,
            // `>=1.*` is `>=1`.
            _ => operator,
        };
        let text = match given.split_once('+') {
            Some((without, _)) => without,
            None => given,
        };
        Some(Self {
            operator,
            full: Numbers::new(numbers.clone(), pre),
            numbers,
            text,
        })
    }

    /// Where a version's numbers stand against the first `count` of these.
    fn compare(&self, version: &Numbers<'_>, count: usize) -> Ordering {
        for at in 0..count {
            let own = self.numbers.get(at).copied().unwrap_or_default();
            let other = version.numbers.get(at).copied().unwrap_or_default();
            match other.cmp(&own) {
                Ordering::Equal => {}
                different => return different,
            }
        }
        Ordering::Equal
    }

    fn matches(&self, version: &Numbers<'_>) -> bool {
        let count = self.numbers.len();
        // Whether one version is meant, as three numbers mean; else what is missing stands for
        // anything.
        let whole = count > 2 || !self.full.pre.is_empty();
        let whole_order = || version.cmp(&self.full);
        match self.operator {
            Wildcard => self.compare(version, count).is_eq(),
            Exact if whole => whole_order().is_eq(),
            Exact => self.compare(version, count).is_eq(),
            Greater if whole => whole_order().is_gt(),
            Greater => self.compare(version, count).is_gt(),
            GreaterEq => whole_order().is_ge(),
            Less => whole_order().is_lt(),
            LessEq if whole => whole_order().is_le(),
            LessEq => self.compare(version, count).is_le(),
            Tilde => whole_order().is_ge() && self.compare(version, count.min(2)).is_eq(),
            Caret => {
                // The first number that is not 0 stays, and all before it.
                let first = self.numbers.iter().position(|number| !number.is_zero());
                let kept = first.map_or(count, |at| at + 1);
                // `^1` begins before the pre-releases of 1.0.0, as for Cargo; `^1.0.0` after them.
                let least = if whole {
                    whole_order()
                } else {
                    self.compare(version, count)
                };
                least.is_ge() && self.compare(version, kept).is_eq()
            }
        }
    }
}

impl fmt::Display for Comparator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = OPERATORS.iter().find(|(_, operator)| *operator == self.operator);
        match (sign, self.numbers.is_empty()) {
            (Some((sign, _)), _) => write!(f, "{sign}{}", self.text),
            (None, true) => f.write_str("*"),
            (None, false) => write!(f, "{}.*", self.text),
        }
    }
}

impl FromStr for Range {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || {
            NameError::new(
                text,
                "a range of versions",
                "such as ^1.2, ~1.2.3, 1.2.*, >=1.2,<2 or *",
            )
        };
        if text.len() > LIMIT {
            return Err(error());
        }
        let all: Option<Vec<Comparator<'_>>> = text.split(',').map(Comparator::read).collect();
        let all = all.ok_or_else(error)?;
        let canonical: Vec<String> = all.iter().map(ToString::to_string).collect();
        let canonical = canonical.join(",");
        // `*` means something beside nothing else.
        let alone = all.len() == 1 || all.iter().all(|one| !one.numbers.is_empty());
        if !alone || canonical.len() > LIMIT {
            return Err(error());
        }
        Ok(Self(canonical))
    }
}

impl Range {
    fn comparators(&self) -> impl Iterator<Item = Comparator<'_>> {
        // What is kept was read once.
        self.0.split(',').filter_map(Comparator::read)
    }

    /// The text that it is written as.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Whether a version has numbers that fit. Pre-releases fit only where the range names one.
    pub fn contains(&self, version: &Version) -> bool {
        order::read(version.as_str()).is_some_and(|numbers| self.fits(&numbers))
    }

    pub(super) fn fits(&self, version: &Numbers<'_>) -> bool {
        let mut all = self.comparators();
        if version.pre.is_empty() {
            return all.all(|one| one.matches(version));
        }
        let all: Vec<Comparator<'_>> = all.collect();
        let named: Vec<&Comparator<'_>> = all.iter().filter(|one| !one.full.pre.is_empty()).collect();
        // `<2` means no release candidate of 2 either, unless one of them is named.
        let wanted = named.iter().any(|one| one.full.numbers == version.numbers);
        let below = |one: &Comparator<'_>| {
            let bound = one.operator == Less && one.full.pre.is_empty();
            !bound || wanted || version.numbers != one.full.numbers
        };
        !named.is_empty() && all.iter().all(|one| one.matches(version) && below(one))
    }

    /// Whether it names a pre-release, and so takes pre-releases.
    pub(super) fn takes_pre_releases(&self) -> bool {
        self.comparators().any(|one| !one.full.pre.is_empty())
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

checked_conversions!(Range);
