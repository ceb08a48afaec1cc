//! The part of the allocator that belongs to one CPU.
//!
//! ```text
//!     current, one per class        partial lists, one per class
//!     ┌──────────────┐              ┌───────┐   ┌───────┐
//!     │ 64 bytes ────┼──> slab      │ 64 ───┼──>│ slab  ├──> …
//!     └──────────────┘              └───────┘   └───────┘
//!          │    ^                        ^ │
//!          │    └──── its turn ──────────┼─┘      exhausted: full slabs are in no list and have
//!          └─ exhausted ─> full slabs ───┘        no owner, until one of their blocks is freed
//!                           first free: the slab is this CPU's
//! ```
//!
//! Only code on that CPU uses the part, inside [`Cpus::with`](super::Cpus::with).

use super::counts::Counts;
use super::list::{PARTIAL, SlabList};
use super::shared::{Shared, SharedGuard};
use super::size_class::{CLASSES, GRANULE, GRANULES, Granules, block_size, granules_of};
use super::slab::{Block, Ownership, Slab};

/// The number of slabs without a used block that a CPU keeps, for blocks that come and go.
pub(super) const MAX_IDLE: usize = 3;

/// The number of freed blocks that wait, on the CPU that has freed them, for another CPU's slab.
pub(super) const BATCH: usize = 16;

/// The number of partial slabs of a class that a CPU keeps for itself, beside the current one, if
/// it is not the only CPU.
const MAX_PARTIAL: u32 = 8;

/// Where a [`Local`] is.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// The number of the part, and so the owner of its slabs.
    pub(super) index: u16,
    /// Whether this is the only part.
    pub(super) alone: bool,
    pub(super) counts: &'a Counts,
    pub(super) shared: &'a Shared,
}

impl<'a> Context<'a> {
    /// Takes the lock of the shared lists.
    pub(super) fn lock(self) -> SharedGuard<'a> {
        self.counts.count_lock();
        self.shared.lock()
    }

    /// Hands over a slab whose page goes back to the allocator behind the slabs.
    fn release(self, slab: Slab, released: &mut Released) {
        self.lock().unregister(slab);
        slab.links(PARTIAL).next.set(released.first);
        released.first = Some(slab);
    }
}

/// Slabs without used blocks, whose pages go back to the allocator behind the slabs.
#[derive(Default)]
pub(super) struct Released {
    first: Option<Slab>,
}

impl Iterator for Released {
    type Item = Slab;

    fn next(&mut self) -> Option<Slab> {
        let slab = self.first?;
        self.first = slab.links(PARTIAL).next.get();
        Some(slab)
    }
}

pub(super) struct Local {
    /// The slab that blocks of each size come from, by granules.
    current: [Slab; GRANULES],
    /// Slabs in which blocks are free, apart from the current ones.
    partial: [SlabList; CLASSES],
    /// Blocks of other CPUs' slabs that were freed here.
    batch: [Option<Block>; BATCH],
    batch_len: usize,
    /// The number of current slabs that are [idle](super::slab::Header::is_idle).
    idle: usize,
}

impl Local {
    pub(super) const fn new() -> Self {
        Self {
            current: [Slab::none(); GRANULES],
            partial: [const { SlabList::new() }; CLASSES],
            batch: [None; BATCH],
            batch_len: 0,
            idle: 0,
        }
    }

    /// The fast path of allocation: takes a free block of the current slab.
    #[inline]
    pub(super) fn take(&self, granules: Granules) -> Option<Block> {
        self.current[granules.get()].take()
    }

    fn current_of(&self, class: usize) -> Slab {
        self.current[block_size(class) / GRANULE]
    }

    fn set_current(&mut self, class: usize, slab: Slab) {
        for granules in granules_of(class) {
            self.current[granules] = slab;
        }
    }

    /// Takes a block after the fast path has found none: from the current slab's untouched memory,
    /// from what other CPUs have freed there, or from another slab that becomes the current one.
    /// Returns `None` if there is no such slab.
    pub(super) fn refill(&mut self, granules: Granules, context: Context<'_>) -> Option<Block> {
        let class = granules.class();
        let current = self.current[granules.get()];
        if !current.is_none() {
            let block = take_more(current).or_else(|| self.retire(current, context));
            if block.is_some() {
                return block;
            }
        }
        let slab = match self.partial[class].pop() {
            Some(slab) => slab,
            None => context.shared.take(class, context)?,
        };
        self.set_current(class, slab);
        take_more(slab)
    }

