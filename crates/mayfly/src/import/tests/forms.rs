//! The forms that a compose file may have, those that it may not have, and what a short one may cost.

use super::*;

#[test]
fn routes_and_ports() {
    let text = "services:\n  api: {image: a:1, ports: ['3000:80', '81:81']}\n  web: {image: w:1, ports: ['80:8080', '53:53/udp']}\n  \
                adm: {image: x:1, ports: ['3000:9000']}\n";
    says(
        &[("c.yml", text)],
        &[
            "web: routed, and started by Mayfly: version 1, port 8080, check tcp, route /\n",
            "c.yml:3:29: services.web.ports: 3 services publish ports, and Mayfly routes `/` to this one",
            "c.yml:3:40: services.web.ports[1]: udp: Mayfly routes HTTP only",
            "c.yml:4:29: services.adm.ports: `api` publishes port 3000, too, so only one of the two services can start",
            "services.api.ports: Mayfly routes to only one port of a service, here 80, and not to 81: to choose another \
             port, set the label `mayfly.port`",
        ],
    );
    let mut wishes = wishes();
    wishes.routes = vec![
        ("api".to_owned(), "/api".parse().unwrap()),
        ("web".to_owned(), "/".parse().unwrap()),
    ];
    let plan = import_of(&[("c.yml", text)], &wishes).unwrap();
    assert!(
        plan.environment
            .contains("- name: api\n  version: '1'\n  route: /api\n- name: web"),
        "{}",
        plan.environment
    );
    wishes.routes = vec![("nobody".to_owned(), "/".parse().unwrap())];
    let faults = import_of(&[("c.yml", text)], &wishes).unwrap_err();
    assert_eq!(
        faults,
        ["c.yml:1:1: --route nobody=/: there is no service `nobody`"]
    );
}

#[test]
fn names_that_are_no_dns_labels() {
    let text = "services:\n  User_Service: {image: 'a:1', expose: [80]}\n  web: {image: 'w:1', ports: [80], environment: {A: 'http://User_Service/'}}\n";
    assert_eq!(
        definition(&[("c.yml", text)], "web"),
        "name: web\nimage: w:{{ version }}\nport: 80\ncheck: tcp\nenv:\n  A: http://user-service.service/"
    );
    says(
        &[("c.yml", text)],
        &[
            "c.yml:2:3: services.User_Service: the name is no DNS label, so the service is `user-service` in Mayfly",
        ],
    );
    fails(
        &[("c.yml", "services: {ü: {image: 'a:1', expose: [80]}}")],
        &["c.yml:1:12: services.ü: \"ü\" is not a service name"],
    );
    says(
        &[(
            "c.yml",
            "services: {a_b: {image: 'a:1', expose: [80]}, a-b: {image: 'b:1', expose: [80]}}",
        )],
        &["a-b: not imported: its name in Mayfly would be `a-b`, which is already the name of `a_b`"],
    );
}

#[test]
fn files_that_are_no_compose_files() {
    for (text, line) in [
        ("", "c.yml:1:1: the file is empty"),
        ("- a\n", "c.yml:1:1: a compose file is a mapping"),
        (
            "services: [a]\n",
            "c.yml:1:11: services: a list where there should be a mapping",
        ),
        (
            "services:\n",
            "c.yml:1:1: services: the file describes no service",
        ),
        (
            "version: '3'\n",
            "c.yml:1:1: services: the file describes no service",
        ),
        (
            "web:\n  image: a:1\n",
            "c.yml:1:1: this is the first format of compose files",
        ),
        (
            "services:\n  a: x\n",
            "c.yml:2:6: services.a: a single value where there should be a mapping",
        ),
        (
            "services:\n  a: {ports: [80]}\n",
            "c.yml:2:3: services.a: the service has neither `image` nor `build`",
        ),
        (
            "services:\n  a: {image: [x], build: .}\n",
            "c.yml:2:14: services.a.image: a list where",
        ),
        ("services:\n\ta: b\n", "c.yml:2:1: not YAML"),
        ("a: 1\n---\nb: 1\n", "c.yml:3:1: a second YAML document"),
        (
            "services: &a {b: *a}\n",
            "c.yml:1:18: services.b: an alias inside the value",
        ),
        (
            "services: {a: {image: b, ports: [99999]}}",
            "c.yml:1:34: services.a.ports[0]: `99999` is no port",
        ),
    ] {
        let faults = import(&[("c.yml", text)]).map(|plan| plan.report).unwrap_err();
        assert!(faults[0].starts_with(line), "{text:?}: {faults:?}");
    }
    fails(&[], &["c.yml:1:1: there is no such file"]);
}

