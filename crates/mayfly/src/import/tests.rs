//! Whole compose files: what becomes of them, and that nothing hostile becomes anything wrong.

mod addresses;
mod forms;
mod hostile;
mod networks;
mod promises;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::around::ImportCommand;
use super::outcome::{HeldValues, ImportWishes};
use super::plan::{ImportFaults, ImportPlan, plan};

fn wishes() -> ImportWishes {
    ImportWishes {
        command: ImportCommand::Import,
        files: vec![PathBuf::from("c.yml")],
        env_file: None,
        shell: BTreeMap::new(),
        profiles: Vec::new(),
        environment: "prod".parse().unwrap(),
        prefix: "www".parse().unwrap(),
        routes: Vec::new(),
        key_prefix: None,
        network: "mayfly".to_owned(),
        dns: None,
        root: PathBuf::from("/srv/shop"),
        closed: Vec::new(),
    }
}

/// Imports `c.yml` among these files.
fn import_of(files: &[(&str, &str)], wishes: &ImportWishes) -> Result<ImportPlan, Vec<String>> {
    let files: BTreeMap<&Path, &str> = files
        .iter()
        .map(|(path, text)| (Path::new(*path), *text))
        .collect();
    let read = |path: &Path| Ok(files.get(path).map(|text| (*text).to_owned()));
    let mounted = |path: &Path| {
        let below = files.iter().filter(|(file, _)| file.starts_with(path));
        below
            .map(|(file, text)| (file.to_path_buf(), (*text).to_owned()))
            .collect()
    };
    plan(wishes, &read, &mounted).map_err(|ImportFaults(lines)| lines)
}

fn import(files: &[(&str, &str)]) -> Result<ImportPlan, Vec<String>> {
    import_of(files, &wishes())
}

/// The definition of a service, without its line feeds at the end.
#[track_caller]
fn definition(files: &[(&str, &str)], name: &str) -> String {
    let plan = import(files).unwrap();
    let found = plan.definitions.iter().find(|(it, _)| it.as_str() == name);
    found
        .unwrap_or_else(|| panic!("{}", plan.report))
        .1
        .trim_end()
        .to_owned()
}

/// The report has each of these parts.
#[track_caller]
fn says(files: &[(&str, &str)], parts: &[&str]) {
    let report = match import(files) {
        Ok(plan) => plan.report,
        Err(faults) => faults.join("\n"),
    };
    for part in parts {
        assert!(report.contains(part), "{part:?} is not in:\n{report}");
    }
}

/// The import fails with these lines.
#[track_caller]
fn fails(files: &[(&str, &str)], lines: &[&str]) {
    let faults = import(files).map(|plan| plan.report).unwrap_err();
    assert_eq!(faults.len(), lines.len(), "{faults:?}");
    for (fault, line) in faults.iter().zip(lines) {
        assert!(fault.starts_with(line), "{fault:?} does not begin with {line:?}");
    }
}

const SHOP: &str = r#"
services:
  web:
    image: shop/web:1.4.0
    ports: ["80:8080"]
    environment: {ORDERS_URL: "http://orders:8080/v1"}
  orders:
    image: registry:5000/shop/orders:2.1.0
    environment:
      - DATABASE_URL=postgres://shop@db/orders
      - LOG_LEVEL
    command: serve --api "http://web:8080" --name 'the orders'
    healthcheck: {test: [CMD-SHELL, "curl -f http://localhost:8080/health || exit 1"]}
    deploy: {replicas: 2, resources: {limits: {memory: 256M, cpus: "0.50"}}}
    volumes: ["./rules:/rules:ro"]
    restart: always
    logging: {driver: none}
  worker:
    image: shop/worker:2.1.0
    environment: {ORDERS_URL: "http://orders:8080"}
  db:
    image: postgres:16
    volumes: ["data:/var/lib/postgresql/data"]
"#;

