//! Crash images of the real program: it works under load while every write and sync of it is recorded
//! ([`yuntai_store::vfs::recording`]); then its disk is built again as a power cut at many moments might have left it,
//! with any part of the unsynced sectors, lengths and names, opened, and held against what a client had been told by
//! then. `CUTS=5000 SEED=7 cargo test -p yuntai-replica --test images` looks longer.
#![cfg(debug_assertions)]

use std::collections::BTreeMap;
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use yuntai_proto::auth::{sign_token, Rights, Token};
use yuntai_proto::data::{Claim, Layers};
use yuntai_proto::handshake::{json_frame, ClientHandshake, ClientStep};
use yuntai_proto::{block_crc, ChunkIndex, Frame, Header, Kind, BLOCK_BYTES};
use yuntai_store::vfs::memory::{MemFile, MemVfs};
use yuntai_store::vfs::recording::{self, now_ns, Record};
use yuntai_store::vfs::{Vfs, VfsFile};
use yuntai_store::{LayerKey, LayerTree, Options, Store};

const VOLUME: u64 = 0x1a6e;
const CHUNKS: ChunkIndex = 2;
const BLOCKS: u16 = 96;
const GENERATION: u64 = 5;
const IN_FLIGHT: usize = 16;
const PARENTS: [u32; 3] = [0, 0, 1];

/// One mutation: first block, blocks, and what fills them (0: zeros).
type Step = (u16, u16, u64);

/// What the client did and was told.
#[derive(Default)]
struct Told {
    /// Per chunk, by sequence from 1.
    history: BTreeMap<ChunkIndex, Vec<Step>>,
    /// When a flush was answered, and how much of each chunk had been acknowledged when it was asked.
    flushed: Vec<(u64, BTreeMap<ChunkIndex, usize>)>,
    claimed_ns: u64,
}

struct Process(Child, PathBuf);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

