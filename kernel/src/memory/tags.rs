//! The supply of boundary tags for the arenas: whole frames, accessed through the mapping of
//! physical memory.

use heap::vmem::TagPool;
use heap_x86_64::{PageLock, TagFrames};

use super::heap_memory::HeapMemory;

/// The supply of boundary tags of an arena.
pub type Tags = heap_x86_64::Tags<HeapMemory>;

/// The pool of boundary tags that all arenas share.
pub static TAGS: TagPool<PageLock, TagFrames<HeapMemory>> =
    TagPool::new(PageLock::new(), TagFrames::new(&HeapMemory));
