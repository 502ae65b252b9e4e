//! Reads parts of objects from a mirror, many in one request.

use std::io::{self, Read};

use crate::mirror::attempt::{AttemptError, CONNECT_TIMEOUT};
use crate::mirror::http::Session;
use crate::mirror::http::body::Body;
use crate::mirror::http::client::{Method, Request, map_read_error};
use crate::mirror::http::limits::{CancelCheck, RetryState};
use crate::mirror::http::response_json::ResponseLimit;
use crate::mirror::transport_error::TransportError;
use crate::mirror::{Effort, MirrorError};
use crate::protocol::{self, Action, ObjectPart, Resource};

/// Reads `parts`; see [`crate::mirror::Mirror::read_parts`]. Parts that were received before the
/// connection broke are not requested again.
pub(super) fn read(
    session: &Session,
    parts: &[ObjectPart],
    effort: Effort,
    stop: CancelCheck<'_>,
) -> Result<Vec<Option<Vec<u8>>>, MirrorError> {
    let retry = session.retry_state(stop);
    let mut retry = match effort {
        Effort::Once => retry.single_attempt(),
        Effort::Patient => retry.with_budget(CONNECT_TIMEOUT),
    };
    let mut read = Vec::with_capacity(parts.len());
    while read.len() < parts.len() {
        let left = &parts[read.len()..];
        request_parts(
            session,
            &left[..left.len().min(protocol::MAX_OBJECT_PARTS)],
            &mut read,
            &mut retry,
        )?;
    }
    Ok(read)
}

/// Makes one request and reads as many parts as it can get.
fn request_parts(
    session: &Session,
    parts: &[ObjectPart],
    read: &mut Vec<Option<Vec<u8>>>,
    retry: &mut RetryState<'_>,
) -> Result<(), MirrorError> {
    let question: Vec<u8> = parts.iter().flat_map(|part| part.to_bytes()).collect();
    let body = Body::Parts(vec![&question]);
    let request =
        Request::new(Method::Post, Resource::Action(Action::Objects), body, ResponseLimit::SMALL);
    let base = session.base(retry)?;
    let mut reader = session.client.open(&base, &request, retry)?.into_body().into_reader();
    for part in parts {
        match read_next_part(&mut reader, part) {
            Ok(bytes) => {
                read.push(bytes);
                retry.progress();
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let what = "the response with object parts is malformed".to_owned();
                return retry.retry_or_fail(AttemptError::final_(
                    TransportError::Foreign { status: 200, what }.into(),
                ));
            }
            Err(error) => return retry.retry_or_fail(map_read_error(error)),
        }
    }
    // ureq reuses a connection only after the response has been read to its end.
    io::copy(&mut reader.take(1), &mut io::sink()).ok();
    Ok(())
}

/// Reads the next part of a response; `None` if the mirror does not have it.
fn read_next_part(reader: &mut impl Read, part: &ObjectPart) -> io::Result<Option<Vec<u8>>> {
    let mut is_here = [0];
    reader.read_exact(&mut is_here)?;
    match is_here {
        [0] => Ok(None),
        [1] => {
            // Not allocated in advance, so that memory grows with the data that arrives.
            let mut bytes = Vec::new();
            let count = reader.take(part.length).read_to_end(&mut bytes)?;
            if count as u64 == part.length {
                Ok(Some(bytes))
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
