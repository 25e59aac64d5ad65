//! Looking through all of a chunk's layers without holding anybody up: a view is taken of what the journal has, the
//! entry files are read by a job that may run on another thread, and what comes out says of which moment it is.
//!
//! A checkpoint may rewrite the files meanwhile. What is read may then be older than the view, never newer than the end
//! of the job. That is enough: outside a rebuild blocks only come, except those that a sweep takes out, and nobody reads these.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use yuntai_proto::control::{ChangedRange, LayerUsage};
use yuntai_proto::{BlockEntry, BlockState, ChunkIndex, LayerId, VolumeId, CHUNK_BLOCKS};

use crate::groups::{self, LayerKey, Slot, GROUP_BYTES, GROUP_ENTRIES};
use crate::owners::NOBODY;
use crate::read::{CHUNK_BLOCKS_U16, GROUP_TRIES};
use crate::readers::{self, Freed, Presence, Question};
use crate::store::Store;
use crate::vfs::{Vfs, VfsFile};

/// What a scan is for.
#[derive(Clone, Debug)]
pub enum Search {
    /// Blocks that no live layer shows.
    Free(Arc<Question>),
    /// What layers take and show.
    Account(Arc<Question>),
    /// What differs between two layers.
    Changes {
        /// The tree.
        question: Arc<Question>,
        /// Before; none: an empty disk.
        since: Option<LayerId>,
        /// Now.
        node: LayerId,
    },
    /// Which of these layers has each block; they are in descending order, and the first that has it counts.
    Owners(Vec<LayerId>),
}

/// What a scan found.
#[derive(Clone, Debug)]
pub enum Found {
    /// Still looking.
    Nothing,
    /// To [`Search::Free`].
    Free(Vec<Freed>),
    /// To [`Search::Account`].
    Account(Vec<LayerUsage>),
    /// To [`Search::Changes`]; or the block whose entry is lost here.
    Changes(Result<Vec<ChangedRange>, u16>),
    /// To [`Search::Owners`].
    Owners(Box<[LayerId]>),
}

/// Of which moment something is known of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The volume.
    pub volume: VolumeId,
    /// The chunk.
    pub chunk: ChunkIndex,
    rebuilds: u32,
    drops: u64,
}

/// One layer as the journal has it, and whether there is more of it in files.
struct LayerView {
    key: LayerKey,
    on_disk: bool,
    overlay: Vec<(u16, u16, BlockState)>,
}

/// One chunk being looked through.
pub struct ScanJob<V: Vfs> {
    vfs: V,
    /// What it is about.
    pub stamp: Stamp,
    search: Search,
    todo: VecDeque<LayerView>,
    seen: Vec<Presence>,
    /// What came out of it.
    pub found: Found,
    /// Bytes read.
    pub bytes: u64,
    buffer: Vec<u8>,
}

impl<V: Vfs> Store<V> {
    /// A job that looks through a chunk; `None` if it is not here, or is being rebuilt.
    #[must_use]
    pub fn scan(&self, volume: VolumeId, chunk: ChunkIndex, search: Search) -> Option<ScanJob<V>> {
        let state = self.chunks.get(&(volume, chunk)).filter(|state| !state.rebuilding)?;
        let wanted = |layer: &LayerId| match &search {
            // In descending order.
            Search::Owners(candidates) => candidates.binary_search_by(|of| layer.cmp(of)).is_ok(),
            _ => true,
        };
        let layers = state.layers.iter().filter(|layer| wanted(&layer.id));
        let view = |layer: &crate::chunk::Layer| LayerView {
            key: LayerKey { volume, chunk, layer: layer.id },
            on_disk: layer.on_disk,
            overlay: layer.overlay.iter().map(|(block, run)| (block, run.blocks, run.entry(0).state)).collect(),
        };
        Some(ScanJob {
            vfs: self.vfs.clone(),
            stamp: Stamp { volume, chunk, rebuilds: state.rebuilds, drops: self.drops },
            todo: layers.map(view).collect(),
            search,
            seen: Vec::new(),
            found: Found::Nothing,
            bytes: 0,
            buffer: Vec::new(),
        })
    }

    /// Does what was learnt then still hold?
    #[must_use]
    pub fn still_holds(&self, stamp: &Stamp) -> bool {
        let chunk = self.chunks.get(&(stamp.volume, stamp.chunk));
        self.drops == stamp.drops && chunk.is_some_and(|chunk| !chunk.rebuilding && chunk.rebuilds == stamp.rebuilds)
    }
}

