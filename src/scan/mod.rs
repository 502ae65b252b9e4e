//! The scan of a content tree.
