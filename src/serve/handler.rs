//! From a request to its answer: which site, who asks, what to do.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, RANGE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::mpsc;

use crate::hash::{ManifestId, ObjectId};
use crate::serve::access::Grant;
use crate::serve::desk::Section;
use crate::serve::guarded::Phases;
use crate::serve::hook::Hooks;
use crate::serve::inbox::Inbox;
use crate::serve::log::{Entry, text};
use crate::serve::log_limit::LogLimiter;
use crate::serve::parts::ObjectParts;
use crate::serve::reaction::Reaction;
use crate::serve::refused::{Refused, or_unknown};
use crate::serve::reply::{self, Reply};
use crate::serve::share::Pools;
use crate::serve::site::SiteState;
use crate::serve::{Access, Limits, Log, Record, Right, ServeError, Settings, TokenRecord, stage};
use crate::wire::{Action, Answer, Done, MAX_CHANGE_BYTES, Refusal, Resource, VERSION, VERSION_HEADER};

/// How long a receiver stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    /// Until it is stopped.
    Served,
    /// As long as its only peer.
    Peer,
}

/// Answers requests.
pub(super) struct Handler {
    pub(super) stay: Stay,
    pub(super) sites: Vec<Arc<SiteState>>,
    access: RwLock<Access>,
    pub(super) limits: Limits,
    pub(super) log: Arc<dyn Log>,
    limiter: Arc<LogLimiter>,
    pub(super) hooks: Hooks,
    pools: Pools,
}

impl Handler {
    pub(super) fn new(settings: &Settings, stay: Stay, log: Arc<dyn Log>) -> Result<Self, ServeError> {
        let limits = settings.limits.clone();
        let pools = Pools::new(&limits).map_err(ServeError::Runtime)?;
        let count = settings.sites.len();
        let sites = settings.sites.iter();
        let sites = sites.map(|site| Ok(Arc::new(SiteState::new(site, limits.lock, pools.share(count))?)));
        Ok(Self {
            stay,
            sites: sites.collect::<Result<_, ServeError>>()?,
            access: RwLock::new(settings.access.clone()),
            log,
            limiter: Arc::default(),
            hooks: Hooks::default(),
            pools,
            limits,
        })
    }

    fn access(&self) -> RwLockReadGuard<'_, Access> {
        self.access.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many tokens there are, where tokens are asked for at all.
    pub(super) fn tokens(&self) -> Option<usize> {
        match &*self.access() {
            Access::Tokens(tokens) => Some(tokens.len()),
            Access::Open => None,
        }
    }

    /// From now on these tokens hold, where tokens are asked for at all.
    pub(super) fn use_tokens(&self, tokens: Vec<TokenRecord>) {
        let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
        if let Access::Tokens(known) = &mut *access {
            *known = tokens;
        }
    }

    /// Tells of a peer that came to no request.
    pub(super) fn turned_away(&self, peer: &str, message: &str) {
        if let Some(suppressed) = self.limiter.admit(peer) {
            self.log.record(&Record::TurnedAway { peer: peer.to_owned(), message: text(message), suppressed });
        }
    }

    /// Tells of a peer that found too many connections open.
    pub(super) fn full(&self, peer: &str) {
        if let Some(suppressed) = self.limiter.admit(peer) {
            self.log.record(&Record::Full { peer: peer.to_owned(), suppressed });
        }
    }

    /// Waits for the work that nobody waits for any more, until `deadline`, and for the commands that it started.
    pub(super) async fn finish(&self, deadline: tokio::time::Instant) {
        tokio::time::timeout_at(deadline, self.pools.finished()).await.ok();
        self.hooks.finish().await;
    }

    /// Forgets what nobody came back for, and says how many records were left out.
    pub(super) fn sweep(&self) {
        for (address, records) in self.limiter.take_suppressed() {
            self.log.record(&Record::Suppressed { address: address.to_string(), records });
        }
        for site in &self.sites {
            site.sessions.sweep(self.limits.stage);
            site.desk.sweep(self.limits.stage);
        }
    }

