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
                    absent_mirror_is_empty_and_stays_absent
                    mirror_of_another_site_is_refused
                    concurrent_creation_makes_one_mirror
                    manifests_and_objects_read_back_unchanged
                    object_parts_are_returned_in_the_requested_order;
                staging:
                    staged_and_activated_release_is_served_completely
                    staged_release_is_not_served
                    staging_again_transfers_nothing
                    every_kind_of_change_is_served
                    packs_are_accepted_in_any_order
                    block_against_base_objects_is_decoded
                    content_present_under_another_path_is_not_sent
                    cancelled_stage_changes_nothing;
                staged_releases:
                    staged_release_is_activated_by_name_after_a_restart
                    staged_release_is_abandoned_after_a_restart
                    later_stage_supersedes_a_staged_release;
                resuming:
                    received_packs_are_not_requested_again
                    late_packs_are_accepted
                    packs_damaged_in_quarantine_are_requested_again
                    later_release_of_the_same_content_resumes
                    different_bundle_under_the_same_key_fails_at_most_once;
                activation:
                    activation_is_compare_and_set
                    lower_rank_is_refused
                    higher_rank_of_equal_sequence_is_accepted
                    other_history_is_refused_unless_it_replaces_the_current_one
                    only_a_staged_release_can_be_activated
                    activating_the_current_release_again_does_nothing
                    abandoned_release_cannot_be_activated
                    later_of_two_stages_takes_the_slot
                    locked_mirror_reports_the_lock_and_can_be_read;
                corrupt_bundles:
                    corrupt_bundle_is_refused_and_leaves_nothing_behind
                    paths_never_escape_the_slot;
                healing:
                    missing_objects_are_requested_again
                    objects_found_damaged_during_a_copy_are_requested_again
                    received_object_replaces_a_damaged_one
                    object_that_no_source_has_is_an_error
                    damaged_or_missing_base_is_reported
                    damaged_base_objects_are_reported_and_removed;
                extra_objects:
                    mirror_reports_which_objects_it_has
                    objects_that_the_mirror_has_are_not_sent
                    objects_lost_since_the_query_are_requested
                    unavailable_object_id_is_refused;
                signing:
                    signatures_match_the_requested_files
                    signatures_of_absent_files_are_left_out
                    cancelled_signature_request_stops;
                history:
                    history_events_are_returned_in_order
                    torn_history_is_tolerated;
                maintenance:
                    clean_up_keeps_the_newest_releases
                    clean_up_keeps_content_of_a_staged_release
                    prune_drops_unreferenced_content
                    clean_up_keeps_resumable_content
                    prune_drops_content_of_unfinished_pushes
                    running_stage_survives_a_prune
                    stage_waiting_for_the_lock_leaves_nothing_for_prune;
                expiring:
                    due_entries_are_removed_by_clean_up_and_prune
                    expired_entries_are_not_restored;
                verifying:
                    every_fault_is_found_and_repaired
                    quick_verify_finds_changed_times_and_sizes
                    unrepairable_fault_is_left_and_named
                    lost_slot_is_rebuilt;
            }
        }
    };
}

contract!(directory, crate::fixture::Directory);
contract!(http, crate::remote::Http);
contract!(https, crate::remote::Https);
contract!(ssh, crate::remote::Ssh);
contract!(flaky, crate::remote::Flaky);
