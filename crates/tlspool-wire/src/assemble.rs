//! Records out of a byte stream, each with the descriptors that belong to it.
//!
//! A stream socket may glue bytes of one record, without descriptor, to the first bytes of the
//! next, with one. Reading at most [`Assembler::wanted`] bytes at a time never crosses the end of
//! a record, so whatever descriptors a read brings belong to the record at hand.

use crate::{RECORD_LEN, RawRecord};
use zeroize::Zeroize;

/// At most this many descriptors are kept per record: two may be used, a third proves the excess.
const KEPT: usize = 3;

/// Collects one record and its descriptors, of type `D`.
#[derive(Debug)]
pub struct Assembler<D> {
    bytes: Box<RawRecord>,
    have: usize,
    descriptors: [Option<D>; KEPT],
}

/// A whole record with the descriptors that came along.
#[derive(Debug)]
pub struct Assembled<D> {
    /// The record's bytes, which may hold a PIN: at one place, so that the caller can wipe them.
    pub bytes: Box<RawRecord>,
    /// The first descriptor.
    pub descriptor: Option<D>,
    /// The second, which only a STARTTLS may bring
    /// ([`Facilities::PLAINTEXT_ALONG`](crate::Facilities::PLAINTEXT_ALONG)).
    pub second: Option<D>,
    /// A third came, which is an error of the sender (it is closed when this is dropped).
    pub surplus: Option<D>,
}

impl<D> Default for Assembler<D> {
    fn default() -> Self {
        Self { bytes: Box::new([0; RECORD_LEN]), have: 0, descriptors: [const { None }; KEPT] }
    }
}

impl<D> Assembler<D> {
    /// Where to read to: the rest of the current record. Never empty.
    pub fn wanted(&mut self) -> &mut [u8] {
        &mut self.bytes[self.have..]
    }

    /// Whether a record has begun and is not whole.
    pub fn is_partial(&self) -> bool {
        self.have > 0
    }

    /// Takes a descriptor that came with the bytes about to be reported by [`Self::advance`].
    /// More than three are dropped.
    pub fn take_descriptor(&mut self, descriptor: D) {
        if let Some(place) = self.descriptors.iter_mut().find(|d| d.is_none()) {
            *place = Some(descriptor);
        }
    }

    /// `n` bytes were read into [`Self::wanted`]; returns the record if it is whole now.
    ///
    /// # Panics
    /// If `n` is more than was wanted, which is an error of the caller.
    pub fn advance(&mut self, n: usize) -> Option<Assembled<D>> {
        assert!(n <= RECORD_LEN - self.have, "read beyond the record");
        self.have += n;
        if self.have < RECORD_LEN {
            return None;
        }
        self.have = 0;
        let bytes = std::mem::replace(&mut self.bytes, Box::new([0; RECORD_LEN]));
        let [descriptor, second, surplus] = std::mem::take(&mut self.descriptors);
        Some(Assembled { bytes, descriptor, second, surplus })
    }
}

impl<D> Drop for Assembler<D> {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_stay_with_their_record() {
        let mut a = Assembler::<u32>::default();
        assert_eq!(a.wanted().len(), RECORD_LEN);
        assert!(a.advance(100).is_none());
        assert!(a.is_partial());
        a.take_descriptor(7);
        assert_eq!(a.wanted().len(), RECORD_LEN - 100);
        let whole = a.advance(RECORD_LEN - 100).unwrap();
        assert_eq!((whole.descriptor, whole.second, whole.surplus), (Some(7), None, None));
        let next = a.advance(RECORD_LEN).unwrap();
        assert_eq!(next.descriptor, None);
        for d in 0..5 {
            a.take_descriptor(d);
        }
        let many = a.advance(RECORD_LEN).unwrap();
        assert_eq!((many.descriptor, many.second, many.surplus), (Some(0), Some(1), Some(2)));
    }
}
