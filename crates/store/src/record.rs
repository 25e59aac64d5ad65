//! One journal record: an 80-byte little-endian header, a body, the data.
//!
//! ```text
//!  0 magic "YJR1" | 4 version u8 | 5 kind u8 | 6 flags u16 | 8 lsn u64 | 16 synced_lsn u64 | 24 volume u64
//! 32 generation u64 | 40 sequence u64 | 48 chunk u32 | 52 layer u32 | 56 block u16 | 58 blocks u16
//! 60 body_len u32 | 64 data_len u32 | 68 body_crc u32 | 72 store_tag u32 | 76 header_crc u32: CRC-32C of bytes 0..76
//! ```
//! Flags: 1 = the data is not here but in place, in the chunk's data file (then `data_len` is 0 and every block of the
//! record has the state `Data`); 2 = in its second half. The data has no checksum of its own: the body carries one per block, which is checked at replay. `synced_lsn` is
//! what was known to be durable when the record was written: a break in the journal below the highest `synced_lsn`
//! found behind it is damage, above it only what a crash may lose. `store_tag` comes from the store's uuid, so that a
//! guest that writes an image of some other journal into its disk cannot be taken for one of our records.

use crate::groups::Half;
use yuntai_proto::{
    block_crc, mutant, BlockEntry, BlockState, ChunkIndex, LayerId, Position, VolumeId, BLOCK_BYTES, CHUNK_BLOCKS,
    ENTRY_BYTES,
};

/// First four bytes.
pub const MAGIC: u32 = u32::from_le_bytes(*b"YJR1");
/// The version that this build writes.
pub const VERSION: u8 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 80;

/// The data is in the chunk's data file.
const FLAG_IN_PLACE: u16 = 1;
/// In its second half.
const FLAG_SECOND_HALF: u16 = 2;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Blocks were written. Body: CRC u32 per block. Data: the blocks.
    Write = 1,
    /// Blocks became zeros.
    Zero = 2,
    /// Some of the blocks were filled. Body: state u8 per block (absent: not touched), then CRC u32 per block. Data: the
    /// blocks of state `Data`.
    Fill = 3,
    /// Blocks as another replica has them; the chunk's position does not move. Body: 24-byte entry per block (absent:
    /// removed). Data: the blocks of state `Data`.
    Pulled = 4,
    /// A rebuild began: the stream goes on after the record's position.
    Begin = 5,
    /// The rebuild ended: the chunk is whole up to the record's position.
    End = 6,
    /// Blocks that no replica has any more; the chunk's position does not move. The body has the entry of each, as far as
    /// a source knew it (else of state `Absent`). A build from before there was this kind takes the journal for damaged
    /// here: it never takes the blocks for what they were before.
    Lost = 7,
}

