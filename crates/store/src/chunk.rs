//! What a store keeps in memory of one chunk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use yuntai_proto::{LayerId, Position, CHUNK_BLOCKS};

use crate::checkpoint::moves::Span;
use crate::groups::Half;
use crate::overlay::Overlay;
use crate::read::CHUNK_BLOCKS_U16;

/// One bit per block of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
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

    pub(crate) fn clear(&mut self, block: u16) {
        self.0[block as usize / 64] &= !(1 << (block % 64));
    }

    /// How many are set.
    pub(crate) fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Word by word, `change` of the own and the other's.
    pub(crate) fn combine(&mut self, other: &Self, change: impl Fn(u64, u64) -> u64) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, other)| *word = change(*word, *other));
    }

    /// The blocks that are set, in order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().zip((0u16..).step_by(64)).flat_map(|(word, first)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                #[allow(clippy::cast_possible_truncation, reason = "below 64")]
                let at = (rest != 0).then(|| rest.trailing_zeros() as u16)?;
                rest &= rest - 1;
                Some(first + at)
            })
        })
    }

    /// Runs of blocks that are set: (first, how many).
    pub(crate) fn runs(&self) -> Vec<(u16, u16)> {
        let mut runs: Vec<(u16, u16)> = Vec::new();
        for block in self.blocks() {
            match runs.last_mut() {
                Some((first, blocks)) if *first + *blocks == block => *blocks += 1,
                _ => runs.push((block, 1)),
            }
        }
        runs
    }
}

/// Blocks that were written in place since the last checkpoint. Until it is through, a replay wants to find exactly these
/// bytes there: nobody may write to that half of such a block, neither another write in place nor the checkpoint itself.
#[derive(Clone, Default)]
pub(crate) struct Placed {
    set: Bits,
    second: Bits,
}

impl Placed {
    pub(crate) fn half(&self, block: u16) -> Option<Half> {
        let half = if self.second.has(block) { Half::Second } else { Half::First };
        self.set.has(block).then_some(half)
    }

    pub(crate) fn put(&mut self, block: u16, half: Half) {
        self.set.set(block);
        match half {
            Half::First => self.second.clear(block),
            Half::Second => self.second.set(block),
        }
    }

    pub(crate) fn take(&mut self, block: u16) {
        self.set.clear(block);
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
    /// It has files, and their entries count, as of the last checkpoint.
    pub(crate) on_disk: bool,
    /// It has files, perhaps only for what was written in place.
    pub(crate) has_files: bool,
    /// Written in place, and not taken up by a checkpoint.
    pub(crate) placed: Option<Box<Placed>>,
    /// Written in place, and being taken up by the checkpoint that is running.
    pub(crate) placed_before: Option<Arc<Placed>>,
    /// What the checkpoint that is running may bring to the other half.
    pub(crate) moving: Vec<Span>,
    /// A sweep took out everything, and nothing was put since: the files go once the journal is empty of it.
    pub(crate) emptied: bool,
    /// What the files take.
    pub(crate) allocated_bytes: u64,
}

impl Layer {
    pub(crate) fn new(id: LayerId) -> Self {
        Self {
            id,
            overlay: Overlay::default(),
            on_disk: false,
            has_files: false,
            placed: None,
            placed_before: None,
            moving: Vec::new(),
            emptied: false,
            allocated_bytes: 0,
        }
    }

    /// Was the block written in place since the last checkpoint that is through?
    pub(crate) fn is_placed(&self, block: u16) -> bool {
        self.is_placed_now(block) || self.placed_before.as_deref().is_some_and(|placed| placed.half(block).is_some())
    }

    /// Since the last one began?
    pub(crate) fn is_placed_now(&self, block: u16) -> bool {
        self.placed.as_deref().is_some_and(|placed| placed.half(block).is_some())
    }

    /// May the checkpoint that is running bring any of these blocks to the other half?
    pub(crate) fn is_moving(&self, block: u16, blocks: u16) -> bool {
        self.moving.iter().any(|(first, count)| *first < block + blocks && block < first + count)
    }

    pub(crate) fn place(&mut self, block: u16, blocks: u16, half: Half) {
        let placed = self.placed.get_or_insert_with(Box::default);
        (block..block + blocks).for_each(|block| placed.put(block, half));
    }

    /// What a checkpoint had begun to take up is to be taken up by the next one.
    pub(crate) fn merge_placed(&mut self) {
        let Some(before) = self.placed_before.take() else { return };
        let placed = self.placed.get_or_insert_with(Box::default);
        for block in 0..CHUNK_BLOCKS_U16 {
            if let (Some(half), None) = (before.half(block), placed.half(block)) {
                placed.put(block, half);
            }
        }
    }
}

/// One chunk.
#[derive(Default)]
pub(crate) struct Chunk {
    pub(crate) position: Position,
    pub(crate) rebuilding: bool,
    /// In order of their numbers.
    pub(crate) layers: Vec<Layer>,
    pub(crate) session: Option<Box<Session>>,
    /// Rebuilds begun since the start: what was learnt of the chunk before one does not hold after it.
    pub(crate) rebuilds: u32,
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
                self.layers.insert(at, Layer::new(id));
                at
            }
        };
        &mut self.layers[at]
    }
}
