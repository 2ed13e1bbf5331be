//! The field `access`: who may use an environment from outside.

use std::collections::BTreeMap;

use crate::file::decode::{text, wanted};
use crate::file::{Faults, Place, fields};
use crate::outside::Network;
use crate::records::access::{ACCESS_LIMIT, Access, PasswordHash, UserName};
use crate::yaml::{Node, Value};

/// What is said of an `access` in which nobody is.
pub(super) const NAMES_NOBODY: &str = "admits nobody: set `users` or `from` in `access`, or remove \
    `access`";

/// Reads it. With a fault the environment is refused, so what comes of it then matters to nobody.
pub(super) fn access(node: &Node, place: Place<'_>, faults: &mut Faults) -> Option<Access> {
    let Value::Mapping(pairs) = &node.value else {
        let what = "a mapping with `users` or `from`, or both";
        faults.add(node.mark, place, wanted(node, what));
        return None;
    };
    let [users, from] = fields::of(pairs, place, ["users", "from"], |_| None, faults);
    let access = Access {
        users: users
            .map(|node| self::users(node, place.field("users"), faults))
            .unwrap_or_default(),
        from: from
            .map(|node| self::from(node, place.field("from"), faults))
            .unwrap_or_default(),
    };
    if users.is_none() && from.is_none() {
        faults.add(node.mark, place, NAMES_NOBODY);
    }
    Some(access)
}

fn users(node: &Node, place: Place<'_>, faults: &mut Faults) -> BTreeMap<UserName, PasswordHash> {
    let Value::Mapping(pairs) = &node.value else {
        let what = "a mapping of each user to the hash that `mayfly access` prints";
        faults.add(node.mark, place, wanted(node, what));
        return BTreeMap::new();
    };
    is_some(pairs.len(), node, place, "users", faults);
    let mut users = BTreeMap::new();
    let mut lines = BTreeMap::new();
    for (key, value) in pairs.iter().take(ACCESS_LIMIT) {
        let Some((user, mark)) = text::<UserName>(key, place, faults) else {
            continue;
        };
        let place = place.field(user.as_str());
        faults.claim(mark, place, "user", user.as_str(), &mut lines);
        if let Some((hash, _)) = text(value, place, faults) {
            users.insert(user, hash);
        }
    }
    users
}

fn from(node: &Node, place: Place<'_>, faults: &mut Faults) -> Vec<Network> {
    let Value::Sequence(items) = &node.value else {
        let what = "a list of networks, as [10.0.0.0/8, \"2001:db8::/32\"]";
        faults.add(node.mark, place, wanted(node, what));
        return Vec::new();
    };
    is_some(items.len(), node, place, "networks", faults);
    let networks = items.iter().take(ACCESS_LIMIT).enumerate();
    networks
        .filter_map(|(index, item)| Some(text(item, place.index(index), faults)?.0))
        .collect()
}

/// At least one has to be there, and not too many: each takes room in every router.
fn is_some(count: usize, node: &Node, place: Place<'_>, what: &str, faults: &mut Faults) {
    if !(1..=ACCESS_LIMIT).contains(&count) {
        let message = format!("{count} {what}, but 1 to {ACCESS_LIMIT} are allowed");
        faults.add(node.mark, place, message);
    }
}