#[test]
fn a_shop_becomes_definitions_and_an_environment() {
    let plan = import(&[("c.yml", SHOP)]).unwrap();
    let names: Vec<&str> = plan.definitions.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["web", "orders"]);
    assert_eq!(
        plan.definitions[1].1,
        "name: orders\nimage: registry:5000/shop/orders:{{ version }}\nport: 8080\ncheck: /health\ninstances: 2\n\
         command:\n- serve\n- --api\n- http://web.service\n- --name\n- the orders\n\
         env:\n  DATABASE_URL: postgres://shop@db/orders\nmemory: 256m\ncpus: '0.5'\n\
         volumes:\n- /srv/shop/rules:/rules\n"
    );
    assert_eq!(
        plan.environment,
        "name: prod\nprefix: www\nprotected: true\nservices:\n- name: web\n  version: 1.4.0\n  route: /\n\
         - name: orders\n  version: 2.1.0\n"
    );
    assert_eq!(
        plan.overlay,
        "networks:\n  mayfly:\n    external: true\n    name: mayfly\nservices:\n  db:\n    networks:\n    - default\n    \
         - mayfly\n  orders:\n    deploy:\n      replicas: 0\n  web:\n    scale: 0\n  worker:\n    environment:\n      \
         ORDERS_URL: http://orders.service\n    networks:\n    - default\n    - mayfly\n"
    );
    says(
        &[("c.yml", SHOP)],
        &[
            "c.yml:6:19: services.web.environment.ORDERS_URL: `http://orders:8080/v1` becomes \
             `http://orders.service/v1`\n",
            "c.yml:11:9: services.orders.environment.LOG_LEVEL: the variable has no value here or in the shell, so the definition leaves it out",
            "db: stays as it is, and all environments share it: `postgres` is a database\n",
            "worker: stays in your compose file, and is not routed; it calls orders",
            "  c.yml:16:5: restart, c.yml:17:5: logging: the launcher decides this, so the definition leaves it out\n",
            "c.yml:15:15: services.orders.volumes[0]: start the launcher with a --volume-root",
        ],
    );
}

#[test]
fn what_a_definition_cannot_have_is_named_and_the_service_stays() {
    let text = "services:\n  api:\n    image: a/api:1\n    ports: [8080]\n    privileged: true\n    user: '1000'\n    \
                restart: always\n    volumes: ['data:/data', './src:/app', '/run/docker.sock:/s:ro']\n    imagee: x\n";
    let plan = import(&[("c.yml", text)]).unwrap();
    assert_eq!(plan.definitions, []);
    assert!(
        plan.environment
            .contains("- name: api\n  version: '1'\n  route: /\n"),
        "{}",
        plan.environment
    );
    says(
        &[("c.yml", text)],
        &[
            "api: routed, and stays in your compose file with labels: version 1, port 8080",
            "c.yml:5:5: services.api.privileged: a definition has no such field",
            "c.yml:6:5: services.api.user: a container that is launched runs as the user of its image",
            "c.yml:8:15: services.api.volumes[0]: this is a volume of the engine",
            "c.yml:8:29: services.api.volumes[1]: a launched container may not write to the host",
            "c.yml:8:43: services.api.volumes[2]: `/run/docker.sock` is a socket, and a socket such as the engine's",
            "c.yml:9:5: services.api.imagee: the key is not known, so it is ignored: did you mean `image`?",
            "      labels:\n        mayfly.check: tcp\n        mayfly.port: '8080'\n        mayfly.service: api\n",
            "Whether the data in the volumes of api has to outlive a container.",
        ],
    );
}

#[test]
fn secrets_are_named_and_not_shown() {
    let text = "services:\n  a:\n    image: a:1\n    ports: [80]\n    env_file: a.env\n    environment: {OWN: x}\n  \
                b: {image: 'b:1', expose: [80], environment: {KEY: '${KEY}', URL: 'http://u:s3cret@a/'}}\n  \
                c: {image: 'c:1', env_file: a.env}\n";
    let env = "API=http://me:s3cret@b/\nOWN=s3cret\nLONG=s3cret\n";
    let files = [("c.yml", text), ("a.env", env), (".env", "KEY=s3cret\n")];
    let plan = import(&files).unwrap();
    assert!(!plan.report.contains("s3cret"), "{}", plan.report);
    assert!(
        plan.overlay.contains("API: http://me:s3cret@b.service/"),
        "{}",
        plan.overlay
    );
    let held: Vec<HeldValues> = plan.held.values().copied().collect();
    assert_eq!(held, [HeldValues::EnvFile, HeldValues::Variables]);
    assert_eq!(plan.overlay_held, HeldValues::EnvFile);
    says(
        &files,
        &[
            "which they now contain: KEY, API of a, LONG of a. Definitions are also in etcd.",
            "services.b.environment.URL: `http://…@a/` becomes `http://…@a.service/`",
            "… stands for a value that may be secret",
        ],
    );
}

