//! Gets the image of a unit onto the engine, and says how much of it is there.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{anyhow, bail};
use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt as _;
use mayfly_core::records::definition::ImageReference;
use mayfly_daemon::docker::{failed, found, reason, within};

use super::QUESTION;
use super::{Progress, Pull};

/// How long a pull may make no progress, unless a test sets another limit.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// Makes sure that the engine has an image, as `pull` demands. Gives up when a pull makes no
/// progress for `silence`. Returns why it could not be pulled, where that does not matter.
///
/// # Errors
/// When it does not have it, and it cannot be pulled.
pub(super) async fn ensure(
    client: &bollard::Docker,
    image: &ImageReference,
    pull: Pull,
    silence: Duration,
    report: &(impl Fn(Progress) + Send + Sync),
) -> anyhow::Result<Option<String>> {
    if matches!(pull, Pull::Missing | Pull::Never) && is_there(client, image).await? {
        return Ok(None);
    }
    if pull == Pull::Never {
        bail!("the engine does not have image {image}, and images are not pulled (--pull never)");
    }
    report(Progress::Pulling(None));
    let Err(error) = fetch(client, image, silence, report).await else {
        return Ok(None);
    };
    match pull {
        Pull::Newest if is_there(client, image).await? => Ok(Some(error.to_string())),
        Pull::Always if is_there(client, image).await? => {
            bail!(
                "{error}; the engine has the image, but the launcher starts it only after a \
                 successful pull (--pull always)"
            )
        }
        _ => bail!(
            "{error}; the engine has no copy of the image either; push the image to its registry, or \
             build it on the engine's host"
        ),
    }
}

/// Whether the engine has an image.
async fn is_there(client: &bollard::Docker, image: &ImageReference) -> anyhow::Result<bool> {
    let looked = within(QUESTION, client.inspect_image(image.as_str())).await;
    let known = found(looked).map_err(failed(format!("look for image {image}")))?;
    Ok(known.is_some())
}

/// Pulls an image.
async fn fetch(
    client: &bollard::Docker,
    image: &ImageReference,
    silence: Duration,
    report: &(impl Fn(Progress) + Send + Sync),
) -> anyhow::Result<()> {
    let options = CreateImageOptionsBuilder::default()
        .from_image(&exact(image))
        .build();
    let mut stream = client.create_image(Some(options), None, None);
    let mut layers = Layers::default();
    loop {
        match tokio::time::timeout(silence, stream.next()).await {
            Err(_) => bail!("cannot pull image {image}: no progress for {silence:?}"),
            Ok(None) => return Ok(()),
            Ok(Some(Err(error))) => return Err(refusal(image, &error)),
            Ok(Some(Ok(info))) => {
                if let Some(percent) = layers.note(&info) {
                    report(Progress::Pulling(Some(percent)));
                }
            }
        }
    }
}

/// The image with its tag: an engine that is asked for an image without one pulls all tags that
/// there are.
fn exact(image: &ImageReference) -> String {
    match image.tag() {
        None if !image.as_str().contains('@') => format!("{image}:latest"),
        _ => image.to_string(),
    }
}

fn refusal(image: &ImageReference, error: &Error) -> anyhow::Error {
    let reason = reason(error);
    let missing = ["not found", "manifest unknown", "does not exist"];
    if missing.iter().any(|text| reason.contains(text)) {
        anyhow!("image {image} does not exist: {reason}")
    } else {
        anyhow!("cannot pull image {image}: {reason}")
    }
}

/// How far the layers of an image are.
#[derive(Debug, Default)]
struct Layers {
    layers: HashMap<String, Layer>,
    reported: Option<u8>,
}

/// Bytes of one layer. Each goes a way of twice its size: it is downloaded, then extracted.
#[derive(Debug, Default)]
struct Layer {
    size: Option<u64>,
    downloaded: u64,
    extracted: u64,
    complete: bool,
}

impl Layers {
    /// Notes a message of the engine; returns the percentage of the whole if it has grown.
    fn note(&mut self, info: &CreateImageInfo) -> Option<u8> {
        let (id, status) = (info.id.as_ref()?, info.status.as_deref()?);
        let bytes = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        let detail = info.progress_detail.as_ref();
        let current = bytes(detail.and_then(|detail| detail.current)).unwrap_or(0);
        let total = bytes(detail.and_then(|detail| detail.total)).filter(|total| *total > 0);
        if !["Pulling fs layer", "Waiting"].contains(&status) && !self.layers.contains_key(id) {
            // A layer that is there already, or a message about no layer.
            return None;
        }
        let layer = self.layers.entry(id.clone()).or_default();
        match status {
            "Downloading" => {
                layer.size = total.or(layer.size);
                layer.downloaded = current;
            }
            // Some engines count seconds here, and give no total.
            "Extracting" if total.is_some() => layer.extracted = current,
            "Verifying Checksum" | "Download complete" => layer.downloaded = layer.size.unwrap_or(0),
            "Pull complete" | "Already exists" => layer.complete = true,
            _ => {}
        }
        let percent = self.percent()?;
        // A layer whose size turns out later than others must not make it go backwards.
        let more = self.reported.is_none_or(|reported| percent > reported);
        more.then(|| *self.reported.insert(percent))
    }

