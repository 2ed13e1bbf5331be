//! Finds the known name that was probably meant by an unknown one.

use std::collections::BTreeSet;

use strsim::osa_distance;

/// The known name that differs least, if it differs by so little that it is probably meant.
pub fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    // The beginning is enough to recognise a name, and a hostile text can be long.
    let text: String = text.chars().take(70).flat_map(char::to_lowercase).collect();
    let begins = |whole: &str, part: &str| part.len() >= 3 && whole.starts_with(part);
    if let Some(name) = known.iter().find(|name| begins(name, &text)) {
        return Some(name);
    }
    let (least, name) = known
        .iter()
        .map(|name| (osa_distance(&text, name), *name))
        .min()?;
    let bearable = if name.len() <= 4 { 1 } else { 2 };
    // `check_host` is `check-host` before it is `check` with something more.
    match least <= bearable {
        true => Some(name),
        false => known.iter().find(|name| begins(&text, name)).copied(),
    }
}

/// The known name that was probably meant by one that is not known: spelt almost alike, and not one
/// that is used as well. Two that differ in a number only are two.
pub fn misspelt<'k>(text: &str, known: &BTreeSet<&'k str>, used: &BTreeSet<&str>) -> Option<&'k str> {
    if known.contains(text) {
        return None;
    }
    let letters = |text: &str| -> String { text.chars().filter(|c| !c.is_ascii_digit()).collect() };
    let may_be_meant = |name: &&str| !used.contains(name) && letters(name) != letters(text);
    let others = known.iter().copied().filter(may_be_meant);
    let (distance, name) = others.map(|name| (osa_distance(text, name), name)).min()?;
    let bearable = if name.len() <= 4 { 1 } else { 2 };
    (distance <= bearable).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_only_when_near() {
        let known = [
            "name",
            "prefix",
            "header",
            "extends",
            "expires",
            "description",
            "services",
            "check",
            "check-host",
        ];
        for (given, suggested) in [
            ("nmae", Some("name")),
            ("Name", Some("name")),
            ("service", Some("services")),
            ("serivces", Some("services")),
            ("desc", Some("description")),
            ("expiry", Some("expires")),
            ("extend", Some("extends")),
            ("headers", Some("header")),
            ("chec", Some("check")),
            ("check_host", Some("check-host")),
            ("owner", None),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, &known), suggested, "{given}");
        }
    }
}
