//! Serving: mutations, flushes, reads, and what a peer that pulls from us asks.

use bytes::Bytes;
use yuntai_proto::data::Refusal;
use yuntai_proto::frame::{DATA_BYTES_MAX, FLAG_MORE, FLAG_STATES_ONLY};
use yuntai_proto::{Frame, Header, Kind, Position, BLOCK_BYTES};
use yuntai_store::vfs::Vfs;
use yuntai_store::{LayerKey, Mutation, MutationKind, PlannedRead, ReadBlocks, Staged};

use crate::api::{ConnectionId, Now};
use crate::claims::invalid;
use crate::replica::{Asked, Replica, WaitingVersions};

/// From so many blocks on a single read is better begun in one piece, too.
const LARGE_BLOCKS: u16 = 32;

/// A read on its way.
enum Planned {
    /// It took no time.
    Done(ReadBlocks),
    /// It is known where everything is.
    Blocks(PlannedRead),
}

impl<V: Vfs> Replica<V> {
    /// One request of a peer.
    pub(crate) fn serve(&mut self, connection: ConnectionId, frame: Frame, now: Now) {
        let asked = Asked { connection, header: frame.header };
        let result = match frame.header.kind {
            Kind::Write => self.on_mutation(&asked, frame, MutationKind::Write),
            Kind::Zero => self.on_mutation(&asked, frame, MutationKind::Zero),
            Kind::Fill => self.on_mutation(&asked, frame, MutationKind::Fill),
            Kind::Flush => self.on_flush(&asked),
            Kind::Read | Kind::ReadLayer => {
                self.reads.push(asked);
                Ok(())
            }
            Kind::Claim => self.on_claim(&asked, &frame, now),
            Kind::Layers => self.on_layers(&asked, &frame),
            Kind::Versions => self.on_versions(&asked, now),
            Kind::BeginRebuild => self.on_begin_rebuild(&asked),
            Kind::EndRebuild => self.on_end_rebuild(&asked),
            Kind::Pull => self.on_pull(&asked, &frame, now),
            Kind::Control => self.on_control(&asked, &frame, now),
            other => {
                let refusal = invalid(format!("kind {other:?}: not a request to a chunk server"));
                self.refuse(&asked, &refusal);
                return self.close(connection, "it does not speak as a client does");
            }
        };
        if let Err(refusal) = result {
            self.refuse(&asked, &refusal);
        }
    }

    fn on_mutation(&mut self, asked: &Asked, frame: Frame, kind: MutationKind) -> Result<(), Refusal> {
        let header = &asked.header;
        let claim = self.write_claim_of(asked.connection, header)?;
        if header.layer as usize >= claim.tree.len() {
            return Err(invalid(format!("layer {}: the volume has {}", header.layer, claim.tree.len())));
        }
        let mutation = Mutation {
            kind,
            volume: header.volume,
            chunk: header.chunk,
            layer: header.layer,
            position: Position { generation: header.generation, sequence: header.sequence },
            block: header.block,
            blocks: header.blocks,
            body: frame.body,
            data: frame.data,
        };
        let mut staged = self.store.stage(&mutation)?;
        if staged == Staged::CommitFirst {
            self.commit();
            staged = self.store.stage(&mutation)?;
        }
        debug_assert_ne!(staged, Staged::CommitFirst, "nothing is staged after a commit");
        self.stage_answer(*asked);
        Ok(())
    }

    fn on_flush(&mut self, asked: &Asked) -> Result<(), Refusal> {
        self.write_claim_of(asked.connection, &asked.header)?;
        self.stage_answer(*asked);
        Ok(())
    }

    /// The turn's reads, after its commit.
    pub(crate) fn serve_reads(&mut self) {
        let mut reads = std::mem::take(&mut self.reads);
        reads.retain(|asked| !self.waits_for_map(asked));
        self.serve_together(&reads);
    }

