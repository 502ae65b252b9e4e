//! From what the mirrors said and what the source has to what shall be done:
//! fence, guard rails, the new manifest and release, or nothing at all.

use std::io::BufWriter;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::fsx::{self, Context as _};
use crate::hash::ManifestId;
use crate::manifest::{Entry, ManifestError, Totals};
use crate::mirror::{Link, Mirror};
use crate::monitor::{Event, Monitor};
use crate::push::contents::Supplies;
use crate::push::fleet::{self, Fleet, Member};
use crate::push::gate::Traffic;
use crate::push::guard::GuardFault;
use crate::push::next::{Outline, Rules, draft};
use crate::push::options::Options;
use crate::push::outcome::{MirrorReport, Outcome, Report, Sums};
use crate::push::scratch::{Entries, ManifestFile, Scratch, entries};
use crate::push::source::{Live, Source};
use crate::push::{PushError, rollout};
use crate::release::{Release, ReleaseName};
use crate::scan::Tree;

/// What shall be done.
pub(super) enum Prepared {
    /// Nothing: the requirement cannot be met.
    Refused(Report),
    /// Bring every mirror to this.
    Target(Box<Target>),
}

/// The release that every mirror shall have.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) release: Release,
    /// Whether this push makes it.
    pub(super) is_new: bool,
    /// Its manifest; nothing where no mirror needs it and all are far away.
    pub(super) manifest: Option<Arc<ManifestFile>>,
    /// The manifest before it, if this push makes the release and there was one.
    pub(super) previous: Option<Arc<ManifestFile>>,
    pub(super) supplies: Supplies,
    pub(super) members: Vec<Member>,
    /// A kept manifest that has most of the content: the one a rollback goes back to.
    pub(super) likely_base: Option<ManifestId>,
    /// How it differs from the newest release before it.
    pub(super) sums: Sums,
    pub(super) scratch: Scratch,
}

impl Target {
    /// Keeps its manifest for the next push, where fetching it again would take a network.
    pub(super) fn remember(&self) {
        let is_far = self.members.iter().any(|member| member.mirror.link() == Link::Network);
        if let Some(manifest) = self.manifest.as_ref().filter(|_| is_far) {
            // Without it the next push asks a mirror.
            self.scratch.keep_manifest(manifest).ok();
        }
    }

    /// The entries of its manifest, for a mirror that needs them.
    pub(super) fn new_entries(&self) -> Result<Entries, ManifestError> {
        let manifest = self.manifest.as_deref();
        Ok(Box::new(manifest.expect("it was copied, because a mirror needs it").entries()?))
    }
}

/// Asks the mirrors, loads the source, and decides. `on_new` is told what was
/// loaded as soon as it is clear that a release is made of it.
pub(super) fn prepare(
    source: &Source,
    fleet: &Fleet,
    options: &Options,
    on_new: impl FnOnce(&Live),
    monitor: &dyn Monitor,
) -> Result<Prepared, PushError> {
    let preparation = Preparation::begin(source, fleet, options, monitor)?;
    if let Some(report) = preparation.unreachable(options) {
        return Ok(Prepared::Refused(report));
    }
    preparation.decide(options, on_new, monitor).map(|target| Prepared::Target(Box::new(target)))
}

/// What is pushed, loaded.
struct Loaded {
    live: Live,
    /// The mirror it comes from, and that mirror's state.
    from: Option<Member>,
    rolled_back_to: Option<Release>,
}

/// A release, made or found.
struct Next {
    release: Release,
    manifest: Option<Arc<ManifestFile>>,
    previous: Option<Arc<ManifestFile>>,
    sums: Sums,
}

struct Preparation {
    members: Vec<Member>,
    loaded: Loaded,
    scratch: Scratch,
}

