//! The publication: the release that a push brings to every mirror, and what the origin remembers
//! about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cache::ContentCache;
use crate::hash::ManifestId;
use crate::manifest::ManifestError;
use crate::mirror::{LinkKind, PolledMirror};
use crate::monitor::{Event, Monitor};
use crate::origin::link_speed::SpeedTable;
use crate::origin::scratch::{Entries, ManifestFile, Scratch, warn_not_cached};
use crate::packing::cache_writer::{self, CacheWriter};
use crate::packing::content_source::ContentSource;
use crate::push::options::Options;
use crate::push::outcome::{ChangeCounts, Report};
use crate::push::states::PendingStates;
use crate::release::Release;

/// The release that every mirror should get, with everything needed to send it.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) release: Release,
    /// Whether this push creates the release.
    pub(super) is_new: bool,
    /// Whether the push may start again if another push got there first. It may not if the user
    /// named a staged release.
    pub(super) is_retryable: bool,
    /// The manifest; `None` if no mirror needs it and no local mirror has it.
    pub(super) manifest: Option<Arc<ManifestFile>>,
    /// The previous manifest, if this push creates the release and there was one.
    pub(super) previous: Option<Arc<ManifestFile>>,
    pub(super) content_source: ContentSource,
    pub(super) members: Vec<PolledMirror>,
    /// The members, by index, that had not responded when the release was decided.
    pub(super) late_members: Vec<usize>,
    /// The states still to come from these members.
    pub(super) pending: PendingStates,
    /// The newest release that any member was known to serve when this one was decided.
    pub(super) newest_before: Option<Release>,
    /// A kept manifest with most of the content, such as the one that a rollback returns to.
    pub(super) likely_base: Option<ManifestId>,
    /// Whether mirrors with a newer release are left alone.
    pub(super) skips_newer_mirrors: bool,
    /// How the release differs from the newest one before.
    pub(super) change_counts: ChangeCounts,
    pub(super) scratch: Scratch,
    /// The link speeds of the mirrors.
    pub(super) speeds: SpeedTable,
    /// Whether the content is being cached for the next push.
    pub(super) is_caching: AtomicBool,
}

impl Publication {
    /// Stores the manifest for the next push, if fetching it again would use the network. Drops old
    /// content that is no longer of use.
    pub(super) fn remember(&self, report: &Report, options: &Options, monitor: &dyn Monitor) {
        let is_far =
            self.members.iter().any(|member| member.mirror.link_kind() == LinkKind::Network);
        if let Some(manifest) =
            self.manifest.as_ref().filter(|_| is_far && self.scratch.temporary().is_none())
        {
            // If this fails, the next push requests the manifest from a mirror.
            self.scratch
                .keep_manifest(manifest, self.release.sequence, options.keep_content.releases)
                .ok();
        }
        for (member, report) in
            self.members.iter().zip(&report.mirrors).filter(|(member, _)| member.state().is_some())
        {
            if let Some(store) = member.mirror.store_id() {
                // Only if the mirror serves the release, because later pushes use this note to
                // confirm the mirror's claims.
                let brought = report.outcome.is_current().then(|| self.release.name());
                options.stores.record(member.mirror.location(), store, brought);
            }
        }
        if let Some(speeds) = self.speeds.to_bytes() {
            // If this fails, the next push uses the default level.
            self.scratch.keep_link_speeds(&speeds).ok();
        }
        if let Some(cache) = self.content_source.base_content.cache() {
            let pruned = cache_writer::prune_if_large(
                cache,
                &self.scratch,
                self.release.bytes,
                options.keep_content.max_bytes,
            );
            warn_of_cache(pruned.err().map(|error| error.to_string()), cache, monitor);
        }
    }

    /// Starts to cache new content, if the cache is useful: once per release, and only if no local
    /// mirror has the content.
    pub(super) fn begin_caching(
        &self,
        bytes: u64,
        options: &Options,
        monitor: &dyn Monitor,
    ) -> Option<CacheWriter> {
        let cache = self
            .content_source
            .base_content
            .cache()
            // Bundles for different bases have the same new content, so the first bundle to be made
            // caches this content for all bundles.
            .filter(|_| self.is_new && !self.is_caching.swap(true, Ordering::Relaxed))?;
        let begun = CacheWriter::begin(cache, bytes, options.keep_content.max_bytes);
        begun.unwrap_or_else(|error| {
            warn_not_cached(&error, monitor);
            None
        })
    }

    /// The entries of the manifest, for a mirror that needs them.
    pub(super) fn new_entries(&self) -> Result<Entries, ManifestError> {
        let manifest = self.manifest.as_deref();
        Ok(Box::new(manifest.expect("it was copied, because a mirror needs it").entries()?))
    }
}

fn warn_of_cache(error: Option<String>, cache: &ContentCache, monitor: &dyn Monitor) {
    let damaged =
        (cache.damaged() > 0).then(|| format!("{} of its files were damaged", cache.damaged()));
    if let Some(what) = damaged.or(error) {
        let message = format!("the cache of old content: {what}; whatever it lost is sent whole");
        monitor.event(Event::Warned { message });
    }
}