    pub(crate) fn serve_read(&mut self, asked: &Asked) {
        self.serve_together(std::slice::from_ref(asked));
    }

    /// First the disk is told of all of them: they take as long as one.
    fn serve_together(&mut self, reads: &[Asked]) {
        let planned: Vec<_> = reads.iter().map(|asked| self.plan(asked)).collect();
        for (asked, planned) in reads.iter().zip(&planned) {
            if let Ok(Planned::Blocks(planned)) = planned {
                if reads.len() > 1 || asked.header.blocks >= LARGE_BLOCKS {
                    self.store.begin_read(planned);
                }
            }
        }
        for (asked, planned) in reads.iter().zip(planned) {
            let done = planned.and_then(|planned| match planned {
                Planned::Done(blocks) => Ok(blocks),
                Planned::Blocks(planned) => self.store.finish_read(&planned),
            });
            match done {
                Ok(blocks) => {
                    let header = Header { kind: Kind::ReadReply, ..asked.header };
                    self.send(asked.connection, Frame::new(header, blocks.body, blocks.data));
                }
                Err(refusal) => self.refuse(asked, &refusal),
            }
        }
    }

    fn plan(&mut self, asked: &Asked) -> Result<Planned, Refusal> {
        let header = &asked.header;
        let tree = std::sync::Arc::clone(&self.claim_of(asked.connection, header.volume)?.tree);
        let key = LayerKey { volume: header.volume, chunk: header.chunk, layer: header.layer };
        let states_only = header.flags & FLAG_STATES_ONLY != 0;
        if !states_only && header.blocks as usize * BLOCK_BYTES > DATA_BYTES_MAX {
            return Err(invalid(format!("blocks {}: at most {}", header.blocks, DATA_BYTES_MAX / BLOCK_BYTES)));
        }
        Ok(match header.kind {
            Kind::ReadLayer => Planned::Done(self.store.read_layer(key, header.block, header.blocks)?),
            _ if states_only => Planned::Done(self.store.read_states(key, &tree, header.block, header.blocks)?),
            _ => Planned::Blocks(self.store.plan_read(key, &tree, header.block, header.blocks)?),
        })
    }

    fn on_versions(&mut self, asked: &Asked, now: Now) -> Result<(), Refusal> {
        self.claim_of(asked.connection, asked.header.volume)?;
        let until_us = now.us + self.config.versions_wait_us;
        self.waiting_versions.push(WaitingVersions { asked: *asked, until_us });
        Ok(())
    }

    /// Answer those whose chunk has come far enough, and those that have waited long enough.
    pub(crate) fn serve_versions(&mut self, now: Now) {
        for waiting in std::mem::take(&mut self.waiting_versions) {
            let asked = waiting.asked;
            let header = &asked.header;
            let state = self.store.chunk_state(header.volume, header.chunk);
            let sequence = state.map_or(0, |state| state.position.sequence);
            if sequence < header.sequence && now.us < waiting.until_us {
                self.waiting_versions.push(waiting);
                continue;
            }
            let result = if sequence < header.sequence {
                let message = format!("sequence {sequence}: not yet at {}", header.sequence);
                Err(Refusal::Busy { message })
            } else {
                self.versions(&asked)
            };
            match result {
                Ok(frame) => self.send(asked.connection, frame),
                Err(refusal) => self.refuse(&asked, &refusal),
            }
        }
    }

    fn versions(&mut self, asked: &Asked) -> Result<Frame, Refusal> {
        let header = &asked.header;
        self.claim_of(asked.connection, header.volume)?;
        let (reply, next) = self.store.versions(header.volume, header.chunk, header.layer)?;
        let (flags, layer) = next.map_or((0, header.layer), |layer| (FLAG_MORE, layer));
        let header = Header { kind: Kind::VersionsReply, flags, layer, ..*header };
        Ok(Frame::new(header, reply.encode(), Bytes::new()))
    }
}
