//! Owner maps: for a chunk as of a layer, which layer has each block. A read costs the same at snapshot depth 3 and
//! 1,000. Only chunks with more layers than a direct walk is good for get one; the cache is bounded in bytes.

use std::collections::BTreeMap;

use yuntai_proto::{ChunkIndex, LayerId, VolumeId, BASE_LAYER, CHUNK_BLOCKS};

use crate::groups::LayerKey;

/// No layer has the block.
pub(crate) const NOBODY: LayerId = LayerId::MAX;
/// Bytes of one map.
const MAP_BYTES: usize = CHUNK_BLOCKS * size_of::<LayerId>();

struct Map {
    owners: Box<[LayerId]>,
    used: u64,
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
        let map = self.maps.get_mut(key)?;
        map.used = self.clock;
        Some(&map.owners)
    }

    pub(crate) fn insert(&mut self, key: LayerKey, owners: Box<[LayerId]>) {
        if self.maps.len() >= self.limit {
            let oldest = self.maps.iter().min_by_key(|(_, map)| map.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.maps.remove(&key));
        }
        self.clock += 1;
        self.maps.insert(key, Map { owners, used: self.clock });
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
