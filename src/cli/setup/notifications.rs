//! Notifications after a push, and the files with its result.
//!
//! A failure here is reported but does not change the exit code: what the report says about the
//! mirrors is still true. If a release changed nothing for visitors, no notification is sent.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use headwater::cancel::{run_until_cancelled, sleep_unless_cancelled};
use headwater::command::{self, CommandSpec};
use headwater::config::{self, Config, TokenSource};
use headwater::fleet_status::{self, Poll};
use headwater::fsx;
use headwater::mirror::{EventKind, HistoryEvent, HookRun, HookState};
use headwater::monitor::{Event, Monitor, SilentMonitor};
use headwater::notify::{self, Purge, PurgeResult};
use headwater::push::{Fleet, Outcome, Report};
use headwater::release::Release;
use headwater::text::error_chain;
use headwater::tree_path::Site;
use headwater::web::{HttpClient, Secret};
use serde::Serialize;

use crate::cli::args::ScheduleArgs;
use crate::cli::output::ci_report::CiResult;
use crate::cli::output::format::{escape, pluralize};
use crate::cli::output::progress::Progress;
use crate::cli::output::{ci_report, metrics};
use crate::cli::setup::{fleet_poller, settings};

/// Maximum time for one request to another service.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long hooks may still run after an interruption: they report interruptions too.
const HOOK_GRACE_PERIOD: Duration = Duration::from_millis(700);
/// Maximum size of a secret file, in bytes.
const MAX_SECRET_BYTES: u64 = 8 * 1024;
/// Prefix of the name of a cache file. The file contains the URLs that a CDN has not acknowledged,
/// one per line.
const PENDING_PURGE_PREFIX: &str = "purge-";
/// Maximum size of the file with unacknowledged URLs, in bytes.
const MAX_PENDING_BYTES: u64 = 64 * 1024 * 1024;

/// Waits until the push should start. Returns `false` if the user interrupted the wait.
pub(crate) fn wait_for_start(schedule: &ScheduleArgs, progress: &Progress) -> bool {
    schedule.jitter.is_none_or(|most| sleep_unless_cancelled(random_duration(most), progress))
}

/// A random time up to `most`; zero if there is no source of random numbers.
fn random_duration(most: Duration) -> Duration {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).ok();
    most.mul_f64(f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX))
}

/// The result of a notification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NotificationResult {
    /// Which notification it is: `on_activated`, `on_failed`, `purge`, or a file.
    #[serde(rename = "who")]
    notification: &'static str,
    /// Whether the notification succeeded.
    ok: bool,
    /// The result as a message.
    message: String,
}

impl NotificationResult {
    /// The line on stdout, for people.
    pub(crate) fn line(&self) -> String {
        format!("{}: {}\n", self.notification, escape(&self.message))
    }
}

/// The request to stop, with a delay for commands.
struct GracePeriod<'a> {
    progress: &'a Progress,
    stopped_at: OnceLock<Instant>,
}

impl GracePeriod<'_> {
    fn is_cancelled(&self) -> bool {
        self.progress.is_cancelled()
            && self.stopped_at.get_or_init(Instant::now).elapsed() >= HOOK_GRACE_PERIOD
    }
}

/// The notifications of a push.
pub(crate) struct Notifications<'a> {
    config: &'a Config,
    args: &'a ScheduleArgs,
    site: Option<Site>,
    /// The directory of this push in the cache, if there is one.
    cache: Option<&'a Path>,
    began: Instant,
    results: Vec<NotificationResult>,
    /// The poll results after the push, if a notification needs them.
    polls: Option<Vec<Poll>>,
    grace_period: GracePeriod<'a>,
}

impl<'a> Notifications<'a> {
    pub(crate) fn new(
        config: &'a Config,
        args: &'a ScheduleArgs,
        site: Option<Site>,
        cache: Option<&'a Path>,
        progress: &'a Progress,
    ) -> Self {
        let grace_period = GracePeriod { progress, stopped_at: OnceLock::new() };
        let began = Instant::now();
        let results = Vec::new();
        Self { config, args, site, cache, began, results, polls: None, grace_period }
    }

