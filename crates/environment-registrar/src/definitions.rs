//! What is particular to service definitions, which are in a directory of their own. A definition
//! has no lease, no history and no archive, and goes only with its file. Definitions are few, so
//! every change goes through all of them.
//!
//! [`merge`] decides which of them should be in etcd.

use std::sync::Arc;

use mayfly_core::definition_file::{self, FoundDefinition, ParsedDefinitions};
use mayfly_core::keys::{Key, KeyRange, KeySpace};
use mayfly_core::names::ServiceName;
use mayfly_core::records::definition::Definition;
use mayfly_core::records::{self, Record, Source};
use mayfly_core::yaml::Mark;
use mayfly_daemon::environments::Written;
use mayfly_daemon::store::{Guard, LeaseId, Store, StoreError};

use crate::resource::{self, Part, Resource};

mod merge;

pub use merge::{MergedDefinitions, QUOTA};

/// The kind of service definitions.
#[derive(Debug, Clone, Default)]
pub struct Definitions;

pub type DefinitionEntry = resource::FileRecord<Definitions>;

impl Resource for Definitions {
    type Name = ServiceName;
    type Record = Definition;
    type Life = ();
    type Found = FoundDefinition;
    /// The place of the name.
    type Marks = Mark;

    const NOUN: &'static str = "service definitions";
    const METRIC: &'static str = "definition";
    // No file of an environment has a slash in its name.
    const FOLDER: &'static str = "services/";
    const IS_OPTIONAL: bool = true;

    fn parse(content: &[u8]) -> ParsedDefinitions {
        definition_file::parse(content)
    }

    fn split(found: FoundDefinition, source: Source) -> (Definition, Mark) {
        let definition = Definition {
            source: Some(source),
            ..found.definition
        };
        (definition, found.name)
    }

    fn name(definition: &Definition) -> &ServiceName {
        &definition.name
    }

    fn source(definition: &Definition) -> Option<&Source> {
        definition.source.as_ref()
    }

    fn title(name: &ServiceName) -> String {
        format!("the definition of service {name}")
    }

    fn range(keyspace: &KeySpace) -> KeyRange {
        keyspace.definitions()
    }

    fn key(name: ServiceName, _: Part) -> Key {
        Key::Definition(name)
    }

    fn of_key(key: Key) -> Option<(ServiceName, Part)> {
        match key {
            Key::Definition(name) => Some((name, Part::Record)),
            _ => None,
        }
    }

    fn of_record(record: Record) -> Option<(Arc<Definition>, Option<()>)> {
        match record {
            Record::Definition(definition) => Some((Arc::new(definition), Some(()))),
            _ => None,
        }
    }

    async fn put(
        store: &Store,
        definition: &Definition,
        (): &(),
        (guard, _): (Guard, Option<LeaseId>),
    ) -> Result<Option<Written>, StoreError> {
        let key = Key::Definition(definition.name.clone());
        let put = store
            .put_if(&key, records::to_json(definition), None, guard)
            .await?;
        Ok(put.map(|revision| Written {
            revision,
            lease: None,
        }))
    }

    async fn delete(store: &Store, name: &ServiceName, guard: Guard, _: bool) -> Result<bool, StoreError> {
        store.delete_if(&Key::Definition(name.clone()), guard).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actual::{Actual, Owner};
    use crate::desired::files::Files;
    use crate::files_in::scan::{Content, FoundFile};
    use mayfly_core::keys::KeySpace;
    use mayfly_core::records::SetAsides;
    use mayfly_daemon::store::Entry as Stored;
    use mayfly_daemon::watch::{Batch, Change};

    #[test]
    fn a_file_says_what_it_defines_and_what_it_may_be_about() {
        let mut files = Files::<Definitions>::new("us".parse().unwrap());
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut take = |content| {
            let fingerprint = None;
            let found = FoundFile { fingerprint, content };
            files.update("f.yaml", Some(found));
            files.get("f.yaml").unwrap().clone()
        };
        let text = "- {name: a, image: 'a:{{ version }}', port: 80}\n- {name: b}\n";
        let document = take(Content::Bytes(text.as_bytes().to_vec()));
        let entry = document.entry(&a).unwrap();
        let source = entry.record.source.as_ref().unwrap();
        assert_eq!(
            (source.registrar.as_str(), source.file.as_str()),
            ("us", "f.yaml")
        );
        assert_eq!((entry.marks.line, document.faults().len()), (1, 2));
        assert!(document.may_hold(&b) && !document.may_hold(&a));
        assert!(take(Content::Unreadable("no".to_owned())).may_hold(&a));
    }

    #[test]
    fn whose_a_definition_is() {
        let definition =
            |source: &str| format!(r#"{{"name": "a", "image": "a:{{{{ version }}}}", "port": 80{source}}}"#);
        let of = |node: &str| format!(r#", "source": {{"registrar": "{node}", "file": "a.yaml"}}"#);
        let newer = r#"{"source": {"registrar": "us", "file": "a.yaml"}, "newer": 1}"#;
        let other = |who: &str| Owner::Other(who.to_owned());
        let name: ServiceName = "a".parse().unwrap();
        let mut actual = Actual::<Definitions>::new(KeySpace::default(), "us".parse().unwrap());
        for (revision, value, owner) in [
            (2, definition(&of("us")), Owner::Us),
            (3, definition(&of("them")), other("the registrar of node them")),
            (4, definition(""), other("a program other than a registrar")),
            (5, "no JSON".to_owned(), Owner::Nobody),
            (6, newer.to_owned(), Owner::Us),
        ] {
            let entry = Stored {
                key: String::new(),
                value: value.as_bytes().to_vec(),
                create_revision: revision,
                mod_revision: revision,
                lease: None,
            };
            let changes = vec![Change::of(Key::Definition(name.clone()), &entry)];
            let (listed, set_aside) = (false, SetAsides::default());
            actual.update(Batch {
                revision,
                listed,
                changes,
                set_aside,
            });
            assert_eq!(actual.records()[&name].owner, owner, "{value}");
        }
    }
}
