//! How the environment travels with a trace: whether the edge begins one where a request has none,
//! for which share of the requests that is sampled, and whether `tracestate` says the environment.

use std::fmt;
use std::str::FromStr;

/// The whole, in parts of which a share is a number.
const WHOLE: u32 = 10_000;

/// The flags about traces.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Traces {
    /// Begins a trace at the edge for each request without a trace. Samples this share of the new
    /// traces, such as `10%`. With `off`, begins no trace.
    ///
    /// Some tracers ignore baggage without a trace. Tracers follow the edge's decision whether to
    /// sample a trace. So give the share that your tracers would sample themselves: `100%` if they
    /// sample every trace.
    #[arg(
        long,
        env = "MAYFLY_TRACEPARENT",
        value_name = "SHARE",
        default_value_t,
        global = true
    )]
    pub traceparent: Traceparent,

    /// Writes the environment into the `tracestate` header of each request that has a trace
    ///
    /// If a call has neither x-mayfly nor baggage, the router reads the environment from
    /// `tracestate`. Tracers forward `tracestate` even if they do not support baggage.
    #[arg(long, env = "MAYFLY_TRACESTATE", global = true)]
    pub tracestate: bool,
}

/// What the edge does with a request without a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Traceparent {
    /// It passes it on as it is.
    #[default]
    Off,
    /// It begins a trace, sampled for this many requests of 10,000.
    Sampled(u32),
}

impl Traceparent {
    /// For how many requests of 10,000; `None` where no trace is begun.
    pub fn of_10_000(self) -> Option<u32> {
        match self {
            Self::Off => None,
            Self::Sampled(share) => Some(share),
        }
    }
}

/// A text that is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it must be `off`, or a percentage such as `10%`: from 0% to 100%, with at most two decimals")]
pub struct NoShare;

impl FromStr for Traceparent {
    type Err = NoShare;

    fn from_str(text: &str) -> Result<Self, NoShare> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let number = text.strip_suffix('%').ok_or(NoShare)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !is_number(whole, 3) || !is_number(part, 2) {
            return Err(NoShare);
        }
        let share = format!("{whole}{part:0<2}").parse().map_err(|_| NoShare)?;
        if share > WHOLE {
            return Err(NoShare);
        }
        Ok(Self::Sampled(share))
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Sampled(share) if share % 100 == 0 => write!(f, "{}%", share / 100),
            Self::Sampled(share) => write!(f, "{}.{:02}%", share / 100, share % 100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages() {
        for (text, share, shown) in [
            ("0%", 0, "0%"),
            ("10%", 1000, "10%"),
            ("0.1%", 10, "0.10%"),
            ("0.05%", 5, "0.05%"),
            ("100%", 10_000, "100%"),
        ] {
            let read: Traceparent = text.parse().unwrap();
            assert_eq!(
                (read, read.to_string().as_str()),
                (Traceparent::Sampled(share), shown)
            );
            assert_eq!(shown.parse(), Ok(read));
        }
        assert_eq!("off".parse(), Ok(Traceparent::Off));
        assert_eq!(Traceparent::Off.to_string(), "off");
        for text in [
            "", "on", "10", "%", "101%", "100.01%", "-1%", "+1%", "1.234%", "1.%", ".5%", "1e2%", "٣%",
        ] {
            assert_eq!(text.parse::<Traceparent>(), Err(NoShare), "{text}");
        }
    }
}
