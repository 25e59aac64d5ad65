//! The real program: started, asked, killed, started again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use yuntai_proto::auth::{sign_token, Rights, Token};
use yuntai_proto::control::ServerRequest;
use yuntai_proto::data::{Claim, ClaimReply, Pull};
use yuntai_proto::handshake::{json_body, json_frame, ClientHandshake, ClientStep};
use yuntai_proto::order::{sign_order, Order};
use yuntai_proto::{block_crc, Frame, Header, Kind, BLOCK_BYTES};

const CLUSTER: [u8; 32] = [0x11; 32];
const TOKEN: [u8; 32] = [0x22; 32];
const VOLUME: u64 = 0x77;
/// Everything that is waited for comes within this, or the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("yuntai-chunkserver-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("cluster"), "11".repeat(32)).unwrap();
        std::fs::write(path.join("token"), format!("{}\n", "22".repeat(32))).unwrap();
        Self(path)
    }

    fn config(&self, server: u32) -> PathBuf {
        self.config_on(server, ANY_PORT)
    }

    fn config_on(&self, server: u32, listen: &str) -> PathBuf {
        let path = self.0.join(format!("cs-{server}.json"));
        let config = serde_json::json!({
            "server": server, "path": self.0.join(format!("disk-{server}")), "listen": listen,
            "cluster_secret_file": self.0.join("cluster"), "token_secret_file": self.0.join("token"),
        });
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The server chooses a port that is free: what it listens on stands in its log.
const ANY_PORT: &str = "127.0.0.1:0";

struct Server {
    child: Child,
    listen: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&Path]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yuntai-chunkserver"));
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "the server does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Exit code and last words of a start that must fail.
fn failing(arguments: &[&Path]) -> (i32, String) {
    let mut child = command(arguments).spawn().unwrap();
    let code = wait(&mut child).code().expect("it ends by itself");
    let mut words = String::new();
    child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    (code, words)
}

impl Server {
    fn start(arguments: &[&Path]) -> Self {
        let mut child = command(arguments).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, receiver) = channel();
        // Read to its end, so that the server never waits for somebody to take its log.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if let (Some("serving"), Some(listen)) = (line["message"].as_str(), line["listen"].as_str()) {
                    let _ = sender.send(listen.to_owned());
                }
            }
        });
        let mut server = Self { child, listen: String::new() };
        let listening = receiver.recv_timeout(PATIENCE);
        server.listen = listening.unwrap_or_else(|_| panic!("not listening: {:?}", server.child.try_wait()));
        server
    }

    fn terminate(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        wait(&mut self.child)
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        wait(&mut self.child);
    }
}

struct Link {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Link {
    fn connect(listen: &str) -> Self {
        let stream = TcpStream::connect(listen).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: BytesMut::new() }
    }

    fn open(listen: &str, secret: &[u8]) -> Result<Self, String> {
        let mut link = Self::connect(listen);
        let mut handshake = ClientHandshake::new(secret, "gateway:test", [7; 32]);
        loop {
            let frame = link.receive().ok_or("closed")?;
            match handshake.on_frame(&frame).map_err(|error| error.to_string())? {
                ClientStep::Send(frame) => link.send(&frame),
                ClientStep::Done { .. } => return Ok(link),
            }
        }
    }

    fn send(&mut self, frame: &Frame) {
        let bytes = [&frame.header.encode()[..], &frame.body, &frame.data].concat();
        self.stream.write_all(&bytes).unwrap();
    }

    /// `None`: the other side closed.
    fn receive(&mut self) -> Option<Frame> {
        let mut piece = [0; 65536];
        loop {
            if let Some(frame) = Frame::parse(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the server says nothing: {error}"),
            }
        }
    }

    fn ask(&mut self, frame: &Frame) -> Frame {
        self.send(frame);
        let answer = self.receive().expect("an answer");
        assert_ne!(answer.header.kind, Kind::Error, "{}", String::from_utf8_lossy(&answer.body));
        answer
    }

    fn claim(&mut self, generation: u64) -> ClaimReply {
        let claim = Claim { token: token(Rights::Write, generation), session: 1, parents: vec![0, 0] };
        json_body(&self.ask(&json_frame(header(Kind::Claim, generation), &claim))).unwrap()
    }
}