    /// Sends all notifications about the result of the push, whose mirrors are `fleet`. The gauges
    /// also include the mirrors in `others`.
    pub(crate) fn send_all(
        &mut self,
        report: Option<&Report>,
        code: u8,
        error: Option<&str>,
        [fleet, others]: [&Fleet; 2],
    ) {
        let progress = self.grace_period.progress;
        let all = Fleet::new(fleet.mirrors().iter().chain(others.mirrors()).cloned().collect());
        // Mirrors that are not part of the push appear only in the gauges.
        let seen = self.needs_poll(report).then(|| fleet_status::poll(&all, &SilentMonitor));
        let paths = match (report, &seen) {
            (Some(report), Some(seen)) => {
                changed_paths(report, fleet, &seen[..fleet.mirrors().len()], progress)
            }
            _ => BTreeSet::new(),
        };
        let facts = PushResult { site: self.site_of(report, seen.as_deref()), report, code, error };
        if !paths.is_empty() {
            self.run_hook(
                "on_activated",
                self.config.notify.hooks.on_activated.clone(),
                &paths,
                &facts,
            );
        }
        // Runs even without new paths, for URLs that are left over from an earlier push.
        self.purge_cdn(&paths, progress);
        if code != 0 {
            self.run_hook("on_failed", self.config.notify.hooks.on_failed.clone(), &paths, &facts);
        }
        self.write_ci(&facts);
        warn(&self.results, progress);
        self.polls = seen;
    }

    /// The results so far.
    pub(crate) fn results(&self) -> &[NotificationResult] {
        &self.results
    }

    /// Writes the gauges and returns the results. This is the last step, so that the gauges include
    /// the results of the mirrors' `post_activate` hooks.
    pub(crate) fn finish(mut self, report: Option<&Report>, code: u8) -> Vec<NotificationResult> {
        let results_before = self.results.len();
        if let Some(mut seen) = self.polls.take() {
            add_hook_failures(&mut seen, report);
            self.write_metrics(seen, report, code);
        }
        warn(&self.results[results_before..], self.grace_period.progress);
        self.results
    }

    /// The site of the push, if known.
    fn site_of(&self, report: Option<&Report>, seen: Option<&[Poll]>) -> String {
        let of_mirrors = || seen?.iter().find_map(|one| one.state.as_ref().ok()?.site.clone());
        let site = report
            .map(|report| report.site.clone())
            .or_else(|| self.site.clone())
            .or_else(of_mirrors);
        site.unwrap_or_default().to_string()
    }

    /// Returns whether a notification needs the mirrors to be polled.
    fn needs_poll(&self, report: Option<&Report>) -> bool {
        let notify = &self.config.notify;
        let needs_status = notify.purge.is_some()
            || notify.hooks.on_activated.is_some()
            || notify.hooks.on_failed.is_some();
        let may_have_switched = report
            .is_some_and(|report| report.mirrors.iter().any(|one| one.outcome != Outcome::Current));
        // A poll costs one request to each mirror.
        self.args.metrics(self.config).is_some() || needs_status && may_have_switched
    }

    fn record_result(&mut self, who: &'static str, result: Result<String, String>) {
        let ok = result.is_ok();
        let message = result.unwrap_or_else(|message| message);
        self.results.push(NotificationResult { notification: who, ok, message });
    }

    fn run_hook(
        &mut self,
        who: &'static str,
        command: Option<Vec<String>>,
        paths: &BTreeSet<String>,
        facts: &PushResult<'_>,
    ) {
        let Some(command) = command else { return };
        let release =
            facts.report.and_then(|report| report.release).map(|release| release.to_string());
        let sequence =
            facts.report.and_then(|report| report.sequence).map(|sequence| sequence.to_string());
        let variables = [
            ("HEADWATER_SITE", facts.site.clone()),
            ("HEADWATER_RELEASE", release.unwrap_or_default()),
            ("HEADWATER_SEQUENCE", sequence.unwrap_or_default()),
            ("HEADWATER_EXIT_CODE", facts.code.to_string()),
            ("HEADWATER_ERROR", escape(&facts.error()).into_owned()),
        ];
        let input: String = paths.iter().map(|path| format!("/{path}\n")).collect();
        let limit = self.config.notify.hooks.timeout;
        // The hook's standard output is discarded, because stdout is for this command's result.
        let (directory, kept_bytes) = (Path::new("."), 0);
        let secret_variables = &self.config.secret_variables();
        let (command, variables, input) = (&command, &variables, &input);
        let spec = CommandSpec {
            command,
            directory,
            variables,
            secret_variables,
            input,
            max_output_bytes: kept_bytes,
            timeout: limit,
        };
        // Runs for a while even after an interruption, because `on_failed` exists to report it.
        let ran = command::run_cancellable(&spec, &|| self.grace_period.is_cancelled());
        let given = pluralize(paths.len() as u64, "path", "paths");
        self.record_result(
            who,
            ran.map(|_| format!("ran with {given}")).map_err(|error| error_chain(&error)),
        );
    }