#[test]
fn services_that_stay_belong_to_one_mayfly() {
    let mut wishes = wishes();
    wishes.key_prefix = Some("/shop".parse().unwrap());
    let text = "services:\n  a: {image: a, ports: [80]}\n  b: {image: 'b:1', ports: [80], labels: {mayfly.service: b}}\n  \
                c: {image: 'c:1', ports: [80], labels: {mayfly.service: c, mayfly.prefix: /x}}\n  db: {image: postgres}\n";
    let plan = import_of(&[("c.yml", text)], &wishes).unwrap();
    let overlay: serde_yaml::Value = serde_yaml::from_str(&plan.overlay).unwrap();
    let prefix = |name: &str| overlay["services"][name]["labels"]["mayfly.prefix"].as_str();
    assert_eq!(
        ["a", "b", "c", "db"].map(prefix),
        [Some("/shop"), Some("/shop"), None, None]
    );
}

#[test]
fn a_volume_that_would_open_the_host_keeps_its_service() {
    for (source, part) in [
        ("/srv/$$(touch /tmp/owned)", "has other characters than letters"),
        ("/srv/a b", "has other characters than letters"),
        ("./a,/b", "has other characters than letters"),
        ("/", "would open `/etc` of the host"),
        ("../../etc/shadow", "would open `/etc` of the host"),
        (".", "would open `/srv/shop/mayfly` of the host"),
        ("./mayfly/passwords", "would open `/srv/shop/mayfly` of the host"),
        ("/run/docker.sock", "is a socket"),
    ] {
        let text = format!("services: {{a: {{image: 'a:1', ports: [80], volumes: ['{source}:/t:ro']}}}}");
        let mut wishes = wishes();
        wishes.closed = vec!["/srv/shop/mayfly".into()];
        let plan = import_of(&[("c.yml", &text)], &wishes).unwrap();
        assert_eq!(plan.definitions, [], "{source}");
        assert!(plan.report.contains(part), "{source}: {}", plan.report);
    }
    let text = "services: {a: {image: 'a/$${X}:1', ports: [80]}}";
    assert_eq!(import(&[("c.yml", text)]).unwrap().definitions, []);
    says(
        &[("c.yml", text)],
        &["services.a.image: the name of the image has a `$`"],
    );
}

#[test]
fn a_service_without_a_version_stays() {
    for (service, part) in [
        (
            "{build: ., ports: [80]}",
            "services.a.build: compose builds the image, and the image has no name",
        ),
        (
            "{image: a/b, ports: [80]}",
            "services.a.image: the image has no exact version as its tag",
        ),
        (
            "{image: 'a/b:latest', ports: [80]}",
            "services.a.image: the image has no exact version as its tag",
        ),
        (
            "{image: 'a/b@sha256:00', ports: [80]}",
            "services.a.image: the digest is dropped",
        ),
        (
            "{image: 'a/b:1', ports: [80], labels: {mayfly.service: a}}",
            "services.a.labels: the service has Mayfly's labels",
        ),
    ] {
        let text = format!("services: {{a: {service}}}");
        let plan = import(&[("c.yml", &text)]).unwrap();
        assert_eq!(plan.definitions, [], "{service}");
        assert!(plan.environment.contains("name: a\n"), "{}", plan.environment);
        says(&[("c.yml", &text)], &[part]);
    }
}

/// The labels of a service in the overlay.
fn labels_in(overlay: &str, name: &str) -> BTreeMap<String, String> {
    let overlay: serde_yaml::Value = serde_yaml::from_str(overlay).unwrap();
    let labels = &overlay["services"][name]["labels"];
    serde_yaml::from_value(labels.clone()).unwrap_or_default()
}

#[test]
fn a_service_without_a_check_gets_one() {
    let text = "services:\n  a: {image: 'a:1', ports: [80]}\n  b: {image: 'b:1', ports: [80], user: x}\n";
    assert_eq!(
        definition(&[("c.yml", text)], "a"),
        "name: a\nimage: a:{{ version }}\nport: 80\ncheck: tcp"
    );
    let plan = import(&[("c.yml", text)]).unwrap();
    assert_eq!(labels_in(&plan.overlay, "b")["mayfly.check"], "tcp");
    says(
        &[("c.yml", text)],
        &["By which path to check a, b: `tcp` shows only"],
    );
}

