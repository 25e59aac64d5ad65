//! One frame: a 64-byte little-endian header, a body, data.
//!
//! ```text
//!  0 magic u32 "YTF1" | 4 version u8 | 5 kind u8 | 6 flags u16 | 8 body_len u32 | 12 data_len u32 | 16 request_id u64
//! 24 volume u64 | 32 generation u64 | 40 sequence u64 | 48 chunk u32 | 52 layer u32 | 56 block u16 | 58 blocks u16
//! 60 header_crc u32: CRC-32C of bytes 0..60
//! ```
//! The fields of the hot path stand in the header, so that a write needs no further parsing; a body is small and
//! typed by the kind; data is whole blocks and is never copied by the parser.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// First four bytes of every frame.
pub const MAGIC: u32 = u32::from_le_bytes(*b"YTF1");
/// The version that this build writes.
pub const VERSION: u8 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 64;
/// Largest body that is accepted, checked before anything is allocated.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// Largest data that is accepted: 1,024 blocks.
pub const DATA_BYTES_MAX: usize = 4 << 20;

/// Set on a write that must be on stable storage before it is acknowledged (NBD's FUA).
pub const FLAG_DURABLE: u16 = 1;
/// Set on a `VersionsReply` that ends before the chunk's last layer: ask again from the header's `layer` on.
pub const FLAG_MORE: u16 = 2;
/// Set on a `Read` whose asker wants to know what is there, not the bytes: the answer has a body and no data.
pub const FLAG_STATES_ONLY: u16 = 2;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Server → client, first frame of a connection. Body: [`crate::auth::Challenge`] as JSON.
    Challenge = 1,
    /// Client → server. Body: [`crate::auth::Auth`] as JSON.
    Auth = 2,
    /// Server → client. Body: [`crate::auth::AuthOk`] as JSON.
    AuthOk = 3,
    /// Client → server: take a volume for writing, or (generation 0) for reading. Body: [`crate::data::Claim`] as JSON.
    Claim = 10,
    /// Body: [`crate::data::ClaimReply`] as JSON.
    ClaimReply = 11,
    /// Client → server: the layer tree has grown. Body: [`crate::data::Layers`] as JSON. Answer: `Ack`.
    Layers = 12,
    /// Mutation. Header: volume, generation, sequence, chunk, layer, block, blocks. Body: one CRC-32C u32 per block. Data: the blocks.
    Write = 20,
    /// Mutation: the blocks become zeros. No body, no data.
    Zero = 21,
    /// Mutation of layer 0 that touches only blocks absent there. Like `Write`; body: per block state u8 (1 zero, 2 data)
    /// then per block CRC u32; data: only the blocks of state 2, in order.
    Fill = 22,
    /// Answer to a mutation, `Layers`, `BeginRebuild`, `EndRebuild`, `Pull`: done. `sequence` echoes the request's.
    Ack = 23,
    /// Make everything acknowledged on this volume durable. Answer: `Ack`, after fdatasync.
    Flush = 24,
    /// Read blocks of `chunk` as of `layer`. Answer: `ReadReply`.
    Read = 30,
    /// Header echoes the request. Body: per block state u8 then per block CRC u32. Data: only the blocks of state `Data`, in order.
    ReadReply = 31,
    /// Server-to-server: the entries of a chunk. `sequence` = the least sequence that the source must have. Body: [`crate::data::VersionsRequest`] as JSON. Answer: `VersionsReply`.
    Versions = 40,
    /// Body: [`crate::data::VersionsReply`] in its own binary form.
    VersionsReply = 41,
    /// Server-to-server: blocks of exactly one layer (no ancestors). Answer: `ReadReply`, and entries are known from `Versions`.
    ReadLayer = 42,
    /// Gateway → stale server: from `sequence` on, mutations of `chunk` come; what is older is pulled. Durable. Answer: `Ack`.
    BeginRebuild = 43,
    /// Gateway → stale server: pull `chunk` from a peer. Body: [`crate::data::Pull`] as JSON. Answer: `Ack` when done, or `Error`.
    Pull = 44,
    /// Gateway → server: the chunk is whole; clears the durable mark. `generation`/`sequence` = position it now has. Answer: `Ack`.
    EndRebuild = 45,
    /// Operator or master → any: body is `{"op": …}`. See [`crate::control`].
    Control = 60,
    /// Answer to `Control`.
    ControlReply = 61,
    /// Gateway → master, unasked: body is `{"op": …}`.
    Event = 62,
    /// Master's answer to an `Event`.
    EventReply = 63,
    /// Answer to anything: refused. Body: [`crate::data::Refusal`] as JSON.
    Error = 99,
}

impl TryFrom<u8> for Kind {
    type Error = u8;

    fn try_from(value: u8) -> Result<Self, u8> {
        use Kind::*;
        const ALL: [Kind; 24] = [
            Challenge,
            Auth,
            AuthOk,
            Claim,
            ClaimReply,
            Layers,
            Write,
            Zero,
            Fill,
            Ack,
            Flush,
            Read,
            ReadReply,
            Versions,
            VersionsReply,
            ReadLayer,
            BeginRebuild,
            Pull,
            EndRebuild,
            Control,
            ControlReply,
            Event,
            EventReply,
            Error,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == value).ok_or(value)
    }
}

/// A frame's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// `FLAG_*`.
    pub flags: u16,
    /// Bytes of the body.
    pub body_len: u32,
    /// Bytes of the data.
    pub data_len: u32,
    /// Chosen by the asker, echoed in the answer.
    pub request_id: u64,
    /// The volume.
    pub volume: u64,
    /// The writer's generation.
    pub generation: u64,
    /// The mutation's number in its chunk.
    pub sequence: u64,
    /// The chunk's index in its volume.
    pub chunk: u32,
    /// The layer that is written, or that the read is as of.
    pub layer: u32,
    /// First block in the chunk.
    pub block: u16,
    /// Number of blocks (a whole chunk is 16,384).
    pub blocks: u16,
}

