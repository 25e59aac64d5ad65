//! One run: work under faults, then heal, then look whether everything is there.

use std::collections::BTreeSet;

use rand::Rng;
use yuntai_proto::control::ServerRequest;
use yuntai_proto::{LayerId, Position, ServerId, CHUNK_BYTES};
use yuntai_store::LayerKey;
use yuntai_volume::{ControlRequest, Event, GuestData, GuestError, GuestRequest};

use crate::coverage::Coverage;
use crate::gateway::{Beside, Gateway};
use crate::group::{Pair, BESIDE, PAIR};
use crate::history::History;
use crate::leader::Asked;
use crate::master::Record;
use crate::others::{CLONE, SOURCE};
use crate::world::{Job, Micros, World};

/// Three replicas of each chunk, and sometimes servers that have none.
const SERVERS_MIN: ServerId = 3;
const SERVERS_MAX: ServerId = 5;
const CHUNKS: u32 = 2;
const GUEST_EVERY_US: std::ops::Range<Micros> = 100..6_000;
const UNANSWERED_MAX: usize = 12;
/// How long everything may take to come back once all is healed.
const RECOVERY_US: Micros = 180_000_000;
/// The request is there, and the first piece is being looked at.
const SCRUB_US: Micros = 1_000_000;
const MOUNTS_MAX: usize = 3;

/// A run that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed: the same code fails in the same way again.
    pub seed: u64,
    /// What went wrong.
    pub wrong: String,
    /// The last things that happened.
    pub log: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.log.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        writeln!(out, "seed {} failed: {}", self.seed, self.wrong)
    }
}

/// Run one seed.
///
/// # Errors
/// What the checkers found.
pub fn run(seed: u64) -> Result<Coverage, Box<Failure>> {
    let mut world = World::new(seed, servers_of(seed));
    match whole(&mut world) {
        Ok(()) => Ok(world.coverage),
        Err(wrong) => Err(Box::new(Failure { seed, wrong, log: world.log.into_iter().collect() })),
    }
}

fn servers_of(seed: u64) -> ServerId {
    match seed / 4 % 4 {
        0 => SERVERS_MIN,
        1 => SERVERS_MIN + 1,
        _ => SERVERS_MAX,
    }
}

/// Run one seed among peers of which some lie: for panics only.
pub fn run_among_liars(seed: u64) {
    let mut world = World::new(seed, servers_of(seed));
    world.liars = true;
    drop(whole(&mut world));
}

fn whole(world: &mut World) -> Result<(), String> {
    world.volume = SOURCE;
    world.master.create(SOURCE, CHUNKS, None);
    if world.rng.gen_bool(0.5) {
        let history = make_source(world)?;
        world.master.create(CLONE, CHUNKS, Some((SOURCE, 1)));
        world.guest.history = history;
        world.volume = CLONE;
        world.servers.values_mut().for_each(|server| server.fence = 0);
        world.elect();
    }
    if world.rng.gen_bool(0.2) {
        world.master.create(BESIDE, 1, None);
        world.pair = Some(Pair::default());
        world.after(0, Job::Pair);
    }
    if world.volume == CLONE && world.pair.is_none() && world.rng.gen_bool(0.4) {
        world.begin_unattached();
    } else {
        world.open_gateway(Vec::new());
    }
    work(world)?;
    heal(world)?;
    check_everything(world)
}

/// Fill the source in peace, freeze it, and let it go; what its first node shows. Sometimes it goes on after that, so that
/// something of it can be swept under the clone.
fn make_source(world: &mut World) -> Result<History, String> {
    world.open_gateway(Vec::new());
    fill_source(world, 40)?;
    let history = world.guest.history.clone();
    for _ in 0..world.rng.gen_range(0..3) {
        freeze_source(world)?;
        fill_source(world, 15)?;
    }
    let last = world.gateways.len() - 1;
    world.master.snapshot(SOURCE);
    world.gateway_event(last, Event::Control { id: 1, request: ControlRequest::Close });
    until(world, "the source is closed", |world| world.gateways[last].volume.is_none())?;
    let record = world.master.records.get_mut(&SOURCE).expect("just made");
    (record.attached, record.holder) = (false, None);
    record.snapshots.values_mut().for_each(|done| *done = true);
    Ok(history)
}

