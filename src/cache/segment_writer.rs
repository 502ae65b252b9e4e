//! A segment that is being written.

use std::fs::File;

use super::segment::{BlockRecord, CachedBase, ObjectRecord, Part, encode_table};
use crate::fsx::{self, Dir, IoError};
use crate::hash::ObjectId;
use crate::pack::{Sketch, StoredFrame};

/// A piece of an object in a block that is being added.
#[derive(Debug)]
pub struct NewPart {
    /// The object.
    pub id: ObjectId,
    /// Size of the object in bytes.
    pub size: u64,
    /// Where the piece begins in the object. The first piece of an object has offset 0, and the
    /// others follow in order.
    pub offset: u64,
    /// Length of the piece in bytes.
    pub length: u32,
    /// The object's sketch; empty if none was made.
    pub sketch: Sketch,
}

/// A segment that is being written. Dropping it before it is finished removes it.
#[derive(Debug)]
pub struct SegmentWriter {
    dir: Dir,
    name: String,
    draft_name: String,
    file: File,
    end: u64,
    blocks: Vec<BlockRecord>,
    records: Vec<ObjectRecord>,
    is_finished: bool,
}

impl SegmentWriter {
    pub(super) fn new(dir: Dir, name: String, draft_name: String, file: File) -> Self {
        let (blocks, records) = (Vec::new(), Vec::new());
        Self { dir, name, draft_name, file, end: 0, blocks, records, is_finished: false }
    }

    /// Total length of the frames so far, in bytes.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        self.end
    }

    /// Adds a block with these parts and `bases`. Blocks must be added in the order of their parts.
    ///
    /// # Errors
    /// Fails if the block cannot be written.
    pub fn add(
        &mut self,
        frame: StoredFrame<'_>,
        parts: impl IntoIterator<Item = NewPart>,
        bases: Vec<CachedBase>,
        depth: u32,
    ) -> Result<(), IoError> {
        let block = BlockRecord {
            at: self.end,
            frame_bytes: frame.bytes.len(),
            content_bytes: frame.content_bytes,
            is_encoded: frame.is_encoded,
            depth,
            digest: *blake3::hash(frame.bytes).as_bytes(),
            bases,
        };
        let number = self.push_block(block, frame.bytes)?;
        let mut start = 0;
        for part in parts {
            let here = Part { block: number, start, length: part.length };
            start += part.length;
            // A part that is not the start of an object continues the last object, because blocks
            // are added in the order of their parts.
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

    /// Writes the frame of a block and returns the block's number.
    pub(super) fn push_block(&mut self, block: BlockRecord, frame: &[u8]) -> Result<u32, IoError> {
        fsx::write_at(&self.file, frame, self.end, || self.dir.join(&self.draft_name))?;
        let number = u32::try_from(self.blocks.len()).expect("a draft has less than 2^32 blocks");
        self.blocks.push(BlockRecord { at: self.end, ..block });
        self.end += frame.len() as u64;
        Ok(number)
    }

    pub(super) fn push_record(&mut self, record: ObjectRecord) {
        self.records.push(record);
    }

    /// Completes the segment. It is not synced, because its loss costs only network traffic.
    ///
    /// # Errors
    /// Fails if the segment cannot be written. In that case, nothing of it remains.
    pub fn finish(mut self) -> Result<(), IoError> {
        // The table comes last, because its size and the frames are known only now. A truncated
        // file has no valid trailer, so no sync is needed.
        let table = encode_table(&self.blocks, &self.records);
        fsx::write_at(&self.file, &table, self.end, || self.dir.join(&self.draft_name))?;
        self.dir.rename(&self.draft_name, &self.dir, &self.name)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            // If this fails, the file only takes space until pruning removes it.
            self.dir.unlink_if_any(&self.draft_name).ok();
        }
    }
}
