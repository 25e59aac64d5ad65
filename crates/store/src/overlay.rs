//! What the journal has of one layer of one chunk and the chunk files have not: runs of blocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::groups::{Half, Slot};
use yuntai_proto::{BlockEntry, BlockState, Position, BLOCK_BYTES};

/// Checksums of a run's blocks: one in place, or a shared list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crcs {
    /// A run of one block.
    One(u32),
    /// A longer run, or what a cut left of one.
    Many(Arc<[u32]>, u16),
}

impl Crcs {
    fn from(&self, skip: u16) -> Self {
        match self {
            Self::Many(list, first) => Self::Many(Arc::clone(list), first + skip),
            one @ Self::One(_) => one.clone(),
        }
    }

    fn at(&self, index: u16) -> u32 {
        match self {
            Self::One(crc) => *crc,
            Self::Many(list, first) => list[*first as usize + index as usize],
        }
    }
}

/// Where a run's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// There is nothing any more (a rebuild removed it).
    Absent,
    /// Zeros.
    Zero,
    /// There was something, and nobody has it any more.
    Lost {
        /// What its checksum was, if anybody knew: then whoever comes back with it is known to have the right bytes.
        crc: Option<u32>,
    },
    /// In the data file already.
    InPlace {
        /// Which half.
        half: Half,
        /// Checksums.
        crcs: Crcs,
    },
    /// In the journal.
    Journal {
        /// Number of the segment.
        segment: u64,
        /// Offset of the run's first block in it.
        offset: u64,
        /// Checksums.
        crcs: Crcs,
    },
}

/// Neighbouring blocks that one record changed in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Blocks.
    pub blocks: u16,
    /// The record.
    pub lsn: u64,
    /// The mutation that the blocks are from.
    pub position: Position,
    /// The bytes.
    pub source: Source,
}

impl Run {
    /// The part of it from `skip` on, `blocks` long.
    #[must_use]
    pub fn part(&self, skip: u16, blocks: u16) -> Self {
        let source = match &self.source {
            Source::Journal { segment, offset, crcs } => Source::Journal {
                segment: *segment,
                offset: offset + u64::from(skip) * BLOCK_BYTES as u64,
                crcs: crcs.from(skip),
            },
            Source::InPlace { half, crcs } => Source::InPlace { half: *half, crcs: crcs.from(skip) },
            other => other.clone(),
        };
        Self { blocks, source, ..*self }
    }

    /// What it says of its block number `index`.
    #[must_use]
    pub fn slot(&self, index: u16) -> Slot {
        match self.source {
            Source::Lost { crc: None } => Slot::Lost,
            _ => Slot::Entry(self.entry(index)),
        }
    }

    /// The entry of its block number `index`; of one that is lost, as far as it is known.
    #[must_use]
    pub fn entry(&self, index: u16) -> BlockEntry {
        let (state, crc) = match &self.source {
            Source::Absent => return BlockEntry::default(),
            Source::Zero => (BlockState::Zero, 0),
            Source::Lost { crc } => (BlockState::Data, crc.unwrap_or_default()),
            Source::Journal { crcs, .. } | Source::InPlace { crcs, .. } => (BlockState::Data, crcs.at(index)),
        };
        BlockEntry { state, crc, position: self.position }
    }

    /// Segment and offset of its block number `index`, if its bytes are in the journal.
    #[must_use]
    pub fn place(&self, index: u16) -> Option<(u64, u64)> {
        match &self.source {
            Source::Journal { segment, offset, .. } => Some((*segment, offset + u64::from(index) * BLOCK_BYTES as u64)),
            Source::Absent | Source::Zero | Source::Lost { .. } | Source::InPlace { .. } => None,
        }
    }
}

/// Runs by their first block; they do not overlap.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    runs: BTreeMap<u16, Run>,
}

impl Overlay {
    /// Nothing here?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Put a run over whatever was there.
    pub fn insert(&mut self, block: u16, run: Run) {
        let end = u32::from(block) + u32::from(run.blocks);
        if let Some((&before, old)) = self.runs.range_mut(..=block).next_back() {
            let old_end = u32::from(before) + u32::from(old.blocks);
            if before == block && old.blocks == run.blocks {
                *old = run;
                return;
            }
            if old_end > u32::from(block) {
                self.cut(before, u32::from(block), end);
            }
        }
        if run.blocks == 1 {
            // Nothing can begin within it, and what began before it has been cut.
            self.runs.insert(block, run);
            return;
        }
        while let Some((&first, _)) = self.runs.range(block..).next().filter(|(first, _)| u32::from(**first) < end) {
            self.cut(first, u32::from(block), end);
        }
        self.runs.insert(block, run);
    }

    /// Take `[from, to)` out of the run that begins at `first`.
    #[allow(clippy::cast_possible_truncation, reason = "blocks of a chunk")]
    fn cut(&mut self, first: u16, from: u32, to: u32) {
        let run = self.runs.remove(&first).expect("the caller saw it");
        let end = u32::from(first) + u32::from(run.blocks);
        if u32::from(first) < from {
            self.runs.insert(first, run.part(0, (from - u32::from(first)) as u16));
        }
        if end > to {
            self.runs.insert(to as u16, run.part((to - u32::from(first)) as u16, (end - to) as u16));
        }
    }

    /// The parts of runs that lie in `[block, block + blocks)`: (block, run).
    pub fn range(&self, block: u16, blocks: u16) -> impl Iterator<Item = (u16, Run)> + '_ {
        let end = u32::from(block) + u32::from(blocks);
        let first = match self.runs.range(..=block).next_back() {
            Some((&first, run)) if u32::from(first) + u32::from(run.blocks) > u32::from(block) => first,
            _ => block,
        };
        self.runs.range(first..).take_while(move |(first, _)| u32::from(**first) < end).map(move |(&first, run)| {
            let skip = block.saturating_sub(first);
            let run_end = (u32::from(first) + u32::from(run.blocks)).min(end);
            #[allow(clippy::cast_possible_truncation, reason = "blocks of a chunk")]
            let len = (run_end - u32::from(first) - u32::from(skip)) as u16;
            (first + skip, run.part(skip, len))
        })
    }

    /// Every run.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Run)> {
        self.runs.iter().map(|(block, run)| (*block, run))
    }

    /// Forget what records up to `lsn` put here: the chunk files have it now.
    pub fn forget(&mut self, lsn: u64) {
        self.runs.retain(|_, run| run.lsn > lsn);
    }
}

#[cfg(test)]
mod tests;
