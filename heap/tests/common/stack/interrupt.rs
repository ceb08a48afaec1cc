//! What happens while the source or the supply of tags is called, as if an interrupt handler did it.

use std::cell::Cell;
use std::mem::transmute;

use super::injection::Call;

/// A call that is under way. Which memory it concerns is known of those that give memory back.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub call: Call,
    pub base: usize,
}

type Handler<'a> = dyn Fn(Moment) + 'a;

thread_local! {
    static HANDLER: Cell<Option<&'static Handler<'static>>> = const { Cell::new(None) };
}

/// Runs `work`; calls that this thread makes meanwhile are interrupted by `handler`.
pub fn interrupting<T>(handler: &Handler<'_>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<&'static Handler<'static>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            HANDLER.set(self.0);
        }
    }
    // SAFETY: the reference is only used until `_restore` is dropped, and `handler` outlives that.
    let handler = unsafe { transmute::<&Handler<'_>, &'static Handler<'static>>(handler) };
    let _restore = Restore(HANDLER.replace(Some(handler)));
    work()
}

/// Calls this thread's handler, if it has one.
pub fn interrupt(call: Call, base: usize) {
    if let Some(handler) = HANDLER.get() {
        handler(Moment { call, base });
    }
}