impl Preparation {
    /// Asks all mirrors and loads the source, side by side where that is possible.
    fn begin(source: &Source, fleet: &Fleet, options: &Options, monitor: &dyn Monitor) -> Result<Self, PushError> {
        // First of all: our own directory must not come to be inside of a tree.
        if let Source::Trees { roots, .. } = source {
            check_nesting(roots, fleet, options)?;
        }
        let scratch = Scratch::create(&options.scratch)?;
        let (members, loaded) = match source {
            Source::Trees { roots, scan } => {
                let (members, tree) = std::thread::scope(|scope| {
                    let members = scope.spawn(|| fleet.states(monitor));
                    let tree = Tree::scan(roots, scan, monitor);
                    (members.join().expect("asking for states does not panic"), tree)
                });
                (members, Loaded { live: Live::Tree(Arc::new(tree?)), from: None, rolled_back_to: None })
            }
            Source::Store(mirror) => {
                let members = fleet.states(monitor);
                (members, load_store(mirror)?)
            }
            Source::Rollback { to } => {
                let members = fleet.states(monitor);
                // With too few mirrors it ends before anything is looked for on them.
                let loaded = match is_met(&members, options) {
                    true => load_rollback(&members, *to)?,
                    false => Loaded { live: Live::Entries(Vec::new()), from: None, rolled_back_to: None },
                };
                (members, loaded)
            }
        };
        fleet::check_distinct(&members)?;
        Ok(Self { members, loaded, scratch })
    }

    /// The report of a push that cannot meet its requirement, before anything is sent.
    fn unreachable(&self, options: &Options) -> Option<Report> {
        if is_met(&self.members, options) {
            return None;
        }
        let (reachable, total) = reachable(&self.members);
        let report = |member: &Member| MirrorReport {
            mirror: member.mirror.name().to_owned(),
            location: member.mirror.location().to_owned(),
            outcome: member.state.as_ref().map_or_else(Outcome::failed, |_| Outcome::Skipped),
            before: member.current().map(|current| current.sequence()),
            now: member.current().map(|current| current.sequence()),
            traffic: Traffic::default(),
        };
        Some(Report {
            site: options.site.clone(),
            release: None,
            sequence: None,
            is_new: false,
            changes: Sums::default(),
            new_bytes: 0,
            goal: options.policy.goal,
            unmet: Some(rollout::unmet(options.require, reachable, total)),
            stopped: None,
            reverted: None,
            spread_ms: None,
            mirrors: self.members.iter().map(report).collect(),
        })
    }

    /// All releases of the site that are known, wherever they are kept.
    fn releases(&self, options: &Options) -> impl Iterator<Item = &Release> {
        let site = options.site.clone();
        let all = self.members.iter().chain(&self.loaded.from).flat_map(Member::releases);
        all.filter(move |release| release.site == site)
    }

    /// The newest release that is current anywhere, the source included.
    fn newest(&self, options: &Options) -> Option<Release> {
        let source = self.loaded.from.as_ref().and_then(|from| from.state.as_ref().ok()?.current_release());
        let source = source.filter(|release| release.site == options.site);
        fleet::newest(&self.members).into_iter().chain(source).max_by_key(|release| release.rank()).cloned()
    }

    fn decide(self, options: &Options, on_new: impl FnOnce(&Live), monitor: &dyn Monitor) -> Result<Target, PushError> {
        let newest = self.newest(options);
        check_order(options, newest.as_ref())?;
        let content = self.loaded.live.content();
        let now = options.began / 1000;
        if let Some(newest) = &newest
            && newest.content == content
            && newest.until.is_none_or(|until| until > now)
            && self.loaded.rolled_back_to.is_none()
            && !self.has_diverged(newest)
            && let Some(manifest) = self.manifest_to_keep(newest, options)?
        {
            return Ok(self.into_target(
                Next { release: newest.clone(), manifest, previous: None, sums: Sums::default() },
                false,
                None,
            ));
        }
        if let Some(newest) = &newest
            && newest.rejected.contains(&content)
            && !options.again
            && self.loaded.rolled_back_to.is_none()
        {
            return Err(GuardFault::Rejected { sequence: newest.sequence }.into());
        }
        options.guards.check_tree(self.loaded.live.paths())?;
        on_new(&self.loaded.live);
        let next = self.make_release(newest.as_ref(), options, monitor)?;
        let likely = self.loaded.rolled_back_to.as_ref().map(|release| release.manifest);
        Ok(self.into_target(next, true, likely))
    }

