//! A mirror behind a receiver: the protocol of [`crate::wire`], over HTTP, TLS
//! or the standard input and output of `ssh`.
//!
//! Promises that every operation ends, that what is sent twice counts once,
//! and that a failure says whether the way, the receiver or the mirror is at
//! fault. Refuses to know what a fleet is.

mod access;
mod answer;
mod body;
mod client;
mod counted;
mod download;
mod flow;
mod handshake;
mod objects;
mod pace;
mod repair;
mod stage;
mod tls;
mod upload;

pub use access::{Access, AccessError, ClientIdentity, ProxyChoice, Token};
pub use answer::read_state;
pub use pace::{Exchange, Limiter, Pace, Trace, Turns};

pub(super) use access::CONNECT;
pub(super) use pace::{Again, Trouble};

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cancel::Interrupt;
use crate::hash::{BundleKey, ManifestId, ObjectId, StoreId};
use crate::mirror::location::{HttpPlace, SshPlace};
use crate::mirror::ssh::{SshLink, SshSettings};
use crate::mirror::way::WayError;
use crate::mirror::{
    Bundle, Effort, Expiries, Link, Mirror, MirrorError, MirrorState, ObjectPart, StageRequest, Supply,
};
use crate::monitor::Monitor;
use crate::release::ReleaseName;
use crate::store::{Depth, Happening, Pruned, Quota, Repaired, Verified};
use crate::text::Secrets;
use crate::tree_path::Site;
use crate::wire::{self, Action, Resource, Settled};

use answer::AnswerLimit;
use body::Body;
use client::{Client, Request, Verb};
use pace::{Patience, Stop};
use tls::CertificateEnd;

/// Connections for packs, at most.
const MAX_CONNECTIONS: usize = 8;
/// Longest time until a mirror behind SSH has told its state: there is more to be done before it can.
const SSH_ANSWER: Duration = Duration::from_secs(70);
/// Longest time for what a receiver answers from its memory.
const QUICK: Duration = Duration::from_secs(120);
/// Beyond the deadline, to learn whether a switch was made before it.
const GRACE: Duration = Duration::from_secs(5);
/// Only the token of the run asks to stop.
const GO_ON: Stop<'static> = &|| false;

/// What the mirror told of itself when it was last asked.
#[derive(Debug, Clone, Default)]
struct Known {
    store: Option<StoreId>,
    site: Option<Site>,
    unfinished: Option<Vec<BundleKey>>,
    may_push: bool,
    /// Bytes free there.
    free_bytes: Option<u64>,
    /// Bytes of content there of pushes that did not end.
    incoming_bytes: u64,
    /// The largest release that it takes.
    quota: Quota,
    /// About how long a message and its answer take; nothing: there was trouble meanwhile.
    round_trip: Option<Duration>,
}

/// How its receiver is reached.
#[derive(Debug)]
enum Way {
    /// At this base.
    Http(String),
    /// Behind this child process, which tells the base.
    Ssh(Arc<SshLink>),
}

impl Way {
    /// How often something goes there and back until there is an answer on a new connection, its own included.
    fn messages_of_first(&self) -> u32 {
        match self {
            Self::Http(base) if base.starts_with("https:") => 3,
            Self::Http(_) => 2,
            // What its base was learned from is the connection.
            Self::Ssh(_) => 1,
        }
    }
}

/// What the operations of a mirror share.
#[derive(Debug)]
struct Wired {
    client: Client,
    way: Way,
    pace: Pace,
}

impl Wired {
    /// The base of all URLs.
    fn base(&self, patience: &mut Patience<'_>) -> Result<String, MirrorError> {
        match &self.way {
            Way::Http(base) => Ok(base.clone()),
            Way::Ssh(link) => loop {
                match link.base(patience.left()?, &|| patience.is_stopped()) {
                    Ok(base) => return Ok(base),
                    Err(trouble) => patience.next(trouble)?,
                }
            },
        }
    }

