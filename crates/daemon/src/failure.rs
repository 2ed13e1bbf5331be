//! The message about any failure of something that is tried again.

use crate::advice::{Advised, before_advice};
use crate::store::StoreError;

/// The message, with the advice of its cause at the end, if that has one.
pub fn retrying(error: &anyhow::Error) -> String {
    let advice = error
        .chain()
        .find_map(|cause| match cause.downcast_ref::<Advised>() {
            Some(advised) => Some(advised.advice.as_str()),
            None => cause.downcast_ref::<StoreError>()?.cause().advice(),
        });
    before_advice(&format!("{error:#}"), advice, "retrying")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_comes_after_what_this_program_does() {
        let advised = Advised::new("HAProxy is not running", "Start HAProxy");
        let error = anyhow::Error::from(advised).context("cannot reload");
        assert_eq!(
            format!("{error:#}"),
            "cannot reload: HAProxy is not running. Start HAProxy"
        );
        assert_eq!(
            retrying(&error),
            "cannot reload: HAProxy is not running; retrying. Start HAProxy"
        );
        let plain = anyhow::anyhow!("it said: no. Never").context("cannot ask");
        assert_eq!(retrying(&plain), "cannot ask: it said: no. Never; retrying");
    }
}