#[test]
fn labels_that_the_registrar_would_refuse_are_faults() {
    for (labels, fault) in [
        (
            "{mayfly.servce: a}",
            "unknown label \"mayfly.servce\": did you mean mayfly.service?",
        ),
        (
            "{mayfly.role: a}",
            "unknown label \"mayfly.role\": the known labels are",
        ),
        ("{mayfly.service: A_B}", "\"A_B\" is not a service name"),
        ("{mayfly.port: x}", "\"x\" is not"),
        ("{mayfly.check: health}", "\"health\" is not"),
        ("{mayfly.weight: '257'}", "257"),
        ("{mayfly.prefix: x}", "\"x\" is not a key prefix"),
    ] {
        let text = format!("services:\n  a: {{image: 'a:1', ports: [80], labels: {labels}}}\n");
        let faults = import(&[("c.yml", &text)]).map(|plan| plan.report).unwrap_err();
        assert!(
            faults.len() == 1 && faults[0].starts_with("c.yml:2:") && faults[0].contains(fault),
            "{faults:?}"
        );
    }
    // The registrar reports a misspelt label also of what is no instance, and ignores the others.
    let text = |label| format!("services: {{db: {{image: 'postgres:16', labels: {{{label}: x}}}}}}");
    assert!(import(&[("c.yml", &text("mayfly.servce"))]).is_err());
    assert!(import(&[("c.yml", &text("mayfly.role"))]).is_ok());
}

#[test]
fn a_service_outside_mayfly_s_network_is_not_routed() {
    let text = "services:\n  web: {image: 'w:1', ports: ['80:80'], environment: {API: 'http://api:8000', VPN: 'http://app:80'}}\n  \
                api: {image: 'a:1', expose: [8000], network_mode: host}\n  \
                app: {image: 'b:1', expose: [80], network_mode: 'service:vpn'}\n  vpn: {image: 'v:1', expose: [8080]}\n";
    let plan = import(&[("c.yml", text)]).unwrap();
    let definitions: Vec<&str> = plan.definitions.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(definitions, ["web"]);
    assert!(!plan.environment.contains("name: api"), "{}", plan.environment);
    let web = &plan.definitions[0].1;
    assert!(
        web.contains("API: http://api:8000\n") && web.contains("VPN: http://app.service\n"),
        "{web}"
    );
    says(
        &[("c.yml", text)],
        &[
            "api: stays in your compose file, and is not routed: `network_mode: host` keeps the service out of Mayfly's network\n",
            "app: routed, and stays in your compose file with labels",
            "vpn: routed, and stays in your compose file with labels",
            "services.vpn: `app` uses the network of this service, so this service stays in your compose file",
        ],
    );
}

#[test]
fn a_setting_that_holds_the_version_is_named() {
    let text = "services:\n  a:\n    image: r/a:${V}\n    ports: [80]\n    command: [serve, --as, \"v${V}\"]\n    environment: \
                {APP: 'v${V}', OTHER: '${W}', V: null, APP_VERSION: '1.0.0', VERSION: '2'}\n  \
                b: {image: 'b:${V}', ports: [81], user: x, environment: ['APP=${V}']}\n";
    let report = import(&[("c.yml", text), (".env", "V=1.0.0\nW=1.0.0\n")])
        .unwrap()
        .report;
    let named: Vec<&str> = report
        .lines()
        .filter(|line| line.contains("the value is the version `1.0.0`"))
        .filter_map(|line| line.trim_start().split(": ").nth(1))
        .collect();
    let env = |name| format!("services.a.environment.{name}");
    assert_eq!(
        named,
        [
            "services.a.command".to_owned(),
            env("APP"),
            env("V"),
            env("APP_VERSION")
        ],
        "{report}"
    );
}

