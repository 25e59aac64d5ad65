use super::*;
use crate::gateway::Gateway;
use crate::run::{read_everything, until};

/// A volume that is open; nothing goes wrong but what a test does.
fn world() -> World {
    let mut world = World::new(1, 3);
    world.volume = SOURCE;
    world.master.create(SOURCE, 1, None);
    world.open_gateway(Vec::new());
    opened(&mut world);
    world
}

fn opened(world: &mut World) {
    until(world, "it opens", |world| world.gateways.last().is_some_and(|gateway| gateway.opened)).unwrap();
}

/// The guest writes the same sector again.
fn write(world: &mut World) -> u64 {
    let (request, tag) = world.guest.write_sector(0);
    world.ask(request);
    until(world, "it is written", |world| world.guest.waiting() == 0).unwrap();
    tag
}

/// What a gateway shows of a node is what the node may show.
fn mount(world: &mut World, node: LayerId) -> Result<(), String> {
    let (spec, session) = (world.master.mount(world.volume, node), world.rng.gen());
    world.add_gateway(Gateway::new(spec, session));
    opened(world);
    let frozen = world.frozen[&node].history.clone();
    let head = std::mem::replace(&mut world.guest.history, frozen);
    let read = read_everything(world);
    world.guest.history = head;
    read
}

/// Frozen in the record while its writer goes on, which never hears of it; then detached by force, and tended.
fn frozen_unheard() -> (World, LayerId, [u64; 2]) {
    let mut world = world();
    let before = write(&mut world);
    let node = world.master.records[&world.volume].head;
    world.snapshot_record();
    let after = write(&mut world);
    world.detach_by_force();
    world.open_tender();
    opened(&mut world);
    (world, node, [before, after])
}

#[test]
fn what_its_writer_wrote_before_anybody_else_opened_is_in_a_node() {
    let (mut world, node, _) = frozen_unheard();
    assert_eq!(mount(&mut world, node), Ok(()));
}

#[test]
fn a_node_that_its_writer_left_unflushed_is_done_only_after_the_next_writer() {
    let (mut world, node, _) = frozen_unheard();
    let done = |world: &mut World| world.master.records[&SOURCE].snapshots[&node];
    world.finish_snapshots();
    assert!(!done(&mut world), "a tender has flushed nothing");
    world.attach();
    opened(&mut world);
    world.finish_snapshots();
    until(&mut world, "it is frozen", done).unwrap();
}

#[test]
fn what_was_written_under_the_next_head_is_not_in_a_node() {
    let (mut world, node, [before, after]) = frozen_unheard();
    world.attach();
    opened(&mut world);
    let later = write(&mut world);
    world.snapshot();
    let frozen = |world: &mut World| world.master.records[&SOURCE].snapshots.values().all(|done| *done);
    until(&mut world, "that is frozen, too", frozen).unwrap();
    let shows = |tag| {
        let mut history = world.frozen[&node].history.clone();
        let expectation = history.read_asked(0, 1);
        history.read_answered(&expectation, &[tag])
    };
    assert_eq!((shows(before), shows(after)), (Ok(()), Ok(())));
    assert!(shows(later).is_err(), "the checker would not notice a node that changes");
    assert_eq!(mount(&mut world, node), Ok(()));
}