    /// Purges the CDN, including the URLs that it did not acknowledge earlier.
    fn purge_cdn(&mut self, paths: &BTreeSet<String>, progress: &Progress) {
        let Some(settings) = &self.config.notify.purge else { return };
        // URLs that an earlier push could not purge are stale in the CDN until they are sent.
        let mut urls: BTreeSet<String> = self.read_pending_urls(settings).into_iter().collect();
        urls.extend(notify::urls_below(&settings.bases, paths));
        if urls.is_empty() {
            return;
        }
        let purge = match build_purge(settings) {
            Ok(purge) => purge,
            Err(why) => {
                let urls: Vec<String> = urls.into_iter().collect();
                let lost = self.write_pending_urls(settings, &urls);
                return self.record_result("purge", lost.and(Err(why)));
            }
        };
        let urls: Vec<String> = urls.into_iter().collect();
        let sent = urls.clone();
        // A CDN may respond slowly, and a request cannot be interrupted.
        let purged = run_until_cancelled(progress, move |monitor| {
            purge.send(sent, &|time| sleep_unless_cancelled(time, monitor))
        });
        // In this case it is unknown which URLs were acknowledged, so all are sent again.
        let purged = purged.unwrap_or_else(|| PurgeResult {
            left: urls,
            error: Some("stopped".to_owned()),
            ..PurgeResult::default()
        });
        let kept = self.write_pending_urls(settings, &purged.left);
        let requests = pluralize(purged.requests as u64, "request", "requests");
        let done = format!("{} in {requests}", pluralize(purged.urls as u64, "URL", "URLs"));
        let result = match purged.error {
            None => Ok(done),
            Some(why) => {
                let left = pluralize(purged.left.len() as u64, "URL", "URLs");
                Err(format!("{done}; {left} left for the next push: {why}"))
            }
        };
        self.record_result("purge", kept.and(result));
    }

    fn read_pending_urls(&self, settings: &config::PurgeConfig) -> Vec<String> {
        let read = |cache: &Path| {
            fsx::read_text(&cache.join(pending_purge_name(settings)), MAX_PENDING_BYTES).ok()
        };
        let text = self.cache.and_then(read).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Stores the URLs that must be sent again. Returns the error text if that fails.
    fn write_pending_urls(
        &self,
        settings: &config::PurgeConfig,
        urls: &[String],
    ) -> Result<(), String> {
        let path = self.cache.map(|cache| cache.join(pending_purge_name(settings)));
        // There are no URLs left, now or before, so a cache is not needed.
        if urls.is_empty() && path.as_ref().is_none_or(|path| !path.exists()) {
            return Ok(());
        }
        let (Some(cache), Some(path)) = (self.cache, path) else {
            return Err("cannot store the remaining URLs: there is no cache".to_owned());
        };
        let written = fsx::create_dir_all(cache).and_then(|()| {
            fsx::replace_file(&path, |out| urls.iter().try_for_each(|url| writeln!(out, "{url}")))
        });
        written.map_err(|error| format!("cannot store the remaining URLs: {}", error_chain(&error)))
    }

    fn write_metrics(&mut self, seen: Vec<Poll>, report: Option<&Report>, code: u8) {
        let Some(path) = self.args.metrics(self.config).map(Path::to_owned) else { return };
        let site = self.site_of(report, Some(&seen));
        let look = fleet_poller::evaluate_polls(seen, self.config);
        let milliseconds = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ended = Some(metrics::PushExit { code, milliseconds });
        let inputs = metrics::MetricsInputs {
            site: &site,
            mirror_statuses: &look.mirror_statuses,
            push: ended,
            now: look.now,
        };
        if let Err(error) = metrics::write(&path, &inputs) {
            self.record_result("metrics", Err(error_chain(&error)));
        }
    }

    fn write_ci(&mut self, facts: &PushResult<'_>) {
        let error = facts.error();
        let result =
            CiResult { site: &facts.site, report: facts.report, code: facts.code, error: &error };
        if let Err(error) =
            ci_report::write(&result, self.args.dotenv.as_deref(), settings::environment_variable)
        {
            self.record_result("report", Err(error));
        }
    }
}

fn warn(results: &[NotificationResult], progress: &Progress) {
    for result in results.iter().filter(|result| !result.ok) {
        progress.event(Event::Warned {
            message: format!("{}: {}", result.notification, result.message),
        });
    }
}

/// Adds failures of `post_activate` hooks, which may have finished after the mirrors were polled.
fn add_hook_failures(seen: &mut [Poll], report: Option<&Report>) {
    let mirrors = report.map(|report| report.mirrors.as_slice()).unwrap_or_default();
    for (one, mirror) in seen.iter_mut().zip(mirrors) {
        let Some(HookRun { release, state: HookState::Failed { reason } }) = &mirror.hook else {
            continue;
        };
        let what = EventKind::HookFailed { release: *release, reason: reason.clone() };
        one.history.push(HistoryEvent { time: fsx::unix_seconds(), kind: what });
    }
}

/// How the push ended.
struct PushResult<'a> {
    site: String,
    report: Option<&'a Report>,
    code: u8,
    error: Option<&'a str>,
}

