//! Hostile input for every parser that a peer, a guest or a disk reaches: valid input, changed a little, under one seed.
//!
//! A small mutator of our own, as the coverage-guided fuzzers either want a nightly compiler or a process per input;
//! what they find deep in a format is found here by beginning with valid input and by setting checksums right again. A
//! target may refuse whatever it likes; it may not panic, and (a test holds this with a counting allocator) it may not
//! take memory for what a length merely claims.

use bytes::{BufMut, Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use yuntai_proto::auth::{check_token, sign_token, Rights, Token};
use yuntai_proto::control::{EventAnswer, GatewayEvent, GatewayRequest, ServerRequest};
use yuntai_proto::data::{Claim, ClaimReply, Layers, Pull, Refusal, VersionsReply, VersionsRequest};
use yuntai_proto::handshake::{ClientHandshake, ServerHandshake};
use yuntai_proto::{BlockEntry, BlockState, Frame, Header, Kind, Position};
use yuntai_store::vfs::memory::MemVfs;
use yuntai_store::vfs::{Vfs, VfsFile};
use yuntai_store::{LayerKey, LayerTree, Mutation, MutationKind, Options, Store};
use yuntai_volume::nbd::codec::{command, option, OPTION_MAGIC, REQUEST_MAGIC};
use yuntai_volume::nbd::negotiate::{Agreed, Export, Negotiation, Step};
use yuntai_volume::nbd::transmit::{take, Want};

/// A parser under fire: its name, one round, and how many rounds a short run does.
pub type Target = (&'static str, fn(&mut StdRng), u64);

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("NBD negotiation", negotiation, 20_000),
    ("NBD requests", requests, 20_000),
    ("frames and their bodies", frames, 20_000),
    ("control requests, events and answers", control, 20_000),
    ("handshake and tokens", handshake, 5_000),
    ("a store's files", store, 60),
    ("gateways and servers among peers that send nonsense", peers, 8),
];

/// One round of a target.
pub fn round(target: &Target, seed: u64) {
    (target.1)(&mut StdRng::seed_from_u64(seed));
}

const ODD: [u64; 12] = [0, 1, 2, 0x7f, 0xff, 0x7fff, 0xffff, 0x4000, 0x7fff_ffff, 0xffff_ffff, u64::MAX - 1, u64::MAX];

/// Change some bytes: flip, overwrite with odd numbers, cut, double, lengthen.
pub fn mutate(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.gen_range(0..5) {
        let at = rng.gen_range(0..=bytes.len());
        let width = [1, 2, 4, 8][rng.gen_range(0..4)].min(bytes.len() - at);
        match rng.gen_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.gen_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.gen(),
            2 => {
                let odd = *ODD.choose(rng).expect("not empty");
                bytes[at..at + width].copy_from_slice(&odd.to_le_bytes()[..width]);
            }
            3 => {
                let odd = *ODD.choose(rng).expect("not empty");
                bytes[at..at + width].copy_from_slice(&odd.to_be_bytes()[8 - width..]);
            }
            4 => bytes.truncate(at),
            5 => {
                let end = rng.gen_range(at..=bytes.len().min(at + 64));
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            6 => {
                let end = rng.gen_range(at..=bytes.len().min(at + 64));
                bytes.drain(at..end);
            }
            _ => bytes.extend((0..rng.gen_range(0..32)).map(|_| rng.gen::<u8>())),
        }
    }
}

/// Give it in pieces, as a socket would.
fn in_pieces(rng: &mut StdRng, bytes: &[u8], mut feed: impl FnMut(&mut BytesMut) -> bool) {
    let mut input = BytesMut::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rng.gen_range(1..=rest.len()));
        input.extend_from_slice(piece);
        rest = after;
        if !feed(&mut input) {
            return;
        }
    }
}

