//! What a read found, as runs of blocks of one kind.

use bytes::Bytes;
use yuntai_proto::{block_crc, mutant, BlockState, Frame, BLOCK_BYTES};

use crate::api::Part;

/// Equal neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub blocks: usize,
    pub state: BlockState,
    /// `blocks` × 4,096 bytes if `state` is `Data` and the read asked for bytes; else empty.
    pub data: Bytes,
}

/// The answer of a read is not what was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadReply {
    /// A block's bytes do not match their checksum.
    Damaged { block: usize },
    /// Lengths or states do not add up.
    Malformed,
}

/// Read a `ReadReply`, checking every block against its checksum.
pub(crate) fn from_reply(frame: &Frame, blocks: usize, with_data: bool) -> Result<Vec<Run>, BadReply> {
    if frame.body.len() != blocks * 5 {
        return Err(BadReply::Malformed);
    }
    let (states, crcs) = frame.body.split_at(blocks);
    let mut runs: Vec<Run> = Vec::with_capacity(1);
    let mut taken = 0;
    for (index, raw) in states.iter().enumerate() {
        let state = BlockState::try_from(*raw).map_err(|_| BadReply::Malformed)?;
        let start = taken;
        if state == BlockState::Data && with_data {
            let block = frame.data.get(start..start + BLOCK_BYTES).ok_or(BadReply::Malformed)?;
            let crc = u32::from_le_bytes(crcs[index * 4..index * 4 + 4].try_into().expect("4 bytes"));
            if block_crc(block) != crc && !mutant::is("the gateway does not look at checksums") {
                return Err(BadReply::Damaged { block: index });
            }
            taken += BLOCK_BYTES;
        }
        match runs.last_mut() {
            Some(last) if last.state == state => last.blocks += 1,
            _ => runs.push(Run { blocks: 1, state, data: frame.data.slice(start..start) }),
        }
    }
    if with_data && taken != frame.data.len() {
        return Err(BadReply::Malformed);
    }
    let mut at = 0;
    for run in runs.iter_mut().filter(|run| run.state == BlockState::Data && with_data) {
        run.data = frame.data.slice(at..at + run.blocks * BLOCK_BYTES);
        at += run.blocks * BLOCK_BYTES;
    }
    Ok(runs)
}

/// First absent block and one past the last, counted from the runs' first block.
pub(crate) fn absent_span(runs: &[Run]) -> Option<(usize, usize)> {
    let (mut at, mut span) = (0, None);
    for run in runs {
        if run.state == BlockState::Absent {
            span = Some((span.map_or(at, |(first, _)| first), at + run.blocks));
        }
        at += run.blocks;
    }
    span
}

/// Put what `found` (which begins at block `first` of `runs`) has where `runs` has nothing. Returns the whole.
pub(crate) fn overlay(runs: &[Run], found: &[Run], first: usize) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::with_capacity(runs.len() + found.len());
    let mut at = 0usize;
    for run in runs {
        if run.state == BlockState::Absent {
            out.extend(cut(found, at - first, at + run.blocks - first));
        } else {
            out.push(run.clone());
        }
        at += run.blocks;
    }
    out
}

/// Blocks `[from, to)` of `runs`.
pub(crate) fn cut(runs: &[Run], from: usize, to: usize) -> Vec<Run> {
    let (mut at, mut out) = (0, Vec::new());
    for run in runs {
        let (start, end) = (from.max(at), to.min(at + run.blocks));
        if start < end {
            let data = if run.data.is_empty() {
                Bytes::new()
            } else {
                run.data.slice((start - at) * BLOCK_BYTES..(end - at) * BLOCK_BYTES)
            };
            out.push(Run { blocks: end - start, state: run.state, data });
        }
        at += run.blocks;
    }
    out
}

/// Bytes `[from, from + len)` of `runs` for the guest; what is absent reads as zeros.
pub(crate) fn parts(runs: &[Run], from: usize, len: usize) -> Vec<Part> {
    let (mut at, mut out) = (0, Vec::with_capacity(runs.len()));
    for run in runs {
        let size = run.blocks * BLOCK_BYTES;
        let (start, end) = (from.max(at), (from + len).min(at + size));
        if start < end {
            out.push(match run.state {
                BlockState::Data => Part::Data(run.data.slice(start - at..end - at)),
                BlockState::Absent | BlockState::Zero => Part::Zero(end - start),
            });
        }
        at += size;
    }
    out
}

#[cfg(test)]
mod tests;
