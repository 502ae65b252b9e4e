//! The request handler: finds the site, checks the permission and dispatches the request.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, RANGE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::mpsc;

use crate::error_kind::ErrorKind;
use crate::hash::{ManifestId, ObjectId};
use crate::protocol::{
    Action, Done, MAX_CHANGE_BYTES, ProtocolError, Resource, ResponseMessage, VERSION,
    VERSION_HEADER,
};
use crate::receiver::http::auth::Grant;
use crate::receiver::http::error::{HttpError, map_not_found};
use crate::receiver::http::handler_result::HandlerResult;
use crate::receiver::http::log::{AccessEntry, peer_text};
use crate::receiver::http::log_limit::LogLimiter;
use crate::receiver::http::object_parts::ObjectParts;
use crate::receiver::http::request_body::RequestBody;
use crate::receiver::http::response::{self, ResponseBody};
use crate::receiver::http::signature_chunks::SignatureChunks;
use crate::receiver::listener::timeout_stream::ConnectionPhase;
use crate::receiver::sites::hook::HookRunner;
use crate::receiver::sites::repair_uploads::FileRange;
use crate::receiver::sites::share::Pools;
use crate::receiver::sites::site::SiteState;
use crate::receiver::sites::stage;
use crate::receiver::{
    AuthPolicy, Log, LogRecord, Permission, ReceiverLimits, ReceiverSettings, ServeError,
    TokenRecord,
};

/// When a receiver ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunMode {
    /// The receiver runs until it is stopped.
    Daemon,
    /// The receiver ends when its only peer disconnects.
    OnePeer,
}

/// Handles the requests of all connections.
pub(crate) struct Handler {
    pub(crate) run_mode: RunMode,
    pub(crate) sites: Vec<Arc<SiteState>>,
    auth: RwLock<AuthPolicy>,
    pub(crate) limits: ReceiverLimits,
    pub(crate) log: Arc<dyn Log>,
    limiter: Arc<LogLimiter>,
    pub(crate) hooks: HookRunner,
    pools: Pools,
}

impl Handler {
    pub(crate) fn new(
        settings: &ReceiverSettings,
        stay: RunMode,
        log: Arc<dyn Log>,
    ) -> Result<Self, ServeError> {
        let limits = settings.limits.clone();
        let pools = Pools::new(&limits).map_err(ServeError::Runtime)?;
        let count = settings.sites.len();
        let sites = settings.sites.iter();
        let sites = sites
            .map(|site| Ok(Arc::new(SiteState::new(site, limits.lock_wait, pools.share(count))?)));
        Ok(Self {
            run_mode: stay,
            sites: sites.collect::<Result<_, ServeError>>()?,
            auth: RwLock::new(settings.auth.clone()),
            hooks: HookRunner::new(Arc::clone(&log)),
            log,
            limiter: Arc::default(),
            pools,
            limits,
        })
    }