    /// Whether a mirror is on a release that the newest one cannot replace: a
    /// new one, above both, brings them together again.
    fn has_diverged(&self, newest: &Release) -> bool {
        let is_stuck = |current: ReleaseName| current != newest.name() && current.sequence() >= newest.sequence;
        self.members.iter().filter_map(Member::current).any(is_stuck)
    }

    fn into_target(self, next: Next, is_new: bool, likely_base: Option<ManifestId>) -> Target {
        // What a mirror is brought up from is more likely whole than what is brought up.
        let from = self.loaded.from.iter().chain(&self.members);
        let mirrors: Vec<_> = from.map(|member| Arc::clone(&member.mirror)).collect();
        let releases = self.members.iter().chain(&self.loaded.from).flat_map(Member::releases).cloned().collect();
        Target {
            release: next.release,
            is_new,
            manifest: next.manifest,
            previous: next.previous,
            sums: next.sums,
            supplies: Supplies::new(self.loaded.live, mirrors, releases),
            members: self.members,
            likely_base,
            scratch: self.scratch,
        }
    }

    /// The manifest of a release that is to stay the newest. The outer nothing: it cannot stay,
    /// because the manifest is damaged everywhere, or shows what shall not be shown. The inner
    /// nothing: all mirrors have the release, and none of them is near enough to look without cost.
    fn manifest_to_keep(
        &self,
        newest: &Release,
        options: &Options,
    ) -> Result<Option<Option<Arc<ManifestFile>>>, PushError> {
        let all = || self.members.iter().filter_map(|member| Some((member, member.state.as_ref().ok()?)));
        let is_served = all().all(|(_, state)| state.current == Some(newest.name()));
        let is_far = all().all(|(member, _)| member.mirror.link() == Link::Network);
        if is_served && is_far && !options.retention.has_expunged() {
            return Ok(Some(None));
        }
        let Some(manifest) = self.copy_manifest(newest)? else { return Ok(None) };
        let is_shown = options.retention.has_expunged() && shows_expunged(&manifest, options)?;
        Ok(if is_shown { None } else { Some(Some(manifest)) })
    }

    /// Copies the manifest of a release from whoever has it whole to a scratch file.
    fn copy_manifest(&self, release: &Release) -> Result<Option<Arc<ManifestFile>>, PushError> {
        let members = self.members.iter().chain(&self.loaded.from);
        Ok(fleet::copy_manifest(members, &release.manifest, &self.scratch)?)
    }

    /// Makes the next release on top of the newest one.
    fn make_release(
        &self,
        newest: Option<&Release>,
        options: &Options,
        monitor: &dyn Monitor,
    ) -> Result<Next, PushError> {
        let highest = self.releases(options).map(|release| release.created).max();
        let created = unix_seconds().max(highest.map_or(0, |created| created + 1));
        let rules = Rules { created, mtime: options.mtime, retention: &options.retention };
        let previous = match newest {
            Some(newest) => self.copy_manifest(newest)?,
            None => None,
        };
        if let Some(newest) = newest.filter(|_| previous.is_none()) {
            // Without it every time is renewed: nobody gets anything stale, everybody fetches once more.
            let message =
                format!("the manifest of release {} is damaged everywhere: all files get new times", newest.sequence);
            monitor.event(Event::Warned { message });
        }
        let stream = || entries(previous.as_deref());
        let (outline, totals, manifest) = self.write_manifest(&stream, &rules)?;
        options.guards.check_removed(outline.gone, outline.total)?;
        let mut release = self.describe(&totals, newest, options);
        release.created = created;
        Ok(Next { release, manifest: Some(Arc::new(manifest)), previous, sums: outline.sums })
    }

