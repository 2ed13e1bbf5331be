//! A compose file as a tree: each node knows its file and place, merge keys (`<<`) are resolved,
//! and no key is there twice. What `mayfly_core::yaml` limits (length, depth, aliases) stays
//! limited, since merging moves copies that were paid for there.

use mayfly_core::yaml::{self, Limits, Mark, Node, Value, YamlError, YamlStream};

use super::faults::{ComposeFaults, Spot};

/// One node of a compose file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ComposeNode {
    pub(super) spot: Spot,
    pub(super) value: ComposeValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ComposeValue {
    Null,
    Text(String),
    List(Vec<ComposeNode>),
    Map(Vec<KeyedNode>),
}

/// A pair of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyedNode {
    pub(super) key: String,
    /// The place of the key.
    pub(super) spot: Spot,
    pub(super) node: ComposeNode,
}

impl ComposeNode {
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            ComposeValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The pairs of a mapping.
    pub(super) fn pairs(&self) -> Option<&[KeyedNode]> {
        match &self.value {
            ComposeValue::Map(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// The value of a key, if this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&ComposeNode> {
        find(self.pairs()?, key).map(|pair| &pair.node)
    }

    /// The items of a list; of a single value that value.
    pub(super) fn items(&self) -> &[ComposeNode] {
        match &self.value {
            ComposeValue::List(items) => items,
            ComposeValue::Text(_) => std::slice::from_ref(self),
            ComposeValue::Null | ComposeValue::Map(_) => &[],
        }
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            ComposeValue::Null => "nothing",
            ComposeValue::Text(_) => "a single value",
            ComposeValue::List(_) => "a list",
            ComposeValue::Map(_) => "a mapping",
        }
    }

    /// How many nodes it has.
    pub(super) fn size(&self) -> usize {
        1 + match &self.value {
            ComposeValue::Null | ComposeValue::Text(_) => 0,
            ComposeValue::List(items) => items.iter().map(Self::size).sum(),
            ComposeValue::Map(pairs) => pairs.iter().map(|pair| pair.node.size()).sum(),
        }
    }
}

/// The pair with this key.
pub(super) fn find<'p>(pairs: &'p [KeyedNode], key: &str) -> Option<&'p KeyedNode> {
    pairs.iter().find(|pair| pair.key == key)
}

/// Whether a key is an extension, which compose ignores.
pub(super) fn is_extension(key: &str) -> bool {
    key.starts_with("x-")
}

/// The pairs at the top of a compose file, without extensions; nothing if there is a fault.
pub(super) fn read(text: &str, file: usize, faults: &mut ComposeFaults) -> Option<Vec<KeyedNode>> {
    let before = faults.count();
    let stream = read_leniently(text);
    for error in stream.errors {
        faults.add(
            Spot {
                file,
                mark: error.mark,
            },
            "",
            error.message,
        );
    }
    let start = Spot {
        file,
        mark: Mark::START,
    };
    let mut documents = stream.documents.into_iter();
    let document = documents.next();
    if let Some(second) = documents.next() {
        let spot = Spot {
            file,
            mark: second.mark,
        };
        faults.add(
            spot,
            "",
            "a second YAML document: a compose file has one, so split the file",
        );
    }
    if faults.count() > before {
        return None;
    }
    let Some(document) = document else {
        faults.add(start, "", "the file is empty: it needs `services`");
        return None;
    };
    let Value::Mapping(pairs) = document.value else {
        let spot = Spot {
            file,
            mark: document.mark,
        };
        faults.add(spot, "", "a compose file is a mapping with `services`");
        return None;
    };
    // Extensions may hold tags and forms that only their own tools know. An anchor in them is
    // copied to where it is used already.
    let pairs = pairs.into_iter().filter(|(key, _)| match &key.value {
        Value::Scalar { text, .. } => !is_extension(text),
        _ => true,
    });
    let pairs = map(pairs.collect(), file, "", faults);
    (faults.count() == before).then_some(pairs)
}

