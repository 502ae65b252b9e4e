//! A location that may be a tree or a mirror.

use std::path::Path;
use std::sync::Arc;

use headwater::config::Config;
use headwater::mirror::Mirror;
use headwater::scan::{Root, ScanOptions};
use headwater::tree_path::Site;

use crate::cli::args::operands::Operand;
use crate::cli::output::failure::Failure;
use crate::cli::setup::mirror_factory::MirrorFactory;
use crate::cli::setup::options;

/// A tree or a mirror, for `repair --from` and for the sides of `diff`.
pub(crate) enum TreeOrMirror {
    Tree { roots: Vec<Root>, scan: ScanOptions },
    Mirror(Arc<dyn Mirror>),
}

/// Checks on disk whether a location is a tree or a mirror.
pub(crate) fn resolve(
    operand: &Operand,
    factory: &MirrorFactory,
    site: Option<&Site>,
    config: &Config,
) -> Result<TreeOrMirror, Failure> {
    let location = &operand.choice.location;
    // A directory is a store if it contains the format file.
    let is_store = Path::new(location.strip_prefix("file://").unwrap_or(location))
        .join(".headwater/format")
        .exists();
    if operand.is_mirror || is_store {
        return Ok(TreeOrMirror::Mirror(factory.mirror(&operand.choice, site)?));
    }
    Ok(TreeOrMirror::Tree {
        roots: vec![Root { path: location.into(), tree_prefix: None }],
        // Without a stat cache, because these commands write nothing for the tree.
        scan: options::scan_options(&[], config, options::jobs(None, config), None),
    })
}
