//! The blocks and packs in which content travels.
