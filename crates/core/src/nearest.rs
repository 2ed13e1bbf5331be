//! Which known name somebody probably meant who gave one that is not known.

/// The known name that differs least, if it differs by so little that it is probably meant.
pub fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    // The beginning is enough to recognise a name, and a hostile text can be long.
    let text: String = text.chars().take(70).flat_map(char::to_lowercase).collect();
    let begins = |name: &&&str| {
        text.len().min(name.len()) >= 3 && (name.starts_with(&text) || text.starts_with(**name))
    };
    if let Some(name) = known.iter().find(begins) {
        return Some(name);
    }
    let (least, name) = known.iter().map(|name| (distance(&text, name), *name)).min()?;
    let bearable = if name.len() <= 4 { 1 } else { 2 };
    (least <= bearable).then_some(name)
}

/// How many letters must be put in, left out, replaced or swapped with their neighbour to turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
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
            ("owner", None),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, &known), suggested, "{given}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("ab", "abc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }
}