fn negotiation(rng: &mut StdRng) {
    let mut talk = BytesMut::new();
    talk.put_u32(3);
    for _ in 0..rng.gen_range(1..6) {
        let number = *[
            option::LIST,
            option::INFO,
            option::GO,
            option::STRUCTURED_REPLY,
            option::LIST_META_CONTEXT,
            option::SET_META_CONTEXT,
            option::EXPORT_NAME,
        ]
        .choose(rng)
        .expect("not empty");
        let mut data = BytesMut::new();
        if !matches!(number, option::LIST | option::STRUCTURED_REPLY | option::EXPORT_NAME) {
            data.put_u32(4);
            data.put_slice(b"disk");
            if matches!(number, option::INFO | option::GO) {
                data.put_u16(1);
                data.put_u16(3);
            } else {
                data.put_u32(1);
                data.put_u32(15);
                data.put_slice(b"base:allocation");
            }
        }
        talk.put_u64(OPTION_MAGIC);
        talk.put_u32(number);
        talk.put_u32(u32::try_from(data.len()).expect("short"));
        talk.put_slice(&data);
    }
    let mut bytes = talk.to_vec();
    mutate(rng, &mut bytes);
    let mut out = BytesMut::new();
    let export = Export { name: "disk".into(), size_bytes: 1 << 30, read_only: rng.gen() };
    let mut negotiation = Negotiation::new(export, &mut out);
    in_pieces(rng, &bytes, |input| negotiation.feed(input, &mut out) == Step::More);
}

fn requests(rng: &mut StdRng) {
    let mut bytes = Vec::new();
    for _ in 0..rng.gen_range(1..5) {
        let mut request = BytesMut::new();
        let number = *[
            command::READ,
            command::WRITE,
            command::FLUSH,
            command::TRIM,
            command::WRITE_ZEROES,
            command::BLOCK_STATUS,
            command::DISC,
        ]
        .choose(rng)
        .expect("not empty");
        let len = rng.gen_range(0..5000);
        request.put_u32(REQUEST_MAGIC);
        request.put_u16(rng.gen_range(0..32));
        request.put_u16(number);
        request.put_u64(rng.gen());
        request.put_u64(rng.gen_range(0..1 << 31));
        request.put_u32(len);
        if number == command::WRITE {
            request.put_bytes(7, len as usize);
        }
        bytes.extend_from_slice(&request);
    }
    mutate(rng, &mut bytes);
    let agreed = Agreed { structured: rng.gen(), allocation: rng.gen() };
    let read_only = rng.gen();
    in_pieces(rng, &bytes, |input| loop {
        match take(input, agreed, read_only) {
            None => break true,
            Some(Want::Leave) => break false,
            Some(Want::Op(..) | Want::Refuse(..)) => {}
        }
    });
}

fn json_value(rng: &mut StdRng) -> Vec<u8> {
    const VALUES: [&str; 12] = [
        r#"{"token":"x","session":7,"parents":[0,0,1]}"#,
        r#"{"chunks":[{"chunk":1,"position":{"generation":1,"sequence":2},"rebuilding":false}]}"#,
        r#"{"parents":[0,0,1]}"#,
        r#"{"source":"h:1","token":"x","min_sequence":3,"bytes_per_s_max":0}"#,
        r#"{"code":"damaged","chunk":1,"block":3}"#,
        r#"{"op":"sweep","volume":1,"term":2,"parents":[0,0],"live":[1]}"#,
        r#"{"op":"changes","volume":1,"parents":[0,0],"since":null,"node":1,"chunks":[0,1]}"#,
        r#"{"op":"tune","tunables":{"scrub_bytes_per_s":5}}"#,
        r#"{"op":"moves","volume":1,"generation":2,"moves":[{"chunk":0,"from":1,"to":2}],"servers":{"1":"h:1"}}"#,
        r#"{"op":"degrade","volume":1,"generation":2,"server":3,"reason":"r"}"#,
        r#"{"answer":"placed","moves":[{"chunk":0,"from":1,"to":2}]}"#,
        r#"{"op":"open","volume":1,"generation":1,"token":"t","read_token":"r","size_bytes":4096,"read_only":false,
            "parents":[0,0],"head":1,"placement":[[1,2,3]],"servers":{"1":"h:1"},"stale":[],"sources":[],
            "hydrated_chunks":1,"export":"e","prefer":[]}"#,
    ];
    let mut bytes = VALUES.choose(rng).expect("not empty").as_bytes().to_vec();
    if rng.gen_ratio(1, 50) {
        bytes = [b"[".repeat(rng.gen_range(1..3000)), bytes].concat();
    }
    mutate(rng, &mut bytes);
    bytes
}