#[test]
fn calls_in_mounted_files_are_named() {
    let text = "services:\n  web:\n    image: nginx:1\n    ports: ['80:80']\n    volumes: ['./web/:/etc/nginx:ro', './rw.conf:/rw.conf']\n  \
                api: {image: 'a:1', expose: [8000]}\n  front: {image: 'f:1', expose: [80]}\n  db: {image: 'postgres:16'}\n";
    let conf = "# server api:8000;\nupstream x {\n  server api:8000;\n}\nserver db:5432;\nproxy_pass http://front;\n\
                map api:80001 myapi:8000 api:9000\n";
    let files = [
        ("c.yml", text),
        ("/srv/shop/web/n.conf", conf),
        ("/srv/shop/rw.conf", "a=http://api:8000/x\n"),
    ];
    let report = import(&files).unwrap().report;
    let named: Vec<&str> = report
        .lines()
        .filter(|line| line.contains("which Mayfly routes"))
        .collect();
    assert_eq!(named.len(), 3, "{report}");
    says(
        &files,
        &[
            "c.yml:5:15: services.web.volumes[0]: `web/n.conf`, line 3, names `api:8000`, which Mayfly routes: write \
             `api.service` there (port 80)",
            "`web/n.conf`, line 6, names `front`, which",
            "c.yml:5:39: services.web.volumes[1]: `rw.conf`, line 1, names `api:8000`",
            "it calls api, front, so it must forward x-mayfly",
        ],
    );
}

#[test]
fn what_is_probably_misspelt_is_named() {
    let text = "services:\n  web: {image: 'w:1', ports: [80], profiles: [tools]}\n  worker: {image: 'x:1', prots: [80]}\n  \
                db: {image: 'postgres:16', depend_on: [x]}\n  off: {image: 'o:1', scale: 0, comand: x}\n";
    says(
        &[("c.yml", text)],
        &[
            "c.yml:3:26: services.worker.prots: the key is not known, so it is ignored: did you mean `ports`?",
            "services.db.depend_on: the key is not known, so it is ignored: did you mean `depends_on`?",
            "services.off.comand: the key is not known, so it is ignored: did you mean `command`?",
        ],
    );
    let mut wishes = wishes();
    wishes.profiles = vec!["tolls".to_owned(), "*".to_owned()];
    let faults = import_of(&[("c.yml", text)], &wishes).unwrap_err();
    assert_eq!(
        faults,
        ["c.yml:1:1: --profile tolls: no service has this profile: did you mean `tools`?"]
    );
}

#[test]
fn services_extend_others_also_of_other_files() {
    let base = "services:\n  base:\n    image: a/b:1\n    environment: {A: base, B: base}\n    expose: [80]\n    \
                env_file: vars.env\n";
    let text = "services:\n  one:\n    extends: {file: ../base/b.yml, service: base}\n    environment: [A=own]\n  two:\n    \
                extends: one\n    command: [x]\n";
    let mut wishes = wishes();
    wishes.files = vec!["app/c.yml".into()];
    let files = [
        ("base/b.yml", base),
        ("app/c.yml", text),
        ("base/vars.env", "C=file\nA=file\n"),
    ];
    let plan = import_of(&files, &wishes).unwrap();
    assert_eq!(
        plan.definitions[1].1,
        "name: two\nimage: a/b:{{ version }}\nport: 80\ncheck: tcp\ncommand:\n- x\nenv:\n  A: own\n  B: base\n  C: file\n"
    );
    fails(
        &[(
            "c.yml",
            "services:\n  a: {extends: b}\n  b: {extends: a}\n  c: {extends: {service: x, file: no.yml}}\n  d: {extends: e}\n",
        )],
        &[
            "c.yml:2:7: services.a.extends: services extend each other in a circle",
            "c.yml:3:7: services.b.extends: services extend each other in a circle",
            "c.yml:4:16: no.yml: there is no such file",
            "c.yml:5:16: extends: there is no service `e` in c.yml",
        ],
    );
}

#[test]
fn anchors_merge_keys_and_extensions() {
    let text = "version: '2.4'\nx-base: &base\n  image: a/b:1\n  expose: ['80']\n  environment: &env {A: a, B: b}\nx-odd: !odd [1]\n\
                services:\n  one:\n    <<: *base\n    environment:\n      <<: [*env, {C: c, A: no}]\n      B: own\n    x-note: [any]\n";
    assert_eq!(
        definition(&[("c.yml", text)], "one"),
        "name: one\nimage: a/b:{{ version }}\nport: 80\ncheck: tcp\nenv:\n  A: a\n  B: own\n  C: c"
    );
    fails(
        &[(
            "c.yml",
            "services:\n  a: {image: x:1, image: y:1}\n  b: {<<: 1}\n  c: {image: !odd x}\n",
        )],
        &[
            "c.yml:2:19: services.a.image: the key is there twice, first on line 2",
            "c.yml:3:11: services.b.<<: a single value where there should be a mapping to merge",
            "c.yml:4:14: services.c.image: the tag `!odd` is not supported",
        ],
    );
}

