//! Compose files become a plan: the texts of the files to write, and what has to be changed by
//! hand. Pure: the same files and variables give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mayfly_core::definition_file;
use mayfly_core::environment_file;
use mayfly_core::names::{HeaderValue, ServiceName};
use mayfly_core::nearest::nearest;
use mayfly_core::records::definition::{Argument, Definition, VariableName};
use mayfly_core::records::{Environment, ServiceChoice};

use super::calls::{CalledServer, masked, rewritten};
use super::decide::{Decided, Role, ServiceNames, decide, names};
use super::faults::{ComposeFaults, Spot, SpotMessage};
use super::kind;
use super::outcome::{HeldValues, ImportWishes, ImportedService};
use super::overlay::{self, Secrets};
use super::project::{self, ReadText};
use super::reading::ReadWith;
use super::report;
use super::resolving::resolving;
use super::service::{ComposeService, service};
use super::texts;
use super::variables::Variables;

/// What is to be written, and what is to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportPlan {
    /// The texts of the service definitions, by name.
    pub definitions: Vec<(ServiceName, String)>,
    /// Whose values they have.
    pub held: BTreeMap<ServiceName, HeldValues>,
    /// The text of the environment file.
    pub environment: String,
    /// A compose file with the changes of the compose files, to be used beside them.
    pub overlay: String,
    /// Whose values it has.
    pub overlay_held: HeldValues,
    /// What becomes of each service, with its changes, and what no file says.
    pub report: String,
}

/// Why there is no plan: a line for each fault, `file:line:column: field: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportFaults(pub Vec<String>);

/// The short text files at a path of the host, or below it.
pub type MountedTexts<'r> = dyn Fn(&Path) -> Vec<(PathBuf, String)> + 'r;

/// Makes a plan of compose files, which `read` reads; `mounted` reads what services mount.
///
/// # Errors
/// When compose would refuse the files, or something in them cannot be read: every fault.
pub fn plan(
    wishes: &ImportWishes,
    read: &ReadText<'_>,
    mounted: &MountedTexts<'_>,
) -> Result<ImportPlan, ImportFaults> {
    let mut faults = ComposeFaults::default();
    let env_file = wishes.env_file.as_deref();
    let mut project = project::load(&wishes.files, env_file, &wishes.shell, read, &mut faults);
    if faults.count() > 0 {
        return Err(ImportFaults(faults.lines(&project.files)));
    }
    let variables: Variables = project.variables.clone();
    let mut services = Vec::new();
    for raw in &project.services {
        let mut around = ReadWith {
            bases: &project.bases,
            read,
            command: wishes.command,
            root: &wishes.root,
            closed: &wishes.closed,
            variables: &variables,
            interpolation: &mut project.interpolation,
            faults: &mut faults,
        };
        let service = service(raw, &mut around);
        services.push((raw.name.clone(), raw.spot, service));
    }
    let names = names(&services);
    known_profiles(&services, wishes, &mut faults);
    let prefix = wishes.key_prefix.as_ref();
    let decided = decide(services, &names, &wishes.profiles, prefix, &mut faults);
    let mut outcomes = calls_of(decided, &names, &|path| {
        let texts = mounted(path).into_iter();
        let shown = |path: PathBuf| {
            path.strip_prefix(&wishes.root)
                .unwrap_or(&path)
                .display()
                .to_string()
        };
        texts.map(|(path, text)| (shown(path), text)).collect()
    });
    routes(&mut outcomes, wishes, &mut faults);
    if faults.count() > 0 {
        return Err(ImportFaults(faults.lines(&project.files)));
    }
    let mut definitions = Vec::new();
    let mut all_held = BTreeMap::new();
    for outcome in &mut outcomes {
        outcome.held = held(&outcome.it, &project);
        if let Some((name, text)) = definition(outcome) {
            outcome.is_launched = true;
            all_held.insert(name.clone(), outcome.held);
            definitions.push((name, text));
            let service = &mut outcome.it.service;
            service.remarks.append(&mut service.frozen);
        }
    }
    // Compose cannot take a mode away, and with one a container joins no network.
    for outcome in &outcomes {
        let service = &outcome.it.service;
        if outcome.it.routed().is_some()
            && !outcome.is_launched
            && service.network_mode.as_deref() == Some("bridge")
        {
            let message = "the service stays in your compose file, and this mode keeps it out of Mayfly's network: \
                 remove `network_mode`";
            faults.add(outcome.it.spot, outcome.it.field("network_mode"), message);
        }
    }
    if faults.count() > 0 {
        return Err(ImportFaults(faults.lines(&project.files)));
    }
    resolving(&mut outcomes, wishes);
    published_twice(&mut outcomes);
    let environment = environment(&outcomes, wishes);
    let parsed = environment_file::parse(environment.as_bytes());
    if let Some(fault) = parsed.faults.first() {
        let file = project.files.first().map_or("", String::as_str);
        return Err(ImportFaults(vec![format!(
            "{file}: the environment file would have a fault: {fault}"
        )]));
    }
    let overlay = overlay::text(&outcomes, wishes, Secrets::Written);
    let shown = overlay::text(&outcomes, wishes, Secrets::Hidden);
    let report = report::text(&outcomes, &project, (&shown, shown != overlay), wishes);
    let changed = outcomes
        .iter()
        .filter(|outcome| !outcome.is_launched && (!outcome.env.is_empty() || outcome.command.is_some()));
    Ok(ImportPlan {
        definitions,
        held: all_held,
        environment,
        overlay_held: changed.map(|outcome| outcome.held).max().unwrap_or_default(),
        overlay,
        report,
    })
}

