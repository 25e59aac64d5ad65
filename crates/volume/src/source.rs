//! Sources: frozen layers of other volumes, read over connections of their own with a read token.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use yuntai_proto::control::Source;
use yuntai_proto::data::{Claim, Refusal};
use yuntai_proto::{
    block_crc, mutant, BlockState, ChunkIndex, Frame, Header, Kind, ServerId, BASE_LAYER, BLOCK_BYTES, CHUNK_BYTES,
};

use crate::api::{Action, LinkId, Micros};
use crate::chunk::{Owner, Payload};
use crate::links::json;
use crate::read::{Purpose, Stage};
use crate::runs::{absent_span, cut, from_reply, overlay, BadReply, Run};
use crate::server::{Asked, Dialer, Link, LinkState};
use crate::volume::{ask_on, refusal_of, LinkOwner, Volume};

/// A read that no server of a source could answer is tried again after this.
const RETRY_US: Micros = 200_000;
/// A connection to a source that takes longer than this to come up is not waited for alone.
const SOON_US: Micros = 300_000;
/// A source's connection that nobody used for this long is closed.
const IDLE_US: Micros = 30_000_000;

/// The connections to one source.
#[derive(Debug)]
pub(crate) struct SourceSide {
    pub dialers: BTreeMap<ServerId, Dialer>,
    pub used_at: Micros,
}

impl SourceSide {
    pub fn new(source: &Source) -> Self {
        let dialers = source.servers.iter().map(|(id, address)| (*id, Dialer::new(address.clone())));
        Self { dialers: dialers.collect(), used_at: 0 }
    }
}

impl Volume {
    pub(crate) fn tick_sources(&mut self) {
        for source in 0..self.sources.len() {
            let ids: Vec<ServerId> = self.sources[source].dialers.keys().copied().collect();
            for id in ids {
                let Some(link) = &self.sources[source].dialers[&id].link else { continue };
                let idle = link.outstanding.is_empty()
                    && link.state == LinkState::Ready
                    && self.now.saturating_sub(self.sources[source].used_at) > IDLE_US;
                if let Some(reason) = link.overdue(self.now, self.awake_since, &self.config) {
                    self.cut_source(source, id, reason);
                } else if idle {
                    self.cut_source(source, id, "idle");
                }
            }
        }
    }

    /// Where the sources are now. A server that is not among a chunk's any more is not asked for it again.
    pub(crate) fn refresh_sources(&mut self, fresh: Vec<Source>) {
        for (index, fresh) in fresh.into_iter().enumerate() {
            let Some(mine) = self.spec.sources.get_mut(index) else { return };
            if mine.volume != fresh.volume || mine.layer != fresh.layer {
                continue;
            }
            for (id, address) in &fresh.servers {
                let dialers = &mut self.sources[index].dialers;
                let known = dialers.entry(*id).or_insert_with(|| Dialer::new(address.clone()));
                known.address.clone_from(address);
            }
            (mine.token, mine.placement, mine.servers) = (fresh.token, fresh.placement, fresh.servers);
        }
    }

    fn cut_source(&mut self, source: usize, id: ServerId, reason: &str) {
        let Some(link) = self.sources[source].dialers[&id].link.as_ref().map(|link| link.id) else { return };
        self.link_owners.remove(&link);
        self.out.push(Action::Drop { link });
        self.source_lost(source, id, reason);
    }

    pub(crate) fn source_lost(&mut self, source: usize, id: ServerId, reason: &str) {
        let Some(dialer) = self.sources[source].dialers.get_mut(&id) else { return };
        let Some(link) = dialer.lost(self.now, &self.config) else { return };
        if !link.outstanding.is_empty() || link.state == LinkState::Connecting {
            self.note(Some(id), None, format!("connection to source {source} lost: {reason}"));
        }
        for one in link.outstanding.into_values() {
            if let Asked::Read { read } = one.asked {
                self.read_failed(id, read);
            }
        }
        self.wake_stalled_reads();
    }

    pub(crate) fn claim_source(&mut self, source: usize, id: ServerId) {
        let (now, session) = (self.now, self.session);
        let request = self.id();
        let spec = &self.spec.sources[source];
        let mut header = Header::new(Kind::Claim, 0);
        header.volume = spec.volume;
        let body = json(&Claim { token: spec.token.clone(), session, parents: spec.parents.clone() });
        let link = self.sources[source].dialers.get_mut(&id).and_then(|dialer| dialer.link.as_mut());
        if let Some(link) = link {
            (link.state, link.since) = (LinkState::Claiming, now);
            self.out.push(ask_on(link, request, now, Asked::Claim, header, body, Bytes::new()));
        }
    }

