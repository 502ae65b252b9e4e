//! How the difference of two manifests travels.
