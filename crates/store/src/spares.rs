//! Room that is kept for the next large write: the halves of data files that are not in use.
//!
//! Every write in place frees the half that its blocks had before. To give that back to the file system with every
//! checkpoint, and to ask for it again with the next write, costs a large sequential writer a third of its speed and its
//! longest waits: ext4 lets nobody write to a file for the 20 ms that it takes to free 64 MiB of it, and new room has to be
//! found and marked as written. So a layer keeps both halves while it is written. They are given back when nothing
//! was written in place for a while, when too many layers keep some, when the disk has little room left, and at the end
//! of the process, always by a checkpoint, and never by halves: the layer's entries say what is needed, and all else goes.
//!
//! Which layers keep room is known in memory only. What a crash leaves behind is found by the scrubber
//! ([`takes_too_much`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use yuntai_proto::{mutant, BlockState, BLOCK_BYTES, CHUNK_BYTES};

use crate::files::Handles;
use crate::groups::{Half, LayerKey, Slot, Stored};
use crate::read::{read_slots, CHUNK_BLOCKS_U16};
use crate::store::Store;
use crate::vfs::{Vfs, VfsFile};

/// A layer keeps its room until its age was raised so often without a write in place.
const AGE_MAX: u8 = 3;
/// At most this part of the room that is left is kept.
const FREE_SHARE: u64 = 8;
/// Freed in one call: readers of the file wait for its end.
const PIECE_BLOCKS: u16 = 1024;
/// Extents and entries take some room beside the blocks: below this nothing is missed.
const SLACK_BYTES: u64 = 1 << 20;

/// The layers that keep room.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    /// And how often they have aged since they were written in place.
    ages: BTreeMap<LayerKey, u8>,
    /// Those whose room the checkpoint that is running gives back.
    giving: BTreeSet<LayerKey>,
}

impl Spares {
    /// This layer may have room to spare.
    pub(crate) fn keep(&mut self, key: LayerKey) {
        self.ages.insert(key, 0);
    }

    /// Nothing may be written in place there now.
    pub(crate) fn is_giving(&self, key: &LayerKey) -> bool {
        self.giving.contains(key)
    }

    /// The oldest of those that are more than `limit`, and all whose time is over.
    fn due(&self, limit: usize) -> Vec<LayerKey> {
        let mut by_age: Vec<(u8, LayerKey)> = self.ages.iter().map(|(key, age)| (*age, *key)).collect();
        by_age.sort_unstable();
        let kept = by_age.partition_point(|(age, _)| *age < AGE_MAX).min(limit);
        by_age.split_off(kept).into_iter().map(|(_, key)| key).collect()
    }
}

impl<V: Vfs> Store<V> {
    /// Some time has passed, the same between calls.
    pub fn age_spares(&mut self) {
        self.spares.ages.values_mut().for_each(|age| *age = age.saturating_add(1));
    }

    /// There is room to give back, which a checkpoint does.
    #[must_use]
    pub fn has_spares_due(&self) -> bool {
        let limit = self.spare_limit();
        self.spares.ages.len() > limit || self.spares.ages.values().any(|age| *age >= AGE_MAX)
    }

    /// The next checkpoint gives back all of it.
    pub fn keep_no_spares(&mut self) {
        self.options.spare_layers_max = 0;
    }

    fn spare_limit(&self) -> usize {
        let room = self.space.free_bytes / FREE_SHARE / CHUNK_BYTES;
        usize::try_from(room).unwrap_or(usize::MAX).min(self.options.spare_layers_max)
    }

    /// Choose the layers whose room this checkpoint gives back. Until it is over they are not written in place.
    pub(crate) fn begin_giving(&mut self) -> BTreeSet<LayerKey> {
        let (chunks, doomed) = (&self.chunks, &self.doomed);
        let is_here = |key: &LayerKey| {
            let chunk = chunks.get(&(key.volume, key.chunk)).filter(|_| !doomed.layers.contains(key));
            chunk.and_then(|chunk| chunk.layer(key.layer)).is_some_and(|layer| layer.has_files)
        };
        self.spares.ages.retain(|key, _| is_here(key));
        self.spares.giving = self.spares.due(self.spare_limit()).into_iter().collect();
        self.spares.giving.clone()
    }

    /// The checkpoint is over; it gave back these, and what the files take now.
    pub(crate) fn end_giving(&mut self, given: &[(LayerKey, u64)]) {
        for key in std::mem::take(&mut self.spares.giving) {
            // Where giving back failed, the scrubber will come by.
            self.spares.ages.remove(&key);
        }
        for (key, allocated_bytes) in given {
            if let Some(chunk) = self.chunks.get_mut(&(key.volume, key.chunk)) {
                chunk.layer_mut(key.layer).allocated_bytes = *allocated_bytes;
            }
        }
    }

    /// Nothing was given back.
    pub(crate) fn abandon_giving(&mut self) {
        self.spares.giving.clear();
    }

    /// Somebody saw that a layer's files take more room than it needs.
    pub fn note_spare(&mut self, key: LayerKey) {
        self.spares.ages.entry(key).or_insert(0);
    }
}

fn has_data(stored: &Stored) -> bool {
    matches!(stored.slot, Slot::Entry(entry) if entry.state == BlockState::Data)
}

/// May a block's place in a half go? Of a block that is lost both stay as they are, for whoever looks into it.
fn is_free(stored: &Stored, half: Half) -> bool {
    let is_other = stored.half != half || mutant::is("room that is in use is given back");
    stored.slot != Slot::Lost && (is_other || !has_data(stored))
}

/// Free what the layer's entries do not need, and say what its files take then. The entries must be durable, and
/// nothing written in place since they were.
///
/// # Errors
/// What the system says; then more or less of it is still there.
pub(crate) fn give_back<V: Vfs>(vfs: &V, key: &LayerKey) -> io::Result<u64> {
    let handles = Handles::open(vfs, key)?;
    let stored = read_slots(&handles, key, 0, CHUNK_BLOCKS_U16)?;
    for half in [Half::First, Half::Second] {
        let mut first = 0;
        for run in stored.chunk_by(|left, right| is_free(left, half) == is_free(right, half)) {
            #[allow(clippy::cast_possible_truncation, reason = "blocks of a chunk")]
            let end = first + run.len() as u16;
            if is_free(&run[0], half) {
                punch(&handles, half, first, end)?;
            }
            first = end;
        }
    }
    Ok(handles.data.allocated_bytes()? + handles.entries.allocated_bytes()?)
}

fn punch<V: Vfs>(handles: &Handles<V>, half: Half, first: u16, end: u16) -> io::Result<()> {
    for block in (first..end).step_by(PIECE_BLOCKS.into()) {
        let blocks = PIECE_BLOCKS.min(end - block);
        handles.data.punch(half.offset(block), u64::from(blocks) * BLOCK_BYTES as u64)?;
    }
    Ok(())
}

/// Does the data file take clearly more room than its entries say?
pub(crate) fn takes_too_much<V: Vfs>(handles: &Handles<V>, key: &LayerKey) -> io::Result<bool> {
    let stored = read_slots(handles, key, 0, CHUNK_BLOCKS_U16)?;
    let needed = stored.iter().filter(|stored| has_data(stored) || stored.slot == Slot::Lost).count() * BLOCK_BYTES;
    Ok(handles.data.allocated_bytes()? > needed as u64 + SLACK_BYTES)
}

#[cfg(test)]
pub(crate) mod tests;
