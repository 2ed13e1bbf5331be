//! What WebDriver alone does not tell of a page: what its policy refuses and what it asks for. And
//! keys, as a keyboard sends them.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Browser;

/// Notes each violation of a page's Content-Security-Policy and each error of its scripts.
const NOTES: &str = "
    window.notedFaults = [];
    addEventListener('securitypolicyviolation', (event) =>
        notedFaults.push(`${event.violatedDirective} refuses ${event.blockedURI}`));
    addEventListener('error', (event) => notedFaults.push(`error: ${event.message}`));
    addEventListener('unhandledrejection', (event) => notedFaults.push(`rejected: ${event.reason}`));
";

/// A file that a page has asked for.
#[derive(Debug, Clone, Deserialize)]
pub struct Asked {
    /// Its address.
    #[serde(rename = "name")]
    pub url: String,
    /// How many bytes of it came over the wire; 0 while it has not ended, and of another origin.
    #[serde(rename = "transferSize")]
    pub bytes: u64,
}

impl Browser {
    /// Has every page that is opened from now on note its faults.
    ///
    /// # Errors
    /// When the browser has gone; so too for all below.
    pub async fn note_faults(&self) -> Result<()> {
        let source = json!({"source": NOTES});
        self.devtools("Page.addScriptToEvaluateOnNewDocument", &source)
            .await
            .map(drop)
    }

    /// The faults that the page has noted: violations of its policy, and errors of its scripts.
    pub async fn faults(&self) -> Result<Vec<String>> {
        let noted = self.script("return window.notedFaults").await?;
        serde_json::from_value(noted).context("a page that notes its faults")
    }

    /// All that the page has asked for, itself first.
    pub async fn asked(&self) -> Result<Vec<Asked>> {
        let entries = "return [...performance.getEntriesByType('navigation'),
            ...performance.getEntriesByType('resource')].map((entry) => entry.toJSON())";
        serde_json::from_value(self.script(entries).await?).context("entries of a page's performance")
    }

    /// Types a text where the focus is, as if pasted.
    pub async fn paste(&self, text: &str) -> Result<()> {
        self.devtools("Input.insertText", &json!({"text": text}))
            .await
            .map(drop)
    }

    /// Presses a key by its name, such as `Tab` or `Enter`.
    pub async fn press(&self, key: &str) -> Result<()> {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            " " => (32, Some(" ")),
            key => anyhow::bail!("no code is known for the key {key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code});
            if let Some(text) = text.filter(|_| kind == "keyDown") {
                event["text"] = text.into();
            }
            self.devtools("Input.dispatchKeyEvent", &event).await?;
        }
        Ok(())
    }

    /// Makes the window look like another one: its size in pixels, and `light` or `dark`.
    pub async fn look(&self, (width, height): (u32, u32), scheme: &str) -> Result<()> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", &size).await?;
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": features}))
            .await
            .map(drop)
    }

    /// A command of Chromium's DevTools protocol.
    async fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        let body = json!({"cmd": command, "params": parameters});
        self.command("/goog/cdp/execute", &body).await
    }
}
