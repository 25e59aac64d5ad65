//! The volumes beside the guest's: the second one, which has a writer on the guest's host, and a clone's source, which
//! nobody attaches. They are moved and swept as well. The source is tended for that, and its clone is told where its
//! replicas are before what they leave is dropped (rule 6 of `yuntai/pangu/holdings.py`).

use rand::seq::IteratorRandom;
use rand::Rng;
use yuntai_proto::{ServerId, VolumeId};
use yuntai_volume::ControlRequest;

use crate::gateway::Beside;
use crate::group::BESIDE;
use crate::unattached::IDLE_TURNS;
use crate::world::{Job, World};

/// The source.
pub const SOURCE: VolumeId = 1;
/// Its clone, which the guest uses in such a run.
pub const CLONE: VolumeId = 2;

impl World {
    /// The volume beside the guest's, if there is one that a gateway can have.
    pub(crate) fn other(&self) -> Option<VolumeId> {
        let other = if self.pair.is_some() { BESIDE } else { SOURCE };
        (other != self.volume && self.master.records.contains_key(&other)).then_some(other)
    }

    /// One of the volumes that gateways have.
    pub(crate) fn some_volume(&mut self) -> VolumeId {
        self.other().filter(|_| self.rng.gen_bool(0.4)).unwrap_or(self.volume)
    }

    /// A snapshot of it is deleted: also one that a clone stands on, which lives on without being in the list.
    pub(crate) fn delete_snapshot_of(&mut self, other: VolumeId) {
        let record = self.master.records.get_mut(&other).expect("it was asked for just now");
        let done = record.snapshots.iter().filter(|(_, done)| **done);
        let Some(node) = done.map(|(node, _)| *node).choose(&mut self.rng) else { return };
        record.snapshots.remove(&node);
        self.note(format!("snapshot {node} of volume {other} is deleted"));
        self.coverage.hit("a snapshot was deleted");
    }

    /// The leader's turn at the source: it is tended where the guest's volume is open, in a place of its own.
    pub(crate) fn tend_source(&mut self) {
        if self.other() != Some(SOURCE) {
            return;
        }
        let work = self.has_work(SOURCE);
        let last = self.gateways.len().checked_sub(1);
        let seen = self.seen_gateway(SOURCE);
        match self.master.records[&SOURCE].holder {
            None if work => {
                let Some(last) = last.filter(|last| self.gateways[*last].volume.is_some()) else { return };
                self.note(format!("gateway {last} tends the source"));
                self.coverage.hit("a source was tended");
                self.leader.source_idle = 0;
                let (spec, session) = (self.master.grant(SOURCE, Vec::new()), self.rng.gen());
                let host = self.gateways[last].host;
                self.master.records.get_mut(&SOURCE).expect("it is there").holder = Some(host);
                self.hang_up_beside(last);
                self.gateways[last].beside = Beside::new(spec, session);
            }
            None => {}
            Some(_) if seen.is_none() => self.source_untended(),
            Some(_) if work => self.leader.source_idle = 0,
            Some(_) => {
                self.leader.source_idle += 1;
                if self.leader.source_idle >= IDLE_TURNS {
                    self.source_untended();
                    let (index, delay) = (seen.expect("looked at above"), self.delay());
                    let of = (SOURCE, self.master.records[&SOURCE].generation);
                    self.after(delay, Job::Order(index, of, 0, ControlRequest::Close));
                }
            }
        }
    }

    fn source_untended(&mut self) {
        self.master.records.get_mut(&SOURCE).expect("it is there").holder = None;
    }

    /// What a source's tender left open when another one takes its place on the host.
    fn hang_up_beside(&mut self, index: usize) {
        let links: Vec<_> = self.gateways[index].beside.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.drop_beside(index, link));
    }

    /// A server has dropped a source's chunk: nobody who may still read it may believe that it is there.
    pub(crate) fn check_readers(&mut self, id: ServerId, chunk: u32) {
        if self.other() != Some(SOURCE) || !self.master.reads_source(self.volume) {
            return;
        }
        let Some(index) = self.seen_gateway(self.volume) else { return };
        let spec = self.gateways[index].volume.as_ref().expect("it is seen").spec();
        let asks = |source: &yuntai_proto::control::Source| source.placement[chunk as usize].contains(&id);
        if spec.sources.iter().any(asks) {
            self.wrong.push(format!("server {id} dropped chunk {chunk} of the source, where the clone still reads it"));
        }
    }
}
