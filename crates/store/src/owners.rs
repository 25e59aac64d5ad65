//! Owner maps: for a chunk as of a layer, which layer has each block. A read costs the same at snapshot depth 3 and
//! 1,000. Only chunks with more layers than a direct walk is good for get one; the cache is bounded in bytes.

use std::collections::BTreeMap;

use yuntai_proto::{ChunkIndex, LayerId, VolumeId, BASE_LAYER, CHUNK_BLOCKS};

use crate::groups::LayerKey;
use crate::scan::{ScanJob, Search};
use crate::store::Store;
use crate::tree::LayerTree;
use crate::vfs::Vfs;

/// No layer has the block.
pub(crate) const NOBODY: LayerId = LayerId::MAX;
/// Bytes of one map.
const MAP_BYTES: usize = CHUNK_BLOCKS * size_of::<LayerId>();
/// A map of at most so many layers is made while the reader waits.
const QUICK_LAYERS: usize = 16;

struct Map {
    owners: Box<[LayerId]>,
    used: u64,
    /// It is being made: what is here is only what came since that was begun.
    is_begun: bool,
}

/// The maps that are at hand.
pub(crate) struct OwnerCache {
    maps: BTreeMap<LayerKey, Map>,
    clock: u64,
    limit: usize,
}

fn of_chunk(volume: VolumeId, chunk: ChunkIndex) -> std::ops::RangeInclusive<LayerKey> {
    LayerKey { volume, chunk, layer: 0 }..=LayerKey { volume, chunk, layer: LayerId::MAX }
}

impl OwnerCache {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { maps: BTreeMap::new(), clock: 0, limit: (limit_bytes / MAP_BYTES).max(1) }
    }

    pub(crate) fn get(&mut self, key: &LayerKey) -> Option<&[LayerId]> {
        self.clock += 1;
        let map = self.maps.get_mut(key).filter(|map| !map.is_begun)?;
        map.used = self.clock;
        Some(&map.owners)
    }

    pub(crate) fn has(&self, key: &LayerKey) -> bool {
        self.maps.get(key).is_some_and(|map| !map.is_begun)
    }

    /// A map is being made, from what is there now. What comes meanwhile is noted.
    pub(crate) fn begin(&mut self, key: LayerKey) {
        self.insert(key, vec![NOBODY; CHUNK_BLOCKS].into_boxed_slice());
        self.maps.get_mut(&key).expect("just put").is_begun = true;
    }

    /// It is made, unless something came between that makes it doubtful.
    pub(crate) fn end(&mut self, key: &LayerKey, owners: &[LayerId]) {
        let Some(map) = self.maps.get_mut(key).filter(|map| map.is_begun) else { return };
        for (noted, owner) in map.owners.iter_mut().zip(owners) {
            // What the layer itself got since counts most, what the root got least.
            if *noted != key.layer && *owner != NOBODY {
                *noted = *owner;
            }
        }
        map.is_begun = false;
    }

    pub(crate) fn insert(&mut self, key: LayerKey, owners: Box<[LayerId]>) {
        if self.maps.len() >= self.limit {
            let oldest = self.maps.iter().min_by_key(|(_, map)| map.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.maps.remove(&key));
        }
        self.clock += 1;
        self.maps.insert(key, Map { owners, used: self.clock, is_begun: false });
    }

    /// The layer `key` now has these blocks.
    pub(crate) fn note(&mut self, key: &LayerKey, block: u16, blocks: u16) {
        if self.maps.is_empty() {
            return;
        }
        let range = block as usize..block as usize + blocks as usize;
        let mut doubtful = Vec::new();
        for (of, map) in self.maps.range_mut(of_chunk(key.volume, key.chunk)) {
            let owners = &mut map.owners[range.clone()];
            if of.layer == key.layer {
                owners.fill(key.layer);
            } else if key.layer == BASE_LAYER {
                // The root is everybody's furthest ancestor.
                owners.iter_mut().filter(|owner| **owner == NOBODY).for_each(|owner| *owner = BASE_LAYER);
            } else if of.layer > key.layer {
                // Perhaps an ancestor, perhaps a branch: a parent's number is below its child's.
                doubtful.push(*of);
            }
        }
        doubtful.iter().for_each(|key| {
            self.maps.remove(key);
        });
    }

    /// Blocks went away in this chunk.
    pub(crate) fn drop_chunk(&mut self, volume: VolumeId, chunk: ChunkIndex) {
        let keys: Vec<LayerKey> = self.maps.range(of_chunk(volume, chunk)).map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| {
            self.maps.remove(key);
        });
    }

    /// The volume went away.
    pub(crate) fn drop_volume(&mut self, volume: VolumeId) {
        self.maps.retain(|key, _| key.volume != volume);
    }
}

impl<V: Vfs> Store<V> {
    fn candidates<'a>(&'a self, key: &'a LayerKey, tree: &'a LayerTree) -> impl Iterator<Item = LayerId> + 'a {
        let layers = self.chunks.get(&(key.volume, key.chunk)).map_or(&[][..], |chunk| &chunk.layers);
        let ids = layers.iter().rev().map(|layer| layer.id);
        ids.filter(|id| *id <= key.layer && tree.is_ancestor(*id, key.layer))
    }

    /// Would a read as of this layer have to look through so many layers that others would notice? Then have a map made
    /// first: [`Store::scan_owners`].
    #[must_use]
    pub fn wants_owners(&self, key: &LayerKey, tree: &LayerTree) -> bool {
        let chunk = self.chunks.get(&(key.volume, key.chunk));
        let many = chunk.is_some_and(|chunk| chunk.layers.len() > QUICK_LAYERS && !chunk.rebuilding);
        if !many || key.layer as usize >= tree.len() || self.owners.has(key) {
            return false;
        }
        let mut candidates = self.candidates(key, tree);
        let near = candidates.by_ref().take(QUICK_LAYERS).any(|layer| self.owners.has(&LayerKey { layer, ..*key }));
        !near && candidates.next().is_some()
    }

    /// A job that makes a map for reads as of this layer; `None` if there is nothing to make one of.
    pub fn scan_owners(&mut self, key: &LayerKey, tree: &LayerTree) -> Option<ScanJob<V>> {
        if !self.wants_owners(key, tree) {
            return None;
        }
        let candidates = self.candidates(key, tree).collect();
        let job = self.scan(key.volume, key.chunk, Search::Owners(candidates))?;
        self.owners.begin(*key);
        Some(job)
    }

    /// The job is done.
    pub fn end_owners(&mut self, key: &LayerKey, owners: &[LayerId]) {
        self.owners.end(key, owners);
    }
}

#[cfg(test)]
mod tests;