    fn patience<'s>(&self, stop: Stop<'s>) -> Patience<'s> {
        Patience::new(self.pace.wait, self.pace.deadline, stop).cancelled_by(&self.pace.cancel)
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request<'_>, patience: &mut Patience<'_>) -> Result<T, MirrorError> {
        let base = self.base(patience)?;
        self.client.ask(&base, request, patience)
    }

    /// Makes a request once.
    fn ask_once<T: DeserializeOwned>(&self, request: &Request<'_>, patience: &mut Patience<'_>) -> Result<T, Trouble> {
        let base = self.base(patience).map_err(Trouble::final_)?;
        self.client.ask_once(&base, request, patience)
    }

    /// Asks the receiver to do something that may be told in one message.
    fn act<T: DeserializeOwned>(
        &self,
        action: Action,
        message: &impl Serialize,
        stop: Stop<'_>,
    ) -> Result<T, MirrorError> {
        self.act_with(action, message, &mut self.patience(stop))
    }

    fn act_with<T: DeserializeOwned>(
        &self,
        action: Action,
        message: &impl Serialize,
        patience: &mut Patience<'_>,
    ) -> Result<T, MirrorError> {
        let message = to_json(message);
        let body = Body::Parts(vec![&message]);
        let limit = match action {
            Action::Verify | Action::Repair => AnswerLimit::FAULTS,
            _ => AnswerLimit::SMALL,
        };
        let request = Request::new(Verb::Post, Resource::Action(action), body, limit);
        self.ask(&request, patience)
    }
}

impl Interrupt for Wired {
    fn interrupt(&self) {
        self.client.agent.clone().shutdown();
    }
}

fn to_json(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages have text keys only")
}

/// A mirror behind a receiver.
#[derive(Debug)]
pub struct HttpMirror {
    name: String,
    location: String,
    /// Refuse to touch another site; nothing: any.
    site: Option<Site>,
    wired: Arc<Wired>,
    connections: usize,
    known: Mutex<Option<Known>>,
    /// The site that the URL names.
    site_in_url: Option<Site>,
    certificate_end: CertificateEnd,
}

impl HttpMirror {
    /// The mirror `name` at `place`, written as `location`. `site`, if given,
    /// is the only one that is accepted there.
    #[must_use]
    pub fn new(
        name: String,
        location: String,
        place: &HttpPlace,
        access: &Access,
        site: Option<Site>,
        pace: Pace,
    ) -> Self {
        let end = CertificateEnd::default();
        let agent = tls::agent(access, place, MAX_CONNECTIONS, end.clone());
        let (token, secrets) = (access.token.clone(), access.secrets());
        let client = Client { agent, token, limit: pace.limit.clone(), trace: pace.trace, secrets };
        let wired = Wired { client, way: Way::Http(place.base().to_owned()), pace };
        let site_in_url = place.site();
        Self { site_in_url, certificate_end: end, ..Self::over(name, location, site, wired, MAX_CONNECTIONS) }
    }

    fn over(name: String, location: String, site: Option<Site>, wired: Wired, connections: usize) -> Self {
        let wired = Arc::new(wired);
        let interrupt: Arc<dyn Interrupt> = Arc::clone(&wired) as _;
        wired.pace.cancel.interrupt_on_cancel(Arc::downgrade(&interrupt));
        Self {
            name,
            location,
            site,
            wired,
            connections,
            known: Mutex::default(),
            site_in_url: None,
            certificate_end: CertificateEnd::default(),
        }
    }

