//! What an import says: what becomes of each service and why, what has to be changed by hand, and
//! what no compose file says.

use mayfly_core::check::Check;
use mayfly_core::printable::printable;

use super::around::ImportCommand;
use super::decide::Role;
use super::faults::SpotMessage;
use super::kind;
use super::outcome::{ImportWishes, ImportedService};
use super::project::Project;

pub(super) fn text(
    outcomes: &[ImportedService],
    project: &Project,
    overlay: (&str, bool),
    wishes: &ImportWishes,
) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        text += &service(outcome, project);
        text.push('\n');
    }
    for note in &project.notes {
        text += &format!("{}\n", note.line(&project.files));
    }
    if !project.notes.is_empty() {
        text.push('\n');
    }
    text += &changes(overlay, wishes);
    text += "What no compose file says\n";
    for line in unknown(outcomes, project, wishes) {
        text += &format!("- {}\n", printable(&line));
    }
    text
}

/// A service: what becomes of it, and a line for each place that has something to say.
fn service(outcome: &ImportedService, project: &Project) -> String {
    let name = &outcome.it.name;
    let mut text = printable(&format!("{name}: {}", summary(outcome))) + "\n";
    let mut lines: Vec<&SpotMessage> = outcome.it.service.remarks.iter().collect();
    // Of what is not in Mayfly at all nobody asks why there is no definition.
    if outcome.it.routed().is_some() {
        lines.extend(&outcome.it.service.keeps);
    }
    if matches!(outcome.it.role, Role::Off(_)) {
        lines.clear();
    }
    if matches!(outcome.it.role, Role::Shared(_) | Role::Worker | Role::Apart(_)) {
        lines.retain(|line| line.field.contains(".environment.") || line.field.ends_with(".ports"));
    }
    // Perhaps a key is misspelt, and the service would be another one.
    lines.extend(&outcome.it.service.always);
    lines.sort();
    lines.dedup();
    for line in lines {
        text += &format!("  {}\n", line.line(&project.files));
    }
    if outcome.it.routed().is_some() {
        text += &dropped(outcome, project);
    }
    text
}

/// The keys that a definition goes without, in one line.
fn dropped(outcome: &ImportedService, project: &Project) -> String {
    let mut places: Vec<String> = Vec::new();
    for (key, spot) in &outcome.it.service.dropped {
        places.push(SpotMessage::new(*spot, "", key.as_str()).line(&project.files));
    }
    match places.as_slice() {
        _ if !outcome.is_launched => String::new(),
        [] => String::new(),
        places => format!(
            "  {}: the launcher decides this, so the definition leaves it out\n",
            places.join(", ")
        ),
    }
}

fn summary(outcome: &ImportedService) -> String {
    let calls = || {
        let names: Vec<&str> = outcome.calls.iter().map(|name| name.as_str()).collect();
        names.join(", ")
    };
    match &outcome.it.role {
        Role::Off(why) => format!("not imported: {why}"),
        Role::Shared(what) => {
            format!("stays as it is, and all environments share it: {what}")
        }
        Role::Worker if outcome.calls.is_empty() => {
            "stays as it is, because it names no port and no service calls it by HTTP: to route to it, set `expose`"
                .to_owned()
        }
        Role::Apart(why) => format!("stays in your compose file, and is not routed: {why}"),
        Role::Worker => format!(
            "stays in your compose file, and is not routed; it calls {}, so each call needs the header x-mayfly",
            calls()
        ),
        Role::Routed(routed) => {
            let mut text = match outcome.is_launched {
                true => "routed, and started by Mayfly".to_owned(),
                false => "routed, and stays in your compose file with labels".to_owned(),
            };
            let version = String::from(routed.version.clone());
            text += &format!(": version {version}, port {}", routed.port);
            text += &format!(", check {}", routed.check);
            for route in &outcome.routes {
                text += &format!(", route {route}");
            }
            if !outcome.calls.is_empty() {
                text += &format!("; it calls {}, so it must forward x-mayfly", calls());
            }
            text
        }
    }
}

