//! Purges a CDN: sends the changed URLs in batches of the size that the CDN accepts, until the CDN
//! has acknowledged them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::manifest::{ChangeKind, Diff};
use crate::web::{HttpClient, PostResponse, Secret, WebError, encode_path, is_encrypted_or_local};

/// The index page of a directory.
const INDEX_PAGE: &str = "index.html";
/// The pause after the first failed request; it doubles with each retry.
const INITIAL_BACKOFF: Duration = Duration::from_millis(500);
/// The longest pause, unless the CDN asks for a longer one.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How to purge a CDN.
#[derive(Debug, Clone)]
pub struct Purge {
    /// The HTTP client.
    pub web: HttpClient,
    /// The URL that the lists are posted to.
    pub endpoint: String,
    /// The authorization header and its value.
    pub header: Option<(String, Secret)>,
    /// The key of the list in the posted JSON object.
    pub key: String,
    /// Maximum number of URLs in a request.
    pub max_urls: usize,
    /// Maximum size of a request in bytes; a single URL is sent even if it is longer.
    pub max_bytes: usize,
    /// How long failed requests are repeated.
    pub retry_for: Duration,
}

/// The result of a purge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PurgeResult {
    /// The number of acknowledged URLs.
    pub urls: usize,
    /// The number of requests.
    pub requests: usize,
    /// URLs that were not acknowledged and must be sent again.
    pub left: Vec<String>,
    /// Why these URLs were not acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The URL paths at which visitors now get different content, percent-encoded, without the leading
/// `/`, in ascending order. The index page of a directory also adds the path of the directory. A
/// path that is only retired is still served, so it is not included.
#[must_use]
pub fn changed_url_paths(diff: &Diff) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut add = |path: &str| {
        let encoded = encode_path(path);
        if let Some(directory) =
            encoded.strip_suffix(INDEX_PAGE).filter(|rest| rest.is_empty() || rest.ends_with('/'))
        {
            paths.insert(directory.to_owned());
        }
        paths.insert(encoded);
    };
    for change in diff.changes.iter().filter(|change| change.kind != ChangeKind::Retired) {
        add(change.path.as_str());
        if let Some(from) = &change.from {
            add(from.as_str());
        }
    }
    paths
}

/// The URLs of these paths below each of the `bases`.
#[must_use]
pub fn urls_below(bases: &[String], paths: &BTreeSet<String>) -> Vec<String> {
    let below = |base: &String| {
        let base = base.trim_end_matches('/').to_owned();
        paths.iter().map(move |path| format!("{base}/{path}"))
    };
    bases.iter().flat_map(below).collect()
}

/// What to do after a request.
#[derive(Debug, PartialEq, Eq)]
enum PurgeAction {
    /// The request was accepted.
    Done,
    /// Send the URLs again in two halves.
    Split,
    /// Send the URLs again, after this pause if the CDN asked for one.
    Retry(Option<Duration>, String),
    /// Give up: the request would fail again.
    GiveUp(String),
}

fn next_action(answer: Result<PostResponse, WebError>, urls: usize) -> PurgeAction {
    match answer {
        Ok(PostResponse { status: 200..300, .. }) => PurgeAction::Done,
        Ok(PostResponse { status: 413, .. }) if urls > 1 => PurgeAction::Split,
        Ok(PostResponse { status: status @ (408 | 425 | 429 | 500..600), retry_after }) => {
            PurgeAction::Retry(retry_after, WebError::Status { status }.to_string())
        }
        Ok(PostResponse { status, .. }) => {
            PurgeAction::GiveUp(WebError::Status { status }.to_string())
        }
        Err(error @ (WebError::BadUrl | WebError::Unencrypted)) => {
            PurgeAction::GiveUp(error.to_string())
        }
        Err(error) => PurgeAction::Retry(None, error.to_string()),
    }
}

impl Purge {
    /// Sends `urls` in batches until all are acknowledged or the time limit has passed. `pause`
    /// waits, and returns whether to continue.
    pub fn send(&self, urls: Vec<String>, pause: &dyn Fn(Duration) -> bool) -> PurgeResult {
        let end = Instant::now() + self.retry_for;
        let mut purged = PurgeResult::default();
        let mut batches = self.batches(urls);
        // Reversed, because batches are taken from the end.
        batches.reverse();
        let mut backoff = INITIAL_BACKOFF;
        while let Some(mut batch) = batches.pop() {
            purged.requests += 1;
            match next_action(self.post(&batch), batch.len()) {
                PurgeAction::Done => {
                    purged.urls += batch.len();
                    backoff = INITIAL_BACKOFF;
                }
                PurgeAction::Split => {
                    batches.push(batch.split_off(batch.len() / 2));
                    batches.push(batch);
                }
                PurgeAction::Retry(asked, why) => {
                    let delay = asked.unwrap_or(backoff);
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                    batches.push(batch);
                    if Instant::now() + delay > end || !pause(delay) {
                        purged.error = Some(why);
                        break;
                    }
                }
                PurgeAction::GiveUp(why) => {
                    purged.error = Some(why);
                    purged.left.append(&mut batch);
                }
            }
        }
        purged.left.extend(batches.into_iter().rev().flatten());
        purged
    }

