//! Who reads which block: over a chunk's layers, worked out from bitmaps alone. What nobody reads is freed, what one
//! live layer alone reads is its own, and where two layers read differs what they show.
//!
//! A layer's block is read by the layer itself if it is live, and by whoever reads it in a child that has nothing of its
//! own there. Children have higher numbers than parents, so one pass from the highest layer down settles all. A block
//! whose entry is lost covers nothing: what is below it may be what is shown.

use yuntai_proto::control::{ChangedRange, LayerUsage};
use yuntai_proto::{ChunkIndex, LayerId, BLOCK_BYTES, CHUNK_BLOCKS};

use crate::chunk::Bits;
use crate::owners::NOBODY;
use crate::read::CHUNK_BLOCKS_U16;

/// More than one live layer reads the block.
const MANY: LayerId = LayerId::MAX - 1;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// A volume's layers, and those that somebody may read as of or write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub(crate) parents: Vec<LayerId>,
    pub(crate) live: Vec<bool>,
}

impl Question {
    /// `None` if the tree is none, or a live layer is not in it.
    #[must_use]
    pub fn new(parents: &[LayerId], live: &[LayerId]) -> Option<Self> {
        crate::LayerTree::new(parents)?;
        let mut of = vec![false; parents.len()];
        for layer in live {
            *of.get_mut(*layer as usize)? = true;
        }
        Some(Self { parents: parents.to_vec(), live: of })
    }

    /// Is the layer in the tree?
    #[must_use]
    pub fn has(&self, layer: LayerId) -> bool {
        (layer as usize) < self.parents.len()
    }
}

/// What a layer has of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Presence {
    pub(crate) layer: LayerId,
    /// Blocks of which there is an entry, or was one that is lost.
    pub(crate) there: Bits,
    /// Blocks whose entry is known.
    pub(crate) known: Bits,
    /// Blocks with bytes.
    pub(crate) data: Bits,
}

/// Blocks of a layer that nobody reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    /// The layer.
    pub layer: LayerId,
    /// Runs: first block, how many.
    pub runs: Vec<(u16, u16)>,
    /// Bytes that they take.
    pub bytes: u64,
    /// Nothing of the layer is left here.
    pub all: bool,
}

/// The chunk's layers in the tree: which is the nearest to each layer, itself or above.
struct Family<'a> {
    question: &'a Question,
    present: &'a [Presence],
    /// Per layer of the tree the index of the nearest.
    near: Vec<Option<u32>>,
}

/// Per block the one live layer that reads it, [`NOBODY`] or [`MANY`].
type Readers = Box<[LayerId]>;

fn join(left: LayerId, right: LayerId) -> LayerId {
    match (left, right) {
        (NOBODY, one) | (one, NOBODY) => one,
        _ => MANY,
    }
}

impl<'a> Family<'a> {
    /// `present` is in order of layers. What is newer than the question is left alone: it hangs on live layers.
    fn new(question: &'a Question, present: &'a [Presence]) -> Self {
        let known = present.partition_point(|presence| question.has(presence.layer));
        let present = &present[..known];
        let mut near: Vec<Option<u32>> = Vec::with_capacity(question.parents.len());
        let mut next = present.iter().zip(0u32..).peekable();
        for (layer, parent) in (0..).zip(&question.parents) {
            let own = next.next_if(|(presence, _)| presence.layer == layer).map(|(_, index)| index);
            let above = near.get(*parent as usize).copied().flatten();
            near.push(own.or(above));
        }
        Self { question, present, near }
    }

    fn near(&self, layer: LayerId) -> Option<usize> {
        self.near[layer as usize].map(|index| index as usize)
    }

    /// The nearest above a layer that is here.
    fn above(&self, index: usize) -> Option<usize> {
        let layer = self.present[index].layer;
        if layer == 0 {
            return None;
        }
        self.near(self.question.parents[layer as usize])
    }

    /// Every layer with its blocks' readers, from the highest down.
    fn each(&self, mut settle: impl FnMut(&Presence, &[LayerId])) {
        // Live layers read as of what is nearest to them, all of it alike.
        let mut alike = vec![NOBODY; self.present.len()];
        for layer in (0..).zip(&self.question.live).filter(|(_, live)| **live).map(|(layer, _)| layer) {
            if let Some(index) = self.near(layer) {
                alike[index] = join(alike[index], layer);
            }
        }
        let mut waiting: Vec<Option<Readers>> = vec![None; self.present.len()];
        for index in (0..self.present.len()).rev() {
            let presence = &self.present[index];
            let nobody = || vec![NOBODY; CHUNK_BLOCKS].into_boxed_slice();
            let mut readers = waiting[index].take().unwrap_or_else(nobody);
            if alike[index] != NOBODY {
                readers.iter_mut().for_each(|reader| *reader = join(*reader, alike[index]));
            }
            settle(presence, &readers);
            let Some(above) = self.above(index) else { continue };
            for (block, reader) in (0..CHUNK_BLOCKS_U16).zip(readers.iter_mut()) {
                if presence.known.has(block) {
                    *reader = NOBODY;
                }
            }
            match &mut waiting[above] {
                Some(others) => others.iter_mut().zip(&readers).for_each(|(other, one)| *other = join(*other, *one)),
                none => *none = Some(readers),
            }
        }
    }

