//! The entry file of one layer of one chunk: what the layer has for each block, in groups that protect themselves.
//!
//! A group is one 512-byte sector: 21 entries of 24 bytes, a tag, and a CRC-32C over the rest. Disks write a sector
//! whole, and a group is only ever written as a whole; should one tear all the same, or a bit flip, the checksum says
//! so and the group's blocks are refused as damaged instead of being taken for absent. The tag names volume, chunk,
//! layer and group, so that a sector that went to the wrong place is found too. A group of zeros (a hole) is a group in
//! which every block is absent. An entry's byte 5 tells the half of the data file that the block's bytes are in: see
//! [`Half`].

use yuntai_proto::{BlockEntry, BlockState, ChunkIndex, LayerId, VolumeId, BLOCK_BYTES, CHUNK_BYTES, ENTRY_BYTES};

/// Bytes of a group.
pub const GROUP_BYTES: usize = 512;
/// Entries in a group.
pub const GROUP_ENTRIES: usize = 21;
/// State byte of an entry that is known to be lost: its group was damaged when a neighbour was written.
const LOST: u8 = 3;

/// One layer of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerKey {
    /// The volume.
    pub volume: VolumeId,
    /// The chunk.
    pub chunk: ChunkIndex,
    /// The layer.
    pub layer: LayerId,
}

impl LayerKey {
    /// The folder of the volume's files.
    #[must_use]
    pub fn folder(volume: VolumeId) -> String {
        format!("volumes/{volume:016x}")
    }

    /// The file of the blocks, sparse: see [`Half`].
    #[must_use]
    pub fn data_path(&self) -> String {
        format!("{}/{:08x}.{:08x}.data", Self::folder(self.volume), self.chunk, self.layer)
    }

    /// The file of the entries.
    #[must_use]
    pub fn entries_path(&self) -> String {
        format!("{}/{:08x}.{:08x}.entries", Self::folder(self.volume), self.chunk, self.layer)
    }

    fn tag(&self, group: usize) -> u32 {
        let mut bytes = [0; 24];
        bytes[0..8].copy_from_slice(&self.volume.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.chunk.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.layer.to_le_bytes());
        bytes[16..24].copy_from_slice(&(group as u64).to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// A data file has room for every block twice: a large write goes at once to the half that is not in use, where it harms
/// nothing, and only its checksums go through the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Half {
    /// Block b at b × 4096.
    #[default]
    First,
    /// Block b at 64 MiB + b × 4096.
    Second,
}

impl Half {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// Where a block is in the data file.
    #[must_use]
    pub fn offset(self, block: u16) -> u64 {
        let within = u64::from(block) * BLOCK_BYTES as u64;
        match self {
            Self::First => within,
            Self::Second => CHUNK_BYTES + within,
        }
    }
}

/// What a group says of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The entry.
    Entry(BlockEntry),
    /// There was one and it is not known any more: the block is damaged here.
    Lost,
}

/// A slot and where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What there is.
    pub slot: Slot,
    /// Where the block's bytes are, if there are any, and where journaled ones would go.
    pub half: Half,
}

impl Stored {
    /// A block that is lost.
    pub const LOST: Self = Self { slot: Slot::Lost, half: Half::First };
}

/// One group, decoded.
pub type Group = [Stored; GROUP_ENTRIES];

/// What is said of a block of which there is nothing.
pub const ABSENT: Slot = Slot::Entry(BlockEntry {
    state: BlockState::Absent,
    crc: 0,
    position: yuntai_proto::Position { generation: 0, sequence: 0 },
});

/// An empty group.
pub const EMPTY: Group = [Stored { slot: ABSENT, half: Half::First }; GROUP_ENTRIES];

/// The group of a block, and its place in it.
#[must_use]
pub fn place_of(block: u16) -> (usize, usize) {
    (block as usize / GROUP_ENTRIES, block as usize % GROUP_ENTRIES)
}

/// Encode with tag and checksum.
#[must_use]
pub fn encode(key: &LayerKey, number: usize, group: &Group) -> [u8; GROUP_BYTES] {
    let mut out = [0; GROUP_BYTES];
    for (stored, raw) in group.iter().zip(out.chunks_exact_mut(ENTRY_BYTES)) {
        match stored.slot {
            Slot::Entry(entry) => raw.copy_from_slice(&entry.encode()),
            Slot::Lost => raw[4] = LOST,
        }
        raw[5] = u8::from(stored.half == Half::Second);
    }
    out[504..508].copy_from_slice(&key.tag(number).to_le_bytes());
    let crc = crc32c::crc32c(&out[..508]);
    out[508..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Decode; `None` if the group is damaged.
#[must_use]
pub fn decode(key: &LayerKey, number: usize, bytes: &[u8; GROUP_BYTES]) -> Option<Group> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    if *bytes == [0; GROUP_BYTES] {
        return Some(EMPTY);
    }
    if crc32c::crc32c(&bytes[..508]) != word(508) {
        return None;
    }
    if word(504) != key.tag(number) {
        return None;
    }
    let mut group = EMPTY;
    for (stored, raw) in group.iter_mut().zip(bytes.chunks_exact(ENTRY_BYTES)) {
        stored.half = if raw[5] == 1 { Half::Second } else { Half::First };
        stored.slot = match raw[4] {
            LOST => Slot::Lost,
            _ => Slot::Entry(BlockEntry::decode(raw.first_chunk().expect("24 bytes"))?),
        };
    }
    Some(group)
}

#[cfg(test)]
mod tests;
