//! A location that may be a tree or a mirror.

use std::path::Path;
use std::sync::Arc;

use headwater::mirror::Mirror;
use headwater::scan::Root;
use headwater::tree_path::Site;

use crate::cli::output::failure::Failure;
use crate::cli::setup::remote::MirrorFactory;

/// A tree or a mirror, for `--from` of repair and for the sides of diff.
pub(crate) enum TreeOrMirror {
    Tree(Vec<Root>),
    Mirror(Arc<dyn Mirror>),
}

/// Checks on disk whether a location is a tree or a mirror.
pub(crate) fn place(
    operand: &crate::cli::args::operands::Operand,
    factory: &MirrorFactory,
    site: Option<&Site>,
) -> Result<TreeOrMirror, Failure> {
    let location = &operand.place.location;
    // A directory is a store if it contains the format file.
    let is_store = Path::new(location.strip_prefix("file://").unwrap_or(location))
        .join(".headwater/format")
        .exists();
    if operand.is_mirror || is_store {
        return Ok(TreeOrMirror::Mirror(factory.mirror(&operand.place, site)?));
    }
    Ok(TreeOrMirror::Tree(vec![Root { path: location.into(), at: None }]))
}