#[test]
fn brackets_may_end_further_left_than_yaml_demands() {
    let text =
        "services:\n  a:\n    image: a/b:1\n    expose: [\n      80,\n    ]\n    command: [\n      x\n  ]\n";
    assert_eq!(
        definition(&[("c.yml", text)], "a"),
        "name: a\nimage: a/b:{{ version }}\nport: 80\ncheck: tcp\ncommand:\n- x"
    );
    says(&[("c.yml", "services:\n  a: [\n]]\n")], &["c.yml:3:"]);
}

#[test]
fn what_a_short_file_can_cost_is_limited() {
    let mut laughs = "x-a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n".to_owned();
    for level in 1..20 {
        laughs += &format!(
            "x-a{level}: &a{level} [{}]\n",
            vec![format!("*a{}", level - 1); 10].join(", ")
        );
    }
    fails(
        &[("c.yml", &laughs)],
        &["c.yml:6:12: the aliases expand to too much text"],
    );
    let deep = format!("services: {}", "{a: ".repeat(1000));
    says(&[("c.yml", &deep)], &["too many levels of nesting"]);
    let long = vec!["x"; 50_000].join(", ");
    let extends: String = (0..999).map(|n| format!("  s{n}: {{extends: base}}\n")).collect();
    let text = format!("services:\n  base: {{image: a, command: [{long}]}}\n{extends}");
    let faults = import(&[("c.yml", &text)]).map(|plan| plan.report).unwrap_err();
    assert!(
        faults[0].ends_with("the services that extend others expand to too much text"),
        "{faults:?}"
    );
    let chain: String = (0..200)
        .map(|n| format!("  s{n}: {{extends: s{}}}\n", n + 1))
        .collect();
    says(
        &[("c.yml", &format!("services:\n{chain}"))],
        &["more than 32 services extend one another"],
    );
    let many: String = (0..1001).map(|n| format!("  s{n}: {{image: a}}\n")).collect();
    fails(
        &[("c.yml", &format!("services:\n{many}"))],
        &["c.yml:2:3: services: there are 1001 services: at most 1000"],
    );
    let env: String = (0..10_000).map(|n| format!("A{n}: x, ")).collect();
    let text = format!("services: {{a: {{image: 'a:1', expose: [80], environment: {{{env}}}}}}}");
    says(
        &[("c.yml", &text)],
        &["more than the limit", "so the service stays in your compose file"],
    );
}

#[test]
fn paths_in_later_files_are_seen_from_the_first_file() {
    let mut wishes = wishes();
    wishes.files = vec!["shop/c.yml".into(), "shop/deploy/prod.yml".into()];
    let over = "include: [inc/i.yml]\nservices:\n  a: {volumes: ['./v:/v:ro'], env_file: a.env}\n  \
                b: {extends: {file: base/b.yml, service: b}}\n  d: {extends: {file: deploy/prod.yml, service: a}, image: 'd:1', expose: [80]}\n";
    let own = "{image: 'x:1', expose: [80], volumes: ['./v:/v:ro'], env_file: x.env}";
    let (base, included) = (
        format!("services: {{b: {own}}}"),
        format!("services: {{i: {own}}}"),
    );
    let files = [
        ("shop/c.yml", "services: {a: {image: 'a:1', ports: [80]}}"),
        ("shop/deploy/prod.yml", over),
        ("shop/base/b.yml", &base),
        ("shop/inc/i.yml", &included),
        ("shop/a.env", "OF=first\n"),
        ("shop/deploy/a.env", "OF=deploy\n"),
        ("shop/base/x.env", "OF=base\n"),
        ("shop/inc/x.env", "OF=inc\n"),
    ];
    let plan = import_of(&files, &wishes).unwrap();
    for (name, directory, of) in [
        ("a", "", "first"),
        ("b", "base/", "base"),
        ("i", "inc/", "inc"),
        // A file that is extended has its own directory, also if it is one of the given files.
        ("d", "deploy/", "deploy"),
    ] {
        let text = plan.definitions.iter().find(|(it, _)| it.as_str() == name);
        let (_, text) = text.unwrap_or_else(|| panic!("{name}: {}", plan.report));
        let volume = format!("- /srv/shop/shop/{directory}v:/v\n");
        assert!(
            text.contains(&volume) && text.contains(&format!("OF: {of}\n")),
            "{text}"
        );
    }
    // Several paths of one `include` are seen from the first one, too.
    wishes.files = vec!["c.yml".into()];
    let files = [
        (
            "c.yml",
            "include: [{path: [x/i.yml, y/j.yml]}]\nservices: {w: {image: w}}",
        ),
        ("x/i.yml", "services: {i: {image: 'i:1', ports: [80]}}"),
        ("y/j.yml", "services: {i: {volumes: ['./v:/v:ro']}}"),
    ];
    let plan = import_of(&files, &wishes).unwrap();
    assert!(
        plan.definitions[0].1.contains("- /srv/shop/x/v:/v\n"),
        "{}",
        plan.definitions[0].1
    );
}