    /// Makes an exhausted current slab a full one. Returns a block, and keeps the slab, if other
    /// CPUs have freed some meanwhile.
    fn retire(&mut self, slab: Slab, context: Context<'_>) -> Option<Block> {
        // Once the slab has no owner, another CPU may free all its blocks, and then its page is
        // gone.
        let class = slab.class();
        self.unset_idle(slab);
        while !slab.disown(Ownership::Full, context.alone) {
            slab.collect();
            if let Some(block) = slab.take() {
                return Some(block);
            }
        }
        self.set_current(class, Slab::none());
        None
    }

    /// Makes a page the current slab. The class has none, and none is to be found.
    pub(super) fn install(&mut self, slab: Slab, context: Context<'_>) -> Option<Block> {
        context.counts.count_new_slab();
        context.lock().register(slab);
        self.set_current(slab.class(), slab);
        take_more(slab)
    }

    /// Takes a block of a larger class, because no page is left.
    pub(super) fn take_larger(
        &mut self,
        granules: Granules,
        context: Context<'_>,
    ) -> Option<Block> {
        (granules.class() + 1..CLASSES).find_map(|class| {
            let larger = Granules::largest_of(class);
            self.take(larger).or_else(|| self.refill(larger, context))
        })
    }

    /// Decides what becomes of a slab whose last used block was freed here.
    fn emptied(&mut self, slab: Slab, context: Context<'_>, released: &mut Released) {
        if slab != self.current_of(slab.class()) {
            self.partial[slab.class()].remove(slab);
            context.release(slab, released);
            return;
        }
        slab.set_idle(true);
        self.idle += 1;
        if self.idle > MAX_IDLE {
            self.release_idle(context, released);
        }
    }

    /// Stops counting idle slabs that are in use again. If too many are left, releases the one with
    /// the highest address: what is high in a heap keeps the memory below it from going back.
    fn release_idle(&mut self, context: Context<'_>, released: &mut Released) {
        let mut highest: Option<Slab> = None;
        for class in 0..CLASSES {
            let slab = self.current_of(class);
            if slab.is_none() || !slab.is_idle() {
                continue;
            }
            if slab.used() > 0 {
                self.unset_idle(slab);
            } else if highest.is_none_or(|highest| highest.page() < slab.page()) {
                highest = Some(slab);
            }
        }
        if let Some(slab) = highest.filter(|_| self.idle > MAX_IDLE) {
            self.unset_idle(slab);
            self.set_current(slab.class(), Slab::none());
            context.release(slab, released);
        }
    }

    fn unset_idle(&mut self, slab: Slab) {
        if slab.is_idle() {
            slab.set_idle(false);
            self.idle -= 1;
        }
    }

    /// Frees a block of a slab that any CPU may own.
    ///
    /// # Safety
    /// The block is one of a slab of this allocator, and nothing uses it.
    pub(super) unsafe fn put(
        &mut self,
        block: Block,
        context: Context<'_>,
        released: &mut Released,
    ) {
        // SAFETY: the slab has a block in use, this one, and so exists.
        let slab = unsafe { Slab::of(block) };
        // The frequent cases of `deliver_to`, for one block. (Calling it instead costs one more
        // instruction for each operation of `python` and `json`.)
        if slab.is_owned_by(context.index) {
            // SAFETY: nothing uses the block.
            if unsafe { slab.put(block) } {
                self.emptied(slab, context, released);
            }
            return;
        }
        if slab.ownership() == Ownership::Full && slab.adopt(context.index, context.alone) {
            // SAFETY: nothing uses the block.
            unsafe { slab.put(block) };
            self.list_partial(slab, context, released);
            return;
        }
        context.counts.note_in_batch(block_size(slab.class()));
        self.batch[self.batch_len] = Some(block);
        self.batch_len += 1;
        if self.batch_len == BATCH {
            // SAFETY: the batch has only blocks that were freed.
            unsafe { self.deliver(context, released) };
        }
    }

    /// Lists a slab of which the first block was freed.
    fn list_partial(&mut self, slab: Slab, context: Context<'_>, released: &mut Released) {
        let list = &mut self.partial[slab.class()];
        list.push(slab);
        if !context.alone && list.len() > MAX_PARTIAL {
            if let Some(oldest) = list.pop_last() {
                share(oldest, context, released);
            }
        }
    }

    /// Brings the blocks of the batch to their slabs.
    ///
    /// # Safety
    /// The blocks of the batch belong to slabs of this allocator, and nothing uses them.
    unsafe fn deliver(&mut self, context: Context<'_>, released: &mut Released) {
        context.counts.count_batch();
        let blocks = core::mem::take(&mut self.batch);
        self.batch_len = 0;
        let mut blocks = blocks.into_iter().flatten().peekable();
        while let Some(last) = blocks.next() {
            // SAFETY: the slab has a block in use, this one, and so exists.
            let slab = unsafe { Slab::of(last) };
            let mut first = last;
            // SAFETY: each block of the batch has a slab that exists.
            while let Some(block) = blocks.next_if(|&it| unsafe { Slab::of(it) } == slab) {
                // SAFETY: nothing uses the block, which is aligned and has room for a pointer.
                unsafe { block.cast::<*mut u8>().write(first.as_ptr()) };
                first = block;
            }
            // SAFETY: these blocks are linked, belong to the slab, and nothing uses them.
            unsafe { self.deliver_to(slab, first, last, context, released) };
        }
    }

