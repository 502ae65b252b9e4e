//! What can be done while mirrors are still asked what they have: most likely
//! they have the release that this origin pushed last.
//!
//! A guess costs time in which there is nothing else to do. It decides nothing:
//! a block that was made ahead is used where the very same one is to be made.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cache::ContentCache;
use crate::fsx;
use crate::hash::BundleKey;
use crate::manifest::{Entry, ManifestError, delta};
use crate::mirror::{Link, Mirror};
use crate::monitor::{Monitor, Silent};
use crate::pack::Level;
use crate::push::base_selection::BaseSelector;
use crate::push::bundle::level_for;
use crate::push::content_source::ContentSource;
use crate::push::next_manifest::{ManifestOptions, build};
use crate::push::options::Options;
use crate::push::pack_builder::{Ahead, PackInput};
use crate::push::scratch::{Entries, ManifestFile, Scratch};
use crate::push::source::SourceEntries;
use crate::push::sources::Sources;
use crate::scan::Tree;

/// What blocks that were made ahead may take: more would be waited for all the same.
const MOST_BYTES: usize = 16 << 20;

/// Makes blocks of what `tree` has and the last release had not, until `is_over`. Answers them,
/// and the cache if it was opened. Nothing that goes wrong here is told: it would go wrong again where it matters.
pub(super) fn make(
    tree: &Arc<Tree>,
    scratch: &Scratch,
    mirrors: &[Arc<dyn Mirror>],
    options: &Options,
    is_over: &Arc<AtomicBool>,
    monitor: &dyn Monitor,
) -> (Ahead, Option<ContentCache>) {
    let is_far = |mirror: &Arc<dyn Mirror>| mirror.link() == Link::Network;
    let is_of_use = tree.has_read() && mirrors.iter().all(is_far) && options.keep_content.most_bytes > 0;
    if !is_of_use || scratch.temporary().is_some() || is_over.load(Ordering::Relaxed) {
        return (Ahead::default(), None);
    }
    let cache = scratch.open_content(&Silent);
    let content_source = ContentSource::new(SourceEntries::Tree(Arc::clone(tree)), Sources::default(), Vec::new())
        .with_base_content(cache);
    let ahead = guess(&content_source, scratch, mirrors, options, is_over, monitor);
    (ahead.ok().flatten().unwrap_or_default(), content_source.old.into_cache())
}

fn guess(
    content_source: &ContentSource,
    scratch: &Scratch,
    mirrors: &[Arc<dyn Mirror>],
    options: &Options,
    is_over: &Arc<AtomicBool>,
    monitor: &dyn Monitor,
) -> Result<Option<Ahead>, ManifestError> {
    let level = level_for(mirrors.iter(), &scratch.known_links(), options);
    let known = scratch.newest_known_manifest().map_err(io::Error::other)?;
    let Some(known) = known.filter(|_| level != Level::Raw) else { return Ok(None) };
    let old = || until(is_over, &known);
    let rules = ManifestOptions { created: fsx::unix_seconds(), mtime: options.mtime, retention: &options.retention };
    let out = scratch.dir().create_file("ahead").map_err(io::Error::other)?;
    let (_, drafted) = build(old()?, &content_source.live, &rules, io::BufWriter::with_capacity(1 << 17, out))?;
    let Some((out, totals)) = drafted else { return Ok(None) };
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    let next = ManifestFile { file, id: totals.manifest };
    let new = || until(is_over, &next);
    let wanted = delta::encode(old, new, Some(known.id), rules.created)?.wanted;
    let (jobs, excluded_bases) = (options.jobs.get(), &Default::default());
    let search =
        BaseSelector { wanted: &wanted, old: &content_source.old, content_source, excluded_bases, jobs, monitor };
    let bases = search.run(old, new()?)?;
    // Blocks that are made ahead belong to no bundle.
    let bundle = BundleKey::from_bytes([0; 32]);
    let job = PackInput {
        wanted: &wanted,
        bundle,
        mirrors: Vec::new(),
        content_source,
        bases: &bases,
        is_kept: true,
        level,
        jobs,
        ahead: None,
    };
    let stop = || is_over.load(Ordering::Relaxed) || monitor.is_cancelled();
    Ok(Some(Ahead::make(&job, MOST_BYTES, &stop)))
}

/// The entries of a manifest, which end with an error once it is over.
fn until(is_over: &Arc<AtomicBool>, manifest: &ManifestFile) -> Result<Entries, ManifestError> {
    let is_over = Arc::clone(is_over);
    let check = move |entry: Result<Entry, ManifestError>| match is_over.load(Ordering::Relaxed) {
        true => Err(io::Error::from(io::ErrorKind::Interrupted).into()),
        false => entry,
    };
    Ok(Box::new(manifest.entries()?.map(check)))
}