fn fill_source(world: &mut World, requests: u32) -> Result<(), String> {
    for _ in 0..requests {
        world.guest_asks();
        let wait = world.rng.gen_range(100..2_000);
        advance(world, wait)?;
    }
    until(world, "the source is written", |world| world.guest.waiting() == 0)?;
    let flush = world.guest.flush();
    world.ask(flush);
    until(world, "the source is flushed", |world| world.guest.waiting() == 0)
}

fn freeze_source(world: &mut World) -> Result<(), String> {
    world.master.snapshot(SOURCE);
    world.finish_snapshots();
    until(world, "the source is frozen", |world| world.master.records[&SOURCE].snapshots.values().all(|done| *done))
}

fn work(world: &mut World) -> Result<(), String> {
    (world.working, world.faulty) = (true, true);
    let peace = world.rng.gen_range(0..2_000_000);
    world.after(0, Job::Guest);
    world.after(peace, Job::Fault);
    let time = world.rng.gen_range(4_000_000..25_000_000);
    advance(world, time)
}

/// Nothing goes wrong any more: everything must come back.
fn heal(world: &mut World) -> Result<(), String> {
    (world.working, world.faulty) = (false, false);
    world.note("everything is healed".into());
    world.net.heal_all();
    let ids: Vec<ServerId> = world.servers.keys().copied().collect();
    for id in ids {
        world.servers[&id].disk.set_capacity(None);
        world.servers.get_mut(&id).expect("listed").slow = false;
        world.start_server(id);
    }
    // Who was told to let go does so first: what is asked of it after that would never be answered.
    until(world, "what is being closed is closed", |world| {
        world.closing.is_none_or(|(index, _)| world.gateways[index].volume.is_none())
    })?;
    if !world.attached() {
        until(world, "what nobody has attached is whole again", |world| {
            let record = &world.master.records[&world.volume];
            record.attached || record.stale.is_empty()
        })?;
        world.attach();
    }
    if world.gateways.last().is_some_and(|gateway| gateway.volume.is_none()) {
        world.open_gateway(Vec::new());
    }
    // Faults that had been begun may still end by themselves meanwhile; that does no harm.
    until(world, "every request is answered and every server is back", |world| {
        let present = world.gateways.last().is_some_and(|gateway| gateway.opened);
        let whole = world.master.records.values().all(|record| record.stale.is_empty());
        present && world.guest.waiting() == 0 && whole
    })?;
    world.master.wanted.clear();
    until(world, "what nothing names is dropped", |world| world.spare_replicas() == 0)?;
    until(world, "the gateway knows the size", |world| {
        let size = world.master.records[&world.volume].size_bytes;
        let served = world.gateways.last().and_then(|gateway| gateway.volume.as_ref());
        served.is_some_and(|volume| volume.spec().size_bytes == size)
    })?;
    until(world, "what is deleted is gone", |world| world.master.deleting.is_empty())?;
    scrub(world)
}

/// Where bits flipped, the scrubber finds every one that is left, and all are healed.
fn scrub(world: &mut World) -> Result<(), String> {
    let Some(id) = world.servers.keys().next().copied().filter(|_| world.flipping) else { return Ok(()) };
    let volume = world.volume;
    world.ask_server(id, &ServerRequest::Scrub {}, Asked::Scrub);
    advance(world, SCRUB_US)?;
    until(world, "the scrub ended and what it found is healed", |world| {
        let replica = world.servers.get_mut(&id).and_then(|server| server.replica.as_mut());
        replica.is_some_and(|replica| {
            let store = replica.store();
            store.scrub_mark().at.is_none() && store.damaged(9).iter().all(|one| one.volume != volume)
        })
    })
}

fn check_everything(world: &mut World) -> Result<(), String> {
    for id in 0..=world.servers.len() as ServerId {
        if id > 0 {
            reopen(world, id)?;
        }
        read_everything(world)?;
    }
    let flush = world.guest.flush();
    world.ask(flush);
    until(world, "the last flush is answered", |world| world.guest.waiting() == 0)?;
    advance(world, 2_000_000)?;
    until(world, "the last rebuild ends", |world| world.master.records[&world.volume].stale.is_empty())?;
    let volumes: Vec<u64> = world.master.records.keys().copied().collect();
    for volume in volumes {
        replicas_are_equal(world, volume)?;
    }
    groups_are_of_one_moment(world)?;
    snapshots_are_as_they_were(world)
}

