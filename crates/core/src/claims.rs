//! Who gets a name, prefix or header that several files claim and nobody has yet: all of them are new, or etcd has lost its
//! data. The registrar and `lint` ask here, so that they blame the same file.
//!
//! A protected environment comes first: a rival that waited in vain must not have production's prefix after a loss of data.
//! Then the name of the file decides. The age of a file would not: an edit makes it new, a checkout makes all equally old, and
//! a check of the same files elsewhere would come to another result.

use crate::records::Environment;

/// The place of an environment of this file in the order in which claims are taken, the first first.
pub fn precedence<'a>(environment: &Environment, file: &'a str) -> (bool, &'a str) {
    (!environment.protected, file)
}
