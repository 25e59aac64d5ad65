//! One server of the tests: what it has, and how it answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use yuntai_proto::data::{ChunkState, Claim, ClaimReply, Layers, Pull, Refusal};
use yuntai_proto::frame::{FLAG_DURABLE, FLAG_STATES_ONLY};
use yuntai_proto::handshake::{json_body, json_frame, refusal_frame};
use yuntai_proto::{block_crc, Frame, Header, Kind, Position, BLOCK_BYTES};

use crate::api::LinkId;

pub const BLOCK: usize = BLOCK_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Up,
    /// Connections are refused.
    Down,
    /// Takes everything, answers nothing.
    Silent,
}

/// `None` is zeros.
pub type Blocks = BTreeMap<(u32, u16), Option<Bytes>>;

/// What a server that pulls can see of the others.
pub type Peers = BTreeMap<String, (BTreeMap<u32, ChunkCopy>, BTreeSet<(u32, u16)>)>;

/// A block of one value.
pub fn filled(value: u8) -> Option<Bytes> {
    Some(Bytes::from(vec![value; BLOCK]))
}

#[derive(Clone, Debug, Default)]
pub struct ChunkCopy {
    pub position: Position,
    pub rebuilding: bool,
    pub blocks: Blocks,
}

pub struct Fake {
    pub mode: Mode,
    pub fence: u64,
    pub full: bool,
    pub parents: Vec<u32>,
    pub chunks: BTreeMap<u32, ChunkCopy>,
    pub durable: BTreeMap<u32, ChunkCopy>,
    /// Blocks that fail their checksum.
    pub damaged: BTreeSet<(u32, u16)>,
    /// Of a version that does not know of losses.
    pub old: bool,
    /// Of the damaged blocks a server knows only those that it was asked for.
    pub finds_one: bool,
    known: BTreeSet<(u32, u16)>,
    /// Bytes are flipped on the way instead of being reported.
    pub lies: bool,
    /// Flushes, and what comes behind them, wait.
    pub holds_flushes: bool,
    /// The same with pulls.
    pub holds_pulls: bool,
    /// A pull takes until it is asked for again without this.
    pub pulls_slowly: bool,
    pub slow_pulls: usize,
    /// Goes on until it is asked for again.
    pub pulling: Option<(LinkId, Frame)>,
    pub flushes: usize,
    pub pulls: usize,
    /// Rates that they were given.
    pub limits: Vec<u64>,
    pub reads: usize,
    pub inbox: VecDeque<(LinkId, Frame)>,
}

impl Fake {
    pub fn new() -> Self {
        Self {
            mode: Mode::Up,
            fence: 0,
            full: false,
            parents: vec![0, 0],
            chunks: BTreeMap::new(),
            durable: BTreeMap::new(),
            damaged: BTreeSet::new(),
            old: false,
            finds_one: false,
            known: BTreeSet::new(),
            lies: false,
            holds_flushes: false,
            holds_pulls: false,
            pulls_slowly: false,
            slow_pulls: 0,
            pulling: None,
            flushes: 0,
            pulls: 0,
            limits: Vec::new(),
            reads: 0,
            inbox: VecDeque::new(),
        }
    }

    /// A flush or a pull waits.
    pub fn holds(&self) -> bool {
        self.inbox.front().is_some_and(|(_, frame)| match frame.header.kind {
            Kind::Flush => self.holds_flushes,
            Kind::Pull => self.holds_pulls,
            _ => false,
        })
    }

    /// Rates of the pulls that wait.
    pub fn waiting_limits(&self) -> Vec<u64> {
        let pulls = self.inbox.iter().filter(|(_, frame)| frame.header.kind == Kind::Pull);
        pulls.map(|(_, frame)| json_body::<Pull>(frame).unwrap().bytes_per_s_max).collect()
    }

    pub fn block(&self, chunk: u32, layer: u32, block: u16) -> Option<u8> {
        Some(self.chunks.get(&chunk)?.blocks.get(&(layer, block))?.as_ref()?[0])
    }

    /// First byte of a block, as a power cut would leave it.
    pub fn durable_block(&self, chunk: u32, layer: u32, block: u16) -> Option<u8> {
        Some(self.durable.get(&chunk)?.blocks.get(&(layer, block))?.as_ref()?[0])
    }

    /// The power goes: what was not flushed is lost.
    pub fn power_cut(&mut self) {
        self.chunks = self.durable.clone();
        self.inbox.clear();
    }

    fn lookup(&self, chunk: u32, layer: u32, block: u16) -> (u8, Bytes) {
        let mut layer = layer;
        loop {
            match self.chunks.get(&chunk).and_then(|copy| copy.blocks.get(&(layer, block))) {
                Some(Some(bytes)) => return (2, bytes.clone()),
                Some(None) => return (1, Bytes::new()),
                None if layer == 0 => return (0, Bytes::new()),
                None => layer = self.parents[layer as usize],
            }
        }
    }

