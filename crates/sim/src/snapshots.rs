//! Snapshots, rollback and sweeps, and what is known of each node: a volume's blocks are a tree of versions.
//!
//! Which layers are alive, and when what is dead may be freed, follows `yuntai/pangu/snapshot_rules.py` and
//! `yuntai/pangu/sweeper.py`.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::IteratorRandom;
use rand::Rng;
use yuntai_proto::control::ServerRequest;
use yuntai_proto::{LayerId, ServerId, VolumeId, CHUNK_BYTES};
use yuntai_volume::ControlRequest;

use crate::group::BESIDE;
use crate::history::History;
use crate::leader::{Asked, QUIET_US};
use crate::master::Record;
use crate::others::SOURCE;
use crate::unattached::Closing;
use crate::world::{Job, Micros, World};

/// What a frozen node may show: at least what was acknowledged when the record froze it, at most what was asked before a
/// gateway had switched. Once that is known, and durable, it is `sealed`.
pub struct Frozen {
    /// Its disk.
    pub history: History,
    sealed: bool,
    /// What was asked later is in another node: a later gateway began with that, or the volume was rolled back.
    bounded: bool,
}

/// What one leader remembers of a sweep.
#[derive(Default)]
pub struct Sweeping {
    dead_since: BTreeMap<LayerId, Micros>,
    work: Option<Work>,
}

struct Work {
    count: usize,
    parents: Vec<LayerId>,
    live: Vec<LayerId>,
}

impl Record {
    /// Layers that somebody may read as of, or write.
    #[must_use]
    pub fn live(&self) -> BTreeSet<LayerId> {
        self.snapshots.keys().copied().chain([self.head]).collect()
    }

    /// Layers that nobody may, if a clone stands on that one. Layer 0 belongs to the source and is not counted.
    #[must_use]
    pub fn dead(&self, stood: Option<LayerId>) -> Vec<LayerId> {
        let live = self.live();
        let lives = |layer: &LayerId| live.contains(layer) || stood == Some(*layer);
        (1..self.parents.len() as LayerId).filter(|layer| !lives(layer)).collect()
    }
}

impl World {
    /// A snapshot: the transaction, and some time later the gateway hears of it.
    pub fn snapshot(&mut self) {
        if self.pair.as_ref().is_some_and(|pair| pair.pending.is_some()) {
            return; // what is frozen together comes first
        }
        if self.master.records[&self.volume].unfenced {
            return; // its old writer may still write to what is to be frozen
        }
        self.snapshot_record();
        if !self.attached() {
            return self.coverage.hit("a snapshot was taken of what nobody had attached");
        }
        if self.rng.gen_bool(0.7) {
            self.finish_snapshots();
        }
    }

    /// The transaction: the head is frozen, and what it may show is remembered.
    pub(crate) fn snapshot_record(&mut self) {
        self.master.snapshot(self.volume);
        let record = &self.master.records[&self.volume];
        let node = record.parents[record.head as usize];
        let text = format!("node {node} is frozen");
        self.frozen.insert(node, Frozen { history: self.guest.history.clone(), sealed: false, bounded: false });
        self.note(text);
        self.coverage.hit("a snapshot was taken");
    }

    /// Tell the gateway about a head that it may not know.
    pub(crate) fn finish_snapshots(&mut self) {
        if self.finish_group() {
            return;
        }
        let record = &self.master.records[&self.volume];
        if !record.snapshots.values().any(|done| !done) {
            return;
        }
        if !record.attached {
            // Nobody writes. But one whom nobody has fenced may still write to what is to be frozen, and of one that was
            // fenced by a tender only it may be on one replica.
            let head = record.head;
            if !record.unfenced {
                self.snapshots_done(head);
            }
            return;
        }
        let request = ControlRequest::Snapshot { parents: record.parents.clone(), head: record.head };
        self.order_under_lock(self.volume, request);
    }

    /// A gateway that was granted `head` serves, and no older one can write any more: what the nodes below it show was
    /// asked before now, whether or not those who wrote to them ever heard that they are frozen.
    pub(crate) fn bound(&mut self, head: LayerId) {
        for (_, frozen) in self.frozen.range_mut(..head).filter(|(_, frozen)| !frozen.sealed && !frozen.bounded) {
            frozen.bounded = true;
            frozen.history.bound(&self.guest.history);
        }
    }

    /// A gateway writes to `head` now, and what is below it is durable: what the nodes show is settled.
    pub(crate) fn seal(&mut self, head: LayerId) {
        for (_, frozen) in self.frozen.range_mut(..head).filter(|(_, frozen)| !frozen.sealed) {
            frozen.sealed = true;
            if frozen.bounded {
                frozen.history.settle();
            } else {
                frozen.history.seal(&self.guest.history);
            }
        }
    }

    /// The master hears of it: they may be used from now on.
    pub(crate) fn snapshots_done(&mut self, head: LayerId) {
        let record = self.master.records.get_mut(&self.volume).expect("the volume exists");
        record.snapshots.range_mut(..head).for_each(|(_, done)| *done = true);
    }

    /// What was acknowledged and not flushed may be gone.
    pub(crate) fn writes_lost(&mut self) {
        self.guest.history.power_cut();
        self.frozen.values_mut().filter(|frozen| !frozen.sealed).for_each(|frozen| frozen.history.power_cut());
    }

    fn some_snapshot(&mut self) -> Option<LayerId> {
        let record = &self.master.records[&self.volume];
        record.snapshots.iter().filter(|(_, done)| **done).map(|(node, _)| *node).choose(&mut self.rng)
    }