/// A profile that no service has is probably misspelt.
fn known_profiles(
    services: &[(String, Spot, ComposeService)],
    wishes: &ImportWishes,
    faults: &mut ComposeFaults,
) {
    let profiles = services.iter().flat_map(|(_, _, service)| &service.profiles);
    let known: Vec<&str> = profiles.map(String::as_str).collect();
    for profile in &wishes.profiles {
        if profile != "*" && !known.contains(&profile.as_str()) {
            let meant =
                nearest(profile, &known).map_or_else(String::new, |it| format!(": did you mean `{it}`?"));
            let spot = Spot {
                file: 0,
                mark: mayfly_core::yaml::Mark::START,
            };
            let field = format!("--profile {profile}");
            faults.add(spot, field, format!("no service has this profile{meant}"));
        }
    }
}

/// Whose values the settings of a service have.
fn held(it: &Decided, project: &project::Project) -> HeldValues {
    if !it.service.of_files.is_empty() {
        return HeldValues::EnvFile;
    }
    let used = &project.interpolation.used;
    let mut values = used.iter().filter_map(|name| project.variables.get(name));
    let has = |value: &String| !value.is_empty() && it.texts().any(|text| text.contains(value));
    match values.any(has) {
        true => HeldValues::Variables,
        false => HeldValues::Own,
    }
}

/// What is said of a value that is not shown.
const ROUTED: &str = "URLs of routed services in this value become URLs of the router";

/// Words in the names of variables whose value may be a server.
const SERVERS: [&str; 7] = ["HOST", "ADDR", "URL", "SERVER", "UPSTREAM", "ENDPOINT", "SERVICE"];

