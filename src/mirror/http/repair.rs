//! Mending a remote mirror: it says what it wants, we send what we have.

use std::collections::HashSet;
use std::io::Read;

use crate::hash::{ManifestId, ObjectId};
use crate::mirror::http::Session;
use crate::mirror::http::answer::AnswerLimit;
use crate::mirror::http::body::Body;
use crate::mirror::http::client::{Request, Verb};
use crate::mirror::http::upload::put_object;
use crate::mirror::{ErrorKind, MirrorError, RepairSource};
use crate::monitor::Monitor;
use crate::protocol::{self, Action, Repairing, Resource, Wants};
use crate::release::ReleaseName;
use crate::store::Repaired;

/// How manifests are packed, as the store does it.
const LEVEL: i32 = 1;

/// What was sent already: what is wanted again was of no use.
#[derive(Default)]
struct SentObjects {
    objects: HashSet<ObjectId>,
    manifests: HashSet<ManifestId>,
    releases: HashSet<ReleaseName>,
}

/// Mends the mirror as far as `supply` goes.
pub(super) fn run(
    session: &Session,
    supply: &dyn RepairSource,
    monitor: &dyn Monitor,
) -> Result<Repaired, MirrorError> {
    let stop = || monitor.is_cancelled();
    let mut sent = SentObjects::default();
    let mut repaired = Repaired::default();
    let mut is_last = false;
    for round in 0.. {
        let answer: Repairing = session.act(Action::Repair, &protocol::Repair { is_last }, &stop)?;
        if round == 0 {
            repaired.found = answer.found;
        }
        repaired.objects += answer.objects;
        repaired.mended += answer.mended;
        repaired.left = answer.left;
        // Each round sends something that was not sent before, so they end.
        let wants = &answer.wants;
        if !is_last && send(session, supply, wants, &mut sent, &stop)? {
            continue;
        }
        if is_last || wants.releases.is_empty() && wants.manifests.is_empty() {
            break;
        }
        is_last = true;
    }
    Ok(repaired)
}

/// Puts what is wanted and to be had. Answers whether there was any.
fn send(
    session: &Session,
    supply: &dyn RepairSource,
    wants: &Wants,
    sent: &mut SentObjects,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<bool, MirrorError> {
    let mut any = false;
    for name in &wants.releases {
        if sent.releases.insert(*name)
            && let Some(release) = supply.release(*name)
        {
            put(session, Resource::Release(*name), &release.to_bytes(), stop)?;
            any = true;
        }
    }
    for id in &wants.manifests {
        if sent.manifests.insert(*id)
            && let Some(plain) = supply.manifest(id)
            && let Some(frame) = packed(plain)
        {
            put(session, Resource::Manifest(*id), &frame, stop)?;
            any = true;
        }
    }
    supply.announce(&wants.objects);
    for id in &wants.objects {
        if sent.objects.contains(id) {
            continue;
        }
        match put_object(session, &|| supply.object(id), id, stop) {
            // What came so far is put to use first, and that makes room.
            Err(error) if any && error.kind() == ErrorKind::NoSpace => return Ok(true),
            put => any |= put?.is_ok(),
        }
        sent.objects.insert(*id);
    }
    Ok(any)
}

/// The frame of a manifest; nothing if it cannot be read to its end.
fn packed(plain: Box<dyn Read + Send>) -> Option<Vec<u8>> {
    zstd::encode_all(plain, LEVEL).ok()
}

fn put(
    session: &Session,
    resource: Resource,
    bytes: &[u8],
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(), MirrorError> {
    let request = Request::new(Verb::Put, resource, Body::Parts(vec![bytes]), AnswerLimit::SMALL);
    session.ask(&request, &mut session.retry_state(stop)).map(|protocol::Done {}| ())
}
