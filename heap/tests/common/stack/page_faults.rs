//! Accesses to unmapped pages, which are recorded instead of ending the test.
//!
//! ```text
//!     an access ──> SIGSEGV ──> on_fault: in a watched range?   yes: record, map the page
//!                                                               no:  the previous handler
//! ```
//!
//! The test checks the record after each step, so a program that faults can be shortened.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use libc::{c_int, c_void, siginfo_t};

use super::window::PAGE;
use crate::common::programs::running;

/// A range of addresses whose faults are recorded.
struct Range {
    /// Zero while the entry is free.
    base: AtomicUsize,
    size: AtomicUsize,
    /// The address of the first fault, or zero.
    fault: AtomicUsize,
}

/// One range for each test that runs at the same time.
static RANGES: [Range; 64] = [const {
    Range {
        base: AtomicUsize::new(0),
        size: AtomicUsize::new(0),
        fault: AtomicUsize::new(0),
    }
}; 64];

/// The previous handler of the signal, which handles faults elsewhere.
struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: it is written once, before the handler that reads it is installed.
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::uninit()));

/// Watches a range until it is dropped.
pub(crate) struct Watch(&'static Range);

impl Watch {
    /// Records faults in `size` bytes from `base` from now on.
    pub(crate) fn new(base: NonNull<u8>, size: usize) -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(install);
        let base = base.addr().get();
        let range = RANGES
            .iter()
            .find(|range| range.base.compare_exchange(0, base, SeqCst, SeqCst).is_ok())
            .expect("at most 64 tests run at the same time");
        range.fault.store(0, SeqCst);
        range.size.store(size, SeqCst);
        Self(range)
    }

    /// Returns the address of the first fault since the range is watched.
    pub(crate) fn fault(&self) -> Option<usize> {
        Some(self.0.fault.load(SeqCst)).filter(|&address| address != 0)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.size.store(0, SeqCst);
        self.0.base.store(0, SeqCst);
    }
}

fn install() {
    // SAFETY: all-zero bytes are a valid `sigaction`: no flags, and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: only the handler reads it, which is not installed yet, and `call_once` writes it
    // once.
    let before = unsafe { (*BEFORE.0.get()).as_mut_ptr() };
    // SAFETY: both point to a `sigaction`. The handler only calls what a signal handler may call.
    let results = unsafe {
        [
            libc::sigaction(libc::SIGSEGV, null(), before),
            libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()),
        ]
    };
    assert_eq!(results, [0, 0]);
}

extern "C" fn on_fault(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes the address of a fault with this signal.
    let address = unsafe { (*info).si_addr() }.addr();
    let watched = RANGES
        .iter()
        .find(|range| address.wrapping_sub(range.base.load(SeqCst)) < range.size.load(SeqCst));
    match watched {
        Some(range) => {
            let _ = range.fault.compare_exchange(0, address, SeqCst, SeqCst);
            let page = std::ptr::without_provenance_mut(address / PAGE * PAGE);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: the page lies in a watched range, which the test has reserved.
            unsafe { libc::mprotect(page, PAGE, access) };
        }
        // The instruction faults again when this returns.
        None => {
            if let Some(seed) = running() {
                tell_seed(seed);
            }
            // SAFETY: `BEFORE` was written before this handler was installed.
            unsafe {
                libc::sigaction(
                    libc::SIGSEGV,
                    (*BEFORE.0.get()).as_ptr(),
                    std::ptr::null_mut(),
                );
            }
        }
    }
}

/// Prints the seed of the program that ends the process, without allocating.
fn tell_seed(seed: u64) {
    let mut digits = [0; 20];
    let mut rest = seed;
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    for part in [
        b"\nHEAP_SEED=".as_slice(),
        &digits[from..],
        b" ends the process\n",
    ] {
        // SAFETY: pointer and length are those of an initialised slice.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
}