    pub fn answer(&mut self, frame: &Frame, peers: &Peers) -> Frame {
        let head = frame.header;
        let mut ack = Header::new(Kind::Ack, head.request_id);
        ack.sequence = head.sequence;
        let ack = Frame::new(ack, Bytes::new(), Bytes::new());
        if head.generation != 0 && head.generation < self.fence && head.kind != Kind::EndRebuild {
            return refusal_frame(&head, &Refusal::Fenced { generation: self.fence, session: 1 });
        }
        match head.kind {
            Kind::Claim => {
                self.parents = json_body::<Claim>(frame).unwrap().parents;
                let state = |(chunk, copy): (&u32, &ChunkCopy)| ChunkState {
                    chunk: *chunk,
                    position: copy.position,
                    rebuilding: copy.rebuilding,
                    damaged: self.damaged.iter().any(|(damaged, _)| damaged == chunk),
                };
                let chunks = self.chunks.iter().map(state).collect();
                json_frame(Header::new(Kind::ClaimReply, head.request_id), &ClaimReply { chunks })
            }
            Kind::Layers => {
                self.parents = json_body::<Layers>(frame).unwrap().parents;
                ack
            }
            Kind::Write | Kind::Zero | Kind::Fill if self.full => refusal_frame(&head, &Refusal::Full),
            Kind::Write | Kind::Zero | Kind::Fill => self.mutate(frame, ack),
            Kind::Flush => {
                self.durable = self.chunks.clone();
                self.flushes += 1;
                ack
            }
            Kind::Read => self.read(frame),
            Kind::BeginRebuild => {
                if self.full {
                    return refusal_frame(&head, &Refusal::Full);
                }
                let copy = self.chunks.entry(head.chunk).or_default();
                copy.rebuilding = true;
                copy.position = Position { generation: 0, sequence: head.sequence - 1 };
                self.durable = self.chunks.clone();
                ack
            }
            Kind::Pull => {
                let pull: Pull = json_body(frame).unwrap();
                self.pulls += 1;
                self.limits.push(pull.bytes_per_s_max);
                let (chunks, damaged) = &peers[&pull.source];
                let source = chunks.get(&head.chunk).cloned().unwrap_or_default();
                assert!(!source.rebuilding && source.position.sequence >= pull.min_sequence, "a source must be whole");
                let copy = self.chunks.get_mut(&head.chunk).expect("begun before");
                copy.blocks.retain(|key, _| source.blocks.contains_key(key));
                let mut lacking = None;
                for ((layer, block), bytes) in source.blocks {
                    let here = (head.chunk, block);
                    let fetch = if self.finds_one { &self.known } else { &self.damaged }.contains(&here);
                    let same = copy.blocks.get(&(layer, block)) == Some(&bytes) && !fetch;
                    if damaged.contains(&here) && !same && pull.accept_loss && !self.old {
                        self.damaged.insert(here);
                        copy.blocks.insert((layer, block), bytes);
                    } else if damaged.contains(&here) && !same {
                        lacking = lacking.or(Some(block));
                    } else if !same {
                        copy.blocks.insert((layer, block), bytes);
                        self.damaged.remove(&here);
                        self.known.remove(&here);
                    }
                }
                match lacking {
                    Some(block) => refusal_frame(&head, &Refusal::SourceDamaged { chunk: head.chunk, block }),
                    None => ack,
                }
            }
            Kind::EndRebuild => {
                let copy = self.chunks.get_mut(&head.chunk).expect("begun before");
                assert_eq!(copy.position.sequence, head.sequence, "everything streamed or pulled");
                copy.position.generation = head.generation;
                copy.rebuilding = false;
                self.durable = self.chunks.clone();
                ack
            }
            other => panic!("a gateway sends no {other:?}"),
        }
    }

    fn mutate(&mut self, frame: &Frame, ack: Frame) -> Frame {
        let head = frame.header;
        let copy = self.chunks.entry(head.chunk).or_default();
        if head.sequence != copy.position.sequence + 1 {
            return refusal_frame(&head, &Refusal::OutOfOrder { expected: copy.position.sequence + 1 });
        }
        copy.position = Position { generation: head.generation, sequence: head.sequence };
        let count = usize::from(head.blocks);
        let mut data = frame.data.chunks_exact(BLOCK);
        for offset in 0..count {
            let key = (head.layer, head.block + offset as u16);
            let value = match head.kind {
                Kind::Zero => None,
                Kind::Fill if frame.body[offset] == 1 => None,
                kind => {
                    let bytes = data.next().expect("a block for each");
                    let at = offset * 4 + if kind == Kind::Fill { count } else { 0 };
                    assert_eq!(frame.body[at..at + 4], block_crc(bytes).to_le_bytes(), "checksum of block {offset}");
                    Some(Bytes::copy_from_slice(bytes))
                }
            };
            if head.kind != Kind::Fill || !copy.blocks.contains_key(&key) {
                self.damaged.remove(&(head.chunk, key.1));
                copy.blocks.insert(key, value);
            }
        }
        if head.flags & FLAG_DURABLE != 0 {
            self.durable = self.chunks.clone();
        }
        ack
    }

    fn read(&mut self, frame: &Frame) -> Frame {
        let head = frame.header;
        self.reads += 1;
        if self.chunks.get(&head.chunk).is_some_and(|copy| copy.rebuilding) {
            return refusal_frame(&head, &Refusal::Busy { message: "rebuilding".to_owned() });
        }
        let blocks = head.block..head.block + head.blocks;
        let bad = blocks.clone().find(|block| self.damaged.contains(&(head.chunk, *block)));
        if let (Some(block), false) = (bad, self.lies) {
            self.known.insert((head.chunk, block));
            return refusal_frame(&head, &Refusal::Damaged { chunk: head.chunk, block });
        }
        let (mut states, mut crcs, mut data) = (Vec::new(), Vec::new(), BytesMut::new());
        for block in blocks {
            let (state, bytes) = self.lookup(head.chunk, head.layer, block);
            let mut bytes = bytes.to_vec();
            states.push(state);
            crcs.extend(if state == 2 { block_crc(&bytes) } else { 0 }.to_le_bytes());
            if state == 2 && self.damaged.contains(&(head.chunk, block)) {
                bytes[9] ^= 4;
            }
            if state == 2 && head.flags & FLAG_STATES_ONLY == 0 {
                data.extend_from_slice(&bytes);
            }
        }
        states.extend(crcs);
        let header = Header { kind: Kind::ReadReply, ..head };
        Frame::new(header, states.into(), data.freeze())
    }
}
