//! Actions: requests that consist of a single message.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::error_kind::ErrorKind;
use crate::protocol::{
    Abandon, Action, Activate, Activated, CleanUpResult, Done, KeepReleases, Repair, Verify,
};
use crate::receiver::http::error::HttpError;
use crate::receiver::http::handler::{Handler, RunMode, method_not_allowed};
use crate::receiver::http::handler_result::{HandlerResult, disconnect_flag};
use crate::receiver::http::log::{LogRecord, peer_text};
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
        // The body is read here, not in the future of the work, so that an error in the body still
        // gets its own status.
        let length = body.check_length(action.max_body_bytes())?;
        let memory = site.share.reserve_body(length)?;
        let body = body.read(length).await?;
        let (this, site) = (Arc::clone(self), Arc::clone(site));
        Ok(match action {
            Action::Stage | Action::Objects | Action::Signatures => {
                return Err(method_not_allowed());
            }
            Action::Holds => HandlerResult::pending(async move {
                // If the peer disconnects, hyper drops the future, and with it the guard.
                let (disconnect_guard, is_gone) = disconnect_flag();
                let query = move |site: &Arc<SiteState>| {
                    let held = site.holds(&body, &is_gone);
                    drop((body, memory));
                    held
                };
                let held = site.blocking(query).await;
                drop(disconnect_guard);
                held
            }),
            Action::Activate => {
                // There is no flag here: a switch that has begun is completed, whether or not its
                // peer is waiting.
                let request: Activate = parse(&body)?;
                HandlerResult::pending(async move { this.activate(site, request).await })
            }
            Action::Abandon => {
                let Abandon { release } = parse(&body)?;
                HandlerResult::pending(async move {
                    site.blocking(move |site| site.abandon(release).map(|()| Done {})).await
                })
            }
            Action::CleanUp => {
                let KeepReleases { keep } = parse(&body)?;
                HandlerResult::pending(async move { this.clean_up(site, keep).await })
            }
            Action::Prune => {
                let KeepReleases { keep } = parse(&body)?;
                HandlerResult::pending(
                    async move { site.blocking(move |site| site.prune(keep)).await },
                )
            }
            Action::Verify => {
                let Verify { quick } = parse(&body)?;
                let depth = if quick { Depth::Quick } else { Depth::Full };
                HandlerResult::pending(async move {
                    let (disconnect_guard, is_gone) = disconnect_flag();
                    let verified = site.blocking(move |site| site.verify(depth, &is_gone)).await;
                    drop(disconnect_guard);
                    verified
                })
            }
            Action::Repair => {
                let request: Repair = parse(&body)?;
                HandlerResult::pending(async move {
                    let (disconnect_guard, is_gone) = disconnect_flag();
                    let repaired = site.blocking(move |site| site.repair(request, &is_gone)).await;
                    drop(disconnect_guard);
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
    ) -> Result<CleanUpResult, HttpError> {
        let pruned = site.blocking(move |site| site.clean_up(keep)).await?;
        // A separate task, so that it continues if the peer disconnects.
        let preparing = tokio::spawn(Arc::clone(&self).prepare_spare_slot(Arc::clone(&site)));
        let hook = site.hook_run(self.limits.hook_wait).await;
        // The process ends with its peer, so otherwise the slot would never be filled.
        if self.run_mode == RunMode::OnePeer {
            preparing.await.map_err(|_| HttpError::no_result())?;
        }
        Ok(CleanUpResult { pruned, hook })
    }

    /// Fills the spare slot for the next push.
    async fn prepare_spare_slot(self: Arc<Self>, site: Arc<SiteState>) {
        // Waits for the hook first: filling a slot holds the store's lock, which a failed hook
        // needs in order to record its failure.
        site.hook_run(self.limits.hook_wait).await;
        // If another client or process is working on the site, that work or the next clean-up fills
        // the slot.
        if let Err(refused) = site.blocking(|site| site.prepare_spare_slot()).await
            && !matches!(refused.protocol_error.kind, ErrorKind::Locked | ErrorKind::Busy)
        {
            let directory = site.settings.directory.display().to_string();
            let message =
                format!("its second slot is not filled: {}", refused.protocol_error.message);
            self.log.record(&LogRecord::SiteFailed { directory, message: peer_text(&message) });
        }
    }

    async fn activate(
        self: Arc<Self>,
        site: Arc<SiteState>,
        request: Activate,
    ) -> Result<Activated, HttpError> {
        let switch = move |site: &Arc<SiteState>| {
            // The switch and the start of the hook are one unit of work, because the peer may
            // disconnect at any moment, and a repeated request would find the release already
            // current.
            if let Activation::Switched(name) = site.activate(request)? {
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
        // Before the command starts: a clean-up that follows immediately must see that a hook is
        // running, not the result of the previous hook.
        site.hook_started(release);
        let ended = move |result| same.hook_ended(release, result);
        self.hooks.start(hook, switched, move || state.clear_pending_switch(), ended);
    }

    /// Runs maintenance on each site, immediately and then at intervals.
    pub(crate) async fn run_maintenance(self: Arc<Self>) {
        loop {
            for site in &self.sites {
                let done = site.blocking(|site| site.run_maintenance()).await;
                self.log_maintenance(site, done);
            }
            tokio::time::sleep(self.limits.maintenance_interval).await;
        }
    }

    fn log_maintenance(&self, site: &SiteState, done: Result<Pruned, HttpError>) {
        let directory = site.settings.directory.display().to_string();
        match done {
            Ok(Pruned { expired: 0, quarantines: 0, .. }) => {}
            Ok(Pruned { expired, quarantines, incoming_bytes, .. }) => {
                self.log.record(&LogRecord::Maintenance {
                    directory,
                    expired,
                    quarantines,
                    incoming_bytes,
                });
            }
            // If another process is working on the site, the next round does the maintenance.
            Err(refused)
                if matches!(refused.protocol_error.kind, ErrorKind::Locked | ErrorKind::Busy) => {}
            Err(refused) => {
                let message =
                    format!("its due maintenance failed: {}", refused.protocol_error.message);
                self.log.record(&LogRecord::SiteFailed { directory, message: peer_text(&message) });
            }
        }
    }

    /// Starts the hooks that an earlier receiver could not start because it was killed.
    pub(crate) fn run_missed_hooks(&self) {
        for site in &self.sites {
            if let Some(switched) = site.pending_switch() {
                self.start_hook(site, switched);
            }
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, HttpError> {
    serde_json::from_slice(body).map_err(|error| HttpError::malformed(error.to_string()))
}
