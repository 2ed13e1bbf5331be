//! What commands such as `list` print on stdout: a table for people or JSON for programs. A reader
//! that goes away (`| head`) is no error. [`Look`] is what the terminal allows, [`TextTable`] fits
//! it.

mod table;
mod terminal;

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

use anyhow::Context as _;
pub use mayfly_core::printable::printable;
use mayfly_core::printable::{printable_json, printable_lines};
pub use table::TextTable;
pub use terminal::{Color, Look, Tone};

/// How a command prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Columns, for people.
    #[default]
    Table,
    /// One JSON document, for programs.
    Json,
}

/// A value as indented JSON, ending in a newline.
///
/// # Errors
/// When the value cannot be JSON.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(value).context("cannot write the answer as JSON")?;
    Ok(printable_json(&text) + "\n")
}

/// The same as one line.
///
/// # Errors
/// As [`json`].
pub fn json_line(value: &impl serde::Serialize) -> anyhow::Result<String> {
    let text = serde_json::to_string(value).context("cannot write the answer as JSON")?;
    Ok(printable_json(&text) + "\n")
}

/// Prints text on stdout, in lines, with hidden characters escaped.
///
/// # Errors
/// When stdout cannot be written to, other than by its reader having gone.
pub fn print(text: &str) -> anyhow::Result<()> {
    write(&printable_lines(text))
}

/// As [`print`], for text that was painted for this look: where it has colour, nothing is escaped
/// any more.
///
/// # Errors
/// As [`print`].
pub fn print_painted(text: &str, look: Look) -> anyhow::Result<()> {
    write(&painted(text, look))
}

/// As [`print_painted`], in place of what was printed before: on a terminal the screen is cleared,
/// elsewhere a blank line parts the two.
///
/// # Errors
/// As [`print`].
pub fn print_again(text: &str, look: Look) -> anyhow::Result<()> {
    let text = painted(text, look);
    match std::io::stdout().is_terminal() {
        // Home, and clear to the end of the screen.
        true => write(&format!("\x1b[H\x1b[2J{text}")),
        false => write(&format!("{text}\n")),
    }
}

fn painted(text: &str, look: Look) -> Cow<'_, str> {
    match look.color {
        true => text.into(),
        false => printable_lines(text).into(),
    }
}

/// Prints a line, or several, on stderr, with hidden characters escaped. Where stderr cannot be
/// written to, nobody is there to be told.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable_lines(text.trim_end()));
}

/// Prints text on stdout as it is: for what may become a file again, in which an escape would mean
/// itself.
///
/// # Errors
/// As [`print`].
pub fn print_as_it_is(text: &str) -> anyhow::Result<()> {
    write(text)
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}
