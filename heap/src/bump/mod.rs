//! The allocator before there is an allocator.
