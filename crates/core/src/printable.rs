//! Text from outside in a log, on a terminal or in a message: what a reader cannot see is shown
//! escaped. That is every control character, what ends a line, what turns the direction of writing,
//! and what has no width at all. Otherwise a key, a value or a file name could pass for something
//! else. The one list of these characters.

/// Whether a reader does not see the character, or sees what stands around it differently because
/// of it.
///
/// Not among them: the marks U+FE00 to U+FE0F, which only choose how the letter before them looks,
/// as of an emoji.
pub fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{ad}' // soft hyphen
            | '\u{34f}' // combining grapheme joiner
            | '\u{61c}' // Arabic letter mark
            | '\u{115f}'..='\u{1160}' // Hangul fillers
            | '\u{17b4}'..='\u{17b5}' // Khmer vowels without a shape
            | '\u{180b}'..='\u{180f}' // Mongolian selectors
            | '\u{200b}'..='\u{200f}' // no width, joiners, marks of direction
            | '\u{2028}'..='\u{202e}' // line and paragraph separators, embeddings, overrides
            | '\u{2060}'..='\u{206f}' // joiners, invisible operators, isolates
            | '\u{3164}' // Hangul filler
            | '\u{feff}' // byte order mark
            | '\u{ffa0}' // Hangul filler
            | '\u{fff0}'..='\u{fffb}' // interlinear annotations
            | '\u{1bca0}'..='\u{1bca3}' // shorthand controls
            | '\u{1d173}'..='\u{1d17a}' // musical controls
            | '\u{e0000}'..='\u{e0fff}' // tags, further selectors
        )
}

/// The text as one line, with hidden characters escaped as in `\n` and `\u{202e}`.
pub fn printable(text: &str) -> String {
    escaped(text, |_| false)
}

/// As [`printable`], for text that has lines: line feeds stay, and so do tabs.
pub fn printable_lines(text: &str) -> String {
    escaped(text, |letter| matches!(letter, '\n' | '\t'))
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_hidden(letter) && !stays(letter) {
            true => safe.extend(letter.escape_default()),
            false => safe.push(letter),
        }
    }
    safe
}

/// JSON, as serde_json writes it, with hidden characters escaped as JSON escapes: it means the
/// same. The line feeds that part its lines stay.
pub fn printable_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    let mut halves = [0; 2];
    for letter in json.chars() {
        // Inside of texts serde_json has escaped a line feed already.
        if !is_hidden(letter) || letter == '\n' {
            safe.push(letter);
            continue;
        }
        for half in letter.encode_utf16(&mut halves) {
            safe.push_str(&format!("\\u{half:04x}"));
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_hidden_is_escaped_and_the_rest_stays() {
        for (text, expected) in [
            ("", ""),
            ("plain 'text' \"quoted\" \\", "plain 'text' \"quoted\" \\"),
            ("ü ß 日本 ❤\u{fe0f} 🚀", "ü ß 日本 ❤\u{fe0f} 🚀"),
            ("a\nb\r\tc\0\u{7f}\u{9b}", "a\\nb\\r\\tc\\u{0}\\u{7f}\\u{9b}"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("x\u{202e}lmay.x", "x\\u{202e}lmay.x"),
            ("\u{2028}\u{2029}\u{feff}", "\\u{2028}\\u{2029}\\u{feff}"),
            ("a\u{ad}b\u{200b}c\u{e0041}", "a\\u{ad}b\\u{200b}c\\u{e0041}"),
        ] {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(printable_lines("a\n\tb\u{202e}\r\n"), "a\n\tb\\u{202e}\\r\n");
    }

    /// Texts in which every second character is a hidden one.
    fn hostile() -> impl Strategy<Value = String> {
        let named = "\u{202a}-\u{202e}\u{2066}-\u{2069}\u{2028}\u{2029}\u{200b}-\u{200f}\u{ad}\u{61c}\u{feff}\u{e0000}-\u{e007f}";
        proptest::string::string_regex(&format!("([{named}\u{0}-\u{1f}\u{7f}-\u{9f}]|.){{0,60}}")).unwrap()
    }

    /// What Unicode calls a mark of direction, a separator of lines or a format character without a
    /// shape.
    fn is_named(letter: char) -> bool {
        "\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{61c}\u{ad}\u{feff}\u{200b}\u{200c}\u{200d}\u{2060}"
            .contains(letter)
            || ('\u{e0000}'..='\u{e007f}').contains(&letter)
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_left(text in hostile()) {
            let line = printable(&text);
            prop_assert!(!line.contains(|letter: char| letter.is_control() || is_named(letter)), "{line:?}");
            prop_assert_eq!(printable(&line), line.clone(), "what is escaped stays as it is");
            let lines = printable_lines(&text);
            let bad = |letter: char| (letter.is_control() && letter != '\n' && letter != '\t') || is_named(letter);
            prop_assert!(!lines.contains(bad), "{lines:?}");
        }

        #[test]
        fn json_means_the_same(texts in proptest::collection::vec(hostile(), 0..4)) {
            for json in [serde_json::to_string(&texts), serde_json::to_string_pretty(&texts)] {
                let safe = printable_json(&json.unwrap());
                prop_assert!(!safe.contains(|letter: char| (letter.is_control() && letter != '\n') || is_named(letter)), "{safe:?}");
                prop_assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), texts.clone());
            }
        }
    }
}
