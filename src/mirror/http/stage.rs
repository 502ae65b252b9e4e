//! Staging over the wire: one request where everything fits into it, else what
//! is held, what is lacking of it, and the word that this is all.

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crate::hash::{ObjectId, PackId};
use crate::mirror::http::body::Body;
use crate::mirror::http::client::{Request, Verb};
use crate::mirror::http::pace::{Patience, Stop, Turns};
use crate::mirror::http::upload::{Upload, Uploaded, put_object};
use crate::mirror::http::{HttpMirror, to_json};
use crate::mirror::way::WayError;
use crate::mirror::{Bundle, Failure, MirrorError, Pack, StageRequest, SupplyError};
use crate::monitor::{Event, Monitor};
use crate::store::StoreError;
use crate::wire::{self, Action, InlinePack, Refusal, Resource, StageHead, Staging};

/// Packs of at most so many bytes in all travel with the stage itself.
pub(super) const INLINE_BYTES: u64 = 4 * 1024 * 1024;
/// A change of so many bytes costs the way round trips of its own, before the connection is at its
/// speed: it goes ahead while the first packs are made.
const AHEAD_BYTES: usize = 16 * 1024;
/// Packs that take longer to make are not waited for, where the way is quick.
const LEAST_PATIENCE: Duration = Duration::from_millis(20);
/// How often it is begun again with a receiver that forgets.
const MAX_ROUNDS: u32 = 5;

/// Stages `request` on `mirror`.
pub(super) fn run(
    mirror: &HttpMirror,
    request: &StageRequest<'_>,
    bundle: &dyn Bundle,
    monitor: &dyn Monitor,
) -> Result<(), MirrorError> {
    // Nothing is sent to where it would be refused.
    if mirror.known().as_ref().is_some_and(|known| !known.may_push) {
        return Err(MirrorError::Remote { refusal: Refusal::new("forbidden", wire::READ_ONLY) });
    }
    let stop = || monitor.is_cancelled();
    let _turn = Turns::enter(mirror.wired.pace.turns.as_ref(), &stop)?;
    let has_none = match &*mirror.known() {
        Some(known) => known.unfinished.as_ref().is_some_and(|keys| !keys.contains(&request.key)),
        None => false,
    };
    let mut stage = Stage { mirror, request, bundle, stop: &stop, resent: 0 };
    let upload = Upload::new(mirror, request.key, bundle, monitor);
    if let Some(unfinished) = mirror.known().as_mut().and_then(|known| known.unfinished.as_mut()) {
        unfinished.push(request.key);
    }
    match if has_none { stage.begin(&upload)? } else { Begun::Not } {
        Begun::Staged => {}
        Begun::Not => stage.step_by_step(&upload, None)?,
        Begun::Held(held) => stage.step_by_step(&upload, Some(held))?,
    }
    if stage.resent > 0 {
        monitor.event(Event::ObjectsResent { mirror: mirror.name.clone(), objects: stage.resent });
    }
    Ok(())
}

struct Stage<'s> {
    mirror: &'s HttpMirror,
    request: &'s StageRequest<'s>,
    bundle: &'s dyn Bundle,
    stop: Stop<'s>,
    resent: u64,
}

/// A pack with its bytes.
type Loaded = (Box<dyn Pack>, Arc<Vec<u8>>);

/// What the first request came to.
enum Begun {
    /// That was all.
    Staged,
    /// These packs are there, and there are more.
    Held(HashSet<PackId>),
    /// It is to be begun again.
    Not,
}

/// What a request to stage came to.
enum Step {
    Staged,
    /// The receiver has forgotten that it was asked.
    Forgotten,
}