fn control(rng: &mut StdRng) {
    let bytes = json_value(rng);
    drop(serde_json::from_slice::<GatewayRequest>(&bytes));
    drop(serde_json::from_slice::<ServerRequest>(&bytes));
    drop(serde_json::from_slice::<GatewayEvent>(&bytes));
    drop(serde_json::from_slice::<EventAnswer>(&bytes));
}

fn versions(rng: &mut StdRng) -> Bytes {
    let position = Position { generation: rng.gen(), sequence: rng.gen() };
    let entry = BlockEntry { state: BlockState::Data, crc: rng.gen(), position };
    let entries = (0..rng.gen_range(0..40)).map(|block| (rng.gen_range(0..3), block, entry)).collect();
    VersionsReply { position, entries, lost: Vec::new() }.encode()
}

fn frames(rng: &mut StdRng) {
    let mut bytes = Vec::new();
    for _ in 0..rng.gen_range(1..4) {
        let mut header = Header::new(Kind::Write, rng.gen());
        header.kind = Kind::try_from(rng.gen_range(1..24)).unwrap_or(Kind::Error);
        let mut body = if rng.gen() { versions(rng).to_vec() } else { json_value(rng) };
        mutate(rng, &mut body);
        let frame = Frame::new(header, body.into(), Bytes::from(vec![3; rng.gen_range(0..9000)]));
        let mut header = frame.header;
        if rng.gen_ratio(1, 4) {
            // A length that is not true, with a checksum that is.
            header.body_len = u32::try_from(*ODD.choose(rng).expect("not empty") & 0xffff_ffff).expect("masked");
        }
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&frame.body);
        bytes.extend_from_slice(&frame.data);
    }
    if rng.gen() {
        mutate(rng, &mut bytes);
    }
    in_pieces(rng, &bytes, |input| loop {
        match Frame::parse(input) {
            Ok(None) => break true,
            Err(_) => break false,
            Ok(Some(frame)) => bodies(&frame),
        }
    });
}

fn bodies(frame: &Frame) {
    drop(VersionsReply::decode(frame.body.clone()));
    drop(serde_json::from_slice::<Claim>(&frame.body));
    drop(serde_json::from_slice::<ClaimReply>(&frame.body));
    drop(serde_json::from_slice::<Layers>(&frame.body).map(|layers| LayerTree::new(&layers.parents)));
    drop(serde_json::from_slice::<Pull>(&frame.body));
    drop(serde_json::from_slice::<VersionsRequest>(&frame.body));
    drop(serde_json::from_slice::<Refusal>(&frame.body));
}

