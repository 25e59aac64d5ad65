//! The checkpoint: which chunks there are and where each stood at one record of the journal. One small file, replaced
//! as a whole, so that positions and the journal's replay always fit together.
//!
//! ```text
//! magic "YCP1" u32, version u32, next_lsn u64, first_segment u64, chunks u32, then per chunk
//!   volume u64, chunk u32, flags u32 (1 = rebuilding), generation u64, sequence u64, layers u32,
//!   then per layer: layer u32, allocated_bytes u64
//! crc u32 over everything before it
//! ```

use yuntai_proto::{ChunkIndex, LayerId, Position, VolumeId};

const MAGIC: u32 = u32::from_le_bytes(*b"YCP1");
const VERSION: u32 = 1;
/// The file.
pub(crate) const NAME: &str = "checkpoint";

/// One chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) volume: VolumeId,
    pub(crate) chunk: ChunkIndex,
    pub(crate) rebuilding: bool,
    pub(crate) position: Position,
    /// Layers that have files, and the bytes that these take.
    pub(crate) layers: Vec<(LayerId, u64)>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// The first record that is not in the chunk files.
    pub(crate) next_lsn: u64,
    /// Journal segments below count no more.
    pub(crate) first_segment: u64,
    pub(crate) rows: Vec<Row>,
}

/// Why a table cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TableError {
    Damaged,
    Version(u32),
}

fn count(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("far fewer than 2^32").to_le_bytes()
}

impl Table {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.rows.len() * 64);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.next_lsn.to_le_bytes());
        out.extend_from_slice(&self.first_segment.to_le_bytes());
        out.extend_from_slice(&count(self.rows.len()));
        for row in &self.rows {
            out.extend_from_slice(&row.volume.to_le_bytes());
            out.extend_from_slice(&row.chunk.to_le_bytes());
            out.extend_from_slice(&u32::from(row.rebuilding).to_le_bytes());
            out.extend_from_slice(&row.position.generation.to_le_bytes());
            out.extend_from_slice(&row.position.sequence.to_le_bytes());
            out.extend_from_slice(&count(row.layers.len()));
            for (layer, bytes) in &row.layers {
                out.extend_from_slice(&layer.to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or(TableError::Damaged)?;
        let mut reader = Reader(content);
        if reader.u32()? != MAGIC {
            return Err(TableError::Damaged);
        }
        let version = reader.u32()?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return Err(TableError::Damaged);
        }
        if version != VERSION {
            return Err(TableError::Version(version));
        }
        let (next_lsn, first_segment) = (reader.u64()?, reader.u64()?);
        let mut rows = Vec::new();
        for _ in 0..reader.u32()? {
            let (volume, chunk) = (reader.u64()?, reader.u32()?);
            let rebuilding = reader.u32()? & 1 == 1;
            let position = Position { generation: reader.u64()?, sequence: reader.u64()? };
            let mut layers = Vec::new();
            for _ in 0..reader.u32()? {
                layers.push((reader.u32()?, reader.u64()?));
            }
            rows.push(Row { volume, chunk, rebuilding, position, layers });
        }
        Ok(Self { next_lsn, first_segment, rows })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], TableError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(TableError::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, TableError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, TableError> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests;
