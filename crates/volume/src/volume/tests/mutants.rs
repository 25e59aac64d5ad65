//! The rules of the volume, broken one at a time: the test beside each must fail. All switches, and the invariants that
//! they are against, are listed in `crates/sim/src/mutants.rs`.
#![cfg(debug_assertions)]

use yuntai_proto::mutant::is_noticed;

use super::{heal, lazy, repair};
use crate::chunk::tests as chunk;

const HELD: [(&str, fn()); 18] = [
    ("one answer is enough", super::a_write_is_on_every_server_before_it_is_acknowledged),
    ("a flush waits for one server only", repair::a_flush_waits_for_a_server_that_is_being_levelled),
    ("acknowledge first, degrade afterwards", super::a_hung_server_is_degraded_first_and_the_write_acknowledged_then),
    ("one in sync is enough", chunk::only_whole_in_sync_replicas_count_and_all_of_them_must),
    ("the survivor is the first", repair::the_longest_history_wins_at_open_and_the_others_pull_one_after_the_other),
    ("a half-built replica counts as whole", heal::a_salvaged_replica_that_is_lost_half_way_leaves_the_chunk_waiting),
    ("a server that comes back lacks nothing", super::a_short_break_is_bridged_by_sending_again_in_order),
    ("a rebuild ends without a pull", repair::a_server_that_was_away_is_rebuilt_while_writes_go_on_and_taken_back),
    ("a joiner counts before it is whole", heal::background_work_can_be_switched_off_and_on),
    (
        "a joiner is read from before its history is durable",
        repair::a_returning_server_counts_before_its_history_is_made_durable_and_is_not_read_before_that,
    ),
    ("a fill overwrites what the guest wrote", lazy::a_part_of_a_block_is_merged_with_the_source),
    ("a read does not wait for open fates", super::a_read_on_its_way_waits_for_a_write_that_overtakes_it),
    (
        "the gateway does not look at checksums",
        repair::a_damaged_block_is_served_from_another_server_and_the_chunk_pulled_anew,
    ),
    ("a full disk is an error to the guest", super::a_full_disk_is_no_error_to_the_guest),
    ("one whole replica serves alone", super::last::nobody_is_served_from_one_replica),
    ("one whole replica repairs alone", super::last::a_longer_history_that_comes_back_in_time_is_what_all_go_on_with),
    ("a lost block is zeros", super::loss::a_block_that_nobody_has_is_lost_and_the_rest_goes_on),
    ("a head is shown from one replica", super::shown::a_head_is_not_read_from_one_replica),
];

#[test]
fn every_broken_rule_is_noticed() {
    for (name, test) in HELD {
        assert!(is_noticed(name, test), "not noticed: {name}");
    }
}
