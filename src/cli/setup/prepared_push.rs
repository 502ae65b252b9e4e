//! Prepares pushes from arguments and the configuration.

use std::path::Path;
use std::sync::Arc;

use headwater::config::Config;
use headwater::mirror::Mirror;
use headwater::push::{Fleet, Goal, MirrorReport, Options, Require, Source};
use headwater::store::{Presence, Store, StoreError};

use crate::cli::args::operands::{MirrorChoice, PathKind};
use crate::cli::args::{GuardArgs, PushArgs, ReleaseArgs, ScheduleArgs, WorkArgs, operands};
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::pluralize;
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::mirror_factory::MirrorFactory;
use crate::cli::setup::options::PushInputs;
use crate::cli::setup::settings::ReleaseSettings;
use crate::cli::setup::{fleet, options, settings};

/// A push that is ready to run.
pub(crate) struct PreparedPush {
    pub(crate) source: Source,
    pub(crate) fleet: Fleet,
    pub(crate) options: Options,
    pub(crate) keep: usize,
    /// The reports of frozen mirrors.
    pub(crate) frozen: Vec<MirrorReport>,
    /// Configured mirrors that are not part of this push, if the metrics need them.
    pub(crate) other_mirrors: Fleet,
    pub(crate) config: Config,
    pub(crate) schedule: ScheduleArgs,
}

/// Prepares a push from the arguments of `push` and `plan`.
pub(crate) fn prepare_push(args: &PushArgs) -> Result<PreparedPush, Failure> {
    // Refused, not ignored: the note is part of the release, which is copied unchanged.
    if args.source.from.is_some() && args.release.note.is_some() {
        let error = "--note does not work with --from, which copies a release unchanged";
        let hint =
            "use `headwater promote FROM TO --note TEXT` to publish the content as a new release";
        return Err(Failure::new(Exit::Usage, error).with_hint(hint));
    }
    prepare_push_from(args, Source::CurrentRelease)
}

/// What is at `path` on this machine.
fn path_kind(path: &str) -> PathKind {
    let path = Path::new(path);
    match Store::probe(path) {
        Ok(Presence::Store(_)) => PathKind::Store,
        _ if !path.is_dir() => PathKind::Missing,
        Err(StoreError::NotEmpty { .. }) => PathKind::Tree,
        // If the path cannot be opened, the push reports the error.
        Ok(Presence::Absent) | Err(_) => PathKind::Empty,
    }
}

/// Prepares a push. If the content comes from a mirror, `source` makes the source from that mirror.
pub(crate) fn prepare_push_from(
    args: &PushArgs,
    make_source: fn(Arc<dyn Mirror>) -> Source,
) -> Result<PreparedPush, Failure> {
    let config = load_config(&args.config)?;
    let has_from = args.source.from.is_some();
    let mut operands = operands::resolve_push(&args.source.operands, has_from, &config, path_kind)?;
    let site = args.work.remote.site.as_ref();
    let settings =
        ReleaseSettings::merge(&args.release, site, &config, settings::environment_variable);
    let factory = MirrorFactory::for_content(&args.work, &config);
    let from = match &args.source.from {
        Some(from) => {
            let choice: Vec<MirrorChoice> =
                operands::resolve_mirrors(std::slice::from_ref(from), &config)?;
            // Without a site, because promoted content may come from a different site.
            Some(factory.mirror(&choice[0], None)?)
        }
        None => None,
    };
    let frozen = fleet::extract_frozen(&mut operands.mirrors, &config)?;
    // Frozen mirrors have been removed by now, so they do not count.
    check_require(args.work.require.unwrap_or(config.require), operands.mirrors.len())?;
    let mirrors = factory.fleet(&operands.mirrors, settings.site.as_ref())?;
    let cache = settings::cache_dir(args.work.cache.as_deref(), &config);
    let source = match from {
        Some(from) => make_source(from),
        None => {
            let roots = options::roots(operands.tree.as_deref(), &config);
            let jobs = options::jobs(args.work.jobs, &config);
            let scan = options::scan_options(
                &args.source.exclude,
                &config,
                jobs,
                cache.as_ref().ok().map(|cache| cache.join(options::stat_cache_name(&roots))),
            );
            Source::Trees { roots, scan }
        }
    };
    let goal = if args.stage_only { Goal::Stage } else { Goal::Activate };
    let inputs = PushInputs {
        config: &config,
        release: &args.release,
        guards: &args.guards,
        work: &args.work,
        goal,
    };
    let mut options = inputs.options(settings, options::scratch_location(cache.as_deref()))?;
    options.partial = fleet::partial(&operands.mirrors, &config, "push");
    let (keep, schedule) = (releases_to_keep(&config), args.schedule.clone());
    let other_mirrors = other_mirrors(&factory, &mirrors, &config, &schedule);
    Ok(PreparedPush {
        source,
        fleet: mirrors,
        options,
        keep,
        frozen,
        other_mirrors,
        config,
        schedule,
    })
}

