//! What nobody reads any more: volumes deleted, chunks dropped, layers that a sweep has emptied. Their files go with the
//! next checkpoint, once no table speaks of them.

use std::collections::BTreeSet;
use std::io;

use yuntai_proto::data::{ChunkState, Refusal};
use yuntai_proto::{ChunkIndex, VolumeId};

use crate::groups::LayerKey;
use crate::store::{refusal_of, Store};
use crate::superblock::VOLUMES;
use crate::vfs::Vfs;

/// Files that are to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doomed {
    pub(crate) volumes: BTreeSet<VolumeId>,
    /// Chunks that were dropped. Until a table without them is durable nothing of them may begin anew: after a crash
    /// it would stand on what was dropped.
    pub(crate) chunks: BTreeSet<(VolumeId, ChunkIndex)>,
    /// Layers whose files nobody needs.
    pub(crate) layers: BTreeSet<LayerKey>,
}

impl Doomed {
    pub(crate) fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.chunks.is_empty() && self.layers.is_empty()
    }

    /// These are gone.
    pub(crate) fn settle(&mut self, gone: &Self) {
        self.volumes.retain(|volume| !gone.volumes.contains(volume));
        self.chunks.retain(|chunk| !gone.chunks.contains(chunk));
        self.layers.retain(|layer| !gone.layers.contains(layer));
    }
}

fn key_of(volume: VolumeId, name: &str) -> Option<LayerKey> {
    let stem = name.strip_suffix(".data").or_else(|| name.strip_suffix(".entries"))?;
    let (chunk, layer) = stem.split_once('.')?;
    let number = |text: &str| u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 8);
    Some(LayerKey { volume, chunk: number(chunk)?, layer: number(layer)? })
}

impl<V: Vfs> Store<V> {
    /// Drop a volume and fence it for ever. Durable when it returns; its room comes back with a checkpoint.
    ///
    /// # Errors
    /// [`Refusal::Io`] or [`Refusal::Full`]; then nothing happened.
    pub fn delete_volume(&mut self, volume: VolumeId) -> Result<(), Refusal> {
        debug_assert!(self.is_settled(), "commit first");
        let known = self.fences.get(volume);
        if !known.deleted {
            let fence = crate::fences::Fence { deleted: true, ..known };
            self.fences.set(volume, fence).map_err(|error| refusal_of(&error))?;
        }
        let keys: Vec<_> = self.chunks.range((volume, 0)..=(volume, ChunkIndex::MAX)).map(|(key, _)| *key).collect();
        for key in keys {
            self.chunks.remove(&key);
        }
        self.owners.drop_volume(volume);
        self.files.retain(|key| key.volume != volume);
        self.in_place.retain(|key, _| key.volume != volume);
        self.doomed.volumes.insert(volume);
        self.drops += 1;
        Ok(())
    }

    /// Drop the replica of one chunk if it still stands as `known` says; true if it is not here now. A crash before the
    /// next checkpoint brings it back as it was.
    pub fn drop_chunk(&mut self, volume: VolumeId, known: &ChunkState) -> bool {
        debug_assert!(self.is_settled(), "commit first");
        let key = (volume, known.chunk);
        let Some(chunk) = self.chunks.get(&key) else { return true };
        if chunk.position != known.position || chunk.rebuilding != known.rebuilding {
            return false;
        }
        let with_files = chunk.layers.iter().filter(|layer| layer.has_files);
        let layers: Vec<LayerKey> =
            with_files.map(|layer| LayerKey { volume, chunk: known.chunk, layer: layer.id }).collect();
        self.doomed.layers.extend(layers);
        self.doomed.chunks.insert(key);
        self.drops += 1;
        self.chunks.remove(&key);
        self.owners.drop_chunk(volume, known.chunk);
        self.files.retain(|key| (key.volume, key.chunk) != (volume, known.chunk));
        self.in_place.retain(|key, _| (key.volume, key.chunk) != (volume, known.chunk));
        tracing::info!(volume = format!("{volume:016x}"), chunk = known.chunk, "replica dropped");
        true
    }

    /// Refused while a dropped replica of the chunk is still in the table.
    pub(crate) fn check_not_dropped(&self, volume: VolumeId, chunk: ChunkIndex) -> Result<(), Refusal> {
        if self.doomed.chunks.contains(&(volume, chunk)) {
            return Err(Refusal::Busy { message: "a dropped replica of the chunk is being cleared away".into() });
        }
        Ok(())
    }

    /// Is there something that only a checkpoint clears away?
    #[must_use]
    pub fn has_doomed(&self) -> bool {
        self.emptied || !self.doomed.is_empty()
    }

    /// Files of layers that nobody knows: a crash came between a table and the removal.
    pub(crate) fn strays(&self) -> io::Result<BTreeSet<LayerKey>> {
        let mut strays = BTreeSet::new();
        for folder in self.vfs.list(VOLUMES)? {
            let Ok(volume) = u64::from_str_radix(&folder, 16) else { continue };
            if self.doomed.volumes.contains(&volume) {
                continue;
            }
            let known = |key: &LayerKey| {
                let chunk = self.chunks.get(&(volume, key.chunk));
                chunk.and_then(|chunk| chunk.layer(key.layer)).is_some_and(|layer| layer.has_files)
            };
            let names = self.vfs.list(&LayerKey::folder(volume))?;
            strays.extend(names.iter().filter_map(|name| key_of(volume, name)).filter(|key| !known(key)));
        }
        Ok(strays)
    }
}

#[cfg(test)]
mod tests;