    pub(crate) fn on_source_frame(&mut self, source: usize, id: ServerId, frame: &Frame) {
        let now = self.now;
        let link = self.sources[source].dialers.get_mut(&id).and_then(|dialer| dialer.link.as_mut());
        let Some(link) = link else { return };
        let Some(one) = link.outstanding.remove(&frame.header.request_id) else {
            return self.cut_source(source, id, "it answered something that was not asked");
        };
        link.unanswered_bytes -= one.bytes;
        match (one.asked, frame.header.kind) {
            (Asked::Claim, Kind::ClaimReply) => {
                (link.state, link.since) = (LinkState::Ready, now);
                self.sources[source].used_at = now;
                self.wake_stalled_reads();
            }
            (Asked::Read { read }, Kind::ReadReply) => {
                self.counters.source_us.add(now - one.sent_at);
                let background = |job: &crate::read::ReadJob| matches!(job.purpose, Purpose::Hydrate(_));
                if self.reads.get(&read).is_some_and(background) {
                    self.copying_took(now - one.sent_at);
                }
                self.on_source_reply(id, read, frame);
            }
            (Asked::Read { read }, Kind::Error) => {
                let refusal = refusal_of(frame);
                self.note(Some(id), None, format!("source {source} refused a read: {refusal}"));
                if let Refusal::Denied { .. } = refusal {
                    self.cut_source(source, id, "its claim is not valid any more");
                }
                self.read_failed(id, read);
            }
            (asked, kind) => {
                let why = if kind == Kind::Error { refusal_of(frame).to_string() } else { format!("{kind:?}") };
                let text = format!("it answered {asked:?} with {why}");
                self.cut_source(source, id, &text);
            }
        }
    }

    /// Ask source `index`, or the next one, or give up and take what is absent everywhere as zeros.
    pub(crate) fn dispatch_source(&mut self, id: u64, mut index: usize) {
        loop {
            let job = &self.reads[&id];
            let span = job.runs.as_deref().and_then(absent_span);
            let (Some((first, end)), Some(source)) = (span, self.spec.sources.get(index)) else {
                return self.finish_read(id);
            };
            let number = job.chunk as usize;
            let start = u64::from(job.chunk) * CHUNK_BYTES + ((job.block + first) * BLOCK_BYTES) as u64;
            if number >= source.placement.len() || start >= source.size_bytes {
                index += 1;
                let job = self.reads.get_mut(&id).expect("just seen");
                (job.stage, job.tried) = (Stage::Source(index), Vec::new());
                continue;
            }
            return self.ask_source(id, index, first, end - first);
        }
    }