    /// Brings linked blocks to their slab, which any CPU may own.
    ///
    /// # Safety
    /// `first` to `last` are blocks of the slab, linked, that nothing uses.
    unsafe fn deliver_to(
        &mut self,
        slab: Slab,
        first: Block,
        last: Block,
        context: Context<'_>,
        released: &mut Released,
    ) {
        loop {
            if slab.is_owned_by(context.index) {
                // SAFETY: the blocks are linked and not in use.
                if unsafe { put_all(slab, first, last) } {
                    self.emptied(slab, context, released);
                }
                return;
            }
            match slab.ownership() {
                Ownership::Owned => {
                    // SAFETY: the blocks are linked and not in use.
                    if unsafe { slab.give_remotely(first, last) } {
                        context.counts.count_delivery();
                        return;
                    }
                }
                Ownership::Full => {
                    if slab.adopt(context.index, context.alone) {
                        // SAFETY: the blocks are linked and not in use.
                        if unsafe { put_all(slab, first, last) } {
                            context.release(slab, released);
                        } else {
                            self.list_partial(slab, context, released);
                        }
                        return;
                    }
                }
                Ownership::Shared => {
                    let mut guard = context.lock();
                    if slab.ownership() != Ownership::Shared {
                        continue;
                    }
                    // SAFETY: the blocks are linked and not in use.
                    if unsafe { put_all(slab, first, last) } {
                        guard.remove(slab);
                        drop(guard);
                        context.release(slab, released);
                    }
                    return;
                }
            }
        }
    }

    /// Gives back all slabs without used blocks. If there are other parts, shares the others, so
    /// that this part has no slab.
    ///
    /// # Safety
    /// The blocks of the batch belong to slabs of this allocator, and nothing uses them.
    pub(super) unsafe fn reap(&mut self, context: Context<'_>, released: &mut Released) {
        // SAFETY: the batch has only blocks that were freed.
        unsafe { self.deliver(context, released) };
        for class in 0..CLASSES {
            let slab = self.current_of(class);
            if !slab.is_none() {
                self.unset_idle(slab);
                if slab.used() == 0 {
                    self.set_current(class, Slab::none());
                    context.release(slab, released);
                } else if !context.alone {
                    self.set_current(class, Slab::none());
                    share(slab, context, released);
                }
            }
            if !context.alone {
                while let Some(slab) = self.partial[class].pop() {
                    share(slab, context, released);
                }
            }
        }
    }

    /// Returns the slabs that this part owns.
    pub(super) fn slabs(&self) -> impl Iterator<Item = Slab> {
        (0..CLASSES).flat_map(|class| {
            let current = Some(self.current_of(class)).filter(|slab| !slab.is_none());
            current.into_iter().chain(self.partial[class].iter())
        })
    }

    pub(super) fn partial_lists(&self) -> &[SlabList; CLASSES] {
        &self.partial
    }
}

/// Takes a block of a slab that this CPU owns, if necessary of memory that was never used, or from
/// what other CPUs have freed.
fn take_more(slab: Slab) -> Option<Block> {
    slab.take().or_else(|| {
        let found = slab.carve() || slab.collect() > 0;
        if found { slab.take() } else { None }
    })
}

/// Puts linked blocks back. Returns whether no block of the slab is in use afterwards, and the slab
/// is not counted as idle.
///
/// # Safety
/// `first` to `last` are blocks of the slab, linked, that nothing uses. The caller owns the slab,
/// or has the lock under which it is shared.
unsafe fn put_all(slab: Slab, first: Block, last: Block) -> bool {
    let mut block = first;
    while block != last {
        // SAFETY: a block that is not the last begins with the address of the next.
        let next = unsafe { block.cast::<Block>().read() };
        // SAFETY: nothing uses the block.
        unsafe { slab.put(block) };
        block = next;
    }
    // SAFETY: nothing uses the block.
    unsafe { slab.put(block) }
}

/// Makes a slab that this CPU owns available to others: shares it, or leaves it as full, or
/// releases it.
fn share(slab: Slab, context: Context<'_>, released: &mut Released) {
    loop {
        slab.collect();
        if slab.used() == 0 {
            return context.release(slab, released);
        }
        let shared = if slab.available() == 0 {
            slab.disown(Ownership::Full, context.alone)
        } else {
            context.lock().share(slab)
        };
        if shared {
            return;
        }
    }
}
