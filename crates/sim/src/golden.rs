//! Bytes that earlier versions wrote, kept for ever: a store's whole disk and the frames of a conversation. What reads
//! them must go on to say the same of them, and must say of a version that it does not know that it does not know it.
//!
//! A new version of a format adds a file here and takes none away.

use bytes::{Bytes, BytesMut};
use yuntai_proto::data::{ChunkState, VersionsReply};
use yuntai_proto::frame::FrameError;
use yuntai_proto::{block_crc, BlockState, Frame, Header, Position};
use yuntai_store::vfs::memory::MemVfs;
use yuntai_store::vfs::{Vfs, VfsFile};
use yuntai_store::{record, LayerKey, LayerTree, Mutation, MutationKind, Options, Store};

/// The disk that version 1 left: see [`make`].
const STORE_1: &[u8] = include_bytes!("../golden/store-1");
/// A write's header and a page of entries, as version 1 sends them.
const FRAME_1: &[u8] = include_bytes!("../golden/frame-1");

const VOLUME: u64 = 0x11;
const GENERATION: u64 = 7;
const SECTOR: usize = 512;

fn options() -> Options {
    let mut options = Options::new(1, [0x5a; 16]);
    options.in_place_blocks_min = 2;
    options
}

fn mutation(sequence: u64, layer: u32, (block, blocks): (u16, u16), kind: MutationKind) -> Mutation {
    let data: Vec<u8> = (0..blocks).flat_map(|_| vec![sequence as u8; 4096]).collect();
    let crcs: Vec<u8> = data.chunks(4096).flat_map(|block| block_crc(block).to_le_bytes()).collect();
    let states = vec![BlockState::Data as u8; blocks as usize];
    let (body, data) = match kind {
        MutationKind::Write => (crcs, data),
        MutationKind::Zero => (Vec::new(), Vec::new()),
        MutationKind::Fill => ([states, crcs].concat(), data),
    };
    let position = Position { generation: GENERATION, sequence };
    Mutation { kind, volume: VOLUME, chunk: 3, layer, position, block, blocks, body: body.into(), data: data.into() }
}

/// The disk that this build would leave: everything that a record can say, in the journal and in the chunk files.
///
/// # Panics
/// If the store does not work at all.
#[must_use]
pub fn make() -> MemVfs {
    use MutationKind::{Fill, Write, Zero};
    let disk = MemVfs::new();
    let mut store = Store::open(disk.clone(), options()).expect("an empty disk");
    store.raise_fence(VOLUME, GENERATION, 9).expect("room");
    let steps = [(1, (0, 1), Write), (1, (1, 2), Write), (0, (8, 1), Fill), (1, (4, 1), Zero)];
    let later = [(2, (0, 1), Write), (2, (1, 2), Write), (0, (8, 2), Fill), (2, (5, 1), Zero)];
    for (sequence, (layer, blocks, kind)) in (1..).zip(steps.into_iter().chain(later)) {
        store.stage(&mutation(sequence, layer, blocks, kind)).expect("a valid mutation");
        store.commit().expect("room");
        if sequence == 4 {
            let mut job = store.begin_checkpoint().expect("nothing else runs");
            while !job.step().expect("a disk without faults") {}
            store.end_checkpoint(job);
        }
    }
    store.begin_rebuild(VOLUME, 4, Position { generation: GENERATION, sequence: 2 }).expect("room");
    store.commit().expect("room");
    let ticket = store.sync_ticket().expect("something to sync");
    ticket.run().expect("a disk without faults");
    store.synced(&ticket);
    disk
}

/// A disk as bytes: per file its path, length and the sectors that hold something.
///
/// # Panics
/// If the disk cannot be read.
#[must_use]
pub fn pack(disk: &MemVfs) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, len) in disk.files() {
        let sectors = disk.sectors(&path);
        out.extend_from_slice(&(path.len() as u32).to_le_bytes());
        out.extend_from_slice(path.as_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(sectors.len() as u32).to_le_bytes());
        let file = disk.open(&path).expect("listed");
        for sector in sectors {
            let mut bytes = [0; SECTOR];
            file.read_at(&mut bytes, sector).expect("readable");
            out.extend_from_slice(&sector.to_le_bytes());
            out.extend_from_slice(&bytes);
        }
    }
    out
}

fn unpack(mut bytes: &[u8]) -> MemVfs {
    let disk = MemVfs::new();
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (front, rest) = bytes.split_at(count);
        *bytes = rest;
        front
    }
    while !bytes.is_empty() {
        let count = u32::from_le_bytes(take(&mut bytes, 4).try_into().expect("4 bytes"));
        let path = std::str::from_utf8(take(&mut bytes, count as usize)).expect("a path").to_owned();
        let len = u64::from_le_bytes(take(&mut bytes, 8).try_into().expect("8 bytes"));
        let sectors = u32::from_le_bytes(take(&mut bytes, 4).try_into().expect("4 bytes"));
        let file = disk.create(&path).expect("room");
        for _ in 0..sectors {
            let at = u64::from_le_bytes(take(&mut bytes, 8).try_into().expect("8 bytes"));
            file.write_at(&mut [std::io::IoSlice::new(take(&mut bytes, SECTOR))], at).expect("room");
        }
        file.set_len(len).expect("room");
    }
    disk
}

