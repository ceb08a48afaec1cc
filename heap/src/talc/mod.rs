//! The boundary-tag allocator.
