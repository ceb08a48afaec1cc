//! A thread gives slabs back while an allocation of another one fails.
#![cfg(not(feature = "hardened"))] // Slabs serve nothing.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::{Mutex, mpsc};
use std::thread;

use heap::slab::{Cpus, SLAB_SIZE, SlabAllocator};
use heap::source::StableGlobalAlloc;

use crate::support::{Block, Counted, layout};

/// Both ends of a channel.
struct Signal {
    sender: mpsc::Sender<()>,
    receiver: Mutex<mpsc::Receiver<()>>,
}

impl Signal {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self {
            sender,
            receiver: Mutex::new(receiver),
        }
    }

    fn send(&self) {
        self.sender.send(()).expect("the receiver exists");
    }

    fn wait(&self) {
        self.receiver.lock().unwrap().recv().expect("a signal");
    }
}

/// The moments at which one thread waits for the other.
struct Signals {
    /// The other thread is giving back a slab.
    has_begun: Signal,
    /// It may go on.
    go_on: Signal,
    /// It has given back the slab.
    has_ended: Signal,
}

thread_local!(static CPU: Cell<usize> = const { Cell::new(0) });

/// The number of the thread, which waits for the other before an allocation fails.
struct Waiting<'a>(&'a Signals);

// SAFETY: each thread has a number of its own, and `work` does not begin again before it ends.
unsafe impl Cpus for Waiting<'_> {
    const COUNT: usize = 2;

    fn with<R>(&self, work: impl FnOnce(usize) -> R) -> R {
        work(CPU.get())
    }

    fn may_wait(&self) -> bool {
        self.0.go_on.send();
        self.0.has_ended.wait();
        true
    }
}

/// An allocator that takes long to take a page of the other thread back.
struct Slow<'a>(Counted, &'a Signals);

// SAFETY: all blocks are those of `Counted`.
unsafe impl GlobalAlloc for Slow<'_> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duty.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if CPU.get() == 1 {
            self.1.has_begun.send();
            self.1.go_on.wait();
        }
        // SAFETY: the caller's duty.
        unsafe { self.0.dealloc(block, layout) };
    }
}

// SAFETY: blocks lie in leaked memory.
unsafe impl StableGlobalAlloc for Slow<'_> {}

#[test]
fn an_allocation_waits_for_slabs_that_another_cpu_gives_back() {
    let signals = &Signals {
        has_begun: Signal::new(),
        go_on: Signal::new(),
        has_ended: Signal::new(),
    };
    // There is room for one slab, but not for two.
    let backing = Slow(Counted::new(4 * SLAB_SIZE), signals);
    let heap: SlabAllocator<_, _, 2> = SlabAllocator::new(backing, Waiting(signals));
    let heap = &heap;
    let size = layout(496, 1);
    let held: Vec<_> = (0..)
        .map_while(|_| Block::new(&heap.backing().0, layout(SLAB_SIZE / 2, SLAB_SIZE)))
        .collect();
    held.into_iter()
        .next()
        .expect("there is room")
        .free(&heap.backing().0);
    thread::scope(|scope| {
        scope.spawn(|| {
            CPU.set(1);
            Block::new(heap, size).expect("there is room").free(heap);
            heap.reap();
            signals.has_ended.send();
        });
        signals.has_begun.wait();
        let block = Block::new(heap, size);
        // (The thread still waits if it was not told to go on.)
        signals.go_on.send();
        block.expect("a slab comes back").free(heap);
    });
}
