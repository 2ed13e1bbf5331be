//! What a person decides: the three answers, by flags or at a terminal.

use std::fmt::{self, Display};
use std::io::{BufRead, Write};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use mayfly_core::names::Hostname;

use super::Args;

const PROJECT: &str = "mayfly";
const DOMAIN: &str = "example.com";
const PORT: u16 = 80;

/// The name of a compose project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectName(String);

impl FromStr for ProjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        let good = (1..=40).contains(&text.len())
            && is_plain(text.as_bytes()[0])
            && text
                .bytes()
                .all(|letter| is_plain(letter) || matches!(letter, b'-' | b'_'));
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "`{text}` is no name of a compose project: use lower-case letters, digits, `-` and `_`, at most 40, \
                 and begin with a letter or digit"
            )),
        }
    }
}

impl Display for ProjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitAnswers {
    pub project: ProjectName,
    pub domain: Hostname,
    pub port: u16,
}

/// Those that the command line has.
#[derive(Debug, Clone, Default)]
pub struct GivenAnswers {
    project: Option<ProjectName>,
    domain: Option<Hostname>,
    port: Option<u16>,
}

/// A port that can be listened at.
#[derive(Debug, Clone, Copy)]
struct AnswerPort(u16);

impl FromStr for AnswerPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(port @ 1..) => Ok(Self(port)),
            _ => Err(format!("`{text}` is no port: give a number from 1 to 65535")),
        }
    }
}

impl Display for AnswerPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl InitAnswers {
    /// Those of a command line.
    pub fn given(args: &Args) -> GivenAnswers {
        GivenAnswers {
            project: args.project.clone(),
            domain: args.domain.clone(),
            port: args.port,
        }
    }

    #[cfg(test)]
    pub fn new(project: &str, domain: &str, port: u16) -> Self {
        Self {
            project: project.parse().unwrap(),
            domain: domain.parse().unwrap(),
            port,
        }
    }
}

impl GivenAnswers {
    /// Whether nothing is left to ask.
    pub fn is_complete(&self) -> bool {
        self.project.is_some() && self.domain.is_some() && self.port.is_some()
    }

    /// The default of what is missing.
    pub fn or_defaults(self) -> InitAnswers {
        InitAnswers {
            project: self.project.unwrap_or_else(|| ProjectName(PROJECT.to_owned())),
            // The default is a host name.
            domain: self.domain.unwrap_or_else(default_domain),
            port: self.port.unwrap_or(PORT),
        }
    }

    /// Asks for what is missing, at the terminal.
    ///
    /// # Errors
    /// When the input ends.
    pub fn ask(self) -> anyhow::Result<InitAnswers> {
        self.ask_at(&mut std::io::stdin().lock(), &mut std::io::stderr())
    }

    fn ask_at(self, input: &mut impl BufRead, output: &mut impl Write) -> anyhow::Result<InitAnswers> {
        let project = ProjectName(PROJECT.to_owned());
        let project = answer(
            self.project,
            "Name of the compose project",
            project,
            input,
            output,
        )?;
        let question = "Domain of the environments (production is www.<domain>)";
        let domain = answer(self.domain, question, default_domain(), input, output)?;
        let question = "Port of this host for requests from outside";
        let port = answer(
            self.port.map(AnswerPort),
            question,
            AnswerPort(PORT),
            input,
            output,
        )?;
        Ok(InitAnswers {
            project,
            domain,
            port: port.0,
        })
    }
}

#[allow(clippy::unwrap_used)] // a constant
fn default_domain() -> Hostname {
    DOMAIN.parse().unwrap()
}

/// Asks until the answer is one.
fn answer<T: FromStr<Err: Display> + Display>(
    given: Option<T>,
    question: &str,
    default: T,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> anyhow::Result<T> {
    if let Some(given) = given {
        return Ok(given);
    }
    loop {
        write!(output, "{question} [{default}]: ")
            .and_then(|()| output.flush())
            .context("cannot ask")?;
        let mut line = String::new();
        if input.read_line(&mut line).context("cannot read the answer")? == 0 {
            bail!("the input ended before every answer was given: nothing was written");
        }
        match line.trim() {
            "" => return Ok(default),
            text => match text.parse() {
                Ok(value) => return Ok(value),
                Err(error) => writeln!(output, "{error}").context("cannot ask")?,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(given: GivenAnswers, input: &str) -> (anyhow::Result<InitAnswers>, String) {
        let mut output = Vec::new();
        let answers = given.ask_at(&mut input.as_bytes(), &mut output);
        (answers, String::from_utf8(output).unwrap())
    }

    #[test]
    fn an_empty_line_is_the_default() {
        let (answers, asked) = ask(GivenAnswers::default(), "\n\n\n");
        assert_eq!(answers.unwrap(), GivenAnswers::default().or_defaults());
        assert!(asked.contains("[mayfly]") && asked.contains("[example.com]") && asked.contains("[80]"));
    }

    #[test]
    fn what_is_wrong_is_asked_again() {
        let (answers, asked) = ask(
            GivenAnswers::default(),
            "My Shop\nshop\nno domain\nshop.example\n0\n70000\n8080\n",
        );
        assert_eq!(answers.unwrap(), InitAnswers::new("shop", "shop.example", 8080));
        for part in [
            "`My Shop` is no name",
            "host name",
            "`0` is no port",
            "`70000` is no port",
        ] {
            assert!(asked.contains(part), "{part}: {asked}");
        }
    }

    #[test]
    fn only_what_is_missing_is_asked() {
        let given = GivenAnswers {
            project: Some("shop".parse().unwrap()),
            port: Some(8080),
            ..GivenAnswers::default()
        };
        let (answers, asked) = ask(given, "a.example\n");
        assert_eq!(answers.unwrap(), InitAnswers::new("shop", "a.example", 8080));
        assert_eq!(asked.matches(": ").count(), 1, "{asked}");
    }

    #[test]
    fn the_end_of_the_input_is_no_answer() {
        let (answers, _) = ask(GivenAnswers::default(), "shop\n");
        assert!(answers.unwrap_err().to_string().contains("nothing was written"));
    }

    #[test]
    fn names_of_projects() {
        for good in ["a", "shop-2", "0_x"] {
            good.parse::<ProjectName>().unwrap();
        }
        for bad in ["", "-a", "_a", "A", "a b", "a.b", "a/b", "ä", &"a".repeat(41)] {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad}");
        }
    }
}
