//! The contract of [`Mirror`](headwater::mirror::Mirror): one test suite, run for each kind of
//! mirror.
//!
//! A test is a function over a [`fixture::Fixture`]; `contract!` instantiates all of them for one
//! kind of mirror. A new kind implements `Fixture` and adds one line. The tests of the stored
//! formats, which apply only to the store of a directory mirror, are in [`formats`].

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod activation;
mod corrupt_bundles;
mod damage;
mod expiring;
mod extra_objects;
mod fixture;
#[path = "../common/flaky_proxy.rs"]
mod flaky_proxy;
mod formats;
mod healing;
mod history;
mod maintenance;
#[path = "../common/origin.rs"]
mod origin;
mod remote;
mod resuming;
#[allow(dead_code, reason = "the other suites run programs")]
#[path = "../common/sandbox.rs"]
mod sandbox;
mod signing;
mod staged_releases;
mod staging;
mod state;
mod verifying;

macro_rules! facts {
    ($fixture:ty; $($room:ident: $($fact:ident)+;)+) => {$(
        mod $room {
            $(#[test]
            fn $fact() {
                crate::$room::$fact::<$fixture>();
            })+
        }
    )+};
}

macro_rules! contract {
    ($kind:ident, $fixture:ty) => {
        mod $kind {
            facts! { $fixture;
                state:
                    an_absent_mirror_is_empty_and_stays_absent
                    a_mirror_of_another_site_is_refused
                    two_who_create_it_at_once_make_one_mirror
                    manifests_and_objects_come_back_as_they_went
                    parts_of_many_objects_come_in_the_order_asked_for;
                staging:
                    a_staged_and_activated_release_is_served_whole
                    a_staged_release_is_not_seen
                    staging_again_takes_nothing
                    every_kind_of_change_arrives
                    packs_come_in_any_order
                    a_block_may_build_on_objects_of_the_base
                    content_that_is_there_under_another_name_is_not_sent
                    a_cancelled_stage_changes_nothing;
                staged_releases:
                    a_staged_release_survives_a_restart_and_is_activated_by_its_name
                    a_staged_release_is_abandoned_after_a_restart
                    a_later_stage_supersedes_a_staged_release;
                resuming:
                    packs_that_arrived_are_not_asked_for_again
                    packs_that_are_late_come_all_the_same
                    what_rotted_in_quarantine_is_asked_for_again
                    a_later_release_of_the_same_content_resumes
                    another_bundle_of_the_same_key_costs_one_attempt_at_most;
                activation:
                    activation_is_compare_and_set
                    a_lower_rank_is_refused
                    of_equal_sequences_the_higher_rank_follows
                    another_history_is_refused_unless_it_takes_over
                    only_what_is_staged_can_be_activated
                    activating_the_current_release_again_does_nothing
                    an_abandoned_release_is_forgotten
                    the_later_of_two_stages_takes_the_slot
                    a_locked_mirror_says_so_and_still_answers;
                corrupt_bundles:
                    a_lie_is_refused_and_leaves_nothing_behind
                    no_path_leads_out_of_the_slot;
                healing:
                    missing_objects_are_fetched
                    damaged_objects_are_fetched_when_they_are_copied
                    what_arrives_replaces_what_is_damaged
                    an_object_that_nobody_has_is_an_error
                    a_damaged_or_missing_base_is_named_as_such
                    damaged_objects_that_blocks_build_on_are_named_and_forgotten;
                extra_objects:
                    a_mirror_tells_which_objects_it_holds
                    what_is_held_is_named_and_not_sent
                    what_was_held_and_is_gone_is_fetched
                    an_id_that_nobody_holds_is_no_content;
                signing:
                    signatures_are_those_of_the_files_asked_for
                    signatures_of_what_is_not_there_are_left_out
                    a_cancelled_question_for_signatures_ends;
                history:
                    what_happened_is_told_in_its_order
                    a_torn_history_harms_nothing;
                maintenance:
                    settling_keeps_the_newest_releases
                    settling_keeps_what_a_staged_release_needs
                    pruning_drops_what_nothing_needs
                    settling_keeps_what_may_be_resumed
                    pruning_drops_what_no_push_resumes
                    a_stage_survives_pruning
                    nothing_lies_open_to_pruning_while_a_stage_waits;
                expiring:
                    due_entries_go_with_settling_and_with_pruning
                    what_expired_is_not_brought_back;
                verifying:
                    every_fault_is_named_and_mended
                    a_quick_look_finds_what_times_and_sizes_tell
                    what_cannot_be_mended_is_left_and_named
                    a_lost_slot_is_rebuilt;
            }
        }
    };
}

contract!(directory, crate::fixture::Directory);
contract!(http, crate::remote::Http);
contract!(https, crate::remote::Https);
contract!(ssh, crate::remote::Ssh);
contract!(flaky, crate::remote::Flaky);
