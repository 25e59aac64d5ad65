//! The words of the store: blocks, chunks, layers, positions.

use serde::{Deserialize, Serialize};

/// Bytes of a block: the unit of checksum, copy-on-write and lazy load.
pub const BLOCK_BYTES: usize = 4096;
/// Blocks of a chunk.
pub const CHUNK_BLOCKS: usize = 16384;
/// Bytes of a chunk (64 MiB): the unit of placement and repair.
pub const CHUNK_BYTES: u64 = (CHUNK_BLOCKS * BLOCK_BYTES) as u64;
/// Replicas that must be in sync before a write is accepted.
pub const IN_SYNC_MIN: usize = 2;

/// A volume's number on the wire; people see `vol-<16 hex digits>`.
pub type VolumeId = u64;
/// The index of a chunk in its volume.
pub type ChunkIndex = u32;
/// A node of a volume's layer tree. Layer 0 is the root.
pub type LayerId = u32;
/// The number of a chunk server; people see `cs-<number>`.
pub type ServerId = u32;

/// The layer that holds what was copied from the volume's source; guests never write to it.
pub const BASE_LAYER: LayerId = 0;

/// Where a chunk's history stands: the last mutation that a replica has. The derived order (generation first) is the
/// order of the history, which is what makes the choice of a survivor a plain maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The writer's fencing number.
    pub generation: u64,
    /// The number of the mutation in its chunk; goes on over generations.
    pub sequence: u64,
}

/// What a layer says of one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum BlockState {
    /// Nothing: an ancestor layer, or the source, has it.
    #[default]
    Absent = 0,
    /// Zeros, by a trim or a write of zeros. No bytes are stored.
    Zero = 1,
    /// Bytes are stored.
    Data = 2,
}

impl TryFrom<u8> for BlockState {
    type Error = u8;

    fn try_from(value: u8) -> Result<Self, u8> {
        match value {
            0 => Ok(Self::Absent),
            1 => Ok(Self::Zero),
            2 => Ok(Self::Data),
            other => Err(other),
        }
    }
}

/// A replica's entry for one block of one layer: 24 bytes on the wire and on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockEntry {
    /// Is there something?
    pub state: BlockState,
    /// CRC-32C of the block's 4,096 bytes (0 unless `state` is `Data`).
    pub crc: u32,
    /// The mutation that put it there.
    pub position: Position,
}

/// Bytes of an encoded [`BlockEntry`].
pub const ENTRY_BYTES: usize = 24;

impl BlockEntry {
    /// Encode: crc u32, state u8, 3 zero bytes, generation u64, sequence u64, little-endian.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[0..4].copy_from_slice(&self.crc.to_le_bytes());
        out[4] = self.state as u8;
        out[8..16].copy_from_slice(&self.position.generation.to_le_bytes());
        out[16..24].copy_from_slice(&self.position.sequence.to_le_bytes());
        out
    }

    /// Decode what [`BlockEntry::encode`] wrote; `None` if the state is not one of ours.
    #[must_use]
    pub fn decode(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Some(Self {
            state: BlockState::try_from(bytes[4]).ok()?,
            crc: u32::from_le_bytes(bytes[0..4].try_into().expect("4 bytes")),
            position: Position { generation: word(8), sequence: word(16) },
        })
    }
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4) of one block.
#[must_use]
pub fn block_crc(block: &[u8]) -> u32 {
    crc32c::crc32c(block)
}
