//! The text of an environment file becomes environments: see [`mod@crate::file`] for what holds for
//! every file.
//!
//! The chain: an entry of the file, `decode` (one environment from one mapping), and here what
//! concerns the whole file: nothing may occur twice in it. The way back, from a record to the text
//! of a file, is [`to_yaml`].

use std::collections::BTreeMap;

mod access;
mod decode;
mod write;

pub use write::{access_to_yaml, list_to_yaml, to_yaml};

use crate::file::{self, Faults, Place, RECORD_LIMIT, Subject, Taken};
use crate::names::EnvironmentName;
use crate::records::{self, Environment};
use crate::upstream::Upstream;
use crate::yaml::{Mark, Node};

/// An environment of a file, without a source, and where the file says what must be unique over all
/// environments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundEnvironment {
    /// The environment, with all defaults filled in.
    pub environment: Environment,
    /// The place of its name.
    pub name: Mark,
    /// The place of its prefix; of its name, if the prefix is the default.
    pub prefix: Mark,
    /// The place of its header; of its name, if the header is the default.
    pub header: Mark,
    /// The addresses of external services, in the order of the file.
    pub addresses: Vec<NamedAddress>,
}

/// Where a file names the address of an external service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAddress {
    /// The address.
    pub upstream: Upstream,
    /// Its place.
    pub mark: Mark,
    /// The path of fields to it.
    pub field: String,
}

/// What an environment file says.
pub type ParsedEnvironments = file::Parsed<EnvironmentName, FoundEnvironment>;

/// Reads the content of an environment file.
pub fn parse(content: &[u8]) -> ParsedEnvironments {
    let mut file = File::default();
    file::parse(content, |node, place, faults| file.take(node, place, faults))
}

/// What has been read of a file so far.
#[derive(Default)]
struct File {
    /// Where each name, prefix and header stands, also those of refused environments: mending one
    /// of two faults must not change which of two rivals is meant.
    names: BTreeMap<String, usize>,
    prefixes: BTreeMap<String, usize>,
    headers: BTreeMap<String, usize>,
}

impl File {
    fn take(
        &mut self,
        node: &Node,
        place: Place<'_>,
        faults: &mut Faults,
    ) -> Taken<EnvironmentName, FoundEnvironment> {
        let before = faults.count();
        let draft = decode::environment(node, place, faults);
        let Some((name, mark)) = draft.name.clone() else {
            return Taken::Nameless;
        };
        // Of a repeated environment the defaults are repeated too: that need not be said.
        if faults.claim(
            mark,
            place.field("name"),
            "environment",
            name.as_str(),
            &mut self.names,
        ) {
            if let Some((prefix, mark)) = &draft.prefix {
                faults.claim(
                    *mark,
                    place.field("prefix"),
                    "prefix",
                    prefix.as_str(),
                    &mut self.prefixes,
                );
            }
            if let Some((header, mark)) = &draft.header {
                faults.claim(
                    *mark,
                    place.field("header"),
                    "header",
                    header.as_str(),
                    &mut self.headers,
                );
            }
        }
        let found = draft.finish();
        let bytes = found
            .as_ref()
            .map_or(0, |found| records::to_json(&found.environment).len());
        if bytes > RECORD_LIMIT {
            let message = format!(
                "the environment takes {bytes} bytes in etcd, more than the limit of \
                 {RECORD_LIMIT}: name fewer services, and inherit the others (`extends`)"
            );
            faults.add(mark, place, message);
        }
        faults.belong_to(&Subject::Environment(name.clone()), before);
        match found {
            Some(found) if faults.count() == before => Taken::Good(found),
            _ => Taken::Refused(name),
        }
    }
}
