//! Going over everything that lies in chunk files, to find what has rotted before it is needed. A job reads and checks a
//! piece, on another thread if there is one; what it suspects is looked at again by the store itself, as the block may
//! have been written meanwhile.
//!
//! `scrub`: `magic "YSC1" u32, version u32, next_due_s u64, ended_s u64, volume u64, chunk u32, layer u32, under_way u32,
//! zero 16, crc u32`: 64 bytes, replaced as a whole; how far it was, roughly.

use std::io;

use yuntai_proto::{block_crc, mutant, BlockState, BLOCK_BYTES};

use crate::files::Handles;
use crate::groups::{LayerKey, Slot, Stored};
use crate::read::{read_slots, CHUNK_BLOCKS_U16};
use crate::spares::takes_too_much;
use crate::store::Store;
use crate::vfs::{read_file, replace_file, Vfs, VfsFile};

const NAME: &str = "scrub";
const MAGIC: u32 = u32::from_le_bytes(*b"YSC1");
const VERSION: u32 = 1;
/// Entries looked at in one go.
const WINDOW_BLOCKS: u16 = 1024;
/// Blocks with bytes that one job checks, about.
const JOB_BLOCKS: usize = 256;

/// How far the scrubber is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubMark {
    /// When the next one is due, in seconds since 1970; 0 = nobody has said.
    pub next_due_s: u64,
    /// When the last whole one ended; 0 = never.
    pub ended_s: u64,
    /// One is under way, and this layer is next.
    pub at: Option<LayerKey>,
}