    fn ask_source(&mut self, id: u64, index: usize, first: usize, blocks: usize) {
        let job = &self.reads[&id];
        let mut candidates: Vec<ServerId> = self.spec.sources[index].placement[job.chunk as usize]
            .iter()
            .copied()
            .filter(|server| !job.tried.contains(server) && self.sources[index].dialers.contains_key(server))
            .collect();
        // Each volume begins with another one, so that many made from one source do not all ask the same server.
        if !candidates.is_empty() {
            let turn = (self.spec.volume ^ u64::from(job.chunk)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
            let turn = turn as usize % candidates.len();
            candidates.rotate_left(turn);
        }
        self.sources[index].used_at = self.now;
        if let Some(server) = candidates.first().copied() {
            let dialer = &self.sources[index].dialers[&server];
            if dialer.link.is_none() && dialer.backoff_us == 0 {
                self.dial_source(index, server);
            }
        }
        let dialers = &self.sources[index].dialers;
        let ready = candidates.iter().copied().find(|server| dialers[server].ready());
        let Some(server) = ready else {
            let now = self.now;
            let soon = |link: &Link| now.saturating_sub(link.since) < SOON_US;
            let coming = candidates.iter().any(|server| dialers[server].link.as_ref().is_some_and(soon));
            let idle = |server: &ServerId| dialers[server].link.is_none() && dialers[server].retry_at <= now;
            // The one that failed least comes first.
            let due = candidates.iter().copied().filter(idle).min_by_key(|server| dialers[server].backoff_us);
            if let (false, Some(server)) = (coming, due) {
                self.dial_source(index, server);
            }
            if candidates.is_empty() {
                self.reads.get_mut(&id).expect("just seen").tried.clear();
            }
            self.stalled_reads.push((now + RETRY_US, id));
            return;
        };
        let (spec, job) = (&self.spec.sources[index], &self.reads[&id]);
        let mut header = Header::new(Kind::Read, 0);
        (header.volume, header.layer, header.chunk) = (spec.volume, spec.layer, job.chunk);
        (header.block, header.blocks) = ((job.block + first) as u16, blocks as u16);
        let (request, now) = (self.id(), self.now);
        let link = self.sources[index].dialers.get_mut(&server).and_then(|dialer| dialer.link.as_mut());
        let link = link.expect("a ready dialer has a link");
        self.out.push(ask_on(link, request, now, Asked::Read { read: id }, header, Bytes::new(), Bytes::new()));
    }

    fn dial_source(&mut self, index: usize, server: ServerId) {
        let link = LinkId(self.id());
        let now = self.now;
        let dialer = self.sources[index].dialers.get_mut(&server).expect("the caller looked it up");
        dialer.link = Some(Link::new(link, now));
        let address = dialer.address.clone();
        self.link_owners.insert(link, LinkOwner::Source(index, server));
        self.out.push(Action::Connect { link, server, address });
    }

    fn on_source_reply(&mut self, server: ServerId, id: u64, frame: &Frame) {
        let Some(job) = self.reads.get_mut(&id) else { return };
        let Stage::Source(index) = job.stage else { return };
        let own = job.runs.take().unwrap_or_default();
        let Some((first, end)) = absent_span(&own) else { return };
        match from_reply(frame, end - first, true) {
            Ok(found) => {
                let mut at = 0;
                for run in &own {
                    if run.state == BlockState::Absent {
                        let lacking = cut(&found, at.max(first) - first, at + run.blocks - first);
                        collect_fills(&lacking, job.block + at, &mut job.fills);
                    }
                    at += run.blocks;
                }
                job.runs = Some(overlay(&own, &found, first));
                job.stage = Stage::Source(index + 1);
                job.tried.clear();
                self.dispatch_source(id, index + 1);
            }
            Err(bad) => {
                job.runs = Some(own);
                if let BadReply::Damaged { .. } = bad {
                    self.counters.damaged_blocks += 1;
                }
                self.note(Some(server), None, format!("bad answer from source {index}: {bad:?}"));
                self.read_failed(server, id);
            }
        }
    }

    /// Keep what a source had: a numbered mutation of the base layer, touching only what is absent there.
    pub(crate) fn fill(&mut self, number: ChunkIndex, fills: Vec<(usize, Vec<Run>)>, purpose: Purpose) {
        let hydrate = match purpose {
            Purpose::Hydrate(piece) => Some(piece),
            Purpose::Piece(_) | Purpose::Merge(_) => None,
        };
        for (block, runs) in fills {
            let blocks: usize = runs.iter().map(|run| run.blocks).sum();
            let bytes = (blocks * BLOCK_BYTES) as u64;
            // What finds no room is left to the next reader or to background copying.
            let kept = self.keeps_copies() && self.chunks[number as usize].serving;
            if hydrate.is_none() && !(kept && self.background.begin(bytes, self.now)) {
                continue;
            }
            self.counters.filled_blocks += blocks as u64;
            let mut states = BytesMut::with_capacity(blocks * 5);
            let mut crcs = BytesMut::with_capacity(blocks * 4);
            let mut data = BytesMut::with_capacity(blocks * BLOCK_BYTES);
            for run in &runs {
                states.put_bytes(run.state as u8, run.blocks);
                if run.state == BlockState::Data {
                    run.data.chunks_exact(BLOCK_BYTES).for_each(|block| crcs.put_u32_le(block_crc(block)));
                    data.put_slice(&run.data);
                } else {
                    crcs.put_bytes(0, run.blocks * 4);
                }
            }
            states.unsplit(crcs);
            let (body, data) = (states.freeze(), data.freeze());
            let mut payload =
                Payload { kind: Kind::Fill, layer: BASE_LAYER, block, blocks, body, data, durable: false };
            if mutant::is("a fill overwrites what the guest wrote") && payload.data.len() == blocks * BLOCK_BYTES {
                let body = crate::mutate::checksums(&payload.data);
                payload = Payload { kind: Kind::Write, layer: self.head(), body, ..payload };
            }
            self.sequence(number, payload, Owner::Fill { hydrate, blocks });
        }
    }
}

/// Runs of present blocks become fills. Zeros are not kept for themselves: once a chunk is hydrated, what is absent
/// reads as zeros anyway, and a chunk without data shall cost no space.
fn collect_fills(found: &[Run], block: usize, fills: &mut Vec<(usize, Vec<Run>)>) {
    let mut at = block;
    for run in found {
        if run.state == BlockState::Data {
            fills.push((at, vec![run.clone()]));
        }
        at += run.blocks;
    }
}
