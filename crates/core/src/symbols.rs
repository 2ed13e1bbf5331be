//! Texts by number. A service and a version stand in the choices of thousands of environments; each is kept once, and a choice
//! is eight octets. A text is never forgotten: there are as many as there ever were services, versions and selectors.

use std::collections::HashMap;
use std::sync::Arc;

/// The number of a text, in the [`Symbols`] that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Symbol(u32);

/// All texts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Symbols {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, Symbol>,
}

impl Symbols {
    /// The number of a text, a new one where it has none.
    pub(crate) fn number(&mut self, text: &str) -> Symbol {
        if let Some(symbol) = self.numbers.get(text) {
            return *symbol;
        }
        // Four thousand million texts do not fit into memory.
        let symbol = Symbol(u32::try_from(self.texts.len()).unwrap_or(u32::MAX));
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.numbers.insert(text, symbol);
        symbol
    }

    /// The text of a number.
    pub(crate) fn text(&self, symbol: Symbol) -> &str {
        self.texts.get(symbol.0 as usize).map_or("", |text| text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_number() {
        let mut symbols = Symbols::default();
        let (a, b) = (symbols.number("a"), symbols.number("b"));
        assert!(a != b && symbols.number("a") == a);
        assert_eq!((symbols.text(a), symbols.text(b)), ("a", "b"));
    }
}