    fn post(&self, batch: &[String]) -> Result<PostResponse, WebError> {
        if self.header.is_some() && !is_encrypted_or_local(&self.endpoint) {
            return Err(WebError::Unencrypted);
        }
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(self.header.as_ref().map(|(name, value)| (name.as_str(), value.reveal())));
        self.web.post(&self.endpoint, &headers, json!({ &self.key: batch }).to_string().as_bytes())
    }

    fn batches(&self, urls: Vec<String>) -> Vec<Vec<String>> {
        // The JSON syntax around the list, and around each URL in it.
        let empty = self.key.len() + 8;
        let (mut batches, mut bytes) = (Vec::<Vec<String>>::new(), 0);
        for url in urls {
            let more = url.len() + 3;
            match batches.last_mut() {
                Some(batch) if batch.len() < self.max_urls && bytes + more <= self.max_bytes => {
                    batch.push(url);
                    bytes += more;
                }
                _ => {
                    batches.push(vec![url]);
                    bytes = empty + more;
                }
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::ObjectId;
    use crate::manifest::{Entry, EntryKind, FileEntry, ManifestError, diff};
    use crate::tree_path::TreePath;

    fn entries(files: &[(&str, &str, Option<u64>)]) -> Vec<Result<Entry, ManifestError>> {
        let entry = |(path, content, until): &(&str, &str, Option<u64>)| {
            let file = FileEntry {
                object: ObjectId::of(content.as_bytes()),
                size: 1,
                mtime: 1,
                exec: false,
            };
            Ok(Entry {
                path: TreePath::new(path).unwrap(),
                kind: EntryKind::File(file),
                until: *until,
            })
        };
        files.iter().map(entry).collect()
    }

    #[test]
    fn every_url_with_an_error_response_is_named() {
        let old = entries(&[
            ("a.js", "1", None),
            ("b/index.html", "1", None),
            ("gone", "g", None),
            ("moved", "m", None),
            ("same", "s", None),
        ]);
        let new = entries(&[
            ("a.js", "1", Some(9)),
            ("b/index.html", "2", None),
            ("index.html", "i", None),
            ("to é", "m", None),
            ("myindex.html", "y", None),
            ("same", "s", None),
        ]);
        let mut new: Vec<_> = new;
        new.sort_by(|a, b| a.as_ref().unwrap().path.cmp(&b.as_ref().unwrap().path));
        let diff = diff(old.into_iter(), new.into_iter()).unwrap();
        let found: Vec<String> = changed_url_paths(&diff).into_iter().collect();
        assert_eq!(
            found,
            [
                "",
                "b/",
                "b/index.html",
                "gone",
                "index.html",
                "moved",
                "myindex.html",
                "to%20%C3%A9"
            ]
        );
        let bases = ["https://a.example".to_owned(), "https://b.example/x/".to_owned()];
        let found = urls_below(&bases, &found[..2].iter().cloned().collect());
        assert_eq!(
            found,
            [
                "https://a.example/",
                "https://a.example/b/",
                "https://b.example/x/",
                "https://b.example/x/b/"
            ]
        );
    }

    fn purge(max_urls: usize, max_bytes: usize) -> Purge {
        let (endpoint, key) = ("http://127.0.0.1:1/".to_owned(), "files".to_owned());
        Purge {
            web: HttpClient::new(Duration::from_secs(1)),
            endpoint,
            header: None,
            key,
            max_urls,
            max_bytes,
            retry_for: Duration::ZERO,
        }
    }

    #[test]
    fn batches_respect_the_limits() {
        let urls: Vec<String> =
            (0..10).map(|number| format!("https://a.example/{number}")).collect();
        let sizes =
            |purge: Purge| purge.batches(urls.clone()).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(purge(4, 100_000)), [4, 4, 2]);
        assert_eq!(sizes(purge(100, 80)), [3, 3, 3, 1]);
        assert_eq!(sizes(purge(100, 1)), [1; 10]);
        for batch in purge(100, 80).batches(urls.clone()) {
            assert!(json!({ "files": batch }).to_string().len() <= 80);
        }
        let left = purge(4, 100_000).send(urls.clone(), &|_| true);
        assert_eq!(
            (left.urls, left.requests, left.left == urls, left.error.is_some()),
            (0, 1, true, true)
        );
    }

    #[test]
    fn each_response_decides_the_retry() {
        let posted = |status, retry_after| Ok(PostResponse { status, retry_after });
        assert_eq!(next_action(posted(204, None), 3), PurgeAction::Done);
        assert_eq!(next_action(posted(413, None), 2), PurgeAction::Split);
        assert!(matches!(next_action(posted(413, None), 1), PurgeAction::GiveUp(_)));
        let seconds = Some(Duration::from_secs(9));
        let action = next_action(posted(429, seconds), 3);
        assert!(matches!(action, PurgeAction::Retry(asked, _) if asked == seconds));
        assert!(matches!(next_action(posted(503, None), 3), PurgeAction::Retry(None, _)));
        assert!(matches!(next_action(posted(403, None), 3), PurgeAction::GiveUp(_)));
        let action = next_action(posted(302, None), 3);
        assert!(matches!(action, PurgeAction::GiveUp(why) if why.contains("redirect")));
        assert!(matches!(
            next_action(Err(WebError::Timeout { limit: Duration::ZERO }), 3),
            PurgeAction::Retry(None, _)
        ));
    }
}