    fn write_manifest(
        &self,
        previous: &dyn Fn() -> Result<Entries, ManifestError>,
        rules: &Rules<'_>,
    ) -> Result<(Outline, Totals, ManifestFile), PushError> {
        let live = &self.loaded.live;
        let create =
            |name: &str| Ok::<_, PushError>(BufWriter::with_capacity(1 << 17, self.scratch.dir().create_file(name)?));
        let previous = || previous().map_err(PushError::NewManifest);
        let (outline, drafted) = draft(previous()?, live, rules, create("draft")?).map_err(PushError::NewManifest)?;
        let written = match drafted {
            Some(written) => written,
            None => outline.write(previous()?, live, rules, create("manifest")?).map_err(PushError::NewManifest)?,
        };
        let (out, totals) = written;
        let file = out.into_inner().map_err(std::io::IntoInnerError::into_error);
        let file = file.context("write", || self.scratch.dir().join("manifest"))?;
        Ok((outline, totals, ManifestFile { file, id: totals.manifest }))
    }

    fn describe(&self, totals: &Totals, newest: Option<&Release>, options: &Options) -> Release {
        let floor =
            self.members.iter().filter_map(|member| member.state.as_ref().ok()).map(|state| state.highest_sequence);
        let known = newest.map(|newest| newest.sequence);
        let sequence = floor.chain(known).max().unwrap_or(0) + 1;
        let mut release = Release::new(options.site.clone(), sequence, totals.manifest, totals.content);
        release.began = options.began;
        release.until = totals.until;
        release.entries = totals.entries;
        release.retired = totals.retired;
        release.bytes = totals.bytes;
        release.note.clone_from(&options.note);
        if let Some(newest) = newest {
            release.orders.clone_from(&newest.orders);
            let kept: Vec<_> = self.releases(options).map(|kept| kept.content).collect();
            release.rejected = newest.rejected.iter().copied().filter(|content| kept.contains(content)).collect();
        }
        if let Some(order) = &options.order {
            let highest = release.orders.entry(order.stream.clone()).or_default();
            *highest = order.number.max(*highest);
        }
        if let (Some(to), Some(newest)) = (&self.loaded.rolled_back_to, newest) {
            release.rolled_back_to = Some(to.sequence);
            release.rejected.push(newest.content);
        }
        // What is published now is wanted, whatever was thought of it before.
        release.rejected.retain(|content| *content != totals.content);
        release.rejected.sort_unstable();
        release.rejected.dedup();
        release
    }
}

/// How many mirrors can be reached, and of how many, those that count.
fn reachable(members: &[Member]) -> (usize, usize) {
    let reachable = fleet::counted(members).filter(|index| members[*index].state.is_ok()).count();
    (reachable, fleet::counted(members).count())
}

/// Whether enough mirrors can be reached.
fn is_met(members: &[Member], options: &Options) -> bool {
    let (reachable, total) = reachable(members);
    options.require.is_met(reachable, total)
}

