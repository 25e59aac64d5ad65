//! What goes wrong, and when it is over.

use rand::seq::SliceRandom;
use rand::Rng;
use yuntai_proto::ServerId;

use crate::gateway::Gateway;
use crate::mix::Kind;
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
    /// Nobody has the volume attached.
    Detached,
    /// The disk of a server is full.
    Full(ServerId),
    /// The disk of a server takes its time.
    Slow(ServerId),
    /// Frames between two are lost, doubled and swapped.
    Rough(Node, Node),
}

impl World {
    fn some_server(&mut self) -> ServerId {
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        *ids.choose(&mut self.rng).expect("there are servers")
    }

    pub(crate) fn how_long(&mut self) -> Micros {
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
        let next = self.rng.gen_range(self.mix.every_us.clone());
        self.after(next, Job::Fault);
        let gateway = Node::Gateway(self.gateways.len() - 1);
        let (id, other) = (self.some_server(), self.some_server());
        let server = Node::Server(id);
        match self.mix.next(&mut self.rng) {
            Kind::Break => self.break_connections(gateway, server),
            Kind::CutTo => self.last(Fault::Cut(gateway, server)),
            Kind::CutFrom => self.last(Fault::Cut(server, gateway)),
            Kind::CutBoth => {
                self.last(Fault::Cut(gateway, server));
                self.last(Fault::Cut(server, gateway));
            }
            Kind::CutMaster if self.rng.gen_bool(0.7) => self.last(Fault::Cut(gateway, Node::Master)),
            Kind::CutMaster => self.last(Fault::Cut(Node::Master, gateway)),
            Kind::CutPeers => self.last(Fault::Cut(Node::Server(other), server)),
            Kind::Rough => self.last(Fault::Rough(gateway, server)),
            Kind::Freeze => self.last(Fault::Frozen(server)),
            Kind::FreezeGateway => self.last(Fault::Frozen(gateway)),
            Kind::Clocks => self.jump_clocks(id),
            Kind::Kill => self.last(Fault::Down(id)),
            Kind::KillAll => self.kill_all(),
            Kind::NoGateway => self.last(Fault::NoGateway),
            Kind::MoveAway => self.move_away(),
            Kind::Twin => self.begin_again(),
            Kind::Power => self.lose_power(id),
            Kind::PowerOfHost => self.lose_host(id),
            Kind::PowerOfAll => self.lose_all_power(),
            Kind::Full => self.last(Fault::Full(id)),
            Kind::Slow => self.last(Fault::Slow(id)),
            Kind::Fail => self.fail_once(id),
            Kind::Flip => self.flip_a_bit(),
            Kind::Snapshot => self.snapshot(),
            Kind::Group => self.snapshot_group(),
            Kind::Delete => self.delete_snapshot(),
            Kind::Rollback => self.begin_rollback(),
            Kind::Detach => self.begin_detach(),
            Kind::Grow => self.grow(),
            Kind::Elect => self.elect(),
            Kind::Drain => self.drain(id),
            Kind::CutControl if self.rng.gen_bool(0.5) => self.last(Fault::Cut(Node::Master, server)),
            Kind::CutControl => self.last(Fault::Cut(server, Node::Master)),
        }
    }