/// The overlay, and whether values in it are hidden.
fn changes((overlay, is_masked): (&str, bool), wishes: &ImportWishes) -> String {
    if overlay.is_empty() {
        return String::new();
    }
    let files: Vec<String> = wishes
        .files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let masked = match is_masked {
        true => "; … stands for a value that may be secret",
        false => "",
    };
    let place = match wishes.command {
        ImportCommand::Import => "--overlay FILE writes this file",
        ImportCommand::Init => "overlay.yml",
    };
    format!(
        "Changes of {}, as a second compose file ({place}{masked})\n\n{}\n",
        files.join(", "),
        indented(overlay)
    )
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// What a person has to look at.
fn unknown(outcomes: &[ImportedService], project: &Project, wishes: &ImportWishes) -> Vec<String> {
    let mut lines = Vec::new();
    let named = |is: &dyn Fn(&ImportedService) -> bool| {
        let names: Vec<&str> = outcomes
            .iter()
            .filter(|it| is(it))
            .map(|it| it.it.name.as_str())
            .collect();
        names.join(", ")
    };
    let callers = named(&|it| !it.calls.is_empty() && !matches!(it.it.role, Role::Off(_)));
    let callers = if callers.is_empty() {
        "every service".to_owned()
    } else {
        callers
    };
    lines.push(format!(
        "Whether services forward the header x-mayfly to the services that they call: look at {callers}."
    ));
    lines.extend(defaults(outcomes));
    let shared = named(&|it| matches!(it.it.role, Role::Shared(_)));
    if !shared.is_empty() {
        lines.push(format!(
            "Whether a test may write to what all environments share: {shared}. Mayfly does not separate data."
        ));
    }
    let workers = named(&|it| matches!(it.it.role, Role::Worker));
    if !workers.is_empty() {
        lines.push(format!(
            "Whether these services read from a queue: {workers}. A service that makes a call for a message must send the header of the message."
        ));
    }
    let stateful = named(&|it| it.it.routed().is_some() && it.it.service.writes);
    if !stateful.is_empty() {
        lines.push(format!(
            "Whether the data in the volumes of {stateful} has to outlive a container."
        ));
    }
    let unchecked = named(&|it| it.it.routed().is_some_and(|routed| routed.check == Check::Tcp));
    if !unchecked.is_empty() {
        lines.push(format!(
            "By which path to check {unchecked}: `tcp` shows only that the port answers. Write `check: /PATH` into the \
             definition, or the label `mayfly.check`."
        ));
    }
    let proxies = named(&|it| {
        let image = it.it.service.image.as_ref();
        it.it.routed().is_some()
            && image.is_some_and(|(image, _)| kind::is_proxy(super::image::split(image).name))
    });
    if !proxies.is_empty() {
        lines.push(format!(
            "Which services the files of {proxies} name. Let the proxy call http://NAME.service and forward x-mayfly, or \
             route to those services directly."
        ));
    }
    let routed = named(&|it| it.it.routed().is_some());
    if !routed.is_empty() {
        lines.push(format!(
            "Whether these services accept NAME.service as Host: {routed}."
        ));
        lines.push(format!(
            "Whether one of these services uses gRPC or other HTTP/2 in clear text: {routed}. Such a service needs \
             `protocol: h2c`, or the label `mayfly.protocol: h2c`."
        ));
    }
    if !outcomes.iter().any(|it| !it.routes.is_empty()) {
        lines.push("Which service browsers open: name it by --route SERVICE=PATH.".to_owned());
    }
    if wishes.dns.is_none() {
        lines.push(
            "The address of Mayfly's dnsmasq: give it with --dns ADDRESS, and give the launcher the same --dns."
                .to_owned(),
        );
    }
    let unset: Vec<&str> = project
        .interpolation
        .unset
        .iter()
        .take(20)
        .map(String::as_str)
        .collect();
    if !unset.is_empty() {
        lines.push(format!(
            "The values of these variables, which are not set: {}.",
            unset.join(", ")
        ));
    }
    let launched = || outcomes.iter().filter(|it| it.is_launched);
    let mut written: Vec<String> = project.interpolation.used.iter().cloned().collect();
    written.extend(launched().flat_map(secrets));
    if launched().next().is_some() && !written.is_empty() {
        lines.push(format!(
            "Whether everyone who can read the definitions may know these values, which they now contain: {}. Definitions \
             are also in etcd. A service reads a secret from a file that `volumes` names, or stays in your compose file \
             with the label `mayfly.service`.",
            written.join(", ")
        ));
    }
    lines
}

/// Which addresses of routed services the code of others may have.
fn defaults(outcomes: &[ImportedService]) -> Option<String> {
    let routed = || outcomes.iter().filter_map(|it| Some((it, it.it.routed()?)));
    // Others hardly call the one that browsers open.
    let (first, example) = routed()
        .find(|(it, _)| it.routes.is_empty())
        .or_else(|| routed().next())?;
    let callers = outcomes.iter().filter(|it| !matches!(it.it.role, Role::Off(_)));
    if callers.count() < 2 {
        return None;
    }
    let names: Vec<&str> = routed().map(|(it, _)| it.it.name.as_str()).collect();
    let host = &first.it.name;
    let variable = host.to_ascii_uppercase().replace(['-', '.'], "_");
    let mut line = format!(
        "Whether the code of a service contains the address of another service as a default, such as http://{host}:{0}: look \
         for {1}. Set such a variable in your compose file ({variable}_URL: http://{host}:{0}), and the import writes \
         http://{2}.service in its place; or write that into the definition.",
        example.port,
        names.join(", "),
        example.name,
    );
    let stay: Vec<&str> = routed()
        .filter(|(it, _)| !it.is_launched)
        .map(|(it, _)| it.it.name.as_str())
        .collect();
    if !stay.is_empty() {
        line += &format!(
            " Mayfly's network also knows these names: {}. So code that calls one of them without `.service` reaches \
             your own container from every environment, and not the environment's version.",
            stay.join(", ")
        );
    }
    Some(line)
}

/// The variables of a service that an `env_file` has set, or that probably hold a password.
fn secrets(outcome: &ImportedService) -> Vec<String> {
    let words = [
        "PASSWORD",
        "PASSWD",
        "SECRET",
        "TOKEN",
        "PRIVATE",
        "CREDENTIAL",
        "API_KEY",
    ];
    let is_secret = |name: &&String| {
        if outcome.it.service.of_files.contains(*name) {
            return true;
        }
        let name = name.to_ascii_uppercase();
        words.iter().any(|word| name.contains(word))
    };
    let names = outcome.it.service.env.keys().filter(is_secret);
    names
        .map(|name| format!("{name} of {}", outcome.it.name))
        .collect()
}
