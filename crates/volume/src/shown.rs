//! What a guest may only read: the store works on it all the same, under a generation of its own.

use yuntai_proto::control::Upkeep;
use yuntai_proto::{mutant, ChunkIndex};

use crate::volume::Volume;

impl Volume {
    /// It holds the generation at the servers: for its guest's writes, or, where the guest only reads, for the store's own
    /// work.
    pub(crate) fn is_writer(&self) -> bool {
        !self.spec.read_only || self.spec.upkeep.is_some()
    }

    /// What is read from sources is kept.
    pub(crate) fn keeps_copies(&self) -> bool {
        self.spec.upkeep.as_ref().map_or(!self.spec.read_only, |upkeep| upkeep.hydrate)
    }

    /// The guest may read the chunk. One whole in-sync replica is enough for a layer that is frozen: it was durable on
    /// all of them, as it is for ever, before it was called so, and nothing that comes later changes it. The head is
    /// another matter, also where nobody writes it now: the replica that is away may hold the last writer's unacknowledged
    /// writes, and the chunk may still go on with them.
    pub(crate) fn is_readable(&self, number: ChunkIndex) -> bool {
        let chunk = &self.chunks[number as usize];
        let upkeep = self.spec.upkeep.as_ref().filter(|_| self.spec.read_only);
        let frozen = |upkeep: &Upkeep| upkeep.head != self.spec.head || mutant::is("a head is shown from one replica");
        let frozen = upkeep.is_some_and(frozen);
        chunk.serving || frozen && self.serving() && chunk.required & chunk.whole != 0
    }
}
