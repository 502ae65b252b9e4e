//! Staging over the wire: one request, with packs that are made while it is
//! sent; where that is not enough, what is held, the rest of them, and the word
//! that this is all.

use std::collections::HashSet;
use std::io::{self, Read};

use crate::error_kind::ErrorKind;
use crate::hash::{ObjectId, PackId};
use crate::manifest::ManifestError;
use crate::manifest::delta::{self, ChangeLimits, DeltaSummary};
use crate::mirror::http::answer::AnswerLimit;
use crate::mirror::http::body::Body;
use crate::mirror::http::client::{Request, Verb};
use crate::mirror::http::limits::{AttemptError, CancelCheck, RetryAction, RetryState, Semaphore};
use crate::mirror::http::pack_stream::{PackStream, StreamedPacks};
use crate::mirror::http::upload::{Upload, Uploaded, put_object};
use crate::mirror::http::{HttpMirror, to_json};
use crate::mirror::transport_error::TransportError;
use crate::mirror::{MirrorError, PackSource, SourceError, StageRequest};
use crate::monitor::{Event, Monitor};
use crate::protocol::{self, Action, Detail, ProtocolError, Resource, StageHead, Staging};
use crate::store::{StoreError, needed_bytes};

const STAGE: Resource = Resource::Action(Action::Stage);
const TOO_SOON: &str = "objects are lacking before the packs are there";
/// How often it is begun again with a receiver that forgets.
const MAX_ROUNDS: u32 = 5;

