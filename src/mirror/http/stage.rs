//! Stages a release over HTTP.
//!
//! Normally a single request is enough: it contains the change and the packs, which are built while
//! the request is sent. Otherwise the steps are separate requests: ask which packs the receiver
//! holds, send the others, and report that all packs were sent.

use std::collections::HashSet;
use std::io::{self, Read};

use crate::error_kind::ErrorKind;
use crate::hash::{ObjectId, PackId};
use crate::manifest::ManifestError;
use crate::manifest::delta::{self, ChangeLimits, DeltaSummary};
use crate::mirror::attempt::{AttemptError, RetryAction};
use crate::mirror::http::body::Body;
use crate::mirror::http::client::{Method, Request};
use crate::mirror::http::limits::{CancelCheck, RetryState, Semaphore};
use crate::mirror::http::pack_stream::{PackStream, StreamedPacks};
use crate::mirror::http::response_json::ResponseLimit;
use crate::mirror::http::upload::{ObjectUpload, Upload, Uploaded, is_unknown, put_object};
use crate::mirror::http::{HttpMirror, to_json};
use crate::mirror::transport_error::TransportError;
use crate::mirror::{MirrorError, PackSource, SourceError, StageRequest};
use crate::monitor::{Event, Monitor};
use crate::protocol::{self, Action, ErrorDetail, ProtocolError, Resource, StageHead, StageResult};
use crate::store::{StoreError, needed_bytes};

const STAGE: Resource = Resource::Action(Action::Stage);
const TOO_SOON: &str = "it reports missing objects before all packs were sent";
/// How many times staging is restarted if the receiver has lost the stage.
const MAX_ROUNDS: u32 = 5;

pub(super) fn run(
    mirror: &HttpMirror,
    request: &StageRequest<'_>,
    bundle: &dyn PackSource,
    monitor: &dyn Monitor,
) -> Result<(), MirrorError> {
    // Send nothing that the receiver would refuse.
    check_token(mirror)?;
    let stop = || monitor.is_cancelled();
    let _permit = Semaphore::acquire_if_some(mirror.session.limits.semaphore.as_ref(), &stop)?;
    // Send packs with the first request only if the receiver holds none of them and has ample
    // space. Otherwise ask first: the client does not read a response while it sends a body.
    let has_none = match &*mirror.known() {
        Some(known) => {
            known.unfinished.as_ref().is_some_and(|keys| !keys.contains(&request.key))
                && known.quota.refusal(request.release, 0).is_none()
                && known.free_bytes.is_none_or(|free| has_ample_space(free, request))
        }
        None => false,
    };
    let mut stage = Stage { mirror, request, bundle, stop: &stop, resent: 0 };
    let upload = Upload::new(mirror, request.key, bundle, monitor);
    if let Some(unfinished) = mirror.known().as_mut().and_then(|known| known.unfinished.as_mut()) {
        // From here on the receiver may hold packs for this key. If this run stages again, it asks
        // which ones.
        unfinished.push(request.key);
    }
    match if has_none { stage.begin(&upload)? } else { FirstAttempt::Restart } {
        FirstAttempt::Staged => {}
        FirstAttempt::Restart => stage.step_by_step(&upload, None)?,
        FirstAttempt::Held(held) => stage.step_by_step(&upload, Some(held))?,
    }
    if stage.resent > 0 {
        monitor.event(Event::ObjectsResent {
            mirror: mirror.identity.name.clone(),
            objects: stage.resent,
        });
    }
    Ok(())
}

struct Stage<'s> {
    mirror: &'s HttpMirror,
    request: &'s StageRequest<'s>,
    bundle: &'s dyn PackSource,
    stop: CancelCheck<'s>,
    resent: u64,
}

/// The result of the first request.
enum FirstAttempt {
    /// The release is staged.
    Staged,
    /// The receiver holds these packs, but not all of them.
    Held(HashSet<PackId>),
    /// Start again, step by step.
    Restart,
}

enum StageStep {
    Staged,
    /// The receiver has lost the stage.
    StageLost,
}