    pub(crate) fn last(&mut self, fault: Fault) {
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
            Fault::Detached => {}
            Fault::Full(id) => {
                let disk = &self.servers[&id].disk;
                let used: u64 = disk.files().iter().map(|(_, bytes)| bytes).sum();
                disk.set_capacity(Some(used));
            }
            Fault::Slow(id) => self.servers.get_mut(&id).expect("a server of this world").slow = true,
            Fault::Rough(one, other) => self.net.roughen(one, other),
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
                let gone = self.gateways.last().is_some_and(|gateway| gateway.volume.is_none());
                if gone && self.attached() {
                    self.open_gateway(Vec::new());
                } else if gone {
                    self.untended();
                }
            }
            Fault::Detached => self.attach(),
            Fault::Full(id) => self.servers[&id].disk.set_capacity(None),
            Fault::Slow(id) => self.servers.get_mut(&id).expect("a server of this world").slow = false,
            Fault::Rough(one, other) => self.net.smooth(one, other),
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
        // Sometimes nearly everything had reached the platter, sometimes nearly nothing.
        let (all, none) = (self.rng.gen_bool(0.3), self.rng.gen_bool(0.2));
        let after = disk.crash(&mut |n| match self.rng.gen_bool(0.95) {
            true if all => n - 1,
            true if none => 0,
            _ => self.rng.gen_range(0..n),
        });
        self.servers.get_mut(&id).expect("a server of this world").disk = after;
        self.coverage.hit("a server lost unsynced writes");
        self.lossy.insert(id);
        self.lost_at = self.now;
        if self.lossy.len() >= 2 {
            self.writes_lost();
        }
        let time = self.how_long();
        self.after(time, Job::Heal(Fault::Down(id)));
    }

    fn lose_all_power(&mut self) {
        self.coverage.hit("the power of everything was cut");
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.lose_power(id));
        // All of it: a former gateway that lived on would give out answers of servers that remember nothing of them.
        (0..self.gateways.len() - 1).for_each(|index| self.kill_gateway(index));
        self.last(Fault::NoGateway);
    }

    /// The power of a host is cut that has the gateway and a server on it.
    fn lose_host(&mut self, id: ServerId) {
        self.coverage.hit("a host with gateway and server was lost");
        self.lose_power(id);
        self.last(Fault::NoGateway);
    }

    /// Every process is killed at once and begun again: what was written stays, synced or not.
    fn kill_all(&mut self) {
        self.coverage.hit("every process was killed at once");
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.last(Fault::Down(id)));
        self.last(Fault::NoGateway);
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

    /// The gateway's process is begun again while the first still runs, both with the same generation: a supervisor that
    /// lost sight of it. The servers let in only one session of a generation.
    fn begin_again(&mut self) {
        let old = self.gateways.len() - 1;
        let record = &self.master.records[&self.volume];
        let speaks = self.gateways[old].generation == record.generation && record.holder.is_some();
        if self.pair.is_some() || !self.gateways[old].opened || !speaks {
            return;
        }
        self.note(format!("fault: gateway {old} is begun again beside itself"));
        self.coverage.hit("two gateways had one generation");
        let (spec, session) = (self.master.describe(self.volume, Vec::new()), self.rng.gen());
        let mut gateway = Gateway::new(spec, session);
        gateway.tends = self.gateways[old].tends;
        self.add_gateway_at(self.gateways[old].host, gateway);
        let time = self.how_long();
        self.after(time, Job::Heal(Fault::NoGateway));
    }

    /// A server is to be emptied; or the one that was to be need not.
    fn drain(&mut self, id: ServerId) {
        if let Some(before) = self.master.draining.take() {
            let placement = &self.master.records[&self.volume].placement;
            if placement.iter().all(|replicas| !replicas.contains(&before)) {
                self.coverage.hit("a server was drained");
            }
        } else {
            let joining = self.master.wanted(self.volume).first().map(|one| one.to).filter(|_| self.rng.gen_bool(0.5));
            self.master.draining = Some(joining.unwrap_or(id));
        }
        self.note(format!("draining: {:?}", self.master.draining));
    }

    fn jump_clocks(&mut self, id: ServerId) {
        self.coverage.hit("a clock jumped");
        let ahead = self.rng.gen_range(0..5_000_000);
        let wall = self.rng.gen_range(-100_000_000..100_000_000);
        self.note(format!("fault: clocks of server {id} jump by {ahead} µs and {wall} s"));
        let clock = &mut self.servers.get_mut(&id).expect("a server of this world").clock;
        (clock.ahead_us, clock.wall_s) = (clock.ahead_us + ahead, wall);
        let ahead = self.rng.gen_range(0..5_000_000);
        self.gateways.last_mut().expect("there is one").ahead_us += ahead;
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
        let Some((name, _)) = files.choose(&mut self.rng) else { return };
        let Some(sector) = self.servers[&id].disk.sectors(name).choose(&mut self.rng).copied() else { return };
        let (offset, bit) = (sector + self.rng.gen_range(0..512), self.rng.gen_range(0..8));
        if self.servers[&id].disk.flip_bit(name, offset, bit) {
            self.note(format!("fault: bit {bit} of byte {offset} of {name} of server {id} flips"));
        }
    }
}
