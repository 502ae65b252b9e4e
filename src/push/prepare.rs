//! Decides from the mirrors' states and the source what a push does. Checks run numbers and guard
//! rails, and makes the new manifest and release, or finds that nothing is new.

use std::collections::BTreeMap;
use std::io::BufWriter;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::fsx::{self, Context as _};
use crate::hash::{HistoryId, ManifestId};
use crate::manifest::Totals;
use crate::mirror::{LinkKind, PolledMirror};
use crate::monitor::{Event, Monitor};
use crate::origin::scratch::{Entries, ManifestFile, Scratch, entries, warn_not_cached};
use crate::packing::content_source::ContentSource;
use crate::packing::mirror_sources::MirrorSources;
use crate::packing::source_entries::SourceEntries;
use crate::push::claims::{self, Claims};
use crate::push::fleet::{self, Fleet};
use crate::push::guards::GuardFault;
use crate::push::next_manifest::{ManifestOptions, ManifestPlan};
use crate::push::options::Options;
use crate::push::outcome::{ChangeCounts, MirrorReport, Outcome, Report};
use crate::push::publication::Publication;
use crate::push::push_monitor::Traffic;
use crate::push::resolve_source::{self, ResolvedSource};
use crate::push::source::{DecidedBy, Source};
use crate::push::states::{PendingStates, StatePoll, may_decide_early};
use crate::push::{PushError, fleet_wide, secret_files, site};
use crate::release::{MAX_REPLACED, RejectedContent, Release};
use crate::scan::{Root, ScanOptions, Tree};
use crate::threads;
use crate::tree_path::Site;

/// The decision.
pub(super) enum Prepared {
    /// Do nothing, because the requirement cannot be met.
    Refused(Box<Report>),
    /// Bring every mirror to this publication.
    Publication(Box<Publication>),
}

/// Polls the mirrors, loads the source, and decides. Calls `on_new` with the loaded source once it
/// is clear that a new release will be made from it.
///
/// If enough mirrors have responded in time, the others follow later.
pub(super) fn prepare(
    source: &Source,
    fleet: &Fleet,
    options: &Options,
    on_new: impl FnOnce(&SourceEntries),
    monitor: &dyn Monitor,
) -> Result<Prepared, PushError> {
    let is_enough = |members: &[PolledMirror]| may_decide_early(source, members, options);
    Preparation::begin(source, fleet, options, is_enough, monitor)?.finish(options, on_new, monitor)
}

