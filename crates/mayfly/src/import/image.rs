//! The parts of a reference to an image: `registry:5000/team/name:tag@digest`.

/// The parts of a reference to an image.
pub(super) struct ImageParts<'t> {
    pub(super) name: &'t str,
    pub(super) tag: Option<&'t str>,
    pub(super) digest: Option<&'t str>,
}

pub(super) fn split(image: &str) -> ImageParts<'_> {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        // A colon before a slash is that of a registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    ImageParts { name, tag, digest }
}
