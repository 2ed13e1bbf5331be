//! Which services the overlay lets resolve `*.service`, by their network modes and servers of names.

use serde_yaml::Value;

use super::*;

/// The overlay, with the address of Mayfly's dnsmasq, and the report.
fn overlay(services: &str) -> (Value, String) {
    let mut wishes = wishes();
    wishes.dns = Some("172.31.250.53".to_owned());
    let text = format!("services:\n  web: {{image: 'w:1', ports: [80]}}\n{services}");
    let plan = import_of(&[("c.yml", &text)], &wishes).unwrap();
    (serde_yaml::from_str(&plan.overlay).unwrap(), plan.report)
}

fn dns_of<'o>(overlay: &'o Value, name: &str) -> Option<&'o str> {
    overlay["services"][name]["dns"][0].as_str()
}

fn joins(overlay: &Value, name: &str) -> bool {
    let networks = overlay["services"][name]["networks"].as_sequence();
    networks.is_some_and(|names| names.iter().any(|name| name.as_str() == Some("mayfly")))
}

const CALLS: &str = "image: 'j:1', environment: {WEB: 'http://web:80'}";

#[test]
fn the_lender_of_a_caller_s_network_resolves_for_it() {
    let services = format!(
        "  job: {{{CALLS}, network_mode: 'service:vpn'}}\n  vpn: {{image: 'v:1'}}\n  \
         next: {{{CALLS}, network_mode: 'service:job'}}\n"
    );
    let (overlay, report) = overlay(&services);
    let names = ["job", "next", "vpn"];
    assert_eq!(
        names.map(|name| dns_of(&overlay, name)),
        [None, None, Some("172.31.250.53")]
    );
    assert_eq!(names.map(|name| joins(&overlay, name)), [false, false, true]);
    assert_eq!(
        overlay["services"]["job"]["environment"]["WEB"].as_str(),
        Some("http://web.service")
    );
    assert!(!report.contains("services.job.network_mode"), "{report}");
}

#[test]
fn the_report_says_where_the_overlay_cannot_help() {
    for (mode, has_dns, part) in [
        (
            "container:gate",
            false,
            "services.job.network_mode: this service uses the network of the container `gate`, which is not in the \
             compose file: connect `gate` to the network `mayfly`, and set the `dns` of `gate` to Mayfly's dnsmasq",
        ),
        (
            "service:off",
            false,
            "services.job.network_mode: this service uses the network of the service `off`, which is not imported: \
             connect `off` to the network `mayfly`, and set the `dns` of `off` to Mayfly's dnsmasq",
        ),
        (
            "none",
            false,
            "services.job.network_mode: `none` keeps the service out of Mayfly's network, so calls of routed \
             services fail here: remove `network_mode`, and import again",
        ),
        (
            "bridge",
            false,
            "services.job.network_mode: `bridge` keeps the service out of Mayfly's network",
        ),
        (
            "host",
            true,
            "services.job.network_mode: the service is in the host's network: its calls of routed services work only if \
             the host reaches the network `mayfly`, as Linux does with an engine that runs as root",
        ),
    ] {
        let services = format!(
            "  job: {{{CALLS}, network_mode: '{mode}'}}\n  off: {{image: 'o:1', profiles: [x], ports: [81]}}\n"
        );
        let (overlay, report) = overlay(&services);
        assert_eq!(dns_of(&overlay, "job").is_some(), has_dns, "{mode}");
        assert!(!joins(&overlay, "job"), "{mode}");
        assert!(report.contains(part), "{mode}: {report}");
    }
}

#[test]
fn a_lender_with_a_mode_of_its_own() {
    let job = format!("  job: {{{CALLS}, network_mode: 'service:vpn'}}\n");
    let (on_host, report) = overlay(&format!("{job}  vpn: {{image: 'v:1', network_mode: host}}\n"));
    assert_eq!(
        ["job", "vpn"].map(|name| dns_of(&on_host, name).is_some()),
        [false, true]
    );
    assert!(report.contains("services.vpn.network_mode: the service is in the host's network"));
    // What is in the network of another service cannot run without it.
    let (with_mode, report) = overlay(&format!(
        "{job}  vpn: {{image: 'v:1', expose: [81], network_mode: bridge}}\n"
    ));
    assert!(with_mode["services"]["vpn"].is_null(), "{with_mode:?}");
    assert!(
        report.contains("services.vpn.network_mode: `bridge` keeps the service out"),
        "{report}"
    );
}

#[test]
fn own_servers_of_names_are_asked_first() {
    let place = ".dns: the engine asks the first of these servers before Mayfly's dnsmasq, so `*.service` does not \
                 resolve: remove `dns` here, and give Mayfly's dnsmasq the other servers as upstream";
    let services = format!(
        "  api: {{image: 'a:1', expose: [80], dns: 10.0.0.1}}\n  job: {{{CALLS}, dns: [10.0.0.1, 172.31.250.53]}}\n  \
         good: {{{CALLS}, dns: [172.31.250.53, 10.0.0.1]}}\n  idle: {{image: 'i:1', dns: 10.0.0.1}}\n  \
         vpn: {{image: 'v:1', dns: 10.0.0.1}}\n  in: {{{CALLS}, network_mode: 'service:vpn'}}\n"
    );
    let (overlay, report) = overlay(&services);
    for (name, has_dns, is_named) in [
        ("api", true, true),
        ("job", false, true),
        ("good", false, false),
        ("idle", false, false),
        ("vpn", true, true),
    ] {
        assert_eq!(dns_of(&overlay, name).is_some(), has_dns, "{name}");
        let said = format!("services.{name}{place}");
        assert_eq!(report.contains(&said), is_named, "{name}: {report}");
    }
}
