//! `POST v1/stage` and `PUT v1/packs/…`: reads packs from a connection into a staging
//! transaction.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::error_kind::ErrorKind;
use crate::fsx::{Context as _, IoError};
use crate::hash::{BundleKey, PackId};
use crate::pack::MAX_PACK_BYTES;
use crate::protocol::{
    Done, MAX_CHANGE_BYTES, MAX_HEAD_BYTES, MAX_PACKS_BYTES, PackHead, StageHead, StageResult,
};
use crate::receiver::http::error::HttpError;
use crate::receiver::http::handler_result::{HandlerResult, disconnect_flag};
use crate::receiver::http::request_body::RequestBody;
use crate::receiver::sites::open_stage::{OpenStage, StorePackError};
use crate::receiver::sites::share::Permit;
use crate::receiver::sites::site::{SiteState, StageRequestHead};
use crate::release::Release;
use crate::store::{Store, StoredChange};

/// Packs up to this size, in bytes, stay in memory until they are decoded. Larger packs stay in
/// memory only if enough is left; otherwise they wait on disk.
const SMALL_BYTES: u64 = 256 * 1024;
/// Manifest changes up to this size, in bytes, are read into memory. Larger ones are written to a
/// file.
// A stage keeps its change while it is open; `OPEN_STAGE_BYTES` in `site.rs` includes this size.
const SMALL_CHANGE_BYTES: u64 = 64 * 1024;
/// If a stage has received nothing for this long, another push of the same content may replace it.
const TAKEOVER_IDLE: Duration = Duration::from_secs(2);
/// Bytes of the length field before the head.
const LENGTH_BYTES: u64 = 4;

/// Reads the head of a stage. If the body's length is known, its parts must add up to it.
async fn read_head(site: &SiteState, body: &mut RequestBody) -> Result<StageHead, HttpError> {
    let limit = LENGTH_BYTES + u64::from(MAX_HEAD_BYTES) + MAX_CHANGE_BYTES + MAX_PACKS_BYTES;
    let length = body.check_length_or_chunked(limit)?;
    // All sizes come from the peer, so each is subtracted with a check.
    let short = || HttpError::malformed("the body of a stage is shorter than its parts");
    let rest =
        length.map(|length| length.checked_sub(LENGTH_BYTES).ok_or_else(short)).transpose()?;
    let head_bytes = body.read(LENGTH_BYTES).await?;
    let head_bytes = u32::from_be_bytes(head_bytes.try_into().map_err(|_| short())?);
    if head_bytes > MAX_HEAD_BYTES {
        return Err(HttpError::too_large(format!(
            "the head has {head_bytes} bytes, but at most {MAX_HEAD_BYTES} are accepted"
        )));
    }
    let rest =
        rest.map(|rest| rest.checked_sub(u64::from(head_bytes)).ok_or_else(short)).transpose()?;
    let _memory = site.share.reserve_body(u64::from(head_bytes))?;
    let head = body.read(u64::from(head_bytes)).await?;
    let head: StageHead = serde_json::from_slice(&head)
        .map_err(|error| HttpError::malformed(format!("the head of a stage: {error}")))?;
    if head.change_bytes > MAX_CHANGE_BYTES {
        return Err(HttpError::too_large("the manifest change is too large"));
    }
    let fits =
        // Packs need at least the end marker, so the change is shorter than the rest.
        |rest| if head.has_packs { head.change_bytes < rest } else { head.change_bytes == rest };
    if !rest.is_none_or(fits) {
        return Err(HttpError::malformed("the parts of the stage do not add up to its body"));
    }
    Ok(head)
}

/// Reads a manifest change. Returns it with its BLAKE3 hash. A large change is written to a file.
async fn read_change(
    site: &Arc<SiteState>,
    release: &Release,
    head: &StageHead,
    body: &mut RequestBody,
) -> Result<(StoredChange, blake3::Hash), HttpError> {
    let (key, bytes) = (head.key, head.change_bytes);
    if bytes <= SMALL_CHANGE_BYTES {
        let change = body.read(bytes).await?;
        let digest = blake3::hash(&change);
        return Ok((StoredChange::Memory(change.into()), digest));
    }
    let name = release.site.clone();
    let file =
        Arc::new(site.blocking(move |site| site.create_spool_file(&name, &key, bytes)).await?);
    let digest = body.spool(bytes, &file, 0).await?;
    Ok((StoredChange::File { file, bytes }, digest))
}

