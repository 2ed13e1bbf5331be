//! Whether what a daemon serves at `/metrics` is the text format of Prometheus (0.0.4).

/// What `promtool check metrics` finds: lines that are none of the format, samples of families that are not
/// announced, names that do not suit their type, and what has no help.
///
/// # Errors
/// With the first fault and its line.
pub fn check(text: &str) -> Result<(), String> {
    let (mut helped, mut family) = (String::new(), (String::new(), ""));
    let is_name = |name: &str| {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
        !name.is_empty() && name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    for line in text.lines() {
        let bad = |why: &str| Err(format!("{why}: {line}"));
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["#", "HELP", name, first, ..] if is_name(name) && !first.is_empty() => {
                helped = name.to_owned();
            }
            ["#", "TYPE", name, kind] => {
                let kinds = ["counter", "gauge", "histogram", "summary", "untyped"];
                let Some(kind) = kinds.into_iter().find(|known| *known == kind) else {
                    return bad("no type");
                };
                if name != helped {
                    return bad("no help");
                }
                if (kind == "counter") != name.ends_with("_total") {
                    return bad("counters end in _total, and only they");
                }
                family = (name.to_owned(), kind);
            }
            ["#", ..] | [] => return bad("no comment of the format"),
            _ => {
                let Some((series, value)) = line.rsplit_once(' ') else {
                    return bad("no sample");
                };
                let name = series.split('{').next().unwrap_or_default();
                let ending = name.strip_prefix(family.0.as_str());
                let endings: &[&str] = match family.1 {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                if !is_name(name) || !ending.is_some_and(|ending| endings.contains(&ending)) {
                    return bad("its family is not announced");
                }
                if value.parse::<f64>().is_err() {
                    return bad("no value");
                }
            }
        }
    }
    Ok(())
}