/// Like [`prepare`], but waits for responses from all mirrors.
pub(super) fn prepare_plan(
    source: &Source,
    fleet: &Fleet,
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Prepared, PushError> {
    Preparation::begin(source, fleet, options, |_| false, monitor)?.finish(options, |_| {}, monitor)
}

/// Whether caching old content is useful. A cache helps with remote mirrors, unless a local mirror
/// keeps the content anyway.
fn is_cache_useful(members: &[PolledMirror]) -> bool {
    let has = |link| {
        members.iter().any(|member| member.mirror.link_kind() == link && member.state().is_some())
    };
    has(LinkKind::Network) && !has(LinkKind::Local)
}

/// The options for scanning the trees at `roots`. If the cache does not outlive the push, no stat
/// cache is written.
fn scan_options(
    roots: &[Root],
    scan: &ScanOptions,
    scratch: &Scratch,
) -> Result<ScanOptions, PushError> {
    let mut scan = scan.clone();
    if let Some(temporary) = scratch.temporary() {
        // The check at the start covered the cache, but not the directory that replaces it.
        fleet::check_nesting(roots, [temporary.to_owned()])?;
        scan.stat_cache = None;
    }
    Ok(scan)
}

/// Loads the source. `tree` is the scan of its trees.
fn load(
    source: &Source,
    tree: Option<Arc<Tree>>,
    members: &[PolledMirror],
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<ResolvedSource, PushError> {
    match (source, tree) {
        (_, Some(tree)) => Ok(ResolvedSource::from_entries(SourceEntries::Tree(tree))),
        (Source::CurrentRelease(mirror), None) => resolve_source::load_current(mirror),
        (Source::Promote(mirror), None) => resolve_source::load_promoted(mirror),
        // With too few mirrors, the push ends before it searches any.
        _ if !fleet::is_requirement_met(members, options.require) => Ok(ResolvedSource::empty()),
        (Source::Rollback { to, by }, None) => {
            let claims = Claims::new(members, options);
            resolve_source::load_rollback(&claims, *to, by, options, monitor)
        }
        (Source::Staged(text), None) => resolve_source::load_staged(members, text),
        _ => resolve_source::load_newest(members, options, monitor),
    }
}

/// A release that was created, or an existing one that was found.
struct NextRelease {
    release: Release,
    is_new: bool,
    manifest: Option<Arc<ManifestFile>>,
    previous: Option<Arc<ManifestFile>>,
    change_counts: ChangeCounts,
}

/// Whether the newest release can stay the newest.
enum ReusableManifest {
    /// The release can stay. Contains no manifest if all mirrors have the release and none is
    /// local.
    Usable(Option<Arc<ManifestFile>>),
    /// The manifest is damaged on every mirror, or has retired entries at expunged paths.
    Unusable,
}

struct Preparation {
    site: Site,
    members: Vec<PolledMirror>,
    /// The states still to come from members that have not responded yet.
    pending: PendingStates,
    resolved: ResolvedSource,
    scratch: Scratch,
    /// Whether new content is cached for the next push.
    is_caching: bool,
}

impl Preparation {
    /// Polls all mirrors and loads the source, in parallel if possible. After `response_timeout`,
    /// waits for the remaining mirrors only until `is_enough` returns true.
    fn begin(
        source: &Source,
        fleet: &Fleet,
        options: &Options,
        is_enough: impl Fn(&[PolledMirror]) -> bool + Sync,
        monitor: &dyn Monitor,
    ) -> Result<Self, PushError> {
        // Checked first, so that no scratch directory is created inside a tree.
        if let Source::Trees { roots, .. } = source {
            let local = fleet.mirrors().iter().filter_map(|mirror| mirror.local_path());
            fleet::check_nesting(roots, local.chain(options.scratch.directory.clone().ok()))?;
        }
        let scratch = Scratch::create(&options.scratch, monitor)?;
        let poll = StatePoll::begin(fleet.members(monitor), &options.stores, monitor);
        let wait = || poll.wait(options.response_timeout, &is_enough);
        let mut tree = None;
        match source {
            Source::Trees { roots, scan } => {
                let scan = scan_options(roots, scan, &scratch)?;
                let (waited, scanned) = threads::join(wait, || Tree::scan(roots, &scan, monitor));
                tree = Some(Arc::new(scanned?));
                waited?;
            }
            _ => wait()?,
        }
        let (mut members, pending) = poll.finish();
        if matches!(source, Source::Rollback { to: None, .. }) {
            // Without `--to`, it is ambiguous which release to leave while another push is
            // switching the mirrors.
            members = resolve_source::repoll_until_agreed(members, &options.stores, monitor)?;
        }
        // Before the source is loaded, because a mirror that makes false claims must not choose the
        // content.
        let members = claims::fail_implausible_mirrors(members, options, monitor);
        let resolved = load(source, tree, &members, options, monitor)?;
        fleet::check_distinct(&members)?;
        // Promoted content may come from another site.
        let from = resolved.source_mirror.as_ref().filter(|_| !resolved.is_promoted);
        let site = site::resolve(options.site.as_ref(), &members, from)?;
        let is_caching = options.keep_content.max_bytes > 0
            && scratch.temporary().is_none()
            && is_cache_useful(&members);
        let preparation = Self { site, members, pending, resolved, scratch, is_caching };
        if let Some(newest) = preparation.releases().max_by_key(|release| release.rank()) {
            preparation.open_site(newest.history, monitor);
        }
        Ok(preparation)
    }

    /// Opens the directory of the site in the cache, unless it is open already. If that fails, the
    /// push goes on without cached content.
    fn open_site(&self, history: HistoryId, monitor: &dyn Monitor) {
        if let Err(error) = self.scratch.open_site(&self.site, history) {
            warn_not_cached(&error, monitor);
        }
    }

    /// The decision.
    fn finish(
        self,
        options: &Options,
        on_new: impl FnOnce(&SourceEntries),
        monitor: &dyn Monitor,
    ) -> Result<Prepared, PushError> {
        if let Some(report) = self.refusal_report(options) {
            return Ok(Prepared::Refused(Box::new(report)));
        }
        self.decide(options, on_new, monitor)
            .map(|publication| Prepared::Publication(Box::new(publication)))
    }

    /// The report of a push that cannot meet its requirement, or that finds no release for all
    /// mirrors. In both cases, nothing has been sent.
    fn refusal_report(&self, options: &Options) -> Option<Report> {
        let (reachable, total) = fleet::count_reachable(&self.members);
        let unmet = (!options.require.is_met(reachable, total))
            .then(|| options.require.unmet_message(reachable, total));
        let has_nothing =
            self.resolved.skips_newer_mirrors && self.resolved.existing_release.is_none();
        if unmet.is_none() && !has_nothing {
            return None;
        }
        let reached = |member: &PolledMirror| match member.current() {
            Some(_) if unmet.is_none() => Outcome::Apart,
            _ => Outcome::Skipped,
        };
        let now = fsx::unix_seconds();
        let report = |member: &PolledMirror| MirrorReport {
            mirror: member.mirror.name().to_owned(),
            location: member.mirror.location().to_owned(),
            outcome: member.error().map_or_else(|| reached(member), Outcome::failed),
            before: member.current().map(|current| current.sequence()),
            now: member.current().map(|current| current.sequence()),
            new_bytes: 0,
            traffic: Traffic::default(),
            expiries: member.expiries(),
            hook: None,
            needs_clean_up: member.needs_clean_up(now),
        };
        Some(Report {
            site: self.site.clone(),
            release: None,
            sequence: None,
            is_new: false,
            changes: ChangeCounts::default(),
            new_bytes: 0,
            goal: options.policy.goal,
            mirrors: self.members.iter().map(report).collect(),
            unmet,
            stopped: None,
            reverted: None,
            spread_ms: None,
        })
    }

    /// All releases of this site that the mirrors keep.
    fn releases(&self) -> impl Iterator<Item = &Release> {
        self.members
            .iter()
            .flat_map(PolledMirror::releases)
            .filter(|release| release.site == self.site)
    }

    fn decide(
        self,
        options: &Options,
        on_new: impl FnOnce(&SourceEntries),
        monitor: &dyn Monitor,
    ) -> Result<Publication, PushError> {
        if let Some(release) = self.resolved.existing_release.clone() {
            let damaged = || {
                PushError::NoRelease(format!(
                    "the manifest of release {} is damaged everywhere",
                    release.name()
                ))
            };
            let manifest = Some(self.copy_manifest(&release)?.ok_or_else(damaged)?);
            let (previous, sums) = (None, ChangeCounts::default());
            let newest = fleet::newest(&self.members).cloned();
            return Ok(self.into_publication(
                NextRelease { release, is_new: false, manifest, previous, change_counts: sums },
                newest,
                None,
                monitor,
            ));
        }
        let claims = Claims::new(&self.members, options);
        let newest = claims.newest().cloned();
        if !options.new_history {
            fleet::check_one_history(&self.members, newest.as_ref())?;
        }
        claims.warn_of_unconfirmed(newest.as_ref(), monitor);
        let orders = claims.published_run_numbers(monitor);
        claims::check_run_number(options, &orders)?;
        let content = self.resolved.source_entries.content_id();
        // Nothing is new. The other conditions exclude cases that still need a release: a rollback,
        // which records the content that it rejects; a new history; a mirror whose release can be
        // replaced only by a release with a higher sequence; and an unusable manifest.
        if let Some(newest) = &newest
            && newest.content == content
            && fleet_wide::is_for_requested_mirrors(newest, options)
            && self.resolved.rolled_back_to.is_none()
            && !options.new_history
            && !claims.needs_higher_release(newest)
            && let ReusableManifest::Usable(manifest) = self.reusable_manifest(newest, options)?
        {
            let next = NextRelease {
                release: newest.clone(),
                is_new: false,
                manifest,
                previous: None,
                change_counts: ChangeCounts::default(),
            };
            return Ok(self.into_publication(next, Some(newest.clone()), None, monitor));
        }
        if let Some(newest) = &newest
            // Otherwise, the next scheduled push would undo the rollback.
            && let Some(rejected) = newest.rejection(content)
            && !options.allow_rejected
            && self.resolved.rolled_back_to.is_none()
        {
            return Err(GuardFault::Rejected(rejected.clone()).into());
        }
        self.check_live(options, monitor)?;
        on_new(&self.resolved.source_entries);
        let next = self.make_release(newest.as_ref(), orders, options, monitor)?;
        let likely = self.resolved.rolled_back_to.as_ref().map(|release| release.manifest);
        Ok(self.into_publication(next, newest, likely, monitor))
    }

    /// Applies the guard rails to the content, and emits warnings.
    fn check_live(&self, options: &Options, monitor: &dyn Monitor) -> Result<(), PushError> {
        let live = &self.resolved.source_entries;
        options.guards.check_tree(live.paths())?;
        options.guards.check_secrets(live.paths(), live.private_keys())?;
        // Entries from a mirror were published before, so they cause no warning.
        if let Some(message) =
            secret_files::clutter_warning(live.paths()).filter(|_| live.is_tree())
        {
            monitor.event(Event::Warned { message });
        }
        Ok(())
    }

    fn into_publication(
        self,
        next: NextRelease,
        newest_before: Option<Release>,
        likely_base: Option<ManifestId>,
        monitor: &dyn Monitor,
    ) -> Publication {
        // The first release of a site has a history that no mirror knew before.
        self.open_site(next.release.history, monitor);
        let cache = self.is_caching.then(|| self.scratch.open_content_cache(monitor)).flatten();
        let is_repeatable = !self.resolved.is_staged;
        // The source mirror comes first: it is less likely to be damaged than the mirrors that the
        // push updates.
        let from = self.resolved.source_mirror.iter().chain(&self.members);
        let likely = likely_manifests(&next, likely_base);
        let sources = MirrorSources::new(from, &likely);
        let late =
            (0..self.members.len()).filter(|index| !self.members[*index].has_responded()).collect();
        let releases = self
            .members
            .iter()
            .chain(&self.resolved.source_mirror)
            .flat_map(PolledMirror::releases)
            .cloned()
            .collect();
        let leaves_newer = self.resolved.skips_newer_mirrors;
        let content_source = ContentSource::new(self.resolved.source_entries, sources, releases)
            .with_base_content(cache);
        let mut speeds = self.scratch.known_link_speeds();
        let round_trip = |member: &PolledMirror| member.state()?.round_trip;
        for (member, round_trip) in
            self.members.iter().filter_map(|member| Some((member, round_trip(member)?)))
        {
            speeds.record_rtt(member.mirror.location(), round_trip);
        }
        // Stored before any pack is made, so that if this push is interrupted, the next makes its
        // packs at the same level.
        if let Some(bytes) = speeds.to_bytes() {
            // If this fails, the next push uses the default level.
            self.scratch.keep_link_speeds(&bytes).ok();
        }
        Publication {
            release: next.release,
            is_new: next.is_new,
            is_retryable: is_repeatable,
            manifest: next.manifest,
            previous: next.previous,
            change_counts: next.change_counts,
            content_source,
            members: self.members,
            late_members: late,
            pending: self.pending,
            newest_before,
            likely_base,
            skips_newer_mirrors: leaves_newer,
            speeds,
            scratch: self.scratch,
            is_caching: AtomicBool::new(false),
        }
    }

    /// The manifest of a release that remains the newest.
    fn reusable_manifest(
        &self,
        newest: &Release,
        options: &Options,
    ) -> Result<ReusableManifest, PushError> {
        let all = || self.members.iter().filter_map(|member| Some((member, member.state()?)));
        let is_served = all().all(|(_, state)| state.current == Some(newest.name()));
        let is_far = all().all(|(member, _)| member.mirror.link_kind() == LinkKind::Network);
        let all_answered = self.members.iter().all(PolledMirror::has_responded);
        if all_answered && is_served && is_far && !options.retention.has_expunged() {
            return Ok(ReusableManifest::Usable(None));
        }
        let Some(manifest) = self.copy_manifest(newest)? else {
            return Ok(ReusableManifest::Unusable);
        };
        let is_shown =
            options.retention.has_expunged() && options.retention.is_expunged_in(&manifest)?;
        Ok(if is_shown {
            ReusableManifest::Unusable
        } else {
            ReusableManifest::Usable(Some(manifest))
        })
    }

    /// Copies the manifest of a release to a scratch file, from a mirror that has an undamaged
    /// copy.
    fn copy_manifest(&self, release: &Release) -> Result<Option<Arc<ManifestFile>>, PushError> {
        let members = self.members.iter().chain(&self.resolved.source_mirror);
        Ok(fleet::copy_manifest(members, &release.manifest, &self.scratch)?)
    }

    /// Creates the next release on top of the newest one.
    fn make_release(
        &self,
        newest: Option<&Release>,
        orders: BTreeMap<String, u64>,
        options: &Options,
        monitor: &dyn Monitor,
    ) -> Result<NextRelease, PushError> {
        let created = claims::next_release_time(self.releases(), fsx::unix_seconds());
        let manifest_options =
            ManifestOptions { created, mtime: options.mtime, retention: &options.retention };
        let previous = match newest {
            Some(newest) => self.copy_manifest(newest)?,
            None => None,
        };
        if let Some(newest) = newest.filter(|_| previous.is_none()) {
            // Without the last manifest, all files get new times: visitors see nothing stale, but
            // must fetch everything again.
            let message = format!(
                "the manifest of release {} is damaged everywhere: all files get new times",
                newest.sequence
            );
            monitor.event(Event::Warned { message });
        }
        let stream = || entries(previous.as_deref()).map_err(PushError::NewManifest);
        let manifest_plan =
            ManifestPlan::compare(stream()?, &self.resolved.source_entries, &manifest_options)
                .map_err(PushError::NewManifest)?;
        // Checked before the manifest is written, so that a refused push leaves nothing behind.
        options.guards.check_removed(manifest_plan.removed, manifest_plan.total)?;
        let (totals, manifest) =
            self.write_manifest(&manifest_plan, stream()?, &manifest_options)?;
        let mut release = self.build_release(&totals, newest, orders, options)?;
        release.created = created;
        self.set_rejections(&mut release, newest, options);
        // Detects a clock that is off by centuries before the mirrors get a record that they cannot
        // read.
        Release::parse(&release.to_bytes()).map_err(PushError::NewRelease)?;
        Ok(NextRelease {
            is_new: true,
            release,
            manifest: Some(Arc::new(manifest)),
            previous,
            change_counts: manifest_plan.change_counts,
        })
    }

    fn write_manifest(
        &self,
        plan: &ManifestPlan,
        previous: Entries,
        manifest_options: &ManifestOptions<'_>,
    ) -> Result<(Totals, ManifestFile), PushError> {
        let out = BufWriter::with_capacity(1 << 17, self.scratch.dir().create_file("manifest")?);
        let (out, totals) = plan
            .write(previous, &self.resolved.source_entries, manifest_options, out)
            .map_err(PushError::NewManifest)?;
        let file = out.into_inner().map_err(std::io::IntoInnerError::into_error);
        let file = file.context("write", || self.scratch.dir().join("manifest"))?;
        Ok((totals, ManifestFile { file, id: totals.manifest }))
    }

    fn build_release(
        &self,
        totals: &Totals,
        newest: Option<&Release>,
        orders: BTreeMap<String, u64>,
        options: &Options,
    ) -> Result<Release, PushError> {
        let sequence = claims::next_sequence(&self.members)?;
        let (history, replaces) = self.history(newest, options)?;
        let mut release =
            Release::new(self.site.clone(), history, sequence, totals.manifest, totals.content);
        release.replaces = replaces;
        release.began = options.began;
        release.until = totals.until;
        release.entries = totals.entries;
        release.retired = totals.retired;
        release.bytes = totals.bytes;
        release.note.clone_from(&options.note);
        release.partial.clone_from(&options.partial);
        release.orders = orders;
        if let Some(order) = &options.run_number {
            // A push with `allow_older` sets the stream to its own number, which lets users correct
            // a wrong number.
            release.orders.insert(order.stream().to_owned(), order.number());
        }
        Ok(release)
    }

    /// Sets which content `release` rejects: content that the newest release rejects and a mirror
    /// still keeps, and content that `release` rolls back.
    fn set_rejections(&self, release: &mut Release, newest: Option<&Release>, options: &Options) {
        let Some(newest) = newest else { return };
        let kept: Vec<_> = self.releases().map(|kept| kept.content).collect();
        let rejected = newest.rejected.iter();
        release.rejected =
            rejected.filter(|rejected| kept.contains(&rejected.content)).cloned().collect();
        if let Some(to) = &self.resolved.rolled_back_to {
            release.rolled_back_to = Some(to.sequence);
            if let Some(DecidedBy::Person(name)) = &self.resolved.decided_by {
                release.rejected.retain(|rejected| rejected.content != newest.content);
                release.rejected.push(RejectedContent {
                    content: newest.content,
                    sequence: newest.sequence,
                    // Not the clock: releases that follow one another within a second have times
                    // ahead of the clock, and a rollback must not be earlier than the release that
                    // it rolls back.
                    at: release.created,
                    by: name.clone(),
                    why: options.note.clone(),
                });
            }
        }
        // Content that is published now is no longer rejected.
        let content = release.content;
        release.rejected.retain(|rejected| rejected.content != content);
        release.rejected.sort_unstable();
    }

    /// The history of the next release, and the histories that it took over. Both come from the
    /// release that the next release is based on or, if the record of that release is lost, from
    /// another release of the site.
    fn history(
        &self,
        newest: Option<&Release>,
        options: &Options,
    ) -> Result<(HistoryId, Vec<HistoryId>), PushError> {
        let known = newest.or_else(|| self.releases().max_by_key(|release| release.rank()));
        if let Some(known) = known.filter(|_| !options.new_history) {
            return Ok((known.history, known.replaces.clone()));
        }
        let history = HistoryId::random().context("make an id for", || "a new history".into())?;
        let mut replaces = fleet::histories(&self.members);
        // A record has room for only this many histories, so the oldest are dropped.
        replaces.drain(..replaces.len().saturating_sub(MAX_REPLACED));
        Ok((history, replaces))
    }
}

/// Manifests of the release and of those that it derives from. A mirror that keeps one of them has
/// most of the content.
fn likely_manifests(next: &NextRelease, likely_base: Option<ManifestId>) -> Vec<ManifestId> {
    let previous = next.previous.as_ref().map(|previous| previous.id);
    [Some(next.release.manifest), previous, likely_base].into_iter().flatten().collect()
}
