//! Where records become state, at run time and at a replay alike.

use yuntai_proto::{BlockEntry, BlockState, BLOCK_BYTES, ENTRY_BYTES};

use crate::chunk::{Chunk, Session};
use crate::groups::LayerKey;
use crate::overlay::{Crcs, Run, Source};
use crate::owners::OwnerCache;
use crate::record::{self, Header, Kind};

fn crc_at(crcs: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(crcs[index * 4..index * 4 + 4].try_into().expect("4 bytes"))
}

/// Make a record that stands in the journal visible.
pub(crate) fn apply(
    chunk: &mut Chunk,
    owners: &mut OwnerCache,
    header: &Header,
    body: &[u8],
    segment: u64,
    data_offset: u64,
) {
    match header.kind {
        Kind::Begin => {
            chunk.position = header.position;
            chunk.rebuilding = true;
            chunk.rebuilds += 1;
            let session = Session { begin: header.position, ..Default::default() };
            chunk.session = Some(Box::new(session));
            return;
        }
        Kind::End => {
            chunk.position = header.position;
            chunk.rebuilding = false;
            chunk.session = None;
            return;
        }
        Kind::Pulled | Kind::Lost => {}
        Kind::Write | Kind::Zero | Kind::Fill => chunk.position = header.position,
    }
    if let Some(half) = header.in_place {
        let layer = chunk.layer_mut(header.layer);
        layer.place(header.block, header.blocks, half);
        layer.has_files = true;
    }
    let mut put = |block: u16, run: Run| {
        let key = LayerKey { volume: header.volume, chunk: header.chunk, layer: header.layer };
        note(chunk, owners, &key, header.kind, block, &run);
        let layer = chunk.layer_mut(header.layer);
        layer.emptied &= matches!(run.source, Source::Absent);
        layer.overlay.insert(block, run);
    };
    if header.kind == Kind::Write {
        let crcs = match header.blocks {
            1 => Crcs::One(crc_at(body, 0)),
            blocks => Crcs::Many((0..blocks as usize).map(|index| crc_at(body, index)).collect(), 0),
        };
        let source = match header.in_place {
            Some(half) => Source::InPlace { half, crcs },
            None => Source::Journal { segment, offset: data_offset, crcs },
        };
        put(header.block, Run { blocks: header.blocks, lsn: header.lsn, position: header.position, source });
        return;
    }
    if header.kind == Kind::Zero {
        let (lsn, position) = (header.lsn, header.position);
        put(header.block, Run { blocks: header.blocks, lsn, position, source: Source::Zero });
        return;
    }
    if header.kind == Kind::Lost {
        for (block, raw) in (header.block..).zip(body.chunks_exact(ENTRY_BYTES)) {
            let known = raw.first_chunk().and_then(BlockEntry::decode).unwrap_or_default();
            let crc = (known.state == BlockState::Data).then_some(known.crc);
            put(block, Run { blocks: 1, lsn: header.lsn, position: known.position, source: Source::Lost { crc } });
        }
        chunk.damaged.extend((header.block..header.block + header.blocks).map(|block| (header.layer, block)));
        return;
    }
    // Blocks that go away come in long runs.
    let mut gone: Option<(u16, u16)> = None;
    let absent = |blocks| Run { blocks, lsn: header.lsn, position: Default::default(), source: Source::Absent };
    record::changes(header, body, &mut |change| {
        match &mut gone {
            Some((first, blocks)) if change.entry.state == BlockState::Absent && *first + *blocks == change.block => {
                *blocks += 1;
                return;
            }
            _ => {}
        }
        if let Some((first, blocks)) = gone.take() {
            put(first, absent(blocks));
        }
        if change.entry.state == BlockState::Absent {
            gone = Some((change.block, 1));
            return;
        }
        let source = match change.entry.state {
            BlockState::Absent => Source::Absent,
            BlockState::Zero => Source::Zero,
            BlockState::Data if header.in_place.is_some() => {
                let half = header.in_place.unwrap_or_default();
                Source::InPlace { half, crcs: Crcs::One(change.entry.crc) }
            }
            BlockState::Data => Source::Journal {
                segment,
                offset: data_offset + (change.data_index * BLOCK_BYTES) as u64,
                crcs: Crcs::One(change.entry.crc),
            },
        };
        put(change.block, Run { blocks: 1, lsn: header.lsn, position: change.entry.position, source });
    });
    if let Some((first, blocks)) = gone {
        put(first, absent(blocks));
    }
}

/// What else must know that blocks changed.
fn note(chunk: &mut Chunk, owners: &mut OwnerCache, key: &LayerKey, kind: Kind, block: u16, run: &Run) {
    if matches!(run.source, Source::Absent) {
        // A sweep takes out what no live layer shows: its maps stay right.
        if chunk.rebuilding {
            owners.drop_chunk(key.volume, key.chunk);
        }
    } else {
        owners.note(key, block, run.blocks);
    }
    if !chunk.damaged.is_empty() {
        let end = u32::from(block) + u32::from(run.blocks);
        chunk.damaged.retain(|(layer, at)| *layer != key.layer || *at < block || u32::from(*at) >= end);
    }
    let Some(session) = chunk.session.as_deref_mut() else { return };
    match kind {
        Kind::Write | Kind::Zero => session.note_written(key.layer, block, run.blocks),
        Kind::Fill => (block..block + run.blocks).for_each(|block| session.filled.set(block)),
        Kind::Pulled | Kind::Lost | Kind::Begin | Kind::End => {}
    }
}
