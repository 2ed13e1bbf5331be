//! What commands such as `list` print on stdout: a table for people or JSON for programs. A reader that goes away
//! (`| head`) is no error.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use anyhow::Context as _;
pub use mayfly_core::printable::printable;
use mayfly_core::printable::{printable_json, printable_lines};

/// How a command prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Columns, for people.
    #[default]
    Table,
    /// One JSON document, for programs.
    Json,
}

/// A table with aligned columns.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings and no rows.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned).to_vec()],
        }
    }

    /// Adds a row. Hidden characters are shown escaped, so that no value can play tricks on a terminal.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The table as lines, each ending in a newline, without trailing spaces.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
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

/// As [`print`], in place of what was printed before: on a terminal the screen is cleared, elsewhere a blank line parts
/// the two.
///
/// # Errors
/// As [`print`].
pub fn print_again(text: &str) -> anyhow::Result<()> {
    let text = printable_lines(text);
    match std::io::stdout().is_terminal() {
        // Home, and clear to the end of the screen.
        true => write(&format!("\x1b[H\x1b[2J{text}")),
        false => write(&format!("{text}\n")),
    }
}

/// Prints a line, or several, on stderr, with hidden characters escaped.
pub fn complain(text: &str) {
    eprintln!("{}", printable_lines(text.trim_end()));
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_values_are_harmless() {
        let mut table = Table::new(["NAME", "N", "NOTE"]);
        table.row(["a-long-name".to_owned(), "1".to_owned(), String::new()]);
        table.row(["b".to_owned(), "22".to_owned(), "ü\x1b[2J\n".to_owned()]);
        let lines = [
            "NAME         N   NOTE",
            "a-long-name  1",
            "b            22  ü\\u{1b}[2J\\n",
            "",
        ];
        assert_eq!(table.render(), lines.join("\n"));
    }
}
