//! Stages the publication on one mirror.

use crate::mirror::{ErrorKind, MirrorError};
use crate::monitor::{Event, Monitor as _};
use crate::packing::pack_builder;
use crate::packing::pack_queue::{PackQueue, PackReceiver};
use crate::push::PushError;
use crate::push::bundle::{self, Bundle, BundleBase};
use crate::push::context::PushContext;
use crate::push::mirror_push::MirrorPush;
use crate::text::error_chain;
use crate::threads;

/// Maximum number of damaged objects to exclude as bases. If more are damaged, few objects on the
/// mirror are likely to be intact, so its base is not used at all.
const MAX_EXCLUDED_BASES: usize = 10_000;

impl MirrorPush<'_> {
    /// Stages the publication with a bundle that other mirrors may share. If the mirror reports a
    /// damaged base, tries again with fewer base objects, or with none.
    pub(super) fn stage(
        self,
        bundle: &Bundle,
        receiver: PackReceiver<'_, '_>,
    ) -> Result<(), MirrorError> {
        let (publication, monitor) = (self.context.publication, self.context.monitor);
        let mirror = self.mirror();
        let timer = publication.speeds.begin();
        let staged = mirror.stage(&bundle.request(publication), &receiver, monitor);
        // A retried or interrupted transfer says nothing about the speed of the link.
        if staged.is_ok() {
            timer.record(mirror.location(), monitor.traffic(mirror.name()).sent_bytes);
        }
        drop((timer, receiver));
        self.resend_damaged(BundleBase::from(bundle.base().cloned()), staged)
    }

    /// Stages the publication with packs made for this mirror alone.
    pub(super) fn stage_alone(self) -> Result<(), MirrorError> {
        let publication = self.context.publication;
        let manifest = match bundle::base_manifest_for(publication, self.polled()) {
            Some(base) => bundle::find_base(publication, base).map_err(source_error)?,
            None => None,
        };
        let base = BundleBase::from(manifest);
        let staged = self.stage_on_base(&base);
        self.resend_damaged(base, staged)
    }

    /// Stages the publication again while the mirror reports its `base` as damaged: first without
    /// the damaged objects, and finally without the base.
    fn resend_damaged(
        self,
        mut base: BundleBase,
        mut staged: Result<(), MirrorError>,
    ) -> Result<(), MirrorError> {
        while let Err(error) = &staged
            && error.kind() == ErrorKind::DamagedBase
            && base.manifest.is_some()
        {
            let known = base.excluded.len();
            base.excluded.extend(error.damaged_bases().iter().copied());
            // If the mirror names no new objects or too many, the base is useless.
            let is_named = base.excluded.len() > known && base.excluded.len() <= MAX_EXCLUDED_BASES;
            base.manifest = base.manifest.filter(|_| is_named);
            // A wrong match in one object is rare. After a second failure, the signatures are not
            // trusted; otherwise, each block might take a round.
            base.allows_signed_bases &= known == 0;
            let remedy = if is_named {
                "sending anew what builds on them"
            } else {
                "sending everything anew"
            };
            let message = format!("{}: {}: {remedy}", self.name(), error_chain(error));
            self.context.monitor.event(Event::Warned { message });
            staged = self.stage_on_base(&base);
        }
        staged
    }

    fn stage_on_base(self, base: &BundleBase) -> Result<(), MirrorError> {
        let context @ PushContext { publication, monitor, .. } = self.context;
        let bundle = Bundle::for_mirror(context, base, self.index).map_err(source_error)?;
        let queue = PackQueue::new(
            // Each queue needs its own files. The shared bundles, at most one per mirror, use lower
            // numbers.
            publication.members.len() + self.index,
            &publication.content_source,
            &publication.scratch,
            monitor,
        )?;
        std::thread::scope(|scope| {
            let receiver = queue.subscribe();
            // A builder error reaches the mirror through the queue.
            threads::start(scope, || {
                pack_builder::run(&bundle.pack_input(context, false), None, &queue, monitor).ok()
            })?;
            // When this returns, the receiver is dropped, so the builder no longer waits for it.
            self.mirror().stage(&bundle.request(publication), &receiver, monitor)
        })
    }
}

fn source_error(error: PushError) -> MirrorError {
    MirrorError::Source(Box::new(error))
}
