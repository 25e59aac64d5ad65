//! Reading the journal back after a start.
//!
//! *Invariant 5, nothing trusts file-system ordering.* Between two syncs a disk writes what it likes in which order it
//! likes, and parts of a record: the second of two writes may be there and the first not. A store that went on behind a
//! gap would hold something that was never the volume's content. So every record says its length, number and checksum,
//! the replay ends at the first that is not whole, and what it has seen is made durable before anybody is told of it,
//! since the next crash could take it again. Chunk files are only written from what is durable in the journal, and the
//! journal is freed only when they are. Tests: `the_survivor_is_a_prefix_with_everything_synced`,
//! `what_a_start_has_seen_stays`, and `crates/replica/tests/images.rs` on the real program's disk; mutants "a replay
//! goes on behind a broken record", "what a start has seen may be lost", "chunk files before the journal", "the journal
//! is freed before the chunk files are durable".

use std::collections::BTreeMap;
use std::io;

use yuntai_proto::mutant;

use super::{decode_segment_header, segment_path, Identity, FOLDER, SEGMENT_HEADER_BYTES};
use crate::record::{Header, HEADER_BYTES, MAGIC};
use crate::vfs::{Vfs, VfsFile};

/// What a replay found.
pub(crate) struct Replayed<V: Vfs> {
    /// Segments that hold records, with the length that counts.
    pub(crate) segments: BTreeMap<u64, (V::File, u64)>,
    /// The next record's number.
    pub(crate) next_lsn: u64,
    /// The highest segment number ever seen.
    pub(crate) last_number: u64,
    /// Records that had been durable are missing or broken: the disk lost what it had promised.
    pub(crate) damaged: bool,
}

/// Who is told of the records.
pub(crate) trait Visitor {
    /// Read what a record says it has put in place into `data`; false if that is of no interest any more (the volume is
    /// gone) and needs no check.
    fn read_in_place(&mut self, header: &Header, data: &mut Vec<u8>) -> io::Result<bool>;
    /// A whole record, in order: header, body, segment, offset of the data.
    fn visit(&mut self, header: &Header, body: &[u8], segment: u64, data_offset: u64);
}

/// Where the checkpoint ends and the replay begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) first_segment: u64,
    pub(crate) next_lsn: u64,
}

fn numbers<V: Vfs>(vfs: &V) -> io::Result<Vec<u64>> {
    let parse = |name: &String| u64::from_str_radix(name.strip_suffix(".log")?, 16).ok();
    Ok(vfs.list(FOLDER)?.iter().filter_map(parse).collect())
}

/// Read every record from `start` on, in order, until the first broken one; give each to the visitor. Then cut off what follows and make all of it durable: what this start has seen, the next
/// one must see too.
pub(crate) fn replay<V: Vfs>(
    vfs: &V,
    identity: &Identity,
    start: Start,
    visitor: &mut dyn Visitor,
) -> io::Result<Replayed<V>> {
    let all = numbers(vfs)?;
    let last_number = all.last().copied().unwrap_or(0).max(start.first_segment.saturating_sub(1));
    let mut replayed = Replayed { segments: BTreeMap::new(), next_lsn: start.next_lsn, last_number, damaged: false };
    let mut readable = Vec::new();
    let mut stray = Vec::new();
    for number in all {
        let file = vfs.open(&segment_path(number))?;
        let mut head = [0; SEGMENT_HEADER_BYTES as usize];
        let whole = file.read_at(&mut head, 0)? == head.len();
        match decode_segment_header(identity, number, &head).filter(|_| whole && number >= start.first_segment) {
            Some(base_lsn) => readable.push((number, base_lsn, file)),
            None => stray.push((number, file)),
        }
    }
    let mut remaining = readable.into_iter().peekable();
    while let Some((number, base_lsn, file)) = remaining.next() {
        if base_lsn > replayed.next_lsn {
            stray.push((number, file));
            break;
        }
        let stop_at = remaining.peek().map_or(u64::MAX, |(_, next_base, _)| *next_base);
        let end = read_segment(&file, identity, number, stop_at, &mut replayed.next_lsn, visitor)?;
        replayed.segments.insert(number, (file, end));
    }
    stray.extend(remaining.map(|(number, _, file)| (number, file)));
    replayed.damaged = lost_durable(&replayed, &stray, identity, start)?;
    settle(vfs, &replayed, &stray)?;
    Ok(replayed)
}

