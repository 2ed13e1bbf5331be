//! The files of the page. They are part of the program, so nothing has to be installed beside it.

use std::sync::OnceLock;

use crate::pieces::Piece;

/// A file of the page.
#[derive(Debug)]
pub struct PageFile {
    /// Its path below the base path.
    pub path: &'static str,
    pub content_type: &'static str,
    text: &'static str,
    deflated: OnceLock<Piece>,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const ICON: &str = "image/svg+xml";

static FILES: [PageFile; 9] = [
    PageFile::new("/", HTML, include_str!("../page/index.html")),
    PageFile::new("/page.css", STYLE, include_str!("../page/page.css")),
    PageFile::new("/icon.svg", ICON, include_str!("../page/icon.svg")),
    PageFile::new("/page.js", SCRIPT, include_str!("../page/page.js")),
    PageFile::new("/connection.js", SCRIPT, include_str!("../page/connection.js")),
    PageFile::new(
        "/environments.js",
        SCRIPT,
        include_str!("../page/environments.js"),
    ),
    PageFile::new("/state.js", SCRIPT, include_str!("../page/state.js")),
    PageFile::new("/tables.js", SCRIPT, include_str!("../page/tables.js")),
    PageFile::new("/text.js", SCRIPT, include_str!("../page/text.js")),
];

impl PageFile {
    const fn new(path: &'static str, content_type: &'static str, text: &'static str) -> Self {
        Self {
            path,
            content_type,
            text,
            deflated: OnceLock::new(),
        }
    }

    /// The file at a path.
    pub fn at(path: &str) -> Option<&'static Self> {
        FILES.iter().find(|file| file.path == path)
    }

    /// Its text, deflated once.
    pub fn piece(&self) -> &Piece {
        self.deflated.get_or_init(|| Piece::of(self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What all files together may have over the wire.
    const MOST: usize = 60_000;
    /// What would ask another host, or make markup of text.
    const FORBIDDEN: [&str; 5] = [
        "src=\"http",
        "href=\"http",
        "url(http",
        "import \"http",
        "innerHTML",
    ];

    #[test]
    fn every_file_of_the_page_is_served_and_all_are_small() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/page");
        for entry in std::fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = format!("/{}", name.replace("index.html", ""));
            assert!(PageFile::at(&path).is_some(), "{path} is not served");
        }
        let sizes = FILES.iter().map(|file| file.piece().deflated().len());
        let size: usize = sizes.sum();
        assert!(size <= MOST, "{size} bytes");
    }

    #[test]
    fn the_page_asks_no_other_host_and_makes_no_markup() {
        for file in &FILES {
            let found = FORBIDDEN.iter().find(|word| file.text.contains(**word));
            assert_eq!(found, None, "{}", file.path);
        }
        assert!(PageFile::at("/page.html").is_none());
    }
}
