//! A mirror behind a receiver: the client of [`crate::protocol`], over HTTP, TLS or the standard
//! input and output of `ssh`.
//!
//! Promises that every operation ends, that a repeated request has no further effect, and that an
//! error shows whether the connection, the receiver or the mirror failed. Does not know what a
//! fleet is.

mod body;
mod client;
mod credentials;
mod download;
mod limits;
mod objects;
mod pack_sequence;
mod pack_stream;
mod progress_reader;
mod repair;
mod response_json;
mod signatures;
mod stage;
mod tls;
mod tls_errors;
mod upload;

pub use credentials::{BearerToken, ClientIdentity, Credentials, CredentialsError, ProxyChoice};
pub use limits::{Limiter, RequestTrace, Semaphore, TraceFn, TransferLimits};
pub use response_json::read_state;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cancel::Interrupt;
use crate::error_kind::ErrorKind;
use crate::hash::{BundleKey, ManifestId, ObjectId, StoreId};
use crate::mirror::attempt::{AttemptError, CONNECT_TIMEOUT};
use crate::mirror::location::{HttpUrl, SshUrl};
use crate::mirror::ssh::{SshConnection, SshSettings};
use crate::mirror::transport_error::TransportError;
use crate::mirror::{
    Effort, Expiries, LinkKind, Mirror, MirrorError, MirrorIdentity, MirrorState, ObjectPart,
    PackSource, RepairSource, StageRequest,
};
use crate::monitor::Monitor;
use crate::pack::Signature;
use crate::protocol::{self, Action, CleanUpResult, ProtocolError, Resource, SignatureRequest};
use crate::release::ReleaseName;
use crate::store::{Depth, HistoryEvent, Pruned, Quota, Repaired, Verified};
use crate::text::Secrets;
use crate::tree_path::Site;

use body::Body;
use client::{Client, Method, Request};
use limits::{CancelCheck, RetryState};
use response_json::ResponseLimit;
use tls::CertificateExpiry;

/// The maximum number of connections for packs to one mirror.
const MAX_CONNECTIONS: usize = 8;
/// The time limit for getting a mirror's state over SSH: longer than over HTTP, because `ssh` may
/// take 60 s to reach the banner.
const SSH_STATE_TIMEOUT: Duration = Duration::from_secs(70);
/// The time limit for a request that involves no long work on the receiver.
const QUICK_REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How long after the deadline the client may still ask whether an activation took effect.
const ACTIVATION_CHECK_GRACE: Duration = Duration::from_secs(5);
/// For operations without a monitor: only the cancel token of the run stops them.
const NEVER_CANCELLED: CancelCheck<'static> = &|| false;

/// What is known about the mirror from its last state response.
#[derive(Debug, Clone, Default)]
struct KnownMirror {
    version: String,
    store: Option<StoreId>,
    site: Option<Site>,
    unfinished: Option<Vec<BundleKey>>,
    may_push: bool,
    /// Why the receiver cannot write to the mirror.
    unwritable: Option<ProtocolError>,
    /// Free bytes on the mirror's file system.
    free_bytes: Option<u64>,
    /// Bytes of content on the mirror from unfinished pushes.
    incoming_bytes: u64,
    /// The largest release that the mirror accepts.
    quota: Quota,
    /// The approximate round-trip time; `None` if an attempt failed during the measurement.
    round_trip: Option<Duration>,
}

/// The address of a receiver.
#[derive(Debug)]
enum Endpoint {
    /// The base URL.
    Http(String),
    /// An `ssh` process; the banner of the receiver contains the base path.
    Ssh(Arc<SshConnection>),
}

impl Endpoint {
    /// The number of round trips until the first response on a new connection: TCP, TLS, request.
    fn first_round_trips(&self) -> u32 {
        match self {
            Self::Http(base) if base.starts_with("https:") => 3,
            Self::Http(_) => 2,
            // Reading the banner has already established the connection.
            Self::Ssh(_) => 1,
        }
    }
}

/// The connection state shared by a mirror's operations.
#[derive(Debug)]
struct Session {
    client: Client,
    endpoint: Endpoint,
    limits: TransferLimits,
}

impl Session {
    /// The base of all URLs.
    fn base(&self, retry: &mut RetryState<'_>) -> Result<String, MirrorError> {
        match &self.endpoint {
            Endpoint::Http(base) => Ok(base.clone()),
            Endpoint::Ssh(connection) => loop {
                match connection.base(retry.time_left()?, &|| retry.is_stopped()) {
                    Ok(base) => return Ok(base),
                    Err(attempt_error) => retry.retry_or_fail(attempt_error)?,
                }
            },
        }
    }