/// Whether a retired entry is still served that shall go at once.
fn shows_expunged(manifest: &ManifestFile, options: &Options) -> Result<bool, PushError> {
    for entry in manifest.entries().map_err(PushError::NewManifest)? {
        let entry = entry.map_err(PushError::NewManifest)?;
        if !entry.is_live() && options.retention.is_expunged(&entry.path) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Refuses an order that is older than the newest published one of its stream.
fn check_order(options: &Options, newest: Option<&Release>) -> Result<(), PushError> {
    let (Some(order), Some(newest)) = (&options.order, newest) else { return Ok(()) };
    match newest.orders.get(&order.stream) {
        Some(&seen) if order.number < seen && !options.allow_older => {
            Err(PushError::Superseded { stream: order.stream.clone(), number: order.number, seen })
        }
        _ => Ok(()),
    }
}

/// Refuses a tree that contains a mirror or our own files, or lies inside one.
fn check_nesting(roots: &[crate::scan::Root], fleet: &Fleet, options: &Options) -> Result<(), PushError> {
    let mut others: Vec<_> = fleet.mirrors().iter().filter_map(|mirror| mirror.local_path()).collect();
    others.push(options.scratch.clone());
    for root in roots {
        let Ok(tree) = fsx::resolve(&root.path) else { continue };
        for other in &others {
            // What cannot be found (below a file, in a loop of links) is that mirror's failure, not that of all.
            let Ok(resolved) = fsx::resolve(other) else { continue };
            if tree.starts_with(&resolved) || resolved.starts_with(&tree) {
                let shown = |path: &std::path::Path| path.display().to_string();
                return Err(PushError::Nested { tree: shown(&root.path), other: shown(other) });
            }
        }
    }
    Ok(())
}

fn live_entries(mirror: &Arc<dyn Mirror>, release: &Release) -> Result<Vec<Entry>, PushError> {
    let mut entries = fleet::release_entries(mirror, release)?;
    entries.retain(Entry::is_live);
    Ok(entries)
}

/// Loads the current release of a mirror.
fn load_store(mirror: &Arc<dyn Mirror>) -> Result<Loaded, PushError> {
    let name = || mirror.location().to_owned();
    let state = mirror.state().map_err(|source| fleet::in_source(mirror, source))?;
    let release = state.current_release().cloned().ok_or_else(|| PushError::EmptySource { mirror: name() })?;
    let live = Live::Entries(live_entries(mirror, &release)?);
    Ok(Loaded { live, from: Some(Member { mirror: Arc::clone(mirror), state: Ok(state) }), rolled_back_to: None })
}

/// Loads the release to go back to: one for the whole fleet.
fn load_rollback(members: &[Member], to: Option<u64>) -> Result<Loaded, PushError> {
    let release = match to {
        Some(sequence) => kept_release(members, sequence)?,
        None => rollback_target(members)?,
    };
    // Where one mirror's manifest is damaged, another may have it whole.
    let mut loaded = fleet::holders(members, &release.manifest).map(|mirror| live_entries(mirror, release));
    let first = loaded.next().expect("the release was found on a mirror");
    let live = first.or_else(|error| loaded.find_map(Result::ok).ok_or(error))?;
    Ok(Loaded { live: Live::Entries(live), from: None, rolled_back_to: Some(release.clone()) })
}

/// The release of a sequence, if that is one and the same wherever it is kept.
fn kept_release(members: &[Member], sequence: u64) -> Result<&Release, PushError> {
    let mut kept = members.iter().flat_map(Member::releases).filter(|release| release.sequence == sequence);
    let first = kept.next().ok_or_else(|| PushError::Rollback(format!("no mirror keeps a release {sequence}")))?;
    match kept.all(|other| other.id() == first.id()) {
        true => Ok(first),
        false => {
            Err(PushError::Rollback(format!("release {sequence} is not the same on all mirrors: name fewer of them")))
        }
    }
}

/// The release before the current one, if all mirrors agree on both.
fn rollback_target(members: &[Member]) -> Result<&Release, PushError> {
    let reachable = || members.iter().filter(|member| member.state.is_ok());
    let current: Vec<Option<ReleaseName>> = reachable().map(Member::current).collect();
    if current.windows(2).any(|pair| pair[0] != pair[1]) {
        let text = "the mirrors are not on one release, so what to go back to is ambiguous: say --to SEQ";
        return Err(PushError::Rollback(text.into()));
    }
    let newest = fleet::newest(members).ok_or_else(|| PushError::Rollback("no mirror has a release yet".into()))?;
    let releases = members.iter().flat_map(Member::releases);
    let before = releases.filter(|release| {
        release.sequence < newest.sequence
            && release.content != newest.content
            && !newest.rejected.contains(&release.content)
    });
    before
        .max_by_key(|release| release.rank())
        .ok_or_else(|| PushError::Rollback(format!("no kept release before {} differs from it", newest.sequence)))
}
