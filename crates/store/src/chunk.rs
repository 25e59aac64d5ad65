//! What a store keeps in memory of one chunk.

use std::collections::{BTreeMap, BTreeSet};

use yuntai_proto::{LayerId, Position, CHUNK_BLOCKS};

use crate::overlay::Overlay;

/// One bit per block of a chunk.
#[derive(Clone)]
pub(crate) struct Bits(Box<[u64; CHUNK_BLOCKS / 64]>);

impl Default for Bits {
    fn default() -> Self {
        Self(Box::new([0; CHUNK_BLOCKS / 64]))
    }
}

impl Bits {
    pub(crate) fn has(&self, block: u16) -> bool {
        self.0[block as usize / 64] >> (block % 64) & 1 == 1
    }

    pub(crate) fn set(&mut self, block: u16) {
        self.0[block as usize / 64] |= 1 << (block % 64);
    }
}

/// A rebuild that is going on: what the stream of new mutations has settled and a pull must leave alone. In memory only:
/// after a restart a rebuild begins again.
#[derive(Default)]
pub(crate) struct Session {
    /// The position before the stream's first mutation.
    pub(crate) begin: Position,
    /// Per layer the blocks that the stream wrote.
    pub(crate) written: BTreeMap<LayerId, Bits>,
    /// Layer 0: blocks that a fill of the stream wrote. The source may have had them already, from before the stream;
    /// then its entry counts.
    pub(crate) filled: Bits,
    /// Layer 0 was compared with the source: from now on presence here decides what a fill may touch.
    pub(crate) compared: bool,
}

impl Session {
    pub(crate) fn wrote(&self, layer: LayerId, block: u16) -> bool {
        self.written.get(&layer).is_some_and(|bits| bits.has(block))
    }

    pub(crate) fn note_written(&mut self, layer: LayerId, block: u16, blocks: u16) {
        let bits = self.written.entry(layer).or_default();
        (block..block + blocks).for_each(|block| bits.set(block));
    }
}

/// One layer of a chunk.
pub(crate) struct Layer {
    pub(crate) id: LayerId,
    /// What only the journal has.
    pub(crate) overlay: Overlay,
    /// It has files, as of the last checkpoint.
    pub(crate) on_disk: bool,
    /// What the files take.
    pub(crate) allocated_bytes: u64,
}

/// One chunk.
#[derive(Default)]
pub(crate) struct Chunk {
    pub(crate) position: Position,
    pub(crate) rebuilding: bool,
    /// In order of their numbers.
    pub(crate) layers: Vec<Layer>,
    pub(crate) session: Option<Box<Session>>,
    /// Blocks found damaged: a pull fetches them again.
    pub(crate) damaged: BTreeSet<(LayerId, u16)>,
}

impl Chunk {
    pub(crate) fn layer(&self, id: LayerId) -> Option<&Layer> {
        self.layers.binary_search_by_key(&id, |layer| layer.id).ok().map(|at| &self.layers[at])
    }

    pub(crate) fn layer_mut(&mut self, id: LayerId) -> &mut Layer {
        let at = match self.layers.binary_search_by_key(&id, |layer| layer.id) {
            Ok(at) => at,
            Err(at) => {
                let layer = Layer { id, overlay: Overlay::default(), on_disk: false, allocated_bytes: 0 };
                self.layers.insert(at, layer);
                at
            }
        };
        &mut self.layers[at]
    }
}