    fn auth(&self) -> RwLockReadGuard<'_, AuthPolicy> {
        self.auth.read()
    }

    /// The number of tokens; `None` if no token is required.
    pub(crate) fn tokens(&self) -> Option<usize> {
        match &*self.auth() {
            AuthPolicy::Tokens(tokens) => Some(tokens.len()),
            AuthPolicy::Open => None,
        }
    }

    /// Replaces the tokens, if any are required.
    pub(crate) fn use_tokens(&self, tokens: Vec<TokenRecord>) {
        let mut access = self.auth.write();
        // A receiver that was started without tokens stays open, because its operator chose that.
        if let AuthPolicy::Tokens(known) = &mut *access {
            *known = tokens;
        }
    }

    /// Logs a connection that ended before a valid request.
    pub(crate) fn log_rejected(&self, peer: &str, message: &str) {
        if let Some(suppressed) = self.limiter.admit(peer) {
            self.log.record(&LogRecord::Rejected {
                peer: peer.to_owned(),
                message: peer_text(message),
                suppressed,
            });
        }
    }

    /// Logs a connection that was rejected because too many are open.
    pub(crate) fn log_full(&self, peer: &str) {
        if let Some(suppressed) = self.limiter.admit(peer) {
            self.log.record(&LogRecord::Full { peer: peer.to_owned(), suppressed });
        }
    }

    /// Waits for background work to finish, until `deadline` at the latest, and then for the hooks
    /// that this work started.
    pub(crate) async fn finish(&self, deadline: tokio::time::Instant) {
        // The work comes first: a switch that is still running starts a hook when it ends.
        tokio::time::timeout_at(deadline, self.pools.finished()).await.ok();
        self.hooks.finish().await;
    }

    /// Drops idle stages and uploads, and logs how many records were suppressed.
    pub(crate) fn sweep(&self) {
        for (address, records) in self.limiter.take_suppressed() {
            self.log.record(&LogRecord::Suppressed { address: address.to_string(), records });
        }
        for site in &self.sites {
            site.open_stages.sweep(self.limits.stage_idle);
            site.uploads.sweep(self.limits.stage_idle);
        }
    }

    /// Handles a request and logs how it ended.
    pub(crate) async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<str>,
        phases: Arc<ConnectionPhase>,
    ) -> Response<ResponseBody> {
        phases.head_received();
        let (parts, body) = request.into_parts();
        let mut body = RequestBody::new(body, &parts.headers, &self.limits);
        let mut entry = AccessEntry {
            log: Arc::clone(&self.log),
            peer,
            token: None,
            limiter: Arc::clone(&self.limiter),
            is_authorized: false,
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            body_bytes: 0,
            began: Instant::now(),
        };
        let reaction = self.dispatch(&parts, &mut body, &mut entry).await;
        entry.body_bytes = body.bytes();
        let response = match reaction {
            Ok(HandlerResult::Ready(response)) => {
                entry.log_end(response.status().as_u16(), None);
                response
            }
            Ok(HandlerResult::Pending(work)) => self.respond_with_keepalive(work, entry).await,
            Err(refused) => {
                body.drain().await;
                entry.log_end(refused.status.as_u16(), Some(&refused.protocol_error));
                response::error_response(&refused)
            }
        };
        response.map(|reply| reply.with_phase(phases))
    }

    /// Responds with the real status if the work ends soon. Otherwise responds with status 200,
    /// sends newlines to keep the connection alive, and puts the result or the error into the body.
    async fn respond_with_keepalive(
        &self,
        mut work: Pin<Box<dyn Future<Output = Result<Bytes, HttpError>> + Send>>,
        entry: AccessEntry,
    ) -> Response<ResponseBody> {
        if let Ok(result) = tokio::time::timeout(self.limits.keepalive_after, &mut work).await {
            return match result {
                Ok(bytes) => {
                    entry.log_end(200, None);
                    response::json(bytes)
                }
                Err(refused) => {
                    entry.log_end(refused.status.as_u16(), Some(&refused.protocol_error));
                    response::error_response(&refused)
                }
            };
        }
        // A proxy closes a connection that is silent for too long; nginx does so after 60 seconds.
        // The status must be sent before the first newline, so it cannot depend on the result.
        let (sender, from) = mpsc::channel::<io::Result<Bytes>>(2);
        let heartbeat = self.limits.keepalive_interval;
        tokio::spawn(async move {
            let last = loop {
                // hyper has dropped the body, so the peer is gone. This task drops the future of
                // the work, and with it the disconnect flag, which stops work that only answers a
                // query.
                if sender.send(Ok(Bytes::from_static(b"\n"))).await.is_err() {
                    entry.log_end(
                        499,
                        Some(&ProtocolError::new(ErrorKind::Cancelled, "the peer went away")),
                    );
                    return;
                }
                if let Ok(result) = tokio::time::timeout(heartbeat, &mut work).await {
                    break result;
                }
            };
            let bytes = match last {
                Ok(bytes) => {
                    entry.log_end(200, None);
                    bytes
                }
                Err(refused) => {
                    entry.log_end(refused.status.as_u16(), Some(&refused.protocol_error));
                    response::json_bytes(&ResponseMessage::<()>::Error(refused.protocol_error))
                }
            };
            // If the peer has disconnected, it will repeat the request.
            sender.send(Ok(bytes)).await.ok();
        });
        response::streamed_json(from)
    }

    async fn dispatch(
        self: &Arc<Self>,
        parts: &Parts,
        body: &mut RequestBody,
        entry: &mut AccessEntry,
    ) -> Result<HandlerResult, HttpError> {
        let path = parts.uri.path();
        match path {
            // Before anything that can fail: this response shows only that the process is running
            // and responding.
            "/healthz" => {
                return require_get_or_head(&parts.method).map(|()| HandlerResult::ready(Done {}));
            }
            "/ready" => return self.ready(&parts.method).await,
            _ => {}
        }
        let (site, resource) = self.find_site(path).ok_or_else(|| self.no_site(parts))?;
        if resource == Some(Resource::Status) {
            require_get_or_head(&parts.method)?;
            let status = site.blocking(|site| site.status()).await?;
            return Ok(HandlerResult::Ready(response::plain(StatusCode::OK, &status)));
        }
        // Before the token check: an origin with a different version must be told so even if its
        // token is wrong.
        check_version(parts)?;
        let name = site.settings.name.as_ref();
        let grant = self.auth().grant(authorization(parts), name, &mut entry.token)?;
        // After the token check, so that a client without a token does not find out which paths
        // exist.
        let resource = resource.ok_or_else(|| nothing_below(&site.settings.base))?;
        grant.check(required_permission(&parts.method, resource))?;
        // No part of the body has been read yet. hyper sends `100 Continue` with the first read, so
        // a client that waits for it sends no body that is refused here.
        entry.is_authorized = true;
        match (&parts.method, resource) {
            (&Method::GET, _) => self.read(site, resource, parts, grant).await,
            (&Method::PUT, _) => self.put(site, resource, body).await,
            (&Method::POST, Resource::Action(Action::Stage)) => stage::stage(site, body).await,
            (&Method::POST, Resource::Action(Action::Objects)) => self.objects(site, body).await,
            (&Method::POST, Resource::Action(Action::Signatures)) => {
                self.signatures(site, body).await
            }
            (&Method::POST, Resource::Action(action)) => self.act(site, action, body).await,
            _ => Err(method_not_allowed()),
        }
    }

    /// The site that serves `path`, and the resource that the rest of the path names.
    fn find_site(&self, path: &str) -> Option<(&Arc<SiteState>, Option<Resource>)> {
        let (site, rest) = self
            .sites
            .iter()
            // A base ends with a slash, so the site `docs` is not found at `/docs2/`.
            .find_map(|site| Some((site, path.strip_prefix(&*site.settings.base)?)))?;
        Some((site, Resource::parse(rest)))
    }

    /// The error for a path at which no site is served. Only the bearer of a valid token learns
    /// where that token's sites are.
    fn no_site(&self, parts: &Parts) -> HttpError {
        let access = self.auth();
        let allowed = access.sites_of(authorization(parts)).unwrap_or_default();
        let names = |site: &&Arc<SiteState>| {
            site.settings.name.as_ref().is_some_and(|name| allowed.contains(name))
        };
        let bases: Vec<&str> =
            self.sites.iter().filter(names).map(|site| &*site.settings.base).collect();
        match &*bases {
            [] => HttpError::unknown("no site is served at this path"),
            bases => HttpError::unknown(format!(
                "no site is served at this path; this token is for {}",
                bases.join(" and ")
            )),
        }
    }

    async fn ready(self: &Arc<Self>, method: &Method) -> Result<HandlerResult, HttpError> {
        require_get_or_head(method)?;
        let this = Arc::clone(self);
        let are_ready =
            self.pools.blocking(move || Ok(this.sites.iter().all(|site| site.is_ready()))).await?;
        if are_ready {
            Ok(HandlerResult::ready(Done {}))
        } else {
            Err(HttpError { retry_after: None, ..HttpError::busy("a site serves no release yet") })
        }
    }

    async fn read(
        &self,
        site: &Arc<SiteState>,
        resource: Resource,
        parts: &Parts,
        grant: Grant,
    ) -> Result<HandlerResult, HttpError> {
        let (file, is_object) = match resource {
            Resource::State => {
                return Ok(HandlerResult::ready(
                    site.blocking(move |site| site.state(grant)).await?,
                ));
            }
            Resource::History => {
                return Ok(HandlerResult::ready(site.blocking(|site| site.history()).await?));
            }
            Resource::Manifest(id) => (
                site.blocking(move |site| site.store()?.manifest_file(&id).map_err(map_not_found))
                    .await?,
                false,
            ),
            Resource::Object(id) => (
                site.blocking(move |site| site.store()?.open_object(&id).map_err(map_not_found))
                    .await?,
                true,
            ),
            _ => return Err(method_not_allowed()),
        };
        let length = file.metadata().map_err(|error| HttpError::internal(&error))?.len();
        // The protocol supports ranges only for objects; a manifest is sent from its beginning.
        let range = parts.headers.get(RANGE).filter(|_| is_object);
        let Some(range) = range else {
            return Ok(HandlerResult::Ready(response::content(
                StatusCode::OK,
                ResponseBody::file(file, 0, length),
            )));
        };
        let offset = range
            .to_str()
            .ok()
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let offset: u64 = offset.filter(|offset| *offset <= length).ok_or_else(|| {
            HttpError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                ErrorKind::Malformed,
                "a range must be bytes=N- within the object",
            )
        })?;
        Ok(HandlerResult::Ready(response::part(
            ResponseBody::file(file, offset, length - offset),
            offset,
            length,
        )))
    }

    /// Handles a request for parts of objects.
    async fn objects(
        &self,
        site: &Arc<SiteState>,
        body: &mut RequestBody,
    ) -> Result<HandlerResult, HttpError> {
        let length = body.check_length(Action::Objects.max_body_bytes())?;
        // The number of parts is bounded, but many connections at once could fill memory.
        let _memory = site.share.reserve_body(length)?;
        let question = body.read(length).await?;
        let (parts, length) =
            site.blocking(move |site| ObjectParts::new(site.store()?, &question)).await?;
        Ok(HandlerResult::Ready(response::content(
            StatusCode::OK,
            ResponseBody::chunks(parts, length),
        )))
    }

    /// Handles a request for block signatures.
    async fn signatures(
        &self,
        site: &Arc<SiteState>,
        body: &mut RequestBody,
    ) -> Result<HandlerResult, HttpError> {
        let length = body.check_length(Action::Signatures.max_body_bytes())?;
        let _memory = site.share.reserve_body(length)?;
        let question = body.read(length).await?;
        let stream = site.blocking(move |site| site.signatures(&question)).await?;
        let length = stream.answer_bytes();
        let content = ResponseBody::chunks(SignatureChunks::new(Arc::clone(site), stream), length);
        Ok(HandlerResult::Ready(response::content(StatusCode::OK, content)))
    }

    async fn put(
        self: &Arc<Self>,
        site: &Arc<SiteState>,
        resource: Resource,
        body: &mut RequestBody,
    ) -> Result<HandlerResult, HttpError> {
        let done = match resource {
            Resource::Pack(key, id) => stage::put_pack(site, (key, id), body).await?,
            Resource::Packs(key) => stage::put_packs(site, key, body).await?,
            Resource::Object(id) => self.put_object(site, id, body).await?,
            Resource::Manifest(id) => self.put_manifest(site, id, body).await?,
            Resource::Release(name) => site.uploads.take_release(name, body).await?,
            _ => return Err(method_not_allowed()),
        };
        Ok(HandlerResult::ready(done))
    }

    async fn put_object(
        &self,
        site: &Arc<SiteState>,
        id: ObjectId,
        body: &mut RequestBody,
    ) -> Result<Done, HttpError> {
        // The bound is the size of the requested object; `has_object` checks it.
        let length = body.check_length(u64::MAX)?;
        if site.uploads.has_object(&id, length)? {
            body.skip(length).await?;
            return Ok(Done {});
        }
        let range = self.reserve_upload(site, length, body).await?;
        let hash = body.spool(length, &range, range.offset()).await?;
        // Returning this error drops the range and frees its space: refused uploads must not pile
        // up.
        if hash.as_bytes() != id.as_bytes() {
            return Err(HttpError::malformed("the bytes do not match the id of the object"));
        }
        site.uploads.put_object(id, range);
        Ok(Done {})
    }

    async fn put_manifest(
        &self,
        site: &Arc<SiteState>,
        id: ManifestId,
        body: &mut RequestBody,
    ) -> Result<Done, HttpError> {
        let length = body.check_length(MAX_CHANGE_BYTES)?;
        site.uploads.check_manifest(&id)?;
        let range = self.reserve_upload(site, length, body).await?;
        // The store checks the manifest's id when it reads the manifest.
        body.spool(length, &range, range.offset()).await?;
        site.uploads.put_manifest(id, range);
        Ok(Done {})
    }

    /// Reserves a range of the upload file for `length` bytes of `body`.
    async fn reserve_upload(
        &self,
        site: &Arc<SiteState>,
        length: u64,
        body: &mut RequestBody,
    ) -> Result<FileRange, HttpError> {
        let toucher = Arc::clone(site);
        body.on_data(move || toucher.uploads.touch());
        let reserve = move |site: &Arc<SiteState>| {
            let store = site.store()?;
            site.check_free(&store, length)?;
            site.uploads.reserve(&store, length, site.settings.quota_bytes)
        };
        site.blocking(reserve).await
    }
}

