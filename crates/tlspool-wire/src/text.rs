//! NUL-terminated text in a fixed field, without allocation.

use std::fmt;

/// Text of at most `N - 1` bytes in a field of `N` bytes.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: u16,
}

/// The text does not fit, is not UTF-8, or holds a NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// No NUL within the field: the sender's text was longer than the field.
    #[error("text is not ended by a NUL within its {0}-byte field")]
    Unterminated(usize),
    /// Longer than the field minus its NUL.
    #[error("text of {len} bytes does not fit a field of {field} bytes")]
    TooLong {
        /// Bytes of the text.
        len: usize,
        /// Bytes of the field.
        field: usize,
    },
    /// Not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// A NUL inside the text.
    #[error("text contains a NUL")]
    InnerNul,
}

impl<const N: usize> Text<N> {
    /// No text.
    pub const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    /// The text `s`; an error if it does not fit.
    pub fn new(s: &str) -> Result<Self, TextError> {
        if s.len() >= N {
            return Err(TextError::TooLong { len: s.len(), field: N });
        }
        if s.as_bytes().contains(&0) {
            return Err(TextError::InnerNul);
        }
        Ok(Self::cut(s))
    }

    /// As much of `s` as fits, cut between characters and before any NUL. For messages to people.
    pub fn cut(s: &str) -> Self {
        let mut end = s.find('\0').unwrap_or(s.len()).min(N - 1);
        while !s.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = [0; N];
        bytes[..end].copy_from_slice(&s.as_bytes()[..end]);
        Self { bytes, len: end as u16 }
    }

    /// Reads a field into this place, as [`Self::from_field`]; leaves no copy of it elsewhere.
    pub fn read_field(&mut self, field: &[u8]) -> Result<(), TextError> {
        *self = Self::EMPTY;
        let end = field.iter().take(N).position(|b| *b == 0).ok_or(TextError::Unterminated(N))?;
        std::str::from_utf8(&field[..end]).map_err(|_| TextError::NotUtf8)?;
        self.bytes[..end].copy_from_slice(&field[..end]);
        self.len = end as u16;
        Ok(())
    }

    /// Reads a field; it must hold a NUL, and UTF-8 before it.
    pub fn from_field(field: &[u8; N]) -> Result<Self, TextError> {
        let end = field.iter().position(|b| *b == 0).ok_or(TextError::Unterminated(N))?;
        let s = std::str::from_utf8(&field[..end]).map_err(|_| TextError::NotUtf8)?;
        Ok(Self::cut(s))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    /// The whole field, zero-padded.
    pub fn field(&self) -> &[u8; N] {
        &self.bytes
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> PartialEq for Text<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl<const N: usize> Eq for Text<N> {}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> zeroize::Zeroize for Text<N> {
    fn zeroize(&mut self) {
        self.bytes.zeroize();
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert!(Text::<4>::new("abc").is_ok());
        assert_eq!(Text::<4>::new("abcd"), Err(TextError::TooLong { len: 4, field: 4 }));
        assert_eq!(Text::<4>::new("a\0b"), Err(TextError::InnerNul));
        assert_eq!(Text::<4>::cut("aé€").as_str(), "aé");
        assert_eq!(Text::<4>::from_field(b"abcd"), Err(TextError::Unterminated(4)));
        assert_eq!(Text::<4>::from_field(b"\xff\0ab"), Err(TextError::NotUtf8));
        assert_eq!(Text::<4>::from_field(b"a\0zz").unwrap().field(), b"a\0\0\0");
    }
}
