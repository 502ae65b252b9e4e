//! What a receiver does that is told in one message.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::release::ReleaseName;
use crate::serve::handler::{Handler, Stay, not_here};
use crate::serve::inbox::Inbox;
use crate::serve::log::{Record, text};
use crate::serve::reaction::{Reaction, presence};
use crate::serve::refused::Refused;
use crate::serve::site::{SiteState, Switched};
use crate::store::{Depth, Pruned};
use crate::tree_path::Site;
use crate::wire::{Abandon, Action, Activate, Activated, Done, Keep, Repair, Settled, Verify};

impl Handler {
    /// Does what is told in one message.
    pub(super) async fn act(
        self: &Arc<Self>,
        site: &Arc<SiteState>,
        action: Action,
        inbox: &mut Inbox,
    ) -> Result<Reaction, Refused> {
        let length = inbox.check(action.most_bytes())?;
        let memory = site.share.reserve_body(length)?;
        let body = inbox.read(length).await?;
        let this = Arc::clone(self);
        let site = Arc::clone(site);
        Ok(match action {
            Action::Stage | Action::Objects => return Err(not_here()),
            Action::Holds => Reaction::later(async move {
                let (asker, is_gone) = presence();
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
                let request: Activate = parse(&body)?;
                Reaction::later(async move { this.activate(site, request).await })
            }
            Action::Abandon => {
                let Abandon { release } = parse(&body)?;
                Reaction::later(async move { site.blocking(move |site| site.abandon(release).map(|()| Done {})).await })
            }
            Action::Settle => {
                let Keep { keep } = parse(&body)?;
                Reaction::later(async move { this.settle(site, keep).await })
            }
            Action::Prune => {
                let Keep { keep } = parse(&body)?;
                Reaction::later(async move { site.blocking(move |site| site.prune(keep)).await })
            }
            Action::Verify => {
                let Verify { quick } = parse(&body)?;
                let depth = if quick { Depth::Quick } else { Depth::Full };
                Reaction::later(async move {
                    let (asker, is_gone) = presence();
                    let verified = site.blocking(move |site| site.verify(depth, &is_gone)).await;
                    drop(asker);
                    verified
                })
            }
            Action::Repair => {
                let request: Repair = parse(&body)?;
                Reaction::later(async move {
                    let (asker, is_gone) = presence();
                    let repaired = site.blocking(move |site| site.repair(request, &is_gone)).await;
                    drop(asker);
                    repaired
                })
            }
        })
    }

    /// Tidies up, waits some time for the command after the switch, and makes ready for the next push: nobody waits
    /// for the last, unless the receiver ends with its peer.
    async fn settle(self: Arc<Self>, site: Arc<SiteState>, keep: usize) -> Result<Settled, Refused> {
        let pruned = site.blocking(move |site| site.settle(keep)).await?;
        // A task of its own: it goes on when the one who asked goes.
        let preparing = tokio::spawn(Arc::clone(&self).prepare(Arc::clone(&site)));
        let hook = site.hook_run(self.limits.hook).await;
        if self.stay == Stay::Peer {
            preparing.await.map_err(|_| Refused::no_result())?;
        }
        Ok(Settled { pruned, hook })
    }

    /// Makes ready for the next push.
    async fn prepare(self: Arc<Self>, site: Arc<SiteState>) {
        // Filling a slot holds the lock of the store, which a command that fails needs for its note.
        site.hook_run(self.limits.hook).await;
        // Where somebody else is at work, that fills it, or the next settling does.
        if let Err(refused) = site.blocking(|site| site.prepare()).await
            && !matches!(&*refused.refusal.kind, "locked" | "busy")
        {
            let directory = site.settings.directory.display().to_string();
            let message = format!("its second slot is not filled: {}", refused.refusal.message);
            self.log.record(&Record::SiteFailed { directory, message: text(&message) });
        }
    }

    async fn activate(self: Arc<Self>, site: Arc<SiteState>, request: Activate) -> Result<Activated, Refused> {
        let switch = move |site: &Arc<SiteState>| {
            // All in one: the peer may go at any moment, and whoever asks again finds it switched.
            if let Switched::Now(name) = site.activate(request)? {
                self.follow(site, (name, request.release));
            }
            Ok(Activated { store: Some(site.store()?.id()) })
        };
        site.blocking(switch).await
    }

    /// Begins what follows when a release has become current.
    fn follow(&self, site: &Arc<SiteState>, switched: (Site, ReleaseName)) {
        let Some(hook) = &site.settings.post_activate else { return };
        let (state, same) = (Arc::clone(site), Arc::clone(site));
        let release = switched.1;
        site.hook_started(release);
        let ended = move |result| same.hook_ended(release, result);
        self.hooks.start(hook, switched, &self.log, move || state.clear_switch(), ended);
    }

    /// Looks at each site at once and then at intervals: what is due by then is done.
    pub(super) async fn keep_up(self: Arc<Self>) {
        loop {
            for site in &self.sites {
                let done = site.blocking(|site| site.upkeep()).await;
                self.log_upkeep(site, done);
            }
            tokio::time::sleep(self.limits.upkeep).await;
        }
    }

    fn log_upkeep(&self, site: &SiteState, done: Result<Pruned, Refused>) {
        let directory = site.settings.directory.display().to_string();
        match done {
            Ok(Pruned { expired: 0, quarantines: 0, .. }) => {}
            Ok(Pruned { expired, quarantines, incoming_bytes, .. }) => {
                self.log.record(&Record::Upkeep { directory, expired, quarantines, incoming_bytes });
            }
            // Where another process is at work, the next look does it.
            Err(refused) if matches!(&*refused.refusal.kind, "locked" | "busy") => {}
            Err(refused) => {
                let message = format!("what is due there was not done: {}", refused.refusal.message);
                self.log.record(&Record::SiteFailed { directory, message: text(&message) });
            }
        }
    }

    /// Begins what an earlier receiver was killed before.
    pub(super) fn catch_up(&self) {
        for site in &self.sites {
            if let Some(switched) = site.noted_switch() {
                self.follow(site, switched);
            }
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused::malformed(error.to_string()))
}
