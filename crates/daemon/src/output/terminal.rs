//! What the terminal on stdout allows: colour, and how wide a line may be. Anything else than a
//! terminal gets neither, so scripts see the same text wherever they run.

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always, also into a pipe or a file
    Always,
    /// Never
    Never,
}

impl Color {
    /// How to print on this stdout.
    pub fn look(self) -> Look {
        let stdout = std::io::stdout();
        let color = match self {
            // It knows NO_COLOR, CLICOLOR, CLICOLOR_FORCE and TERM.
            Self::Auto => AutoStream::choice(&stdout) != ColorChoice::Never,
            Self::Always => true,
            Self::Never => false,
        };
        let size = terminal_size::terminal_size_of(&stdout);
        let width = size.map(|(width, _)| usize::from(width.0));
        Look { color, width }
    }
}

/// How text is laid out. The default is plain text of any width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Look {
    /// Whether states have a colour.
    pub color: bool,
    /// The columns of the terminal.
    pub width: Option<usize>,
}

impl Look {
    /// The text in the colour of what it says. It has to be printable: nothing is escaped any more.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        match tone.style().filter(|_| self.color && !text.is_empty()) {
            Some(style) => format!("{style}{text}{style:#}"),
            None => text.to_owned(),
        }
    }
}

/// What a text says of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// The heading of a column.
    Heading,
    /// All is well.
    Good,
    /// It is on its way, or works with a remark.
    Pending,
    /// It needs attention.
    Bad,
}

impl Tone {
    fn style(self) -> Option<Style> {
        match self {
            Self::Plain => None,
            Self::Heading => Some(Style::new().bold()),
            Self::Good => Some(AnsiColor::Green.on_default()),
            Self::Pending => Some(AnsiColor::Yellow.on_default()),
            Self::Bad => Some(AnsiColor::Red.on_default().bold()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_only_where_it_is_wanted() {
        let colored = Look {
            color: true,
            width: None,
        };
        assert_eq!(colored.paint(Tone::Good, "ready"), "\x1b[32mready\x1b[0m");
        assert_eq!(colored.paint(Tone::Plain, "ready"), "ready");
        assert_eq!(colored.paint(Tone::Bad, ""), "");
        assert_eq!(Look::default().paint(Tone::Bad, "lost"), "lost");
        // The test's stdout may be a terminal, so `Auto` is for crates/e2e.
        assert!(Color::Always.look().color && !Color::Never.look().color);
    }
}
