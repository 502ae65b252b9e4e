//! Sources of objects, and how often a source that fails is asked again.

use std::io::Read;

use crate::hash::ObjectId;
use crate::mirror::{FetchRecords, SourceError};

/// How often something is tried that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Once: another mirror may do it instead.
    Once,
    /// A few times, until nothing has come through for as long as a connection may take.
    Patient,
}

/// Opens the content of objects.
pub trait ObjectSource: Sync {
    /// Tells which objects will be opened, so that they are looked for all at once.
    fn announce(&self, objects: &[ObjectId]) {
        let _ = objects;
    }

    /// Opens the content of an object, unchecked: the reader compares it with its id.
    ///
    /// # Errors
    /// When no source has it.
    fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, SourceError>;
}

/// Everything that a mirror can be repaired from.
pub trait RepairSource: ObjectSource + FetchRecords {}

impl<T: ObjectSource + FetchRecords> RepairSource for T {}
