//! What CPUs want of each other: requests in inboxes.
//!
//! ```text
//!     inbox of CPU 1 ──> node ──> node ──> null
//!                         │ request │ request
//!                         v         v
//!                      CPU 0's    CPU 2's stack: work, and how many CPUs have not done it yet
//! ```
//!
//! A CPU posts a request to several inboxes, with a node for each, and waits until all have done
//! the work. Then neither the request nor the nodes are used any more.
//!
//! Nothing here knows the machine: `heap/loom` runs the file in every order of the CPUs.

use core::ptr::{self, NonNull};

use super::atomic::{AtomicPtr, AtomicUsize, Ordering};
use super::cell::Cell;

/// What one CPU wants of others.
pub(super) struct Request<'a> {
    pub(super) work: &'a (dyn Fn(usize) + Sync),
    /// The number of CPUs that have not done it yet.
    pub(super) pending: AtomicUsize,
}

impl<'a> Request<'a> {
    pub(super) fn new(work: &'a (dyn Fn(usize) + Sync)) -> Self {
        Self {
            work,
            pending: AtomicUsize::new(0),
        }
    }

    /// Waits until all CPUs that the request was posted to have done it. Calls `turn` again and
    /// again meanwhile.
    pub(super) fn wait(&self, turn: impl Fn()) {
        while self.pending.load(Ordering::Acquire) > 0 {
            turn();
        }
    }
}

/// A request in an inbox.
pub(super) struct Node {
    pub(super) next: Cell<*const Node>,
    pub(super) request: Cell<*const Request<'static>>,
}

/// Panics when it is dropped. If that is because of another panic, the program aborts: requests and
/// nodes would be gone while inboxes lead to them, and others would wait for ever.
pub(super) struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        panic!("a panic among CPUs that wait for each other");
    }
}

/// A stack of requests. Any CPU pushes, and one takes all.
pub(super) struct Inbox {
    pub(super) first: AtomicPtr<Node>,
}

impl Inbox {
    /// Adds a request. Returns whether there was none: then the CPU must be interrupted. Otherwise
    /// the interrupt for another request is on its way.
    ///
    /// # Safety
    /// The request counts the CPU among those that are pending, and exists, as the node does, until
    /// none is. The node is in no inbox.
    pub(super) unsafe fn push(&self, node: &Node, request: &Request<'_>) -> bool {
        node.request.set(ptr::from_ref(request).cast());
        let mut first = self.first.load(Ordering::Relaxed);
        loop {
            node.next.set(first);
            // Release: who takes the node sees the request.
            let pushed = self.first.compare_exchange_weak(
                first,
                ptr::from_ref(node).cast_mut(),
                Ordering::Release,
                Ordering::Relaxed,
            );
            match pushed {
                Ok(_) => return first.is_null(),
                Err(other) => first = other,
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.load(Ordering::Relaxed).is_null()
    }

    /// Does what all requests want. The inbox is that of the CPU `number`, which runs this code.
    pub(super) fn serve(&self, number: usize) {
        if self.is_empty() {
            return;
        }
        let guard = AbortOnUnwind;
        let mut next = NonNull::new(self.first.swap(ptr::null_mut(), Ordering::Acquire));
        while let Some(node) = next {
            // SAFETY: the node exists as long as its request is pending for this CPU, and `push`
            // has made it visible.
            let node = unsafe { node.as_ref() };
            next = NonNull::new(node.next.get().cast_mut());
            // SAFETY: as the node, the request exists as long as this CPU is pending.
            let request = unsafe { &*node.request.get() };
            (request.work)(number);
            // Release: who waits sees what the work has done. From now on, neither may exist.
            request.pending.fetch_sub(1, Ordering::Release);
        }
        core::mem::forget(guard);
    }
}
