//! The data that a push builds before it is served: the staging transaction, the quarantine of its
//! content, and the slot.

pub(super) mod copy;
pub(super) mod fetch;
pub(super) mod quarantine;
pub(super) mod slot_builder;
pub(super) mod slots;
pub(super) mod space;
pub(super) mod stored_change;
pub(super) mod transaction;
pub(super) mod write_back;