impl<V: Vfs> ScanJob<V> {
    /// Does it look for what this question asks?
    #[must_use]
    pub fn is_for(&self, asked: &Arc<Question>) -> bool {
        match &self.search {
            Search::Free(question) | Search::Account(question) | Search::Changes { question, .. } => {
                Arc::ptr_eq(question, asked)
            }
            Search::Owners(_) => false,
        }
    }

    /// Does it count?
    #[must_use]
    pub fn is_account(&self) -> bool {
        matches!(self.search, Search::Account(_))
    }

    /// Look through the next layer; true when all is found.
    ///
    /// # Errors
    /// What the system says; drop the job then.
    pub fn step(&mut self) -> io::Result<bool> {
        if let Some(view) = self.todo.pop_front() {
            let presence = self.look(&view)?;
            self.seen.push(presence);
            return Ok(false);
        }
        let seen = std::mem::take(&mut self.seen);
        self.found = match &self.search {
            Search::Free(question) => Found::Free(readers::free(question, &seen)),
            Search::Account(question) => Found::Account(readers::account(question, &seen)),
            Search::Changes { question, since, node } => {
                Found::Changes(readers::changes(question, &seen, self.stamp.chunk, (*since, *node)))
            }
            Search::Owners(candidates) => Found::Owners(owners_of(candidates, &seen)),
        };
        Ok(true)
    }

    fn look(&mut self, view: &LayerView) -> io::Result<Presence> {
        let mut presence = Presence { layer: view.key.layer, ..Presence::default() };
        if view.on_disk {
            self.look_into_files(&view.key, &mut presence)?;
        }
        for (first, blocks, state) in &view.overlay {
            for block in *first..first + blocks {
                note(&mut presence, block, Slot::Entry(BlockEntry { state: *state, ..BlockEntry::default() }));
            }
        }
        Ok(presence)
    }

    fn look_into_files(&mut self, key: &LayerKey, presence: &mut Presence) -> io::Result<()> {
        let file = match self.vfs.open(&key.entries_path()) {
            // Emptied by a sweep and cleared away since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        self.buffer.resize(CHUNK_BLOCKS.div_ceil(GROUP_ENTRIES) * GROUP_BYTES, 0);
        let read = file.read_at(&mut self.buffer, 0)?;
        self.bytes += read as u64;
        self.buffer[read..].fill(0);
        for (number, raw) in self.buffer.chunks_exact_mut(GROUP_BYTES).enumerate() {
            if raw.iter().all(|byte| *byte == 0) {
                continue;
            }
            let mut group = groups::decode(key, number, raw.first_chunk().expect("a group's length"));
            for _ in 1..GROUP_TRIES {
                if group.is_some() {
                    break;
                }
                // A checkpoint may just be writing it.
                std::thread::yield_now();
                file.read_at(raw, (number * GROUP_BYTES) as u64)?;
                group = groups::decode(key, number, raw.first_chunk().expect("a group's length"));
            }
            let slot = |index: usize| group.as_ref().map_or(Slot::Lost, |group| group[index].slot);
            for (index, block) in (number * GROUP_ENTRIES..CHUNK_BLOCKS).take(GROUP_ENTRIES).enumerate() {
                #[allow(clippy::cast_possible_truncation, reason = "below 16,384")]
                note(presence, block as u16, slot(index));
            }
        }
        Ok(())
    }
}

fn note(presence: &mut Presence, block: u16, slot: Slot) {
    let (there, known, data) = match slot {
        Slot::Lost => (true, false, false),
        Slot::Entry(BlockEntry { state: BlockState::Absent, .. }) => (false, false, false),
        Slot::Entry(BlockEntry { state, .. }) => (true, true, state == BlockState::Data),
    };
    let of = [(&mut presence.there, there), (&mut presence.known, known), (&mut presence.data, data)];
    for (bits, set) in of {
        if set {
            bits.set(block);
        } else {
            bits.clear(block);
        }
    }
}

fn owners_of(candidates: &[LayerId], seen: &[Presence]) -> Box<[LayerId]> {
    let mut owners = vec![NOBODY; CHUNK_BLOCKS].into_boxed_slice();
    for layer in candidates {
        let Ok(at) = seen.binary_search_by_key(layer, |presence| presence.layer) else { continue };
        for block in seen[at].there.blocks().filter(|block| *block < CHUNK_BLOCKS_U16) {
            let owner = &mut owners[block as usize];
            if *owner == NOBODY {
                *owner = *layer;
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests;
