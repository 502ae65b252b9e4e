//! Actions: requests that consist of a single message.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::error_kind::ErrorKind;
use crate::protocol::{Abandon, Action, Activate, Activated, Done, Keep, Repair, Settled, Verify};
use crate::receiver::http::error::HttpError;
use crate::receiver::http::handler::{Handler, Lifetime, method_not_allowed};
use crate::receiver::http::handler_result::{HandlerResult, disconnect_flag};
use crate::receiver::http::log::{LogRecord, text};
use crate::receiver::http::request_body::RequestBody;
use crate::receiver::sites::site::{Activation, SiteState};
use crate::release::ReleaseName;
use crate::store::{Depth, Pruned};
use crate::tree_path::Site;

impl Handler {
    /// Reads the message of an action and runs it.
    pub(crate) async fn act(
        self: &Arc<Self>,
        site: &Arc<SiteState>,
        action: Action,
        body: &mut RequestBody,
    ) -> Result<HandlerResult, HttpError> {
        // The body is read here and not in the future of the work, so that an error of the body
        // still has its own status.
        let length = body.check(action.most_bytes())?;
        let memory = site.share.reserve_body(length)?;
        let body = body.read(length).await?;
        let (this, site) = (Arc::clone(self), Arc::clone(site));
        Ok(match action {
            Action::Stage | Action::Objects | Action::Signatures => {
                return Err(method_not_allowed());
            }
            Action::Holds => HandlerResult::later(async move {
                // If the peer disconnects, hyper drops the future, and with it the guard.
                let (asker, is_gone) = disconnect_flag();
                let look = move |site: &Arc<SiteState>| {
                    let held = site.holds(&body, &is_gone);
                    drop((body, memory));
                    held
                };
                let held = site.blocking(look).await;
                drop(asker);
                held
            }),
            Action::Activate => {
                // There is no flag: a switch that has begun is completed, whether or not its peer
                // is waiting.
                let request: Activate = parse(&body)?;
                HandlerResult::later(async move { this.activate(site, request).await })
            }
            Action::Abandon => {
                let Abandon { release } = parse(&body)?;
                HandlerResult::later(async move {
                    site.blocking(move |site| site.abandon(release).map(|()| Done {})).await
                })
            }
            Action::Settle => {
                let Keep { keep } = parse(&body)?;
                HandlerResult::later(async move { this.clean_up(site, keep).await })
            }
            Action::Prune => {
                let Keep { keep } = parse(&body)?;
                HandlerResult::later(
                    async move { site.blocking(move |site| site.prune(keep)).await },
                )
            }
            Action::Verify => {
                let Verify { quick } = parse(&body)?;
                let depth = if quick { Depth::Quick } else { Depth::Full };
                HandlerResult::later(async move {
                    let (asker, is_gone) = disconnect_flag();
                    let verified = site.blocking(move |site| site.verify(depth, &is_gone)).await;
                    drop(asker);
                    verified
                })
            }
            Action::Repair => {
                let request: Repair = parse(&body)?;
                HandlerResult::later(async move {
                    let (asker, is_gone) = disconnect_flag();
                    let repaired = site.blocking(move |site| site.repair(request, &is_gone)).await;
                    drop(asker);
                    repaired
                })
            }
        })
    }

    /// Cleans up after a switch, waits a limited time for its hook, and prepares the spare slot for
    /// the next push. The response waits for the spare slot only if the receiver ends with its
    /// peer.
    async fn clean_up(
        self: Arc<Self>,
        site: Arc<SiteState>,
        keep: usize,
    ) -> Result<Settled, HttpError> {
        let pruned = site.blocking(move |site| site.clean_up(keep)).await?;
        // A separate task, so that it continues if the peer disconnects.
        let preparing = tokio::spawn(Arc::clone(&self).prepare(Arc::clone(&site)));
        let hook = site.hook_run(self.limits.hook).await;
        // The process ends with its peer, so otherwise the slot would never be filled.
        if self.stay == Lifetime::OnePeer {
            preparing.await.map_err(|_| HttpError::no_result())?;
        }
        Ok(Settled { pruned, hook })
    }

    /// Fills the spare slot for the next push.
    async fn prepare(self: Arc<Self>, site: Arc<SiteState>) {
        // Waits for the hook first: filling a slot holds the lock of the store, which a failed hook
        // needs in order to record its failure.
        site.hook_run(self.limits.hook).await;
        // If another client or process is working on the site, that work or the next clean-up fills
        // the slot.
        if let Err(refused) = site.blocking(|site| site.prepare()).await
            && !matches!(refused.refusal.kind, ErrorKind::Locked | ErrorKind::Busy)
        {
            let directory = site.settings.directory.display().to_string();
            let message = format!("its second slot is not filled: {}", refused.refusal.message);
            self.log.record(&LogRecord::SiteFailed { directory, message: text(&message) });
        }
    }

    async fn activate(
        self: Arc<Self>,
        site: Arc<SiteState>,
        request: Activate,
    ) -> Result<Activated, HttpError> {
        let switch = move |site: &Arc<SiteState>| {
            // The switch and the start of the hook are one unit of work, because the peer may
            // disconnect at any moment: a repeated request finds the release current.
            if let Activation::Now(name) = site.activate(request)? {
                self.start_hook(site, (name, request.release));
            }
            Ok(Activated { store: Some(site.store()?.id()) })
        };
        site.blocking(switch).await
    }

    /// Starts the hook for a release that has become current.
    fn start_hook(&self, site: &Arc<SiteState>, switched: (Site, ReleaseName)) {
        let Some(hook) = &site.settings.post_activate else { return };
        let (state, same) = (Arc::clone(site), Arc::clone(site));
        let release = switched.1;
        // Before the command starts: a clean-up that follows at once must see that a hook is
        // running, not the result of the previous hook.
        site.hook_started(release);
        let ended = move |result| same.hook_ended(release, result);
        self.hooks.start(hook, switched, move || state.clear_switch(), ended);
    }

    /// Runs maintenance on each site, first at once and then at intervals.
    pub(crate) async fn keep_up(self: Arc<Self>) {
        loop {
            for site in &self.sites {
                let done = site.blocking(|site| site.upkeep()).await;
                self.log_upkeep(site, done);
            }
            tokio::time::sleep(self.limits.upkeep).await;
        }
    }

    fn log_upkeep(&self, site: &SiteState, done: Result<Pruned, HttpError>) {
        let directory = site.settings.directory.display().to_string();
        match done {
            Ok(Pruned { expired: 0, quarantines: 0, .. }) => {}
            Ok(Pruned { expired, quarantines, incoming_bytes, .. }) => {
                self.log.record(&LogRecord::Upkeep {
                    directory,
                    expired,
                    quarantines,
                    incoming_bytes,
                });
            }
            // If another process is working on the site, the next round does the maintenance.
            Err(refused) if matches!(refused.refusal.kind, ErrorKind::Locked | ErrorKind::Busy) => {
            }
            Err(refused) => {
                let message = format!("its due maintenance failed: {}", refused.refusal.message);
                self.log.record(&LogRecord::SiteFailed { directory, message: text(&message) });
            }
        }
    }

    /// Starts the hooks that an earlier receiver could not start because it was killed.
    pub(crate) fn run_missed_hooks(&self) {
        for site in &self.sites {
            if let Some(switched) = site.noted_switch() {
                self.start_hook(site, switched);
            }
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, HttpError> {
    serde_json::from_slice(body).map_err(|error| HttpError::malformed(error.to_string()))
}
