//! Who may write each volume: the highest generation ever seen and its session. Kept apart from the journal, so that no
//! loss of journal records can make a fence go back.
//!
//! `fences.log` is a list of 40-byte records, each written twice in a row so that a single bad sector or bit cannot
//! hide one: `magic "YFN1" u32, kind u8 (1 fence, 2 deleted), zero 3, volume u64, generation u64, session u64, zero u32,
//! crc u32`. It is rewritten, short, at every start.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};

use yuntai_proto::{mutant, VolumeId};

use crate::vfs::{read_file, replace_file, Vfs, VfsFile};

const NAME: &str = "fences.log";
const MAGIC: u32 = u32::from_le_bytes(*b"YFN1");
const RECORD_BYTES: usize = 40;
/// After so many appended records the file is rewritten.
const APPENDS_MAX: usize = 4096;

/// A volume's writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    /// The highest generation seen.
    pub generation: u64,
    /// The session that brought it.
    pub session: u64,
    /// Deleted: nobody may write it, ever.
    pub deleted: bool,
}

/// All of them.
pub(crate) struct Fences<V: Vfs> {
    vfs: V,
    file: V::File,
    offset: u64,
    appends: usize,
    /// An append failed: the file's end is unknown, rewrite it before the next one.
    torn: bool,
    table: BTreeMap<VolumeId, Fence>,
}

fn encode(volume: VolumeId, fence: &Fence) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4] = if fence.deleted { 2 } else { 1 };
    out[8..16].copy_from_slice(&volume.to_le_bytes());
    out[16..24].copy_from_slice(&fence.generation.to_le_bytes());
    out[24..32].copy_from_slice(&fence.session.to_le_bytes());
    let crc = crc32c::crc32c(&out[..36]);
    out[36..40].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<(VolumeId, Fence)> {
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let fence = Fence { generation: word(16)?, session: word(24)?, deleted: bytes[4] == 2 };
    let volume = word(8)?;
    (encode(volume, &fence)[..] == *bytes).then_some((volume, fence))
}

/// Read the whole log. `None` if a record is broken in both copies and others follow: it was durable once.
fn decode_all(bytes: &[u8]) -> Option<BTreeMap<VolumeId, Fence>> {
    let mut table = BTreeMap::new();
    let mut broken = false;
    for pair in bytes.chunks(RECORD_BYTES * 2) {
        let (first, second) = pair.split_at(pair.len().min(RECORD_BYTES));
        match decode(first).or_else(|| decode(second)) {
            Some(_) if broken => return None,
            Some((volume, fence)) => raise(&mut table, volume, fence),
            None => broken = true,
        }
    }
    Some(table)
}

/// Fences only go up, whatever order records are read in.
fn raise(table: &mut BTreeMap<VolumeId, Fence>, volume: VolumeId, fence: Fence) {
    let known = table.entry(volume).or_default();
    let deleted = known.deleted || fence.deleted;
    if fence.generation >= known.generation {
        *known = fence;
    }
    known.deleted = deleted;
}

impl<V: Vfs> Fences<V> {
    /// Read, and rewrite short.
    pub(crate) fn open(vfs: &V) -> io::Result<Option<Self>> {
        let bytes = match read_file(vfs, NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let Some(table) = decode_all(&bytes) else { return Ok(None) };
        let (file, offset) = Self::rewrite(vfs, &table)?;
        Ok(Some(Self { vfs: vfs.clone(), file, offset, appends: 0, torn: false, table }))
    }

    fn rewrite(vfs: &V, table: &BTreeMap<VolumeId, Fence>) -> io::Result<(V::File, u64)> {
        let bytes: Vec<u8> = table
            .iter()
            .flat_map(|(volume, fence)| {
                let record = encode(*volume, fence);
                record.into_iter().chain(record)
            })
            .collect();
        replace_file(vfs, "", NAME, &bytes)?;
        Ok((vfs.open(NAME)?, bytes.len() as u64))
    }

    pub(crate) fn get(&self, volume: VolumeId) -> Fence {
        self.table.get(&volume).copied().unwrap_or_default()
    }

    pub(crate) fn deleted(&self) -> impl Iterator<Item = VolumeId> + '_ {
        self.table.iter().filter(|(_, fence)| fence.deleted).map(|(volume, _)| *volume)
    }

    /// Durable when it returns. The caller has checked that it goes up.
    pub(crate) fn set(&mut self, volume: VolumeId, fence: Fence) -> io::Result<()> {
        if mutant::is("fence in memory only") {
            raise(&mut self.table, volume, fence);
            return Ok(());
        }
        let mut table = None;
        if self.torn || self.appends >= APPENDS_MAX {
            let mut next = self.table.clone();
            raise(&mut next, volume, fence);
            // Until the rewrite is through, which file the next start finds is open.
            self.torn = true;
            (self.file, self.offset) = Self::rewrite(&self.vfs, &next)?;
            (self.torn, self.appends) = (false, 0);
            table = Some(next);
        } else {
            let record = encode(volume, &fence);
            let mut slices = [IoSlice::new(&record), IoSlice::new(&record)];
            let written = self.file.write_at(&mut slices, self.offset).and_then(|()| self.file.sync());
            if let Err(error) = written {
                self.torn = true;
                return Err(error);
            }
            self.offset += 2 * RECORD_BYTES as u64;
            self.appends += 1;
        }
        match table {
            Some(table) => self.table = table,
            None => raise(&mut self.table, volume, fence),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
