//! What servers are given and what they want done.

use std::sync::Arc;

use rand::Rng;
use yuntai_proto::ServerId;
use yuntai_replica::{Action as ServerAction, Event as ServerEvent, WorkJob};
use yuntai_store::vfs::memory::MemVfs;
use yuntai_store::{CheckpointJob, SyncTicket, WriteJob};

use crate::faults::Fault;
use crate::net::{Node, Side};
use crate::world::{Dialer, Job, World, RETRY_US};

const SERVER_TICK_US: u64 = 50_000;
const START_AGAIN_US: u64 = 200_000;
const FAILED_STARTS_MAX: u32 = 60;

impl World {
    /// Start a server's process.
    pub fn start_server(&mut self, id: ServerId) {
        let now = self.now;
        let server = self.servers.get_mut(&id).expect("a server of this world");
        if server.replica.is_some() {
            return;
        }
        if let Err(error) = server.start(now) {
            // A disk that fails once, or is full for some seconds: a supervisor starts it again, and it must come up.
            server.failed_starts += 1;
            server.disk = server.disk.restart();
            if server.failed_starts > FAILED_STARTS_MAX {
                self.wrong.push(format!("server {id} does not start again: {error}"));
            }
            self.note(format!("server {id} does not start: {error}"));
            self.after(START_AGAIN_US, Job::Heal(Fault::Down(id)));
            return;
        }
        server.failed_starts = 0;
        self.turning.remove(&id);
        let incarnation = server.incarnation;
        if let Err(error) = server.check_fence(self.volume) {
            self.wrong.push(error);
        }
        self.after(SERVER_TICK_US, Job::ServerTick(id, incarnation));
    }

    /// End a server's process at once; its connections break.
    pub fn stop_server(&mut self, id: ServerId) {
        self.servers.get_mut(&id).expect("a server of this world").replica = None;
        self.hang_up(Node::Server(id));
    }

    /// All connections of a process that is gone break; what it had sent may or may not still arrive.
    pub fn hang_up(&mut self, node: Node) {
        for (conn, side) in self.net.of(node) {
            if self.rng.gen_bool(0.5) {
                self.net.lose_in_flight(conn, side.other());
            }
            self.close(conn, side);
        }
    }

    /// A server is given an event. Sometimes it has more of them before it ends its turn, as a busy event loop has.
    pub(crate) fn server_event(&mut self, id: ServerId, event: ServerEvent<MemVfs>) {
        let now = self.now;
        let server = self.servers.get_mut(&id).expect("a server of this world");
        server.apply(event, now);
        let incarnation = server.incarnation;
        if !self.turning.contains(&id) {
            let busy = self.rng.gen_bool(0.15);
            if !busy {
                return self.end_turn(id, incarnation);
            }
            self.turning.insert(id);
            let delay = self.rng.gen_range(10..1_000);
            self.after(delay, Job::Turn(id, incarnation));
        }
    }

