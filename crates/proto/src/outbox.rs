//! What waits to be sent on one connection, in few pieces for one vectored write: headers and small bodies are copied
//! together, data is referenced where it lies.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::Frame;

/// Pieces up to this size are copied: a 4 KiB block is cheaper to reference than to copy, a checksum is not.
const COPY_BYTES_MAX: usize = 1024;

/// Frames on their way out of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    parts: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Outbox {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Append a frame.
    pub fn push(&mut self, frame: &Frame) {
        self.tail.extend_from_slice(&frame.header.encode());
        self.bytes += crate::frame::HEADER_BYTES;
        self.push_bytes(&frame.body);
        self.push_bytes(&frame.data);
    }

    /// Append bytes of another protocol (the gateway's NBD side uses the same queue).
    pub fn push_bytes(&mut self, bytes: &Bytes) {
        self.bytes += bytes.len();
        if bytes.len() <= COPY_BYTES_MAX {
            self.tail.extend_from_slice(bytes);
        } else {
            self.close_tail();
            self.parts.push_back(bytes.clone());
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.parts.push_back(self.tail.split().freeze());
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Lay the front of the queue into `slices`; returns how many were used. Give them to one `write_vectored`, then
    /// call [`Outbox::advance`] with what it wrote.
    pub fn slices<'a>(&'a mut self, slices: &mut [IoSlice<'a>]) -> usize {
        self.close_tail();
        let mut used = 0;
        for (slot, part) in slices.iter_mut().zip(&self.parts) {
            *slot = IoSlice::new(part);
            used += 1;
        }
        used
    }

    /// `written` bytes have gone.
    ///
    /// # Panics
    /// If more is said to have gone than was there.
    pub fn advance(&mut self, mut written: usize) {
        self.bytes = self.bytes.checked_sub(written).expect("more was sent than was queued");
        while written > 0 {
            let front = self.parts.front_mut().expect("the pieces add up to the length");
            if front.len() > written {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.parts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