    /// Answers a request.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<str>,
        phases: Arc<Phases>,
    ) -> Response<Reply> {
        phases.requested();
        let (parts, body) = request.into_parts();
        let mut inbox = Inbox::new(body, &parts.headers, &self.limits);
        let mut entry = Entry {
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
        let reaction = self.react(&parts, &mut inbox, &mut entry).await;
        entry.body_bytes = inbox.bytes();
        let response = match reaction {
            Ok(Reaction::Now(response)) => {
                entry.end(response.status().as_u16(), None);
                response
            }
            Ok(Reaction::Later(work)) => self.patiently(work, entry).await,
            Err(refused) => {
                inbox.drain().await;
                entry.end(refused.status.as_u16(), Some(&refused.refusal));
                reply::refused(&refused)
            }
        };
        response.map(|reply| reply.watched(phases))
    }

    /// Answers with the true status if that is soon known, else with 200 and signs of life until it is.
    async fn patiently(
        &self,
        mut work: Pin<Box<dyn Future<Output = Result<Bytes, Refused>> + Send>>,
        entry: Entry,
    ) -> Response<Reply> {
        if let Ok(result) = tokio::time::timeout(self.limits.patience, &mut work).await {
            return match result {
                Ok(bytes) => {
                    entry.end(200, None);
                    reply::json(bytes)
                }
                Err(refused) => {
                    entry.end(refused.status.as_u16(), Some(&refused.refusal));
                    reply::refused(&refused)
                }
            };
        }
        let (sender, from) = mpsc::channel::<io::Result<Bytes>>(2);
        let heartbeat = self.limits.heartbeat;
        tokio::spawn(async move {
            let last = loop {
                if sender.send(Ok(Bytes::from_static(b"\n"))).await.is_err() {
                    entry.end(499, Some(&Refusal::new("cancelled", "the peer went away")));
                    return;
                }
                if let Ok(result) = tokio::time::timeout(heartbeat, &mut work).await {
                    break result;
                }
            };
            let bytes = match last {
                Ok(bytes) => {
                    entry.end(200, None);
                    bytes
                }
                Err(refused) => {
                    entry.end(refused.status.as_u16(), Some(&refused.refusal));
                    reply::json_bytes(&Answer::<()>::Error(refused.refusal))
                }
            };
            // A peer that went away asks again.
            sender.send(Ok(bytes)).await.ok();
        });
        reply::later(from)
    }

    async fn react(self: &Arc<Self>, parts: &Parts, inbox: &mut Inbox, entry: &mut Entry) -> Result<Reaction, Refused> {
        let path = parts.uri.path();
        match path {
            "/healthz" => return only_looks(&parts.method).map(|()| Reaction::done(Done {})),
            "/ready" => return self.ready(&parts.method).await,
            _ => {}
        }
        let (site, resource) = self.find(path)?;
        if resource == Some(Resource::Status) {
            only_looks(&parts.method)?;
            let status = site.blocking(|site| site.status()).await?;
            return Ok(Reaction::Now(reply::plain(StatusCode::OK, &status)));
        }
        check_version(parts)?;
        let authorization = parts.headers.get(AUTHORIZATION).map(hyper::header::HeaderValue::as_bytes);
        let grant = self.access().grant(authorization, site.settings.name.as_ref(), &mut entry.token)?;
        let resource = resource.ok_or_else(|| nothing_below(&site.settings.base))?;
        grant.check(right_for(&parts.method, resource))?;
        entry.is_authorized = true;
        match (&parts.method, resource) {
            (&Method::GET, _) => self.read(site, resource, parts, grant).await,
            (&Method::PUT, _) => self.put(site, resource, inbox).await,
            (&Method::POST, Resource::Action(Action::Stage)) => stage::stage(site, inbox).await,
            (&Method::POST, Resource::Action(Action::Objects)) => self.objects(site, inbox).await,
            (&Method::POST, Resource::Action(action)) => self.act(site, action, inbox).await,
            _ => Err(not_here()),
        }
    }

    /// The site that a path is below, and what it names there.
    fn find(&self, path: &str) -> Result<(&Arc<SiteState>, Option<Resource>), Refused> {
        let below = self.sites.iter().find_map(|site| Some((site, path.strip_prefix(&*site.settings.base)?)));
        let (site, rest) = below.ok_or_else(|| Refused::unknown("no site is served at this path"))?;
        Ok((site, Resource::parse(rest)))
    }

    async fn ready(self: &Arc<Self>, method: &Method) -> Result<Reaction, Refused> {
        only_looks(method)?;
        let this = Arc::clone(self);
        let are_ready = self.pools.blocking(move || Ok(this.sites.iter().all(|site| site.is_ready()))).await?;
        match are_ready {
            true => Ok(Reaction::done(Done {})),
            false => Err(Refused { retry_after: None, ..Refused::busy("a site serves no release yet") }),
        }
    }

    async fn read(
        &self,
        site: &Arc<SiteState>,
        resource: Resource,
        parts: &Parts,
        grant: Grant,
    ) -> Result<Reaction, Refused> {
        let (file, is_object) = match resource {
            Resource::State => return Ok(Reaction::done(site.blocking(move |site| site.state(grant)).await?)),
            Resource::History => return Ok(Reaction::done(site.blocking(|site| site.history()).await?)),
            Resource::Manifest(id) => {
                (site.blocking(move |site| site.store()?.manifest_file(&id).map_err(or_unknown)).await?, false)
            }
            Resource::Object(id) => {
                (site.blocking(move |site| site.store()?.open_object(&id).map_err(or_unknown)).await?, true)
            }
            _ => return Err(not_here()),
        };
        let length = file.metadata().map_err(|error| Refused::broken(&error))?.len();
        let range = parts.headers.get(RANGE).filter(|_| is_object);
        let Some(range) = range else {
            return Ok(Reaction::Now(reply::content(StatusCode::OK, Reply::file(file, 0, length))));
        };
        let offset =
            range.to_str().ok().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let offset: u64 = offset.filter(|offset| *offset <= length).ok_or_else(|| {
            Refused::new(StatusCode::RANGE_NOT_SATISFIABLE, "malformed", "a range is bytes=N- within the object")
        })?;
        Ok(Reaction::Now(reply::part(Reply::file(file, offset, length - offset), offset, length)))
    }

    /// Answers with parts of objects.
    async fn objects(&self, site: &Arc<SiteState>, inbox: &mut Inbox) -> Result<Reaction, Refused> {
        let length = inbox.check(Action::Objects.most_bytes())?;
        let _memory = site.share.reserve_body(length)?;
        let question = inbox.read(length).await?;
        let (parts, length) = site.blocking(move |site| ObjectParts::new(site.store()?, &question)).await?;
        Ok(Reaction::Now(reply::content(StatusCode::OK, Reply::parts(parts, length))))
    }

    async fn put(
        self: &Arc<Self>,
        site: &Arc<SiteState>,
        resource: Resource,
        inbox: &mut Inbox,
    ) -> Result<Reaction, Refused> {
        let done = match resource {
            Resource::Pack(key, id) => stage::put_pack(site, (key, id), inbox).await?,
            Resource::Packs(key) => stage::put_packs(site, key, inbox).await?,
            Resource::Object(id) => self.put_object(site, id, inbox).await?,
            Resource::Manifest(id) => self.put_manifest(site, id, inbox).await?,
            Resource::Release(name) => site.desk.take_release(name, inbox).await?,
            _ => return Err(not_here()),
        };
        Ok(Reaction::done(done))
    }

    async fn put_object(&self, site: &Arc<SiteState>, id: ObjectId, inbox: &mut Inbox) -> Result<Done, Refused> {
        let length = inbox.check(u64::MAX)?;
        if site.desk.has_object(&id, length)? {
            inbox.skip(length).await?;
            return Ok(Done {});
        }
        let section = self.section(site, length, inbox).await?;
        let hash = inbox.spool(length, &section, section.offset()).await?;
        if hash.as_bytes() != id.as_bytes() {
            return Err(Refused::malformed("these bytes are not this object"));
        }
        site.desk.put_object(id, section);
        Ok(Done {})
    }

    async fn put_manifest(&self, site: &Arc<SiteState>, id: ManifestId, inbox: &mut Inbox) -> Result<Done, Refused> {
        let length = inbox.check(MAX_CHANGE_BYTES)?;
        site.desk.check_manifest(&id)?;
        let section = self.section(site, length, inbox).await?;
        // The store checks its id when it uses it.
        inbox.spool(length, &section, section.offset()).await?;
        site.desk.put_manifest(id, section);
        Ok(Done {})
    }

    /// Room on the desk for what `inbox` brings.
    async fn section(&self, site: &Arc<SiteState>, length: u64, inbox: &mut Inbox) -> Result<Section, Refused> {
        let toucher = Arc::clone(site);
        inbox.tell(move || toucher.desk.touch());
        let reserve = move |site: &Arc<SiteState>| {
            let store = site.store()?;
            site.check_free(&store, length)?;
            site.desk.reserve(&store, length, site.settings.quota_bytes)
        };
        site.blocking(reserve).await
    }
}

