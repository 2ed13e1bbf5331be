//! The image of a service: a text with the version left open, `${DOCKER_ACCOUNT_NAME}/backend:{{
//! version }}`, and the reference that comes of it. Variables are not the environment's of any
//! process: the launcher is told which there are.
//!
//! The grammar of references is that of `distribution/reference`
//! (github.com/distribution/reference, `reference.go`).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::VariableName;
use crate::names::{NameError, Text, checked_conversions, checked_text};
use crate::version::Version;

/// Longest reference, in bytes: a name of 255, a tag of 128, a digest.
const LIMIT: usize = 512;
/// What an engine looks for among the ids of its images, and so finds whatever is there.
const IS_AN_ID: &str = "a name with a tag, such as backend:{{ version }}: hexadecimal digits alone, or `sha256:` and digits, \
     are the id of an image";
const RULE: &str = "such as registry:5000/team/backend:{{ version }}; lower-case names, then a tag; ${NAME} stands for a variable of the launcher";

/// An image with the version, and perhaps variables, left open. It names the version exactly
/// because two versions of a service may not be the same image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageTemplate {
    text: String,
    parts: Vec<ImagePart>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum ImagePart {
    Text(String),
    Version,
    Variable(VariableName),
}

/// Why there is no reference for a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It names a variable that nobody has given.
    #[error(
        "the image contains the variable ${{{0}}}, which the launcher does not know; start \
         container-launcher with --variable {0}=..."
    )]
    NoVariable(VariableName),
    /// What comes of it is no reference.
    #[error(transparent)]
    NotAReference(#[from] NameError),
}

impl ImageTemplate {
    /// The image of a version.
    ///
    /// # Errors
    /// When a variable is missing, or the outcome is no reference.
    pub fn reference(
        &self,
        version: &Version,
        variables: &BTreeMap<VariableName, String>,
    ) -> Result<ImageReference, ImageError> {
        Ok(self.fill(version, variables)?.parse()?)
    }

    fn fill(
        &self,
        version: &Version,
        variables: &BTreeMap<VariableName, String>,
    ) -> Result<String, ImageError> {
        let mut text = String::new();
        for part in &self.parts {
            text += match part {
                ImagePart::Text(text) => text,
                ImagePart::Version => version.as_str(),
                ImagePart::Variable(name) => variables
                    .get(name)
                    .ok_or_else(|| ImageError::NoVariable(name.clone()))?,
            };
        }
        Ok(text)
    }
}

impl FromStr for ImageTemplate {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = |rule: &str| NameError::new(text, "an image", rule);
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let opens = ["{{", "${"]
                .iter()
                .filter_map(|open| rest.find(open))
                .min()
                .unwrap_or(rest.len());
            let (plain, after) = rest.split_at(opens);
            if !plain.is_empty() {
                parts.push(ImagePart::Text(plain.to_owned()));
            }
            if let Some(inner) = after.strip_prefix("{{") {
                let (name, after) = inner.split_once("}}").ok_or_else(|| error(RULE))?;
                if name.trim() != "version" {
                    return Err(error("only {{ version }} is filled in"));
                }
                parts.push(ImagePart::Version);
                rest = after;
            } else if let Some(inner) = after.strip_prefix("${") {
                let (name, after) = inner.split_once('}').ok_or_else(|| error(RULE))?;
                parts.push(ImagePart::Variable(name.parse()?));
                rest = after;
            } else {
                rest = "";
            }
        }
        if !parts.contains(&ImagePart::Version) {
            return Err(error(
                "it has to name the version: {{ version }}, as in backend:{{ version }}",
            ));
        }
        let template = Self {
            text: text.to_owned(),
            parts,
        };
        // Whatever stands for version and variables: the rest has to be right.
        let names = template.parts.iter().filter_map(|part| match part {
            ImagePart::Variable(name) => Some((name.clone(), "x".to_owned())),
            ImagePart::Text(_) | ImagePart::Version => None,
        });
        let filled = template.fill(&"1".parse()?, &names.collect());
        if filled.as_deref().is_ok_and(is_id) {
            return Err(error(IS_AN_ID));
        }
        let is_good = filled.is_ok_and(|filled| is_reference(&filled));
        if !is_good {
            return Err(error(RULE));
        }
        Ok(template)
    }
}

impl fmt::Display for ImageTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}
checked_conversions!(ImageTemplate);

/// An image as an engine takes it: `registry:5000/team/backend:0.0.3`, perhaps with a digest. Never
/// the bare id of an image, by which any image of the engine could be had, whatever it is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference(Text);

impl ImageReference {
    fn check(text: &str) -> Result<Text, NameError> {
        if is_id(text) {
            return Err(NameError::new(text, "an image", IS_AN_ID));
        }
        if text.len() <= LIMIT && is_reference(text) {
            return Ok(text.into());
        }
        Err(NameError::new(
            text,
            "an image",
            "lower-case names with slashes between them, after a host if there is one, then a \
             colon and a tag",
        ))
    }

    /// The name without tag and digest.
    pub fn name(&self) -> &str {
        split(&self.0).0
    }

    /// The tag, if it has one.
    pub fn tag(&self) -> Option<&str> {
        split(&self.0).1
    }
}
checked_text!(ImageReference);

/// Name, tag and digest of a reference.
fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the port of the registry.
    let tag_at = rest
        .rfind(':')
        .filter(|at| rest.rfind('/').is_none_or(|slash| slash < *at));
    match tag_at {
        Some(at) => (&rest[..at], Some(&rest[at + 1..]), digest),
        None => (rest, None, digest),
    }
}

