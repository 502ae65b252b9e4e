//! A segment that is being written.

use std::fs::File;

use super::segment::{BlockRecord, KeptBase, ObjectRecord, Part, table_of};
use crate::fsx::{self, Dir, IoError};
use crate::hash::ObjectId;
use crate::pack::{Sketch, StoredFrame};

/// A piece of an object in a block that is to be kept.
#[derive(Debug)]
pub struct NewPart {
    /// The object.
    pub id: ObjectId,
    /// Bytes of the object.
    pub size: u64,
    /// Where the piece begins in it: 0 for the first one, the others follow in order.
    pub offset: u64,
    /// Bytes of the piece.
    pub length: u32,
    /// The object's sketch, if one was made.
    pub sketch: Sketch,
}

/// A segment that is being written; gone if it is not finished.
#[derive(Debug)]
pub struct Draft {
    dir: Dir,
    name: String,
    draft: String,
    file: File,
    end: u64,
    blocks: Vec<BlockRecord>,
    records: Vec<ObjectRecord>,
    is_kept: bool,
}

impl Draft {
    pub(super) fn new(dir: Dir, name: String, draft: String, file: File) -> Self {
        let (blocks, records) = (Vec::new(), Vec::new());
        Self { dir, name, draft, file, end: 0, blocks, records, is_kept: false }
    }

    /// Bytes of all frames so far.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        self.end
    }

    /// Adds a block that has these parts and builds on `bases`; blocks come in the order of their parts.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(
        &mut self,
        frame: StoredFrame<'_>,
        parts: impl IntoIterator<Item = NewPart>,
        bases: Vec<KeptBase>,
        depth: u32,
    ) -> Result<(), IoError> {
        let block = BlockRecord {
            at: self.end,
            frame_bytes: frame.bytes.len(),
            content_bytes: frame.content_bytes,
            is_packed: frame.is_packed,
            depth,
            digest: *blake3::hash(frame.bytes).as_bytes(),
            bases,
        };
        let number = self.push_block(block, frame.bytes)?;
        let mut start = 0;
        for part in parts {
            let here = Part { block: number, start, length: part.length };
            start += part.length;
            match self.records.last_mut().filter(|_| part.offset > 0) {
                Some(record) => {
                    record.parts.push(here);
                    record.sketch.merge(&part.sketch);
                }
                None => {
                    let NewPart { id, size, sketch, .. } = part;
                    self.records.push(ObjectRecord { id, size, sketch, parts: vec![here] });
                }
            }
        }
        Ok(())
    }

    /// Adds the frame of a block; answers its number.
    pub(super) fn push_block(&mut self, block: BlockRecord, frame: &[u8]) -> Result<u32, IoError> {
        fsx::write_at(&self.file, frame, self.end, || self.dir.join(&self.draft))?;
        let number = u32::try_from(self.blocks.len()).expect("a draft has less than 2^32 blocks");
        self.blocks.push(BlockRecord { at: self.end, ..block });
        self.end += frame.len() as u64;
        Ok(number)
    }

    pub(super) fn push_record(&mut self, record: ObjectRecord) {
        self.records.push(record);
    }

    /// Completes the segment.
    ///
    /// # Errors
    /// When it cannot be written; nothing remains of it then.
    pub fn finish(mut self) -> Result<(), IoError> {
        let table = table_of(&self.blocks, &self.records);
        fsx::write_at(&self.file, &table, self.end, || self.dir.join(&self.draft))?;
        self.dir.rename(&self.draft, &self.dir, &self.name)?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            // A left-over costs space only, until it is swept.
            self.dir.unlink_if_any(&self.draft).ok();
        }
    }
}
