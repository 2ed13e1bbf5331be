//! A command as one text becomes its arguments, as compose splits it: by the rules of a shell for
//! blanks and quotes, without anything else of a shell.

/// The arguments of a command.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some('\'') => break,
                        Some(letter) => word.push(letter),
                        None => return Err("a ' is not closed".to_owned()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some('"') => break,
                        Some('\\') => match letters.next() {
                            Some(letter @ ('"' | '\\' | '$' | '`')) => word.push(letter),
                            Some('\n') => {}
                            Some(letter) => word.extend(['\\', letter]),
                            None => return Err("a \" is not closed".to_owned()),
                        },
                        Some(letter) => word.push(letter),
                        None => return Err("a \" is not closed".to_owned()),
                    }
                }
            }
            '\\' => match letters.next() {
                Some('\n') => {}
                Some(letter) => word.get_or_insert_default().push(letter),
                None => return Err("a \\ at the end".to_owned()),
            },
            letter if letter.is_whitespace() => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_as_a_shell_does() {
        for (text, expected) in [
            ("serve --port 80", Ok(vec!["serve", "--port", "80"])),
            ("  a\n b ", Ok(vec!["a", "b"])),
            ("sh -c 'a && b' \"\"", Ok(vec!["sh", "-c", "a && b", ""])),
            (r#"a"b c"d\ e "\"\n""#, Ok(vec!["ab cd e", "\"\\n"])),
            ("", Ok(vec![])),
            ("a 'b", Err("a ' is not closed")),
            ("a \"b", Err("a \" is not closed")),
            ("a \\", Err("a \\ at the end")),
        ] {
            let found = split(text);
            let expected = expected
                .map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>())
                .map_err(str::to_owned);
            assert_eq!(found, expected, "{text}");
        }
    }
}