fn read_spool(file: &File, length: usize) -> Result<Vec<u8>, IoError> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).context("read", || PathBuf::from("a spool file"))?;
    Ok(bytes)
}

/// Handles `POST v1/stage`.
pub(crate) async fn stage(
    site: &Arc<SiteState>,
    body: &mut RequestBody,
) -> Result<HandlerResult, HttpError> {
    let head = read_head(site, body).await?;
    let release = Release::parse(head.release.as_bytes())
        .map_err(|error| HttpError::malformed(error.to_string()))?;
    // Checked from the head alone, before any of the change or of a pack is read.
    site.check_release(&release, head.change_bytes)?;
    if head.change_bytes == 0 {
        let open_stage = site
            .open_stages
            .find(&head.key)
            .filter(|open_stage| open_stage.is_of_release(release.name()));
        let open_stage = open_stage.ok_or_else(no_open_stage)?;
        let site = Arc::clone(site);
        if head.has_packs {
            return Err(HttpError::malformed("a stage with packs must have a manifest change"));
        }
        body.end().await?;
        return Ok(HandlerResult::pending(async move {
            finish_stage(&site, open_stage, head.is_whole).await
        }));
    }
    let (change, digest) = read_change(site, &release, &head, body).await?;
    let (key, name) = (head.key, release.name());
    let order = StageRequestHead { release, key, base: head.base, change, digest };
    let site = Arc::clone(site);
    if !head.has_packs {
        body.end().await?;
        // Reading back the content of an interrupted push may take a long time.
        return Ok(HandlerResult::pending(async move {
            match open(&site, order).await? {
                Some(open_stage) => finish_stage(&site, open_stage, head.is_whole).await,
                None => Ok(StageResult::Staged { resent: 0 }),
            }
        }));
    }
    let Some(open_stage) = open(&site, order).await? else {
        body.drain().await;
        return Ok(HandlerResult::ready(StageResult::Staged { resent: 0 }));
    };
    // No reference to the stage is kept while the packs arrive, so that a slow body does not keep
    // an abandoned stage open.
    drop(open_stage);
    let is_whole = receive_packs(&site, key, None, body).await?;
    body.end().await?;
    // After a pause in the body, another push of the same content may have replaced the stage.
    let open_stage = site
        .open_stages
        .find(&key)
        .filter(|open_stage| open_stage.is_of_release(name))
        .ok_or_else(no_open_stage)?;
    Ok(HandlerResult::pending(async move { finish_stage(&site, open_stage, is_whole).await }))
}

/// Returns the stage for this request: the open one, or a new one that replaces an idle stage with
/// the same key. Returns `None` if the release is already staged.
async fn open(
    site: &Arc<SiteState>,
    order: StageRequestHead,
) -> Result<Option<Arc<OpenStage>>, HttpError> {
    // Held until the new stage is in the table, because a second request with this key would open
    // it again.
    let _turn = site.opening.lock().await;
    let key = order.key;
    if let Some(open_stage) = site.open_stages.peek(&key) {
        if open_stage.is_of(&order.release, &order.digest) {
            open_stage.touch();
            return Ok(Some(open_stage));
        }
        // Without this check, two pushes of the same content would replace each other's stage
        // forever.
        if !open_stage.is_idle(TAKEOVER_IDLE) {
            return Err(HttpError::locked("another push of the same content is in progress"));
        }
        // The stage belongs to a push that broke off. Its content will be found again on disk.
        drop(open_stage);
        site.open_stages.close(&key);
    }
    if !site.open_stages.evict_if_full() {
        return Err(HttpError::busy("too many stages are open here"));
    }
    let (disconnect_guard, is_gone) = disconnect_flag();
    let open_stage =
        site.blocking(move |site| site.open_stage(&order, &is_gone)).await?.map(Arc::new);
    drop(disconnect_guard);
    if let Some(open_stage) = &open_stage {
        site.open_stages.insert(open_stage);
    }
    Ok(open_stage)
}

