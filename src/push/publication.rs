//! What a push brings every mirror to, and what the origin remembers of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cache::ContentCache;
use crate::hash::ManifestId;
use crate::manifest::ManifestError;
use crate::mirror::Link;
use crate::mirror::PolledMirror;
use crate::monitor::{Event, Monitor};
use crate::origin::link_speed::SpeedTable;
use crate::origin::scratch::{Entries, ManifestFile, Scratch, warn_not_kept};
use crate::packing::cache_writer::{self, CacheWriter};
use crate::packing::content_source::ContentSource;
use crate::push::options::Options;
use crate::push::outcome::{ChangeCounts, Report};
use crate::push::states::PendingStates;
use crate::release::Release;

/// The release that every mirror shall have.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) release: Release,
    /// Whether this push makes it.
    pub(super) is_new: bool,
    /// Whether the push may begin anew when another one was quicker: not if the release was staged by name.
    pub(super) is_repeatable: bool,
    /// Its manifest; nothing where no mirror needs it and all are far away.
    pub(super) manifest: Option<Arc<ManifestFile>>,
    /// The manifest before it, if this push makes the release and there was one.
    pub(super) previous: Option<Arc<ManifestFile>>,
    pub(super) content_source: ContentSource,
    pub(super) members: Vec<PolledMirror>,
    /// The members, by index, that had not answered when the release was decided.
    pub(super) late: Vec<usize>,
    /// Their answers.
    pub(super) pending: PendingStates,
    /// The newest release that any member served, as far as was known then.
    pub(super) newest_before: Option<Release>,
    /// A kept manifest that has most of the content: the one a rollback goes back to.
    pub(super) likely_base: Option<ManifestId>,
    /// Whether mirrors with a newer release are left alone.
    pub(super) leaves_newer: bool,
    /// How it differs from the newest release before it.
    pub(super) sums: ChangeCounts,
    pub(super) scratch: Scratch,
    /// How quick the mirrors are.
    pub(super) speeds: SpeedTable,
    /// Blocks that were made before it was clear what mirrors need.
    /// Whether its content is being kept for the next push.
    pub(super) is_kept: AtomicBool,
}

impl Publication {
    /// Keeps its manifest for the next push, where fetching it again would take a network, and
    /// drops old content that is no longer of use.
    pub(super) fn remember(&self, report: &Report, options: &Options, monitor: &dyn Monitor) {
        let is_far = self.members.iter().any(|member| member.mirror.link() == Link::Network);
        if let Some(manifest) = self.manifest.as_ref().filter(|_| is_far && self.scratch.temporary().is_none()) {
            // Without it the next push asks a mirror.
            self.scratch.keep_manifest(manifest, self.release.sequence, options.keep_content.releases).ok();
        }
        for (member, report) in self.members.iter().zip(&report.mirrors).filter(|(member, _)| member.state().is_some())
        {
            if let Some(store) = member.mirror.store_id() {
                let brought = report.outcome.is_current().then(|| self.release.name());
                options.stores.remember(member.mirror.location(), store, brought);
            }
        }
        if let Some(speeds) = self.speeds.to_bytes() {
            // Without it the next push takes the level that suits most.
            self.scratch.keep_links(&speeds).ok();
        }
        if let Some(cache) = self.content_source.old.cache() {
            let tidied =
                cache_writer::prune_if_large(cache, &self.scratch, self.release.bytes, options.keep_content.most_bytes);
            warn_of_cache(tidied.err().map(|error| error.to_string()), cache, monitor);
        }
    }

    /// Begins to keep new content, if that is of use: once a release, and where no mirror of this machine has it.
    pub(super) fn begin_caching(&self, bytes: u64, options: &Options, monitor: &dyn Monitor) -> Option<CacheWriter> {
        let cache =
            self.content_source.old.cache().filter(|_| self.is_new && !self.is_kept.swap(true, Ordering::Relaxed))?;
        let begun = CacheWriter::begin(cache, bytes, options.keep_content.most_bytes);
        begun.unwrap_or_else(|error| {
            warn_not_kept(&error, monitor);
            None
        })
    }

    /// The entries of its manifest, for a mirror that needs them.
    pub(super) fn new_entries(&self) -> Result<Entries, ManifestError> {
        let manifest = self.manifest.as_deref();
        Ok(Box::new(manifest.expect("it was copied, because a mirror needs it").entries()?))
    }
}

fn warn_of_cache(error: Option<String>, cache: &ContentCache, monitor: &dyn Monitor) {
    let damaged = (cache.damaged() > 0).then(|| format!("{} of its files were damaged", cache.damaged()));
    if let Some(what) = damaged.or(error) {
        let message = format!("the cache of old content: {what}; what is lost of it is sent whole");
        monitor.event(Event::Warned { message });
    }
}
