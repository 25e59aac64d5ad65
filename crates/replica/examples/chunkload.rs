//! Load on one chunk server: `chunkload <config.json> <pid> <write|read|flush> <queue depth> <seconds> [blocks]`.
//!
//! Speaks as a gateway does, writes 4 KiB blocks at random over 4 chunks and prints operations a second, latency and
//! the server's CPU time per operation.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use yuntai_proto::auth::{parse_secret, sign_token, Rights, Token};
use yuntai_proto::data::Claim;
use yuntai_proto::handshake::{json_frame, ClientHandshake, ClientStep};
use yuntai_proto::{block_crc, Frame, Header, Kind, BLOCK_BYTES};

const VOLUME: u64 = 0xbe7c;
const CHUNKS: u32 = 4;

struct Link {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Link {
    fn send(&mut self, frame: &Frame) {
        let mut bytes = frame.header.encode().to_vec();
        bytes.extend_from_slice(&frame.body);
        bytes.extend_from_slice(&frame.data);
        self.stream.write_all(&bytes).expect("the server takes what is sent");
    }

    fn receive(&mut self) -> Frame {
        let mut chunk = vec![0; 1 << 18];
        loop {
            if let Some(frame) = Frame::parse(&mut self.buffer).expect("a frame") {
                return frame;
            }
            let read = self.stream.read(&mut chunk).expect("the server answers");
            assert!(read > 0, "the server closed the connection");
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }
}

fn secret(config: &serde_json::Value, field: &str) -> Vec<u8> {
    let path = config[field].as_str().expect("a path");
    parse_secret(&std::fs::read_to_string(path).expect("the secret's file")).expect("64 hex digits")
}

/// CPU time of a process and its threads, in microseconds (ticks of 10 ms).
fn cpu_us(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    (fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")) * 10_000
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, pid, what, depth, seconds, rest @ ..] = &arguments[..] else {
        panic!("usage: chunkload <config.json> <pid> <write|read|flush> <queue depth> <seconds> [blocks]");
    };
    let text = std::fs::read_to_string(config).expect("the configuration");
    let config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let depth: usize = depth.parse().expect("a number");
    let seconds: u64 = seconds.parse().expect("a number");
    let blocks: u16 = rest.first().map_or(1, |text| text.parse().expect("a number"));
    let stream = TcpStream::connect(config["listen"].as_str().expect("an address")).expect("the server listens");
    stream.set_nodelay(true).expect("a socket");
    let mut link = Link { stream, buffer: BytesMut::new() };
    let mut handshake = ClientHandshake::new(&secret(&config, "cluster_secret_file"), "operator", rand::random());
    loop {
        let frame = link.receive();
        match handshake.on_frame(&frame).expect("the same secret") {
            ClientStep::Send(frame) => link.send(&frame),
            ClientStep::Done { .. } => break,
        }
    }
    let unix_us = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64;
    let token = Token { volume: VOLUME, rights: Rights::Write, generation: unix_us, expires_unix_s: u64::MAX };
    let token = sign_token(&secret(&config, "token_secret_file"), &token);
    let header = |kind, id| Header { volume: VOLUME, generation: unix_us, ..Header::new(kind, id) };
    link.send(&json_frame(header(Kind::Claim, 0), &Claim { token, session: 1, parents: vec![0, 0] }));
    let reply = link.receive();
    assert_eq!(reply.header.kind, Kind::ClaimReply, "{}", String::from_utf8_lossy(&reply.body));
    let states: yuntai_proto::data::ClaimReply = serde_json::from_slice(&reply.body).expect("JSON");
    let mut sequences: Vec<u64> = vec![0; CHUNKS as usize];
    states.chunks.iter().for_each(|state| sequences[state.chunk as usize] = state.position.sequence);

    let data = Bytes::from((0..BLOCK_BYTES * blocks as usize).map(|_| rand::random()).collect::<Vec<u8>>());
    let body: Vec<u8> = data.chunks(BLOCK_BYTES).flat_map(|block| block_crc(block).to_le_bytes()).collect();
    let body = Bytes::from(body);
    let mut sent: HashMap<u64, Instant> = HashMap::new();
    let mut latencies = Vec::new();
    let mut id = 1;
    let cpu_before = cpu_us(pid);
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    while Instant::now() < end || !sent.is_empty() {
        while sent.len() < depth && Instant::now() < end {
            let chunk = rand::random::<u32>() % CHUNKS;
            let block = (rand::random::<u16>() % 16384).min(16384 - blocks) / blocks * blocks;
            id += 1;
            let base = Header { chunk, layer: 1, block, blocks, ..header(Kind::Read, id) };
            let frame = match what.as_str() {
                "read" => Frame::new(base, Bytes::new(), Bytes::new()),
                "flush" => Frame::new(header(Kind::Flush, id), Bytes::new(), Bytes::new()),
                _ => {
                    sequences[chunk as usize] += 1;
                    let sequence = sequences[chunk as usize];
                    Frame::new(Header { kind: Kind::Write, sequence, ..base }, body.clone(), data.clone())
                }
            };
            sent.insert(id, Instant::now());
            link.send(&frame);
        }
        let answer = link.receive();
        assert_ne!(answer.header.kind, Kind::Error, "{}", String::from_utf8_lossy(&answer.body));
        let at = sent.remove(&answer.header.request_id).expect("an answer to a question");
        latencies.push(at.elapsed());
    }
    let elapsed = begin.elapsed();
    let cpu = cpu_us(pid) - cpu_before;
    latencies.sort_unstable();
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_micros();
    println!(
        "{what} depth {depth} blocks {blocks}: {:.0} a second, p50 {} us, p99 {} us, server CPU {:.1} us each",
        latencies.len() as f64 / elapsed.as_secs_f64(),
        at(50),
        at(99),
        cpu as f64 / latencies.len() as f64
    );
}
