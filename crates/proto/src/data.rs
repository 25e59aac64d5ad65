//! Bodies of the frames between a gateway and a chunk server, and between two chunk servers.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::{BlockEntry, ChunkIndex, LayerId, Position, VolumeId, ENTRY_BYTES};

/// Take a volume. With a write token: fence every lower generation, durably, before the answer. With a read token:
/// nothing changes at the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// The master's signed token; volume, rights and generation come from it.
    pub token: String,
    /// The writer's random number: two writers of one generation are told apart by it.
    pub session: u64,
    /// The layer tree: index = layer, value = its parent. Layer 0's value is 0.
    pub parents: Vec<LayerId>,
}

/// What the server has of the volume.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ClaimReply {
    /// Every chunk with a history here. A chunk that is not listed is empty: position (0, 0).
    pub chunks: Vec<ChunkState>,
}

/// One chunk's standing at one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkState {
    /// The chunk.
    pub chunk: ChunkIndex,
    /// The last mutation that it has.
    pub position: Position,
    /// A rebuild was begun and not ended: never a survivor.
    pub rebuilding: bool,
    /// Blocks of it are known to be damaged there.
    #[serde(default)]
    pub damaged: bool,
}

/// The tree has grown; same meaning as [`Claim::parents`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Layers {
    /// Index = layer, value = its parent.
    pub parents: Vec<LayerId>,
}

/// Pull a chunk from a peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pull {
    /// `host:port` of the source.
    pub source: String,
    /// A read token for the volume, for the source.
    pub token: String,
    /// The source must have at least this sequence before its entries count.
    pub min_sequence: u64,
    /// At most this many bytes a second (0 = no limit).
    pub bytes_per_s_max: u64,
    /// Nobody else can give what this source cannot: mark such blocks as lost, and end well. (An older server does not
    /// know this, and refuses as if it were not said.)
    #[serde(default)]
    pub accept_loss: bool,
}

/// Ask for the entries of a chunk. Answered only when the chunk's sequence is at least the header's `sequence`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VersionsRequest {
    /// The volume (again: the asker is a server, not the claimed writer).
    pub volume: VolumeId,
}

/// Every non-absent entry of a chunk, layer by layer, and where the chunk stood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionsReply {
    /// The chunk's position when the entries were taken.
    pub position: Position,
    /// (layer, block, entry), in order of layer and block.
    pub entries: Vec<(LayerId, u16, BlockEntry)>,
    /// Blocks whose entries the source has lost: whatever the asker has there stays.
    pub lost: Vec<(LayerId, u16)>,
}

/// Bytes of a lost block's name.
const LOST_BYTES: usize = 8;

/// A body that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("malformed body: {0}")]
pub struct Malformed(pub &'static str);

impl VersionsReply {
    /// Encode: generation u64, sequence u64, count u32, then per entry layer u32, block u16, 2 zero bytes, entry; then
    /// per lost block layer u32, block u16, 2 zero bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let len = 20 + self.entries.len() * (8 + ENTRY_BYTES) + self.lost.len() * LOST_BYTES;
        let mut out = BytesMut::with_capacity(len);
        out.put_u64_le(self.position.generation);
        out.put_u64_le(self.position.sequence);
        out.put_u32_le(u32::try_from(self.entries.len()).expect("a chunk has few entries"));
        for (layer, block, entry) in &self.entries {
            out.put_u32_le(*layer);
            out.put_u16_le(*block);
            out.put_u16_le(0);
            out.put_slice(&entry.encode());
        }
        for (layer, block) in &self.lost {
            out.put_u32_le(*layer);
            out.put_u16_le(*block);
            out.put_u16_le(0);
        }
        out.freeze()
    }

    /// Decode what [`VersionsReply::encode`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] if it is short or a state is unknown.
    pub fn decode(mut body: Bytes) -> Result<Self, Malformed> {
        if body.len() < 20 {
            return Err(Malformed("versions: shorter than its head"));
        }
        let position = Position { generation: body.get_u64_le(), sequence: body.get_u64_le() };
        let count = body.get_u32_le() as usize;
        let lost = body.len().checked_sub(count * (8 + ENTRY_BYTES)).filter(|rest| rest % LOST_BYTES == 0);
        let lost = lost.ok_or(Malformed("versions: length does not match the count"))? / LOST_BYTES;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let layer = body.get_u32_le();
            let block = body.get_u16_le();
            body.advance(2);
            let raw: [u8; ENTRY_BYTES] = body.split_to(ENTRY_BYTES)[..].try_into().expect("length checked");
            let entry = BlockEntry::decode(&raw).ok_or(Malformed("versions: unknown block state"))?;
            entries.push((layer, block, entry));
        }
        let mut next = || (body.get_u32_le(), body.get_u16_le(), body.get_u16_le());
        let lost = (0..lost).map(|_| next()).map(|(layer, block, _)| (layer, block)).collect();
        Ok(Self { position, entries, lost })
    }
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Refusal {
    /// A higher generation, or another session of the same one, holds the volume.
    #[error("fenced: generation {generation} session {session:#x} holds the volume")]
    Fenced {
        /// The highest generation seen.
        generation: u64,
        /// Its session.
        session: u64,
    },
    /// The token does not allow it.
    #[error("not allowed: {message}")]
    Denied {
        /// Why.
        message: String,
    },
    /// A mutation came out of order; `expected` is the sequence that the replica wants next.
    #[error("out of order: sequence {expected} is next")]
    OutOfOrder {
        /// The next sequence.
        expected: u64,
    },
    /// No space: nothing was written; ask again later.
    #[error("no space on the chunk server")]
    Full,
    /// The block's bytes do not match its checksum here; read another replica.
    #[error("block {block} of chunk {chunk} is damaged on this replica")]
    Damaged {
        /// The chunk.
        chunk: ChunkIndex,
        /// The first damaged block.
        block: u16,
    },
    /// The source of a pull has such a block: the asker is well, pull from another source.
    #[error("the source refused: block {block} of chunk {chunk} is damaged there")]
    SourceDamaged {
        /// The chunk.
        chunk: ChunkIndex,
        /// The first damaged block.
        block: u16,
    },
    /// Not now: ask again in a moment.
    #[error("busy: {message}")]
    Busy {
        /// Why.
        message: String,
    },
    /// The request makes no sense.
    #[error("invalid request: {message}")]
    Invalid {
        /// The field, the value and what would be right.
        message: String,
    },
    /// The disk failed.
    #[error("I/O error: {message}")]
    Io {
        /// What the system said.
        message: String,
    },
}

#[cfg(test)]
mod tests;