    pub(crate) fn end_turn(&mut self, id: ServerId, incarnation: u64) {
        self.turning.remove(&id);
        let now = self.now;
        let server = self.servers.get_mut(&id).expect("a server of this world");
        if server.incarnation != incarnation {
            return;
        }
        for action in server.turn(now) {
            match action {
                ServerAction::Send { connection, frame } => {
                    let to = match self.net.end(connection, Side::Acceptor) {
                        Some(Node::Server(acceptor)) if acceptor == id => Side::Dialer,
                        _ => Side::Acceptor,
                    };
                    self.post(connection, to, frame);
                }
                ServerAction::Close { connection, reason } => {
                    self.note(format!("server {id} closes {connection}: {reason}"));
                    let side = match self.net.end(connection, Side::Acceptor) {
                        Some(Node::Server(acceptor)) if acceptor == id => Side::Acceptor,
                        _ => Side::Dialer,
                    };
                    self.close(connection, side);
                }
                ServerAction::Write(job) => {
                    // Some take long enough for much to happen meanwhile.
                    let usual = if self.rng.gen_ratio(1, 8) { 2_000..60_000 } else { 50..2_000 };
                    let delay = self.disk_delay(id, usual);
                    self.after(delay, Job::Write(id, incarnation, job));
                }
                ServerAction::Sync(ticket) => {
                    let delay = self.disk_delay(id, 100..4_000);
                    self.after(delay, Job::Synced(id, incarnation, ticket));
                }
                ServerAction::Checkpoint(job) => {
                    let delay = self.disk_delay(id, 50..1_000);
                    self.after(delay, Job::Checkpoint(id, incarnation, job));
                }
                ServerAction::Drop(unlinked) => drop(unlinked),
                ServerAction::Work(job) => {
                    let delay = self.rng.gen_range(50..2_000);
                    self.after(delay, Job::Work(id, incarnation, job));
                }
                ServerAction::Dial { dial, address } => {
                    let peer: ServerId = address.trim_start_matches("sim:").parse().expect("addresses of this world");
                    let conn = self.net.connect(Node::Server(id), Node::Server(peer));
                    let delay = self.delay();
                    self.after(delay, Job::Establish(conn, Dialer::Pull(id, incarnation, dial)));
                }
                ServerAction::Die { reason } => {
                    self.note(format!("server {id} ends itself: {reason}"));
                    self.coverage.hit("a server ended itself");
                    self.stop_server(id);
                    let disk = self.servers[&id].disk.restart();
                    self.servers.get_mut(&id).expect("a server of this world").disk = disk;
                    self.after(300_000, Job::Heal(Fault::Down(id)));
                    return;
                }
            }
        }
    }

    pub(crate) fn written(&mut self, id: ServerId, incarnation: u64, job: Arc<WriteJob<MemVfs>>) {
        if !self.is_current(id, incarnation) {
            self.coverage.hit("a process ended while data was written in place");
            return;
        }
        if self.net.is_frozen(Node::Server(id)) {
            self.after(RETRY_US, Job::Write(id, incarnation, job));
            return;
        }
        self.coverage.hit("data was written in place beside the turns");
        // Somebody may have needed it done before.
        job.help();
        self.server_event(id, ServerEvent::Written(job));
    }

    pub(crate) fn synced(&mut self, id: ServerId, incarnation: u64, ticket: SyncTicket<MemVfs>) {
        if !self.is_current(id, incarnation) {
            return;
        }
        if self.net.is_frozen(Node::Server(id)) {
            self.after(RETRY_US, Job::Synced(id, incarnation, ticket));
            return;
        }
        let result = ticket.run();
        self.server_event(id, ServerEvent::Synced { ticket, result });
    }

    pub(crate) fn work(&mut self, id: ServerId, incarnation: u64, mut job: Box<WorkJob<MemVfs>>) {
        if !self.is_current(id, incarnation) {
            return;
        }
        if self.net.is_frozen(Node::Server(id)) {
            self.after(RETRY_US, Job::Work(id, incarnation, job));
            return;
        }
        match job.step() {
            Ok(false) => {
                let delay = self.rng.gen_range(20..500);
                self.after(delay, Job::Work(id, incarnation, job));
            }
            result => {
                let result = result.map(|_| ());
                self.server_event(id, ServerEvent::Worked { job, result });
            }
        }
    }

    pub(crate) fn checkpoint(&mut self, id: ServerId, incarnation: u64, mut job: Box<CheckpointJob<MemVfs>>) {
        if !self.is_current(id, incarnation) {
            return;
        }
        if self.net.is_frozen(Node::Server(id)) {
            self.after(RETRY_US, Job::Checkpoint(id, incarnation, job));
            return;
        }
        match job.step() {
            Ok(false) => {
                let delay = self.disk_delay(id, 20..2_000);
                self.after(delay, Job::Checkpoint(id, incarnation, job));
            }
            result => {
                self.coverage.hit("a checkpoint ended");
                if job.gave_back() {
                    self.coverage.hit("room kept for writing in place was given back");
                }
                if job.moved() {
                    self.coverage.hit("blocks that lay in both halves were brought together");
                }
                let result = result.map(|_| ());
                self.server_event(id, ServerEvent::Checkpointed { job, result });
            }
        }
    }
}
