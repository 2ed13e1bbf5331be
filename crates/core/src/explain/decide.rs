//! Which version a header value means for a service: the look-ups of the internal side, up to the
//! version. Consumers of queues ask it for each message, so nothing is said of instances.

use serde::Serialize;

use super::{Request, Settings, Side, Walk, bare_host, no_instance};
use crate::index::Index;
use crate::names::{EnvironmentName, ServiceName};
use crate::routing::Choice;

/// What a header value means for a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The environment of the value.
    pub environment: EnvironmentName,
    /// The service.
    pub service: ServiceName,
    /// The version that calls of it reach, whether or not an instance of it is live.
    pub version: String,
    /// The environment whose version it is, if not the environment's own.
    pub inherited_from: Option<EnvironmentName>,
}

/// That the internal side would refuse the call: the status and text of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedCall {
    /// The status code.
    pub status: u16,
    /// What it says, without the status code.
    pub text: String,
}

impl Index {
    /// The version that a value of `x-mayfly` means for a service, as of the last
    /// [`Index::resolve`]. Without a value it is that of the default environment.
    ///
    /// # Errors
    /// When the internal side would refuse a call of the service with this value.
    pub fn decide(&self, settings: &Settings, service: &str, value: &str) -> Result<Decision, RefusedCall> {
        let request = Request {
            side: Side::Internal,
            tls: true,
            host: format!("{service}.{}", settings.domain),
            path: "/".to_owned(),
            query: String::new(),
            cookie: String::new(),
            from: None,
            login: None,
            // White space around a header's value is no part of it.
            value: Some(value.trim_matches([' ', '\t']).to_owned()),
        };
        let walk = Walk {
            index: self,
            routing: self.routing(),
            settings,
            request: &request,
            steps: Vec::new(),
        };
        walk.decide()
            .map_err(|(status, text)| RefusedCall { status, text })
    }
}

impl Walk<'_> {
    fn decide(mut self) -> Result<Decision, (u16, String)> {
        let value = self.value_inside()?;
        let environment = self.environment(&value)?;
        let chain: Vec<&EnvironmentName> = self.routing.chain(environment).collect();
        let service = self.service(&bare_host(&self.request.host))?;
        let (choice, origin, _) = self.version(&chain, &service)?;
        let Choice::Backend(backend) = choice else {
            let (service, version) = (choice.service(), choice.version());
            return Err((503, no_instance(choice, environment, service, version)));
        };
        Ok(Decision {
            environment: environment.clone(),
            service: backend.service.clone(),
            version: backend.version.to_string(),
            inherited_from: (origin != environment).then(|| origin.clone()),
        })
    }
}