fn token(rights: Rights, generation: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    sign_token(&TOKEN, &Token { volume: VOLUME, rights, generation, expires_unix_s: now + 60 })
}

fn header(kind: Kind, generation: u64) -> Header {
    Header { volume: VOLUME, generation, ..Header::new(kind, 1) }
}

fn plain(header: Header) -> Frame {
    Frame::new(header, Bytes::new(), Bytes::new())
}

fn write(generation: u64, sequence: u64, block: u16, byte: u8) -> Frame {
    let data = Bytes::from(vec![byte; BLOCK_BYTES]);
    let body = Bytes::copy_from_slice(&block_crc(&data).to_le_bytes());
    Frame::new(Header { sequence, layer: 1, block, blocks: 1, ..header(Kind::Write, generation) }, body, data)
}

fn read(block: u16) -> Frame {
    plain(Header { layer: 1, block, blocks: 1, ..header(Kind::Read, 1) })
}

#[test]
fn what_was_flushed_outlives_kill_9_and_what_was_written_outlives_sigterm() {
    let folder = Folder::new("kill");
    let config = folder.config(1);
    let server = Server::start(&[&config]);
    let mut link = Link::open(&server.listen, &CLUSTER).unwrap();
    assert!(link.claim(1).chunks.is_empty());
    for sequence in 1..=200u64 {
        link.ask(&write(1, sequence, sequence as u16, sequence as u8));
    }
    link.ask(&plain(header(Kind::Flush, 1)));
    server.kill();
    let server = Server::start(&[&config]);
    let mut link = Link::open(&server.listen, &CLUSTER).unwrap();
    assert_eq!(link.claim(2).chunks[0].position.sequence, 200);
    link.ask(&write(2, 201, 7, 99));
    assert!(server.terminate().success());
    let server = Server::start(&[&config]);
    let mut link = Link::open(&server.listen, &CLUSTER).unwrap();
    assert_eq!(link.claim(3).chunks[0].position.sequence, 201);
    assert_eq!(link.ask(&read(7)).data, vec![99; BLOCK_BYTES]);
    assert_eq!(link.ask(&read(150)).data, vec![150; BLOCK_BYTES]);
    drop(server);
}

#[test]
fn one_server_pulls_from_another() {
    let folder = Folder::new("pull");
    let source_server = Server::start(&[&folder.config(1)]);
    let target_server = Server::start(&[&folder.config(2)]);
    let there = source_server.listen.clone();
    let mut source = Link::open(&there, &CLUSTER).unwrap();
    let mut target = Link::open(&target_server.listen, &CLUSTER).unwrap();
    source.claim(1);
    target.claim(1);
    for sequence in 1..=300u64 {
        source.ask(&write(1, sequence, sequence as u16 * 3, sequence as u8));
    }
    target.ask(&plain(Header { sequence: 301, ..header(Kind::BeginRebuild, 1) }));
    let pull = Pull {
        source: there,
        token: token(Rights::Read, 0),
        min_sequence: 300,
        bytes_per_s_max: 0,
        accept_loss: false,
    };
    target.ask(&json_frame(header(Kind::Pull, 1), &pull));
    target.ask(&plain(Header { sequence: 300, ..header(Kind::EndRebuild, 1) }));
    for block in [3, 300, 897, 898] {
        let (left, right) = (source.ask(&read(block)), target.ask(&read(block)));
        assert_eq!((left.body, left.data), (right.body, right.data));
    }
}

#[test]
fn strangers_get_nothing() {
    let folder = Folder::new("strangers");
    let server = Server::start(&[&folder.config(1)]);
    let listen = &server.listen;
    assert!(Link::open(listen, &[0; 32]).is_err());
    // One that talks before it has proved itself, one that talks nonsense, one that claims a huge body.
    let huge = Header { body_len: 1 << 20, ..Header::new(Kind::Auth, 1) }.encode();
    for noise in [&read(0).header.encode()[..], &[0xff; 200], &huge] {
        let mut link = Link::connect(listen);
        // It may be cut before it has said everything.
        let _ = link.stream.write_all(noise);
        let begin = Instant::now();
        while link.receive().is_some() {}
        assert!(begin.elapsed() < Duration::from_secs(3), "a stranger is heard too long");
    }
    // One that says nothing is cut too.
    let mut silent = Link::connect(listen);
    assert_eq!(silent.receive().unwrap().header.kind, Kind::Challenge);
    assert!(silent.receive().is_none());
    // And all the time those who know the secret are served.
    Link::open(listen, &CLUSTER).unwrap().claim(1);
}