/// Mount what was frozen together: what was written first must be there if what was written after it is.
fn groups_are_of_one_moment(world: &mut World) -> Result<(), String> {
    let Some(pair) = &world.pair else { return Ok(()) };
    let is_done = |volume: &u64, node: &LayerId| world.master.records[volume].snapshots.get(node) == Some(&true);
    let done = |(one, other): &&(LayerId, LayerId)| is_done(&world.volume, one) && is_done(&BESIDE, other);
    let groups: Vec<(LayerId, LayerId)> = pair.frozen.iter().filter(done).rev().take(MOUNTS_MAX).copied().collect();
    for (node, other) in groups {
        world.kill_gateway(world.gateways.len() - 1);
        let mut gateway = Gateway::new(world.master.mount(world.volume, node), world.rng.gen());
        gateway.beside = Beside::new(world.master.mount(BESIDE, other), world.rng.gen());
        world.add_gateway(gateway);
        let mut numbers = [0; 2];
        for (number, first) in numbers.iter_mut().zip([true, false]) {
            world.ask_number(first);
            until(world, "the number is read", |world| world.pair.as_ref().is_some_and(|pair| pair.read.is_some()))?;
            *number = world.pair.as_ref().and_then(|pair| pair.read).expect("just seen");
        }
        if numbers[0] < numbers[1] {
            return Err(format!("nodes {node} and {other}, frozen together, show {numbers:?}"));
        }
        world.coverage.hit("a group was read as it was");
    }
    Ok(())
}

/// Mount some of the snapshots that are left, and read them.
fn snapshots_are_as_they_were(world: &mut World) -> Result<(), String> {
    let record = &world.master.records[&world.volume];
    let done: Vec<LayerId> = record.snapshots.iter().filter(|(_, done)| **done).map(|(node, _)| *node).collect();
    for node in done.into_iter().rev().take(MOUNTS_MAX) {
        world.kill_gateway(world.gateways.len() - 1);
        let (spec, session) = (world.master.mount(world.volume, node), world.rng.gen());
        world.add_gateway(Gateway::new(spec, session));
        until(world, "a snapshot is mounted", |world| world.gateways.last().is_some_and(|gateway| gateway.opened))?;
        let frozen = world.frozen.remove(&node).expect("every snapshot is known").history;
        let head = std::mem::replace(&mut world.guest.history, frozen);
        read_everything(world).map_err(|wrong| format!("snapshot {node}: {wrong}"))?;
        world.guest.history = head;
        world.coverage.hit("a snapshot was read as it was");
    }
    Ok(())
}

/// Open again with another server preferred for reads: what was read before must not flip.
fn reopen(world: &mut World, prefer: ServerId) -> Result<(), String> {
    world.kill_gateway(world.gateways.len() - 1);
    world.open_gateway(vec![prefer]);
    until(world, "the volume opens again", |world| world.gateways.last().is_some_and(|gateway| gateway.opened))
}

pub(crate) fn read_everything(world: &mut World) -> Result<(), String> {
    let sectors: Vec<u64> = world.guest.history.sectors().collect();
    for sector in sectors {
        let request = world.guest.read_sector(sector);
        world.ask(request);
        if world.guest.waiting() > UNANSWERED_MAX {
            until(world, "reads are answered", |world| world.guest.waiting() == 0)?;
        }
    }
    until(world, "the last reads are answered", |world| world.guest.waiting() == 0)
}

type Content = (Position, Vec<(u32, u16, u8, u32)>);

