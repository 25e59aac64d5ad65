//! Freeing what no live layer shows. A block goes by a record of the journal, like everything else: it cannot get ahead of
//! the write that covers it, as that record stands before it. The room comes back with the checkpoint.

use bytes::Bytes;
use yuntai_proto::data::Refusal;
use yuntai_proto::{BlockEntry, BASE_LAYER};

use crate::groups::LayerKey;
use crate::overlay::Source;
use crate::scan::Stamp;
use crate::store::Store;
use crate::vfs::Vfs;

/// Most blocks of one record.
pub const REMOVED_BLOCKS_MAX: u16 = 1024;

impl<V: Vfs> Store<V> {
    /// Take blocks out of a layer, at most [`REMOVED_BLOCKS_MAX`]. Staged.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if the journal has no room, or the chunk is not what it was at `stamp`.
    pub fn remove_blocks(&mut self, stamp: &Stamp, layer: u32, (block, blocks): (u16, u16)) -> Result<(), Refusal> {
        let busy = |message: &str| Err(Refusal::Busy { message: message.into() });
        if self.journal_full() {
            return busy("the journal is full until a checkpoint is through");
        }
        if !self.still_holds(stamp) {
            return busy("the chunk was rebuilt meanwhile");
        }
        let key = LayerKey { volume: stamp.volume, chunk: stamp.chunk, layer };
        self.stage_pulled(&key, block, &vec![BlockEntry::default(); blocks.into()], Bytes::new());
        Ok(())
    }

    /// Everything that the layer had at `stamp` was taken out: its files may go. Not of the layer that fills go to.
    pub fn mark_emptied(&mut self, stamp: &Stamp, layer: u32) {
        if layer == BASE_LAYER || !self.still_holds(stamp) {
            return;
        }
        let Some(chunk) = self.chunks.get_mut(&(stamp.volume, stamp.chunk)) else { return };
        let Ok(at) = chunk.layers.binary_search_by_key(&layer, |layer| layer.id) else { return };
        let layer = &mut chunk.layers[at];
        layer.emptied = layer.overlay.iter().all(|(_, run)| matches!(run.source, Source::Absent));
        self.emptied |= layer.emptied && layer.overlay.is_empty();
    }

    /// Layers that a sweep has emptied, and of which the journal has nothing any more, are forgotten.
    pub(crate) fn forget_emptied(&mut self) {
        if !std::mem::take(&mut self.emptied) {
            return;
        }
        for ((volume, index), chunk) in &mut self.chunks {
            let gone = |layer: &crate::chunk::Layer| layer.emptied && layer.overlay.is_empty();
            for layer in chunk.layers.iter().filter(|layer| gone(layer)) {
                let key = LayerKey { volume: *volume, chunk: *index, layer: layer.id };
                self.doomed.layers.insert(key);
                self.in_place.remove(&key);
                self.files.retain(|held| *held != key);
            }
            chunk.layers.retain(|layer| !gone(layer));
        }
    }
}

#[cfg(test)]
mod tests;