#[test]
fn files_of_variables_may_be_raw() {
    let text = |format| {
        format!(
            "services: {{a: {{image: 'a:1', ports: [80], env_file: [{{path: x.env, format: {format}}}]}}}}"
        )
    };
    let raw = "\u{feff}  # comment\r\n\r\n A=\"x\" $B ${C:?no} # all \nD\nE=x=y\nHOME\nF='\n";
    let (text, wrong) = (text("raw"), text("shell"));
    assert_eq!(
        definition(&[("c.yml", &text), ("x.env", raw), (".env", "HOME=/root\n")], "a"),
        "name: a\nimage: a:{{ version }}\nport: 80\ncheck: tcp\nenv:\n  A: '\"x\" $B ${C:?no} # all '\n  E: x=y\n  \
         F: ''''\n  HOME: /root"
    );
    fails(
        &[("c.yml", &text), ("x.env", "A=1\nexport B=1\n")],
        &["c.yml:1:54: services.a.env_file: x.env:2: a line is NAME=VALUE"],
    );
    fails(
        &[("c.yml", &wrong), ("x.env", "A=1\n")],
        &[
            "c.yml:1:76: services.a.env_file.format: `shell` is no format of such a file: write `format: raw`, or leave \
             `format` out",
        ],
    );
}

#[test]
fn a_health_check_may_be_off() {
    let text = |check| {
        format!(
            "services: {{a: {{image: 'a:1', ports: [80], healthcheck: {{test: 'curl http://localhost/up', disable: {check}}}}}}}"
        )
    };
    for (disable, check) in [("true", "tcp"), ("false", "/up")] {
        assert_eq!(
            definition(&[("c.yml", &text(disable))], "a"),
            format!("name: a\nimage: a:{{{{ version }}}}\nport: 80\ncheck: {check}")
        );
    }
}

#[test]
fn amounts_may_have_every_form_of_compose() {
    for (limits, expected) in [
        ("mem_limit: 0.5g, cpus: .5", "memory: 512m\ncpus: '0.5'"),
        ("mem_limit: 512MiB, cpus: 2", "memory: 512m\ncpus: '2'"),
        (
            "deploy: {resources: {limits: {memory: 1.5G, cpus: '.25'}}}",
            "memory: 1536m\ncpus: '0.25'",
        ),
        ("mem_limit: 1t", "memory: 1024g"),
    ] {
        let text = format!("services: {{a: {{image: 'a:1', ports: [80], {limits}}}}}");
        assert_eq!(
            definition(&[("c.yml", &text)], "a"),
            format!("name: a\nimage: a:{{{{ version }}}}\nport: 80\ncheck: tcp\n{expected}")
        );
    }
    for (limits, remark) in [
        (
            "mem_limit: 2T",
            "services.a.mem_limit: \"2T\" is not an amount of memory",
        ),
        (
            "mem_limit: 1.5x",
            "services.a.mem_limit: \"1.5x\" is not an amount of memory",
        ),
        ("cpus: .", "services.a.cpus: \".\" is not a number of processors"),
    ] {
        let text = format!("services: {{a: {{image: 'a:1', ports: [80], {limits}}}}}");
        says(&[("c.yml", &text)], &[remark]);
    }
}
