//! Texts that labels are made of: each kept once, known by a number, made fit for a label when it first comes.

use std::borrow::Cow;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use model::Text;

/// The most bytes of a label's value; Kubernetes has none longer.
const LONGEST: usize = 253;

/// The number of a text. [`NONE`] is that of the empty one.
pub type Symbol = u32;

/// No text at all.
pub const NONE: Symbol = 0;

/// All texts that are in use.
#[derive(Debug)]
pub struct Symbols {
    texts: Vec<Option<Text>>,
    index: HashTable<Symbol>,
    free: Vec<Symbol>,
    hasher: RandomState,
}

impl Default for Symbols {
    fn default() -> Self {
        let texts = vec![Some(Text::Static(""))];
        Self { texts, index: HashTable::new(), free: Vec::new(), hasher: RandomState::default() }
    }
}

impl Symbols {
    /// Gives the number of what came from somewhere else.
    pub fn intern(&mut self, bytes: &[u8]) -> Symbol {
        let text = presentable(bytes);
        self.known(&text).unwrap_or_else(|| self.add(Text::from(text.into_owned())))
    }

    /// Gives the number of a word of our own.
    pub fn word(&mut self, word: Cow<'static, str>) -> Symbol {
        self.known(&word).unwrap_or_else(|| self.add(Text::from(word)))
    }

    /// Gives the number of a decimal number.
    pub fn number(&mut self, mut number: u32) -> Symbol {
        let (mut digits, mut at) = ([b'0'; 10], 10);
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return self.intern(&digits[at..]);
            }
        }
    }

    /// Gives the number of what came from somewhere else, if it has one.
    pub fn find(&self, bytes: &[u8]) -> Option<Symbol> {
        self.known(&presentable(bytes))
    }

    fn known(&self, text: &str) -> Option<Symbol> {
        if text.is_empty() {
            return Some(NONE);
        }
        let same = |&symbol: &Symbol| self.texts[symbol as usize].as_ref().is_some_and(|own| own.as_str() == text);
        self.index.find(self.hasher.hash_one(text), same).copied()
    }

    fn add(&mut self, text: Text) -> Symbol {
        let hash = self.hasher.hash_one(text.as_str());
        let symbol = self.free.pop().unwrap_or_else(|| {
            self.texts.push(None);
            (self.texts.len() - 1) as Symbol
        });
        self.texts[symbol as usize] = Some(text);
        let (texts, hasher) = (&self.texts, &self.hasher);
        let rehash =
            |&symbol: &Symbol| texts[symbol as usize].as_ref().map_or(0, |text| hasher.hash_one(text.as_str()));
        self.index.insert_unique(hash, symbol, rehash);
        symbol
    }

    /// Gives a text by its number.
    pub fn text(&self, symbol: Symbol) -> Text {
        self.texts.get(symbol as usize).cloned().flatten().unwrap_or(Text::Static(""))
    }

    /// Gives how many numbers there have been at once.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Forgets every text but those that are used.
    pub fn keep(&mut self, used: &[bool]) {
        for symbol in 1..self.texts.len() {
            if used.get(symbol) != Some(&true)
                && let Some(text) = self.texts[symbol].take()
            {
                let hash = self.hasher.hash_one(text.as_str());
                if let Ok(found) = self.index.find_entry(hash, |&other| other as usize == symbol) {
                    found.remove();
                }
                self.free.push(symbol as Symbol);
            }
        }
    }
}

/// Makes a label's value of what a peer sent: UTF-8, no control characters, not longer than a label may be.
pub fn presentable(bytes: &[u8]) -> Cow<'_, str> {
    let plain = bytes.len() <= LONGEST && bytes.iter().all(|byte| (0x20..0x7f).contains(byte));
    if plain && let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    // Whatever a character takes, this many bytes are enough for the longest label.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST * 4)]);
    let mut fit = String::new();
    for c in text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }) {
        if fit.len() + c.len_utf8() + '…'.len_utf8() > LONGEST {
            fit.push('…');
            break;
        }
        fit.push(c);
    }
    Cow::Owned(fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_number_until_it_is_forgotten() {
        let mut symbols = Symbols::default();
        let (a, b) = (symbols.intern(b"a"), symbols.word("b".into()));
        assert_eq!((symbols.intern(b"a"), symbols.intern(b""), symbols.text(b).as_str()), (a, NONE, "b"));
        symbols.keep(&[true, false, true]);
        assert_eq!(symbols.text(a).as_str(), "");
        assert_eq!(symbols.intern(b"c"), a);
        assert_eq!((symbols.text(a).as_str(), symbols.word("b".into()), symbols.len()), ("c", b, 3));
        for number in [0, 7, 200, u32::MAX] {
            let symbol = symbols.number(number);
            assert_eq!(symbols.text(symbol).as_str(), number.to_string());
        }
    }

    #[test]
    fn what_is_no_label_is_made_one() {
        assert_eq!(presentable(b"web-0"), "web-0");
        assert_eq!(presentable("größe".as_bytes()), "größe");
        assert_eq!(presentable(b"a\nb\0\xff"), "a\u{fffd}b\u{fffd}\u{fffd}");
        let long = presentable(&vec![b'x'; 70_000]).into_owned();
        assert!(long.len() <= LONGEST && long.ends_with("x…"), "{}", long.len());
        assert_eq!(presentable(&[b'x'; LONGEST]).len(), LONGEST);
    }
}
