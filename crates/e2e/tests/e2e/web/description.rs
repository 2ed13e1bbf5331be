//! Holds answers against the OpenAPI description of the API.

use std::collections::BTreeSet;

use boon::{Compiler, Draft, Schemas};
use mayfly_e2e::http::Answer;
use serde_json::Value;

const PLACE: &str = "https://mayfly.invalid/openapi.json";

pub struct Description {
    document: Value,
    /// The calls whose answers were seen, with their status.
    seen: BTreeSet<(String, u16)>,
}

impl Description {
    pub fn read(text: &str) -> Self {
        let document: Value = serde_json::from_str(text).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        Self {
            document,
            seen: BTreeSet::new(),
        }
    }

    /// The answer to a call has this status, which is described, and its body is as described.
    pub fn check(&mut self, path: &str, status: u16, answer: &Answer) {
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        let call = self.call(path);
        let described = self.document["paths"][&call]["get"]["responses"][status.to_string()].clone();
        let content = described["content"].as_object();
        let content = content.unwrap_or_else(|| panic!("{call} does not describe {status}"));
        let (content_type, content) = content.iter().next().unwrap();
        assert_eq!(&answer.headers["content-type"], content_type, "{path}");
        if content["schema"]["type"] == "string" {
            return self.seen(&call, status);
        }
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        // The description itself has no schema here.
        if let Some(reference) = content["schema"]["$ref"].as_str() {
            self.holds(reference.trim_start_matches('#'), &body, path);
        }
        self.seen(&call, status);
    }

    /// A part of a stream is as described.
    pub fn check_part(&self, schema: &str, data: &Value) {
        self.holds(&format!("/components/schemas/{schema}"), data, schema);
    }

    fn holds(&self, place: &str, value: &Value, what: &str) {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.set_default_draft(Draft::V2020_12);
        compiler.add_resource(PLACE, self.document.clone()).unwrap();
        let schema = compiler
            .compile(&format!("{PLACE}#{place}"), &mut schemas)
            .unwrap();
        if let Err(error) = schemas.validate(value, schema) {
            panic!("{what} is not as described: {error:#}\n{value:#}");
        }
    }

    /// Notes that a call was answered with this status.
    pub fn seen(&mut self, call: &str, status: u16) {
        self.seen.insert((call.to_owned(), status));
    }

    /// The description says nothing good that no answer has.
    pub fn all_good_answers_were_seen(&self) {
        for call in self.document["paths"].as_object().unwrap().keys() {
            assert!(
                self.seen.contains(&(call.clone(), 200)),
                "{call} was never answered"
            );
        }
    }

    /// The described call that a path is.
    fn call(&self, path: &str) -> String {
        let path = path.split('?').next().unwrap();
        let call = match path.strip_prefix("/v1/environments/") {
            Some(rest) if rest.ends_with("/markdown") => "/v1/environments/{name}/markdown",
            Some(_) => "/v1/environments/{name}",
            None => path,
        };
        assert!(
            self.document["paths"].get(call).is_some(),
            "{call} is not described"
        );
        call.to_owned()
    }
}
