//! An actor: one thread that uses the heap and the arena, and records its blocks and pages.

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering::Relaxed;

use heap::source::DrainError;
use heap::vmem::Error;

use super::injection::Call;
use super::interrupt::{Moment, interrupting};
use super::situations::Situation;
use super::tenant::Tenant;
use super::verify::{assert_settled, verify};
use super::{OPERATIONS, PAGE, SITUATIONS, Stack};
use crate::common::programs::tell;
use crate::common::random::{Choices, Random};
use crate::common::shadow::{Block, Shadow};

/// The deepest nesting of interrupts.
const MOST_NESTED: u32 = 2;

/// The operation of an actor that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doing {
    Nothing,
    Allocating,
    Freeing,
    Reallocating,
    Trimming,
    Draining,
    /// Giving back pages inside the heaps.
    Punching,
    /// Using pages of the arena, as another user of it.
    Renting,
}

/// One thread with its blocks and pages.
pub(crate) struct Actor<'s, 'a> {
    pub stack: &'s Stack<'s, 'a>,
    pub shadow: RefCell<Shadow>,
    pub tenant: RefCell<Tenant>,
    pub doing: Cell<Doing>,
    /// The operation that was interrupted, and at which call.
    pub interrupted: Cell<Option<(Doing, Moment)>>,
    depth: Cell<u32>,
    /// How often interrupts changed the heap.
    pub interrupts: Cell<u64>,
    /// The seed of the choices in interrupts.
    seed: Cell<u64>,
}

// SAFETY: only the thread that owns the actor accesses the blocks.
unsafe impl Send for Actor<'_, '_> {}

impl<'s, 'a> Actor<'s, 'a> {
    pub(crate) fn new(stack: &'s Stack<'s, 'a>) -> Self {
        Self {
            stack,
            shadow: RefCell::new(Shadow::new()),
            tenant: RefCell::default(),
            doing: Cell::new(Doing::Nothing),
            interrupted: Cell::new(None),
            depth: Cell::new(0),
            interrupts: Cell::new(0),
            seed: Cell::new(0),
        }
    }

