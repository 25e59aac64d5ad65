use super::*;
use proto::BlockEntry;
use yuntai_proto as proto;

fn at(generation: u64, sequence: u64) -> Position {
    Position { generation, sequence }
}

fn begin(store: &mut Store<MemVfs>, position: Position) {
    store.begin_rebuild(VOLUME, 0, position).unwrap();
    store.commit().unwrap();
}

/// Everything that a pull does, in one go.
fn pull(from: &mut Store<MemVfs>, to: &mut Store<MemVfs>) {
    let mut first = 0;
    loop {
        let (reply, next) = from.versions(VOLUME, 0, first).unwrap();
        let last = next.map_or(u32::MAX, |next| next - 1);
        let plan = to.compare(VOLUME, 0, (first, last), &reply.entries, &reply.lost).unwrap();
        to.commit().unwrap();
        for run in &plan.runs {
            let answer = from.read_layer(key(0, run.layer), run.block, run.entries.len() as u16).unwrap();
            to.put_pulled(VOLUME, 0, run, &answer).unwrap();
            to.commit().unwrap();
        }
        match next {
            Some(next) => first = next,
            None => return,
        }
    }
}

fn entries(store: &mut Store<MemVfs>) -> Vec<(u32, u16, BlockEntry)> {
    store.versions(VOLUME, 0, 0).unwrap().0.entries
}

fn end(store: &mut Store<MemVfs>, position: Position) {
    store.end_rebuild(VOLUME, 0, position).unwrap();
    store.commit().unwrap();
}

#[test]
fn a_pull_makes_equal_also_what_the_source_has_not() {
    let mut source = open(&MemVfs::new());
    put(&mut source, &write(0, 1, 1, 0, &[1; 300]));
    put(&mut source, &zero(0, 1, 2, 5, 2));
    put(&mut source, &write(0, 2, 3, 7, &[3]));
    let vfs = MemVfs::new();
    let mut target = open(&vfs);
    put(&mut target, &write(0, 1, 1, 0, &[1]));
    put(&mut target, &write(0, 1, 2, 400, &[66]));
    put(&mut target, &write(0, 3, 3, 2, &[66]));
    begin(&mut target, at(1, 3));
    assert!(matches!(read(&mut target, 0, 0, 1), Err(Refusal::Busy { .. })));
    pull(&mut source, &mut target);
    end(&mut target, at(1, 3));
    assert_eq!(entries(&mut source), entries(&mut target));
    assert_eq!(target.chunk_states(VOLUME)[0].position, at(1, 3));
    checkpoint(&mut target);
    let mut target = open(&vfs.restart());
    assert_eq!(entries(&mut source), entries(&mut target));
    assert_eq!(read(&mut target, 0, 398, 4).unwrap(), vec![None; 4]);
}

#[test]
fn the_mark_is_durable_and_the_session_is_not() {
    let vfs = MemVfs::new();
    let mut store = open(&vfs);
    put(&mut store, &write(0, 1, 1, 0, &[1]));
    begin(&mut store, at(2, 9));
    sync(&mut store);
    let mut store = open(&vfs.crash(&mut |_| 0));
    let state = store.chunk_states(VOLUME)[0];
    assert!(state.rebuilding);
    assert_eq!(state.position, at(2, 9));
    assert!(matches!(store.compare(VOLUME, 0, (0, u32::MAX), &[], &[]), Err(Refusal::Busy { .. })));
    assert!(matches!(store.end_rebuild(VOLUME, 0, at(2, 9)), Err(Refusal::Busy { .. })));
    begin(&mut store, at(2, 9));
    checkpoint(&mut store);
    assert!(open(&vfs.crash(&mut |_| 0)).chunk_states(VOLUME)[0].rebuilding);
}