    /// Which of the layers here has each block as of a layer, and whether it has bytes.
    fn owners(&self, layer: LayerId) -> Vec<Option<usize>> {
        let mut owners = vec![None; CHUNK_BLOCKS];
        let mut open = Bits::default();
        (0..CHUNK_BLOCKS_U16).for_each(|block| open.set(block));
        let mut at = self.near(layer);
        while let Some(index) = at {
            let mut taken = self.present[index].there.clone();
            taken.combine(&open, |there, open| there & open);
            taken.blocks().for_each(|block| owners[block as usize] = Some(index));
            open.combine(&taken, |open, taken| open & !taken);
            at = self.above(index);
        }
        owners
    }
}

/// Blocks that no live layer shows.
pub(crate) fn free(question: &Question, present: &[Presence]) -> Vec<Freed> {
    let mut all = Vec::new();
    Family::new(question, present).each(|presence, readers| {
        if question.live[presence.layer as usize] {
            return;
        }
        let mut unread = Bits::default();
        let read_by_nobody = |block: &u16| readers[*block as usize] == NOBODY;
        presence.there.blocks().filter(read_by_nobody).for_each(|block| unread.set(block));
        let runs = unread.runs();
        if runs.is_empty() && presence.there.count() > 0 {
            return;
        }
        let all_of_it = unread == presence.there;
        unread.combine(&presence.data, |unread, data| unread & data);
        let bytes = u64::from(unread.count()) * BLOCK;
        all.push(Freed { layer: presence.layer, runs, bytes, all: all_of_it });
    });
    all
}

/// What each layer takes, and each live one shows.
pub(crate) fn account(question: &Question, present: &[Presence]) -> Vec<LayerUsage> {
    let family = Family::new(question, present);
    let mut usage: Vec<LayerUsage> =
        (0..).zip(&question.parents).map(|(layer, _)| LayerUsage { layer, ..LayerUsage::default() }).collect();
    family.each(|presence, readers| {
        usage[presence.layer as usize].bytes = u64::from(presence.data.count()) * BLOCK;
        for block in presence.data.blocks() {
            if let Some(of) = usage.get_mut(readers[block as usize] as usize) {
                of.exclusive_bytes += BLOCK;
            }
        }
    });
    let mut visible: Vec<Bits> = Vec::with_capacity(family.present.len());
    for (index, presence) in family.present.iter().enumerate() {
        let mut bits = family.above(index).map(|above| visible[above].clone()).unwrap_or_default();
        bits.combine(&presence.there, |above, there| above & !there);
        bits.combine(&presence.data, |above, data| above | data);
        visible.push(bits);
    }
    let counts: Vec<u64> = visible.iter().map(|bits| u64::from(bits.count()) * BLOCK).collect();
    for of in &mut usage {
        let near = family.near(of.layer).filter(|_| question.live[of.layer as usize]);
        of.visible_bytes = near.map_or(0, |index| counts[index]);
    }
    usage.retain(|of| of.bytes + of.exclusive_bytes + of.visible_bytes > 0);
    usage
}

/// Where two layers do not read from the same place; the block whose entry is lost, if one is met.
pub(crate) fn changes(
    question: &Question,
    present: &[Presence],
    chunk: ChunkIndex,
    (since, node): (Option<LayerId>, LayerId),
) -> Result<Vec<ChangedRange>, u16> {
    let family = Family::new(question, present);
    let now = family.owners(node);
    let before = since.map_or_else(|| vec![None; CHUNK_BLOCKS], |since| family.owners(since));
    let mut ranges: Vec<ChangedRange> = Vec::new();
    for ((block, now), before) in (0..).zip(now).zip(before) {
        let known = |owner: Option<usize>| owner.is_none_or(|index| family.present[index].known.has(block));
        if !known(now) || !known(before) {
            return Err(block);
        }
        if now == before {
            continue;
        }
        let data = now.is_some_and(|index| family.present[index].data.has(block));
        match ranges.last_mut() {
            Some(last) if last.block + last.blocks == block && last.data == data => last.blocks += 1,
            _ => ranges.push(ChangedRange { chunk, block, blocks: 1, data }),
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests;
