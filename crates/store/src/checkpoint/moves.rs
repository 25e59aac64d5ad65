//! Bringing together what lies in both halves.
//!
//! A large write goes in place only where all its blocks lie in one half. A small write over what was just written in
//! place leaves its block behind in the other half, because nothing may be written where a record has its data; from then
//! on every large write over that block would go through the journal. So a checkpoint that brings a long span of the
//! journal to the chunk files brings all of it to one half. Nothing may be written in place there meanwhile.

use yuntai_proto::mutant;

use crate::chunk::Placed;
use crate::groups::Half;
use crate::overlay::{Overlay, Source};

/// A span of blocks: (first, how many).
pub(crate) type Span = (u16, u16);

/// The spans of at least `blocks_min` blocks whose bytes are all in the journal.
pub(super) fn spans(overlay: &Overlay, blocks_min: u16) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (block, run) in overlay.iter().filter(|(_, run)| matches!(run.source, Source::Journal { .. })) {
        match spans.last_mut() {
            Some((first, blocks)) if *first + *blocks == block => *blocks += run.blocks,
            _ => spans.push((block, run.blocks)),
        }
    }
    spans.retain(|(_, blocks)| *blocks >= blocks_min);
    spans
}

/// Choose one half for all of a span: not the one where a record has data. Is that another one for any block?
pub(super) fn gather(halves: &mut [Half], (first, blocks): Span, placed: Option<&Placed>) -> bool {
    let span = first..first + blocks;
    let mut taken = span.filter_map(|block| placed?.half(block));
    if mutant::is("a block moves to where a record has its data") {
        taken.by_ref().for_each(drop);
    }
    let free = match taken.next() {
        Some(half) if taken.all(|other| other == half) => half.other(),
        Some(_) => return false,
        None => halves[first as usize],
    };
    let halves = &mut halves[first as usize..][..blocks as usize];
    let moves = halves.iter().any(|half| *half != free);
    halves.fill(free);
    moves
}

#[cfg(test)]
mod tests;
