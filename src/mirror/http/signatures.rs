//! Reads block signatures from a mirror, for many objects with one request.

use std::io::{self, BufReader};

use crate::mirror::MirrorError;
use crate::mirror::attempt::{AttemptError, CONNECT_TIMEOUT};
use crate::mirror::http::Session;
use crate::mirror::http::body::Body;
use crate::mirror::http::client::{Method, Request, map_read_error};
use crate::mirror::http::limits::{CancelCheck, RetryState};
use crate::mirror::http::response_json::ResponseLimit;
use crate::mirror::transport_error::TransportError;
use crate::pack::{Signature, SignatureShape};
use crate::protocol::{
    Action, MAX_SIGNED_BYTES, MAX_SIGNED_OBJECTS, Resource, SignatureRequest, read_signature,
};

/// Sends `question`; see [`crate::mirror::Mirror::signatures`]. Signatures that were received
/// before the connection broke are not requested again.
pub(super) fn read(
    session: &Session,
    question: &SignatureRequest,
    sizes: &[u64],
    stop: CancelCheck<'_>,
) -> Result<Vec<Option<Signature>>, MirrorError> {
    let mut retry = session.retry_state(stop).with_budget(CONNECT_TIMEOUT);
    let mut read = Vec::with_capacity(sizes.len());
    while read.len() < sizes.len() {
        let left = &sizes[read.len()..];
        let sizes = &left[..batch_len(left)];
        let asked = question.files[read.len()..][..sizes.len()].to_vec();
        let question = SignatureRequest { files: asked, ..*question };
        request_signatures(session, (&question, sizes), &mut read, &mut retry)?;
    }
    Ok(read)
}

/// How many of the objects with these sizes fit into one request.
fn batch_len(sizes: &[u64]) -> usize {
    let mut bytes = 0u64;
    let fits = |size: &&u64| {
        bytes = bytes.saturating_add(**size);
        bytes <= MAX_SIGNED_BYTES
    };
    sizes.iter().take(MAX_SIGNED_OBJECTS).take_while(fits).count().max(1)
}

/// Makes one request and reads as many signatures as it can get.
fn request_signatures(
    session: &Session,
    (question, sizes): (&SignatureRequest, &[u64]),
    read: &mut Vec<Option<Signature>>,
    retry: &mut RetryState<'_>,
) -> Result<(), MirrorError> {
    let encoded = question.encode();
    let (resource, body) = (Resource::Action(Action::Signatures), Body::Parts(vec![&encoded]));
    let request = Request::new(Method::Post, resource, body, ResponseLimit::SMALL);
    let base = session.base(retry)?;
    let response = session.client.open(&base, &request, retry)?;
    let mut reader = BufReader::new(response.into_body().into_reader());
    for ((_, new_bits), size) in question.files.iter().zip(sizes) {
        match read_signature(&mut reader, SignatureShape::new(*size, *new_bits)) {
            Ok(signature) => {
                read.push(signature);
                retry.progress();
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let what = "the response with block signatures is malformed".to_owned();
                return retry.retry_or_fail(AttemptError::final_(
                    TransportError::Foreign { status: 200, what }.into(),
                ));
            }
            Err(error) => return retry.retry_or_fail(map_read_error(error)),
        }
    }
    // ureq reuses a connection only after the response has been read to its end. No more than one
    // byte is read, in case the response is endless.
    io::copy(&mut io::Read::take(reader, 1), &mut io::sink()).ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_limited_in_number_and_size_of_objects() {
        assert_eq!(batch_len(&[1; MAX_SIGNED_OBJECTS + 1]), MAX_SIGNED_OBJECTS);
        assert_eq!(batch_len(&[MAX_SIGNED_BYTES / 2, MAX_SIGNED_BYTES / 2, 1]), 2);
        assert_eq!(batch_len(&[MAX_SIGNED_BYTES + 1, 1]), 1);
        assert_eq!(batch_len(&[1, u64::MAX]), 1);
    }
}