impl ScrubMark {
    fn encode(&self) -> [u8; 64] {
        let mut out = [0; 64];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&VERSION.to_le_bytes());
        out[8..16].copy_from_slice(&self.next_due_s.to_le_bytes());
        out[16..24].copy_from_slice(&self.ended_s.to_le_bytes());
        if let Some(at) = &self.at {
            out[24..32].copy_from_slice(&at.volume.to_le_bytes());
            out[32..36].copy_from_slice(&at.chunk.to_le_bytes());
            out[36..40].copy_from_slice(&at.layer.to_le_bytes());
            out[40] = 1;
        }
        let crc = crc32c::crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let at = LayerKey { volume: long(24)?, chunk: word(32)?, layer: word(36)? };
        let mark = Self { next_due_s: long(8)?, ended_s: long(16)?, at: (word(40)? & 1 == 1).then_some(at) };
        (mark.encode()[..] == *bytes).then_some(mark)
    }

    /// Nothing but time hangs on it: what cannot be read begins anew.
    pub(crate) fn read<V: Vfs>(vfs: &V) -> io::Result<Self> {
        match read_file(vfs, NAME) {
            Ok(bytes) => Ok(Self::decode(&bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }
}

/// A piece of the disk to check, or the mark to write.
pub struct ScrubJob<V: Vfs> {
    vfs: V,
    /// The layer.
    pub key: LayerKey,
    /// Where it begins.
    pub block: u16,
    mark: Option<ScrubMark>,
    /// Where the next job goes on; none: the layer is through.
    pub next: Option<u16>,
    /// Blocks that do not look right.
    pub suspects: Vec<u16>,
    /// The layer takes more room than it needs: a crash came before that was given back.
    pub takes_too_much: bool,
    /// Bytes read.
    pub bytes: u64,
}

impl<V: Vfs> Store<V> {
    /// How far the scrubber is.
    #[must_use]
    pub fn scrub_mark(&self) -> ScrubMark {
        self.scrub
    }

    /// Note how far the scrubber is; the job makes it outlive a restart, and can be left out.
    pub fn set_scrub_mark(&mut self, mark: ScrubMark) -> ScrubJob<V> {
        self.scrub = mark;
        ScrubJob {
            mark: Some(mark),
            ..self.scrub_job(mark.at.unwrap_or(LayerKey { volume: 0, chunk: 0, layer: 0 }), 0)
        }
    }

    /// A job that checks a piece of a layer.
    #[must_use]
    pub fn scrub_job(&self, key: LayerKey, block: u16) -> ScrubJob<V> {
        let vfs = self.vfs.clone();
        ScrubJob { vfs, key, block, mark: None, next: None, suspects: Vec::new(), takes_too_much: false, bytes: 0 }
    }

    /// The first layer with files at `from` or behind it, in the order of the disk's table.
    #[must_use]
    pub fn layer_from(&self, from: LayerKey) -> Option<LayerKey> {
        let mut chunks = self.chunks.range((from.volume, from.chunk)..);
        chunks.find_map(|((volume, index), chunk)| {
            let first = if (*volume, *index) == (from.volume, from.chunk) { from.layer } else { 0 };
            let layer = chunk.layers.iter().find(|layer| layer.on_disk && layer.id >= first)?;
            Some(LayerKey { volume: *volume, chunk: *index, layer: layer.id })
        })
    }

    /// Bytes of all chunk files before this layer, and of all.
    #[must_use]
    pub fn scrub_progress(&self, at: LayerKey) -> (u64, u64) {
        let (mut before, mut all) = (0, 0);
        for ((volume, index), chunk) in &self.chunks {
            for layer in &chunk.layers {
                all += layer.allocated_bytes;
                let key = LayerKey { volume: *volume, chunk: *index, layer: layer.id };
                before += if key < at { layer.allocated_bytes } else { 0 };
            }
        }
        (before, all)
    }

    /// Look at a suspected block again; true if it is damaged, which is noted then.
    pub fn confirm_damage(&mut self, key: &LayerKey, block: u16) -> bool {
        let layer = self.chunks.get(&(key.volume, key.chunk)).and_then(|chunk| chunk.layer(key.layer));
        // What the journal has newer will be written over it.
        let Some(_) = layer.filter(|layer| layer.on_disk && layer.overlay.range(block, 1).next().is_none()) else {
            return false;
        };
        let handles = self.files.get(&self.vfs, key);
        let stored = handles.and_then(|handles| Ok((read_slots(&handles, key, block, 1)?[0], handles)));
        let damaged = match stored {
            Ok((stored, handles)) => !is_right(&*handles, stored, block),
            Err(_) => true,
        };
        let damaged = damaged && !mutant::is("the scrubber sees nothing");
        if damaged {
            self.mark_damaged(*key, block);
        }
        damaged
    }
}

fn is_right<V: Vfs>(handles: &Handles<V>, stored: Stored, block: u16) -> bool {
    let mut bytes = vec![0; BLOCK_BYTES];
    match stored.slot {
        Slot::Lost => false,
        Slot::Entry(entry) if entry.state != BlockState::Data => true,
        Slot::Entry(entry) => {
            // What is missing behind the file's end is zeros.
            handles.data.read_at(&mut bytes, stored.half.offset(block)).is_ok() && block_crc(&bytes) == entry.crc
        }
    }
}

impl<V: Vfs> ScrubJob<V> {
    /// Is it only the mark that is written?
    #[must_use]
    pub fn is_mark(&self) -> bool {
        self.mark.is_some()
    }

    /// Do all of it.
    ///
    /// # Errors
    /// The layer's files cannot be opened, or the mark cannot be written.
    pub fn run(&mut self) -> io::Result<()> {
        if let Some(mark) = &self.mark {
            return replace_file(&self.vfs, "", NAME, &mark.encode());
        }
        let handles = match Handles::open(&self.vfs, &self.key) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut checked = 0;
        let mut block = self.block;
        while block < CHUNK_BLOCKS_U16 && checked < JOB_BLOCKS {
            let blocks = WINDOW_BLOCKS.min(CHUNK_BLOCKS_U16 - block);
            let stored = match read_slots(&handles, &self.key, block, blocks) {
                Ok(stored) => stored,
                Err(_) => vec![Stored::LOST; blocks.into()],
            };
            self.bytes += u64::from(blocks) * 24;
            let has_data =
                |stored: &Stored| matches!(stored.slot, Slot::Entry(entry) if entry.state == BlockState::Data);
            let all: Vec<(u16, Stored)> = (block..).zip(stored).collect();
            let lost = all.iter().filter(|(_, stored)| stored.slot == Slot::Lost);
            self.suspects.extend(lost.map(|(block, _)| *block));
            let data: Vec<(u16, Stored)> = all.into_iter().filter(|(_, stored)| has_data(stored)).collect();
            let room = JOB_BLOCKS - checked;
            block = data.get(room).map_or(block + blocks, |(block, _)| *block);
            let data = &data[..data.len().min(room)];
            checked += data.len();
            for run in data.chunk_by(|left, right| left.0 + 1 == right.0 && left.1.half == right.1.half) {
                self.check(&handles, run);
            }
        }
        // A block at the window's end that was not reached is looked at again; a suspect twice is one.
        self.suspects.retain(|suspect| *suspect < block);
        self.next = (block < CHUNK_BLOCKS_U16).then_some(block);
        // What cannot be read is suspected already.
        self.takes_too_much = self.next.is_none() && takes_too_much(&handles, &self.key).unwrap_or(false);
        Ok(())
    }

    fn check(&mut self, handles: &Handles<V>, run: &[(u16, Stored)]) {
        let mut bytes = vec![0; run.len() * BLOCK_BYTES];
        self.bytes += bytes.len() as u64;
        let (first, stored) = run[0];
        if handles.data.read_at(&mut bytes, stored.half.offset(first)).is_err() {
            // One of them cannot be read: the store tells which.
            self.suspects.extend(run.iter().map(|(block, _)| *block));
            return;
        }
        for ((block, stored), bytes) in run.iter().zip(bytes.chunks_exact(BLOCK_BYTES)) {
            let right = matches!(stored.slot, Slot::Entry(entry) if entry.crc == block_crc(bytes));
            if !right {
                self.suspects.push(*block);
            }
        }
    }
}

#[cfg(test)]
mod tests;
