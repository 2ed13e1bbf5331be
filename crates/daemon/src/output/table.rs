//! A table for people: aligned columns, which fit the width of a terminal, and a colour for what
//! the last column says.

use mayfly_core::printable::printable;

use super::{Look, Tone};

/// What parts two columns.
const GAP: usize = 2;
/// The last column is not made narrower than this before the others are.
const READABLE: usize = 20;
/// Columns are not made narrower than this: a table that is still too wide stays so.
const NARROWEST: usize = 8;

/// A table with aligned columns.
#[derive(Debug, Clone)]
pub struct TextTable {
    rows: Vec<TableRow>,
}

#[derive(Debug, Clone)]
struct TableRow {
    cells: Vec<String>,
    /// Of the last cell; of all, where it is a heading.
    tone: Tone,
}

impl TextTable {
    /// A table with these headings and no rows.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self {
            rows: vec![TableRow {
                cells: headings.map(str::to_owned).to_vec(),
                tone: Tone::Heading,
            }],
        }
    }

    /// Adds a row. Hidden characters are shown escaped, so that no value can play tricks on a
    /// terminal.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.toned_row(Tone::Plain, cells);
    }

    /// As [`TextTable::row`]; the tone is that of the last cell.
    pub fn toned_row(&mut self, tone: Tone, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| printable(&cell)).collect();
        self.rows.push(TableRow { cells, tone });
    }

    /// The table as lines, each ending in a newline, without trailing spaces.
    pub fn render(&self) -> String {
        self.render_as(Look::default())
    }

    /// The same with colour, and with cells broken into several lines where the terminal is too
    /// narrow.
    pub fn render_as(&self, look: Look) -> String {
        let widths = self.widths(look.width);
        self.rows.iter().map(|row| row.render(&widths, look)).collect()
    }

    /// How wide each column is: as its widest cell, unless the sum is too much. Then the last one,
    /// a text, gives way, and after that the widest.
    fn widths(&self, most: Option<usize>) -> Vec<usize> {
        let columns = self.rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.cells.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..columns).map(width).collect();
        let gaps = GAP * columns.saturating_sub(1);
        let Some(most) = most else { return widths };
        let wanted: usize = widths.iter().sum::<usize>() + gaps;
        let mut excess = wanted.saturating_sub(most);
        if let Some(last) = widths.last_mut() {
            let given = excess.min(last.saturating_sub(READABLE));
            *last -= given;
            excess -= given;
        }
        for _ in 0..excess {
            match widths.iter_mut().max().filter(|width| **width > NARROWEST) {
                Some(width) => *width -= 1,
                None => break,
            }
        }
        widths
    }
}

impl TableRow {
    fn render(&self, widths: &[usize], look: Look) -> String {
        let cells: Vec<Vec<String>> = self
            .cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| broken(cell, *width))
            .collect();
        let lines = cells.iter().map(Vec::len).max().unwrap_or(0).max(1);
        (0..lines)
            .map(|line| self.line(line, &cells, widths, look) + "\n")
            .collect()
    }

    /// One line of the row, without trailing spaces.
    fn line(&self, line: usize, cells: &[Vec<String>], widths: &[usize], look: Look) -> String {
        let mut text = String::new();
        // Spaces are written when something follows.
        let mut owed = 0;
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let part = cell.get(line).map_or("", String::as_str);
            if !part.is_empty() {
                let tone = match self.tone {
                    Tone::Heading => Tone::Heading,
                    tone if column + 1 == self.cells.len() => tone,
                    _ => Tone::Plain,
                };
                text.push_str(&" ".repeat(owed));
                text.push_str(&look.paint(tone, part));
                owed = 0;
            }
            owed += width - part.chars().count() + GAP;
        }
        text
    }
}

/// A cell in lines of at most so many characters, broken at spaces, and inside a word that is
/// longer than a line.
fn broken(cell: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest: Vec<char> = cell.chars().collect();
    while rest.len() > width {
        // The space may be the first character that does not fit.
        let space = rest[..=width]
            .iter()
            .rposition(|letter| *letter == ' ')
            .filter(|at| *at > 0);
        let (end, next) = space.map_or((width, width), |at| (at, at + 1));
        lines.push(rest[..end].iter().collect::<String>().trim_end().to_owned());
        rest.drain(..next);
    }
    lines.push(rest.into_iter().collect());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(width: Option<usize>) -> Look {
        Look { color: true, width }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_values_are_harmless() {
        let mut table = TextTable::new(["NAME", "N", "NOTE"]);
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

    #[test]
    fn a_narrow_terminal_breaks_the_widest_cells() {
        let mut table = TextTable::new(["NAME", "STATE"]);
        table.toned_row(
            Tone::Bad,
            [
                "temp-1".to_owned(),
                "no live instance of backend@0.0.3".to_owned(),
            ],
        );
        let plain = |width| {
            let look = Look { color: false, width };
            table.render_as(look)
        };
        assert_eq!(plain(None).lines().count(), 2);
        assert_eq!(plain(Some(41)), plain(None));
        let lines = [
            "NAME    STATE",
            "temp-1  no live",
            "        instance of",
            "        backend@0.0.",
            "        3",
            "",
        ];
        assert_eq!(plain(Some(20)), lines.join("\n"));
        // Too narrow for anything: nothing is lost, and it ends.
        assert!(plain(Some(1)).contains("NAME"));
        let colored = table.render_as(look(Some(20)));
        assert!(
            colored.contains("\x1b[1mNAME\x1b[0m    \x1b[1mSTATE\x1b[0m\n"),
            "{colored:?}"
        );
        assert!(
            colored.contains("temp-1  \x1b[1m\x1b[31mno live\x1b[0m\n        \x1b["),
            "{colored:?}"
        );
    }

    #[test]
    fn texts_are_broken_at_spaces() {
        for (text, width, lines) in [
            ("", 8, &[""][..]),
            ("ab cd", 5, &["ab cd"]),
            ("ab cd ef", 5, &["ab cd", "ef"]),
            ("abcdef gh", 4, &["abcd", "ef", "gh"]),
            (" abcdef", 4, &[" abc", "def"]),
        ] {
            assert_eq!(broken(text, width), lines, "{text:?}");
        }
    }
}
