//! Set-up shared by the tests of `store`.

use tempfile::TempDir;

use crate::store::Store;
use crate::tree_path::Site;

/// A new store for the site `docs`, at `www` in a directory that is removed after the test.
pub(crate) fn empty_store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store =
        Store::open_or_create(&dir.path().join("www"), &Site::new("docs").unwrap()).unwrap();
    (dir, store)
}
