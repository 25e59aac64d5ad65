//! Connections between gateways and servers, and between servers: in order and whole, as TCP gives them, with delays,
//! cuts in either direction, and breaks that each side learns of at its own time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use yuntai_proto::{Frame, ServerId};

/// Who can be at an end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A gateway, by the order of their beginnings.
    Gateway(usize),
    /// A chunk server.
    Server(ServerId),
    /// The master.
    Master,
}

/// A connection's number, the same at both ends.
pub type ConnId = u64;

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who dialed.
    Dialer,
    /// Who was dialed.
    Acceptor,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Side::Dialer => Side::Acceptor,
            Side::Acceptor => Side::Dialer,
        }
    }
}

/// What arrives at an end.
pub enum Parcel {
    /// A frame.
    Frame(Frame),
    /// The news that the connection is gone.
    Closed,
}

struct Conn {
    ends: [Node; 2],
    queues: [VecDeque<Parcel>; 2],
    alive: [bool; 2],
}

/// The way is cut: try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut;

/// Every connection, and which directions are cut.
#[derive(Default)]
pub struct Net {
    conns: BTreeMap<ConnId, Conn>,
    next: ConnId,
    cuts: BTreeSet<(Node, Node)>,
    frozen: BTreeSet<Node>,
    rough: BTreeSet<(Node, Node)>,
}

impl Net {
    /// A new connection; nobody knows of it yet.
    pub fn connect(&mut self, dialer: Node, acceptor: Node) -> ConnId {
        self.next += 1;
        let conn = Conn { ends: [dialer, acceptor], queues: Default::default(), alive: [true; 2] };
        self.conns.insert(self.next, conn);
        self.next
    }

    /// Who is at an end.
    #[must_use]
    pub fn end(&self, conn: ConnId, side: Side) -> Option<Node> {
        self.conns.get(&conn).map(|found| found.ends[side as usize])
    }

    /// Put something on its way to an end; false if that end is gone.
    pub fn send(&mut self, conn: ConnId, to: Side, parcel: Parcel) -> bool {
        let Some(found) = self.conns.get_mut(&conn) else { return false };
        if !found.alive[to as usize] {
            return false;
        }
        found.queues[to as usize].push_back(parcel);
        true
    }

    /// Can anything get from `from` to `to` now?
    #[must_use]
    pub fn passes(&self, from: Node, to: Node) -> bool {
        !self.cuts.contains(&(from, to)) && !self.frozen.contains(&from) && !self.frozen.contains(&to)
    }

    /// The next thing that arrives at an end; none if there is nothing or the end is gone.
    ///
    /// # Errors
    /// [`Cut`].
    pub fn arrive(&mut self, conn: ConnId, at: Side) -> Result<Option<Parcel>, Cut> {
        let Some(found) = self.conns.get(&conn) else { return Ok(None) };
        if !found.alive[at as usize] {
            return Ok(None);
        }
        if !self.passes(found.ends[at.other() as usize], found.ends[at as usize]) {
            return Err(Cut);
        }
        let found = self.conns.get_mut(&conn).expect("looked up above");
        let parcel = found.queues[at as usize].pop_front();
        if matches!(parcel, Some(Parcel::Closed)) {
            found.alive[at as usize] = false;
        }
        Ok(parcel)
    }

    /// One end lets go: nothing arrives there any more. True if the other end is still to be told.
    pub fn let_go(&mut self, conn: ConnId, side: Side) -> bool {
        let Some(found) = self.conns.get_mut(&conn) else { return false };
        found.alive[side as usize] = false;
        found.queues[side as usize].clear();
        found.alive[side.other() as usize]
    }

    /// Drop what is under way to an end: the connection broke in the middle.
    pub fn lose_in_flight(&mut self, conn: ConnId, to: Side) {
        if let Some(found) = self.conns.get_mut(&conn) {
            found.queues[to as usize].clear();
        }
    }

    /// Connections that have `node` at an end that still stands, with that end's side.
    #[must_use]
    pub fn of(&self, node: Node) -> Vec<(ConnId, Side)> {
        let sides = [Side::Dialer, Side::Acceptor];
        self.conns
            .iter()
            .flat_map(|(id, conn)| sides.map(|side| (*id, side, conn.ends[side as usize], conn.alive[side as usize])))
            .filter(|(_, _, end, alive)| *end == node && *alive)
            .map(|(id, side, _, _)| (id, side))
            .collect()
    }

    /// Nothing gets from `from` to `to` until [`Net::heal`].
    pub fn cut(&mut self, from: Node, to: Node) {
        self.cuts.insert((from, to));
    }

    /// The way is free again.
    pub fn heal(&mut self, from: Node, to: Node) {
        self.cuts.remove(&(from, to));
    }

    /// From now on frames between these two are lost, doubled and swapped. TCP would not let that through; nothing may
    /// break all the same.
    pub fn roughen(&mut self, one: Node, other: Node) {
        self.rough.insert((one, other));
    }

    /// The connections of these two are TCP's again.
    pub fn smooth(&mut self, one: Node, other: Node) {
        self.rough.remove(&(one, other));
    }

    /// Is a frame to this end in danger?
    #[must_use]
    pub fn is_rough(&self, conn: ConnId, to: Side) -> bool {
        let Some(found) = self.conns.get(&conn).filter(|_| !self.rough.is_empty()) else { return false };
        let (from, to) = (found.ends[to.other() as usize], found.ends[to as usize]);
        self.rough.contains(&(from, to)) || self.rough.contains(&(to, from))
    }

    /// The last two frames that are on their way to an end change places.
    pub fn swap_last(&mut self, conn: ConnId, to: Side) {
        let Some(queue) = self.conns.get_mut(&conn).map(|found| &mut found.queues[to as usize]) else { return };
        if let Some(last) = queue.len().checked_sub(1).filter(|last| *last > 0) {
            queue.swap(last, last - 1);
        }
    }

    /// A process stops in the middle of everything (SIGSTOP).
    pub fn freeze(&mut self, node: Node) {
        self.frozen.insert(node);
    }

    /// It goes on.
    pub fn thaw(&mut self, node: Node) {
        self.frozen.remove(&node);
    }

    /// Is it stopped?
    #[must_use]
    pub fn is_frozen(&self, node: Node) -> bool {
        self.frozen.contains(&node)
    }

    /// Everything is whole again.
    pub fn heal_all(&mut self) {
        self.cuts.clear();
        self.frozen.clear();
        self.rough.clear();
    }

    /// Forget connections of which both ends are gone.
    pub fn sweep(&mut self) {
        self.conns.retain(|_, conn| conn.alive[0] || conn.alive[1]);
    }
}
