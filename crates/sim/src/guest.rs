//! The guest: it reads, writes, zeroes and flushes at random, and holds every answer against the [`History`].

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::Rng;
use yuntai_proto::CHUNK_BYTES;
use yuntai_volume::{GuestData, GuestError, GuestOp, GuestRequest, Part};

use crate::history::{sector_bytes, sector_tag, Expectation, Flush, History, Tag, SECTOR_BYTES};

/// Sectors of a block.
const BLOCK_SECTORS: u64 = 8;
/// The guest works on so many blocks at the end of each chunk and the beginning of the next: few, so that operations
/// meet, and around the border, so that some are cut in two.
const HOT_BLOCKS: u64 = 6;

enum Asked {
    Read { first: u64, count: u64, expectation: Expectation },
    Mutation { number: u64, first: u64, count: u64, fua: bool },
    Flush(Flush),
}

/// The guest and everything it knows.
pub struct Guest {
    /// What the disk may answer.
    pub history: History,
    asked: BTreeMap<u64, Asked>,
    next_id: u64,
    next_tag: Tag,
    /// Requests answered well.
    pub answered: u64,
}

impl Guest {
    /// A guest in front of a disk of zeros.
    #[must_use]
    pub fn new() -> Self {
        Self { history: History::new(), asked: BTreeMap::new(), next_id: 1, next_tag: 1, answered: 0 }
    }

    /// Requests that wait for their answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.asked.len()
    }

    /// The gateway that was asked died: the request is never answered, and its outcome stays unknown.
    pub fn forget(&mut self, id: u64) {
        self.asked.remove(&id);
    }

    fn place(rng: &mut StdRng, size_bytes: u64) -> (u64, u64) {
        let border = rng.gen_range(0..=size_bytes / CHUNK_BYTES) * (CHUNK_BYTES / SECTOR_BYTES);
        let end = size_bytes / SECTOR_BYTES;
        let low = border.saturating_sub(HOT_BLOCKS * BLOCK_SECTORS);
        let high = (border + HOT_BLOCKS * BLOCK_SECTORS).min(end);
        let aligned = rng.gen_bool(0.6);
        let unit = if aligned { BLOCK_SECTORS } else { 1 };
        let first = rng.gen_range(low / unit..high / unit) * unit;
        let most = if rng.gen_bool(0.1) { 10 * BLOCK_SECTORS } else { 3 * BLOCK_SECTORS };
        let count = (rng.gen_range(1..=most / unit) * unit).min(high - first);
        (first, count)
    }

    /// The next thing to do.
    pub fn next(&mut self, rng: &mut StdRng, size_bytes: u64) -> GuestRequest {
        let id = self.next_id;
        self.next_id += 1;
        let (first, count) = Self::place(rng, size_bytes);
        let fua = rng.gen_bool(0.1);
        let (asked, op) = match rng.gen_range(0..100) {
            0..=54 => self.write(first, count, fua),
            55..=64 => self.zero(rng, first, count, fua),
            65..=74 => (Asked::Flush(self.history.flush_asked()), GuestOp::Flush),
            _ => self.read(first, count),
        };
        self.asked.insert(id, asked);
        GuestRequest { id, op }
    }

    /// A write of one sector; with its value.
    #[cfg(test)]
    pub(crate) fn write_sector(&mut self, sector: u64) -> (GuestRequest, Tag) {
        let (id, tag) = (self.next_id, self.next_tag);
        self.next_id += 1;
        let (asked, op) = self.write(sector, 1, false);
        self.asked.insert(id, asked);
        (GuestRequest { id, op }, tag)
    }

    fn write(&mut self, first: u64, count: u64, fua: bool) -> (Asked, GuestOp) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let number = self.history.ask(first, count, tag);
        let mut data = BytesMut::new();
        (0..count).for_each(|_| data.extend_from_slice(&sector_bytes(tag)));
        let op = GuestOp::Write { offset: first * SECTOR_BYTES, data: data.freeze(), fua };
        (Asked::Mutation { number, first, count, fua }, op)
    }

    fn zero(&mut self, rng: &mut StdRng, first: u64, count: u64, fua: bool) -> (Asked, GuestOp) {
        // A trim may leave blocks that it covers in part, so the guest trims whole blocks only.
        let may_trim = first % BLOCK_SECTORS == 0 && count % BLOCK_SECTORS == 0 && rng.gen_bool(0.5);
        let number = self.history.ask(first, count, 0);
        let op = GuestOp::Zero { offset: first * SECTOR_BYTES, len: count * SECTOR_BYTES, fua, may_trim };
        (Asked::Mutation { number, first, count, fua }, op)
    }

    fn read(&mut self, first: u64, count: u64) -> (Asked, GuestOp) {
        let expectation = self.history.read_asked(first, count);
        let len = u32::try_from(count * SECTOR_BYTES).expect("a few blocks");
        (Asked::Read { first, count, expectation }, GuestOp::Read { offset: first * SECTOR_BYTES, len })
    }

    /// A read of one written sector, for the check at the end.
    pub fn read_sector(&mut self, sector: u64) -> GuestRequest {
        let id = self.next_id;
        self.next_id += 1;
        let (asked, op) = self.read(sector, 1);
        self.asked.insert(id, asked);
        GuestRequest { id, op }
    }

    /// A flush, for the check at the end.
    pub fn flush(&mut self) -> GuestRequest {
        let id = self.next_id;
        self.next_id += 1;
        self.asked.insert(id, Asked::Flush(self.history.flush_asked()));
        GuestRequest { id, op: GuestOp::Flush }
    }

    /// An answer came.
    ///
    /// # Errors
    /// What the disk answered and may not.
    pub fn answer(&mut self, id: u64, result: &Result<GuestData, GuestError>) -> Result<(), String> {
        let asked = self.asked.remove(&id).ok_or_else(|| format!("request {id} was answered twice"))?;
        let data = match result {
            Ok(data) => data,
            // The volume is going: the outcome stays unknown.
            Err(GuestError::Shutdown) => return Ok(()),
            // Lost blocks too: in this world only one disk rots, so that somebody always has every block.
            Err(error) => return Err(format!("request {id} failed: {error:?}; a disk stalls, it does not fail")),
        };
        self.answered += 1;
        match (asked, data) {
            (Asked::Mutation { number, first, count, fua }, GuestData::Done) => {
                self.history.acknowledge(number, first, count, fua);
                Ok(())
            }
            (Asked::Flush(flush), GuestData::Done) => {
                self.history.flush_answered(&flush);
                Ok(())
            }
            (Asked::Read { first, count, expectation }, GuestData::Read(parts)) => {
                let bytes = joined(parts);
                if bytes.len() as u64 != count * SECTOR_BYTES {
                    return Err(format!("a read of {count} sectors at {first} returned {} bytes", bytes.len()));
                }
                let tags = bytes
                    .chunks(SECTOR_BYTES as usize)
                    .map(sector_tag)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| format!("read at sector {first}: {error}"))?;
                self.history.read_answered(&expectation, &tags)
            }
            _ => Err(format!("request {id} got an answer of another kind")),
        }
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

fn joined(parts: &[Part]) -> Bytes {
    let mut out = BytesMut::new();
    for part in parts {
        match part {
            Part::Zero(count) => out.resize(out.len() + count, 0),
            Part::Data(bytes) => out.extend_from_slice(bytes),
        }
    }
    out.freeze()
}