/// Old bytes are understood, and unknown ones are not.
///
/// # Errors
/// What is not as it was.
pub fn check() -> Result<(), String> {
    check_store(unpack(STORE_1))?;
    check_frames(FRAME_1)?;
    check_unknown()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:?}, was {expected:?}"))
}

fn check_store(disk: MemVfs) -> Result<(), String> {
    let mut store = Store::open(disk, options()).map_err(|error| format!("an old store: {error}"))?;
    same("damage", store.lost_durable(), false)?;
    let fence = store.fence(VOLUME);
    same("fence", (fence.generation, fence.session, fence.deleted), (GENERATION, 9, false))?;
    let state = |chunk, sequence, rebuilding| {
        let position = Position { generation: GENERATION, sequence };
        ChunkState { chunk, position, rebuilding, damaged: false }
    };
    same("chunks", store.chunk_states(VOLUME), vec![state(3, 8, false), state(4, 2, true)])?;
    let tree = LayerTree::new(&[0, 0, 1]).ok_or("the tree is odd")?;
    // By layer, what each of the first ten blocks is filled with; 0 is zeros, none is nothing.
    let contents: [(u32, [Option<u8>; 10]); 2] = [
        (1, [Some(1), Some(2), Some(2), None, Some(0), None, None, None, Some(3), Some(7)]),
        (2, [Some(5), Some(6), Some(6), None, Some(0), Some(0), None, None, Some(3), Some(7)]),
    ];
    for (layer, expected) in contents {
        let key = LayerKey { volume: VOLUME, chunk: 3, layer };
        let read = store.read(key, &tree, 0, 10).map_err(|error| format!("layer {layer}: {error}"))?;
        let mut data = read.data.chunks(4096);
        let found: Vec<Option<u8>> = read.body[..10]
            .iter()
            .map(|state| match state {
                0 => None,
                1 => Some(0),
                _ => data.next().map(|block| block[0]),
            })
            .collect();
        same(&format!("layer {layer}"), found, expected.to_vec())?;
    }
    Ok(())
}

/// A frame of a write with a page of entries as its body: no such frame is sent, but every field is there.
#[must_use]
pub fn frame() -> Frame {
    let position = Position { generation: GENERATION, sequence: 8 };
    let entry = yuntai_proto::BlockEntry { state: BlockState::Data, crc: 0x0102_0304, position };
    let body = VersionsReply { position, entries: vec![(1, 2, entry)], lost: Vec::new() }.encode();
    let header = Header {
        flags: 1,
        volume: VOLUME,
        generation: GENERATION,
        sequence: 8,
        chunk: 3,
        layer: 2,
        block: 4,
        blocks: 5,
        ..Header::new(yuntai_proto::Kind::Write, 6)
    };
    Frame::new(header, body, Bytes::from_static(&[1, 2, 3]))
}

/// A frame as bytes.
#[must_use]
pub fn pack_frame(frame: &Frame) -> Vec<u8> {
    [&frame.header.encode()[..], &frame.body, &frame.data].concat()
}

fn check_frames(bytes: &[u8]) -> Result<(), String> {
    let found = Frame::parse(&mut BytesMut::from(bytes)).map_err(|error| format!("an old frame: {error}"))?;
    let found = found.ok_or("an old frame is cut off")?;
    same("frame", &found, &frame())?;
    let entries = VersionsReply::decode(found.body).map_err(|error| error.to_string())?;
    same("entry", entries.entries[0].2.crc, 0x0102_0304)?;
    same("frame as it is sent now", &pack_frame(&frame())[..], bytes)?;
    let old: ChunkState =
        serde_json::from_str(r#"{"chunk":1,"position":{"generation":2,"sequence":3},"rebuilding":true}"#)
            .map_err(|error| format!("an old answer to a claim: {error}"))?;
    same("old answer to a claim", (old.position.sequence, old.rebuilding, old.damaged), (3, true, false))
}

/// A version that this build does not know, everything else (checksums too) being right.
fn check_unknown() -> Result<(), String> {
    let mut header = frame().header.encode();
    header[4] = 99;
    let crc = crc_of(&header[..60]);
    header[60..].copy_from_slice(&crc);
    same("a frame of version 99", Header::decode(&header).err(), Some(FrameError::Version(99)))?;
    let known = record::Header {
        kind: record::Kind::Zero,
        lsn: 1,
        synced_lsn: 0,
        volume: VOLUME,
        position: Position { generation: GENERATION, sequence: 1 },
        chunk: 0,
        layer: 0,
        block: 0,
        blocks: 1,
        body_len: 0,
        data_len: 0,
        body_crc: 0,
        in_place: None,
    };
    let mut bytes = known.encode(5);
    same("a record of this version", record::Header::decode(&bytes, 5), Some(known))?;
    bytes[4] = 99;
    let crc = crc_of(&bytes[..76]);
    bytes[76..].copy_from_slice(&crc);
    same("a record of version 99", record::Header::decode(&bytes, 5), None)
}

fn crc_of(bytes: &[u8]) -> [u8; 4] {
    block_crc(bytes).to_le_bytes()
}
