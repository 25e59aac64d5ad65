//! Layouts and numbers of the NBD protocol. All integers are big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// "NBDMAGIC".
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// In front of every answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// In front of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// In front of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// In front of a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Largest data of a read or write that is accepted.
pub const REQUEST_BYTES_MAX: u32 = 32 << 20;
/// Bytes of a request's header.
pub const REQUEST_BYTES: usize = 28;

/// Handshake and client flags.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// The client need not be sent 124 zeros after `EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 2;

/// Options.
pub mod option {
    /// Choose an export and begin, the old way.
    pub const EXPORT_NAME: u32 = 1;
    /// Leave.
    pub const ABORT: u32 = 2;
    /// Names of the exports.
    pub const LIST: u32 = 3;
    /// Ask about an export.
    pub const INFO: u32 = 6;
    /// Choose an export and begin.
    pub const GO: u32 = 7;
    /// Allow structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Names of the metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Answers to options.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export.
    pub const SERVER: u32 = 2;
    /// Something about an export.
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// We do not know this option.
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    /// The option's data makes no sense.
    pub const ERR_INVALID: u32 = 0x8000_0003;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    /// The option's data is too long.
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
}

/// Pieces of information about an export.
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// Its name.
    pub const NAME: u16 = 1;
    /// Block sizes.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags.
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// No writes.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH` is known.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// `FUA` is known.
    pub const SEND_FUA: u16 = 1 << 3;
    /// `TRIM` is known.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` is known.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// `DF` is known.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `FAST_ZERO` is known (all our zeroes are fast).
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Commands.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Leave; no answer.
    pub const DISC: u16 = 2;
    /// Flush.
    pub const FLUSH: u16 = 3;
    /// Trim.
    pub const TRIM: u16 = 4;
    /// Write zeros.
    pub const WRITE_ZEROES: u16 = 6;
    /// Where is data?
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a command.
pub mod command_flag {
    /// On stable storage before the answer.
    pub const FUA: u16 = 1;
    /// Zeros must be allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// The answer in one piece.
    pub const DF: u16 = 1 << 2;
    /// One extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zeros only if that is fast.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Error numbers.
pub mod error {
    /// Not permitted.
    pub const EPERM: u32 = 1;
    /// It cannot be read any more.
    pub const EIO: u32 = 5;
    /// Invalid.
    pub const EINVAL: u32 = 22;
    /// Beyond the end.
    pub const ENOSPC: u32 = 28;
}

/// The one metadata context.
pub const ALLOCATION: &str = "base:allocation";
/// Its number on our connections.
pub const ALLOCATION_ID: u32 = 1;
/// Nothing is stored there.
pub const STATE_HOLE: u32 = 1;
/// It reads as zeros.
pub const STATE_ZERO: u32 = 2;

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// `command_flag::*`.
    pub flags: u16,
    /// `command::*`.
    pub command: u16,
    /// Comes back in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

impl Request {
    /// Read a header; `None` if the magic is wrong.
    #[must_use]
    pub fn decode(raw: &[u8; REQUEST_BYTES]) -> Option<Self> {
        if raw[..4] != REQUEST_MAGIC.to_be_bytes() {
            return None;
        }
        let raw = &mut &raw[4..];
        Some(Self {
            flags: raw.get_u16(),
            command: raw.get_u16(),
            cookie: raw.get_u64(),
            offset: raw.get_u64(),
            len: raw.get_u32(),
        })
    }

    /// Write a header (tests and tools are clients).
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(REQUEST_BYTES);
        out.put_u32(REQUEST_MAGIC);
        out.put_u16(self.flags);
        out.put_u16(self.command);
        out.put_u64(self.cookie);
        out.put_u64(self.offset);
        out.put_u32(self.len);
        out.freeze()
    }
}

/// A simple reply's header.
#[must_use]
pub fn simple_reply(error: u32, cookie: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    out.put_u32(SIMPLE_REPLY_MAGIC);
    out.put_u32(error);
    out.put_u64(cookie);
    out.freeze()
}

/// Types of a structured reply's chunks.
pub mod chunk {
    /// Nothing but "done".
    pub const NONE: u16 = 0;
    /// Bytes.
    pub const OFFSET_DATA: u16 = 1;
    /// A hole.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents.
    pub const BLOCK_STATUS: u16 = 5;
    /// An error.
    pub const ERROR: u16 = 0x8001;
    /// Set in the flags of a reply's last chunk.
    pub const DONE: u16 = 1;
}

/// Begin a chunk of a structured reply, whose payload has `len` bytes.
#[must_use]
pub fn chunk_header(done: bool, kind: u16, cookie: u64, len: u32) -> BytesMut {
    let mut out = BytesMut::with_capacity(40);
    out.put_u32(STRUCTURED_REPLY_MAGIC);
    out.put_u16(if done { chunk::DONE } else { 0 });
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u32(len);
    out
}
