//! The events of saphyr-parser become nodes, within a budget: what a text may cost is counted, not
//! estimated, and an alias costs as much as the text that it stands for.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::mistakes::explain;
use super::{Limits, Mark, Node, Value, YamlError};

/// What a text may still cost.
pub(super) struct Budget {
    nodes: usize,
    copied: usize,
    limits: Limits,
}

/// Why reading stopped.
pub(super) enum ReadFailure {
    /// The document is lost, the next one may be good.
    Document(YamlError),
    /// What the text may cost is used up.
    Text(YamlError),
}

impl From<YamlError> for ReadFailure {
    fn from(error: YamlError) -> Self {
        Self::Document(error)
    }
}

/// The size of a subtree: nodes, bytes of text, levels.
type Size = (usize, usize, usize);

impl Budget {
    pub(super) fn of(limits: Limits) -> Self {
        Self {
            nodes: limits.nodes,
            copied: limits.bytes,
            limits,
        }
    }

    /// Takes off what a copy of a subtree costs.
    fn pay(&mut self, (nodes, bytes, _): Size, mark: Mark) -> Result<(), ReadFailure> {
        match (self.nodes.checked_sub(nodes), self.copied.checked_sub(bytes)) {
            (Some(nodes), Some(copied)) => {
                (self.nodes, self.copied) = (nodes, copied);
                Ok(())
            }
            _ => {
                let message = "the aliases expand to too much text: write the values out".to_owned();
                Err(ReadFailure::Text(YamlError { mark, message }))
            }
        }
    }

    fn too_deep(&self, mark: Mark) -> YamlError {
        let message = format!(
            "too many levels of nesting: at most {} are allowed",
            self.limits.depth
        );
        YamlError { mark, message }
    }
}

/// Reads documents from the events of the parser.
pub(super) struct Reader<'text> {
    parser: Parser<'text, StrInput<'text>>,
    text: &'text str,
    lines_before: usize,
    /// The finished subtrees that an alias may stand for.
    anchors: HashMap<usize, (Node, Size)>,
    /// The newest anchor, and the newest of the documents before: the parser counts them through.
    newest_anchor: usize,
    newest_before: usize,
}

impl<'text> Reader<'text> {
    pub(super) fn new(text: &'text str, lines_before: usize) -> Self {
        Self {
            parser: Parser::new_from_str(text),
            text,
            lines_before,
            anchors: HashMap::new(),
            newest_anchor: 0,
            newest_before: 0,
        }
    }