    /// The mirror `name` behind `ssh`, the same way. It has one connection.
    #[must_use]
    pub fn over_ssh(
        name: String,
        location: String,
        place: &SshPlace,
        settings: &SshSettings,
        site: Option<Site>,
        pace: Pace,
    ) -> Self {
        let link = Arc::new(SshLink::new(place, settings, site.clone(), pace.cancel.clone()));
        let agent = SshLink::agent(&link, Access::config_over_ssh());
        let secrets = Secrets::default();
        let client = Client { agent, token: None, limit: pace.limit.clone(), trace: pace.trace, secrets };
        let wired = Wired { client, way: Way::Ssh(link), pace };
        Self::over(name, location, site, wired, 1)
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// About how long a message and its answer take, as far as known.
    fn round_trip(&self) -> Option<Duration> {
        self.known().as_ref().and_then(|known| known.round_trip)
    }

    /// Makes sure that it is the right site's. The mirror is asked at most once.
    fn check_site(&self) -> Result<(), MirrorError> {
        let Some(wanted) = &self.site else { return Ok(()) };
        let known = self.known().clone();
        let found = match known {
            Some(known) => known.site,
            None => self.state()?.site,
        };
        match found {
            Some(found) if found != *wanted => Err(WayError::OtherSite { found, wanted: wanted.clone() }.into()),
            _ => Ok(()),
        }
    }

    fn learn(&self, state: &wire::State, round_trip: Option<Duration>) {
        let (site, unfinished) = (state.site.clone(), state.unfinished.clone());
        // The first time connecting was part of it; later that may have been done before.
        let round_trip = self.round_trip().or(round_trip);
        *self.known() = Some(Known {
            store: state.store,
            site,
            unfinished,
            may_push: state.may_push,
            free_bytes: state.free_bytes,
            incoming_bytes: state.incoming_bytes,
            quota: Quota { bytes: state.quota_bytes, entries: state.quota_entries },
            round_trip,
        });
    }

    fn ask_state_by(&self, deadline: Option<Instant>) -> Result<(wire::State, Option<Duration>), MirrorError> {
        // A whole fleet waits for it: who does not answer by then is not there.
        let limit = if self.connections == 1 { SSH_ANSWER } else { CONNECT };
        let request = Request::new(Verb::Get, Resource::State, Body::None, AnswerLimit::STATE);
        let patience = Patience::new(self.wired.pace.wait, deadline, GO_ON).within(limit);
        let mut patience = patience.cancelled_by(&self.wired.pace.cancel);
        let base = self.wired.base(&mut patience)?;
        let asked = Instant::now();
        let request = Request { limit: Some(limit), ..request };
        let state = self.wired.client.ask(&base, &request, &mut patience)?;
        let messages = self.wired.way.messages_of_first();
        Ok((state, (!patience.has_failed()).then(|| asked.elapsed() / messages)))
    }

    fn content(&self, resource: Resource, offset: u64) -> Result<download::Download, MirrorError> {
        self.check_site()?;
        download::Download::open(Arc::clone(&self.wired), resource, offset)
    }
}

impl Mirror for HttpMirror {
    fn name(&self) -> &str {
        &self.name
    }

    fn location(&self) -> &str {
        &self.location
    }

    fn link(&self) -> Link {
        Link::Network
    }

    fn local_path(&self) -> Option<PathBuf> {
        None
    }

    fn site_in_location(&self) -> Option<Site> {
        self.site_in_url.clone()
    }

    fn state(&self) -> Result<MirrorState, MirrorError> {
        let (state, round_trip) = self.ask_state_by(self.wired.pace.deadline)?;
        self.learn(&state, round_trip);
        self.check_site()?;
        let token = state.token_expires;
        let expiries = Expiries { token, certificate: self.certificate_end.get() };
        Ok(MirrorState { round_trip: self.round_trip(), expiries, ..state.try_into()? })
    }

    fn store_id(&self) -> Option<StoreId> {
        self.known().as_ref()?.store
    }

    fn history(&self) -> Result<Vec<Happening>, MirrorError> {
        self.check_site()?;
        let request = Request {
            limit: Some(QUICK),
            ..Request::new(Verb::Get, Resource::History, Body::None, AnswerLimit::HISTORY)
        };
        let history: wire::History = self.wired.ask(&request, &mut self.wired.patience(GO_ON))?;
        Ok(history.events)
    }

    fn manifest(&self, id: &ManifestId) -> Result<Box<dyn Read + Send>, MirrorError> {
        download::decoded(self.content(Resource::Manifest(*id), 0)?)
    }

