//! An environment becomes the text of a file that says the same: what a person would write, without
//! where it comes from and what became of it. Same environment, same bytes.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::names::{DnsPrefix, EnvironmentName, HeaderValue, RoutePath, ServiceName};
use crate::records::access::Access;
use crate::records::lifetime::{Expiry, Idle};
use crate::records::switching::Switch;
use crate::records::{Environment, ServiceChoice};
use crate::upstream::Upstream;
use crate::version::Selector;

/// The text of a file with this environment, which [`super::parse`] reads back as the same. A
/// record that no file could have said (written into etcd by hand) is written all the same, and
/// refused when it is read.
pub fn to_yaml(environment: &Environment) -> String {
    text(&Form::of(environment))
}

/// The text of a file with a list of environments.
pub fn list_to_yaml(environments: &[Environment]) -> String {
    text(&environments.iter().map(Form::of).collect::<Vec<_>>())
}

/// The field `access` as it stands in a file.
pub fn access_to_yaml(access: &Access) -> String {
    text(&BTreeMap::from([("access", access)]))
}

fn text<T: Serialize>(form: &T) -> String {
    // Strings, lists and mappings with fixed keys: there is nothing that YAML could not say.
    serde_yaml::to_string(form).unwrap_or_default()
}

/// The fields of an environment as they stand in a file, in the order in which people write them.
#[derive(Serialize)]
struct Form<'a> {
    name: &'a EnvironmentName,
    #[serde(skip_serializing_if = "Option::is_none")]
    extends: Option<&'a EnvironmentName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<&'a DnsPrefix>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<&'a HeaderValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Expiry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<Idle>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    protected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<&'a Access>,
    #[serde(skip_serializing_if = "Switch::is_default")]
    switch: Switch,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    services: Vec<Service<'a>>,
}

impl<'a> Form<'a> {
    fn of(environment: &'a Environment) -> Self {
        let Environment {
            name,
            extends,
            prefix,
            header,
            expires,
            idle,
            protected,
            access,
            switch,
            description,
            services,
            source: _,
            life: _,
        } = environment;
        let default_prefix = DnsPrefix::default_for(name).ok();
        Self {
            name,
            extends: extends.as_ref(),
            prefix: Some(prefix).filter(|prefix| Some(*prefix) != default_prefix.as_ref()),
            header: Some(header).filter(|header| **header != HeaderValue::from(name)),
            expires: *expires,
            idle: *idle,
            protected: *protected,
            access: access.as_ref(),
            switch: *switch,
            description: description.as_deref(),
            services: services.iter().map(Service::of).collect(),
        }
    }
}

/// A service: its name alone where all the rest is as by default.
#[derive(Serialize)]
#[serde(untagged)]
enum Service<'a> {
    Name(&'a ServiceName),
    Choice {
        name: &'a ServiceName,
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<&'a Selector>,
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<Upstream>,
        #[serde(skip_serializing_if = "Option::is_none")]
        route: Option<&'a RoutePath>,
        #[serde(skip_serializing_if = "Option::is_none")]
        routes: Option<&'a [RoutePath]>,
    },
}

impl<'a> Service<'a> {
    fn of(choice: &'a ServiceChoice) -> Self {
        let ServiceChoice {
            name,
            version,
            routes,
        } = choice;
        if *version == Selector::Latest && routes.is_empty() {
            return Self::Name(name);
        }
        let address = version.upstream();
        let (route, routes) = match routes.as_slice() {
            [] => (None, None),
            [route] => (Some(route), None),
            several => (None, Some(several)),
        };
        Self::Choice {
            name,
            version: Some(version).filter(|version| address.is_none() && **version != Selector::Latest),
            address,
            route,
            routes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_a_person_would_write() {
        let text = "\
name: temp-1
extends: qa
prefix: shop
header: Temp
expires: 8h
idle: 30m
description: |-
  the new basket:
  # not a comment
services:
- name: frontend
  version: '1.10'
  route: /
- name: backend
  version: ^1.2
  routes:
  - /api
  - /v2
- name: billing
  address: https://billing.internal:443
- name: moving
  route: /m
- legacy
- 'null'
";
        let parsed = super::super::parse(text.as_bytes());
        assert_eq!(parsed.faults, []);
        let mut environment = parsed.entries[0].environment.clone();
        environment.source = Some(crate::records::Source {
            registrar: "us".parse().unwrap(),
            file: "f.yaml".to_owned(),
        });
        assert_eq!(to_yaml(&environment), text);
        environment.life = None;
        let plain = super::super::parse(b"{name: a, prefix: www-a, header: a, protected: true}");
        let plain = &plain.entries[0].environment;
        assert_eq!(to_yaml(plain), "name: a\nprotected: true\n");
        assert_eq!(
            list_to_yaml(std::slice::from_ref(plain)),
            "- name: a\n  protected: true\n"
        );
        assert_eq!(list_to_yaml(&[]), "[]\n");
    }
}
