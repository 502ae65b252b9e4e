//! Fetches objects that a store lacks.

use std::error::Error;
use std::io::Read;

use crate::hash::ObjectId;
use crate::manifest::FileEntry;
use crate::store::StoreError;
use crate::store::open::LockedStore;
use crate::store::staging::copy::write_object;

/// Opens the content of objects that the store lacks.
pub trait Fetch: Sync {
    /// Called once, before any object is opened, with all objects that will be opened.
    fn announce(&self, objects: &[ObjectId]) {
        let _ = objects;
    }

    /// Opens the content of an object whose size is `bytes`.
    ///
    /// # Errors
    /// Fails if the content cannot be read.
    fn open(&self, object: &ObjectId, bytes: u64) -> Result<Box<dyn Read + Send>, FetchError>;
}

/// Why an object could not be opened.
pub type FetchError = Box<dyn Error + Send + Sync>;

impl<F: Fn(&ObjectId) -> Result<Box<dyn Read + Send>, FetchError> + Sync> Fetch for F {
    fn open(&self, object: &ObjectId, _: u64) -> Result<Box<dyn Read + Send>, FetchError> {
        self(object)
    }
}

/// The source of objects that the store lacks.
pub type FetchObject<'a> = dyn Fetch + 'a;

impl LockedStore<'_> {
    /// Fetches objects into the store. Each is synced before it gets its name.
    ///
    /// # Errors
    /// [`StoreError::Fetch`] lists all objects that could not be fetched. In that case, no fetched
    /// object is kept.
    pub(in crate::store) fn fetch_objects(
        &self,
        files: &[FileEntry],
        fetch: &FetchObject<'_>,
    ) -> Result<(), StoreError> {
        let tmp = &self.layout.tmp;
        let permissions = self.permissions()?;
        let mut missing = Vec::new();
        let mut why = None;
        if files.len() > 1 {
            fetch.announce(&files.iter().map(|file| file.object).collect::<Vec<_>>());
        }
        for file in files {
            let name = file.object.to_string();
            tmp.unlink_if_any(&name)?;
            let error = match fetch.open(&file.object, file.size) {
                Err(error) => error,
                Ok(content) => {
                    if write_object(file, permissions.file(file.exec), content, tmp, &name)? {
                        continue;
                    }
                    "the fetched content is not this object".into()
                }
            };
            missing.push(file.object);
            why.get_or_insert(error);
        }
        if let Some(source) = why {
            return Err(StoreError::Fetch { missing, source });
        }
        // Data before name: one sync for all fetched objects, then their renames.
        if !files.is_empty() {
            tmp.sync_file_system()?;
        }
        files
            .iter()
            .try_for_each(|file| self.adopt_object(&file.object, tmp, &file.object.to_string()))
    }
}
