//! Bounded reading and writing of integers in either byte order.

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

/// Order of the bytes of an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

impl ByteOrder {
    /// The integer that these bytes are.
    #[must_use]
    pub const fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    /// The integer that these bytes are.
    #[must_use]
    pub const fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// The integer that these bytes are.
    #[must_use]
    pub const fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }
}

/// The bytes end before the value that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Truncated;

/// Reads from a slice in one byte order; never reads past its end.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
    order: ByteOrder,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], order: ByteOrder) -> Self {
        Self {
            rest: bytes,
            length: bytes.len(),
            order,
        }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.length - self.rest.len()
    }

    /// Bytes that are left.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Truncated> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Skips to the next multiple of `boundary` bytes, counted from the start of the slice.
    pub(crate) fn align(&mut self, boundary: usize) -> Result<(), Truncated> {
        let padding = self.position().next_multiple_of(boundary) - self.position();
        self.take(padding).map(|_| ())
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Truncated> {
        self.array().map(u8::from_ne_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(|bytes| self.order.u16(bytes))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(|bytes| self.order.u32(bytes))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(|bytes| self.order.u64(bytes))
    }

    /// A UUID: its first three fields are integers and so follow the byte order (C706 appendix A).
    pub(crate) fn uuid(&mut self) -> Result<Uuid, Truncated> {
        let bytes = self.array()?;
        Ok(match self.order {
            ByteOrder::Little => Uuid::from_bytes_le(bytes),
            ByteOrder::Big => Uuid::from_bytes(bytes),
        })
    }
}

/// Writes to a buffer in one byte order; alignment is counted from where the writer began.
pub(crate) struct Writer<'a> {
    out: &'a mut BytesMut,
    start: usize,
    order: ByteOrder,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut BytesMut, order: ByteOrder) -> Self {
        let start = out.len();
        Self { out, start, order }
    }

    /// Bytes written so far.
    pub(crate) fn position(&self) -> usize {
        self.out.len() - self.start
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    /// Writes zeros up to the next multiple of `boundary` bytes.
    pub(crate) fn align(&mut self, boundary: usize) {
        let padding = self.position().next_multiple_of(boundary) - self.position();
        self.out.put_bytes(0, padding);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.out.put_u8(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        match self.order {
            ByteOrder::Little => self.out.put_u16_le(value),
            ByteOrder::Big => self.out.put_u16(value),
        }
    }

    pub(crate) fn u32(&mut self, value: u32) {
        match self.order {
            ByteOrder::Little => self.out.put_u32_le(value),
            ByteOrder::Big => self.out.put_u32(value),
        }
    }

    pub(crate) fn u64(&mut self, value: u64) {
        match self.order {
            ByteOrder::Little => self.out.put_u64_le(value),
            ByteOrder::Big => self.out.put_u64(value),
        }
    }

    pub(crate) fn uuid(&mut self, value: Uuid) {
        match self.order {
            ByteOrder::Little => self.out.put_slice(&value.to_bytes_le()),
            ByteOrder::Big => self.out.put_slice(value.as_bytes()),
        }
    }

    /// Overwrites two bytes at `position`, which must have been written before.
    pub(crate) fn set_u16(&mut self, position: usize, value: u16) {
        let bytes = match self.order {
            ByteOrder::Little => value.to_le_bytes(),
            ByteOrder::Big => value.to_be_bytes(),
        };
        let at = self.start + position;
        if let Some(slot) = self.out.get_mut(at..at + bytes.len()) {
            slot.copy_from_slice(&bytes);
        }
    }
}