/// Stages `request` on `mirror`.
pub(super) fn run(
    mirror: &HttpMirror,
    request: &StageRequest<'_>,
    bundle: &dyn PackSource,
    monitor: &dyn Monitor,
) -> Result<(), MirrorError> {
    // Nothing is sent to where it would be refused.
    check_token(mirror)?;
    let stop = || monitor.is_cancelled();
    let _turn = Semaphore::enter(mirror.session.pace.semaphore.as_ref(), &stop)?;
    // Where the receiver has a part already, and where there may be too little room, it is asked
    // before any pack is sent: an answer is not read while a body is on its way.
    let has_none = match &*mirror.known() {
        Some(known) => {
            known.unfinished.as_ref().is_some_and(|keys| !keys.contains(&request.key))
                && known.quota.refusal(request.release, 0).is_none()
                && known.free_bytes.is_none_or(|free| has_ample_room(free, request))
        }
        None => false,
    };
    let mut stage = Stage { mirror, request, bundle, stop: &stop, resent: 0 };
    let upload = Upload::new(mirror, request.key, bundle, monitor);
    if let Some(unfinished) = mirror.known().as_mut().and_then(|known| known.unfinished.as_mut()) {
        unfinished.push(request.key);
    }
    match if has_none { stage.begin(&upload)? } else { FirstAttempt::Not } {
        FirstAttempt::Staged => {}
        FirstAttempt::Not => stage.step_by_step(&upload, None)?,
        FirstAttempt::Held(held) => stage.step_by_step(&upload, Some(held))?,
    }
    if stage.resent > 0 {
        monitor.event(Event::ObjectsResent { mirror: mirror.name.clone(), objects: stage.resent });
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

/// What the first request came to.
enum FirstAttempt {
    /// That was all.
    Staged,
    /// These packs are there, and there are more.
    Held(HashSet<PackId>),
    /// It is to be begun again.
    Not,
}

/// What a request to stage came to.
enum StageStep {
    Staged,
    /// The receiver has forgotten that it was asked.
    Forgotten,
}

impl Stage<'_> {
    /// What stands before this manifest change in the body of a stage.
    fn head(&self, change: &[u8], has_packs: bool, is_whole: bool) -> Vec<u8> {
        let request = self.request;
        let release = String::from_utf8(request.release.to_bytes()).expect("a release record is JSON");
        let (key, base, change_bytes) = (request.key, request.base, change.len() as u64);
        let head = to_json(&StageHead { release, key, base, change_bytes, has_packs, is_whole });
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&length, &head[..]].concat()
    }

    /// Sends a stage without packs.
    fn ask(&self, change: &[u8], is_whole: bool, retry: &mut RetryState<'_>) -> Result<Staging, MirrorError> {
        let head = self.head(change, false, is_whole);
        let request = Request::new(Verb::Post, STAGE, Body::Parts(vec![&head, change]), AnswerLimit::STAGING);
        self.mirror.session.ask(&request, retry)
    }

    fn retry_state(&self) -> RetryState<'_> {
        self.mirror.session.retry_state(self.stop)
    }

    /// Sends a stage and its packs behind it as they are made, once: the way is never idle, and little
    /// takes one request.
    fn begin(&mut self, upload: &Upload<'_>) -> Result<FirstAttempt, MirrorError> {
        let (stream, change) = (PackStream::new(upload), &self.request.change[..]);
        let open = || -> io::Result<Box<dyn Read + Send + '_>> {
            Ok(Box::new(stream.open(io::Cursor::new(self.head(change, true, false)).chain(change))))
        };
        let request = Request::new(Verb::Post, STAGE, Body::Chunks(&open), AnswerLimit::STAGING);
        let mut retry = self.retry_state();
        let asked = self.mirror.session.ask_once(&request, &mut retry);
        let StreamedPacks { packs, is_all, failed, .. } = stream.end();
        for pack in packs {
            if asked.is_ok() {
                upload.acknowledge(pack);
            } else {
                upload.requeue(pack);
            }
        }
        match asked {
            Ok(Staging::Staged { .. }) => Ok(FirstAttempt::Staged),
            Ok(_) if let Some(error) = failed => Err(error),
            Ok(Staging::Lacking(objects)) if is_all => {
                let step = self.send_objects(&objects)?;
                let is_staged = matches!(step, StageStep::Staged) && matches!(self.complete()?, StageStep::Staged);
                Ok(if is_staged { FirstAttempt::Staged } else { FirstAttempt::Not })
            }
            Ok(Staging::Lacking(_)) => Err(unexpected(TOO_SOON)),
            Ok(Staging::Held(_)) if is_all => Err(unexpected("packs are held that were sent")),
            Ok(Staging::Held(held)) => Ok(FirstAttempt::Held(held.into_iter().collect())),
            // What is tried again is tried step by step: not everything is sent again and again.
            Err(AttemptError { again: RetryAction::WhileLocked, .. }) => Ok(FirstAttempt::Not),
            // Its place was taken, or something on the way takes no chunks.
            Err(AttemptError { error, .. }) if is_unknown(&error) || is_of_chunks(&error) => Ok(FirstAttempt::Not),
            Err(attempt_error) => retry.next(attempt_error).map(|()| FirstAttempt::Not),
        }
    }

    /// Sends what is not `held`, which the mirror is asked for if it is not known.
    fn step_by_step(&mut self, upload: &Upload<'_>, held: Option<HashSet<PackId>>) -> Result<(), MirrorError> {
        let mut known = held;
        for _ in 0..MAX_ROUNDS {
            let held = match known.take() {
                Some(held) => held,
                None => match self.ask(self.request.change, false, &mut self.retry_state())? {
                    Staging::Staged { .. } => return Ok(()),
                    Staging::Held(held) => held.into_iter().collect(),
                    Staging::Lacking(_) => return Err(unexpected(TOO_SOON)),
                },
            };
            match upload.run(&held)? {
                Uploaded::All => {}
                Uploaded::Forgotten => continue,
            }
            match self.complete()? {
                StageStep::Staged => return Ok(()),
                StageStep::Forgotten => {}
            }
        }
        Err(TransportError::Forgotten.into())
    }

    /// Says that all packs are there, and sends what turns out to be lacking all the same.
    fn complete(&mut self) -> Result<StageStep, MirrorError> {
        let mut before: Option<Vec<ObjectId>> = None;
        loop {
            let mut retry = self.retry_state();
            // The manifest change is there already.
            let lacking = match self.ask(&[], true, &mut retry) {
                Ok(Staging::Staged { .. }) => return Ok(StageStep::Staged),
                Ok(Staging::Held(_)) => return Ok(StageStep::Forgotten),
                Ok(Staging::Lacking(lacking)) => lacking,
                Err(error) if is_unknown(&error) => return Ok(StageStep::Forgotten),
                // It may have been staged before its answer was lost, and then lost its slot to another push.
                Err(MirrorError::Remote { refusal }) if retry.has_failed() && refusal.kind == ErrorKind::Malformed => {
                    return Ok(StageStep::Forgotten);
                }
                Err(error) => return Err(error),
            };
            // What was sent is asked for again: it will be so for ever.
            if before.is_some_and(|before| lacking.iter().any(|object| before.contains(object))) {
                return Err(unexpected("objects are lacking that were sent"));
            }
            if matches!(self.send_objects(&lacking)?, StageStep::Forgotten) {
                return Ok(StageStep::Forgotten);
            }
            before = Some(lacking);
        }
    }

    /// Sends objects of the base whole.
    fn send_objects(&mut self, objects: &[ObjectId]) -> Result<StageStep, MirrorError> {
        self.bundle.announce(objects);
        let mut missing = Vec::new();
        let mut why: Option<SourceError> = None;
        for id in objects {
            let open = || -> Result<Box<dyn Read + Send>, SourceError> { self.bundle.object(id) };
            match put_object(&self.mirror.session, &open, id, self.stop) {
                Ok(Ok(())) => self.resent += 1,
                Ok(Err(error)) => {
                    missing.push(*id);
                    why.get_or_insert(error);
                }
                Err(error) if is_unknown(&error) => return Ok(StageStep::Forgotten),
                Err(error) => return Err(error),
            }
        }
        match why {
            None => Ok(StageStep::Staged),
            Some(source) => Err(StoreError::Fetch { missing, source }.into()),
        }
    }
}