/// Whether an engine would look for an image of this id, or of one that begins so.
fn is_id(text: &str) -> bool {
    let (algorithm, hex) = text.split_once(':').unwrap_or(("sha256", text));
    // Digests are of these algorithms: an image of such a name would be an id.
    ["sha256", "sha384", "sha512"].contains(&algorithm)
        && !hex.is_empty()
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_reference(text: &str) -> bool {
    let (name, tag, digest) = split(text);
    let tag_is_good = |tag: &str| tag.parse::<Version>().is_ok();
    let digest_is_good = |digest: &str| {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty()
                && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && (32..=128).contains(&hex.len())
                && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    let mut parts = name.split('/').peekable();
    // The first part is a host where it looks like one; else it is a part of the path.
    let host = name
        .split_once('/')
        .map(|(first, _)| first)
        .filter(|first| first.contains(['.', ':']) || *first == "localhost");
    if host.is_some() {
        parts.next();
    }
    (1..=255).contains(&name.len())
        && host.is_none_or(is_host)
        && parts.all(is_path_part)
        && tag.is_none_or(tag_is_good)
        && digest.is_none_or(digest_is_good)
}

fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "1"));
    let label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.bytes().all(allowed) && !label.starts_with('-') && !label.ends_with('-')
    };
    host.split('.').all(label) && port.parse::<super::Port>().is_ok()
}

/// Lower-case letters and digits, with one `.`, one or two `_`, or hyphens between them.
fn is_path_part(part: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |byte: Option<u8>| byte.is_some_and(alphanumeric);
    let separators = part.split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit());
    let is_separator =
        |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    ends(part.bytes().next()) && ends(part.bytes().last()) && separators.into_iter().all(is_separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(template: &str, version: &str) -> Result<String, String> {
        let template: ImageTemplate = template.parse().map_err(|error: NameError| error.to_string())?;
        let variables = BTreeMap::from([("ACCOUNT".parse().unwrap(), "team".to_owned())]);
        let reference = template.reference(&version.parse().unwrap(), &variables);
        reference
            .map(|reference| reference.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn version_and_variables_are_filled_in() {
        for (template, expected) in [
            ("backend:{{ version }}", "backend:0.0.3"),
            ("${ACCOUNT}/backend:{{version}}", "team/backend:0.0.3"),
            (
                "registry.example:5000/a/b:v{{ version }}-slim",
                "registry.example:5000/a/b:v0.0.3-slim",
            ),
        ] {
            assert_eq!(image(template, "0.0.3").as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_wrong_is_reported() {
        for (template, part) in [
            ("backend:latest", "{{ version }}"),
            ("backend:{{ version", "registry:5000"),
            ("backend:{{ env.SECRET }}", "only {{ version }}"),
            ("${A B}/backend:{{ version }}", "name of a variable"),
            ("Backend:{{ version }}", "lower-case"),
            ("a b:{{ version }}", "lower-case"),
            ("", "{{ version }}"),
            ("{{ version }}", "id of an image"),
            ("sha256:{{ version }}", "id of an image"),
            ("be{{ version }}", "id of an image"),
        ] {
            let error = image(template, "1").unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
        let error = image("${OTHER}/backend:{{ version }}", "1").unwrap_err();
        assert!(error.contains("--variable OTHER="), "{error}");
        // A version is good as a tag and not everywhere else.
        assert!(image("backend-{{ version }}", "UPPER").is_err());
    }

    /// An engine takes the beginning of an id for a name, and no registry is asked for it.
    #[test]
    fn an_id_is_no_reference() {
        let id = "0f".repeat(32);
        let with_algorithm = format!("sha256:{id}");
        for bad in [
            id.as_str(),
            &with_algorithm,
            &id[..12],
            "c0ffee",
            "1",
            "sha256:0",
            "sha512:ab",
        ] {
            let error = bad.parse::<ImageReference>().unwrap_err().to_string();
            assert!(error.contains("id of an image"), "{error}");
        }
        for good in [
            "c0ffee:1",
            "team/c0ffee",
            "x1",
            "sha256/a",
            "sha256:latest",
            "localhost/0f",
        ] {
            assert!(good.parse::<ImageReference>().is_ok(), "{good}");
        }
        // Only the launcher knows what the variable is.
        let variables = BTreeMap::from([("X".parse().unwrap(), "c0".to_owned())]);
        let template: ImageTemplate = "${X}{{ version }}".parse().unwrap();
        let error = template
            .reference(&"ffee".parse().unwrap(), &variables)
            .unwrap_err();
        assert!(error.to_string().contains("id of an image"), "{error}");
    }

    #[test]
    fn references() {
        let digest = format!("a@sha256:{}", "0f".repeat(32));
        for (text, name, tag) in [
            ("backend", "backend", None),
            ("team/backend:0.0.3", "team/backend", Some("0.0.3")),
            ("localhost/a", "localhost/a", None),
            (
                "registry:5000/a__b/c-d.e:x",
                "registry:5000/a__b/c-d.e",
                Some("x"),
            ),
            ("Registry.Example/a", "Registry.Example/a", None),
            (digest.as_str(), "a", None),
        ] {
            let reference: ImageReference = text.parse().unwrap();
            assert_eq!((reference.name(), reference.tag()), (name, tag), "{text}");
        }
        for bad in [
            "",
            "A",
            "a:",
            "a/",
            "/a",
            "a//b",
            "a:b c",
            "a\n",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a@sha256:zz",
            "a:b:c",
            "registry:0/a",
            "-x.y/a",
            "a;b",
            "https://a/b",
        ] {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_plain_reference_or_an_error(text in "\\PC{0,40}|[a-z:/@. \n;{}]{0,30}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                let strange = [' ', '\n', ';', '{', '}', '"', '\'', '\\', '$', '?', '#', '%'];
                let passes = reference.as_str().contains(strange);
                prop_assert!(!passes);
            }
        }
    }
}
