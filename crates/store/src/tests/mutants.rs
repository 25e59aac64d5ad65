//! The rules of the store, broken one at a time: the test beside each must fail. All switches, and the invariants that
//! they are against, are listed in `crates/sim/src/mutants.rs`.
#![cfg(debug_assertions)]

use yuntai_proto::mutant::is_noticed;

use super::{basic, crash, rebuild};
use crate::{marks, spares};

const HELD: [(&str, fn()); 14] = [
    ("fence in memory only", basic::fences_hold),
    ("a lower generation is let in", basic::fences_hold),
    ("another session of the same generation is let in", basic::fences_hold),
    ("an older master's order is carried out", marks::tests::terms_only_grow_over_any_crash),
    ("a sync leaves out what was written in place", crash::the_survivor_is_a_prefix_with_everything_synced),
    ("a pull overwrites the stream", rebuild::stream_and_pull_in_any_order_end_equal),
    ("a replay goes on behind a broken record", crash::the_survivor_is_a_prefix_with_everything_synced),
    ("what a start has seen may be lost", crash::what_a_start_has_seen_stays),
    ("chunk files before the journal", crash::the_survivor_is_a_prefix_with_everything_synced),
    ("the journal is freed before the chunk files are durable", crash::the_survivor_is_a_prefix_with_everything_synced),
    ("a block moves to where a record has its data", crash::the_survivor_is_a_prefix_with_everything_synced),
    ("what a checkpoint moves is written in place", crash::the_survivor_is_a_prefix_with_everything_synced),
    ("room that is in use is given back", spares::tests::room_is_kept_while_a_layer_is_written_and_then_given_back),
    ("checksums are not looked at", basic::a_flipped_bit_is_found_and_refused),
];

#[test]
fn every_broken_rule_is_noticed() {
    for (name, test) in HELD {
        assert!(is_noticed(name, test), "not noticed: {name}");
    }
}