    fn object(&self, id: &ObjectId, offset: u64) -> Result<Box<dyn Read + Send>, MirrorError> {
        Ok(Box::new(self.content(Resource::Object(*id), offset)?))
    }

    fn read_parts(
        &self,
        parts: &[ObjectPart],
        effort: Effort,
        monitor: &dyn Monitor,
    ) -> Result<Vec<Option<Vec<u8>>>, MirrorError> {
        self.check_site()?;
        objects::read(&self.wired, parts, effort, &|| monitor.is_cancelled())
    }

    fn holds(&self, objects: &[ObjectId], monitor: &dyn Monitor) -> Result<Vec<bool>, MirrorError> {
        self.check_site()?;
        let stop = || monitor.is_cancelled();
        let mut patience = self.wired.patience(&stop).within(QUICK);
        let mut held = Vec::with_capacity(objects.len());
        for some in objects.chunks(wire::MAX_ASKED) {
            let ids: Vec<&[u8]> = some.iter().map(|id| id.as_bytes().as_slice()).collect();
            let (ids, resource) = (ids.concat(), Resource::Action(Action::Holds));
            let request = Request::new(Verb::Post, resource, Body::Parts(vec![&ids]), AnswerLimit::SMALL);
            let answer: wire::Holds = self.wired.ask(&Request { limit: Some(QUICK), ..request }, &mut patience)?;
            let what = || "it says nothing of what was asked for".to_owned();
            held.extend(answer.read(some.len()).ok_or_else(|| WayError::Foreign { status: 200, what: what() })?);
        }
        Ok(held)
    }

    fn check_stage(&self, request: &StageRequest<'_>) -> Result<(), MirrorError> {
        stage::check(self, request)
    }

    fn stage(&self, request: &StageRequest<'_>, bundle: &dyn Bundle, monitor: &dyn Monitor) -> Result<(), MirrorError> {
        stage::run(self, request, bundle, monitor)
    }

    fn activate(&self, release: ReleaseName, expected: Option<ReleaseName>) -> Result<(), MirrorError> {
        self.check_site()?;
        let message = wire::Activate { release, expected };
        let mut patience = self.wired.patience(GO_ON);
        let asked: Result<wire::Activated, _> = self.wired.act_with(Action::Activate, &message, &mut patience);
        match asked {
            Ok(wire::Activated { store }) => {
                if let Some(known) = self.known().as_mut() {
                    known.store = store.or(known.store);
                }
                Ok(())
            }
            // Whether it was done is not known: the answer is what was lost, now or before a refusal.
            Err(error) if matches!(error, MirrorError::Way(_)) || patience.has_failed() => {
                let deadline = self.wired.pace.deadline.map(|deadline| deadline.max(Instant::now() + GRACE));
                match self.ask_state_by(deadline) {
                    Ok((state, _)) if state.current == Some(release) => Ok(()),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn abandon(&self, release: ReleaseName) -> Result<(), MirrorError> {
        self.check_site()?;
        self.wired.act(Action::Abandon, &wire::Abandon { release }, GO_ON).map(|wire::Done {}| ())
    }

    fn settle(&self, keep: usize) -> Result<Settled, MirrorError> {
        self.check_site()?;
        self.wired.act(Action::Settle, &wire::Keep { keep }, GO_ON)
    }

    fn prune(&self, keep: usize) -> Result<Pruned, MirrorError> {
        self.check_site()?;
        self.wired.act(Action::Prune, &wire::Keep { keep }, GO_ON)
    }

    fn verify(&self, depth: Depth, monitor: &dyn Monitor) -> Result<Verified, MirrorError> {
        self.check_site()?;
        let message = wire::Verify { quick: depth == Depth::Quick };
        self.wired.act(Action::Verify, &message, &|| monitor.is_cancelled())
    }

    fn repair(&self, supply: &dyn Supply, monitor: &dyn Monitor) -> Result<Repaired, MirrorError> {
        self.check_site()?;
        repair::run(&self.wired, supply, monitor)
    }
}