    fn retry_state<'s>(&self, stop: CancelCheck<'s>) -> RetryState<'s> {
        RetryState::new(self.limits.lock_wait, self.limits.deadline, stop)
            .cancelled_by(&self.limits.cancel)
    }

    fn request<T: DeserializeOwned>(
        &self,
        request: &Request<'_>,
        retry: &mut RetryState<'_>,
    ) -> Result<T, MirrorError> {
        let base = self.base(retry)?;
        self.client.request(&base, request, retry)
    }

    /// Makes a request without retries.
    fn request_once<T: DeserializeOwned>(
        &self,
        request: &Request<'_>,
        retry: &mut RetryState<'_>,
    ) -> Result<T, AttemptError> {
        let base = self.base(retry).map_err(AttemptError::final_)?;
        self.client.request_once(&base, request, retry)
    }

    /// Requests an action whose parameters fit in one JSON message.
    fn act<T: DeserializeOwned>(
        &self,
        action: Action,
        message: &impl Serialize,
        stop: CancelCheck<'_>,
    ) -> Result<T, MirrorError> {
        self.act_with(action, message, &mut self.retry_state(stop))
    }

    fn act_with<T: DeserializeOwned>(
        &self,
        action: Action,
        message: &impl Serialize,
        retry: &mut RetryState<'_>,
    ) -> Result<T, MirrorError> {
        let message = to_json(message);
        let body = Body::Parts(vec![&message]);
        let limit = match action {
            Action::Verify | Action::Repair => ResponseLimit::FAULTS,
            _ => ResponseLimit::SMALL,
        };
        let request = Request::new(Method::Post, Resource::Action(action), body, limit);
        self.request(&request, retry)
    }
}

impl Interrupt for Session {
    fn interrupt(&self) {
        // Shuts the sockets down, so that a blocked read or write ends immediately. Short timeouts
        // with polling would not work: when a write times out, ureq loses count of the bytes that
        // it wrote.
        self.client.agent.clone().shutdown();
    }
}

fn to_json(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages have text keys only")
}

/// A mirror behind a receiver.
#[derive(Debug)]
pub struct HttpMirror {
    identity: MirrorIdentity,
    session: Arc<Session>,
    connections: usize,
    known: Mutex<Option<KnownMirror>>,
    site_in_url: Option<Site>,
    certificate_end: CertificateExpiry,
}

impl HttpMirror {
    /// Creates a mirror at `place`.
    #[must_use]
    pub fn new(
        identity: MirrorIdentity,
        url: &HttpUrl,
        credentials: &Credentials,
        limits: TransferLimits,
    ) -> Self {
        let certificate_end = CertificateExpiry::default();
        let client = Client {
            agent: tls::agent(credentials, url, MAX_CONNECTIONS, certificate_end.clone()),
            token: credentials.token.clone(),
            limit: limits.limit.clone(),
            trace: limits.trace,
            secrets: credentials.secrets(),
        };
        let session = Session { client, endpoint: Endpoint::Http(url.base().to_owned()), limits };
        Self {
            site_in_url: url.site(),
            certificate_end,
            ..Self::with_session(identity, session, MAX_CONNECTIONS)
        }
    }

    /// Creates a mirror behind `ssh`, with a single connection.
    #[must_use]
    pub fn over_ssh(
        identity: MirrorIdentity,
        url: &SshUrl,
        settings: &SshSettings,
        limits: TransferLimits,
    ) -> Self {
        let site = identity.site.clone();
        let link = Arc::new(SshConnection::new(url, settings, site, limits.cancel.clone()));
        let client = Client {
            agent: SshConnection::agent(&link, Credentials::config_over_ssh()),
            token: None,
            limit: limits.limit.clone(),
            trace: limits.trace,
            secrets: Secrets::default(),
        };
        Self::with_session(identity, Session { client, endpoint: Endpoint::Ssh(link), limits }, 1)
    }

