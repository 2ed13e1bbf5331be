//! What a session registers and prints: pure, with the time and all names as arguments.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::SystemTime;

use anyhow::Context as _;
use mayfly_core::address::{Address, InstanceId};
use mayfly_core::explain::{Settings, ShareLinks};
use mayfly_core::keys::Key;
use mayfly_core::labels;
use mayfly_core::names::{DnsPrefix, EnvironmentName, HeaderValue, NodeName};
use mayfly_core::records::lifetime::{Life, Moment};
use mayfly_core::records::{Environment, Instance, InstanceState, Protocol, ServiceChoice, Source};
use mayfly_core::version::{BackendId, LAPTOP, Selector, Version};

/// Bytes of a person's name that a session's names keep: a DNS label has 63.
const PERSON_LIMIT: usize = 40;

/// Everything by which a session is known.
#[derive(Debug, Clone)]
pub struct Session {
    pub name: EnvironmentName,
    pub parent: EnvironmentName,
    pub backend: BackendId,
    pub protocol: Protocol,
    pub person: String,
    /// This machine.
    pub node: NodeName,
    pub source: Source,
}

/// A person's name as a part of a DNS label; `None` where nothing is left of it.
pub fn label(person: &str) -> Option<String> {
    let lower = person.to_ascii_lowercase();
    let parts = lower.split(|letter: char| !letter.is_ascii_alphanumeric());
    let mut label = parts
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("-");
    label.truncate(PERSON_LIMIT);
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

/// A version that nobody else has: a session that was killed and its successor never mix.
///
/// # Errors
/// Never for a label.
pub fn version(person: &str, random: u16) -> anyhow::Result<Version> {
    Ok(format!("{LAPTOP}{person}-{random:04x}").parse()?)
}

impl Session {
    /// The environment. At the end of the session it has no service of its own any more, so that
    /// the base environment answers for it until it is gone.
    ///
    /// # Errors
    /// When the name is too long for a prefix.
    pub fn environment(&self, is_ending: bool, now: SystemTime) -> anyhow::Result<Environment> {
        let choice = ServiceChoice {
            name: self.backend.service.clone(),
            version: Selector::Exact(self.backend.version.clone()),
            routes: Vec::new(),
        };
        let description = format!(
            "{} runs on the machine {} of {} (mayfly local)",
            self.backend.service, self.node, self.person
        );
        Ok(Environment {
            name: self.name.clone(),
            extends: Some(self.parent.clone()),
            prefix: DnsPrefix::default_for(&self.name).context("choose a shorter --name")?,
            header: HeaderValue::from(&self.name),
            expires: None,
            idle: None,
            protected: false,
            access: None,
            switch: Default::default(),
            description: Some(description),
            services: if is_ending { Vec::new() } else { vec![choice] },
            source: Some(self.source.clone()),
            life: Some(Life::beginning(Moment::of(now))),
        })
    }

    /// The instance, and its key. `beside` is the node that its address belongs to.
    pub fn instance(&self, address: Address, state: InstanceState, beside: &NodeName) -> (Key, Instance) {
        let record = Instance {
            address: address.into(),
            state,
            protocol: self.protocol,
            weight: Default::default(),
            shared: false,
            metadata: BTreeMap::from([(labels::NODE.to_owned(), beside.to_string())]),
        };
        let key = Key::Instance(self.backend.clone(), InstanceId::of(&address));
        (key, record)
    }
}

/// The URL of some environment at the edge: `https://www.example.com:8443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeUrl {
    scheme: String,
    /// What follows the first label of the host, with the port.
    rest: String,
}

impl FromStr for EdgeUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || {
            "the URL of an environment at the edge looks like https://www.example.com or \
             http://www.example.com:8080"
                .to_owned()
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(rule)?;
        let host = rest.strip_suffix('/').unwrap_or(rest);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
        let (label, rest) = host.split_once('.').ok_or_else(rule)?;
        let is_address = label.bytes().all(|byte| byte.is_ascii_digit());
        if !["http", "https"].contains(&scheme) || !host.bytes().all(allowed) || is_address || rest.is_empty()
        {
            return Err(rule());
        }
        Ok(Self {
            scheme: scheme.to_owned(),
            rest: rest.to_owned(),
        })
    }
}

impl EdgeUrl {
    /// The same for the environment with this prefix.
    pub fn of(&self, prefix: &DnsPrefix) -> String {
        format!("{}://{prefix}.{}/", self.scheme, self.rest)
    }
}

/// How to open the environment.
pub fn opened(
    environment: &Environment,
    parent: &Environment,
    url: Option<&EdgeUrl>,
    settings: Option<&Settings>,
) -> String {
    let (name, prefix) = (&environment.name, &environment.prefix);
    let mut lines = match url {
        Some(url) => format!("  open    {}\n", url.of(prefix)),
        None => format!(
            "  open    the host {prefix}.<domain>, as you open {}.<domain> (--url prints the link)\n",
            parent.prefix
        ),
    };
    let shares = match settings.map(|settings| settings.share_links) {
        None | Some(ShareLinks::Off) => false,
        Some(ShareLinks::Unprotected) => !parent.protected,
        Some(ShareLinks::All) => true,
    };
    if shares {
        lines += &match url {
            Some(url) => format!("  or      {}?mayfly={name}\n", url.of(&parent.prefix)),
            None => format!("  or      ?mayfly={name} at the host of any environment\n"),
        };
    }
    lines
}