/// What each service calls, and its settings once it calls routed services through the router.
fn calls_of(
    decided: Vec<Decided>,
    names: &ServiceNames,
    mounted: &dyn Fn(&Path) -> Vec<(String, String)>,
) -> Vec<ImportedService> {
    let targets: Vec<Option<(ServiceName, u16)>> = decided
        .iter()
        .map(|it| {
            it.routed()
                .map(|routed| (routed.name.clone(), routed.port.into()))
        })
        .collect();
    let mut outcomes = Vec::new();
    for (at, mut it) in decided.into_iter().enumerate() {
        let mut calls = Vec::new();
        let mut remarks: Vec<SpotMessage> = Vec::new();
        let target = |call: &CalledServer<'_>| {
            let target = names.get(call.host).filter(|target| **target != at)?;
            targets[*target].as_ref()
        };
        let mut other = |call: &CalledServer<'_>| target(call).map(|(name, _)| calls.push(name.clone()));
        for text in it.texts() {
            for call in super::calls::calls(text) {
                other(&call);
            }
        }
        let new = |call: &CalledServer<'_>| {
            let (name, port) = target(call)?;
            let scheme = call.scheme.as_deref();
            match scheme {
                Some("http" | "ws") if call.port.is_none_or(|it| it == *port) => {
                    Some(format!("{name}.service"))
                }
                None if call.port == Some(*port) => Some(format!("{name}.service:80")),
                _ => None,
            }
        };
        let mut env = BTreeMap::new();
        for (key, (value, spot)) in &it.service.env {
            let field = it.field(&format!("environment.{key}"));
            if let Some(changed) = rewritten(value, new) {
                let message = match it.service.of_files.contains(key) {
                    true => ROUTED.to_owned(),
                    false => format!("`{}` becomes `{}`", masked(value), masked(&changed)),
                };
                remarks.push(SpotMessage::new(*spot, field.clone(), message));
                env.insert(key.clone(), changed);
            }
            for call in super::calls::calls(value) {
                if let (Some((name, port)), None) = (target(&call), new(&call)) {
                    let message = not_routed(&call, name, *port);
                    remarks.push(SpotMessage::new(*spot, field.clone(), message));
                }
            }
            let is_server = SERVERS.iter().any(|word| key.to_ascii_uppercase().contains(word));
            let bare = names
                .get(value.as_str())
                .filter(|target| is_server && **target != at);
            if let Some((name, port)) = bare.and_then(|target| targets[*target].as_ref()) {
                let message = format!(
                    "if the service calls `{name}` at this host, write `{name}.service` here, and port 80 in place of {port}"
                );
                remarks.push(SpotMessage::new(*spot, field, message));
                calls.push(name.clone());
            }
        }
        let mut command = None;
        if let Some((words, spot)) = &it.service.command {
            let changed: Vec<String> = words
                .iter()
                .map(|word| rewritten(word, new).unwrap_or_else(|| word.clone()))
                .collect();
            if changed != *words {
                remarks.push(SpotMessage::new(*spot, it.field("command"), ROUTED));
                command = Some(changed);
            }
        }
        let server = |host: &str| {
            let target = names.get(host).filter(|target| **target != at)?;
            targets[*target].clone()
        };
        let is_off = matches!(it.role, Role::Off(_));
        for mount in it.service.mounts.iter().filter(|_| !is_off) {
            for (file, text) in mounted(&mount.source) {
                for (line, host, name) in servers_in(&text, server).into_iter().take(MOST_SERVERS) {
                    let message = format!(
                        "`{file}`, line {line}, names `{host}`, which Mayfly routes: write `{name}.service` there (port \
                         80), and send this name as `Host`"
                    );
                    let message = SpotMessage::new(mount.spot, mount.field.as_str(), message);
                    it.service.always.push(message);
                    calls.push(name);
                }
            }
        }
        calls.sort();
        calls.dedup();
        it.service.remarks.extend(remarks);
        outcomes.push(ImportedService {
            it,
            is_launched: false,
            routes: Vec::new(),
            env,
            command,
            held: HeldValues::Own,
            calls,
        });
    }
    outcomes
}

/// Most servers of one file that are named.
const MOST_SERVERS: usize = 10;

