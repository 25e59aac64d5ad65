//! Open chunk files, the last used ones.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::groups::LayerKey;
use crate::vfs::Vfs;

/// The two files of one layer of one chunk.
pub(crate) struct Handles<V: Vfs> {
    pub(crate) data: V::File,
    pub(crate) entries: V::File,
}

impl<V: Vfs> Handles<V> {
    pub(crate) fn open(vfs: &V, key: &LayerKey) -> io::Result<Self> {
        Ok(Self { data: vfs.open(&key.data_path())?, entries: vfs.open(&key.entries_path())? })
    }

    /// New, empty ones; leftovers of a checkpoint that was cut short do not count.
    pub(crate) fn create(vfs: &V, key: &LayerKey) -> io::Result<Self> {
        Ok(Self { data: vfs.create(&key.data_path())?, entries: vfs.create(&key.entries_path())? })
    }
}

struct Held<V: Vfs> {
    handles: Arc<Handles<V>>,
    used: u64,
}

pub(crate) struct FileCache<V: Vfs> {
    held: BTreeMap<LayerKey, Held<V>>,
    /// When each was used last.
    uses: BTreeMap<u64, LayerKey>,
    clock: u64,
    limit: usize,
}

impl<V: Vfs> FileCache<V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { held: BTreeMap::new(), uses: BTreeMap::new(), clock: 0, limit: limit.max(1) }
    }

    pub(crate) fn get(&mut self, vfs: &V, key: &LayerKey) -> io::Result<Arc<Handles<V>>> {
        self.clock += 1;
        if let Some(held) = self.held.get_mut(key) {
            self.uses.remove(&held.used);
            self.uses.insert(self.clock, *key);
            held.used = self.clock;
            return Ok(Arc::clone(&held.handles));
        }
        let handles = Arc::new(Handles::open(vfs, key)?);
        while self.held.len() >= self.limit {
            let Some((_, oldest)) = self.uses.pop_first() else { break };
            self.held.remove(&oldest);
        }
        self.uses.insert(self.clock, *key);
        self.held.insert(*key, Held { handles: Arc::clone(&handles), used: self.clock });
        Ok(handles)
    }

    /// Close all others.
    pub(crate) fn retain(&mut self, keep: impl Fn(&LayerKey) -> bool) {
        self.held.retain(|key, _| keep(key));
        self.uses.retain(|_, key| keep(key));
    }
}