fn handshake(rng: &mut StdRng) {
    let secret = [5; 32];
    let (server, challenge) = ServerHandshake::new(&secret, "cs:1", "1", [1; 32]);
    let changed = |rng: &mut StdRng, frame: &Frame| {
        let mut body = frame.body.to_vec();
        mutate(rng, &mut body);
        Frame::new(frame.header, body.into(), frame.data.clone())
    };
    let mut client = ClientHandshake::new(&secret, "gateway:h1", [2; 32]);
    if let Ok(yuntai_proto::handshake::ClientStep::Send(auth)) = client.on_frame(&changed(rng, &challenge)) {
        if let Ok((_, answer)) = server.finish(&changed(rng, &auth)) {
            drop(client.on_frame(&changed(rng, &answer)));
        }
    }
    let token = Token { volume: 1, rights: Rights::Write, generation: 3, expires_unix_s: 1 << 40 };
    let mut text = sign_token(&secret, &token).into_bytes();
    mutate(rng, &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let taken = check_token(&secret, &text, 1).ok();
    assert!(taken.is_none_or(|taken| taken == token), "a token that was changed is taken: {text}");
}

/// A store with layers, zeroes, fills and a checkpoint; then bytes of its files change, and it is opened and read.
fn store(rng: &mut StdRng) {
    let disk = MemVfs::new();
    let mut options = Options::new(1, [3; 16]);
    options.in_place_blocks_min = 4;
    let mut store = Store::open(disk.clone(), options.clone()).expect("an empty disk");
    store.raise_fence(1, 2, 3).expect("room");
    for sequence in 1..30u64 {
        let (block, blocks) = (rng.gen_range(0..40), rng.gen_range(1..8u16));
        let data = Bytes::from(vec![sequence as u8; blocks as usize * 4096]);
        let crcs: Vec<u8> = data.chunks(4096).flat_map(|block| yuntai_proto::block_crc(block).to_le_bytes()).collect();
        let zero = rng.gen_ratio(1, 5);
        let mutation = Mutation {
            kind: if zero { MutationKind::Zero } else { MutationKind::Write },
            volume: 1,
            chunk: rng.gen_range(0..1),
            layer: if sequence < 15 { 1 } else { 2 },
            position: Position { generation: 2, sequence },
            block,
            blocks,
            body: if zero { Bytes::new() } else { crcs.into() },
            data: if zero { Bytes::new() } else { data },
        };
        store.stage(&mutation).expect("a valid mutation");
        store.commit().expect("room");
        if sequence == 20 {
            checkpoint(&mut store);
        }
    }
    let files: Vec<String> = disk.files().into_iter().map(|(path, _)| path).collect();
    let disk = disk.restart();
    for _ in 0..rng.gen_range(1..4) {
        let path = files.choose(rng).expect("it has files");
        let Some(sector) = disk.sectors(path).choose(rng).copied() else { continue };
        let file = disk.open(path).expect("listed");
        let mut bytes = vec![0; 512];
        let read = file.read_at(&mut bytes, sector).expect("readable");
        bytes.truncate(read);
        mutate(rng, &mut bytes);
        file.write_at(&mut [std::io::IoSlice::new(&bytes)], sector).expect("writable");
    }
    let disk = disk.restart();
    let Ok(mut store) = Store::open(disk, options) else { return };
    let tree = LayerTree::new(&[0, 0, 1]).expect("a tree");
    for block in (0..48).step_by(6) {
        drop(store.read(LayerKey { volume: 1, chunk: 0, layer: 2 }, &tree, block, 6));
    }
    drop(store.versions(1, 0, 0));
    checkpoint(&mut store);
}

fn checkpoint(store: &mut Store<MemVfs>) {
    let Some(mut job) = store.begin_checkpoint() else { return };
    loop {
        match job.step() {
            Ok(false) => {}
            Ok(true) => return drop(store.end_checkpoint(job)),
            Err(_) => return store.abandon_checkpoint(),
        }
    }
}

/// A whole world in which some frames say something else than they did. Who is lied to may lose data, but not its head.
fn peers(rng: &mut StdRng) {
    crate::run::run_among_liars(rng.gen());
}

/// Change a frame as a peer could that knows the protocol.
#[must_use]
pub fn lie(rng: &mut StdRng, frame: &Frame) -> Frame {
    let mut header = frame.header;
    let odd = *ODD.choose(rng).expect("not empty");
    let (mut body, mut data) = (frame.body.to_vec(), frame.data.to_vec());
    #[allow(clippy::cast_possible_truncation, reason = "odd on purpose")]
    match rng.gen_range(0..12) {
        0 => header.kind = Kind::try_from(rng.gen_range(1..24)).unwrap_or(header.kind),
        1 => header.sequence = if rng.gen() { odd } else { header.sequence.wrapping_add(rng.gen_range(0..5)) },
        2 => header.generation = odd,
        3 => header.chunk = odd as u32,
        4 => header.layer = odd as u32,
        5 => header.block = odd as u16,
        6 => header.blocks = odd as u16,
        7 => header.flags = odd as u16,
        8 => header.request_id = header.request_id.wrapping_add(rng.gen_range(0..3)),
        9 => header.volume = rng.gen_range(0..4),
        10 => mutate(rng, &mut body),
        _ => mutate(rng, &mut data),
    }
    Frame::new(header, body.into(), data.into())
}