/// The configured mirrors outside `fleet`: the metrics must keep their gauges. A mirror whose
/// credentials are missing is left out, because this push does not need them.
fn other_mirrors(
    factory: &MirrorFactory,
    fleet: &Fleet,
    config: &Config,
    schedule: &ScheduleArgs,
) -> Fleet {
    let is_in = |choice: &MirrorChoice| {
        fleet
            .mirrors()
            .iter()
            .any(|one| one.name() == choice.name || one.location() == choice.location)
    };
    let all =
        config.all_mirrors().filter(|_| schedule.metrics(config).is_some()).map(MirrorChoice::from);
    Fleet::new(
        all.filter(|choice| !is_in(choice))
            .filter_map(|choice| factory.mirror(&choice, None).ok())
            .collect(),
    )
}

/// Refuses a requirement that can never be met.
fn check_require(require: Require, mirrors: usize) -> Result<(), Failure> {
    match require {
        Require::AtLeast(count) if count > mirrors => {
            let required = pluralize(count as u64, "mirror is", "mirrors are");
            let there = pluralize(mirrors as u64, "mirror", "mirrors");
            let error = format!("{required} required, but the push is to {there}");
            let hint = "name more mirrors, or lower --require or `require` in headwater.toml; 80% \
                        means a share of the mirrors";
            Err(Failure::new(Exit::Usage, error).with_hint(hint))
        }
        _ => Ok(()),
    }
}

fn releases_to_keep(config: &Config) -> usize {
    usize::try_from(config.keep.get()).unwrap_or(usize::MAX)
}

/// The inputs of a push for a command without a tree.
pub(crate) struct TreelessInputs<'a> {
    pub(crate) mirrors: &'a [String],
    pub(crate) release: &'a ReleaseArgs,
    pub(crate) work: &'a WorkArgs,
    pub(crate) schedule: &'a ScheduleArgs,
    pub(crate) config: Config,
}

/// Prepares a push of content that mirrors already have. A person chose it, or it was pushed
/// before, so guard rails and CI run numbers do not apply.
pub(crate) fn prepare_treeless_push(
    inputs: TreelessInputs<'_>,
    source: Source,
) -> Result<(PreparedPush, GuardArgs), Failure> {
    let TreelessInputs { release, work, config, .. } = inputs;
    let mut choices = operands::resolve_mirrors(inputs.mirrors, &config)?;
    let frozen = fleet::extract_frozen(&mut choices, &config)?;
    let settings = ReleaseSettings::merge(
        release,
        work.remote.site.as_ref(),
        &config,
        settings::environment_variable,
    );
    let factory = MirrorFactory::for_content(work, &config);
    check_require(work.require.unwrap_or(config.require), choices.len())?;
    let mirrors = factory.fleet(&choices, settings.site.as_ref())?;
    let cache = settings::cache_dir(work.cache.as_deref(), &config);
    let guards = GuardArgs {
        allow_older: true,
        again: true,
        allow_shrink: true,
        allow_secrets: true,
        ..GuardArgs::default()
    };
    let config = Config { must_have: Vec::new(), ..config };
    let mut options =
        PushInputs { config: &config, release, guards: &guards, work, goal: Goal::Activate }
            .options(settings, options::scratch_location(cache.as_deref()))?;
    // The run number of CI stands for the content that this run builds, but this content was built
    // before.
    if release.order.is_none() {
        options.run_number = None;
    }
    // `activate` and `heal` make no release that could be for only part of the fleet.
    if matches!(source, Source::Rollback { .. }) {
        options.partial = fleet::partial(&choices, &config, "rollback");
    }
    let (keep, schedule) = (releases_to_keep(&config), inputs.schedule.clone());
    let other_mirrors = other_mirrors(&factory, &mirrors, &config, &schedule);
    Ok((
        PreparedPush {
            source,
            fleet: mirrors,
            options,
            keep,
            frozen,
            other_mirrors,
            config,
            schedule,
        },
        guards,
    ))
}