    /// Appends every whole document; stops at the first that is none.
    pub(super) fn read_all(
        &mut self,
        budget: &mut Budget,
        documents: &mut Vec<Node>,
    ) -> Result<(), ReadFailure> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), _) => {
                    self.anchors.clear();
                    self.newest_before = self.newest_anchor;
                    let (event, mark) = self.next()?;
                    let (node, _) = self.node(event, mark, 0, budget)?;
                    // Only once its end is seen is a document whole.
                    self.next()?;
                    if !node.is_null() {
                        documents.push(node);
                    }
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'text>, Mark), YamlError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.mark(&span))),
            Some(Err(error)) => Err(self.error(&error)),
            None => Ok((Event::StreamEnd, Mark::START)),
        }
    }

    fn mark(&self, span: &Span) -> Mark {
        Mark {
            line: span.start.line().max(1) + self.lines_before,
            column: span.start.col() + 1,
        }
    }

    fn error(&self, error: &ScanError) -> YamlError {
        let (marker, reason) = (error.marker(), error.info());
        let mark = Mark {
            line: marker.line().max(1),
            column: marker.col() + 1,
        };
        // The parser looks ahead and has a limit of its own, above ours.
        let (mark, message) = if reason.contains("recursion limit") {
            (mark, "too many levels of nesting".to_owned())
        } else {
            explain(self.text, mark, reason)
        };
        let line = mark.line + self.lines_before;
        YamlError {
            mark: Mark { line, ..mark },
            message,
        }
    }

    fn node(
        &mut self,
        event: Event<'text>,
        mark: Mark,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<(Node, Size), ReadFailure> {
        if budget.nodes == 0 {
            let message = format!("too many values: at most {} are allowed", budget.limits.nodes);
            return Err(ReadFailure::Text(YamlError { mark, message }));
        }
        budget.nodes -= 1;
        if depth >= budget.limits.depth && matches!(event, Event::SequenceStart(..) | Event::MappingStart(..))
        {
            return Err(budget.too_deep(mark).into());
        }
        let (value, anchor, size) = match event {
            Event::Alias(anchor) => return self.alias(anchor, mark, depth, budget),
            Event::Scalar(text, style, anchor, tag) => {
                let bytes = text.len();
                let plain = style == ScalarStyle::Plain;
                let value = match refused_tag(tag.as_deref(), &["str", "int", "float", "bool", "null"]) {
                    Some(reason) => Value::Refused(reason),
                    None => Value::Scalar {
                        text: text.into_owned(),
                        plain,
                    },
                };
                (value, anchor, (1, bytes, 0))
            }
            Event::SequenceStart(anchor, tag) => {
                let mut items = Vec::new();
                let mut size = (1, 0, 0);
                loop {
                    let (event, mark) = self.next()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    let (item, item_size) = self.node(event, mark, depth + 1, budget)?;
                    items.push(item);
                    size = grown(size, item_size);
                }
                let refused = refused_tag(tag.as_deref(), &["seq"]);
                (
                    refused.map_or(Value::Sequence(items), Value::Refused),
                    anchor,
                    size,
                )
            }
            Event::MappingStart(anchor, tag) => {
                let mut pairs = Vec::new();
                let mut size = (1, 0, 0);
                loop {
                    let (event, mark) = self.next()?;
                    if event == Event::MappingEnd {
                        break;
                    }
                    let (key, key_size) = self.node(event, mark, depth + 1, budget)?;
                    let (event, mark) = self.next()?;
                    let (value, value_size) = self.node(event, mark, depth + 1, budget)?;
                    pairs.push((key, value));
                    size = grown(grown(size, key_size), value_size);
                }
                let refused = refused_tag(tag.as_deref(), &["map"]);
                (
                    refused.map_or(Value::Mapping(pairs), Value::Refused),
                    anchor,
                    size,
                )
            }
            other => {
                let message = format!("not YAML: a value was expected, not {other:?}");
                return Err(YamlError { mark, message }.into());
            }
        };
        let node = Node { mark, value };
        if anchor > 0 {
            // An anchor costs one copy of what it names, aliased or not.
            budget.pay(size, mark)?;
            self.anchors.insert(anchor, (node.clone(), size));
            self.newest_anchor = self.newest_anchor.max(anchor);
        }
        Ok((node, size))
    }

    /// An alias becomes a copy of what it stands for, paid for like text: a few lines can't become
    /// millions of nodes.
    fn alias(
        &mut self,
        anchor: usize,
        mark: Mark,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<(Node, Size), ReadFailure> {
        let Some((node, size)) = self.anchors.get(&anchor) else {
            let reason = if anchor <= self.newest_before {
                "an alias of an earlier document: write the value out, or put both in one document"
            } else {
                "an alias inside the value that it stands for: write the value out"
            };
            return Ok((
                Node {
                    mark,
                    value: Value::Refused(reason.to_owned()),
                },
                (1, 0, 0),
            ));
        };
        let size = *size;
        if depth + size.2 > budget.limits.depth {
            return Err(budget.too_deep(mark).into());
        }
        budget.pay(size, mark)?;
        // Faults inside are reported where the alias stands: that is the place to mend for this
        // environment.
        Ok((
            Node {
                mark,
                value: node.value.clone(),
            },
            size,
        ))
    }
}

fn grown(size: Size, child: Size) -> Size {
    (size.0 + child.0, size.1 + child.1, size.2.max(child.2 + 1))
}

/// The reason to refuse a tag, unless it is one of the core ones that fit this kind of node.
fn refused_tag(tag: Option<&Tag>, allowed: &[&str]) -> Option<String> {
    let tag = tag?;
    let core = tag.is_yaml_core_schema() && allowed.contains(&tag.suffix.as_str());
    let non_specific = tag.handle.is_empty() && tag.suffix == "!";
    (!core && !non_specific).then(|| format!("the tag `{tag}` is not supported: leave it out"))
}