#[test]
fn variables_come_from_the_shell_then_from_the_file() {
    let text = "services:\n  a:\n    image: a/b:${TAG:-1}\n    ports: ['${PORT}:80']\n    environment: [HOME_OF, 'X=$$x ${NONE}']\n";
    let mut wishes = wishes();
    let files = [("c.yml", text), (".env", "TAG=2\nPORT=8080\nHOME_OF=file\n")];
    wishes.shell.insert("TAG".to_owned(), "3".to_owned());
    let plan = import_of(&files, &wishes).unwrap();
    assert_eq!(
        plan.definitions[0].1,
        "name: a\nimage: a/b:{{ version }}\nport: 80\ncheck: tcp\nenv:\n  HOME_OF: file\n  X: '$x '\n"
    );
    assert!(plan.environment.contains("version: '3'"), "{}", plan.environment);
    assert!(
        plan.report.contains("which are not set: NONE.")
            && plan.report.contains("which they now contain: HOME_OF."),
        "{}",
        plan.report
    );
    fails(
        &[
            (
                "c.yml",
                "services:\n  a: {image: '${TAG:?set it}', ports: ['$']}\n",
            ),
            (".env", "A B\n"),
        ],
        &[
            ".env:1:1: a line is NAME=VALUE",
            "c.yml:2:14: services.a.image: the variable TAG is not set: set it",
            "c.yml:2:40: services.a.ports[0]: a `$` that begins no variable",
        ],
    );
    fails(
        &[(
            "c.yml",
            "services:\n  a: {image: '${TAG:?set it}', ports: ['$']}\n",
        )],
        &[
            "c.yml:2:14: services.a.image: the variable TAG is not set: set it",
            "c.yml:2:40: services.a.ports[0]: a `$` that begins no variable",
        ],
    );
}

#[test]
fn several_files_includes_and_profiles() {
    let mut wishes = wishes();
    wishes.files.push("over.yml".into());
    let files = [
        (
            "c.yml",
            "include: [sub/d.yml]\nservices:\n  a: {image: a:1, ports: ['80:80'], labels: [x=1]}\n",
        ),
        (
            "over.yml",
            "services:\n  a: {image: a:2, labels: {y: '2'}}\n  debug: {image: d:1, ports: [90], profiles: [dev]}\n",
        ),
        (
            "sub/d.yml",
            "services:\n  b: {image: b:1, expose: [8080], env_file: [{path: no.env, required: false}]}\n",
        ),
    ];
    let plan = import_of(&files, &wishes).unwrap();
    let names: Vec<&str> = plan.definitions.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    assert!(
        plan.environment
            .contains("- name: a\n  version: '2'\n  route: /\n"),
        "{}",
        plan.environment
    );
    assert!(
        plan.report
            .contains("debug: not imported: the service is in the profile `dev`: to import it, name the profile with --profile\n")
    );
    wishes.profiles = vec!["dev".to_owned()];
    assert_eq!(import_of(&files, &wishes).unwrap().definitions.len(), 3);
    fails(
        &[(
            "c.yml",
            "include: [c.yml, {path: no.yml, env_file: x}]\nservices: {}\n",
        )],
        &[
            "c.yml:1:11: include: `c.yml` includes itself",
            "c.yml:1:25: no.yml: there is no such file",
            "c.yml:1:33: include.env_file: this key is not read",
        ],
    );
}

#[test]
fn a_file_that_compose_finds_by_itself_is_named() {
    let mut wishes = wishes();
    wishes.files = vec!["a/compose.yaml".into()];
    let text = "services: {a: {image: 'a:1', ports: [80]}}";
    for (name, is_named) in [
        ("a/compose.override.yaml", true),
        ("compose.override.yaml", false),
    ] {
        let plan = import_of(&[("a/compose.yaml", text), (name, text)], &wishes).unwrap();
        let note =
            "a/compose.yaml:1:1: compose also reads `compose.override.yaml`, which is beside this file";
        assert_eq!(plan.report.contains(note), is_named, "{}", plan.report);
    }
}