/// The routed services that a file of settings names with their ports, such as `server api:8000;`
/// of nginx: the line, the text, and the service. A comment names none.
fn servers_in(
    text: &str,
    server: impl Fn(&str) -> Option<(ServiceName, u16)>,
) -> Vec<(usize, String, ServiceName)> {
    let mut found = BTreeSet::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let urls = super::calls::calls(line).into_iter();
        let urls = urls.filter(|call| matches!(call.scheme.as_deref(), Some("http" | "ws")));
        let urls = urls.map(|call| (call.host, call.port));
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-_.:".contains(letter);
        let words = line.split(|letter| !is_part(letter));
        let words = words.filter_map(super::calls::host_and_port);
        let words = words.filter(|(_, port)| port.is_some());
        for (host, port) in urls.chain(words) {
            if let Some((name, own)) = server(host).filter(|(_, own)| *own == port.unwrap_or(80)) {
                let shown = port.map_or_else(|| host.to_owned(), |_| format!("{host}:{own}"));
                found.insert((at + 1, shown, name));
            }
        }
    }
    found.into_iter().collect()
}

/// Why a call of a routed service stays as it is.
fn not_routed(call: &CalledServer<'_>, name: &ServiceName, port: u16) -> String {
    match call.scheme.as_deref() {
        Some("https" | "wss") => {
            format!(
                "the service calls `{name}` with TLS, but the router's internal side has no TLS: call http://{name}.service"
            )
        }
        Some("http" | "ws") | None => format!(
            "the service calls `{name}` at a port other than {port}, which Mayfly does not route: this call stays as it is"
        ),
        Some(scheme) if kind::is_no_http(scheme) => {
            format!(
                "the service calls `{name}` by {scheme}://, but Mayfly routes only HTTP: this call stays as it is"
            )
        }
        Some(scheme) => {
            format!(
                "the service calls `{name}` by {scheme}://: to route this call, use http://{name}.service"
            )
        }
    }
}

/// Which service answers which public path.
fn routes(outcomes: &mut [ImportedService], wishes: &ImportWishes, faults: &mut ComposeFaults) {
    for (service, path) in &wishes.routes {
        let found = outcomes.iter_mut().find(|outcome| {
            let in_mayfly = outcome.it.routed().is_some_and(|it| it.name.as_str() == service);
            outcome.it.name == *service || in_mayfly
        });
        let start = super::faults::Spot {
            file: 0,
            mark: mayfly_core::yaml::Mark::START,
        };
        let field = format!("--route {service}={path}");
        match found {
            Some(outcome) if outcome.it.routed().is_some() => {
                if !outcome.routes.contains(path) {
                    outcome.routes.push(path.clone());
                }
            }
            Some(outcome) => {
                let message = "the service is not routed: name its port with `expose`, or set the label `mayfly.service`";
                faults.add(outcome.it.spot, field, message);
            }
            None => faults.add(start, field, format!("there is no service `{service}`")),
        }
    }
    if !wishes.routes.is_empty() {
        return;
    }
    let published = |outcome: &ImportedService, ports: &[u16]| {
        let ports = |port: &super::ports::PublishedPort| {
            port.published && (ports.is_empty() || port.host.is_some_and(|host| ports.contains(&host)))
        };
        outcome.it.routed().is_some() && outcome.it.service.ports.iter().any(ports)
    };
    // The port of browsers shows the first service; else whoever is published first.
    let first = [&[80, 443][..], &[8080, 8000, 3000], &[]];
    let first = first
        .iter()
        .find_map(|ports| outcomes.iter().position(|it| published(it, ports)));
    let Some(first) = first else { return };
    let others = outcomes.iter().filter(|it| published(it, &[])).count() - 1;
    let outcome = &mut outcomes[first];
    outcome.routes.extend("/".parse().ok());
    let port = outcome.it.service.ports.iter().find(|port| port.published);
    if let (true, Some(port)) = (others > 0, port) {
        let message = format!(
            "{} services publish ports, and Mayfly routes `/` to this one: to choose another one, give --route SERVICE=PATH",
            others + 1
        );
        let (spot, field) = (port.spot, outcome.it.field("ports"));
        outcome.it.service.remark(spot, field, message);
    }
}

