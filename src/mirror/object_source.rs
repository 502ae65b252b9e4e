//! Sources of objects, and how many times a failed read is retried.

use std::io::Read;

use crate::hash::ObjectId;
use crate::mirror::{FetchRecords, SourceError};

/// How many times a failed read is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Never: another mirror may have the object.
    Once,
    /// A few times, until no data has arrived for as long as a connection attempt may take.
    Patient,
}

/// Opens the content of objects.
pub trait ObjectSource: Sync {
    /// Announces the objects that will be opened, so that the source can look them up together.
    fn announce(&self, objects: &[ObjectId]) {
        let _ = objects;
    }

    /// Opens the content of an object. The caller verifies its digest.
    ///
    /// # Errors
    /// Fails if no source has the object.
    fn object(&self, id: &ObjectId) -> Result<Box<dyn Read + Send>, SourceError>;
}

/// All content that can be used to repair a mirror.
pub trait RepairSource: ObjectSource + FetchRecords {}

impl<T: ObjectSource + FetchRecords> RepairSource for T {}
