//! CPUs that post requests, and one that serves them when it is interrupted.

use std::ptr;

use loom::cell::{Cell, UnsafeCell};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use loom::thread;

use crate::inbox::{Inbox, Node, Request};

/// The CPU that serves.
struct Cpu {
    inbox: Inbox,
    /// The number of interrupts that it was sent.
    interrupts: AtomicUsize,
    /// The number of requests that it has done.
    done: AtomicUsize,
}

// SAFETY: the inbox has atomics, and nodes that its users keep.
unsafe impl Sync for Cpu {}

/// What a request works on. Loom panics if two threads access it unordered.
struct Data(UnsafeCell<usize>);

// SAFETY: loom detects what is not ordered.
unsafe impl Sync for Data {}

impl Data {
    fn add(&self) {
        // SAFETY: loom panics if another thread accesses the cell, or did so unordered before.
        self.0.with_mut(|data| unsafe { *data += 1 });
    }

    fn get(&self) -> usize {
        // SAFETY: as above.
        self.0.with(|data| unsafe { *data })
    }
}

impl Cpu {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inbox: Inbox {
                first: AtomicPtr::new(ptr::null_mut()),
            },
            interrupts: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
        })
    }

    /// Posts a request, waits for it, and uses what the request has worked on.
    fn ask(&self) {
        let data = Data(UnsafeCell::new(0));
        let work = |number| {
            assert_eq!(number, 7);
            data.add();
            self.done.fetch_add(1, Ordering::Relaxed);
        };
        let request = Request::new(&work);
        request.pending.store(1, Ordering::Relaxed);
        let node = Node {
            next: Cell::new(ptr::null()),
            request: Cell::new(ptr::null()),
        };
        // SAFETY: both exist until the request is done.
        if unsafe { self.inbox.push(&node, &request) } {
            self.interrupts.fetch_add(1, Ordering::Release);
        }
        request.wait(thread::yield_now);
        data.add();
        // Loom panics if the other thread reads the node after the request was done.
        node.next.set(ptr::null());
        node.request.set(ptr::null());
        assert_eq!(data.get(), 2);
    }

    /// Serves the inbox after each interrupt, until `count` requests are done.
    fn serve(&self, count: usize) {
        let mut handled = 0;
        while self.done.load(Ordering::Relaxed) < count {
            let sent = self.interrupts.load(Ordering::Acquire);
            if sent == handled {
                thread::yield_now();
            } else {
                handled = sent;
                self.inbox.serve(7);
            }
        }
    }
}

#[test]
fn a_request_is_done_before_its_cpu_goes_on() {
    loom::model(|| {
        let cpu = Cpu::new();
        let other = cpu.clone();
        let thread = thread::spawn(move || other.ask());
        cpu.serve(1);
        thread.join().unwrap();
    });
}

/// A request that is not waited for, with its node.
struct Posted {
    request: Box<Request<'static>>,
    _node: Box<Node>,
}

// SAFETY: what is posted is used by the CPU with the inbox only, and by the test afterwards.
unsafe impl Send for Posted {}

/// The threads do not wait here: loom would try how often.
#[test]
fn of_two_requests_none_is_lost() {
    loom::model(|| {
        let cpu = Cpu::new();
        let threads = [(); 2].map(|()| {
            let cpu = cpu.clone();
            thread::spawn(move || {
                let request = Box::new(Request::new(&|_| ()));
                request.pending.store(1, Ordering::Relaxed);
                let node = Box::new(Node {
                    next: Cell::new(ptr::null()),
                    request: Cell::new(ptr::null()),
                });
                // SAFETY: the test keeps both.
                if unsafe { cpu.inbox.push(&node, &request) } {
                    cpu.interrupts.fetch_add(1, Ordering::Release);
                }
                Posted {
                    request,
                    _node: node,
                }
            })
        });
        let mut handled = 0;
        let mut handle = || {
            let sent = cpu.interrupts.load(Ordering::Acquire);
            if sent != handled {
                handled = sent;
                cpu.inbox.serve(7);
            }
        };
        handle();
        handle();
        let posted = threads.map(|thread| thread.join().unwrap());
        handle();
        let pending = posted.map(|posted| posted.request.pending.load(Ordering::Relaxed));
        assert_eq!(pending, [0, 0]);
    });
}
