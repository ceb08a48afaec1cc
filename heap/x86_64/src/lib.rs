//! The heap of the crate [`heap`] for a kernel with paging: it needs a mapper and a frame allocator
//! of the crate [`x86_64`], and comes and goes in pages.
//!
//! ```text
//!     Heap                  the #[global_allocator], with all that follows
//!       SlabHeap            slabs of small blocks, Talc for larger ones; interrupt handlers use it
//!         vmem::Arena       pages, which its source maps
//!           MappedPages     ranges of addresses with frames, and a guard page after each
//!             Memory        yours: frames and page tables. MapperMemory is one
//! ```
//!
//! [`Heap`] shows the few lines that a kernel needs. A kernel with layers of its own takes them one
//! by one.
//!
//! Without the feature `smp`, the crate is for kernels that run on one CPU. It compiles for the
//! host too, for documentation and unit tests: there nothing masks interrupts.
//!
//! | feature | adds |
//! |---|---|
//! | `hardened` | detection of misuse and corruption by [`heap`]; takes memory and time |
//! | `smp` | up to 16 CPUs, and the module `smp`, which they need |
//! | `masked-time` | `sync::masked_time`, a histogram of how long interrupts are masked |
#![no_std]
#![deny(missing_docs)]
#![warn(clippy::multiple_unsafe_ops_per_block)]

#[cfg(test)]
extern crate std;

mod cpu_local;
mod frame_list;
#[cfg(test)]
mod host_memory;
mod kernel_heap;
#[cfg_attr(any(unix, windows), path = "machine/host.rs")]
#[cfg_attr(not(any(unix, windows)), path = "machine/bare.rs")]
mod machine;
mod mapped_pages;
mod mapper_memory;
mod memory;
mod page_set;
mod page_table;
mod restored_pages;
mod slab_heap;
#[cfg(feature = "smp")]
pub mod smp;
pub mod sync;
mod tags;

pub use self::frame_list::FrameList;
pub use self::kernel_heap::Heap;
pub use self::mapped_pages::{MappedPages, PageArena, PageArenaView};
pub use self::mapper_memory::MapperMemory;
pub use self::memory::{Memory, PAGE_SIZE, Purpose};
pub use self::page_set::BATCH;
pub use self::slab_heap::{InterruptPageHeap, SlabHeap};
pub use self::tags::{PageLock, TagFrames, Tags};

/// Returns the time-stamp counter of the CPU that runs this code. Under QEMU's `-icount shift=0` it
/// counts instructions.
#[inline]
pub fn time_stamp() -> u64 {
    // SAFETY: every CPU with 64-bit mode has the instruction `rdtsc`.
    unsafe { core::arch::x86_64::_rdtsc() }
}
