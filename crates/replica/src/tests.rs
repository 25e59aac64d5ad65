//! The chunk server over a disk in memory: a few peers, a clock in the hand.

use std::collections::VecDeque;

use bytes::Bytes;
use yuntai_proto::auth::{sign_token, Rights, Token};
use yuntai_proto::data::{Claim, ClaimReply, Refusal};
use yuntai_proto::handshake::{json_body, json_frame};
use yuntai_proto::{block_crc, Frame, Header, Kind, BLOCK_BYTES};
use yuntai_store::vfs::memory::MemVfs;
use yuntai_store::{Options, Store, Unlinked};

use crate::{Action, Config, ConnectionId, DialId, Event, Now, Replica};

mod claims;
mod mutants;
mod pulls;
mod serving;
mod tending;
mod working;
mod writing;

const SECRET: &[u8] = &[5; 32];
const VOLUME: u64 = 0x77;
const UNIX_S: u64 = 1_800_000_000;

/// A server, what it wants done, and what it has sent.
struct Server {
    vfs: MemVfs,
    replica: Replica<MemVfs>,
    now_us: u64,
    sent: VecDeque<(ConnectionId, Frame)>,
    closed: Vec<ConnectionId>,
    dials: Vec<(DialId, String)>,
    /// Syncs and checkpoints wait here until the test lets them run.
    jobs: Vec<Action<MemVfs>>,
    died: Option<String>,
    unlinked: Vec<Unlinked<MemVfs>>,
    run_jobs: bool,
}

fn options() -> Options {
    let default = Options::new(1, [9; 16]);
    Options { segment_bytes: 256 << 10, journal_bytes_max: 2 << 20, write_apart_bytes_min: usize::MAX, ..default }
}

impl Server {
    fn new() -> Self {
        Self::over(MemVfs::new())
    }

    fn over(vfs: MemVfs) -> Self {
        let store = Store::open(vfs.clone(), options()).unwrap();
        Self::of(vfs, store)
    }

    fn of(vfs: MemVfs, store: Store<MemVfs>) -> Self {
        let config = Config { checkpoint_bytes: 1 << 20, ..Config::new(1, SECRET) };
        let replica = Replica::new(config, store, Now { us: 0, unix_s: UNIX_S });
        Self {
            vfs,
            replica,
            now_us: 0,
            sent: VecDeque::new(),
            closed: Vec::new(),
            dials: Vec::new(),
            jobs: Vec::new(),
            died: None,
            unlinked: Vec::new(),
            run_jobs: true,
        }
    }

    fn now(&self) -> Now {
        Now { us: self.now_us, unix_s: UNIX_S + self.now_us / 1_000_000 }
    }

    fn event(&mut self, event: Event<MemVfs>) {
        self.replica.apply(event, self.now());
        self.turn();
    }

    fn turn(&mut self) {
        loop {
            for action in self.replica.turn(self.now()) {
                match action {
                    Action::Send { connection, frame } => self.sent.push_back((connection, frame)),
                    Action::Close { connection, .. } => self.closed.push(connection),
                    Action::Dial { dial, address } => self.dials.push((dial, address)),
                    Action::Die { reason } => self.died = Some(reason),
                    Action::Drop(unlinked) => self.unlinked.push(*unlinked),
                    job => self.jobs.push(job),
                }
            }
            if !self.run_jobs || self.jobs.is_empty() {
                return;
            }
            let job = self.jobs.remove(0);
            self.run(job);
        }
    }

    fn run(&mut self, job: Action<MemVfs>) {
        let now = self.now();
        match job {
            Action::Write(job) => {
                // Somebody may have needed it done before.
                job.help();
                self.replica.apply(Event::Written(job), now);
            }
            Action::Sync(ticket) => {
                let result = ticket.run();
                self.replica.apply(Event::Synced { ticket, result }, now);
            }
            Action::Checkpoint(mut job) => {
                let result = loop {
                    match job.step() {
                        Ok(true) => break Ok(()),
                        Ok(false) => {}
                        Err(error) => break Err(error),
                    }
                };
                self.replica.apply(Event::Checkpointed { job, result }, now);
            }
            Action::Work(mut job) => {
                let result = loop {
                    match job.step() {
                        Ok(true) => break Ok(()),
                        Ok(false) => {}
                        Err(error) => break Err(error),
                    }
                };
                self.replica.apply(Event::Worked { job, result }, now);
            }
            _ => panic!("not a job"),
        }
    }

    /// Run what waits, once.
    fn run_waiting(&mut self) {
        for job in std::mem::take(&mut self.jobs) {
            self.run(job);
        }
        self.turn();
    }

    fn open(&mut self, connection: ConnectionId) {
        self.event(Event::Opened { connection, name: format!("gateway:{connection}") });
    }

    fn frame(&mut self, connection: ConnectionId, frame: Frame) {
        self.event(Event::Frame { connection, frame });
    }

    /// Send a frame and take the one answer.
    fn ask(&mut self, connection: ConnectionId, frame: Frame) -> Frame {
        self.frame(connection, frame);
        let (to, answer) = self.sent.pop_front().expect("an answer");
        assert_eq!(to, connection);
        assert!(self.sent.is_empty(), "one answer only");
        answer
    }

    fn claim(&mut self, connection: ConnectionId, generation: u64, session: u64) -> Result<ClaimReply, Refusal> {
        let answer = self.ask(connection, claim(&write_token(generation), session, &[0, 0]));
        match answer.header.kind {
            Kind::ClaimReply => Ok(json_body(&answer).unwrap()),
            _ => Err(refusal(&answer)),
        }
    }
}

fn token(volume: u64, rights: Rights, generation: u64, expires_unix_s: u64) -> String {
    sign_token(SECRET, &Token { volume, rights, generation, expires_unix_s })
}

fn write_token(generation: u64) -> String {
    token(VOLUME, Rights::Write, generation, UNIX_S + 60)
}

fn read_token() -> String {
    token(VOLUME, Rights::Read, 0, UNIX_S + 60)
}

fn header(kind: Kind) -> Header {
    Header { volume: VOLUME, generation: 1, ..Header::new(kind, 42) }
}

fn claim(token: &str, session: u64, parents: &[u32]) -> Frame {
    let body = Claim { token: token.to_owned(), session, parents: parents.to_vec() };
    json_frame(header(Kind::Claim), &body)
}

fn plain(header: Header) -> Frame {
    Frame::new(header, Bytes::new(), Bytes::new())
}

fn write(generation: u64, chunk: u32, sequence: u64, block: u16, byte: u8, blocks: u16) -> Frame {
    let data = Bytes::from(vec![byte; BLOCK_BYTES * blocks as usize]);
    let crcs: Vec<u8> = data.chunks(BLOCK_BYTES).flat_map(|block| block_crc(block).to_le_bytes()).collect();
    let header = Header { generation, chunk, sequence, layer: 1, block, blocks, ..header(Kind::Write) };
    Frame::new(header, Bytes::from(crcs), data)
}

fn read(chunk: u32, block: u16, blocks: u16) -> Frame {
    plain(Header { chunk, layer: 1, block, blocks, ..header(Kind::Read) })
}

fn refusal(frame: &Frame) -> Refusal {
    assert_eq!(frame.header.kind, Kind::Error, "{frame:?}");
    json_body(frame).unwrap()
}

fn is_ack(frame: &Frame) -> bool {
    assert_eq!(frame.header.kind, Kind::Ack, "{}", String::from_utf8_lossy(&frame.body));
    true
}
