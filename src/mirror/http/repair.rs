//! Repairs a remote mirror: the mirror lists the content that it needs, and the origin sends what
//! it has.

use std::collections::HashSet;
use std::io::Read;

use crate::hash::{ManifestId, ObjectId};
use crate::mirror::http::Session;
use crate::mirror::http::body::Body;
use crate::mirror::http::client::{Method, Request};
use crate::mirror::http::response_json::ResponseLimit;
use crate::mirror::http::upload::{ObjectUpload, put_object};
use crate::mirror::{ErrorKind, MirrorError, RepairSource};
use crate::monitor::Monitor;
use crate::protocol::{self, Action, NeededContent, RepairResult, Resource};
use crate::release::ReleaseName;
use crate::store::Repaired;

/// The zstd level for manifests, the same as in the store.
const LEVEL: i32 = 1;

/// Content that has already been sent. If the mirror requests it again, sending it did not help, so
/// it is not sent again.
#[derive(Default)]
struct SentObjects {
    objects: HashSet<ObjectId>,
    manifests: HashSet<ManifestId>,
    releases: HashSet<ReleaseName>,
}

/// Repairs the mirror with the content that `supply` has.
pub(super) fn run(
    session: &Session,
    source: &dyn RepairSource,
    monitor: &dyn Monitor,
) -> Result<Repaired, MirrorError> {
    let stop = || monitor.is_cancelled();
    let mut sent = SentObjects::default();
    let mut repaired = Repaired::default();
    let mut is_last = false;
    for round in 0.. {
        let answer: RepairResult =
            session.act(Action::Repair, &protocol::Repair { is_last }, &stop)?;
        if round == 0 {
            repaired.found = answer.found;
        }
        repaired.objects += answer.objects;
        repaired.repaired_files += answer.repaired_files;
        repaired.remaining = answer.remaining;
        // Each round sends something that was not sent before, so the loop ends.
        let wants = &answer.needed;
        if !is_last && send(session, source, wants, &mut sent, &stop)? {
            continue;
        }
        if is_last || wants.releases.is_empty() && wants.manifests.is_empty() {
            break;
        }
        // The receiver has not given up on anything yet, because missing records could still
        // arrive. The last request tells it that no more will come.
        is_last = true;
    }
    Ok(repaired)
}

/// Sends the requested content that `supply` has. Returns whether anything was sent.
fn send(
    session: &Session,
    source: &dyn RepairSource,
    wants: &NeededContent,
    sent: &mut SentObjects,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<bool, MirrorError> {
    let mut any = false;
    for name in &wants.releases {
        if sent.releases.insert(*name)
            && let Some(release) = source.release(*name)
        {
            put(session, Resource::Release(*name), &release.to_bytes(), stop)?;
            any = true;
        }
    }
    for id in &wants.manifests {
        if sent.manifests.insert(*id)
            && let Some(plain) = source.manifest(id)
            && let Some(frame) = compress(plain)
        {
            put(session, Resource::Manifest(*id), &frame, stop)?;
            any = true;
        }
    }
    source.announce(&wants.objects);
    for id in &wants.objects {
        if sent.objects.contains(id) {
            continue;
        }
        match put_object(session, &|| source.object(id), id, stop) {
            // No space: first let the mirror use the content that was sent so far, which frees
            // space.
            Err(error) if any && error.kind() == ErrorKind::NoSpace => return Ok(true),
            put => any |= matches!(put?, ObjectUpload::Sent),
        }
        sent.objects.insert(*id);
    }
    Ok(any)
}

/// Compresses a manifest; `None` if it cannot be read.
fn compress(plain: Box<dyn Read + Send>) -> Option<Vec<u8>> {
    zstd::encode_all(plain, LEVEL).ok()
}

fn put(
    session: &Session,
    resource: Resource,
    bytes: &[u8],
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(), MirrorError> {
    let request =
        Request::new(Method::Put, resource, Body::Parts(vec![bytes]), ResponseLimit::SMALL);
    session.request(&request, &mut session.retry_state(stop)).map(|protocol::Done {}| ())
}