/// Whether what is new fits twice into the room there. What exactly a receiver needs it computes
/// itself; other pushes may come in at the same time.
fn has_ample_room(free_bytes: u64, request: &StageRequest<'_>) -> bool {
    /// A file takes whole blocks, and a line of the manifest.
    const FILE_BYTES: u64 = 4096 + 256;
    let with_files = |bytes: u64, files: u64| bytes.saturating_add(files.saturating_mul(FILE_BYTES)).saturating_mul(2);
    // Mostly even the whole release fits; of a retired entry the record does not tell the size.
    if request.release.retired == 0 && with_files(request.release.bytes, request.release.entries) <= free_bytes {
        return true;
    }
    needs(request).is_ok_and(|needs| with_files(needs.new_bytes(), needs.objects.len() as u64) <= free_bytes)
}

fn needs(request: &StageRequest<'_>) -> Result<DeltaSummary, ManifestError> {
    let limits = ChangeLimits::of_own(request.change.len() as u64, request.release.entries);
    delta::summarize(&**request.change, &limits)
}

/// Refuses what a token that may only read cannot do.
fn check_token(mirror: &HttpMirror) -> Result<(), MirrorError> {
    match mirror.known().as_ref() {
        Some(known) if !known.may_push => {
            Err(MirrorError::Remote { refusal: ProtocolError::new(ErrorKind::Forbidden, protocol::READ_ONLY) })
        }
        _ => Ok(()),
    }
}

/// Refuses what the receiver would refuse, by what it said of itself. Of the units of its disk and of what an
/// interrupted push left there it says too little to refuse all that it would.
pub(super) fn check(mirror: &HttpMirror, request: &StageRequest<'_>) -> Result<(), MirrorError> {
    check_token(mirror)?;
    let known = mirror.known();
    let Some(known) = known.as_ref() else { return Ok(()) };
    let needs = needs(request).map_err(|error| MirrorError::Source(Box::new(error)))?;
    let no_space = |message: String, detail: Option<Detail>| MirrorError::Remote {
        refusal: ProtocolError { detail, ..ProtocolError::new(ErrorKind::NoSpace, message) },
    };
    if let Some(words) = known.quota.refusal(request.release, needs.new_bytes()) {
        return Err(no_space(words, Some(Detail::Quota)));
    }
    // Of a release with a base it may have a slot that is changed: then this is all that is made for certain.
    let made = if request.base.is_some() { needs.objects.len() as u64 } else { request.release.entries };
    let needed = needed_bytes(made, &needs, 1, known.incoming_bytes);
    match known.free_bytes {
        Some(free) if needed > free => Err(no_space(format!("{free} bytes are free, and {needed} are needed"), None)),
        _ => Ok(()),
    }
}

/// Whether it may be the chunks that were not taken: a receiver never answers that to them.
const fn is_of_chunks(error: &MirrorError) -> bool {
    matches!(error, MirrorError::Transport(TransportError::Foreign { status: 411 | 501, .. }))
}

/// Whether the receiver has no such stage open.
pub(super) fn is_unknown(error: &MirrorError) -> bool {
    matches!(error, MirrorError::Remote { refusal } if refusal.kind == ErrorKind::Unknown)
}

fn unexpected(what: &str) -> MirrorError {
    TransportError::Foreign { status: 200, what: what.to_owned() }.into()
}
