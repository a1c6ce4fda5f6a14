//! Reading and writing fields at their offsets in the data part of a record.

use crate::packet::PacketError;
use crate::text::Text;
use crate::{RECORD_LEN, RawRecord};

/// Where the data union begins.
const DATA: usize = 8;
/// Bytes of the data union.
pub(crate) const DATA_LEN: usize = RECORD_LEN - DATA;

/// The data part of a record being read.
pub(crate) struct Fields<'a>(pub(crate) &'a RawRecord);

impl Fields<'_> {
    pub(crate) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[DATA + at..DATA + at + N]);
        out
    }

    pub(crate) fn u8(&self, at: usize) -> u8 {
        self.0[DATA + at]
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.array(at))
    }

    pub(crate) fn i16(&self, at: usize) -> i16 {
        i16::from_ne_bytes(self.array(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.array(at))
    }

    /// Like [`Self::text`], without leaving copies on the stack.
    pub(crate) fn secret<const N: usize>(
        &self,
        at: usize,
        field: &'static str,
    ) -> Result<Box<Text<N>>, PacketError> {
        let mut text = Box::new(Text::EMPTY);
        text.read_field(&self.0[DATA + at..DATA + at + N])
            .map_err(|error| PacketError::Text { field, error })?;
        Ok(text)
    }

    pub(crate) fn text<const N: usize>(
        &self,
        at: usize,
        field: &'static str,
    ) -> Result<Text<N>, PacketError> {
        Text::from_field(&self.array(at)).map_err(|error| PacketError::Text { field, error })
    }
}

/// The data part of a record being written.
pub(crate) struct FieldsMut<'a>(pub(crate) &'a mut RawRecord);

impl FieldsMut<'_> {
    pub(crate) fn bytes(&mut self, at: usize, value: &[u8]) {
        self.0[DATA + at..DATA + at + value.len()].copy_from_slice(value);
    }

    pub(crate) fn u8(&mut self, at: usize, value: u8) {
        self.0[DATA + at] = value;
    }

    pub(crate) fn u16(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_ne_bytes());
    }

    pub(crate) fn i16(&mut self, at: usize, value: i16) {
        self.bytes(at, &value.to_ne_bytes());
    }

    pub(crate) fn u32(&mut self, at: usize, value: u32) {
        self.bytes(at, &value.to_ne_bytes());
    }

    pub(crate) fn text<const N: usize>(&mut self, at: usize, value: &Text<N>) {
        self.bytes(at, value.field());
    }
}
