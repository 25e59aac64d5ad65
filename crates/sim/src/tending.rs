//! What the leader does besides: it has damage looked for and healed (`yuntai/pangu/healing.py`), and volumes grow
//! (`yuntai/pangu/volumes.py`, `resize`).

use rand::seq::SliceRandom;
use rand::Rng;
use yuntai_proto::control::{ServerRequest, ServerStatus};
use yuntai_proto::{ChunkIndex, ServerId};
use yuntai_volume::ControlRequest;

use crate::leader::Asked;
use crate::net::Node;
use crate::world::{Job, World, RETRY_US};

const CHUNKS_MAX: u32 = 4;

impl World {
    /// Some server is asked how it is, now and then to look at its whole disk.
    pub(crate) fn look_after(&mut self) {
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        // In runs with flipped bits it is the first one's disk that they flip on.
        let id = if self.flipping { ids[0] } else { *ids.choose(&mut self.rng).expect("there are servers") };
        if self.rng.gen_bool(0.3) {
            self.ask_server(id, &ServerRequest::Scrub {}, Asked::Scrub);
        }
        self.ask_server(id, &ServerRequest::Status {}, Asked::Status);
    }

    /// What is damaged of replicas that the record names is to be healed by the gateway.
    pub(crate) fn heal_damage(&mut self, id: ServerId, status: Option<&serde_json::Value>) {
        let status = status.and_then(|status| serde_json::from_value::<ServerStatus>(status.clone()).ok());
        let placement = &self.master.records[&self.volume].placement;
        let placed = |chunk: ChunkIndex| placement.get(chunk as usize).is_some_and(|replicas| replicas.contains(&id));
        let damaged = status.map(|status| status.damaged).unwrap_or_default();
        let chunks: Vec<ChunkIndex> =
            damaged.iter().filter(|one| one.volume == self.volume && placed(one.chunk)).map(|one| one.chunk).collect();
        self.leader.damaged = !chunks.is_empty();
        if let (false, Some(index)) = (chunks.is_empty(), self.seen_gateway(self.volume)) {
            self.coverage.hit("healing was asked for");
            let delay = self.delay();
            self.after(delay, Job::Order(index, self.of(), 0, ControlRequest::Heal { server: id, chunks }));
        }
    }

    /// The volume grows by a chunk: in the record at once, at the gateway when it hears of it.
    pub(crate) fn grow(&mut self) {
        let record = &self.master.records[&self.volume];
        let (chunks, stale) = (record.placement.len(), record.stale.clone());
        let mut usable: Vec<ServerId> = self.servers.keys().copied().filter(|id| !stale.contains(id)).collect();
        usable.retain(|id| self.master.draining != Some(*id));
        usable.shuffle(&mut self.rng);
        if usable.len() < 3 || chunks >= CHUNKS_MAX as usize {
            return;
        }
        self.note(format!("the volume grows by a chunk on {:?}", &usable[..3]));
        self.coverage.hit("a volume grew");
        self.master.grow(self.volume, usable[..3].to_vec());
        if self.rng.gen_bool(0.7) {
            self.tell_size();
        }
    }

    /// Tell the gateway of a size that it does not know yet.
    pub(crate) fn tell_size(&mut self) {
        let record = &self.master.records[&self.volume];
        let Some(index) = self.seen_gateway(self.volume) else { return };
        let served = self.gateways[index].volume.as_ref().expect("it is open").spec().size_bytes;
        if served < record.size_bytes {
            let (size, placement) = (record.size_bytes, record.placement.clone());
            let delay = self.delay();
            self.after(delay, Job::Grow(index, size, placement));
        }
    }

    /// As the gateway's shell makes a `Reopen` of a `Resize`.
    pub(crate) fn told_size(&mut self, index: usize, size_bytes: u64, placement: Vec<Vec<ServerId>>) {
        if !self.net.passes(Node::Master, Node::Gateway(index)) {
            return self.after(RETRY_US, Job::Grow(index, size_bytes, placement));
        }
        let Some(volume) = &self.gateways[index].volume else { return };
        let mut spec = volume.spec().clone();
        (spec.size_bytes, spec.placement) = (size_bytes, placement);
        spec.servers.extend(self.master.addresses());
        let request = ControlRequest::Reopen(Box::new(spec));
        self.gateway_event(index, yuntai_volume::Event::Control { id: 0, request });
    }
}
