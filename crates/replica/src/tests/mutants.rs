//! The rules of the chunk server, broken one at a time: the test beside each must fail. All switches, and the invariants
//! that they are against, are listed in `crates/sim/src/mutants.rs`.
#![cfg(debug_assertions)]

use yuntai_proto::mutant::is_noticed;

use super::{claims, serving, tending, working};

const HELD: [(&str, fn()); 7] = [
    ("an older writer's connection stays good", claims::a_higher_generation_fences_a_lower_for_ever),
    ("an older master's order is carried out", tending::an_inventory_is_told_and_what_nobody_wants_is_dropped),
    ("an older master's order is carried out", working::a_sweep_is_asked_for_until_it_is_done),
    ("a flush is answered without a sync", serving::flush_and_durable_writes_answer_after_the_sync_all_with_one),
    ("a flush overtakes what was sent before it", serving::a_flush_waits_for_the_mutations_that_were_sent_before_it),
    ("who knows the cluster's secret may destroy", tending::only_the_master_destroys),
    ("the journal has no limit", serving::a_full_journal_holds_mutations_back_until_a_checkpoint),
];

#[test]
fn every_broken_rule_is_noticed() {
    for (name, test) in HELD {
        assert!(is_noticed(name, test), "not noticed: {name}");
    }
}
