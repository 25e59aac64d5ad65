//! Writing in place: large data goes straight to the half of the data file that is not in use.

use std::io;
use std::sync::Arc;

use yuntai_proto::{mutant, BLOCK_BYTES};

use crate::files::Handles;
use crate::groups::{Half, LayerKey, Slot};
use crate::journal::InPlace;
use crate::read::read_slots;
use crate::record::{Header, Kind};
use crate::store::Store;
use crate::vfs::Vfs;

/// A record whose data goes straight to the data file.
pub(crate) struct Placing<V: Vfs> {
    pub(crate) handles: Arc<Handles<V>>,
    pub(crate) half: Half,
    pub(crate) is_new: bool,
}

impl<V: Vfs> Store<V> {
    /// Can the data of this record go straight to the data file? Only to the half that is not in use, and only if no
    /// record that a replay may meet has its data there already.
    pub(crate) fn place(
        &mut self,
        kind: Kind,
        key: &LayerKey,
        (block, blocks): (u16, u16),
        bytes: usize,
    ) -> Option<Placing<V>> {
        let whole = bytes == blocks as usize * BLOCK_BYTES && matches!(kind, Kind::Write | Kind::Fill | Kind::Pulled);
        if !whole || blocks < self.options.in_place_blocks_min {
            return None;
        }
        // A checkpoint may be about to remove files of this name, or to free what is not in use.
        if self.doomed.layers.contains(key) || self.spares.is_giving(key) {
            return None;
        }
        let layer = self.chunks.entry((key.volume, key.chunk)).or_default().layer_mut(key.layer);
        let mut span = block..block + blocks;
        if span.clone().any(|block| layer.is_placed_now(block)) {
            self.detoured_bytes += bytes as u64;
            return None;
        }
        let taken = span.any(|block| layer.is_placed(block))
            || (layer.is_moving(block, blocks) && !mutant::is("what a checkpoint moves is written in place"));
        let (has_files, on_disk) = (layer.has_files, layer.on_disk);
        // A running checkpoint makes the files of new layers itself.
        if taken || (!has_files && self.checkpointing) {
            return None;
        }
        let half = if on_disk { self.free_half(key, block, blocks)? } else { Half::Second };
        let handles = self.files_for_placing(key, has_files);
        let handles = handles.map_err(|error| tracing::warn!(%error, "not in place, but through the journal")).ok()?;
        let layer = self.chunks.get_mut(&(key.volume, key.chunk))?.layer_mut(key.layer);
        layer.has_files = true;
        layer.place(block, blocks, half);
        // Until a checkpoint is through nothing else has made the file's name durable.
        Some(Placing { handles, half, is_new: !on_disk })
    }

    /// The half that none of these blocks uses, if it is the same for all.
    fn free_half(&mut self, key: &LayerKey, block: u16, blocks: u16) -> Option<Half> {
        let handles = self.files.get(&self.vfs, key).ok()?;
        let stored = read_slots(&handles, key, block, blocks).ok()?;
        let half = stored[0].half;
        stored.iter().all(|stored| stored.half == half && stored.slot != Slot::Lost).then(|| half.other())
    }

    fn files_for_placing(&mut self, key: &LayerKey, has_files: bool) -> io::Result<Arc<Handles<V>>> {
        if !has_files {
            self.vfs.create_dir(&LayerKey::folder(key.volume))?;
            Handles::create(&self.vfs, key)?;
        }
        self.files.get(&self.vfs, key)
    }

    /// The next sync must cover a data file.
    pub(crate) fn note_in_place(&mut self, header: &Header, placing: &Placing<V>) {
        let key = LayerKey { volume: header.volume, chunk: header.chunk, layer: header.layer };
        self.in_place_bytes += u64::from(header.blocks) * BLOCK_BYTES as u64;
        let noted = self.in_place.entry(key).or_insert_with(|| InPlace {
            lsn: header.lsn,
            handles: Arc::clone(&placing.handles),
            is_new: placing.is_new,
        });
        noted.lsn = header.lsn;
        noted.is_new |= placing.is_new;
    }
}