impl Stage<'_> {
    /// The header of a stage request, which precedes the manifest change in its body.
    fn head(&self, change: &[u8], has_packs: bool, is_whole: bool) -> Vec<u8> {
        let request = self.request;
        let release =
            String::from_utf8(request.release.to_bytes()).expect("a release record is JSON");
        let (key, base, change_bytes) = (request.key, request.base, change.len() as u64);
        let head = to_json(&StageHead { release, key, base, change_bytes, has_packs, is_whole });
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&length, &head[..]].concat()
    }

    /// Sends a stage request without packs.
    fn request_stage(
        &self,
        change: &[u8],
        is_whole: bool,
        retry: &mut RetryState<'_>,
    ) -> Result<StageResult, MirrorError> {
        let head = self.head(change, false, is_whole);
        let request = Request::new(
            Method::Post,
            STAGE,
            Body::Parts(vec![&head, change]),
            ResponseLimit::STAGING,
        );
        self.mirror.session.request(&request, retry)
    }

    fn retry_state(&self) -> RetryState<'_> {
        self.mirror.session.retry_state(self.stop)
    }

    /// Sends a stage request whose body contains the packs, which are built while it is sent. Does
    /// not retry. This keeps the connection busy, and a small push needs only one request.
    fn begin(&mut self, upload: &Upload<'_>) -> Result<FirstAttempt, MirrorError> {
        let (stream, change) = (PackStream::new(upload), &self.request.change[..]);
        let open = || -> io::Result<Box<dyn Read + Send + '_>> {
            Ok(Box::new(stream.open(io::Cursor::new(self.head(change, true, false)).chain(change))))
        };
        let request =
            Request::new(Method::Post, STAGE, Body::Chunks(&open), ResponseLimit::STAGING);
        let mut retry = self.retry_state();
        let asked = self.mirror.session.request_once(&request, &mut retry);
        let StreamedPacks { packs, is_all, failed, .. } = stream.end();
        for pack in packs {
            // Whatever the result, even if it says that packs are missing, these packs need not be
            // sent again.
            if asked.is_ok() {
                upload.acknowledge(pack);
            } else {
                // Some of the packs may have arrived. The receiver says which ones in the next
                // step.
                upload.requeue(pack);
            }
        }
        match asked {
            Ok(StageResult::Staged { .. }) => Ok(FirstAttempt::Staged),
            Ok(_) if let Some(error) = failed => Err(error),
            Ok(StageResult::Missing(objects)) if is_all => {
                let step = self.send_objects(&objects)?;
                let is_staged = matches!(step, StageStep::Staged)
                    && matches!(self.complete()?, StageStep::Staged);
                Ok(if is_staged { FirstAttempt::Staged } else { FirstAttempt::Restart })
            }
            Ok(StageResult::Missing(_)) => Err(unexpected(TOO_SOON)),
            Ok(StageResult::Held(_)) if is_all => {
                Err(unexpected("it reports packs as missing that were sent"))
            }
            Ok(StageResult::Held(held)) => Ok(FirstAttempt::Held(held.into_iter().collect())),
            // Retry step by step, so that packs that have arrived are not sent again.
            Err(AttemptError { retry: RetryAction::WhileLocked, .. }) => Ok(FirstAttempt::Restart),
            // Another push took over the stage, or a proxy does not accept chunked bodies.
            Err(AttemptError { error, .. }) if is_unknown(&error) || rejects_chunks(&error) => {
                Ok(FirstAttempt::Restart)
            }
            Err(attempt_error) => {
                retry.retry_or_fail(attempt_error).map(|()| FirstAttempt::Restart)
            }
        }
    }

    /// Sends the packs that are not in `held`. If `held` is `None`, asks the mirror which packs it
    /// holds.
    fn step_by_step(
        &mut self,
        upload: &Upload<'_>,
        held: Option<HashSet<PackId>>,
    ) -> Result<(), MirrorError> {
        let mut known = held;
        for _ in 0..MAX_ROUNDS {
            let held = match known.take() {
                Some(held) => held,
                None => {
                    match self.request_stage(self.request.change, false, &mut self.retry_state())? {
                        StageResult::Staged { .. } => return Ok(()),
                        StageResult::Held(held) => held.into_iter().collect(),
                        StageResult::Missing(_) => return Err(unexpected(TOO_SOON)),
                    }
                }
            };
            match upload.run(&held)? {
                Uploaded::All => {}
                Uploaded::StageLost => continue,
            }
            match self.complete()? {
                StageStep::Staged => return Ok(()),
                StageStep::StageLost => {}
            }
        }
        Err(TransportError::PacksLost.into())
    }

    /// Reports that all packs were sent, and sends the objects that the mirror still reports as
    /// missing.
    fn complete(&mut self) -> Result<StageStep, MirrorError> {
        let mut before: Option<Vec<ObjectId>> = None;
        loop {
            let mut retry = self.retry_state();
            // The receiver already has the manifest change.
            let lacking = match self.request_stage(&[], true, &mut retry) {
                Ok(StageResult::Staged { .. }) => return Ok(StageStep::Staged),
                Ok(StageResult::Held(_)) => return Ok(StageStep::StageLost),
                Ok(StageResult::Missing(lacking)) => lacking,
                Err(error) if is_unknown(&error) => return Ok(StageStep::StageLost),
                // An earlier attempt may have staged the release although its response was lost;
                // then another push took the slot.
                Err(MirrorError::Remote { refusal })
                    if retry.has_failed() && refusal.kind == ErrorKind::Malformed =>
                {
                    return Ok(StageStep::StageLost);
                }
                Err(error) => return Err(error),
            };
            // An object that was sent is still reported as missing. It would be missing in every
            // round.
            if before.is_some_and(|before| lacking.iter().any(|object| before.contains(object))) {
                return Err(unexpected("it reports objects as missing that were sent"));
            }
            if matches!(self.send_objects(&lacking)?, StageStep::StageLost) {
                return Ok(StageStep::StageLost);
            }
            before = Some(lacking);
        }
    }

    fn send_objects(&mut self, objects: &[ObjectId]) -> Result<StageStep, MirrorError> {
        self.bundle.announce(objects);
        let mut missing = Vec::new();
        let mut why: Option<SourceError> = None;
        for id in objects {
            let open = || -> Result<Box<dyn Read + Send>, SourceError> { self.bundle.object(id) };
            match put_object(&self.mirror.session, &open, id, self.stop) {
                Ok(ObjectUpload::Sent) => self.resent += 1,
                Ok(ObjectUpload::Unreadable(error)) => {
                    missing.push(*id);
                    why.get_or_insert(error);
                }
                Err(error) if is_unknown(&error) => return Ok(StageStep::StageLost),
                Err(error) => return Err(error),
            }
        }
        match why {
            None => Ok(StageStep::Staged),
            Some(source) => Err(StoreError::Fetch { missing, source }.into()),
        }
    }
}