impl PushResult<'_> {
    /// The error on one line; empty if there is none.
    fn error(&self) -> String {
        let failed = |report: &Report| {
            let failed = report.mirrors.iter().find_map(|mirror| match &mirror.outcome {
                Outcome::Failed { error, .. } => Some(format!("{}: {error}", mirror.mirror)),
                _ => None,
            });
            failed.or_else(|| report.unmet.clone()).or_else(|| report.stopped.clone())
        };
        match self.error {
            Some(error) => error.to_owned(),
            None => self.report.filter(|_| self.code != 0).and_then(failed).unwrap_or_default(),
        }
    }
}

/// The URL paths whose content changed for visitors of a mirror that switched. Includes the changes
/// in a release that was served only for a while, because caches may contain it.
fn changed_paths(
    report: &Report,
    fleet: &Fleet,
    seen: &[Poll],
    progress: &Progress,
) -> BTreeSet<String> {
    // A mirror that served nothing had no visitors. If no mirror had visitors, every path is new.
    let is_first = report.mirrors.iter().all(|mirror| mirror.before.is_none());
    let mut steps: Vec<(Option<&Release>, &Release)> = Vec::new();
    for (one, mirror) in seen.iter().zip(&report.mirrors) {
        let Ok(state) = &one.state else { continue };
        let (before, kept) = (mirror.before, &state.releases);
        let mut old =
            before.and_then(|before| kept.iter().find(|release| release.sequence == before));
        if before.is_none() && !is_first {
            continue;
        }
        for new in
            kept.iter().filter(|release| before.is_none_or(|before| release.sequence > before))
        {
            let is_quiet = old.is_some_and(|old| old.content == new.content);
            let is_known = steps.iter().any(|(from, to)| {
                from.map(Release::id) == old.map(Release::id) && to.id() == new.id()
            });
            if !is_quiet && !is_known {
                steps.push((old, new));
            }
            // Compared step by step, because caches may also contain a release that was served only
            // for a while.
            old = Some(new);
        }
    }
    let mut paths = BTreeSet::new();
    for (old, new) in steps {
        // Including too many paths is safer than too few.
        let diff = fleet_status::changes(fleet, seen, old, new)
            .or_else(|| fleet_status::changes(fleet, seen, None, new));
        match diff {
            Some(diff) => paths.extend(notify::changed_url_paths(&diff)),
            None => {
                let message =
                    "cannot read the changes from any mirror: no notification was sent".to_owned();
                progress.event(Event::Warned { message });
            }
        }
    }
    paths
}

/// The name of the file with the URLs that the CDN of `settings` has not acknowledged.
fn pending_purge_name(settings: &config::PurgeConfig) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [&settings.url].into_iter().chain(&settings.bases) {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    format!("{PENDING_PURGE_PREFIX}{}", &hasher.finalize().to_hex()[..16])
}

fn build_purge(settings: &config::PurgeConfig) -> Result<Purge, String> {
    let token = settings.token.as_ref().map(read_secret).transpose()?;
    let value = token.map(|token| {
        // Only this header has a scheme before the token.
        if settings.header.eq_ignore_ascii_case("authorization") {
            Secret::new(format!("Bearer {}", token.reveal()))
        } else {
            token
        }
    });
    Ok(Purge {
        web: HttpClient::new(REQUEST_TIMEOUT),
        endpoint: settings.url.clone(),
        header: value.map(|value| (settings.header.clone(), value)),
        key: settings.key.clone(),
        max_urls: settings.max_urls.get(),
        max_bytes: usize::try_from(settings.max_bytes).unwrap_or(usize::MAX),
        retry_for: settings.retry_for,
    })
}

/// Reads a secret. No error contains it.
fn read_secret(source: &TokenSource) -> Result<Secret, String> {
    let (text, what) = match source {
        TokenSource::Variable(name) => (
            settings::environment_variable(name)
                .ok_or_else(|| format!("the variable {name} is not set"))?,
            name.clone(),
        ),
        TokenSource::File(path) => {
            let what = path.display().to_string();
            let text = fsx::read_text(path, MAX_SECRET_BYTES);
            (text.map_err(|error| format!("{what}: {}", error.source))?, what)
        }
    };
    // A file usually ends with a line break.
    let text = text.trim();
    // The text goes into a header, where a line break would begin another header.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{what} is empty or contains blanks or line breaks"));
    }
    Ok(Secret::new(text.to_owned()))
}