/// The permission that a request needs. Queries that are too long for a URL, or that take a long
/// time, use POST even though they do not change the served content.
fn required_permission(method: &Method, resource: Resource) -> Permission {
    match resource {
        Resource::Action(Action::Holds | Action::Objects | Action::Verify) => Permission::Read,
        _ if *method == Method::GET => Permission::Read,
        _ => Permission::Push,
    }
}

/// The value of the `authorization` header.
fn authorization(parts: &Parts) -> Option<&[u8]> {
    parts.headers.get(AUTHORIZATION).map(hyper::header::HeaderValue::as_bytes)
}

fn nothing_below(base: &str) -> HttpError {
    HttpError::unknown(format!(
        "there is nothing at this path: the base path of the site is {base}"
    ))
}

pub(crate) fn method_not_allowed() -> HttpError {
    HttpError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::Unknown,
        "this method does not work at this path",
    )
}

/// Public pages also accept HEAD, which monitoring systems use.
fn require_get_or_head(method: &Method) -> Result<(), HttpError> {
    if [Method::GET, Method::HEAD].contains(method) { Ok(()) } else { Err(method_not_allowed()) }
}

fn check_version(parts: &Parts) -> Result<(), HttpError> {
    let version = parts.headers.get(VERSION_HEADER).map(hyper::header::HeaderValue::as_bytes);
    if version == Some(VERSION.to_string().as_bytes()) {
        return Ok(());
    }
    let message = format!(
        "this receiver is headwater {} and speaks only protocol {VERSION}",
        env!("CARGO_PKG_VERSION")
    );
    Err(HttpError::new(StatusCode::UPGRADE_REQUIRED, ErrorKind::Version, message))
}