/// Completes the release if all packs were sent. Otherwise returns the packs that the stage holds.
async fn finish_stage(
    site: &Arc<SiteState>,
    open_stage: Arc<OpenStage>,
    is_whole: bool,
) -> Result<StageResult, HttpError> {
    if !is_whole {
        return Ok(StageResult::Held(open_stage.held()));
    }
    site.blocking(move |site| site.finish(&open_stage)).await
}

/// The bytes of a pack that is waiting for a decoder.
enum PackContent {
    Memory(Vec<u8>, Option<Permit>),
    Spool { file: Arc<File>, length: usize },
}

impl PackContent {
    async fn receive(
        site: &SiteState,
        body: &mut RequestBody,
        length: u64,
        store: &Arc<Store>,
    ) -> Result<Self, HttpError> {
        let size = usize::try_from(length).ok().filter(|size| *size <= MAX_PACK_BYTES);
        let size = size.ok_or_else(|| HttpError::too_large("a pack has at most 32 MiB"))?;
        // Small packs need no permit: connections and decoders bound their number.
        let permit = (length > SMALL_BYTES).then(|| site.share.reserve_pack(length)).flatten();
        if length <= SMALL_BYTES || permit.is_some() {
            return Ok(Self::Memory(body.read(length).await?, permit));
        }
        let store = Arc::clone(store);
        let file = tokio::task::spawn_blocking(move || store.create_spool_file())
            .await
            .map_err(|_| HttpError::no_result())?;
        let file = Arc::new(file?);
        body.spool(length, &file, 0).await?;
        Ok(Self::Spool { file, length: size })
    }

    /// Passes the bytes to `take` and returns its result.
    fn with<T>(self, take: impl FnOnce(&[u8]) -> T) -> Result<T, HttpError> {
        match self {
            Self::Memory(bytes, permit) => {
                let result = take(&bytes);
                drop((bytes, permit));
                Ok(result)
            }
            Self::Spool { file, length } => {
                let bytes = read_spool(&file, length)?;
                Ok(take(&bytes))
            }
        }
    }
}

/// Decodes a pack into its stage when a decoder is free.
async fn decode_pack(
    site: &Arc<SiteState>,
    open_stage: Arc<OpenStage>,
    id: PackId,
    content: PackContent,
) -> Result<(), HttpError> {
    let same = Arc::clone(site);
    // The work continues if the peer disconnects, so the pack is there when the peer comes back.
    let work = move || match content.with(|bytes| open_stage.store_pack(&id, bytes))? {
        Ok(()) => Ok(()),
        Err(StorePackError::Pack(refused)) => Err(refused),
        Err(StorePackError::Stage(refused)) => {
            same.open_stages.end(&open_stage);
            Err(refused)
        }
    };
    site.share.decode(work).await
}

/// Packs from one body that are being decoded while further packs arrive.
#[derive(Default)]
struct DecodeQueue(VecDeque<JoinHandle<Result<(), HttpError>>>);

impl DecodeQueue {
    /// Starts decoding a pack. If the queue already has as many packs as there are decoders, first
    /// waits for the oldest one.
    async fn push(
        &mut self,
        site: &Arc<SiteState>,
        open_stage: Arc<OpenStage>,
        id: PackId,
        content: PackContent,
    ) -> Result<(), HttpError> {
        // Without this bound, a fast connection would fill memory or the disk with waiting packs.
        if self.0.len() >= site.share.decoders() {
            self.wait_for_one().await?;
        }
        let site = Arc::clone(site);
        self.0.push_back(tokio::spawn(
            async move { decode_pack(&site, open_stage, id, content).await },
        ));
        Ok(())
    }

    async fn wait_for_one(&mut self) -> Result<(), HttpError> {
        match self.0.pop_front() {
            Some(taking) => taking.await.map_err(|_| HttpError::no_result())?,
            None => Ok(()),
        }
    }

    /// Waits for all packs and returns the first error.
    async fn finish(mut self) -> Result<(), HttpError> {
        let mut all = Ok(());
        while !self.0.is_empty() {
            all = all.and(self.wait_for_one().await);
        }
        all
    }
}