impl Stage<'_> {
    /// Sends a stage with these packs in it.
    fn ask(&self, packs: &[Loaded], is_whole: bool, patience: &mut Patience<'_>) -> Result<Staging, MirrorError> {
        self.ask_with(self.request.change, packs, is_whole, patience)
    }

    fn ask_with(
        &self,
        change: &[u8],
        packs: &[Loaded],
        is_whole: bool,
        patience: &mut Patience<'_>,
    ) -> Result<Staging, MirrorError> {
        let request = self.request;
        let release = String::from_utf8(request.release.to_bytes()).expect("a release record is JSON");
        let head = to_json(&StageHead {
            release,
            key: request.key,
            base: request.base,
            change_bytes: change.len() as u64,
            packs: packs.iter().map(|(pack, bytes)| InlinePack { id: pack.id(), bytes: bytes.len() as u64 }).collect(),
            is_whole,
        });
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut parts: Vec<&[u8]> = vec![&length, &head, change];
        parts.extend(packs.iter().map(|(_, bytes)| bytes.as_slice()));
        let resource = Resource::Action(Action::Stage);
        let request = Request::new(Verb::Post, resource, Body::Parts(parts), wire::MAX_ANSWER_BYTES);
        self.mirror.wired.ask(&request, patience)
    }

    fn patience(&self) -> Patience<'_> {
        self.mirror.wired.patience(self.stop)
    }

    /// Everything in one request, if there is little of it, else what there is: the way is idle anyway.
    fn begin(&mut self, upload: &Upload<'_>) -> Result<Begun, MirrorError> {
        let (packs, is_all) = match self.request.change.len() >= AHEAD_BYTES && !upload.is_ready() {
            true => (Vec::new(), false),
            // Once the way there takes less time than the packs, the mirror had better begin with the first.
            false => upload.gather(INLINE_BYTES, self.mirror.answered_in().max(LEAST_PATIENCE))?,
        };
        let packs: Vec<Loaded> = packs
            .into_iter()
            .map(|pack| pack.bytes().map(|bytes| (pack, bytes)).map_err(MirrorError::Supply))
            .collect::<Result<_, _>>()?;
        // A lock is waited for without sending everything again and again.
        let mut patience = Patience::new(Duration::ZERO, self.mirror.wired.pace.deadline, self.stop);
        let asked = self.ask(&packs, is_all, &mut patience);
        let is_taken = asked.is_ok();
        for (pack, _) in packs {
            if is_taken {
                upload.acknowledge(pack);
            } else {
                upload.give_back(pack);
            }
        }
        match asked {
            Ok(Staging::Staged { .. }) => Ok(Begun::Staged),
            Ok(Staging::Lacking(objects)) => {
                let step = self.send_objects(&objects)?;
                let is_staged = matches!(step, Step::Staged) && matches!(self.complete()?, Step::Staged);
                Ok(if is_staged { Begun::Staged } else { Begun::Not })
            }
            Ok(Staging::Held(_)) if is_all => Err(unexpected("packs are held that were sent")),
            Ok(Staging::Held(held)) => Ok(Begun::Held(held.into_iter().collect())),
            Err(error) if error.failure() == Failure::Locked => Ok(Begun::Not),
            Err(error) => Err(error),
        }
    }

    /// Sends what is not `held`, which the mirror is asked for if it is not known.
    fn step_by_step(&mut self, upload: &Upload<'_>, held: Option<HashSet<PackId>>) -> Result<(), MirrorError> {
        let mut known = held;
        for _ in 0..MAX_ROUNDS {
            let held = match known.take() {
                Some(held) => held,
                None => match self.ask(&[], false, &mut self.patience())? {
                    Staging::Staged { .. } => return Ok(()),
                    Staging::Held(held) => held.into_iter().collect(),
                    Staging::Lacking(_) => return Err(unexpected("objects are lacking before the packs are there")),
                },
            };
            match upload.run(&held)? {
                Uploaded::All => {}
                Uploaded::Forgotten => continue,
            }
            match self.complete()? {
                Step::Staged => return Ok(()),
                Step::Forgotten => {}
            }
        }
        Err(WayError::Forgotten.into())
    }

    /// Says that all packs are there, and sends what turns out to be lacking all the same.
    fn complete(&mut self) -> Result<Step, MirrorError> {
        let mut before: Option<Vec<ObjectId>> = None;
        loop {
            let mut patience = self.patience();
            // The manifest change is there already.
            let lacking = match self.ask_with(&[], &[], true, &mut patience) {
                Ok(Staging::Staged { .. }) => return Ok(Step::Staged),
                Ok(Staging::Held(_)) => return Ok(Step::Forgotten),
                Ok(Staging::Lacking(lacking)) => lacking,
                Err(error) if is_unknown(&error) => return Ok(Step::Forgotten),
                // It may have been staged before its answer was lost, and then lost its slot to another push.
                Err(MirrorError::Remote { refusal }) if patience.has_failed() && refusal.kind == "malformed" => {
                    return Ok(Step::Forgotten);
                }
                Err(error) => return Err(error),
            };
            // What was sent is asked for again: it will be so for ever.
            if before.is_some_and(|before| lacking.iter().any(|object| before.contains(object))) {
                return Err(unexpected("objects are lacking that were sent"));
            }
            if matches!(self.send_objects(&lacking)?, Step::Forgotten) {
                return Ok(Step::Forgotten);
            }
            before = Some(lacking);
        }
    }

    /// Sends objects of the base whole.
    fn send_objects(&mut self, objects: &[ObjectId]) -> Result<Step, MirrorError> {
        let mut missing = Vec::new();
        let mut why: Option<SupplyError> = None;
        for id in objects {
            let open = || -> Result<Box<dyn Read + Send>, SupplyError> { self.bundle.object(id) };
            match put_object(&self.mirror.wired, &open, id, self.stop) {
                Ok(Ok(())) => self.resent += 1,
                Ok(Err(error)) => {
                    missing.push(*id);
                    why.get_or_insert(error);
                }
                Err(error) if is_unknown(&error) => return Ok(Step::Forgotten),
                Err(error) => return Err(error),
            }
        }
        match why {
            None => Ok(Step::Staged),
            Some(source) => Err(StoreError::Fetch { missing, source }.into()),
        }
    }
}

/// Whether the receiver has no such stage open.
pub(super) fn is_unknown(error: &MirrorError) -> bool {
    matches!(error, MirrorError::Remote { refusal } if refusal.kind == "unknown")
}

fn unexpected(what: &str) -> MirrorError {
    WayError::Foreign { status: 200, what: what.to_owned() }.into()
}