/// Whether the free space is at least twice the size of the new content. Twice, because only the
/// receiver computes the exact need, and other pushes may arrive at the same time.
fn has_ample_space(free_bytes: u64, request: &StageRequest<'_>) -> bool {
    /// Additional bytes that a file takes: up to one block, and its line in the manifest.
    const FILE_BYTES: u64 = 4096 + 256;
    let with_files = |bytes: u64, files: u64| {
        bytes.saturating_add(files.saturating_mul(FILE_BYTES)).saturating_mul(2)
    };
    // Usually the whole release fits, and the change need not be read. The record does not include
    // the size of retired entries.
    if request.release.retired == 0
        && with_files(request.release.bytes, request.release.entries) <= free_bytes
    {
        return true;
    }
    needs(request)
        .is_ok_and(|needs| with_files(needs.new_bytes(), needs.objects.len() as u64) <= free_bytes)
}

fn needs(request: &StageRequest<'_>) -> Result<DeltaSummary, ManifestError> {
    let limits = ChangeLimits::trusted(request.change.len() as u64, request.release.entries);
    delta::summarize(&**request.change, &limits)
}

/// Fails if the token only allows reading.
fn check_token(mirror: &HttpMirror) -> Result<(), MirrorError> {
    match mirror.known().as_ref() {
        Some(known) if !known.may_push => Err(MirrorError::Remote {
            refusal: ProtocolError::new(ErrorKind::Forbidden, protocol::READ_ONLY_MESSAGE),
        }),
        _ => Ok(()),
    }
}

/// Fails if the mirror's last state shows that the receiver would refuse the request. The state
/// lacks the disk's block size and the details of interrupted pushes, so the receiver may still
/// refuse.
pub(super) fn check(mirror: &HttpMirror, request: &StageRequest<'_>) -> Result<(), MirrorError> {
    check_token(mirror)?;
    let known = mirror.known();
    let Some(known) = known.as_ref() else { return Ok(()) };
    let needs = needs(request).map_err(|error| MirrorError::Source(Box::new(error)))?;
    let no_space = |message: String, detail: Option<ErrorDetail>| MirrorError::Remote {
        refusal: ProtocolError { detail, ..ProtocolError::new(ErrorKind::NoSpace, message) },
    };
    if let Some(message) = known.quota.refusal(request.release, needs.new_bytes()) {
        return Err(no_space(message, Some(ErrorDetail::Quota)));
    }
    // With a base, the receiver may change an existing slot, so only the new objects will certainly
    // be written.
    let made =
        if request.base.is_some() { needs.objects.len() as u64 } else { request.release.entries };
    let needed = needed_bytes(made, &needs, 1, known.incoming_bytes);
    match known.free_bytes {
        Some(free) if needed > free => {
            Err(no_space(format!("{free} bytes are free, but {needed} are needed"), None))
        }
        _ => Ok(()),
    }
}

/// Whether a proxy may have rejected the chunked body: a receiver never sends these statuses for
/// such a body.
const fn rejects_chunks(error: &MirrorError) -> bool {
    matches!(error, MirrorError::Transport(TransportError::Foreign { status: 411 | 501, .. }))
}

fn unexpected(what: &str) -> MirrorError {
    TransportError::Foreign { status: 200, what: what.to_owned() }.into()
}