fn no_open_stage() -> HttpError {
    HttpError::unknown("no stage with this key is open; stage again to learn what the receiver has")
}

/// Keeps the stage open as long as a body for it is arriving.
fn keep_open(site: &Arc<SiteState>, key: BundleKey, body: &mut RequestBody) {
    let site = Arc::clone(site);
    body.on_data(move || site.open_stages.touch(&key));
}

/// Handles `PUT v1/packs/<key>/<id>`.
pub(crate) async fn put_pack(
    site: &Arc<SiteState>,
    (key, id): (BundleKey, PackId),
    body: &mut RequestBody,
) -> Result<Done, HttpError> {
    let length = body.check_length(MAX_PACK_BYTES as u64)?;
    let store = {
        let open_stage = site.open_stages.find(&key).ok_or_else(no_open_stage)?;
        if open_stage.holds(&id) {
            body.drain().await;
            return Ok(Done {});
        }
        Arc::clone(&open_stage.store)
    };
    keep_open(site, key, body);
    let content = PackContent::receive(site, body, length, &store).await?;
    // Looked up again, so that a slow body does not keep an abandoned stage open.
    let open_stage = site.open_stages.find(&key).ok_or_else(no_open_stage)?;
    decode_pack(site, open_stage, id, content).await?;
    Ok(Done {})
}

/// Handles `PUT v1/packs/<key>`. Packs are decoded while further packs arrive.
pub(crate) async fn put_packs(
    site: &Arc<SiteState>,
    key: BundleKey,
    body: &mut RequestBody,
) -> Result<Done, HttpError> {
    let length = body.check_length(MAX_PACKS_BYTES)?;
    // Fails early, before any of the body is read.
    site.open_stages.find(&key).ok_or_else(no_open_stage)?;
    receive_packs(site, key, Some(length), body).await?;
    Ok(Done {})
}

/// Reads a sequence of packs: exactly `length` bytes, or up to an end marker if `length` is `None`.
/// Returns whether the end marker declares the release complete. Without an end marker, returns
/// `false`.
async fn receive_packs(
    site: &Arc<SiteState>,
    key: BundleKey,
    length: Option<u64>,
    body: &mut RequestBody,
) -> Result<bool, HttpError> {
    keep_open(site, key, body);
    let mut decodes = DecodeQueue::default();
    let read = async {
        // A body of unknown length is bounded too: its packs total at most 64 MiB.
        let mut left = length.unwrap_or(MAX_PACKS_BYTES);
        while left > 0 || length.is_none() {
            let wrong = || HttpError::malformed("the packs do not add up to the body");
            left = left.checked_sub(PackHead::BYTES as u64).ok_or_else(wrong)?;
            let head = body.read(PackHead::BYTES as u64).await?;
            let (id, bytes) =
                match PackHead::parse(head.as_slice().try_into().map_err(|_| wrong())?) {
                    Some(PackHead::Pack { id, bytes }) => (id, u64::from(bytes)),
                    Some(PackHead::End { is_whole }) if length.is_none() => return Ok(is_whole),
                    _ => return Err(wrong()),
                };
            left = left.checked_sub(bytes).ok_or_else(wrong)?;
            // The stage is looked up for each pack, so that a slow body does not keep an abandoned
            // stage open.
            let store = {
                let open_stage = site.open_stages.find(&key).ok_or_else(no_open_stage)?;
                (!open_stage.holds(&id)).then(|| Arc::clone(&open_stage.store))
            };
            let Some(store) = store else {
                body.skip(bytes).await?;
                continue;
            };
            let content = PackContent::receive(site, body, bytes, &store).await?;
            let open_stage = site.open_stages.find(&key).ok_or_else(no_open_stage)?;
            decodes.push(site, open_stage, id, content).await?;
        }
        Ok(false)
    };
    let read = read.await;
    // This is done even after an error: a pack that has arrived completely is stored and need not
    // be sent again.
    let taken = decodes.finish().await;
    match read {
        // A failed pack closes the stage, and the pack's error explains more than "no stage is
        // open".
        Err(refused) if refused.protocol_error.kind == ErrorKind::Unknown => {
            taken.and(Err(refused))
        }
        read => read.and_then(|is_whole| taken.map(|()| is_whole)),
    }
}
