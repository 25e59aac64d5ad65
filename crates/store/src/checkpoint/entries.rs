//! The checkpoint's dealings with entry files.

use std::io::{self, IoSlice};

use yuntai_proto::CHUNK_BYTES;

use super::{moves, Work};
use crate::files::Handles;
use crate::groups::{self, Group, Half, LayerKey, Stored, GROUP_BYTES, GROUP_ENTRIES};
use crate::read::{read_slots, CHUNK_BLOCKS_U16};
use crate::vfs::{Vfs, VfsFile};

/// Touched groups so close together are read and written in one piece.
const GAP_GROUPS: usize = 16;

/// Where the blocks of a layer were at the last checkpoint, or are to be after this one.
pub(super) enum Halves {
    /// Nothing was ever written in place.
    First,
    /// Block by block.
    Each(Vec<Half>),
}

impl Halves {
    pub(super) fn of<V: Vfs>(work: &Work<V>, handles: &Handles<V>) -> io::Result<Self> {
        if work.placed.is_none() && handles.data.len()? <= CHUNK_BYTES {
            return Ok(Self::First);
        }
        let stored = read_slots(handles, &work.key, 0, CHUNK_BLOCKS_U16)?;
        let placed = |block: u16| work.placed.as_deref().and_then(|placed| placed.half(block));
        let half = |(block, stored): (u16, Stored)| placed(block).map_or(stored.half, Half::other);
        Ok(Self::Each((0..).zip(stored).map(half).collect()))
    }

    /// Bring spans to one half each. Is that another one for any block?
    pub(super) fn gather<V: Vfs>(&mut self, work: &Work<V>) -> bool {
        let Self::Each(halves) = self else { return false };
        let gather = |moved, span: &moves::Span| moves::gather(halves, *span, work.placed.as_deref()) || moved;
        work.spans.iter().fold(false, gather)
    }

    /// A run in pieces that lie in one half.
    pub(super) fn parts(&self, block: u16, blocks: u16) -> Vec<(u16, u16, Half)> {
        let Self::Each(halves) = self else { return vec![(block, blocks, Half::First)] };
        let mut parts = Vec::new();
        let mut first = block;
        for run in halves[block as usize..block as usize + blocks as usize].chunk_by(|left, right| left == right) {
            #[allow(clippy::cast_possible_truncation, reason = "blocks of a chunk")]
            let len = run.len() as u16;
            parts.push((first, len, run[0]));
            first += len;
        }
        parts
    }
}

/// Put entries into their groups; `stored` is in order of blocks.
pub(super) fn write_slots<V: Vfs>(handles: &Handles<V>, key: &LayerKey, stored: &[(u16, Stored)]) -> io::Result<()> {
    let group_of = |stored: &(u16, Stored)| groups::place_of(stored.0).0;
    let mut raw = Vec::new();
    for span in stored.chunk_by(|left, right| group_of(right) - group_of(left) <= GAP_GROUPS) {
        let (first, last) = (group_of(&span[0]), group_of(&span[span.len() - 1]));
        raw.clear();
        raw.resize((last - first + 1) * GROUP_BYTES, 0);
        handles.entries.read_at(&mut raw, (first * GROUP_BYTES) as u64)?;
        for touched in span.chunk_by(|left, right| group_of(left) == group_of(right)) {
            let number = group_of(&touched[0]);
            let bytes = raw[(number - first) * GROUP_BYTES..].first_chunk_mut().expect("a group's length");
            // What a damaged group said is not known any more: its other blocks are lost, and stay lost.
            let mut group: Group = groups::decode(key, number, bytes).unwrap_or([Stored::LOST; GROUP_ENTRIES]);
            for (block, stored) in touched {
                group[groups::place_of(*block).1] = *stored;
            }
            *bytes = groups::encode(key, number, &group);
        }
        handles.entries.write_at(&mut [IoSlice::new(&raw)], (first * GROUP_BYTES) as u64)?;
    }
    Ok(())
}