fn start(folder: &Path, listen: &str) -> Process {
    std::fs::create_dir_all(folder).unwrap();
    for (name, digits) in [("cluster", "11"), ("token", "22")] {
        std::fs::write(folder.join(name), digits.repeat(32)).unwrap();
    }
    let config = serde_json::json!({
        "server": 1, "path": folder.join("disk"), "listen": listen, "checkpoint_bytes": 1 << 20,
        "journal_bytes_max": 16 << 20, "full_percent": 100, "write_apart_bytes_min": 64 << 10,
        "cluster_secret_file": folder.join("cluster"), "token_secret_file": folder.join("token"),
    });
    std::fs::write(folder.join("cs.json"), config.to_string()).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_yuntai-chunkserver"))
        .arg(folder.join("cs.json"))
        .env("YUNTAI_RECORD_DISK", folder.join("recording"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Process(child, folder.to_owned())
}

struct Link {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Link {
    fn open(listen: &str) -> Self {
        let deadline = Instant::now() + Duration::from_secs(60);
        let stream = loop {
            match TcpStream::connect(listen) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "the server does not listen: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut link = Self { stream, buffer: BytesMut::new() };
        let mut handshake = ClientHandshake::new(&[0x11; 32], "gateway:test", [7; 32]);
        loop {
            let frame = link.receive();
            match handshake.on_frame(&frame).unwrap() {
                ClientStep::Send(frame) => link.send(&frame),
                ClientStep::Done { .. } => return link,
            }
        }
    }

    fn send(&mut self, frame: &Frame) {
        self.stream.write_all(&[&frame.header.encode()[..], &frame.body, &frame.data].concat()).unwrap();
    }

    fn receive(&mut self) -> Frame {
        let mut piece = vec![0; 1 << 16];
        loop {
            if let Some(frame) = Frame::parse(&mut self.buffer).unwrap() {
                let words = String::from_utf8_lossy(&frame.body);
                assert_ne!(frame.header.kind, Kind::Error, "{words}");
                return frame;
            }
            let read = self.stream.read(&mut piece).unwrap();
            assert!(read > 0, "the server closed the connection");
            self.buffer.extend_from_slice(&piece[..read]);
        }
    }
}

fn block_of(tag: u64) -> Vec<u8> {
    tag.to_le_bytes().repeat(BLOCK_BYTES / 8)
}

fn mutation(chunk: ChunkIndex, sequence: usize, layer: u32, step: &Step) -> Frame {
    let (block, blocks, tag) = *step;
    let kind = if tag == 0 { Kind::Zero } else { Kind::Write };
    let sequence = sequence as u64;
    let id = u64::from(chunk) << 32 | sequence;
    let header = Header::new(kind, id);
    let header = Header { volume: VOLUME, generation: GENERATION, chunk, sequence, layer, block, blocks, ..header };
    if tag == 0 {
        return Frame::new(header, Bytes::new(), Bytes::new());
    }
    let data = block_of(tag);
    let crcs = block_crc(&data).to_le_bytes().repeat(blocks as usize);
    Frame::new(header, crcs.into(), data.repeat(blocks as usize).into())
}

/// Writes of every width, zeroes, flushes and a snapshot, many of them in flight.
fn work(listen: &str, rng: &mut StdRng, rounds: usize) -> Told {
    let mut told = Told::default();
    let mut link = Link::open(listen);
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = Token { volume: VOLUME, rights: Rights::Write, generation: GENERATION, expires_unix_s: unix_s + 600 };
    let claim = Claim { token: sign_token(&[0x22; 32], &token), session: 1, parents: PARENTS[..2].to_vec() };
    let header = |kind, id| Header { volume: VOLUME, generation: GENERATION, ..Header::new(kind, id) };
    link.send(&json_frame(header(Kind::Claim, 1), &claim));
    link.receive();
    told.claimed_ns = now_ns();
    let mut acked: BTreeMap<ChunkIndex, usize> = BTreeMap::new();
    let mut flushes: BTreeMap<u64, BTreeMap<ChunkIndex, usize>> = BTreeMap::new();
    let (mut in_flight, mut layer) = (0, 1);
    for round in 0..rounds {
        if round == rounds / 2 {
            link.send(&json_frame(header(Kind::Layers, 2), &Layers { parents: PARENTS.to_vec() }));
            (layer, in_flight) = (2, in_flight + 1);
        }
        if rng.gen_ratio(1, 12) {
            let id = 1 << 62 | round as u64;
            flushes.insert(id, acked.clone());
            link.send(&Frame::new(header(Kind::Flush, id), Bytes::new(), Bytes::new()));
        } else {
            let chunk = rng.gen_range(0..CHUNKS);
            let history = told.history.entry(chunk).or_default();
            let block = rng.gen_range(0..BLOCKS);
            let blocks = [1, 1, 1, 2, 5, 16, 17, 40][rng.gen_range(0..8)].min(BLOCKS - block);
            let tag = if rng.gen_ratio(1, 10) { 0 } else { round as u64 + 1 };
            history.push((block, blocks, tag));
            link.send(&mutation(chunk, history.len(), layer, &(block, blocks, tag)));
        }
        in_flight += 1;
        while in_flight > if round + 1 == rounds { 0 } else { IN_FLIGHT } {
            let answer = link.receive().header;
            in_flight -= 1;
            if let Some(marks) = flushes.remove(&answer.request_id) {
                told.flushed.push((now_ns(), marks));
            } else if answer.request_id > 1 << 20 || answer.sequence > 0 {
                let acked = acked.entry(answer.chunk).or_default();
                *acked = (*acked).max(usize::try_from(answer.sequence).unwrap());
            }
        }
    }
    told
}

/// Does again to a disk in memory what was recorded.
#[derive(Default)]
struct Again {
    disk: MemVfs,
    files: BTreeMap<u64, MemFile>,
}

impl Again {
    fn step(&mut self, record: &Record) {
        use recording::Kind::{Create, Open, Punch, Remove, RemoveDir, Rename, SetLen, Sync, SyncDir, Write};
        let path = || std::str::from_utf8(&record.bytes).unwrap();
        let file = self.files.get(&record.file);
        match record.kind {
            Open => drop(self.files.insert(record.file, self.disk.open(path()).unwrap())),
            Create => drop(self.files.insert(record.file, self.disk.create(path()).unwrap())),
            Write => file.unwrap().write_at(&mut [IoSlice::new(&record.bytes)], record.offset).unwrap(),
            Sync => file.unwrap().sync().unwrap(),
            SetLen => file.unwrap().set_len(record.offset).unwrap(),
            Punch => {
                let len = u64::from_le_bytes(record.bytes[..].try_into().unwrap());
                file.unwrap().punch(record.offset, len).unwrap();
            }
            Rename => {
                let (from, to) = path().split_once('\0').unwrap();
                self.disk.rename(from, to).unwrap();
            }
            Remove => self.disk.remove(path()).unwrap(),
            RemoveDir => self.disk.remove_dir(path()).unwrap(),
            SyncDir => self.disk.sync_dir(path()).unwrap(),
        }
    }
}

/// The image opens; it holds everything flushed by then, and of each chunk exactly some first part of the history.
fn check(image: MemVfs, told: &Told, at_ns: u64) -> Result<(), String> {
    let mut store = Store::open(image, Options::new(1, [9; 16])).map_err(|error| error.to_string())?;
    if store.lost_durable() {
        return Err("a power cut counts as damage".into());
    }
    if at_ns > told.claimed_ns && store.fence(VOLUME).generation < GENERATION {
        return Err("the fence is gone".into());
    }
    let flushed = told.flushed.iter().rev().find(|(when, _)| *when < at_ns).map(|(_, marks)| marks);
    let tree = LayerTree::new(&PARENTS).unwrap();
    for chunk in 0..CHUNKS {
        let floor = flushed.and_then(|marks| marks.get(&chunk)).copied().unwrap_or(0);
        let last = store.chunk_state(VOLUME, chunk).map_or(0, |state| state.position.sequence as usize);
        let history = told.history.get(&chunk).map_or(&[][..], |history| history);
        if last < floor || last > history.len() {
            return Err(format!("chunk {chunk}: {last} of {} mutations, {floor} were flushed", history.len()));
        }
        let mut expected = vec![0; BLOCKS as usize];
        for (block, blocks, tag) in &history[..last] {
            expected[*block as usize..(block + blocks) as usize].fill(*tag);
        }
        let key = LayerKey { volume: VOLUME, chunk, layer: 2 };
        let read = store.read(key, &tree, 0, BLOCKS).map_err(|error| format!("chunk {chunk}: {error}"))?;
        let mut data = read.data.chunks_exact(BLOCK_BYTES);
        for (block, tag) in expected.into_iter().enumerate() {
            let found = if read.body[block] == 2 { data.next().unwrap_or_default() } else { &[0; BLOCK_BYTES] };
            if found != block_of(tag) {
                return Err(format!("chunk {chunk} at {last}: block {block} is not {tag:#x}"));
            }
        }
    }
    Ok(())
}

#[test]
fn every_disk_that_a_power_cut_might_leave_opens_with_all_that_was_flushed() {
    let number = |name: &str, usual| std::env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (seed, cuts) = (number("SEED", 1), number("CUTS", 160));
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = std::env::temp_dir().join(format!("yuntai-images-{}", std::process::id()));
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let process = start(&folder, &listen);
    let told = work(&listen, &mut rng, 900);
    let records = recording::read(&std::fs::read(folder.join("recording")).unwrap());
    drop(process);
    let syncs = records.iter().filter(|record| record.kind == recording::Kind::Sync).count();
    let checkpoints = records.iter().filter(|record| record.bytes.ends_with(b"checkpoint")).count();
    assert!(told.flushed.len() > 20 && syncs > 20 && checkpoints > 2, "{syncs} syncs, {checkpoints} checkpoints");
    let mut again = Again::default();
    for (index, record) in records.iter().enumerate() {
        again.step(record);
        if !rng.gen_ratio(u32::try_from(cuts).unwrap(), u32::try_from(records.len()).unwrap().max(cuts as u32)) {
            continue;
        }
        for bias in 0..3 {
            let image = again.disk.image(&mut |n| match bias {
                0 => 0,
                1 if rng.gen_bool(0.9) => n - 1,
                _ => rng.gen_range(0..n),
            });
            if let Err(wrong) = check(image, &told, record.at_ns) {
                panic!("SEED={seed}: cut behind record {index} of {}, {:?}: {wrong}", records.len(), record.kind);
            }
        }
    }
}