    /// A snapshot is deleted, anywhere in the tree.
    pub(crate) fn delete_snapshot(&mut self) {
        let other = self.other().filter(|_| self.rng.gen_bool(0.4));
        if let Some(other) = other {
            return self.delete_snapshot_of(other);
        }
        let Some(node) = self.some_snapshot() else { return };
        self.note(format!("snapshot {node} is deleted"));
        self.coverage.hit("a snapshot was deleted");
        self.master.records.get_mut(&self.volume).expect("the volume exists").snapshots.remove(&node);
        self.frozen.remove(&node);
    }

    /// The volume is detached, to be rolled back. Whoever has it must be known and serve.
    pub(crate) fn begin_rollback(&mut self) {
        let last = self.gateways.len() - 1;
        if self.pair.is_some() {
            return; // the second volume would not go back with it
        }
        if !self.attached() {
            return self.roll_back();
        }
        if self.seen_gateway(self.volume) != Some(last) || !self.gateways[last].opened || self.some_snapshot().is_none()
        {
            return;
        }
        self.note("the volume is closed to be rolled back".into());
        self.closing = Some((last, Closing::Rollback));
        let delay = self.delay();
        self.after(delay, Job::Order(last, self.of(), 0, ControlRequest::Close));
    }

    /// The record's new head stands on a snapshot; what the old one had is given up.
    pub(crate) fn roll_back(&mut self) {
        let Some(node) = self.some_snapshot() else { return };
        let record = &self.master.records[&self.volume];
        if record.unfenced {
            return;
        }
        if record.holder.is_some() {
            self.coverage.hit("a volume was rolled back under its tender");
        }
        let record = self.master.records.get_mut(&self.volume).expect("the volume exists");
        record.parents.push(node);
        record.head = record.parents.len() as LayerId - 1;
        let text = format!("rolled back to {node}: the head is {}", record.head);
        self.note(text);
        self.untended();
        self.coverage.hit("a volume was rolled back");
        self.bound(LayerId::MAX);
        self.guest.history.roll_back(&self.frozen[&node].history);
    }

    /// The source of a clone that needs none any more is deleted, as `yuntai/pangu/garbage.py` does it: each server that
    /// has a part is asked until it has confirmed.
    pub(crate) fn delete_source(&mut self) {
        let record = &self.master.records[&self.volume];
        let whole = u64::from(record.hydrated_chunks) * CHUNK_BYTES >= record.size_bytes;
        let Some((source, _)) = record.source.filter(|_| whole) else { return };
        if let Some(gone) = self.master.records.remove(&source) {
            self.note("the clone is whole: its source is deleted".into());
            self.coverage.hit("a source was deleted");
            self.master.wanted.remove(&source);
            self.master.deleting = gone.placement.into_iter().flatten().collect();
        }
        let Some(id) = self.master.deleting.iter().copied().choose(&mut self.rng) else { return };
        self.ask_server(id, &ServerRequest::DeleteVolume { volume: source }, Asked::Delete);
    }

    /// The sweeper's turn: one server of a volume that has not swept it is asked.
    pub(crate) fn sweep(&mut self, volume: VolumeId) {
        let stood = self.stood_on(volume);
        let record = &self.master.records[&volume];
        let (dead, parents) = (record.dead(stood), record.parents.clone());
        let live: BTreeSet<LayerId> = record.live().into_iter().chain(stood).collect();
        let holders: BTreeSet<ServerId> = record.placement.iter().flatten().copied().collect();
        let swept = record.swept.clone();
        let now = self.now;
        let sweeping = self.leader.sweeping.entry(volume).or_default();
        let before = std::mem::take(&mut sweeping.dead_since);
        sweeping.dead_since = dead.iter().map(|layer| (*layer, before.get(layer).copied().unwrap_or(now))).collect();
        let young = |layer: &LayerId| now - sweeping.dead_since[layer] < QUIET_US;
        let count = dead.iter().filter(|layer| !young(layer)).count();
        if sweeping.work.is_none() && count > 0 {
            let live = live.into_iter().chain(dead.iter().copied().filter(young)).collect::<BTreeSet<_>>();
            sweeping.work = Some(Work { count, parents, live: live.into_iter().collect() });
        }
        let Some(work) = &sweeping.work else { return };
        let missing = holders.into_iter().filter(|id| swept.get(id).copied().unwrap_or(0) < work.count);
        let Some(id) = missing.choose(&mut self.rng) else {
            sweeping.work = None;
            return;
        };
        let (parents, live, count) = (work.parents.clone(), work.live.clone(), work.count);
        let request = ServerRequest::Sweep { volume, term: self.leader.term, parents, live };
        self.ask_server(id, &request, Asked::Sweep(volume, count));
    }

    /// The node of a source that its clone stands on, while it may read it.
    fn stood_on(&self, volume: VolumeId) -> Option<LayerId> {
        let (source, node) = self.master.records[&self.volume].source?;
        (source == volume && self.master.reads_source(self.volume)).then_some(node)
    }

    /// A server says how far its sweep is.
    pub(crate) fn swept(&mut self, volume: VolumeId, id: ServerId, count: usize, answer: Option<&serde_json::Value>) {
        let Some(answer) = answer.filter(|answer| answer["done"] == true) else { return };
        let Some(record) = self.master.records.get_mut(&volume) else { return };
        if answer["freed_bytes"].as_u64().is_some_and(|bytes| bytes > 0) {
            self.coverage.hit("dead layers were swept");
            match volume {
                SOURCE => self.coverage.hit("dead layers of a source were swept"),
                BESIDE => self.coverage.hit("dead layers of a second volume were swept"),
                _ => {}
            }
        }
        let known = record.swept.entry(id).or_default();
        *known = count.max(*known);
        let placement = &record.placement;
        record.swept.retain(|server, _| placement.iter().any(|replicas| replicas.contains(server)));
    }
}

#[cfg(test)]
mod tests;
