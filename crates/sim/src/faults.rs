//! What goes wrong, and when it is over.

use rand::seq::SliceRandom;
use rand::Rng;
use yuntai_proto::ServerId;

use crate::net::{Node, Side};
use crate::world::{Job, Micros, World};

/// A fault that lasts.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Nothing gets from one to the other.
    Cut(Node, Node),
    /// A process stands still.
    Frozen(Node),
    /// A server's process does not run.
    Down(ServerId),
    /// No gateway runs.
    NoGateway,
    /// The disk of a server is full.
    Full(ServerId),
}

const FAULT_EVERY_US: std::ops::Range<Micros> = 50_000..1_500_000;

impl World {
    fn some_server(&mut self) -> ServerId {
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        *ids.choose(&mut self.rng).expect("there are servers")
    }

    fn how_long(&mut self) -> Micros {
        match self.rng.gen_range(0..3) {
            0 => self.rng.gen_range(1_000..100_000),
            1 => self.rng.gen_range(100_000..1_500_000),
            _ => self.rng.gen_range(1_500_000..6_000_000),
        }
    }

    /// Something goes wrong now, and the next thing later.
    pub fn begin_fault(&mut self) {
        if !self.faulty {
            return;
        }
        let next = self.rng.gen_range(FAULT_EVERY_US);
        self.after(next, Job::Fault);
        let gateway = Node::Gateway(self.gateways.len() - 1);
        let id = self.some_server();
        let server = Node::Server(id);
        match self.rng.gen_range(0..100) {
            0..=11 => self.break_connections(gateway, server),
            12..=21 => self.last(Fault::Cut(gateway, server)),
            22..=29 => self.last(Fault::Cut(server, gateway)),
            30..=39 => self.last(Fault::Frozen(server)),
            40..=51 => self.last(Fault::Down(id)),
            52..=61 if !self.flipping => self.lose_power(id),
            62..=66 => self.last(Fault::NoGateway),
            67..=73 => self.move_away(),
            74..=77 if !self.flipping => self.lose_all_power(),
            78..=85 => self.snapshot(),
            86..=89 => self.last(Fault::Cut(gateway, Node::Master)),
            90..=93 => self.last(Fault::Cut(Node::Server(self.servers.len() as ServerId), server)),
            94..=95 => self.last(Fault::Full(id)),
            96..=97 => self.fail_once(id),
            _ if self.flipping => self.flip_a_bit(),
            _ => self.last(Fault::Down(id)),
        }
    }

    fn last(&mut self, fault: Fault) {
        self.note(format!("fault {fault:?}"));
        match fault {
            Fault::Cut(from, to) => self.net.cut(from, to),
            Fault::Frozen(node) => self.net.freeze(node),
            Fault::Down(id) => {
                self.stop_server(id);
                let disk = self.servers[&id].disk.restart();
                self.servers.get_mut(&id).expect("a server of this world").disk = disk;
            }
            Fault::NoGateway => self.kill_gateway(self.gateways.len() - 1),
            Fault::Full(id) => {
                let disk = &self.servers[&id].disk;
                let used: u64 = disk.files().iter().map(|(_, bytes)| bytes).sum();
                disk.set_capacity(Some(used));
            }
        }
        let time = self.how_long();
        self.after(time, Job::Heal(fault));
    }

    /// A fault is over.
    pub fn end_fault(&mut self, fault: &Fault) {
        self.note(format!("healed {fault:?}"));
        match *fault {
            Fault::Cut(from, to) => self.net.heal(from, to),
            Fault::Frozen(node) => self.net.thaw(node),
            Fault::Down(id) => self.start_server(id),
            Fault::NoGateway => {
                if self.gateways.last().is_some_and(|gateway| gateway.volume.is_none()) {
                    self.open_gateway(Vec::new());
                }
            }
            Fault::Full(id) => self.servers[&id].disk.set_capacity(None),
        }
    }

    fn break_connections(&mut self, one: Node, other: Node) {
        self.note(format!("fault: connections of {one:?} and {other:?} break"));
        for (conn, side) in self.net.of(one) {
            if self.net.end(conn, side.other()) == Some(other) {
                self.net.lose_in_flight(conn, side);
                self.net.lose_in_flight(conn, side.other());
                for each in [Side::Dialer, Side::Acceptor] {
                    if self.net.send(conn, each, crate::net::Parcel::Closed) {
                        let delay = self.rng.gen_range(10..5_000);
                        self.after(delay, Job::Arrive(conn, each));
                    }
                }
            }
        }
    }

    /// The power of one server is cut: of what it had not synced, anything may be lost or torn.
    pub fn lose_power(&mut self, id: ServerId) {
        self.note(format!("fault: power cut of server {id}"));
        self.stop_server(id);
        let disk = self.servers[&id].disk.clone();
        let after = disk.crash(&mut |n| self.rng.gen_range(0..n));
        self.servers.get_mut(&id).expect("a server of this world").disk = after;
        self.coverage.hit("a server lost unsynced writes");
        self.lossy.insert(id);
        self.lost_at = self.now;
        if self.lossy.len() >= 2 {
            self.guest.history.power_cut();
        }
        let time = self.how_long();
        self.after(time, Job::Heal(Fault::Down(id)));
    }

    fn lose_all_power(&mut self) {
        self.coverage.hit("the power of everything was cut");
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.lose_power(id));
        self.kill_gateway(self.gateways.len() - 1);
        let time = self.how_long();
        self.after(time, Job::Heal(Fault::NoGateway));
    }

    /// The volume is opened elsewhere while the old gateway is cut off from the master and does not know.
    fn move_away(&mut self) {
        let old = self.gateways.len() - 1;
        if self.gateways[old].opened {
            self.coverage.hit("an old gateway was still alive at an open");
        }
        self.last(Fault::Cut(Node::Gateway(old), Node::Master));
        self.open_gateway(Vec::new());
    }

    fn fail_once(&mut self, id: ServerId) {
        let disk = &self.servers[&id].disk;
        let at = disk.operations() + self.rng.gen_range(1..40);
        self.note(format!("fault: an operation of server {id} will fail"));
        self.servers[&id].disk.fail_at(at, std::io::ErrorKind::Other);
    }

    /// A bit of the first server's chunk files flips. Always of the same server, and never in a run in which others lose
    /// unsynced writes: a disk with three replicas survives any damage to one of them, not to the only one that has a block.
    fn flip_a_bit(&mut self) {
        let id = *self.servers.keys().next().expect("there are servers");
        let files: Vec<(String, u64)> = self.servers[&id]
            .disk
            .files()
            .into_iter()
            .filter(|(name, len)| name.starts_with("volumes/") && *len > 0)
            .collect();
        let Some((name, len)) = files.choose(&mut self.rng) else { return };
        // Files are sparse: look for a byte that is there.
        for _ in 0..200 {
            let (offset, bit) = (self.rng.gen_range(0..*len), self.rng.gen_range(0..8));
            if self.servers[&id].disk.flip_bit(name, offset, bit) {
                self.note(format!("fault: bit {bit} of byte {offset} of {name} of server {id} flips"));
                return;
            }
        }
    }
}
