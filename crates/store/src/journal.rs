//! The journal: segments of records, appended in batches, synced by tickets that another thread may run.
//!
//! A segment begins with 64 bytes: `magic "YJS1" u32, version u32, number u64, base_lsn u64, uuid 16, zero 20, crc u32`.
//! Every start of the store, every failed append and every checkpoint begins a new segment, so a new record never lands
//! behind a torn one; records of a segment at or above the next segment's `base_lsn` are leftovers and do not count.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;

use yuntai_proto::mutant;

use crate::files::Handles;
use crate::groups::LayerKey;
use crate::superblock::VOLUMES;
use crate::vfs::{Vfs, VfsFile};

pub(crate) mod replay;

const MAGIC: u32 = u32::from_le_bytes(*b"YJS1");
const VERSION: u32 = 1;
/// Bytes before a segment's first record.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 64;
/// The folder.
pub(crate) const FOLDER: &str = "journal";

/// Which store this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uuid: [u8; 16],
}

impl Identity {
    /// What stands in every record.
    pub(crate) fn tag(&self) -> u32 {
        crc32c::crc32c(&self.uuid)
    }
}

pub(crate) fn segment_path(number: u64) -> String {
    format!("{FOLDER}/{number:016x}.log")
}

fn encode_segment_header(identity: &Identity, number: u64, base_lsn: u64) -> [u8; 64] {
    let mut out = [0; 64];
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&VERSION.to_le_bytes());
    out[8..16].copy_from_slice(&number.to_le_bytes());
    out[16..24].copy_from_slice(&base_lsn.to_le_bytes());
    out[24..40].copy_from_slice(&identity.uuid);
    let crc = crc32c::crc32c(&out[..60]);
    out[60..64].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The base LSN of a segment, if the header is whole and ours.
fn decode_segment_header(identity: &Identity, number: u64, bytes: &[u8; 64]) -> Option<u64> {
    let base_lsn = u64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes"));
    (encode_segment_header(identity, number, base_lsn) == *bytes).then_some(base_lsn)
}

pub(crate) struct Segment<V: Vfs> {
    pub(crate) file: Arc<V::File>,
    pub(crate) bytes: u64,
    synced_bytes: u64,
    name_synced: bool,
}

/// A promise to make: everything up to `lsn` durable. Running it touches nothing but the files.
pub struct SyncTicket<V: Vfs> {
    /// The last record that it covers.
    pub lsn: u64,
    vfs: V,
    files: Vec<(u64, u64, Arc<V::File>)>,
    names: bool,
    /// Data files with blocks written in place by records that the ticket covers.
    pub(crate) in_place: Vec<(LayerKey, InPlace<V>)>,
}

/// A data file that was written in place and not synced since.
pub(crate) struct InPlace<V: Vfs> {
    /// The last record whose data is there.
    pub(crate) lsn: u64,
    pub(crate) handles: Arc<Handles<V>>,
    /// The file is new: its name must be made durable too.
    pub(crate) is_new: bool,
}

impl<V: Vfs> InPlace<V> {
    pub(crate) fn sync(&self, vfs: &V, key: &LayerKey) -> io::Result<()> {
        self.handles.data.sync()?;
        if self.is_new {
            match vfs.sync_dir(&LayerKey::folder(key.volume)) {
                // The volume was deleted since, and a checkpoint on another thread has cleared it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
            vfs.sync_dir(VOLUMES)?;
        }
        Ok(())
    }
}

impl<V: Vfs> SyncTicket<V> {
    /// fdatasync. May run on another thread, and for as long as it likes.
    ///
    /// # Errors
    /// What the system says. Nothing is known then about what was appended since the last success: the process must end
    /// and replay.
    pub fn run(&self) -> io::Result<()> {
        let not_in_place = mutant::is("a sync leaves out what was written in place");
        for (key, in_place) in self.in_place.iter().filter(|_| !not_in_place) {
            in_place.sync(&self.vfs, key)?;
        }
        for (_, _, file) in &self.files {
            file.sync()?;
        }
        if self.names {
            self.vfs.sync_dir(FOLDER)?;
        }
        Ok(())
    }
}

pub(crate) struct Journal<V: Vfs> {
    vfs: V,
    identity: Identity,
    pub(crate) segments: BTreeMap<u64, Segment<V>>,
    current: u64,
    /// The next record's number.
    pub(crate) next_lsn: u64,
    pub(crate) synced_lsn: u64,
    segment_bytes: u64,
    /// The last append failed: what stands behind the current segment's end is unknown.
    torn: bool,
}

impl<V: Vfs> Journal<V> {
    /// Go on after a replay (or begin, with no segments).
    pub(crate) fn resume(
        vfs: V,
        identity: Identity,
        segment_bytes: u64,
        replayed: replay::Replayed<V>,
    ) -> io::Result<Self> {
        let segments = replayed
            .segments
            .into_iter()
            .map(|(number, (file, bytes))| {
                (number, Segment { file: Arc::new(file), bytes, synced_bytes: bytes, name_synced: true })
            })
            .collect();
        let (next_lsn, current) = (replayed.next_lsn, replayed.last_number);
        let synced_lsn = next_lsn - 1;
        let mut this = Self { vfs, identity, segments, current, next_lsn, synced_lsn, segment_bytes, torn: false };
        this.rotate()?;
        Ok(this)
    }