#[test]
fn what_cannot_be_started_says_why() {
    let folder = Folder::new("config");
    let good = folder.config(1);
    assert_eq!(failing(&[]).0, 2);
    assert_eq!(failing(&[&folder.0.join("missing.json")]).0, 2);

    let (code, words) = failing(&[&folder.config_on(3, "0.0.0.0:1")]);
    assert_eq!(code, 2);
    assert!(words.contains("listen") && words.contains("allow_any_address"), "{words}");

    let text = std::fs::read_to_string(&good).unwrap();
    let typo = folder.0.join("typo.json");
    std::fs::write(&typo, text.replace("\"listen\"", "\"lisen\"")).unwrap();
    let (code, words) = failing(&[&typo]);
    assert!(code == 2 && words.contains("lisen"), "{words}");

    let server = Server::start(&[&good]);
    let (code, words) = failing(&[&good]);
    assert!(code == 3 && words.contains("locked"), "{words}");
    assert!(server.terminate().success());

    let other = folder.0.join("other.json");
    std::fs::write(&other, text.replace("\"server\":1", "\"server\":9")).unwrap();
    let (code, words) = failing(&[&other]);
    assert!(code == 4 && words.contains("belongs to chunk server 1"), "{words}");

    let superblock = folder.0.join("disk-1/superblock");
    let mut bytes = std::fs::read(&superblock).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&superblock, &bytes).unwrap();
    let (code, words) = failing(&[&good]);
    assert!(code == 4 && words.contains("damaged"), "{words}");
}

#[test]
fn the_clouds_own_file_starts_it_too() {
    let folder = Folder::new("cloud");
    let path = folder.0.join("yuntai.json");
    let config = serde_json::json!({
        "cluster": "lab", "address": "127.0.0.1", "secrets_dir": folder.0,
        "chunkservers": [{ "id": 4, "rack": "rack-1", "port": 0, "path": folder.0.join("disk") }],
    });
    std::fs::write(&path, config.to_string()).unwrap();
    let server = Server::start(&[Path::new("--config"), &path, Path::new("--id"), Path::new("4")]);
    let mut link = Link::open(&server.listen, &CLUSTER).unwrap();
    // The cloud's servers wait for a master's word.
    let claim = Claim { token: token(Rights::Write, 1), session: 1, parents: vec![0, 0] };
    link.send(&json_frame(header(Kind::Claim, 1), &claim));
    assert_eq!(link.receive().unwrap().header.kind, Kind::Error);
    let status: serde_json::Value =
        json_body(&link.ask(&json_frame(header(Kind::Control, 0), &serde_json::json!({"op": "status"})))).unwrap();
    let store = status["ok"]["store"].as_str().unwrap().to_owned();
    let unsigned = json_frame(header(Kind::Control, 0), &ServerRequest::Admit { store: store.clone() });
    let refused: serde_json::Value = json_body(&link.ask(&unsigned)).unwrap();
    assert!(refused["error"].as_str().unwrap().contains("must come as an order"), "{refused}");
    let order = Order {
        server: 4,
        run: status["ok"]["run"].as_str().unwrap().to_owned(),
        term: 1,
        issued_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
        nonce: "1".to_owned(),
        request: ServerRequest::Admit { store },
    };
    let admit = ServerRequest::Order { order: sign_order(&TOKEN, &order) };
    link.ask(&json_frame(header(Kind::Control, 0), &admit));
    link.claim(1);
    let (code, words) = failing(&[Path::new("--config"), &path, Path::new("--id"), Path::new("5")]);
    assert!(code == 2 && words.contains("no server 5"), "{words}");
}
