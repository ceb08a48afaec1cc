//! Where a Talc heap gets its memory.
