//! Which services call others without saying which environment they mean: a part of a router's
//! status record, which `mayfly status` reads. The router knows them by their addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::names::ServiceName;
use crate::records::Status;
use crate::version::{BackendId, Version};

/// The field of a status record's `detail` that holds them.
pub const FIELD: &str = "lost_headers";
/// Callers that a record names at most: etcd takes 1.5 MB, and nobody reads more.
pub const MOST: usize = 50;
/// Backends of one address that are named at most.
const MOST_OF_ADDRESS: usize = 10;

/// A caller, as far as its address tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Caller {
    /// All instances at the address are of one service at one version.
    Backend {
        /// The service.
        service: ServiceName,
        /// Its version.
        version: Version,
    },
    /// Several services share the address, as those of a host do.
    Address {
        /// Where the calls come from.
        address: IpAddr,
        /// The first of those that have instances there.
        one_of: Vec<BackendId>,
        /// How many more there are.
        #[serde(default, skip_serializing_if = "crate::records::is_default")]
        more: usize,
    },
}

impl Caller {
    /// Who calls from an address, if these are all that have instances there; `None` for a client
    /// that is no instance.
    pub fn at<'a>(address: IpAddr, backends: impl IntoIterator<Item = &'a BackendId>) -> Option<Self> {
        let mut one_of: Vec<BackendId> = backends.into_iter().cloned().collect();
        one_of.sort();
        one_of.dedup();
        if one_of.len() < 2 {
            let BackendId { service, version } = one_of.pop()?;
            return Some(Self::Backend { service, version });
        }
        let more = one_of.len().saturating_sub(MOST_OF_ADDRESS);
        one_of.truncate(MOST_OF_ADDRESS);
        Some(Self::Address {
            address,
            one_of,
            more,
        })
    }

    /// Where it is known by its address alone, that.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Backend { .. } => None,
            Self::Address { address, .. } => Some(*address),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend { service, version } => write!(f, "{service}@{version}"),
            Self::Address {
                address,
                one_of,
                more,
            } => {
                let names: Vec<String> = one_of.iter().map(BackendId::to_string).collect();
                write!(f, "one of {}", names.join(", "))?;
                if *more > 0 {
                    write!(f, " and {more} more")?;
                }
                write!(f, " at {address}")
            }
        }
    }
}

/// How many calls of the last ten minutes said no environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostHeader {
    /// Who called.
    #[serde(flatten)]
    pub caller: Caller,
    /// How often.
    pub calls: u64,
}

impl LostHeader {
    /// Those that a status record reports.
    pub fn of(status: &Status) -> Vec<Self> {
        let all = status.detail.get(FIELD).and_then(|all| all.as_array());
        let readable = |one: &serde_json::Value| serde_json::from_value(one.clone()).ok();
        all.into_iter().flatten().filter_map(readable).collect()
    }

    /// The sum of what several routers count, each its own calls; the most frequent callers first.
    pub fn sum(all: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut sums: BTreeMap<Caller, u64> = BTreeMap::new();
        for Self { caller, calls } in all {
            let sum = sums.entry(caller).or_default();
            *sum = sum.saturating_add(calls);
        }
        let mut sums: Vec<Self> = sums
            .into_iter()
            .map(|(caller, calls)| Self { caller, calls })
            .collect();
        sums.sort_by_key(|one| std::cmp::Reverse(one.calls));
        sums
    }
}

impl fmt::Display for LostHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = if self.calls == 1 { "call" } else { "calls" };
        let Self { caller, calls: count } = self;
        write!(
            f,
            "{caller} dropped the header in {count} {calls} in the last 10 min"
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn caller(backends: &[&str]) -> Option<Caller> {
        let backends: Vec<BackendId> = backends.iter().map(|text| text.parse().unwrap()).collect();
        Caller::at("10.0.0.7".parse().unwrap(), &backends)
    }

    #[test]
    fn a_caller_is_named_as_far_as_its_address_tells() {
        let words = |backends| caller(backends).map(|caller| LostHeader { caller, calls: 41 }.to_string());
        assert_eq!(words(&[]), None);
        assert_eq!(
            words(&["orders@1.2", "orders@1.2"]).unwrap(),
            "orders@1.2 dropped the header in 41 calls in the last 10 min"
        );
        assert_eq!(
            words(&["web@3", "orders@1.2"]).unwrap(),
            "one of orders@1.2, web@3 at 10.0.0.7 dropped the header in 41 calls in the last 10 min"
        );
        let many: Vec<String> = (10..30).map(|n| format!("s{n}@1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let many = words(&many).unwrap();
        assert!(many.contains("s19@1 and 10 more at 10.0.0.7 dropped"), "{many}");
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let all = [
            LostHeader {
                caller: caller(&["orders@1.2"]).unwrap(),
                calls: 1,
            },
            LostHeader {
                caller: caller(&["a@1", "b@2"]).unwrap(),
                calls: 3,
            },
        ];
        let mut status = Status::default();
        let value = serde_json::to_value(&all).unwrap();
        assert_eq!(
            value,
            json!([{"service": "orders", "version": "1.2", "calls": 1},
                {"address": "10.0.0.7", "one_of": ["a@1", "b@2"], "calls": 3}])
        );
        status.detail.insert(FIELD.to_owned(), value);
        assert_eq!(LostHeader::of(&status), all);
        // What a newer router says in a way that this program cannot read.
        status.detail[FIELD][1] = json!({"unknown": true});
        assert_eq!(LostHeader::of(&status), all[..1]);
        assert_eq!(LostHeader::of(&Status::default()), []);
    }

    #[test]
    fn routers_are_summed() {
        let one = |backend: &str, calls| LostHeader {
            caller: caller(&[backend]).unwrap(),
            calls,
        };
        let sum = LostHeader::sum([one("a@1", 3), one("b@1", 9), one("a@2", 1), one("a@1", 7)]);
        assert_eq!(sum, [one("a@1", 10), one("b@1", 9), one("a@2", 1)]);
    }
}
