//! The bytes of the hosts file. Pure: the same view gives the same bytes. Every part of a line is
//! the text of a checked type, so nothing in etcd can add a line. The head keeps the routers, for a
//! restart while none is live.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::desired::DnsView;

const NOTICE: &str = "# Written by dns-updater of Mayfly from etcd; changes by others are undone.";
const ROUTERS: &str = "# routers:";

/// Renders the hosts file of a view: sorted by name, then by address.
pub fn render(view: &DnsView) -> String {
    let mut text = format!("{NOTICE}\n{ROUTERS}");
    for router in view.routers() {
        line(&mut text, format_args!(" {router}"));
    }
    text.push('\n');
    for (host, addresses) in view.names() {
        for address in addresses {
            line(&mut text, format_args!("{address} {host}\n"));
        }
    }
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(arguments);
}

/// The routers of a file that was rendered before; none if another program wrote it.
pub fn routers_of(text: &str) -> BTreeSet<IpAddr> {
    let head = text
        .lines()
        .find_map(|line| line.strip_prefix(ROUTERS))
        .unwrap_or_default();
    head.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests {
    use mayfly_core::keys::KeySpace;
    use mayfly_core::names::Hostname;
    use mayfly_daemon::store::Entry;
    use mayfly_daemon::watch::{Batch, Change};
    use proptest::prelude::*;

    use super::*;

    fn view(last_routers: BTreeSet<IpAddr>) -> DnsView {
        DnsView::new("service".parse().unwrap(), last_routers)
    }

    /// A key of etcd and its value; without one, its end.
    type TestChange = (String, Option<String>);

    fn put(key: &str, value: &str) -> TestChange {
        (key.to_owned(), Some(value.to_owned()))
    }

    fn delete(key: &str) -> TestChange {
        (key.to_owned(), None)
    }

    impl DnsView {
        fn apply(&mut self, change: &TestChange) {
            self.apply_all(std::slice::from_ref(change));
        }

        /// Takes what the watch makes of this.
        fn apply_all(&mut self, given: &[TestChange]) {
            let mut set_aside = self.unreadable.clone();
            let mut changes = Vec::new();
            for (key, value) in given {
                let text = format!("/mayfly/{key}");
                set_aside.remove(&text);
                let key = match KeySpace::default().parse(&text) {
                    Ok(key) => key,
                    Err(error) => {
                        if value.is_some() {
                            set_aside.insert(text, error.to_string());
                        }
                        continue;
                    }
                };
                let Some(value) = value else {
                    changes.push(Change::Gone(key));
                    continue;
                };
                let entry = Entry {
                    key: text.clone(),
                    value: value.as_bytes().to_vec(),
                    create_revision: 1,
                    mod_revision: 1,
                    lease: None,
                };
                let change = Change::of(key, &entry);
                if let Change::Unreadable(unreadable) = &change {
                    set_aside.insert(text, unreadable.reason.clone());
                }
                changes.push(change);
            }
            self.take(Batch {
                revision: 1,
                listed: false,
                changes,
                set_aside,
            });
        }
    }

    /// The lines below the head.
    fn lines(view: &DnsView) -> Vec<String> {
        render(view).lines().skip(2).map(str::to_owned).collect()
    }

    const INSTANCE: &str = r#"{"address": "10.0.0.5:80"}"#;
    const ROUTER: &str = r#"{"address": "10.0.0.1"}"#;

    #[test]
    fn a_service_lives_as_long_as_anything_names_it() {
        let mut view = view(BTreeSet::new());
        let environment = r#"{"name": "dev", "prefix": "www-dev", "header": "dev", "services": [{"name": "a", "version": "1"}]}"#;
        for change in [
            put("routers/n", ROUTER),
            put("environments/dev", environment),
            put("backends/a/1/x", INSTANCE),
            put("backends/a/1/x", INSTANCE),
            put("backends/b/1/y", INSTANCE),
        ] {
            view.apply(&change);
        }
        assert_eq!(lines(&view), ["10.0.0.1 a.service", "10.0.0.1 b.service"]);
        view.apply(&delete("environments/dev"));
        view.apply(&delete("backends/b/1/y"));
        assert_eq!(lines(&view), ["10.0.0.1 a.service"]);
        view.apply(&delete("backends/a/1/x"));
        view.apply(&delete("backends/a/1/x"));
        assert!(lines(&view).is_empty());
    }

    #[test]
    fn the_last_router_s_address_stays_when_it_goes_and_over_a_restart() {
        let mut before = view(BTreeSet::new());
        before.apply(&put("backends/a/1/x", INSTANCE));
        assert!(lines(&before).is_empty(), "no router was ever known");
        before.apply(&put("routers/n", ROUTER));
        before.apply(&put("routers/m", r#"{"address": "fd00::1"}"#));
        before.apply(&delete("routers/n"));
        assert_eq!(
            lines(&before),
            ["fd00::1 a.service"],
            "a router that goes is left out while another lives"
        );
        before.apply(&delete("routers/m"));
        assert!(before.without_router());
        assert_eq!(lines(&before), ["fd00::1 a.service"]);

        let mut after = view(routers_of(&render(&before)));
        after.apply(&put("backends/b/1/x", INSTANCE));
        assert_eq!(lines(&after), ["fd00::1 b.service"]);
        after.apply(&put("routers/n", ROUTER));
        assert_eq!(lines(&after), ["10.0.0.1 b.service"]);
    }

    #[test]
    fn a_faulty_record_is_set_aside_and_its_last_good_value_stays() {
        let mut view = view(BTreeSet::new());
        view.apply(&put("dns/db.service", r#"{"addresses": ["10.0.0.7"]}"#));
        view.apply(&put("dns/db.service", r#"{"addresses": []}"#));
        assert_eq!(lines(&view), ["10.0.0.7 db.service"]);
        let aside = view.set_aside();
        assert_eq!(aside.len(), 1);
        assert_eq!(aside[0].key, "/mayfly/dns/db.service");
        assert!(
            aside[0].reason.contains("from 1 to 64 addresses"),
            "{}",
            aside[0].reason
        );
        view.apply(&put("dns/db.service", r#"{"addresses": ["10.0.0.8"]}"#));
        assert_eq!(
            (lines(&view), view.set_aside()),
            (vec!["10.0.0.8 db.service".to_owned()], vec![])
        );
        view.apply(&put("dns/db.service", "no JSON"));
        view.apply(&delete("dns/db.service"));
        assert_eq!((lines(&view).len(), view.set_aside()), (0, vec![]));
    }

    #[test]
    fn a_static_record_with_the_name_of_a_service_is_reported() {
        let mut view = view(BTreeSet::new());
        view.apply(&put("routers/n", ROUTER));
        view.apply(&put("dns/billing.service", r#"{"addresses": ["10.9.9.9"]}"#));
        view.apply(&put("dns/billing.example", r#"{"addresses": ["10.9.9.9"]}"#));
        assert_eq!(view.set_aside(), [], "no service loses its name");
        view.apply(&put("backends/billing/1/x", INSTANCE));
        assert_eq!(
            lines(&view),
            ["10.9.9.9 billing.example", "10.9.9.9 billing.service"]
        );
        let aside = view.set_aside();
        assert_eq!((aside.len(), aside[0].key.as_str()), (1, "service billing"));
        assert!(
            aside[0]
                .reason
                .starts_with("the static record `billing.service` has the name of this service"),
            "{aside:?}"
        );
        // A record with the addresses of the routers changes nothing.
        view.apply(&put("dns/billing.service", r#"{"addresses": ["10.0.0.1"]}"#));
        assert_eq!(view.set_aside(), []);
        view.apply(&put("dns/billing.service", r#"{"addresses": ["10.9.9.9"]}"#));
        assert_eq!(view.set_aside().len(), 1);
        view.apply(&delete("dns/billing.service"));
        assert_eq!(view.set_aside(), []);
    }

    #[test]
    fn files_of_other_programs_have_no_routers() {
        for text in ["", "10.0.0.1 a.service", "# routers: x 10.0.0 <<", "# routers"] {
            assert!(routers_of(text).is_empty(), "{text:?}");
        }
    }

    fn key() -> impl Strategy<Value = String> {
        let part = "[a-z0-9.-]{1,6}|[ -~\\n\"{};<]{0,8}";
        prop_oneof![
            part.prop_map(|host| format!("dns/{host}")),
            part.prop_map(|node| format!("routers/{node}")),
            part.prop_map(|name| format!("environments/{name}")),
            (part, part, part).prop_map(|(s, v, i)| format!("backends/{s}/{v}/{i}")),
            part.prop_map(|other| other.to_owned()),
        ]
    }

    fn value() -> impl Strategy<Value = String> {
        let text = "[0-9a-f.:]{1,12}|[ -~\\n\"{};<]{0,12}|10\\.0\\.0\\.[0-9]";
        prop_oneof![
            text.prop_map(|text| serde_json::json!({ "addresses": [text], "address": text }).to_string()),
            (text, text).prop_map(|(name, service)| {
                let services = [serde_json::json!({ "name": service, "version": "1" })];
                serde_json::json!({ "name": name, "prefix": name, "header": name, "services": services })
                    .to_string()
            }),
            text.prop_map(|text| text.to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn any_file_that_lies_there_tells_routers_or_none(text in "(# routers:|[0-9a-f.:]{1,15}|[ \n#]|\\PC){0,40}") {
            let routers = routers_of(&text);
            let rendered = render(&view(routers.clone()));
            prop_assert_eq!(routers_of(&rendered), routers);
        }

        #[test]
        fn any_entries_of_etcd_add_no_line(entries in proptest::collection::vec((key(), value()), 0..40)) {
            let mut view = view(BTreeSet::new());
            view.apply(&put("routers/good", ROUTER));
            for (key, value) in &entries {
                view.apply(&put(key, value));
            }
            let text = render(&view);
            prop_assert!(text.ends_with('\n'));
            for line in text.lines().skip(2) {
                let (address, host) = line.split_once(' ').unwrap();
                prop_assert!(address.parse::<IpAddr>().is_ok(), "{}", line);
                prop_assert!(host.parse::<Hostname>().is_ok(), "{}", line);
            }
            let head: Vec<&str> = text.lines().take(2).collect();
            prop_assert!(head[1].strip_prefix("# routers: ").unwrap().split(' ').all(|ip| ip.parse::<IpAddr>().is_ok()));
            for (key, _) in &entries {
                view.apply(&delete(key));
            }
            view.apply(&put("routers/good", ROUTER));
            prop_assert_eq!((lines(&view).len(), view.set_aside().len()), (0, 0));
        }
    }
}
