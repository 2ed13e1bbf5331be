//! The tree as text in one line, for scalars, documents, aliases and limits.

use super::*;

/// The tree in one line: scalars in quotes unless plain, refused nodes as `!reason`.
fn show(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, plain: true } => text.clone(),
        Value::Scalar { text, plain: false } => format!("{text:?}"),
        Value::Sequence(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Mapping(pairs) => {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(key, value)| format!("{}: {}", show(key), show(value)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Refused(reason) => format!("!{reason}"),
    }
}

fn check(text: &str, documents: &[&str], errors: &[&str]) {
    let stream = read(text, Limits::default());
    assert_eq!(
        stream.documents.iter().map(show).collect::<Vec<_>>(),
        documents,
        "{text:?}"
    );
    let found: Vec<_> = stream.errors.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), errors.len(), "{found:?}");
    for (found, expected) in found.iter().zip(errors) {
        assert!(
            found.starts_with(expected),
            "{found:?} does not begin with {expected:?}"
        );
    }
}

#[test]
fn scalars_keep_their_text() {
    check("version: 1.10", &["{version: 1.10}"], &[]);
    check(
        "[0x10, 1_000, on, ~, 'null', 2030-01-31, 1e3]",
        &["[0x10, 1_000, on, ~, \"null\", 2030-01-31, 1e3]"],
        &[],
    );
    check("\u{feff}a: !!str 1.10\r\nb: \r\n", &["{a: 1.10, b: }"], &[]);
}

#[test]
fn nothing_is_recognised_only_without_quotes() {
    let stream = read("[~, null, {a: }, '', 'null', nul]", Limits::default());
    let Value::Sequence(items) = &stream.documents[0].value else {
        panic!("no list")
    };
    let nulls: Vec<_> = items.iter().map(Node::is_null).collect();
    assert_eq!(nulls, [true, true, false, false, false, false], "{stream:?}");
}

#[test]
fn texts_without_a_value_hold_no_document() {
    for empty in [
        "",
        "\n\n",
        "# only a comment\n",
        "---\n",
        "---\n---\n...\n",
        "\u{feff}",
        "~",
    ] {
        check(empty, &[], &[]);
    }
}

#[test]
fn a_broken_document_costs_only_itself() {
    check(
        "a: 1\n---\nb: [1\n---\nc: 3\n",
        &["{a: 1}", "{c: 3}"],
        &["line 4, column 1: not YAML: "],
    );
    check("a: 'x\n---\nb: 2\n", &["{b: 2}"], &["line "]);
    check("--- [a\n---\nb: 2\n", &["{b: 2}"], &["line 2"]);
    check("a: b: c\n", &[], &["line 1, column "]);
    check("a: |\n  ---x\n ---\nb: 1", &[], &["line 3"]);
}

#[test]
fn marks_point_at_keys_and_values() {
    let stream = read("- name: dev\n  services:\n    - x\n", Limits::default());
    let Value::Sequence(items) = &stream.documents[0].value else {
        panic!("no list")
    };
    let Value::Mapping(pairs) = &items[0].value else {
        panic!("no mapping")
    };
    let place = |node: &Node| (node.mark.line, node.mark.column);
    assert_eq!(
        (place(&items[0]), place(&pairs[0].0), place(&pairs[0].1)),
        ((1, 3), (1, 3), (1, 9))
    );
    assert_eq!((place(&pairs[1].0), place(&pairs[1].1)), ((2, 3), (3, 5)));
}

#[test]
fn aliases_are_copies_and_tags_are_refused() {
    check("a: &x [1, 2]\nb: *x\n", &["{a: [1, 2], b: [1, 2]}"], &[]);
    check(
        "a: &x [*x]\n",
        &["{a: [!an alias inside the value that it stands for: write the value out]}"],
        &[],
    );
    check(
        "a: &x 1\n---\nb: *x\nc: &y [*y]\n",
        &[
            "{a: 1}",
            "{b: !an alias of an earlier document: write the value out, or put both in one document, \
             c: [!an alias inside the value that it stands for: write the value out]}",
        ],
        &[],
    );
    check(
        "a: *nobody\nb: 1\n---\nc: 1\n",
        &["{c: 1}"],
        &["line 1, column 4: not YAML: "],
    );
    check(
        "a: !include /etc/passwd\n",
        &["{a: !the tag `!include` is not supported: leave it out}"],
        &[],
    );
    check(
        "a: !!map 1\n",
        &["{a: !the tag `tag:yaml.org,2002:!map` is not supported: leave it out}"],
        &[],
    );
    check("a: ! 1\nb: !!seq [2]\n", &["{a: 1, b: [2]}"], &[]);
}

#[test]
fn alias_bombs_are_harmless() {
    let mut laughs = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n".to_owned();
    for level in 1..20 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs += &format!("a{level}: &a{level} [{inner}]\n");
    }
    check(
        &laughs,
        &[],
        &["line 6, column 10: the aliases expand to too much text"],
    );
    let long = format!(
        "a: &a {}\nb: [{}]\n",
        "x".repeat(500_000),
        vec!["*a"; 100_000].join(",")
    );
    check(
        &long,
        &[],
        &["line 2, column 8: the aliases expand to too much text"],
    );
}

#[test]
fn depth_length_and_number_of_nodes_are_limited() {
    check(&"[".repeat(33), &[], &["line 1, column 33: too many levels"]);
    check(
        &format!("{}x{}", "[".repeat(32), "]".repeat(32)),
        &[&format!("{}x{}", "[".repeat(32), "]".repeat(32))],
        &[],
    );
    check(
        &format!("{}x\n---\nb: 1", "- ".repeat(33)),
        &["{b: 1}"],
        &["line 1, column 65: too many levels"],
    );
    check(
        &format!("[{}]", "a,".repeat(300_000)),
        &[],
        &["line 1, column 500000: too many values"],
    );
    check(&" ".repeat(2_000_000), &[], &["line 1, column 1: 2000000 bytes"]);
}
