//! The hosts file: pure, both ways. It is written in the format of hosts(5), and its second line keeps the routers, so
//! that a dns-updater that starts while no router is registered goes on with the last known ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use mayfly_core::names::Hostname;

use crate::names::Target;

const HEAD: &str = "# Written by Mayfly's dns-updater from etcd: a change made here is lost.";
const ROUTERS: &str = "# routers:";

/// The bytes of the file. The same names and routers give the same bytes.
pub fn render(names: &BTreeMap<Hostname, Target>, routers: &BTreeSet<IpAddr>) -> String {
    let mut text = format!("{HEAD}\n{ROUTERS}");
    // Writing to a string cannot fail.
    for router in routers {
        let _ = write!(text, " {router}");
    }
    text.push('\n');
    for (host, target) in names {
        for address in &target.addresses {
            let _ = writeln!(text, "{address} {host}");
        }
    }
    text
}

/// The routers that a file was written with; none if it is not one of ours.
pub fn routers_of(text: &str) -> BTreeSet<IpAddr> {
    let line = text.lines().find_map(|line| line.strip_prefix(ROUTERS));
    line.unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names, view::View};
    use proptest::prelude::*;

    fn rendered(view: &View, routers: &[&str]) -> String {
        let routers = routers.iter().map(|text| text.parse().unwrap()).collect();
        render(
            &names::resolve(view, &"service".parse().unwrap(), &routers),
            &routers,
        )
    }

    fn check(records: &[(&str, &str)], routers: &[&str], expected: &str) {
        let mut view = View::default();
        for (key, value) in records {
            view.put(&format!("/mayfly/{key}"), value.as_bytes());
        }
        assert_eq!(rendered(&view, routers), format!("{HEAD}\n{expected}"));
    }

    #[test]
    fn nothing_is_known() {
        check(&[], &[], "# routers:\n");
    }

    #[test]
    fn services_and_static_records_in_the_order_of_their_names() {
        check(
            &[
                ("backends/frontend/0.0.1/x", r#"{"address":"10.0.0.1:80"}"#),
                ("backends/backend/0.0.1/x", r#"{"address":"10.0.0.2:80"}"#),
                ("dns/db.service", r#"{"addresses":["10.1.0.2","10.1.0.1"]}"#),
            ],
            &["10.0.0.9", "fd00::9"],
            "# routers: 10.0.0.9 fd00::9\n\
             10.0.0.9 backend.service\n\
             fd00::9 backend.service\n\
             10.1.0.1 db.service\n\
             10.1.0.2 db.service\n\
             10.0.0.9 frontend.service\n\
             fd00::9 frontend.service\n",
        );
    }

    #[test]
    fn the_routers_are_read_back() {
        let view = View::default();
        assert_eq!(routers_of(&rendered(&view, &["10.0.0.9", "fd00::9"])).len(), 2);
        assert!(routers_of("127.0.0.1 localhost\n# routers nonsense\n").is_empty());
    }

    proptest! {
        /// Whatever stands in etcd, each line after the head is an address and a host name.
        #[test]
        fn no_text_adds_a_line(
            service in "[a-z]{1,4}[ -~\\n]{0,3}",
            host in "[a-z.]{1,6}[ -~\\n#]{0,3}",
            address in "10\\.0\\.0\\.[0-9]{1,2}[ -~\\n]{0,2}",
        ) {
            let mut view = View::default();
            let quoted = serde_json::json!(address);
            view.put(&format!("/mayfly/backends/{service}/1/x"), br#"{"address":"10.0.0.1:80"}"#);
            view.put(&format!("/mayfly/dns/{host}"), format!(r#"{{"addresses":[{quoted}]}}"#).as_bytes());
            let environment = serde_json::json!({"name": "dev", "prefix": "p", "header": "h",
                "services": [{"name": service, "version": "1"}]});
            view.put("/mayfly/environments/dev", environment.to_string().as_bytes());
            let text = rendered(&view, &["10.0.0.9"]);
            prop_assert!(text.lines().skip(2).count() <= 3);
            for line in text.lines().skip(2) {
                let words: Vec<&str> = line.split(' ').collect();
                prop_assert!(words.len() == 2, "{line:?}");
                prop_assert!(words[0].parse::<IpAddr>().is_ok() && words[1].parse::<Hostname>().is_ok(), "{line:?}");
            }
        }
    }
}