/// Read one segment's records; returns where the last whole one ends.
fn read_segment<F: VfsFile>(
    file: &F,
    identity: &Identity,
    number: u64,
    stop_at: u64,
    next_lsn: &mut u64,
    visitor: &mut dyn Visitor,
) -> io::Result<u64> {
    let mut offset = SEGMENT_HEADER_BYTES;
    let mut rest = Vec::new();
    let mut in_place = Vec::new();
    loop {
        let mut head = [0; HEADER_BYTES];
        if file.read_at(&mut head, offset)? < HEADER_BYTES {
            return Ok(offset);
        }
        let Some(header) = Header::decode(&head, identity.tag()) else { return Ok(offset) };
        if header.lsn >= stop_at || header.lsn > *next_lsn {
            return Ok(offset);
        }
        let body_len = header.body_len as usize;
        rest.resize(body_len + header.data_len as usize, 0);
        if file.read_at(&mut rest, offset + HEADER_BYTES as u64)? < rest.len() {
            return Ok(offset);
        }
        let (body, data) = rest.split_at(body_len);
        // Records below were applied before the checkpoint; they stand here only because segments go as a whole, and
        // what they had in place may be gone.
        let is_due = header.lsn == *next_lsn;
        let whole = match header.in_place {
            None => header.is_whole(body, data),
            Some(_) if is_due => !visitor.read_in_place(&header, &mut in_place)? || header.is_whole(body, &in_place),
            Some(_) => true,
        };
        if !whole && mutant::is("a replay goes on behind a broken record") {
            *next_lsn += u64::from(is_due);
            offset += header.record_len();
            continue;
        }
        if !whole {
            return Ok(offset);
        }
        if is_due {
            visitor.visit(&header, body, number, offset + (HEADER_BYTES + body_len) as u64);
            *next_lsn += 1;
        }
        offset += header.record_len();
    }
}

/// Is there, behind the break, a record that was written when more was durable than could be read back?
fn lost_durable<V: Vfs>(
    replayed: &Replayed<V>,
    stray: &[(u64, V::File)],
    identity: &Identity,
    start: Start,
) -> io::Result<bool> {
    let tails = replayed.segments.iter().map(|(number, (file, end))| (*number, file, *end));
    let strays = stray.iter().map(|(number, file)| (*number, file, 0));
    for (number, file, from) in tails.chain(strays).filter(|(number, _, _)| *number >= start.first_segment) {
        if let Some(header) = scan(file, from, identity, replayed.next_lsn)? {
            tracing::error!(
                segment = number,
                found_lsn = header.lsn,
                durable_lsn = header.synced_lsn,
                next_lsn = replayed.next_lsn,
                "the journal lost records that were durable"
            );
            return Ok(true);
        }
    }
    Ok(false)
}

/// Look for a record header anywhere behind `from` that says that `next_lsn` had been durable.
fn scan<F: VfsFile>(file: &F, from: u64, identity: &Identity, next_lsn: u64) -> io::Result<Option<Header>> {
    const WINDOW: usize = 1 << 20;
    let mut window = vec![0; WINDOW + HEADER_BYTES];
    let mut at = from;
    loop {
        let read = file.read_at(&mut window, at)?;
        for place in 0..read.saturating_sub(HEADER_BYTES - 1) {
            if window[place..place + 4] != MAGIC.to_le_bytes() {
                continue;
            }
            let head = window[place..].first_chunk().expect("a header's length is left");
            let found = Header::decode(head, identity.tag()).filter(|h| h.lsn > next_lsn && h.synced_lsn >= next_lsn);
            if found.is_some() {
                return Ok(found);
            }
        }
        if read < window.len() {
            return Ok(None);
        }
        at += WINDOW as u64;
    }
}

/// Cut the torn tails, remove what does not count, and make what was read durable.
fn settle<V: Vfs>(vfs: &V, replayed: &Replayed<V>, stray: &[(u64, V::File)]) -> io::Result<()> {
    for (file, end) in replayed.segments.values() {
        file.set_len(*end)?;
        if !mutant::is("what a start has seen may be lost") {
            file.sync()?;
        }
    }
    for (number, _) in stray {
        vfs.remove(&segment_path(*number))?;
    }
    vfs.sync_dir(FOLDER)
}