/// Most lines that are indented for a file.
const INDENTED: usize = 100;

/// Reads YAML. A list or mapping in brackets may end in a line that is indented less than YAML
/// demands, as the parser of compose accepts it; such a line is indented first.
fn read_leniently(text: &str) -> YamlStream {
    let mut text = text.to_owned();
    let mut stream = yaml::read(&text, Limits::default());
    for _ in 0..INDENTED {
        let Some(error) = stream.errors.first() else { break };
        let Some(indented) = indented(&text, error) else {
            break;
        };
        text = indented;
        stream = yaml::read(&text, Limits::default());
    }
    stream
}

/// The text with the line of an error indented far enough, if it only ends what is in brackets.
fn indented(text: &str, error: &YamlError) -> Option<String> {
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    let line = lines.get_mut(error.mark.line.checked_sub(1)?)?;
    let ends = error.message.contains("invalid indentation") && line.trim_start().starts_with([']', '}']);
    let deep = format!("{:80}{line}", "");
    // Indented once already, that was not what is wrong with it.
    let is_new = ends && !line.starts_with(&deep[..80]);
    *line = &deep;
    is_new.then(|| lines.concat())
}

fn node(node: Node, file: usize, path: &str, faults: &mut ComposeFaults) -> ComposeNode {
    let spot = Spot {
        file,
        mark: node.mark,
    };
    let is_null = node.is_null();
    let value = match node.value {
        Value::Scalar { .. } if is_null => ComposeValue::Null,
        Value::Scalar { text, .. } => ComposeValue::Text(text),
        Value::Sequence(items) => {
            let items = items.into_iter().enumerate();
            let items = items.map(|(at, item)| self::node(item, file, &format!("{path}[{at}]"), faults));
            ComposeValue::List(items.collect())
        }
        Value::Mapping(pairs) => ComposeValue::Map(map(pairs, file, path, faults)),
        Value::Refused(reason) => {
            faults.add(spot, path, reason);
            ComposeValue::Null
        }
    };
    ComposeNode { spot, value }
}

fn map(pairs: Vec<(Node, Node)>, file: usize, path: &str, faults: &mut ComposeFaults) -> Vec<KeyedNode> {
    let (mut own, mut merged): (Vec<KeyedNode>, Vec<KeyedNode>) = (Vec::new(), Vec::new());
    let mut lines = std::collections::BTreeMap::new();
    for (key, value) in pairs {
        let spot = Spot { file, mark: key.mark };
        let (text, plain) = match key.value {
            Value::Scalar { text, plain } => (text, plain),
            _ => {
                faults.add(spot, path, "a key has to be a single value");
                continue;
            }
        };
        let below = if path.is_empty() {
            text.clone()
        } else {
            format!("{path}.{text}")
        };
        let node = self::node(value, file, &below, faults);
        if plain && text == "<<" {
            merged.extend(merge_key(node, &below, faults));
            continue;
        }
        if let Some(line) = lines.insert(text.clone(), spot.mark.line) {
            faults.add(
                spot,
                &below,
                format!("the key is there twice, first on line {line}: delete one of the two"),
            );
            continue;
        }
        own.push(KeyedNode {
            key: text,
            spot,
            node,
        });
    }
    for pair in merged {
        // Own keys win, and of several merged mappings the first.
        if lines.insert(pair.key.clone(), 0).is_none() {
            own.push(pair);
        }
    }
    own
}

/// The pairs that a merge key brings.
fn merge_key(node: ComposeNode, path: &str, faults: &mut ComposeFaults) -> Vec<KeyedNode> {
    let mappings = match node.value {
        ComposeValue::List(items) => items,
        _ => vec![node],
    };
    let mut pairs = Vec::new();
    for mapping in mappings {
        match mapping.value {
            ComposeValue::Map(more) => pairs.extend(more),
            ComposeValue::Null => {}
            _ => {
                let message = format!("{} where there should be a mapping to merge", mapping.kind());
                faults.add(mapping.spot, path, message);
            }
        }
    }
    pairs
}
