//! Flags that belong together, and values that are refused.

use super::*;

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(std::iter::once("haproxy-updater").chain(line.split_whitespace()))
}

#[test]
fn defaults_make_a_configuration() {
    let options = parse("").unwrap().options;
    assert_eq!(
        options.runtime_socket().unwrap().as_str(),
        "/var/lib/mayfly/haproxy/run/haproxy.sock"
    );
    assert_eq!(
        options.master_socket().unwrap().as_str(),
        "/var/lib/mayfly/haproxy/run/master.sock"
    );
    let mut arguments = parse("").unwrap();
    assert!(arguments.listens_where_advertised());
    arguments.options.internal_bind = vec![internal_bind("10.0.0.5".parse().unwrap())];
    let config = arguments
        .renderer()
        .unwrap()
        .render(4, &Default::default())
        .unwrap();
    let binds = config.text.lines().filter(|line| line.starts_with("    bind "));
    assert_eq!(
        binds.collect::<Vec<_>>(),
        ["    bind *:80", "    bind 10.0.0.5:8080"]
    );
}

#[test]
fn flags_stand_before_or_after_the_command() {
    for line in [
        "--edge-bind 127.0.0.1:8000,[::1]:8000 --slots 4 render",
        "render --edge 127.0.0.1:8000,[::1]:8000 --slots 4",
    ] {
        let arguments = parse(line).unwrap();
        assert!(matches!(arguments.command, Some(Command::Render)));
        assert_eq!(
            (arguments.options.edge_bind.len(), arguments.options.slots),
            (2, 4)
        );
    }
}

#[test]
fn tls_takes_listeners_and_certificates() {
    let error = |line: &str| {
        let line = format!("{line} --node a --internal-bind 127.0.0.1:8080");
        parse(&line).unwrap().renderer().unwrap_err().to_string()
    };
    for alone in ["--edge-tls-bind *:443", "--edge-certificates /c"] {
        assert!(error(alone).contains("belong together"), "{alone}");
    }
    assert!(error("--redirect-to-https").contains("needs --edge-tls-bind"));
}

#[test]
fn distrust_is_a_time_or_nothing() {
    for (line, seconds) in [("", 10), ("--distrust 1min", 60), ("--distrust 0", 0)] {
        let found = parse(line).unwrap().options.distrust;
        assert_eq!(found, Duration::from_secs(seconds), "{line}");
    }
    let error = parse("--distrust never").unwrap_err().to_string();
    assert!(error.contains("looks like 15s"), "{error}");
}

#[test]
fn values_that_would_break_haproxy_cfg_are_refused() {
    for flag in [
        "--edge-bind=*:80\n",
        "--edge-tls-bind=*:443 ssl",
        "--internal-bind=80",
        "--edge-health-path=health",
        "--runtime-socket=/a\"b",
        "--domain=a;b",
        "--default-environment=A",
        "--share-links=some",
        "--slots=0",
        "--max-addresses=32769",
        "--allow-address=*",
        "--allow-address=10.0.0.1/8",
        "--tunnel-timeout=0s",
        "--verify=0s",
        "--advertise=a b",
    ] {
        let parsed = Arguments::try_parse_from(["haproxy-updater", flag]);
        assert!(parsed.is_err(), "{flag}");
    }
    let mut options = parse("").unwrap().options;
    options.dir = "/tmp/a b".into();
    assert!(options.dir().is_err());
}