    fn percent(&self) -> Option<u8> {
        let sizes: Vec<u128> = self
            .layers
            .values()
            .filter_map(|layer| layer.size)
            .map(u128::from)
            .collect();
        // Those whose size is not known yet count like the others.
        let usual = sizes.iter().sum::<u128>().checked_div(sizes.len() as u128)?;
        let (mut way, mut done) = (0, 0);
        for layer in self.layers.values() {
            let size = layer.size.map_or(usual, u128::from);
            way += size * 2;
            done += match layer.complete {
                true => size * 2,
                false => size.min(layer.downloaded.into()) + size.min(layer.extracted.into()),
            };
        }
        u8::try_from((done * 100).checked_div(way)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ProgressDetail;
    use proptest::prelude::*;

    fn message(id: &str, status: &str, current: i64, total: i64) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(ProgressDetail {
                current: Some(current),
                total: Some(total),
            }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn the_percentage_is_of_the_bytes_downloaded_and_extracted() {
        let mut layers = Layers::default();
        let percentages = [
            ("0.0.1", "Pulling from team/backend", 0, 0),
            ("a", "Already exists", 0, 0),
            ("b", "Pulling fs layer", 0, 0),
            ("c", "Pulling fs layer", 0, 0),
            ("b", "Downloading", 50, 100),
            ("c", "Downloading", 0, 300),
            ("b", "Downloading", 100, 100),
            ("b", "Download complete", 0, 0),
            ("b", "Extracting", 100, 100),
            ("b", "Pull complete", 0, 0),
            ("c", "Downloading", 300, 300),
            ("c", "Pull complete", 0, 0),
        ]
        .map(|(id, status, current, total)| layers.note(&message(id, status, current, total)));
        let expected = [
            None,
            None,
            None,
            None,
            // `c` is taken to be like `b` first, and turns out to be larger.
            Some(12),
            None,
            None,
            None,
            Some(25),
            None,
            Some(62),
            Some(100),
        ];
        assert_eq!(percentages, expected);
    }

    #[test]
    fn the_reason_says_whether_there_is_such_an_image() {
        let image: ImageReference = "team/backend:7".parse().unwrap();
        for (answer, expected) in [
            (
                "manifest for team/backend:7 not found: manifest unknown",
                "image team/backend:7 does not exist: ",
            ),
            (
                "pull access denied for team/backend, repository does not exist or may require 'docker login'",
                "does not exist: ",
            ),
            (
                "Get \"x\": dial tcp: lookup registry: i/o timeout",
                "cannot pull image team/backend:7: Get",
            ),
        ] {
            let error = Error::DockerStreamError {
                error: answer.to_owned(),
            };
            let text = refusal(&image, &error).to_string();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn never_all_tags() {
        let digest = "0".repeat(64);
        for (image, expected) in [
            (
                "registry:5000/backend".to_owned(),
                "registry:5000/backend:latest".to_owned(),
            ),
            ("backend:7".to_owned(), "backend:7".to_owned()),
            (
                format!("backend@sha256:{digest}"),
                format!("backend@sha256:{digest}"),
            ),
        ] {
            assert_eq!(exact(&image.parse().unwrap()), expected);
        }
    }

    proptest! {
        #[test]
        fn any_progress_never_goes_backwards_nor_beyond_100(
            messages in proptest::collection::vec(
                ("[abc]", 0usize..7, any::<i64>(), any::<i64>()), 0..60),
        ) {
            let texts = ["Pulling fs layer", "Waiting", "Downloading", "Download complete", "Extracting", "Pull complete", "x"];
            let (mut layers, mut last) = (Layers::default(), None);
            for (id, status, current, total) in messages {
                let percent = layers.note(&message(&id, texts[status], current, total));
                if let Some(percent) = percent {
                    prop_assert!(percent <= 100 && last.is_none_or(|last| percent > last));
                    last = Some(percent);
                }
            }
        }
    }
}
