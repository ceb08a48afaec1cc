//! Simulated interrupts: a handler runs while the source or the tag supply is called.

use std::cell::Cell;
use std::mem::transmute;

use super::injection::Call;

/// A call that is under way. `base` is the address of its memory, known for calls that free memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub call: Call,
    pub base: usize,
}

type Handler<'a> = dyn Fn(Moment) + 'a;

thread_local! {
    static HANDLER: Cell<Option<&'static Handler<'static>>> = const { Cell::new(None) };
}

/// Runs `work`, and lets `handler` interrupt the calls that this thread makes in it.
pub(crate) fn interrupting<T>(handler: &Handler<'_>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<&'static Handler<'static>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            HANDLER.set(self.0);
        }
    }
    // SAFETY: the reference is used only until `_restore` is dropped, and `handler` lives longer.
    let handler = unsafe { transmute::<&Handler<'_>, &'static Handler<'static>>(handler) };
    let _restore = Restore(HANDLER.replace(Some(handler)));
    work()
}

/// Calls the handler of this thread, if it has one.
pub(crate) fn interrupt(call: Call, base: usize) {
    if let Some(handler) = HANDLER.get() {
        handler(Moment { call, base });
    }
}
