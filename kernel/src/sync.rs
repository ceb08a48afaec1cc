//! Locks that interrupt handlers may take: those of `heap-x86_64`, which the heap takes too.

#[cfg(all(target_os = "none", feature = "masked-time"))]
pub use heap_x86_64::sync::masked_time;
pub use heap_x86_64::sync::{InterruptLock, InterruptMutex, InterruptMutexGuard};
