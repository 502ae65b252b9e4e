//! Parts of objects of a mirror: many with one request.

use std::io::{self, Read};

use crate::mirror::http::Wired;
use crate::mirror::http::access::CONNECT;
use crate::mirror::http::answer::AnswerLimit;
use crate::mirror::http::body::Body;
use crate::mirror::http::client::{Request, Verb, lost};
use crate::mirror::http::pace::{Patience, Stop, Trouble};
use crate::mirror::way::WayError;
use crate::mirror::{Effort, MirrorError};
use crate::wire::{self, Action, ObjectPart, Resource};

/// Reads `parts`; see [`crate::mirror::Mirror::read_parts`]. What came before the connection broke is
/// not asked for again.
pub(super) fn read(
    wired: &Wired,
    parts: &[ObjectPart],
    effort: Effort,
    stop: Stop<'_>,
) -> Result<Vec<Option<Vec<u8>>>, MirrorError> {
    let patience = wired.patience(stop);
    let mut patience = match effort {
        Effort::Once => patience.once(),
        Effort::Patient => patience.within(CONNECT),
    };
    let mut read = Vec::with_capacity(parts.len());
    while read.len() < parts.len() {
        let left = &parts[read.len()..];
        ask(wired, &left[..left.len().min(wire::MAX_PARTS)], &mut read, &mut patience)?;
    }
    Ok(read)
}

/// Makes one request, and takes as much of the answer as comes.
fn ask(
    wired: &Wired,
    parts: &[ObjectPart],
    read: &mut Vec<Option<Vec<u8>>>,
    patience: &mut Patience<'_>,
) -> Result<(), MirrorError> {
    let question: Vec<u8> = parts.iter().flat_map(|part| part.to_bytes()).collect();
    let body = Body::Parts(vec![&question]);
    let request = Request::new(Verb::Post, Resource::Action(Action::Objects), body, AnswerLimit::SMALL);
    let base = wired.base(patience)?;
    let mut reader = wired.client.open(&base, &request, patience)?.into_body().into_reader();
    for part in parts {
        match next(&mut reader, part) {
            Ok(bytes) => {
                read.push(bytes);
                patience.progress();
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let what = "an answer about objects that is none".to_owned();
                return patience.next(Trouble::final_(WayError::Foreign { status: 200, what }.into()));
            }
            Err(error) => return patience.next(lost(error)),
        }
    }
    // A connection whose answer was read to its end is used again.
    io::copy(&mut reader.take(1), &mut io::sink()).ok();
    Ok(())
}

/// Reads the next part of an answer; `None` if the mirror does not have it.
fn next(reader: &mut impl Read, part: &ObjectPart) -> io::Result<Option<Vec<u8>>> {
    let mut is_here = [0];
    reader.read_exact(&mut is_here)?;
    match is_here {
        [0] => Ok(None),
        [1] => {
            let mut bytes = Vec::new();
            let count = reader.take(part.length).read_to_end(&mut bytes)?;
            if count as u64 == part.length { Ok(Some(bytes)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
