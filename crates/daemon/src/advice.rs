//! What an operator can do about a failure. In a message the advice comes last: what failed, why,
//! what this program does, what to do.

/// A failure with what an operator can do about it.
#[derive(Debug, thiserror::Error)]
#[error("{failure}. {advice}")]
pub struct Advised {
    failure: String,
    pub(crate) advice: String,
}

impl Advised {
    /// Both without a full stop at the end; the advice begins with a capital.
    pub fn new(failure: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            failure: failure.into(),
            advice: advice.into(),
        }
    }
}

/// A text with what follows from it: after the failure, and before the advice at its end.
pub(crate) fn before_advice(text: &str, advice: Option<&str>, follows: &str) -> String {
    let failure = advice.and_then(|advice| text.strip_suffix(advice)?.strip_suffix(". "));
    match (failure, advice) {
        (Some(failure), Some(advice)) => format!("{failure}; {follows}. {advice}"),
        _ => format!("{text}; {follows}"),
    }
}