#[test]
fn a_damaged_block_is_fetched_again() {
    let mut source = open(&MemVfs::new());
    put(&mut source, &write(0, 1, 1, 0, &[1, 2, 3]));
    let vfs = MemVfs::new();
    let mut target = open(&vfs);
    put(&mut target, &write(0, 1, 1, 0, &[1, 2, 3]));
    checkpoint(&mut target);
    assert!(vfs.flip_bit("volumes/0000000000000077/00000000.00000001.data", (64 << 20) + 4096 + 9, 1));
    assert!(read(&mut target, 0, 0, 3).is_err());
    begin(&mut target, at(1, 1));
    pull(&mut source, &mut target);
    end(&mut target, at(1, 1));
    assert_eq!(read(&mut target, 0, 0, 3).unwrap(), vec![Some(1), Some(2), Some(3)]);
}

/// The stream and the pull meet in any order: afterwards both replicas are the same, entry by entry.
#[test]
pub(super) fn stream_and_pull_in_any_order_end_equal() {
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let mut source = open(&MemVfs::new());
        let mut target = open(&MemVfs::new());
        let mut sequence = 0;
        let mutate = |sequence: u64, random: &mut Random| {
            let block = random.below(30) as u16;
            let layer = 1 + random.below(2) as u32;
            match random.below(4) {
                0 => zero(0, layer, sequence, block, 3),
                1 => fill(0, sequence, block, &[Some(7000 + u64::from(block)), None, Some(7002 + u64::from(block))]),
                _ => write(0, layer, sequence, block, &[sequence, sequence]),
            }
        };
        // Some common history; then each goes its own way.
        for _ in 0..random.below(20) {
            sequence += 1;
            let mutation = mutate(sequence, &mut random);
            put(&mut source, &mutation);
            put(&mut target, &mutation);
        }
        let fork = sequence;
        for at in 0..random.below(6) as u64 {
            put(&mut target, &mutate(fork + 1 + at, &mut random));
        }
        let gone_on = random.below(10);
        for _ in 0..gone_on {
            sequence += 1;
            put(&mut source, &Mutation { position: at(2, sequence), ..mutate(sequence, &mut random) });
        }
        if random.below(2) == 0 {
            checkpoint(&mut target);
        }
        begin(&mut target, at(2, sequence));
        // From here on both get the stream, each at its own pace, and the pull goes in steps in between.
        let first = sequence + 1;
        let stream: Vec<Mutation> = (first..first + random.below(40) as u64)
            .map(|sequence| Mutation { position: at(2, sequence), ..mutate(sequence, &mut random) })
            .collect();
        let (mut at_source, mut at_target) = (stream.iter(), stream.iter());
        let mut plan: Option<Vec<crate::PullRun>> = None;
        loop {
            match random.below(4) {
                0 => at_source.next().into_iter().for_each(|mutation| put(&mut source, mutation)),
                1 => at_target.next().into_iter().for_each(|mutation| put(&mut target, mutation)),
                2 if plan.is_none() => {
                    let reply = source.versions(VOLUME, 0, 0).unwrap().0;
                    let made = target.compare(VOLUME, 0, (0, u32::MAX), &reply.entries, &reply.lost).unwrap();
                    target.commit().unwrap();
                    plan = Some(made.runs);
                }
                _ => pull_one(&mut source, &mut target, plan.as_mut()),
            }
            let pulled = plan.as_ref().is_some_and(Vec::is_empty);
            if pulled && at_source.as_slice().is_empty() && at_target.as_slice().is_empty() {
                break;
            }
        }
        let position = source.chunk_state(VOLUME, 0).map_or(Position::default(), |state| state.position);
        end(&mut target, position);
        assert_eq!(entries(&mut source), entries(&mut target), "seed {seed}");
        for layer in 0..3 {
            let (left, right) = (source.read_layer(key(0, layer), 0, 40), target.read_layer(key(0, layer), 0, 40));
            assert_eq!(left.unwrap(), right.unwrap(), "seed {seed} layer {layer}");
        }
    }
}

fn pull_one(source: &mut Store<MemVfs>, target: &mut Store<MemVfs>, plan: Option<&mut Vec<crate::PullRun>>) {
    let Some(run) = plan.and_then(Vec::pop) else { return };
    let answer = source.read_layer(key(0, run.layer), run.block, run.entries.len() as u16).unwrap();
    target.put_pulled(VOLUME, 0, &run, &answer).unwrap();
    target.commit().unwrap();
}