/// Ports of the host that two services publish, and those that the router needs.
fn published_twice(outcomes: &mut [ImportedService]) {
    let mut owners: BTreeMap<u16, String> = BTreeMap::new();
    for outcome in outcomes {
        let field = outcome.it.field("ports");
        let mut remarks = Vec::new();
        for port in &outcome.it.service.ports {
            let Some(host) = port.host else { continue };
            let own = &outcome.it.name;
            let owner = owners.entry(host).or_insert_with(|| own.clone());
            if owner != own {
                let message = format!(
                    "`{owner}` publishes port {host}, too, so only one of the two services can start: change one of the ports"
                );
                remarks.push(SpotMessage::new(port.spot, field.clone(), message));
            }
            // Compose does not start one that Mayfly starts.
            if [80, 443].contains(&host) && !outcome.is_launched {
                let message = format!("HAProxy publishes port {host} now: remove this port here");
                remarks.push(SpotMessage::new(port.spot, field.clone(), message));
            }
        }
        outcome.it.service.remarks.extend(remarks);
    }
}

/// The definition of a service that Mayfly can start. What core refuses keeps the service in its
/// compose file.
fn definition(outcome: &mut ImportedService) -> Option<(ServiceName, String)> {
    let routed = outcome.it.routed()?;
    if !outcome.it.service.keeps.is_empty() {
        return None;
    }
    let image = routed.image.clone()?;
    let service = &outcome.it.service;
    let words = outcome
        .command
        .clone()
        .or_else(|| Some(service.command.as_ref()?.0.clone()));
    let command = words
        .unwrap_or_default()
        .into_iter()
        .map(|word| word.parse::<Argument>());
    let env = service.env.iter().map(|(name, (value, _))| {
        let value = outcome.env.get(name).unwrap_or(value);
        Ok::<_, mayfly_core::names::NameError>((name.parse::<VariableName>()?, value.parse::<Argument>()?))
    });
    let made = command.collect::<Result<Vec<_>, _>>().and_then(|command| {
        let env = env.collect::<Result<BTreeMap<_, _>, _>>()?;
        Ok(Definition {
            name: routed.name.clone(),
            image,
            versions: None,
            port: routed.port,
            check: Some(routed.check.clone()),
            check_host: routed.check_host.clone(),
            protocol: routed.protocol,
            instances: service.instances.unwrap_or_default(),
            command,
            env,
            networks: Vec::new(),
            memory: service.memory,
            cpus: service.cpus,
            volumes: service.volumes.clone(),
            source: None,
        })
    });
    let text = match made {
        Ok(definition) => texts::definition(&definition),
        Err(fault) => {
            let field = outcome.it.field("environment");
            let message = format!("a value has to be {}", fault.rule());
            outcome.it.service.keep(outcome.it.spot, field, message);
            return None;
        }
    };
    let name = routed.name.clone();
    if let Some(fault) = definition_file::parse(text.as_bytes()).faults.first() {
        let field = format!("services.{}", outcome.it.name);
        let message = format!("{}; so the service stays in your compose file", fault.message);
        outcome.it.service.keep(outcome.it.spot, field, message);
        return None;
    }
    Some((name, text))
}

fn environment(outcomes: &[ImportedService], wishes: &ImportWishes) -> String {
    let services = outcomes.iter().filter_map(|outcome| {
        let routed = outcome.it.routed()?;
        Some(ServiceChoice {
            name: routed.name.clone(),
            version: routed.version.clone(),
            routes: outcome.routes.clone(),
        })
    });
    let environment = Environment {
        name: wishes.environment.clone(),
        extends: None,
        prefix: wishes.prefix.clone(),
        header: HeaderValue::from(&wishes.environment),
        expires: None,
        idle: None,
        protected: true,
        access: None,
        switch: Default::default(),
        description: None,
        services: services.collect(),
        source: None,
        life: None,
    };
    environment_file::to_yaml(&environment)
}