    /// Bytes in all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// The number of the segment that is being written.
    pub(crate) fn current(&self) -> u64 {
        self.current
    }

    /// Begin a new segment.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        if let Some(segment) = self.segments.get(&self.current).filter(|_| self.torn) {
            segment.file.set_len(segment.bytes)?;
        }
        let number = self.current + 1;
        let file = self.vfs.create(&segment_path(number))?;
        // Room first: until the header is written the file counts for nothing, and the old segment may go on.
        if let Err(error) = file.allocate(self.segment_bytes) {
            self.discard(number);
            return Err(error);
        }
        let header = encode_segment_header(&self.identity, number, self.next_lsn);
        if let Err(error) = file.write_at(&mut [IoSlice::new(&header)], 0) {
            // The header may have reached the disk, and with it the promise that the old segment has ended.
            self.torn = true;
            self.discard(number);
            return Err(error);
        }
        let segment =
            Segment { file: Arc::new(file), bytes: SEGMENT_HEADER_BYTES, synced_bytes: 0, name_synced: false };
        self.segments.insert(number, segment);
        self.current = number;
        self.torn = false;
        Ok(())
    }

    fn discard(&self, number: u64) {
        if let Err(error) = self.vfs.remove(&segment_path(number)) {
            tracing::warn!(segment = number, %error, "a journal segment that could not be begun stays behind");
        }
    }

    /// Append a batch of `records` records in one write: the segment and the offset where it begins. After an error
    /// nothing of it counts.
    pub(crate) fn append(&mut self, slices: &mut [IoSlice<'_>], bytes: u64, records: u64) -> io::Result<(u64, u64)> {
        let full =
            |segment: &Segment<V>| segment.bytes > SEGMENT_HEADER_BYTES && segment.bytes + bytes > self.segment_bytes;
        if self.torn || full(&self.segments[&self.current]) {
            self.rotate()?;
        }
        let segment = self.segments.get_mut(&self.current).expect("the current segment is there");
        let offset = segment.bytes;
        if let Err(error) = segment.file.write_at(slices, offset) {
            self.torn = true;
            return Err(error);
        }
        segment.bytes += bytes;
        self.next_lsn += records;
        Ok((self.current, offset))
    }

    /// A ticket for everything appended so far; `None` if that is durable already.
    pub(crate) fn sync_ticket(&self) -> Option<SyncTicket<V>> {
        let lsn = self.next_lsn - 1;
        if lsn <= self.synced_lsn {
            return None;
        }
        let dirty = self.segments.iter().filter(|(_, segment)| segment.bytes > segment.synced_bytes);
        let files = dirty.map(|(number, segment)| (*number, segment.bytes, Arc::clone(&segment.file))).collect();
        let names = self.segments.values().any(|segment| !segment.name_synced);
        Some(SyncTicket { lsn, vfs: self.vfs.clone(), files, names, in_place: Vec::new() })
    }

    /// The ticket ran well.
    pub(crate) fn synced(&mut self, ticket: &SyncTicket<V>) {
        self.synced_lsn = self.synced_lsn.max(ticket.lsn);
        for (number, bytes, _) in &ticket.files {
            if let Some(segment) = self.segments.get_mut(number) {
                segment.synced_bytes = segment.synced_bytes.max(*bytes);
                segment.name_synced |= ticket.names;
            }
        }
    }

    /// Forget segments below `number`: their files are gone.
    pub(crate) fn forget_below(&mut self, number: u64) {
        self.segments.retain(|n, _| *n >= number);
    }
}

#[cfg(test)]
mod tests;