fn replicas_are_equal(world: &mut World, volume: u64) -> Result<(), String> {
    let record = world.master.records[&volume].clone();
    for chunk in 0..record.placement.len() as u32 {
        let mut seen: Option<(ServerId, Content)> = None;
        let placed = &record.placement[chunk as usize];
        for (id, server) in world.servers.iter_mut().filter(|(id, _)| placed.contains(id)) {
            let store = server.replica.as_mut().ok_or("a server does not run")?.store();
            let mut entries = Vec::new();
            let mut position = Position::default();
            let mut layer = 0;
            loop {
                let (reply, next) =
                    store.versions(volume, chunk, layer).map_err(|error| format!("server {id}: {error}"))?;
                position = reply.position.max(position);
                entries.extend(reply.entries.iter().map(|(l, block, e)| (*l, *block, e.state as u8, e.crc)));
                match next {
                    Some(next) => layer = next,
                    None => break,
                }
            }
            let shown = shown(&entries, &record);
            for (layer, block, ..) in &shown {
                let key = LayerKey { volume, chunk, layer: *layer };
                store.read_layer(key, *block, 1).map_err(|error| format!("server {id}, layer {layer}: {error}"))?;
            }
            let content = (position, shown);
            match &seen {
                None => seen = Some((*id, content)),
                Some((_, first)) if *first == content => {}
                Some((other, first)) => {
                    let differ = first.1.iter().filter(|entry| !content.1.contains(entry)).count();
                    return Err(format!(
                        "chunk {chunk} of volume {volume}: servers {other} at {:?} and {id} at {:?} differ in {differ} entries",
                        first.0, content.0
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Those entries that some live layer shows. What is dead is swept by each server at its own time.
fn shown(entries: &[(u32, u16, u8, u32)], record: &Record) -> Vec<(u32, u16, u8, u32)> {
    let there: BTreeSet<(LayerId, u16)> = entries.iter().map(|(layer, block, ..)| (*layer, *block)).collect();
    let blocks: BTreeSet<u16> = there.iter().map(|(_, block)| *block).collect();
    let mut needed = BTreeSet::new();
    for layer in record.live() {
        for block in &blocks {
            let mut at = layer;
            while at != 0 && !there.contains(&(at, *block)) {
                at = record.parents[at as usize];
            }
            needed.insert((at, *block));
        }
    }
    entries.iter().filter(|(layer, block, ..)| needed.contains(&(*layer, *block))).copied().collect()
}

fn advance(world: &mut World, time: Micros) -> Result<(), String> {
    let end = world.now + time;
    while world.step(end) {}
    world.now = world.now.max(end);
    world.wrong.first().cloned().map_or(Ok(()), Err)
}

pub(crate) fn until(world: &mut World, what: &str, done: impl Fn(&mut World) -> bool) -> Result<(), String> {
    let end = world.now + RECOVERY_US;
    while !done(world) {
        if !world.step(end) {
            let wrong = world.wrong.first().cloned();
            return Err(wrong.unwrap_or_else(|| format!("not reached in {} s: {what}", RECOVERY_US / 1_000_000)));
        }
    }
    Ok(())
}

impl World {
    /// The guest asks its gateway something.
    pub fn ask(&mut self, request: GuestRequest) {
        let index = self.guests_gateway();
        self.asked_of.insert(request.id, index);
        if request.op == yuntai_volume::GuestOp::Flush {
            let marks = if index + 1 == self.gateways.len() { self.acknowledged() } else { Default::default() };
            self.flushes.insert(request.id, (self.now, marks));
        }
        self.gateways[index].asked.push_back(request);
        self.after(0, Job::Ask(index));
    }

    /// The last gateway; but until that one serves, the guest still runs on the host of the one before.
    pub(crate) fn guests_gateway(&self) -> usize {
        let last = self.gateways.len() - 1;
        let serves = |index: &usize| {
            let gateway = &self.gateways[*index];
            gateway.opened && gateway.volume.is_some() && !gateway.tends
        };
        match last.checked_sub(1).filter(serves) {
            Some(before) if !self.gateways[last].opened && !self.newest_served => before,
            _ => last,
        }
    }

    /// The guest asks something at random.
    pub fn guest_asks(&mut self) {
        let gateway = &self.gateways[self.guests_gateway()];
        let size = gateway.volume.as_ref().map_or(CHUNK_BYTES, |volume| volume.spec().size_bytes);
        let request = self.guest.next(&mut self.rng, size);
        self.ask(request);
    }

    /// The guest's turn, while it works.
    pub fn guest_turn(&mut self) {
        if !self.working {
            return;
        }
        let wait = self.rng.gen_range(GUEST_EVERY_US);
        self.after(wait, Job::Guest);
        let gateway = &self.gateways[self.guests_gateway()];
        let there = gateway.volume.is_some() && !gateway.tends;
        if there && self.guest.waiting() < UNANSWERED_MAX {
            self.guest_asks();
        }
    }

    /// An answer reaches the guest.
    pub fn reply(&mut self, id: u64, result: &Result<GuestData, GuestError>) {
        if id & PAIR != 0 {
            return self.pair_answered(id, result);
        }
        let Some(index) = self.asked_of.remove(&id) else { return };
        let flush = self.flushes.remove(&id).filter(|_| result.is_ok());
        if flush.as_ref().is_some_and(|(asked_at, _)| *asked_at > self.lost_at) {
            self.lossy.clear();
        }
        if let Err(wrong) = self.guest.answer(id, result) {
            self.note(format!("answer {id}: {result:?}").chars().take(200).collect());
            self.wrong.push(wrong);
        }
        self.check_acknowledged(index);
        if let Some((_, marks)) = flush {
            self.check_flushed(index, &marks);
        }
    }
}