/// What a token must permit for a request. Questions that are too long for an address or take long are posted; they
/// change nothing that is served.
fn right_for(method: &Method, resource: Resource) -> Right {
    match resource {
        Resource::Action(Action::Holds | Action::Objects | Action::Verify) => Right::Read,
        _ if *method == Method::GET => Right::Read,
        _ => Right::Push,
    }
}

fn nothing_below(base: &str) -> Refused {
    Refused::unknown(format!("there is nothing at this path: the site that is meant answers at {base}"))
}

pub(super) fn not_here() -> Refused {
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, "unknown", "this cannot be done to this path")
}

/// What anybody may look at can be asked for without its body too, as monitors do.
fn only_looks(method: &Method) -> Result<(), Refused> {
    if [Method::GET, Method::HEAD].contains(method) { Ok(()) } else { Err(not_here()) }
}

fn check_version(parts: &Parts) -> Result<(), Refused> {
    let version = parts.headers.get(VERSION_HEADER).map(hyper::header::HeaderValue::as_bytes);
    if version == Some(VERSION.to_string().as_bytes()) {
        return Ok(());
    }
    let words = format!("this receiver is headwater {} and speaks protocol {VERSION} only", env!("CARGO_PKG_VERSION"));
    Err(Refused::new(StatusCode::UPGRADE_REQUIRED, "version", words))
}
