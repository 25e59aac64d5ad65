//! The tester's test: rules that are broken on purpose, one at a time, each of which the simulator must notice.
//!
//! A checker that never fails may be blind (Crucible's lossy mode had lost nothing for months). So every invariant of
//! the store has switches in the code, beside the line that keeps it ([`yuntai_proto::mutant`]), and `make mutants` turns
//! each on and runs the test that must fail, and seeds until something is found. A mutant that survives says that the
//! world lacks a fault or the checkers an eye; then this list is not changed, the simulator is.

/// What of the store's design a mutant is against; the numbers are those of the invariants in `ARCHITECTURE.md`.
pub struct Mutant {
    /// The name that stands in the code.
    pub name: &'static str,
    /// The number of the invariant.
    pub invariant: u8,
    /// How it is noticed.
    pub by: By,
}

/// What notices a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A named test in `mutants.rs` of the crate that has the rule: what harms only in a rare order of things is built
    /// there step by step.
    Test,
    /// That, and seeds of [`crate::run`] as well.
    Seeds,
    /// Seeds only: it takes the master as well, or the whole disk.
    World,
    /// What earlier versions wrote: see [`crate::golden`].
    OldBytes,
}

const fn test(invariant: u8, name: &'static str) -> Mutant {
    Mutant { name, invariant, by: By::Test }
}

const fn seeds(invariant: u8, name: &'static str) -> Mutant {
    Mutant { name, invariant, by: By::Seeds }
}

const fn world(invariant: u8, name: &'static str) -> Mutant {
    Mutant { name, invariant, by: By::World }
}

const fn old_bytes(invariant: u8, name: &'static str) -> Mutant {
    Mutant { name, invariant, by: By::OldBytes }
}

/// All of them.
pub const MUTANTS: [Mutant; 42] = [
    // 1. One writer: the generation at the replica is the authority.
    test(1, "fence in memory only"),
    test(1, "a lower generation is let in"),
    test(1, "another session of the same generation is let in"),
    test(1, "an older writer's connection stays good"),
    test(1, "an older master's order is carried out"),
    test(1, "who knows the cluster's secret may destroy"),
    // 2. Acknowledged means on every in-sync replica; flushed means synced on all of them.
    seeds(2, "one answer is enough"),
    seeds(2, "a flush is answered without a sync"),
    seeds(2, "a flush waits for one server only"),
    test(2, "a flush overtakes what was sent before it"),
    seeds(2, "a sync leaves out what was written in place"),
    // 3. Degrade first, then acknowledge; two in sync at least; a guest stalls and never fails.
    seeds(3, "acknowledge first, degrade afterwards"),
    test(3, "one in sync is enough"),
    test(3, "one whole replica serves alone"),
    test(3, "one whole replica repairs alone"),
    // 4. Replicas agree after any crash, and what was read does not flip.
    test(4, "the survivor is the first"),
    test(4, "a half-built replica counts as whole"),
    seeds(4, "a server that comes back lacks nothing"),
    seeds(4, "a rebuild ends without a pull"),
    seeds(4, "a joiner counts before it is whole"),
    test(4, "a joiner is read from before its history is durable"),
    test(4, "a pull overwrites the stream"),
    seeds(4, "a fill overwrites what the guest wrote"),
    test(4, "a read does not wait for open fates"),
    test(4, "a head is shown from one replica"),
    world(4, "a mover is committed before it counts"),
    world(4, "a sweep looks at the head only"),
    // 5. Nothing trusts the order in which a file system writes.
    test(5, "a replay goes on behind a broken record"),
    test(5, "what a start has seen may be lost"),
    test(5, "chunk files before the journal"),
    seeds(5, "room that is in use is given back"),
    seeds(5, "a block moves to where a record has its data"),
    seeds(5, "what a checkpoint moves is written in place"),
    seeds(5, "the journal is freed before the chunk files are durable"),
    // 6. Checksums end to end.
    test(6, "checksums are not looked at"),
    test(6, "the gateway does not look at checksums"),
    world(6, "the scrubber sees nothing"),
    test(6, "a lost block is zeros"),
    // 7. Limits on everything, and a full disk is no error.
    test(7, "the journal has no limit"),
    test(7, "a full disk is an error to the guest"),
    // 8. Versions from day one.
    old_bytes(8, "an unknown version is read"),
    old_bytes(8, "old bytes are misread"),
];

/// Run seeds with a rule broken until one notices: the seed, and what it found. What the same seed finds with no rule
/// broken would be no merit of the switch's.
#[cfg(debug_assertions)]
#[must_use]
pub fn notice(name: &'static str, seeds: impl IntoIterator<Item = u64>) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| {
        let run = || yuntai_proto::mutant::with(name, || crate::run(seed));
        match std::panic::catch_unwind(run) {
            Ok(Ok(_)) => None,
            Ok(Err(failure)) => Some((seed, failure.wrong)),
            Err(panic) => Some((seed, format!("panic: {}", text_of(panic.as_ref())))),
        }
    })
}

#[cfg(debug_assertions)]
fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().cloned();
    owned.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}
