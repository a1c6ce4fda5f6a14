//! The little of DER that several crates need: cutting a row of certificates apart.

/// Why bytes are not a chain of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not even one certificate.
    #[error("the certificate chain is empty")]
    Empty,
    /// Something that is no DER SEQUENCE at this offset, or one that is cut short.
    #[error("the certificate chain is broken at byte {0}: no complete DER SEQUENCE")]
    Broken(usize),
}

/// Cuts DER certificates that stand one after the other, leaf first, without reading into them.
pub fn split_chain(bytes: &[u8]) -> Result<Vec<&[u8]>, ChainError> {
    let mut chain = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let len = sequence_len(rest).ok_or(ChainError::Broken(bytes.len() - rest.len()))?;
        let (one, after) = rest.split_at(len);
        chain.push(one);
        rest = after;
    }
    if chain.is_empty() { Err(ChainError::Empty) } else { Ok(chain) }
}

/// Bytes of the SEQUENCE that `bytes` starts with, header included, if it is complete.
fn sequence_len(bytes: &[u8]) -> Option<usize> {
    let (&[0x30, first], rest) = bytes.split_first_chunk::<2>()? else { return None };
    let (header, body) = match first {
        0..=0x7f => (2, usize::from(first)),
        // Up to three bytes of length: 16 MiB, more than any certificate.
        0x81..=0x83 => {
            let count = usize::from(first & 0x7f);
            let body = rest.get(..count)?.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
            (2 + count, body)
        }
        _ => return None,
    };
    let len = header + body;
    (len <= bytes.len()).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_apart_and_refuses_the_rest() {
        let long = [&[0x30, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        let both = [&[0x30, 0x02, 1, 2][..], &long].concat();
        assert_eq!(split_chain(&both).unwrap(), [&[0x30, 2, 1, 2][..], &long]);
        assert_eq!(split_chain(&[]), Err(ChainError::Empty));
        assert_eq!(split_chain(&both[..both.len() - 1]), Err(ChainError::Broken(4)));
        assert_eq!(split_chain(&[0x30, 0x84, 0, 0, 0, 0]), Err(ChainError::Broken(0)));
        assert_eq!(split_chain(&[0x31, 0]), Err(ChainError::Broken(0)));
        assert_eq!(split_chain(&[0x30]), Err(ChainError::Broken(0)));
    }
}
