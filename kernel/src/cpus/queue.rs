//! A queue of closures.

use alloc::boxed::Box;
use alloc::collections::LinkedList;
use core::mem;

use crate::sync::InterruptMutex;

/// A closure for another CPU.
pub(super) type Work = Box<dyn FnOnce() + Send>;

/// A queue. Nothing is allocated or freed while it is locked.
pub(super) struct Queue(InterruptMutex<LinkedList<Work>>);

impl Queue {
    pub(super) const fn new() -> Self {
        Self(InterruptMutex::new(LinkedList::new()))
    }

    /// Adds a closure at the end.
    pub(super) fn push(&self, work: Work) {
        let mut one = LinkedList::from([work]);
        self.0.lock().append(&mut one);
    }

    /// Removes the first closure.
    pub(super) fn pop(&self) -> Option<Work> {
        let mut first = {
            let mut all = self.0.lock();
            if all.is_empty() {
                return None;
            }
            let rest = all.split_off(1);
            mem::replace(&mut *all, rest)
        };
        first.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn closures_come_in_the_order_in_which_they_were_added() {
        let queue = Queue::new();
        let ran = Arc::new(Mutex::new(Vec::new()));
        assert!(queue.is_empty() && queue.pop().is_none());
        for number in 0..3 {
            let ran = Arc::clone(&ran);
            queue.push(Box::new(move || ran.lock().unwrap().push(number)));
        }
        while let Some(work) = queue.pop() {
            work();
        }
        assert_eq!(*ran.lock().unwrap(), [0, 1, 2]);
        assert!(queue.is_empty());
    }
}