impl Kind {
    fn of(value: u8) -> Option<Self> {
        [Self::Write, Self::Zero, Self::Fill, Self::Pulled, Self::Begin, Self::End, Self::Lost]
            .into_iter()
            .find(|kind| *kind as u8 == value)
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it says.
    pub kind: Kind,
    /// Its number in the journal, without gaps.
    pub lsn: u64,
    /// Every record up to this one was durable when this one was written.
    pub synced_lsn: u64,
    /// The volume.
    pub volume: VolumeId,
    /// The chunk's position after it (except for [`Kind::Pulled`] and [`Kind::Lost`], which do not move it).
    pub position: Position,
    /// The chunk.
    pub chunk: ChunkIndex,
    /// The layer.
    pub layer: LayerId,
    /// First block.
    pub block: u16,
    /// Blocks.
    pub blocks: u16,
    /// Bytes of the body.
    pub body_len: u32,
    /// Bytes of the data.
    pub data_len: u32,
    /// CRC-32C of the body.
    pub body_crc: u32,
    /// The data is in this half of the chunk's data file, not in the journal.
    pub in_place: Option<Half>,
}

/// One block's change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The block.
    pub block: u16,
    /// What it becomes.
    pub entry: BlockEntry,
    /// For `Data`: which of the record's data blocks it is.
    pub data_index: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

impl Header {
    /// Encode with checksum.
    #[must_use]
    pub fn encode(&self, store_tag: u32) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = VERSION;
        out[5] = self.kind as u8;
        let flags = match self.in_place {
            None => 0,
            Some(Half::First) => FLAG_IN_PLACE,
            Some(Half::Second) => FLAG_IN_PLACE | FLAG_SECOND_HALF,
        };
        out[6..8].copy_from_slice(&flags.to_le_bytes());
        out[8..16].copy_from_slice(&self.lsn.to_le_bytes());
        out[16..24].copy_from_slice(&self.synced_lsn.to_le_bytes());
        out[24..32].copy_from_slice(&self.volume.to_le_bytes());
        out[32..40].copy_from_slice(&self.position.generation.to_le_bytes());
        out[40..48].copy_from_slice(&self.position.sequence.to_le_bytes());
        out[48..52].copy_from_slice(&self.chunk.to_le_bytes());
        out[52..56].copy_from_slice(&self.layer.to_le_bytes());
        out[56..58].copy_from_slice(&self.block.to_le_bytes());
        out[58..60].copy_from_slice(&self.blocks.to_le_bytes());
        out[60..64].copy_from_slice(&self.body_len.to_le_bytes());
        out[64..68].copy_from_slice(&self.data_len.to_le_bytes());
        out[68..72].copy_from_slice(&self.body_crc.to_le_bytes());
        out[72..76].copy_from_slice(&store_tag.to_le_bytes());
        let crc = crc32c::crc32c(&out[..76]);
        out[76..80].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decode; `None` if it is not a whole record header of this store and of a version that this build knows.
    ///
    /// *Invariant 8, versions from day one.* A format without a version can be changed only by guessing what old bytes
    /// are, and a guess that is wrong once is a lost disk. Each record and frame says its version, an unknown one is
    /// refused and not read as if it were known, and bytes that earlier versions wrote are kept in `crates/sim/golden`
    /// and must go on to say the same. Test: `crates/sim/tests/golden.rs`; mutants "an unknown version is read", "old
    /// bytes are misread".
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_BYTES], store_tag: u32) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes"));
        if u32_at(bytes, 0) != MAGIC
            || (bytes[4] != VERSION && !mutant::is("an unknown version is read"))
            || u32_at(bytes, 72) != store_tag
        {
            return None;
        }
        if crc32c::crc32c(&bytes[..76]) != u32_at(bytes, 76) {
            return None;
        }
        let in_place = match half(6) {
            0 => None,
            FLAG_IN_PLACE => Some(Half::First),
            flags if flags == FLAG_IN_PLACE | FLAG_SECOND_HALF => Some(Half::Second),
            _ => return None,
        };
        let header = Self {
            in_place,
            kind: Kind::of(bytes[5])?,
            lsn: word(8),
            synced_lsn: word(16),
            volume: word(24),
            position: match mutant::is("old bytes are misread") {
                false => Position { generation: word(32), sequence: word(40) },
                true => Position { generation: word(40), sequence: word(32) },
            },
            chunk: u32_at(bytes, 48),
            layer: u32_at(bytes, 52),
            block: half(56),
            blocks: half(58),
            body_len: u32_at(bytes, 60),
            data_len: u32_at(bytes, 64),
            body_crc: u32_at(bytes, 68),
        };
        let sane = header.block as usize + header.blocks as usize <= CHUNK_BLOCKS
            && header.body_len as usize == body_len(header.kind, header.blocks)
            && header.data_len as usize <= header.blocks as usize * BLOCK_BYTES
            && (header.in_place.is_none() || header.data_len == 0);
        sane.then_some(header)
    }

    /// Bytes of the whole record.
    #[must_use]
    pub fn record_len(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.body_len) + u64::from(self.data_len)
    }

    /// Check body and data (wherever it is) against the header and the body's checksums.
    #[must_use]
    pub fn is_whole(&self, body: &[u8], data: &[u8]) -> bool {
        let mut data_blocks = 0;
        let mut whole = crc32c::crc32c(body) == self.body_crc;
        let fits = |index: usize| data.get(index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES);
        let known = changes(self, body, &mut |change| {
            if change.entry.state == BlockState::Data {
                data_blocks += 1;
                whole &= fits(change.data_index).is_some_and(|block| block_crc(block) == change.entry.crc);
            }
        });
        whole && known && data.len() == data_blocks * BLOCK_BYTES
    }
}

/// Bytes of the body that a record of this kind has.
#[must_use]
pub fn body_len(kind: Kind, blocks: u16) -> usize {
    let blocks = blocks as usize;
    match kind {
        Kind::Write => blocks * 4,
        Kind::Zero | Kind::Begin | Kind::End => 0,
        Kind::Fill => blocks * 5,
        Kind::Pulled | Kind::Lost => blocks * ENTRY_BYTES,
    }
}

/// Every change of the record, in order of blocks; false if the body says something unknown. The body has the length
/// that [`body_len`] says.
pub fn changes(header: &Header, body: &[u8], each: &mut dyn FnMut(Change)) -> bool {
    let mut data_index = 0;
    for at in 0..header.blocks {
        let index = at as usize;
        let entry = match header.kind {
            Kind::Begin | Kind::End | Kind::Lost => return true,
            Kind::Write => {
                BlockEntry { state: BlockState::Data, crc: u32_at(body, index * 4), position: header.position }
            }
            Kind::Zero => BlockEntry { state: BlockState::Zero, crc: 0, position: header.position },
            Kind::Fill => {
                let Ok(state) = BlockState::try_from(body[index]) else { return false };
                let crc = u32_at(body, header.blocks as usize + index * 4);
                BlockEntry { state, crc, position: header.position }
            }
            Kind::Pulled => {
                let raw = body[index * ENTRY_BYTES..].first_chunk().expect("the body's length is checked");
                let Some(entry) = BlockEntry::decode(raw) else { return false };
                entry
            }
        };
        if header.kind == Kind::Fill && entry.state == BlockState::Absent {
            continue;
        }
        each(Change { block: header.block + at, entry, data_index });
        data_index += usize::from(entry.state == BlockState::Data);
    }
    true
}

#[cfg(test)]
mod tests;