impl Header {
    /// A header of `kind` with everything else zero.
    #[must_use]
    pub fn new(kind: Kind, request_id: u64) -> Self {
        Self {
            kind,
            flags: 0,
            body_len: 0,
            data_len: 0,
            request_id,
            volume: 0,
            generation: 0,
            sequence: 0,
            chunk: 0,
            layer: 0,
            block: 0,
            blocks: 0,
        }
    }

    /// Encode with checksum.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = VERSION;
        out[5] = self.kind as u8;
        out[6..8].copy_from_slice(&self.flags.to_le_bytes());
        out[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.data_len.to_le_bytes());
        out[16..24].copy_from_slice(&self.request_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.volume.to_le_bytes());
        out[32..40].copy_from_slice(&self.generation.to_le_bytes());
        out[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        out[48..52].copy_from_slice(&self.chunk.to_le_bytes());
        out[52..56].copy_from_slice(&self.layer.to_le_bytes());
        out[56..58].copy_from_slice(&self.block.to_le_bytes());
        out[58..60].copy_from_slice(&self.blocks.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decode and check magic, version, checksum, kind and lengths.
    ///
    /// # Errors
    /// [`FrameError`], in that order of checks.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if u32_at(0) != MAGIC {
            return Err(FrameError::Magic(u32_at(0)));
        }
        if bytes[4] != VERSION {
            return Err(FrameError::Version(bytes[4]));
        }
        if crc32c::crc32c(&bytes[..60]) != u32_at(60) {
            return Err(FrameError::Checksum);
        }
        let header = Self {
            kind: Kind::try_from(bytes[5]).map_err(FrameError::Kind)?,
            flags: u16_at(6),
            body_len: u32_at(8),
            data_len: u32_at(12),
            request_id: u64_at(16),
            volume: u64_at(24),
            generation: u64_at(32),
            sequence: u64_at(40),
            chunk: u32_at(48),
            layer: u32_at(52),
            block: u16_at(56),
            blocks: u16_at(58),
        };
        if header.body_len as usize > BODY_BYTES_MAX {
            return Err(FrameError::BodyTooLong(header.body_len));
        }
        if header.data_len as usize > DATA_BYTES_MAX {
            return Err(FrameError::DataTooLong(header.data_len));
        }
        Ok(header)
    }
}

/// A whole frame. `body` and `data` share the receive buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The header; its lengths are set by [`Frame::new`].
    pub header: Header,
    /// The typed part.
    pub body: Bytes,
    /// Whole blocks.
    pub data: Bytes,
}

impl Frame {
    /// Build a frame and set the header's lengths.
    ///
    /// # Panics
    /// If body or data are above their limits: the caller built them, so it is a bug.
    #[must_use]
    pub fn new(mut header: Header, body: Bytes, data: Bytes) -> Self {
        assert!(body.len() <= BODY_BYTES_MAX && data.len() <= DATA_BYTES_MAX, "frame above its limits");
        header.body_len = u32::try_from(body.len()).expect("checked above");
        header.data_len = u32::try_from(data.len()).expect("checked above");
        Self { header, body, data }
    }

    /// Take one whole frame from the front of `buffer`, or `None` if more bytes must come first.
    ///
    /// # Errors
    /// [`FrameError`]: the stream cannot be followed any further and must be closed.
    pub fn parse(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        Self::parse_within(buffer, BODY_BYTES_MAX, DATA_BYTES_MAX)
    }

    /// [`Frame::parse`] with tighter limits, for a peer that has not proved itself yet.
    ///
    /// # Errors
    /// [`FrameError`]: the stream cannot be followed any further and must be closed.
    pub fn parse_within(buffer: &mut BytesMut, body_max: usize, data_max: usize) -> Result<Option<Self>, FrameError> {
        let Some(head) = buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = Header::decode(head)?;
        if header.body_len as usize > body_max {
            return Err(FrameError::BodyTooLong(header.body_len));
        }
        if header.data_len as usize > data_max {
            return Err(FrameError::DataTooLong(header.data_len));
        }
        let (body_len, data_len) = (header.body_len as usize, header.data_len as usize);
        if buffer.len() < HEADER_BYTES + body_len + data_len {
            buffer.reserve(HEADER_BYTES + body_len + data_len - buffer.len());
            return Ok(None);
        }
        buffer.advance(HEADER_BYTES);
        let body = buffer.split_to(body_len).freeze();
        let data = buffer.split_to(data_len).freeze();
        Ok(Some(Self { header, body, data }))
    }
}

/// Why a stream of frames cannot be followed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// Not our protocol.
    #[error("magic {0:#010x} is not ours: the peer does not speak this protocol")]
    Magic(u32),
    /// A peer of another age.
    #[error("frame version {0} is not supported (this build speaks {VERSION})")]
    Version(u8),
    /// Damaged on the way.
    #[error("the header's checksum does not match")]
    Checksum,
    /// A peer of another age.
    #[error("frame kind {0} is not known")]
    Kind(u8),
    /// Above the limit.
    #[error("a body of {0} bytes is above the limit (at most {BODY_BYTES_MAX}, less before the handshake)")]
    BodyTooLong(u32),
    /// Above the limit.
    #[error("data of {0} bytes is above the limit (at most {DATA_BYTES_MAX}, none before the handshake)")]
    DataTooLong(u32),
}

#[cfg(test)]
mod tests;