    fn with_session(identity: MirrorIdentity, session: Session, connections: usize) -> Self {
        let session = Arc::new(session);
        let interrupt: Arc<dyn Interrupt> = Arc::clone(&session) as _;
        // A weak reference: the run's cancel token must not keep the mirror alive.
        session.limits.cancel.interrupt_on_cancel(Arc::downgrade(&interrupt));
        Self {
            identity,
            session,
            connections,
            known: Mutex::default(),
            site_in_url: None,
            certificate_end: CertificateExpiry::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<KnownMirror>> {
        self.known.lock()
    }

    /// The approximate round-trip time, if it is known.
    fn round_trip(&self) -> Option<Duration> {
        self.known().as_ref().and_then(|known| known.round_trip)
    }

    /// Checks that the mirror holds the expected site. Requests its state if the site is not known
    /// yet.
    fn check_site(&self) -> Result<(), MirrorError> {
        let Some(wanted) = &self.identity.site else { return Ok(()) };
        let known = self.known().clone();
        let found = match known {
            Some(known) => known.site,
            None => self.state()?.site,
        };
        match found {
            Some(found) if found != *wanted => {
                Err(TransportError::OtherSite { found, wanted: wanted.clone() }.into())
            }
            _ => Ok(()),
        }
    }

    fn remember_state(&self, state: &protocol::State, round_trip: Option<Duration>) {
        let (site, unfinished) = (state.site.clone(), state.unfinished.clone());
        // Only the first measurement is used: it certainly includes the connection setup, and
        // `first_round_trips` accounts for that. A later request may reuse a connection.
        let round_trip = self.round_trip().or(round_trip);
        *self.known() = Some(KnownMirror {
            version: state.headwater.clone(),
            store: state.store,
            site,
            unfinished,
            may_push: state.may_push,
            unwritable: state.unwritable.clone(),
            free_bytes: state.free_bytes,
            incoming_bytes: state.incoming_bytes,
            quota: Quota { bytes: state.quota_bytes, entries: state.quota_entries },
            round_trip,
        });
    }

    fn request_state(
        &self,
        deadline: Option<Instant>,
    ) -> Result<(protocol::State, Option<Duration>), MirrorError> {
        // The whole fleet waits for this response: a mirror that has not responded within the limit
        // counts as unreachable. Only a mirror over SSH has a single connection.
        let limit = if self.connections == 1 { SSH_STATE_TIMEOUT } else { CONNECT_TIMEOUT };
        let request = Request::new(Method::Get, Resource::State, Body::None, ResponseLimit::STATE);
        let retry = RetryState::new(self.session.limits.lock_wait, deadline, NEVER_CANCELLED)
            .with_budget(limit);
        let mut retry = retry.cancelled_by(&self.session.limits.cancel);
        let base = self.session.base(&mut retry)?;
        let asked = Instant::now();
        let request = Request { limit: Some(limit), ..request };
        let state = self.session.client.request(&base, &request, &mut retry)?;
        let messages = self.session.endpoint.first_round_trips();
        Ok((state, (!retry.has_failed()).then(|| asked.elapsed() / messages)))
    }

    fn content(&self, resource: Resource, offset: u64) -> Result<download::Download, MirrorError> {
        self.check_site()?;
        download::Download::open(Arc::clone(&self.session), resource, offset)
    }
}

impl Mirror for HttpMirror {
    fn name(&self) -> &str {
        &self.identity.name
    }

    fn location(&self) -> &str {
        &self.identity.location
    }

    fn link_kind(&self) -> LinkKind {
        LinkKind::Network
    }

    fn local_path(&self) -> Option<PathBuf> {
        None
    }

    fn site_in_location(&self) -> Option<Site> {
        self.site_in_url.clone()
    }

    fn check_owner(&self) -> Result<(), MirrorError> {
        let refusal = self.known().as_ref().and_then(|known| known.unwritable.clone());
        refusal.map_or(Ok(()), |refusal| Err(MirrorError::Remote { refusal }))
    }

    fn state(&self) -> Result<MirrorState, MirrorError> {
        let (state, round_trip) = self.request_state(self.session.limits.deadline)?;
        self.remember_state(&state, round_trip);
        self.check_site()?;
        let token = state.token_expires;
        let expiries = Expiries { token, certificate: self.certificate_end.get() };
        Ok(MirrorState { round_trip: self.round_trip(), expiries, ..state.try_into()? })
    }

    fn store_id(&self) -> Option<StoreId> {
        self.known().as_ref()?.store
    }

    fn history(&self) -> Result<Vec<HistoryEvent>, MirrorError> {
        self.check_site()?;
        let request = Request {
            limit: Some(QUICK_REQUEST_TIMEOUT),
            ..Request::new(Method::Get, Resource::History, Body::None, ResponseLimit::HISTORY)
        };
        let history: protocol::History =
            self.session.request(&request, &mut self.session.retry_state(NEVER_CANCELLED))?;
        Ok(history.events)
    }

    fn manifest(&self, id: &ManifestId) -> Result<Box<dyn Read + Send>, MirrorError> {
        download::decompress(self.content(Resource::Manifest(*id), 0)?)
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
        objects::read(&self.session, parts, effort, &|| monitor.is_cancelled())
    }

    fn holds(&self, objects: &[ObjectId], monitor: &dyn Monitor) -> Result<Vec<bool>, MirrorError> {
        self.check_site()?;
        let stop = || monitor.is_cancelled();
        let mut retry = self.session.retry_state(&stop).with_budget(QUICK_REQUEST_TIMEOUT);
        let mut held = Vec::with_capacity(objects.len());
        // The size of each request is limited, because the receiver reads it into memory.
        for some in objects.chunks(protocol::MAX_HOLDS_OBJECTS) {
            let ids: Vec<&[u8]> = some.iter().map(|id| id.as_bytes().as_slice()).collect();
            let (ids, resource) = (ids.concat(), Resource::Action(Action::Holds));
            let request =
                Request::new(Method::Post, resource, Body::Parts(vec![&ids]), ResponseLimit::SMALL);
            let answer: protocol::HeldObjects = self
                .session
                .request(&Request { limit: Some(QUICK_REQUEST_TIMEOUT), ..request }, &mut retry)?;
            let what = || "the response does not match the requested objects".to_owned();
            held.extend(
                answer
                    .decode(some.len())
                    .ok_or_else(|| TransportError::Foreign { status: 200, what: what() })?,
            );
        }
        Ok(held)
    }

    fn signatures(
        &self,
        question: &SignatureRequest,
        sizes: &[u64],
        monitor: &dyn Monitor,
    ) -> Result<Vec<Option<Signature>>, MirrorError> {
        self.check_site()?;
        let stop = || monitor.is_cancelled();
        let asked = signatures::read(&self.session, question, sizes, &stop);
        asked.map_err(|error| match error {
            // A receiver that knows the request never answers it this way.
            MirrorError::Remote { refusal } if refusal.kind == ErrorKind::Unknown => {
                let known = self.known();
                let receiver = known.as_ref().map(|known| known.version.clone());
                TransportError::NoSignatures { receiver: receiver.unwrap_or_default() }.into()
            }
            other => other,
        })
    }

    fn check_stage(&self, request: &StageRequest<'_>) -> Result<(), MirrorError> {
        stage::check(self, request)
    }

    fn stage(
        &self,
        request: &StageRequest<'_>,
        bundle: &dyn PackSource,
        monitor: &dyn Monitor,
    ) -> Result<(), MirrorError> {
        stage::run(self, request, bundle, monitor)
    }

    fn activate(
        &self,
        release: ReleaseName,
        expected: Option<ReleaseName>,
    ) -> Result<(), MirrorError> {
        self.check_site()?;
        let message = protocol::Activate { release, expected };
        let mut retry = self.session.retry_state(NEVER_CANCELLED);
        let asked: Result<protocol::Activated, _> =
            self.session.act_with(Action::Activate, &message, &mut retry);
        match asked {
            Ok(protocol::Activated { store }) => {
                if let Some(known) = self.known().as_mut() {
                    known.store = store.or(known.store);
                }
                Ok(())
            }
            // A response was lost, either this one or that of an earlier attempt. It is therefore
            // unknown whether the activation took effect, so the client asks for the state.
            Err(error) if matches!(error, MirrorError::Transport(_)) || retry.has_failed() => {
                let deadline = self
                    .session
                    .limits
                    .deadline
                    // This request must be possible even if the deadline ended the previous one:
                    // the client must find out whether visitors see the release.
                    .map(|deadline| deadline.max(Instant::now() + ACTIVATION_CHECK_GRACE));
                match self.request_state(deadline) {
                    Ok((state, _)) if state.current == Some(release) => Ok(()),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn abandon(&self, release: ReleaseName) -> Result<(), MirrorError> {
        self.check_site()?;
        self.session
            .act(Action::Abandon, &protocol::Abandon { release }, NEVER_CANCELLED)
            .map(|protocol::Done {}| ())
    }

    fn clean_up(&self, keep: usize) -> Result<CleanUpResult, MirrorError> {
        self.check_site()?;
        self.session.act(Action::CleanUp, &protocol::KeepReleases { keep }, NEVER_CANCELLED)
    }

    fn prune(&self, keep: usize) -> Result<Pruned, MirrorError> {
        self.check_site()?;
        self.session.act(Action::Prune, &protocol::KeepReleases { keep }, NEVER_CANCELLED)
    }

    fn verify(&self, depth: Depth, monitor: &dyn Monitor) -> Result<Verified, MirrorError> {
        self.check_site()?;
        let message = protocol::Verify { quick: depth == Depth::Quick };
        self.session.act(Action::Verify, &message, &|| monitor.is_cancelled())
    }

    fn repair(
        &self,
        source: &dyn RepairSource,
        monitor: &dyn Monitor,
    ) -> Result<Repaired, MirrorError> {
        self.check_site()?;
        repair::run(&self.session, source, monitor)
    }
}