/// What lets the process call other services.
pub fn calls(proxy: Option<&str>, domain: &str) -> String {
    match proxy {
        Some(proxy) => format!(
            "  calls   to let your process call http://*.{domain}, set in its shell\n          \
             export http_proxy=http://{proxy} no_proxy=localhost,127.0.0.1,::1\n"
        ),
        None => format!("  calls   no router is registered, so your process cannot call http://*.{domain}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn persons_become_labels() {
        for (person, expected) in [
            ("ada", Some("ada")),
            ("Ada.Lovelace", Some("ada-lovelace")),
            ("CORP\\ada_l", Some("corp-ada-l")),
            ("--", None),
            ("", None),
            ("ÄÖ", None),
        ] {
            assert_eq!(label(person).as_deref(), expected, "{person}");
        }
        let long = label(&"ada-".repeat(30)).unwrap();
        assert!(long.len() <= PERSON_LIMIT && !long.ends_with('-'), "{long}");
        assert!(version(&long, 7).unwrap().is_on_laptop());
    }

    #[test]
    fn urls_of_the_edge() {
        for (text, expected) in [
            ("https://www.example.com", Some("https://www-ada.example.com/")),
            (
                "http://www-dev.example.com:8080/",
                Some("http://www-ada.example.com:8080/"),
            ),
            ("www.example.com", None),
            ("https://localhost", None),
            ("https://10.0.0.5", None),
            ("https://www.example.com/cart", None),
            ("https://me@www.example.com", None),
            ("ftp://www.example.com", None),
            ("https://www.", None),
        ] {
            let url = text.parse::<EdgeUrl>();
            let found = url.map(|url| url.of(&"www-ada".parse().unwrap()));
            assert_eq!(found.ok().as_deref(), expected, "{text}");
        }
    }

    fn session() -> Session {
        Session {
            name: "local-ada".parse().unwrap(),
            parent: "temp-1".parse().unwrap(),
            backend: BackendId {
                service: "backend".parse().unwrap(),
                version: version("ada", 0x4f2a).unwrap(),
            },
            protocol: Protocol::Http,
            person: "ada".to_owned(),
            node: "pc".parse().unwrap(),
            source: Source {
                registrar: "mayfly_local.pc".parse().unwrap(),
                file: "backend:8080".to_owned(),
            },
        }
    }

    #[test]
    fn at_its_end_the_environment_is_as_its_base() {
        let (session, now) = (session(), SystemTime::UNIX_EPOCH);
        let environment = session.environment(false, now).unwrap();
        assert_eq!(environment.prefix.as_str(), "www-local-ada");
        assert_eq!(
            environment.services[0].version.to_string(),
            "laptop-ada-4f2a".to_owned()
        );
        let ending = session.environment(true, now).unwrap();
        assert!(ending.services.is_empty() && ending.extends == environment.extends);
        let long = Session {
            name: "n".repeat(63).parse().unwrap(),
            ..session
        };
        let error = format!("{:#}", long.environment(false, now).unwrap_err());
        assert!(error.contains("choose a shorter --name"), "{error}");
    }

    #[test]
    fn what_is_printed() {
        let session = session();
        let environment = session.environment(false, SystemTime::UNIX_EPOCH).unwrap();
        let mut parent: Environment =
            serde_json::from_str(r#"{"name": "temp-1", "prefix": "www-temp-1", "header": "temp-1"}"#)
                .unwrap();
        let url = "https://www.example.com".parse().unwrap();
        let settings = |share_links| Settings {
            share_links,
            ..serde_json::from_str(r#"{"domain": "service"}"#).unwrap()
        };
        let host = "  open    https://www-local-ada.example.com/\n".to_owned();
        let link = "  or      https://www-temp-1.example.com/?mayfly=local-ada\n";
        let told = |parent: &Environment, share_links| {
            opened(&environment, parent, Some(&url), Some(&settings(share_links)))
        };
        assert_eq!(told(&parent, ShareLinks::Off), host);
        assert_eq!(told(&parent, ShareLinks::Unprotected), host.clone() + link);
        parent.protected = true;
        assert_eq!(told(&parent, ShareLinks::Unprotected), host);
        assert_eq!(told(&parent, ShareLinks::All), host + link);
        let told = opened(&environment, &parent, None, None);
        assert!(told.contains("www-local-ada.<domain>"), "{told}");
        let told = calls(Some("127.0.0.1:18080"), "service");
        assert!(
            told.contains("export http_proxy=http://127.0.0.1:18080 "),
            "{told}"
        );
    }
}