    /// Returns whether no call of this actor is under way.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.depth.get() == 0 && self.doing.get() == Doing::Nothing
    }

    /// Does one operation, which interrupts may interrupt, and verifies everything.
    pub(crate) fn step(&self, choices: &mut impl Choices) {
        let seed = choices.below(1 << 16) as u64;
        self.seed.set(seed);
        self.stack.window.injection.begin_step(seed);
        interrupting(&|moment| self.interrupt(moment), || {
            match choices.below(32) {
                0 => self.stack.window.injection.change(choices),
                1 => self.change_limits(choices),
                2 => self.make_holes(choices),
                3 if choices.chance(2) => self.use_up_tags(choices),
                _ => self.act(choices),
            }
        });
        verify(self);
    }

    fn change_limits(&self, choices: &mut impl Choices) {
        let window = self.stack.window;
        match choices.below(4) {
            0 => window.limit(choices.below(window.pages() + 1)),
            1 => {
                self.during(Doing::Renting, || self.stack.arena.trim());
            }
            2 => window.injection.cease(),
            _ => window.limit(window.pages()),
        }
    }

    /// Uses up the cached tags of the arena while pages wait to be drained.
    fn use_up_tags(&self, choices: &mut impl Choices) {
        let (tenant, arena) = (&self.tenant, self.stack.arena);
        self.stack.window.injection.withhold_tags();
        self.trim();
        self.during(Doing::Renting, || {
            for _ in 0..12 {
                Tenant::allocate(tenant, arena, choices);
            }
            Tenant::shrink_all(tenant, arena, choices);
        });
        self.drain();
    }

    /// Allocates, frees or gives back. Interrupts do the same.
    fn act(&self, choices: &mut impl Choices) {
        OPERATIONS.fetch_add(1, Relaxed);
        match choices.below(32) {
            0..12 => self.allocate(choices),
            12..19 => self.free(choices),
            19..23 => self.reallocate(choices),
            23 => self.trim(),
            24..26 => self.drain(),
            26 => self.punch(choices),
            27 => {
                for _ in 0..choices.below(24) {
                    self.free(choices);
                }
            }
            _ => self.rent(choices),
        }
    }

    /// Handles an interrupt of a call: does something, or nothing.
    fn interrupt(&self, moment: Moment) {
        let seed = self.seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seed.set(seed);
        let mut random = Random::new(seed);
        let (depth, doing) = (self.depth.get(), self.doing.get());
        // Verification is not interrupted. Locks are released often, so most of these do nothing.
        let is_seldom = moment.call == Call::Unlock && !random.chance(32);
        if depth == MOST_NESTED || doing == Doing::Nothing || is_seldom {
            return;
        }
        self.doing.set(Doing::Nothing);
        self.depth.set(depth + 1);
        let outer = self.interrupted.replace(Some((doing, moment)));
        self.interrupt_now(
            doing == Doing::Draining && moment.call == Call::Tag,
            &mut random,
        );
        self.interrupted.set(outer);
        self.depth.set(depth);
        self.doing.set(doing);
    }

    /// Does something, or nothing. While a drain waits for a tag, which is rare, always does
    /// something.
    fn interrupt_now(&self, drain_waits: bool, random: &mut Random) {
        // Interrupts are masked while the lock of the heap is held. The arena may be used then.
        let is_masked = self.stack.heap.try_lock().is_none();
        if is_masked {
            if random.chance(8) {
                self.rent(random);
            }
            return;
        }
        if !drain_waits && random.chance(2) {
            return;
        }
        self.interrupts.set(self.interrupts.get() + 1);
        if drain_waits && random.chance(2) {
            for _ in 0..random.below(24) {
                self.free(random);
            }
            self.trim();
        } else {
            for _ in 0..1 + random.below(3) {
                self.act(random);
            }
        }
    }

    fn during<T>(&self, doing: Doing, work: impl FnOnce() -> T) -> T {
        let before = self.doing.replace(doing);
        let result = work();
        self.doing.set(before);
        result
    }

    fn rent(&self, choices: &mut impl Choices) {
        self.note_rent();
        let (tenant, arena) = (&self.tenant, self.stack.arena);
        self.during(Doing::Renting, || match choices.below(8) {
            0..3 => Tenant::allocate(tenant, arena, choices),
            3..5 => Tenant::free(tenant, arena, choices),
            5 => Tenant::shrink_all(tenant, arena, choices),
            _ => Tenant::resize(tenant, arena, choices),
        });
    }

    fn size(&self, choices: &mut impl Choices) -> usize {
        let most = match choices.below(8) {
            0..3 => {
                let usual = choices.pick(&self.stack.usual);
                return usual + choices.below(1 + usual / 16);
            }
            3 | 4 => 1 << choices.below(10),
            5 | 6 => 1 << choices.below(14),
            _ => 1 << choices.below(18),
        };
        1 + choices.below(most)
    }

    fn allocate(&self, choices: &mut impl Choices) {
        let size = self.size(choices);
        let align = 1
            << if choices.chance(3) {
                choices.below(17)
            } else {
                3
            };
        let layout = Layout::from_size_align(size, align).unwrap();
        let zeroed = choices.chance(4);
        if self.block(layout, zeroed).is_none() && choices.chance(4) {
            // The kernel does the same.
            self.trim();
            self.punch(choices);
            self.drain();
            let found = self.block(layout, zeroed).is_some();
            SITUATIONS.note_if(self.stack.alone && found, Situation::FoundAfterTrim);
        }
    }

    /// Allocates a block, and records it. Returns its address.
    pub(crate) fn block(&self, layout: Layout, zeroed: bool) -> Option<*mut u8> {
        let block = self.attempt(layout, zeroed);
        if block.is_null() {
            return None;
        }
        self.shadow.borrow_mut().insert(block, layout);
        Some(block)
    }

    fn attempt(&self, layout: Layout, zeroed: bool) -> *mut u8 {
        let heap = self.stack.allocator();
        let before = self.snapshot();
        // SAFETY: the size is not zero.
        let block = self.during(Doing::Allocating, || unsafe {
            if zeroed {
                heap.alloc_zeroed(layout)
            } else {
                heap.alloc(layout)
            }
        });
        self.note_allocation(before, layout, block);
        if zeroed && !block.is_null() {
            // SAFETY: the block is this large, and initialised.
            let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            if let Some(at) = bytes.iter().position(|&byte| byte != 0) {
                let part = &bytes[at..bytes.len().min(at + 16)];
                panic!("not zero from byte {at} on: {part:x?}, {layout:?} at {block:p}");
            }
        }
        block
    }

    /// Takes a random block out of the record, so that nothing is borrowed during the operation.
    fn take(&self, choices: &mut impl Choices) -> Option<Block> {
        let mut random = Random::new(choices.below(1 << 16) as u64);
        self.shadow.borrow_mut().take(&mut random)
    }

    fn free(&self, choices: &mut impl Choices) {
        let block = self.take(choices);
        if let Some(block) = block {
            self.free_block(block);
        }
    }

    pub(crate) fn free_block(&self, block: Block) {
        let before = self.snapshot();
        // SAFETY: the block is live.
        self.during(Doing::Freeing, || unsafe {
            self.stack.allocator().dealloc(block.ptr, block.layout)
        });
        self.note_free(before, block.ptr.addr());
    }

    fn reallocate(&self, choices: &mut impl Choices) {
        let Some(block) = self.take(choices) else {
            return;
        };
        let new_size = match choices.below(4) {
            0 => 1 + choices.below(block.layout.size()),
            1 => self.size(choices),
            _ => block.layout.size() + self.size(choices),
        };
        let before = self.snapshot();
        // SAFETY: the block is live, and the size neither zero nor large.
        let moved = self.during(Doing::Reallocating, || unsafe {
            self.stack
                .allocator()
                .realloc(block.ptr, block.layout, new_size)
        });
        let mut shadow = self.shadow.borrow_mut();
        if moved.is_null() {
            shadow.put_back(block, block.ptr, block.layout.size());
        } else {
            shadow.put_back(block, moved, new_size);
        }
        drop(shadow);
        self.note_resize(before, &block, moved, new_size);
    }

    pub(crate) fn trim(&self) {
        tell(format_args!("trim"));
        let before = self.snapshot();
        self.during(Doing::Trimming, || {
            if let Some(slabs) = &self.stack.slabs {
                slabs.reap();
            }
            self.stack.heap.lock().trim();
        });
        self.note_trim(before);
    }

    /// Gives back pages inside the heaps, all of them or those that have been free for a while.
    pub(crate) fn punch(&self, choices: &mut impl Choices) {
        let all = choices.chance(2);
        tell(format_args!("{}", if all { "punch" } else { "decay" }));
        let before = self.snapshot();
        let interrupts = self.interrupts.get();
        let bytes = self.during(Doing::Punching, || {
            if all {
                self.stack.heap.punch()
            } else {
                self.stack.heap.decay()
            }
        });
        tell(format_args!("{bytes:#x} bytes went back"));
        if self.stack.alone && interrupts == self.interrupts.get() {
            self.note_punch(before, bytes, all);
        }
    }

    pub(crate) fn drain(&self) {
        tell(format_args!("drain"));
        let before = self.snapshot();
        let interrupts = self.interrupts.get();
        let result = self.during(Doing::Draining, || self.stack.heap.drain());
        tell(format_args!("drain gave back {result:x?}"));
        // Pages that the window refuses stay in the arena, so only a missing tag can fail a drain.
        let lacks_tag = |refusal: &DrainError| refusal.error == Error::AllocatorError;
        assert!(result.as_ref().err().is_none_or(lacks_tag), "{result:?}");
        // An interrupt may queue more after the drain has found the queue empty.
        let is_alone = self.stack.alone && self.is_at_rest();
        if is_alone && result.is_ok() && interrupts == self.interrupts.get() {
            assert_settled(self);
        }
        self.note_drain(before, result);
    }

    /// Returns how often fault injection has refused this kind of call.
    pub(crate) fn refused(&self, call: Call) -> usize {
        self.stack.window.injection.refused(call)
    }

    /// Returns the bytes of arena pages that this actor has.
    pub(crate) fn rented(&self) -> usize {
        self.tenant.borrow().bytes()
    }

    /// Frees everything, or forgets the blocks.
    pub(crate) fn finish(&self, forget_blocks: bool) {
        self.shadow.borrow().assert_all_intact();
        self.tenant.borrow().assert_all_intact();
        let mut random = Random::new(0);
        while self.rented() > 0 {
            Tenant::free(&self.tenant, self.stack.arena, &mut random);
        }
        if forget_blocks {
            self.shadow.replace(Shadow::new());
        }
        while !self.shadow.borrow().is_empty() {
            self.free(&mut random);
        }
    }
}

/// Returns whether `bytes` is a multiple of a page.
pub(crate) const fn is_pages(bytes: usize) -> bool {
    bytes % PAGE == 0
}
