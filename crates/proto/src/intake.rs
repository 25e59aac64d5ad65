//! What comes in on one connection, cut into frames. Large data is received where it can stay: into memory of its own
//! that begins at a page, so that it can be given to a disk around the page cache, and is never copied again.

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::frame::{Frame, FrameError, Header, BODY_BYTES_MAX, DATA_BYTES_MAX, HEADER_BYTES};

/// Data from this size on is received into memory of its own.
pub const LARGE_BYTES: usize = 64 << 10;
/// Where such memory begins: a disk takes no less without copying.
pub const PAGE_BYTES: usize = 4096;
/// Room for one read: many small frames, or a part of a large one.
const ROOM_BYTES: usize = 256 << 10;
/// The same behind large data: more of it is likely to follow, and what of it comes with its header is copied.
const ROOM_BYTES_BEHIND_LARGE: usize = 16 << 10;

/// Memory for large data that is kept.
const SPARE_BYTES: usize = DATA_BYTES_MAX + PAGE_BYTES;

#[derive(Debug)]
struct Large {
    header: Header,
    body: Bytes,
    data: BytesMut,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Intake {
    small: BytesMut,
    large: Option<Large>,
    /// Memory for large data; what was given away of it comes back when nobody uses it any more.
    spare: BytesMut,
    room: usize,
}

impl Intake {
    /// Go on behind a handshake, with what it has read too much.
    #[must_use]
    pub fn new(begun: BytesMut) -> Self {
        Self { small: begun, large: None, spare: BytesMut::new(), room: ROOM_BYTES }
    }

    /// Where the next bytes go.
    pub fn room(&mut self) -> Limit<&mut BytesMut> {
        if let Some(large) = &mut self.large {
            let left = large.header.data_len as usize - large.data.len();
            return (&mut large.data).limit(left);
        }
        self.small.reserve(self.room);
        (&mut self.small).limit(self.room)
    }

    /// The next whole frame, or `None` if more bytes must come first.
    ///
    /// # Errors
    /// [`FrameError`]: the stream cannot be followed any further and must be closed.
    pub fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.large.is_none() && !self.begin_large()? {
            let frame = Frame::parse(&mut self.small)?;
            if frame.is_some() {
                self.room = ROOM_BYTES;
            }
            return Ok(frame);
        }
        let whole = self.large.take_if(|large| large.data.len() == large.header.data_len as usize);
        Ok(whole.map(|large| Frame { header: large.header, body: large.body, data: large.data.freeze() }))
    }

    /// If a frame with large data is in front, take it up: its header and body, and what is there of the data.
    fn begin_large(&mut self) -> Result<bool, FrameError> {
        let Some(head) = self.small.first_chunk::<HEADER_BYTES>() else { return Ok(false) };
        let header = Header::decode(head)?;
        let (body_len, data_len) = (header.body_len as usize, header.data_len as usize);
        debug_assert!(body_len <= BODY_BYTES_MAX && data_len <= DATA_BYTES_MAX, "decoding checks both");
        if data_len < LARGE_BYTES || self.small.len() < HEADER_BYTES + body_len {
            return Ok(false);
        }
        self.small.advance(HEADER_BYTES);
        let body = self.small.split_to(body_len).freeze();
        let mut data = self.at_a_page(data_len);
        let here = data_len.min(self.small.len());
        data.extend_from_slice(&self.small[..here]);
        self.small.advance(here);
        self.room = ROOM_BYTES_BEHIND_LARGE;
        self.large = Some(Large { header, body, data });
        Ok(true)
    }

    /// Empty memory for `len` bytes that begins at a page.
    fn at_a_page(&mut self, len: usize) -> BytesMut {
        self.spare.clear();
        if !self.spare.try_reclaim(len + PAGE_BYTES) {
            self.spare = BytesMut::with_capacity(SPARE_BYTES.max(len + PAGE_BYTES));
        }
        let skip = self.spare.as_ptr().align_offset(PAGE_BYTES);
        let mut data = self.spare.split_off(skip);
        self.spare = data.split_off(len);
        data
    }
}

#[cfg(test)]
mod tests;
